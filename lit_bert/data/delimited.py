"""CSV and TSV files: records, header, and how `"` in them is interpreted.

A file that holds a `"` is first read in two ways, with and without quoted cells, and the records are counted
(`quoting_of`).
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

from lit_bert import UserError
from lit_bert.data.cells import BadRow, Numbered, Row, refuse_repeated_columns, text_problem
from lit_bert.io import escape

QUOTING = ("auto", "csv", "none")
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # the first also begins UTF-32

csv.field_size_limit(2**31 - 1)  # cells of more than 131,072 characters are valid


def open_text(path: Path) -> IO[str]:
    with path.open("rb") as raw:
        if raw.read(2) in UTF_16:
            raise UserError(f"{path} is UTF-16; expected UTF-8. Save it as UTF-8 and run again.")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def delimiter_of(path: Path) -> str:
    return "," if path.suffix.lower() == ".csv" else "\t"


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


class _Record(NamedTuple):
    """A record of a delimited file: its first line from 1, how many it takes, and its cells or a problem."""

    line: int
    lines: int
    cells: list[str] | BadRow


def read_records(stream: Iterable[str], delimiter: str, quoted: bool) -> Iterator[_Record]:
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
            yield _Record(first_line, 1, BadRow(f"broken quoting ({error})"))
            continue
        if cells is None:
            return
        if cells:
            yield _Record(first_line, len(lines.record), cells)


def read_header(records: Iterator[_Record], path: Path) -> list[str]:
    record = next(records, None)
    if record is None:
        raise UserError(f"{path} is empty; expected a first line with the names of the columns.")
    if isinstance(record.cells, BadRow):
        raise UserError(f"the first line of {path} is not a header: {record.cells.problem}.")
    problem = text_problem("".join(record.cells))
    if problem:
        raise UserError(f"the first line of {path}: {problem}. Save the file as UTF-8 and run again.")
    refuse_repeated_columns(record.cells, path)
    return record.cells


def read_delimited(records: Iterator[_Record], path: Path) -> Iterator[Numbered]:
    header = read_header(records, path)
    for number, (line, _, cells) in enumerate(records, 1):
        row: Row | BadRow
        if isinstance(cells, BadRow):
            row = cells
        elif problem := text_problem("".join(cells)):
            row = BadRow(problem)
        elif len(cells) != len(header):
            row = BadRow(f"{len(cells)} cells where the header has {len(header)}")
        else:
            row = dict(zip(header, cells, strict=True))
        yield Numbered(number, line, row)


# --- quotes in delimited files ---


class Quoting(NamedTuple):
    """How `"` in a delimited file is taken.

    `quoted`: whether it opens and closes cells that may hold line ends; else it is an ordinary character.
    `note`: what a person has to know of that choice, one line, or "".
    """

    quoted: bool
    note: str


def quoting_of(path: Path, wanted: str = "auto") -> Quoting:
    """How to take `"` in a CSV or TSV file: as `wanted` says, or found by reading it in both ways.

    A reader that takes a stray `"` for the start of a quoted cell swallows line ends, and with them rows. So
    the records are counted in both ways. Quoted cells it is where every record then has as many cells as the
    header; unless every line has, too, and some records hold line ends: then nothing in the file decides. A
    TSV file is taken as unquoted then, and for a CSV file the user is asked.

    Args:
        path: the file; of other kinds than CSV and TSV there is nothing to decide.
        wanted: `csv` for quoted cells, `none` for unquoted ones, `auto` to find out.

    Raises:
        UserError: both ways are sound and give different rows.
    """
    if path.suffix.lower() not in (".csv", ".tsv"):
        return Quoting(True, "")
    status = path.stat()
    # By what changes with the content: a file is read several times in a run.
    return _quoting_of(path, path.resolve(), status.st_size, status.st_mtime_ns, status.st_ctime_ns, wanted)


@lru_cache(maxsize=256)
def _quoting_of(path: Path, resolved: Path, size: int, mtime: int, ctime: int, wanted: str) -> Quoting:
    with path.open("rb") as raw:
        if not any(b'"' in block for block in iter(lambda: raw.read(1 << 16), b"")):
            return Quoting(wanted != "none", "")
    name = escape.line(path.name, 100)
    if wanted == "none":
        return Quoting(False, f'{name}: a " is an ordinary character (--data.quoting none)')
    quoted = _scan(path, quoted=True)
    spans = quoted.spanning and (
        f"{name}: {quoted.spanning:,} record{'s' * (quoted.spanning > 1)} hold{'s' * (quoted.spanning == 1)} "
        f"line ends inside quotes, the first at row {quoted.first_spanning.number} "
        f"(lines {quoted.first_spanning.line} to {quoted.first_spanning.end})"
    )
    if wanted == "csv":
        return Quoting(True, f"{spans} (--data.quoting csv)" if spans else "")
    if quoted.clean and not spans:
        return Quoting(True, "")
    unquoted = _scan(path, quoted=False)
    spans = spans and f"{spans}; --data.quoting none takes each line as a row"
    if quoted.clean and (not unquoted.clean or unquoted.width < 2):
        return Quoting(True, spans or "")
    if quoted.clean and (unquoted.has_quoted_cells or path.suffix.lower() == ".csv"):
        raise _ambiguous_quoting(path, quoted.first_spanning)
    if unquoted.clean and not unquoted.has_quoted_cells:
        why = "every line has as many cells as the header"
        if not quoted.clean:
            why += f", and with quoted cells {quoted.bad:,} row{'s' * (quoted.bad > 1)} would be broken"
        return Quoting(
            False,
            f'{name}: a " is an ordinary character: {why}; --data.quoting csv takes it as the start or '
            "end of a quoted cell",
        )
    return Quoting(True, spans or "")


class _Span(NamedTuple):
    number: int = 0
    line: int = 0
    end: int = 0


NO_SPAN = _Span()


@dataclass
class _Scan:
    """Statistics of reading a delimited file with, or without, quoted cells.

    Attributes:
        width: cells of the header.
        bad: records that are broken, or have another number of cells than the header.
        spanning: records that hold line ends.
        first_spanning: the first of them.
        has_quoted_cells: of an unquoted reading: whether some cell stands in quotes as a whole, or a name in
            the header has one, so that the file is likely to use them as CSV does.
    """

    width: int = 0
    bad: int = 0
    spanning: int = 0
    first_spanning: _Span = NO_SPAN
    has_quoted_cells: bool = False

    @property
    def clean(self) -> bool:
        return not self.bad


def _scan(path: Path, quoted: bool) -> _Scan:
    found = _Scan()
    with open_text(path) as stream:
        for number, (line, lines, cells) in enumerate(read_records(stream, delimiter_of(path), quoted)):
            if isinstance(cells, BadRow):
                found.bad += 1
                continue
            if not number:
                found.width = len(cells)
                found.has_quoted_cells = any('"' in cell for cell in cells)
            elif len(cells) != found.width:
                found.bad += 1
            if lines > 1:
                found.spanning += 1
                if found.spanning == 1:
                    found.first_spanning = _Span(number, line, line + lines - 1)
            found.has_quoted_cells |= any(
                len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells if '"' in cell
            )
    return found


def _ambiguous_quoting(path: Path, span: _Span) -> UserError:
    """Shows the first record that holds line ends as it would be read in each way."""

    def shown(quoted: bool) -> str:
        with open_text(path) as stream:
            records = read_records(stream, delimiter_of(path), quoted)
            cells = [each.cells for each in records if span.line <= each.line <= span.end]
        return " and ".join(escape.line(json.dumps(each, ensure_ascii=False), 200) for each in cells[:2])

    more = ", …" if span.end - span.line > 1 else ""
    return UserError(
        f"{path} can be read in two ways. With quoted cells, row {span.number} (lines {span.line} to "
        f'{span.end}) is {shown(True)}; with a " as an ordinary character these lines are '
        f"{shown(False)}{more}. "
        "Say which it is: --data.quoting csv or --data.quoting none."
    )
