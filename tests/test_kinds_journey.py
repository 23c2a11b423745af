"""Several labels, ordered classes and numbers from a file to a folder that answers, as one label goes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLASSES, Run, texts_of, write_csv

from lit_bert import BertClassifier, EmotionDataModule, Predictor
from lit_bert.__main__ import main
from lit_bert.evaluate.predictions import Predictions
from lit_bert.sources.checkpoint import Checkpoint

NAMES = list(CLASSES)
COLUMN = {"multi_label": "labels", "ordinal": "stars", "regression": "price"}
LABELS: dict[str, dict[str, Any]] = {  # of a text of each class
    "multi_label": {"joy": "joy|calm", "sadness": "sadness", "anger": ""},
    "ordinal": {"joy": 3, "sadness": 1, "anger": 2},
    "regression": {"joy": 10.5, "sadness": -2.25, "anger": 4.0},
}
KINDS = list(LABELS)
kinds = pytest.mark.parametrize("kind", KINDS)


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def corpus_of(kind: str, folder: Path) -> Path:
    folder.mkdir()
    for split, start, stop in (("train", 0, 20), ("validation", 20, 28), ("test", 28, 36)):
        rows: list[dict[str, object]] = [
            {"text": text, COLUMN[kind]: LABELS[kind][name]}
            for name in CLASSES
            for text in texts_of(name, 36)[start:stop]
        ]
        write_csv(folder / f"{split}.csv", rows)
    return folder


@pytest.fixture(scope="session")
def places(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By the kind, a folder with its data in `data` and a finished run in `checkpoints/version_0`."""
    found = {}
    for kind in KINDS:
        place = tmp_path_factory.mktemp(kind)
        data = corpus_of(kind, place / "data")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LIT_BERT_CACHE", str(place / "cache"))
            flags = ["--trainer.max_epochs=12", "--early_stopping.patience=12", "--model.adversarial_norm=0"]
            separator = ["--data.label_separator=|"] * (kind == "multi_label")
            logger = f"--trainer.logger.init_args.save_dir={place / 'checkpoints'}"
            weights = [f"--weights.pretrained={tiny_bert}", "--model.learning_rate=0.003"]
            common = [f"--data.dataset={data}", "--data.batch_size=8", "--trainer.accelerator=cpu"]
            assert main(["fit", *weights, *common, *flags, *separator, logger]) == 0
        found[kind] = place
    return found


