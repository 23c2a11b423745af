"""Two runs compared, and several seeds summed up, as text.

python -m lit_bert report checkpoints/version_0 checkpoints/version_1
"""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from lit_bert import RUNS, UserError
from lit_bert.data.writer import RowWriter
from lit_bert.evaluate import compare
from lit_bert.evaluate.predictions import VALIDATED, Predictions, label_text
from lit_bert.evaluate.scores import Score
from lit_bert.io import escape, files, untrusted
from lit_bert.io.texts import shown, text_cells

SEEDS = "seeds.json"  # in a folder of runs that differ in their seed alone: their names
MAX_SEEDS = 1000
LISTED_DISAGREEMENTS = 20  # rows that two runs label differently


def newest(file: str, root: Path = RUNS) -> Path:
    """The run, or the folder of seeds, with the newest predictions."""
    found = files.newest(root, file)
    if found is None:
        verb = Path(file).stem
        raise UserError(
            f"no {file} below {root.resolve()}: nothing was scored here yet. Run `python -m lit_bert "
            f"{'fit' if verb == 'validate' else verb}`, or name a run."
        )
    run = found.parent
    return run.parent if (run.parent / SEEDS).is_file() else run


def predictions_of(run: Path, file: str) -> Path:
    """The predictions meant by a run: its folder, a file in it, or predictions themselves."""
    if run.suffix == ".parquet":
        return run
    folder = run if run.is_dir() else run.parent
    if not run.exists():
        raise UserError(f"no run {run}; expected a folder that `python -m lit_bert fit` wrote.")
    if not (folder / file).is_file():
        command = f"python -m lit_bert {Path(file).stem} --ckpt_path {folder / 'best.ckpt'}"
        raise UserError(f"{folder} has no {file}; `{command}` writes it.")
    return folder / file


# --- several seeds ---


def seed_names(folder: Path) -> list[str]:
    """The names of the runs in a folder of seeds, each of a folder directly in it.

    Raises:
        UserError: seeds.json is damaged, or names something else.
    """
    names = untrusted.read_json(folder / SEEDS)
    if (
        not isinstance(names, list)
        or not 0 < len(names) <= MAX_SEEDS
        or len(set(map(repr, names))) < len(names)
    ):
        raise UserError(
            f"{folder / SEEDS} is no list of the names of up to {MAX_SEEDS:,} runs; name one run below "
            f"{folder}."
        )
    for name in names:
        plain = isinstance(name, str) and re.fullmatch(r"[\w-][\w.-]*", name)
        if not plain or (folder / name).is_symlink():
            raise UserError(
                f"{folder / SEEDS} names {escape.line(repr(name), 80)}; expected folders in {folder} such as "
                "seed_0. Name one run below it."
            )
    return [str(name) for name in names]


def seeds_table(folder: Path, file: str = VALIDATED) -> str:
    """The scores of each run of a folder of seeds, mean and spread, the ensemble, and common errors.

    The ensemble averages the probabilities of the runs. Rows to which every run gives one and the same other
    label are those that no further seed is likely to get right.
    """
    names = seed_names(folder)
    runs = {
        name: Predictions.read(folder / name / file) for name in names if (folder / name / file).is_file()
    }
    if not runs:
        raise UserError(f"no run below {folder} has {file}.")
    first = next(iter(runs.values()))
    for other in runs.values():
        first.check_same_rows(other)
    scores_of = {name: each.scores for name, each in runs.items()}
    together = first.with_outputs(np.mean([each.outputs for each in runs.values()], axis=0))
    ensemble = together.scores
    class_names = escape.names(first.class_names) if ensemble.by_class else []
    width = escape.width_of([*ensemble.titled(), *class_names, "mean"]) + 2
    heads = [*map(escape.line, runs), "mean", "st. dev.", "min", "max", "ensemble"]
    widths = [max(len(head), 7) + 2 for head in heads]
    lines = [
        f"split {_split(first)}, {len(first.labels):,} rows, {len(runs)} seeds",
        " " * width + "".join(f"{head:>{size}}" for head, size in zip(heads, widths, strict=True)),
    ]

    def add_row(title: str, values: list[float], of_ensemble: float) -> None:
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        row = [*values, statistics.fmean(values), spread, min(values), max(values), of_ensemble]
        cells = (f"{value:{size}.4f}" for value, size in zip(row, widths, strict=True))
        lines.append(escape.pad(title, width) + "".join(cells))

    for title, of_ensemble in ensemble.titled().items():
        add_row(title, [each.titled()[title] for each in scores_of.values()], of_ensemble)
    for index, (name, class_score) in enumerate(zip(class_names, ensemble.by_class, strict=True)):
        values = [value for each in scores_of.values() if (value := each.by_class[index]) is not None]
        if class_score is None:
            lines.append(escape.pad(name, width) + "  absent: no row has this label")
        else:
            add_row(name, values, class_score)
    best = max(scores_of, key=lambda name: scores_of[name].chosen_by)
    lines += ["", f"ensemble: the mean of what the runs say, at {len(runs)} times the cost"]
    found = [each.task.is_right(each.outputs, each.labels) for each in runs.values()]
    if right := [each for each in found if each is not None]:
        is_wrong = ~np.any(right, axis=0)
        alike = [(each.preds == first.preds).reshape(len(is_wrong), -1).all(1) for each in runs.values()]
        is_same = is_wrong & np.all(alike, axis=0)
        wrong, same = int(is_wrong.sum()), int(is_same.sum())
        lines.append(f"wrong in every run: {wrong:,} rows, {same:,} of them with one and the same answer")
    by = first.task.main_title
    lines += [*_notes(*runs.values()), f"best by {by} of this split: {escape.line(folder / best)}"]
    return "\n".join(lines)


