"""Classifiers that somebody else trained, from a folder or the Hub: scored, exported, served as our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from conftest import CLASSES, Run, texts_of, write_csv
from hub import Hub
from serving import JSON, ROOT, Start
from sklearn.metrics import f1_score

from lit_bert.product.predictor import Predictor

NAMES = ["sad", "cheerful", "cross"]  # not in the order of the alphabet
TEXTS = [text for label in CLASSES for text in texts_of(label, 8)]
PAIRS = [{"text": first, "text_pair": second} for first, second in zip(TEXTS, TEXTS[5:], strict=False)]


def published(folder: Path, kind: str = "bert", names: list[str] = NAMES, **config: Any) -> Path:
    """A random classifier as transformers saves it, whose answers differ from text to text."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tiny.write(kind, folder)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    torch.manual_seed(1)
    network = AutoModelForSequenceClassification.from_pretrained(folder, **labels, **config).eval()
    texts = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    (last,) = (
        each
        for each in network.modules()
        if isinstance(each, torch.nn.Linear) and each.out_features == len(names)
    )
    with torch.no_grad():
        for _ in range(2):  # the spread, and then the mean
            logits = network(**texts).logits
            last.weight.div_(logits.std(0)[:, None])
            last.bias.sub_(logits.mean(0))
    network.save_pretrained(folder)
    return folder


def by_transformers(folder: Path, texts: list[Any], **settings: Any) -> np.ndarray:
    """The outputs (N, C) of transformers' own pipeline on the folder, in the order of its labels."""
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(folder), dtype=torch.float32, device="cpu")
    index_of = classify.model.config.label2id
    answers = [classify(text, top_k=None, truncation=True, **settings) for text in texts]
    ordered = [sorted(answer, key=lambda each: index_of[each["label"]]) for answer in answers]
    return np.array([[each["score"] for each in answer] for answer in ordered])