@pytest.fixture
def place(places: dict[str, Path], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run of a kind to work in."""
    shutil.copytree(places[kind], tmp_path / kind)
    monkeypatch.chdir(tmp_path / kind)
    return tmp_path / kind


@kinds
def test_the_kind_is_learned_and_kept_with_its_parameters(place, kind):
    checkpoint = Checkpoint.open("checkpoints/version_0/best.ckpt")
    assert (checkpoint.model.task, checkpoint.data.settings.task) == (kind, kind)
    task = checkpoint.task
    wanted = {
        "multi_label": ("calm", "joy", "sadness"),
        "ordinal": ("1", "2", "3"),
        "regression": ("price",),
    }
    assert task.class_names == wanted[kind]
    record = json.loads(Path("checkpoints/version_0/validate.json").read_text())
    assert record["task"] == kind
    assert set(record["scores"]) >= {score.key for score in task.scores}
    assert record["scores"][task.main] > 0.9
    assert len(record["intervals"][task.main]) == 2
    if kind == "multi_label":
        assert list(task.parameters) == ["thresholds"]
        assert "choosing thresholds" in record["used_for"]
    if kind == "regression":
        values = [LABELS[kind][name] for name in CLASSES]
        assert task.mean == pytest.approx(np.mean(values))
        assert task.deviation == pytest.approx(np.std(values))
        assert task.half_width > 0


@kinds
def test_fit_then_test_is_test_from_the_checkpoint_and_from_python(run: Run, place, kind):
    for verb in ("validate", "test"):
        outcome = run(verb)
        assert outcome.code == 0, outcome.err
        task = Checkpoint.open("checkpoints/version_0/best.ckpt").task
        assert all(score.title in outcome.out for score in task.scores)
    stored = Predictions.read(Path("checkpoints/version_0/test.parquet"))
    assert stored.task == task
    assert stored.scores.chosen_by == pytest.approx(
        json.loads(Path("checkpoints/version_0/test.json").read_text())["scores"][task.main]
    )
    model = BertClassifier.load_from_checkpoint("checkpoints/version_0/best.ckpt").eval()
    data = EmotionDataModule.load_from_checkpoint("checkpoints/version_0/best.ckpt")
    data.prepare_data()
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    outputs = task.outputs(model(batch["input_ids"], batch["attention_mask"]).detach().numpy())
    kept = Predictions.read(Path("checkpoints/version_0/validate.parquet"))
    by_row = dict(zip(kept.rows.tolist(), kept.outputs, strict=True))
    wanted = np.stack([by_row[row] for row in batch["rows"].tolist()])
    assert outputs == pytest.approx(wanted, abs=0.02 * task.unit)


@kinds
def test_a_run_goes_on(run: Run, place, kind):
    outcome = run("fit", "--ckpt_path=last", "--trainer.max_epochs=13")
    assert outcome.code == 0, outcome.err
    assert "epoch 13" in outcome.err
    assert Checkpoint.open("checkpoints/version_0/last.ckpt").model.task == kind


@kinds
def test_predict_adds_the_columns_of_the_kind(run: Run, place, kind):
    outcome = run("predict", "--input=data/test.csv", "--output=labelled.csv")
    assert outcome.code == 0, outcome.err
    rows = read_csv(Path("labelled.csv"))
    task = Checkpoint.open("checkpoints/version_0/best.ckpt").task
    assert list(rows[0]) == ["text", COLUMN[kind], *task.columns()]
    for row in rows:
        if kind == "multi_label":
            assert sorted(json.loads(row["predicted_labels"])) == sorted(
                filter(None, row["labels"].split("|"))
            )
        elif kind == "ordinal":
            assert row["predicted_label"] == row["stars"]
            assert row["low"] <= row["predicted_label"] <= row["high"]
        else:
            assert float(row["low"]) < float(row["predicted_value"]) < float(row["high"])
            assert float(row["predicted_value"]) == pytest.approx(float(row["price"]), abs=2.5)


@kinds
def test_the_exported_folder_answers_as_the_checkpoint_does(run: Run, place, kind):
    outcome = run("export", "--max_f1_loss=100")
    assert outcome.code == 0, outcome.err + outcome.out
    folder = Path("checkpoints/version_0/exported")
    texts = [text for name in CLASSES for text in texts_of(name, 36)[28:]]
    run("predict", "--input=data/test.csv", "--output=labelled.jsonl")
    rows = [json.loads(line) for line in Path("labelled.jsonl").read_text().splitlines()]
    answers = Predictor(folder, file="model.onnx")(texts)
    checkpoint = Checkpoint.open("checkpoints/version_0/best.ckpt")
    for row, answer in zip(rows, answers, strict=True):
        if kind == "regression":
            assert answer.value == pytest.approx(row["predicted_value"], abs=0.02 * checkpoint.task.unit)
            assert answer.high - answer.low == pytest.approx(2 * checkpoint.task.half_width, rel=1e-4)
        elif kind == "multi_label":
            assert answer.labels == row["predicted_labels"]
        else:
            assert answer.label == row["predicted_label"]
    facts = json.loads((folder / "lit_bert.json").read_text())
    assert facts["task"] == kind
    card = (folder / "README.md").read_text()
    assert checkpoint.task.exported()[0].limits() in card
    assert f"| {next(s.long_title or s.title for s in checkpoint.task.scores)} |" in card


@kinds
def test_transformers_reads_the_same_numbers_out_of_the_folder(run: Run, place, kind):
    from transformers import pipeline

    assert run("export", "--max_f1_loss=100").code == 0
    folder = Path("checkpoints/version_0/exported")
    text = texts_of("joy", 36)[30]
    (found,) = pipeline("text-classification", model=str(folder), top_k=None)([text])
    (answer,) = Predictor(folder, file="model.onnx")([text])
    scores = {each["label"]: each["score"] for each in found}
    if kind == "regression":
        assert scores == {"price": pytest.approx(answer.value, rel=1e-4)}
    else:
        assert scores == pytest.approx(answer.probabilities, abs=1e-5)


@kinds
def test_an_audit_and_a_report_know_the_labels(run: Run, place, kind):
    rows = read_csv(Path("data/train.csv"))
    write_csv(Path("data/train.csv"), [*rows, {**rows[0], COLUMN[kind]: rows[-1][COLUMN[kind]]}])
    flags = ["--data.label_separator=|"] * (kind == "multi_label")
    outcome = run("audit", "--data.dataset=data", *flags)
    assert outcome.code == 0, outcome.err
    assert "one text, several labels in a split: 1 text" in outcome.out
    task = Checkpoint.open("checkpoints/version_0/best.ckpt").task
    table = run("report", "checkpoints/version_0", "checkpoints/version_0")
    assert table.code == 0, table.err
    assert task.main_title in table.out
    assert ("McNemar" in table.out) == (kind != "regression")


@kinds
def test_drift_compares_answers_of_the_kind(run: Run, place, kind):
    model = "checkpoints/version_0"
    outcome = run("drift", model, "data/test.csv")
    assert outcome.code == 0, outcome
    answers = {"regression": "the numbers answered"}.get(kind, "shares of the answers")
    assert answers in outcome.out
    rows = [{"text": f"{text} today today today zebra"} for text in texts_of("joy", 36)]
    write_csv(Path("other.csv"), rows)
    for _ in range(2):  # the second goes on with the file
        flags = ["--input=other.csv", "--output=labelled.csv", "--statistics=asked.json"]
        assert run("predict", *flags).code == 0
    assert json.loads(Path("asked.json").read_text())["rows"] == 72
    outcome = run("drift", model, "asked.json")
    assert outcome.code == 1, outcome
    assert "moved      texts with a piece that the tokenizer does not know" in outcome.out
    assert run("report", model).code == 0
    page = Path(model, "report.html").read_text()
    assert "72 texts of asked.json" in page
    assert f'<th scope="row">{answers}</th>' in page


def test_folds_of_an_audit_find_a_wrong_number(run: Run, tiny_bert, tmp_path):
    data = corpus_of("regression", Path("numbers"))
    rows = read_csv(data / "train.csv")
    rows[7]["price"] = "500"
    write_csv(data / "train.csv", rows)
    flags = [f"--weights.pretrained={tiny_bert}", "--data.dataset=numbers", "--trainer.max_epochs=1"]
    outcome = run("audit", "--folds=2", *flags, "--data.batch_size=8")
    assert outcome.code == 0, outcome.err
    assert "row 8 is 500, rather" in outcome.out
    (found,) = Path("checkpoints").glob("audit_*/suspects.csv")
    suspects = read_csv(found)
    assert suspects[0]["row"] == "8"
    assert list(suspects[0]) == ["row", "text", "label", "suggested_label", "predicted_value"]


def test_seeds_of_several_labels_are_summed_up(run: Run, tiny_bert):
    corpus_of("multi_label", Path("several"))
    flags = [f"--weights.pretrained={tiny_bert}", "--data.dataset=several", "--trainer.max_epochs=1"]
    outcome = run("fit", "--seeds=2", *flags, "--data.label_separator=|", "--trainer.accelerator=cpu")
    assert outcome.code == 0, outcome.err
    for title in ("macro F1", "samples F1", "label ranking", "best by macro F1", "wrong in every run"):
        assert title in outcome.out, title
