"""Scores with their uncertainty: F1, loss and calibration error, with bootstrap intervals.

Everything here comes from predictions: labels (N,) and probabilities (N, C) of the same rows, as numpy
arrays. What training logs is torchmetrics'; these are the same numbers with what torchmetrics does not give.

    python -m lit_bert validate
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from lit_bert import require_package
from lit_bert.evaluate.calibration import log_probs
from lit_bert.io import escape

RESAMPLES = 1000  # bootstrap draws
LEVEL = 0.95  # of every interval
BINS = 15  # of the calibration error, as in Guo et al. (2017)
Z = 1.959964  # standard normal quantile of a 95 % interval
T = TypeVar("T")


class Score(NamedTuple):
    """A score and the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores(Generic[T]):
    """Scores of some rows, as plain floats or each with its interval; all but `loss_nats` are 0 to 1.

    Attributes:
        macro_f1: mean F1 of the classes that are a label or were predicted, as in scikit-learn's
            default and in torchmetrics.
        micro_f1: the share of right rows; so is `accuracy`, as each row has one label.
        loss_nats: mean cross-entropy per text.
        calibration_error: expected calibration error.
        by_class: F1 of each class, in the order of the classes; None where no row has that label, as nothing
            can be known of it then.
    """

    macro_f1: T
    micro_f1: T
    accuracy: T
    loss_nats: T
    calibration_error: T
    by_class: tuple[T | None, ...]

    @property
    def main(self) -> dict[str, T]:
        """The scores over all classes by their titles in tables, without accuracy, which equals micro F1."""
        return {
            "macro F1": self.macro_f1,
            "micro F1": self.micro_f1,
            "loss, nats": self.loss_nats,
            "calib. error": self.calibration_error,
        }

    def as_dict(self, class_names: Sequence[str], form: Callable[[T], Any] = lambda value: value) -> Any:
        """Plain values for JSON; class names are keys of `by_class`, where they cannot collide with a score.

        Args:
            class_names: C of them.
            form: what each score is converted with.
        """
        classes = zip(class_names, self.by_class, strict=True)
        return {
            "macro_f1": form(self.macro_f1),
            "micro_f1": form(self.micro_f1),
            "accuracy": form(self.accuracy),
            "loss_nats": form(self.loss_nats),
            "calibration_error": form(self.calibration_error),
            "by_class": {name: None if value is None else form(value) for name, value in classes},
        }


CALIBRATION_ERROR = 4  # its place in a vector of scores: the fields of Scores, then the classes