def by_predictor(folder: Path, texts: list[Any]) -> np.ndarray:
    """The outputs (N, C) of the exported file."""
    predictor = Predictor(folder)
    if predictor.task.label_form == "number":
        return np.array([[each.value] for each in predictor(texts)])
    return np.array([list(each.probabilities.values()) for each in predictor(texts)])


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder of transformers."""
    return published(tmp_path / "theirs")


@pytest.fixture
def rows(tmp_path: Path, theirs: Path) -> Path:
    """Labelled rows of which the classifier gets most right."""
    preds = by_transformers(theirs, TEXTS).argmax(1)
    preds[::5] = (preds[::5] + 1) % 3
    return write_csv(
        tmp_path / "rows.csv", [{"review": t, "mood": NAMES[p]} for t, p in zip(TEXTS, preds, strict=True)]
    )


@pytest.mark.parametrize("kind", tiny.ENCODERS)
def test_the_exported_file_answers_as_transformers_does(kind: str, run: Run, tmp_path: Path) -> None:
    theirs, exported = published(tmp_path / "theirs", kind), tmp_path / "exported"
    outcome = run("export", "--ckpt_path", theirs, "--to", exported)
    assert outcome.code == 0, outcome
    wanted = by_transformers(theirs, TEXTS)
    assert len(set(wanted.argmax(1))) > 1
    assert np.abs(by_transformers(exported, TEXTS) - wanted).max() < 1e-5
    if tiny.ENCODERS[kind].graph:
        assert Predictor(exported).file == "model.onnx"  # none in 8 bits: nothing says what it would lose
        assert np.abs(by_predictor(exported, TEXTS) - wanted).max() < 1e-4


def test_without_labelled_rows_nothing_is_scored_and_the_folder_says_so(
    run: Run, theirs: Path, tmp_path: Path, start: Start
) -> None:
    exported = tmp_path / "exported"
    outcome = run("export", "--ckpt_path", theirs, "--to", exported)
    assert "proof      300 texts of the packaged sample" in outcome.err
    assert "F1" not in outcome.out
    assert "1.0000" in outcome.out  # of the texts, with the same label
    card = (exported / "README.md").read_text()
    assert "It was not scored" in card
    assert "Trained on: unknown" in card
    assert "Recipe" not in card
    assert "learning_rate" not in card
    facts = json.loads((exported / "lit_bert.json").read_text())
    assert (facts["scores"], facts["recipe"]) == ({}, {})
    server = start(exported)
    answer = server.ask("POST", "/predict", json.dumps({"text": TEXTS[0]}), JSON).json
    assert answer["label"] == NAMES[int(by_transformers(theirs, TEXTS[:1]).argmax())]
    assert server.ask("GET", "/").status == 200


def test_it_is_scored_and_then_exported_in_8_bits_too(run: Run, theirs: Path, rows: Path) -> None:
    split = ("--data.val_split=train", "--trainer.precision=32-true")
    outcome = run("validate", "--ckpt_path", theirs, "--data.dataset", rows, *split)
    assert outcome.code == 0, outcome
    assert "not recorded whether these rows were trained on" in outcome.out
    (run_folder,) = Path("checkpoints/published").iterdir()
    found = json.loads((run_folder / "validate.json").read_text())
    labels = [line.split(",")[1] for line in rows.read_text().splitlines()[1:]]
    preds = [NAMES[each] for each in by_transformers(theirs, TEXTS).argmax(1)]
    assert found["scores"]["macro_f1"] == pytest.approx(f1_score(labels, preds, average="macro"), abs=1e-9)
    outcome = run("export", "--ckpt_path", theirs, "--max_f1_loss=100")
    assert outcome.code == 0, outcome
    assert (run_folder / "exported" / "model.int8.onnx").is_file()
    assert "macro F1" in (run_folder / "exported" / "README.md").read_text().lower().replace("f1", "F1")
    assert run("report", run_folder).code == 0


def test_it_labels_texts_and_its_run_is_not_the_newest_fit(run: Run, theirs: Path) -> None:
    outcome = run("predict", TEXTS[0], "--ckpt_path", theirs, "--trainer.precision=32-true")
    wanted = by_transformers(theirs, TEXTS[:1])[0]
    answer = json.loads(outcome.out)
    assert answer["predicted_label"] == NAMES[int(wanted.argmax())]
    assert answer["probability"] == pytest.approx(wanted.max(), abs=1e-5)
    assert "nothing was trained here yet" in run("predict", TEXTS[0]).err
    outcome = run("test", "--ckpt_path", theirs)
    assert outcome.code == 2
    assert "and on what is not known" in outcome.err


def test_a_task_of_several_labels_is_that_of_transformers(run: Run, tmp_path: Path) -> None:
    theirs = published(tmp_path / "theirs", problem_type="multi_label_classification")
    assert run("export", "--ckpt_path", theirs, "--to", tmp_path / "exported").code == 0
    wanted = by_transformers(theirs, TEXTS)
    assert wanted.sum(1).min() < 0.99 or wanted.sum(1).max() > 1.01
    assert np.abs(by_predictor(tmp_path / "exported", TEXTS) - wanted).max() < 1e-4


def test_a_number_is_that_of_transformers(run: Run, tmp_path: Path) -> None:
    theirs = published(tmp_path / "theirs", names=["price"], problem_type="regression")
    assert run("export", "--ckpt_path", theirs, "--to", tmp_path / "exported").code == 0
    values = by_predictor(tmp_path / "exported", TEXTS)
    assert np.abs(values - by_transformers(theirs, TEXTS)).max() < 1e-4


def test_one_output_of_no_type_is_a_question(run: Run, refused: Callable[..., str], tmp_path: Path) -> None:
    theirs = published(tmp_path / "theirs", names=["price"])
    config = json.loads((theirs / "config.json").read_text())
    config.pop("problem_type", None)
    (theirs / "config.json").write_text(json.dumps(config))
    assert "--data.task regression" in refused("export", "--ckpt_path", theirs)
    asked = ("--data.task=regression", "--to", tmp_path / "exported")
    assert run("export", "--ckpt_path", theirs, *asked).code == 0
    raw = by_transformers(theirs, TEXTS, function_to_apply="none")
    values = by_predictor(tmp_path / "exported", TEXTS)
    assert np.abs(values - raw).max() < 1e-4
    asked = ("--data.task=proportion", "--to", tmp_path / "shares")
    assert run("export", "--ckpt_path", theirs, *asked).code == 0
    values = by_predictor(tmp_path / "shares", TEXTS)
    assert np.abs(values - by_transformers(theirs, TEXTS)).max() < 1e-4  # which takes the sigmoid


def test_classes_without_names_are_called_as_transformers_calls_them(run: Run, tmp_path: Path) -> None:
    theirs = published(tmp_path / "theirs", names=["LABEL_0", "LABEL_1"])
    config = json.loads((theirs / "config.json").read_text())
    kept = {name: value for name, value in config.items() if name not in ("id2label", "label2id")}
    (theirs / "config.json").write_text(json.dumps(kept))
    assert run("export", "--ckpt_path", theirs, "--to", tmp_path / "exported").code == 0
    assert Predictor(tmp_path / "exported").labels == ["LABEL_0", "LABEL_1"]
    wanted = by_transformers(theirs, TEXTS)
    assert np.abs(by_predictor(tmp_path / "exported", TEXTS) - wanted).max() < 1e-4


def test_one_label_of_several_is_a_proportion(run: Run, tmp_path: Path) -> None:
    theirs = published(tmp_path / "theirs", names=["toxic"], problem_type="multi_label_classification")
    assert run("export", "--ckpt_path", theirs, "--to", tmp_path / "exported").code == 0
    values = by_predictor(tmp_path / "exported", TEXTS)
    assert np.abs(values - by_transformers(theirs, TEXTS)).max() < 1e-4


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_pairs_are_read_as_transformers_reads_them(kind: str, run: Run, tmp_path: Path) -> None:
    theirs, exported = published(tmp_path / "theirs", kind), tmp_path / "exported"
    assert run("export", "--ckpt_path", theirs, "--data.text_form=pair", "--to", exported).code == 0
    pairs = [(pair["text"], pair["text_pair"]) for pair in PAIRS]
    assert np.abs(by_predictor(exported, pairs) - by_transformers(theirs, PAIRS)).max() < 1e-4
    labelled = [{"premise": a, "hypothesis": b, "label": NAMES[n % 3]} for n, (a, b) in enumerate(pairs)]
    file = write_csv(tmp_path / "pairs.csv", labelled)
    flags = ("--ckpt_path", theirs, "--data.dataset", file, "--data.test_split=train")
    assert "takes a text" in run("test", *flags).err or run("test", *flags).code == 2
    assert run("test", *flags, "--data.text_column=premise,hypothesis").code == 0


def test_a_folder_of_ours_keeps_what_it_knows(run: Run, exported: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert run("export", "--ckpt_path", exported, "--to", again).code == 0
    assert np.abs(by_predictor(again, TEXTS) - by_predictor(exported, TEXTS)).max() < 0.5  # 8 and 32 bits
    first, second = (json.loads((each / "config.json").read_text()) for each in (exported, again))
    assert first == second


def test_what_a_folder_of_ours_says_is_not_overruled(
    run: Run, refused: Callable[..., str], exported: Path, tmp_path: Path
) -> None:
    asked = ("export", "--ckpt_path", exported)
    assert "says that its task is single, and data.task is ordinal" in refused(*asked, "--data.task=ordinal")
    assert "was trained on" in refused(*asked, "--data.text_form=pair")
    outcome = run(*asked, "--data.task=single", "--data.text_form=single", "--to", tmp_path / "again")
    assert outcome.code == 0, outcome


def test_rows_of_another_checkpoint_prove_nothing(run: Run, theirs: Path, rows: Path) -> None:
    flags = ("--ckpt_path", theirs, "--data.dataset", rows, "--data.val_split=train")
    assert run("validate", *flags).code == 0
    published(theirs, names=["calm", "cheerful", "cross"])
    outcome = run("export", "--ckpt_path", theirs)
    assert outcome.code == 2
    assert "is of another checkpoint" in outcome.err


def test_a_classifier_on_the_hub(theirs: Path, tmp_path: Path) -> None:
    with Hub({"owner/moods": theirs}, {}) as hub:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT)}

        def command(*arguments: str) -> subprocess.CompletedProcess[str]:
            whole = [sys.executable, "-m", "lit_bert", *arguments]
            return subprocess.run(whole, env=environment, capture_output=True, text=True, timeout=300)

        ended = command("export", "--ckpt_path", "owner/moods", "--to", "exported")
        assert ended.returncode == 0, ended.stderr
        absent = command("export", "--ckpt_path", "owner/none", "--to", "other")
        assert absent.returncode == 2
        assert "the Hub has no model owner/none" in absent.stderr
        revision = hub.revision("owner/moods")
    assert np.abs(by_predictor(Path("exported"), TEXTS) - by_transformers(theirs, TEXTS)).max() < 1e-4
    card = Path("exported/README.md").read_text()
    assert f"owner/moods (hub, revision {revision[:12]})" in card
    assert "base_model: owner/moods" in card


def broken(change: str, folder: Path) -> None:
    """Makes a folder one that has to be refused."""
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    match change:
        case "an encoder alone":
            tiny.write("bert", folder)
            return
        case "names twice":
            config["id2label"] = {"0": "sad", "1": "sad", "2": "cross"}
        case "a blank name":
            config["id2label"]["1"], config["label2id"] = " ", {"sad": 0, " ": 1, "cross": 2}
        case "another number of classes":
            config["id2label"]["3"] = "calm"
            config["label2id"]["calm"] = 3
        case "a type of no task":
            config["problem_type"] = "clustering"
        case "a number of three outputs":
            config["problem_type"] = "regression"
        case "code":
            config |= {"model_type": "mine", "auto_map": {"AutoModel": "mine.Model"}}
        case "cut on the left":
            tokenizer["truncation_side"] = "left"
        case "no tokenizer":
            for file in folder.glob("tok*"):
                file.unlink()
            return
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("an encoder alone", "is an encoder without a classifier"),
        ("names twice", "names two classes"),
        ("a blank name", "none may be blank"),
        ("another number of classes", "without a classifier of these classes"),
        ("a type of no task", "problem_type of config.json is 'clustering'"),
        ("a number of three outputs", "the parameters of the task do not fit"),
        ("code", "by code from its folder"),
        ("cut on the left", "cuts long texts at their beginning"),
        ("no tokenizer", "no usable tokenizer"),
    ],
)
def test_what_is_no_classifier_is_refused(
    change: str, message: str, refused: Callable[..., str], theirs: Path
) -> None:
    broken(change, theirs)
    assert message in refused("export", "--ckpt_path", theirs)


def test_what_would_be_ignored_or_is_missing_is_refused(
    refused: Callable[..., str], theirs: Path, trained: Path, tmp_path: Path
) -> None:
    assert "expected a file" in refused("fit", "--ckpt_path", theirs)
    assert "knows both" in refused("export", "--ckpt_path", trained / "best.ckpt", "--data.task=single")
    assert "is the folder of a run" in refused("export", "--ckpt_path", trained)
    assert "no checkpoint" in refused("export", "--ckpt_path", "checkpoints/version_9/best.ckpt")
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in refused("export", "--ckpt_path", tmp_path / "empty")
    assert "cannot be had" in refused("export", "--ckpt_path", "owner/name")
