"""No row is lost, merged or moved: quotes, cells that are not text, columns, splits, label codes, counts.

Most kinds of fault here were found with the small files of `shared/cases`; each test makes its own data.
"""

import csv
import datetime
import decimal
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from conftest import CLASSES, texts_of, write_csv
from lightning.pytorch import Trainer
from pyarrow import parquet
from ugly import UGLY

from lit_bert import UserError
from lit_bert.data.cells import BadRow, CellError, Numbered, label_of, text_of
from lit_bert.data.corpus import find_corpus
from lit_bert.data.counts import RowCounts, Skipped
from lit_bert.data.module import EmotionDataModule
from lit_bert.data.readers.dialect import dialect_of
from lit_bert.data.readers.options import DEFAULT, ReadOptions
from lit_bert.data.rows import column_names, read_rows
from lit_bert.data.writer import RowWriter
from lit_bert.evaluate.prediction_writer import PredictionWriter
from lit_bert.evaluate.predictions import Predictions
from lit_bert.io import escape
from lit_bert.model.module import BertClassifier
from lit_bert.sources.weights import Weights
from lit_bert.task.single import SingleLabel
from lit_bert.verbs.fit import parsed

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
FORMS = (*TABLES, ".ndjson")


def put(name, content):
    file = Path(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def put_rows(name, rows):
    """Rows in any form, written without lit_bert."""
    file = Path(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        columns = {key: [row.get(key) for row in rows] for key in {key: 0 for row in rows for key in row}}
        parquet.write_table(pa.table(columns), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if file.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return file


def rows_of(file, quoting="auto"):
    return [each.row for each in read_rows(file, ReadOptions(quoting=quoting))]


def refusal(call, *arguments, **settings):
    """The one line with which `call` refuses, at once or when its rows are read."""

    def use():
        found = call(*arguments, **settings)
        list(found if isinstance(found, Iterator) else [])

    with pytest.raises(UserError) as caught:
        use()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def module(weights):
    def make(dataset, stage="fit", **settings):
        made = EmotionDataModule(
            **{"dataset": str(dataset), "stand_in": None, "weights": weights, **settings}
        )
        made.setup(stage)
        return made

    return make


@pytest.fixture
def known(tiny_bert):
    """Weights of a model that was trained before, on classes in that order."""

    def make(*names):
        weights = Weights(str(tiny_bert), stand_in=None)
        weights.task = SingleLabel.of(names)
        return weights

    return make


def labelled(labels, name="label"):
    return [{"text": f"i am {number} {label}", name: label} for number, label in enumerate(labels)]


# --- quotes in delimited files -----------------------------------------------------------------------------


def test_a_tsv_file_with_stray_quotes_keeps_every_line(module, caplog):
    caplog.set_level("INFO")
    lines, names = [], ("fee", "debit", "cheque")
    for number in range(120):
        quote = '"' if number in (3, 17, 40, 41, 90, 119) else ""
        at_the_start = number % 2
        text = f"{quote * at_the_start}text {number}{quote * (1 - at_the_start)}"
        lines.append(f"{text}\t{names[number % 3]}")
    file = put("rows.tsv", "text\tlabel\n" + "\n".join(lines) + "\n")
    assert len(lines) == 120  # counted without any reader
    found = rows_of(file)
    assert [f"{row['text']}\t{row['label']}" for row in found] == lines
    made = module(file)
    assert Counter(made.label_names[label] for label in made.splits.train_split().labels) == dict.fromkeys(
        names, 40
    )
    assert sum('"' in text for text in made.splits.train_split().all_texts()) == 6
    said = [record.message for record in caplog.records if "rows.tsv" in record.message]
    assert len(said) == 1
    assert "an ordinary character" in said[0]
    assert "--data.quoting csv" in said[0]
    caplog.clear()
    module(file)  # from the cache, and said all the same
    assert any("an ordinary character" in record.message for record in caplog.records)


QUOTES = {
    "no quote": ("a.csv", "text,label\na,x\nb,y\n", True, 2, None),
    "quoted cells": ("a.csv", 'text,label\n"a, b",x\n"he said ""no""",y\n', True, 2, None),
    "quotes in the middle": ("a.csv", 'text,label\na "b" c,x\nd,y\n', True, 2, None),
    "line ends": ("a.csv", 'text,label\n"a\nb",x\n"c",y\n', True, 2, "1 record holds line ends"),
    "stray in csv": ("a.csv", 'text,label\n"a b,x\nc,y\n', False, 2, "an ordinary character"),
    "stray in tsv": ("a.tsv", 'text\tlabel\n"a b\tx\nc\ty\n', False, 2, "an ordinary character"),
    "a pair of strays in tsv": (
        "a.tsv",
        'text\tlabel\n"a\tx\nb"\ty\nc\tx\n',
        False,
        3,
        "an ordinary character",
    ),
    "beside quoted cells": ("a.csv", 'text,label\n"a",x\n"b" c,y\n', True, 2, None),
    "one column": ("a.csv", 'text\n"a\nb"\nc\n', True, 2, "1 record holds line ends"),
    "neither": ("a.csv", 'text,label\n"a b,x\nc,d,y\n', True, 2, None),
    "swallowed, with a short line": ("a.tsv", 'text\tlabel\n"a\tx\nb\nc"\ty\n', True, 1, "1 record holds"),
}


@pytest.mark.parametrize("case", QUOTES)
def test_quotes_are_taken_in_the_way_that_gives_every_row(case):
    name, content, quoted, count, note = QUOTES[case]
    file = put(name, content)
    found = dialect_of(file, file.suffix[1:], DEFAULT)
    assert found.quoted is quoted
    assert (note in found.notes[0]) if note else found.notes == ()
    assert len(list(read_rows(file))) == count


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\nc,x\n"a,x\nb",y\nd,y\n'),
        ("a.tsv", 'text\tlabel\n"c"\tx\n"a\tx\nb"\ty\nd\ty\n'),
    ],
)
def test_two_sound_ways_to_read_a_file_are_a_question(name, content):
    file = put(name, content)
    message = refusal(read_rows, file)
    assert "can be read in two ways" in message
    assert "row 2 (lines 3 to 4) is [" in message
    assert "--data.quoting csv or --data.quoting none" in message
    assert refusal(column_names, file) == message
    assert len(rows_of(file, "csv")) == 3
    assert len(rows_of(file, "none")) == 4
    assert rows_of(file, "none")[1]["text"] == '"a'


def test_the_question_stops_a_fit_and_a_prediction_and_a_flag_answers_it(refused, run, quick, able):
    lines = [f"{text},{label}" for label in CLASSES for text in texts_of(label, 12)]
    file = put("rows.csv", "\n".join(["text,label", '"so,joy', 'sad",anger', *lines]) + "\n")
    assert "can be read in two ways" in refused("fit", *quick, f"--data.dataset={file}")
    predict = [f"--ckpt_path={able / 'best.ckpt'}", f"--input={file}", "--output=out.csv"]
    assert "can be read in two ways" in refused("predict", *predict)
    for quoting, count in {"none": 38, "csv": 37}.items():
        outcome = run("predict", *predict, f"--data.quoting={quoting}")
        assert outcome.code == 0, outcome.err
        assert f"--data.quoting {quoting}" in outcome.err
        assert f"{count} rows written" in outcome.err


def test_the_flag_is_part_of_the_cache(module):
    file = put("rows.csv", 'text,label\n"so,x\nsad",y\n' + "a,x\nb,y\n" * 3)
    made = [module(file, quoting=quoting) for quoting in ("none", "csv", "none")]
    assert [len(each.splits.train_split()) for each in made] == [8, 7, 8]
    assert "data.quoting is both" in refusal(module, file, quoting="both")


def test_rows_of_a_changed_file_are_read_anew():
    file = put("a.tsv", 'text\tlabel\n"a\tx\nb"\ty\n')
    assert len(rows_of(file)) == 2
    put("a.tsv", 'text\tlabel\n"a\tx\nb"\ty\tz\n')
    assert isinstance(rows_of(file)[0], dict | BadRow)
    assert len(rows_of(file)) == 1


# --- cells that are not text -------------------------------------------------------------------------------

NAN, INF, DAY = float("nan"), float("inf"), datetime.date(2024, 1, 1)
REFUSED = "refused"
CELLS = [  # a value, as a text, as a label
    ("a", "a", "a"),
    (" a ", " a ", "a"),
    ("1.0", "1.0", "1.0"),
    ("nan", "nan", "nan"),
    (None, None, None),
    ("", None, None),
    (" \t\n\u3000", None, None),
    (NAN, None, None),
    (decimal.Decimal("NaN"), None, None),
    (0, "0", "0"),
    (-7, "-7", "-7"),
    (2**70, str(2**70), str(2**70)),
    (1.0, REFUSED, "1"),
    (-0.0, REFUSED, "0"),
    (2.5, REFUSED, "2.5"),
    (1e-7, REFUSED, "1e-07"),
    (2.0**52, REFUSED, str(2**52)),
    (2.0**53, REFUSED, REFUSED),
    (1e300, REFUSED, REFUSED),
    (INF, REFUSED, REFUSED),
    (-INF, REFUSED, REFUSED),
    (decimal.Decimal("2.50"), REFUSED, "2.5"),
    (decimal.Decimal("3.00"), REFUSED, "3"),
    (decimal.Decimal("-0.0"), REFUSED, "0"),
    (decimal.Decimal("Infinity"), REFUSED, REFUSED),
    (decimal.Decimal("1E+5000"), REFUSED, REFUSED),
    (True, REFUSED, "true"),
    (False, REFUSED, "false"),
    (b"a", REFUSED, REFUSED),
    (DAY, REFUSED, REFUSED),
    (datetime.datetime(2024, 1, 1), REFUSED, REFUSED),
    (["a"], REFUSED, REFUSED),
    ([], REFUSED, REFUSED),
    ({"a": 1}, REFUSED, REFUSED),
]


@pytest.mark.parametrize(("value", "text", "label"), CELLS, ids=lambda value: ascii(value)[:20])
def test_every_type_of_cell_is_converted_by_the_rule_or_refused(value, text, label):
    for convert, expected in ((text_of, text), (label_of, label)):
        if expected == REFUSED:
            with pytest.raises(CellError):
                convert(value)
        else:
            assert convert(value) == expected


ARROW = {
    "float": pa.array([0.5, 1.5, 0.5]),
    "boolean": pa.array([True, False, True]),
    "date": pa.array([DAY, DAY, DAY]),
    "bytes": pa.array([b"a", b"b", b"a"]),
    "list": pa.array([["a"], ["b"], ["a"]]),
    "nested value": pa.array([{"a": 1}, {"a": 2}, {"a": 1}]),
    "timestamp": pa.array([0, 1, 2], pa.timestamp("ns")),
}
AS_LABELS = {"float": ["0.5", "1.5"], "boolean": ["false", "true"]}


@pytest.mark.parametrize("kind", ARROW)
@pytest.mark.parametrize("form", ["parquet", "saved by datasets"])
def test_typed_columns_are_refused_with_file_row_and_column_or_read_by_the_rule(module, kind, form):
    table = pa.table({"text": ["a", "b", "c"], "label": ["x", "y", "x"], "other": ARROW[kind]})
    if form == "parquet":
        parquet.write_table(table, "rows.parquet")
        place = Path("rows.parquet")
    else:
        place = Path("saved")
        datasets.Dataset(table).save_to_disk(place)
    message = refusal(module, place, text_column="other")
    for part in ("row 1 of split train", str(place.resolve()), "in column 'other'", "--data.text_column"):
        assert part in message
    if kind in AS_LABELS:
        made = EmotionDataModule(str(place), label_column="other", task="single", stand_in=None)
        assert made.label_names == AS_LABELS[kind]
    else:
        message = refusal(module, place, label_column="other", task="single")
        assert "in column 'other'; expected a label" in message
        assert "--data.label_column" in message


def test_whole_numbers_are_texts_and_dictionary_columns_are_strings(module):
    columns = {
        "text": pa.array([1, 2, 3, 4] * 2),
        "label": pa.array(["x", "y", None, "x"] * 2).dictionary_encode(),
    }
    parquet.write_table(pa.table(columns), "rows.parquet")
    whole = module("rows.parquet").splits.train_split()
    assert list(whole.all_texts()) == ["1", "2", "4"] * 2
    assert whole.rows.tolist() == [0, 1, 3, 4, 5, 7]


def test_spellings_that_become_one_class_are_said_once(module, caplog):
    caplog.set_level("INFO")
    module(put_rows("rows.jsonl", labelled(["joy", " joy", "sad", "joy "] * 3)))
    said = [record.message for record in caplog.records if "white space around a label" in record.message]
    assert said == ["labels 'joy' and ' joy' of split train are one class: white space around a label is cut"]


# --- columns -----------------------------------------------------------------------------------------------

LATE = [{"text": "a"}, {"text": "b"}, {"text": "c", "id": "r2"}, {"text": "d", "id": "r3", "n": 1}]


def test_a_key_that_comes_late_is_a_column():
    assert column_names(put_rows("a.jsonl", LATE)) == ["text", "id", "n"]
    assert column_names(put("a.csv", "b,a\n1,2\n")) == ["b", "a"]
    assert column_names(put_rows("a.parquet", [{"x": 1, "y": 2}])) == ["x", "y"]
    assert column_names(put("a.txt", "hello\n")) == column_names("-") == ["text"]


@pytest.mark.parametrize("suffix", FORMS)
def test_a_column_that_only_some_rows_have_reaches_every_form(run, able, suffix):
    put_rows("in.jsonl", LATE)
    outcome = run("predict", f"--ckpt_path={able / 'best.ckpt'}", "--input=in.jsonl", f"--output=out{suffix}")
    assert outcome.code == 0, outcome.err
    found = rows_of(f"out{suffix}")
    assert [list(row)[:4] for row in found] == [["text", "id", "n", "predicted_label"]] * 4
    assert [row["id"] or None for row in found] == [None, None, "r2", "r3"]
    assert [int(row["n"]) if row["n"] else None for row in found] == [None, None, None, 1]


@pytest.mark.parametrize("suffix", TABLES)
@pytest.mark.parametrize("told", [True, False])
def test_a_column_that_the_writer_does_not_know_is_refused_not_dropped(suffix, told):
    with (
        pytest.raises(UserError, match=r"column 'c'"),
        RowWriter(f"a{suffix}", ["a", "b"] if told else None) as writer,
    ):
        writer.write([{"a": 1, "b": 2}, {"a": 1, "c": 3}])
    assert not Path(f"a{suffix}").exists()


@pytest.mark.parametrize("suffix", TABLES)
def test_a_file_without_rows_has_the_columns_it_was_told(suffix):
    with RowWriter(f"a{suffix}", ["a", "b"]):
        pass
    if suffix != ".jsonl":
        assert column_names(f"a{suffix}") == ["a", "b"]
    assert rows_of(f"a{suffix}") == []


def test_a_key_that_stands_twice_makes_a_bad_row():
    lines = '{"text": "a", "text": "b"}\n{"text": "a", "x": [{"y": 1, "y": 2}]}\n{"text": "c"}\n'
    first, second, third = rows_of(put("a.jsonl", lines))
    assert first == BadRow("the key 'text' occurs twice in one object")
    assert second == BadRow("the key 'y' occurs twice in one object")
    assert third == {"text": "c"}


@pytest.mark.parametrize("near", ["Text", " text", "text ", "TEXT", "te xt", "ｔｅｘｔ", "text\u00a0"])
def test_a_column_that_differs_in_blanks_or_case_is_named_not_taken(module, refused, able, near):
    rows = [{near: text, "label": label} for label in "xy" for text in texts_of("joy", 4)]
    for suffix in (".csv", ".jsonl", ".parquet"):
        message = refusal(module, put_rows(f"rows{suffix}", rows), text_column="text")
        assert f"no column 'text', but a column '{escape.line(near)}'" in message
        assert f"--data.text_column '{escape.line(near)}'" in message
    line = refused("predict", f"--ckpt_path={able / 'best.ckpt'}", "--input=rows.csv", "--output=o.csv")
    assert "no column 'text', but a column '" in line


# --- the columns of predictions ----------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["predicted_label", "probability", "probability_joy"])
def test_a_column_of_the_input_is_never_overwritten(run, refused, able, column):
    put_rows("in.csv", [{"text": "happy", column: "mine"}])
    flags = [f"--ckpt_path={able / 'best.ckpt'}", "--input=in.csv", "--output=out.csv"]
    line = refused("predict", *flags)
    assert f"in.csv has a column '{column}' already" in line
    assert "--prefix" in line
    assert run("predict", *flags, "--prefix=new_").code == 0
    (row,) = rows_of("out.csv")
    assert row[column] == "mine"
    assert row["new_predicted_label"] == "joy"
    assert list(row) == [
        "text",
        column,
        *(f"new_{each}" for each in SingleLabel.of(["anger", "joy", "sadness"]).columns()),
    ]


@pytest.fixture(scope="module")
def ugly_model(tiny_bert):
    return BertClassifier(UGLY, weights=Weights(str(tiny_bert), stand_in=None))


@pytest.mark.parametrize("formulas", ["escape", "keep"])
@pytest.mark.parametrize("suffix", FORMS)
def test_ugly_class_names_come_through_every_form(ugly_model, suffix, formulas):
    weights = ugly_model.weights
    module = EmotionDataModule(label_names=UGLY, weights=weights, eval_batch_size=3)
    module.predict_from(Numbered(n, 0, {"text": text}) for n, text in enumerate(["happy", "sad", "rain"], 1))
    columns = ["text", *SingleLabel.of(UGLY).columns()]
    with RowWriter(f"out{suffix}", columns, formulas) as writer:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        Trainer(accelerator="cpu", callbacks=[PredictionWriter(writer)], **quiet).predict(
            ugly_model, module, return_predictions=False
        )
    assert column_names(f"out{suffix}") == columns
    found = rows_of(f"out{suffix}", "csv")
    assert [row["text"] for row in found] == ["happy", "sad", "rain"]
    for row in found:
        probs = [float(row[f"probability_{name}"]) for name in UGLY]
        assert sum(probs) == pytest.approx(1, abs=1e-4)
        name = UGLY[int(np.argmax(probs))]
        assert row["predicted_label"] == (
            escape.spreadsheet(name) if formulas == "escape" and suffix in (".csv", ".tsv") else name
        )


WORDS = ["happy", "sad", "angry"]


def json_lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_rows_without_an_answer_stand_in_their_place_across_windows(run, able, monkeypatch):
    monkeypatch.setattr("lit_bert.data.batches.PREDICT_ROWS", 3)
    texts = [
        "",
        "happy",
        "",
        "",
        "sad",
        "",
        "angry",
        "",
        "happy",
        "sad",
        "",
        "",
        "",
        "",
        "angry",
        "happy",
        "",
    ]
    put_rows("in.jsonl", [{"n": n, "text": text} for n, text in enumerate(texts)])
    flags = [f"--ckpt_path={able / 'best.ckpt'}", "--data.eval_batch_size=2"]
    outcome = run("predict", *flags, "--input=in.jsonl", "--output=out.jsonl")
    assert outcome.code == 1
    found = rows_of("out.jsonl")
    assert [(row["n"], row["text"]) for row in found] == list(enumerate(texts))
    alone = {row["text"]: row["predicted_label"] for row in json_lines(run("predict", *WORDS, *flags).out)}
    assert set(alone.values()) <= set(CLASSES)
    assert [row["predicted_label"] for row in found] == [alone.get(text) for text in texts]
    assert f"{texts.count('')} of {len(texts)} rows could not be labelled" in outcome.err
    put_rows("blank.jsonl", [{"text": ""}, {"text": None}])
    outcome = run("predict", *flags, "--input=blank.jsonl", "--output=blank_out.csv")
    assert outcome.code == 1
    assert [row["predicted_label"] for row in rows_of("blank_out.csv")] == ["", ""]


def test_cells_that_are_no_text_get_an_empty_answer_and_keep_their_value(run, able):
    put_rows("in.jsonl", [{"text": value} for value in ("happy", 0.5, True, ["a"], {"a": 1}, 7, "sad")])
    outcome = run("predict", f"--ckpt_path={able / 'best.ckpt'}", "--input=in.jsonl", "--output=out.jsonl")
    assert outcome.code == 1
    found = rows_of("out.jsonl")
    assert [row["text"] for row in found] == ["happy", 0.5, True, ["a"], {"a": 1}, 7, "sad"]
    assert [row["predicted_label"] is None for row in found] == [False, True, True, True, True, False, False]
    assert (
        "in.jsonl, row 3 (line 3): a value of type boolean (True) in column 'text' is no text" in outcome.err
    )


# --- cells that a spreadsheet runs -------------------------------------------------------------------------

FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0", "-", "+a"]
HARMLESS = ["a", "-1", "+2.5", "-1e3", "-.5", "1=1", " =1", "'=1", "", "a@b"]


@pytest.mark.parametrize("suffix", FORMS)
def test_formulas_are_escaped_counted_and_kept_on_request(suffix, caplog):
    caplog.set_level("INFO")
    rows = [{"id": n, "text": text, "=head": -n} for n, text in enumerate([*FORMULAS, *HARMLESS])]
    delimited = suffix in (".csv", ".tsv")
    for formulas in ("escape", "keep"):
        caplog.clear()
        with RowWriter(f"a{suffix}", formulas=formulas) as writer:
            writer.write(rows)
        escaped = delimited and formulas == "escape"
        found = rows_of(f"a{suffix}", "csv")
        assert [row["text"] for row in found] == [
            *(("'" + text if escaped else text) for text in FORMULAS),
            *HARMLESS,
        ]
        assert list(found[0])[2] == ("'=head" if escaped else "=head")
        assert [int(row[list(row)[2]]) for row in found] == [-n for n in range(len(rows))]
        said = [record.message for record in caplog.records if "spreadsheet" in record.message]
        assert len(said) == escaped
        if escaped:
            assert said[0].startswith(f"{len(FORMULAS) + 1} cells of a{suffix} ")
            assert "--formulas keep" in said[0]


def test_predict_escapes_formulas_and_keeps_them_on_request(run, able):
    put_rows("in.csv", [{"text": "=happy", "note": "-1"}])
    flags = ["predict", f"--ckpt_path={able / 'best.ckpt'}", "--input=in.csv", "--output=out.csv"]
    outcome = run(*flags)
    assert rows_of("out.csv")[0]["text"] == "'=happy"
    assert "1 cell of out.csv that a spreadsheet would run as a formula now begins" in outcome.err
    assert run(*flags, "--formulas=keep").code == 0
    assert rows_of("out.csv")[0]["text"] == "=happy"


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_bytes_are_refused_where_text_cannot_hold_them(suffix):
    for value in (b"\xff", [b"\xff"], {"a": b"\xff"}):
        said = "column 'raw' holds bytes" if isinstance(value, bytes) else "holds bytes"
        with pytest.raises(UserError, match=said), RowWriter(f"a{suffix}") as writer:
            writer.write([{"text": "a", "raw": value}])
        assert not Path(f"a{suffix}").exists()


# --- counts ------------------------------------------------------------------------------------------------


def test_rows_that_do_not_add_up_are_an_error():
    RowCounts("train", 10, {"without a text": Skipped(2, ["1", "2"])}, {"data.train_rows": 3}, 5)
    with pytest.raises(AssertionError, match="do not add up"):
        RowCounts("train", 10, {}, {}, 9)


@pytest.mark.parametrize(
    ("settings", "train", "validation"),
    [
        ({}, {"data.val_fraction": 4}, {"data.val_fraction": 30}),
        ({"folds": 2, "fold": 1}, {"data.folds": 17}, {"data.folds": 17}),
        (
            {"train_rows": 9, "val_rows": 1},
            {"data.val_fraction": 4, "data.train_rows": 21},
            {"data.val_fraction": 30, "data.val_rows": 3},
        ),
    ],
)
def test_every_row_is_accounted_for(module, settings, train, validation):
    rows = [*labelled("xy" * 17), {"text": " ", "label": "x"}, {"text": "sun", "label": None}]
    made = module(put_rows("rows.jsonl", rows), **settings)
    lost = {"without a text": Skipped(1, ["35"]), "without a label": Skipped(1, ["36"])}
    for part, left_out, used in (
        ("train", train, made.train_rows),
        ("validation", validation, made.val_rows),
    ):
        counts = made.splits.counts[part]
        assert (counts.split, counts.read, counts.skipped) == ("train", 36, lost)
        assert counts.left_out == left_out
        assert counts.used == len(used) == 34 - sum(left_out.values())
    assert made.state_dict()["rows"]["train"] == made.splits.counts["train"].as_dict()


def test_classes_are_those_of_the_rows_with_a_text_whatever_column_it_was_read_from_before(module):
    rows = [{**row, "title": "sun"} for row in labelled("xy" * 6)]
    file = put_rows("rows.jsonl", [*rows, {"text": "", "title": "sun", "label": "z"}])
    assert module(file).label_names == ["x", "y"]
    assert module(file, text_column="title").label_names == ["x", "y", "z"]
    assert module(file).label_names == ["x", "y"]


def test_deduplicated_rows_are_counted(module):
    rows = labelled("xy" * 6)
    put_rows("set/train.jsonl", [*rows, {"text": "", "label": "x"}])
    put_rows("set/validation.jsonl", [*rows[:3], {"text": None, "label": "x"}])
    counts = module("set", deduplicate=True).splits.counts
    assert (counts["train"].left_out, counts["train"].used) == ({"data.deduplicate": 3}, 9)
    assert str(counts["validation"]) == "4 read, 1 (row 4) without a text skipped, 3 used"


def test_rows_that_are_only_carved_for_validation_take_one_line(run, quick):
    rows = [{"text": text, "label": label} for label in CLASSES for text in texts_of(label, 20)]
    write_csv(Path("rows.csv"), rows)
    outcome = run("fit", *quick, "--data.dataset=rows.csv", "--trainer.max_epochs=1")
    assert outcome.code == 0, outcome.err
    assert "rows       54 to train on, 6 to validate on, of the 60 of split train\n" in outcome.err
    assert "left out" not in outcome.err


def test_counts_are_shown_and_stored_and_rows_keep_their_numbers(run, quick):
    rows = [{"text": text, "label": label} for label in CLASSES for text in texts_of(label, 20)]
    rows.insert(1, {"text": "", "label": "joy"})
    rows.insert(5, {"text": "sun", "label": " "})
    write_csv(Path("rows.csv"), rows)
    outcome = run("fit", *quick, "--data.dataset=rows.csv", "--trainer.max_epochs=1", "--data.train_rows=30")
    assert outcome.code == 0, outcome.err
    expected = "62 read, 1 (row 2) without a text skipped, 1 (row 6) without a label skipped, "
    assert f"train: {expected}6 left out by data.val_fraction, 24 left out by data.train_rows, 30 used" in (
        outcome.err
    )
    run_folder = Path("checkpoints/version_0")
    record = json.loads((run_folder / "validate.json").read_text())
    stored = record["row_counts"]
    assert stored["read"] == 62
    assert stored["scored"] == stored["used"] == 6
    skipped = sum(each["count"] for each in stored["skipped"].values())
    assert stored["read"] == skipped + sum(stored["left_out"].values()) + stored["used"]
    kept = Predictions.read(run_folder / "validate.parquet")
    assert [rows[number]["text"] for number in kept.rows] == kept.texts
    assert run("test", "--data.test_split=train").code == 0
    assert json.loads((run_folder / "test.json").read_text())["row_counts"]["scored"] == 60
    kept = Predictions.read(run_folder / "test.parquet")
    assert [rows[number]["text"] for number in kept.rows] == kept.texts
    assert [rows[number]["label"] for number in kept.rows] == [kept.class_names[each] for each in kept.labels]


# --- a condition belongs where it is needed ----------------------------------------------------------------


def test_a_test_split_of_one_class_is_scored(run, able):
    write_csv(Path("one.csv"), [{"text": text, "label": "joy"} for text in texts_of("joy", 20)])
    shutil.copy(able / "best.ckpt", "best.ckpt")
    flags = ["--ckpt_path=best.ckpt", "--data.dataset=one.csv", "--data.test_split=train"]
    outcome = run("test", *flags)
    assert outcome.code == 0, outcome.err
    assert json.loads(Path("test.json").read_text())["row_counts"]["scored"] == 20


def test_a_validation_split_of_one_class_is_said_to_be_one(module, caplog):
    caplog.set_level("INFO")
    put_rows("set/train.csv", labelled("xyxy"))
    put_rows("set/validation.csv", labelled("xx"))
    assert len(module("set").val_rows) == 2
    assert any("validation has only the class 'x'" in record.message for record in caplog.records)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_no_rows_to_score_are_refused(module, known, stage):
    put_rows("set/train.csv", labelled("xyxy"))
    put("set/validation.csv", "text,label\n")
    put("set/test.csv", "text,label\n,x\n")
    message = refusal(module, "set", stage, weights=known("x", "y"))
    assert "has no rows to use" in message


# --- label codes -------------------------------------------------------------------------------------------

ORDER = ["fee", "debit", "cheque"]


@pytest.mark.parametrize("suffix", TABLES)
def test_codes_beside_names_need_an_order(module, known, suffix):
    put_rows(f"set/train{suffix}", labelled(ORDER * 4))
    put_rows(f"set/test{suffix}", labelled([0, 1, 2] * 2))
    model = known("cheque", "debit", "fee")
    message = refusal(module, "set", "test", weights=model)
    assert "the labels in split test of" in message
    assert "are 0, 1, 2; the classes are cheque, debit, fee" in message
    assert "--data.label_names" in message
    made = module("set", "test", weights=model, label_names=ORDER)
    rows = made.test_rows.view(np.argsort(made.test_rows.rows))
    assert [made.label_names[label] for label in rows.labels] == ORDER * 2
    # the tokens of that run do not make the order known to the next one
    assert "0, 1, 2" in refusal(module, "set", "test", weights=model)
    other = module("set", "test", weights=model, label_names=ORDER[::-1])
    rows = other.test_rows.view(np.argsort(other.test_rows.rows))
    assert [other.label_names[label] for label in rows.labels] == ORDER[::-1] * 2


def test_codes_beside_names_in_validation_are_refused_from_the_cache_too(module, caplog):
    caplog.set_level("INFO")
    put_rows("set/train.csv", labelled(["a", "b"] * 4))
    put_rows("set/validation.csv", labelled([1, 0]))
    assert "are 0, 1; the classes are a, b" in refusal(module, "set")
    made = module("set", label_names=["a", "b"])
    assert any(
        "codes of split validation are read by --data.label_names" in r.message for r in caplog.records
    )
    assert sorted(made.val_rows.labels) == [0, 1]
    assert "are 0, 1; the classes are a, b" in refusal(module, "set")


def test_an_order_of_other_names_than_the_model_has_is_refused(module, known):
    put_rows("set/test.csv", labelled([0, 1]))
    message = refusal(module, "set", "test", weights=known("a", "b"), label_names=["a", "c"])
    assert "data.label_names is a, c, but the classes of the model are a, b" in message
    message = refusal(module, "set", "test", weights=known("a", "b"), label_names=["a", "b", "c"])
    assert "expected the same names" in message


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("x", "data.label_names is x; expected at least two names"),
        ("x,,y", "data.label_names is x, , y, with an empty name"),
        ("x,y,x", "data.label_names has 'x' twice"),
    ],
)
def test_names_that_are_no_order_are_refused_as_such(module, names, told):
    assert told in refusal(module, put_rows("rows.jsonl", labelled("xy" * 6)), label_names=names)


