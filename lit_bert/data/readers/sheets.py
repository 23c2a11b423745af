"""Workbooks of Excel and OpenDocument, one sheet of them, by python-calamine.

python -m lit_bert fit --data.dataset reviews.xlsx --data.sheet 2024
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from lit_bert import UserError, require_package
from lit_bert.data.cells import EXACT_FLOAT, BadRow, Numbered, refuse_repeated_columns
from lit_bert.data.readers.delimited import numbered_columns
from lit_bert.data.readers.header import SAMPLE_ROWS, header_of
from lit_bert.data.readers.options import ReadOptions
from lit_bert.data.readers.text import stamp
from lit_bert.io import escape

Cells = list[Any]


class Table:
    """A sheet: its rows without empty ones, each with the number it has in the sheet.

    Attributes:
        columns: their names.
        notes: how it was taken, a line each.
    """

    def __init__(self, path: Path, options: ReadOptions) -> None:
        workbook = _opened(path)
        self.notes: list[str] = []
        name = options.sheet
        if name is None:
            name = _only_sheet(path, workbook)
        elif name not in workbook.sheet_names:
            raise UserError(
                f"{path} has no sheet '{escape.line(name, 100)}'; it has {_listed(workbook.sheet_names)}. "
                "Name one of them with --data.sheet."
            )
        sheet = _calamine(path, lambda: workbook.get_sheet_by_name(name))
        first_line = (sheet.start or (0, 0))[0] + 1
        found = _calamine(path, lambda: sheet.to_python(skip_empty_area=True))
        rows = [(line, list(map(_cell, cells))) for line, cells in enumerate(found, first_line)]
        self.rows = [(line, cells) for line, cells in rows if any(cell is not None for cell in cells)]
        if not self.rows:
            raise UserError(
                f"sheet '{escape.line(name, 100)}' of {path} is empty; expected a first line with the names "
                "of the columns."
            )
        if options.sheet is None and len(workbook.sheet_names) > 1:
            self.notes.append(
                f"{escape.line(path.name, 100)}: of its sheets '{escape.line(name, 100)}' alone is visible "
                "and has rows; --data.sheet NAME takes another"
            )
        header, note = header_of([cells for _, cells in self.rows[:SAMPLE_ROWS]], path, options)
        self.notes += [note] if note else []
        if header:
            cells = self.rows.pop(0)[1]
            if None in cells and any(row[cells.index(None)] is not None for _, row in self.rows):
                raise UserError(
                    f"the first line of {path} has no name for column {cells.index(None) + 1}; name it, or "
                    "say that there are no names with --data.header false."
                )
            names = ["" if cell is None else str(cell) for cell in cells]
            self.kept = [index for index, name in enumerate(names) if name]
            self.columns = [names[index] for index in self.kept]
            refuse_repeated_columns(self.columns, path)
        else:
            self.columns = numbered_columns(len(self.rows[0][1]))
            self.kept = list(range(len(self.columns)))


@lru_cache(maxsize=2)  # of a pass for the columns, one for the labels and one for the tokens
def _table(path: Path, stamp: tuple[Path, int, int, int], options: ReadOptions) -> Table:
    return Table(path, options)


def table_of(path: Path, options: ReadOptions) -> Table:
    """The sheet that the options name, or the only one.

    Raises:
        UserError: it is no workbook, has no such sheet, or several and none is named.
    """
    return _table(path, stamp(path), options)


def read_sheet(path: Path, options: ReadOptions) -> Iterator[Numbered]:
    """The rows of a sheet; empty ones are none."""
    table = table_of(path, options)
    for number, (line, cells) in enumerate(table.rows, 1):
        yield Numbered(number, line, _row(table, cells))


def _row(table: Table, cells: Cells) -> dict[str, Any] | BadRow:
    return {name: cells[index] for name, index in zip(table.columns, table.kept, strict=True)}


def _opened(path: Path) -> Any:
    require_package("python_calamine", "files")
    from python_calamine import CalamineWorkbook

    path.open("rb").close()  # raises what other forms do where there is none
    return _calamine(path, lambda: CalamineWorkbook.from_path(str(path)))


def _calamine(path: Path, call: Any) -> Any:
    """What `call` returns; a UserError where the workbook cannot be read."""
    try:
        return call()
    except (OSError, UserError, KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # a fault of the parser in Rust is a PanicException, which is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if type(error).__name__ == "PasswordError":
            raise UserError(
                f"{path} is protected by a password. Save it without one and run again."
            ) from None
        raise UserError(
            f"{path} is not a readable workbook ({escape.line(escape.first_line(error))}). Save it again, or "
            "save the sheet as CSV."
        ) from None


def _only_sheet(path: Path, workbook: Any) -> str:
    """The one visible sheet with rows."""
    visible = [
        each.name
        for each in workbook.sheets_metadata
        if str(each.visible).endswith("Visible") and str(each.typ).endswith("WorkSheet")
    ]
    full = [
        name for name in visible if _calamine(path, lambda name=name: workbook.get_sheet_by_name(name)).height
    ]
    if len(full) > 1:
        raise UserError(
            f"{path} has {len(full)} sheets with rows: {_listed(full)}. Say which it is with --data.sheet "
            "NAME."
        )
    if full or visible:
        return (full or visible)[0]
    raise UserError(
        f"{path} has no visible sheet; it has {_listed(workbook.sheet_names)}. Name one with --data.sheet."
    )


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{escape.line(name, 60)}'" for name in names[:20]) + (", …" if len(names) > 20 else "")


def _cell(value: Any) -> Any:
    """The value as a spreadsheet shows it: whole numbers, which it stores as floats, without a fraction."""
    if value == "":
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT_FLOAT:
        return int(value)
    return value
