"""Random tables of every form, written by other programs and read back; random bytes in place of files."""

import bz2
import contextlib
import csv
import gzip
import io
import json
import lzma
import math
import os
import sqlite3
import tempfile
from pathlib import Path

import openpyxl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather, parquet

from lit_bert import UserError
from lit_bert.data.cells import BadRow, CellError, label_of, text_of
from lit_bert.data.readers.dialect import dialect_of
from lit_bert.data.readers.options import DEFAULT, ReadOptions
from lit_bert.data.rows import FORM_OF, column_names, read_rows, reading_notes
from lit_bert.data.writer import WRITABLE, RowWriter

pytestmark = pytest.mark.fuzz

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
AWKWARD = st.text(st.sampled_from("\"',\t\r\n ab\\=-@\0\x0b\x1c\x85\u2028\ufeff;|"), max_size=8)
CELL = TEXT | AWKWARD
NAMES = st.lists(CELL.filter(bool), min_size=1, max_size=4, unique=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | CELL,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CELL, inner, max_size=3),
    max_leaves=5,
)


PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, "zstd", asbytes=True),
}


@pytest.fixture(scope="module")
def folder():
    """One for all inputs of a test: a fixture is not made anew for each."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@st.composite
def tables(draw, cells=CELL):
    """Column names and rows of cells."""
    names = draw(NAMES)
    return names, draw(st.lists(st.tuples(*[cells] * len(names)), max_size=6))


def same(one, other):
    """Equal values, where NaN equals itself and null."""
    if isinstance(one, float) and math.isnan(one):
        return other is None or (isinstance(other, float) and math.isnan(other))
    if isinstance(one, float) and math.isinf(one):
        return other is None or one == other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return one == other and type(one) is type(other)


def plain(file, quoting="auto"):
    """Options under which nothing but the quoting is looked for."""
    delimiter = {".csv": ",", ".tsv": "tab"}.get(file.suffix)
    form = "lines" if file.suffix == ".txt" else None
    given = {"header": True, "encoding": "utf-8", "delimiter": delimiter} if delimiter else {"format": form}
    return ReadOptions(quoting=quoting, **given)


def read(file, options=DEFAULT):
    """The rows, or the line that refuses them."""
    try:
        return [each.row for each in read_rows(file, options)]
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return str(error)


@given(
    tables(),
    st.sampled_from([".csv", ".tsv"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
)
def test_quoted_tables_give_back_every_row(folder, table, suffix, quoting, end, mark):
    names, rows = table
    stream = io.StringIO(newline="")
    delimiter = "," if suffix == ".csv" else "\t"
    if end != "\r\n":  # Python before 3.13 quotes no line end but its own
        quoting = csv.QUOTE_ALL
    writer = csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writerow(names)
    writer.writerows(rows)
    file = folder / f"quoted{suffix}"
    file.write_bytes(("\ufeff" * mark + stream.getvalue()).encode())
    expected = [dict(zip(names, row, strict=True)) for row in rows]
    if not mark and names[0].startswith("\ufeff"):
        return  # its first column is called so; no reader can know that this is no byte order mark
    assert column_names(file, plain(file, "csv")) == names
    assert read(file, plain(file, "csv")) == expected
    found, dialect = read(file, plain(file)), None
    if isinstance(found, str):
        assert "can be read in two ways" in found
    elif (dialect := dialect_of(file, suffix[1:], plain(file))).quoted:
        assert found == expected
    else:  # said aloud, and no line is lost
        assert dialect.notes
        assert len(found) >= len(rows)


@given(tables(), st.sampled_from([".csv", ".tsv"]), st.sampled_from(",;\t|"))
def test_what_is_guessed_is_right_or_said_or_asked(folder, table, suffix, delimiter):
    names, rows = table
    file = folder / f"guessed{suffix}"
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
        writer.writerows([names, *rows])
    if names[0].startswith("\ufeff"):
        return
    found = read(file)
    if isinstance(found, str):
        return
    usual = {".csv": ",", ".tsv": "\t"}[suffix]
    right = found == [dict(zip(names, row, strict=True)) for row in rows]
    assert right or delimiter != usual or dialect_of(file, suffix[1:], DEFAULT).notes
    told = ReadOptions(delimiter=delimiter, header=True, quoting="csv", encoding="utf-8")
    assert read(file, told) == [dict(zip(names, row, strict=True)) for row in rows]


@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.tuples(*[st.text(st.sampled_from("\"'ab ;|=\\\x85\u2028é"), min_size=1, max_size=8)] * width),
            max_size=8,
        )
    ),
    st.sampled_from([".csv", ".tsv"]),
)
def test_unquoted_tables_keep_every_line(folder, rows, suffix):
    width = len(rows[0]) if rows else 1
    names = [f"column {index}" for index in range(width)]
    delimiter = "," if suffix == ".csv" else "\t"
    file = folder / f"bare{suffix}"
    file.write_text("".join(delimiter.join(row) + "\n" for row in [names, *rows]), newline="")
    expected = [dict(zip(names, row, strict=True)) for row in rows]
    assert read(file, plain(file, "none")) == expected
    found = read(file, plain(file))
    if isinstance(found, str):
        assert "can be read in two ways" in found
        return
    dialect = dialect_of(file, suffix[1:], plain(file))
    if len(found) < len(rows):
        assert "line ends inside quotes" in dialect.notes[0]
    elif not dialect.quoted:
        assert found == expected


@given(st.lists(st.dictionaries(CELL, VALUES, max_size=4), max_size=6), st.booleans(), st.booleans())
def test_json_lines_give_back_every_row(folder, rows, ascii_only, blanks):
    file = folder / "rows.jsonl"
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    file.write_text(("\n\n" if blanks else "\n").join(lines), encoding="utf-8", newline="")
    found = read(file)
    assert len(found) == len(rows)
    assert all(same(one, other) for one, other in zip(rows, found, strict=True))
    assert column_names(file) == list({key: 0 for row in rows for key in row})


ARROW = {
    pa.string(): TEXT,
    pa.large_string(): TEXT,
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint8(): st.integers(0, 255),
    pa.float64(): st.floats(),
    pa.bool_(): st.booleans(),
    pa.binary(): st.binary(max_size=5),
    pa.date32(): st.dates(),
    pa.list_(pa.string()): st.lists(TEXT, max_size=3),
    pa.dictionary(pa.int32(), pa.string()): TEXT,
}


@given(st.data())
def test_parquet_gives_back_every_row(folder, data):
    names = data.draw(NAMES)
    kinds = [data.draw(st.sampled_from(list(ARROW))) for _ in names]
    count = data.draw(st.integers(0, 6))
    columns = [
        pa.array(data.draw(st.lists(st.none() | ARROW[kind], min_size=count, max_size=count)), kind)
        for kind in kinds
    ]
    file = folder / "rows.parquet"
    table = pa.Table.from_arrays(columns, names=names)
    parquet.write_table(table, file, row_group_size=data.draw(st.integers(1, 4)))
    assert column_names(file) == names
    found = read(file)
    expected = [
        dict(zip(names, row, strict=True))
        for row in zip(*(each.to_pylist() for each in columns), strict=True)
    ]
    assert len(found) == count
    assert all(same(one, other) for one, other in zip(expected, found, strict=True))


@given(tables(), st.sampled_from(WRITABLE))
def test_what_is_written_is_read_back(folder, table, suffix):
    names, rows = table
    expected = [dict(zip(names, row, strict=True)) for row in rows]
    file = folder / f"written{suffix}"
    with RowWriter(file, names, formulas="keep") as writer:
        writer.write(expected)
    if suffix in (".csv", ".tsv") and names[0].startswith("\ufeff"):
        return
    assert read(file, plain(file, "csv")) == expected
    if rows or suffix not in (".jsonl", ".ndjson"):
        assert column_names(file, plain(file, "csv")) == names


@given(st.lists(st.dictionaries(CELL, VALUES, max_size=4), max_size=6), st.sampled_from(WRITABLE))
def test_rows_of_any_columns_and_values_are_written_or_refused(folder, rows, suffix):
    names = list({key: 0 for row in rows for key in row})
    file = folder / f"any{suffix}"
    file.unlink(missing_ok=True)
    try:
        with RowWriter(file, names, formulas="keep") as writer:
            writer.write(rows)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert not file.exists()
        return
    if not names or (suffix in (".csv", ".tsv") and names[0].startswith("\ufeff")):
        return
    found = read(file, plain(file, "csv"))
    assert len(found) == len(rows)
    if suffix in (".jsonl", ".ndjson"):
        complete = [{name: row.get(name) for name in names} for row in rows]
        assert all(same(one, other) for one, other in zip(complete, found, strict=True))


BYTES = st.binary(max_size=200) | AWKWARD.map(str.encode) | TEXT.map(lambda text: text.encode("utf-16"))
FORMS_READ = [*FORM_OF, ".csv.gz", ".jsonl.bz2", ".txt.xz", ".tsv.zst", ".json.zst"]


@given(BYTES, st.sampled_from(FORMS_READ), st.booleans())
def test_random_bytes_are_rows_or_one_line(folder, content, suffix, packed):
    file = folder / f"bytes{suffix}"
    file.write_bytes(PACKERS[file.suffix](content) if packed and file.suffix in PACKERS else content)
    for quoting in ("auto", "csv", "none"):
        options = ReadOptions(quoting=quoting)
        found = read(file, options)
        assert all(isinstance(row, dict | BadRow) for row in found) or isinstance(found, str)
        try:
            names = column_names(file, options)
            assert all("\n" not in note for note in reading_notes(file, options))
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
            continue
        if isinstance(found, list):
            assert all(set(row) <= set(names) for row in found if isinstance(row, dict))


@given(st.lists(st.dictionaries(CELL, VALUES, max_size=4), max_size=6), st.sampled_from([None, 2]))
def test_a_json_array_gives_back_every_row(folder, rows, indent):
    file = folder / "rows.json"
    file.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    found = read(file)
    assert len(found) == len(rows)
    assert all(same(one, other) for one, other in zip(rows, found, strict=True))


@given(st.lists(VALUES, max_size=3), st.binary(max_size=3), st.data())
def test_a_damaged_json_array_is_rows_or_one_line(folder, values, garbage, data):
    content = json.dumps(values).encode()
    place = data.draw(st.integers(0, len(content)))
    file = folder / "damaged.json"
    file.write_bytes(content[:place] + garbage + content[place + data.draw(st.integers(0, 3)) :])
    found = read(file, ReadOptions(format="json"))
    assert isinstance(found, str) or all(isinstance(row, dict | BadRow) for row in found)


WORD = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=6)


@given(
    st.lists(
        st.tuples(st.lists(WORD, min_size=1, max_size=2), st.lists(WORD, min_size=1, max_size=4)), min_size=1
    )
)
def test_fasttext_gives_back_every_row(folder, rows):
    file = folder / "rows.txt"
    lines = [" ".join([*(f"__label__{label}" for label in labels), *words]) for labels, words in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    several = any(len(labels) > 1 for labels, _ in rows)
    found = read(file)
    assert [row["label"] for row in found] == [each if several else each[0] for each, _ in rows]
    assert [row["text"] for row in found] == [" ".join(words) for _, words in rows]


@given(st.data(), st.sampled_from(["arrow", "feather", "stream.arrow"]), st.booleans())
def test_arrow_files_are_rows_or_one_line(folder, data, kind, damaged):
    table = pa.table({"text": ["a", "é", None] * 5, "label": [1, 2, 3] * 5, "more": [[1], [], None] * 5})
    file = folder / f"rows.{kind}"
    if kind == "feather":
        feather.write_feather(table, file, compression="uncompressed", chunksize=4)
    else:
        new = pa.ipc.new_stream if kind == "stream.arrow" else pa.ipc.new_file
        with pa.OSFile(str(file), "wb") as sink, new(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    if not damaged:
        assert read(file) == table.to_pylist()
        return
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))] if damaged else content)
    found = read(file)
    assert all(isinstance(row, dict | BadRow) for row in found) or isinstance(found, str)


@given(st.data(), st.lists(st.tuples(WORD, st.integers(-(2**40), 2**40) | st.booleans() | WORD), max_size=5))
def test_a_workbook_gives_back_every_row_and_a_damaged_one_is_one_line(folder, data, rows):
    file = folder / "rows.xlsx"
    book = openpyxl.Workbook()
    for row in [("text", "label"), *rows]:
        book.active.append(list(row))
    book.save(file)
    assert read(file, ReadOptions(header=True)) == [{"text": text, "label": label} for text, label in rows]
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    found = read(file)
    assert isinstance(found, str) or all(isinstance(row, dict) for row in found)


@given(
    st.lists(
        st.tuples(CELL | st.none(), VALUES.filter(lambda value: not isinstance(value, list | dict))),
        max_size=5,
    )
)
def test_a_query_gives_back_every_row(folder, rows):
    file = folder / "rows.db"
    file.unlink(missing_ok=True)
    rows = [(text, None if isinstance(each, float) and each != each else each) for text, each in rows]
    rows = [row for row in rows if not isinstance(row[1], int) or abs(row[1]) < 2**63]
    with contextlib.closing(sqlite3.connect(file)) as base:
        base.execute("CREATE TABLE t (text, label)")
        base.executemany("INSERT INTO t VALUES (?, ?)", rows)
        base.commit()
    found = [each.row for each in read_rows(f"sqlite:///{file}", ReadOptions(query="SELECT * FROM t"))]
    assert [row["text"] for row in found] == [text for text, _ in rows]
    assert [row["label"] for row in found] == [label for _, label in rows]


@given(st.data())
def test_a_damaged_parquet_file_is_rows_or_one_line(folder, data):
    file = folder / "damaged.parquet"
    table = pa.table({"text": ["a", "b", None] * 5, "label": [1, 2, 3] * 5})
    parquet.write_table(table, file, compression="none")
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(4, len(content) - 5))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    found = read(file)
    assert all(isinstance(row, dict | BadRow) for row in found) or isinstance(found, str)


@given(VALUES | st.binary(max_size=5) | st.decimals() | st.dates() | st.datetimes())
def test_a_cell_is_a_text_or_refused(value):
    for convert in (text_of, label_of):
        try:
            found = convert(value)
        except CellError as error:
            assert "\n" not in str(error)  # noqa: PT017
            continue
        assert found is None or (isinstance(found, str) and found.strip())
        if isinstance(value, str) and found is not None:
            assert found == (value if convert is text_of else value.strip())


def test_no_temporary_file_is_left(folder):
    assert not [name for name in os.listdir(folder) if name.startswith(".")]
