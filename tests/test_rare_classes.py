"""Settings for rare classes: what the loss of each class is multiplied by, what an epoch has of it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import texts_of, write_csv
from formats import content_of
from torch.nn import functional

from lit_bert import BertClassifier, EmotionDataModule, UserError
from lit_bert.data.batches import ClassQuotas, LengthGroupedSampler
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.task.classes import class_shares
from lit_bert.task.multi_label import MultiLabel
from lit_bert.task.ordinal import Ordinal
from lit_bert.task.single import SingleLabel

ONE, LABELS, STARS = (kind.of(["a", "b"]) for kind in (SingleLabel, MultiLabel, Ordinal))
LN2 = math.log(2)
EVEN = torch.zeros(2, 2)  # logits that say nothing: the loss of each row is ln 2


@pytest.fixture
def rare(tmp_path: Path) -> Path:
    """Texts of joy and of sadness: 40 and 4 to train on, 20 and 2 to validate on."""
    folder = tmp_path / "rare"
    folder.mkdir()
    for split, (joy, sadness) in {"train": (40, 4), "validation": (20, 2)}.items():
        parts = {"joy": joy, "sadness": sadness}
        rows = [{"text": t, "label": name} for name, count in parts.items() for t in texts_of(name, count)]
        write_csv(folder / f"{split}.csv", rows)
    return folder


@pytest.fixture
def without_dropout(tiny_bert: Path, tmp_path: Path) -> Path:
    """The tiny BERT, so that two runs with the same batches come to the same weights."""
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "without-dropout"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def module_of(folder: Path, weights: Any, **settings: Any) -> EmotionDataModule:
    data = EmotionDataModule(str(folder), weights=weights, **settings)
    data.prepare_data()
    data.setup("fit")
    return data


# --- losses


def test_a_class_weight_multiplies_the_loss_of_the_rows_of_its_class():
    labels, class_weights = torch.tensor([0, 1]), torch.tensor([1.0, 3.0])
    loss = ONE.training_loss(functional, EVEN, labels, class_weights=class_weights)
    assert loss.item() == pytest.approx((1 + 3) / 2 * LN2)
    weights = torch.tensor([2.0, 0.5])  # of the rows
    loss = ONE.training_loss(functional, EVEN, labels, 0.0, weights, class_weights)
    assert loss.item() == pytest.approx((2 * 1 + 0.5 * 3) / 2 * LN2)


def test_a_class_weight_multiplies_the_whole_smoothed_loss_of_a_row():
    logits, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([1])
    loss = ONE.training_loss(functional, logits, labels, 0.2, class_weights=torch.tensor([7.0, 3.0]))
    of_other = math.log(1 + math.exp(-2))  # -log p of class a
    assert loss.item() == pytest.approx(3 * (0.1 * of_other + 0.9 * (of_other + 2)))


def test_the_focal_factor_is_a_power_of_what_the_label_lacks():
    labels = torch.tensor([0, 1])
    loss = ONE.training_loss(functional, EVEN, labels, focal_gamma=2)
    assert loss.item() == pytest.approx(0.25 * LN2)
    logits = torch.tensor([[math.log(9), 0.0], [math.log(9), 0.0]])  # p 0.9 and 0.1
    loss = ONE.training_loss(functional, logits, labels, focal_gamma=1)
    assert loss.item() == pytest.approx((0.1 * -math.log(0.9) + 0.9 * -math.log(0.1)) / 2)


@pytest.mark.parametrize("task", [ONE, LABELS])
def test_the_focal_loss_of_a_certain_answer_has_a_finite_gradient(task):
    logits = torch.tensor([[100.0, -100.0]], requires_grad=True)
    labels = torch.tensor([0]) if task is ONE else torch.tensor([[1, 0]])
    task.training_loss(functional, logits, labels, 0.1, focal_gamma=0.5).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_of_several_labels_the_rows_with_a_class_have_its_weight():
    labels, class_weights = torch.tensor([[1, 0], [0, 1]]), torch.tensor([3.0, 5.0])
    loss = LABELS.training_loss(functional, EVEN, labels, class_weights=class_weights)
    assert loss.item() == pytest.approx((3 + 1 + 1 + 5) / 4 * LN2)
    loss = LABELS.training_loss(functional, EVEN, labels, focal_gamma=2)
    assert loss.item() == pytest.approx(0.25 * LN2)


def test_smoothing_gives_no_weight_to_a_class_that_a_row_does_not_have():
    logits, labels = torch.tensor([[1.0, -1.0]]), torch.tensor([[1, 0]])
    loss = LABELS.training_loss(functional, logits, labels, 0.2, class_weights=torch.tensor([1.0, 99.0]))
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    # Wanted are 0.9 and 0.1 of the two classes; 99 times a part of the second would want it above a half.
    assert loss.item() == pytest.approx(0.9 * right + 0.1 * wrong)


def test_classes_in_an_order_are_weighed_as_rows():
    labels = torch.tensor([0, 1])
    each = [STARS.training_loss(functional, EVEN[:1], labels[[n]]).item() for n in range(2)]
    loss = STARS.training_loss(functional, EVEN, labels, class_weights=torch.tensor([1.0, 3.0]))
    assert loss.item() == pytest.approx((each[0] + 3 * each[1]) / 2)


# --- values of classes


def test_shares_weights_and_priors_of_classes():
    assert class_shares(np.array([0, 0, 0, 1]), 3).tolist() == [0.75, 0.25, 0]
    assert class_shares(np.array([0, 0, 0, 1]), 2, np.array([1, 1, 1, 3.0])).tolist() == [0.5, 0.5]
    assert class_shares(np.array([[1, 1], [0, 1]], np.uint8), 2).tolist() == [0.5, 1]
    # Every class weighs the same, and the mean over the rows is 1; a class without rows is left out.
    assert ONE.balanced_weights(np.array([0.75, 0.25, 0])) == pytest.approx([2 / 3, 2, 1])
    assert LABELS.balanced_weights(np.array([0.2, 0.5, 0, 1])) == pytest.approx([4, 1, 1, 1])
    assert ONE.log_prior(np.array([0.75, 0.25])) == pytest.approx([math.log(0.75), math.log(0.25)])
    assert LABELS.log_prior(np.array([0.2])) == pytest.approx([math.log(0.25)])


def test_balanced_weights_are_those_of_the_rows_to_train_on(rare, weights):
    model = BertClassifier(["joy", "sadness"], class_weights="balanced", weights=weights)
    model.default_objective.set_by_rows(module_of(rare, weights))
    assert model.hparams.class_weights == pytest.approx([44 / 80, 44 / 8])
    batch = {"labels": torch.tensor([0, 1])}
    model.hparams.label_smoothing = 0.0
    assert model.training_loss(EVEN, batch).item() == pytest.approx((44 / 80 + 44 / 8) / 2 * LN2)


def test_logits_are_adjusted_by_the_shares_of_the_classes(rare, weights):
    model = BertClassifier(["joy", "sadness"], label_smoothing=0.0, logit_adjustment=2.0, weights=weights)
    model.default_objective.set_by_rows(module_of(rare, weights))
    assert model.hparams.logit_adjustment == pytest.approx([2 * math.log(40 / 44), 2 * math.log(4 / 44)])
    loss = model.training_loss(EVEN[:1], {"labels": torch.tensor([1])}).item()
    assert loss == pytest.approx(-math.log(4**2 / (40**2 + 4**2)), rel=1e-5)


def test_weights_and_prior_are_of_the_rows_as_they_are_drawn(rare, weights):
    """So that two settings together do not correct for the same thing twice."""
    data = module_of(rare, weights, balanced_sampling=1.0)
    assert data.class_shares == pytest.approx([0.5, 0.5])
    half = module_of(rare, weights, balanced_sampling=0.5)
    assert half.class_shares == pytest.approx([33 / 44, 11 / 44])  # √40 : √4, rounded


def test_a_run_with_other_rows_needs_a_value_a_class():
    model = BertClassifier(["a", "b"], class_weights="balanced")
    with pytest.raises(UserError, match="class_weights is balanced, which takes the rows of an Emotion"):
        model.default_objective.set_by_rows(None)
    BertClassifier(["a", "b"], class_weights=[1, 2]).default_objective.set_by_rows(None)


# --- what is refused


@pytest.mark.parametrize(
    ("task", "setting", "value"),
    [
        ("regression", "class_weights", "balanced"),
        ("regression", "focal_gamma", 2.0),
        ("proportion", "logit_adjustment", 1.0),
        ("ordinal", "focal_gamma", 2.0),
    ],
)
def test_a_setting_that_means_nothing_to_the_kind_is_refused(task, setting, value):
    with pytest.raises(UserError, match=f"--model.{setting} is set, and the task is {task}; expected single"):
        BertClassifier(["a", "b"] if task == "ordinal" else ["a"], task=task, **{setting: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"focal_gamma": -1.0}, "model.focal_gamma is -1.0; expected a number from 0 to 100"),
        ({"logit_adjustment": math.nan}, "model.logit_adjustment is nan"),
        ({"logit_adjustment": [0.0, math.inf]}, "the value inf; expected finite"),
        ({"class_weights": [1.0]}, "class_weights has 1 values, and there are 2 classes"),
        ({"class_weights": [1.0, 0.0]}, "the class weight of 'b' is 0.0; expected more than 0"),
        ({"class_weights": [1.0, math.nan]}, "the class weight of 'b' is nan"),
        ({"class_weights": "nowhere.csv"}, "class_weights is nowhere.csv: No such file"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        BertClassifier(["a", "b"], **settings)


def test_sampling_out_of_range_or_of_several_labels_is_refused(weights):
    with pytest.raises(UserError, match=r"data.balanced_sampling is 1.5; expected 0"):
        EmotionDataModule("x.csv", balanced_sampling=1.5)
    lines = [json.dumps({"text": text, "label": ["a", "b"][: n % 3]}) for n, text in enumerate(["x"] * 20)]
    Path("rows.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"--data.balanced_sampling is set, and the task is multi_label"):
        module_of(Path("rows.jsonl"), weights, balanced_sampling=1.0)


def test_two_corrections_for_the_same_shares_are_refused(rare, weights):
    model = BertClassifier(["joy", "sadness"], class_weights="balanced", logit_adjustment=1.0)
    with pytest.raises(UserError, match="correct for the same shares of the classes; expected one of them"):
        model.default_objective.set_by_rows(module_of(rare, weights))


def test_a_class_without_rows_has_no_logarithm_of_its_share(rare, weights):
    data = module_of(rare, weights, label_names=["joy", "sadness", "anger"])
    model = BertClassifier(["joy", "sadness", "anger"], logit_adjustment=1.0)
    with pytest.raises(UserError, match="none or all of the rows to train on have 'anger'"):
        model.default_objective.set_by_rows(data)


# --- a file of class weights


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.json", '{"b": 5, "a": 0.5}'),
        ("w.csv", "class,weight\nb,5\na,0.5\n"),
        ("w.csv", '\ufeffweight,class\r\n5,"b"\r\n0.5, a \r\n'),
    ],
)
def test_class_weights_are_read_from_a_file(name, content):
    Path(name).write_text(content, encoding="utf-8")
    assert BertClassifier(["a", "b"], class_weights=name).hparams.class_weights == [0.5, 5]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.json", "[1, 2]", "is no JSON object"),
        ("w.json", '{"a": 1, "a": 2}', "w.json"),
        ("w.json", '{"a": 1}', "has no weight for the class 'b'"),
        ("w.json", '{"a": 1, "b": true}', "the weight of 'b' is True; expected a number"),
        ("w.json", '{"a": 1, "b": 1, "c\\u001b": 1}', r"the class 'c\\x1b', which the data has not"),
        ("w.csv", "", "has the columns of an empty file; expected class,weight"),
        ("w.csv", "a,1\nb,2\n", "has the columns a, 1; expected class,weight"),
        ("w.csv", "class,weight\na,1\na,2\nb,1\n", "the class 'a' twice"),
        ("w.csv", "class,weight\na,much\nb,1\n", "the weight of 'a' is much; expected a number"),
        ("w.csv", "class,weight\na,1\nb\n", "the weight of 'b' is ; expected a number"),
        ("w.csv", "class,weight\na,1,5\nb,1\n", "the line of 'a' has more than two cells"),
        ("w.csv", "class,weight\na,-1\nb,1\n", "the class weight of 'a' is -1.0"),
        ("w.csv", "class,weight\na,nan\nb,1\n", "the class weight of 'a' is nan"),
    ],
)
def test_a_file_that_does_not_fit_the_classes_is_refused(name, content, message):
    Path(name).write_text(content)
    with pytest.raises(UserError, match=message):
        BertClassifier(["a", "b"], class_weights=name)


# --- balanced sampling


@pytest.mark.parametrize(
    ("counts", "power", "quotas"),
    [
        ([90, 10], 1.0, [50, 50]),
        ([90, 10], 0.5, [75, 25]),  # √90 : √10 is 3 : 1
        ([90, 10], 0.0, [90, 10]),
        ([50, 0, 3], 1.0, [27, 0, 26]),  # 53 rows
        ([7, 7, 7], 1.0, [7, 7, 7]),
    ],
)
def test_quotas_of_an_epoch(counts, power, quotas):
    labels = np.repeat(np.arange(len(counts)), counts)
    assert ClassQuotas.of(labels, power).quotas.tolist() == quotas


def test_an_epoch_has_each_class_equally_often_and_each_row_of_it():
    labels = np.array([0] * 90 + [1] * 8)
    sampler = LengthGroupedSampler(np.arange(98), 8, 3, ClassQuotas.of(labels, 1.0))
    epochs = []
    for epoch in range(20):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert order == list(sampler)  # by (seed, epoch) alone
        assert len(order) == len(sampler) == 98
        times = np.bincount(order, minlength=98)
        assert times[:90].sum() == times[90:].sum() == 49
        assert times[:90].max() == 1  # none comes twice while another is left out
        assert set(times[90:].tolist()) == {6, 7}
        epochs.append(order)
    assert epochs[0] != epochs[1]
    assert set(np.concatenate(epochs).tolist()) == set(range(98))  # none is left out for good


def test_balanced_batches_hold_texts_of_like_length():
    lengths = np.random.default_rng(0).integers(1, 100, 640)
    labels = (np.arange(640) % 10 == 0).astype(int)
    order = list(LengthGroupedSampler(lengths, 8, 0, ClassQuotas.of(labels, 1.0)))
    spreads = [np.ptp(lengths[order[start : start + 8]]) for start in range(0, 640, 8)]
    assert np.mean(spreads) < 5  # at random about 80


def test_classes_that_are_equally_frequent_keep_the_order_of_batches():
    labels, lengths = np.arange(60) % 3, np.arange(60)
    plain = LengthGroupedSampler(lengths, 8, 5)
    assert list(plain) == list(LengthGroupedSampler(lengths, 8, 5, ClassQuotas.of(labels, 1.0)))


# --- the journey


SETTINGS = {
    "class weights": ["--model.class_weights=w.csv"],
    "balanced": ["--model.class_weights=balanced"],
    "focal": ["--model.focal_gamma=2"],
    "adjusted": ["--model.logit_adjustment=1"],
    "sampled": ["--data.balanced_sampling=1"],
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_run_goes_on_exactly(run, quick, rare, without_dropout, setting):
    Path("w.csv").write_text("class,weight\njoy,0.5\nsadness,5\n")
    flags = [*quick, f"--data.dataset={rare}", *SETTINGS[setting], "--trainer.max_epochs=2"]
    flags.append(f"--weights.pretrained={without_dropout}")
    half = ["--checkpoint.save_weights_only=false", "--checkpoint.every_n_train_steps=4"]
    half += ["--checkpoint.save_top_k=-1", "--checkpoint.monitor=null", "--checkpoint.filename={step}"]
    outcome = run("fit", *flags, *half)
    assert outcome.code == 0, outcome.err
    whole = content_of("checkpoints/version_0/last.ckpt")["state_dict"]
    Path("w.csv").unlink()  # the values are in the checkpoint
    outcome = run("fit", "--ckpt_path=checkpoints/version_0/step=4.ckpt", *half)
    assert outcome.code == 0, outcome.err
    model = Checkpoint.open("checkpoints/version_0/last.ckpt").model
    if "weights" in setting:
        assert model.class_weights == [0.5, 5]
    again = content_of("checkpoints/version_0/last.ckpt")["state_dict"]
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_losses_that_are_reported_know_nothing_of_class_weights(run, quick, rare):
    flags = [*quick, f"--data.dataset={rare}", "--model.learning_rate=0", "--trainer.max_epochs=1"]
    losses = []
    for some in (
        [],
        ["--model.class_weights=[100,100]", "--model.logit_adjustment=1", "--model.focal_gamma=2"],
    ):
        assert run("fit", *flags, *some).code == 0
        file = max(Path("checkpoints").glob("version_*/validate.json"))
        losses.append(json.loads(file.read_text())["scores"]["loss_nats"])
    assert losses[0] == losses[1]


def test_other_verbs_take_the_values_of_the_checkpoint(run, quick, rare):
    flags = [*quick, f"--data.dataset={rare}", "--model.class_weights=balanced", "--trainer.max_epochs=1"]
    outcome = run("fit", *flags)
    assert outcome.code == 0
    assert "loss of a class multiplied by 0.55 (joy) to 5.5 (sadness)" in outcome.err
    outcome = run("test", "--data.test_split=validation")
    assert outcome.code == 0, outcome.err
    outcome = run("test", "--model.class_weights=balanced")
    assert outcome.code == 2
    assert "--model.class_weights would change nothing" in outcome.err


@pytest.mark.parametrize(
    ("column", "labels", "flags", "weights"),
    [
        ("label", [["a"], ["a", "b"], ["a"], []], ["--model.focal_gamma=1"], [0.25 / 0.75, 3.0]),
        ("stars", [1, 1, 1, 2], ["--data.balanced_sampling=0.5"], None),  # of rows as they are drawn
    ],
)
def test_other_kinds_with_classes_take_the_settings(run, quick, column, labels, flags, weights):
    texts = texts_of("joy", 40) + texts_of("anger", 40)
    rows = [{"text": text, column: labels[n % 4]} for n, text in enumerate(texts)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [*flags, "--model.class_weights=balanced", "--model.logit_adjustment=[0.5,-0.5]"]
    settings = ["--data.dataset=rows.jsonl", "--data.val_fraction=0.2", "--trainer.max_epochs=1"]
    outcome = run("fit", *quick, *settings, *flags)
    assert outcome.code == 0, outcome.err
    model = Checkpoint.open("checkpoints/version_0/last.ckpt").model
    if weights is None:  # √48 : √16 rows, rounded
        counts = np.array([41, 23])
        weights = (64 / (2 * counts)).tolist()
    assert model.class_weights == pytest.approx(weights, rel=0.02)
    assert run("test", "--data.test_split=validation").code == 0


@pytest.mark.parametrize("flag", ["--model.class_weights=balanced", "--data.balanced_sampling=1"])
def test_numbers_have_no_rare_classes(run, quick, flag):
    rows = [{"text": text, "label": n / 7} for n, text in enumerate(texts_of("joy", 40))]
    write_csv(Path("numbers.csv"), rows)
    outcome = run("fit", *quick, "--data.dataset=numbers.csv", flag)
    assert outcome.code == 2
    assert "is set, and the task is regression; expected single" in outcome.err
    assert not list(Path("checkpoints").glob("*"))
