"""The interface of a kind of task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np


@dataclass(frozen=True)
class Task(ABC):
    """A kind of task with its classes.

    Attributes:
        class_names: C of them, in the order of the network's outputs.
        kind: its name in `--data.task`, checkpoints and exported folders.
        problem_type: its name in the config.json of transformers.
        loss: name of the loss of a batch, in the table of `model.objective`.
        metrics: name of the torchmetrics of a split, in the table of `model.metrics`.
    """

    class_names: tuple[str, ...]
    kind: ClassVar[str]
    problem_type: ClassVar[str]
    loss: ClassVar[str]
    metrics: ClassVar[str]

    @classmethod
    def of(cls, class_names: Sequence[str]) -> Self:
        """This kind of task with these classes."""
        return cls(tuple(class_names))

    @abstractmethod
    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities, float32 (N, C), 0 to 1, of logits (N, C)."""

    @abstractmethod
    def predictions(self, probs: np.ndarray) -> np.ndarray:
        """What rows are taken for, as labels are stored, of probabilities (N, C)."""

    @abstractmethod
    def answer(self, probs: np.ndarray) -> dict[str, Any]:
        """The answer to one text, of its probabilities (C,), as plain values for JSON."""

    @abstractmethod
    def columns(self) -> list[str]:
        """The names of the columns that `predict` adds to a table."""

    @abstractmethod
    def cells(self, probs: np.ndarray) -> list[Any]:
        """The values of `columns` of one row, of its probabilities (C,)."""