def f1_scores(counts: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Macro F1, micro F1, and the F1 of each class, float64 (C,); NaN where no row has the label.

    A class that was predicted but is the label of no row counts as 0 in the macro average; one that was not
    predicted either does not count.

    Args:
        counts: confusion matrix (C, C), rows are labels.
    """
    hits, of_label, of_pred = np.diag(counts), counts.sum(1), counts.sum(0)
    f1 = 2 * hits / np.maximum(of_label + of_pred, 1)
    counted = (of_label + of_pred) > 0
    macro = f1[counted].mean() if counted.any() else 0.0
    return float(macro), float(hits.sum() / max(counts.sum(), 1)), np.where(of_label > 0, f1, np.nan)


def score_line(title: str, score: Score | None, width: int, note: str = "") -> str:
    """A score and its interval as a line of a table whose first column has `width` characters."""
    value = f"{score.value:.4f}  [{score.low:.4f}, {score.high:.4f}]" if score else ""
    return f"  {escape.pad(title, width)}" + "  ".join(part for part in (value, note) if part)


def row_losses(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each row in nats, float64 (N,)."""
    label_probs = probs[np.arange(len(labels)), labels].astype(np.float64)
    return -log_probs(label_probs)


def calibration_error(probs: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error, 0 to 1: |accuracy - confidence| in 15 equal bins of confidence.

    Guo et al. (2017), https://arxiv.org/abs/1706.04599.
    """
    return _calibration_error(*_calibration_gaps(probs, labels), np.ones(len(labels)))


def _calibration_gaps(probs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bin of each row, int (N,), and its accuracy (0 or 1) less its confidence, float (N,)."""
    confidence = probs.max(1).astype(np.float64)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return bins, (probs.argmax(1) == labels) - confidence


def _calibration_error(bins: np.ndarray, gaps: np.ndarray, times: np.ndarray) -> float:
    return float(np.abs(np.bincount(bins, times * gaps)).sum() / times.sum())


def all_scores(probs: np.ndarray, labels: np.ndarray) -> Scores[float]:
    """The scores of some rows."""
    return _as_scores(scorer(probs, labels)(np.ones(len(labels))))


def _as_scores(vector: np.ndarray) -> Scores[float]:
    macro, micro, accuracy, loss, error, *classes = vector.tolist()
    by_class = tuple(None if math.isnan(value) else value for value in classes)
    return Scores(macro, micro, accuracy, loss, error, by_class)


def scorer(probs: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Scores as a function of how many times each row counts, float (N,).

    The function returns a vector, float64 (5 + C,): the fields of `Scores` in their order, then the classes,
    NaN for those without a labelled row. What does not depend on the counts is computed once, not in every
    resample: 5 times as fast.
    """
    C = probs.shape[1]
    cells = labels * C + probs.argmax(1)  # (N,), of the flattened confusion matrix
    losses, (bins, gaps) = row_losses(probs, labels), _calibration_gaps(probs, labels)

    def score(times: np.ndarray) -> np.ndarray:
        macro, micro, classes = f1_scores(np.bincount(cells, times, minlength=C * C).reshape(C, C))
        error = _calibration_error(bins, gaps, times)
        return np.array([macro, micro, micro, times @ losses / times.sum(), error, *classes])

    return score


def with_intervals(probs: np.ndarray, labels: np.ndarray) -> Scores[Score]:
    """`all_scores`, each with its percentile bootstrap interval over the rows (Efron, 1979).

    The calibration error is a sum of absolute values, so that resampling biases it upwards: its draws are
    shifted until their mean is the value. A resample without a row of a class has no F1 for that class, and
    is left out of its interval.
    """
    score = scorer(probs, labels)
    values, resampled = score(np.ones(len(labels))), bootstrap(score, len(labels))
    errors = resampled[:, CALIBRATION_ERROR]
    errors[:] = np.maximum(errors - errors.mean() + values[CALIBRATION_ERROR], 0)
    return intervals(values, resampled)


def bootstrap(score: Callable[[np.ndarray], np.ndarray], count: int, seed: int = 0) -> np.ndarray:
    """The values of `score`, a vector (S,), for bootstrap resamples of `count` rows; (RESAMPLES, S)."""
    generator = np.random.default_rng(seed)
    resampled = []
    for _ in range(RESAMPLES):
        rows = generator.integers(count, size=count, dtype=np.int32)
        resampled.append(score(np.bincount(rows, minlength=count).astype(np.float64)))
    return np.stack(resampled)


def interval(value: float, resampled: np.ndarray) -> Score:
    """The value with the percentile interval of its resamples (R,)."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Score(value, float(low), float(high))


def intervals(values: np.ndarray, resampled: np.ndarray) -> Scores[Score]:
    """Values (S,) with the percentile intervals of their resamples (RESAMPLES, S); None for those of NaN."""
    scores: list[Any] = []
    for value, column in zip(values.tolist(), resampled.T, strict=True):
        scores.append(None if math.isnan(value) else interval(value, column[~np.isnan(column)]))
    macro, micro, accuracy, loss, error, *by_class = scores
    return Scores(macro, micro, accuracy, loss, error, tuple(by_class))


def wilson(hits: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % interval of shares `hits / counts` (Wilson, 1927); 0 to 1, counts above 0."""
    share, spread = hits / counts, Z**2 / counts
    middle = (share + spread / 2) / (1 + spread)
    half = Z * np.sqrt(share * (1 - share) / counts + spread / (4 * counts)) / (1 + spread)
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)


def suspected_labels(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Indices of rows whose label looks wrong, int64, the least probable label first.

    Confident learning (Northcutt et al., 2021, https://arxiv.org/abs/1911.00068) from cleanlab estimates how
    many labels are wrong, and that many of the least probable are taken: of labels changed on purpose it
    finds as many as cleanlab's default choice of rows, among a fifth fewer suspects. Only meaningful for rows
    that were not trained on.
    """
    require_package("cleanlab", "report")
    if len(np.unique(labels)) < 2:  # no other label to suspect
        return np.empty(0, dtype=np.int64)
    from cleanlab.filter import find_label_issues

    probs = probs.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes without a row
        suspects = find_label_issues(
            labels,
            probs / probs.sum(1, keepdims=True),
            filter_by="low_self_confidence",
            return_indices_ranked_by="self_confidence",
            n_jobs=1,  # processes would have to be given copies
        )
    return np.asarray(suspects, dtype=np.int64)
