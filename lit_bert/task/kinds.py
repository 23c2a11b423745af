"""The table of kinds of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lit_bert import UserError
from lit_bert.io import escape
from lit_bert.task.base import Parameters, Task
from lit_bert.task.multi_label import MultiLabel
from lit_bert.task.ordinal import Ordinal
from lit_bert.task.proportion import Proportion
from lit_bert.task.regression import Regression
from lit_bert.task.single import SingleLabel

KINDS: dict[str, type[Task]] = {
    each.kind: each for each in (SingleLabel, MultiLabel, Ordinal, Regression, Proportion)
}
CONFIG_KEY = "lit_bert_task"  # of an exported folder's config.json: kinds may share a problem_type
PARAMETERS_KEY = "lit_bert_task_parameters"  # likewise
FILES_KEY = "lit_bert_file_parameters"  # of it, too: what each file guarantees, by its name
LONG_TEXTS_KEY = "lit_bert_long_texts"  # of it, too: what is done with them, as data.windows has it


def summaries() -> str:
    """Every kind by its name, with what each text has."""
    return "; ".join(f"`{name}`, {kind.summary}" for name, kind in KINDS.items())


def kind_of(name: str) -> type[Task]:
    """The kind of that name.

    Raises:
        UserError: there is none.
    """
    if name not in KINDS:
        raise UserError(
            f"the task is '{escape.line(name, 60)}'; expected {' or '.join(KINDS)}. Set it with --data.task."
        )
    return KINDS[name]


def check_balancing(kind: type[Task], setting: str) -> None:
    """Raises a UserError where a setting for rare classes means nothing to a kind of task.

    Args:
        setting: its flag, without the dashes.
    """
    name = setting.partition(".")[2]
    if name not in kind.balancing:
        able = [each.kind for each in KINDS.values() if name in each.balancing]
        raise UserError(
            f"--{setting} is set, and the task is {kind.kind}; expected {' or '.join(able)}. Leave it out."
        )


def task_of(kind: str, class_names: Sequence[str], parameters: Parameters | None = None) -> Task:
    """The task of a kind with these classes and parameters.

    Raises:
        UserError: there is no such kind, or it has no such parameters.
    """
    try:
        return kind_of(kind).of(class_names, parameters)
    except ValueError as error:
        raise UserError(f"the parameters of the task do not fit: {error}.") from None


def task_of_config(config: Mapping[str, Any], class_names: Sequence[str], file: str | None = None) -> Task:
    """The task of the config.json of an exported folder.

    One that says no kind, as older ones and those of other tools, has the first of the table with its
    problem_type and as few classes; one without that has one label a text, as for transformers.

    Args:
        file: that is run: what it guarantees belongs to its own outputs alone.

    Raises:
        UserError: there is no such kind or type, or the two do not belong together.
    """
    problem_type = config.get("problem_type") or SingleLabel.problem_type
    of_type = {name: kind for name, kind in KINDS.items() if kind.problem_type == problem_type}
    if not of_type:
        known = dict.fromkeys(each.problem_type for each in KINDS.values())
        raise UserError(
            f"the problem_type of config.json is '{escape.line(problem_type, 60)}'; expected "
            f"{' or '.join(known)}."
        )
    fitting = (name for name, kind in of_type.items() if kind.fewest_classes <= len(class_names))
    kind = config.get(CONFIG_KEY) or next(fitting, next(iter(of_type)))
    if not isinstance(kind, str) or kind not in of_type:
        raise UserError(
            f"the {CONFIG_KEY} of config.json is '{escape.line(kind, 60)}'; expected {' or '.join(of_type)}, "
            f"as its problem_type is '{problem_type}'."
        )
    parameters, by_file = config.get(PARAMETERS_KEY) or {}, config.get(FILES_KEY)
    if file is None or by_file is None:
        return task_of_plain(kind, class_names, parameters)
    own = by_file.get(file) if isinstance(by_file, dict) else None
    if not isinstance(own, dict) or not isinstance(parameters, dict):
        raise UserError(f"the {FILES_KEY} of config.json do not say what {file} guarantees.")
    return task_of_plain(kind, class_names, {**parameters, **own})


def task_of_plain(kind: str, class_names: Sequence[str], parameters: Any) -> Task:
    """`task_of`, of what JSON of a stranger has for parameters.

    Raises:
        UserError: they do not fit, or the kind needs more classes.
    """
    if not isinstance(parameters, dict) or not all(
        isinstance(values, list) and all(type(each) in (int, float) for each in values)
        for values in parameters.values()
    ):
        raise UserError("the parameters of the task are no lists of numbers by name.")
    found = task_of(kind, class_names, parameters)
    if (count := len(class_names)) < found.fewest_classes:
        raise UserError(
            f"a task of kind {kind} with {count} class{'es' * (count != 1)}; expected at least "
            f"{found.fewest_classes}."
        )
    return found
