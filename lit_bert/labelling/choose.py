"""Which texts are labelled next: those that stand for many texts of whose class the classifier is unsure.

Each text that is chosen covers those like it, by a kernel of their distance; the next one is that which adds
most to what is covered, where a text counts as much as the classifier is unsure of it. With few labels it is
unsure of all, and texts are chosen that are typical and differ; later those near the borders of classes. It
is Uncertainty Herding (Bae, Noh and Sutherland, 2024, https://arxiv.org/abs/2412.20644).
benchmarks/labelling.py measures it.

    python -m benchmarks.labelling
"""

from __future__ import annotations

import numpy as np

WIDTH = 0.5  # of the kernel: squared distance at which a text is covered by 1 / e
MOST_COVERED, MOST_CANDIDATES = 4000, 2000  # texts that are looked at, drawn at random where there are more


def next_texts(
    features: np.ndarray,
    outputs: np.ndarray | None,
    chosen: np.ndarray,
    free: np.ndarray,
    count: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Texts to label next, the best first, int64 (<= count,).

    Args:
        features: of all texts, float32 (N, F), of length 1.
        outputs: probabilities of all texts, (N, C); None before there is a classifier.
        chosen: texts that were chosen before, int64 (M,).
        free: texts that can be chosen, int64 (K,).
    """
    covered = _some(np.arange(len(features)), MOST_COVERED, generator)
    candidates = _some(free, MOST_CANDIDATES, generator)
    weights = np.ones(len(covered), np.float32) if outputs is None else entropy(outputs[covered])
    points = np.asarray(features[covered])
    similar = _kernel(points, features[candidates])
    cover = np.zeros(len(covered), np.float32)
    for start in range(0, len(chosen), MOST_CANDIDATES):
        part = _kernel(points, features[chosen[start : start + MOST_CANDIDATES]])
        cover = np.maximum(cover, part.max(1))
    found: list[int] = []
    while len(found) < min(count, len(candidates)):
        gains = weights @ np.maximum(similar - cover[:, None], 0.0)
        gains[found] = -1.0
        best = int(gains.argmax())
        found.append(best)
        cover = np.maximum(cover, similar[:, best])
    return candidates[found]


def entropy(outputs: np.ndarray) -> np.ndarray:
    """Of probabilities (N, C): nats, float32 (N,)."""
    return -(outputs * np.log(np.maximum(outputs, 1e-12))).sum(1).astype(np.float32)


def _some(texts: np.ndarray, most: int, generator: np.random.Generator) -> np.ndarray:
    return texts if len(texts) <= most else np.sort(generator.choice(texts, most, replace=False))


def _kernel(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """1 where two texts are the same, nearly 0 where they have nothing in common, float32 (N, M)."""
    return np.exp((2 * (points @ np.asarray(others).T) - 2) / WIDTH)
