"""What `drift` found, in words, for the terminal and the report. numpy only.

python -m lit_bert drift checkpoints/version_0/best.ckpt new.csv
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lit_bert.evaluate.drift import TITLES, Finding
from lit_bert.evaluate.drift_files import Statistics
from lit_bert.task.base import Task
from lit_bert.task.guarantee import percent

FOUND = "drift_found.json"  # beside a checkpoint: what it was last compared with, for its report


def broken_promises(task: Task) -> list[str]:
    """What is no longer promised of a model where the texts have changed, a sentence each."""
    return [
        f"the promise {name}={each.rate:g} is off: the texts are not like those it was found on"
        for name, each in task.promises.items()
    ]


def drift_lines(statistics: Statistics, found: Sequence[Finding], rate: float, task: Task) -> list[str]:
    """What became of each thing that was compared, and what follows, a line each."""
    moved = [each for each in found if each.p_value <= rate]
    rows, now = statistics.reference.sketch.rows, statistics.sketch.rows
    wrong = f"if nothing has changed, this would be said in at most {percent(rate)} of comparisons"
    lines = [
        f"compared   {now:,} texts with {rows:,} of the validation split",
        f"drift      {'found: ' + wrong if moved else 'none found beyond chance'}",
    ]
    if not statistics.reference.has_answers:
        lines.append("           texts alone: the answers to the validation rows were cross-validated")
    width = max(len(TITLES[each.name]) for each in found) + 2
    for each in found:
        sign = "moved" if each.p_value <= rate else "same"
        lines.append(
            f"{sign:11}{TITLES[each.name]:{width}}{each.effect} "
            f"(distance {each.distance:.2f}, p = {each.p_value:.2g})"
        )
    return lines + [f"promise    {each}" for each in broken_promises(task)] * bool(moved)


def found_as_dict(
    statistics: Statistics, found: Sequence[Finding], rate: float, task: Task, places: Sequence[str]
) -> dict[str, Any]:
    """The same as plain values, with the files that were compared."""
    moved = any(each.p_value <= rate for each in found)
    return {
        "checkpoint": statistics.reference.facts.get("checkpoint"),
        "files": list(places),
        "texts": statistics.sketch.rows,
        "rows": statistics.reference.sketch.rows,
        "rate": rate,
        "drift": moved,
        "findings": [each._asdict() for each in found],
        "promises": broken_promises(task) if moved else [],
    }
