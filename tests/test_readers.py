"""Forms of files: each is read as plain CSV is; what is guessed is said, overridden by a flag, or asked."""

import bz2
import contextlib
import csv
import datetime
import gzip
import json
import lzma
import os
import sqlite3
from pathlib import Path

import openpyxl
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from lit_bert import UserError
from lit_bert.data.cells import BadRow
from lit_bert.data.corpus import find_corpus
from lit_bert.data.module import EmotionDataModule
from lit_bert.data.readers.options import ReadOptions
from lit_bert.data.rows import column_names, read_rows, reading_notes
from lit_bert.verbs.fit import parsed

ROWS = [
    {"text": f"{text} {number}", "label": label}
    for number in range(12)
    for text, label in (("what is this cost", "fee"), ("i see a withdrawal", "debit"), ("a cheque", "cheque"))
]
PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, "zstd", asbytes=True),
}


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIT_BERT_CACHE", str(tmp_path / "cache"))


def table(delimiter=",", header=True, rows=ROWS, end="\n"):
    lines = [delimiter.join(row.values()) for row in rows]
    return end.join([delimiter.join(rows[0])] * header + lines) + end


def put(name, content):
    file = Path(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def rows_of(place, **options):
    return [each.row for each in read_rows(place, ReadOptions(**options))]


def refusal(call, *arguments, **options):
    with pytest.raises(UserError) as caught:
        list(call(*arguments, **options) or ())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def of_corpus(dataset, **options):
    corpus = find_corpus(str(dataset), options=ReadOptions(**options))
    return {name: [each.row for each in rows()] for name, rows in corpus.splits.items()}


# --- what stands between cells -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delimiter", "named"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars"), (",", "commas")]
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_what_separates_cells_is_found_and_said_where_it_is_not_usual(suffix, delimiter, named):
    file = put(f"a{suffix}", table(delimiter))
    assert rows_of(file) == ROWS
    assert column_names(file) == ["text", "label"]
    notes = reading_notes(file)
    if delimiter == {".csv": ",", ".tsv": "\t"}[suffix]:
        assert notes == []
    else:
        assert len(notes) == 1
        assert f"separated by {named}, 2 a line; --data.delimiter" in notes[0]


def test_commas_in_texts_do_not_make_a_file_of_semicolons_one_of_commas():
    rows = [{"text": f"so, {number}, they say", "label": "x" if number % 2 else "y"} for number in range(9)]
    assert rows_of(put("a.csv", table(";", rows=rows))) == rows


def test_a_delimiter_in_quoted_cells_separates_nothing():
    content = 'text;label\n"a; b";x\n"c";y\n"d ""e"";";x\n'
    assert [row["text"] for row in rows_of(put("a.csv", content))] == ["a; b", "c", 'd "e";']


def test_two_delimiters_that_fit_every_line_are_a_question():
    file = put("a.csv", "a,b;c\n" + "one,two;three\n" * 5)
    message = refusal(read_rows, file)
    assert "can be read in 2 ways, as commas and semicolons separate as many cells in every line" in message
    assert '--data.delimiter comma reads ["a", "b;c"] and ["one", "two;three"]' in message
    assert '--data.delimiter semicolon reads ["a,b", "c"] and ["one,two", "three"]' in message
    assert rows_of(file, delimiter="semicolon", header=True)[0] == {"a,b": "one,two", "c": "three"}
    assert rows_of(file, delimiter=",", header=True)[0] == {"a": "one", "b;c": "two;three"}


def test_a_column_of_texts_alone_needs_no_delimiter():
    assert rows_of(put("a.csv", "text\nso; it is\nno\n")) == [{"text": "so; it is"}, {"text": "no"}]


def test_a_row_that_is_broken_does_not_change_what_separates_the_others():
    file = put("a.csv", table(";") + "too;many;cells\n")
    *rows, last = rows_of(file)
    assert rows == ROWS
    assert last == BadRow("3 cells where the header has 2")


@pytest.mark.parametrize("name", ["^", "tab", "\\t", "\t", "pipe", "comma"])
def test_any_delimiter_can_be_named(name):
    character = {"tab": "\t", "\\t": "\t", "pipe": "|", "comma": ","}.get(name, name)
    given = parsed([f"--data.delimiter={name}"]).settings["data"]["delimiter"]
    assert rows_of(put("a.csv", table(character)), delimiter=given) == ROWS
    assert rows_of(put("a.txt", table(character)), delimiter=given) == ROWS


# --- encodings ---------------------------------------------------------------------------------------------

EURO = [{"text": f"{row['text']} – café €{number}", "label": row["label"]} for number, row in enumerate(ROWS)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_encoding_is_found(encoding, end):
    file = put("a.csv", table(rows=EURO, end=end).encode(encoding))
    assert rows_of(file) == EURO
    note = " ".join(reading_notes(file))
    assert (encoding in note) is (encoding != "utf-8-sig")
    assert rows_of(file, encoding=encoding) == EURO


@pytest.mark.parametrize("form", ["json", "jsonl", "txt"])
def test_every_text_form_has_the_encoding_found(form):
    text = {
        "json": json.dumps(EURO, ensure_ascii=False, indent=1),
        "jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in EURO),
        "txt": "\n".join(row["text"] for row in EURO),
    }[form]
    for encoding in ("utf-16", "cp1252"):
        found = rows_of(put(f"a.{form}", text.encode(encoding)))
        assert [row["text"] for row in found] == [row["text"] for row in EURO]


@pytest.mark.parametrize(
    ("encoding", "texts"),
    [
        ("cp1251", ["очень хорошо", "плохой товар", "мне не нравится", "да"]),
        ("koi8-r", ["очень хорошо", "плохой товар", "мне не нравится", "да"]),
        ("cp1250", ["příliš žluťoučký kůň", "dobrý den", "člověk řekl", "ano bude"]),
        ("cp1250", ["zażółć gęślą jaźń", "świetna książka", "proszę o zwrot", "nie"]),
        ("cp1254", ["çok güzel bir ürün", "şimdi geldi", "öğle sıcağı", "hiç"]),
        ("shift-jis", ["とても良い", "悪い商品です", "好きではない", "はい"]),
        ("mac-roman", ["le café", "très bon", "où est l’élève", "ça va"]),
        ("cp850", ["le café", "très bon", "où est l'élève", "ça va"]),
    ],
)
def test_an_encoding_that_is_not_safe_to_guess_is_a_question(encoding, texts):
    rows = [{"text": text, "label": "xy"[number % 2]} for number, text in enumerate(texts * 2)]
    file = put("a.csv", table(rows=rows).encode(encoding))
    message = refusal(read_rows, file)
    assert "is no UTF-8, and nothing in it decides what it is" in message
    assert message.count("--data.encoding ") > 1
    assert rows_of(file, encoding=encoding) == rows


@pytest.mark.parametrize(
    "texts",
    [
        ["le café était bon", "où sont les élèves à côté", "c’est déjà réglé à Noël", "ça"],
        ["el niño comió mañana", "¿qué pasó con la canción?", "está allí", "señor"],
        ["Grüße aus Köln", "schön schnell", "müsste es heißen", "für später"],
    ],
)
def test_western_texts_are_taken_as_cp1252(texts):
    rows = [{"text": text, "label": "xy"[number % 2]} for number, text in enumerate(texts * 2)]
    file = put("a.csv", table(rows=rows).encode("cp1252"))
    assert rows_of(file) == rows
    assert "is taken as cp1252" in reading_notes(file)[0]


def test_an_encoding_that_does_not_hold_is_one_line():
    assert "is no utf-16" in refusal(rows_of, put("a.csv", b"\xff\xfea\0\0\xdc\0\xdcb\0"))
    file = put("b.csv", "text,label\na,x\n\x81,y\n".encode("latin-1"))
    assert rows_of(file, encoding="cp1252")[1] == BadRow("byte 0x81 at character 1 is not CP1252")
    for name in ("utf-9", "hex", "rot13", ""):
        assert "expected one that Python knows" in refusal(ReadOptions, encoding=name)


# --- header ------------------------------------------------------------------------------------------------


def test_a_file_without_a_header_keeps_its_first_row():
    expected = [{"column_1": row["text"], "column_2": row["label"]} for row in ROWS]
    file = put("a.tsv", table("\t", header=False))
    assert rows_of(file) == expected
    assert column_names(file) == ["column_1", "column_2"]
    assert "the columns are called column_1 to column_2; --data.header true" in reading_notes(file)[0]
    assert len(rows_of(file, header=True)) == len(ROWS) - 1
    named = put("b.tsv", table("\t"))
    assert rows_of(named, header=False)[0] == {"column_1": "text", "column_2": "label"}


def test_a_first_line_that_may_be_either_is_a_question():
    file = put("a.csv", "text,label\nthe label,fee\na fee,label\nmore,label\nless,fee\n")
    message = refusal(read_rows, file)
    assert 'With --data.header true the columns are called ["text", "label"], and' in message
    assert 'with --data.header false the first row is ["text", "label"]' in message
    assert len(rows_of(file, header=True)) == 4
    assert len(rows_of(file, header=False)) == 5
    assert "can be read in two ways" in refusal(rows_of, put("b.csv", "0,1\nso it is,2\nno,3\n"))


def test_names_that_are_not_usual_are_said_to_be_taken_for_names():
    file = put("a.csv", "wording,kind\n" + "".join(f"text {n},{'xy'[n % 2]}\n" for n in range(6)))
    assert rows_of(file)[0] == {"wording": "text 0", "kind": "x"}
    assert "the first line is taken for the names of the columns (wording, kind)" in reading_notes(file)[0]
    assert reading_notes(put("b.csv", "wording,kind\nso,1\nno,2\n")) == []  # names over numbers


RECURS = "the label,fee\na fee,label\nmore,label\nless,fee\n"  # below `text,label`


def named(text=None, label=None):
    settings = {"text_column": text, "label_column": label}
    return tuple((name, value) for name, value in settings.items() if value is not None)


@pytest.mark.parametrize(
    ("content", "columns", "is_header"),
    [
        ("text,label\n" + RECURS, named("text", "label"), True),
        ("text,label\n" + RECURS, named("text"), True),
        ("text,label\n" + RECURS, named(None, "label"), True),
        ("text,label\n" + RECURS, named("column_1", "column_2"), False),
        ("text,label\n" + RECURS, named("text", "column_2"), None),
        ("text,label\n" + RECURS, named("wording"), None),
        ("text,label\n" + RECURS, (), None),
        ("text,fee\n" + RECURS, named("column_1,column_2"), False),
        ("wording,label\n" + RECURS, named("wording", "label"), True),  # `label` recurs
        ("words,fee\nmore,fee\nless,fee\nso,no\n,no\n", (), False),
        ("words,fee\nmore,fee\nless,fee\nso,no\n,no\n", named("words", "fee"), True),
        ("words,kind\nmore,a\nless,b\n", (), True),
        ("words,kind\nmore,a\nless,b\n", named("column_1", "column_2"), False),
        ("words,kind\nmore,a\nless,b\n", named("column_1", "column_3"), True),  # of which there is none
        ("text,kind\nmore,a\nless,b\n", named("column_1", "column_2"), True),  # a usual name
        ("column_1,column_2\nmore,a\nless,b\n", named("column_1", "column_2"), True),
        ("0,1\nso it is,2\nno,3\n", named("0", "1"), True),
        ("0,1\nso it is,2\nno,3\n", named("column_1", "column_2"), None),
        ('"a,b",fee\nx,fee\ny,fee\nz,a\n', named("a,b", "fee"), True),  # one column, or two
        ("a,b,fee\nx,y,fee\ny,z,fee\nz,x,a\n", named("a,b", "fee"), True),
    ],
)
def test_the_columns_that_are_named_say_whether_there_is_a_header(content, columns, is_header):
    file = put("a.csv", content)
    if is_header is None:
        assert "can be read in two ways" in refusal(rows_of, file, columns=columns)
        return
    found = rows_of(file, columns=columns)
    assert len(found) == len(content.splitlines()) - is_header
    assert next(iter(found[0])).startswith("column_") is (not is_header or content.startswith("column_1"))
    assert rows_of(file, columns=columns, header=not is_header) != found  # which the flag for it overrides
    book = openpyxl.Workbook()
    for row in csv.reader(content.splitlines()):
        book.active.append(row)
    book.save("a.xlsx")
    assert len(rows_of("a.xlsx", columns=columns)) == len(found)


def test_named_columns_change_no_fingerprint():
    put("a.csv", "words,kind\nmore,a\nless,b\n")
    found = [find_corpus("a.csv", options=ReadOptions(columns=each)) for each in ((), named("words", "kind"))]
    assert len({corpus.fingerprint("train") for corpus in found}) == 1


@pytest.mark.parametrize("header", [True, False])
def test_a_model_finds_the_header_that_its_training_data_had(run, tiny_bert, header):
    """Where the rows would be read the other way: `fee` comes again below, and texts say nothing."""
    names = ["wording", "fee"] if header else ["column_1", "column_2"]
    rows = [(f"{text} {n}", label) for n in range(20) for text, label in (("paid", "fee"), ("cash", "debit"))]
    first = [names] * header
    for name, some in {"train": rows, "test": rows[:6]}.items():
        put(f"{name}.csv", "".join(",".join(row) + "\n" for row in [*first, *some]))
    put("texts.csv", "".join(f"{row[0]}\n" for row in [*first, *rows[:6]]))
    assert len(rows_of("texts.csv")) == 5 + header  # the first is taken for a name
    flags = [f"--data.text_column={names[0]}", f"--data.label_column={names[1]}", "--trainer.max_epochs=1"]
    done = run("fit", f"--weights.pretrained={tiny_bert}", "--data.dataset=train.csv", *flags)
    assert done.code == 0, done.err
    done = run("test", "--data.dataset=test.csv", "--data.test_split=train")
    assert done.code == 0, done.err
    (record,) = Path("checkpoints").glob("*/test.json")
    assert json.loads(record.read_text())["rows"] == 6
    done = run("predict", "--input=texts.csv", "--output=labelled.csv")
    assert done.code == 0, done.err
    with open("labelled.csv", newline="") as stream:
        assert [row[names[0]] for row in csv.DictReader(stream)] == [row[0] for row in rows[:6]]


def test_an_empty_file_without_a_header_is_one_line():
    assert "is empty" in refusal(rows_of, put("a.csv", ""))
    assert "has no row that can be read" in refusal(rows_of, put("b.csv", ""), header=False)


# --- compression -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json", "txt"])
def test_every_text_form_is_read_compressed(form, packer):
    text = {
        "csv": table(),
        "tsv": table("\t"),
        "jsonl": "\n".join(map(json.dumps, ROWS)),
        "json": json.dumps(ROWS),
        "txt": "\n".join(f"__label__{row['label']} {row['text']}" for row in ROWS),
    }[form]
    content = PACKERS[packer](text.encode())
    file = put(f"a.{form}{packer}", content)
    assert rows_of(file) == ROWS
    assert of_corpus(file) == {"train": ROWS}
    assert "cannot read" in refusal(rows_of, put(f"b.{form}{packer}", content[:-9]))
    assert "cannot read" in refusal(rows_of, put(f"c.{form}{packer}", b"not compressed"))


def test_compressed_files_are_splits_of_a_folder():
    put("set/train.csv.gz", gzip.compress(table().encode()))
    put("set/val.jsonl.zst", PACKERS[".zst"](b"\n".join(json.dumps(row).encode() for row in ROWS[:5])))
    assert of_corpus("set") == {"train": ROWS, "validation": ROWS[:5]}


def test_a_compressed_binary_file_is_refused():
    assert "Decompress it first" in refusal(rows_of, put("a.parquet.gz", b""))


# --- JSON, fastText ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_is_read_element_by_element(indent, monkeypatch):
    rows = [{"text": 'a "]" \\ é', "label": ["x", "y"], "n": 12}, {"text": None}, {}]
    file = put("a.json", json.dumps(rows, indent=indent))
    for size in (1, 2, 7, 1 << 18):
        monkeypatch.setattr("lit_bert.data.readers.jsons.CHARACTERS", size)
        assert rows_of(file) == rows
    assert column_names(file) == ["text", "label", "n"]
    found = rows_of(put("b.json", '[1, {"a": 1, "a": 2}, {"text": "\\ud800"}, "x", {"text": "so"}]'))
    assert [type(row) for row in found] == [BadRow, BadRow, BadRow, BadRow, dict]
    assert "the key 'a' occurs twice" in found[1].problem


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('[{"text": "a"}, {"text": ', "after row 1"),
        ('[{"text": "a"} {"text": "b"}]', "expected , or ]"),
        ('[{"text": "a"}', "it ends there"),
        ("[", "it ends there|Expecting value"),
        ('[{"text": "a"}] more', "after the ] at its end"),
        ('{"rows": [\n{"text": "a"}]}', "does not start with"),
        ("[" * 100_000, "after row 0"),
    ],
)
def test_a_broken_array_is_one_line(content, why):
    message = refusal(rows_of, put("a.json", content))
    assert any(part in message for part in why.split("|"))


