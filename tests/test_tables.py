"""Rows in and out of files: every format, every kind of broken row, and files written whole or not at all."""

import contextlib
import io
import json
import os
import random
import resource
import stat
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import stable_id
from pyarrow import parquet

from lit_bert import UserError
from lit_bert.data.cells import BadRow, Numbered, text_problem
from lit_bert.data.readers.arrow import PARQUET_ROWS
from lit_bert.data.rows import class_names, read_rows
from lit_bert.data.writer import RowWriter

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
TEXT_FORMATS = (".csv", ".tsv", ".jsonl", ".txt")

TEXTS = [
    "i am happy",
    "",
    " spaces  kept ",
    'she said "no", then left',
    '"',
    "comma, semicolon; tab\tpipe|",
    "two\nlines",
    "two\r\nlines and a\rreturn",
    "\n",
    "emoji 😀 👩‍👩‍👧‍👦 and é",
    "مرحبا שלום",
    "a NUL \0 inside",
    "a line separator \u2028, a next line \x85, a form feed \f and a file separator \x1c",
    "\ufeffa byte order mark",
    "None",
    "[1, 2]",
    "\\n is no newline",
    "😀" * 100_000,
    "x" * 200_000,  # csv stops at 131,072 unless told otherwise
]


def put(name, content):
    """A file in the working directory."""
    file = Path(name)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def kept(found):
    """The rows that could be read, by number."""
    return {each.number: each.row for each in found if not isinstance(each.row, BadRow)}


def broken(found):
    """The problems of the others, by number."""
    return {each.number: each.row.problem for each in found if isinstance(each.row, BadRow)}


def written(name, rows):
    """What reading gives of rows that were written."""
    with RowWriter(name) as writer:
        writer.write(rows)
    return [each.row for each in read_rows(name)]


def from_far_below(frames, call):
    """The result of a call that stands as deep as those that Lightning's loops make."""
    return call() if frames == 0 else from_far_below(frames - 1, call)


@contextlib.contextmanager
def no_access(path):
    """Takes every right to `path` away; root, who needs none, becomes nobody."""
    mode, root = path.stat().st_mode, os.geteuid() == 0
    path.chmod(0)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(mode)


