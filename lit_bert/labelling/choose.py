"""Which texts are labelled next: those that the classifier is least sure of, and that differ.

Of the texts with the least margin between their first two classes, as many are drawn as are wanted by the
seeding of k-means++, so that they lie apart: the margin of Citovsky et al. (Batch Active Learning at Scale,
2021, https://arxiv.org/abs/2107.14263) with the draw of Ash et al. (BADGE, 2020,
https://arxiv.org/abs/1906.03671). benchmarks/labelling.py measures it.

    python -m benchmarks.labelling
"""

from __future__ import annotations

import numpy as np

LEAST_SURE = 5  # times as many texts as are wanted, to draw from
MOST_DRAWN_FROM = 20_000  # texts, where all are


def least_sure(
    features: np.ndarray, outputs: np.ndarray, free: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Texts to label next, int64 (<= count,).

    Args:
        features: of all texts, float32 (N, F), of length 1.
        outputs: probabilities of all texts, (N, C).
        free: texts that can be chosen, int64 (M,).
    """
    top = np.sort(outputs[free], axis=1)
    unsure = free[np.argsort(top[:, -1] - top[:, -2], kind="stable")[: LEAST_SURE * count]]
    return spread(features, unsure, count, generator)


def spread(features: np.ndarray, free: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Texts that lie apart, int64 (<= count,), by the seeding of k-means++."""
    if len(free) > MOST_DRAWN_FROM:
        free = generator.choice(free, MOST_DRAWN_FROM, replace=False)
    own = np.asarray(features[free], dtype=np.float32)
    distance = np.full(len(free), 1.0)
    chosen: list[int] = []
    while len(chosen) < min(count, len(free)):
        total = distance.sum()
        if total <= 1e-9:  # all that are left lie where a chosen one does
            left = np.setdiff1d(np.arange(len(free)), chosen)
            chosen += left[: count - len(chosen)].tolist()
            break
        place = int(generator.choice(len(free), p=distance / total))
        chosen.append(place)
        near = np.maximum(2 - 2 * own @ own[place], 0.0)
        near[near < 1e-6] = 0.0
        distance = np.minimum(distance, near) if len(chosen) > 1 else near.astype(np.float64)
    return free[chosen]


def by_turns(texts: np.ndarray, guesses: np.ndarray) -> np.ndarray:
    """The texts, int64 (M,), so that each class that is guessed for one of them, int (M,), comes early."""
    seen: dict[int, int] = {}
    turn = []
    for guess in guesses.tolist():
        turn.append(seen.get(guess, 0))
        seen[guess] = turn[-1] + 1
    return texts[np.argsort(turn, kind="stable")]
