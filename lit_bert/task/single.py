"""One label a text, of two classes or more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from lit_bert.task.base import Score, Scorer, Task
from lit_bert.task.classes import (
    DECIMALS,
    PROBABILITY,
    by_class_schema,
    confidence_bins,
    f1_of_counts,
    log_probs,
    softmax,
)
from lit_bert.task.losses import focal_factor
from lit_bert.task.scaling import temperature

SUM_TOLERANCE = 1e-2  # that the sum of a row's probabilities may differ from 1 by


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
    """Each text has exactly one of the classes; outputs are a softmax and sum to 1."""

    kind = "single"
    summary = "one of the classes"
    problem_type = "single_label_classification"
    label_form = "class"
    gain_unit = "in logits less their mean"
    balancing: ClassVar[tuple[str, ...]] = (
        "class_weights",
        "focal_gamma",
        "logit_adjustment",
        "balanced_sampling",
    )
    scores: ClassVar[tuple[Score, ...]] = (
        Score("macro_f1", "macro F1"),
        Score("micro_f1", "micro F1"),  # the share of right rows, as each has one label; so is accuracy
        Score("accuracy", "accuracy", in_brief=False),
        Score("loss_nats", "loss, nats", "loss, nats per text", is_error=True),
        Score("calibration_error", "calib. error", "calibration error", is_error=True, is_distance=True),
    )

    def loss(
        self, functional: Any, logits: Any, labels: Any, label_smoothing: float = 0.0, weights: Any = None
    ) -> Any:
        if weights is None:
            return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        losses = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
        return (weights * losses).mean()

    def training_loss(
        self,
        functional: Any,
        logits: Any,
        labels: Any,
        label_smoothing: float = 0.0,
        weights: Any = None,
        class_weights: Any = None,
        focal_gamma: float = 0.0,
    ) -> Any:
        """The class of a row decides its weight, and its probability the focal factor, smoothed or not."""
        if class_weights is not None:
            of_row = class_weights[labels]
            weights = of_row if weights is None else weights * of_row
        if focal_gamma:
            probs = logits.softmax(1).gather(1, labels[:, None])[:, 0]
            factor = focal_factor(probs, focal_gamma)
            weights = factor if weights is None else weights * factor
        return self.loss(functional, logits, labels, label_smoothing, weights)

    def balanced_weights(self, shares: np.ndarray) -> np.ndarray:
        """Of 1 in the mean over the rows; 1 for a class that no row has."""
        used = shares > 0
        return np.where(used, 1 / np.where(used, shares * used.sum(), 1), 1.0)

    def log_prior(self, shares: np.ndarray) -> np.ndarray:
        return np.log(shares)

    def metrics(self, torchmetrics: Any) -> dict[str, Any]:
        classification, C = torchmetrics.classification, len(self.class_names)
        size: Any = {"num_classes": C, "validate_args": False}
        return {
            "f1": classification.MulticlassF1Score(**size, average="macro"),
            "f1_micro": classification.MulticlassF1Score(**size, average="micro"),
            "accuracy": classification.MulticlassAccuracy(**size, average="micro"),
            "f1_class": classification.MulticlassF1Score(**size, average="none"),
            "class_counts": classification.MulticlassStatScores(**size, average="none"),
        }

    def logged(self, computed: dict[str, Any]) -> tuple[dict[str, Any], Any, list[int]]:
        rows = computed["class_counts"][:, -1].tolist()
        return {name: computed[name] for name in self.logged_names}, computed["f1_class"], rows

    def outputs(self, logits: np.ndarray) -> np.ndarray:
        return softmax(logits).astype(np.float32)

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        return outputs.argmax(1)

    def answer(self, outputs: np.ndarray, truncated: bool) -> Any:
        by_class = dict(zip(self.class_names, outputs.tolist(), strict=True))
        best = int(outputs.argmax())
        return Prediction(self.class_names[best], float(outputs[best]), by_class, truncated)

    def answer_schema(self) -> dict[str, Any]:
        names = list(self.class_names)
        return {
            "label": {"type": "string", "enum": names, "description": "the most probable class"},
            "probability": {**PROBABILITY, "description": "of that class"},
            "probabilities": by_class_schema(names, "of every class; they sum to 1"),
        }

    def columns(self) -> list[str]:
        return ["predicted_label", "probability", *(f"probability_{name}" for name in self.class_names)]

    def cells(self, outputs: np.ndarray) -> list[Any]:
        values = [round(value, DECIMALS) for value in outputs.tolist()]
        best = int(self.predictions(outputs[None])[0])
        return [self.class_names[best], values[best], *values]

    def shown(self, label: Any) -> str:
        return self.class_names[int(label)]

    def limits(self) -> str:
        return (
            f"It knows the {len(self.class_names)} classes above and gives one of them to any text, in "
            "whatever language and about whatever it is."
        )

    def stored_labels(self, labels: np.ndarray) -> list[Any]:
        return [self.class_names[label] for label in labels.tolist()]

    def labels_of(self, cells: Sequence[Any]) -> np.ndarray:
        index_of = {name: index for index, name in enumerate(self.class_names)}
        return np.array([index_of[name] for name in cells], dtype=np.int64)

    def outputs_problem(self, outputs: np.ndarray) -> str | None:
        if outputs.min() >= 0 and np.allclose(outputs.sum(1), 1, atol=SUM_TOLERANCE):
            return None
        return "probabilities that are negative, or do not sum to 1"

    def scorer(self, outputs: np.ndarray, labels: np.ndarray) -> Scorer:
        # What does not depend on the counts is computed once, not in every resample: 5 times as fast.
        C = outputs.shape[1]
        cells = labels * C + self.predictions(outputs)  # (N,), of the flattened confusion matrix
        losses, (bins, gaps) = self.row_losses(outputs, labels), self._calibration_gaps(outputs, labels)

        def score(times: np.ndarray) -> np.ndarray:
            counts, total = np.bincount(cells, times, minlength=C * C).reshape(C, C), times.sum()
            macro, classes = f1_of_counts(np.diag(counts), counts.sum(1), counts.sum(0))
            micro, error = np.trace(counts) / max(total, 1), _calibration_error(bins, gaps, times)
            return np.array([macro, micro, micro, times @ losses / total, error, *classes])

        return score

    def main_scorer(self, outputs: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], float]:
        C = outputs.shape[1]
        cells = labels * C + self.predictions(outputs)

        def score(times: np.ndarray) -> float:
            counts = np.bincount(cells, times, minlength=C * C).reshape(C, C)
            return f1_of_counts(np.diag(counts), counts.sum(1), counts.sum(0))[0]

        return score

    def row_losses(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Cross-entropy of each row in nats, float64 (N,)."""
        return -log_probs(outputs[np.arange(len(labels)), labels].astype(np.float64))

    def logits_of(self, outputs: np.ndarray) -> np.ndarray:
        return log_probs(outputs)

    def calibration(
        self, logits: np.ndarray, labels: np.ndarray, has_bias: bool = True
    ) -> tuple[np.ndarray, np.ndarray] | None:
        C = logits.shape[1]
        return np.full(C, 1 / temperature(logits, labels)), np.zeros(C)

    def calibration_error(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """Expected calibration error, 0 to 1: |accuracy - confidence| in 15 equal bins of confidence.

        Guo et al. (2017), https://arxiv.org/abs/1706.04599.
        """
        return _calibration_error(*self._calibration_gaps(outputs, labels), np.ones(len(labels)))

    def _calibration_gaps(self, outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The bin of each row, int (N,), and its accuracy (0 or 1) less its confidence, float (N,)."""
        confidence = outputs.max(1).astype(np.float64)
        return confidence_bins(confidence), (outputs.argmax(1) == labels) - confidence


def _calibration_error(bins: np.ndarray, gaps: np.ndarray, times: np.ndarray) -> float:
    return float(np.abs(np.bincount(bins, times * gaps)).sum() / times.sum())
