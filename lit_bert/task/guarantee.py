"""Answers with a guarantee: what rows that served nothing else promise of new texts like them. numpy only.

`accuracy`: answered texts are right at that rate. For one threshold of how sure a model is, the errors among
the answered rows are binomial, and the exact test of Clopper and Pearson says with 95 % confidence whether
the rate holds. Of many thresholds one is found by fixed sequence testing (Angelopoulos et al., 2021, Learn
then Test, https://arxiv.org/abs/2110.01052): other rows, those of validation, give the thresholds and the one
to begin with, and each looser one is tested in turn until one fails. As the order does not depend on the rows
that are tested on, none of the tests needs a correction. It is the setting of Geifman and El-Yaniv
(2017, https://arxiv.org/abs/1705.08500), whose union bound would need more rows.

`coverage`: a set of classes, or an interval, holds the label at that rate: split conformal prediction (Vovk
et al., 2005), with the score of Sadinle et al. (2019, https://arxiv.org/abs/1609.00451), one less the
probability of the class, whose sets are the smallest on average. `coverage_by_class` is that for the texts of
each class (Vovk et al.'s Mondrian form). Of several labels a text, conformal risk control (Angelopoulos et
al., 2022, https://arxiv.org/abs/2208.02814): the share of a text's labels that the set lacks.

    python -m lit_bert fit --guarantee accuracy=0.98
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from lit_bert import UserError
from lit_bert.io.escape import line

ACCURACY, COVERAGE, BY_CLASS = "accuracy", "coverage", "coverage_by_class"
NAMES = (ACCURACY, COVERAGE, BY_CLASS)
CONFIDENCE = 0.95  # with which a bound holds, over all rows that could have been drawn
GRID = 200  # thresholds of how sure a model is, at most


class Labelled(NamedTuple):
    """Rows: what a model says of them, float32 (N, C), and their labels as the task stores them."""

    outputs: np.ndarray
    labels: np.ndarray


class Accuracy(NamedTuple):
    """Answered texts are right at a rate.

    Attributes:
        rate: that is promised, with `CONFIDENCE`.
        threshold: from which probability of the answer on a text is answered.
        rows: that it was found on.
        answered: how many of them are, and `wrong`, of these.
    """

    rate: float
    threshold: float
    rows: float
    answered: float
    wrong: float


class Coverage(NamedTuple):
    """A set or an interval holds the label at a rate.

    Attributes:
        rate: that is promised of a new text, over the draw of the rows, too.
        rows: that it was found on; of each class the fewest, where it holds by class.
        bound: that the rate of this very model has with `CONFIDENCE`; 0 where none is known.
        size: of a set on these rows, in classes, on average; of an interval, half its width.
        thresholds: the least probability of a class in a set, one or one a class; of an interval none.
    """

    rate: float
    rows: float
    bound: float
    size: float
    thresholds: tuple[float, ...] = ()


def percent(rate: float) -> str:
    """A rate with the digits that it needs."""
    return f"{100 * rate:.6g} %"


def tenths(rate: float) -> str:
    """A rate to a tenth of a percent."""
    return f"{100 * rate:.1f} %"


# --- what is asked for


def parse(said: str) -> dict[str, float]:
    """Rates by what they are of, as of `accuracy=0.98,coverage=0.95`.

    Raises:
        UserError: it says something else.
    """
    found: dict[str, float] = {}
    for part in said.split(","):
        name, _, rate = (each.strip() for each in part.partition("="))
        try:
            value = float(rate)
        except ValueError:
            value = math.nan
        if name not in NAMES or name in found or not 0 < value < 1:
            raise UserError(
                f"--guarantee is '{line(said, 100)}'; expected {' or '.join(NAMES)}, each once, with a "
                f"rate between 0 and 1, as in {ACCURACY}=0.98 or {ACCURACY}=0.98,{COVERAGE}=0.95."
            )
        found[name] = value
    if COVERAGE in found and BY_CLASS in found:
        raise UserError(
            f"--guarantee has {COVERAGE} and {BY_CLASS}; expected one of them: an answer has one set."
        )
    return found


def fewest_rows(name: str, rate: float) -> int:
    """How many rows a guarantee needs of a model that makes no error; of each class, if by class."""
    if name == ACCURACY:
        return math.ceil(math.log(1 - CONFIDENCE) / math.log(rate) - 1e-9)
    return math.ceil(1 / (1 - rate) - 1e-9) - 1


# --- binomial bounds


def binomial_cdf(k: int, n: int, p: float) -> float:
    """The probability of at most k of n, each with the probability p."""
    if k >= n or p <= 0:
        return 1.0
    if k < 0 or p >= 1:
        return 0.0
    logs, i = _log_factorials(1 << n.bit_length()), np.arange(k + 1)
    each = logs[n] - logs[i] - logs[n - i] + i * math.log(p) + (n - i) * math.log1p(-p)
    most = each.max()
    return min(float(np.exp(each - most).sum()) * math.exp(most), 1.0)


@lru_cache(maxsize=4)
def _log_factorials(n: int) -> np.ndarray:
    """Logarithms of 0! to n!."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def upper_bound(k: int, n: int) -> float:
    """The one-sided bound of Clopper and Pearson (1934) on a rate of which k of n were seen."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_cdf(k, n, middle) > 1 - CONFIDENCE else (low, middle)
    return high


# --- guarantees


def accuracy(
    rate: float, scores: np.ndarray, right: np.ndarray, others: tuple[np.ndarray, np.ndarray]
) -> Accuracy | None:
    """The loosest threshold from which answers are right at a rate, with CONFIDENCE; None if there is none.

    Args:
        rate: 0 to 1.
        scores: how sure the model is of rows that served nothing else, (N,).
        right: whether it is right on them, bool (N,).
        others: both of other rows, which give the thresholds and their order.
    """
    other_scores, other_right = others
    grid = np.unique(np.quantile(other_scores, np.linspace(0, 1, GRID), method="lower"))[::-1]
    grid = np.append(grid, 0.0)  # all are answered
    start = int(
        np.argmin([_expected_p(rate, len(scores), other_scores >= each, other_right) for each in grid])
    )
    found = None
    for threshold in grid[start:].tolist():
        answered = scores >= threshold
        n, wrong = int(answered.sum()), int((answered & ~right).sum())
        if not n or binomial_cdf(wrong, n, 1 - rate) > 1 - CONFIDENCE:
            break
        found = Accuracy(rate, threshold, len(scores), n, wrong)
    return found


def _expected_p(rate: float, rows: int, answered: np.ndarray, right: np.ndarray) -> float:
    """About the p-value of a threshold on so many rows, by what other rows say of it."""
    n = int(answered.sum())
    errors = (int((answered & ~right).sum()) + 1) / (n + 2)
    expected = round(rows * n / len(right))
    return binomial_cdf(round(errors * expected), expected, 1 - rate) if expected else 1.0


def quantile(rate: float, values: np.ndarray) -> tuple[float, float] | None:
    """What a new value is at most, at a rate, as split conformal prediction has it; None of too few values.

    Returns:
        It, and the bound on the rate that this very one has. Over draws of the values that rate is
        distributed as Beta (Vovk, 2012, https://arxiv.org/abs/1209.2673), whose lower end is that of Clopper
        and Pearson.
    """
    n = len(values)
    k = math.ceil((n + 1) * rate - 1e-9)
    if k > n:
        return None
    return float(np.sort(values)[k - 1]), 1 - upper_bound(n - k, n)


def class_sets(rate: float, rows: Labelled, by_class: bool) -> Coverage | None:
    """From which probability on a class is in the set of a text, so that it has the right one at a rate.

    A set has the answer as well, which only adds to that.
    """
    outputs, labels = rows
    own = outputs[np.arange(len(labels)), labels]
    parts = [labels == c for c in range(outputs.shape[1])] if by_class else [np.ones(len(labels), bool)]
    found = [quantile(rate, -own[part]) for part in parts]
    if None in found:
        return None
    thresholds = tuple(-each[0] for each in found if each)
    size = float(np.maximum((outputs >= thresholds).sum(1), 1).mean())
    count = min(int(part.sum()) for part in parts)
    return Coverage(rate, count, min(each[1] for each in found if each), size, thresholds)


def label_sets(rate: float, rows: Labelled) -> Coverage | None:
    """From which probability on a class is in the set of a text, so that it has a share of its labels.

    Conformal risk control: the mean over texts of the share of labels that the set lacks is at most 1 - rate.
    A text without a label lacks none.
    """
    outputs, labels = rows
    has = labels.astype(bool)
    weights = (has / np.maximum(has.sum(1, keepdims=True), 1))[has]
    order = np.argsort(outputs[has], kind="stable")
    probs, lost = outputs[has][order], np.cumsum(weights[order])  # by which a set above each one falls short
    allowed = (1 - rate) * (len(labels) + 1) - 1
    if allowed < 0:
        return None
    # The least probability of a label that may not be lost; of equal ones all or none are.
    over = np.flatnonzero(lost > allowed + 1e-9)
    threshold = float(probs[over[0]]) if len(over) else 1.0
    return Coverage(rate, len(labels), 0.0, float((outputs >= threshold).sum(1).mean()), (threshold,))


def interval(rate: float, outputs: np.ndarray, labels: np.ndarray) -> Coverage | None:
    """Half the width of intervals that hold the number at a rate, by the errors of rows (N,)."""
    found = quantile(rate, np.abs(outputs.astype(np.float64) - labels))
    return None if found is None else Coverage(rate, len(labels), found[1], found[0])


# --- as parameters of a task

Promise = Accuracy | Coverage


def promises_of(parameters: Mapping[str, tuple[float, ...]]) -> dict[str, Promise]:
    """What the parameters of a task promise, by name.

    Raises:
        ValueError: they are no guarantee.
    """
    found: dict[str, Promise] = {}
    for name in NAMES:
        if (values := parameters.get(name)) is not None:
            is_accuracy = name == ACCURACY
            if len(values) != 5 if is_accuracy else len(values) < 4:
                raise ValueError(f"{name} has {len(values)} numbers")
            rate, rows, bound, size = values[:4]
            found[name] = Accuracy(*values) if is_accuracy else Coverage(rate, rows, bound, size, values[4:])
            if not all(map(math.isfinite, values)) or min(values) < 0 or not 0 < values[0] < 1:
                raise ValueError(f"{name} has a number that is out of range")
            promise = found[name]
            if promise.rows < 1:
                raise ValueError(f"{name} rests on no rows")
            if isinstance(promise, Accuracy) and not promise.wrong <= promise.answered <= promise.rows:
                raise ValueError(f"{name} has more wrong rows than answered ones, or more of these than rows")
    return found


def packed(promise: Promise) -> tuple[float, ...]:
    """A guarantee as a parameter of a task."""
    return (*promise[:4], *promise.thresholds) if isinstance(promise, Coverage) else tuple(promise)


def kept_promises(task: Any, outputs: np.ndarray, labels: np.ndarray) -> list[str]:
    """What became of each guarantee of a task on rows, a line each."""
    lines = []
    for name, each in task.promises.items():
        promised = f"promised: {percent(each.rate)}"
        if isinstance(each, Accuracy):
            answered = task.answered(outputs)
            right = f", {tenths(task.is_right(outputs, labels)[answered].mean())} of them right" * bool(
                answered.any()
            )
            count = f"{answered.sum():,} of {len(labels):,} rows ({tenths(answered.mean())})"
            lines.append(f"answered   {count}{right}; {promised}")
        else:
            what = "of each class, the least" if name == BY_CLASS else "on average"
            held = task.held(outputs, labels)
            rate = held.mean()
            if name == BY_CLASS:
                rate = min(held[labels == each].mean() for each in np.unique(labels))
            lines.append(f"held       by sets or intervals: {tenths(rate)} of labels, {what}; {promised}")
    return lines


def promise_lines(task: Any) -> list[str]:
    """What is promised of the answers of a task, a sentence each without its full stop."""
    lines = []
    for name, each in task.promises.items():
        if isinstance(each, Accuracy):
            rate, share = percent(each.rate), tenths(each.answered / each.rows)
            lines.append(
                f"at least {rate} of the answers are right, with {percent(CONFIDENCE)} confidence: a text is "
                f"answered where its answer has a probability of {each.threshold:.4f} or more, as {share} of "
                f"{each.rows:,.0f} rows had that served nothing else, and {each.wrong:,.0f} of these "
                f"{each.answered:,.0f} were wrong"
            )
            continue
        of_class = " of each class" * (name == BY_CLASS)
        bound = (
            f"; in this model, with {percent(CONFIDENCE)} confidence, at least {tenths(each.bound)}"
            * bool(each.bound)
        )
        lines.append(
            f"{task.set_words.format(rate=percent(each.rate))}{of_class}, by {each.rows:,.0f} rows{of_class} "
            f"that served nothing else{bound}; {task.size_words.format(size=each.size)}"
        )
    return lines
