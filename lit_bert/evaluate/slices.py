"""Groups of rows that are wrong more often than the others, beyond chance.

Looked at are labels, lengths of texts, words and pairs of neighbouring words, and the columns of a file.
Which groups there are does not depend on what the model says. Each is compared with all other rows by
Fisher's exact test; by Holm's correction, of models whose errors are random at most one in 20 shows any
group, however many were looked at. Of groups that are much the same one is kept.

    python -m lit_bert report checkpoints/version_0 --columns reviews.csv
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lit_bert.evaluate.predictions import Predictions, label_text
from lit_bert.evaluate.shift_tests import holm
from lit_bert.io import escape
from lit_bert.io.texts import display, shown

ALPHA = 0.05  # how often random errors show a group
FEWEST_ROWS = 20  # of a group, and of the rows outside of it
MAX_ROWS = 50_000  # that are looked at, drawn at random from more
MAX_WORDS = 5_000  # words and pairs of words, the most frequent
MAX_VALUES = 1_000  # different values of a column that are groups
MAX_SLICES = 10  # that are listed
EXAMPLES = 3  # wrong rows of each
ALIKE = 3  # groups named beside the one that stands for them
CHARACTERS = 2_000  # of a text that are searched for words
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)  # at which numbers are cut
MANY_NUMBERS = 10  # different ones; a column with fewer has a group each
WORST_SHARE = 0.25  # of numbers: the rows furthest off, which count as wrong
NAME_WIDTH = 80  # characters of a group's name that are shown
WORD = re.compile(r"\w+(?:['’]\w+)*")


class Group(NamedTuple):
    """Rows with something in common: indices, ascending, and what that is, in words."""

    name: str
    rows: np.ndarray


class Slice(NamedTuple):
    """A group that is wrong more often than the other rows.

    Attributes:
        name: what its rows have in common, in words, on one line.
        rows: how many they are.
        share, elsewhere: what share of them is wrong, and of the other rows, 0 to 1.
        p_value: by Fisher's exact test, times the correction.
        examples: indices of wrong rows, the worst first.
        alike: names of groups that are worse as well, and not without these rows.
    """

    name: str
    rows: int
    share: float
    elsewhere: float
    p_value: float
    examples: list[int]
    alike: list[str]


class Slices(NamedTuple):
    """What was found.

    Attributes:
        found: the least likely by chance first; of those that are much the same one.
        worse: how many groups are worse, all told.
        looked_at: how many groups were compared.
        wrong, word: what counts as wrong, in words and in short.
        note: which rows were looked at, where not all were; else empty.
    """

    found: list[Slice]
    worse: int
    looked_at: int
    wrong: str = "predicted wrong"
    word: str = "wrong"
    note: str = ""

    @property
    def summary(self) -> str:
        """How many were found, and how, as a sentence."""
        if not self.looked_at:
            return f"There are too few texts to look for groups: {FEWEST_ROWS} are one at least."
        many = f"{self.worse:,} of {self.looked_at:,} groups {'is' if self.worse == 1 else 'are'}"
        listed = len(self.found)
        others = f"; {listed} of them {'is' if listed == 1 else 'are'} listed" if listed < self.worse else ""
        return (
            f"{many} {self.wrong} more often than the other texts, beyond chance (Fisher's exact test, "
            f"Holm's correction for all groups, {100 * ALPHA:g} %){others}.{self.note}"
        )


def find_slices(predictions: Predictions, columns: Mapping[str, Sequence[Any]] | None = None) -> Slices:
    """The groups of rows that are wrong more often than the other rows.

    Args:
        columns: cells of further columns by their names, N each.
    """
    wrong, in_words = wrong_rows(predictions)
    chosen, note = np.arange(len(wrong)), ""
    if len(wrong) > MAX_ROWS:
        chosen = np.sort(np.random.default_rng(0).permutation(len(wrong))[:MAX_ROWS])
        note = f" Looked at were {MAX_ROWS:,} of {len(wrong):,} texts, drawn at random."
    groups = list(distinct(candidates(predictions, columns or {}, chosen), len(chosen)))
    place = {index: order for order, index in enumerate(_worst_first(predictions).tolist())}

    def examples(rows: np.ndarray) -> list[int]:
        indices = chosen[rows[wrong[chosen[rows]]]].tolist()
        return sorted(indices, key=lambda index: place.get(index, len(place)))[:EXAMPLES]

    found, worse = worse_groups(groups, wrong[chosen])
    listed = [each._replace(examples=examples(rows)) for each, rows in found]
    return Slices(listed, worse, len(groups), *in_words, note)


def wrong_rows(predictions: Predictions) -> tuple[np.ndarray, tuple[str, str]]:
    """Which rows count as wrong, bool (N,), and that in words and in short.

    Numbers are neither right nor wrong: of them the worst quarter counts.
    """
    right = predictions.task.is_right(predictions.outputs, predictions.labels)
    if right is not None:
        return ~right, ("predicted wrong", "wrong")
    distance = np.abs(predictions.preds.astype(np.float64) - predictions.labels)
    worst = distance > np.quantile(distance, 1 - WORST_SHARE)
    return worst, (f"in the {100 * WORST_SHARE:g} % furthest off", "far off")


def _worst_first(predictions: Predictions) -> np.ndarray:
    if predictions.task.label_form != "number":
        return predictions.errors
    distance = np.abs(predictions.preds.astype(np.float64) - predictions.labels)
    return np.argsort(-distance, kind="stable")


# --- groups


def candidates(
    predictions: Predictions, columns: Mapping[str, Sequence[Any]], chosen: np.ndarray
) -> Iterator[Group]:
    """Groups of the rows `chosen`, numbered by their places there: those that say most about rows first."""
    texts = [display(predictions.texts[index]) for index in chosen.tolist()]
    yield from _labels(predictions, chosen)
    for name, cells in columns.items():
        yield from of_column(escape.line(name, NAME_WIDTH), [cells[index] for index in chosen.tolist()])
    lengths = np.array([len(text.split()) for text in texts], dtype=np.float64)
    yield from of_numbers("number of words", lengths)
    yield from of_words(texts)


def _labels(predictions: Predictions, chosen: np.ndarray) -> Iterator[Group]:
    task, labels = predictions.task, predictions.labels[chosen]
    if task.label_form == "number":
        yield from of_numbers("label", labels.astype(np.float64))
        return
    for index, name in enumerate(escape.names(task.class_names)):
        has = labels[:, index] == 1 if task.label_form == "classes" else labels == index
        yield Group(f"labelled {name}", np.flatnonzero(has))
    if task.label_form == "classes":
        yield Group("without a label", np.flatnonzero(labels.sum(1) == 0))


def of_column(name: str, cells: Sequence[Any]) -> Iterator[Group]:
    """A group for each value, or for ranges where they are numbers, and one for cells that are empty."""
    there = np.array([cell is not None and str(cell).strip() != "" for cell in cells], dtype=bool)
    yield Group(f"{name} is empty", np.flatnonzero(~there))
    numbers = np.full(len(cells), np.nan)
    for index in np.flatnonzero(there).tolist():
        try:
            numbers[index] = float(str(cells[index]))
        except ValueError:
            break
    finite = bool(np.isfinite(numbers[there]).all())
    if finite and len(np.unique(numbers[there])) > MANY_NUMBERS:
        yield from of_numbers(name, numbers)
        return
    by_value: dict[str, list[int]] = defaultdict(list)
    for index in np.flatnonzero(there).tolist():
        by_value[str(cells[index]).strip()].append(index)
    for value, rows in sorted(by_value.items(), key=lambda item: (-len(item[1]), item[0]))[:MAX_VALUES]:
        yield Group(f"{name} is {escape.line(value, NAME_WIDTH)}", np.array(rows))


def of_numbers(name: str, values: np.ndarray) -> Iterator[Group]:
    """The rows up to each quantile of the values, and those above it; NaN is in none."""
    if not (there := values[~np.isnan(values)]).size:
        return
    for cut in np.unique(np.quantile(there, QUANTILES, method="lower")).tolist():
        yield Group(f"{name} up to {cut:g}", np.flatnonzero(values <= cut))
        yield Group(f"{name} above {cut:g}", np.flatnonzero(values > cut))


def of_words(texts: Sequence[str]) -> Iterator[Group]:
    """A group for each word and each pair of neighbouring ones, in small letters, that enough texts have."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_terms(text))
    most = len(texts) - FEWEST_ROWS
    frequent = [term for term, count in counts.items() if FEWEST_ROWS <= count <= most]
    frequent = sorted(frequent, key=lambda term: (-counts[term], term))[:MAX_WORDS]
    found: dict[str, list[int]] = {term: [] for term in frequent}
    for index, text in enumerate(texts):
        for term in _terms(text) & found.keys():
            found[term].append(index)
    for term, rows in found.items():
        kind = "the words" if " " in term else "the word"
        yield Group(f"with {kind} “{escape.line(term, NAME_WIDTH)}”", np.array(rows))


