"""Few rows: the recipe, the methods, and scores of rows that no network has seen."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from conftest import CLASSES, texts_of, write_csv

from lit_bert import Predictor
from lit_bert.encoders.table import encoder_of
from lit_bert.evaluate.predictions import VALIDATED, Predictions
from lit_bert.model.bert import CpuBert
from lit_bert.model.head import Head, best_head, fit_head
from lit_bert.model.mean_layer import SLOPE, add_mean_layer, can_add_mean_layer
from lit_bert.model.pretrained import load_network
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.weights import Weights
from lit_bert.task.kinds import task_of
from lit_bert.train.methods import METHODS
from lit_bert.train.race import best_method, corrected_score
from lit_bert.train.recipe import FEW_ROWS, STEPS, epochs_for, recipe_for
from lit_bert.train.zero_shot import PRIOR, SCALE, name_prior, read_descriptions

RUN = Path("checkpoints/version_0")


@pytest.fixture
def few(tmp_path: Path) -> Path:
    rows = [{"text": text, "label": label} for label in CLASSES for text in texts_of(label, 12)]
    return write_csv(tmp_path / "few.csv", rows)


@pytest.fixture
def fit(run, tiny_bert, few):
    """Fits on the few rows; gives what is shown."""

    def call(*flags, data=few):
        arguments = [
            f"--weights.pretrained={tiny_bert}",
            f"--data.dataset={data}",
            "--model.learning_rate=1e-3",
        ]
        outcome = run("fit", *arguments, "--trainer.accelerator=cpu", *flags)
        assert outcome.code == 0, outcome.err
        return outcome.out + outcome.err

    return call


# --- the mean of all tokens as a layer


@pytest.mark.parametrize("name", tiny.WHOLE)
def test_the_layer_has_the_head_read_the_mean_of_all_tokens(name, tmp_path):
    weights = Weights(str(tiny.write(name, tmp_path / name)))
    torch.manual_seed(0)
    network = load_network(weights, ["a", "b"]).eval()
    has_own = name not in ("albert", "mpnet", "deberta-v2", "modernbert")
    assert can_add_mean_layer(network) is has_own
    if not has_own:
        return
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 1, 1]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    states = encoder_of(network).base_of(network)(ids, mask).last_hidden_state
    mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    normed = torch.nn.functional.layer_norm(mean, mean.shape[-1:], eps=1e-12)
    add_mean_layer(network)
    network.eval()
    seen = []
    encoder_of(network).logits_of(network).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(input_ids=ids, attention_mask=mask)
    shift = encoder_of(network).head_shift
    activation = {"distilbert": torch.relu, "electra": torch.nn.functional.gelu}.get(name, torch.tanh)
    wanted = activation(SLOPE * normed + shift)
    torch.testing.assert_close(seen[0], wanted, atol=5e-3, rtol=0)
    if CpuBert.can_run(network):
        CpuBert(network)(ids, mask)
        torch.testing.assert_close(seen[1], wanted, atol=5e-3, rtol=0)


# --- the last layer


def test_the_head_is_that_of_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(60, 5, generator=generator), torch.arange(60) % 3
    strength, scale = 0.05, float(features.square().sum(1).mean().sqrt())

    def loss(logits, rows):
        return torch.nn.functional.cross_entropy(logits, labels[rows])

    start = Head(torch.zeros(3, 5), torch.zeros(3))
    head = fit_head(features, torch.arange(60), loss, strength, start)
    # scikit-learn's C weighs the sum of losses against ‖W‖² / 2.
    other = linear.LogisticRegression(C=1 / (60 * strength * scale**2), tol=1e-8, max_iter=1000)
    wanted = other.fit(features.numpy(), labels.numpy()).predict_proba(features.numpy())
    np.testing.assert_allclose(head.logits(features).softmax(1).numpy(), wanted, atol=1e-3)


def test_noise_gets_the_strongest_penalty_and_a_signal_a_weak_one():
    generator = torch.Generator().manual_seed(1)
    labels, folds = torch.arange(80) % 2, np.arange(80) // 2 % 4
    noise = torch.randn(80, 20, generator=generator)
    signal = noise.clone()
    signal[:, 0] = 4.0 * labels - 2.0

    def loss(logits, rows):
        return torch.nn.functional.cross_entropy(logits, labels[rows])

    norms = [best_head(each, folds, 2, loss).weight.norm().item() for each in (noise, signal)]
    assert norms[0] < 0.1 < norms[1]


# --- the recipe


def choices(rows: int, classes: int, *more: object) -> dict[str, object]:
    return {each.name: each.value for each in recipe_for(rows, classes, *more)}


def clouds(rows: int, seed: int = 0):
    """Features around four unit vectors, which of them each row is of, and a head that knows the vectors."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.nn.functional.normalize(torch.randn(4, 64, generator=generator), dim=1)
    labels = torch.arange(4).repeat_interleave(rows)
    features = centres[labels] + 0.25 * torch.randn(4 * rows, 64, generator=generator)
    return features, labels, Head(SCALE * centres, torch.zeros(4))


