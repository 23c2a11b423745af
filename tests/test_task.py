"""What a kind of task makes of logits, by hand; the table of kinds."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lit_bert import UserError
from lit_bert.task.kinds import KINDS, task_of, task_of_problem
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
    answer = task.answer(np.array([0.5, 0.25, 0.25]))
    assert answer == {
        "label": "anger",
        "probability": 0.5,
        "probabilities": {"anger": 0.5, "joy": 0.25, "sadness": 0.25},
    }


def test_logits_of_any_size_give_probabilities():
    probs = SingleLabel.of(["a", "b"]).probabilities(np.array([[1e4, -1e4], [-3e38, 3e38]], dtype=np.float32))
    assert probs.tolist() == [[1, 0], [0, 1]]


def test_each_kind_is_found_by_its_name_and_by_that_of_transformers():
    for name, kind in KINDS.items():
        assert type(task_of(name, ["a", "b"])) is kind
        assert type(task_of_problem(kind.problem_type, ["a", "b"])) is kind
    assert type(task_of_problem(None, ["a", "b"])) is SingleLabel


def test_an_unknown_kind_is_refused_with_those_that_there_are():
    expected = f"the task is 'singel'; expected {' or '.join(KINDS)}. Set it with --data.task"
    with pytest.raises(UserError, match=re.escape(expected)):
        task_of("singel", ["a", "b"])
    with pytest.raises(UserError, match=r"problem_type of config\.json is 'regression'"):
        task_of_problem("regression", ["a", "b"])
