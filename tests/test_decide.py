"""Answers by costs, by a wanted rate, and with a guarantee: from the flag to the server."""

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import CLASSES, texts_of, write_csv
from jsonschema import Draft202012Validator

from lit_bert import Predictor, TextClassifier, UserError
from lit_bert.__main__ import main
from lit_bert.data.cache import text_hash
from lit_bert.evaluate.predictions import TRAINED, VALIDATED, Predictions, read_hashes
from lit_bert.product import openapi
from lit_bert.product.endpoint import encode, info
from lit_bert.product.export import guarantee_rows, proof_rows, with_guarantees
from lit_bert.product.formats import FORMATS, Format
from lit_bert.product.messages import Info, Limits
from lit_bert.product.models import Models
from lit_bert.product.proof import ProofError, measure
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.task.guarantee import Labelled, promise_lines
from lit_bert.task.kinds import task_of
from lit_bert.train.decide import GUARANTEED, by_costs, by_rate, cost_matrix, parse_want, read_costs

NAMES = list(CLASSES)
LONG = ["--trainer.max_epochs=25", "--model.average_decay=0", "--early_stopping.patience=30"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """300 rows of three classes in one file; a tenth has the label of another class."""
    generator = np.random.default_rng(0)
    found = []
    for number, label in enumerate(NAMES):
        for place, text in enumerate(texts_of(label, 100)):
            wrong = generator.random() < 0.1
            found.append({"text": f"{text} {place}", "label": NAMES[(number + wrong) % 3]})
    return write_csv(tmp_path_factory.mktemp("rows") / "rows.csv", found)


@pytest.fixture(scope="module")
def guaranteed(quick, rows, tmp_path_factory):
    """The folder of a fit with guarantees, exported."""
    folder = tmp_path_factory.mktemp("guaranteed")
    flags = [
        f"--data.dataset={rows}",
        "--guarantee=accuracy=0.8,coverage=0.9",
        "--data.guarantee_fraction=0.4",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_BERT_CACHE", str(folder / "cache"))
        place = f"--trainer.logger.init_args.save_dir={folder / 'checkpoints'}"
        assert main(["fit", *quick, *LONG, *flags, place]) == 0
        run = folder / "checkpoints" / "version_0"
        assert main(["export", f"--ckpt_path={run / 'best.ckpt'}", "--max_f1_loss=100"]) == 0
    return run


def test_the_rows_of_a_guarantee_serve_nothing_else(guaranteed):
    kept, validated = (Predictions.read(guaranteed / name) for name in (GUARANTEED, VALIDATED))
    trained = set(read_hashes(guaranteed / TRAINED).tolist())
    assert len(kept.texts) == 120
    assert not set(kept.texts) & set(validated.texts)
    assert not trained & {text_hash(text) for text in kept.texts}
    assert len(trained) + len(kept.texts) + len(validated.texts) == 300
    counts = Checkpoint.open(guaranteed / "best.ckpt").data.rows
    assert counts["train"].left_out["data.guarantee_fraction"] == 120
    promised = kept.task.promises["accuracy"]
    assert (
        promised
        == validated.task.promises["accuracy"]
        == Checkpoint.open(guaranteed / "best.ckpt").task.promises["accuracy"]
    )
    answered = kept.task.answered(kept.outputs)
    assert promised.rows == 120
    assert promised.answered == answered.sum()
    assert promised.wrong == (answered & (kept.preds != kept.labels)).sum()


def test_doubtful_texts_get_no_answer_but_a_reason_and_a_set(run, guaranteed, rows):
    ckpt = f"--ckpt_path={guaranteed / 'best.ckpt'}"
    assert run("predict", ckpt, f"--input={rows}", "--output=out.csv").code == 0
    with open("out.csv", newline="") as stream:
        found = list(csv.DictReader(stream))
    threshold = Checkpoint.open(guaranteed / "best.ckpt").task.promises["accuracy"].threshold
    for row in found:
        assert bool(row["predicted_label"]) == (row["reason"] == "")
        assert (float(row["probability"]) < threshold) == bool(row["reason"])
        assert json.loads(row["label_set"])[0] == max(
            NAMES, key=lambda name: float(row[f"probability_{name}"])
        )
    outcome = run("test", ckpt, "--data.test_split=validation")
    assert "promised: 80 %" in outcome.out
    assert "promised: 90 %" in outcome.out


def test_each_exported_file_has_the_guarantee_of_its_own_answers(guaranteed):
    folder = guaranteed / "exported"
    config = json.loads((folder / "config.json").read_text())
    kept = Predictions.read(guaranteed / GUARANTEED)
    assert config["lit_bert_file_parameters"].keys() == {"model.onnx", "model.int8.onnx"}
    for file in config["lit_bert_file_parameters"]:
        predictor = Predictor(folder, file=file)
        outputs, promised = predictor.probs(kept.texts), predictor.task.promises["accuracy"]
        answered = outputs.max(1) >= promised.threshold
        assert promised.answered == answered.sum()
        assert promised.wrong == (answered & (outputs.argmax(1) != kept.labels)).sum()
        found = predictor(kept.texts)
        assert [each.label is None for each in found] == [not each for each in answered]
        assert all((each.label is None) == (each.reason is not None) for each in found)
        assert all(each.label_set for each in found)
    card = (folder / "README.md").read_text()
    assert "## Guarantees" in card
    assert "at least 80 % of the answers are right" in card


@dataclass(frozen=True)
class Shuffled(Format):
    """A file that gives each class the probability of another one."""

    def open(self, folder):
        outputs_of = super().open(folder)
        return lambda texts: outputs_of(texts)[:, [1, 2, 0]]


def test_a_file_whose_answers_do_not_give_the_guarantee_is_left_out(guaranteed, tmp_path, capsys):
    folder = shutil.copytree(guaranteed / "exported", tmp_path / "copy")
    checkpoint = Checkpoint.open(guaranteed / "best.ckpt")
    rows, kept, exact = proof_rows(checkpoint), guarantee_rows(checkpoint), FORMATS[0]
    wanted = exact.open(folder)(rows.texts)

    def given(*forms):
        found = {form: measure(folder, form, checkpoint.task, rows, wanted) for form in forms}
        return list(with_guarantees(checkpoint, kept, rows, found, folder))

    worse = Shuffled("model.int8.onnx", "onnx:write_int8_file")
    assert given(exact, worse) == [exact]
    assert "model.int8.onnx is left out: --guarantee accuracy=0.8: no threshold" in capsys.readouterr().out
    config = json.loads((folder / "config.json").read_text())
    assert config["lit_bert_file_parameters"].keys() == {"model.onnx"}
    with pytest.raises(ProofError, match="no threshold of model"):
        given(Shuffled("model.onnx", "onnx:write_float32_file", is_exact=True))


def test_the_server_documents_what_it_answers(guaranteed):
    folder = guaranteed / "exported"
    model, limits = Predictor(folder), Limits(10**6, 10, 10**4, 60, 100)
    document = openapi.document(model.task, limits, token=False)
    schema = {**document, "$ref": "#/components/schemas/Prediction"}
    texts = [*Predictions.read(guaranteed / GUARANTEED).texts, "the"]
    answers = model(texts)
    for text, answer in zip(texts[-20:], answers[-20:], strict=True):
        words = model.explain(text)
        for content in (encode(answer), encode(answer, words, explained=model.task.explained(answer))):
            Draft202012Validator(schema).validate(json.loads(content))
    models = Models(several=False)
    models.add("one", folder, None)
    found = info(models.by_name["one"], limits, 1)
    assert found["promises"] == promise_lines(model.task)
    assert Info.model_validate(found)


def test_a_file_without_a_word_on_its_guarantee_is_refused(guaranteed, tmp_path):
    folder = shutil.copytree(guaranteed / "exported", tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    del config["lit_bert_file_parameters"]["model.int8.onnx"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"do not say what model\.int8\.onnx guarantees"):
        Predictor(folder)


def test_an_export_needs_the_rows_of_the_guarantee(refused, guaranteed, tmp_path):
    run = shutil.copytree(
        guaranteed, tmp_path / "moved", ignore=shutil.ignore_patterns(GUARANTEED, "exported")
    )
    message = refused("export", f"--ckpt_path={run / 'best.ckpt'}")
    assert "does not hold its rows" in message


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--guarantee=accuracy=0.98"], "needs at least 149 rows that serve nothing else, and there are 30"),
        (["--guarantee=coverage_by_class=0.99"], "needs at least 99 rows of class"),
        (["--guarantee=accuracy=2"], "--guarantee is 'accuracy=2'; expected"),
        (["--data.guarantee_fraction=0.2"], "are for --guarantee; add it"),
        (["--guarantee=coverage=0.9", "--data.guarantee_split=train"], "serves something else"),
        (["--guarantee=coverage=0.9", "--data.group_column=label"], "rows of one group are not independent"),
        (
            ["--guarantee=coverage=0.9", "--trainer.limit_val_batches=1"],
            "leave --trainer.limit_val_batches out",
        ),
        (["--want=spam:precision=0.9"], "--want has the class 'spam'; expected one of"),
        (["--want=joy:f1=0.9"], "--want is 'joy:f1=0.9'; expected"),
        (["--costs=none.csv"], "none.csv"),
    ],
)
def test_what_cannot_be_given_is_refused_before_the_training(refused, quick, rows, flags, said):
    assert said in refused("fit", *quick, f"--data.dataset={rows}", *flags)


def test_a_rate_that_is_not_reached_leaves_the_checkpoint_without_a_guarantee(run, quick, rows):
    flags = [f"--data.dataset={rows}", "--guarantee=accuracy=0.97", "--data.guarantee_fraction=0.4"]
    outcome = run("fit", *quick, *flags, "--trainer.max_epochs=1")
    assert outcome.code == 2
    assert "no threshold reaches it on the 120 rows kept for it" in outcome.err
    assert not Checkpoint.open("checkpoints/version_0/best.ckpt").task.promises
    assert not Path("checkpoints/version_0", GUARANTEED).exists()


def test_a_resumed_run_gives_its_guarantee_again(run, quick, rows):
    flags = [f"--data.dataset={rows}", "--guarantee=coverage=0.8"]
    assert run("fit", *quick, *flags, "--trainer.max_epochs=1").code == 0
    outcome = run("fit", "--ckpt_path=last", "--trainer.max_epochs=2")
    assert outcome.code == 0, outcome.err
    found = Checkpoint.open("checkpoints/version_0/best.ckpt")
    assert found.task.promises["coverage"].rows == 30
    assert Predictions.read(Path("checkpoints/version_0", GUARANTEED)).facts["sha256"] == found.sha256
    assert run("export", "--max_f1_loss=100").code == 0


def test_a_split_of_its_own_gives_a_guarantee_to_a_run_that_goes_on(run, quick, corpus):
    data = Path(shutil.copytree(corpus, "data"))
    shutil.copy(data / "test.csv", data / "kept.csv")
    flags = [*quick, f"--data.dataset={data}", "--trainer.max_epochs=1"]
    assert run("fit", *flags).code == 0
    outcome = run("fit", "--ckpt_path=last", "--trainer.max_epochs=2", "--guarantee=coverage=0.8")
    assert outcome.code == 2
    assert "it kept none. Name a split of them with --data.guarantee_split" in outcome.err
    more = ["--guarantee=coverage=0.8", "--data.guarantee_split=kept"]
    outcome = run("fit", "--ckpt_path=last", "--trainer.max_epochs=2", *more)
    assert outcome.code == 0, outcome.err
    kept = Predictions.read(Path("checkpoints/version_0", GUARANTEED))
    assert len(kept.texts) == kept.task.promises["coverage"].rows == 24


LABELS = {  # of each kind, by the number of the row and its class
    "multi_label": lambda number, place: ["", "a", "a|b"][place] + "|c" * (number % 7 == 0),
    "regression": lambda number, place: place + number % 5 / 10,
    "ordinal": lambda number, place: 1 + place,
}


@pytest.mark.parametrize("kind", LABELS)
def test_each_kind_of_task_gives_its_guarantee_from_the_fit_to_the_server(run, quick, kind):
    texts = [(text, place) for place, name in enumerate(NAMES) for text in texts_of(name, 60)]
    rows = [
        {"text": f"{text} {number}", "label": LABELS[kind](number, place)}
        for number, (text, place) in enumerate(texts)
    ]
    flags = [f"--data.dataset={write_csv(Path('rows.csv'), rows)}", f"--data.task={kind}"]
    flags += ["--data.label_separator=|"] * (kind == "multi_label")
    wanted = "coverage=0.8" + ",accuracy=0.4" * (kind == "ordinal")
    outcome = run("fit", *quick, *flags, *LONG, f"--guarantee={wanted}", "--data.guarantee_fraction=0.3")
    assert outcome.code == 0, outcome.err
    assert "promised: 80 %" in outcome.out
    assert run("export", "--max_f1_loss=100").code == 0
    kept = Predictions.read(Path("checkpoints/version_0", GUARANTEED))
    assert kept.task.held(kept.outputs, kept.labels).mean() >= 0.8
    assert run("predict", "--input=rows.csv", "--output=out.csv", *(["--prefix=new_"])).code == 0
    predictor = Predictor("checkpoints/version_0/exported")
    held = predictor.task.held(predictor.probs(kept.texts), kept.labels)
    assert held.mean() >= 0.8
    schema = {**predictor.task.answer_schema(), "truncated": {"type": "boolean"}}
    whole = {"type": "object", "properties": schema, "required": list(schema), "additionalProperties": False}
    for answer in predictor(kept.texts):
        assert Draft202012Validator(whole).is_valid(json.loads(json.dumps(answer._asdict())))
    with open("out.csv", newline="") as stream:
        columns = set(next(csv.reader(stream)))
    added = {"regression": {"low", "high"}, "multi_label": {"label_set"}, "ordinal": {"low", "reason"}}
    assert {f"new_{name}" for name in added[kind]} < columns


@pytest.mark.parametrize(
    ("kind", "flag", "said"),
    [
        ("regression", "--guarantee=accuracy=0.5", "the task is regression; expected coverage"),
        ("regression", "--costs=costs.csv", "--costs is for one label a text; the task is regression"),
        ("ordinal", "--want=1:recall=0.5", "--want is for one label a text without an order"),
    ],
)
def test_what_a_kind_of_task_has_not_is_refused(refused, quick, kind, flag, said):
    rows = [{"text": text, "label": number % 3 + 1} for number, text in enumerate(texts_of(NAMES[0], 60))]
    Path("costs.csv").write_text(COSTS)
    flags = [f"--data.dataset={write_csv(Path('rows.csv'), rows)}", f"--data.task={kind}"]
    assert said in refused("fit", *quick, *flags, flag)


def test_an_estimator_says_none_where_it_does_not_answer(tiny_bert, rows):
    with open(rows, newline="") as stream:
        found = list(csv.DictReader(stream))
    texts, labels = ([row[name] for row in found] for name in ("text", "label"))
    settings = {
        "guarantee": "accuracy=0.4",
        "data.guarantee_fraction": 0.4,
        "model.average_decay": 0,
        "early_stopping.patience": 30,
    }
    model = TextClassifier(str(tiny_bert), max_epochs=20, batch_size=8, learning_rate=3e-3, settings=settings)
    predicted = model.fit(texts, labels).predict(texts)
    answered = model.task_.answered(model.predict_proba(texts))
    assert [each is None for each in predicted] == (~answered).tolist()
    assert model.score(texts, labels) == np.mean(predicted == np.array(labels, object))


# --- costs and wanted rates

COSTS = "true,a,b,c\na,0,1,1\nb,5,0,1\nc,1,1,0\n"


def outputs(count=2000, seed=0):
    generator = np.random.default_rng(seed)
    probs = generator.dirichlet([1, 1, 1], count)
    labels = (probs.cumsum(1) < generator.random((count, 1))).sum(1)
    return Labelled(probs.astype(np.float32), np.minimum(labels, 2))


def test_costs_make_the_answer_the_class_of_the_least_expected_cost():
    Path("costs.csv").write_text(COSTS)
    costs = read_costs(Path("costs.csv"))
    task, fact = by_costs(task_of("single", "abc"), costs, outputs())
    assert task.predictions(np.array([[0.7, 0.2, 0.1]], np.float32)).tolist() == [1]  # 1.1 of a, 0.8 of b
    assert task.answer(np.array([0.7, 0.2, 0.1], np.float32), False).label == "b"
    assert fact["costs"]["after"] < fact["costs"]["before"]
    ordered = by_costs(task_of("ordinal", "abc"), costs, outputs())[0]
    assert ordered.predictions(np.array([[0.7, 0.2, 0.1]], np.float32)).tolist() == [1]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "true,a\na,0\n",
        COSTS.replace("5", "-5"),
        COSTS.replace("5", "inf"),
        COSTS.replace("5", "x"),
        COSTS + "a,0,0,0\n",
    ],
)
def test_costs_that_are_none_are_refused(content):
    Path("costs.csv").write_text(content)
    with pytest.raises(UserError, match="expected"):
        by_costs(task_of("single", "abc"), read_costs(Path("costs.csv")), outputs())


