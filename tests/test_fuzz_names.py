"""Random names of classes from a file to an exported folder: letter for letter, and scored as themselves.

An input is a name: one fit has up to 100 of them as its classes, and goes through `test`, `predict` in every
form, `export` and the Predictor.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import FUZZ_INPUTS, WORDS, Run
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_class_names import ACTIVE
from test_fuzz_folders import limited
from ugly import UGLY

pytestmark = pytest.mark.fuzz

CLASSES = 100  # of a fit at most
SCORES = ["macro_f1", "micro_f1", "accuracy", "loss_nats", "calibration_error", "by_class"]
ALIKE = [
    "e\u0301",
    "\u00e9",
    "İ",
    "i̇",
    "ß",
    "ss",
    "K",
    "\u212a",
    "ſ",
    "s",
    "ﬁ",
    "fi",
    "①",
    "1",
    "a\u200bb",
    "ab",
]
LETTERS = st.characters(exclude_categories=["Cs"])
NAME = st.one_of(
    st.text(LETTERS, min_size=1, max_size=10),
    st.text(LETTERS, min_size=1, max_size=3),
    st.text(
        "\"',;|\t\r\n \\=-+@#:[]{}&*!%`~$_^<>/.0123456789exNaTyn\x00\x1b\x85\u2028\ufeff",
        min_size=1,
        max_size=8,
    ),
    st.text(
        st.characters(categories=["Cc", "Cf", "Zl", "Zp", "Zs", "Mn", "So", "Co", "Cn"]),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([*UGLY, *ALIKE, *SCORES, *WORDS]),
    st.sampled_from(UGLY).flatmap(
        lambda name: st.sampled_from([name.upper(), name + name, f"probability_{name}"])
    ),
    st.integers().map(str),
    st.floats().map(str),
    st.dates().map(str),
    st.datetimes().map(str),
    st.text("xyé漢", min_size=200, max_size=400),
)
SETS = st.lists(
    NAME.filter(str.strip), min_size=min(CLASSES, FUZZ_INPUTS), max_size=CLASSES, unique_by=str.strip
)
FORMS = st.sampled_from([".parquet", ".jsonl", ".csv", ".tsv"])


def write(file: Path, rows: list[tuple[str, str]]) -> None:
    """A table of texts and labels, as another program writes it."""
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table({"text": texts, "label": labels}), file)
    elif file.suffix == ".jsonl":
        lines = (json.dumps({"text": text, "label": label}) for text, label in rows)
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    else:
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(
                stream, delimiter="," if file.suffix == ".csv" else "\t", quoting=csv.QUOTE_ALL
            )
            writer.writerows([("text", "label"), *rows])


def answered(file: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of the columns that `predict` wrote, and the rows."""
    if file.suffix == ".parquet":
        table = pyarrow.parquet.read_table(file)
        return table.column_names, table.to_pylist()
    if file.suffix == ".jsonl":
        # `splitlines` would split at other characters than a line feed.
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
        return list(rows[0]), rows
    with file.open(newline="", encoding="utf-8") as stream:
        columns, *cells = csv.reader(stream, delimiter="," if file.suffix == ".csv" else "\t", strict=True)
    return columns, [dict(zip(columns, row, strict=True)) for row in cells]


def as_flag(names: list[str], kind: str) -> str:
    """The value of --data.label_names: JSON, or a line of CSV."""
    if kind == "json":
        return json.dumps(names)
    stream = io.StringIO()
    # A line that starts with a bracket is a list, and Python before 3.13 quotes no line end but its own.
    is_list = names[0].startswith("[")
    csv.writer(stream, quoting=csv.QUOTE_ALL if kind == "quoted" or is_list else csv.QUOTE_MINIMAL).writerow(
        names
    )
    return stream.getvalue().removesuffix("\r\n")


