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

    All that is special to it is here. Modules of torch and torchmetrics that it needs are handed to it, as
    this folder is used where neither is installed.

    Attributes:
        class_names: C of them, in the order of the network's outputs.
        kind: its name in `--data.task`, checkpoints and exported folders.
        problem_type: its name in the config.json of transformers.
    """

    class_names: tuple[str, ...]
    kind: ClassVar[str]
    problem_type: ClassVar[str]

    @classmethod
    def of(cls, class_names: Sequence[str]) -> Self:
        """This kind of task with these classes."""
        return cls(tuple(class_names))

    # --- training

    @abstractmethod
    def loss(self, functional: Any, logits: Any, labels: Any, label_smoothing: float = 0.0) -> Any:
        """Mean nats per text, a tensor ().

        Args:
            functional: torch.nn.functional.
            logits: float (B, C).
            labels: as the rows store them, int64 (B,).
            label_smoothing: share of each label that is spread over all classes, 0 to 1.
        """

    @abstractmethod
    def metrics(self, classification: Any) -> dict[str, Any]:
        """The torchmetrics of a split, of logits (B, C) and labels (B,), all 0 to 1.

        Args:
            classification: torchmetrics.classification.

        Returns:
            At least `f1` (macro), `f1_micro`, `accuracy`, `f1_class`, one a class (C,), and `class_counts`
            (C, 5), whose last column is how many rows have the class as their label.
        """

    # --- answers

    @abstractmethod
    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities, float32 (N, C), 0 to 1, of logits (N, C)."""

    @abstractmethod
    def predictions(self, probs: np.ndarray) -> np.ndarray:
        """What rows are taken for, as labels are stored, of probabilities (N, C)."""

    @abstractmethod
    def answer(self, probs: np.ndarray, truncated: bool) -> Any:
        """The answer to one text: a named tuple of plain values for JSON.

        It has at least `label`, a string for people, `probability`, 0 to 1, of what it says,
        `probabilities`, one by the name of each class, and `truncated`.

        Args:
            probs: (C,).
            truncated: whether the end of the text was not read.
        """

    @abstractmethod
    def answer_schema(self) -> dict[str, Any]:
        """The JSON schema of each field of `answer` but `truncated`, in its order."""

    def explained_class(self, probs: np.ndarray) -> int:
        """The class whose probability an explanation of the answer is about, of probabilities (C,)."""
        return int(probs.argmax())

    # --- tables and texts

    @abstractmethod
    def columns(self) -> list[str]:
        """The names of the columns that `predict` adds to a table."""

    @abstractmethod
    def cells(self, probs: np.ndarray) -> list[Any]:
        """The values of `columns` of one row, of its probabilities (C,)."""

    @abstractmethod
    def limits(self) -> str:
        """What a reader of the model card has to know of the answers, as a sentence."""
