"""Scores that say how sure they are: bootstrap intervals, paired comparison, calibration.

Everything here comes from predictions: labels (N,) and probabilities (N, C) of the same rows, as numpy
arrays. What training logs is torchmetrics'; these are the same numbers with what torchmetrics does not give.

    python -m lit_bert validate
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from lit_bert import need

RESAMPLES = 1000  # bootstrap draws
LEVEL = 0.95  # of every interval
BINS = 15  # of the calibration error, as in Guo et al. (2017)
FEWEST_ROWS = 16  # that can show a difference of losses: on fewer, a change of no use is kept too often

MAIN = {  # what tables call the scores over all classes; accuracy is micro F1 here, so only some show it
    "macro F1": "f1",
    "micro F1": "f1_micro",
    "loss, nats": "loss_nats",
    "calib. error": "calibration_error",
}

Scores = dict[str, float]


class Score(NamedTuple):
    """A score and the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """Two classifiers on the same rows.

    Attributes:
        differences: by score, the second less the first.
        only_first: rows that the first alone has right; `only_second` likewise.
        p_value: of McNemar's exact test that both err equally often.
    """

    differences: dict[str, Score]
    only_first: int
    only_second: int
    p_value: float


def f1_scores(counts: np.ndarray, class_names: list[str]) -> Scores:
    """Macro F1 (`f1`), `f1_micro`, `accuracy` and `f1_<class>`, all 0 to 1.

    As in torchmetrics, a class that neither stands in the labels nor was predicted has F1 0 and does not
    count in the macro average.

    Args:
        counts: confusion matrix (C, C), rows are labels.
    """
    hits, of_label, of_pred = np.diag(counts), counts.sum(1), counts.sum(0)
    f1 = 2 * hits / np.maximum(of_label + of_pred, 1)
    there = (of_label + of_pred) > 0
    micro = hits.sum() / max(counts.sum(), 1)
    scores = {"f1": f1[there].mean() if there.any() else 0.0, "f1_micro": micro, "accuracy": micro}
    scores |= {f"f1_{name}": value for name, value in zip(class_names, f1, strict=True)}
    return {name: float(value) for name, value in scores.items()}


def by_class(names: Iterable[str]) -> dict[str, str]:
    """From each class to the name of its score, of the names of scores."""
    return {name[3:]: name for name in names if name.startswith("f1_") and name != "f1_micro"}


def score_line(shown: str, score: Score, width: int) -> str:
    """A score and its interval as a line of a table whose first column is `width` characters wide."""
    return f"  {shown:{width}}{score.value:.4f}  [{score.low:.4f}, {score.high:.4f}]"


def row_losses(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each row in nats, float64 (N,)."""
    right = probs[np.arange(len(labels)), labels].astype(np.float64)
    return -np.log(np.maximum(right, np.finfo(np.float32).tiny))


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


def all_scores(probs: np.ndarray, labels: np.ndarray, class_names: list[str]) -> Scores:
    """`f1_scores`, `loss_nats` (mean nats per text) and `calibration_error` of some rows."""
    return _scorer(probs, labels, class_names)(np.ones(len(labels)))


def _scorer(probs: np.ndarray, labels: np.ndarray, class_names: list[str]) -> Callable[[np.ndarray], Scores]:
    """`all_scores` as a function of how many times each row counts, float (N,).

    What the scores need of a row is worked out once, and not in every resample: 5 times as fast.
    """
    C = len(class_names)
    cells = labels * C + probs.argmax(1)  # of the confusion matrix
    losses, (bins, gaps) = row_losses(probs, labels), _gaps(probs, labels)

    def score(times: np.ndarray) -> Scores:
        counts = np.bincount(cells, times, minlength=C * C).reshape(C, C)
        return {
            **f1_scores(counts, class_names),
            "loss_nats": float(times @ losses / times.sum()),
            "calibration_error": _calibration_error(bins, gaps, times),
        }

    return score


def with_intervals(probs: np.ndarray, labels: np.ndarray, class_names: list[str]) -> dict[str, Score]:
    """`all_scores`, each with its percentile bootstrap interval over the rows (Efron, 1979).

    A resample strays from the rows as they stray from the world, and each bin of the calibration error adds
    up how far, whatever the direction: its draws lie above the value. They are moved down to it.
    """
    score = _scorer(probs, labels, class_names)
    values, drawn = score(np.ones(len(labels))), _bootstrap(score, len(labels))
    errors = drawn["calibration_error"]
    drawn["calibration_error"] = np.maximum(errors - errors.mean() + values["calibration_error"], 0)
    return {name: _interval(value, drawn[name]) for name, value in values.items()}


def compare(first: np.ndarray, second: np.ndarray, labels: np.ndarray, class_names: list[str]) -> Comparison:
    """Differences of `all_scores` with paired bootstrap intervals, and McNemar's test.

    Args:
        first: probabilities (N, C) of one classifier, `second` those of the other.
    """

    scorers = [_scorer(probs, labels, class_names) for probs in (first, second)]

    def differences(times: np.ndarray) -> Scores:
        a, b = (score(times) for score in scorers)
        return {name: b[name] - a[name] for name in a}

    values, drawn = differences(np.ones(len(labels))), _bootstrap(differences, len(labels))
    a_right, b_right = (probs.argmax(1) == labels for probs in (first, second))
    only_first, only_second = int((a_right & ~b_right).sum()), int((b_right & ~a_right).sum())
    found = {name: _interval(value, drawn[name]) for name, value in values.items()}
    return Comparison(found, only_first, only_second, mcnemar(only_first, only_second))


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value (McNemar, 1947): the rows on which one alone is right are fair coin tosses."""
    tosses, fewer = only_first + only_second, min(only_first, only_second)
    ways = tail = 1  # to come up `count` times, and at most so often; exact, as long integers
    for count in range(1, fewer + 1):
        ways = ways * (tosses - count + 1) // count
        tail += ways
    return min(1.0, 2 * tail / 2**tosses)


def _bootstrap(score: Callable[[np.ndarray], Scores], count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """What `score` makes of resamples, given how many times each of `count` rows is in it; (RESAMPLES,)."""
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES):
        rows = generator.integers(count, size=count, dtype=np.int32)
        drawn.append(score(np.bincount(rows, minlength=count).astype(np.float64)))
    return {name: np.array([each[name] for each in drawn]) for name in drawn[0]}


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

    def change(times: np.ndarray) -> Scores:
        first, second = (_macro_f1(np.bincount(each, times, minlength=C * C).reshape(C, C)) for each in cells)
        return {"f1": second - first}

    return _interval(change(np.ones(len(labels)))["f1"], _bootstrap(change, len(labels))["f1"])


def _macro_f1(counts: np.ndarray) -> float:
    """Of a confusion matrix (C, C), over the classes that stand in labels or predictions."""
    sizes = counts.sum(0) + counts.sum(1)
    return float((2 * np.diag(counts) / np.maximum(sizes, 1))[sizes > 0].mean())


def _interval(value: float, drawn: np.ndarray) -> Score:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Score(value, float(low), float(high))


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
