"""The error report of a run: a single HTML file that loads no external resources.

Predictions in, page out. This module works out what the page shows, as plain values; page.jinja is its markup
with tables and diagrams, page.css its style, page.js the lists of texts. The texts travel as JSON, and the
script shows them as text, never as HTML: whatever a text holds, it cannot become part of the page.

    python -m lit_bert report checkpoints/version_0
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from lit_bert import UserError, __version__, require_package
from lit_bert.evaluate import scores
from lit_bert.evaluate.charts import coverage_chart, reliability_chart
from lit_bert.evaluate.evidence import Evidence, counted
from lit_bert.evaluate.page_texts import (
    LISTED,
    NAME_WIDTH,
    Explanations,
    confident_errors,
    embedded_rows,
    explain,
    rows_to_explain,
    script_data,
)
from lit_bert.evaluate.predictions import Predictions
from lit_bert.evaluate.scores import Score, Scores
from lit_bert.io import escape, files
from lit_bert.io.templates import html_template, json_in_html

PAGE = "report.html"
TEMPLATE, STYLE, SCRIPT = (Path(__file__).with_suffix(suffix) for suffix in (".jinja", ".css", ".js"))
MAX_CONFUSIONS = 12  # pairs of classes that are listed
MANY_CLASSES = 12  # beyond them the cells of the matrix are small and have no percentage
LONG_NAMES = {"loss, nats": "loss, nats per text", "calib. error": "calibration error"}
FACT_NAMES = {
    "split": "split",
    "checkpoint": "checkpoint",
    "sha256": "sha256 of the checkpoint",
    "weights": "weights",
    "trained on": "trained on",
    "scored on": "scored on",
    "seed": "seed",
    "global_step": "optimizer steps",
}
FACTS_IN_WORDS = {
    "averaging",
    "calibration",
    "row_counts",
    "used_for",
    "fit",
}  # or elsewhere


def write_page(predictions_file: Path, output: Path | None = None) -> str:
    """Writes the page. Returns its scores, and where it is, as text for the terminal.

    Args:
        predictions_file: what `fit`, `validate` or `test` keep beside a checkpoint.
        output: the page; None is report.html beside the predictions.

    Raises:
        UserError: the predictions cannot be read, the page cannot be written, or the extra is not installed.
    """
    for module in ("cleanlab", "captum"):  # said now rather than after a minute
        require_package(module, "report")
    predictions = Predictions.read(predictions_file)
    if not len(predictions.labels):
        raise UserError(f"{predictions_file} has no rows; score a split that has some.")
    output = output or predictions_file.with_name(PAGE)
    errors = confident_errors(predictions)
    suspects = scores.suspected_labels(predictions.task, predictions.outputs, predictions.labels)
    embedded = embedded_rows(predictions, errors, suspects)
    order = rows_to_explain(predictions, errors, suspects, embedded)
    explanations = explain(predictions, predictions_file, order)
    with_intervals = predictions.intervals
    html = render(predictions, with_intervals, errors, suspects, embedded, explanations)
    try:
        files.write_text(output, html)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}. Choose another --output.") from None
    evidence = predictions.evidence
    split = escape.line(predictions.facts.get("split"), 60)
    lines = [f"split {split}, {evidence.rows:,} rows; in brackets 95 % bootstrap intervals"]
    width = escape.width_of(list(with_intervals.titled())) + 2
    lines += [scores.score_line(name, score, width) for name, score in with_intervals.titled().items()]
    lines += evidence.notes(with_intervals)
    lines.append(f"{counted(len(errors), 'error')}, {counted(len(suspects), 'suspected label error')}")
    lines.append(f"page       {escape.line(output)}")
    return "\n".join(lines)


def render(
    predictions: Predictions,
    with_intervals: Scores[Score],
    errors: np.ndarray,
    suspects: np.ndarray,
    embedded: np.ndarray,
    explanations: Explanations,
) -> str:
    """The page as HTML.

    Args:
        with_intervals: as `scores.with_intervals` gives them.
        errors: indices of all wrong rows, the most confident first.
        suspects: indices of rows whose label is suspect.
        embedded: indices of the rows whose texts the page holds.
    """
    C = len(predictions.class_names)
    counts = np.bincount(predictions.labels * C + predictions.preds, minlength=C * C).reshape(C, C)
    facts, evidence = predictions.facts, predictions.evidence
    names = escape.names(predictions.class_names, NAME_WIDTH)
    run_name = escape.line(Path(str(facts.get("checkpoint", ""))).parent.name, 60)
    script = SCRIPT.read_text(encoding="utf-8")
    # The browser compares the hash with all between the tags, whose line end is the template's.
    digest = hashlib.sha256(f"\n{script}".encode()).digest()
    return html_template(TEMPLATE).render(
        title=f"Errors of {run_name or 'a run'}",
        style=Markup(STYLE.read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=Markup(base64.b64encode(digest).decode()),
        texts=len(predictions.labels),
        split=facts.get("split", "unknown"),
        classes=C,
        wrong=len(errors),
        stand_ins=[(name, value) for name, value in facts.items() if is_stand_in(value)],
        main_scores=[(LONG_NAMES.get(name, name), score) for name, score in with_intervals.titled().items()],
        macro_note=evidence.macro_note,
        notes=[_sentence(note) for note in evidence.notes(with_intervals)],
        class_rows=class_rows(names, with_intervals, evidence, counts),
        facts=listed_facts(facts),
        matrix=confusion_matrix(names, counts),
        confusions=frequent_confusions(names, counts),
        embedded_note=embedded_note(predictions, errors, embedded),
        explained_note=explanations.note,
        has_attributions=bool(explanations.attributions),
        error_note=error_note(len(errors)),
        suspect_note=suspect_note(facts, suspects, evidence),
        reliability=reliability_chart(predictions),
        coverage=coverage_chart(predictions),
        version=__version__,
        data=json_in_html(script_data(predictions, errors, suspects, embedded, explanations, counts)),
    )


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:]}."


def is_stand_in(fact: object) -> bool:
    """Whether a fact says that something else was used than what was asked for."""
    return isinstance(fact, str) and "STANDING IN" in fact


# --- scores by class ---


class ClassRow(NamedTuple):
    """A row of the table of classes; `f1` is None where no row has that label, and `note` says so.

    Attributes:
        precision: None where the class was not predicted; `recall` where it is no label.
    """

    name: str
    f1: Score | None
    note: str
    precision: float | None
    recall: float | None
    texts: int


def class_rows(
    names: list[str], with_intervals: Scores[Score], evidence: Evidence, counts: np.ndarray
) -> list[ClassRow]:
    """Each class with its F1, the lowest first; those that are the label of no row last."""
    rows = []
    for index, (name, f1) in enumerate(zip(names, with_intervals.by_class, strict=True)):
        hits, of_label, of_pred = counts[index, index], counts[index].sum(), counts[:, index].sum()
        precision, recall = (float(hits / count) if count else None for count in (of_pred, of_label))
        rows.append(ClassRow(name, f1, evidence.class_note(index), precision, recall, int(of_label)))
    return sorted(rows, key=lambda row: (row.f1 is None, row.f1.value if row.f1 else 0.0))


# --- what the scores rest on ---


class Fact(NamedTuple):
    """A line of the list of facts; a stand-in is highlighted."""

    name: str
    value: object
    is_stand_in: bool = False


def listed_facts(facts: dict[str, Any]) -> list[Fact]:
    """What the predictions say of their origin, well-known facts first."""
    order = [*FACT_NAMES, *(name for name in facts if name not in FACT_NAMES.keys() | FACTS_IN_WORDS)]
    rows = []
    for name in order:
        value = facts.get(name)
        if value is not None:
            text = value if isinstance(value, str | int | float) else json.dumps(value)
            rows.append(Fact(FACT_NAMES.get(name, name), text, is_stand_in(value)))
    for name, text in (
        ("rows", _row_counts_text(facts.get("row_counts"))),
        ("weights kept", _averaging_text(facts.get("averaging"))),
        ("calibration", _calibration_text(facts.get("calibration"))),
    ):
        if text:
            rows.append(Fact(name, text))
    return rows


def _row_counts_text(counts: Any) -> str:
    """What became of the rows of the split; empty where that is not recorded."""
    try:
        parts = [
            f"{counts['read']:,} read",
            *(f"{each['count']:,} {reason} skipped" for reason, each in counts["skipped"].items()),
            *(f"{count:,} left out by {why}" for why, count in counts["left_out"].items()),
            f"{counts['scored']:,} scored",
        ]
    except (AttributeError, KeyError, TypeError, ValueError):  # of another version, or edited
        return ""
    return ", ".join(parts)


def _averaging_text(averaging: Any) -> str:
    """Which weights were kept; empty where that is not recorded."""
    if not (isinstance(averaging, dict) and "kept" in averaging):
        return ""
    return "average of the weights" if averaging["kept"] else "as they trained, no average"


def _calibration_text(calibration: Any) -> str:
    """The temperature and what it did; empty where that is not recorded."""
    if not (isinstance(calibration, dict) and {"temperature", "before", "after"} <= set(calibration)):
        return ""
    return (
        f"temperature {calibration['temperature']:.3f}, "
        f"{'fitted on this split' if calibration.get('kept', True) else 'as a fitted one did not help'}; "
        f"calibration error before {calibration['before']:.3f}, after {calibration['after']:.3f}, "
        "on rows it was not fitted on"
    )


# --- confusions ---


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix: texts of class `label` that were predicted as `pred`.

    Attributes:
        share: of the texts with that label, above 0 to 1.
        tint: strength of its colour, 0 to 1: the root, so that a tenth can be seen beside a half.
    """

    label: int
    pred: int
    count: int
    share: float
    tint: float
    description: str


class Matrix(NamedTuple):
    """The confusion matrix: `rows` has for each class its cells, None for those without a text."""

    names: list[str]
    rows: list[list[Cell | None]]
    label_totals: list[int]
    pred_totals: list[int]
    is_large: bool


def confusion_matrix(names: list[str], counts: np.ndarray) -> Matrix:
    """The matrix of `counts` (C, C), whose rows are labels."""
    totals = counts.sum(1)
    rows: list[list[Cell | None]] = []
    for label, name in enumerate(names):
        cells: list[Cell | None] = []
        for pred, count in enumerate(counts[label].tolist()):
            if not count:
                cells.append(None)
                continue
            share = count / int(totals[label])
            description = f"{counted(count, 'text')} of {name} predicted as {names[pred]}"
            cells.append(Cell(label, pred, count, share, share**0.5, description))
        rows.append(cells)
    return Matrix(names, rows, totals.tolist(), counts.sum(0).tolist(), len(names) > MANY_CLASSES)


@dataclass(frozen=True)
class Confusion:
    """Texts of class `label` that were predicted as another one, `pred`."""

    label: int
    pred: int
    label_name: str
    pred_name: str
    count: int


def frequent_confusions(names: list[str], counts: np.ndarray) -> list[Confusion]:
    """The pairs of classes with most errors, the most first."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSIONS]
    return [
        Confusion(i, j, names[i], names[j], int(wrong[i, j]))
        for i, j in (divmod(int(cell), len(names)) for cell in order)
        if wrong[i, j]
    ]


# --- notes ---


def embedded_note(predictions: Predictions, errors: np.ndarray, embedded: np.ndarray) -> str:
    """Which of the texts the page holds."""
    is_embedded = set(embedded.tolist())
    wrong = sum(index in is_embedded for index in errors.tolist())
    right, all_right = len(is_embedded) - wrong, len(predictions.labels) - len(errors)
    wrong_texts = (
        f"the {wrong:,} most confident of {len(errors):,} wrong texts; the others are left out"
        if wrong < len(errors)
        else f"all {counted(wrong, 'wrong text')}"
    )
    right_texts = (
        f"the least sure of each class, {right:,} of {all_right:,} right ones"
        if right < all_right
        else f"all {right:,} right ones"
    )
    return f"This page holds {wrong_texts}, and {right_texts}."


def error_note(count: int) -> str:
    """How many of `count` errors are listed."""
    return (
        f"The {LISTED} most confident of {count:,}."
        if count > LISTED
        else f"{counted(count, 'error')} in all."
    )


def suspect_note(facts: dict[str, Any], suspects: np.ndarray, evidence: Evidence) -> str:
    """How many labels are suspect, and whether the checkpoint had been trained on them."""
    count = len(suspects)
    if sum(map(bool, evidence.labelled)) < 2:
        return "All texts here have one label: there is no other that it could have been confused with."
    number = f"{count:,} of {evidence.rows:,} labels are suspect" if count else "No label is suspect"
    listed = f"; shown are the first {LISTED}" if count > LISTED else ""
    trained_on, scored_on = facts.get("trained on"), facts.get("scored on", facts.get("trained on"))
    if facts.get("split") != "train":
        training = "The checkpoint was not trained on these rows."
    elif trained_on == scored_on:
        training = (
            "The checkpoint was trained on these rows and may know their labels by heart: what is wrong with "
            "them hardly shows here."
        )
    else:
        training = "This holds if the checkpoint was not trained on these rows."
    return f"{number}{listed}. {training}"
