"""Evaluation that can be trusted: one run's errors, two runs compared, several seeds summed up.

Works from the predictions that `fit`, `validate` and `test` keep beside a checkpoint.

    python -m lit_bert report checkpoints/version_0 checkpoints/version_1
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from pathlib import Path

import numpy as np

from lit_bert import RUNS, UserError, escape, scores
from lit_bert.arguments import Parser
from lit_bert.predictions import TESTED, VALIDATED, Predictions
from lit_bert.scores import Score

SEEDS = "seeds.json"  # in a folder of runs that differ in their seed alone: their names
SHOWN_TEXTS = 20  # where two runs part


def report(arguments: list[str]) -> int:
    """The verb."""
    parser = Parser(
        "python -m lit_bert report",
        description="One run: an HTML page with its scores, errors and suspected label errors. Two runs: "
        "their differences on the same rows. A folder of `fit --seeds`: mean, spread and every run.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, help="one or two folders of runs; none is the newest fit"
    )
    parser.add_argument(
        "--split", choices=("validate", "test"), default="validate", help="the verb whose predictions to read"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="one run: the page (RUN/report.html); two: a CSV of the rows where they part",
    )
    args = parser.parse_args(arguments)
    if len(args.runs) > 2:
        parser.error(f"got {len(args.runs)} runs; expected one or two")
    file = VALIDATED if args.split == "validate" else TESTED
    runs = args.runs or [newest(file)]
    seeds = [run for run in runs if (run / SEEDS).is_file()]
    if seeds and len(runs) > 1:
        raise UserError(f"{seeds[0]} holds several runs; name one of them, as in {seeds[0] / 'seed_0'}.")
    if seeds:
        print(seeds_table(seeds[0], file))
    elif len(runs) == 2:
        first, second = (Predictions.read(predictions_of(run, file)) for run in runs)
        first.check_same_rows(second)
        print(comparison_table(first, second, names=[str(run) for run in runs]))
        if args.output:
            write_parting(first, second, args.output)
    else:
        from lit_bert.error_report import write_page

        print(write_page(predictions_of(runs[0], file), args.output))
    return 0


def newest(file: str, root: Path = RUNS) -> Path:
    """The run, or the folder of seeds, with the newest predictions."""
    found = sorted(root.glob(f"**/{file}"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        verb = Path(file).stem
        raise UserError(
            f"no {file} below {root.resolve()}: nothing was scored here yet. Run `python -m lit_bert "
            f"{'fit' if verb == 'validate' else verb}`, or name a run."
        )
    run = found[-1].parent
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


def seeds_table(folder: Path, file: str = VALIDATED) -> str:
    """Every run of a folder of seeds, mean and spread, what they score together, and where none is right.

    Together is the average of their probabilities: what an ensemble of them would reach. Rows to which every
    run gives one and the same other label are those that no further seed is likely to get right.
    """
    try:
        names = json.loads((folder / SEEDS).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{folder / SEEDS} is not JSON ({error}); name one run below {folder}.") from None
    runs = {
        name: Predictions.read(folder / name / file) for name in names if (folder / name / file).is_file()
    }
    if not runs:
        raise UserError(f"no run below {folder} has {file}.")
    first = next(iter(runs.values()))
    for other in runs.values():
        first.check_same_rows(other)
    found = {
        name: scores.all_scores(each.probs, each.labels, each.class_names) for name, each in runs.items()
    }
    average = np.mean([each.probs for each in runs.values()], axis=0)
    together = scores.all_scores(average, first.labels, first.class_names)
    columns = {**scores.MAIN, **scores.by_class(together)}
    width = max(map(len, [*columns, "mean"])) + 2
    heads = [*runs, "mean", "st. dev.", "least", "most", "together"]
    widths = [max(len(head), 7) + 2 for head in heads]
    lines = [
        f"split {first.facts.get('split')}, {len(first.labels):,} rows, {len(runs)} seeds",
        " " * width + "".join(f"{head:>{size}}" for head, size in zip(heads, widths, strict=True)),
    ]
    for shown, name in columns.items():
        values = [each[name] for each in found.values()]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        row = [*values, statistics.fmean(values), spread, min(values), max(values), together[name]]
        cells = (f"{value:{size}.4f}" for value, size in zip(row, widths, strict=True))
        lines.append(f"{shown:{width}}" + "".join(cells))
    best = max(found, key=lambda name: found[name]["f1"])
    preds = np.array([each.probs.argmax(1) for each in runs.values()])  # (runs, N)
    wrong = (preds != first.labels).all(0)
    agreed = wrong & (preds == preds[0]).all(0)
    lines += [
        "",
        "together: the runs' probabilities averaged, at as many times the cost",
        f"wrong in every run: {wrong.sum():,} rows, {agreed.sum():,} of them with one and the same label",
        f"best by macro F1 of this split: {folder / best}",
    ]
    return "\n".join(lines)


# --- two runs ---


def comparison_table(first: Predictions, second: Predictions, names: list[str]) -> str:
    """What the second run has over the first, and the most confident of the texts where they part."""
    found = scores.compare(first.probs, second.probs, first.labels, first.class_names)
    own = [scores.all_scores(each.probs, each.labels, each.class_names) for each in (first, second)]
    rows = {**scores.MAIN, **{f"F1 {name}": score for name, score in scores.by_class(own[0]).items()}}
    width = max(map(len, rows)) + 2
    lines = [
        f"split {first.facts.get('split')}, {len(first.labels):,} rows",
        *(f"{order}: {name}" for order, name in zip(("first", "second"), names, strict=True)),
        "",
        f"{'':{width}}   first  second  second less first, 95 % paired bootstrap interval",
    ]
    for shown, name in rows.items():
        difference: Score = found.differences[name]
        lines.append(
            f"{shown:{width}}{own[0][name]:8.4f}{own[1][name]:8.4f}  {difference.value:+.4f}  "
            f"[{difference.low:+.4f}, {difference.high:+.4f}]"
        )
    lines += [
        "",
        f"right by the first alone {found.only_first:,}, by the second alone {found.only_second:,}; counts",
        f"at least so uneven come up with p = {found.p_value:.3g} if both are as good (McNemar's exact test)",
    ]
    parting = _parting(first, second)
    if len(parting):
        lines += [
            "",
            f"{len(parting):,} rows where they part"
            + f", the first {SHOWN_TEXTS}:" * (len(parting) > SHOWN_TEXTS),
        ]
    class_names = first.class_names
    for index in parting[:SHOWN_TEXTS]:
        says = (f"{class_names[each.preds[index]]} {each.probs[index].max():.2f}" for each in (first, second))
        text = " ".join(first.texts[index].split())[:100]
        label = class_names[first.labels[index]]
        lines.append(f"  row {first.rows[index] + 1} is {label}: {' | '.join(says)} | {text}")
    return "\n".join(lines)


def _parting(first: Predictions, second: Predictions) -> np.ndarray:
    """Indices of the rows with different predictions, those first about which the two are surest."""
    rows = np.flatnonzero(first.preds != second.preds)
    sure = first.probs[rows].max(1) + second.probs[rows].max(1)
    return rows[np.argsort(-sure, kind="stable")]


def write_parting(first: Predictions, second: Predictions, path: Path) -> None:
    """A CSV of all rows where two runs part."""
    names = first.class_names
    try:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(
                ["row", "label", "first", "probability_first", "second", "probability_second", "text"]
            )
            for index in _parting(first, second):
                cells = [
                    (names[each.preds[index]], f"{each.probs[index].max():.6f}") for each in (first, second)
                ]
                row = [first.rows[index] + 1, names[first.labels[index]], *cells[0], *cells[1]]
                row.append(first.texts[index])
                writer.writerow([escape.spreadsheet(cell) if isinstance(cell, str) else cell for cell in row])
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}. Choose another --output.") from None
    print(f"{path} has all of them", file=sys.stderr)
