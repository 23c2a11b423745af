"""Whether two samples that were counted in the same bins are of one distribution. numpy only.

The tests know nothing of what was counted. Each keeps its rate of false alarms for samples of any size, and
errs towards none: the exact test of Fisher, and that of Smirnov with the limit distribution, which for bins
and small samples gives p-values that are too large.

    python -m lit_bert drift checkpoints/version_0/best.ckpt new.csv
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

MOST_TERMS = 1_000_000  # of a tail; where more would count, its p-value is near 1


def smirnov(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The largest difference of the cumulated shares, 0 to 1, and its two-sided p-value (Smirnov, 1939).

    Args:
        first: how many of one sample are in each of K bins in order, int (K,); `second` of the other. Neither
            is empty.
    """
    n, m = int(first.sum()), int(second.sum())
    distance = float(np.abs(np.cumsum(first) / n - np.cumsum(second) / m).max())
    scaled = distance * math.sqrt(n * m / (n + m))
    if scaled < 0.3:  # where the series converges slowly, p is above 0.9999
        return distance, 1.0
    p = 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101))
    return distance, min(max(p, 0.0), 1.0)


def fisher(hits: int, of: int, hits_2: int, of_2: int) -> float:
    """The p-value of Fisher's exact test (1935) that two rates are the same: twice the smaller tail."""
    drawn, marked, whole = of_2, hits + hits_2, of + of_2
    expected = drawn * marked / whole
    if hits_2 == expected:
        return 1.0
    # Hypergeometric: of `whole`, of which `marked` are hits, `drawn` are drawn; the tail away from expected.
    if hits_2 < expected:  # the same with hits and misses exchanged
        marked, hits_2 = whole - marked, drawn - hits_2
    last = min(marked, drawn)
    log_first = (
        _log_choose(marked, hits_2) + _log_choose(whole - marked, drawn - hits_2) - _log_choose(whole, drawn)
    )
    k = np.arange(hits_2, min(last, hits_2 + MOST_TERMS), dtype=np.float64)
    ratios = (marked - k) * (drawn - k) / ((k + 1) * (whole - marked - drawn + k + 1))
    return min(1.0, 2 * math.exp(log_first) * (1 + float(np.cumprod(ratios).sum())))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """P-values corrected for their number (Holm, 1979): compared with one rate of any false alarm."""
    count, order = len(p_values), np.argsort(p_values, kind="stable")
    raised = np.maximum.accumulate((count - np.arange(count)) * np.asarray(p_values)[order])
    found = np.empty(count)
    found[order] = np.minimum(raised, 1)
    return found