def test_objects_on_lines_in_a_json_file_are_read_and_said():
    file = put("a.json", "\n".join(map(json.dumps, ROWS)))
    assert rows_of(file) == ROWS
    assert "a JSON object a line" in reading_notes(file)[0]
    assert "does not start with [" in refusal(rows_of, file, format="json")


def test_fasttext_lines_have_a_label_or_a_list_of_labels():
    one = put("a.txt", "__label__joy what a day\n__label__sad no\n\nno label here\n")
    assert rows_of(one) == [
        {"text": "what a day", "label": "joy"},
        {"text": "no", "label": "sad"},
        {"text": "no label here", "label": None},
    ]
    assert "fastText" in reading_notes(one)[0]
    assert rows_of(one, format="lines")[0] == {"text": "__label__joy what a day"}
    several = put("b.txt", "__label__joy __label__sad what a day\n__label__sad\tno __label__joy\n")
    assert rows_of(several) == [
        {"text": "what a day", "label": ["joy", "sad"]},
        {"text": "no", "label": ["sad", "joy"]},
    ]
    assert rows_of(put("c.txt", "plain\nabout __label__x\n")) == [
        {"text": "plain"},
        {"text": "about __label__x"},
    ]


# --- folders, patterns, lists ------------------------------------------------------------------------------


