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
from lit_bert.evaluate.predictions import Predictions
from lit_bert.io import escape
from lit_bert.io.texts import display

if TYPE_CHECKING:
    from lit_bert.evaluate.attribution import Attribution, Question

WRONG_TEXTS = 2000  # embedded at most, the most confident first
RIGHT_TEXTS = 200  # embedded over all classes, but `RIGHT_PER_CLASS` of each at least
RIGHT_PER_CLASS = 5
EXPLAINED_TEXTS = 100  # at most; those of a large BERT end earlier, at `attribution.BUDGET`
LISTED = 50  # most confident errors, and suspected label errors
CHARACTERS = 2000  # of a text that are shown
NAME_WIDTH = 60  # characters of a class name that are shown


class Explanations(NamedTuple):
    """Attributions of some texts, by row index and class, and what the page says about them."""

    attributions: dict[tuple[int, int], Attribution]
    note: str


# --- which texts ---


def confident_errors(predictions: Predictions) -> np.ndarray:
    """Indices of all wrong rows, the most confident first."""
    wrong = np.flatnonzero(predictions.preds != predictions.labels)
    return wrong[np.argsort(-predictions.outputs[wrong].max(1), kind="stable")]


def embedded_rows(predictions: Predictions, errors: np.ndarray, suspects: np.ndarray) -> np.ndarray:
    """Indices of the rows on the page: errors, suspects, and of each class the least confident right ones."""
    labels, preds = predictions.labels, predictions.preds
    confidence = predictions.outputs.max(1)
    per_class = max(RIGHT_PER_CLASS, RIGHT_TEXTS // len(predictions.class_names))
    right = [
        rows[np.argsort(confidence[rows], kind="stable")[:per_class]]
        for label in range(len(predictions.class_names))
        for rows in [np.flatnonzero((labels == label) & (preds == label))]
    ]
    return np.unique(np.concatenate([errors[:WRONG_TEXTS], suspects[:LISTED], *right]))


def rows_to_explain(
    predictions: Predictions, errors: np.ndarray, suspects: np.ndarray, embedded: np.ndarray
) -> list[int]:
    """Indices of embedded rows by how likely a reader is to look at them, `EXPLAINED_TEXTS` at most.

    The two lists in turn, then the cells of the confusion matrix in turn.
    """
    by_cell: dict[tuple[int, int], list[int]] = {}
    by_confidence = np.argsort(-predictions.outputs.max(1), kind="stable")
    is_embedded = set(embedded.tolist())
    for index in by_confidence.tolist():
        if index in is_embedded:
            cell = int(predictions.labels[index]), int(predictions.preds[index])
            by_cell.setdefault(cell, []).append(index)
    lists = [errors[:LISTED].tolist(), suspects[:LISTED].tolist()]
    order = [*_round_robin(lists), *_round_robin(by_cell.values())]
    return list(dict.fromkeys(order))[:EXPLAINED_TEXTS]


def _round_robin(lists: Iterable[Sequence[int]]) -> Iterator[int]:
    """The first of each, then the second of each, …"""
    lists = list(lists)
    for place in range(max(map(len, lists), default=0)):
        yield from (each[place] for each in lists if place < len(each))


# --- why ---


def explain(predictions: Predictions, predictions_file: Path, indices: Sequence[int]) -> Explanations:
    """Attributions of rows to the predicted class and, where that is wrong, to the labelled one."""
    from lit_bert.evaluate.attribution import Explainer, Question, checkpoint_of

    try:
        checkpoint = checkpoint_of(predictions.facts, predictions_file)
        if checkpoint.model.label_names != predictions.class_names:
            raise UserError(f"{checkpoint.path} has other classes than these predictions.")
        explainer = Explainer.of(checkpoint)
    except UserError as error:
        return Explanations({}, f"Words are not coloured: {error}")
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
    attributions = explainer.explain([question for group in groups[:count] for question in group])
    note = _attribution_note(count, attributions)
    if explainer.long_texts.mode == "windows":
        note += " In a text of several windows a word has the sum of what it does in those that have it."
    return Explanations(dict(zip(keys, attributions, strict=True)), note)


def _attribution_note(texts: int, attributions: Sequence[Attribution]) -> str:
    """How the words' scores were computed, and how far they are from what they should add up to."""
    note = f"Words are coloured in {counted(texts, 'text')}"
    if not attributions:
        return f"{note}."
    gaps = np.abs([each.gap for each in attributions])
    gains = np.abs([each.scores.sum() + each.gap for each in attributions])
    half, most = np.quantile(gaps, (0.5, 0.95))
    return (
        f"{note}, by integrated gradients: what the class gains over a text of [MASK] only, in logits less "
        f"their mean, is shared out among the words. Of a gain of {np.median(gains):.2f} in the median, "
        f"their scores miss {half:.3f} in half of the answers and at most {most:.3f} in 95 % of them."
    )


# --- what the page's script is given ---


def script_data(
    predictions: Predictions,
    errors: np.ndarray,
    suspects: np.ndarray,
    embedded: np.ndarray,
    explanations: Explanations,
    counts: np.ndarray,
) -> dict[str, Any]:
    """What the page's script works on, as plain values.

    Each row: `n` its number, from 1; `y` the labelled and `p` the predicted class; `q` the likeliest classes
    with their probabilities; `t` segments of the text, each a string or [word, score, …] with one score for
    each class in `k`.

    Args:
        counts: confusion matrix (C, C), rows are labels.
    """
    attributions = explanations.attributions
    place = {index: number for number, index in enumerate(embedded.tolist())}
    rows = []
    for index in place:
        label, pred = int(predictions.labels[index]), int(predictions.preds[index])
        probs = predictions.outputs[index]
        likeliest = np.argsort(-probs, kind="stable")[:3].tolist()
        likeliest += [label] * (label not in likeliest)
        explained = [each for each in dict.fromkeys((pred, label)) if (index, each) in attributions]
        row = {
            "n": int(predictions.rows[index]) + 1,
            "y": label,
            "p": pred,
            "q": [[each, round(float(probs[each]), 4)] for each in likeliest],
            "t": text_segments(
                display(predictions.texts[index]), [attributions[index, each] for each in explained]
            ),
        }
        rows.append({**row, "k": explained} if explained else row)
    return {
        "classes": predictions.class_names,
        "names": escape.names(predictions.class_names, NAME_WIDTH),
        "cells": {f"{i}-{j}": int(counts[i, j]) for i, j in zip(*np.nonzero(counts), strict=True)},
        "rows": rows,
        "errors": [place[index] for index in errors[:LISTED].tolist()],
        "suspects": [place[index] for index in suspects[:LISTED].tolist()],
    }


def text_segments(text: str, attributions: Sequence[Attribution]) -> list[Any]:
    """The text cut into words, each with a score an attribution, and what is between them as it is.

    Joined, the strings are the text again, or `CHARACTERS` of it: the first, unless the word with the largest
    score stands behind them; then those around it.
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
        segments.append([text[start:stop], *(round(float(each.scores[word]), 3) for each in attributions)])
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
