"""Rows into files: CSV, TSV, JSON Lines and Parquet, written beside their name and renamed when complete.

python -m lit_bert predict --input tweets.csv --output labelled.parquet
"""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import logging
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from lit_bert import UserError
from lit_bert.data.cells import Row
from lit_bert.data.readers.arrow import PARQUET_ROWS
from lit_bert.data.readers.delimited import USUAL
from lit_bert.io import escape, files

log = logging.getLogger(__name__)

WRITABLE = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


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
        self._whole = contextlib.ExitStack()  # ends with the file under its name, or with nothing

    def __enter__(self) -> RowWriter:
        if self.path is None:
            self._stream: IO[str] = sys.stdout
            if hasattr(self._stream, "reconfigure"):
                self._stream.reconfigure(encoding="utf-8")
            return self
        try:
            if self.path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "is a folder")
            self._partial = self._whole.enter_context(files.whole(self.path))
            self._stream = self._partial.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise self._cannot(error) from None
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
            delimiter = USUAL[self.path.suffix.lower()[1:]] if self.path else ","
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
                f"({escape.first_line(error)}). Write .jsonl instead."
            ) from None

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        if self.path is None:
            return
        try:
            with self._stream:
                if kind is None:
                    self._finish(self.path.suffix.lower())
                if self._parquet is not None:
                    self._parquet.close()
            self._whole.__exit__(kind, error, trace)
        except OSError as failure:
            self._whole.__exit__(type(failure), failure, None)
            raise self._cannot(failure) from None
        except UserError as failure:
            self._whole.__exit__(type(failure), failure, None)
            raise
        if kind is None and self._escaped:
            one = self._escaped == 1
            log.info(
                f"{self._escaped:,} cell{'s' * (not one)} of {self.path} that a spreadsheet would run as "
                f"a formula now begin{'s' * one} with an apostrophe"
                + " (--formulas keep leaves them as they are)"
                * (self.formulas is not None)
            )

    def _finish(self, suffix: str) -> None:
        """Writes what is held back, and the header of a file without rows."""
        if suffix == ".parquet" and (self._held or self._parquet is None):
            self._write_parquet(len(self._held))
        if suffix in (".csv", ".tsv"):
            self._write_header()


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
