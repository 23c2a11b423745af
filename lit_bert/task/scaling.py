"""Calibration: what logits are multiplied by, and what is added to them, so that probabilities are true."""

from __future__ import annotations

import math

import numpy as np


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T > 0 for which softmax(logits / T) has the least cross-entropy; within 1/100 to 100.

    Guo et al. (2017). A share 1 / (N + 2) of each label is spread over the classes, as in Platt (1999): a few
    rows that are all right do not make every answer certain. In 1 / T the loss is convex: Newton's method,
    and bisection where it would leave the bounds.

    Args:
        logits: (N, C), or log-probabilities.
        labels: (N,); of no rows the temperature is 1.
    """
    if not len(labels):
        return 1.0
    z = logits.astype(np.float64) - logits.max(1, keepdims=True)
    spread = 1 / (len(labels) + 2)
    target = (1 - spread) * z[np.arange(len(labels)), labels] + spread * z.mean(1)
    low, high, beta = 0.01, 100.0, 1.0  # beta is 1 / T
    for _ in range(100):
        p = np.exp(beta * z)
        p /= p.sum(1, keepdims=True)
        mean = (p * z).sum(1)
        slope, curve = (mean - target).mean(), ((p * z**2).sum(1) - mean**2).mean()
        if slope == 0:
            break
        low, high = (low, beta) if slope > 0 else (beta, high)
        step = beta - slope / curve if curve > 0 else -1.0
        new = step if low < step < high else math.sqrt(low * high)
        if abs(new - beta) < 1e-9 * beta:
            break
        beta = new
    return float(1 / beta)


PRIOR = 1.0  # how much, in rows, a class is held to a scale of 1 and a shift of 0
MAX_STEPS = 50


def platt_scaling(logits: np.ndarray, labels: np.ndarray, has_shift: bool = True) -> tuple[float, float]:
    """Scale a >= 0 and shift b for which sigmoid(a * logits + b) has the least cross-entropy.

    Platt (1999), with a quadratic penalty on log-odds that leave the ones there are, so that a class of few
    rows changes little: that of the distance of a from 1 and of b from 0. Newton's method on a convex loss.

    Args:
        logits: of one class, (N,).
        labels: (N,), 0 or 1; of no rows nothing changes.
        has_shift: whether b may be other than 0.
    """
    x = np.stack([logits.astype(np.float64), np.ones(len(logits))], axis=1)  # (N, 2)
    start = np.array([1.0, 0.0])
    free = np.array([True, has_shift])

    def loss(at: np.ndarray) -> float:
        z = x @ at
        return float((np.logaddexp(0, z) - labels * z).sum() + PRIOR / 2 * ((at - start) ** 2).sum())

    found = start
    for _ in range(MAX_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ found, -500, 500)))
        slope = x.T @ (p - labels) + PRIOR * (found - start)
        curve = (x * (p * (1 - p))[:, None]).T @ x + PRIOR * np.eye(2)
        step = np.zeros(2)
        step[free] = np.linalg.solve(curve[np.ix_(free, free)], slope[free])
        length, before = 1.0, loss(found)
        while loss(found - length * step) > before and length > 1e-6:
            length /= 2
        found = found - length * step
        if np.abs(length * step).max() < 1e-9:
            break
    return max(float(found[0]), 0.0), float(found[1])