# Not shrunk: that would take hundreds of fits, and the names at fault show in what differs.
@settings(max_examples=max(1, FUZZ_INPUTS // CLASSES), phases=[Phase.generate])
@given(
    written=SETS,
    form=FORMS,
    kind=st.sampled_from([None, "json", "csv", "quoted"]),
    seed=st.integers(0, 999),
)
def test_names_come_out_as_they_went_in(
    tiny_bert: Path, tmp_path: Path, run: Run, written: list[str], form: str, kind: str | None, seed: int
) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    pytest.importorskip("onnxruntime")
    from lit_bert.product.folder import facts
    from lit_bert.product.formats import ONNX, ONNX_INT8
    from lit_bert.product.predictor import Predictor

    place = tmp_path / "example"
    shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    place.mkdir()
    generator = np.random.default_rng(seed)
    texts = iter([" ".join(generator.choice(WORDS, 5)) + f" {number}" for number in range(4 * len(written))])
    rows = {
        "train": [(next(texts), name) for name in written * 2],
        "validation": [(next(texts), name) for name in written if generator.random() < 0.9]
        or [("a", written[0])],
        "test": [(next(texts), name) for name in written[: len(written) // 2 + 1]],
    }
    for split, some in rows.items():
        write(place / f"{split}{form}", some)
    expected = sorted(name.strip() for name in written)
    if all(name.isascii() and name.removeprefix("-").isdecimal() for name in expected):
        expected = sorted(expected, key=lambda name: (int(name), name))

    def verb(name: str, *flags: str) -> str:
        outcome = run(name, *flags)
        assert outcome.code == 0, (outcome.err[-2000:], flags)
        if name != "predict":
            assert not ACTIVE.search(outcome.out + outcome.err)
        return outcome.out

    flags = ["--data.quoting=csv"] if form in (".csv", ".tsv") else []
    if kind:
        expected = [expected[index] for index in generator.permutation(len(expected))]
        flags.append(f"--data.label_names={as_flag(expected, kind)}")
    with limited(300):
        flags += [f"--weights.pretrained={tiny_bert}", f"--data.dataset={place}", "--trainer.accelerator=cpu"]
        save_dir = f"--trainer.logger.init_args.save_dir={place / 'runs'}"
        verb("fit", *flags, save_dir, "--trainer.max_epochs=1")
        folder = place / "runs" / "version_0"
        checkpoint = f"--ckpt_path={folder / 'best.ckpt'}"

        verb("test", checkpoint, "--trainer.accelerator=cpu")
        record = json.loads((folder / "test.json").read_text(encoding="utf-8"))
        table = pyarrow.parquet.read_table(folder / "test.parquet")
        found = check_scores(record, rows["test"], expected, folder / "test.parquet", metrics)
        assert table.num_rows == len(rows["test"])

        for suffix in (".parquet", ".jsonl", ".csv", ".tsv"):
            output = place / f"answers{suffix}"
            source = f"--input={place / f'test{form}'}"
            verb(
                "predict",
                source,
                checkpoint,
                f"--output={output}",
                "--trainer.accelerator=cpu",
                "--formulas=keep",
            )
            columns, answers = answered(output)
            assert columns == ["text", "label", "predicted_label", "probability"] + [
                f"probability_{name}" for name in expected
            ]
            assert [row["label"] for row in answers] == [name for _, name in rows["test"]]
            assert [row["predicted_label"] for row in answers] == found
        line = verb("predict", rows["test"][0][0], checkpoint, "--trainer.accelerator=cpu")
        assert json.loads(line)["predicted_label"] == found[0]

        verb("export", checkpoint, f"--to={place / 'exported'}", "--max_f1_loss=100")
        config = json.loads((place / "exported" / "config.json").read_text(encoding="utf-8"))
        assert [config["id2label"][str(index)] for index in range(len(expected))] == expected
        assert config["label2id"] == {name: index for index, name in enumerate(expected)}
        said = facts(place / "exported")
        assert said["labels"] == expected
        assert said["scores"]["validation"]["by_class"].keys() == set(expected)
        for file in (ONNX, ONNX_INT8):
            assert Predictor(place / "exported", file).labels == expected
        predictions = Predictor(place / "exported", ONNX)([text for text, _ in rows["test"]])
        assert [list(each.probabilities) for each in predictions] == [expected] * len(predictions)
        assert [each.label for each in predictions] == found


def check_scores(
    record: dict[str, Any], rows: list[tuple[str, str]], names: list[str], file: Path, metrics: Any
) -> list[str]:
    """Compares scores with those of scikit-learn. Returns the predicted label of each row."""
    from lit_bert.evaluate.predictions import Predictions

    predictions = Predictions.read(file)
    assert predictions.class_names == names
    labels = [label.strip() for _, label in rows]
    assert [names[index] for index in predictions.labels] == labels
    found = [names[index] for index in predictions.preds]
    scores = record["scores"]
    assert set(scores) == set(SCORES)
    assert scores["micro_f1"] == pytest.approx(metrics.f1_score(labels, found, average="micro"))
    assert scores["macro_f1"] == pytest.approx(
        metrics.f1_score(labels, found, average="macro", zero_division=0)
    )
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(labels, found))
    each = metrics.f1_score(labels, found, labels=names, average=None, zero_division=0)
    assert set(scores["by_class"]) == set(names)
    for name, f1 in zip(names, each, strict=True):
        assert scores["by_class"][name] == (pytest.approx(f1) if name in labels else None)
    return found