def test_few_rows_say_more_beside_what_the_classes_are_called():
    features, labels, names = clouds(53)
    some = torch.arange(4 * 53).view(4, 53)[:, :3].flatten()
    found = []
    for prior in (None, name_prior(names, features[some], labels[some])):
        head = best_head(
            features[some],
            np.arange(12) % 3,
            4,
            lambda logits, rows: torch.nn.functional.cross_entropy(logits, labels[some][rows]),
            prior=prior,
        )
        found.append((head.logits(features).argmax(1) == labels).float().mean().item())
    assert found[1] > found[0] + 0.1


def test_names_that_say_nothing_of_the_rows_are_not_asked():
    features, labels, names = clouds(20)
    assert name_prior(names, features, labels).weight.norm() == pytest.approx(2 * PRIOR)  # of 4 unit vectors
    assert name_prior(names, features, labels.roll(20)) is None  # each class under the name of another


def test_the_recipe_counts_steps_and_not_epochs():
    assert choices(16_000, 6)["trainer.max_epochs"] == 3
    assert choices(16_000, 6)["data.batch_size"] == 32
    for rows in (10, 48, 100, 500, 1000, 1999, 2000, 5000, 100_000):
        found = choices(rows, 6)
        steps = found["trainer.max_epochs"] * -(-rows // found["data.batch_size"])
        assert steps >= STEPS
        assert found["trainer.max_epochs"] >= 3
        validations = found["trainer.max_epochs"] / found["trainer.check_val_every_n_epoch"]
        assert 1 <= validations <= 10
    assert epochs_for(100, 16) == choices(100, 2)["trainer.max_epochs"]
    assert choices(100, 2, None, 7)["trainer.max_epochs"] == 7
    assert choices(100, 2, 8)["data.batch_size"] == 8


def test_the_classifier_starts_as_the_best_one_where_classes_have_few_rows():
    assert choices(1000, 77)["model.head_start"]
    assert not choices(1000, 6)["model.head_start"]
    assert choices(1000, 77)["model.pooling"] == "mean"
    assert choices(1000, 77, None, None, False)["model.pooling"] == "first"
    assert choices(16_000, 77)["model.pooling"] == "first"


# --- which method is kept


def test_a_method_has_to_be_better_beyond_chance_to_take_the_place_of_the_first():
    task = task_of("single", ["a", "b"], {})
    labels = np.tile([0, 1], 100)
    right = np.where(labels[:, None] == [0, 1], 0.9, 0.1).astype(np.float32)
    guess = np.full((200, 2), 0.5, np.float32) + np.tile([[0.01, -0.01], [-0.01, 0.01]], (100, 1)).astype(
        np.float32
    )
    guess[:80] = guess[:80, ::-1]
    assert best_method(task, {"first": guess, "other": right}, labels) == "other"
    assert best_method(task, {"first": right, "other": guess}, labels) == "first"
    almost = right.copy()
    almost[0] = almost[0, ::-1]
    assert best_method(task, {"first": almost, "other": right}, labels) == "first"


def test_the_corrected_score_of_guesses_is_chance():
    """The best of 20 guessing methods looks better than chance on the rows that choose it."""
    task, generator = task_of("single", ["a", "b"], {}), np.random.default_rng(0)
    naive, corrected = [], []
    for _ in range(20):
        labels = generator.integers(2, size=30)
        outputs = {}
        for method in range(20):
            first = generator.random(30).astype(np.float32)
            outputs[str(method)] = np.stack([first, 1 - first], axis=1)
        scores = [task.main_scorer(each, labels)(np.ones(30)) for each in outputs.values()]
        naive.append(max(scores))
        corrected.append(corrected_score(task, outputs, labels))
    assert np.mean(naive) > 0.62
    assert abs(np.mean(corrected) - 0.48) < 0.05  # macro F1 of a guess is a little below a half


# --- whole runs


def test_few_rows_are_all_trained_on_and_each_is_scored_by_networks_that_have_not_seen_it(fit, run, tmp_path):
    shown = fit("--seed_everything=1")
    assert "rows       36 to train on, each scored by a network that has not seen it" in shown
    assert "split train, cross-validated, 36 rows" in shown
    assert "baseline   no training, the nearest class name: macro F1 0." in shown
    for name in ("soup", "frozen"):
        assert f"method     {name}: macro F1" in shown
    assert "once corrected for the choice between them" in shown
    assert "recipe     data.batch_size 16" in shown
    found = Predictions.read(RUN / VALIDATED)
    assert sorted(found.rows) == list(range(36))
    record = json.loads((RUN / "validate.json").read_text())
    assert "choosing the method" in record["used_for"]
    assert not any("training" in each for each in record["used_for"])
    checkpoint = Checkpoint.open(RUN / "best.ckpt")
    assert checkpoint.weights.architecture["num_hidden_layers"] == 3  # the tiny BERT has two
    assert "validation" not in checkpoint.data.rows
    # Everything else takes it as any other.
    rows = [{"text": text, "label": label} for label in CLASSES for text in texts_of(label, 15)[12:]]
    test = write_csv(tmp_path / "test.csv", rows)
    outcome = run("test", f"--data.dataset={test}", "--data.test_split=train")
    assert outcome.code == 0, outcome.err
    assert json.loads((RUN / "test.json").read_text())["scores"]["accuracy"] > 0.9
    outcome = run("export", "--to=out", "--max_f1_loss=100")
    assert outcome.code == 0, outcome.err
    assert json.loads(Path("out/config.json").read_text())["num_hidden_layers"] == 3
    assert Predictor("out")(["i am so very happy and glad"])[0].label == "joy"


def test_settings_of_the_run_are_those_that_were_chosen(fit):
    fit("--method=finetune", "--trainer.max_epochs=4")
    config = (RUN / "config.yaml").read_text()
    for line in ("max_epochs: 4", "batch_size: 16", "pooling: mean", "head_start: true"):
        assert line in config


@pytest.mark.parametrize(
    "flags",
    [
        ("--model.lora.rank=2",),
        ("--model.freeze=embeddings",),
        ("--trainer.max_steps=20", "--method=finetune"),
    ],
    ids=["lora", "frozen embeddings", "steps"],
)
def test_where_one_network_is_trained_it_is_validated_on_rows_of_their_own(flags, fit):
    shown = fit(*flags)
    assert "each scored by a network that has not seen it" not in shown
    assert "33 to train on, 3 to validate on, of the 36" in shown
    assert "split validation, 3 rows" in shown


def test_epochs_that_are_given_with_a_method_are_those_of_each_network(fit):
    shown = fit("--method=finetune", "--trainer.max_epochs=4")
    assert "each scored by a network that has not seen it" in shown
    assert "method     finetune: macro F1" in shown
    assert Checkpoint.open(RUN / "best.ckpt").facts.global_step == 4 * 3  # 36 rows, 16 a step


def test_a_guarantee_of_few_rows_is_of_rows_that_no_network_has_seen(fit):
    shown = fit("--guarantee=coverage=0.5")
    assert "guarantee: 36 read, 32 left out by other parts, 4 used" in shown
    assert "split train, cross-validated, 32 rows" in shown


def test_the_checkpoint_lies_where_the_settings_say(fit):
    shown = fit("--method=frozen", "--checkpoint.dirpath=elsewhere/kept", "--checkpoint.filename=mine")
    assert "elsewhere/kept/mine.ckpt" in shown
    assert not list(Path("checkpoints").rglob("best.ckpt"))
    kept = {path.name for path in Path("elsewhere/kept").iterdir()}
    assert {"mine.ckpt", "validate.json", VALIDATED} <= kept


@pytest.mark.parametrize(
    "flag",
    [
        *("--early_stopping.patience=2", "--checkpoint.monitor=val/accuracy", "--trainer.overfit_batches=2"),
        *("--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"),
        *("--trainer.check_val_every_n_epoch=2", "--trainer.val_check_interval=1"),
    ],
)
def test_epochs_that_are_to_be_chosen_are_validated_or_refused(flag, fit, refused, few, tiny_bert):
    assert "each scored by a network" not in fit(flag, "--trainer.max_epochs=2", "--method=finetune")
    flags = [flag, f"--weights.pretrained={tiny_bert}", f"--data.dataset={few}"]
    assert "validates no epoch" in refused("fit", *flags, "--method=frozen")


def test_a_given_number_of_epochs_leaves_everything_else_as_it_was(fit):
    shown = fit("--trainer.max_epochs=2")
    assert "recipe" not in shown
    assert "method" not in shown
    assert Checkpoint.open(RUN / "best.ckpt").weights.architecture["num_hidden_layers"] == 2


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"finetune"}))
def test_each_method_leaves_a_checkpoint_that_scores_and_is_exported(method, fit, run):
    shown = fit(f"--method={method}")
    assert f"method     {method}: macro F1" in shown
    checkpoint = Checkpoint.open(RUN / "best.ckpt")
    assert checkpoint.facts.method == method
    assert run("validate").code == 0
    assert run("export", "--to=out", "--max_f1_loss=100").code in (0, 2)


