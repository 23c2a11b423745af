"""Predictions in a file: read back as they were written, whole or not at all, foreign ones refused."""

import os
import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import stable_id

from lit_bert import UserError
from lit_bert.evaluate.predictions import Predictions
from lit_bert.task.kinds import task_of

NAMES = ["joy", "not so joyful", "probability_of_rain", "probability_", "label", 'a,b\n"c" ñ']
TEXTS = [
    "so glad",
    "",
    "  two\tlines\nand\r\nthree  ",
    "quotes \" and ' and ,",
    "שלום 😀👩‍👩‍👧",
    "nul \0 \x07",
    "last",
]


def some(**changes):
    """Predictions of seven odd texts, every label among them, rows not from 0."""
    generator = np.random.default_rng(0)
    probs = generator.dirichlet(np.ones(6), size=7).astype(np.float32)
    whole = {
        "task": task_of("single", NAMES),
        "texts": TEXTS,
        "rows": np.array([2, 3, 5, 7, 11, 13, 17]),
        "labels": np.array([5, 4, 3, 2, 1, 0, 0]),
        "outputs": probs,
        "facts": {"split": "validation", "seed": None, "calibration": {"temperature": 1.5}, "ü": "ñ"},
    }
    return Predictions(**{**whole, **changes})


def test_what_is_read_is_what_was_written():
    some().write(Path("some.parquet"))
    found, wanted = Predictions.read(Path("some.parquet")), some()
    assert found.texts == TEXTS
    assert found.class_names == NAMES
    assert found.facts == wanted.facts
    for name, kind in (("rows", np.int64), ("labels", np.int64), ("outputs", np.float32)):
        assert getattr(found, name).dtype == kind
        assert np.array_equal(getattr(found, name), getattr(wanted, name)), name
    assert np.array_equal(found.preds, wanted.outputs.argmax(1))


def test_the_columns_say_what_they_are_to_any_other_tool():
    some().write(Path("some.parquet"))
    rows = pa.parquet.read_table("some.parquet").to_pylist()
    assert list(rows[0]) == ["row", "text", "label", "predicted_label", *(f"probability_{n}" for n in NAMES)]
    for row, label, probs in zip(rows, some().labels, some().outputs, strict=True):
        assert row["label"] == NAMES[label]
        assert [row[f"probability_{name}"] for name in NAMES] == probs.tolist()
        assert row["predicted_label"] == NAMES[probs.argmax()]


def test_other_outputs_leave_the_rows_and_add_facts():
    first = some()
    other = first.with_outputs(np.full((7, 6), 1 / 6), seed=3)
    assert other.outputs.dtype == np.float32
    assert (other.texts, other.facts) == (TEXTS, {**some().facts, "seed": 3})
    assert first.facts["seed"] is None


def test_writing_takes_the_place_of_an_earlier_file_and_leaves_nothing_else():
    for _ in range(2):
        some().write(Path("some.parquet"))
    assert os.listdir() == ["some.parquet"]


