"""One run's errors as a page: a single HTML file that asks nothing of any network.

Predictions in, page out. Pictures and tables are made here; the texts travel as JSON, and the page's own
script shows them as text, never as HTML: whatever a text holds, it cannot become part of the page.

    python -m lit_bert report checkpoints/version_0
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lit_bert import UserError, __version__, need
from lit_bert.evaluate import scores
from lit_bert.evaluate.evidence import Evidence
from lit_bert.evaluate.predictions import Predictions
from lit_bert.evaluate.scores import Score, Scores, wilson
from lit_bert.io import escape, files

if TYPE_CHECKING:
    from lit_bert.evaluate.attribution import Attribution, Question

PAGE = "report.html"
WRONG_TEXTS = 2000  # embedded at most, the most confident first
RIGHT_TEXTS = 200  # embedded over all classes, but `RIGHT_PER_CLASS` of each at least
RIGHT_PER_CLASS = 5
EXPLAINED_TEXTS = 100  # at most; those of a large BERT end earlier, at `attribution.BUDGET`
LISTED = 50  # most confident errors, and suspected label errors
CHARACTERS = 2000  # of a text that are shown
NAME_WIDTH = 60  # characters of a class name that are shown
BINS = scores.BINS
ALL_SHARES = 200  # points of the curve of accuracy against the share of texts that are answered
TARGETS = (0.9, 0.95, 0.98, 0.99)  # accuracies to look up on that curve
CHOICES = ("averaging", "calibration")  # facts that are shown as text
LONG_NAMES = {"loss, nats": "loss, nats per text", "calib. error": "calibration error"}  # there is room

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
LEGEND = (
    '<p class="legend"><span class="w" style="--a:80%">blue, underlined</span> pushed towards the class, '
    '<span class="w against" style="--a:80%">orange, dotted</span> against it; the stronger the colour, the '
    "harder, within a text. Numbers are logits.</p>"
)


class Explained(NamedTuple):
    """Attributions of some texts by (index, class), and what the page says about them."""

    found: dict[tuple[int, int], Attribution]
    note: str


def write_page(predictions_file: Path, output: Path | None = None) -> str:
    """Writes the page and gives its scores, and where it is, as text for the terminal.

    Args:
        predictions_file: what `fit`, `validate` or `test` keep beside a checkpoint.
        output: the page; None is report.html beside the predictions.

    Raises:
        UserError: the predictions cannot be read, the page cannot be written, or the extra is not installed.
    """
    for module in ("cleanlab", "captum"):  # said now rather than after a minute
        need(module, "report")
    predictions = Predictions.read(predictions_file)
    if not len(predictions.labels):
        raise UserError(f"{predictions_file} has no rows; score a split that has some.")
    output = output or predictions_file.with_name(PAGE)
    errors = confident_errors(predictions)
    suspects = scores.suspected_labels(predictions.probs, predictions.labels)
    shown = embedded(predictions, errors, suspects)
    order = worth_explaining(predictions, errors, suspects, shown)
    explained = explain(predictions, predictions_file, order)
    found = scores.with_intervals(predictions.probs, predictions.labels)
    page = render(predictions, found, errors, suspects, shown, explained)
    try:
        files.write_text(output, page)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}. Choose another --output.") from None
    evidence = predictions.evidence
    split = escape.line(predictions.facts.get("split"), 60)
    lines = [f"split {split}, {evidence.rows:,} rows; in brackets 95 % bootstrap intervals"]
    width = escape.width_of(list(found.main)) + 2
    lines += [scores.score_line(each, score, width) for each, score in found.main.items()]
    lines += evidence.notes(found)
    lines.append(f"{_count(len(errors), 'error')}, {_count(len(suspects), 'suspected label error')}")
    lines.append(f"page       {escape.line(output)}")
    return "\n".join(lines)


# --- which texts ---


def confident_errors(predictions: Predictions) -> np.ndarray:
    """Indices of all wrong rows, the most confident first."""
    wrong = np.flatnonzero(predictions.preds != predictions.labels)
    return wrong[np.argsort(-predictions.probs[wrong].max(1), kind="stable")]


def embedded(predictions: Predictions, errors: np.ndarray, suspects: np.ndarray) -> np.ndarray:
    """Indices of the rows on the page: wrong ones, suspects, and of each class the least sure right ones."""
    labels, preds = predictions.labels, predictions.preds
    confidence = predictions.probs.max(1)
    per_class = max(RIGHT_PER_CLASS, RIGHT_TEXTS // len(predictions.class_names))
    right = [
        rows[np.argsort(confidence[rows], kind="stable")[:per_class]]
        for label in range(len(predictions.class_names))
        for rows in [np.flatnonzero((labels == label) & (preds == label))]
    ]
    return np.unique(np.concatenate([errors[:WRONG_TEXTS], suspects[:LISTED], *right]))


def worth_explaining(
    predictions: Predictions, errors: np.ndarray, suspects: np.ndarray, shown: np.ndarray
) -> list[int]:
    """Indices of rows by how likely a reader is to look: both lists in turn, then cell by cell."""
    cells: dict[tuple[int, int], list[int]] = {}
    sure = np.argsort(-predictions.probs.max(1), kind="stable")
    held = set(shown.tolist())
    for index in sure.tolist():
        if index in held:
            cell = int(predictions.labels[index]), int(predictions.preds[index])
            cells.setdefault(cell, []).append(index)
    lists = [errors[:LISTED].tolist(), suspects[:LISTED].tolist()]
    order = [*_in_turn(lists), *_in_turn(cells.values())]
    return list(dict.fromkeys(order))[:EXPLAINED_TEXTS]


def _in_turn(lists: Iterable[Sequence[int]]) -> Iterator[int]:
    """The first of each, then the second of each, …"""
    lists = list(lists)
    for place in range(max(map(len, lists), default=0)):
        yield from (each[place] for each in lists if place < len(each))


def explain(predictions: Predictions, predictions_file: Path, indices: Sequence[int]) -> Explained:
    """Attributions of rows to the predicted class and, where that is wrong, to the labelled one."""
    from lit_bert.evaluate.attribution import Explainer, Question, checkpoint_of

    try:
        checkpoint = checkpoint_of(predictions.facts, predictions_file)
        if checkpoint.model.label_names != predictions.class_names:
            raise UserError(f"{checkpoint.path} has other classes than these predictions.")
    except UserError as error:
        return Explained({}, f"Words are not coloured: {error}")
    explainer = Explainer.of(checkpoint)
    labels, preds = predictions.labels.tolist(), predictions.preds.tolist()
    groups: list[list[Question]] = [
        [Question(predictions.texts[index], label) for label in dict.fromkeys((preds[index], labels[index]))]
        for index in indices
    ]
    count = explainer.within_budget(groups)
    keys = [
        (index, question.label)
        for index, group in zip(indices[:count], groups, strict=False)
        for question in group
    ]
    print(f"explaining {count} texts", file=sys.stderr)
    found = explainer.explain([question for group in groups[:count] for question in group])
    gaps = np.abs([each.gap for each in found])
    gains = np.abs([each.scores.sum() + each.gap for each in found])
    note = f"Words are coloured in {_count(count, 'text')}"
    if found:
        half, most = np.quantile(gaps, (0.5, 0.95))
        note += (
            ", by integrated gradients: what the class gains over a text of [MASK] only, in logits less "
            f"their mean, is shared out among the words. Of a gain of {np.median(gains):.2f} in the median, "
            f"their scores miss {half:.3f} in half of the answers and at most {most:.3f} in 95 % of them"
        )
    return Explained(dict(zip(keys, found, strict=True)), f"{note}.")


# --- the page ---


def render(
    predictions: Predictions,
    found: Scores[Score],
    errors: np.ndarray,
    suspects: np.ndarray,
    shown: np.ndarray,
    explained: Explained,
) -> str:
    """The page.

    Args:
        found: as `scores.with_intervals` gives them.
        errors: indices of all wrong rows, the most confident first.
        suspects: indices of rows whose label is suspect.
        shown: indices of the rows whose texts the page holds.
    """
    template = (Path(__file__).with_suffix(".html")).read_text(encoding="utf-8")
    C = len(predictions.class_names)
    counts = np.bincount(predictions.labels * C + predictions.preds, minlength=C * C).reshape(C, C)
    script = template.split("<script>", 1)[1].split("</script>", 1)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    checkpoint = Path(str(predictions.facts.get("checkpoint", "")))
    evidence = predictions.evidence
    names = escape.names(predictions.class_names, NAME_WIDTH)
    parts = {
        "script_hash": digest,
        "title": _escape(f"Errors of {escape.line(checkpoint.parent.name, 60) or 'a run'}"),
        "lead": _lead(predictions, len(errors)),
        "stand_ins": _stand_ins(predictions.facts),
        "cards": _cards(found, evidence),
        "notes": "".join(f'<p class="note">{_escape(_sentence(note))}</p>' for note in evidence.notes(found)),
        "classes": _class_table(names, found, evidence, counts),
        "facts": _facts(predictions.facts),
        "matrix": _matrix(names, counts),
        "confusions": _confusions(names, counts),
        "embedded": _embedded_note(predictions, errors, shown),
        "explained": _escape(explained.note),
        "legend": LEGEND if explained.found else "",
        "error_note": _error_note(len(errors)),
        "suspect_note": _suspect_note(predictions.facts, suspects, evidence),
        "reliability": _reliability(predictions),
        "coverage": _coverage(predictions),
        "version": __version__,
        "data": _json(_data(predictions, errors, suspects, shown, explained, counts)),
    }
    # In one pass: nothing that was put in is looked at again.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _escape(text: object) -> str:
    """The text as HTML; what a browser would drop, or take for a line end, is written out."""
    return html.escape(escape.line(text))


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:]}."


def _json(value: Any) -> str:
    """JSON that cannot end the script element it stands in: without <, > and &, whatever it holds."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":  # the last two end a line in older JavaScript
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _data(
    predictions: Predictions,
    errors: np.ndarray,
    suspects: np.ndarray,
    shown: np.ndarray,
    explained: Explained,
    counts: np.ndarray,
) -> dict[str, Any]:
    """What the page's script works on.

    Each row: `n` its number, from 1; `y` the labelled and `p` the predicted class; `q` the likeliest classes
    with their probabilities; `t` pieces of the text, each a string or [word, score, …] with one score for
    each class in `k`.
    """
    place = {index: number for number, index in enumerate(shown.tolist())}
    rows = []
    for index in place:
        label, pred = int(predictions.labels[index]), int(predictions.preds[index])
        probs = predictions.probs[index]
        likely = np.argsort(-probs, kind="stable")[:3].tolist()
        likely += [label] * (label not in likely)
        asked = [label_ for label_ in dict.fromkeys((pred, label)) if (index, label_) in explained.found]
        row = {
            "n": int(predictions.rows[index]) + 1,
            "y": label,
            "p": pred,
            "q": [[each, round(float(probs[each]), 4)] for each in likely],
            "t": pieces(predictions.texts[index], [explained.found[index, each] for each in asked]),
        }
        rows.append({**row, "k": asked} if asked else row)
    cells = {f"{i}-{j}": int(counts[i, j]) for i, j in zip(*np.nonzero(counts), strict=True)}
    return {
        "classes": predictions.class_names,
        "names": escape.names(predictions.class_names, NAME_WIDTH),
        "cells": cells,
        "rows": rows,
        "errors": [place[index] for index in errors[:LISTED].tolist()],
        "suspects": [place[index] for index in suspects[:LISTED].tolist()],
    }


