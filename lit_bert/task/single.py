"""One label a text, of two classes or more."""

from __future__ import annotations

from typing import Any

import numpy as np

from lit_bert.task.base import Task

DECIMALS = 6  # of probabilities in a table


class SingleLabel(Task):
    """Each text has exactly one of the classes; probabilities are a softmax and sum to 1."""

    kind = "single"
    problem_type = "single_label_classification"
    loss = "cross_entropy"
    metrics = "multiclass"

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        return softmax(logits).astype(np.float32)

    def predictions(self, probs: np.ndarray) -> np.ndarray:
        return probs.argmax(1)

    def answer(self, probs: np.ndarray) -> dict[str, Any]:
        return {
            "label": self.class_names[int(probs.argmax())],
            "probability": float(probs.max()),
            "probabilities": dict(zip(self.class_names, probs.tolist(), strict=True)),
        }

    def columns(self) -> list[str]:
        return ["predicted_label", "probability", *(f"probability_{name}" for name in self.class_names)]

    def cells(self, probs: np.ndarray) -> list[Any]:
        values = [round(value, DECIMALS) for value in probs.tolist()]
        best = int(probs.argmax())
        return [self.class_names[best], values[best], *values]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float64 (N, C), of logits (N, C); rows sum to 1."""
    raised = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)
