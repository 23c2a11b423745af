"""One pass over a split: its rows with a text and a label, and the class index of each label."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lit_bert import UserError
from lit_bert.data.cells import (
    BadRow,
    CellError,
    Numbered,
    flag_of,
    label_of,
    labels_of,
    missing_column,
    near_column,
    number_of,
    part_of,
    text_of,
    weight_of,
)
from lit_bert.data.corpus import Corpus
from lit_bert.data.counts import Skipped
from lit_bert.data.label_kind import is_whole_number
from lit_bert.io import escape
from lit_bert.io.texts import Text, TextForm
from lit_bert.task.base import Task

NO_TEXT, NO_LABEL = "without a text", "without a label"  # why a row is skipped
FIRST_SKIPPED = 10  # rows skipped for one reason whose numbers are kept
SHOWN_LABELS = 20  # of a list in a message


@dataclass(frozen=True)
class RowSettings:
    """Which columns of a row are read, and how.

    Attributes:
        text_columns: those of the text: one, two of a pair, or several that are joined.
        text_form: single, pair or joined; see `io.texts`.
        label_columns: the one with the label, or one for each of several labels.
        missing: what to do with rows that have no text or no label: `skip` or `refuse` them.
        label_names: class names in the order of the codes 0, 1, 2, … where the user gave one.
        label_form: that of the task: a class, classes or a number; `raw` where nobody knows yet.
        label_separator: between labels in a cell; None where they are lists.
        label_range: the least and the greatest label that is a number.
        other_columns: that a row needs beside them, by the setting that names each.
    """

    text_columns: tuple[str, ...]
    text_form: Literal["single", "pair", "joined"]
    label_columns: tuple[str, ...]
    missing: str
    label_names: list[str] | None
    label_form: Literal["class", "classes", "number", "raw"] = "class"
    label_separator: str | None = None
    label_range: tuple[float, float] = (-math.inf, math.inf)
    other_columns: dict[str, str] = field(default_factory=dict)

    def of_kind(self, kind: type[Task]) -> RowSettings:
        """The same, with labels of a kind of task."""
        return replace(self, label_form=kind.label_form, label_range=kind.label_range)

    @property
    def label_column(self) -> str:
        """The only one."""
        (column,) = self.label_columns
        return column

    def column_of(self, reason: str) -> str:
        """The column that caused a skip, in a message."""
        return escape.line(", ".join(self.text_columns if reason == NO_TEXT else self.label_columns), 100)


def class_names_of(corpus: Corpus, split: str, label_column: str) -> list[str]:
    """The names in a column of ClassLabel, or of lists of it, in the order of their codes; [] for others."""
    return [name.strip() for name in corpus.class_names(label_column, split) or ()]


def refused_row(place: str, reason: str, corpus: Corpus, settings: RowSettings) -> UserError:
    """What to say of a row without a text or a label where such rows are refused."""
    return UserError(
        f"{place} of {corpus.source.name} is {reason} (column '{settings.column_of(reason)}'), and "
        "data.missing is refuse. Correct or remove the row, or skip such rows with --data.missing skip."
    )


class SplitReader:
    """One pass over a split: its rows with a text and a label, and how many were skipped.

    Iterating gives, for each row that can be used, its number in the split from 0 with the row itself, its
    text, and its label: as `cells.label_of` has it (or its code in a ClassLabel column), a list of these, or
    a number, by the form of the settings.

    Args:
        corpus: whose split to read.
        split: its name.
        settings: which columns to read.
        labelled: whether the label is needed; else it is not looked at, and "" given.

    Attributes:
        read: rows so far.
        skipped: those of them that were, by reason.
    """

    def __init__(self, corpus: Corpus, split: str, settings: RowSettings, labelled: bool = True) -> None:
        self.corpus, self.split, self.settings, self.labelled = corpus, split, settings, labelled
        self.read = 0
        self.skipped: dict[str, Skipped] = {}
        column = settings.label_columns[0]
        self._is_code = labelled and bool(class_names_of(corpus, split, column))
        self._form = TextForm(settings.text_form, settings.text_columns)
        self._convert = part_of if settings.text_form == "joined" else text_of
        self._spellings: dict[str, str] = {}  # of a label without the white space around it: one with it
        self._joined: dict[str, tuple[str, str]] = {}

    def __iter__(self) -> Iterator[tuple[tuple[int, Numbered], Text, Any]]:
        settings = self.settings
        wanted = [*settings.text_columns, *(settings.label_columns if self.labelled else ())]
        wanted += settings.other_columns.values() if self.labelled else ()
        unseen, columns = set(wanted), dict[str, None]()
        for index, numbered in enumerate(self.corpus.splits[self.split]()):
            self.read += 1
            row = numbered.row
            if isinstance(row, BadRow):
                raise UserError(
                    f"{self._place(numbered)}: {row.problem}. Correct or remove the row and run again."
                )
            if unseen:
                columns.update(dict.fromkeys(row))
                unseen -= row.keys()
            for column in wanted:
                if column not in row and near_column(column, row) is not None:
                    raise missing_column(column, row, self._flag(column), self._place(numbered))
            text = self._form.text_of(
                [self._cell(numbered, column, self._convert) for column in settings.text_columns]
            )
            label = self._label(numbered) if self.labelled and text is not None else ""
            if text is not None and label is not None:
                yield (index, numbered), text, label
            elif not unseen:
                self._skip(numbered, NO_TEXT if text is None else NO_LABEL)
            else:  # the column may be missing altogether: reported after the last row
                self._skip(numbered, NO_TEXT if text is None else NO_LABEL, refuse=False)
        if self.read and unseen:
            column = next(each for each in wanted if each in unseen)
            where = f"split {self.split} of {self.corpus.source.name}"
            raise missing_column(column, columns, self._flag(column), where)

    def _place(self, numbered: Numbered) -> str:
        return f"{numbered.place} of split {self.split} of {self.corpus.source.name}"

    def _flag(self, column: str) -> str:
        if column in self.settings.text_columns or column in self.settings.label_columns:
            return "text_column" if column in self.settings.text_columns else "label_column"
        return next(flag for flag, name in self.settings.other_columns.items() if name == column)

    def _cell(self, numbered: Numbered, column: str, convert: Callable[[Any], Any]) -> Any:
        assert isinstance(numbered.row, dict)
        try:
            return convert(numbered.row.get(column))
        except CellError as error:
            kinds: dict[Any, str] = {
                label_of: "a label",
                self._number: f"a number{self._range}",
                flag_of: "0 or 1",
                weight_of: "a weight",
            }
            in_text = column in self.settings.text_columns
            wanted = "a text" if in_text else kinds.get(convert, "a list of labels")
            raise UserError(
                f"{self._place(numbered)} has {error} in column '{escape.line(column, 100)}'; expected "
                f"{wanted}. Correct the row, or name another column with --data.{self._flag(column)}."
            ) from None

    def other(self, numbered: Numbered, flag: str, convert: Callable[[Any], Any]) -> Any:
        """The value of another column of a row, which the setting `flag` names."""
        return self._cell(numbered, self.settings.other_columns[flag], convert)

    def _label(self, numbered: Numbered) -> Any:
        settings = self.settings
        if settings.label_form == "raw":
            return ()
        if settings.label_form == "class":
            return self._class(numbered)
        if settings.label_form == "number":
            return self._cell(numbered, settings.label_column, self._number)
        if len(settings.label_columns) == 1:
            return self._cell(
                numbered, settings.label_column, lambda cell: labels_of(cell, settings.label_separator)
            )
        flags = {column: self._cell(numbered, column, flag_of) for column in settings.label_columns}
        return None if None in flags.values() else [column for column, flag in flags.items() if flag]

    def _number(self, value: Any) -> float | None:
        found, (low, high) = number_of(value), self.settings.label_range
        if found is not None and not low <= found <= high:
            raise CellError(f"the number {found!r}")
        return found

    @property
    def _range(self) -> str:
        """In which numbers have to be, in words; empty where all are."""
        low, high = self.settings.label_range
        return f" from {low:g} to {high:g}" if math.isfinite(high - low) else ""

    def _class(self, numbered: Numbered) -> str | None:
        assert isinstance(numbered.row, dict)
        value = numbered.row.get(self.settings.label_column)
        label = self._cell(numbered, self.settings.label_column, label_of)
        if self._is_code and label == "-1":  # how `datasets` says that a row has no label
            return None
        if label is not None and isinstance(value, str) and self._spellings.setdefault(label, value) != value:
            self._joined.setdefault(label, (self._spellings[label], value))
        return label

    def _skip(self, numbered: Numbered, reason: str, refuse: bool = True) -> None:
        if refuse and self.settings.missing == "refuse":
            place = f"{numbered.place} of split {self.split}"
            raise refused_row(place, reason, self.corpus, self.settings)
        skipped = self.skipped.setdefault(reason, Skipped())
        skipped.count += 1
        if len(skipped.first) < FIRST_SKIPPED:
            where = f" of {escape.line(numbered.file)}" if numbered.file else ""
            skipped.first.append(f"{numbered.number}{where}")

    def notes(self) -> list[str]:
        """What was done to labels that a person may not expect."""
        return [
            f"labels '{escape.line(first, 60)}' and '{escape.line(other, 60)}' of split {self.split} are one "
            "class: white space around a label is cut"
            for first, other in list(self._joined.values())[:SHOWN_LABELS]
        ]


class ClassIndex:
    """From the labels of a split to class indices.

    A label is found by its name. Codes (whole numbers where no class is called like one) are translated only
    by an order that the file gives (ClassLabel) or the user (`data.label_names`).

    Args:
        corpus: whose split it is.
        split: its name.
        settings: which columns to read.
        names: the class names in the order of their indices.
    """

    def __init__(self, corpus: Corpus, split: str, settings: RowSettings, names: list[str]) -> None:
        self.corpus, self.split, self.settings, self.names = corpus, split, settings, names
        self.index_of = {name: index for index, name in enumerate(names)}
        # By the file: every label is a code.
        self.codes: list[str] | None = class_names_of(corpus, split, settings.label_columns[0]) or None
        self.order: list[str] | None = None  # by the user: a label may be a code, where no class is so called
        self.translated: dict[str, str] = {}  # codes by an order of the user
        given = settings.label_names
        self._renamed = bool(self.codes) and not set(self.codes or ()) & set(names)
        if self._renamed:
            if not given or len(given) != len(self.codes or ()):
                raise UserError(
                    f"the file of split {split} of {corpus.source.name} names the classes "
                    f"{listed(self.codes or ())}; the classes here are {listed(names)}. Expected the same "
                    "names; or say what its codes 0, 1, 2, … mean with --data.label_names, a name for each."
                )
            self.codes = given
        elif not self.codes and not any(map(is_whole_number, names)):
            self.order = given

    def stored(self, numbered: Numbered, label: Any) -> Any:
        """A row's label as the cache has it: a class index, a list of them, or a number."""
        if self.settings.label_form == "class":
            return self.index(numbered, label)
        if self.settings.label_form == "classes":
            return sorted(self.index(numbered, each) for each in label)
        return label

    def index(self, numbered: Numbered, label: str) -> int:
        """The class index of one of a row's labels."""
        name = label
        if self.codes and is_whole_number(label) and 0 <= int(label) < len(self.codes):
            name = self.codes[int(label)]
            if self._renamed:
                self.translated[label] = name
        elif self.order and is_whole_number(label) and 0 <= int(label) < len(self.order):
            name = self.translated[label] = self.order[int(label)]
        if name in self.index_of:
            return self.index_of[name]
        if is_whole_number(name) and not any(map(is_whole_number, self.names)):
            raise self.codes_beside_names()
        raise UserError(
            f"{numbered.place} of split {self.split} of {self.corpus.source.name} has the label "
            f"'{escape.line(name, 100)}', none of the {len(self.names)} known ones: {listed(self.names)}. "
            "Correct the row, or name all classes with --data.label_names when training."
        )

    def codes_beside_names(self) -> UserError:
        """The labels of the split beside the classes, for a person to see what the codes may mean."""
        found: dict[str, None] = {}
        for _, _, label in SplitReader(self.corpus, self.split, self.settings):
            found.update(dict.fromkeys(label if isinstance(label, list) else [label]))
            if len(found) > SHOWN_LABELS:
                break
        labels = sorted(found, key=lambda name: (int(name) if is_whole_number(name) else -1, name))
        given = self.settings.label_names
        order = f", and data.label_names is {listed(given)}" if given else ""
        return UserError(
            f"the labels in split {self.split} of {self.corpus.source.name} are {listed(labels)}; the "
            f"classes are {listed(self.names)}{order}. Nothing says which code means which class: give the "
            "names in the order of the codes 0, 1, 2, … with --data.label_names, or write names into "
            "the file."
        )

    def notes(self) -> list[str]:
        """How codes were translated."""
        pairs = [f"{code} as {escape.line(name, 60)}" for code, name in sorted(self.translated.items())]
        more = ", …" if len(pairs) > SHOWN_LABELS else ""
        read = ", ".join(pairs[:SHOWN_LABELS]) + more
        return [f"label codes of split {self.split} are read by --data.label_names: {read}"] if pairs else []


def parse_class_names(text: str) -> list[str]:
    """Names with commas between them, as in a line of CSV; brackets around them, as in YAML, are dropped."""
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1]
    try:
        rows = list(csv.reader([inner], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise UserError(
            f"data.label_names is {escape.line(text, 200)}; expected names with commas between them "
            f"({error})."
        ) from None
    return [name.strip() for name in rows[0]] if rows else []


def listed(names: Iterable[str]) -> str:
    names = list(names)
    more = ", …" if len(names) > SHOWN_LABELS else ""
    return ", ".join(escape.line(name, 100) for name in names[:SHOWN_LABELS]) + more