def put_texts(folder, rows=ROWS):
    for number, row in enumerate(rows):
        put(f"{folder}/{row['label']}/{number}.txt", f"{row['text']}\n")


def by_text(rows):
    return sorted(rows, key=lambda row: row["text"])


def test_a_folder_a_class_has_a_text_a_file():
    put_texts("set")
    put("set/README.txt", "about")
    assert by_text(of_corpus("set")["train"]) == by_text(ROWS)
    assert "of the class that its folder is called (3 of them)" in find_corpus("set").notes("train")[0]
    before = find_corpus("set").fingerprint("train")
    Path("set/fee").rename("set/fees")
    assert find_corpus("set").fingerprint("train") != before


def test_folders_of_classes_below_splits_are_splits():
    put_texts("set/train")
    put_texts("set/test", ROWS[:6])
    found = of_corpus("set")
    assert by_text(found["train"]) == by_text(ROWS)
    assert by_text(found["test"]) == by_text(ROWS[:6])


def test_a_folder_that_may_be_a_split_or_a_class_is_refused():
    put("set/train/1.txt", "so")
    put("set/test/1.txt", "so")
    assert "called like a split" in refusal(find_corpus, "set")


def test_a_text_that_is_no_text_is_named_by_its_file():
    put_texts("set")
    put("set/fee/bad.txt", b"caf\xe9")
    numbered = next(each for each in find_corpus("set").splits["train"]() if isinstance(each.row, BadRow))
    assert numbered.place.endswith("of fee/bad.txt")
    Path("set/fee/bad.txt").unlink()
    assert of_corpus("set", encoding="utf-8")["train"]


