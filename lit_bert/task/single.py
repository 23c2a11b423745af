"""One label a text, of two classes or more."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lit_bert.task.base import Task

DECIMALS = 6  # of probabilities in a table


class Prediction(NamedTuple):
    """The answer to a text.

    Attributes:
        label: the most probable class.
        probability: of that class, 0 to 1.
        probabilities: of each class, in the order of the classes; they sum to 1.
        truncated: whether the end of the text was not read, as it has more tokens than the model takes.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    truncated: bool


class SingleLabel(Task):
    """Each text has exactly one of the classes; probabilities are a softmax and sum to 1."""

    kind = "single"
    problem_type = "single_label_classification"

    def loss(self, functional: Any, logits: Any, labels: Any, label_smoothing: float = 0.0) -> Any:
        return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)

    def metrics(self, classification: Any) -> dict[str, Any]:
        size: Any = {"num_classes": len(self.class_names), "validate_args": False}
        return {
            "f1": classification.MulticlassF1Score(**size, average="macro"),
            "f1_micro": classification.MulticlassF1Score(**size, average="micro"),
            "accuracy": classification.MulticlassAccuracy(**size, average="micro"),
            "f1_class": classification.MulticlassF1Score(**size, average="none"),
            "class_counts": classification.MulticlassStatScores(**size, average="none"),
        }

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        return softmax(logits).astype(np.float32)

    def predictions(self, probs: np.ndarray) -> np.ndarray:
        return probs.argmax(1)

    def answer(self, probs: np.ndarray, truncated: bool) -> Prediction:
        by_class = dict(zip(self.class_names, probs.tolist(), strict=True))
        return Prediction(self.class_names[int(probs.argmax())], float(probs.max()), by_class, truncated)

    def answer_schema(self) -> dict[str, Any]:
        names = list(self.class_names)
        probability = {"type": "number", "minimum": 0, "maximum": 1}
        return {
            "label": {"type": "string", "enum": names, "description": "the most probable class"},
            "probability": {**probability, "description": "of that class"},
            "probabilities": {
                "type": "object",
                "properties": dict.fromkeys(names, probability),
                "required": names,
                "additionalProperties": False,
                "description": "of every class; they sum to 1",
            },
        }

    def columns(self) -> list[str]:
        return ["predicted_label", "probability", *(f"probability_{name}" for name in self.class_names)]

    def cells(self, probs: np.ndarray) -> list[Any]:
        values = [round(value, DECIMALS) for value in probs.tolist()]
        best = int(probs.argmax())
        return [self.class_names[best], values[best], *values]

    def limits(self) -> str:
        return (
            f"It knows the {len(self.class_names)} classes above and gives one of them to any text, in "
            "whatever language and about whatever it is."
        )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float64 (N, C), of logits (N, C); rows sum to 1."""
    raised = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)
