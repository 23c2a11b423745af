"""What a fit chooses by its validation rows, and keeps only where they say so beyond chance."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import WORDS, write_csv
from formats import content_of, write_content

from lit_bert import UserError
from lit_bert.evaluate.compare import FEWEST_ROWS
from lit_bert.evaluate.predictions import Predictions
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.task.classes import softmax
from lit_bert.task.kinds import task_of
from lit_bert.train import candidates, choose
from lit_bert.train.choose import calibrate, choose_weights
from lit_bert.train.keep import KeepBest


def table_of(out):
    """The lines of a split's scores."""
    return out.partition("bootstrap intervals")[2].partition("\n\n")[0]


def noisy(count, seed=0):
    """Rows of three classes that a tiny network does not learn in two epochs."""
    generator = np.random.default_rng(seed)
    labels = ["micro", "macro", "pico"]
    return [
        {"text": " ".join(generator.choice(WORDS, 6)), "label": labels[number % 3]} for number in range(count)
    ]


def test_a_temperature_that_few_rows_do_not_support_is_not_kept(run, quick):
    write_csv(Path("few.csv"), noisy(180))
    outcome = run("fit", *quick, "--data.dataset=few.csv", "--model.learning_rate=0.001")
    assert outcome.code == 0, outcome.err
    found = json.loads(Path("checkpoints/version_0/validate.json").read_text())["calibration"]
    assert not found["kept"]
    assert found["temperature"] == 1
    assert abs(math.log(found["fitted"])) > 0.1  # what would have been folded in
    assert not found["loss_change"][2] < 0
    assert re.search(
        r"^calibration not kept: temperature \d+\.\d{3}; the loss changes by ", outcome.out, re.M
    )
    content = content_of("checkpoints/version_0/best.ckpt")
    assert "temperature" not in content
    shown = table_of(outcome.out)
    assert shown == table_of(run("validate").out)


def predictions_of(logits, labels, facts=None):
    task, rows = task_of("single", ["a", "b", "c"]), np.arange(len(labels))
    return Predictions(task, ["a"] * len(labels), rows, labels, softmax(logits), facts or {})


@pytest.mark.parametrize(
    ("rows", "T", "kept"),
    [(9, 0.2, False), (30, 1.0, False), (600, 2.5, True), (600, 0.4, True), (600, 1.0, False)],
)
def test_a_temperature_is_kept_where_the_rows_that_it_was_not_fitted_on_say_so(trained, rows, T, kept):
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(rows, 3))
    labels = np.array([generator.choice(3, p=each) for each in softmax(logits / T)])
    shutil.copy(trained / "best.ckpt", "best.ckpt")
    content = content_of("best.ckpt")
    content.pop("temperature", None)
    write_content(content, "best.ckpt")
    before = Path("best.ckpt").read_bytes()
    checkpoint, found = calibrate(Checkpoint.open("best.ckpt"), predictions_of(logits, labels))
    assert checkpoint.facts == Checkpoint.open("best.ckpt").facts
    assert checkpoint.sha256 == Checkpoint.open("best.ckpt").sha256
    fact = found.facts["calibration"]
    assert fact["kept"] == kept
    assert (Path("best.ckpt").read_bytes() == before) != kept
    assert (fact["loss_change"] is None) == (rows < FEWEST_ROWS)
    if kept:
        assert fact["temperature"] == fact["fitted"] == pytest.approx(T, rel=0.2)
        assert fact["after"] < fact["before"]
    else:
        assert fact["temperature"] == 1
        assert np.array_equal(found.outputs, softmax(logits).astype(np.float32))


def answers(labels, right, sure):
    """Logits whose first rows, a share of `right`, are right, and the others wrong in turn."""
    count = len(labels)
    preds = np.where(np.arange(count) < right * count, labels, (labels + 1) % 3)
    return sure * np.eye(3)[preds]


@pytest.mark.parametrize(
    ("average", "plain", "rows", "kept"),
    [
        ((0.9, 3), (0.9, 1), 300, False),  # surer, which a temperature can make of either
        ((0.9, 1), (0.9, 3), 300, False),
        ((0.9, 2), (0.9, 2), 300, False),  # alike
        ((0.9, 3), (0.6, 3), 300, True),  # more of them right
        ((0.6, 3), (0.9, 3), 300, False),
        ((0.8, 6), (0.5, 0.1), 300, True),  # more are right, at a higher loss
        ((0.5, 0.1), (0.8, 6), 300, False),
        ((0.9, 3), (0.1, 3), 9, False),  # too few to tell
    ],
)
def test_the_average_is_kept_where_the_rows_say_that_it_is_better(average, plain, rows, kept):
    labels = np.arange(rows) % 3
    found = choose_weights(*(predictions_of(answers(labels, *each), labels) for each in (average, plain)))
    assert found["kept"] == kept
    json.dumps(found)


