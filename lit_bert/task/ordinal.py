"""One label a text, of classes in an order, such as one to five stars."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np

from lit_bert.task import guarantee
from lit_bert.task.base import Score, Scorer, Task
from lit_bert.task.classes import DECIMALS, PROBABILITY, by_class_schema
from lit_bert.task.decisions import decided
from lit_bert.task.guarantee import ACCURACY
from lit_bert.task.regression import WeightedSpearman
from lit_bert.task.single import SingleLabel, guaranteed_schema

COVERED = 0.9  # of the probability, by the interval of an answer


class Grade(NamedTuple):
    """The answer to a text.

    Attributes:
        label: the median of the classes, by their probabilities.
        probability: of that class, 0 to 1.
        low, high: the classes between which the text is with a probability of at least 0.9, or at the rate
            that is guaranteed; both included.
        probabilities: of each class, in their order; they sum to 1.
        truncated: whether the end of the text was not read, as it has more tokens than the model takes.
    """

    label: str
    probability: float
    low: str
    high: str
    probabilities: dict[str, float]
    truncated: bool


class GuaranteedGrade(NamedTuple):
    """The answer of a model with a guarantee of accuracy: a `Grade` whose label may be None, for a reason."""

    label: str | None
    probability: float
    low: str
    high: str
    probabilities: dict[str, float]
    reason: str | None
    truncated: bool


class Ordinal(SingleLabel):
    """Each text has one class, and to be wrong by two classes is worse than by one.

    Outputs are a softmax, so that other programs read the model as one of classes. Trained on the sum of two
    proper scores of a distribution: cross-entropy, and the ranked probability score (Epstein, 1969), which
    grows with the distance. Predicted is the median, which the least absolute error is expected of.
    """

    kind = "ordinal"
    summary = "one of classes in an order, that of `label_names` or of whole numbers"
    scores: ClassVar[tuple[Score, ...]] = (
        Score("quadratic_kappa", "quadr. kappa", "quadratic weighted kappa"),
        Score("macro_f1", "macro F1"),
        Score("accuracy", "accuracy"),
        Score("mae", "MAE", "mean absolute error, in classes", is_error=True),
        Score("rmse", "RMSE", "root mean squared error, in classes", is_error=True),
        Score("spearman", "Spearman", "Spearman's rank correlation"),
        Score("loss_nats", "loss, nats", "loss, nats per text", is_error=True),
        Score("calibration_error", "calib. error", "calibration error", is_error=True, is_distance=True),
    )
    main = "quadratic_kappa"
    logged_names = ("kappa", "f1", "f1_micro", "accuracy", "mae")
    logged_main = "kappa"
    is_ordered = True
    may_want = False
    set_words = "the classes from low to high hold the right one at a rate of {rate}"
    size_words = "before what lies between is added, there are {size:.2f} classes on average"
    balancing = ("class_weights", "logit_adjustment", "balanced_sampling")
    worst = "largest"
    worst_note = "Off by the most classes, and of these with the highest probability."
    main_scorer = Task.main_scorer  # not of macro F1

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
        """A share of each label is spread over the classes beside it."""
        if class_weights is not None:
            of_row = class_weights[labels]
            weights = of_row if weights is None else weights * of_row
        wanted = functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
        if label_smoothing:
            beside = functional.pad(wanted[:, 1:], (0, 1)) + functional.pad(wanted[:, :-1], (1, 0))
            beside = beside / beside.sum(1, keepdim=True)
            wanted = (1 - label_smoothing) * wanted + label_smoothing * beside
        entropies = functional.cross_entropy(logits, wanted, reduction="none")
        gaps = logits.softmax(1).cumsum(1) - wanted.cumsum(1)
        losses = entropies + gaps.square().sum(1)
        return losses.mean() if weights is None else (weights * losses).mean()

    def metrics(self, torchmetrics: Any) -> dict[str, Any]:
        classification, C = torchmetrics.classification, len(self.class_names)
        size: Any = {"num_classes": C, "validate_args": False}
        kinds = {
            **self._class_metrics(torchmetrics),
            "kappa": classification.MulticlassCohenKappa(**size, weights="quadratic"),
        }
        wrap = torchmetrics.wrappers.LambdaInputTransformer
        found = {name: wrap(metric, self._decided) for name, metric in kinds.items()}
        found["mae"] = wrap(
            torchmetrics.MeanAbsoluteError(),
            lambda logits: self._decided(logits).float(),
            lambda labels: labels.float(),
        )
        return found

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        return decided(self.own_parameters, outputs, _quantiles(outputs, 0.5))

    def _decided(self, logits: Any) -> Any:
        probs = logits.double().softmax(1)
        return decided(self.own_parameters, probs, (probs.cumsum(1) < 0.5 - 1e-9).sum(1))

    def answer(self, outputs: np.ndarray, truncated: bool) -> Any:
        by_class = dict(zip(self.class_names, outputs.tolist(), strict=True))
        answer = int(self.predictions(outputs[None])[0])
        label, probability = self.class_names[answer], float(outputs[answer])
        low, high = (self.class_names[index] for index in self._interval(outputs))
        if ACCURACY not in self.promises:
            return Grade(label, probability, low, high, by_class, truncated)
        reason = self.reason(outputs)
        shown = None if reason else label
        return GuaranteedGrade(shown, probability, low, high, by_class, reason, truncated)

    def _interval(self, outputs: np.ndarray) -> tuple[int, int]:
        """The lowest and the highest class of an answer's interval, of its outputs (C,)."""
        if self.coverage:
            held = np.flatnonzero(self.sets(outputs[None])[0])
            return int(held[0]), int(held[-1])
        left = (1 - COVERED) / 2
        return int(_quantiles(outputs[None], left)[0]), int(_quantiles(outputs[None], 1 - left)[0])

    def sets(self, outputs: np.ndarray) -> np.ndarray:
        """As of classes without an order, and the classes between two of them."""
        found = super().sets(outputs)
        return np.maximum.accumulate(found, 1) & np.maximum.accumulate(found[:, ::-1], 1)[:, ::-1]

    def answer_schema(self) -> dict[str, Any]:
        names = list(self.class_names)
        how = "the class that costs decide for" if self.own_parameters else "the median of the classes"
        share = (
            guarantee.percent(self.coverage.rate) if self.coverage else f"{COVERED:.0%}".replace("%", " %")
        )
        schema: dict[str, Any] = {
            "label": {"type": "string", "enum": names, "description": how},
            "probability": {**PROBABILITY, "description": "of that class"},
            "low": {
                "type": "string",
                "enum": names,
                "description": f"the lowest class of a {share} interval",
            },
            "high": {"type": "string", "enum": names, "description": "the highest class of it"},
            "probabilities": by_class_schema(names, "of every class; they sum to 1"),
        }
        return schema | (guaranteed_schema(names, how) if ACCURACY in self.promises else {})

    def columns(self) -> list[str]:
        more = ["reason"] * (ACCURACY in self.promises)
        names = (f"probability_{name}" for name in self.class_names)
        return ["predicted_label", "probability", *more, "low", "high", *names]

    def cells(self, outputs: np.ndarray) -> list[Any]:
        found = self.answer(outputs, False)
        values = [round(value, DECIMALS) for value in outputs.tolist()]
        more = [found.reason] if ACCURACY in self.promises else []
        return [found.label, round(found.probability, DECIMALS), *more, found.low, found.high, *values]

    def limits(self) -> str:
        return (
            f"It knows the {len(self.class_names)} classes above in their order, the lowest first, and gives "
            "one of them to any text, in whatever language and about whatever it is: the median of their "
            "probabilities, which need not be the most probable one."
        )

    def errors(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Indices of the wrong rows, int64, the furthest off first, and of these the surest."""
        distance = np.abs(self.predictions(outputs) - labels)
        wrong = np.flatnonzero(distance)
        return wrong[np.lexsort((-self.confidence(outputs[wrong]), -distance[wrong]))]

    def scorer(self, outputs: np.ndarray, labels: np.ndarray) -> Scorer:
        C, single = outputs.shape[1], super().scorer(outputs, labels)
        preds = self.predictions(outputs)
        cells, distance = labels * C + preds, np.abs(preds - labels).astype(np.float64)
        spearman = WeightedSpearman(preds.astype(float), labels.astype(float))
        squares = (np.arange(C)[:, None] - np.arange(C)) ** 2  # (C, C)

        def score(times: np.ndarray) -> np.ndarray:
            macro, _, accuracy, loss, error, *classes = single(times)
            counts, total = np.bincount(cells, times, minlength=C * C).reshape(C, C), times.sum()
            by_chance = (squares * np.outer(counts.sum(1), counts.sum(0))).sum() / total
            kappa = 1 - (squares * counts).sum() / by_chance if by_chance else float(accuracy == 1)
            mae, rmse = times @ distance / total, np.sqrt(times @ distance**2 / total)
            return np.array([kappa, macro, accuracy, mae, rmse, spearman(times), loss, error, *classes])

        return score


def _quantiles(outputs: np.ndarray, share: float) -> np.ndarray:
    """The lowest class at which a share of the probability is reached, int64 (N,), of outputs (N, C)."""
    sums = np.cumsum(outputs.astype(np.float64), axis=1)
    return (sums < share * sums[:, -1:] - 1e-9).sum(1)
