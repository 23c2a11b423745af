"""What the error report shows of predictions whose labels have one form: the interface of its three modules.

A form says which rows are worth a look, what the page's script is given of each, and what the template shows
beside what all pages have. `page.FORMS` is the table of them.

    python -m lit_bert report checkpoints/version_0
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from lit_bert.evaluate.charts import Chart
from lit_bert.evaluate.evidence import counted
from lit_bert.evaluate.predictions import Predictions
from lit_bert.evaluate.scores import Score, Scores
from lit_bert.io import escape

WRONG_TEXTS = 2000  # embedded at most, the worst first
RIGHT_TEXTS = 200  # embedded over all classes, but `RIGHT_PER_CLASS` of each at least
RIGHT_PER_CLASS = 5
LISTED = 50  # worst errors, and suspected label errors
NAME_WIDTH = 60  # characters of a class name that are shown
MANY_CLASSES = 12  # beyond them the cells of the matrix are small and have no percentage
MAX_CONFUSIONS = 12  # pairs of classes that are listed
LIKELIEST = 3  # classes whose probability stands below a text


class Figure(NamedTuple):
    """A diagram with its heading and what it shows, as sentences."""

    title: str
    caption: str
    chart: Chart


@dataclass(frozen=True)
class Cell:
    """Some texts that a reader can open.

    Attributes:
        key: their name in the page's address, after `#cell-`.
        count: how many there are.
        description: what they have in common.
        is_right: whether they are predicted as they are labelled.
        share: of the row of the matrix, above 0 to 1.
    """

    key: str
    count: int
    description: str
    is_right: bool = False
    share: float = 0.0

    @property
    def tint(self) -> float:
        """Strength of its colour, 0 to 1: the root, so that a tenth can be seen beside a half."""
        return self.share**0.5


class Matrix(NamedTuple):
    """The table of confusions.

    Attributes:
        corner: what rows and what columns are.
        heads: of its columns and rows.
        rows: for each row its cells, None for those without a text.
        total_heads: of the columns of totals.
        totals: for each row those totals; a number, or a cell where its texts can be opened.
        foot: the last row: its head, and a total for each column, those of totals included.
        is_large: whether its cells are drawn small.
    """

    corner: tuple[str, str]
    heads: list[str]
    rows: list[list[Cell | None]]
    total_heads: list[str]
    totals: list[list[int | Cell]]
    foot: tuple[str, list[int | Cell | None]]
    is_large: bool


class Confusion(NamedTuple):
    """One of the most frequent errors: a cell with the names of its classes and what is between them."""

    cell: Cell
    first: str
    words: str
    second: str = ""


class ClassRow(NamedTuple):
    """A row of the table of classes; `f1` is None where no row has that label, and `note` says so.

    Attributes:
        precision: None where the class was not predicted; `recall` where it is no label.
        average_precision, threshold: where a text has several labels.
    """

    name: str
    f1: Score | None
    note: str
    precision: float | None
    recall: float | None
    texts: int
    average_precision: float | None = None
    threshold: float | None = None


class PageForm(ABC):
    """The part of the page that depends on how labels are stored.

    Args:
        predictions: that the page is about.
    """

    explained = "the class"  # what the scores of words are about
    # Whether texts can be opened beside those that are listed.
    has_cells = True

    def __init__(self, predictions: Predictions) -> None:
        self.predictions, self.task = predictions, predictions.task
        self.names = escape.names(predictions.class_names, NAME_WIDTH)

    @cached_property
    def errors(self) -> np.ndarray:
        """Indices of the rows that count as wrong, the worst first."""
        return self.predictions.errors

    @property
    def wrong(self) -> int | None:
        """How many rows are wrong; None where that is not known."""
        return len(self.errors)

    @property
    def score_decimals(self) -> int:
        """Of the score of a word that is kept; one less is shown."""
        return 3

    @cached_property
    def confidence(self) -> np.ndarray:
        """How sure the predictions of rows are, (N,)."""
        return self.task.confidence(self.predictions.outputs)

    def found(self) -> str:
        """How many rows are wrong, in words."""
        return counted(len(self.errors), "error")

    @abstractmethod
    def right_groups(self) -> list[np.ndarray]:
        """Indices of rows that are predicted right, a group a class; of each the least sure are embedded."""

    @abstractmethod
    def cells_of(self, index: int) -> list[str]:
        """The keys of the cells that a row is in."""

    @abstractmethod
    def questions(self, index: int) -> list[int]:
        """The classes for which a row's words are coloured."""

    @abstractmethod
    def row(self, index: int) -> dict[str, Any]:
        """What the page's script is given of a row, beside its number and text."""

    @abstractmethod
    def script_values(self) -> dict[str, Any]:
        """What it is given beside rows: `form`, how rows are shown; `cells`, how many texts each has; …"""

    @abstractmethod
    def content(self, with_intervals: Scores[Score]) -> dict[str, Any]:
        """Values of the template that are of this form.

        `scope` and `wrong_words`, what is told in its first line; `class_rows`; `matrix`, None where there is
        none, else `matrix_note` and `confusions`, lists with their headings; `suspect_lead`; `figures_title`,
        `figures_note` and `figures`.
        """

    def figure(self, value: float, key: str) -> str:
        """The score of that name in words."""
        return f"{value:.3f}"

    def embedded_note(self, embedded: np.ndarray) -> str:
        """Which of the texts the page holds."""
        is_embedded = set(embedded.tolist())
        errors = self.errors
        wrong = sum(index in is_embedded for index in errors.tolist())
        right, all_right = len(is_embedded) - wrong, len(self.predictions.labels) - len(errors)
        wrong_texts = (
            f"the {wrong:,} {self.task.worst} of {len(errors):,} wrong texts; the others are left out"
            if wrong < len(errors)
            else f"all {counted(wrong, 'wrong text')}"
        )
        right_texts = (
            f"the least sure of each class, {right:,} of {all_right:,} right ones"
            if right < all_right
            else f"all {right:,} right ones"
        )
        return f"This page holds {wrong_texts}, and {right_texts}."

    def error_note(self) -> str:
        """How many errors are listed."""
        count = len(self.errors)
        return (
            f"The {LISTED} {self.task.worst} of {count:,}."
            if count > LISTED
            else f"{counted(count, 'error')} in all."
        )

    def has_other_label(self) -> bool:
        """Whether a label of these rows could have been confused with another one."""
        return sum(map(bool, self.predictions.evidence.labelled)) > 1