def test_patterns_and_lists_are_one_split():
    for number in range(12):
        put(f"part-{number}.csv", table(rows=ROWS[number * 3 : number * 3 + 3]))
    assert of_corpus("part-*.csv") == {"train": ROWS}
    assert of_corpus(str(Path.cwd() / "part-?.csv")) == {"train": ROWS[:30]}
    assert of_corpus("part-0.csv,part-1.csv") == {"train": ROWS[:6]}
    assert of_corpus("[part-0.csv, part-1.csv]") == {"train": ROWS[:6]}
    put("with, comma [1].csv", table())
    assert of_corpus("with, comma [1].csv") == {"train": ROWS}
    assert of_corpus('"with, comma [1].csv",part-0.csv') == {"train": ROWS + ROWS[:3]}
    stored = find_corpus("part-0.csv,part-1.csv").source.address
    os.chdir("/")
    assert of_corpus(stored) == {"train": ROWS[:6]}


def test_patterns_that_fit_nothing_or_too_much_are_refused():
    put("train.csv", table())
    put("test.csv", table())
    assert "names files of several splits (test, train)" in refusal(find_corpus, "t*.csv")
    assert "no file fits none-*.csv" in refusal(find_corpus, "none-*.csv")
    assert "no file gone.csv, which --data.dataset lists" in refusal(find_corpus, "train.csv,gone.csv")
    assert "twice" in refusal(find_corpus, "train.csv,train.csv")


