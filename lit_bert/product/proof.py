"""The proof of an exported file: its predictions of the validation rows, compared with the checkpoint's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lit_bert.data.batches import collate
from lit_bert.data.windows import LongTexts
from lit_bert.evaluate import compare, scores
from lit_bert.evaluate.predictions import Predictions
from lit_bert.evaluate.scores import Score, Scores
from lit_bert.io.texts import SINGLE, Text, TextForm
from lit_bert.model.windows import text_logits
from lit_bert.product.formats import Format
from lit_bert.task.base import Parameters, Task

BASELINE_BATCH = 32  # texts
MAX_DIFFERENCE = 1e-3  # most that an output of the 32-bit file may differ by, in units of `Task.unit`


class ProofError(Exception):
    """An exported file is not the model that was to be exported; the message says how it differs."""


@dataclass(frozen=True)
class ProofRows:
    """The texts that exported files are compared on.

    Attributes:
        what: they are, in words.
        labelled: their labels, with what the checkpoint said of them; None where the texts have none.
    """

    texts: Sequence[Text]
    what: str
    labelled: Predictions | None = None


@dataclass(frozen=True)
class Variant:
    """What an ONNX file makes of the rows of the proof.

    Attributes:
        scores: with 95 % bootstrap intervals, 0 to 1; None without labels.
        agreement: share of the rows with the checkpoint's prediction; of numbers, one that differs by at most
            MAX_DIFFERENCE of the labels' standard deviation.
        difference: largest difference of a probability from the checkpoint's, or of a number, in units of the
            labels' standard deviation.
        texts_per_s: on the machine that exported it.
        bytes: size of the file.
        main_change: the score that chooses between models, such as macro F1, less the checkpoint's on the
            same rows, with the paired interval; None without labels.
        outputs: float32 (N, C), that it gives the rows.
        guarantees: of its answers, as parameters of the task.
        promises: the same in words.
    """

    scores: Scores[Score] | None
    agreement: float
    difference: float
    texts_per_s: float
    bytes: int
    main_change: Score | None
    outputs: np.ndarray
    guarantees: Parameters = field(default_factory=dict)
    promises: Sequence[str] = ()


def checkpoint_outputs(
    network: Any,
    tokenizer: Any,
    long_texts: LongTexts,
    task: Task,
    texts: Sequence[Text],
    form: TextForm = SINGLE,
) -> np.ndarray:
    """Outputs, float32 (N, C), by the network of transformers in 32 bits.

    Args:
        tokenizer: which cuts nothing off.
    """
    import torch

    has_types = form.token_types(tokenizer, getattr(network.config, "type_vocab_size", 0))
    items: list[dict[str, Any]] = []
    for each in form.encode(tokenizer, texts, long_texts.max_length):
        items.append({"windows": long_texts.parts(np.array(each.ids))})
        if has_types:
            items[-1]["token_type_ids"] = each.type_ids
    order = np.argsort([-sum(map(len, item["windows"])) for item in items], kind="stable")
    logits = np.empty((len(texts), network.config.num_labels), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), BASELINE_BATCH):
            rows = order[start : start + BASELINE_BATCH]
            batch = collate(
                [items[row] for row in rows], network.config.pad_token_id or 0, long_texts.pooling
            )
            logits[rows] = text_logits(lambda **inputs: network(**inputs).logits, batch).numpy()
    return task.outputs(logits)


def measure(folder: Path, form: Format, task: Task, rows: ProofRows, wanted: np.ndarray) -> Variant:
    """Predictions of a file of the folder, by the public way to run it, compared with the checkpoint's."""
    outputs_of = form.open(folder)
    outputs_of(rows.texts[:32])
    start = time.perf_counter()
    outputs = outputs_of(rows.texts)
    seconds = time.perf_counter() - start
    differences = np.abs(outputs - wanted) / task.unit
    same = task.predictions(outputs) == task.predictions(wanted)
    if task.label_form == "number":
        same = differences <= MAX_DIFFERENCE
    labels = None if rows.labelled is None else rows.labelled.labels
    return Variant(
        None if labels is None else scores.with_intervals(task, outputs, labels),
        float(same.reshape(len(outputs), -1).all(1).mean()),
        float(differences.max()),
        len(rows.texts) / seconds,
        (folder / form.file).stat().st_size,
        None if labels is None else compare.main_change(task, wanted, outputs, labels),
        outputs,
    )


def lost_points(main_change: Score) -> Score:
    """Hundredths of the main score that a file loses against the checkpoint; below 0 it gains."""
    value, low, high = main_change
    return Score(-100 * value, -100 * high, -100 * low)


def format_points(lost: Score, title: str) -> str:
    """With the 95 % interval, of the score of that title."""
    value, low, high = (each + 0.0 for each in lost)  # no negative zero
    return f"{value:.2f} points of {title} [{low:.2f}, {high:.2f}]"


def proof_table(own: Scores[Score] | None, found: dict[str, Variant]) -> str:
    """One line a file; without scores where there are no labels."""
    title = own.task.main_title if own else ""
    width = max(len(title), 8)

    def score(scores: Scores[Score] | None) -> str:
        return f"{scores.chosen_by.value:{width}.4f}" if scores else " " * width

    lines = [f"{'':18}{title:>{width}}  same label  largest difference   texts/s       MB"]
    lines += [f"{'checkpoint':18}{score(own)}"] * bool(own)
    for name, each in found.items():
        lines.append(
            f"{name:18}{score(each.scores)}  {each.agreement:10.4f}"
            f"  {each.difference:18.2g}"
            f"  {each.texts_per_s:8,.0f}  {each.bytes / 1e6:7.1f}"
        )
    return "\n".join(lines)
