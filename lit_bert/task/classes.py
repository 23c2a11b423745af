"""What tasks with classes have in common: F1, calibration errors, names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BINS = 15  # of the calibration error, as in Guo et al. (2017)
DECIMALS = 6  # of probabilities in a table
PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}  # its JSON schema


def by_class_schema(class_names: Sequence[str], description: str) -> dict[str, Any]:
    """The JSON schema of a probability a class."""
    return {
        "type": "object",
        "properties": dict.fromkeys(class_names, PROBABILITY),
        "required": list(class_names),
        "additionalProperties": False,
        "description": description,
    }


def explained_schema(class_names: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of the class that an explanation is about."""
    what = "the class that words are about, only where explain is true"
    return {"explained_label": {"type": "string", "enum": list(class_names), "description": what}}


def f1_of_counts(hits: np.ndarray, of_label: np.ndarray, of_pred: np.ndarray) -> tuple[float, np.ndarray]:
    """Macro F1 and the F1 of each class, float64 (C,), NaN where no row has the label.

    A class that was predicted but is the label of no row counts as 0 in the macro average; one that was not
    predicted either does not count.

    Args:
        hits: rows of each class that were predicted as it, (C,).
        of_label: rows that have the label.
        of_pred: rows that were predicted as it.
    """
    f1 = 2 * hits / np.maximum(of_label + of_pred, 1)
    counted = (of_label + of_pred) > 0
    macro = float(f1[counted].mean()) if counted.any() else 0.0
    return macro, np.where(of_label > 0, f1, np.nan)


def class_shares(labels: np.ndarray, classes: int, weights: np.ndarray | None = None) -> np.ndarray:
    """The share of each class in the weight of some rows, float64 (C,), of labels (N,) or (N, C)."""
    times = np.ones(len(labels)) if weights is None else weights.astype(np.float64)
    mass = times @ labels if labels.ndim == 2 else np.bincount(labels, times, minlength=classes)
    return mass / times.sum()


def confidence_bins(confidence: np.ndarray) -> np.ndarray:
    """The one of `BINS` equal bins, int, of confidences from 0 to 1."""
    return np.minimum((confidence.astype(np.float64) * BINS).astype(int), BINS - 1)


def log_probs(probs: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities, as logits; finite, also of 0."""
    return np.log(np.maximum(probs, np.finfo(np.float32).tiny))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float64 (N, C), of logits (N, C); rows sum to 1."""
    raised = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)