def likeliest(probs: np.ndarray, always: list[int]) -> list[list[Any]]:
    """The likeliest classes and those named, with their probabilities, of probabilities (C,)."""
    found = np.argsort(-probs, kind="stable")[:LIKELIEST].tolist()
    found += [each for each in dict.fromkeys(always) if each not in found]
    return [[each, round(float(probs[each]), 4)] for each in found]


def frequent(confusions: list[Confusion]) -> list[Confusion]:
    """Those of most texts, the most first; `MAX_CONFUSIONS` at most."""
    return sorted(confusions, key=lambda each: -each.cell.count)[:MAX_CONFUSIONS]


def class_rows(
    predictions: Predictions,
    names: list[str],
    with_intervals: Scores[Score],
    hits: np.ndarray,
    of_label: np.ndarray,
    of_pred: np.ndarray,
    thresholds: Sequence[float | None] | None = None,
) -> list[ClassRow]:
    """Each class with its F1, the lowest first; those that are the label of no row last.

    Classes that have an order stay in it.

    Args:
        hits: rows of each class that were predicted as it, (C,).
        of_label: rows that have the label.
        of_pred: rows that were predicted as it.
        thresholds: of the classes.
    """
    evidence, none = predictions.evidence, (None,) * len(names)
    precisions = with_intervals.classes.get("average_precision", none)
    rows = []
    for index, (name, f1) in enumerate(zip(names, with_intervals.by_class, strict=True)):
        counts = of_pred[index], of_label[index]
        precision, recall = (float(hits[index] / count) if count else None for count in counts)
        average = precisions[index]
        row = ClassRow(
            name,
            f1,
            evidence.class_note(index),
            precision,
            recall,
            int(of_label[index]),
            None if average is None else average.value,
            (thresholds or none)[index],
        )
        rows.append(row)
    if predictions.task.is_ordered:
        return rows
    return sorted(rows, key=lambda row: (row.f1 is None, row.f1.value if row.f1 else 0.0))