@pytest.mark.parametrize("method", ["frozen", "contrastive"])
def test_a_method_is_scored_on_the_validation_rows_that_the_data_has(method, fit, corpus):
    shown = fit(f"--method={method}", data=corpus)
    assert "split validation, 24 rows" in shown
    assert "cross-validated" not in shown


def test_a_frozen_network_that_is_better_is_kept(fit, corpus, monkeypatch):
    """With many rows the two are compared on validation rows; here training ruins the network."""
    monkeypatch.setattr("lit_bert.train.plan.FEW_ROWS", 10)
    shown = fit(
        "--model.learning_rate=1e-9", "--model.head_start=false", "--trainer.max_epochs=1", data=corpus
    )
    assert "method" not in shown  # the epochs were given
    shown = fit("--model.learning_rate=1e-9", "--model.head_start=false", data=corpus)
    assert "frozen: macro F1" in shown
    run = Path("checkpoints/version_1")
    kept = (
        "frozen"
        if "(kept)" in next(each for each in shown.splitlines() if "frozen: " in each)
        else "finetune"
    )
    assert Checkpoint.open(run / "best.ckpt").facts.method == kept == "frozen"
    assert json.loads((run / "validate.json").read_text())["scores"]["accuracy"] > 0.6


SEVERAL = [
    {"text": text, "label": f"{one}|{two}"}
    for one, two in (("a", "b"), ("b", "c"), ("a", "c"))
    for text in texts_of("joy", 9)
]
NUMBERS = [
    {"text": text, "label": place / 7}
    for place, text in enumerate(texts_of("joy", 15) + texts_of("anger", 15))
]


