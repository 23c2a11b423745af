"""Means of weights: of one training as it goes on, which is what a fit validates, and of several networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

AVERAGED_STEPS = 10  # steps between two updates of the average, which cost as much as a step of AdamW


class WeightAverage:
    """Exponential moving average of weights (Polyak and Juditsky, 1992; Kingma and Ba, 2015, section 7.2).

    At step t the decay is min(`decay`, (1 + t) / (10 + t)), as in TensorFlow's ExponentialMovingAverage, so
    that it never remembers more than about a tenth of the run. Weights count as they stand at every
    `AVERAGED_STEPS`th step; embedding rows that wait for DeferredAdamW, as they were last read. Lightning's
    WeightAveraging would put the training weights back before the best checkpoint is saved, and copies rows
    that still wait.

    Args:
        parameters: what to average. It starts at their values.
        decay: per optimizer step, 0 to below 1.
        step: optimizer steps done before.

    Attributes:
        in_use: whether the parameters hold the average, and `values` the weights that train.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float, step: int = 0) -> None:
        self.parameters = [each.detach() for each in parameters]
        self.values = [each.clone() for each in self.parameters]
        self.decay, self.step, self._averaged_step = decay, step, step
        self.in_use = False

    def update(self) -> None:
        """Called after each optimizer step."""
        self.step += 1
        if self.step - self._averaged_step == AVERAGED_STEPS:
            self.fold_in()

    def fold_in(self) -> None:
        """Folds the steps since the last update into the average, unless the average is in use."""
        if not self.in_use:
            decay = min(self.decay, (1 + self.step) / (10 + self.step)) ** (self.step - self._averaged_step)
            torch._foreach_lerp_(self.values, self.parameters, 1 - decay)
            self._averaged_step = self.step

    @property
    def both(self) -> tuple[list[Tensor], list[Tensor]]:
        """The average, up to date unless it is in use, and the weights that train."""
        self.fold_in()
        return (self.parameters, self.values) if self.in_use else (self.values, self.parameters)

    def swap(self) -> None:
        """Exchanges the parameters with the average, or back. DeferredAdamW has to catch up before."""
        self.fold_in()
        for parameter, value in zip(self.parameters, self.values, strict=True):
            kept = parameter.clone()
            parameter.copy_(value)
            value.copy_(kept)
        self.in_use = not self.in_use


class WeightSum:
    """Networks of the same shape, summed up.

    Trained from the same weights, they end near each other, and their mean is a network that is often better
    than each (model soups, Wortsman et al., 2022, https://arxiv.org/abs/2203.05482).
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, network: Any) -> None:
        self.count += 1
        for name, value in network.state_dict().items():
            if name in self._sums and value.is_floating_point():
                self._sums[name] += value
            else:
                self._sums[name] = value.detach().clone()

    def load_mean(self, network: Any) -> None:
        """Has a network hold the mean of those that were added."""
        mean = {
            name: value / self.count if value.is_floating_point() else value
            for name, value in self._sums.items()
        }
        network.load_state_dict(mean)
