"""Two classifiers on the same rows: differences with paired intervals."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from lit_bert.evaluate.scores import LEVEL, Score, Scores, bootstrap, interval, intervals
from lit_bert.task.base import Task

FEWEST_ROWS = 16  # to test a difference of losses on; on fewer, a useless change is kept too often


class Comparison(NamedTuple):
    """Two classifiers on the same rows.

    Attributes:
        differences: the second's scores less the first's.
        only_first: rows that the first alone has right; `only_second` likewise. None where no row is right or
            wrong, as with numbers.
        p_value: of McNemar's exact test that both err equally often.
    """

    differences: Scores[Score]
    only_first: int | None = None
    only_second: int | None = None
    p_value: float | None = None


def compare(task: Task, first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> Comparison:
    """Differences of `all_scores` with paired bootstrap intervals, and McNemar's test.

    Args:
        task: of both.
        first: outputs (N, C) of one model, `second` those of the other.
    """
    score_first, score_second = (task.scorer(outputs, labels) for outputs in (first, second))

    def differences(times: np.ndarray) -> np.ndarray:
        return score_second(times) - score_first(times)

    values, resampled = differences(np.ones(len(labels))), bootstrap(differences, len(labels))
    found = intervals(task, values, resampled)
    first_right, second_right = (task.is_right(outputs, labels) for outputs in (first, second))
    if first_right is None or second_right is None:
        return Comparison(found)
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    return Comparison(found, only_first, only_second, mcnemar(only_first, only_second))


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


def loss_change(task: Task, before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> Score | None:
    """By how much a step changes the mean loss of the same rows, in nats a text; None of too few rows.

    With Student's interval of the paired differences. In simulations with a model that needs no temperature,
    it lies below 0 in at most 4 % of the draws of 18 rows or more; the percentile bootstrap is narrower on
    few rows, and of 6 it is wrong in 11 %, Student's in 7 %.

    Args:
        before: outputs (N, C) without the step, `after` with it, on rows that it was not fitted on.
    """
    changes = task.row_losses(after, labels) - task.row_losses(before, labels)
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


def main_change(task: Task, before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> Score:
    """By how much the score that chooses between models differs, with its paired bootstrap interval.

    Args:
        before: outputs (N, C) of one model, `after` those of the other.
    """
    score_before, score_after = (task.main_scorer(outputs, labels) for outputs in (before, after))

    def change(times: np.ndarray) -> np.ndarray:
        return np.array([score_after(times) - score_before(times)])

    return interval(float(change(np.ones(len(labels)))[0]), bootstrap(change, len(labels))[:, 0])