def pieces(text: str, attributions: Sequence[Attribution]) -> list[Any]:
    """The text cut into words with a score an attribution, and what stands between them as it is.

    Joined, the strings are the text again, up to `CHARACTERS` of it.
    """
    found: list[Any] = []
    end = 0
    for word, (start, stop) in enumerate(attributions[0].spans if attributions else []):
        if start < end or stop > CHARACTERS:
            continue
        if start > end:
            found.append(text[end:start])
        found.append([text[start:stop], *(round(float(each.scores[word]), 3) for each in attributions)])
        end = stop
    if end < min(len(text), CHARACTERS):
        found.append(text[end:CHARACTERS])
    if len(text) > CHARACTERS:
        found.append(f" … (cut: {len(text) - CHARACTERS:,} more characters)")
    return found


def _lead(predictions: Predictions, wrong: int) -> str:
    N = len(predictions.labels)
    return (
        f"{N:,} texts of split <b>{_escape(predictions.facts.get('split', 'unknown'))}</b>, "
        f"{len(predictions.class_names)} classes; <b>{wrong:,}</b> of them predicted wrong ({wrong / N:.1%})."
    )


def _stand_ins(facts: dict[str, Any]) -> str:
    found = [
        f"<li><b>{_escape(name)}</b>: {_escape(value)}</li>"
        for name, value in facts.items()
        if isinstance(value, str) and "STANDING IN" in value
    ]
    if not found:
        return ""
    return (
        '<div class="warning" role="note" aria-label="Stand-ins"><p><b>Stand-ins.</b> These scores hold for '
        f"what is named here, not for what was asked for.</p><ul>{''.join(found)}</ul></div>"
    )