def _terms(text: str) -> set[str]:
    words = [each.casefold() for each in WORD.findall(text[:CHARACTERS])]
    return {*words, *(f"{first} {second}" for first, second in itertools.pairwise(words))}


def distinct(groups: Iterator[Group], count: int) -> Iterator[Group]:
    """Those with enough rows inside and outside; of groups with the same rows the first.

    Args:
        count: of all rows.
    """
    seen: set[bytes] = set()
    for group in groups:
        key = group.rows.astype(np.int64).tobytes()
        if FEWEST_ROWS <= len(group.rows) <= count - FEWEST_ROWS and key not in seen:
            seen.add(key)
            yield group


# --- which are worse


def worse_groups(groups: Sequence[Group], wrong: np.ndarray) -> tuple[list[tuple[Slice, np.ndarray]], int]:
    """The groups with more wrong rows than chance gives, each with its rows, and how many there are.

    Of these `MAX_SLICES` at most are kept. The least likely one is; from then on its rows count no more, and
    of the others those are dropped whose remaining rows are no worse than the remaining rows elsewhere.

    Args:
        wrong: bool (N,).
    """
    test = FisherTest(len(wrong))
    p_values = np.array([test(wrong, each.rows) for each in groups])
    corrected = holm(p_values)
    significant = sorted(np.flatnonzero(corrected <= ALPHA).tolist(), key=lambda index: p_values[index])
    found: list[tuple[Slice, np.ndarray]] = []
    left, waiting, count = np.ones(len(wrong), dtype=bool), significant, len(significant)
    while waiting and len(found) < MAX_SLICES:
        index, others = waiting[0], waiting[1:]
        rows = groups[index].rows
        left[rows] = False
        waiting, alike = [], []
        for other in others:
            inside = np.zeros(len(wrong), dtype=bool)
            inside[groups[other].rows] = True
            still = FEWEST_ROWS <= (inside & left).sum() <= left.sum() - FEWEST_ROWS
            if still and test(wrong[left], np.flatnonzero(inside[left])) * count <= ALPHA:
                waiting.append(other)
            else:
                alike.append(groups[other].name)
        outside = np.ones(len(wrong), dtype=bool)
        outside[rows] = False
        shares = float(wrong[rows].mean()), float(wrong[outside].mean())
        kept = Slice(groups[index].name, len(rows), *shares, float(corrected[index]), [], alike[:ALIKE])
        found.append((kept, rows))
    return found, count


