"""What labels have brought, and what the next ones are expected to bring.

The score of each size is that of heads which have not seen the texts that they are scored on, and these were
drawn at random. An inverse power law, score = a - b n^-c, goes through them, as in Figueroa et al. (2012,
https://doi.org/10.1186/1472-6947-12-8); it is fitted again to texts drawn anew, which gives the interval.

    python -m lit_bert label reviews.csv
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lit_bert.evaluate.scores import wilson

AHEAD = 100  # labels
DRAWS = 400
POWERS = np.linspace(0.1, 2.0, 39)  # c
FEWEST_SCORED = 10  # texts, below which nothing is expected


class Point(NamedTuple):
    """The accuracy of a classifier of that many labels, with its 95 % interval (Wilson)."""

    labels: int
    score: float
    low: float
    high: float


class Forecast(NamedTuple):
    """The accuracy expected of that many labels, with its 90 % interval."""

    labels: int
    score: float
    low: float
    high: float


def points_of(sizes: list[int], right: np.ndarray) -> list[Point]:
    """The learning curve.

    Args:
        right: whether each text drawn at random got its class, bool (S, M), M above 0.
    """
    count = right.shape[1]
    low, high = wilson(right.sum(1), np.full(len(sizes), count))
    values = zip(sizes, right.mean(1), low, high, strict=True)
    return [Point(size, float(score), float(a), float(b)) for size, score, a, b in values]


def forecast(sizes: list[int], right: np.ndarray, generator: np.random.Generator) -> Forecast | None:
    """What `AHEAD` more labels are expected to give; None where too little is known."""
    count = right.shape[1]
    if len(sizes) < 3 or count < FEWEST_SCORED:
        return None
    at = sizes[-1] + AHEAD
    drawn = generator.integers(count, size=(DRAWS, count))
    # A draw of a few texts that are all right would have no spread: one right and one wrong are added.
    means = (right[:, drawn].sum(2).T + 1) / (count + 2)  # (DRAWS, S)
    expected = extrapolated(np.array(sizes), np.concatenate([right.mean(1)[None], means]), at)
    # What the training rows, other than those that were drawn, would have brought is not in the draws above.
    low, high = np.quantile(expected[1:], [0.05, 0.95])
    score = float(expected[0])
    return Forecast(at, score, min(score, float(low)), max(score, float(high)))


def extrapolated(sizes: np.ndarray, scores: np.ndarray, at: int) -> np.ndarray:
    """The score at a size, (D,), by the power law with the least squares of each row of scores (D, S).

    With b of 0 or more, so that labels do no harm, and 0 <= a <= 1.
    """
    best = np.full(len(scores), np.inf)
    found = np.zeros(len(scores))
    weights = np.sqrt(sizes / sizes.sum())  # a larger size says more of what comes
    weights = weights / weights.sum()
    for power in POWERS:
        x = -(sizes.astype(float) ** -power)  # rises with the size
        middle = weights @ x
        means = scores @ weights
        slope = np.maximum((scores - means[:, None]) @ (weights * (x - middle)), 0.0)
        slope /= weights @ (x - middle) ** 2
        top = means - slope * middle
        over = top > 1.0  # the curve then ends at 1
        fixed = np.maximum((1.0 - scores) @ (weights * -x), 0.0) / (weights @ x**2)
        top, slope = np.where(over, 1.0, top), np.where(over, fixed, slope)
        error = ((top[:, None] + slope[:, None] * x - scores) ** 2) @ weights
        better = error < best
        best[better] = error[better]
        found[better] = (top - slope * float(at) ** -power)[better]
    return np.clip(found, 0.0, 1.0)
