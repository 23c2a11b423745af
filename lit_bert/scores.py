"""Scores that say how sure they are: bootstrap intervals, paired comparison, calibration.

Everything here comes from predictions: labels (N,) and probabilities (N, C) of the same rows, as numpy
arrays. What training logs is torchmetrics'; these are the same numbers with what torchmetrics does not give.

    python -m lit_bert validate
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from lit_bert import escape, need

RESAMPLES = 1000  # bootstrap draws
LEVEL = 0.95  # of every interval
BINS = 15  # of the calibration error, as in Guo et al. (2017)
FEWEST_ROWS = 16  # that can show a difference of losses: on fewer, a change of no use is kept too often
Z = 1.959964  # standard normal quantile of a 95 % interval

FEW_POINTS = 0.10  # an interval wider than this tells no two ordinary models apart
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
        macro_f1: mean F1 of the classes that stand in the labels or were predicted, as in scikit-learn's
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
        """Those over all classes by what tables call them, without accuracy, which is micro F1 again."""
        return {
            "macro F1": self.macro_f1,
            "micro F1": self.micro_f1,
            "loss, nats": self.loss_nats,
            "calib. error": self.calibration_error,
        }

    def as_dict(self, class_names: Sequence[str], form: Callable[[T], Any] = lambda value: value) -> Any:
        """Plain values for JSON; class names stand under `by_class`, where they meet no other name.

        Args:
            class_names: C of them.
            form: what becomes of each score.
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


@dataclass(frozen=True)
class Evidence:
    """The rows that scores rest on, and what else was decided by them.

    Attributes:
        rows: how many.
        labelled: rows that have each class as their label (scikit-learn's support).
        predicted: rows for which each class was predicted.
        used_for: what these rows were used for before the model was scored on them, such as "choosing the
            epoch" or "training"; None where that was not recorded.
    """

    rows: int
    labelled: tuple[int, ...]
    predicted: tuple[int, ...]
    used_for: tuple[str, ...] | None = ()

    @classmethod
    def of(cls, probs: np.ndarray, labels: np.ndarray, used_for: Iterable[str] | None = ()) -> Evidence:
        """That of probabilities (N, C) and labels (N,)."""
        labelled, predicted = (
            tuple(np.bincount(each, minlength=probs.shape[1]).tolist()) for each in (labels, probs.argmax(1))
        )
        return cls(len(labels), labelled, predicted, None if used_for is None else tuple(used_for))

    @property
    def averaged(self) -> int:
        """Over how many classes macro F1 is the mean."""
        return sum(bool(label or pred) for label, pred in zip(self.labelled, self.predicted, strict=True))

    @property
    def macro_note(self) -> str:
        """Over how many classes macro F1 is the mean, where it is not over all; else empty."""
        C = len(self.labelled)
        return f"mean over {self.averaged} of {C} classes" if self.averaged < C else ""

    def class_note(self, index: int) -> str:
        """Why a class has no F1; empty if it has one."""
        if self.labelled[index]:
            return ""
        pred = self.predicted[index]
        return "absent: no row has this label" + (
            f", {_rows(pred)} predicted as it; counts as 0 in macro F1" if pred else ""
        )

    @property
    def usage_note(self) -> str:
        """That the rows had a say in what is scored on them; empty where they had none."""
        if self.used_for is None:
            return (
                "it is not recorded whether these rows were trained on, chose the epoch or fitted the "
                "temperature"
            )
        if not self.used_for:
            return ""
        *others, last = self.used_for
        what = f"{', '.join(others)} and {last}" if others else last
        return f"the same rows were used for {what}: scores on new texts are likely to be lower"

    def few_rows_note(self, found: Scores[Score]) -> str:
        """That there are too few rows to tell models apart, in words; empty where there are enough.

        Resamples of rows that are all right are all right, too, so that the bootstrap knows no doubt there;
        the interval of Wilson (1927) does.
        """
        hits = np.array([found.accuracy.value * self.rows])
        low, high = wilson(hits, np.array([self.rows]))
        width = max(float(high[0] - low[0]), found.macro_f1.high - found.macro_f1.low)
        if width <= FEW_POINTS:
            return ""
        return (
            f"{_rows(self.rows)} {'is' if self.rows == 1 else 'are'} few: 95 % intervals of F1 (bootstrap) "
            f"and accuracy (Wilson) are up to {100 * width:.0f} points wide, and models that differ by less "
            "cannot be told apart"
        )

    def notes(self, found: Scores[Score] | None = None) -> list[str]:
        """What a reader has to know beside the scores, a sentence each; none is the best case."""
        macro = (
            self.macro_note
            and f"macro F1 is the {self.macro_note}: no row has one of the others as label or prediction"
        )
        few = self.few_rows_note(found) if found and self.rows else ""
        return [note for note in (macro, self.usage_note, few) if note]

    def as_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "rows": self.rows,
            "used_for": None if self.used_for is None else list(self.used_for),
            "labelled": dict(zip(class_names, self.labelled, strict=True)),
            "predicted": dict(zip(class_names, self.predicted, strict=True)),
        }


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


