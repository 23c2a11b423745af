"""Any number of labels a text, none too: each class is a question of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lit_bert.task.base import Choice, Score, Scorer, Task
from lit_bert.task.classes import (
    BINS,
    DECIMALS,
    by_class_schema,
    confidence_bins,
    explained_schema,
    f1_of_counts,
)
from lit_bert.task.guarantee import COVERAGE, Coverage, Labelled, Promise, label_sets
from lit_bert.task.losses import label_losses, smoothed
from lit_bert.task.scaling import platt_scaling

THRESHOLD = 0.5  # of a class, until one was chosen
THRESHOLDS = "thresholds"
FEWEST_POSITIVES = 5  # rows of a class that a threshold is chosen for
SET = "classes that hold the guaranteed share of the right ones, on average over texts"
SEPARATOR = ", "  # between the names of labels, in words


class Labels(NamedTuple):
    """The answer to a text.

    Attributes:
        labels: the classes that the text has, the most probable first; there may be none.
        probabilities: of each class, 0 to 1, in the order of the classes; each stands for itself.
        truncated: whether the end of the text was not read, as it has more tokens than the model takes.
    """

    labels: list[str]
    probabilities: dict[str, float]
    truncated: bool


class LabelSets(NamedTuple):
    """The answer of a model with a guarantee: `Labels`, and the set that it is about."""

    labels: list[str]
    probabilities: dict[str, float]
    label_set: list[str]
    truncated: bool


class MultiLabel(Task):
    """A text has each class or not; outputs are a sigmoid each. A class has a threshold of its own."""

    kind = "multi_label"
    summary = "any number of the classes"
    problem_type = "multi_label_classification"
    label_form = "classes"
    choice_use = "choosing thresholds"
    guarantees = (COVERAGE,)
    set_words = "the set of classes of a text holds {rate} of the right ones on average"
    size_words = "there are {size:.2f} classes in a set on average"
    balancing = ("class_weights", "focal_gamma", "logit_adjustment")
    worst_note = "A label is missed or wrongly given, and the least sure class is surer than elsewhere."
    scores = (
        Score("macro_f1", "macro F1"),
        Score("micro_f1", "micro F1"),
        Score("samples_f1", "samples F1"),  # mean over the texts; 1 where there is no label and none said
        Score("subset_accuracy", "subset acc.", "subset accuracy"),  # share of texts with all labels right
        Score("macro_average_precision", "macro AP", "macro average precision"),
        Score("label_ranking", "label ranking", "label ranking average precision"),
        Score("loss_nats", "loss, nats", "loss, nats per text and class", is_error=True),
        Score("calibration_error", "calib. error", "calibration error", is_error=True, is_distance=True),
    )
    class_scores = ("f1", "average_precision")

    def check_parameters(self) -> None:
        if self.own_parameters.keys() - {THRESHOLDS}:
            raise ValueError(f"a task of kind {self.kind} has the parameter {THRESHOLDS} alone")
        found = self.parameters.get(THRESHOLDS)
        if found is not None and (len(found) != len(self.class_names) or not all(0 < x < 1 for x in found)):
            raise ValueError(f"{THRESHOLDS} are {len(self.class_names)} numbers between 0 and 1")

    @property
    def thresholds(self) -> np.ndarray:
        """The least probability with which a text has each class, float64 (C,)."""
        return np.array(self.parameters.get(THRESHOLDS, [THRESHOLD] * len(self.class_names)))

    def loss(
        self, functional: Any, logits: Any, labels: Any, label_smoothing: float = 0.0, weights: Any = None
    ) -> Any:
        """Binary cross-entropy, mean over texts and classes.

        A share of each label is spread evenly over the classes, as with one label a text.
        """
        wanted = smoothed(labels.to(logits.dtype), label_smoothing)
        if weights is None:
            return functional.binary_cross_entropy_with_logits(logits, wanted)
        losses = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)
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
        if class_weights is None and not focal_gamma:
            return self.loss(functional, logits, labels, label_smoothing, weights)
        wanted = labels.to(logits.dtype)
        rates: Any = (label_smoothing, class_weights, focal_gamma)
        losses = label_losses(functional, logits, wanted, *rates).mean(1)
        return losses.mean() if weights is None else (weights * losses).mean()

    def balanced_weights(self, shares: np.ndarray) -> np.ndarray:
        """Rows without a class for each with it; 1 for a class that none or all of the rows have."""
        used = (shares > 0) & (shares < 1)
        return np.where(used, (1 - shares) / np.where(used, shares, 1), 1.0)

    def log_prior(self, shares: np.ndarray) -> np.ndarray:
        """Log-odds, as a class is a question of its own."""
        return np.log(shares) - np.log1p(-shares)

    def metrics(self, torchmetrics: Any) -> dict[str, Any]:
        """Counts of each class, and how many texts have all labels right."""
        classification, C = torchmetrics.classification, len(self.class_names)
        raised = np.log(self.thresholds) - np.log1p(-self.thresholds)

        def decided(logits: Any) -> Any:
            return (logits > logits.new_tensor(raised)).int()

        counts = classification.MultilabelStatScores(C, average="none", validate_args=False)
        exact = classification.MultilabelExactMatch(C, validate_args=False)
        wrap = torchmetrics.wrappers.LambdaInputTransformer
        return {"class_counts": wrap(counts, decided), "accuracy": wrap(exact, decided)}

    def logged(self, computed: dict[str, Any]) -> tuple[dict[str, Any], Any, list[int]]:
        counts = computed["class_counts"]  # (C, 5): true and false positives, the negatives, positive labels
        hits, wrong, missed = counts[:, 0], counts[:, 1], counts[:, 3]
        whole = (2 * hits + wrong + missed).float()
        f1 = 2 * hits / whole.clamp(min=1)
        used = whole > 0
        micro = 2 * hits.sum() / (2 * hits + wrong + missed).sum().clamp(min=1)
        macro = f1[used].mean() if bool(used.any()) else f1.new_tensor(0.0)
        found = {"f1": macro, "f1_micro": micro, "accuracy": computed["accuracy"]}
        return found, f1, counts[:, -1].tolist()

    def outputs(self, logits: np.ndarray) -> np.ndarray:
        return sigmoid(logits).astype(np.float32)

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        return (outputs > self.thresholds).astype(np.uint8)

    def answer(self, outputs: np.ndarray, truncated: bool) -> Any:
        by_class = dict(zip(self.class_names, outputs.tolist(), strict=True))
        names = self._names(outputs, outputs > self.thresholds)
        if not self.promises:
            return Labels(names, by_class, truncated)
        return LabelSets(names, by_class, self._names(outputs, self.sets(outputs)), truncated)

    def sets(self, outputs: np.ndarray) -> np.ndarray:
        """Which classes are in the set of a text, bool, of outputs (C,) or (N, C)."""
        promised = self.promises[COVERAGE]
        assert isinstance(promised, Coverage)
        return outputs >= np.array(promised.thresholds)

    def _names(self, outputs: np.ndarray, is_given: np.ndarray) -> list[str]:
        """The classes that a text is given, the most probable first, of outputs (C,)."""
        given = np.flatnonzero(is_given)
        order = given[np.argsort(-outputs[given], kind="stable")]
        return [self.class_names[index] for index in order.tolist()]

    def answer_schema(self) -> dict[str, Any]:
        names = list(self.class_names)
        listed = {"type": "array", "items": {"type": "string", "enum": names}, "uniqueItems": True}
        return {
            "labels": {
                **listed,
                "description": "the classes that the text has, the most probable first; there may be none",
            },
            "probabilities": by_class_schema(names, "of every class, each for itself"),
            **({"label_set": {**listed, "description": SET}} if self.promises else {}),
        }

    def explained_class(self, outputs: np.ndarray) -> int:
        """The class that is furthest above its threshold, in log-odds, or least below it."""
        return int((self.support(outputs[None])[0] - self.support(self.thresholds[None])[0]).argmax())

    def explained(self, answer: Any) -> dict[str, Any]:
        outputs = np.array(list(answer.probabilities.values()))
        return {"explained_label": self.class_names[self.explained_class(outputs)]}

    def explained_schema(self) -> dict[str, Any]:
        return explained_schema(self.class_names)

    def columns(self) -> list[str]:
        more = ["label_set"] * bool(self.promises)
        return ["predicted_labels", *more, *(f"probability_{name}" for name in self.class_names)]

    def cells(self, outputs: np.ndarray) -> list[Any]:
        more = [self._names(outputs, self.sets(outputs))] if self.promises else []
        values = (round(value, DECIMALS) for value in outputs.tolist())
        return [self._names(outputs, outputs > self.thresholds), *more, *values]

    def shown(self, label: Any) -> str:
        return SEPARATOR.join(self.class_names[index] for index in np.flatnonzero(label)) or "no label"

    def limits(self) -> str:
        return (
            f"It knows the {len(self.class_names)} classes above and gives a text any number of them, or "
            "none, in whatever language and about whatever it is. A class is given where its probability is "
            "above its threshold, which may differ from 0.5."
        )

    def stored_labels(self, labels: np.ndarray) -> list[Any]:
        return [[self.class_names[index] for index in np.flatnonzero(row)] for row in labels]

    def labels_of(self, cells: Sequence[Any]) -> np.ndarray:
        index_of = {name: index for index, name in enumerate(self.class_names)}
        labels = np.zeros((len(cells), len(self.class_names)), np.uint8)
        for row, names in enumerate(cells):
            if not isinstance(names, list):
                raise TypeError("labels that are no list")
            labels[row, [index_of[name] for name in names]] = 1
        return labels

    def scorer(self, outputs: np.ndarray, labels: np.ndarray) -> Scorer:
        preds = self.predictions(outputs)
        both = (preds & labels).astype(np.float64)
        samples = _f1_of_rows(preds, labels)
        exact = (preds == labels).all(1).astype(np.float64)
        ranking = ranking_precision(outputs, labels)
        precision = WeightedAveragePrecision(outputs, labels)
        losses = self.row_losses(outputs, labels)
        bins, gaps = self._calibration_gaps(outputs, labels)
        of_label, of_pred = labels.astype(np.float64), preds.astype(np.float64)

        def score(times: np.ndarray) -> np.ndarray:
            total = times.sum()
            hits, labelled, predicted = times @ both, times @ of_label, times @ of_pred
            macro, classes = f1_of_counts(hits, labelled, predicted)
            micro = 2 * hits.sum() / max(labelled.sum() + predicted.sum(), 1)
            each = precision(times)
            found = ~np.isnan(each)
            mean = each[found].mean() if found.any() else 0.0
            error = _calibration_error(bins, gaps, times)
            rows = (times @ values / total for values in (samples, exact, ranking, losses))
            samples_f1, subset, ranked, loss = rows
            main = [macro, micro, samples_f1, subset, mean, ranked, loss, error]
            return np.array([*main, *classes, *each])

        return score

    def main_scorer(self, outputs: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], float]:
        preds = self.predictions(outputs)
        counted = [each.astype(np.float64) for each in (preds & labels, labels, preds)]
        return lambda times: f1_of_counts(*(times @ each for each in counted))[0]

    def row_losses(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Binary cross-entropy of each row, mean over the classes, in nats, float64 (N,)."""
        right = np.where(labels, outputs, 1 - outputs.astype(np.float64)).astype(np.float64)
        return -np.log(np.maximum(right, np.finfo(np.float32).tiny)).mean(1)

    def suspected_labels(self, outputs: np.ndarray, labels: np.ndarray, filters: Any) -> np.ndarray:
        """Those of which a class looks wrong, by confident learning of each class for itself."""
        if not 0 < labels.mean() < 1:
            return np.empty(0, dtype=np.int64)
        return filters.multilabel_classification.filter.find_label_issues(
            [np.flatnonzero(row).tolist() for row in labels],
            outputs.astype(np.float64),
            return_indices_ranked_by="self_confidence",
            n_jobs=1,
        )

    def confidence(self, outputs: np.ndarray) -> np.ndarray:
        """That of the class that it is least sure of."""
        return np.maximum(outputs, 1 - outputs).min(1)

    def label_counts(self, labels: np.ndarray) -> list[int]:
        return labels.sum(0, dtype=np.int64).tolist()

    def logits_of(self, outputs: np.ndarray) -> np.ndarray:
        return self.support(outputs)

    def calibration(
        self, logits: np.ndarray, labels: np.ndarray, has_bias: bool = True
    ) -> tuple[np.ndarray, np.ndarray] | None:
        found = [platt_scaling(logits[:, c], labels[:, c], has_bias) for c in range(logits.shape[1])]
        return np.array([scale for scale, _ in found]), np.array([shift for _, shift in found])

    def calibration_error(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """That of the decisions on all texts and classes: |share of labels - probability| in 15 bins."""
        return _calibration_error(*self._calibration_gaps(outputs, labels), np.ones(len(labels)))

    def _calibration_gaps(self, outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The bin of each probability, int (N, C), and the label (0 or 1) less it, float (N, C)."""
        return confidence_bins(outputs), labels - outputs.astype(np.float64)

    def choose(self, outputs: np.ndarray, labels: np.ndarray) -> Choice | None:
        """A threshold a class where thresholds that were chosen on other rows do not lower macro F1."""
        C = len(self.class_names)
        held_out = np.empty_like(labels)
        order = np.random.default_rng(0).permutation(len(labels))
        one, other = order[: len(order) // 2], order[len(order) // 2 :]
        for here, there in ((one, other), (other, one)):
            held_out[here] = outputs[here] > best_thresholds(outputs[there], labels[there])
        plain = MultiLabel.of(self.class_names)
        before, after = (_macro_f1(preds, labels) for preds in (plain.predictions(outputs), held_out))
        chosen = best_thresholds(outputs, labels)
        kept = after >= before
        task = self.with_parameters(thresholds=chosen.tolist() if kept else [THRESHOLD] * C)
        found = {"kept": kept, "chosen": chosen.tolist(), "f1_before": before, "f1_after": after}
        return Choice(task, found)

    def guarantee(self, name: str, rate: float, rows: Labelled, validated: Labelled) -> Promise | None:
        return label_sets(rate, rows)

    def held(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        found = (labels * self.sets(outputs)).sum(1) / np.maximum(labels.sum(1), 1)
        return np.where(labels.any(1), found, 1.0)

    def choice_note(self, fact: dict[str, Any]) -> str:
        scores = f"macro F1 {fact['f1_before']:.4f} with 0.5, {fact['f1_after']:.4f} with chosen ones"
        where = "on rows they were not chosen on"
        chosen = fact["chosen"]
        which = f"thresholds {min(chosen):.3f} to {max(chosen):.3f}"
        return f"{which if fact['kept'] else f'{which} not kept'}; {scores}, {where}"


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Float64, 0 to 1, of logits of any shape."""
    return 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -500, 500)))