def test_codes_beyond_the_order_are_refused(module, known):
    put_rows("set/test.csv", labelled([1, 2, 3]))
    message = refusal(module, "set", "test", weights=known(*"abc"), label_names=list("abc"))
    assert "are 1, 2, 3; the classes are a, b, c, and data.label_names is a, b, c" in message


def class_labelled(file, names, codes):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )
    texts = [f"i am {number}" for number in range(len(codes))]
    file.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict({"text": texts, "label": codes}, features=features).to_parquet(file)
    return file


def test_an_order_in_the_file_is_taken_by_names(module, known):
    class_labelled(Path("set/test.parquet"), ["c", "a", "b"], [0, 1, 2, -1, 1])
    made = module("set", "test", weights=known("a", "b", "c"))
    rows = made.test_rows.view(np.argsort(made.test_rows.rows))
    assert rows.labels.tolist() == [2, 0, 1, 0]
    assert made.splits.counts["test"].skipped == {"without a label": Skipped(1, ["4"])}
    class_labelled(Path("other/test.parquet"), ["d", "e"], [0, 1])
    assert "names the classes d, e; the classes here are a, b" in refusal(
        module, "other", "test", weights=known("a", "b")
    )
    # a name that the model lacks is no code either
    class_labelled(Path("more/test.parquet"), ["b", "z"], [0, 1])
    assert "has the label 'z'" in refusal(
        module, "more", "test", weights=known("a", "b"), label_names=["a", "b"]
    )


