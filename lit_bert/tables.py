"""Rows in and out of files: CSV, TSV, JSON Lines, Parquet and plain lines, one row at a time.

A file is read as a stream, so its size does not matter, and a row that cannot be read is handed on as a
`BadRow` with its number: training stops at it, prediction reports it and goes on. Files are written beside
their final name and renamed when complete.

A CSV or TSV file that holds a `"` is first read in two ways, with and without quoted cells, and the records
are counted (`quoting_of`). One rule says what a cell of a typed file (Parquet, Arrow, JSON) is as a text and
as a label, and refuses the rest (`text_of`, `label_of`).

    python -m lit_bert predict --input tweets.csv --output labelled.parquet
"""

from __future__ import annotations

import codecs
import csv
import decimal
import errno
import json
import logging
import math
import os
import sys
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

from lit_bert import UserError, escape

log = logging.getLogger(__name__)

Row = dict[str, Any]
READABLE = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".txt")
WRITABLE = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
PARQUET_ROWS = 1024  # rows held in memory at a time
JSON_DEPTH = 100  # lists and objects in each other; deeper ones could break the stack of whoever writes them
EXACT_FLOAT = 2**53  # from here on floats skip whole numbers
QUOTING = ("auto", "csv", "none")
FORMULAS = ("escape", "keep")
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # the first also begins UTF-32

csv.field_size_limit(2**31 - 1)  # a 100,000-character cell is long, not broken


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


def text_problem(text: str, escaped: bool = False) -> str | None:
    """What keeps `text` from being UTF-8, or None.

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
            return f"byte 0x{code - 0xDC00:02x} at character {error.start + 1} is not UTF-8"
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


# --- reading ---


def read_rows(path: Path | str, quoting: str = "auto") -> Iterator[Numbered]:
    """Streams the rows of a file; `-` is standard input as plain lines.

    Args:
        path: the file.
        quoting: how `"` in a CSV or TSV file is taken, see `quoting_of`.

    Raises:
        UserError: the file is missing, of an unknown kind, without a header, or not Parquet inside; or there
            are two ways to read it.
    """
    if str(path) == "-":
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")  # type: ignore[union-attr]
        return _read_lines(sys.stdin)
    path = _checked(path)
    return _read(path, path.suffix.lower(), quoting)


def column_names(path: Path | str, quoting: str = "auto") -> list[str]:
    """The columns of a file, in order; of JSON Lines every key that a row has, by first appearance.

    Raises:
        UserError: as `read_rows`.
    """
    if str(path) == "-":
        return ["text"]
    path = _checked(path)
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return ["text"]
    try:
        if suffix == ".parquet":
            with open_parquet(path) as file:
                names = file.schema_arrow.names
            _refuse_twins(names, path)
            return names
        if suffix in (".csv", ".tsv"):
            quoted = quoting_of(path, quoting).quoted
            with _opened(path) as stream:
                return _header(_records(stream, _delimiter(path), quoted), path)
    except OSError as error:
        raise _unreadable(path, error) from None
    keys: dict[str, None] = {}
    for numbered in _read(path, suffix, quoting):
        if not isinstance(numbered.row, BadRow):
            keys.update(dict.fromkeys(numbered.row))
    return list(keys)


def _checked(path: Path | str) -> Path:
    path = Path(path)
    suffix = path.suffix.lower()
    if not os.path.isfile(path):  # Path.is_file raises where a folder may not be entered
        raise UserError(f"no file {path}; expected one of {', '.join(READABLE)}. Check the path.")
    if suffix not in READABLE:
        hint = " One JSON object a line is .jsonl." if suffix == ".json" else ""
        raise UserError(f"{path} ends in {suffix or 'nothing'}; expected one of {', '.join(READABLE)}.{hint}")
    return path


def _read(path: Path, suffix: str, quoting: str) -> Iterator[Numbered]:
    try:
        yield from _read_parquet(path) if suffix == ".parquet" else _read_text(path, suffix, quoting)
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot read {path}: {error.strerror or error}. Check its rights and its disk, or copy it again."
    )


def _read_text(path: Path, suffix: str, quoting: str) -> Iterator[Numbered]:
    if suffix in (".csv", ".tsv"):
        quoted = quoting_of(path, quoting).quoted
        with _opened(path) as stream:
            yield from _read_csv(_records(stream, _delimiter(path), quoted), path)
    else:
        with _opened(path) as stream:
            yield from _read_lines(stream) if suffix == ".txt" else _read_json_lines(stream)


def _opened(path: Path) -> IO[str]:
    with path.open("rb") as raw:
        if raw.read(2) in UTF_16:
            raise UserError(f"{path} is UTF-16; expected UTF-8. Save it as UTF-8 and run again.")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _delimiter(path: Path) -> str:
    return "," if path.suffix.lower() == ".csv" else "\t"


class _Lines:
    """The lines of a stream; remembers those of the record being read, and takes them back."""

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

    def give_back_all_but_first(self) -> None:
        self.ahead += reversed(self.record[1:])
        self.number -= len(self.record) - 1


class _Record(NamedTuple):
    """A record of a delimited file: its first line from 1, how many it takes, and its cells or a problem."""

    line: int
    lines: int
    cells: list[str] | BadRow


def _records(stream: Iterable[str], delimiter: str, quoted: bool) -> Iterator[_Record]:
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
            lines.give_back_all_but_first()
            records = reader()
            yield _Record(first_line, 1, BadRow(f"broken quoting ({error})"))
            continue
        if cells is None:
            return
        if cells:
            yield _Record(first_line, len(lines.record), cells)


def _header(records: Iterator[_Record], path: Path) -> list[str]:
    record = next(records, None)
    if record is None:
        raise UserError(f"{path} is empty; expected a first line with the names of the columns.")
    if isinstance(record.cells, BadRow):
        raise UserError(f"the first line of {path} is not a header: {record.cells.problem}.")
    problem = text_problem("".join(record.cells))
    if problem:
        raise UserError(f"the first line of {path}: {problem}. Save the file as UTF-8 and run again.")
    _refuse_twins(record.cells, path)
    return record.cells


def _read_csv(records: Iterator[_Record], path: Path) -> Iterator[Numbered]:
    header = _header(records, path)
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

    `quoted`: whether it opens and closes cells that may hold line ends; else it is a letter like any other.
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
        return Quoting(False, f'{name}: a " is taken as any other letter (--data.quoting none)')
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
    bare = _scan(path, quoted=False)
    spans = spans and f"{spans}; --data.quoting none takes each line as a row"
    if quoted.clean and (not bare.clean or bare.width < 2):
        return Quoting(True, spans or "")
    if quoted.clean and (bare.has_quoted_cells or path.suffix.lower() == ".csv"):
        raise _question(path, quoted.first_spanning)
    if bare.clean and not bare.has_quoted_cells:
        why = "every line has as many cells as the header"
        if not quoted.clean:
            why += f", and with quoted cells {quoted.bad:,} row{'s' * (quoted.bad > 1)} would be broken"
        return Quoting(
            False,
            f'{name}: a " is taken as any other letter: {why}; --data.quoting csv takes it as the start or '
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
    """What one way of reading a delimited file comes to.

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
    with _opened(path) as stream:
        for number, (line, lines, cells) in enumerate(_records(stream, _delimiter(path), quoted)):
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