# --- workbooks, Arrow --------------------------------------------------------------------------------------


def put_workbook(name, sheets):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title.removeprefix("~"))
        sheet.sheet_state = "hidden" if title.startswith("~") else "visible"
        for row in rows:
            sheet.append(row)
    book.save(name)
    return Path(name)


LISTED = [["text", "label"], *([row["text"], row["label"]] for row in ROWS)]


def test_a_workbook_is_read_by_its_only_sheet():
    file = put_workbook("a.xlsx", {"one": LISTED, "~notes": [["x"]], "empty": []})
    assert rows_of(file) == ROWS
    assert column_names(file) == ["text", "label"]
    assert "of its sheets 'one' alone" in reading_notes(file)[0]
    assert rows_of(file, sheet="notes", header=False) == [{"column_1": "x"}]
    assert of_corpus(file) == {"train": ROWS}


def test_several_sheets_are_a_question():
    file = put_workbook("a.xlsx", {"one": LISTED, "2024": LISTED[:4]})
    message = refusal(rows_of, file)
    assert "2 sheets with rows: 'one', '2024'. Say which it is with --data.sheet" in message
    assert rows_of(file, sheet="2024") == ROWS[:3]
    assert "has no sheet 'gone'; it has 'one', '2024'" in refusal(rows_of, file, sheet="gone")
    assert "is empty" in refusal(rows_of, put_workbook("b.xlsx", {"one": []}))


