"""Which texts the error report shows and explains, and the segments that they are cut into."""

from __future__ import annotations

import re

import numpy as np
import pytest
from test_report_page import made

from lit_bert.evaluate import page_texts, scores
from lit_bert.evaluate.attribution import Attribution
from lit_bert.evaluate.page import form_of
from lit_bert.evaluate.page_texts import (
    Explanations,
    embedded_rows,
    rows_to_explain,
    script_data,
    text_segments,
)
from lit_bert.evaluate.predictions import Predictions
from lit_bert.task.single import SingleLabel

pytest.importorskip("cleanlab")


def test_errors_come_with_the_most_confident_first() -> None:
    predictions = made(4, 200)
    errors = form_of(predictions).errors
    assert (predictions.preds[errors] != predictions.labels[errors]).all()
    assert len(errors) == (predictions.preds != predictions.labels).sum()
    confidence = predictions.outputs[errors].max(1)
    assert (np.diff(confidence) <= 0).all()


def test_rows_worth_explaining_are_on_the_page_once_and_lists_come_first() -> None:
    predictions = made(4, 400)
    form = form_of(predictions)
    errors = form.errors
    suspects = scores.suspected_labels(predictions.task, predictions.outputs, predictions.labels)
    order = rows_to_explain(form, suspects, embedded_rows(form, suspects))
    assert len(order) == len(set(order)) <= page_texts.EXPLAINED_TEXTS
    assert order[0] == errors[0]
    assert set(errors[:50].tolist()) <= set(order)
    assert set(order) <= set(embedded_rows(form, suspects).tolist())


def test_segments_join_to_the_text_again() -> None:
    text = "oh, happy day"
    first = Attribution([(0, 2), (2, 3), (4, 9)], np.array([0.1, 0.0, 1.23456], np.float32), 0.0)
    second = Attribution(first.spans, np.array([-0.1, 0.5, 0.25], np.float32), 0.0)
    found = text_segments(text, [first, second])
    assert found == [["oh", 0.1, -0.1], [",", 0.0, 0.5], " ", ["happy", 1.235, 0.25], " day"]
    assert text_segments(text, []) == [text]
    cut = text_segments("x" * 2500, [])
    assert cut[0] == "x" * 2000
    assert "500 more" in cut[1]


def test_of_right_rows_the_least_confident_of_each_class_are_embedded() -> None:
    N, C = 900, 3
    labels = np.arange(N) % C
    confidence = np.linspace(0.5, 0.99, N)
    probs = np.repeat(((1 - confidence) / (C - 1))[:, None], C, axis=1).astype(np.float32)
    probs[np.arange(N), labels] = confidence
    predictions = Predictions(SingleLabel.of(["a", "b", "c"]), ["x"] * N, np.arange(N), labels, probs)
    none = np.empty(0, dtype=np.int64)
    embedded = embedded_rows(form_of(predictions), none)
    # 200 over all classes: the first 66 of each, as confidence rises with the row.
    assert embedded.tolist() == list(range(3 * 66))
    assert embedded_rows(form_of(predictions), np.array([899]))[-1] == 899


def test_rows_to_explain_take_the_lists_in_turn() -> None:
    labels = np.zeros(6, dtype=np.int64)
    probs = np.array([[0.1, 0.9], [0.2, 0.8], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]], np.float32)
    form = form_of(Predictions(SingleLabel.of(["a", "b"]), ["x"] * 6, np.arange(6), labels, probs))
    assert form.errors.tolist() == [0, 1]
    order = rows_to_explain(form, np.array([5, 0]), np.arange(6))
    assert order == [0, 5, 1, 2, 3, 4]  # the rest cell by cell, the most confident first
    assert rows_to_explain(form, np.array([5, 0]), np.array([0, 1, 5])) == [0, 5, 1]


def test_the_script_is_given_the_likeliest_classes_and_always_the_labelled_one() -> None:
    labels = np.array([4, 0])
    probs = np.array([[0.4, 0.3, 0.2, 0.07, 0.03], [0.6, 0.1, 0.1, 0.1, 0.1]], np.float32)
    task = SingleLabel.of(list("abcde"))
    form = form_of(Predictions(task, ["one", "two"], np.array([7, 9]), labels, probs))
    attribution = Attribution([(0, 3)], np.array([0.5], np.float32), 0.0)
    none = np.empty(0, dtype=np.int64)
    explanations = Explanations({(0, 0): attribution, (0, 4): attribution}, "")
    data = script_data(form, none, np.array([0, 1]), explanations)
    wrong, right = data["rows"]
    assert wrong == {
        "n": 8,
        "y": 4,
        "p": 0,
        "q": [[0, 0.4], [1, 0.3], [2, 0.2], [4, 0.03]],
        "t": [["one", 0.5, 0.5]],
        "k": [0, 4],
    }
    assert (right["n"], right["t"], "k" in right) == (10, ["two"], False)
    assert data["cells"] == {"4-0": 1, "0-0": 1}
    assert (data["errors"], data["suspects"]) == ([0], [])


def test_a_long_text_is_shown_around_the_word_that_did_most() -> None:
    text = " ".join(f"w{number:04d}" for number in range(2000))
    spans = [(6 * number, 6 * number + 5) for number in range(2000)]
    for strongest in (3, 1200, 1999):
        scores = np.full(2000, 0.01, np.float32)
        scores[strongest] = -2
        segments = text_segments(text, [Attribution(spans, scores, 0.0)])
        assert [f"w{strongest:04d}", -2.0] in segments
        shown = "".join(each if isinstance(each, str) else each[0] for each in segments)
        before, after = (
            int(found[1].replace(",", "")) if (found := re.search(pattern, shown)) else 0
            for pattern in (r"^\(cut: ([\d,]+) characters\) … ", r" … \(cut: ([\d,]+) more characters\)$")
        )
        assert before == {3: 0, 1200: 7200 - 1000, 1999: len(text) - 2000}[strongest]
        assert after == len(text) - 2000 - before
        assert text[before : before + 2000] in shown
