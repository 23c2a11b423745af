"""The packaged corpus: enough rows, clean text, every text written once, and none from the real data set."""

import csv
import re
import unicodedata
from collections import Counter, defaultdict
from itertools import combinations
from math import ceil
from pathlib import Path
from typing import NamedTuple

import pytest

import lit_bert

FOLDER = Path(lit_bert.__file__).parent / "data" / "sample"
REAL = Path(__file__).parents[2] / "shared" / "emotion"  # beside the repository, where there is one
LEAST = {"train": 800, "validation": 200, "test": 200}
CLASSES = {"sadness", "joy", "love", "anger", "fear", "surprise"}


class Text(NamedTuple):
    """A row of the corpus."""

    split: str
    row: int
    text: str
    label: str

    @property
    def words(self) -> tuple[str, ...]:
        return words_of(self.text)


def words_of(text: str) -> tuple[str, ...]:
    """Lower-case words without punctuation: `I'd, well` gives id, well."""
    return tuple(re.sub(r"[^\w\s]", "", unicodedata.normalize("NFKC", text).lower()).split())


def read(split: str) -> list[dict[str, str]]:
    with (FOLDER / f"{split}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, strict=True))


@pytest.fixture(scope="module")
def corpus_texts() -> list[Text]:
    """All rows of all splits."""
    return [Text(split, n, **row) for split in LEAST for n, row in enumerate(read(split), 1)]


def alike(texts: list[tuple[str, ...]], least: float) -> list[tuple[int, int]]:
    """Pairs of indices whose sets of words have a Jaccard similarity of `least` or more.

    Two such sets share a word among the `len - ceil(least * len) + 1` rarest of each (Bayardo et al. 2007,
    Scaling up all pairs similarity search), so only pairs that meet there are compared.
    """
    sets = [frozenset(words) for words in texts]
    count = Counter(word for words in sets for word in words)
    index: dict[str, list[int]] = defaultdict(list)
    found = []
    for second, words in enumerate(sets):
        rare = sorted(words, key=lambda word: (count[word], word))
        prefix = rare[: len(rare) - ceil(least * len(rare)) + 1]
        for first in sorted({first for word in prefix for first in index[word]}):
            if len(words & sets[first]) >= least * len(words | sets[first]):
                found.append((first, second))
        for word in prefix:
            index[word].append(second)
    return found


def shared_runs(texts: list[tuple[str, ...]], length: int) -> list[str]:
    """Runs of `length` words that occur in more than one text."""
    where: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for number, words in enumerate(texts):
        for start in range(len(words) - length + 1):
            where[words[start : start + length]].add(number)
    return [" ".join(run) for run, numbers in where.items() if len(numbers) > 1]


@pytest.mark.parametrize(("split", "least"), LEAST.items())
def test_a_split_is_large_enough_and_has_every_class(split, least):
    rows = read(split)
    assert len(rows) >= least
    assert {row["label"] for row in rows} == CLASSES
    assert min(Counter(row["label"] for row in rows).values()) >= least / 20


@pytest.mark.parametrize("split", LEAST)
def test_a_file_is_utf_8_with_the_two_columns(split):
    content = (FOLDER / f"{split}.csv").read_bytes()
    assert content.decode("utf-8").splitlines()[0] == "text,label"  # a byte order mark would stand here
    for row in read(split):
        assert set(row) == {"text", "label"}
        assert None not in row.values()


def test_texts_are_clean_and_as_short_as_tweets(corpus_texts):
    for each in corpus_texts:
        assert each.text == " ".join(each.text.split()), each
        assert len(each.text) <= 280, each
        assert len(each.words) >= 3, each
        assert not any(unicodedata.category(character) in ("Cc", "Cn", "Co") for character in each.text), each
        assert not re.search("\N{REPLACEMENT CHARACTER}|Ã.|â€|Â.", each.text), each  # decoded wrongly once


def test_no_text_is_repeated_within_or_across_splits(corpus_texts):
    seen: dict[tuple[str, ...], Text] = {}
    for each in corpus_texts:
        assert each.words not in seen, f"{each} repeats {seen[each.words]}"
        seen[each.words] = each


def test_no_two_texts_share_half_of_their_words(corpus_texts):
    pairs = alike([each.words for each in corpus_texts], 0.5)
    assert [(corpus_texts[first], corpus_texts[second]) for first, second in pairs] == []


def test_no_two_texts_share_a_run_of_seven_words(corpus_texts):
    assert shared_runs([each.words for each in corpus_texts], 7) == []


def test_no_opening_is_a_template(corpus_texts):
    openings = Counter(each.words[:2] for each in corpus_texts)
    often = {opening: n for opening, n in openings.items() if n > 0.015 * len(corpus_texts)}
    assert often == {}


def test_no_text_of_the_real_data_set_occurs(corpus_texts):
    ours = {each.words: each for each in corpus_texts}
    for file in REAL.glob("*.parquet"):
        from pyarrow import parquet

        theirs = parquet.read_table(file, columns=["text"]).column("text").to_pylist()
        assert len(theirs) > 1000
        assert [ours[words] for words in map(words_of, theirs) if words in ours] == []


def test_the_search_for_likeness_finds_what_comparing_every_pair_finds(corpus_texts):
    some = [each.words for each in corpus_texts[:150]]
    some += [words[:-1] for words in some[:5]] + [tuple(reversed(words[1:])) for words in some[5:9]]
    # A low threshold too, so that there are pairs to miss.
    for least in (0.5, 0.25):
        sets = list(map(set, some))
        slow = [
            (first, second)
            for first, second in combinations(range(len(sets)), 2)
            if len(sets[first] & sets[second]) / len(sets[first] | sets[second]) >= least
        ]
        assert len(slow) >= 9
        assert sorted(alike(some, least)) == slow


def test_likeness_and_runs_of_a_few_texts_by_hand():
    given = ("A b, c d!", "c d e f", "b c d", "x y", "'A' b c d e f g h", "z c d e f g h")
    texts = [words_of(text) for text in given]
    # 0 and 2 share 3 of 4 words, 0 and 4 share 4 of 8, 1 and 4 share 4 of 8, 1 and 5 share 4 of 7, 4 and 5
    # share 6 of 9.
    assert sorted(alike(texts, 0.5)) == [(0, 2), (0, 4), (1, 4), (1, 5), (4, 5)]
    assert shared_runs(texts, 6) == ["c d e f g h"]
    assert shared_runs(texts, 7) == []
