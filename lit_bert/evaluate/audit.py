"""What is wrong with labelled text: repeats, contradictions, leaks between splits, labels that look wrong.

`fit` shows a summary of its training and validation rows when it starts; the verb `audit` tells all of it, of
the test split too, and with folds ranks the labels that models trained on the other rows do not believe.

    python -m lit_bert audit --folds 3
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_bert import UserError
from lit_bert.data.cache import TokenizedRows
from lit_bert.data.labels import NO_LABEL, NO_TEXT
from lit_bert.evaluate.predictions import Predictions

OUT_OF_FOLD = "out_of_fold.parquet"  # in the folder of an audit: predictions of every training row
SUSPECTS = "suspects.csv"  # there as well
RARE_ROWS = 10  # fewer rows of a class teach little, and what is scored on them is mostly chance
RARE_SHARE = 0.1  # so is less than that of an equal share of the rows
READ_ROWS = 4096  # texts held at a time
PLACES = 8  # rows kept of a text that stands more than once


# --- findings ---


class Place(NamedTuple):
    """Where a text stands: the split, the row of its file from 0, the index of its class."""

    split: str
    row: int
    label: int


@dataclass
class Repeat:
    """A text that stands more than once.

    Attributes:
        counts: its rows by split and class.
        places: the first of them.
    """

    text: str
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)
    places: list[Place] = field(default_factory=list)

    def rows(self, *splits: str) -> int:
        """How many there are in some splits."""
        return sum(count for (split, _), count in self.counts.items() if split in splits)

    def differs(self, *splits: str) -> bool:
        """Whether they have several labels there."""
        return len({label for split, label in self.counts if split in splits}) > 1


@dataclass
class SplitFindings:
    """Counts of one split.

    Attributes:
        rows: those with a text and a label, which all the other counts are of.
        truncated: rows whose text is cut at max_length.
        blank: rows beside them without a text (empty, or white space only), which are skipped.
        unlabelled: rows beside them with a text but without a label, which are skipped.
        repeated: different texts that stand in it more than once, letter by letter the same.
        surplus: rows beyond the first of each such text.
        differing: those of the repeated texts that have several labels in it.
        classes: rows of each class, C of them.
    """

    rows: int
    truncated: int
    blank: int
    classes: list[int]
    unlabelled: int = 0
    repeated: int = 0
    surplus: int = 0
    differing: int = 0

    @property
    def rare(self) -> list[int]:
        """Indices of the classes with few rows or none, the fewest first."""
        least = max(RARE_ROWS, RARE_SHARE * self.rows / len(self.classes))
        return sorted(
            (index for index, count in enumerate(self.classes) if count < least), key=self.classes.__getitem__
        )


@dataclass
class Shared:
    """Texts that stand in two splits.

    Attributes:
        texts: how many different ones.
        differing: those of them that have several labels there.
    """

    first: str
    second: str
    texts: int = 0
    differing: int = 0


@dataclass
class Findings:
    """What is known of some splits.

    Attributes:
        class_names: C of them.
        splits: by name.
        shared: for each pair of splits.
        differing: texts with several labels in one split, by their first row, as many as were asked for;
            `agreeing` likewise with one label several times in one split, `crossing` those of several splits.
        totals: how many there are of each of these.
        blanks: the first rows without a text, by split, as they are numbered in the file.
        unlabelled: likewise those with a text but without a label.
    """

    class_names: list[str]
    splits: dict[str, SplitFindings]
    shared: list[Shared]
    differing: list[Repeat] = field(default_factory=list)
    agreeing: list[Repeat] = field(default_factory=list)
    crossing: list[Repeat] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    blanks: dict[str, list[str]] = field(default_factory=dict)
    unlabelled: dict[str, list[str]] = field(default_factory=dict)


def find_flaws(splits: dict[str, TokenizedRows], class_names: list[str], examples: int = 0) -> Findings:
    """Looks through all rows.

    Takes some 30 bytes a row while it looks, however long the texts are and however many are found.

    Args:
        splits: their rows by name.
        class_names: in the order of their indices.
        examples: texts kept of each kind of finding.
    """
    found = Findings(
        class_names,
        {name: _counts(rows, len(class_names)) for name, rows in splits.items()},
        [Shared(first, second) for first, second in combinations(splits, 2)],
    )
    for name, rows in splits.items():
        found.blanks[name] = _first_skipped(rows, NO_TEXT, examples)
        found.unlabelled[name] = _first_skipped(rows, NO_LABEL, examples)
    for repeat in repeats(splits):
        here = [name for name in splits if repeat.rows(name) > 1]
        for name in here:
            split = found.splits[name]
            split.repeated += 1
            split.surplus += repeat.rows(name) - 1
            split.differing += repeat.differs(name)
        for pair in found.shared:
            if repeat.rows(pair.first) and repeat.rows(pair.second):
                pair.texts += 1
                pair.differing += repeat.differs(pair.first, pair.second)
        kinds = {
            "differing": any(repeat.differs(name) for name in here),
            "agreeing": any(not repeat.differs(name) for name in here),
            "crossing": len({split for split, _ in repeat.counts}) > 1,
        }
        for kind in (kind for kind, is_one in kinds.items() if is_one):
            found.totals[kind] += 1
            if found.totals[kind] <= examples:
                getattr(found, kind).append(repeat)
    return found


def _counts(rows: TokenizedRows, classes: int) -> SplitFindings:
    return SplitFindings(
        rows=len(rows),
        truncated=int(rows.truncated.sum()),
        blank=rows.skipped[NO_TEXT].count if NO_TEXT in rows.skipped else 0,
        unlabelled=rows.skipped[NO_LABEL].count if NO_LABEL in rows.skipped else 0,
        classes=np.bincount(rows.labels, minlength=classes).tolist(),
    )


def _first_skipped(rows: TokenizedRows, reason: str, examples: int) -> list[str]:
    return rows.skipped[reason].first[:examples] if reason in rows.skipped else []


def repeats(splits: dict[str, TokenizedRows]) -> Iterator[Repeat]:
    """Every text that stands more than once, by its first place.

    Equal hashes only say where to look: the texts themselves are compared.
    """
    hashes = np.concatenate([rows.hashes for rows in splits.values()])  # (N,) of all splits
    order = hashes.argsort()
    hashes = hashes[order]
    new = np.ones(len(hashes), dtype=bool)  # whether the hash differs from the one before
    new[1:] = hashes[1:] != hashes[:-1]
    alone = new & np.append(new[1:], True)
    order, hashes = order[~alone], hashes[~alone]
    by_hash = np.lexsort((order, hashes))
    order, hashes = order[by_hash], hashes[by_hash]
    _, starts, sizes = np.unique(hashes, return_index=True, return_counts=True)
    first = np.repeat(order[starts], sizes)  # of all rows with that hash
    by_first = np.lexsort((order, first))
    order, first = order[by_first], first[by_first]

    like: dict[str, Repeat] = {}  # texts of the current hash
    current = -1
    for start in range(0, len(order), READ_ROWS):
        piece = slice(start, start + READ_ROWS)
        for (place, text), group in zip(_read(splits, order[piece]), first[piece].tolist(), strict=True):
            if group != current:
                yield from (each for each in like.values() if each.counts.total() > 1)
                like, current = {}, group
            repeat = like.setdefault(text, Repeat(text))
            repeat.counts[place.split, place.label] += 1
            if len(repeat.places) < PLACES:
                repeat.places.append(place)
    yield from (each for each in like.values() if each.counts.total() > 1)


def _read(splits: dict[str, TokenizedRows], indices: np.ndarray) -> list[tuple[Place, str]]:
    """Places and texts of some rows, which are counted through all splits."""
    found: list[Any] = [None] * len(indices)
    start = 0
    for name, rows in splits.items():
        mine = np.flatnonzero((indices >= start) & (indices < start + len(rows)))
        some = rows.view(indices[mine] - start)
        places = zip(some.rows.tolist(), some.labels.tolist(), some.texts(some.rows), strict=True)
        for index, (row, label, text) in zip(mine.tolist(), places, strict=True):
            found[index] = Place(name, row, label), text
        start += len(rows)
    return found


# --- labels that look wrong ---


def merged(folds: Sequence[Predictions], labels: np.ndarray) -> Predictions:
    """The predictions of all folds as one, in the order of the file.

    Args:
        folds: of one training split.
        labels: int64 (N,), those of that split's rows, in its order.

    Raises:
        UserError: they do not cover each of its rows once.
    """
    rows = np.concatenate([each.rows for each in folds])
    order = rows.argsort(kind="stable")
    texts = [text for each in folds for text in each.texts]
    whole = Predictions(
        [texts[index] for index in order],
        rows[order],
        np.concatenate([each.labels for each in folds])[order],
        np.concatenate([each.probs for each in folds])[order],
        folds[0].class_names,
        {**folds[0].facts, "split": f"out of {len(folds)} folds", "rows": len(labels)},
    )
    once = len(np.unique(whole.rows)) == len(whole.rows) == len(labels)  # some numbers may be skipped rows'
    if not once or not np.array_equal(whole.labels, labels):
        raise UserError(
            "the folds did not score each training row once. Leave the data as it is while they train, and "
            "--trainer.limit_val_batches alone."
        )
    return whole


def check_from(predictions: Predictions, rows: TokenizedRows, class_names: list[str], folder: Path) -> None:
    """Raises a UserError where earlier predictions are of other rows than `rows`."""
    same = (
        predictions.class_names == class_names
        and np.array_equal(predictions.rows, rows.rows)
        and np.array_equal(predictions.labels, rows.labels)
        and all(one == other for one, other in zip(predictions.texts, rows.all_texts(), strict=True))
    )
    if not same:
        raise UserError(
            f"{folder} is an audit of other rows than this training split. Give the --data flags of that "
            "audit, or make a new one with --folds 3."
        )
