"""Numbers from 0 to 1: their loss, scores and answers, what is refused, and the way from file to answer."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES, Outcome, Run, files, texts_of, write_csv
from jsonschema import Draft202012Validator
from scipy import stats
from serving import Running, Start
from sklearn import metrics
from torch.nn import functional

from lit_bert import BertClassifier, EmotionDataModule, Predictor, UserError
from lit_bert.__main__ import main
from lit_bert.evaluate import scores
from lit_bert.evaluate.predictions import Predictions
from lit_bert.product.folder import CHECKSUMS
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.task.kinds import task_of_plain
from lit_bert.task.proportion import Proportion

TASK = Proportion.of(["toxicity"], {"interval": [0.25]})
LOGITS = np.array([[-30.0], [-1.0], [0.0], [2.0], [30.0]], dtype=np.float32)


def some_rows(N: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Outputs (N, 1), and labels (N,) of ten annotators each, with ties, 0 and 1 among them."""
    generator = np.random.default_rng(0)
    logits = generator.normal(-1, 2, (N, 1)).astype(np.float32)
    outputs = TASK.outputs(logits)
    return outputs, (generator.binomial(10, outputs[:, 0]) / 10).astype(np.float32)


# --- the task ---


def test_the_loss_is_the_cross_entropy_of_torch_and_ignores_smoothing():
    labels = torch.tensor([0.0, 0.25, 0.5, 1.0, 0.9])
    logits = torch.from_numpy(LOGITS)
    each = functional.binary_cross_entropy_with_logits(logits[:, 0], labels, reduction="none")
    assert torch.equal(TASK.loss(functional, logits, labels), each.mean())
    assert torch.equal(TASK.training_loss(functional, logits, labels, 0.1), each.mean())
    weights = torch.tensor([0.0, 3.0, 1.0, 0.5, 0.5])
    assert torch.equal(TASK.loss(functional, logits, labels, 0.0, weights), (weights * each).mean())
    inner, of_inner = logits[1:4], labels[1:4]  # beyond, a float32 knows of no smaller probability
    rows = TASK.row_losses(TASK.outputs(inner.numpy()), of_inner.numpy())
    assert rows == pytest.approx(each[1:4].numpy(), rel=1e-5)


def test_labels_keep_their_bits_beside_logits_of_16():
    found = TASK.loss(functional, torch.tensor([[8.0]], dtype=torch.bfloat16), torch.tensor([1 / 3]))
    assert found.item() == pytest.approx(np.logaddexp(0, 8) - 8 / 3, rel=1e-6)


