"""An old model and the one that was trained from it, on the same rows: what got better and what got worse.

Their classes may differ: rows whose class both know are compared apart from all rows. Both are compared by
their answers, as each gives them, with its thresholds and costs.

    python -m lit_bert fit --from checkpoints/version_0/best.ckpt --data.dataset more.csv
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lit_bert.evaluate.compare import compare, mcnemar
from lit_bert.evaluate.scores import LEVEL, all_scores, bootstrap, interval
from lit_bert.evaluate.shift_tests import holm
from lit_bert.io import escape
from lit_bert.task.base import Task
from lit_bert.task.kinds import task_of

MOST_SHOWN = escape.NAME_WIDTH + len("F1 ")  # characters of a name of a score
UPDATE = "update.json"  # beside a checkpoint: how it compares with the model that it was trained from


class Side(NamedTuple):
    """A model, and what it says of the rows, float32 (N, C)."""

    task: Task
    outputs: np.ndarray


def class_union(old: Task, new: Task) -> list[str]:
    """The classes of the new model, then those that it has no longer."""
    return [*new.class_names, *(name for name in old.class_names if name not in new.class_names)]


def compare_models(old: Side, new: Side, labels: np.ndarray) -> dict[str, Any]:
    """How both do, as plain values.

    Args:
        labels: of the rows, as the new model's task stores them.

    Returns:
        `parts`: rows whose classes both know, and where these are not all, all rows; each with `title`,
        `rows`, `scores` (name, old, new, difference, low, high), `p_value` (None of numbers) and the `better`
        and `worse` classes.
    """
    if new.task.label_form == "number":
        return {"parts": [_part("all rows", new.task, (old.outputs, new.outputs), labels)]}
    names = class_union(old.task, new.task)
    task = task_of(new.task.kind, names)
    answers = tuple(_answers(each, names) for each in (old, new))
    if task.label_form == "classes":
        labels = _spread(labels, new.task.class_names, names).astype(np.uint8)
        has = labels.astype(bool)
    else:
        has = np.eye(len(names), dtype=bool)[labels]
    unknown = [place for place, name in enumerate(names) if name not in old.task.class_names]
    both = ~has[:, unknown].any(1)
    parts = []
    if both.any() and not both.all():
        some = tuple(each[both] for each in answers)
        parts.append(_part("rows whose classes both know", task, some, labels[both]))
    return {"parts": [*parts, _part("all rows", task, answers, labels)]}


def _answers(side: Side, names: Sequence[str]) -> np.ndarray:
    """1 for each class that is answered, else 0: float32 (N, C)."""
    found = side.task.predictions(side.outputs)
    if side.task.label_form == "class":
        found = np.eye(len(side.task.class_names))[found]
    return _spread(found, side.task.class_names, names).astype(np.float32)


def _spread(values: np.ndarray, own: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Values of classes (N, C) in the columns of more classes; 0 of the others."""
    whole = np.zeros((len(values), len(names)))
    whole[:, [names.index(name) for name in own]] = values
    return whole


def _part(title: str, task: Task, sides: tuple[np.ndarray, ...], labels: np.ndarray) -> dict[str, Any]:
    found = compare(task, sides[0], sides[1], labels)
    before, after = (all_scores(task, each, labels) for each in sides)
    main = [before.chosen_by, after.chosen_by, *found.differences.chosen_by]
    if task.main == "macro_f1":
        main = _mean_f1(task, sides, labels)
    scores: list[list[Any]] = [[task.main_title, *main]]
    better, worse = [], []
    if task.label_form != "number":
        by_class = zip(
            task.class_names, before.by_class, after.by_class, found.differences.by_class, strict=True
        )
        known = {
            name: (old, new, change) for name, old, new, change in by_class if old is not None and change
        }
        scores += [[f"F1 {name}", old, new, *change] for name, (old, new, change) in known.items()]
        changes = class_changes(task, sides, labels, list(known))
        better = [name for name, (gained, lost, p) in changes.items() if p <= 1 - LEVEL and gained > lost]
        worse = [name for name, (gained, lost, p) in changes.items() if p <= 1 - LEVEL and gained < lost]
    return {
        "title": title,
        "rows": len(labels),
        "scores": [[name, *(float(each) for each in values)] for name, *values in scores],
        "p_value": found.p_value,
        "better": better,
        "worse": worse,
    }


def _mean_f1(task: Task, sides: tuple[np.ndarray, ...], labels: np.ndarray) -> list[float]:
    """Mean F1 of the classes that the rows have: old, new, and the difference with its interval.

    A class that one model alone knows, and answers for a row of another class, would else be one more class,
    with F1 of 0, in the mean of that model only.
    """
    C, place = len(task.class_names), task.class_scores.index("f1")
    start = len(task.scores) + C * place
    scorers = [task.scorer(each, labels) for each in sides]

    def means(times: np.ndarray) -> np.ndarray:
        found = (score(times)[start : start + C] for score in scorers)
        return np.array([each[~np.isnan(each)].mean() if not np.isnan(each).all() else 0.0 for each in found])

    old, new = means(np.ones(len(labels))).tolist()
    resampled = bootstrap(means, len(labels))
    return [old, new, *interval(new - old, resampled[:, 1] - resampled[:, 0])]


def class_changes(
    task: Task, sides: tuple[np.ndarray, ...], labels: np.ndarray, names: Sequence[str]
) -> dict[str, tuple[int, int, float]]:
    """Of some classes, the rows on which only the new model answers the class, or not, as it should; those on
    which only the old one does; and the p-value of McNemar's test that these are equally many, after Holm.
    """
    has = labels.astype(bool) if labels.ndim == 2 else np.eye(len(task.class_names), dtype=bool)[labels]
    old, new = ((each > 0.5) == has for each in sides)
    places = [task.class_names.index(name) for name in names]
    gained, lost = (each.sum(0)[places].tolist() for each in (new & ~old, old & ~new))
    p_values = holm([mcnemar(*each) for each in zip(gained, lost, strict=True)]).tolist()
    return dict(zip(names, zip(gained, lost, p_values, strict=True), strict=True))


def update_lines(said: dict[str, Any]) -> list[str]:
    """A comparison as text."""
    lines = []
    for part in said["parts"]:
        names = escape.names([name for name, *_ in part["scores"]], MOST_SHOWN)
        width = escape.width_of(names) + 2
        lines += ["", f"{part['title']}: {part['rows']:,}; in brackets 95 % paired bootstrap intervals"]
        lines.append(f"{'':{width}}     old     new  new less old")
        for name, (_, old, new, change, low, high) in zip(names, part["scores"], strict=True):
            cells = f"{old:8.4f}{new:8.4f}  {change:+.4f} [{low:+.4f}, {high:+.4f}]"
            lines.append(escape.pad(name, width) + cells)
        lines += verdicts(part)
    return lines + [f"note: {note}" for note in said["notes"]]


def verdicts(part: dict[str, Any]) -> list[str]:
    """What a part of a comparison comes to, a sentence each."""
    if part["p_value"] is None:
        return []
    lines = [f"McNemar's exact test that both err equally often: p = {part['p_value']:.3g}"]
    for which in ("better", "worse"):
        names = ", ".join(escape.names(part[which])) or "no class"
        lines.append(f"{which}: {names}")
    return [
        *lines,
        "better and worse are classes beyond chance, by McNemar's test of each, after Holm at 5 %",
    ]
