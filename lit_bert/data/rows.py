"""Rows out of files of every form, and out of databases, one row at a time.

What can be is read as a stream, so that its size does not matter, and a row that cannot be read is handed on
as a `BadRow` with its number: training stops at it, prediction reports it and goes on.

    python -m lit_bert predict --input tweets.csv
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import lit_bert.data.readers.sql as sql
from lit_bert import UserError
from lit_bert.data.cache import cache_root
from lit_bert.data.cells import BadRow, Numbered
from lit_bert.data.readers.arrow import arrow_columns, read_arrow
from lit_bert.data.readers.arrow import class_names as arrow_class_names
from lit_bert.data.readers.delimited import (
    columns_without_header,
    read_delimited,
    read_header,
    read_records,
)
from lit_bert.data.readers.dialect import dialect_of
from lit_bert.data.readers.jsons import is_array, read_json_array, read_json_lines
from lit_bert.data.readers.lines import is_fasttext, read_fasttext, read_lines
from lit_bert.data.readers.options import DEFAULT, ReadOptions
from lit_bert.data.readers.remote import fetched, is_address
from lit_bert.data.readers.sheets import read_sheet, table_of
from lit_bert.data.readers.text import (
    COMPRESSED,
    DAMAGED,
    encoding_of,
    inner_suffix,
    is_compressed,
    open_text,
    refuse_changed,
    stamp,
)
from lit_bert.io import escape
from lit_bert.io.files import READABLE_SUFFIXES

FORM_OF = {  # by what the name of a file ends in; .txt and .json are looked into
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".txt": "lines",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    **dict.fromkeys((".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"), "sheet"),
}
BINARY = ("parquet", "arrow", "sheet")


def read_rows(place: Path | str, options: ReadOptions = DEFAULT) -> Iterator[Numbered]:
    """Streams the rows of a file, or of an address; `-` is standard input as plain lines.

    Raises:
        UserError: the file is missing, of an unknown form, without a header, or damaged; or there are several
            ways to read it.
    """
    if str(place) == "-":
        options.refuse_unused("lines", "standard input")
        encoding = options.encoding or "utf-8-sig"
        sys.stdin.reconfigure(encoding=encoding, errors="surrogateescape")  # type: ignore[union-attr]
        return read_lines(sys.stdin, encoding.removesuffix("-sig"))
    if sql.is_database(place):
        options.refuse_unused("sql", "a database")
        return sql.read_query(str(place), options)
    return _guarded(_found(place, options), options)


def column_names(place: Path | str, options: ReadOptions = DEFAULT) -> list[str]:
    """The columns of a file, in order; of JSON every key that a row has, by first appearance.

    Raises:
        UserError: as `read_rows`.
    """
    if str(place) == "-":
        return ["text"]
    if sql.is_database(place):
        options.refuse_unused("sql", "a database")
        return sql.query_columns(str(place), options)
    found = _found(place, options)
    with _said(found.path):
        if (columns := _known_columns(found, options)) is not None:
            return columns
    keys: dict[str, None] = {}
    for numbered in _guarded(found, options):
        if not isinstance(numbered.row, BadRow):
            keys.update(dict.fromkeys(numbered.row))
    return list(keys)


def reading_notes(place: Path | str, options: ReadOptions = DEFAULT) -> list[str]:
    """What was taken for what, where that was found by looking into the file; a line each."""
    if str(place) == "-" or sql.is_database(place):
        return []
    found = _found(place, options)
    with _said(found.path):
        if found.form in ("csv", "tsv"):
            return list(dialect_of(found.path, found.form, options).notes)
        if found.form == "sheet":
            return table_of(found.path, options).notes
        encoding = [] if found.form in BINARY else [encoding_of(found.path, options.encoding).note]
        return [note for note in (*encoding, found.note) if note]


def class_names(path: Path, column: str, options: ReadOptions = DEFAULT) -> list[str] | None:
    """The names of a ClassLabel column as `datasets` writes them into a file's schema, else None."""
    form = options.format or FORM_OF.get(path.suffix.lower())
    return arrow_class_names(path, form, column) if form in ("parquet", "arrow") else None


def is_plain(place: Path | str, options: ReadOptions = DEFAULT) -> bool:
    """Whether a file has texts alone, or by its form always calls them `text`."""
    return str(place) == "-" or (
        not sql.is_database(place) and _found(place, options).form in ("lines", "fasttext")
    )


# --- which form ---


class _Found(NamedTuple):
    """A file that is there, its form, and a note of how that was found, or ""."""

    path: Path
    form: str
    note: str = ""