def test_the_least_loss_is_at_the_mean_of_the_numbers():
    labels = torch.tensor([0.0, 0.0, 0.1, 1.0, 0.4])
    logit = torch.zeros(1, 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([logit], max_iter=50, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = TASK.loss(functional, logit.expand(5, 1), labels)
        loss.backward()
        return loss

    optimizer.step(step)
    assert TASK.outputs(logit.detach().numpy()).item() == pytest.approx(0.3, abs=1e-4)


def test_scores_are_those_of_sklearn_and_scipy():
    outputs, labels = some_rows()
    values, found = outputs[:, 0], scores.all_scores(TASK, outputs, labels)
    assert found.r2 == pytest.approx(metrics.r2_score(labels, values), rel=1e-6)
    assert found.mae == pytest.approx(metrics.mean_absolute_error(labels, values), rel=1e-6)
    assert found.rmse == pytest.approx(metrics.root_mean_squared_error(labels, values), rel=1e-6)
    assert found.pearson == pytest.approx(stats.pearsonr(labels, values).statistic, rel=1e-6)
    assert found.spearman == pytest.approx(stats.spearmanr(labels, values).statistic, rel=1e-6)
    # A share y is a yes that counts y, and a no that counts 1 - y.
    both = np.r_[np.ones(len(labels)), np.zeros(len(labels))], np.r_[values, values].astype(float)
    loss = metrics.log_loss(*both, sample_weight=np.r_[labels, 1 - labels].astype(float))
    assert found.loss_nats == pytest.approx(loss, rel=1e-5)
    assert found.chosen_by == found.r2


def test_an_answer_is_the_sigmoid_with_an_interval_within_0_and_1():
    outputs = TASK.outputs(LOGITS)
    assert outputs[:, 0] == pytest.approx(torch.from_numpy(LOGITS).sigmoid()[:, 0].numpy(), abs=1e-7)
    answers = [TASK.answer(row, truncated=False) for row in outputs]
    assert [(each.low, each.high) for each in answers] == [
        pytest.approx(ends, abs=1e-4)
        for ends in ((0, 0.25), (0.0189, 0.5189), (0.25, 0.75), (0.6308, 1), (0.75, 1))
    ]
    assert all(0 <= each.low <= each.value <= each.high <= 1 for each in answers)
    assert TASK.cells(outputs[2]) == [0.5, 0.25, 0.75]
    schema = {"type": "object", "properties": TASK.answer_schema()}
    validator = Draft202012Validator(schema)
    assert all(validator.is_valid({**each._asdict()}) for each in answers)
    assert not validator.is_valid({"value": 1.01})
    assert validator.is_valid(Proportion.of(["x"]).answer(outputs[0], truncated=False)._asdict())


def test_an_interval_of_other_rows_holds_nine_in_ten():
    outputs, labels = some_rows(2000)
    task = TASK.choose(outputs[:1000], labels[:1000]).task
    ends = [task.answer(row, truncated=False) for row in outputs[1000:]]
    held = [each.low <= label <= each.high for each, label in zip(ends, labels[1000:].tolist(), strict=True)]
    assert np.mean(held) == pytest.approx(0.9, abs=0.03)
    note = task.choice_note({"kept": True, "rows": 1000, "half_width": task.half_width})
    assert note.endswith("by the errors of 1,000 rows, cut off at 0 and 1")
    assert "cut off" not in task.choice_note({"kept": False, "rows": 5})


@pytest.mark.parametrize(
    ("names", "parameters"),
    [
        (["x"], {"scale": [0.0, 1.0]}),
        (["x"], {"interval": [-0.1]}),
        (["x", "y"], {}),
        (["x"], {"thresholds": [0.5]}),
    ],
)
def test_parameters_of_other_kinds_are_refused(names, parameters):
    with pytest.raises(UserError, match="the parameters of the task do not fit"):
        task_of_plain("proportion", names, parameters)


def test_a_file_of_predictions_with_other_numbers_is_refused(tmp_path):
    rows = np.arange(3)
    right = Predictions(TASK, ["a", "b", "c"], rows, np.float32([0, 0.5, 1]), np.float32([[0], [0.5], [1]]))
    right.write(tmp_path / "right.parquet")
    again = Predictions.read(tmp_path / "right.parquet")
    assert (again.task, again.labels.tolist()) == (TASK, [0.0, 0.5, 1.0])
    for labels, outputs in (([0, 0.5, 1.5], [[0], [0.5], [1]]), ([0, 0.5, 1], [[0], [-0.5], [1]])):
        file = tmp_path / "wrong.parquet"
        Predictions(TASK, ["a", "b", "c"], rows, np.float32(labels), np.float32(outputs)).write(file)
        with pytest.raises(UserError, match=r"(below 0 or above 1)"):
            Predictions.read(file)


# --- what is refused ---


def shares(place: Path, **wrong: float) -> Path:
    """A folder with three splits, of shares of five annotators; the third row of some splits has another."""
    usual = {"joy": (0.8, 1.0), "sadness": (0.0, 0.2), "anger": (0.4, 0.6)}
    place.mkdir()
    for split, start, stop in (("train", 0, 20), ("validation", 20, 28), ("test", 28, 36)):
        rows: list[dict[str, object]] = [
            {"text": text, "toxicity": usual[name][number % 2]}
            for name in CLASSES
            for number, text in enumerate(texts_of(name, 36)[start:stop])
        ]
        rows[2]["toxicity"] = wrong.get(split, rows[2]["toxicity"])
        write_csv(place / f"{split}.csv", rows)
    return place


def fit(run: Run, tiny_bert: Path, data: Path, *flags: str, task: str = "proportion") -> Outcome:
    given = [f"--weights.pretrained={tiny_bert}", f"--data.dataset={data}", f"--data.task={task}"]
    return run("fit", *given, "--data.label_column=toxicity", "--trainer.accelerator=cpu", *flags)


@pytest.mark.parametrize(("split", "number"), [("train", 1.25), ("validation", -0.01), ("train", 35)])
def test_a_number_outside_is_refused_by_its_row(run: Run, tiny_bert: Path, split: str, number: float):
    data, before = shares(Path("data"), **{split: number}), files()
    outcome = fit(run, tiny_bert, data)
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1] == (
        f"lit_bert fit: row 3 (line 4) of split {split} of {data.resolve()} has the number {float(number)} "
        "in column 'toxicity'; expected a number from 0 to 1. Correct the row, or name another column with "
        "--data.label_column."
    )
    assert files() == before


def test_tokens_that_another_kind_has_cached_are_not_taken_unchecked(run: Run, tiny_bert: Path):
    data = shares(Path("data"), train=1.25)
    assert fit(run, tiny_bert, data, "--trainer.max_epochs=1", task="regression").code == 0
    outcome = fit(run, tiny_bert, data)
    assert (outcome.code, "has the number 1.25" in outcome.err) == (2, True)


def test_a_column_without_numbers_is_refused(run: Run, tiny_bert: Path):
    write_csv(Path("rows.csv"), [{"text": text, "toxicity": "low"} for text in texts_of("joy", 20)])
    outcome = fit(run, tiny_bert, Path("rows.csv").resolve())
    assert (outcome.code, "has no numbers in column 'toxicity'" in outcome.err) == (2, True)


def test_shares_are_not_taken_for_proportions_by_themselves(weights):
    data = EmotionDataModule(str(shares(Path("data"))), weights=weights, label_column="toxicity")
    assert data.task == "regression"


# --- from a file to an answer ---


@pytest.fixture(scope="module")
def finished(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data in `data`, and a finished run and its export in `checkpoints/version_0`."""
    place = tmp_path_factory.mktemp("proportion")
    data = shares(place / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_BERT_CACHE", str(place / "cache"))
        patch.chdir(place)
        flags = ["--trainer.max_epochs=15", "--early_stopping.patience=15", "--model.adversarial_norm=0"]
        tiny = [f"--weights.pretrained={tiny_bert}", "--model.learning_rate=0.003", "--data.batch_size=8"]
        labels = ["--data.label_column=toxicity", "--data.task=proportion", "--trainer.accelerator=cpu"]
        assert main(["fit", f"--data.dataset={data}", *tiny, *labels, *flags]) == 0
        assert main(["export", "--max_f1_loss=100"]) == 0
    return place


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run to work in."""
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


BEST, EXPORTED = Path("checkpoints/version_0/best.ckpt"), Path("checkpoints/version_0/exported")
TEXTS = [text for name in CLASSES for text in texts_of(name, 36)[28:]]


def test_it_is_learned_and_scored_the_same_everywhere(run: Run, place: Path):
    checkpoint = Checkpoint.open(str(BEST))
    task = checkpoint.task
    assert isinstance(task, Proportion)
    assert (checkpoint.model.task, task.class_names, list(task.parameters)) == (
        "proportion",
        ("toxicity",),
        ["interval"],
    )
    record = json.loads(Path("checkpoints/version_0/validate.json").read_text())
    assert record["scores"]["r2"] > 0.8
    assert record["scores"].keys() >= {score.key for score in task.scores}
    outcome = run("test")
    assert outcome.code == 0, outcome.err
    stored = Predictions.read(Path("checkpoints/version_0/test.parquet"))
    assert f"R²          {stored.scores.r2:.4f}" in outcome.out
    assert stored.scores.r2 == pytest.approx(metrics.r2_score(stored.labels, stored.outputs[:, 0]), rel=1e-6)
    model = BertClassifier.load_from_checkpoint(str(BEST)).eval()
    data = EmotionDataModule.load_from_checkpoint(str(BEST))
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    outputs = task.outputs(model(batch["input_ids"], batch["attention_mask"]).detach().numpy())
    by_row = dict(zip(stored.rows.tolist(), stored.outputs, strict=True))
    wanted = np.stack([by_row[row] for row in batch["rows"].tolist()])
    assert outputs == pytest.approx(wanted, abs=0.02)  # bf16 beside 32 bits


def test_a_run_goes_on(run: Run, place: Path):
    outcome = run("fit", "--ckpt_path=last", "--trainer.max_epochs=16")
    assert outcome.code == 0, outcome.err
    assert "epoch 16" in outcome.err
    assert Checkpoint.open("checkpoints/version_0/last.ckpt").model.task == "proportion"


def test_predict_adds_a_number_with_its_interval(run: Run, place: Path):
    outcome = run("predict", "--input=data/test.csv", "--output=labelled.csv")
    assert outcome.code == 0, outcome.err
    with Path("labelled.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["text", "toxicity", "predicted_value", "low", "high"]
    for row in rows:
        low, value, high = (float(row[name]) for name in ("low", "predicted_value", "high"))
        assert 0 <= low < value < high <= 1
        assert value == pytest.approx(float(row["toxicity"]), abs=0.35)
    assert any(row["low"] == "0.0" for row in rows)
    assert any(row["high"] == "1.0" for row in rows)


def test_test_refuses_a_number_outside(run: Run, place: Path):
    data = shares(Path("other"), test=2)
    outcome = run("test", f"--data.dataset={data}")
    assert outcome.code == 2
    assert "row 3 (line 4) of split test" in outcome.err
    assert "has the number 2.0 in column 'toxicity'; expected a number from 0 to 1" in outcome.err


def test_a_report_and_an_audit_know_the_numbers(run: Run, place: Path, tiny_bert: Path):
    pytest.importorskip("captum")
    outcome = run("report", "checkpoints/version_0", "--output=page.html")
    assert outcome.code == 0, outcome.err
    page = Path("page.html").read_text(encoding="utf-8")
    assert "what the number gains over a text of [MASK] only, in log-odds, is shared out" in page
    assert "cross-entropy" in page
    found = json.loads(
        page.split('<script type="application/json"')[1].split(">", 1)[1].split("</script>")[0]
    )
    ends = [[float(end) for end in row["i"].split(" – ")] for row in found["rows"]]
    assert min(low for low, _ in ends) == 0
    assert max(high for _, high in ends) == 1
    table = run("report", "checkpoints/version_0", "checkpoints/version_0")
    assert (table.code, "Spearman" in table.out, "McNemar" in table.out) == (0, True, False)
    labels = ["--data.dataset=data", "--data.label_column=toxicity", "--data.task=proportion"]
    training = [f"--weights.pretrained={tiny_bert}", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    folds = run("audit", "--folds=2", *labels, *training)
    assert folds.code == 0, folds.err
    assert "of 60 labels" in folds.out


def test_the_pipeline_of_transformers_reads_the_same_number(run: Run, place: Path):
    from transformers import pipeline

    config = json.loads((EXPORTED / "config.json").read_text())
    assert (config["problem_type"], config["lit_bert_task"], config["id2label"]) == (
        "multi_label_classification",
        "proportion",
        {"0": "toxicity"},
    )
    found = pipeline("text-classification", model=str(EXPORTED))(TEXTS)
    answers = Predictor(EXPORTED, file="model.onnx")(TEXTS)
    assert [each["label"] for each in found] == ["toxicity"] * len(TEXTS)
    assert [each["score"] for each in found] == pytest.approx([each.value for each in answers], abs=1e-6)
    run("predict", "--input=data/test.csv", "--output=labelled.jsonl", "--trainer.precision=32-true")
    rows = [json.loads(line) for line in Path("labelled.jsonl").read_text().splitlines()]
    assert [row["predicted_value"] for row in rows] == pytest.approx(
        [each.value for each in answers], abs=2e-5
    )
    assert [row["low"] for row in rows] == pytest.approx([each.low for each in answers], abs=2e-5)


def test_an_export_has_its_proof_and_its_limits(place: Path):
    facts = json.loads((EXPORTED / "lit_bert.json").read_text())
    assert facts["task"] == "proportion"
    assert facts["files"]["model.onnx"]["difference"] < 1e-5
    assert (EXPORTED / CHECKSUMS).is_file()
    card = (EXPORTED / "README.md").read_text()
    assert "It gives a number from 0 to 1 (toxicity) to any text" in card
    assert "| cross-entropy, nats per text |" in card


@pytest.fixture(scope="module")
def server(start: Start, finished: Path) -> Running:
    pytest.importorskip("uvicorn")
    return start(finished / EXPORTED)


def test_the_server_answers_as_the_predictor_and_as_its_schema_says(server: Running, finished: Path):
    predictor = Predictor(finished / EXPORTED)
    (answer,) = predictor([TEXTS[0]])
    found = server.predict(TEXTS[0]).json
    assert found == pytest.approx(answer._asdict())
    explained = server.predict(TEXTS[0], explain=True).json
    assert len(explained["words"]) == len(TEXTS[0].split())
    (tei,) = server.ask(
        "POST", "/", json.dumps({"inputs": TEXTS[0]}), {"Content-Type": "application/json"}
    ).json
    assert tei == {"label": "toxicity", "score": pytest.approx(answer.value)}
    info = server.ask("GET", "/info").json
    assert (info["task"], info["label_form"], info["main_score"]["name"]) == ("proportion", "number", "r2")
    document = server.ask("GET", "/openapi.json").json
    schema = document["components"]["schemas"]["Prediction"]
    assert schema["properties"]["value"]["maximum"] == 1
    assert Draft202012Validator({**document, **schema}).is_valid(found)
    assert "proportion" in document["components"]["schemas"]["Info"]["properties"]["task"]["description"]
