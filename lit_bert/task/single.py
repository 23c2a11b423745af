"""One label a text, of two classes or more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from lit_bert.task import guarantee
from lit_bert.task.base import Score, Scorer, Task
from lit_bert.task.classes import (
    DECIMALS,
    PROBABILITY,
    by_class_schema,
    confidence_bins,
    explained_schema,
    f1_of_counts,
    log_probs,
    softmax,
)
from lit_bert.task.decisions import check, decided
from lit_bert.task.guarantee import ACCURACY, BY_CLASS, COVERAGE, Accuracy, Coverage, Labelled, Promise
from lit_bert.task.losses import focal_factor
from lit_bert.task.scaling import temperature

RATES = (ACCURACY, COVERAGE, BY_CLASS)  # that can be guaranteed of one label a text
SUM_TOLERANCE = 1e-2  # that the sum of a row's probabilities may differ from 1 by


class Prediction(NamedTuple):
    """The answer to a text.

    Attributes:
        label: the most probable class, or the one that costs or a wanted rate decide for.
        probability: of that class, 0 to 1.
        probabilities: of each class, in the order of the classes; they sum to 1.
        truncated: whether the end of the text was not read, as it has more tokens than the model takes.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    truncated: bool


class GuaranteedPrediction(NamedTuple):
    """The answer of a model with a guarantee.

    Attributes:
        label: as of a `Prediction`; None where the model does not answer.
        probability: of the class that would be the answer.
        probabilities: of each class, in the order of the classes; they sum to 1.
        reason: why there is no label; None where there is one.
        label_set: classes of which one is right at the rate that is guaranteed, the most probable first; None
            where no coverage is.
        truncated: whether the end of the text was not read.
    """

    label: str | None
    probability: float
    probabilities: dict[str, float]
    reason: str | None
    label_set: list[str] | None
    truncated: bool