def test_parts_that_name_their_classes_in_different_orders_are_refused(module):
    class_labelled(Path("set/train/part-0.parquet"), ["a", "b"], [0, 1])
    class_labelled(Path("set/train/part-1.parquet"), ["b", "a"], [0, 1])
    assert "one code would mean two classes" in refusal(module, "set")


def test_a_hub_test_split_without_labels_is_refused_with_the_reason(module, known):
    class_labelled(Path("set/test.parquet"), ["a", "b"], [-1, -1, -1])
    message = refusal(module, "set", "test", weights=known("a", "b"))
    assert "3 read, 3 (rows 1, 2, 3) without a label" in message


# --- splits ------------------------------------------------------------------------------------------------

SPELLINGS = ["dev", "valid", "val", "eval", "development", "validation", "evaluation", "Dev", "VALID", "Eval"]


@pytest.mark.parametrize("kind", ["file", "shards", "saved"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_validation_is_found_whatever_it_is_called(module, name, kind):
    train, validation = labelled("xyxyxyxy"), labelled("xyy")
    if kind == "file":
        put_rows("set/Training.csv", train)
        put_rows(f"set/{name}.csv", validation)
    elif kind == "shards":
        for number in range(8):
            put_rows(f"set/train/part-{number}.csv", train[number : number + 1])
        put_rows(f"set/{name}/part-0.csv", validation[:1])
        put_rows(f"set/{name}/part-10.csv", validation[2:])
        put_rows(f"set/{name}/part-2.csv", validation[1:2])
    else:
        splits = {"train": train, name: validation}
        found = {split: datasets.Dataset.from_list(rows) for split, rows in splits.items()}
        datasets.DatasetDict(found).save_to_disk("set")
    for asked in ("validation", name):
        made = module("set", val_split=asked)
        rows = made.val_rows.view(np.argsort(made.val_rows.rows))
        assert rows.texts(rows.rows) == [row["text"] for row in validation]
        assert len(made.train_rows) == 8
        assert made.splits.counts["validation"].used == 3


@pytest.mark.parametrize(
    ("role", "first", "second"),
    [
        ("validation", "dev", "validation"),
        ("validation", "valid", "eval"),
        ("train", "train", "training"),
        ("test", "Test", "testing"),
    ],
)
def test_two_splits_for_one_part_are_a_question(module, role, first, second):
    flag = {"validation": "val_split", "train": "train_split", "test": "test_split"}[role]
    for other in {"train", "validation", "test"} - {role}:
        put_rows(f"set/{other}.csv", labelled("xyxy"))
    put_rows(f"set/{first}.csv", labelled("xyx"))
    put_rows(f"set/{second}.csv", labelled("xyxyx"))
    stage = "test" if role == "test" else "fit"
    message = refusal(module, "set", stage, label_names=["x", "y"])
    assert f"2 splits for {role}: " in message
    assert f"{first}.csv" in message
    assert f"{second}.csv" in message
    assert f"--data.{flag}" in message
    for name, count in ((f"{first}.csv", 3), (f"{second}.csv", 5)):
        made = module("set", stage, **{flag: name})
        assert len({"train": "train_rows", "validation": "val_rows", "test": "test_rows"}[role]) > 0
        assert made.splits.counts[role].used == count


def test_one_split_in_two_forms_or_places_is_a_question(module):
    put_rows("set/train.csv", labelled("xyxy"))
    put_rows("set/train.jsonl", labelled("xyxyxy"))
    assert "2 splits for train: train.csv, train.jsonl" in refusal(module, "set")
    assert module("set", train_split="train.jsonl").splits.counts["train"].read == 6
    put_rows("other/train.csv", labelled("xyxy"))
    put_rows("other/train/part.csv", labelled("xyxyxy"))
    assert "2 splits for train: train/, train.csv" in refusal(module, "other")
    put_rows("third/train/a.csv", labelled("xyxy"))
    put_rows("third/train/b.jsonl", labelled("xyxyxy"))
    assert "files of several kinds (.csv, .jsonl)" in refusal(module, "third")


def test_a_saved_dataset_with_two_validation_splits_is_a_question(module):
    found = {name: datasets.Dataset.from_list(labelled("xyxy")) for name in ("train", "dev", "validation")}
    datasets.DatasetDict(found).save_to_disk("set")
    assert "2 splits for validation: dev/, validation/" in refusal(module, "set")
    assert module("set", val_split="validation/").splits.counts["validation"].used == 4
    assert module("set", val_split="dev").splits.counts["validation"].used == 4


def test_a_saved_dataset_is_known_by_its_content(module):
    for name, labels in (("one", "xyxyxyxyxyxy"), ("two", "xxyyxxyyxxyy")):
        datasets.Dataset.from_list(labelled(labels)).save_to_disk(name)
    state = json.loads(Path("one/state.json").read_text())["_fingerprint"]
    other = json.loads(Path("two/state.json").read_text())
    Path("two/state.json").write_text(json.dumps({**other, "_fingerprint": state}))
    assert find_corpus("one").fingerprint("train") != find_corpus("two").fingerprint("train")
    assert module("one").splits.train_split().labels.tolist() == [0, 1] * 6
    assert module("two").splits.train_split().labels.tolist() == [0, 0, 1, 1] * 3
    Path("one/state.json").write_text("{")
    assert "cannot be read" in refusal(module, "one")


def test_a_bad_row_in_a_shard_is_named_with_its_file(module):
    put_rows("set/train/part-0.csv", labelled("xy"))
    put("set/train/part-1.csv", "text,label\na,x\nb\n")
    message = refusal(module, "set")
    assert "row 2 (line 3) of train/part-1.csv of split train" in message


def test_counts_and_numbers_of_shards_run_through(module):
    put_rows("set/train/part-0.jsonl", [*labelled("xy"), {"text": "", "label": "x"}])
    put_rows("set/train/part-1.jsonl", [{"text": "", "label": "x"}, *labelled("xyxy")])
    put_rows("set/dev.jsonl", labelled("xy"))
    made = module("set")
    assert made.splits.train_split().rows.tolist() == [0, 1, 4, 5, 6, 7]
    first = ["3 of train/part-0.jsonl", "1 of train/part-1.jsonl"]
    assert made.splits.counts["train"].skipped == {"without a text": Skipped(2, first)}


# --- the cases ---------------------------------------------------------------------------------------------

CASES = Path(__file__).parents[2] / "shared" / "cases"


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not at hand")
def test_the_files_that_were_read_wrongly_are_read_rightly(module):
    bare = rows_of(CASES / "03-bare-quotes.tsv")
    assert Counter(row["label"] for row in bare) == {"fee": 40, "debit": 40, "cheque": 40}
    assert sum(row["text"].count('"') == 1 for row in bare) == 6
    assert column_names(CASES / "05-late-key.jsonl") == ["text", "id"]
    for name in ("23-dev", "23-eval", "23-valid"):
        corpus = find_corpus(str(CASES / name))
        assert set(corpus.splits) == {"train", "validation"}


def test_a_model_is_scored_on_codes_only_once_their_order_is_given(run, refused, able):
    order = ["sadness", "anger", "joy"]  # not that of the alphabet
    rows = [{"text": text, "label": order.index(label)} for label in CLASSES for text in texts_of(label, 8)]
    write_csv(Path("codes.csv"), rows)
    shutil.copy(able / "best.ckpt", "best.ckpt")
    flags = ["--ckpt_path=best.ckpt", "--data.dataset=codes.csv", "--data.test_split=train"]
    line = refused("test", *flags)
    assert "are 0, 1, 2; the classes are anger, joy, sadness" in line
    for given in ("sadness,anger,joy", "[sadness, anger, joy]", '["sadness", "anger", "joy"]'):
        outcome = run("test", *flags, f"--data.label_names={given}")
        assert outcome.code == 0, outcome.err
        assert "label codes of split train are read by --data.label_names: 0 as sadness" in outcome.err
        assert json.loads(Path("test.json").read_text())["scores"]["accuracy"] >= 0.9
    assert "are 0, 1, 2; the classes are" in refused("test", *flags)
    assert "the classes of the model are" in refused("test", *flags, "--data.label_names=[a, b, c]")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("fee,debit,cheque", ["fee", "debit", "cheque"]),
        ("fee, debit", ["fee", "debit"]),
        ("[fee, debit]", ["fee", "debit"]),
        ("['fee', \"debit\"]", ["fee", "debit"]),
        ("1e3,2e5,12:30", ["1e3", "2e5", "12:30"]),
        ("[1e3, 2e5, 12:30, yes, ~]", ["1e3", "2e5", "12:30", "yes", "~"]),
        ("[0, 1]", ["0", "1"]),
        ("yes,no,null", ["yes", "no", "null"]),
        ('"a, b",c', ["a, b", "c"]),
        ("null", None),
    ],
)
def test_label_names_on_the_command_line_mean_what_stands_there(quick, text, names):
    given = parsed([*quick, f"--data.label_names={text}"]).settings["data"]["label_names"]
    assert EmotionDataModule("sample", label_names=given).hparams.label_names == names
