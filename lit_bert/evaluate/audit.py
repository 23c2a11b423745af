"""Flaws of labelled text: repeated texts, conflicting labels, leaks between splits, suspected label errors.

`fit` shows a summary of its training and validation rows when it starts; the verb `audit` shows all of it, of
the test split too, and with folds ranks the labels that models trained on the other rows find improbable.

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
from lit_bert.io.texts import Text
from lit_bert.task.base import Task
from lit_bert.task.kinds import task_of

OUT_OF_FOLD = "out_of_fold.parquet"  # in the folder of an audit: predictions of every training row
SUSPECTS = "suspects.csv"  # there as well
RARE_ROWS = 10  # of a class; fewer teach little, and their F1 is mostly chance
RARE_SHARE = 0.1  # of an equal share of the rows; less is rare as well
CHUNK_ROWS = 4096  # texts in memory at a time
KEPT_OCCURRENCES = 8  # rows kept of a text that occurs more than once
Label = int | float | tuple[int, ...]


# --- findings ---


class Occurrence(NamedTuple):
    """Where a text occurs: the split, the row of its file from 0, its label as `plain_label` has it."""

    split: str
    row: int
    label: Label


@dataclass
class RepeatedText:
    """A text that occurs more than once.

    Attributes:
        counts: its rows by split and label.
        occurrences: the first of them.
    """

    text: Text
    counts: Counter[tuple[str, Label]] = field(default_factory=Counter)
    occurrences: list[Occurrence] = field(default_factory=list)

    def rows(self, *splits: str) -> int:
        """How many rows of these splits have the text."""
        return sum(count for (split, _), count in self.counts.items() if split in splits)

    def has_several_labels(self, *splits: str) -> bool:
        """Whether its rows of these splits have different labels."""
        return len({label for split, label in self.counts if split in splits}) > 1


@dataclass
class SplitFindings:
    """Counts of one split.

    Attributes:
        rows: those with a text and a label, which all the other counts are of.
        truncated: rows whose text is cut at max_length.
        blank: rows beside them without a text (empty, or white space only), which are skipped.
        unlabelled: rows beside them with a text but without a label, which are skipped.
        repeated: distinct texts that occur in it more than once, character by character the same.
        extra_rows: rows beyond the first of each of them.
        conflicting: those of them that have several labels in it.
        classes: rows of each class, C of them; [] without classes.
    """

    rows: int
    truncated: int
    blank: int
    classes: list[int]
    unlabelled: int = 0
    repeated: int = 0
    extra_rows: int = 0
    conflicting: int = 0

    @property
    def rare(self) -> list[int]:
        """Indices of the classes with few rows or none, the fewest first."""
        if not self.classes:
            return []
        least = max(RARE_ROWS, RARE_SHARE * self.rows / len(self.classes))
        return sorted(
            (index for index, count in enumerate(self.classes) if count < least), key=self.classes.__getitem__
        )


@dataclass
class Shared:
    """Texts that occur in two splits.

    Attributes:
        texts: how many distinct ones.
        conflicting: those of them whose rows in these splits have several labels.
    """

    first: str
    second: str
    texts: int = 0
    conflicting: int = 0


@dataclass
class Findings:
    """What is known of some splits.

    Attributes:
        task: what the labels are.
        splits: by name.
        shared: for each pair of splits.
        conflicting: texts with several labels in one split, by their first row, as many as were asked for;
            `consistent` likewise with one label several times in one split, `across_splits` those that occur
            in several splits.
        totals: how many there are of each of these.
        blanks: the first rows without a text, by split, as they are numbered in the file.
        unlabelled: likewise those with a text but without a label.
    """

    task: Task
    splits: dict[str, SplitFindings]
    shared: list[Shared]
    conflicting: list[RepeatedText] = field(default_factory=list)
    consistent: list[RepeatedText] = field(default_factory=list)
    across_splits: list[RepeatedText] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    blanks: dict[str, list[str]] = field(default_factory=dict)
    unlabelled: dict[str, list[str]] = field(default_factory=dict)


def find_dataset_issues(splits: dict[str, TokenizedRows], task: Task, examples: int = 0) -> Findings:
    """Repeated, truncated and empty texts, missing labels and rare classes of some splits.

    Takes some 30 bytes of memory a row, however long the texts are and however many of them are repeated.

    Args:
        splits: their rows by name.
        task: what the labels are.
        examples: texts kept of each kind of finding.
    """
    found = Findings(
        task,
        {name: _counts(rows, task) for name, rows in splits.items()},
        [Shared(first, second) for first, second in combinations(splits, 2)],
    )
    for name, rows in splits.items():
        found.blanks[name] = _first_skipped(rows, NO_TEXT, examples)
        found.unlabelled[name] = _first_skipped(rows, NO_LABEL, examples)
    for repeat in repeated_texts(splits):
        repeated_in = [name for name in splits if repeat.rows(name) > 1]
        for name in repeated_in:
            split = found.splits[name]
            split.repeated += 1
            split.extra_rows += repeat.rows(name) - 1
            split.conflicting += repeat.has_several_labels(name)
        for pair in found.shared:
            if repeat.rows(pair.first) and repeat.rows(pair.second):
                pair.texts += 1
                pair.conflicting += repeat.has_several_labels(pair.first, pair.second)
        kinds = {
            "conflicting": any(repeat.has_several_labels(name) for name in repeated_in),
            "consistent": any(not repeat.has_several_labels(name) for name in repeated_in),
            "across_splits": len({split for split, _ in repeat.counts}) > 1,
        }
        for kind in (kind for kind, is_one in kinds.items() if is_one):
            found.totals[kind] += 1
            if found.totals[kind] <= examples:
                getattr(found, kind).append(repeat)
    return found


def _counts(rows: TokenizedRows, task: Task) -> SplitFindings:
    return SplitFindings(
        rows=len(rows),
        truncated=int(rows.truncated.sum()),
        blank=rows.skipped[NO_TEXT].count if NO_TEXT in rows.skipped else 0,
        unlabelled=rows.skipped[NO_LABEL].count if NO_LABEL in rows.skipped else 0,
        classes=task.label_counts(rows.labels),
    )


def _first_skipped(rows: TokenizedRows, reason: str, examples: int) -> list[str]:
    return rows.skipped[reason].first[:examples] if reason in rows.skipped else []


def plain_label(label: Any) -> Label:
    """A stored label as a plain value that can be compared: an index, a number, or 0 or 1 a class."""
    return tuple(label.tolist()) if label.ndim else label.item()


def repeated_texts(splits: dict[str, TokenizedRows]) -> Iterator[RepeatedText]:
    """Every text that occurs more than once, in the order of its first row.

    Equal hashes only propose candidates: the texts themselves are compared.
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

    same_hash: dict[Text, RepeatedText] = {}  # texts of the current hash
    current = -1
    for start in range(0, len(order), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        for (occurrence, text), group in zip(_read(splits, order[chunk]), first[chunk].tolist(), strict=True):
            if group != current:
                yield from (each for each in same_hash.values() if each.counts.total() > 1)
                same_hash, current = {}, group
            repeat = same_hash.setdefault(text, RepeatedText(text))
            repeat.counts[occurrence.split, occurrence.label] += 1
            if len(repeat.occurrences) < KEPT_OCCURRENCES:
                repeat.occurrences.append(occurrence)
    yield from (each for each in same_hash.values() if each.counts.total() > 1)


def _read(splits: dict[str, TokenizedRows], indices: np.ndarray) -> list[tuple[Occurrence, Text]]:
    """Occurrences and texts of some rows, whose indices count through all splits."""
    found: list[Any] = [None] * len(indices)
    start = 0
    for name, rows in splits.items():
        in_split = np.flatnonzero((indices >= start) & (indices < start + len(rows)))
        some = rows.view(indices[in_split] - start)
        labels = map(plain_label, some.labels)
        content = zip(some.rows.tolist(), labels, some.texts(some.rows), strict=True)
        for index, (row, label, text) in zip(in_split.tolist(), content, strict=True):
            found[index] = Occurrence(name, row, label), text
        start += len(rows)
    return found


# --- labels that look wrong ---


def merge_folds(folds: Sequence[Predictions], labels: np.ndarray) -> Predictions:
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
    task = folds[0].task
    whole = Predictions(
        task_of(task.kind, task.class_names),  # what each fold took from its rows is not the others'
        [texts[index] for index in order],
        rows[order],
        np.concatenate([each.labels for each in folds])[order],
        np.concatenate([each.outputs for each in folds])[order],
        {**folds[0].facts, "split": f"out of {len(folds)} folds", "rows": len(labels)},
    )
    once = len(np.unique(whole.rows)) == len(whole.rows) == len(labels)  # some numbers may be skipped rows'
    if not once or not np.array_equal(whole.labels, labels):
        raise UserError(
            "the folds did not score each training row once. Leave the data as it is while they train, and "
            "--trainer.limit_val_batches alone."
        )
    return whole


def check_same_training_rows(predictions: Predictions, rows: TokenizedRows, task: Task, folder: Path) -> None:
    """Raises a UserError where earlier predictions are of other rows than `rows`."""
    same = (
        predictions.task.kind == task.kind
        and predictions.task.class_names == task.class_names
        and np.array_equal(predictions.rows, rows.rows)
        and np.array_equal(predictions.labels, rows.labels)
        and all(one == other for one, other in zip(predictions.texts, rows.all_texts(), strict=True))
    )
    if not same:
        raise UserError(
            f"{folder} is an audit of other rows than this training split. Give the --data flags of that "
            "audit, or make a new one with --folds 3."
        )