STARS = [{"text": text, "label": 1 + place // 10} for place, text in enumerate(texts_of("joy", 30))]
MORE = [{"text": text, "label": label} for label in ("joy", "anger") for text in texts_of(label, 16)]


@pytest.mark.parametrize(
    ("rows", "flag"),
    [
        (SEVERAL, "--data.label_separator=|"),
        (NUMBERS, "--data.task=regression"),
        (STARS, "--data.task=ordinal"),
        (MORE, "--data.task=single"),
    ],
    ids=["several labels", "numbers", "ordered classes", "16 rows a class"],
)
def test_elsewhere_one_trained_network_is_tried_beside_the_frozen_one(rows, flag, fit, tmp_path):
    shown = fit(flag, data=write_csv(tmp_path / "other.csv", rows))
    for name in ("finetune", "frozen"):
        assert f"method     {name}: " in shown
    assert "soup" not in shown


def test_methods_that_need_a_class_are_refused_elsewhere(refused, tiny_bert, tmp_path):
    rows = [{"text": text, "label": place / 7} for place, text in enumerate(texts_of("joy", 30))]
    file = write_csv(tmp_path / "numbers.csv", rows)
    for method in ("contrastive", "zero_shot"):
        shown = refused(
            *("fit", f"--weights.pretrained={tiny_bert}", f"--data.dataset={file}", "--data.task=regression"),
            *(f"--method={method}", "--trainer.accelerator=cpu"),
        )
        assert "needs one class a text" in shown


NAMES = "--data.label_names=sadness,joy_and_delight"


def test_classes_can_be_known_by_their_names_alone(run, tiny_bert, refused, tmp_path):
    flags = [f"--weights.pretrained={tiny_bert}", "--method=zero_shot", "--trainer.accelerator=cpu"]
    outcome = run("fit", *flags, NAMES)
    assert outcome.code == 0, outcome.err
    assert "rows       none: the names of the classes alone" in outcome.err
    assert "F1" not in outcome.out  # there is nothing to score
    assert not [*RUN.glob("*.json"), *RUN.glob("*.parquet")]
    answers = [json.loads(line) for line in run("predict", "joy and delight", "sadness").out.splitlines()]
    assert [each["predicted_label"] for each in answers] == ["joy_and_delight", "sadness"]
    rows = [
        {"text": text, "label": label}
        for label in ("sadness", "joy_and_delight")
        for text in texts_of("joy", 9)
    ]
    file = write_csv(tmp_path / "rows.csv", rows)
    outcome = run("test", "--data.dataset", file, "--data.test_split=train")
    assert outcome.code == 0, outcome.err
    assert "has no split 'test'" in refused("test")
    for flag in ("--guarantee=accuracy=0.9", "--want=sadness:precision=0.9", f"--from={RUN / 'best.ckpt'}"):
        assert "needs rows, and there are the names of classes alone" in refused(
            "fit", *flags[1:], NAMES, flag
        )
    assert "data.dataset is names" in refused("fit", *flags, "--data.dataset=names")


def test_classes_can_be_known_by_descriptions_alone(run, tiny_bert, tmp_path):
    described = tmp_path / "classes.csv"
    described.write_text("label,text\nup,joy and delight\ndown,sadness\nup,i am glad\n")
    flags = [f"--weights.pretrained={tiny_bert}", "--method=zero_shot", "--trainer.accelerator=cpu"]
    outcome = run("fit", *flags, f"--descriptions={described}")
    assert outcome.code == 0, outcome.err
    assert "rows       none: the descriptions of the classes alone" in outcome.err
    answers = [json.loads(line) for line in run("predict", "sadness", "i am glad").out.splitlines()]
    assert [each["predicted_label"] for each in answers] == ["down", "up"]


def test_descriptions_are_checked(tmp_path):
    from lit_bert import UserError

    def written(*rows):
        with (tmp_path / "d.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)
        return tmp_path / "d.csv"

    file = written(("label", "text"), ("joy", "glad"), ("joy", "happy"), ("anger", "mad"))
    assert read_descriptions(file, ["anger", "joy"]) == {"joy": ["glad", "happy"], "anger": ["mad"]}
    for file, why in (
        (written(("label", "words"), ("joy", "glad")), "other columns"),
        (written(("label", "text"), ("joy", " ")), "empty cell"),
        (tmp_path / "none.csv", "No such file"),
    ):
        with pytest.raises(UserError, match=why):
            read_descriptions(file)
    with pytest.raises(UserError, match="differ: love"):
        read_descriptions(written(("label", "text"), ("joy", "glad"), ("love", "dear")), ["joy"])


def test_few_rows_are_fewer_than_this():
    assert 1000 <= FEW_ROWS <= 4000


def test_a_trial_run_of_the_trainer_is_as_long_as_it_says(fit, run):
    assert "recipe" not in fit("--trainer.fast_dev_run=true")
