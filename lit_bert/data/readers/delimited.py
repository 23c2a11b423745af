"""CSV and TSV files: records, the names of the columns, rows.

`dialect` says how a file is taken.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lit_bert import UserError
from lit_bert.data.cells import BadRow, Numbered, Row, refuse_repeated_columns, text_problem

USUAL = {"csv": ",", "tsv": "\t"}  # what stands between the cells of a form

csv.field_size_limit(2**31 - 1)  # cells of more than 131,072 characters are valid


class _Lines:
    """The lines of a stream; buffers those of the record being read, so that they can be pushed back."""

    def __init__(self, stream: Iterable[str]) -> None:
        self.stream = iter(stream)
        self.ahead: list[str] = []
        self.record: list[str] = []
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.ahead.pop() if self.ahead else next(self.stream)
        self.record.append(line)
        self.number += 1
        return line

    def push_back_all_but_first(self) -> None:
        self.ahead += reversed(self.record[1:])
        self.number -= len(self.record) - 1


class Record(NamedTuple):
    """A record of a delimited file: its first line from 1, how many it takes, and its cells or a problem."""

    line: int
    lines: int
    cells: list[str] | BadRow


def read_records(stream: Iterable[str], delimiter: str, quoted: bool) -> Iterator[Record]:
    """The records of a delimited file, the header too; blank lines are none."""
    lines = _Lines(stream)
    quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE

    def reader() -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=delimiter, strict=True, quoting=quoting)

    records = reader()
    while True:
        lines.record.clear()
        first_line = lines.number + 1
        try:
            cells = next(records, None)
        except csv.Error as error:
            # An open quote swallows the lines after it: only its own line is bad.
            lines.push_back_all_but_first()
            records = reader()
            yield Record(first_line, 1, BadRow(f"broken quoting ({error})"))
            continue
        if cells is None:
            return
        if cells:
            yield Record(first_line, len(lines.record), cells)


def read_header(records: Iterator[Record], path: Path, encoding: str) -> list[str]:
    """The names in the first line.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    record = next(records, None)
    if record is None:
        raise UserError(f"{path} is empty; expected a first line with the names of the columns.")
    if isinstance(record.cells, BadRow):
        raise UserError(f"the first line of {path} is not a header: {record.cells.problem}.")
    problem = text_problem("".join(record.cells), encoding=encoding)
    if problem:
        raise UserError(f"the first line of {path}: {problem}. Save the file as UTF-8 and run again.")
    refuse_repeated_columns(record.cells, path)
    return record.cells


def numbered_columns(count: int) -> list[str]:
    """The names of columns that have none."""
    return [f"column_{number}" for number in range(1, count + 1)]


def columns_without_header(records: Iterator[Record], path: Path) -> list[str]:
    """The names for the columns of a file without a header; the first row that can be read has all.

    Raises:
        UserError: there is no such row.
    """
    for record in records:
        if not isinstance(record.cells, BadRow):
            return numbered_columns(len(record.cells))
    raise UserError(f"{path} has no row that can be read; expected one a line.")


def read_delimited(records: Iterator[Record], columns: list[str], encoding: str) -> Iterator[Numbered]:
    """The records after the header as rows."""
    for number, (line, _, cells) in enumerate(records, 1):
        row: Row | BadRow
        if isinstance(cells, BadRow):
            row = cells
        elif problem := text_problem("".join(cells), encoding=encoding):
            row = BadRow(problem)
        elif len(cells) != len(columns):
            row = BadRow(f"{len(cells)} cells where the header has {len(columns)}")
        else:
            row = dict(zip(columns, cells, strict=True))
        yield Numbered(number, line, row)
