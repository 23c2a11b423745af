"""The last layer alone, fitted to what the frozen network makes of texts: a convex problem.

Of classes it is logistic regression; of every other kind of task its own loss takes the place of
cross-entropy. The strength of the penalty is chosen by cross-validation.

    python -m lit_bert fit --method frozen --data.dataset reviews.csv
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

STRENGTHS = (1.0, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003)  # of the penalty
STEPS = 100  # of L-BFGS at most
TOLERANCE = 1e-5  # of a gradient, at which it ends
Loss = Callable[[Tensor, Tensor], Tensor]  # of logits (N, C) of rows, int64 (N,): mean nats a text, ()


class Head(NamedTuple):
    """A last layer.

    Attributes:
        weight: (C, F).
        bias: (C,).
    """

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """(N, C) of features (N, F)."""
        return features @ self.weight.T + self.bias


def feature_scale(features: Tensor) -> float:
    """Root mean square of the 2-norm of features (N, F), by which strengths hold for every network."""
    return max(features.square().sum(1).mean().sqrt().item(), 1e-12)


def fit_head(features: Tensor, rows: Tensor, loss: Loss, strength: float, start: Head) -> Head:
    """The head that minimises loss + strength / 2 · s² · ‖W‖², with s the scale of all features.

    Args:
        features: of all rows, float32 (N, F).
        rows: those to fit to, int64 (M,).
        start: where the search begins, which changes how long it takes.
    """
    scale = feature_scale(features)
    own = features[rows] / scale
    weight = (start.weight * scale).requires_grad_()
    bias = start.bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=STEPS,
        history_size=10,
        tolerance_grad=TOLERANCE,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        found = loss(own @ weight.T + bias, rows) + strength / 2 * weight.square().sum()
        found.backward()
        return found

    with one_thread():
        optimizer.step(closure)
    return Head((weight / scale).detach(), bias.detach())


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch uses one thread: of small matrices several wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def best_head(
    features: Tensor,
    folds: np.ndarray,
    outputs: int,
    loss: Loss,
    strengths: Sequence[float] = STRENGTHS,
    prior: Head | None = None,
) -> Head:
    """The head of the strength that has the least loss of rows that a head has not seen.

    Args:
        features: float32 (N, F).
        folds: the part of each row, int (N,), which is left out in turn.
        outputs: C.
        strengths: that are tried, the strongest first, as each begins where the one before ended.
        prior: the head that the penalty draws to; None is zero.
    """
    zero = Head(torch.zeros(outputs, features.shape[1]), torch.zeros(outputs))
    prior = prior or zero
    offset = prior.logits(features)

    def loss_beside(logits: Tensor, rows: Tensor) -> Tensor:
        return loss(logits + offset[rows], rows)

    logits = torch.zeros(len(strengths), len(features), outputs)
    for fold in np.unique(folds):
        held, others = (torch.from_numpy(np.flatnonzero(each)) for each in (folds == fold, folds != fold))
        head = zero
        for place, strength in enumerate(strengths):
            head = fit_head(features, others, loss_beside, strength, head)
            logits[place, held] = head.logits(features[held])
    everything = torch.arange(len(features))
    losses = torch.stack([loss_beside(each, everything) for each in logits])
    strength = strengths[int(losses.nan_to_num(torch.inf).argmin())]
    found = fit_head(features, everything, loss_beside, strength, zero)
    return Head(prior.weight + found.weight, prior.bias + found.bias)