class FisherTest:
    """Fisher's exact test whether some rows are wrong more often than the others (one-sided).

    Args:
        most: rows that there can be.
    """

    def __init__(self, most: int) -> None:
        self._log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])

    def __call__(self, wrong: np.ndarray, rows: np.ndarray) -> float:
        """How likely so many wrong rows, or more, are among these if all rows are wrong equally often.

        Args:
            wrong: bool (N,).
            rows: indices.
        """
        N, K, n = len(wrong), int(wrong.sum()), len(rows)
        hits = np.arange(int(wrong[rows].sum()), min(n, K) + 1)
        logs = self._log_choose(K, hits) + self._log_choose(N - K, n - hits) - self._log_choose(N, n)
        return min(1.0, math.fsum(np.exp(logs).tolist()))

    def _log_choose(self, count: int, some: Any) -> Any:
        found = self._log_factorial
        return found[count] - found[some] - found[count - some]


# --- as text


def slice_lines(predictions: Predictions, slices: Slices) -> list[str]:
    """What was found, for the terminal."""
    lines = [slices.summary]
    for each in slices.found:
        lines.append(
            f"  {each.name}: {each.rows:,} texts, {each.share:.1%} {slices.word}, elsewhere "
            f"{each.elsewhere:.1%}, "
            f"p = {each.p_value:.2g}" + (f"; much the same: {', '.join(each.alike)}" if each.alike else "")
        )
        for index in each.examples:
            text = escape.line(shown(predictions.texts[index]), 100)
            lines.append(f"    row {predictions.rows[index] + 1:,} {verdict(predictions, index)}: {text}")
    return lines


def verdict(predictions: Predictions, index: int) -> str:
    """What a row is labelled and taken for, in words."""
    label, pred = (
        label_text(predictions.task, values[index]) for values in (predictions.labels, predictions.preds)
    )
    return f"is {label}, predicted {pred}"