def _question(path: Path, span: _Span) -> UserError:
    """Shows the first record that holds line ends as it would be read in each way."""

    def shown(quoted: bool) -> str:
        with _opened(path) as stream:
            records = _records(stream, _delimiter(path), quoted)
            cells = [each.cells for each in records if span.line <= each.line <= span.end]
        return " and ".join(escape.line(json.dumps(each, ensure_ascii=False), 200) for each in cells[:2])

    more = ", …" if span.end - span.line > 1 else ""
    return UserError(
        f"{path} can be read in two ways. With quoted cells, row {span.number} (lines {span.line} to "
        f'{span.end}) is {shown(True)}; with a " as any other letter these lines are {shown(False)}{more}. '
        "Say which it is: --data.quoting csv or --data.quoting none."
    )


def _read_json_lines(stream: IO[str]) -> Iterator[Numbered]:
    number = 0
    for line_number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        number += 1
        row: Row | BadRow
        try:
            found = json.loads(line, object_pairs_hook=_object)
            strings = "".join(_strings(found))
        except _TwinKeys as error:
            row = BadRow(f"the key '{escape.line(error.args[0], 60)}' stands twice in one object")
        except (ValueError, RecursionError) as error:
            row = BadRow(f"not JSON ({error})")
        else:
            problem = text_problem(line) or text_problem(strings, escaped=True)
            if problem:
                row = BadRow(problem)
            else:
                row = found if isinstance(found, dict) else BadRow("not a JSON object")
        yield Numbered(number, line_number, row)


