"""A row of a file and its place; conversion of a cell to a text or to a label.

`text_of` and `label_of` convert a cell of any file to a text and to a label: strings as they come, typed
values of Parquet, Arrow and JSON by one stated rule. Everything else is refused.
"""

from __future__ import annotations

import contextlib
import decimal
import json
import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lit_bert import UserError
from lit_bert.io import escape
from lit_bert.io.texts import Text, TextForm

Row = dict[str, Any]
EXACT_FLOAT = 2**53  # from here on floats skip whole numbers
MAX_NUMBER = 3e38  # in 32 bits
FLAGS = {"0": False, "1": True, "false": False, "true": True}


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read, and why."""

    problem: str


class Numbered(NamedTuple):
    """A row and its place in its file.

    `number` counts data rows from 1, `line` is 0 where there are no lines, and `file` is named where the rows
    come from several.
    """

    number: int
    line: int
    row: Row | BadRow
    file: str = ""

    @property
    def place(self) -> str:
        """Where the row stands, as a person would look for it."""
        place = f"row {self.number}" + (f" (line {self.line})" if self.line else "")
        return f"{place} of {escape.line(self.file)}" if self.file else place


def text_problem(text: str, escaped: bool = False, encoding: str = "utf-8") -> str | None:
    """What keeps `text` from being one in the encoding of its file, or None.

    Files are decoded with `surrogateescape`, so that one bad byte costs one row: it shows as a lone
    surrogate.
    """
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        if 0xDC80 <= code <= 0xDCFF and not escaped:
            return f"byte 0x{code - 0xDC00:02x} at character {error.start + 1} is not {encoding.upper()}"
        return f"half of a surrogate pair (U+{code:04X}) at character {error.start + 1}"
    return None


# --- cells ---


class CellError(ValueError):
    """A cell that is no text, or no label; the message says what it is."""


def text_of(value: Any) -> str | None:
    """The text in a cell, or None where it has none: null, NaN, empty or white space only.

    A string is taken as it is, a whole number as its decimal digits.

    Raises:
        CellError: it is anything else: a fraction, a boolean, a date, bytes, a list, a nested value.
    """
    if _is_missing(value):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return _digits(value)
    raise CellError(_kind(value))


def label_of(value: Any) -> str | None:
    """The name of the class in a cell, or None where it has none: null, NaN, empty or white space only.

    A string loses the white space around it. A whole number, also one stored as a float or decimal, is its
    decimal digits (-0.0 is `0`); another finite number has the fewest digits that mean it; a boolean is
    `true` or `false`.

    Raises:
        CellError: it is anything else, an infinite number, or a float beyond 2**53, where several whole
            numbers are one float.
    """
    if _is_missing(value):
        return None
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return _digits(value)
    if isinstance(value, float) and abs(value) < EXACT_FLOAT:
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, decimal.Decimal) and value.is_finite() and abs(value.adjusted()) < 100:
        return str(int(value)) if value == value.to_integral_value() else f"{value.normalize():f}"
    raise CellError(_kind(value))


def part_of(value: Any) -> str | None:
    """The text in a cell of several that are joined: a string as it is, all else as `label_of`."""
    return value if isinstance(value, str) and value.strip() else label_of(value)


def text_in(row: Row, form: TextForm) -> Text | None:
    """The text of a row, or None where it has none.

    Raises:
        CellError: a cell of it is no text.
    """
    convert = part_of if form.kind == "joined" else text_of
    return form.text_of([convert(row.get(column)) for column in form.columns])


def labels_of(value: Any, separator: str | None = None) -> list[str] | None:
    """The names of the classes in a cell, each once, in its order; None where nothing is known of them.

    A list, of Parquet or JSON, or as JSON in a string; or a string that the separator cuts. Without either it
    is one label. An empty list is no label, and so is, with a separator, an empty cell.

    Raises:
        CellError: it is anything else, or what is in it is no label.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(value)
            value = found if isinstance(found, list) else value
    if isinstance(value, str) and separator is not None:
        value = [part for part in value.split(separator) if part.strip()]
    if not isinstance(value, list | tuple):
        name = label_of(value)
        return None if name is None else [name]
    names = [label_of(each) for each in value]
    if None in names:
        raise CellError(f"a list with an empty label ({escape.line(repr(value), 60)})")
    return list(dict.fromkeys(name for name in names if name is not None))


def flag_of(value: Any) -> bool | None:
    """Whether a cell of a class's own column says that the text has it; None where it has nothing.

    Raises:
        CellError: it is other than 0, 1, true or false.
    """
    name = label_of(value)
    if name is None:
        return None
    if name.casefold() not in FLAGS:
        raise CellError(f"'{escape.line(name, 60)}', which is neither 0 nor 1")
    return FLAGS[name.casefold()]


def number_of(value: Any) -> float | None:
    """The number in a cell, or None where it has none: null, NaN, empty or white space only.

    Raises:
        CellError: it is no number, or none that is finite in 32 bits.
    """
    if _is_missing(value):
        return None
    try:
        found = float(value) if isinstance(value, str | int | float | decimal.Decimal) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if isinstance(value, bool) or not abs(found) <= MAX_NUMBER:
        raise CellError(_kind(value) if not isinstance(value, str) else f"'{escape.line(value, 60)}'")
    return found


def weight_of(value: Any) -> float:
    """The weight in a cell.

    Raises:
        CellError: it has none, or one that is below 0.
    """
    found = number_of(value)
    if found is None or found < 0:
        raise CellError("no weight" if found is None else f"the weight {found:g}, which is below 0")
    return found


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, decimal.Decimal):
        return value.is_nan()
    return value is None or (not isinstance(value, bytes | list | dict) and bool(value != value))  # NaN, NaT


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # Python's own limit, 4,300 digits
        raise CellError("a whole number of thousands of digits") from None


def _kind(value: Any) -> str:
    name = {dict: "nested value", tuple: "list", bool: "boolean"}.get(type(value), type(value).__name__)
    return f"a value of type {name} ({escape.line(repr(value), 60)})"


# --- columns ---


def missing_column(column: str, columns: Iterable[str], flag: str, where: str) -> UserError:
    """What to say where a column is not there, but perhaps one that differs in blanks or case alone."""
    columns = list(columns)
    near = near_column(column, columns)
    shown = escape.line(column, 100)
    if near is not None:
        other = escape.line(near, 100)
        return UserError(
            f"{where} has no column '{shown}', but a column '{other}', which differs in blanks or case. "
            f"Name it, as in --data.{flag} '{other}', or rename it."
        )
    there = ", ".join(escape.line(name, 100) for name in columns[:50]) + (", …" if len(columns) > 50 else "")
    has = f"it has {there}" if columns else "it has none"
    return UserError(f"{where} has no column '{shown}'; {has}. Name the right one with --data.{flag}.")


def near_column(column: str, columns: Iterable[str]) -> str | None:
    """The first of `columns` that differs from `column` in blanks, case or Unicode form alone."""

    def folded(name: str) -> str:
        return "".join(unicodedata.normalize("NFKC", name).casefold().split()).strip("\ufeff")

    wanted = folded(column)
    return next((name for name in columns if name != column and folded(name) == wanted), None)


def refuse_repeated_columns(columns: Sequence[str], path: Path) -> None:
    if len(set(columns)) < len(columns):
        name = next(name for name in columns if columns.count(name) > 1)
        raise UserError(
            f"{path} has {columns.count(name)} columns named '{escape.line(name, 100)}'; rename all but one "
            "of them."
        )