def test_a_full_disk_leaves_the_earlier_file_whole_and_nothing_else():
    some().write(Path("some.parquet"))
    before = Path("some.parquet").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            some(texts=["other"] * 7).write(Path("some.parquet"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir() == ["some.parquet"]
    assert Path("some.parquet").read_bytes() == before


def foreign(table):
    return lambda file: pa.parquet.write_table(table, file)


BAD = {
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("text,label\nso glad,joy\n"),
    "a Parquet file of another program": foreign(pa.table({"text": ["a"], "label": ["b"]})),
    "another program's metadata": foreign(
        pa.table({"text": ["a"], "label": ["b"]}).replace_schema_metadata({"lit_bert": "what?"})
    ),
    "a column too few": foreign(
        pa.table({"text": ["a"], "row": [0], "label": ["b"]}).replace_schema_metadata({"lit_bert": "{}"})
    ),
    "a label that is no class": foreign(
        pa.table(
            {"row": [0], "text": ["a"], "label": ["b"], "probability_c": [0.5], "probability_d": [0.5]}
        ).replace_schema_metadata({"lit_bert": "{}"})
    ),
    "a folder": lambda file: file.mkdir(),
}


@pytest.mark.parametrize("case", BAD)
def test_a_foreign_file_is_refused_in_one_line(case):
    BAD[case](Path("bad.parquet"))
    with pytest.raises(UserError, match=r"^bad\.parquet holds no predictions.*lit_bert validate`\.$") as said:
        Predictions.read(Path("bad.parquet"))
    assert "\n" not in str(said.value)
    assert len(str(said.value)) < 400


def crafted(facts="{}", **changes):
    """Two rows of two classes as `write` would write them, but for the changes; None takes a column out."""
    columns = {
        "row": pa.array([0, 1]),
        "text": pa.array(["a", "b"]),
        "label": pa.array(["c", "d"]),
        "predicted_label": pa.array(["c", "c"]),
        "probability_c": pa.array([0.75, 0.5], pa.float32()),
        "probability_d": pa.array([0.25, 0.5], pa.float32()),
    }
    kept = {name: value for name, value in (columns | changes).items() if value is not None}
    pa.parquet.write_table(pa.table(kept).replace_schema_metadata({"lit_bert": facts}), "bad.parquet")
    return Path("bad.parquet")


def test_the_crafted_file_below_is_good_but_for_the_change():
    found = Predictions.read(crafted())
    assert (found.class_names, found.texts, found.labels.tolist()) == (["c", "d"], ["a", "b"], [0, 1])


@pytest.mark.parametrize(
    "change",
    [
        {"row": pa.array(["0", "1"])},
        {"row": pa.array([0.0, 1.0])},
        {"row": pa.array([-1, 0])},
        {"row": pa.array([1, 1])},
        {"row": pa.array([0, None])},
        {"text": pa.array([1, 2])},
        {"text": pa.array([b"a", b"b"])},
        {"text": pa.array([["a"], ["b"]])},
        {"text": pa.array(["a", None])},
        {"label": pa.array([0, 1])},
        {"label": pa.array(["c", None])},
        {"label": pa.array(["c", "e"])},
        {"probability_c": pa.array(["0.75", "0.5"])},
        {"probability_c": pa.array([1, 0])},
        {"probability_c": pa.array([0.75, float("nan")])},
        {"probability_c": pa.array([0.75, float("inf")])},
        {"probability_c": pa.array([0.75, None])},
        {"probability_c": pa.array([1.5, 0.5])},
        {"probability_c": pa.array([-0.25, 0.5]), "probability_d": pa.array([1.25, 0.5])},
        {"probability_c": None, "probability_d": None},
        {"facts": "[]"},
        {"facts": "{"},
        {"facts": '{"a": NaN}'},
        {"facts": '{"a": 1, "a": 2}'},
        {"facts": "[" * 5000},
    ],
    ids=stable_id,
)
def test_a_column_of_another_type_or_beyond_its_range_is_refused(change):
    with pytest.raises(UserError, match=r"^bad\.parquet holds no predictions.*lit_bert validate`\.$") as said:
        Predictions.read(crafted(**change))
    assert len(str(said.value).splitlines()) == 1
    assert str(said.value).isprintable()


def test_a_small_file_that_unpacks_to_a_terabyte_takes_no_memory():
    """A text of a megabyte, a million times: a dictionary of one entry, and run lengths."""
    rows = 1_000_000
    text = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array(["a" * (1 << 20)]))
    label = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array(["c"]))
    crafted(
        row=pa.array(np.zeros(rows, np.int64)),
        text=text,
        label=label,
        predicted_label=None,
        probability_c=pa.array(np.ones(rows, np.float32)),
        probability_d=pa.array(np.zeros(rows, np.float32)),
    )
    assert Path("bad.parquet").stat().st_size < 10_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="characters in column text, which is too much"):
        Predictions.read(Path("bad.parquet"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 500_000  # kB


@pytest.mark.timeout(60)
def test_predictions_are_an_ordinary_file_of_their_folder(tmp_path):
    crafted().rename(tmp_path / "elsewhere.parquet")
    Path("bad.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(UserError, match="is a link out of its folder"):
        Predictions.read(Path("bad.parquet"))
    Path("bad.parquet").unlink()
    os.mkfifo("bad.parquet")
    with pytest.raises(UserError, match="is no ordinary file"):
        Predictions.read(Path("bad.parquet"))


def test_a_missing_file_says_what_writes_it():
    with pytest.raises(UserError, match=r"^no predictions gone\.parquet; `python -m lit_bert validate --ck"):
        Predictions.read(Path("gone.parquet"))


def test_a_damaged_file_is_read_or_refused_but_nothing_else():
    some().write(Path("some.parquet"))
    whole = Path("some.parquet").read_bytes()
    for end in range(0, len(whole), 97):
        Path("bad.parquet").write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"^bad\.parquet holds no predictions"):
            Predictions.read(Path("bad.parquet"))
    outcomes = set()
    for place in range(0, len(whole), 41):
        damaged = bytearray(whole)
        damaged[place] ^= 0b101
        Path("bad.parquet").write_bytes(damaged)
        try:
            outcomes.add(type(Predictions.read(Path("bad.parquet"))))
        except UserError:
            outcomes.add(UserError)
    assert outcomes == {Predictions, UserError}


def test_the_same_rows_can_be_compared_whatever_was_made_of_them():
    some().check_same_rows(some(outputs=some().outputs[::-1], facts={}, rows=np.arange(7)))


def swapped(values):
    return [values[1], values[0], *values[2:]]


DIFFERENT = {
    "another text": ({"texts": [*TEXTS[:4], "other", *TEXTS[5:]]}, r"^1 of 7 rows differ.*first at row 12: "),
    "another order": ({"texts": swapped(TEXTS)}, r"^2 of 7 rows differ.*first at row 3: "),
    "another label": ({"labels": np.array([5, 4, 3, 2, 1, 0, 1])}, r"^1 of 7 rows differ.*first at row 18: "),
    "other classes": (
        {"task": task_of("single", [*NAMES[:5], "rage"])},
        r"^split validation of the one run and validation of the other have different tasks or classes",
    ),
    "the classes in another order": (
        {"task": task_of("single", swapped(NAMES))},
        "different tasks or classes",
    ),
    "fewer rows": (
        {"texts": TEXTS[:6], "rows": np.arange(6), "labels": np.zeros(6, int), "outputs": np.ones((6, 6)) / 6}
        | {"facts": {"split": "test"}},
        r"^split validation of the one run and test of the other have 7 and 6 rows: only.*lit_bert val",
    ),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_other_rows_cannot_be_compared(case):
    changes, message = DIFFERENT[case]
    with pytest.raises(UserError, match=message):
        some().check_same_rows(some(**changes))
