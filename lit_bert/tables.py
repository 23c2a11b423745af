"""Rows in and out of files: CSV, TSV, JSON Lines, Parquet and plain lines, one row at a time.

A file is read as a stream, so its size does not matter, and a row that cannot be read is handed on as a
`BadRow` with its number: training stops at it, prediction reports it and goes on. Files are written beside
their final name and renamed when complete.

    python -m lit_bert predict --input tweets.csv --output labelled.parquet
"""

from __future__ import annotations

import codecs
import csv
import errno
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from lit_bert import UserError

Row = dict[str, Any]
READABLE = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".txt")
WRITABLE = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
PARQUET_ROWS = 1024  # rows held in memory at a time
JSON_DEPTH = 100  # lists and objects in each other; deeper ones could break the stack of whoever writes them
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # the first also begins UTF-32

csv.field_size_limit(2**31 - 1)  # a 100,000-character cell is long, not broken


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read, and why."""

    problem: str


class Numbered(NamedTuple):
    """A row and its place: `number` counts data rows from 1, `line` is 0 where there are no lines."""

    number: int
    line: int
    row: Row | BadRow

    @property
    def place(self) -> str:
        """Where the row stands, as a person would look for it."""
        return f"row {self.number}" + (f" (line {self.line})" if self.line else "")


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


def read_rows(path: Path | str) -> Iterator[Numbered]:
    """Streams the rows of a file; `-` is standard input as plain lines.

    Raises:
        UserError: the file is missing, of an unknown kind, without a header, or not Parquet inside.
    """
    if str(path) == "-":
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")  # type: ignore[union-attr]
        return _read_lines(sys.stdin)
    path = Path(path)
    suffix = path.suffix.lower()
    if not os.path.isfile(path):  # Path.is_file raises where a folder may not be entered
        raise UserError(f"no file {path}; expected one of {', '.join(READABLE)}. Check the path.")
    if suffix not in READABLE:
        hint = " One JSON object a line is .jsonl." if suffix == ".json" else ""
        raise UserError(f"{path} ends in {suffix or 'nothing'}; expected one of {', '.join(READABLE)}.{hint}")
    return _read(path, suffix)


def _read(path: Path, suffix: str) -> Iterator[Numbered]:
    try:
        yield from _read_parquet(path) if suffix == ".parquet" else _read_text(path, suffix)
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror or error}. Check its rights and its disk, or copy it again."
        ) from None


def _read_text(path: Path, suffix: str) -> Iterator[Numbered]:
    with path.open("rb") as raw:
        if raw.read(2) in UTF_16:
            raise UserError(f"{path} is UTF-16; expected UTF-8. Save it as UTF-8 and run again.")
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        if suffix in (".csv", ".tsv"):
            yield from _read_csv(stream, path, "," if suffix == ".csv" else "\t")
        else:
            yield from _read_lines(stream) if suffix == ".txt" else _read_json_lines(stream)


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


def _read_csv(stream: IO[str], path: Path, delimiter: str) -> Iterator[Numbered]:
    lines = _Lines(stream)

    def reader() -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=delimiter, strict=True)

    try:
        header = next(filter(None, reader()), None)  # the first line that is not blank
    except csv.Error as error:
        raise UserError(f"the first line of {path} is not a header: {error}") from None
    if not header:
        raise UserError(f"{path} is empty; expected a first line with the names of the columns.")
    _refuse_twins(header, path)
    problem = text_problem("".join(header))
    if problem:
        raise UserError(f"the first line of {path}: {problem}. Save the file as UTF-8 and run again.")
    records, number = reader(), 0
    while True:
        lines.record.clear()
        first_line = lines.number + 1
        try:
            cells = next(records, None)
        except csv.Error as error:
            # An open quote swallows the lines after it: only its own line is bad.
            lines.give_back_all_but_first()
            records, number = reader(), number + 1
            yield Numbered(number, first_line, BadRow(f"broken quoting ({error})"))
            continue
        if cells is None:
            return
        if not cells:
            continue  # a blank line is no row
        number += 1
        row: Row | BadRow
        problem = text_problem("".join(cells))
        if problem:
            row = BadRow(problem)
        elif len(cells) != len(header):
            row = BadRow(f"{len(cells)} cells where the header has {len(header)}")
        else:
            row = dict(zip(header, cells, strict=True))
        yield Numbered(number, first_line, row)


def _read_json_lines(stream: IO[str]) -> Iterator[Numbered]:
    number = 0
    for line_number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        number += 1
        row: Row | BadRow
        try:
            found = json.loads(line)
            strings = "".join(_strings(found))
        except (ValueError, RecursionError) as error:
            row = BadRow(f"not JSON ({error})")
        else:
            problem = text_problem(line) or text_problem(strings, escaped=True)
            if problem:
                row = BadRow(problem)
            else:
                row = found if isinstance(found, dict) else BadRow("not a JSON object")
        yield Numbered(number, line_number, row)


def _refuse_twins(columns: list[str], path: Path) -> None:
    twins = [name for name in columns if columns.count(name) > 1]
    if twins:
        raise UserError(f"{path} has {len(twins)} columns named '{twins[0]}'; rename all but one of them.")


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
    left of it. Columns are those of the first row; a Parquet column has the type of its first values.
    """

    def __init__(self, path: Path | str | None) -> None:
        self.path = None if path is None or str(path) == "-" else Path(path)
        if self.path and self.path.suffix.lower() not in WRITABLE:
            raise UserError(f"cannot write {self.path}; expected a name that ends in {', '.join(WRITABLE)}.")
        self.columns: list[str] | None = None
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
                for row in rows:
                    if self.columns is None:
                        self.columns = list(row)
                        self._csv = csv.writer(self._stream, delimiter="," if suffix == ".csv" else "\t")
                        self._csv.writerow(self.columns)
                    self._csv.writerow([_cell(row.get(column)) for column in self.columns])
            elif suffix == ".parquet":
                self._held += rows
                while len(self._held) >= PARQUET_ROWS:
                    self._write_parquet(PARQUET_ROWS)
            else:
                for row in rows:
                    self._stream.write(json.dumps(_finite(row), ensure_ascii=False, default=str) + "\n")
                if self.path is None:
                    self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._cannot(error) from None

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
                table = pa.Table.from_pylist(rows)
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
            parquet = self.path.suffix.lower() == ".parquet"
            if kind is None and parquet and (self._held or self._parquet is None):
                self._write_parquet(len(self._held))
            if self._parquet is not None:
                self._parquet.close()
            self._stream.close()
            if kind is None:
                self._partial.chmod(0o666 & ~_umask())
                self._partial.replace(self.path)
        except OSError as error:
            raise self._cannot(error) from None
        finally:
            self._partial.unlink(missing_ok=True)


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list) else value


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
