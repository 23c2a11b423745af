"""What kind of labels a column has, its classes, and what a task takes from its numbers; found in one pass.

The rule, where `data.task` names no kind:

1. Several columns of labels, lists in a cell, or `data.label_separator`: several labels a text. A few lists
   among other cells are an error.
2. Numbers, some with a fraction: a number to predict. A few words among them are an error.
3. Whole numbers without a gap, from 0 or 1, 3 to 11 of them, in a column called like a rating (`stars`,
   `rating`, …): classes in their order.
4. Else: one label a text.

    python -m lit_bert fit --data.dataset reviews.csv --data.label_column stars --data.task regression
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from lit_bert import UserError
from lit_bert.data.cells import CellError, Numbered, label_of, labels_of, number_of
from lit_bert.io import escape
from lit_bert.task.kinds import kind_of
from lit_bert.task.multi_label import MultiLabel
from lit_bert.task.ordinal import Ordinal
from lit_bert.task.proportion import Proportion
from lit_bert.task.regression import Regression
from lit_bert.task.single import SingleLabel

RATINGS = ("stars", "star", "rating", "ratings", "score", "grade", "level", "star_rating", "review_score")
GRADES = range(3, 12)  # different whole numbers of a rating
FEW = 0.05  # share of words among numbers, or of lists among labels, that may be mistakes
MIN_NUMBERS = 20  # cells, before others among them are taken for mistakes


class Labels(NamedTuple):
    """The labels of the training rows.

    Attributes:
        kind: of task, a key of `task.kinds.KINDS`.
        names: of the classes, sorted; of a number, that of its column, or none where there is no number.
        parameters: what the task takes from the labels.
        note: why that kind was found, to be said once; "" where it is what people expect.
    """

    kind: str
    names: list[str]
    parameters: dict[str, list[float]]
    note: str = ""


@dataclass
class LabelScan:
    """What one pass over the label cells of a split has seen.

    Args:
        wanted: the kind that `data.task` names; None is to be found.
        columns: those with labels.
        separator: between labels in a cell.
        codes: class names of the codes 0, 1, 2, … by the file; () for none.
    """

    wanted: str | None
    columns: tuple[str, ...]
    separator: str | None
    codes: Sequence[str] = ()
    names: dict[str, None] = field(default_factory=dict)
    members: dict[str, None] = field(default_factory=dict)  # of lists and of cells with a separator
    lists: int = 0
    first_list: str = ""
    several: int = 0  # of the lists, those with more than one label
    first_several: str = ""
    numbers: list[float] = field(default_factory=list)
    words: int = 0
    first_word: str = ""
    fractions: bool = False

    def add(self, numbered: Numbered, place: str) -> None:
        """Looks at the label of a row; one that cannot be read is left for when it is."""
        assert isinstance(numbered.row, dict)
        if len(self.columns) > 1:
            return
        value = numbered.row.get(self.columns[0])
        try:
            if isinstance(value, list | tuple):
                members = labels_of(value, self.separator) or []
                self.members.update(dict.fromkeys(members))
                self.lists += 1
                self.first_list = self.first_list or place
                if len(members) > 1:
                    self.several += 1
                    self.first_several = self.first_several or place
                return
            name = label_of(value)
        except CellError:
            return
        if name is None:
            return
        self.members.update(dict.fromkeys(labels_of(value, self.separator) or ()))
        try:
            number = None if isinstance(value, bool) else number_of(value)
        except CellError:
            number = None
        if number is None:
            self.words += 1
            self.first_word = self.first_word or f"{place} has '{escape.line(name, 60)}'"
        else:
            self.numbers.append(number)
            self.fractions |= not number.is_integer()
        self.names[name] = None

    def result(self) -> Labels:
        """What it came to.

        Raises:
            UserError: a few words stand among numbers, or a few lists among labels.
        """
        kind, note = (self.wanted, "") if self.wanted else self._found()
        form = kind_of(kind).label_form
        if form == "number":
            if not self.numbers:
                return Labels(kind, [], {}, note)
            parameters = kind_of(kind).parameters_of_labels(np.array(self.numbers))
            plain = {name: list(values) for name, values in parameters.items()}
            return Labels(kind, [self.columns[0]], plain, note)
        if form == "classes":
            names = list(self.columns) if len(self.columns) > 1 else in_order(self.members)
            return Labels(kind, list(self.codes) or names, {}, note)
        return Labels(kind, list(self.codes) or in_order(self.names), {}, note)

    def _found(self) -> tuple[str, str]:
        several = f"several labels a text ({MultiLabel.kind})"
        column = f"column '{escape.line(self.columns[0], 60)}'"
        if len(self.columns) > 1:
            return MultiLabel.kind, f"{several}: {len(self.columns)} columns of 0 and 1"
        if self.separator is not None:
            return MultiLabel.kind, f"{several}: {column} is cut by data.label_separator"
        if self.lists:
            return MultiLabel.kind, f"{several}: {column} {self._lists(column)}"
        if self.codes:
            return SingleLabel.kind, ""
        few = 0 < self.words <= FEW * len(self.numbers)
        if self.fractions and len(self.numbers) >= MIN_NUMBERS and few:
            raise UserError(
                f"{self.first_word} in {column}, which has numbers elsewhere. Correct the row, or say what "
                f"they are: --data.task {Regression.kind} (a number) or --data.task {SingleLabel.kind} "
                "(classes)."
            )
        if self.fractions and not self.words:
            low, high = Proportion.label_range
            within = low <= min(self.numbers) and max(self.numbers) <= high
            shares = f", all from {low:g} to {high:g}, as {Proportion.kind} keeps its answers" * within
            return Regression.kind, f"a number to predict ({Regression.kind}): {column} has fractions{shares}"
        if not self.words and self._is_rating():
            low, high = int(min(self.numbers)), int(max(self.numbers))
            return Ordinal.kind, f"classes in an order ({Ordinal.kind}): {column} has {low} to {high}"
        return SingleLabel.kind, ""

    def _lists(self, column: str) -> str:
        """What a column with lists has.

        Raises:
            UserError: they are few among cells with one label.
        """
        rows = self.lists + self.words + len(self.numbers)
        if self.lists < FEW * rows:
            raise UserError(
                f"{self.first_list} has a list in {column}, as {self.lists:,} of {rows:,} rows with a label; "
                "the others have one label. Correct these rows, or say that a text may have several labels: "
                f"--data.task {MultiLabel.kind}."
            )
        if self.lists < rows:
            return f"has lists in {self.lists:,} of {rows:,} rows, the first in {self.first_list}"
        first = f", the first in {self.first_several}" * bool(self.several)
        return f"has lists, {self.several:,} of {rows:,} with more than one label{first}"

    def _is_rating(self) -> bool:
        values = set(self.numbers)
        return (
            self.columns[0].strip().casefold() in RATINGS
            and len(values) in GRADES
            and min(values) in (0, 1)
            and max(values) - min(values) + 1 == len(values)
        )


def in_order(names: Iterable[str]) -> list[str]:
    """The names sorted; whole numbers by their size."""
    names = list(names)
    whole = all(is_whole_number(name) for name in names)
    return sorted(names, key=lambda name: (int(name) if whole else 0, name))


def is_whole_number(name: str) -> bool:
    return name.isascii() and name.removeprefix("-").isdecimal() and len(name) < 1000
