"""Scores with their uncertainty: those that a kind of task has, with bootstrap intervals.

Everything here comes from predictions: labels and outputs of the same rows, as numpy arrays, as `task.base`
describes them. What training logs is torchmetrics'; these are the same numbers with what torchmetrics does
not give.

    python -m lit_bert validate
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from lit_bert import require_package
from lit_bert.io import escape
from lit_bert.task.base import Scorer, Task

RESAMPLES = 1000  # bootstrap draws
LEVEL = 0.95  # of every interval
Z = 1.959964  # standard normal quantile of a 95 % interval
T = TypeVar("T")


class Score(NamedTuple):
    """A score and the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores(Generic[T]):
    """Scores of some rows, as plain floats or each with its interval.

    Those over all rows are attributes, too, by their keys: `found.macro_f1`.

    Attributes:
        task: which says what they are.
        values: those over all rows, by their keys.
        classes: by the key of a score of classes: that of each class in their order; None where no row has
            that label, as nothing can be known of it then.
    """

    task: Task
    values: dict[str, T]
    classes: dict[str, tuple[T | None, ...]]

    def __getattr__(self, name: str) -> T:
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def by_class(self) -> tuple[T | None, ...]:
        """F1 of each class, in the order of the classes; () without classes."""
        return self.classes.get("f1", ())

    @property
    def chosen_by(self) -> T:
        """The score that chooses between models."""
        return self.values[self.task.main]

    def titled(self, brief: bool = True) -> dict[str, T]:
        """The scores over all rows by their titles in tables.

        Args:
            brief: whether those are left out that equal another one.
        """
        return {each.title: self.values[each.key] for each in self.task.scores if each.in_brief or not brief}

    def as_dict(self, form: Callable[[T], Any] = lambda value: value) -> dict[str, Any]:
        """Plain values for JSON; class names are keys of `by_class`, where they cannot collide with a score.

        Args:
            form: what each score is converted with.
        """
        found: dict[str, Any] = {key: form(value) for key, value in self.values.items()}
        for key, scores in self.classes.items():
            named = zip(self.task.class_names, scores, strict=True)
            found["by_class" if key == "f1" else f"{key}_by_class"] = {
                name: None if value is None else form(value) for name, value in named
            }
        return found

    @classmethod
    def of(cls, task: Task, vector: list[T | None]) -> Scores[T]:
        """The scores in a vector as `Task.scorer` gives it, None for NaN."""
        keys, C = [each.key for each in task.scores], len(task.class_names)
        values, rest = vector[: len(keys)], vector[len(keys) :]
        assert len(rest) == C * len(task.class_scores)
        classes = {key: tuple(rest[C * place :][:C]) for place, key in enumerate(task.class_scores)}
        return cls(task, dict(zip(keys, values, strict=True)), classes)  # type: ignore[arg-type]


def score_line(title: str, score: Score | None, width: int, note: str = "") -> str:
    """A score and its interval as a line of a table whose first column has `width` characters."""
    value = f"{score.value:.4f}  [{score.low:.4f}, {score.high:.4f}]" if score else ""
    return f"  {escape.pad(title, width)}" + "  ".join(part for part in (value, note) if part)


def all_scores(task: Task, outputs: np.ndarray, labels: np.ndarray) -> Scores[float]:
    """The scores of some rows."""
    vector = task.scorer(outputs, labels)(np.ones(len(labels))).tolist()
    return Scores.of(task, [None if math.isnan(value) else value for value in vector])


def with_intervals(task: Task, outputs: np.ndarray, labels: np.ndarray) -> Scores[Score]:
    """`all_scores`, each with its percentile bootstrap interval over the rows (Efron, 1979).

    The calibration error is a sum of absolute values, so that resampling biases it upwards: its draws are
    shifted until their mean is the value. A resample without a row of a class has no score of that class, and
    is left out of its interval.
    """
    score = task.scorer(outputs, labels)
    values, resampled = score(np.ones(len(labels))), bootstrap(score, len(labels))
    for place, each in enumerate(task.scores):
        if each.is_distance:
            draws = resampled[:, place]
            draws[:] = np.maximum(draws - draws.mean() + values[place], 0)
    return intervals(task, values, resampled)


def bootstrap(score: Scorer, count: int, seed: int = 0) -> np.ndarray:
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


def intervals(task: Task, values: np.ndarray, resampled: np.ndarray) -> Scores[Score]:
    """Values (S,) with the percentile intervals of their resamples (RESAMPLES, S); None for those of NaN."""
    scores: list[Score | None] = []
    for value, column in zip(values.tolist(), resampled.T, strict=True):
        scores.append(None if math.isnan(value) else interval(value, column[~np.isnan(column)]))
    return Scores.of(task, scores)


def wilson(hits: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % interval of shares `hits / counts` (Wilson, 1927); 0 to 1, counts above 0."""
    share, spread = hits / counts, Z**2 / counts
    middle = (share + spread / 2) / (1 + spread)
    half = Z * np.sqrt(share * (1 - share) / counts + spread / (4 * counts)) / (1 + spread)
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)


def suspected_labels(task: Task, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`Task.suspected_labels`, by cleanlab. Only meaningful for rows that were not trained on."""
    require_package("cleanlab", "report")
    import cleanlab.filter
    import cleanlab.multilabel_classification

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes without a row
        found = task.suspected_labels(outputs, labels, cleanlab)
    return np.asarray(found, dtype=np.int64)