@pytest.mark.parametrize(("which", "rate"), [("precision", 0.8), ("recall", 0.9)])
def test_a_wanted_rate_is_reached_on_the_rows_that_chose_it(which, rate):
    found = outputs()
    task, fact = by_rate(task_of("single", "abc"), f"b:{which}={rate}", found)
    given, has = task.predictions(found.outputs) == 1, found.labels == 1
    reached = (given & has).sum() / (given if which == "precision" else has).sum()
    assert rate <= reached < rate + 0.02
    assert fact["wanted"]["chosen"][which][0] == pytest.approx(reached)
    low, high = fact["wanted"]["other_rows"][which][1:]
    assert low < rate < high
    assert parse_want("a:b:recall=0.5") == ("a:b", True, 0.5)


def test_costs_hold_from_the_fit_to_the_export(run, quick, corpus):
    a, b, c = NAMES
    Path("costs.csv").write_text(f",{a},{b},{c}\n{a},0,9,9\n{b},1,0,1\n{c},1,1,0\n")
    costs = read_costs(Path("costs.csv"))
    outcome = run("fit", *quick, "--costs=costs.csv")
    assert outcome.code == 0, outcome.err
    assert "answers by costs: " in outcome.out
    Path("costs.csv").unlink()  # the checkpoint has them
    validated = Predictions.read(Path("checkpoints/version_0", VALIDATED))
    matrix = cost_matrix(costs, validated.class_names)
    assert validated.preds.tolist() == (validated.outputs.astype(float) @ matrix).argmin(1).tolist()
    assert run("validate").code == 0
    assert run("fit", "--ckpt_path=last", "--trainer.max_epochs=3").code == 0
    assert run("export", "--max_f1_loss=100").code == 0
    validated = Predictions.read(Path("checkpoints/version_0", VALIDATED))
    found = Predictor("checkpoints/version_0/exported", file="model.onnx")(validated.texts)
    assert [each.label for each in found] == [validated.class_names[each] for each in validated.preds]
    assert "## Decision" in Path("checkpoints/version_0/exported/README.md").read_text()