def _found(place: Path | str, options: ReadOptions) -> _Found:
    if is_address(place):
        there = fetched(str(place), cache_root() / "downloads")
        if len(there) > 1:
            raise UserError(f"{escape.line(place, 200)} are {len(there)} files; expected one here.")
        place = there[0]
    path = Path(place)
    suffix = inner_suffix(path)
    if not os.path.isfile(path):  # Path.is_file raises where a folder may not be entered
        raise UserError(f"no file {path}; expected one of {', '.join(READABLE_SUFFIXES)}. Check the path.")
    form = options.format or FORM_OF.get(suffix)
    if form is None:
        raise UserError(
            f"{path} ends in {suffix or 'nothing'}; expected one of {', '.join(READABLE_SUFFIXES)}, the text "
            f"forms also with {', '.join(COMPRESSED)} behind. Rename it, or say what it is with "
            "--data.format."
        )
    if is_compressed(path) and form in BINARY:
        raise UserError(
            f"{path} is a compressed {suffix} file; expected a text form there. Decompress it first."
        )
    with _said(path):
        found = _looked_into(path, form, options) if options.format is None else _Found(path, form)
    options.refuse_unused(found.form, path)
    return found


def _looked_into(path: Path, form: str, options: ReadOptions) -> _Found:
    """The form of a .txt or .json file by its content; others as they are."""
    name = escape.line(path.name, 100)
    if form == "lines" and options.delimiter is not None:
        return _Found(path, "csv")
    if form == "lines":
        if is_fasttext(path, encoding_of(path, options.encoding).name):
            return _Found(
                path,
                "fasttext",
                f"{name}: lines with __label__ as fastText has them; --data.format lines takes each as a "
                "text",
            )
    elif form == "json":
        encoding = encoding_of(path, options.encoding).name
        with open_text(path, encoding) as stream:
            if is_array(stream):
                return _Found(path, "json")
        with open_text(path, encoding) as stream:
            if _first_is_object(stream):
                return _Found(
                    path,
                    "jsonl",
                    f"{name}: a JSON object a line, not one array; --data.format json forbids that",
                )
    return _Found(path, form)


def _first_is_object(stream: Iterator[str]) -> bool:
    try:
        return isinstance(json.loads(next((line for line in stream if line.strip()), "")), dict)
    except (ValueError, RecursionError):
        return False


# --- rows ---


def _guarded(found: _Found, options: ReadOptions) -> Iterator[Numbered]:
    with _said(found.path):
        before = stamp(found.path)
        yield from _read(found.path, found.form, options)
        refuse_changed(found.path, before)


class _said:
    """Turns what reading raises into one line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise UserError(
                f"cannot read {self.path}: {error.strerror or error}. Check its rights and its disk, or copy "
                "it again."
            ) from None
        if isinstance(error, DAMAGED):
            why = escape.line(escape.first_line(error))
            raise UserError(
                f"cannot read {self.path}: it is damaged or ends early ({why}). Copy or write it again."
            ) from None
        if isinstance(error, UnicodeDecodeError):
            raise UserError(
                f"{self.path} is no {error.encoding} throughout ({error.reason}). Save it as UTF-8, or say "
                "what it is with --data.encoding."
            ) from None


def _read(path: Path, form: str, options: ReadOptions) -> Iterator[Numbered]:
    if form in ("parquet", "arrow"):
        yield from read_arrow(path, form)
    elif form == "sheet":
        yield from read_sheet(path, options)
    elif form in ("csv", "tsv"):
        columns = _delimited_columns(path, form, options)
        dialect = dialect_of(path, form, options)
        with open_text(path, dialect.encoding) as stream:
            records = read_records(stream, dialect.delimiter, dialect.quoted)
            if dialect.header:
                next(records)
            yield from read_delimited(records, columns, dialect.encoding)
    else:
        encoding = encoding_of(path, options.encoding).name
        if form == "fasttext":
            yield from read_fasttext(path, encoding)
            return
        with open_text(path, encoding) as stream:
            if form == "lines":
                yield from read_lines(stream, encoding)
            elif form == "json":
                yield from read_json_array(stream, path, encoding)
            else:
                yield from read_json_lines(stream, encoding)


def _known_columns(found: _Found, options: ReadOptions) -> list[str] | None:
    """The columns of a file where its form says them, else None."""
    path, form, _ = found
    if form == "lines":
        return ["text"]
    if form == "fasttext":
        return ["text", "label"]
    if form in ("parquet", "arrow"):
        return arrow_columns(path, form)
    if form == "sheet":
        return table_of(path, options).columns
    return _delimited_columns(path, form, options) if form in ("csv", "tsv") else None


def _delimited_columns(path: Path, form: str, options: ReadOptions) -> list[str]:
    dialect = dialect_of(path, form, options)
    with open_text(path, dialect.encoding) as stream:
        records = read_records(stream, dialect.delimiter, dialect.quoted)
        if dialect.header:
            return read_header(records, path, dialect.encoding)
        return columns_without_header(records, path)
