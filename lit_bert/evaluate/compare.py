"""Two classifiers on the same rows: differences with paired intervals."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from lit_bert.evaluate.scores import (
    LEVEL,
    Score,
    Scores,
    bootstrap,
    f1_scores,
    interval,
    intervals,
    row_losses,
    scorer,
)

FEWEST_ROWS = 16  # to test a difference of losses on; on fewer, a useless change is kept too often


class Comparison(NamedTuple):
    """Two classifiers on the same rows.

    Attributes:
        differences: the second's scores less the first's.
        only_first: rows that the first alone has right; `only_second` likewise.
        p_value: of McNemar's exact test that both err equally often.
    """

    differences: Scores[Score]
    only_first: int
    only_second: int
    p_value: float


def compare(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> Comparison:
    """Differences of `all_scores` with paired bootstrap intervals, and McNemar's test.

    Args:
        first: probabilities (N, C) of one classifier, `second` those of the other.
    """
    score_first, score_second = (scorer(probs, labels) for probs in (first, second))

    def differences(times: np.ndarray) -> np.ndarray:
        return score_second(times) - score_first(times)

    values, resampled = differences(np.ones(len(labels))), bootstrap(differences, len(labels))
    first_right, second_right = (probs.argmax(1) == labels for probs in (first, second))
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    p_value = mcnemar(only_first, only_second)
    return Comparison(intervals(values, resampled), only_first, only_second, p_value)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value (McNemar, 1947).

    If both err equally often, which of the two is right where one alone is, is a fair coin toss.
    """
    tosses, fewer = only_first + only_second, min(only_first, only_second)
    ways = tail = 1  # to come up `count` times, and at most so often; exact, as long integers
    for count in range(1, fewer + 1):
        ways = ways * (tosses - count + 1) // count
        tail += ways
    return min(1.0, 2 * tail / 2**tosses)


# --- whether a step improves the model beyond chance ---


def loss_change(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> Score | None:
    """By how much a step changes the mean loss of the same rows, in nats a text; None of too few rows.

    With Student's interval of the paired differences. In simulations with a model that needs no temperature,
    it lies below 0 in at most 4 % of the draws of 18 rows or more; the percentile bootstrap is narrower on
    few rows, and of 6 it is wrong in 11 %, Student's in 7 %.

    Args:
        before: probabilities (N, C) without the step, `after` with it, on rows that it was not fitted on.
    """
    changes = row_losses(after, labels) - row_losses(before, labels)
    if len(changes) < FEWEST_ROWS:
        return None
    mean, error = changes.mean(), changes.std(ddof=1) / math.sqrt(len(changes))
    half_width = _student_quantile((1 + LEVEL) / 2, len(changes) - 1) * error
    return Score(float(mean), float(mean - half_width), float(mean + half_width))


def _student_quantile(share: float, degrees: int) -> float:
    """Of Student's t, to 0.1 % from 9 degrees of freedom on: Abramowitz and Stegun (1964), 26.7.5."""
    z, n = NormalDist().inv_cdf(share), degrees
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )


def macro_f1_change(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> Score:
    """By how much macro F1 differs on the same rows, -1 to 1, with its paired bootstrap interval.

    Args:
        before: probabilities (N, C) of one classifier, `after` those of the other.
    """
    C = before.shape[1]
    cells = [labels * C + probs.argmax(1) for probs in (before, after)]

    def change(times: np.ndarray) -> np.ndarray:
        counts = (np.bincount(each, times, minlength=C * C).reshape(C, C) for each in cells)
        first, second = (f1_scores(each)[0] for each in counts)
        return np.array([second - first])

    return interval(float(change(np.ones(len(labels)))[0]), bootstrap(change, len(labels))[:, 0])