@contextlib.contextmanager
def room_for(size):
    """No file can grow beyond `size` bytes, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- reading whole files ---


def test_csv_gives_every_column_in_file_order():
    file = put("a.csv", 'id,text,label\n7,"so, happy",joy\n3,he said "no" to me,anger\n')
    assert list(read_rows(file)) == [
        Numbered(1, 2, {"id": "7", "text": "so, happy", "label": "joy"}),
        Numbered(2, 3, {"id": "3", "text": 'he said "no" to me', "label": "anger"}),
    ]
    assert [list(each.row) for each in read_rows(file)] == [["id", "text", "label"]] * 2


def test_tsv_is_split_at_tabs_alone():
    file = put("a.tsv", "text\tlabel\nso, happy\tjoy\n")
    assert list(read_rows(file)) == [Numbered(1, 2, {"text": "so, happy", "label": "joy"})]


def test_json_lines_keep_types_and_columns_of_each_row():
    file = put(
        "a.jsonl", '{"text": "a", "id": 1, "tags": ["x"], "more": {"n": null}}\n{"id": 2.5, "ok": true}\n'
    )
    assert list(read_rows(file)) == [
        Numbered(1, 1, {"text": "a", "id": 1, "tags": ["x"], "more": {"n": None}}),
        Numbered(2, 2, {"id": 2.5, "ok": True}),
    ]


def test_plain_lines_are_texts_and_an_empty_line_is_an_empty_text():
    texts = ["text", "", 'with "quotes", and\ttabs\t', "  \x1c ", "the last without an end"]
    file = put("a.txt", "\n".join(texts))
    assert list(read_rows(file)) == [Numbered(n, n, {"text": text}) for n, text in enumerate(texts, 1)]


def test_parquet_keeps_types_and_has_no_lines():
    table = pa.table({"text": ["a", None], "id": [1, 2], "tags": [["x"], []], "score": [0.5, None]})
    parquet.write_table(table, "a.parquet")
    assert list(read_rows("a.parquet")) == [
        Numbered(1, 0, {"text": "a", "id": 1, "tags": ["x"], "score": 0.5}),
        Numbered(2, 0, {"text": None, "id": 2, "tags": [], "score": None}),
    ]


def test_parquet_rows_are_numbered_through_all_batches_and_row_groups():
    count = 2 * PARQUET_ROWS + 7
    parquet.write_table(pa.table({"id": list(range(count))}), "a.parquet", row_group_size=300)
    assert [(each.number, each.row["id"]) for each in read_rows("a.parquet")] == [
        (n + 1, n) for n in range(count)
    ]


def test_the_end_of_a_name_may_be_in_capitals():
    assert kept(read_rows(put("A.CSV", "text\na\n"))) == {1: {"text": "a"}}


def test_standard_input_is_plain_lines_of_utf_8_whatever_the_locale(monkeypatch):
    given = io.BytesIO("😀 so\r\n\nbad \udcff byte\nlast".encode(errors="surrogateescape"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(given, encoding="ascii"))
    found = list(read_rows("-"))
    assert kept(found) == {1: {"text": "😀 so"}, 2: {"text": ""}, 4: {"text": "last"}}
    assert broken(found) == {3: "byte 0xff at character 5 is not UTF-8"}


@pytest.mark.parametrize("name", ["a.txt", "-"])
def test_a_byte_order_mark_is_no_part_of_the_first_line(name, monkeypatch):
    content = b"\xef\xbb\xbfhello\nthere\n"
    put("a.txt", content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    assert kept(read_rows(name)) == {1: {"text": "hello"}, 2: {"text": "there"}}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\nso,joy\n"),
        ("a.tsv", "text\tlabel\nso\tjoy\n"),
        ("a.jsonl", '{"text": "so", "label": "joy"}'),
    ],
)
def test_a_byte_order_mark_is_no_part_of_the_first_column(name, content):
    assert kept(read_rows(put(name, "\ufeff" + content))) == {1: {"text": "so", "label": "joy"}}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False], ids=["ended", "open"])
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.csv", ["text,label", "a,joy", '"b",love']),
        ("a.tsv", ["text\tlabel", "a\tjoy", '"b"\tlove']),
        ("a.jsonl", ['{"text": "a", "label": "joy"}', '{"text": "b", "label": "love"}']),
        ("a.txt", ["a", "b"]),
    ],
)
def test_any_line_end_ends_a_line(name, lines, end, last):
    rows = kept(read_rows(put(name, end.join(lines) + end * last)))
    labels = {} if name == "a.txt" else {"label": "joy"}, {} if name == "a.txt" else {"label": "love"}
    assert rows == {1: {"text": "a", **labels[0]}, 2: {"text": "b", **labels[1]}}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\n\na,joy\n\n\n\nb,love\n\n"),
        ("a.csv", "\n\ntext,label\na,joy\n\n\nb,love\n"),
        ("a.jsonl", '\n{"text": "a", "label": "joy"}\n  \n\n\n\n{"text": "b", "label": "love"}\n\n'),
    ],
    ids=["csv", "csv-before-the-header", "jsonl"],
)
def test_blank_lines_are_no_rows_but_count_as_lines(name, content):
    found = list(read_rows(put(name, content)))
    assert kept(found) == {1: {"text": "a", "label": "joy"}, 2: {"text": "b", "label": "love"}}
    lines = content.split("\n")
    assert [each.line for each in found] == [
        n for n, line in enumerate(lines, 1) if "joy" in line or "love" in line
    ]


def test_line_ends_inside_quotes_belong_to_the_text():
    found = list(read_rows(put("a.csv", 'text,label\n"one\ntwo\r\n\r\nthree",joy\nnext,love\n')))
    assert kept(found) == {
        1: {"text": "one\ntwo\r\n\r\nthree", "label": "joy"},
        2: {"text": "next", "label": "love"},
    }
    assert [each.place for each in found] == ["row 1 (line 2)", "row 2 (line 6)"]


def test_a_place_without_lines_is_the_row_alone():
    assert Numbered(12, 0, {}).place == "row 12"


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt", "a.parquet"])
def test_a_file_is_read_as_a_stream(name):
    count, text = 4 * PARQUET_ROWS, "x" * 1000
    if name == "a.parquet":
        parquet.write_table(pa.table({"text": [f"{text}{n}" for n in range(count)]}), name)
    else:
        cells = [json.dumps({"text": text}) if name == "a.jsonl" else text] * count
        put(name, "\n".join(["text", *cells] if name == "a.csv" else cells))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(name)) == count
        assert tracemalloc.get_traced_memory()[1] < count * 1000 / 2
    finally:
        tracemalloc.stop()


# --- files that cannot be read at all ---


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gone.csv", r"no file gone\.csv.*\.parquet"),
        ("folder.csv", r"no file folder\.csv"),
        ("a.doc", r"a\.doc ends in \.doc; expected one of \.csv"),
        ("plain", r"plain ends in nothing; expected one of"),
        ("a.json", r"cannot be read after row 0.*called \.jsonl"),
    ],
)
def test_a_file_of_no_known_kind_is_refused_by_name(name, says):
    Path("folder.csv").mkdir()
    for each in ("a.doc", "plain", "a.json"):
        put(each, "text\na\n")
    with pytest.raises(UserError, match=says):
        list(read_rows(name))


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n\r\n"], ids=["nothing", "mark", "blank"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_an_empty_table_lacks_its_header(name, content):
    with pytest.raises(UserError, match=f"{name} is empty; expected a first line with the names"):
        list(read_rows(put(name, content)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", b"\xef\xbb\xbf\n \n"),
        ("a.txt", b""),
        ("a.csv", b"text,label\n"),
        ("a.tsv", b"text"),
    ],
)
def test_a_file_without_rows_has_none(name, content):
    assert list(read_rows(put(name, content))) == []


def test_a_parquet_file_without_rows_has_none():
    parquet.write_table(pa.table({"text": pa.array([], pa.string())}), "a.parquet")
    assert list(read_rows("a.parquet")) == []


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-be-mark", "utf-32"])
@pytest.mark.parametrize("suffix", TEXT_FORMATS)
def test_a_file_with_the_mark_of_an_encoding_is_read_in_that(suffix, coding):
    text = {".jsonl": '{"text": "caf\u00e9"}\n', ".txt": "café\n"}.get(suffix, "text\ncafé\n")
    file = put(
        f"a{suffix}", ("\ufeff" + text).encode("utf-16-be") if "mark" in coding else text.encode(coding)
    )
    assert kept(read_rows(file)) == {1: {"text": "café"}}


@pytest.mark.parametrize("header", [b"caf\xe9,label", b'text,"lab\xffel"'])
def test_a_header_that_is_not_utf_8_ends_the_reading(header):
    with pytest.raises(
        UserError, match=r"first line of a\.csv: byte 0x(e9|ff) at character .*Save the file as UTF-8"
    ):
        list(read_rows(put("a.csv", header + b"\na,joy\n")))


def test_a_header_with_an_open_quote_ends_the_reading():
    with pytest.raises(UserError, match=r"first line of a\.csv is not a header"):
        list(read_rows(put("a.csv", 'text,"label\na,joy\n')))


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_two_columns_of_one_name_are_refused_rather_than_one_lost(name):
    put("a.csv", "text,label,text\nfirst,joy,second\n")
    columns = [pa.array(["first"]), pa.array(["joy"]), pa.array(["second"])]
    parquet.write_table(pa.Table.from_arrays(columns, ["text", "label", "text"]), "a.parquet")
    with pytest.raises(UserError, match=r"'text'"):
        list(read_rows(name))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt", "a.parquet"])
def test_a_file_that_may_not_be_read_is_said_to_be_so(name):
    file = put(name, "text\na\n")
    with no_access(file), pytest.raises(UserError, match=rf"cannot read .*{name}.*Permission denied"):
        list(read_rows(file))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_a_disk_that_fails_while_reading_is_said_to_have_failed(name):
    Path(name).symlink_to("/proc/self/mem")  # opens well; the first read is an input/output error
    with pytest.raises(UserError, match=rf"{name}.*[Ii]nput/output error"):
        list(read_rows(name))


# --- broken rows ---


@pytest.mark.parametrize(("suffix", "comma"), [(".csv", ","), (".tsv", "\t")])
def test_an_open_quote_costs_its_own_line_alone(suffix, comma):
    lines = [
        "text,label",
        '"never closed,joy',
        "one,sadness",
        "two,anger",
        'x,"open,joy',
        '"three",love',
        'four,"fear',
    ]
    found = list(read_rows(put(f"a{suffix}", "\n".join(lines).replace(",", comma))))
    assert kept(found) == {
        2: {"text": "one", "label": "sadness"},
        3: {"text": "two", "label": "anger"},
        5: {"text": "three", "label": "love"},
    }
    assert list(broken(found)) == [1, 4, 6]
    assert all("broken quoting" in problem for problem in broken(found).values())
    assert [(each.number, each.line) for each in found] == [(n, n + 1) for n in range(1, 7)]


def test_text_after_a_closing_quote_costs_its_own_line_alone():
    # "b" stands in quotes as a whole: without it the file would be read as one without quoted cells
    found = list(read_rows(put("a.csv", 'text,label\na,joy\n"so" happy,joy\n"b",love\n')))
    assert kept(found) == {1: {"text": "a", "label": "joy"}, 3: {"text": "b", "label": "love"}}
    assert list(broken(found)) == [2]


def test_many_open_quotes_take_no_longer_than_as_many_rows():
    found = list(read_rows(put("a.csv", "text,label\n" + '"open,joy\n' * 20_000 + '"last",love')))
    assert kept(found) == {20_001: {"text": "last", "label": "love"}}
    assert len(broken(found)) == 20_000


def test_a_row_with_too_few_or_too_many_cells_is_reported_and_the_others_kept():
    content = 'text,label\n"two\nlines",joy\nalone\na,b,c\nb,love\n,\n'
    found = list(read_rows(put("a.csv", content)))
    assert kept(found) == {
        1: {"text": "two\nlines", "label": "joy"},
        4: {"text": "b", "label": "love"},
        5: {"text": "", "label": ""},
    }
    assert broken(found) == {2: "1 cells where the header has 2", 3: "3 cells where the header has 2"}
    assert [each.line for each in found] == [2, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("name", "row", "header"),
    [
        ("a.csv", b"%s,joy\n", b"text,label\n"),
        ("a.tsv", b"%s\tjoy\n", b"text\tlabel\n"),
        ("a.jsonl", b'{"text": "%s", "label": "joy"}\n', b""),
        ("a.txt", b"%s\n", b""),
    ],
)
def test_a_byte_that_is_not_utf_8_costs_one_row(name, row, header):
    texts = [b"fine", b"caf\xe9", "é 😀".encode(), b"\xff", b"cut \xf0\x9f\x98", b"\xed\xa0\xbd", b"last"]
    found = list(read_rows(put(name, header + b"".join(row % text for text in texts))))
    assert {number: each["text"] for number, each in kept(found).items()} == {1: "fine", 3: "é 😀", 7: "last"}
    problems = broken(found)
    assert list(problems) == [2, 4, 5, 6]
    for number, byte in ((2, "0xe9"), (4, "0xff"), (5, "0xf0"), (6, "0xed")):
        assert problems[number].startswith(f"byte {byte} at character ")
        assert problems[number].endswith(" is not UTF-8")


def test_a_parquet_text_that_is_not_utf_8_costs_one_row():
    offsets, data = pa.array([0, 2, 4, 6], pa.int32()).buffers()[1], pa.py_buffer(b"ok\xff\xfeso")
    text = pa.Array.from_buffers(pa.string(), 3, [None, offsets, data])
    parquet.write_table(pa.table({"text": text, "label": ["joy", "anger", "love"]}), "a.parquet")
    found = list(read_rows("a.parquet"))
    assert kept(found) == {1: {"text": "ok", "label": "joy"}, 3: {"text": "so", "label": "love"}}
    assert "UTF-8" in broken(found)[2]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (r'{"text": "\ud83d"}', "half of a surrogate pair"),
        (r'{"text": "a\udc00b"}', "half of a surrogate pair"),
        (r'{"text": "fine", "tags": [{"deep": "\ude00"}]}', "half of a surrogate pair"),
        (r'{"text": "fine", "\ud83d": 1}', "half of a surrogate pair"),
        (r'{"text": "\udc80"}', "half of a surrogate pair"),
        ('{"text": "cut', "not JSON"),
        ('{"text": "raw \0 NUL"}', "not JSON"),
        ("{'text': 'python'}", "not JSON"),
        ('{"text": "a"} {"text": "b"}', "not JSON"),
        ('{"text": "a", "n": %s}' % ("1" * 5000), "not JSON"),
        ('["text", "label"]', "not a JSON object"),
        ('"text"', "not a JSON object"),
        ("12", "not a JSON object"),
        ("null", "not a JSON object"),
        ("[" * 100_000 + "]" * 100_000, "not JSON"),
        ('{"text":' * 100_000 + "1" + "}" * 100_000, "not JSON"),
        ('{"text": ' + "[" * 100_000, "not JSON"),
    ],
    ids=lambda value: value[:20],
)
def test_a_broken_json_line_is_reported_and_the_others_kept(line, says):
    found = list(read_rows(put("a.jsonl", '{"text": "before"}\n' + line + '\n{"text": "after"}\n')))
    assert kept(found) == {1: {"text": "before"}, 3: {"text": "after"}}
    assert broken(found)[2].startswith(says)
    assert "\n" not in broken(found)[2]


def test_both_halves_of_a_surrogate_pair_make_one_character():
    assert kept(read_rows(put("a.jsonl", r'{"text": "\ud83d\ude00"}'))) == {1: {"text": "😀"}}


def test_a_json_line_is_reported_or_can_be_written_again_however_deep_it_nests():
    depths = [5, 30, *range(100, 900, 100), *range(900, 1000), 2000]
    lines = ['{"text": "a", "more": ' + "[" * depth + "]" * depth + "}" for depth in depths]
    found = list(read_rows(put("a.jsonl", "\n".join(lines))))
    assert len(found) == len(depths)
    assert {1, 2} <= set(kept(found))
    assert len(depths) in broken(found)
    rows = kept(found).values()
    assert len(from_far_below(50, lambda: written("b.csv", rows))) == len(rows)
    from_far_below(50, lambda: written("b.jsonl", rows))


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:12]))
def test_any_utf_8_text_has_no_problem(text):
    assert text_problem(text) is None


def test_the_problem_of_a_text_names_the_first_bad_place():
    assert text_problem("é\udcff\udcfe") == "byte 0xff at character 2 is not UTF-8"
    assert text_problem("ab\ud800") == "half of a surrogate pair (U+D800) at character 3"


# --- damaged Parquet files ---


@pytest.fixture(scope="module")
def parquet_bytes(tmp_path_factory):
    """A Parquet file of 300 rows in three row groups."""
    file = tmp_path_factory.mktemp("parquet") / "whole.parquet"
    labels = ["joy", "sadness", None] * 100
    table = pa.table(
        {"text": [f"i am text {n}" for n in range(300)], "label": labels, "id": list(range(300))}
    )
    parquet.write_table(table, file, row_group_size=100, compression="none")
    return file.read_bytes()


def test_a_truncated_parquet_file_is_said_to_be_truncated_wherever_it_ends(parquet_bytes):
    ends = [*range(0, len(parquet_bytes) - 100, 83), *range(len(parquet_bytes) - 100, len(parquet_bytes))]
    for end in ends:
        file = put("cut.parquet", parquet_bytes[:end])
        with pytest.raises(
            UserError, match=r"cut\.parquet is not a readable Parquet file, perhaps a truncated"
        ) as said:
            list(read_rows(file))
        assert "\n" not in str(said.value)


def test_a_damaged_parquet_file_gives_rows_or_says_what_is_wrong(parquet_bytes):
    size, outcomes = len(parquet_bytes), set()
    # Every byte of the schema, which is among the last 400, and some of the others.
    for place in [*range(4, size - 400, 37), *range(size - 400, size)]:
        content = bytearray(parquet_bytes)
        content[place] ^= 2 if place % 2 else 255
        try:
            outcomes.add(len(list(read_rows(put("bad.parquet", bytes(content))))))
        except UserError as error:
            assert "bad.parquet" in str(error)  # noqa: PT017
            outcomes.add("refused")
    assert {300, "refused"} <= outcomes


def test_a_parquet_file_that_breaks_off_says_after_which_row(parquet_bytes):
    content = bytearray(parquet_bytes)
    start = parquet.ParquetFile(pa.BufferReader(parquet_bytes)).metadata.row_group(2).column(0)
    offset = start.dictionary_page_offset or start.data_page_offset
    content[offset : offset + 40] = b"\xff" * 40
    rows, found = read_rows(put("bad.parquet", bytes(content))), []
    with pytest.raises(UserError, match=r"bad\.parquet cannot be read after row (\d+)") as said:
        found.extend(iter(rows))
    assert f"after row {len(found)}:" in str(said.value)


def test_another_kind_of_file_named_parquet_is_refused():
    with pytest.raises(UserError, match=r"a\.parquet is not a readable Parquet file"):
        list(read_rows(put("a.parquet", "text,label\na,joy\n")))


# --- class names ---


def test_class_names_come_from_the_schema_that_datasets_writes():
    import datasets

    names = ["sadness", "joy", "love"]
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    rows = datasets.Dataset.from_dict({"text": ["a"], "label": [2]}, features=datasets.Features(features))
    rows.to_parquet("a.parquet")
    assert class_names(Path("a.parquet"), "label") == names
    assert class_names(Path("a.parquet"), "text") is None
    assert class_names(Path("a.parquet"), "gone") is None


@pytest.mark.parametrize("note", [None, b"{}", b'{"info": {}}', b"not JSON", b"[]", b'{"info": null}'])
def test_a_parquet_file_of_another_program_names_no_classes(note):
    table = pa.table({"label": [1]}).replace_schema_metadata(
        {b"huggingface": note} if note else {b"pandas": b"{}"}
    )
    parquet.write_table(table, "a.parquet")
    assert class_names(Path("a.parquet"), "label") is None


def test_a_file_of_text_names_no_classes():
    assert class_names(put("a.csv", "label\njoy\n"), "label") is None


# --- written, then read ---


def test_csv_and_tsv_give_back_every_text():
    rows = [{"id": n, "text": text, "score": 0.5} for n, text in enumerate(TEXTS)]
    expected = [{"id": str(n), "text": text, "score": "0.5"} for n, text in enumerate(TEXTS)]
    assert written("a.csv", rows) == expected
    assert written("a.tsv", rows) == expected


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".parquet"])
def test_json_lines_and_parquet_give_back_every_text_and_type(suffix):
    rows = [
        {
            "id": n,
            "text": text,
            "score": n / 7,
            "ok": n > 3,
            "none": None,
            "tags": ["é", text],
            "more": {"n": n},
        }
        for n, text in enumerate(TEXTS)
    ]
    assert written(f"a{suffix}", rows) == rows


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_single_empty_text_is_still_a_row(suffix):
    assert written(f"a{suffix}", [{"text": ""}, {"text": "b"}]) == [{"text": ""}, {"text": "b"}]


@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_keep_their_order_over_many_writes(suffix):
    count = 2 * PARQUET_ROWS + 100
    rows = [{"id": n, "text": f"text {n}"} for n in range(count)]
    with RowWriter(f"a{suffix}") as writer:
        writer.write(iter(rows[:1]))
        writer.write([])
        writer.write(iter(rows[1:1500]))
        writer.write(iter(rows[1500:]))
    assert [int(each.row["id"]) for each in read_rows(f"a{suffix}")] == list(range(count))


@pytest.mark.parametrize("count", [1, PARQUET_ROWS - 1, PARQUET_ROWS, PARQUET_ROWS + 1])
def test_parquet_files_of_whole_and_broken_batches_are_complete(count):
    rows = [{"id": n} for n in range(count)]
    assert written("a.parquet", rows) == rows


def test_lists_and_objects_in_csv_are_json():
    rows = written("a.csv", [{"text": "a", "tags": ["é", 1], "more": {"n": None}, "none": None}])
    assert rows == [{"text": "a", "tags": '["é", 1]', "more": '{"n": null}', "none": ""}]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_are_those_of_the_first_row(suffix):
    rows = written(f"a{suffix}", [{"b": "1", "a": "2"}, {"a": "3", "b": "4"}, {"a": "5"}])
    assert [list(row) for row in rows] == [["b", "a"]] * 3
    assert [row["a"] for row in rows] == ["2", "3", "5"]
    assert [row["b"] or None for row in rows] == ["1", "4", None]


def test_json_lines_are_utf_8_and_valid_for_strict_parsers():
    with RowWriter("a.jsonl") as writer:
        writer.write([{"text": "é\u2028😀", "score": float("nan"), "big": float("inf")}])
    line = Path("a.jsonl").read_bytes()
    assert line.startswith('{"text": "é\u2028😀", '.encode())
    assert line.count(b"\n") == 1
    found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found["score"] is None


def test_dates_of_a_parquet_file_can_be_written_as_text():
    import datetime

    day = datetime.date(2024, 2, 29)
    assert written("a.jsonl", [{"day": day}]) == [{"day": "2024-02-29"}]
    assert written("a.csv", [{"day": day}]) == [{"day": "2024-02-29"}]
    assert written("a.parquet", [{"day": day}]) == [{"day": day}]


# --- Parquet columns that change their type ---


def test_a_column_that_is_empty_at_first_takes_later_texts():
    rows = [{"note": None}] * PARQUET_ROWS + [{"note": "late"}]
    assert written("a.parquet", rows) == rows


@pytest.mark.parametrize(
    ("first", "later"),
    [(1, "one"), (1, 1.5), ("one", 1), (True, 7), (None, 7), ([], ["x"]), ({"n": 1}, {"n": "x"}), (1, 2**70)],
    ids=stable_id,
)
def test_a_parquet_column_that_changes_its_type_is_an_error_and_leaves_no_file(first, later):
    with pytest.raises(UserError, match=r"cannot write a\.parquet: .*Write \.jsonl instead"):
        written("a.parquet", [{"id": first}] * PARQUET_ROWS + [{"id": later}])
    assert os.listdir() == []


@pytest.mark.parametrize("value", [{}, 2**70, [1, "x"]], ids=stable_id)
def test_a_value_that_parquet_cannot_hold_is_an_error_and_leaves_no_file(value):
    with pytest.raises(UserError, match=r"cannot write a\.parquet: .*Write \.jsonl instead"):
        written("a.parquet", [{"text": "a", "more": value}])
    assert os.listdir() == []
    assert written("a.jsonl", [{"text": "a", "more": value}]) == [{"text": "a", "more": value}]


def test_whole_numbers_in_a_column_of_fractions_stay_numbers():
    rows = [{"n": 0.5}] * PARQUET_ROWS + [{"n": 2}]
    assert written("a.parquet", rows)[-1] == {"n": 2.0}


# --- whole or not at all ---


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_gets_its_name_when_it_is_complete(suffix):
    with RowWriter(f"a{suffix}") as writer:
        for n in range(3 * PARQUET_ROWS):
            writer.write([{"text": f"text {n}"}])
        assert not Path(f"a{suffix}").exists()
    assert os.listdir() == [f"a{suffix}"]
    assert sum(1 for _ in read_rows(f"a{suffix}")) == 3 * PARQUET_ROWS


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, UserError])
@pytest.mark.parametrize("suffix", FORMATS)
def test_after_an_error_the_earlier_file_is_whole_and_nothing_else_is_left(suffix, stop):
    file = put(f"a{suffix}", "the earlier content")

    def rows():
        yield from [{"text": f"text {n}"} for n in range(2 * PARQUET_ROWS)]
        raise stop("half way")

    with pytest.raises(stop, match="half way"), RowWriter(file) as writer:
        writer.write(rows())
    assert os.listdir() == [file.name]
    assert file.read_text() == "the earlier content"


@pytest.mark.parametrize("room", [0, 10_000], ids=["at-once", "half-way"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_full_disk_leaves_the_earlier_file_whole(suffix, room):
    file = put(f"a{suffix}", "the earlier content")
    digits = random.Random(0)
    rows = [{"text": f"{digits.getrandbits(400):x}"} for _ in range(3 * PARQUET_ROWS)]
    with (
        pytest.raises(UserError, match=rf"cannot write a\{suffix}: .*File too large"),
        room_for(room),
        RowWriter(file) as writer,
    ):
        writer.write(rows)
    assert os.listdir() == [file.name]
    assert file.read_text() == "the earlier content"


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_full_disk_that_shows_only_at_the_end_leaves_the_earlier_file_whole(suffix):
    file = put(f"a{suffix}", "the earlier content")
    with pytest.raises(UserError, match="File too large"), room_for(5), RowWriter(file) as writer:
        writer.write([{"text": "few enough to be held in memory"}])
    assert os.listdir() == [file.name]
    assert file.read_text() == "the earlier content"


def test_a_file_may_be_read_by_whom_the_umask_lets():
    before = os.umask(0o027)
    try:
        written("a.csv", [{"text": "a"}])
        assert stat.S_IMODE(Path("a.csv").stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_folder_that_cannot_be_written_is_refused_before_the_first_row(suffix, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    with (
        no_access(folder),
        pytest.raises(UserError, match=rf"cannot write .*closed/a\{suffix}: Permission denied.*--output"),
        RowWriter(folder / f"a{suffix}"),
    ):
        pytest.fail("let rows in")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gone/a.csv", "No such file or directory"),
        ("file/a.csv", "Not a directory"),
        ("folder.csv", "[Ii]s a (folder|directory)"),
    ],
)
def test_a_place_where_no_file_can_be_is_refused_before_the_first_row(name, why):
    put("file", "")
    Path("folder.csv").mkdir()
    with pytest.raises(UserError, match=f"cannot write {name}: {why}.*--output"), RowWriter(name):
        pytest.fail("let rows in")
    assert sorted(os.listdir()) == ["file", "folder.csv"]


@pytest.mark.parametrize("name", ["a.txt", "a.xlsx", "plain", "a.json"])
def test_a_kind_that_cannot_be_written_is_refused_with_those_that_can(name):
    with pytest.raises(
        UserError, match=rf"cannot write {name}; .*\.csv, \.tsv, \.jsonl, \.ndjson, \.parquet"
    ):
        RowWriter(name)
    assert os.listdir() == []


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_without_rows_can_be_written(suffix):
    with RowWriter(f"a{suffix}"):
        pass
    assert os.listdir() == [f"a{suffix}"]
    if suffix not in (".csv", ".tsv"):  # which have no header without a row
        assert list(read_rows(f"a{suffix}")) == []


# --- standard output ---


@pytest.fixture
def output(monkeypatch):
    """Puts a stream over a file descriptor in the place of standard output."""
    streams = []

    def replace(descriptor, encoding="utf-8"):
        streams.append(io.TextIOWrapper(io.FileIO(descriptor, "w"), encoding=encoding))
        monkeypatch.setattr(sys, "stdout", streams[-1])

    yield replace
    for stream in streams:
        with contextlib.suppress(OSError):
            stream.close()


@pytest.mark.parametrize("path", [None, "-"])
def test_standard_output_gets_json_lines(path, capsys):
    with RowWriter(path) as writer:
        writer.write([{"text": "é😀", "id": 1}])
        assert capsys.readouterr().out == '{"text": "é😀", "id": 1}\n'
        writer.write([{"text": "b"}])
    assert capsys.readouterr().out == '{"text": "b", "id": null}\n'
    print("still open")


def test_rows_reach_a_pipe_at_once(output):
    reader, end = os.pipe()
    output(end)
    with RowWriter(None) as writer:
        writer.write([{"text": "a"}])
        assert os.read(reader, 100) == b'{"text": "a"}\n'
    os.close(reader)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_standard_output_is_utf_8_whatever_the_locale(encoding, output):
    reader, end = os.pipe()
    output(end, encoding)
    with RowWriter(None) as writer:
        writer.write([{"text": "é😀"}])
    assert os.read(reader, 100).decode() == '{"text": "é😀"}\n'
    os.close(reader)


def test_a_reader_that_has_seen_enough_is_no_error_of_the_writer(output):
    reader, end = os.pipe()
    os.close(reader)
    output(end)
    with pytest.raises(BrokenPipeError), RowWriter(None) as writer:  # `__main__` ends with 0
        writer.write([{"text": "a"}])


def test_a_full_disk_behind_standard_output_is_named(output):
    output("/dev/full")
    with (
        pytest.raises(UserError, match=r"cannot write (to )?standard output: No space left on device"),
        RowWriter(None) as writer,
    ):
        writer.write([{"text": "a"}])
