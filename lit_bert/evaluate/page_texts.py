"""Which texts the error report shows, which of them it explains, and what its script is given of each.

python -m lit_bert report checkpoints/version_0
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lit_bert import UserError
from lit_bert.evaluate.evidence import counted
from lit_bert.evaluate.page_form import LISTED, RIGHT_PER_CLASS, RIGHT_TEXTS, WRONG_TEXTS, PageForm
from lit_bert.io.texts import display

if TYPE_CHECKING:
    from lit_bert.evaluate.attribution import Attribution, Question

EXPLAINED_TEXTS = 100  # at most; those of a large BERT end earlier, at `attribution.BUDGET`
CHARACTERS = 2000  # of a text that are shown


class Explanations(NamedTuple):
    """Attributions of some texts, by row index and class, and what the page says about them."""

    attributions: dict[tuple[int, int], Attribution]
    note: str


# --- which texts ---


def embedded_rows(form: PageForm, suspects: np.ndarray) -> np.ndarray:
    """Indices of the rows on the page: errors, suspects, and of each class the least confident right ones."""
    per_class = max(RIGHT_PER_CLASS, RIGHT_TEXTS // len(form.names))
    right = [
        rows[np.argsort(form.confidence[rows], kind="stable")[:per_class]] for rows in form.right_groups()
    ]
    wrong = form.errors[: WRONG_TEXTS if form.has_cells else LISTED]
    return np.unique(np.concatenate([wrong, suspects[:LISTED], *right]))


def rows_to_explain(form: PageForm, suspects: np.ndarray, embedded: np.ndarray) -> list[int]:
    """Indices of embedded rows by how likely a reader is to look at them, `EXPLAINED_TEXTS` at most.

    The two lists in turn, then the cells of the matrix in turn.
    """
    by_cell: dict[str, list[int]] = {}
    is_embedded = set(embedded.tolist())
    for index in np.argsort(-form.confidence, kind="stable").tolist():
        if index in is_embedded:
            for cell in form.cells_of(index):
                by_cell.setdefault(cell, []).append(index)
    lists = [form.errors[:LISTED].tolist(), suspects[:LISTED].tolist()]
    order = [*_round_robin(lists), *_round_robin(by_cell.values())]
    return list(dict.fromkeys(order))[:EXPLAINED_TEXTS]


def _round_robin(lists: Iterable[Sequence[int]]) -> Iterator[int]:
    """The first of each, then the second of each, …"""
    lists = list(lists)
    for place in range(max(map(len, lists), default=0)):
        yield from (each[place] for each in lists if place < len(each))


# --- why ---


def explain(form: PageForm, predictions_file: Path, indices: Sequence[int]) -> Explanations:
    """Attributions of rows to the classes that their form asks for, or to their number."""
    from lit_bert.evaluate.attribution import Explainer, Question, checkpoint_of

    predictions = form.predictions
    try:
        checkpoint = checkpoint_of(predictions.facts, predictions_file)
        if (checkpoint.task.kind, checkpoint.model.label_names) != (form.task.kind, predictions.class_names):
            raise UserError(f"{checkpoint.path} has another task or other classes than these predictions.")
        explainer = Explainer.of(checkpoint)
    except UserError as error:
        return Explanations({}, f"Words are not coloured: {error}")
    groups: list[list[Question]] = [
        [Question(predictions.texts[index], label) for label in form.questions(index)] for index in indices
    ]
    count = explainer.within_budget(groups)
    keys = [
        (index, question.label)
        for index, group in zip(indices[:count], groups, strict=False)
        for question in group
    ]
    print(f"explaining {count} texts", file=sys.stderr)
    attributions = explainer.explain([question for group in groups[:count] for question in group])
    note = _attribution_note(form, count, attributions)
    if explainer.long_texts.mode == "windows":
        note += " In a text of several windows a word has the sum of what it does in those that have it."
    return Explanations(dict(zip(keys, attributions, strict=True)), note)


def _attribution_note(form: PageForm, texts: int, attributions: Sequence[Attribution]) -> str:
    """How the words' scores were computed, and how far they are from what they should add up to."""
    note = f"Words are coloured in {counted(texts, 'text')}"
    if not attributions:
        return f"{note}."
    gaps = np.abs([each.gap for each in attributions])
    gains = np.abs([each.scores.sum() + each.gap for each in attributions])
    half, most = np.quantile(gaps, (0.5, 0.95))
    digits = form.score_decimals
    return (
        f"{note}, by integrated gradients: what {form.explained} gains over a text of [MASK] only, "
        f"{form.task.gain_unit}, is shared out among the words. Of a gain of "
        f"{np.median(gains):.{digits - 1}f} in the median, their scores miss {half:.{digits}f} in half of "
        f"the answers and at most {most:.{digits}f} in 95 % of them."
    )


# --- what the page's script is given ---


def script_data(
    form: PageForm, suspects: np.ndarray, embedded: np.ndarray, explanations: Explanations
) -> dict[str, Any]:
    """What the page's script works on, as plain values.

    Each row: `n` its number, from 1; `t` segments of the text, each a string or [word, score, …] with one
    score for each class in `k`; and what its form says of it.
    """
    attributions, predictions = explanations.attributions, form.predictions
    place = {index: number for number, index in enumerate(embedded.tolist())}
    rows = []
    for index in place:
        explained = [each for each in form.questions(index) if (index, each) in attributions]
        scored = [attributions[index, each] for each in explained]
        row = {
            "n": int(predictions.rows[index]) + 1,
            **form.row(index),
            "t": text_segments(display(predictions.texts[index]), scored, form.score_decimals),
        }
        rows.append({**row, "k": explained} if explained else row)
    return {
        "classes": predictions.class_names,
        "names": form.names,
        "rows": rows,
        "errors": [place[index] for index in form.errors[:LISTED].tolist()],
        "suspects": [place[index] for index in suspects[:LISTED].tolist()],
        **form.script_values(),
    }


def text_segments(text: str, attributions: Sequence[Attribution], decimals: int = 3) -> list[Any]:
    """The text cut into words, each with a score an attribution, and what is between them as it is.

    Joined, the strings are the text again, or `CHARACTERS` of it: the first, unless the word with the largest
    score stands behind them; then those around it.

    Args:
        decimals: of the scores.
    """
    segments: list[Any] = []
    begin = end = _first_shown(text, attributions)
    last = begin + CHARACTERS
    if begin:
        segments.append(f"(cut: {begin:,} characters) … ")
    for word, (start, stop) in enumerate(attributions[0].spans if attributions else []):
        if start < end or stop > last:
            continue
        if start > end:
            segments.append(text[end:start])
        segments.append(
            [text[start:stop], *(round(float(each.scores[word]), decimals) for each in attributions)]
        )
        end = stop
    if end < min(len(text), last):
        segments.append(text[end:last])
    if len(text) > last:
        segments.append(f" … (cut: {len(text) - last:,} more characters)")
    return segments


def _first_shown(text: str, attributions: Sequence[Attribution]) -> int:
    """The place of the first character that is shown."""
    if len(text) <= CHARACTERS or not attributions or not attributions[0].spans:
        return 0
    start, stop = attributions[0].spans[int(np.abs(attributions[0].scores).argmax())]
    return 0 if stop <= CHARACTERS else min(max(start - CHARACTERS // 2, 0), len(text) - CHARACTERS)