def _cards(found: Scores[Score], evidence: Evidence) -> str:
    cards = []
    macro = f'<span class="interval">{evidence.macro_note}</span>' if evidence.macro_note else ""
    for short, (value, low, high) in found.main.items():
        cards.append(
            f'<div class="card"><dt>{LONG_NAMES.get(short, short)}</dt><dd>'
            f'<span class="figure">{value:.3f}</span><span class="interval">{low:.3f} – {high:.3f}</span>'
            f"{macro * (short == 'macro F1')}</dd></div>"
        )
    return "".join(cards)


def _class_table(class_names: list[str], found: Scores[Score], evidence: Evidence, counts: np.ndarray) -> str:
    """F1 of each class with its interval, the lowest first, with precision, recall and number of rows.

    Classes that are the label of no row come last, without an F1.
    """
    rows, absent = [], []
    order = sorted(
        range(len(class_names)), key=lambda index: -1.0 if (f1 := found.by_class[index]) is None else f1.value
    )
    for index in order:
        head = f'<tr><th scope="row"><bdi>{_escape(class_names[index])}</bdi></th>'
        f1 = found.by_class[index]
        if f1 is None:
            note = _escape(evidence.class_note(index))
            absent.append(f'{head}<td>–</td><td class="absent" colspan="4">{note}</td><td>0</td></tr>')
            continue
        value, low, high = f1
        hits, of_label, of_pred = counts[index, index], counts[index].sum(), counts[:, index].sum()
        cells = [f"{value:.3f}", f"{low:.3f} – {high:.3f}"]
        bar = (
            f'<td class="bar"><span aria-hidden="true" style="--v:{value:.2%};--l:{low:.2%};'
            f'--h:{high:.2%}"><i></i><b></b></span></td>'
        )
        shares = [f"{hits / of:.3f}" if of else "–" for of in (of_pred, of_label)]
        rows.append(
            head
            + f'<td class="strong">{cells[0]}</td><td class="nowrap">{cells[1]}</td>{bar}'
            + "".join(f"<td>{share}</td>" for share in shares)
            + f"<td>{of_label:,}</td></tr>"
        )
    return "".join([*rows, *absent])