@pytest.mark.parametrize("kept", [True, False])
def test_the_best_checkpoint_holds_the_weights_that_were_chosen(run, quick, monkeypatch, kept):
    real = choose.choose_weights
    monkeypatch.setattr(candidates, "choose_weights", lambda *pair: {**real(*pair), "kept": kept})
    outcome = run("fit", *quick, "--trainer.max_epochs=1", "--calibrate=false")
    assert outcome.code == 0, outcome.err
    said = "kept" if kept else "not kept"
    assert f"\naveraging {said}: with the average of the weights the loss changes by " in outcome.out
    best, last = (content_of(f"checkpoints/version_0/{name}.ckpt") for name in ("best", "last"))
    assert "training_weights" not in best
    for name, value in best["state_dict"].items():
        assert torch.equal(value, last["state_dict" if kept else "training_weights"][name]), name
    record = json.loads(Path("checkpoints/version_0/validate.json").read_text())
    assert record["averaging"]["kept"] == kept
    assert best["val_score"] == pytest.approx(record["scores"]["macro_f1"])
    assert table_of(outcome.out) == table_of(run("validate").out)


@pytest.mark.parametrize("kept", [True, False])
def test_a_choice_that_was_cut_short_is_finished_by_the_next_process(run, quick, monkeypatch, kept):
    real = choose.choose_weights
    with monkeypatch.context() as patch:
        patch.setattr(candidates, "choose_weights", lambda *pair: {**real(*pair), "kept": kept})

        def cut(*arguments):
            raise UserError("cut short")

        patch.setattr(candidates, "keep_weights", cut)
        assert run("fit", *quick, "--trainer.max_epochs=1").code == 2
    assert "training_weights" in content_of("checkpoints/version_0/best.ckpt")
    outcome = run("fit", "--ckpt_path=last")
    assert outcome.code == 0, outcome.err
    said = "kept" if kept else "not kept"
    assert f"\naveraging {said}: " in outcome.out
    assert "training_weights" not in content_of("checkpoints/version_0/best.ckpt")
    assert table_of(outcome.out) == table_of(run("validate").out)


def test_weights_of_the_end_are_kept_where_they_score_higher_than_those_of_the_best_epoch(
    run, quick, monkeypatch
):
    """The best epoch is that of the average, and need not be that of the weights which train."""
    real, asked = candidates.predictions_with, []

    def better_at_the_end(run, weights):
        predictions, found = real(run, weights)
        asked.append(weights)
        return predictions, {**found, "val/score": 0.25 * len(asked)}

    monkeypatch.setattr(candidates, "predictions_with", better_at_the_end)
    monkeypatch.setattr(candidates, "choose_weights", lambda *pair: {**choose_weights(*pair), "kept": False})
    # The first epoch is the best one.
    monkeypatch.setattr(KeepBest, "is_best", lambda self, trainer: trainer.current_epoch == 0)
    is_first = lambda self, trainer, current=None: trainer.current_epoch == 0  # noqa: E731
    monkeypatch.setattr(KeepBest, "check_monitor_top_k", is_first)
    outcome = run("fit", *quick, "--trainer.max_epochs=2", "--calibrate=false")
    assert outcome.code == 0, outcome.err
    assert len(asked) == 2
    best, last = (content_of(f"checkpoints/version_0/{name}.ckpt") for name in ("best", "last"))
    assert best["global_step"] == last["global_step"]
    assert f"; kept are the trained ones of step {best['global_step']}\n" in outcome.out
    for name, value in best["state_dict"].items():
        assert torch.equal(value, last["training_weights"][name]), name
    assert table_of(outcome.out) == table_of(run("validate").out)


def test_a_fit_without_an_average_has_nothing_to_choose(run, quick):
    outcome = run("fit", *quick, "--trainer.max_epochs=1", "--model.average_decay=0")
    assert outcome.code == 0, outcome.err
    assert "averaging" not in outcome.out
    assert "averaging" not in json.loads(Path("checkpoints/version_0/validate.json").read_text())
