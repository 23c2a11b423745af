"""Which class is the answer where it is not simply the most probable one: by costs, or by a wanted rate.

python -m lit_bert fit --costs costs.csv
python -m lit_bert fit --want spam:precision=0.95
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lit_bert.io import escape

COSTS, WANTED = (
    "costs",
    "wanted",
)  # parameters of a task: C * C costs; class, threshold, rate, whether a recall
MOST_CLASSES = 300  # with costs, which are as many as their square


class Wanted(NamedTuple):
    """A class that is the answer from a probability on, and otherwise never.

    Attributes:
        place: of the class.
        threshold: of its probability.
        rate: that was wanted on validation rows.
        is_recall: whether of recall; else of precision.
    """

    place: int
    threshold: float
    rate: float
    is_recall: bool


def wanted_of(parameters: Mapping[str, tuple[float, ...]]) -> Wanted | None:
    """What a task has of a wanted rate."""
    found = parameters.get(WANTED)
    return Wanted(int(found[0]), found[1], found[2], bool(found[3])) if found else None


def costs_of(parameters: Mapping[str, tuple[float, ...]], classes: int) -> np.ndarray | None:
    """The costs of a task, float64 (C, C): of each true class, a row, by the answer."""
    found = parameters.get(COSTS)
    return None if found is None else np.array(found).reshape(classes, classes)


def check(parameters: Mapping[str, tuple[float, ...]], kind: str, classes: int, may_want: bool) -> None:
    """Raises a ValueError where parameters are not costs or a wanted rate of these classes."""
    if parameters.keys() - ({COSTS, WANTED} if may_want else {COSTS}) or len(parameters) > 1:
        raise ValueError(
            f"a task of kind {kind} has no parameters but {COSTS}{f' or {WANTED}' * may_want}, one of them"
        )
    costs, wanted = parameters.get(COSTS), parameters.get(WANTED)
    if costs is not None and not (len(costs) == classes**2 and np.isfinite(costs).all() and min(costs) >= 0):
        raise ValueError(f"{COSTS} are {classes**2} numbers of 0 or more, a row for each class")
    if wanted is not None and not (
        len(wanted) == 4
        and wanted[0] in range(classes)
        and 0 <= wanted[1] <= 1
        and 0 < wanted[2] < 1
        and wanted[3] in (0, 1)
    ):
        raise ValueError(f"{WANTED} is a class, its threshold, a rate, and whether that is a recall")


def decided(parameters: Mapping[str, tuple[float, ...]], probs: Any, plain: Any) -> Any:
    """The class of each row, (N,), of probabilities (N, C); arrays of numpy, or tensors in their place.

    Args:
        plain: what rows are taken for where nothing is decided, (N,).
    """
    if (costs := costs_of(parameters, probs.shape[1])) is not None:
        if not isinstance(probs, np.ndarray):
            costs = probs.new_tensor(costs)
        return (probs @ costs).argmin(1)  # of equal costs the first class
    if (wanted := wanted_of(parameters)) is not None:
        given = probs[:, wanted.place] >= wanted.threshold
        others = probs + 0
        others[:, wanted.place] = -1.0
        best = others.argmax(1)
        best[given] = wanted.place
        return best
    return plain


class Point(NamedTuple):
    """A threshold and what it comes to.

    Attributes:
        threshold: of the probability of the class.
        precision: of the rows that are given the class, the share that has it; NaN where none is.
        recall: of the rows that have the class, the share that is given it.
    """

    threshold: float
    precision: float
    recall: float


def curve(scores: np.ndarray, has: np.ndarray) -> list[Point]:
    """Precision and recall of each threshold that tells rows apart, the strictest first.

    Args:
        scores: probability of a class, (N,).
        has: whether rows have it, bool (N,).
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(has[order])[ends]
    precision, recall = hits / (ends + 1), hits / max(int(has.sum()), 1)
    thresholds = scores[order][ends].tolist()
    return [Point(*each) for each in zip(thresholds, precision.tolist(), recall.tolist(), strict=True)]


def chosen_point(rate: float, is_recall: bool, scores: np.ndarray, has: np.ndarray) -> Point | None:
    """The threshold with the wanted recall and the most precision, or the reverse; None if there is none."""
    fitting = [each for each in curve(scores, has) if (each.recall if is_recall else each.precision) >= rate]
    if is_recall:
        return max(fitting, key=lambda each: (each.precision, each.threshold), default=None)
    return max(fitting, key=lambda each: (each.recall, each.threshold), default=None)


def decision_note(fact: Mapping[str, Any]) -> str:
    """What was decided and what it comes to, as `train.decide` found it."""
    if found := fact.get("costs"):
        return (
            f"by costs: {found['after']:.4f} a text on {found['rows']:,} validation rows, "
            f"{found['before']:.4f} without them"
        )
    found = fact["wanted"]
    chosen, other = found["chosen"], found["other_rows"]
    shown = ", ".join(
        f"{which} {_shown(chosen[which])}, {_shown(other[which])} with thresholds of other rows"
        for which in ("precision", "recall")
    )
    return (
        f"{escape.line(found['class'], 60)} from a probability of {found['threshold']:.4f} on, for a "
        f"{found['which']} of {found['rate']:g}: on the {found['rows']:,} validation rows that chose it "
        f"{shown}"
    )


def described(parameters: Mapping[str, tuple[float, ...]], class_names: Sequence[str]) -> str:
    """How the answer is decided, in words; empty where it is the most probable class."""
    if COSTS in parameters:
        return "answers with the class of the least expected cost"
    if (wanted := wanted_of(parameters)) is not None:
        which = "recall" if wanted.is_recall else "precision"
        name = escape.line(class_names[wanted.place], 60)
        start = f"answers {name} from a probability of {wanted.threshold:.4f} on"
        return f"{start}, for a {which} of {wanted.rate:g}"
    return ""


def _shown(rate: list[float] | None) -> str:
    return "unknown" if rate is None else "{:.3f} [{:.3f}, {:.3f}]".format(*rate)