def test_cells_of_a_workbook_are_those_that_it_shows():
    day = datetime.date(2024, 1, 2)
    rows = [[None] * 4, ["text", "label", "n", "day"], ["a", 1, 2.5, day], [None] * 4, [7, True, None, day]]
    file = put_workbook("a.xlsx", {"one": rows})
    assert rows_of(file) == [
        {"text": "a", "label": 1, "n": 2.5, "day": day},
        {"text": 7, "label": True, "n": None, "day": day},
    ]
    assert [each.place for each in read_rows(file)] == ["row 1 (line 3)", "row 2 (line 5)"]
    headless = put_workbook("b.xlsx", {"one": LISTED[1:]})
    assert rows_of(headless)[0] == {"column_1": ROWS[0]["text"], "column_2": ROWS[0]["label"]}
    assert "two ways" in refusal(
        rows_of, put_workbook("c.xlsx", {"one": [["text", "label"], ["a", "label"]] * 3})
    )
    unnamed = put_workbook("d.xlsx", {"one": [["text", None], ["a", "b"]]})
    assert "has no name for column 2" in refusal(rows_of, unnamed)


def test_an_open_document_is_read():
    from odf.opendocument import OpenDocumentSpreadsheet
    from odf.table import Table, TableCell, TableRow
    from odf.text import P

    book = OpenDocumentSpreadsheet()
    sheet = Table(name="one")
    for cells in LISTED:
        row = TableRow()
        for text in cells:
            cell = TableCell(valuetype="string")
            cell.addElement(P(text=text))
            row.addElement(cell)
        sheet.addElement(row)
    book.spreadsheet.addElement(sheet)
    book.save("a.ods")
    assert rows_of("a.ods") == ROWS


@pytest.mark.parametrize("name", ["a.xlsx", "a.ods", "a.xls", "a.arrow", "a.feather"])
def test_what_is_no_workbook_or_arrow_file_is_one_line(name):
    for content in (b"", b"no", b"PK\x03\x04", b"ARROW1\0\0", b"FEA1"):
        assert "is not a readable" in refusal(rows_of, put(name, content))


def test_feather_and_arrow_files_are_read():
    found = pa.Table.from_pylist(ROWS)
    feather.write_feather(found, "a.feather")
    with pa.OSFile("a.arrow", "wb") as sink, pa.ipc.new_stream(sink, found.schema) as writer:
        writer.write_table(found)
    with pa.OSFile("b.arrow", "wb") as sink, pa.ipc.new_file(sink, found.schema) as writer:
        writer.write_table(found)
    for name in ("a.feather", "a.arrow", "b.arrow"):
        assert rows_of(name) == ROWS
        assert column_names(name) == ["text", "label"]
        assert of_corpus(name) == {"train": ROWS}


# --- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.csv", {"sheet": "x"}),
        ("a.csv", {"query": "SELECT 1"}),
        ("a.jsonl", {"delimiter": ";"}),
        ("a.jsonl", {"header": True}),
        ("a.parquet", {"encoding": "utf-8"}),
        ("sample", {"delimiter": ";"}),
        ("owner/name", {"header": False}),
        (".", {"format": "sheet"}),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(name, options):
    put("a.csv", table())
    put("a.jsonl", "\n".join(map(json.dumps, ROWS)))
    parquet.write_table(pa.Table.from_pylist(ROWS), "a.parquet")
    message = refusal(lambda: of_corpus(name, **options))
    assert "Leave it out" in message or "not a readable workbook" in message