class _TwinKeys(Exception):
    """An object has a key twice: one of its values would be lost."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwinKeys(next(key for key in keys if keys.count(key) > 1))
    return found


def _refuse_twins(columns: Sequence[str], path: Path) -> None:
    if len(set(columns)) < len(columns):
        name = next(name for name in columns if columns.count(name) > 1)
        raise UserError(
            f"{path} has {columns.count(name)} columns named '{escape.line(name, 100)}'; rename all but one "
            "of them."
        )


def _strings(found: Any, depth: int = 0) -> Iterator[str]:
    if depth > JSON_DEPTH:
        raise ValueError(f"nested more than {JSON_DEPTH} deep")
    if isinstance(found, str):
        yield found
    elif isinstance(found, dict):
        for key, value in found.items():
            yield key
            yield from _strings(value, depth + 1)
    elif isinstance(found, list):
        for value in found:
            yield from _strings(value, depth + 1)


def _read_lines(stream: Iterable[str]) -> Iterator[Numbered]:
    for number, line in enumerate(stream, 1):
        line = line.rstrip("\r\n")
        problem = text_problem(line)
        yield Numbered(number, number, BadRow(problem) if problem else {"text": line})


def _read_parquet(path: Path) -> Iterator[Numbered]:
    import pyarrow

    with open_parquet(path) as file:
        _refuse_twins(file.schema_arrow.names, path)
        number = 0
        batches = file.iter_batches(batch_size=PARQUET_ROWS)
        while True:
            try:
                batch = next(batches, None)
            except (OSError, ValueError, pyarrow.ArrowException) as error:
                raise UserError(f"{path} broke off after row {number}: {_first_line(error)}") from None
            if batch is None:
                return
            for row in _parquet_rows(batch):
                number += 1
                yield Numbered(number, 0, row)


def _parquet_rows(batch: Any) -> Iterator[Row | BadRow]:
    """The rows of an Arrow batch; one by one where a value cannot be had, so that only its row is lost."""
    try:
        yield from batch.to_pylist()
        return
    except (ValueError, OverflowError):
        pass
    for index in range(batch.num_rows):
        try:
            yield batch.slice(index, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            yield BadRow(f"byte 0x{error.object[error.start]:02x} at byte {error.start + 1} is not UTF-8")
        except (ValueError, OverflowError) as error:
            yield BadRow(_first_line(error))


def open_parquet(path: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`, or a UserError that says the file is none."""
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except PermissionError:
        raise
    except (OSError, ValueError, pyarrow.ArrowException) as error:  # ArrowInvalid is a ValueError
        raise UserError(
            f"{path} is not a readable Parquet file, perhaps a truncated one ({_first_line(error)}). "
            "Copy or write it again."
        ) from None


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def class_names(path: Path, column: str) -> list[str] | None:
    """The names of a ClassLabel column as `datasets` writes them into a Parquet file's schema, else None."""
    if path.suffix.lower() != ".parquet":
        return None
    with open_parquet(path) as file:
        metadata = file.schema_arrow.metadata or {}
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][column]
        return feature["names"] if feature["_type"] == "ClassLabel" else None
    except (ValueError, KeyError, TypeError):  # not the metadata of `datasets`
        return None


