"""What the answer is where a run says so: by costs, by a wanted rate, or none, with a guarantee.

python -m lit_bert fit --guarantee accuracy=0.98
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lit_bert import UserError
from lit_bert.data.splits import KEPT_SHARE
from lit_bert.evaluate.predictions import Predictions
from lit_bert.evaluate.scores import wilson
from lit_bert.io import escape
from lit_bert.io.untrusted import read_text
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.task import guarantee
from lit_bert.task.base import Task
from lit_bert.task.decisions import COSTS, MOST_CLASSES, WANTED, chosen_point
from lit_bert.task.guarantee import BY_CLASS, Labelled
from lit_bert.train.candidates import predictions_with
from lit_bert.train.checkpoint_io import set_task_parameters
from lit_bert.train.run import FitRun

GUARANTEED = "guarantee.parquet"  # beside the checkpoint: the rows of a guarantee, for the export
RATES = ("precision", "recall")
HALVES = 2  # of the validation rows, each of which is decided by the other


# --- before the training ---


def apply_decisions(config: Any, is_resumed: bool) -> None:
    """Reads the file of costs, sets which rows a guarantee is given by, and refuses what does not fit.

    Args:
        config: the settings of the run, read and written by dotted names.

    Raises:
        UserError: a setting is none, or belongs to one that is missing.
    """
    if config["costs"] is not None and config["want"] is not None:
        raise UserError("got --costs and --want; expected one of them, as each decides on its own.")
    if isinstance(config["costs"], str):
        config["costs"] = read_costs(Path(config["costs"]))
    if config["want"] is not None:
        parse_want(config["want"])
    rows = config["data.guarantee_split"] is not None or config["data.guarantee_fraction"] is not None
    if config["guarantee"] is None:
        if rows:
            raise UserError("data.guarantee_split and data.guarantee_fraction are for --guarantee; add it.")
        return
    guarantee.parse(config["guarantee"])
    if config["data.group_column"] is not None:
        raise UserError(
            "got --guarantee and --data.group_column; rows of one group are not independent, which the "
            "bounds need. Leave one of them out."
        )
    if not rows and is_resumed:
        raise UserError(
            "--guarantee needs rows that the run which goes on has not seen; it kept none. Name a split of "
            "them with --data.guarantee_split, or start a new run."
        )
    if not rows:
        config["data.guarantee_fraction"] = KEPT_SHARE


def read_costs(path: Path) -> dict[str, dict[str, float]]:
    """What it costs to answer a class, of each true one: of a CSV file with their names at both edges.

    Raises:
        UserError: it is something else.
    """
    where = f"--costs {escape.line(path)}"
    try:
        lines = [line for line in csv.reader(read_text(path).removeprefix("\ufeff").splitlines()) if line]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{where} is no CSV file ({escape.line(error, 100)}).") from None
    expected = "expected a first row with the classes that may be answered, and a row of costs for each class"
    if len(lines) < 2 or len(lines[0]) < 2:
        raise UserError(f"{where} has {len(lines)} rows; {expected}.")
    answers = [name.strip() for name in lines[0][1:]]
    costs: dict[str, dict[str, float]] = {}
    for number, (name, *cells) in enumerate(lines[1:], 2):
        if len(cells) != len(answers) or name.strip() in costs or len(set(answers)) < len(answers):
            raise UserError(f"{where}, row {number}, has {len(cells)} costs or a class twice; {expected}.")
        costs[name.strip()] = dict(zip(answers, (_cost(cell, where, number) for cell in cells), strict=True))
    return costs


def _cost(cell: str, where: str, number: int) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(f"{where}, row {number}: '{escape.line(cell, 60)}'; expected a number of 0 or more.")
    return value


def cost_matrix(costs: Mapping[str, Mapping[str, float]], class_names: list[str]) -> np.ndarray:
    """The costs in the order of the classes, float64 (C, C).

    Raises:
        UserError: the classes are others.
    """
    wanted = set(class_names)
    for names in (costs, *costs.values()):
        if odd := set(names) ^ wanted:
            name = escape.line(min(odd), 60)
            what = "has no" if min(odd) in wanted else "has an unknown"
            raise UserError(
                f"--costs {what} class '{name}'; expected a row and a column for each of "
                f"{', '.join(escape.names(class_names[:10]))}{', …' * (len(class_names) > 10)}."
            )
    return np.array([[costs[true][answer] for answer in class_names] for true in class_names])


def parse_want(said: str) -> tuple[str, bool, float]:
    """The class, whether its recall is meant, and the rate, of `spam:precision=0.95`.

    Raises:
        UserError: it says something else.
    """
    name, _, wanted = said.rpartition(":")
    which, _, rate = wanted.partition("=")
    try:
        value = float(rate)
    except ValueError:
        value = 0.0
    if not name or which not in RATES or not 0 < value < 1:
        raise UserError(
            f"--want is '{escape.line(said, 100)}'; expected a class, {' or '.join(RATES)} and a rate "
            "between 0 and 1, as in spam:precision=0.95."
        )
    return name, which == "recall", value


def check_decisions(run: FitRun) -> None:
    """Raises a UserError where task or rows do not allow what the settings ask for."""
    settings, task = run.settings, run.model.task
    if settings["costs"] is not None or settings["want"] is not None:
        flag = "--costs" if settings["costs"] is not None else "--want"
        if task.label_form != "class" or (flag == "--want" and task.is_ordered):
            raise UserError(
                f"{flag} is for one label a text{' without an order' * (flag == '--want')}; the task "
                f"is {task.kind}. Leave it out."
            )
        _decision(settings, task)
    if settings["guarantee"] is None:
        return
    if run.trainer.world_size > 1:
        raise UserError("--guarantee is given on one device; add --trainer.devices 1.")
    if repr(run.trainer.limit_val_batches) != "1.0":  # 1 is one batch
        raise UserError("--guarantee is by all rows kept for it; leave --trainer.limit_val_batches out.")
    if settings["checkpoint"]["monitor"] is None:
        raise UserError("--guarantee is of the best checkpoint, and checkpoint.monitor is null; set it.")
    wanted = guarantee.parse(settings["guarantee"])
    rows = run.data.splits.guarantee_rows()
    for name, rate in wanted.items():
        if name not in task.guarantees:
            expected = " or ".join(task.guarantees)
            raise UserError(f"--guarantee has {name}, and the task is {task.kind}; expected {expected}.")
        fewest = guarantee.fewest_rows(name, rate)
        counts = {"": len(rows)}
        if name == BY_CLASS:
            counts = dict(zip(task.class_names, task.label_counts(rows.labels), strict=True))
        label, count = min(counts.items(), key=lambda item: item[1])
        if count < fewest:
            of_class = f" of class '{escape.line(label, 60)}'" * bool(label)
            raise UserError(
                f"--guarantee {name}={rate:g} needs at least {fewest:,} rows{of_class} that serve nothing "
                f"else, and there are {count:,}. Keep more with --data.guarantee_fraction or "
                "--data.guarantee_split, or ask for a lower rate."
            )


def _decision(settings: Mapping[str, Any], task: Task) -> None:
    """Raises a UserError where costs or a wanted class are not those of the task."""
    if settings["costs"] is not None:
        if len(task.class_names) > MOST_CLASSES:
            raise UserError(
                f"--costs is for at most {MOST_CLASSES} classes; there are {len(task.class_names):,}."
            )
        cost_matrix(settings["costs"], list(task.class_names))
    if settings["want"] is not None:
        name = parse_want(settings["want"])[0]
        if name not in task.class_names:
            raise UserError(
                f"--want has the class '{escape.line(name, 60)}'; expected one of "
                f"{', '.join(escape.names(task.class_names[:10]))}{', …' * (len(task.class_names) > 10)}."
            )


# --- after the training ---


def decide(
    run: FitRun, checkpoint: Checkpoint, predictions: Predictions
) -> tuple[Checkpoint, Predictions, UserError | None]:
    """Has the best checkpoint answer as the settings say: by costs, by a wanted rate, with a guarantee.

    Returns:
        It as it is then; the validation rows with the task as it is then and the fact `decision`; and why no
        threshold reaches what is wanted, if none does.
    """
    settings, plain = run.settings, predictions.task.without_guarantees()
    kept = {name: each for name, each in plain.parameters.items() if name not in (COSTS, WANTED)}
    task: Any = replace(plain, parameters=kept)
    said, fact, refused, rows = settings["guarantee"], None, None, None
    validated = Labelled(predictions.outputs, predictions.labels)
    try:
        if settings["costs"] is not None:
            task, fact = by_costs(task, settings["costs"], validated)
        if settings["want"] is not None:
            task, fact = by_rate(task, settings["want"], validated)
        if said is not None:
            rows, _ = predictions_with(run, checkpoint.state_dict, run.data.splits.guarantee_rows())
            assert rows is not None
            task = guaranteed(task, said, Labelled(rows.outputs, rows.labels), validated)
    except UserError as error:
        refused = error
    if task.parameters != checkpoint.task.parameters:
        checkpoint = set_task_parameters(checkpoint, task.parameters)
    if rows is not None and refused is None:
        rows = replace(rows, task=task).with_facts(sha256=checkpoint.sha256, guarantee=said)
        rows.write(checkpoint.run / GUARANTEED)
    return checkpoint, replace(predictions, task=task).with_facts(decision=fact), refused


def guaranteed(task: Any, said: str, rows: Labelled, validated: Labelled, what: str = "") -> Any:
    """The task with the guarantees that `--guarantee` asks for.

    Args:
        what: gave the outputs, where it is not the checkpoint.

    Raises:
        UserError: the rows do not give one.
    """
    parameters = {}
    for name, rate in guarantee.parse(said).items():
        found = task.guarantee(name, rate, rows, validated)
        if found is None:
            reached = ""
            if name == guarantee.ACCURACY:
                right = guarantee.tenths(task.is_right(rows.outputs, rows.labels).mean())
                reached = f", of which {right} are right"
            left = "" if what else "; the checkpoint is there, without a guarantee"
            raise UserError(
                f"--guarantee {name}={rate:g}: no threshold{what} reaches it on the {len(rows.labels):,} "
                f"rows kept for it{reached}. Ask for a lower rate, or keep more rows with "
                f"--data.guarantee_fraction{left}."
            )
        parameters[name] = guarantee.packed(found)
    return task.with_parameters(**parameters)


def by_costs(task: Any, costs: Mapping[str, Any], rows: Labelled) -> tuple[Any, dict[str, Any]]:
    """The task that answers by the least expected cost, and what that comes to on rows."""
    matrix = cost_matrix(costs, list(task.class_names))
    found = task.with_parameters(costs=matrix.ravel().tolist())
    before, after = (matrix[rows.labels, each.predictions(rows.outputs)].mean() for each in (task, found))
    return found, {"costs": {"before": float(before), "after": float(after), "rows": len(rows.labels)}}


def by_rate(task: Any, said: str, rows: Labelled) -> tuple[Any, dict[str, Any]]:
    """The task with the threshold of a class that reaches a rate on rows, and what it comes to.

    Raises:
        UserError: none does.
    """
    name, is_recall, rate = parse_want(said)
    place = task.class_names.index(name)
    scores, has = rows.outputs[:, place], rows.labels == place
    point = chosen_point(rate, is_recall, scores, has)
    if point is None or not has.any():
        raise UserError(
            f"--want {escape.line(said, 100)}: no threshold reaches it on the {len(has):,} validation rows, "
            f"of which {has.sum():,} have the class. Ask for less; the checkpoint is there, without a "
            "threshold."
        )
    halves = np.array_split(np.random.default_rng(0).permutation(len(has)), HALVES)
    given = np.zeros(len(has), bool)
    for here, there in (halves, halves[::-1]):
        other = chosen_point(rate, is_recall, scores[there], has[there])
        given[here] = scores[here] >= other.threshold if other else False
    fact = {
        "class": name,
        "which": RATES[is_recall],
        "rate": rate,
        "threshold": point.threshold,
        "chosen": _rates(scores >= point.threshold, has),
        "other_rows": _rates(given, has),
        "rows": len(has),
    }
    return task.with_parameters(wanted=[place, point.threshold, rate, is_recall]), {"wanted": fact}


def _rates(given: np.ndarray, has: np.ndarray) -> dict[str, list[float] | None]:
    """Precision and recall, each with its 95 % interval of Wilson; None of no rows."""
    found = {}
    for which, of in zip(RATES, (given, has), strict=True):
        hits, count = np.array([(given & has).sum()]), np.array([of.sum()])
        low, high = wilson(hits, count)
        found[which] = [float(hits[0] / count[0]), float(low[0]), float(high[0])] if count[0] else None
    return found
