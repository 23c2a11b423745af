"""The classifier of the labels so far, a head on frozen embeddings, and how good it is.

The texts that were drawn at random say how good: each is scored by a head that has not seen it, fitted to the
other labels. As that has a few labels less, the score is rather too low than too high.

    python -m lit_bert label reviews.csv
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lit_bert.labelling.curve import Forecast, Point, forecast, points_of
from lit_bert.model import head
from lit_bert.model.head import Head

FOLDS = 5  # of the texts that are scored
HEAD_FOLDS = 4  # by which the penalty of a head is chosen
STRENGTHS = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)  # of its penalty: those that suit some hundred labels
FEWEST = 10  # labels that a head is fitted to
SHARES = (1 / 4, 1 / 2, 1)  # of the labels, for the learning curve
AT_ONCE = 16_384  # texts whose probabilities are computed


class Estimate(NamedTuple):
    """How good the classifier is, and what more labels would bring.

    Attributes:
        labels: that it was fitted to.
        scored: texts drawn at random that it was scored on.
        curve: the score of each size; the last is that of now.
    """

    labels: int
    scored: int
    curve: list[Point]
    expected: Forecast | None


def fitted(features: np.ndarray, labels: np.ndarray, classes: int) -> Head | None:
    """The head for some texts, with the penalty that suits them; None where they are too few.

    Args:
        features: float32 (N, F).
        labels: int64 (N,).
    """
    if len(labels) < FEWEST or len(np.unique(labels)) < 2:
        return None
    truth = torch.from_numpy(labels)
    # In the order of their classes, so that each fold has its share of each.
    folds = np.empty(len(labels), dtype=np.int64)
    folds[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % HEAD_FOLDS

    def loss(logits: Tensor, rows: Tensor) -> Tensor:
        return cross_entropy(logits, truth[rows])

    return head.best_head(torch.from_numpy(np.array(features)), folds, classes, loss, STRENGTHS)


def probabilities(found: Head, features: np.ndarray) -> np.ndarray:
    """float32 (N, C)."""
    parts = [
        torch.softmax(found.logits(torch.from_numpy(np.array(features[start : start + AT_ONCE]))), dim=1)
        for start in range(0, len(features), AT_ONCE)
    ]
    return torch.cat(parts).numpy()


class Stopped(Exception):
    """Nobody waits for the estimate any more."""


def estimate(
    features: np.ndarray,
    labels: np.ndarray,
    is_scored: np.ndarray,
    classes: int,
    seed: int,
    stops: Callable[[], bool] = lambda: False,
) -> Estimate | None:
    """How good a head for these texts is; None where none was drawn at random, or there are too few.

    Args:
        features: of the texts in the order in which they were labelled, float32 (N, F).
        labels: int64 (N,).
        is_scored: which were drawn at random, bool (N,).
        stops: whether to end, which is asked every second or so.

    Raises:
        Stopped: it does.
    """
    scored = np.flatnonzero(is_scored)
    if not len(scored):
        return None
    generator = np.random.default_rng(seed)
    folds = np.full(len(labels), -1)  # those that were chosen are in no fold, and always trained on
    folds[generator.permutation(scored)] = np.arange(len(scored)) % FOLDS
    sizes, right = [], []
    for size in sorted({max(FEWEST, round(share * len(labels))) for share in SHARES}):
        found = _cross_fitted(features, labels, scored, folds, size, classes, stops)
        if found is not None:
            sizes.append(size)
            right.append(found == labels[scored])
    if not sizes or sizes[-1] != len(labels):
        return None
    matrix = np.array(right)
    return Estimate(len(labels), len(scored), points_of(sizes, matrix), forecast(sizes, matrix, generator))


def _cross_fitted(
    features: np.ndarray,
    labels: np.ndarray,
    scored: np.ndarray,
    folds: np.ndarray,
    size: int,
    classes: int,
    stops: Callable[[], bool],
) -> np.ndarray | None:
    """The class of each text that is scored, by a head for others of the first `size` texts."""
    answers = np.full(len(labels), -1)
    for fold in range(FOLDS):
        if stops():
            raise Stopped
        held = scored[folds[scored] == fold]
        if not len(held):
            continue
        train = np.flatnonzero(folds[:size] != fold)
        found = fitted(features[train], labels[train], classes) if len(train) >= FEWEST else None
        if found is None:
            # Too few or all of one class: that class is the answer.
            values, counts = np.unique(labels[train], return_counts=True)
            if not len(values):
                return None
            answers[held] = values[counts.argmax()]
        else:
            answers[held] = probabilities(found, features[held]).argmax(1)
    return answers[scored]