class RowWriter:
    """Writes rows to a CSV, TSV, JSON Lines or Parquet file, or as JSON Lines to standard output.

    A context manager. The file gets its name when the block ends without an error; after an error nothing is
    left of it. A column that a row lacks is empty there, in every form; a row with a column beyond those is
    refused. A Parquet column has the type of its first values.

    Args:
        path: file to write; None or `-` is standard output.
        columns: their names in order; None takes those of the first row.
        formulas: what becomes of CSV and TSV cells that a spreadsheet would run as a formula: `escape` puts
            an apostrophe before them (and says so at the end), `keep` leaves them; None escapes, where the
            user has no flag for it.
    """

    def __init__(
        self, path: Path | str | None, columns: Sequence[str] | None = None, formulas: str | None = None
    ) -> None:
        self.path = None if path is None or str(path) == "-" else Path(path)
        if self.path and self.path.suffix.lower() not in WRITABLE:
            raise UserError(f"cannot write {self.path}; expected a name that ends in {', '.join(WRITABLE)}.")
        self.columns: list[str] | None = None if columns is None else list(columns)
        self.formulas = formulas
        self._escaped = 0
        self._csv: Any = None
        self._parquet: Any = None
        self._held: list[Row] = []

    def __enter__(self) -> RowWriter:
        if self.path is None:
            self._stream: IO[str] = sys.stdout
            if hasattr(self._stream, "reconfigure"):
                self._stream.reconfigure(encoding="utf-8")
            return self
        try:
            if self.path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "is a folder")
            handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        except OSError as error:
            raise self._cannot(error) from None
        self._partial = Path(name)
        self._stream = os.fdopen(handle, "w", encoding="utf-8", newline="")
        return self

    def _cannot(self, error: OSError) -> UserError:
        name = self.path or "standard output"
        return UserError(
            f"cannot write {name}: {error.strerror or error}. Make room, or choose another file with "
            "--output."
        )

    def write(self, rows: Iterable[Row]) -> None:
        """Appends rows."""
        suffix = self.path.suffix.lower() if self.path else ".jsonl"
        try:
            if suffix in (".csv", ".tsv"):
                for row in map(self._complete, rows):
                    self._write_header()
                    _check_no_bytes(row)
                    self._csv.writerow([self._cell(value) for value in row.values()])
            elif suffix == ".parquet":
                self._held += map(self._complete, rows)
                while len(self._held) >= PARQUET_ROWS:
                    self._write_parquet(PARQUET_ROWS)
            else:
                for row in map(self._complete, rows):
                    _check_no_bytes(row)
                    self._stream.write(_json(_finite(row)) + "\n")
                if self.path is None:
                    self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._cannot(error) from None

    def _complete(self, row: Row) -> Row:
        """The row with all columns in their order."""
        if self.columns is None:
            self.columns = list(row)
        complete = {column: row.get(column) for column in self.columns}
        if unknown := next((name for name in row if name not in complete), None):
            raise UserError(
                f"a row has the column '{escape.line(unknown, 100)}', which the rows before it lack and "
                f"{self.path or 'standard output'} has no place for. Give every row the same columns."
            )
        return complete

    def _write_header(self) -> None:
        if self._csv is None and self.columns is not None:
            delimiter = _delimiter(self.path) if self.path else ","
            self._csv = csv.writer(self._stream, delimiter=delimiter)
            self._csv.writerow([self._cell(column) for column in self.columns])

    def _cell(self, value: Any) -> Any:
        if isinstance(value, dict | list | bytes):
            return _json(value)
        if self.formulas == "keep" or not isinstance(value, str):
            return value
        safe = escape.spreadsheet(value)
        self._escaped += safe != value
        return safe

    def _write_parquet(self, count: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet

        rows, self._held = self._held[:count], self._held[count:]
        try:
            if self._parquet is not None:
                schema = self._parquet.schema
                columns = [_typed([row.get(field.name) for row in rows], field.type) for field in schema]
                table = pa.Table.from_arrays(columns, schema=schema)
            else:
                empty = {column: pa.array([], pa.string()) for column in self.columns or ()}
                table = pa.Table.from_pylist(rows) if rows else pa.table(empty)
                # A column that is empty so far gets the widest type, so that a later value still fits.
                fields = [
                    field.with_type(pa.string()) if pa.types.is_null(field.type) else field
                    for field in table.schema
                ]
                table = table.cast(pa.schema(fields))
                self._parquet = pyarrow.parquet.ParquetWriter(self._partial, table.schema)
            self._parquet.write_table(table)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
            raise UserError(
                f"cannot write {self.path}: a column has values of several types, or one that Parquet lacks "
                f"({_first_line(error)}). Write .jsonl instead."
            ) from None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.path is None:
            return
        try:
            suffix = self.path.suffix.lower()
            if kind is None and suffix == ".parquet" and (self._held or self._parquet is None):
                self._write_parquet(len(self._held))
            if kind is None and suffix in (".csv", ".tsv"):
                self._write_header()  # of a file without rows
            if self._parquet is not None:
                self._parquet.close()
            self._stream.close()
            if kind is None:
                self._partial.chmod(0o666 & ~_umask())
                self._partial.replace(self.path)
            if kind is None and self._escaped:
                one = self._escaped == 1
                log.info(
                    f"{self._escaped:,} cell{'s' * (not one)} of {self.path} that a spreadsheet would run as "
                    f"a formula now begin{'s' * one} with an apostrophe"
                    + " (--formulas keep leaves them as they are)"
                    * (self.formulas is not None)
                )
        except OSError as error:
            raise self._cannot(error) from None
        finally:
            self._partial.unlink(missing_ok=True)


def _check_no_bytes(row: Row) -> None:
    """Raises a UserError that names the column where a cell holds bytes."""
    for name, value in row.items():
        if isinstance(value, bytes):
            raise UserError(
                f"column '{escape.line(name, 100)}' holds bytes ({escape.line(repr(value), 40)}), which only "
                "Parquet can hold. Write a .parquet file, or leave the column out."
            )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> str:
    """A date and the like as text."""
    if isinstance(value, bytes):
        raise UserError(
            f"a cell holds bytes ({escape.line(repr(value), 40)}), which only Parquet can hold. Write a "
            ".parquet file, or leave the column out."
        )
    return str(value)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _typed(values: list[Any], type_: Any) -> Any:
    """An Arrow array; pyarrow by itself cuts 1.5 to 1 in a column of whole numbers, without a word."""
    import pyarrow as pa

    if pa.types.is_integer(type_) and any(
        isinstance(value, float) and not value.is_integer() for value in values
    ):
        raise pa.ArrowInvalid("a fraction in a column of whole numbers")
    return pa.array(values, type=type_)


def _finite(value: Any) -> Any:
    """`value` with null for NaN and infinities, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list) else value
