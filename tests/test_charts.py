"""The diagrams of the error report: their numbers by hand, their points where the axes say."""

from __future__ import annotations

import numpy as np
import pytest

from lit_bert.evaluate.charts import Axes, coverage_chart, reliability_chart
from lit_bert.evaluate.predictions import Predictions
from lit_bert.evaluate.scores import wilson
from lit_bert.task.single import SingleLabel


def test_wilson_intervals_are_those_of_the_formula() -> None:
    low, high = wilson(np.array([0, 9, 10]), np.array([10, 10, 10]))
    np.testing.assert_allclose(low, [0.0, 0.5958, 0.7225], atol=1e-4)
    np.testing.assert_allclose(high, [0.2775, 0.9821, 1.0], atol=1e-4)


def of_probs(probs: np.ndarray, labels: np.ndarray) -> Predictions:
    """Rows of two classes."""
    return Predictions(SingleLabel.of(["a", "b"]), ["x"] * len(labels), np.arange(len(labels)), labels, probs)


def test_shares_that_reach_an_accuracy_are_right() -> None:
    # Ten rows, one in each tenth of confidence; the two least sure ones are wrong.
    confidence = np.linspace(0.95, 0.55, 10)
    labels = np.array([0] * 8 + [1] * 2)
    probs = np.stack([confidence, 1 - confidence], 1).astype(np.float32)
    chart = coverage_chart(of_probs(probs, labels))
    assert [row[:3] for row in chart.table.rows] == [
        [f"≥ {target}", "80.0%", "0.639"] for target in ("90%", "95%", "98%", "99%")
    ]


def of_confidence(confidence: list[float], is_right: list[int]) -> Predictions:
    """Rows of two classes that are predicted as the first, with these probabilities."""
    first = np.array(confidence)
    labels = 1 - np.array(is_right)
    probs = np.stack([first, 1 - first], 1).astype(np.float32)
    return of_probs(probs, labels)


def test_reliability_is_the_share_of_right_texts_in_each_bin_of_confidence() -> None:
    # 15 bins: 0.95 lies in the last one (93 % to 100 %), 0.62 in the tenth (60 % to 67 %).
    chart = reliability_chart(of_confidence([0.95, 0.97, 0.99, 0.62], [1, 1, 0, 1]))
    assert [row[:4] for row in chart.table.rows] == [
        ["60% – 67%", "1", "62.0%", "100.0%"],
        ["93% – 100%", "3", "97.0%", "66.7%"],
    ]
    assert [point.title for point in chart.axes.points] == [
        "1 text: confidence 62.0%, right 100.0%",
        "3 texts: confidence 97.0%, right 66.7%",
    ]
    axes, (_, last) = chart.axes, chart.axes.points
    assert (last.x, last.y) == (pytest.approx(axes.x(0.97)), pytest.approx(axes.y(2 / 3)))
    assert [path.kind for path in axes.paths] == ["histogram", "histogram", "ideal"]


def test_an_accuracy_that_no_share_of_the_texts_reaches_has_no_point() -> None:
    chart = coverage_chart(of_confidence([0.9, 0.8], [0, 0]))
    assert [row[1] for row in chart.table.rows] == ["none"] * 4
    assert chart.axes.points == []


def test_texts_of_equal_confidence_are_answered_together() -> None:
    chart = coverage_chart(of_confidence([0.9, 0.9, 0.9, 0.6], [1, 1, 0, 1]))
    # The two right ones alone would reach 100 %, but nothing tells them from the wrong one.
    assert [row[1] for row in chart.table.rows] == ["none"] * 4


def test_axes_reach_from_the_lowest_share_to_1() -> None:
    axes = Axes(0.8, "across", "upwards")
    assert (axes.x(0), axes.x(1)) == (axes.left, axes.right)
    assert (axes.y(0.8), axes.y(1)) == (pytest.approx(axes.bottom), pytest.approx(axes.top))
    assert [tick.text for tick in axes.y_ticks] == ["100%", "95%", "90%", "85%", "80%"]
    assert [tick.text for tick in Axes(0.0, "", "").y_ticks] == ["100%", "80%", "60%", "40%", "20%", "0%"]
    assert axes.line((0, 1), (0.8, 1)) == "62.0 284.0L416.0 14.0"
