"""Rows out of files: CSV, TSV, JSON Lines, Parquet and plain lines, one row at a time.

A file is read as a stream, so its size does not matter, and a row that cannot be read is handed on as a
`BadRow` with its number: training stops at it, prediction reports it and goes on.

    python -m lit_bert predict --input tweets.csv
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from lit_bert import UserError
from lit_bert.data.cells import BadRow, Numbered, Row, refuse_repeated_columns, text_problem
from lit_bert.data.delimited import (
    delimiter_of,
    open_text,
    quoting_of,
    read_delimited,
    read_header,
    read_records,
)
from lit_bert.io import escape
from lit_bert.io.files import READABLE_SUFFIXES

PARQUET_ROWS = 1024  # rows held in memory at a time
JSON_DEPTH = 100  # lists and objects in each other; deeper ones could break the stack of whoever writes them


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
            refuse_repeated_columns(names, path)
            return names
        if suffix in (".csv", ".tsv"):
            quoted = quoting_of(path, quoting).quoted
            with open_text(path) as stream:
                return read_header(read_records(stream, delimiter_of(path), quoted), path)
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
        raise UserError(f"no file {path}; expected one of {', '.join(READABLE_SUFFIXES)}. Check the path.")
    if suffix not in READABLE_SUFFIXES:
        hint = " One JSON object a line is .jsonl." if suffix == ".json" else ""
        raise UserError(
            f"{path} ends in {suffix or 'nothing'}; expected one of {', '.join(READABLE_SUFFIXES)}.{hint}"
        )
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
        with open_text(path) as stream:
            yield from read_delimited(read_records(stream, delimiter_of(path), quoted), path)
    else:
        with open_text(path) as stream:
            yield from _read_lines(stream) if suffix == ".txt" else _read_json_lines(stream)


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
        except _DuplicateKey as error:
            row = BadRow(f"the key '{escape.line(error.args[0], 60)}' occurs twice in one object")
        except (ValueError, RecursionError) as error:
            row = BadRow(f"not JSON ({error})")
        else:
            problem = text_problem(line) or text_problem(strings, escaped=True)
            if problem:
                row = BadRow(problem)
            else:
                row = found if isinstance(found, dict) else BadRow("not a JSON object")
        yield Numbered(number, line_number, row)


class _DuplicateKey(Exception):
    """An object has a key twice: one of its values would be lost."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKey(next(key for key in keys if keys.count(key) > 1))
    return found


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
        refuse_repeated_columns(file.schema_arrow.names, path)
        number = 0
        batches = file.iter_batches(batch_size=PARQUET_ROWS)
        while True:
            try:
                batch = next(batches, None)
            except (OSError, ValueError, pyarrow.ArrowException) as error:
                raise UserError(
                    f"{path} cannot be read after row {number}: {escape.first_line(error)}"
                ) from None
            if batch is None:
                return
            for row in _parquet_rows(batch):
                number += 1
                yield Numbered(number, 0, row)


def _parquet_rows(batch: Any) -> Iterator[Row | BadRow]:
    """The rows of an Arrow batch; row by row if it cannot be converted, so that only one is lost."""
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
            yield BadRow(escape.first_line(error))


def open_parquet(path: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`, or a UserError that says the file is none."""
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except PermissionError:
        raise
    except (OSError, ValueError, pyarrow.ArrowException) as error:  # ArrowInvalid is a ValueError
        raise UserError(
            f"{path} is not a readable Parquet file, perhaps a truncated one ({escape.first_line(error)}). "
            "Copy or write it again."
        ) from None


def class_names(path: Path, column: str) -> list[str] | None:
    """The names of a column of ClassLabel, or of lists of it, as `datasets` writes them into a Parquet file.

    None where its schema has none.
    """
    if path.suffix.lower() != ".parquet":
        return None
    with open_parquet(path) as file:
        metadata = file.schema_arrow.metadata or {}
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][column]
        feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
        return feature["names"] if feature["_type"] == "ClassLabel" else None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):  # not the metadata of `datasets`
        return None