class Comparison(NamedTuple):
    """Two classifiers on the same rows.

    Attributes:
        differences: the second's scores less the first's.
        only_first: rows that the first alone has right; `only_second` likewise.
        p_value: of McNemar's exact test that both err equally often.
    """

    differences: Scores[Score]
    only_first: int
    only_second: int
    p_value: float


def f1_scores(counts: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Macro F1, micro F1, and the F1 of each class, float64 (C,); NaN where no row has the label.

    A class that was predicted but is the label of no row counts as 0 in the macro average; one that was not
    predicted either does not count.

    Args:
        counts: confusion matrix (C, C), rows are labels.
    """
    hits, of_label, of_pred = np.diag(counts), counts.sum(1), counts.sum(0)
    f1 = 2 * hits / np.maximum(of_label + of_pred, 1)
    there = (of_label + of_pred) > 0
    macro = f1[there].mean() if there.any() else 0.0
    return float(macro), float(hits.sum() / max(counts.sum(), 1)), np.where(of_label > 0, f1, np.nan)


def score_line(shown: str, score: Score | None, width: int, note: str = "") -> str:
    """A score and its interval as a line of a table whose first column is `width` columns wide."""
    value = f"{score.value:.4f}  [{score.low:.4f}, {score.high:.4f}]" if score else ""
    return f"  {escape.pad(shown, width)}" + "  ".join(part for part in (value, note) if part)


def log_probs(probs: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities, as logits; finite, also of 0."""
    return np.log(np.maximum(probs, np.finfo(np.float32).tiny))


def row_losses(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each row in nats, float64 (N,)."""
    right = probs[np.arange(len(labels)), labels].astype(np.float64)
    return -log_probs(right)


def calibration_error(probs: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error, 0 to 1: |accuracy - confidence| in 15 equal bins of confidence.

    Guo et al. (2017), https://arxiv.org/abs/1706.04599.
    """
    return _calibration_error(*_gaps(probs, labels), np.ones(len(labels)))


def _gaps(probs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row its bin, int (N,), and how much it adds to accuracy less confidence, float (N,)."""
    confidence = probs.max(1).astype(np.float64)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return bins, (probs.argmax(1) == labels) - confidence


def _calibration_error(bins: np.ndarray, gaps: np.ndarray, times: np.ndarray) -> float:
    return float(np.abs(np.bincount(bins, times * gaps)).sum() / times.sum())


def all_scores(probs: np.ndarray, labels: np.ndarray) -> Scores[float]:
    """The scores of some rows."""
    return _as_scores(_scorer(probs, labels)(np.ones(len(labels))))


def _as_scores(vector: np.ndarray) -> Scores[float]:
    macro, micro, accuracy, loss, error, *classes = vector.tolist()
    by_class = tuple(None if math.isnan(value) else value for value in classes)
    return Scores(macro, micro, accuracy, loss, error, by_class)


def _scorer(probs: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Scores as a function of how many times each row counts, float (N,).

    They come as a vector, float64 (5 + C,): the fields of `Scores` in their order, then the classes, NaN for
    those without a labelled row. What the scores need of a row is worked out once, and not in every
    resample: 5 times as fast.
    """
    C = probs.shape[1]
    cells = labels * C + probs.argmax(1)  # of the confusion matrix
    losses, (bins, gaps) = row_losses(probs, labels), _gaps(probs, labels)

    def score(times: np.ndarray) -> np.ndarray:
        macro, micro, classes = f1_scores(np.bincount(cells, times, minlength=C * C).reshape(C, C))
        error = _calibration_error(bins, gaps, times)
        return np.array([macro, micro, micro, times @ losses / times.sum(), error, *classes])

    return score


def with_intervals(probs: np.ndarray, labels: np.ndarray) -> Scores[Score]:
    """`all_scores`, each with its percentile bootstrap interval over the rows (Efron, 1979).

    A resample strays from the rows as they stray from the world, and each bin of the calibration error adds
    up how far, whatever the direction: its draws lie above the value. They are moved down to it. A resample
    without a row of a class tells nothing of that class, and is left out of its interval.
    """
    score = _scorer(probs, labels)
    values, drawn = score(np.ones(len(labels))), _bootstrap(score, len(labels))
    errors = drawn[:, CALIBRATION_ERROR]
    errors[:] = np.maximum(errors - errors.mean() + values[CALIBRATION_ERROR], 0)
    return _intervals(values, drawn)


def compare(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> Comparison:
    """Differences of `all_scores` with paired bootstrap intervals, and McNemar's test.

    Args:
        first: probabilities (N, C) of one classifier, `second` those of the other.
    """
    a, b = (_scorer(probs, labels) for probs in (first, second))

    def differences(times: np.ndarray) -> np.ndarray:
        return b(times) - a(times)

    values, drawn = differences(np.ones(len(labels))), _bootstrap(differences, len(labels))
    a_right, b_right = (probs.argmax(1) == labels for probs in (first, second))
    only_first, only_second = int((a_right & ~b_right).sum()), int((b_right & ~a_right).sum())
    found = _intervals(values, drawn)
    return Comparison(found, only_first, only_second, mcnemar(only_first, only_second))


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value (McNemar, 1947): the rows on which one alone is right are fair coin tosses."""
    tosses, fewer = only_first + only_second, min(only_first, only_second)
    ways = tail = 1  # to come up `count` times, and at most so often; exact, as long integers
    for count in range(1, fewer + 1):
        ways = ways * (tosses - count + 1) // count
        tail += ways
    return min(1.0, 2 * tail / 2**tosses)


def _bootstrap(score: Callable[[np.ndarray], np.ndarray], count: int, seed: int = 0) -> np.ndarray:
    """What `score` makes of resamples, given how many times each of `count` rows is in it; (RESAMPLES, S)."""
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES):
        rows = generator.integers(count, size=count, dtype=np.int32)
        drawn.append(score(np.bincount(rows, minlength=count).astype(np.float64)))
    return np.stack(drawn)


# --- whether a step improves the model beyond chance ---


def loss_change(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> Score | None:
    """By how much a step changes the mean loss of the same rows, in nats a text; None of too few rows.

    With Student's interval of the paired differences. In simulations with a model that needs no temperature,
    it lies below 0 in at most 4 % of the draws of 18 rows or more; the percentile bootstrap is narrower on
    few rows, and of 6 it is wrong in 11 %, Student's in 7 %.

    Args:
        before: probabilities (N, C) without the step, `after` with it, on rows that it was not fitted on.
    """
    changes = row_losses(after, labels) - row_losses(before, labels)
    if len(changes) < FEWEST_ROWS:
        return None
    mean, error = changes.mean(), changes.std(ddof=1) / math.sqrt(len(changes))
    reach = _student_quantile((1 + LEVEL) / 2, len(changes) - 1) * error
    return Score(float(mean), float(mean - reach), float(mean + reach))


def _student_quantile(share: float, degrees: int) -> float:
    """Of Student's t, to 0.1 % from 9 degrees of freedom on: Abramowitz and Stegun (1964), 26.7.5."""
    z, n = NormalDist().inv_cdf(share), degrees
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )


def macro_f1_change(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> Score:
    """By how much macro F1 differs on the same rows, -1 to 1, with its paired bootstrap interval.

    Args:
        before: probabilities (N, C) of one classifier, `after` those of the other.
    """
    C = before.shape[1]
    cells = [labels * C + probs.argmax(1) for probs in (before, after)]

    def change(times: np.ndarray) -> np.ndarray:
        counts = (np.bincount(each, times, minlength=C * C).reshape(C, C) for each in cells)
        first, second = (f1_scores(each)[0] for each in counts)
        return np.array([second - first])

    return _interval(float(change(np.ones(len(labels)))[0]), _bootstrap(change, len(labels))[:, 0])


def _interval(value: float, drawn: np.ndarray) -> Score:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Score(value, float(low), float(high))


def _intervals(values: np.ndarray, drawn: np.ndarray) -> Scores[Score]:
    """Values (S,) with the intervals of their resamples (RESAMPLES, S), of those that have a value."""
    found: list[Any] = []
    for value, column in zip(values.tolist(), drawn.T, strict=True):
        if math.isnan(value):
            found.append(None)
            continue
        found.append(_interval(value, column[~np.isnan(column)]))
    macro, micro, accuracy, loss, error, *by_class = found
    return Scores(macro, micro, accuracy, loss, error, tuple(by_class))


def wilson(hits: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % interval of shares `hits / counts` (Wilson, 1927); 0 to 1, counts above 0."""
    share, spread = hits / counts, Z**2 / counts
    middle = (share + spread / 2) / (1 + spread)
    half = Z * np.sqrt(share * (1 - share) / counts + spread / (4 * counts)) / (1 + spread)
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T > 0 for which softmax(logits / T) has the least cross-entropy; within 1/100 to 100.

    Guo et al. (2017). A share 1 / (N + 2) of each label is spread over the classes, as in Platt (1999): a few
    rows that are all right do not make every answer certain. In 1 / T the loss is convex: Newton's method,
    and bisection where it would leave the bounds.

    Args:
        logits: (N, C), or log-probabilities.
        labels: (N,); of no rows the temperature is 1.
    """
    if not len(labels):
        return 1.0
    z = logits.astype(np.float64) - logits.max(1, keepdims=True)
    spread = 1 / (len(labels) + 2)
    target = (1 - spread) * z[np.arange(len(labels)), labels] + spread * z.mean(1)
    low, high, beta = 0.01, 100.0, 1.0  # beta is 1 / T
    for _ in range(100):
        p = np.exp(beta * z)
        p /= p.sum(1, keepdims=True)
        mean = (p * z).sum(1)
        slope, curve = (mean - target).mean(), ((p * z**2).sum(1) - mean**2).mean()
        if slope == 0:
            break
        low, high = (low, beta) if slope > 0 else (beta, high)
        step = beta - slope / curve if curve > 0 else -1.0
        new = step if low < step < high else math.sqrt(low * high)
        if abs(new - beta) < 1e-9 * beta:
            break
        beta = new
    return float(1 / beta)


def cross_fitted(logits: np.ndarray, labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Probabilities (N, C) of rows whose temperature was fitted on the other half of them.

    What calibration is worth can only be told from rows that it was not fitted on.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    probs = np.empty(logits.shape)
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    for here, there in (halves, halves[::-1]):
        probs[here] = softmax(logits[here] / temperature(logits[there], labels[there]))
    return probs


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, C); rows sum to 1."""
    p = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def suspected_labels(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Indices of rows whose label looks wrong, int64, the least probable label first.

    Confident learning (Northcutt et al., 2021, https://arxiv.org/abs/1911.00068) from cleanlab tells how many
    labels are wrong, and so many of the least probable are taken: of labels changed on purpose that finds as
    many as cleanlab's default choice of rows, among a fifth fewer suspects. Means something only for rows
    that were not trained on.
    """
    need("cleanlab", "report")
    if len(np.unique(labels)) < 2:  # nothing to confuse
        return np.empty(0, dtype=np.int64)
    from cleanlab.filter import find_label_issues

    probs = probs.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that have no row here
        found = find_label_issues(
            labels,
            probs / probs.sum(1, keepdims=True),
            filter_by="low_self_confidence",
            return_indices_ranked_by="self_confidence",
            n_jobs=1,  # processes would have to be given copies
        )
    return np.asarray(found, dtype=np.int64)