def _row_counts(counts: Any) -> str:
    """What became of the rows of the split, in words; empty where that is not recorded."""
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


def _facts(facts: dict[str, Any]) -> str:
    items = []
    elsewhere = {*FACT_NAMES, *CHOICES, "used_for", "fit", "row_counts"}
    known = [*FACT_NAMES, *(name for name in facts if name not in elsewhere)]
    for name in known:
        if facts.get(name) is not None:
            value = facts[name]
            loud = ' class="loud"' if isinstance(value, str) and "STANDING IN" in value else ""
            shown = value if isinstance(value, str | int | float) else json.dumps(value)
            items.append(
                f"<div><dt>{_escape(FACT_NAMES.get(name, name))}</dt><dd{loud}>{_escape(shown)}</dd></div>"
            )
    if counts := _row_counts(facts.get("row_counts")):
        items.append(f"<div><dt>rows</dt><dd>{_escape(counts)}</dd></div>")
    averaging = facts.get("averaging")
    if isinstance(averaging, dict) and "kept" in averaging:
        text = "average of the weights" if averaging["kept"] else "as they trained, no average"
        items.append(f"<div><dt>weights kept</dt><dd>{text}</dd></div>")
    calibration = facts.get("calibration")
    if isinstance(calibration, dict) and {"temperature", "before", "after"} <= set(calibration):
        text = (
            f"temperature {calibration['temperature']:.3f}, "
            f"{'fitted on this split' if calibration.get('kept', True) else 'as a fitted one did not help'}; "
            f"calibration error before {calibration['before']:.3f}, after {calibration['after']:.3f}, "
            "on rows it was not fitted on"
        )
        items.append(f"<div><dt>calibration</dt><dd>{text}</dd></div>")
    return "".join(items)


