"""The temperature: against a grid, labels drawn with a known one, and worked examples."""

import numpy as np
import pytest
import torch
from test_scores import single

from lit_bert.evaluate.calibration import cross_fitted
from lit_bert.evaluate.scores import with_intervals
from lit_bert.task.classes import softmax
from lit_bert.task.scaling import temperature


def smoothed_loss(logits, labels, T):
    """What `temperature` minimises, spelled out: 1 / (N + 2) of each label belongs to all classes."""
    log_probs = torch.from_numpy(logits / T).double().log_softmax(1).numpy()
    spread = 1 / (len(labels) + 2)
    return -((1 - spread) * log_probs[np.arange(len(labels)), labels] + spread * log_probs.mean(1)).mean()


def drawn(T, N=4000, C=5, seed=0):
    """Logits whose labels were drawn from softmax(logits / T)."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(N, C)) * 3
    chance = softmax(logits / T).cumsum(1)
    return logits, (generator.random((N, 1)) > chance).sum(1)


@pytest.mark.parametrize("T", [0.3, 0.8, 1.0, 1.7, 4.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(T):
    logits, labels = drawn(T)
    assert temperature(logits, labels) == pytest.approx(T, rel=0.08)
    # Logits of another scale, or log-probabilities, say the same.
    log_probs = np.log(softmax(logits))
    assert temperature(log_probs, labels) == pytest.approx(temperature(logits, labels), rel=1e-6)
    assert temperature(7 * logits, labels) == pytest.approx(7 * temperature(logits, labels), rel=1e-6)


HARD = {
    "few rows": lambda: drawn(2.0, N=7, seed=1),
    "a row": lambda: drawn(2.0, N=1, seed=2),
    "two classes": lambda: drawn(0.5, N=50, C=2, seed=3),
    "77 classes": lambda: drawn(3.0, N=300, C=77, seed=4),
    "all right and sure": lambda: (np.eye(3)[[0, 1, 2, 0]] * 30, np.array([0, 1, 2, 0])),
    "all right and unsure": lambda: (np.eye(3)[[0, 1, 2, 0]] * 0.5, np.array([0, 1, 2, 0])),
    "all wrong": lambda: (np.eye(3)[[0, 1, 2, 0]] * 4, np.array([1, 2, 0, 1])),
    "float32": lambda: tuple(each.astype(kind) for each, kind in zip(drawn(1.5), ("f4", "i8"), strict=True)),
}


@pytest.mark.parametrize("case", HARD)
def test_no_other_temperature_does_better(case):
    logits, labels = HARD[case]()
    T = temperature(logits, labels)
    grid = np.geomspace(0.01, 100, 2001)
    losses = [smoothed_loss(logits, labels, each) for each in grid]
    least = min(losses)
    assert smoothed_loss(logits, labels, T) <= least + 1e-9
    assert smoothed_loss(logits, labels, T) <= smoothed_loss(logits, labels, 1.0)
    if case != "all wrong":  # there the loss falls all the way to the bound
        assert abs(T / grid[np.argmin(losses)] - 1) < 0.01


def test_a_few_right_rows_do_not_make_every_answer_certain():
    logits, labels = np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([0, 1])
    # 1/4 of each label is spread over two classes: 7/8 is the best that can be said of such rows.
    assert softmax(logits / temperature(logits, labels)).max(1) == pytest.approx([7 / 8] * 2, abs=1e-6)
    many = np.tile(logits, (500, 1)), np.tile(labels, 500)  # 1000 rows: 1 - 1/1002/2
    assert softmax(many[0] / temperature(*many)).max() == pytest.approx(1 - 1 / 2004, abs=1e-6)


def test_a_temperature_stays_within_its_bounds():
    right, wrong = np.array([[1e-4, 0.0]] * 9), np.array([[900.0, 0.0]] * 9)
    assert temperature(right, np.zeros(9, int)) == pytest.approx(0.01, rel=0.01)
    assert temperature(wrong, np.ones(9, int)) == pytest.approx(100, rel=0.01)
    assert temperature(np.zeros((9, 2)), np.zeros(9, int)) == 1  # all alike: nothing to tell


def test_the_interval_of_a_small_calibration_error_is_about_it():
    # Resamples of rows without an error beyond chance have a larger one, nearly all of them.
    for seed in range(5):
        logits, labels = drawn(1.0, N=100, seed=seed)
        found = with_intervals(single(5), softmax(logits), labels).calibration_error
        assert 0 <= found.low < found.value < found.high < 0.25


def test_each_half_is_calibrated_by_the_other():
    logits, labels = drawn(2.5, N=41)
    probs = cross_fitted(single(5), logits, labels, seed=3)
    assert probs.sum(1) == pytest.approx(np.ones(41))
    # The temperature of each row, from its two likeliest classes.
    rows, top = np.arange(41)[:, None], np.argsort(-logits, axis=1)[:, :2]
    gap, log_gap = -np.diff(logits[rows, top]), -np.diff(np.log(probs[rows, top]))
    used = (gap / log_gap)[:, 0]
    halves = [np.flatnonzero(side) for side in (used < used.mean(), used > used.mean())]
    assert sorted(map(len, halves)) == [20, 21]
    for here, there in (halves, halves[::-1]):
        assert used[here] == pytest.approx(temperature(logits[there], labels[there]), rel=1e-5)
    assert not np.array_equal(cross_fitted(single(5), logits, labels, seed=4), probs)
    assert np.array_equal(cross_fitted(single(5), logits, labels, seed=3), probs)


def test_calibration_brings_confidence_to_accuracy():
    logits, labels = drawn(3.0)
    before = single(5).calibration_error(softmax(logits), labels)
    after = single(5).calibration_error(cross_fitted(single(5), logits, labels), labels)
    assert before > 0.2
    assert after < 0.03


def test_a_single_row_is_calibrated_with_nothing():
    logits = np.array([[3.0, 1.0]])
    assert cross_fitted(single(2), logits, np.array([1])) == pytest.approx(softmax(logits))
