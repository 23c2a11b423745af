"""What a kind of task makes of logits, by hand; the table of kinds."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from torch.nn import functional

from lit_bert import UserError
from lit_bert.model.split_scores import SplitScores, class_tags
from lit_bert.task.base import Task
from lit_bert.task.kinds import CONFIG_KEY, KINDS, task_of, task_of_config
from lit_bert.task.single import SingleLabel

LOGITS = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], dtype=np.float32))
NAMES = ["a", "b", "c"]
LABELS = {
    "class": torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]),
    "classes": torch.tensor(
        [[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]]
    ).byte(),
    "number": torch.tensor([0.5, 1, -2, 3, 2, 1, 0, 4]),
}


def labels_of(kind: type[Task]) -> torch.Tensor:
    """Eight labels, as the kind stores them."""
    labels = LABELS[kind.label_form]
    return labels.clamp(*kind.label_range) if kind.label_form == "number" else labels


def test_one_label_is_a_softmax_and_its_most_probable_class():
    task = task_of("single", ["anger", "joy", "sadness"])
    probs = task.outputs(LOGITS + np.array([[3], [-8]], dtype=np.float32))
    assert probs.dtype == np.float32
    assert np.allclose(probs, [[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    assert task.predictions(probs).tolist() == [0, 2]
    assert task.columns() == [
        "predicted_label",
        "probability",
        "probability_anger",
        "probability_joy",
        "probability_sadness",
    ]
    assert task.cells(probs[1]) == ["sadness", 0.7, 0.1, 0.2, 0.7]
    assert task.answer(np.array([0.5, 0.25, 0.25]), truncated=True)._asdict() == {
        "label": "anger",
        "probability": 0.5,
        "probabilities": {"anger": 0.5, "joy": 0.25, "sadness": 0.25},
        "truncated": True,
    }
    assert task.explained_class(probs[1]) == 2


def test_logits_of_any_size_give_probabilities():
    probs = SingleLabel.of(["a", "b"]).outputs(np.array([[1e4, -1e4], [-3e38, 3e38]], dtype=np.float32))
    assert probs.tolist() == [[1, 0], [0, 1]]


def test_each_kind_is_found_by_its_name_and_by_that_of_transformers():
    for name, kind in KINDS.items():
        names = NAMES[: kind.fewest_classes]
        assert type(task_of(name, names)) is kind
        config = {"problem_type": kind.problem_type, CONFIG_KEY: name}
        assert type(task_of_config(config, names)) is kind
    for config in ({}, {"problem_type": None}, {"problem_type": SingleLabel.problem_type}):
        assert type(task_of_config(config, ["a", "b"])) is SingleLabel


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_trains_scores_and_answers(name):
    form = KINDS[name].label_form
    task = task_of(name, NAMES if form != "number" else ["stars"])
    shape = (8, len(task.class_names))
    logits = torch.randn(shape, requires_grad=True, generator=torch.Generator().manual_seed(0))
    labels = labels_of(KINDS[name])
    plain = task.training_loss(functional, logits, labels)
    assert plain.shape == ()
    assert (task.training_loss(functional, logits, labels, 0.1) != plain) == (form != "number")
    (gradient,) = torch.autograd.grad(plain, logits)
    assert task.training_loss(functional, logits - gradient, labels) < plain
    tags = class_tags(list(task.class_names)) if task.class_scores else []
    scores = SplitScores(task, tags)
    scores.update(task.loss(functional, logits, labels), logits, labels)
    counts = task.logged(scores.metrics.compute())[2]
    assert counts == task.label_counts(labels.numpy()) == ([3, 3, 2] if tags else [])
    assert scores.compute().keys() == {"loss_nats", "score", *task.logged_names, *tags}
    outputs = task.outputs(logits.detach().numpy())
    assert outputs.dtype == np.float32
    assert task.outputs_problem(outputs) is None
    assert np.allclose(task.outputs(task.logits_of(outputs)), outputs, atol=1e-6)
    preds = task.predictions(outputs)
    assert preds.shape == tuple(labels.shape)
    assert np.array_equal(task.labels_of(json.loads(json.dumps(task.stored_labels(preds)))), preds)
    answer = task.answer(outputs[0], truncated=False)._asdict()
    schema = task.answer_schema()
    assert list(answer) == [*schema, "truncated"]
    whole = {"type": "object", "properties": schema}
    assert Draft202012Validator(whole).is_valid(json.loads(json.dumps(answer)))
    assert len(task.columns()) == len(task.cells(outputs[0]))
    assert task.limits().endswith(".")


@pytest.mark.parametrize("name", KINDS)
def test_a_split_of_one_row_has_a_score_that_chooses(name):
    kind = KINDS[name]
    task = task_of(name, NAMES if kind.label_form != "number" else ["stars"])
    scores = SplitScores(task, class_tags(list(task.class_names)) if task.class_scores else [])
    logits, labels = torch.zeros(1, len(task.class_names)), labels_of(kind)[:1]
    scores.update(task.loss(functional, logits, labels), logits, labels)
    found = scores.compute()
    assert found["score"].isfinite()
    assert found["score"] == pytest.approx(
        task.main_scorer(task.outputs(logits.numpy()), labels.numpy())(np.ones(1))
    )


def test_an_unknown_kind_is_refused_with_those_that_there_are():
    expected = f"the task is 'singel'; expected {' or '.join(KINDS)}. Set it with --data.task"
    with pytest.raises(UserError, match=re.escape(expected)):
        task_of("singel", ["a", "b"])
    with pytest.raises(UserError, match=r"problem_type of config\.json is 'ranking'"):
        task_of_config({"problem_type": "ranking"}, ["a", "b"])
    for kind in ("singel", ["single"], 1, "regression"):
        with pytest.raises(UserError, match=r"the lit_bert_task of config\.json is .*; expected single"):
            task_of_config({CONFIG_KEY: kind}, ["a", "b"])