def test_a_form_can_be_named_whatever_a_file_is_called():
    put("data", "\n".join(map(json.dumps, ROWS)))
    assert "Rename it, or say what it is with --data.format" in refusal(rows_of, "data")
    assert rows_of("data", format="jsonl") == ROWS
    assert of_corpus("data", format="jsonl") == {"train": ROWS}
    assert "expected one of csv, tsv" in refusal(ReadOptions, format="xml")


@pytest.mark.parametrize("delimiter", ["", "ab", '"', "\n"])
def test_what_is_no_delimiter_is_refused(delimiter):
    assert "expected one character" in refusal(ReadOptions, delimiter=delimiter)


def test_settings_change_the_fingerprint():
    put("a.csv", table())
    plain = find_corpus("a.csv").fingerprint("train")
    assert find_corpus("a.csv", options=ReadOptions(header=False)).fingerprint("train") != plain


# --- tokens ------------------------------------------------------------------------------------------------


@pytest.fixture
def module(weights):
    def make(dataset, **settings):
        made = EmotionDataModule(
            **{"dataset": str(dataset), "stand_in": None, "weights": weights, **settings}
        )
        made.setup("fit")
        return made

    return make


def test_every_form_gives_the_same_tokens_and_classes(module):
    put("plain.csv", table())
    plain = module("plain.csv").splits.train_split()
    put("a.csv", table(";").encode("utf-16"))
    put("b.tsv.gz", gzip.compress(table("\t", header=False).encode()))
    put("c.json", json.dumps(ROWS))
    put("d.txt.xz", lzma.compress("\n".join(f"__label__{r['label']} {r['text']}" for r in ROWS).encode()))
    put_workbook("e.xlsx", {"one": LISTED})
    feather.write_feather(pa.Table.from_pylist(ROWS), "f.feather")
    for name in ("a.csv", "b.tsv.gz", "c.json", "d.txt.xz", "e.xlsx", "f.feather"):
        columns = {"text_column": "column_1", "label_column": "column_2"} if name == "b.tsv.gz" else {}
        made = module(name, **columns)
        rows = made.splits.train_split()
        assert made.label_names == ["cheque", "debit", "fee"]
        assert rows.labels.tolist() == plain.labels.tolist()
        assert list(rows.all_texts()) == list(plain.all_texts())


def test_a_file_that_changes_while_it_is_read_is_one_line_and_leaves_no_tokens(weights):
    file = put("a.csv", table())
    rows = find_corpus("a.csv").splits["train"]()
    next(rows)
    with file.open("a") as stream:
        stream.write("one more,fee\n")
    assert "a.csv changed while it was read" in refusal(lambda: rows)
    made = EmotionDataModule("a.csv", stand_in=None, weights=weights)
    made.tokenized.corpus.fingerprint("train")
    file.write_text(table(rows=ROWS[::-1]) + "x,y\n")
    assert "changed while it was read" in refusal(lambda: made.setup("fit") or ())
    file.unlink()
    assert "changed while it was read" in refusal(lambda: made.setup("fit") or ())
    assert not list(Path("cache").glob("tokens/*/"))


# --- databases ---------------------------------------------------------------------------------------------

QUERY = "SELECT text, label FROM reviews ORDER BY id"


def put_base(name="a.db", rows=ROWS):
    with contextlib.closing(sqlite3.connect(name)) as base:
        base.execute("CREATE TABLE reviews (id INTEGER PRIMARY KEY, text TEXT, label TEXT)")
        base.executemany("INSERT INTO reviews (text, label) VALUES (:text, :label)", rows)
        base.commit()
    return f"sqlite:///{name}"


def test_the_rows_of_a_query_are_read(module):
    address = put_base("ä b.db")
    assert rows_of(address, query=QUERY) == ROWS
    assert column_names(address, ReadOptions(query=QUERY)) == ["text", "label"]
    assert of_corpus(address, query=QUERY) == {"train": ROWS}
    assert rows_of(address, query="SELECT text FROM reviews WHERE text LIKE '%:x' OR id = 1") == [
        {"text": ROWS[0]["text"]}
    ]
    made = module(address, query=QUERY)
    assert made.label_names == ["cheque", "debit", "fee"]
    assert made.splits.counts["train"].read == len(ROWS)
    stored = made.state_dict()["hyper_parameters"]
    os.chdir("/")
    assert of_corpus(stored["dataset"], query=stored["query"]) == {"train": ROWS}