def best_thresholds(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The threshold of each class with the highest F1, float64 (C,); 0.5 for a class of few rows.

    Half-way between two probabilities that occur; of several that are as good, the one nearest to 0.5.

    Args:
        outputs: probabilities (N, C).
        labels: (N, C), 0 or 1.
    """
    found = np.full(outputs.shape[1], THRESHOLD)
    for c in range(outputs.shape[1]):
        of_label = labels[:, c].astype(np.int64)
        if of_label.sum() < FEWEST_POSITIVES:
            continue
        order = np.argsort(-outputs[:, c], kind="stable")
        probs = outputs[order, c].astype(np.float64)
        hits = np.cumsum(of_label[order])
        f1 = 2 * hits / (np.arange(1, len(probs) + 1) + of_label.sum())
        ends = np.append(np.diff(probs) != 0, True)  # texts of equal probability are given it together
        between = (probs + np.append(probs[1:], 0.0)) / 2
        allowed = ends & (between > 0) & (between < 1)
        best = np.flatnonzero(allowed & (f1 >= f1[allowed].max(initial=0) - 1e-12))
        if len(best):
            found[c] = between[best[np.abs(between[best] - THRESHOLD).argmin()]]
    return found


def _macro_f1(preds: np.ndarray, labels: np.ndarray) -> float:
    hits, of_label, of_pred = ((each).sum(0, dtype=np.int64) for each in (preds & labels, labels, preds))
    return f1_of_counts(hits, of_label, of_pred)[0]


def _f1_of_rows(preds: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """F1 of the classes of each text, float64 (N,); 1 where there is no label and none is predicted."""
    hits, whole = (preds & labels).sum(1, dtype=np.int64), preds.sum(1, dtype=np.int64) + labels.sum(1)
    return np.where(whole > 0, 2 * hits / np.maximum(whole, 1), 1.0)


def ranking_precision(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Label ranking average precision of each row, float64 (N,); 1 for one that has no class, or all.

    Tsoumakas et al. (2010): for each class of a text, the share of its classes among those at least as
    probable.
    """
    found = np.ones(len(labels))
    for row in np.flatnonzero((labels.sum(1) > 0) & (labels.sum(1) < labels.shape[1])):
        probs, has = outputs[row], labels[row].astype(bool)
        own = probs[has]
        above = (probs[None] >= own[:, None]).sum(1)
        found[row] = ((own[None] >= own[:, None]).sum(1) / above).mean()
    return found


class WeightedAveragePrecision:
    """Average precision of each class, float64 (C,), as a function of how many times each row counts.

    The sum over falling thresholds of the gain in recall times the precision; NaN for a class without a row.
    """

    def __init__(self, outputs: np.ndarray, labels: np.ndarray) -> None:
        self._order = np.argsort(-outputs, axis=0, kind="stable")  # (N, C)
        ranked = np.take_along_axis(outputs, self._order, 0)
        self._labels = np.take_along_axis(labels, self._order, 0).astype(np.float64)
        differs = np.append(ranked[1:] != ranked[:-1], np.ones((1, ranked.shape[1]), bool), axis=0)
        # Of each row, the last one of equal probability: they are given together.
        N = len(ranked)
        places = np.where(differs, np.arange(N)[:, None], N)
        self._end = np.minimum.accumulate(places[::-1], axis=0)[::-1]  # (N, C)

    def __call__(self, times: np.ndarray) -> np.ndarray:
        weights = times[self._order]  # (N, C)
        hits = weights * self._labels
        found, count = np.cumsum(hits, 0), np.cumsum(weights, 0)
        precision = found / np.maximum(count, 1e-12)
        at_end = np.take_along_axis(precision, self._end, 0)
        positives = hits.sum(0)
        return np.where(positives > 0, (hits * at_end).sum(0) / np.maximum(positives, 1e-12), np.nan)


def _calibration_error(bins: np.ndarray, gaps: np.ndarray, times: np.ndarray) -> float:
    weighted = np.bincount(bins.ravel(), (times[:, None] * gaps).ravel(), minlength=BINS)
    return float(np.abs(weighted).sum() / (times.sum() * bins.shape[1]))