def _matrix(class_names: list[str], counts: np.ndarray) -> str:
    """The confusion matrix as a table; every cell with a row in it is a link to its texts."""
    C = len(class_names)
    escaped = [_escape(name) for name in class_names]
    many = C > 12
    head = "".join(f'<th scope="col" title="{name}"><span><bdi>{name}</bdi></span></th>' for name in escaped)
    rows = []
    for i in range(C):
        total = counts[i].sum()
        cells = []
        for j in range(C):
            count = counts[i, j]
            if not count:
                cells.append("<td></td>")
                continue
            share = count / total
            # The root lets a tenth be seen beside a half.
            shade = f"--a:{share**0.5:.0%}"
            name = f"{_count(count, 'text')} of {escaped[i]} predicted as {escaped[j]}"
            percent = "" if many else f"<small>{share:.0%}</small>"
            cells.append(
                f'<td class="{"hit" if i == j else "miss"}" style="{shade}"><a href="#cell-{i}-{j}" '
                f'title="{name}" aria-label="{name}">{count:,}{percent}</a></td>'
            )
        rows.append(
            f'<tr><th scope="row" title="{escaped[i]}"><bdi>{escaped[i]}</bdi></th>{"".join(cells)}'
            f'<td class="total">{total:,}</td></tr>'
        )
    totals = "".join(f'<td class="total">{count:,}</td>' for count in counts.sum(0))
    return (
        f'<table class="matrix{" many" if many else ""}"><caption class="hidden">Confusion matrix: a row per '
        "labelled class, a column per predicted one</caption>"
        f'<thead><tr><th scope="col" class="corner"><span>label ↓</span> <span>predicted →</span></th>{head}'
        f'<th scope="col" class="total"><span>all</span></th></tr></thead><tbody>{"".join(rows)}</tbody>'
        f'<tfoot><tr><th scope="row">all</th>{totals}<td class="total">{counts.sum():,}</td></tr></tfoot>'
        "</table>"
    )


