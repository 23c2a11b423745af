"""Which method is kept: decided on rows that none of its networks has seen.

With few rows by cross-validation, which uses each row for training and for scoring. The networks of its parts
and the one that is trained on all rows start from the same weights and end near each other: their mean varies
less from draw to draw than one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lit_bert.evaluate import compare
from lit_bert.evaluate.calibration import cross_fitted
from lit_bert.model.average import WeightSum
from lit_bert.task.base import Task
from lit_bert.train.bench import Bench, folds_of
from lit_bert.train.methods import METHODS

RESAMPLES = 500  # bootstrap draws


class Race(NamedTuple):
    """What came of it.

    Attributes:
        kept: name of the method.
        outputs: by the name of each method, of rows that its networks had not seen, float32 (N, C).
        soups: by the name of each method that trains, the networks of the parts.
    """

    kept: str
    outputs: dict[str, np.ndarray]
    soups: dict[str, WeightSum]


def trainings(names: list[str], folds: int) -> int:
    """How many there are in a race of methods and, of the one that is kept, of all rows."""
    of_each = [METHODS[name].trainings for name in names]
    return folds * sum(of_each) + max(of_each)


def cross_validate(bench: Bench, names: list[str], folds: int) -> Race:
    """Trains each method on all parts of the rows but one, in turn, and asks it about that one."""
    fold = folds_of(bench.run, bench.rows, folds)
    outputs = {name: np.empty((len(fold), bench.outputs_count), np.float32) for name in names}
    soups = {name: WeightSum() for name in names if METHODS[name].trains}
    bench.trainings_left = trainings(names, folds)
    for part in range(folds):
        others, held = np.flatnonzero(fold != part), np.flatnonzero(fold == part)
        if not len(held):
            continue
        for name in names:
            METHODS[name].fit(bench, others)
            outputs[name][held] = bench.outputs(held)
            if name in soups:
                soups[name].add(bench.run.model.network)
    return Race(best_method(bench.run.model.task, outputs, bench.labels), outputs, soups)


def best_method(task: Task, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> str:
    """The method that is kept, by what each says of the same rows, float32 (N, C).

    The first one, unless another is better beyond chance: in the main score, or in the loss while the score
    is not worse. In cross-validation the first is a single network of a part of the rows, which the mean of
    several will be better than. Losses are compared after a calibration on other rows: how sure a network is
    can be set afterwards.
    """
    names = list(outputs)
    best = names[0]
    for other in names[1:]:
        score = compare.main_change(task, outputs[best], outputs[other], labels)
        fair = [_calibrated(task, outputs[name], labels) for name in (best, other)]
        loss = compare.loss_change(task, fair[0], fair[1], labels)
        if score.low > 0 or (loss is not None and loss.high < 0 and score.value >= 0):
            best = other
    return best


def _calibrated(task: Task, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    found = cross_fitted(task, task.logits_of(outputs), labels)
    return outputs if found is None else found


def corrected_score(task: Task, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> float:
    """The main score of the kept method, corrected for its having been chosen on the same rows.

    The bootstrap bias correction of Tsamardinos et al. (2018, https://doi.org/10.1007/s10994-018-5714-4): in
    each resample the method that is best on its rows is scored on the rows that are not in it.
    """
    generator, N = np.random.default_rng(0), len(labels)
    scorers = [task.main_scorer(each, labels) for each in outputs.values()]
    found = []
    for _ in range(RESAMPLES):
        times = np.bincount(generator.integers(N, size=N), minlength=N).astype(np.float64)
        best = int(np.argmax([score(times) for score in scorers]))
        if (times == 0).any():
            found.append(scorers[best]((times == 0).astype(np.float64)))
    return float(np.nanmean(found))
