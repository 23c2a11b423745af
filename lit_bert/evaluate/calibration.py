"""Calibrated probabilities: softmax with a temperature that was fitted on rows."""

from __future__ import annotations

import math

import numpy as np

from lit_bert.task.single import softmax


def log_probs(probs: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities, as logits; finite, also of 0."""
    return np.log(np.maximum(probs, np.finfo(np.float32).tiny))


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


def cross_fitted(logits: np.ndarray, labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Probabilities (N, C) of rows whose temperature was fitted on the other half of them.

    What calibration is worth can only be told from rows that it was not fitted on.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    probs = np.empty(logits.shape)
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    for here, there in (halves, halves[::-1]):
        probs[here] = softmax(logits[here] / temperature(logits[there], labels[there]))
    return probs
