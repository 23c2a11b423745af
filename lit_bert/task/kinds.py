"""The table of kinds of tasks."""

from __future__ import annotations

from collections.abc import Sequence

from lit_bert import UserError
from lit_bert.io import escape
from lit_bert.task.base import Task
from lit_bert.task.single import SingleLabel

KINDS: dict[str, type[Task]] = {each.kind: each for each in (SingleLabel,)}


def task_of(kind: str, class_names: Sequence[str]) -> Task:
    """The task of a kind with these classes.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in KINDS:
        raise UserError(
            f"the task is '{escape.line(kind, 60)}'; expected {' or '.join(KINDS)}. Set it with --data.task."
        )
    return KINDS[kind].of(class_names)


def task_of_problem(problem_type: str | None, class_names: Sequence[str]) -> Task:
    """The task of a config.json as transformers writes it; one label a text where it names no type.

    Raises:
        UserError: there is no kind for that type.
    """
    by_type: dict[str, type[Task]] = {}
    for each in KINDS.values():
        by_type.setdefault(each.problem_type, each)  # the first kind of a type is what it means by itself
    found = by_type.get(problem_type or SingleLabel.problem_type)
    if found is None:
        raise UserError(
            f"the problem_type of config.json is '{escape.line(problem_type, 60)}'; expected "
            f"{' or '.join(by_type)}."
        )
    return found.of(class_names)