def _confusions(class_names: list[str], counts: np.ndarray, most: int = 12) -> str:
    """The cells with most errors, as links."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    items = [
        f'<li><a href="#cell-{i}-{j}"><span class="n">{wrong[i, j]:,}</span> <span>'
        f"<bdi>{_escape(class_names[i])}</bdi> <i>as</i> <bdi>{_escape(class_names[j])}</bdi></span></a></li>"
        for i, j in (divmod(int(cell), len(class_names)) for cell in order)
        if wrong[i, j]
    ]
    return f'<ul class="confusions">{"".join(items)}</ul>' if items else "<p>There is no error.</p>"


def _embedded_note(predictions: Predictions, errors: np.ndarray, shown: np.ndarray) -> str:
    held = set(shown.tolist())
    wrong = sum(index in held for index in errors.tolist())
    right, all_right = len(held) - wrong, len(predictions.labels) - len(errors)
    cut = (
        f"the {wrong:,} most confident of {len(errors):,} wrong texts; the others are left out"
        if wrong < len(errors)
        else f"all {_count(wrong, 'wrong text')}"
    )
    rest = (
        f"the least sure of each class, {right:,} of {all_right:,} right ones"
        if right < all_right
        else f"all {right:,} right ones"
    )
    return f"This page holds {cut}, and {rest}."


def _error_note(count: int) -> str:
    return (
        f"The {LISTED} most confident of {count:,}."
        if count > LISTED
        else f"{_count(count, 'error')} in all."
    )


def _suspect_note(facts: dict[str, Any], suspects: np.ndarray, evidence: Evidence) -> str:
    count = len(suspects)
    if sum(map(bool, evidence.labelled)) < 2:
        return "All texts here have one label: there is no other that it could have been confused with."
    found = f"{count:,} of {evidence.rows:,} labels are suspect" if count else "No label is suspect"
    shown = f"; shown are the first {LISTED}" if count > LISTED else ""
    trained_on, scored_on = facts.get("trained on"), facts.get("scored on", facts.get("trained on"))
    if facts.get("split") != "train":
        seen = "The checkpoint was not trained on these rows."
    elif trained_on == scored_on:
        seen = (
            "The checkpoint was trained on these rows and may know their labels by heart: what is wrong with "
            "them hardly shows here."
        )
    else:
        seen = "This holds if the checkpoint was not trained on these rows."
    return f"{found}{shown}. {seen}"


# --- diagrams ---


class _Axes:
    """A picture 440 by 340 with axes from `low` to 1 upwards and 0 to 1 across."""

    left, right, top, bottom = 62, 416, 14, 284

    def __init__(self, low: float, x_label: str, y_label: str) -> None:
        self.low = low
        step = next(step for step in (0.02, 0.05, 0.1, 0.2) if 1 - low <= 5.01 * step)
        ticks = [1 - place * step for place in range(6) if 1 - place * step > low - 1e-9]
        lines = [
            f'<path class="grid" d="M{self.left} {self.y(t):.1f}H{self.right}"/>'
            f'<text x="{self.left - 8}" y="{self.y(t) + 4.5:.1f}" text-anchor="end">{t:.0%}</text>'
            for t in ticks
        ]
        lines += [
            f'<text x="{self.x(t):.1f}" y="{self.bottom + 20}" text-anchor="middle">{t:.0%}</text>'
            for t in (0, 0.25, 0.5, 0.75, 1)
        ]
        lines.append(
            f'<text class="axis" x="{(self.left + self.right) / 2}" y="{self.bottom + 44}" '
            f'text-anchor="middle">{x_label}</text>'
            f'<text class="axis" transform="translate(16 {(self.top + self.bottom) / 2}) rotate(-90)" '
            f'text-anchor="middle">{y_label}</text>'
        )
        self.parts = ["".join(lines)]

    def x(self, share: float) -> float:
        return self.left + share * (self.right - self.left)

    def y(self, share: float) -> float:
        return self.bottom - (share - self.low) / (1 - self.low) * (self.bottom - self.top)

    def path(self, xs: Iterable[float], ys: Iterable[float]) -> str:
        return "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in zip(xs, ys, strict=True))

    def svg(self, name: str) -> str:
        return (
            f'<svg viewBox="0 0 440 340" role="img" aria-label="{_escape(name)}">{"".join(self.parts)}</svg>'
        )


def _reliability(predictions: Predictions) -> str:
    """Accuracy against confidence in 15 equal bins, with intervals, over how many texts each bin has."""
    confidence = predictions.probs.max(1).astype(np.float64)
    right = predictions.preds == predictions.labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    size = np.bincount(bins, minlength=BINS)
    used = np.flatnonzero(size)
    n = size[used]
    hits = np.bincount(bins, weights=right, minlength=BINS)[used]
    mean = np.bincount(bins, weights=confidence, minlength=BINS)[used] / n
    accuracy, (low, high) = hits / n, wilson(hits, n)
    axes = _Axes(0.0, "confidence", "share right")
    axes.parts += [
        f'<path class="histogram" d="M{axes.x(b / BINS) + 1:.1f} {axes.bottom}V{axes.y(height):.1f}'
        f'H{axes.x((b + 1) / BINS) - 1:.1f}V{axes.bottom}Z"/>'
        for b, height in zip(used, 0.25 * n / n.max(), strict=True)
    ]
    axes.parts.append(f'<path class="ideal" d="M{axes.path((0, 1), (0, 1))}"/>')
    for x, value, bottom, top, count in zip(mean, accuracy, low, high, n, strict=True):
        axes.parts.append(
            f"<g><title>{_count(int(count), 'text')}: confidence {x:.1%}, right {value:.1%}</title>"
            f'<path class="whisker" d="M{axes.path((x, x), (bottom, top))}"/>'
            f'<circle cx="{axes.x(x):.1f}" cy="{axes.y(value):.1f}" r="4.5"/></g>'
        )
    rows = [
        f"<tr><td>{b / BINS:.0%} – {(b + 1) / BINS:.0%}</td><td>{count:,}</td><td>{x:.1%}</td>"
        f'<td>{value:.1%}</td><td class="nowrap">{bottom:.1%} – {top:.1%}</td></tr>'
        for b, count, x, value, bottom, top in zip(used, n, mean, accuracy, low, high, strict=True)
    ]
    heads = ("confidence", "texts", "its mean", "right", "95 % interval")
    return axes.svg("Reliability diagram; its numbers stand in the table below") + _numbers(heads, rows)


def _coverage(predictions: Predictions) -> str:
    """Accuracy of the surest texts against their share of all; and the shares that reach some accuracies."""
    N = len(predictions.labels)
    confidence = predictions.probs.max(1)
    order = np.argsort(-confidence, kind="stable")
    hits = np.cumsum((predictions.preds == predictions.labels)[order])
    n = np.arange(1, N + 1)
    # Texts of one confidence are answered together or not at all.
    ends = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True))
    accuracy, (low, high) = hits / n, wilson(hits, n)
    picked = ends[np.unique(np.linspace(0, len(ends) - 1, min(ALL_SHARES, len(ends))).round().astype(int))]
    # The first few texts alone say next to nothing: their interval would squeeze the rest of the picture.
    lowest = min(accuracy[picked].min(), low[picked][n[picked] >= min(30, N)].min())
    axes = _Axes(
        min(np.floor(lowest * 10) / 10, 0.9), "share of the texts that are answered, surest first", "right"
    )
    xs, bottom = n[picked] / N, np.maximum(low[picked], axes.low)
    band = axes.path(xs, high[picked]) + "L" + axes.path(xs[::-1], bottom[::-1])
    axes.parts.append(f'<path class="band" d="M{band}Z"/>')
    axes.parts.append(f'<path class="curve" d="M{axes.path(xs, accuracy[picked])}"/>')
    rows = []
    for target in TARGETS:
        reached = ends[accuracy[ends] >= target]
        if len(reached):
            last = int(reached[-1])
            axes.parts.append(
                f"<g><title>{target:.0%} right: {n[last] / N:.1%} of the texts</title>"
                f'<circle cx="{axes.x(n[last] / N):.1f}" cy="{axes.y(accuracy[last]):.1f}" r="4.5"/></g>'
            )
            cells = [f"{n[last] / N:.1%}", f"{confidence[order[last]]:.3f}"]
            cells.append(f"{low[last]:.1%} – {high[last]:.1%}")
        else:
            cells = ["none", "–", "–"]
        rows.append(
            f"<tr><td>≥ {target:.0%}</td>" + "".join(f'<td class="nowrap">{c}</td>' for c in cells) + "</tr>"
        )
    heads = ("right", "of the texts", "confidence from", "95 % interval")
    picture = axes.svg(
        "Accuracy against the share of texts that are answered; some points stand in the table below"
    )
    return picture + _numbers(heads, rows, opened=True)


def _numbers(heads: Sequence[str], rows: Sequence[str], opened: bool = False) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        f"<details{' open' if opened else ''}><summary>The numbers</summary>"
        '<div class="scroll" role="region" aria-label="The numbers" tabindex="0"><table class="numbers">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )
