"""The error report of a run: a single HTML file that loads no external resources.

Predictions in, page out. This module works out what the page shows, as plain values; page.jinja is its markup
with tables and diagrams, page.css its style, page.js the lists of texts. The texts travel as JSON, and the
script shows them as text, never as HTML: whatever a text holds, it cannot become part of the page. What
depends on how labels are stored is in page_classes.py, page_sets.py and page_numbers.py.

    python -m lit_bert report checkpoints/version_0
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from lit_bert import UserError, __version__, require_package
from lit_bert.data.readers.options import ReadOptions
from lit_bert.evaluate import scores
from lit_bert.evaluate.evidence import counted
from lit_bert.evaluate.page_changes import changes
from lit_bert.evaluate.page_classes import ClassPage
from lit_bert.evaluate.page_form import LISTED, PageForm
from lit_bert.evaluate.page_numbers import NumberPage
from lit_bert.evaluate.page_sets import SetPage
from lit_bert.evaluate.page_texts import (
    Explanations,
    embedded_rows,
    explain,
    rows_to_explain,
    script_data,
)
from lit_bert.evaluate.predictions import Predictions
from lit_bert.evaluate.scores import Score, Scores
from lit_bert.evaluate.slice_columns import read_columns
from lit_bert.evaluate.slices import Slice, Slices, find_slices, slice_lines, verdict
from lit_bert.io import escape, files
from lit_bert.io.templates import html_template, json_in_html
from lit_bert.io.texts import TextForm, shown
from lit_bert.task.base import Task
from lit_bert.task.decisions import decision_note, described
from lit_bert.task.guarantee import kept_promises, promise_lines

PAGE = "report.html"
SLICE_CHARACTERS = 300  # of a text that are shown beside its group
TEMPLATE, STYLE, SCRIPT = (Path(__file__).with_suffix(suffix) for suffix in (".jinja", ".css", ".js"))
# By the form of a label, `Task.label_form`.
FORMS: dict[str, type[PageForm]] = {"class": ClassPage, "classes": SetPage, "number": NumberPage}
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
    "choice",
    "decision",
    "row_counts",
    "used_for",
    "fit",
}  # or elsewhere


def write_page(predictions_file: Path, output: Path | None = None, columns: Path | None = None) -> str:
    """Writes the page. Returns its scores, and where it is, as text for the terminal.

    Args:
        predictions_file: what `fit`, `validate` or `test` keep beside a checkpoint.
        output: the page; None is report.html beside the predictions.
        columns: a file with the scored rows, whose other columns are looked at for groups of errors.

    Raises:
        UserError: the predictions cannot be read, the page cannot be written, or the extra is not installed.
    """
    for module in ("cleanlab", "captum"):  # said now rather than after a minute
        require_package(module, "report")
    predictions = Predictions.read(predictions_file)
    if not len(predictions.labels):
        raise UserError(f"{predictions_file} has no rows; score a split that has some.")
    slices = find_slices(predictions, _columns_of(columns, predictions, predictions_file))
    output = output or predictions_file.with_name(PAGE)
    form = form_of(predictions)
    suspects = scores.suspected_labels(predictions.task, predictions.outputs, predictions.labels)
    embedded = embedded_rows(form, suspects)
    explanations = explain(form, predictions_file, rows_to_explain(form, suspects, embedded))
    with_intervals = predictions.intervals
    changed = changes(predictions_file.parent, predictions.facts.get("sha256"))
    html = render(form, with_intervals, suspects, embedded, explanations, slices, changed)
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
    lines.append(f"{form.found()}, {counted(len(suspects), 'suspected label error')}")
    lines += slice_lines(predictions, slices)
    lines.append(f"page       {escape.line(output)}")
    return "\n".join(lines)


def _columns_of(
    file: Path | None, predictions: Predictions, predictions_file: Path
) -> dict[str, list[Any]] | None:
    if file is None:
        return None
    from lit_bert.evaluate.attribution import checkpoint_of

    data = None
    with contextlib.suppress(UserError):  # without its checkpoint the column of a text can still be found
        data = checkpoint_of(predictions.facts, predictions_file).data
    if data is None:
        return read_columns(file, predictions, TextForm())
    options = ReadOptions.of(data.settings.model_dump())
    return read_columns(file, predictions, data.settings.texts, options)


def form_of(predictions: Predictions) -> PageForm:
    """What the page shows of these predictions."""
    return FORMS[predictions.task.label_form](predictions)


def render(
    form: PageForm,
    with_intervals: Scores[Score],
    suspects: np.ndarray,
    embedded: np.ndarray,
    explanations: Explanations,
    slices: Slices,
    changed: dict[str, Any],
) -> str:
    """The page as HTML.

    Args:
        form: of the predictions.
        with_intervals: as `scores.with_intervals` gives them.
        suspects: indices of rows whose label is suspect.
        embedded: indices of the rows whose texts the page holds.
        changed: as `page_changes.changes` gives it.
    """
    predictions, task = form.predictions, form.task
    facts, evidence = predictions.facts, predictions.evidence
    run_name = escape.line(Path(str(facts.get("checkpoint", ""))).parent.name, 60)
    script = SCRIPT.read_text(encoding="utf-8")
    # The browser compares the hash with all between the tags, whose line end is the template's.
    digest = hashlib.sha256(f"\n{script}".encode()).digest()
    return html_template(TEMPLATE).render(
        title=f"Errors of {run_name or 'a run'}",
        style=Markup(STYLE.read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=Markup(base64.b64encode(digest).decode()),
        label_form=task.label_form,
        texts=len(predictions.labels),
        split=facts.get("split", "unknown"),
        wrong=form.wrong,
        stand_ins=[(name, value) for name, value in facts.items() if is_stand_in(value)],
        score_cards=score_cards(form, with_intervals),
        score_note=score_note(task),
        notes=[_sentence(note) for note in evidence.notes(with_intervals)],
        facts=listed_facts(facts, task, kept_promises(task, predictions.outputs, predictions.labels)),
        embedded_note=form.embedded_note(embedded),
        explained_note=explanations.note,
        has_attributions=bool(explanations.attributions),
        errors_title=f"{task.worst.capitalize()} errors",
        errors_lead=task.worst_note,
        error_note=form.error_note(),
        slice_note=slices.summary,
        slice_word=slices.word,
        slices=[listed_slice(predictions, each) for each in slices.found],
        suspect_note=suspect_note(facts, suspects, len(predictions.labels), form.has_other_label()),
        version=__version__,
        data=json_in_html(script_data(form, suspects, embedded, explanations)),
        **form.content(with_intervals),
        **changed,
    )


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:]}."


def is_stand_in(fact: object) -> bool:
    """Whether a fact says that something else was used than what was asked for."""
    return isinstance(fact, str) and "STANDING IN" in fact


# --- scores over all rows ---


class Card(NamedTuple):
    """A score over all rows with its interval, all as text."""

    name: str
    value: str
    low: str
    high: str
    note: str


def score_cards(form: PageForm, with_intervals: Scores[Score]) -> list[Card]:
    """The scores of short tables."""
    cards = []
    for each in form.task.scores:
        if each.in_brief:
            value, low, high = (form.figure(value, each.key) for value in with_intervals.values[each.key])
            note = form.predictions.evidence.macro_note if each.key == "macro_f1" else ""
            cards.append(Card(each.long_title or each.title, value, low, high, note))
    return cards


def score_note(task: Task) -> str:
    """How to read the scores."""
    lower = [(each.long_title or each.title).split(",")[0] for each in task.scores if each.is_error]
    listed = f"{', '.join(lower[:-1])} and {lower[-1]} are" if len(lower) > 1 else f"{lower[0]} is"
    macro = "Macro F1 is the mean over classes; " if task.class_scores else ""
    return _sentence(f"{macro}{listed} better when lower")


# --- groups of errors ---


class ListedSlice(NamedTuple):
    """A group that is wrong more often than other texts, and for each example its row, verdict and text."""

    slice: Slice
    examples: list[tuple[int, str, str]]


def listed_slice(predictions: Predictions, found: Slice) -> ListedSlice:
    """As the page lists it."""
    return ListedSlice(
        found,
        [
            (
                int(predictions.rows[index]) + 1,
                verdict(predictions, index),
                escape.line(shown(predictions.texts[index]), SLICE_CHARACTERS),
            )
            for index in found.examples
        ],
    )


# --- what the scores rest on ---


class Fact(NamedTuple):
    """A line of the list of facts; a stand-in is highlighted."""

    name: str
    value: object
    is_stand_in: bool = False


def listed_facts(facts: dict[str, Any], task: Task, kept: Sequence[str] = ()) -> list[Fact]:
    """What the predictions say of their origin, well-known facts first.

    Args:
        kept: what became of guarantees.
    """
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
        ("chosen", _choice_text(facts.get("choice"), task)),
        ("decides", described(task.parameters, task.class_names)),
        ("chosen by rows", _decision_text(facts.get("decision"))),
        ("guaranteed", "; ".join(promise_lines(task))),
        ("on these rows", "; ".join(kept)),
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
    """How probabilities were calibrated and what it did; empty where that is not recorded."""
    if not (isinstance(calibration, dict) and {"before", "after"} <= set(calibration)):
        return ""
    errors = (
        f"calibration error before {calibration['before']:.3f}, after {calibration['after']:.3f}, "
        "on rows it was not fitted on"
    )
    kept = calibration.get("kept", True)
    if "temperature" not in calibration:
        fitted = "each class by a scale and a shift, fitted on this split"
        return f"{fitted if kept else 'none, as it did not help'}; {errors}"
    return (
        f"temperature {calibration['temperature']:.3f}, "
        f"{'fitted on this split' if kept else 'as a fitted one did not help'}; {errors}"
    )


def _choice_text(choice: Any, task: Task) -> str:
    """What the task took from validation rows; empty where that is not recorded."""
    try:
        return task.choice_note(choice) if choice else ""
    except (KeyError, TypeError, ValueError):  # of another version, or edited
        return ""


def _decision_text(decision: Any) -> str:
    """What costs or a wanted rate came to; empty where that is not recorded."""
    try:
        return decision_note(decision) if decision else ""
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # of another version, or edited
        return ""


# --- notes ---


def suspect_note(facts: dict[str, Any], suspects: np.ndarray, rows: int, has_other_label: bool) -> str:
    """How many labels are suspect, and whether the checkpoint had been trained on them.

    Args:
        rows: how many there are.
        has_other_label: whether not all labels are the same.
    """
    count = len(suspects)
    if not has_other_label:
        return "All texts here have one label: there is no other that it could have been confused with."
    number = f"{count:,} of {rows:,} labels are suspect" if count else "No label is suspect"
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