@pytest.mark.parametrize(
    ("address", "query", "says"),
    [
        ("sqlite:///a.db", None, "expected a query"),
        ("sqlite:///gone.db", QUERY, "no file gone.db with an SQLite database"),
        ("sqlite:///a.csv", QUERY, "not a database"),
        ("sqlite:///a.db", "SELECT nope FROM reviews", "no such column: nope"),
        ("sqlite:///a.db", "DELETE FROM reviews", "readonly database"),
        ("sqlite:///a.db", "DROP TABLE reviews", "readonly database"),
        ("sqlite:///a.db", "SELECT text, text FROM reviews", "2 columns named 'text'"),
        ("sqlite://", QUERY, "no file in the address"),
        ("postgresql://nobody@127.0.0.1:1/none", QUERY, "gives no rows"),
        ("mysql://nobody@127.0.0.1:1/none", QUERY, "Install the driver"),
    ],
)
def test_a_database_that_gives_no_rows_is_one_line(address, query, says):
    put_base()
    put("a.csv", table() * 30)
    for use in (rows_of, lambda *a, **o: of_corpus(*a, **o)["train"]):
        assert says in refusal(use, address, query=query)
    assert not Path("gone.db").exists()
    assert rows_of("sqlite:///a.db", query=QUERY) == ROWS


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:s3cret@host/base",
        "postgres://me:s3cret@host/base",
        "postgresql://me@host/base?password=s3cret",
        "mysql+pymysql://me:s3cret@host/base",
        "postgresql://me:s3cret@host:notaport@host/base",
        "https://me:s3cret@host/a.csv",
        "https://host/a.csv?X-Amz-Signature=s3cret",
        "s3://key:s3cret@bucket/a.csv",
    ],
)
def test_a_password_in_an_address_is_refused_and_never_shown(address):
    for use in (rows_of, lambda *a, **o: of_corpus(*a, **o)["train"]):
        message = refusal(
            use, address, **({"query": QUERY} if "sql" in address or "postgres" in address else {})
        )
        assert "s3cret" not in message


def test_rows_of_a_database_that_change_while_they_are_read_are_refused():
    corpus = find_corpus(put_base(), options=ReadOptions(query=QUERY))
    corpus.fingerprint("train")
    with contextlib.closing(sqlite3.connect("a.db")) as base:
        base.execute("UPDATE reviews SET label = 'fee' WHERE id = 2")
        base.commit()
    assert "changed, or came in another order, while they were read" in refusal(corpus.splits["train"])


def test_values_of_a_database_are_typed():
    with contextlib.closing(sqlite3.connect("a.db")) as base:
        base.execute("CREATE TABLE t (text, label)")
        base.executemany("INSERT INTO t VALUES (?, ?)", [("a", 1), ("b", 2.5), (None, None), ("c", b"x")])
        base.commit()
    assert [row["label"] for row in rows_of("sqlite:///a.db", query="SELECT * FROM t")] == [
        1,
        2.5,
        None,
        b"x",
    ]


def test_csv_written_by_other_programs_is_read_back():
    with open("a.csv", "w", newline="", encoding="utf-16") as stream:
        writer = csv.DictWriter(stream, ["text", "label"], delimiter=";", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(ROWS)
    assert rows_of("a.csv") == ROWS


def test_a_parquet_file_is_read_in_little_memory_even_where_it_is_one_row_group(tmp_path: Path) -> None:
    texts = [f"{row:06} " + "a long text " * 100 for row in range(20_000)]  # 24 MB
    file = tmp_path / "rows.parquet"
    table = pa.table({"text": texts, "label": ["joy"] * len(texts)})
    parquet.write_table(table, file, compression="none", use_dictionary=False)
    assert parquet.ParquetFile(file).num_row_groups == 1
    del table
    before, most, rows = pa.total_allocated_bytes(), 0, 0
    for _ in read_rows(file):
        rows += 1
        if rows % 1000 == 0:
            most = max(most, pa.total_allocated_bytes() - before)
    assert rows == len(texts)
    assert most < 8e6
