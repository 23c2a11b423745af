"""What a kind of task makes of logits, by hand; the table of kinds."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from torch.nn import functional
from torchmetrics import MetricCollection, classification

from lit_bert import UserError
from lit_bert.task.kinds import CONFIG_KEY, KINDS, task_of, task_of_config
from lit_bert.task.single import SingleLabel

LOGITS = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], dtype=np.float32))


def test_one_label_is_a_softmax_and_its_most_probable_class():
    task = task_of("single", ["anger", "joy", "sadness"])
    probs = task.probabilities(LOGITS + np.array([[3], [-8]], dtype=np.float32))
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
    probs = SingleLabel.of(["a", "b"]).probabilities(np.array([[1e4, -1e4], [-3e38, 3e38]], dtype=np.float32))
    assert probs.tolist() == [[1, 0], [0, 1]]


def test_each_kind_is_found_by_its_name_and_by_that_of_transformers():
    for name, kind in KINDS.items():
        assert type(task_of(name, ["a", "b"])) is kind
        config = {"problem_type": kind.problem_type, CONFIG_KEY: name}
        assert type(task_of_config(config, ["a", "b"])) is kind
    for config in ({}, {"problem_type": None}, {"problem_type": SingleLabel.problem_type}):
        assert type(task_of_config(config, ["a", "b"])) is SingleLabel


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_trains_scores_and_answers(name):
    task = task_of(name, ["a", "b", "c"])
    logits = torch.randn(8, 3, requires_grad=True, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    plain = task.loss(functional, logits, labels)
    assert plain.shape == ()
    assert task.loss(functional, logits, labels, 0.1) != plain
    (gradient,) = torch.autograd.grad(plain, logits)
    assert task.loss(functional, logits - gradient, labels) < plain
    scores = MetricCollection(task.metrics(classification))
    scores.update(logits.detach(), labels)
    values = scores.compute()
    assert values.keys() >= {"f1", "f1_micro", "accuracy", "f1_class", "class_counts"}
    assert values["class_counts"][:, -1].tolist() == [3, 3, 2]
    probs = task.probabilities(logits.detach().numpy())
    assert probs.dtype == np.float32
    assert 0 <= probs.min() <= probs.max() <= 1
    assert len(task.predictions(probs)) == len(probs)
    answer = task.answer(probs[0], truncated=False)._asdict()
    schema = task.answer_schema()
    assert list(answer) == [*schema, "truncated"]
    whole = {"type": "object", "properties": schema}
    assert Draft202012Validator(whole).is_valid(json.loads(json.dumps(answer)))
    assert len(task.columns()) == len(task.cells(probs[0]))
    assert task.limits().endswith(".")


def test_an_unknown_kind_is_refused_with_those_that_there_are():
    expected = f"the task is 'singel'; expected {' or '.join(KINDS)}. Set it with --data.task"
    with pytest.raises(UserError, match=re.escape(expected)):
        task_of("singel", ["a", "b"])
    with pytest.raises(UserError, match=r"problem_type of config\.json is 'regression'"):
        task_of_config({"problem_type": "regression"}, ["a", "b"])
    for kind in ("singel", ["single"], 1):
        with pytest.raises(UserError, match=r"the lit_bert_task of config\.json is .*; expected single"):
            task_of_config({CONFIG_KEY: kind}, ["a", "b"])
