"""The torchmetrics of a split, by the kind of task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassStatScores


def multiclass_metrics(num_classes: int) -> MetricCollection:
    """Scores of a split, all 0 to 1: `f1` (macro), `f1_micro`, `accuracy`, and `f1_class`, one a class (C,).

    Beside them `class_counts` (C, 5), whose last column is how many rows have the class as their label.
    """
    size: Any = {"num_classes": num_classes, "validate_args": False}
    return MetricCollection(
        {
            "f1": MulticlassF1Score(**size, average="macro"),
            "f1_micro": MulticlassF1Score(**size, average="micro"),
            "accuracy": MulticlassAccuracy(**size, average="micro"),
            "f1_class": MulticlassF1Score(**size, average="none"),
            "class_counts": MulticlassStatScores(**size, average="none"),
        }
    )


# From a task's `metrics` to a function of the number of classes.
METRICS: dict[str, Callable[[int], MetricCollection]] = {"multiclass": multiclass_metrics}