# --- two runs ---


def comparison_table(first: Predictions, second: Predictions, names: list[str]) -> str:
    """The scores of both runs with their differences, and the rows that they label differently."""
    comparison = compare.compare(first.task, first.outputs, second.outputs, first.labels)
    before, after = first.scores, second.scores
    titles = [f"F1 {name}" for name in escape.names(first.class_names)] if before.by_class else []
    width = escape.width_of([*before.titled(), *titles]) + 2
    lines = [
        f"split {_split(first)}, {len(first.labels):,} rows",
        *(f"{order}: {escape.line(name)}" for order, name in zip(("first", "second"), names, strict=True)),
        "",
        f"{'':{width}}   first  second  second less first, 95 % paired bootstrap interval",
    ]
    rows: list[tuple[str, float | None, float | None, Score | None]] = [
        (title, before.titled()[title], after.titled()[title], difference)
        for title, difference in comparison.differences.titled().items()
    ]
    rows += zip(titles, before.by_class, after.by_class, comparison.differences.by_class, strict=True)
    for title, value_before, value_after, difference in rows:
        if difference is None:
            cells = "  absent: no row has this label"
        else:
            cells = (
                f"{value_before:8.4f}{value_after:8.4f}  {difference.value:+.4f}  "
                f"[{difference.low:+.4f}, {difference.high:+.4f}]"
            )
        lines.append(escape.pad(title, width) + cells)
    if comparison.p_value is not None:
        lines += [
            "",
            f"right by the first alone {comparison.only_first:,}, "
            f"by the second alone {comparison.only_second:,};",
            "if both erred equally often, counts at least this uneven would occur with "
            f"p = {comparison.p_value:.3g}",
            "(McNemar's exact test)",
        ]
    lines += _notes(first, second)
    disagreements = _disagreements(first, second)
    if len(disagreements):
        lines += [
            "",
            f"{len(disagreements):,} rows that they label differently"
            + f", the first {LISTED_DISAGREEMENTS}:" * (len(disagreements) > LISTED_DISAGREEMENTS),
        ]
    for index in disagreements[:LISTED_DISAGREEMENTS]:
        answers = [_shown_answer(each, index) for each in (first, second)]
        text = escape.line(shown(first.texts[index]), 100)
        label = label_text(first.task, first.labels[index])
        lines.append(f"  row {first.rows[index] + 1} is {label}: {' | '.join(answers)} | {text}")
    return "\n".join(lines)


def _shown_answer(predictions: Predictions, index: int) -> str:
    """What a row was taken for, and how sure that is where it is known."""
    shown = label_text(predictions.task, predictions.preds[index])
    if predictions.task.label_form == "number":
        return shown
    return f"{shown} {predictions.task.confidence(predictions.outputs[[index]])[0]:.2f}"


def _disagreements(first: Predictions, second: Predictions) -> np.ndarray:
    """Indices of the rows with different predictions, the surest first; of numbers the most different."""
    differ = (first.preds != second.preds).reshape(len(first.labels), -1).any(1)
    rows = np.flatnonzero(differ)
    if first.task.label_form == "number":
        return rows[np.argsort(-np.abs(first.preds - second.preds)[rows], kind="stable")]
    confidence = sum(each.task.confidence(each.outputs[rows]) for each in (first, second))
    return rows[np.argsort(-confidence, kind="stable")]


def write_disagreements(first: Predictions, second: Predictions, writer: RowWriter) -> None:
    """Writes all rows that two runs label differently, in the order of `_disagreements`."""
    with_probability = first.task.label_form != "number"
    cells = [each.task.stored_labels(each.preds) for each in (first, second)]
    labels = first.task.stored_labels(first.labels)
    sure = [each.task.confidence(each.outputs) for each in (first, second)]

    def row(index: int) -> dict[str, Any]:
        found: dict[str, Any] = {"row": int(first.rows[index]) + 1, "label": labels[index]}
        for place, name in enumerate(("first", "second")):
            found[name] = cells[place][index]
            if with_probability:
                found[f"probability_{name}"] = round(float(sure[place][index]), 6)
        return {**found, **text_cells(first.texts[index])}

    writer.write(row(index) for index in _disagreements(first, second))


def _split(predictions: Predictions) -> str:
    return escape.line(predictions.facts.get("split"), 60)


def _notes(*runs: Predictions) -> list[str]:
    """What a reader has to know of the rows, said once for runs of which the same holds."""
    notes = []
    for run in runs:
        notes += run.evidence.notes(run.intervals)
    return list(dict.fromkeys(notes))