class SingleLabel(Task):
    """Each text has exactly one of the classes; outputs are a softmax and sum to 1."""

    kind = "single"
    summary = "one of the classes"
    problem_type = "single_label_classification"
    label_form = "class"
    gain_unit = "in logits less their mean"
    guarantees = RATES
    may_want: ClassVar[bool] = True  # one class against the others
    set_words: ClassVar[str] = "the set of classes of a text holds the right one at a rate of {rate}"
    size_words: ClassVar[str] = "there are {size:.2f} classes in a set on average"
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

    def check_parameters(self) -> None:
        check(self.own_parameters, self.kind, len(self.class_names), self.may_want)

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
        found, wrap = self._class_metrics(torchmetrics), torchmetrics.wrappers.LambdaInputTransformer
        if not self.own_parameters:
            return found
        return {name: wrap(each, self._decided) for name, each in found.items()}

    def _class_metrics(self, torchmetrics: Any) -> dict[str, Any]:
        """Of classes (N,), or of logits where the most probable one is the answer."""
        classification, C = torchmetrics.classification, len(self.class_names)
        size: Any = {"num_classes": C, "validate_args": False}
        return {
            "f1": classification.MulticlassF1Score(**size, average="macro"),
            "f1_micro": classification.MulticlassF1Score(**size, average="micro"),
            "accuracy": classification.MulticlassAccuracy(**size, average="micro"),
            "f1_class": classification.MulticlassF1Score(**size, average="none"),
            "class_counts": classification.MulticlassStatScores(**size, average="none"),
        }

    def _decided(self, logits: Any) -> Any:
        """`predictions` as tensors, of logits (N, C)."""
        probs = logits.double().softmax(1)
        return decided(self.own_parameters, probs, probs.argmax(1))

    def logged(self, computed: dict[str, Any]) -> tuple[dict[str, Any], Any, list[int]]:
        rows = computed["class_counts"][:, -1].tolist()
        return {name: computed[name] for name in self.logged_names}, computed["f1_class"], rows

    def outputs(self, logits: np.ndarray) -> np.ndarray:
        return softmax(logits).astype(np.float32)

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        return decided(self.own_parameters, outputs, outputs.argmax(1))

    def answer(self, outputs: np.ndarray, truncated: bool) -> Any:
        by_class = dict(zip(self.class_names, outputs.tolist(), strict=True))
        best = int(self.predictions(outputs[None])[0])
        label, probability = self.class_names[best], float(outputs[best])
        if not self.promises:
            return Prediction(label, probability, by_class, truncated)
        reason = self.reason(outputs)
        labels = self._set_names(outputs) if self.coverage else None
        return GuaranteedPrediction(
            None if reason else label, probability, by_class, reason, labels, truncated
        )

    def answer_schema(self) -> dict[str, Any]:
        names = list(self.class_names)
        how = (
            "the class that costs or a wanted rate decide for"
            if self.own_parameters
            else "the most probable class"
        )
        schema: dict[str, Any] = {
            "label": {"type": "string", "enum": names, "description": how},
            "probability": {**PROBABILITY, "description": "of that class"},
            "probabilities": by_class_schema(names, "of every class; they sum to 1"),
        }
        if not self.promises:
            return schema
        schema |= guaranteed_schema(names, how)
        held = "classes of which one is right at the rate that is guaranteed, the most probable first"
        items = {"type": "array", "items": {"type": "string", "enum": names}, "uniqueItems": True}
        return {**schema, "label_set": {**items, "description": held} if self.coverage else {"type": "null"}}

    def columns(self) -> list[str]:
        more = ["reason"] * (ACCURACY in self.promises) + ["label_set"] * (self.coverage is not None)
        return [
            "predicted_label",
            "probability",
            *more,
            *(f"probability_{name}" for name in self.class_names),
        ]

    def cells(self, outputs: np.ndarray) -> list[Any]:
        values = [round(value, DECIMALS) for value in outputs.tolist()]
        best = int(self.predictions(outputs[None])[0])
        reason = self.reason(outputs)
        more: list[Any] = [reason] * (ACCURACY in self.promises)
        more += [self._set_names(outputs)] if self.coverage else []
        return [None if reason else self.class_names[best], values[best], *more, *values]

    def reason(self, outputs: np.ndarray) -> str | None:
        """Why a text gets no answer, of its outputs (C,); None where it gets one."""
        found = self.promises.get(ACCURACY)
        if not isinstance(found, Accuracy) or self.answered(outputs[None])[0]:
            return None
        probability = float(self.confidence(outputs[None])[0])
        return (
            f"the probability {probability:.4f} is below {found.threshold:.4f}, from which at least "
            f"{guarantee.percent(found.rate)} of the answers are right"
        )

    @property
    def coverage(self) -> Coverage | None:
        """What is promised of sets."""
        found = self.promises.get(COVERAGE) or self.promises.get(BY_CLASS)
        return found if isinstance(found, Coverage) else None

    def sets(self, outputs: np.ndarray) -> np.ndarray:
        """Which classes are in the set of each row, bool (N, C): the answer is, in any case."""
        assert self.coverage
        found = outputs >= np.array(self.coverage.thresholds)
        found[np.arange(len(outputs)), self.predictions(outputs)] = True
        return found

    def _set_names(self, outputs: np.ndarray) -> list[str]:
        order = np.argsort(-outputs, kind="stable")
        return [self.class_names[c] for c in order[self.sets(outputs[None])[0][order]].tolist()]

    def guarantee(self, name: str, rate: float, rows: Labelled, validated: Labelled) -> Promise | None:
        if name != ACCURACY:
            return guarantee.class_sets(rate, rows, name == BY_CLASS)
        kept, others = (
            (self.confidence(each.outputs), self.predictions(each.outputs) == each.labels)
            for each in (rows, validated)
        )
        return guarantee.accuracy(rate, *kept, others)

    def held(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return self.sets(outputs)[np.arange(len(labels)), labels].astype(np.float64)

    def confidence(self, outputs: np.ndarray) -> np.ndarray:
        return outputs[np.arange(len(outputs)), self.predictions(outputs)]

    def explained(self, answer: Any) -> dict[str, Any]:
        if not self.promises:  # it is the label
            return {}
        outputs = np.array(list(answer.probabilities.values()), np.float32)
        return {"explained_label": self.class_names[self.explained_class(outputs)]}

    def explained_schema(self) -> dict[str, Any]:
        return explained_schema(self.class_names) if self.promises else {}

    def explained_class(self, outputs: np.ndarray) -> int:
        return int(self.predictions(outputs[None])[0])

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


def guaranteed_schema(class_names: Sequence[str], how: str) -> dict[str, Any]:
    """The JSON schema of `label` and `reason` where there may be no answer."""
    label = {"type": ["string", "null"], "enum": [*class_names, None]}
    why = "why there is no label; null where there is one"
    return {
        "label": {**label, "description": f"{how}; null where the model does not answer"},
        "reason": {"type": ["string", "null"], "description": why},
    }


def _calibration_error(bins: np.ndarray, gaps: np.ndarray, times: np.ndarray) -> float:
    return float(np.abs(np.bincount(bins, times * gaps)).sum() / times.sum())
