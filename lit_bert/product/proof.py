"""The proof of an exported file: its predictions of the validation rows, compared with the checkpoint's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lit_bert.data.padding import pad
from lit_bert.data.windows import LongTexts, encode_by_characters, pooled
from lit_bert.evaluate import compare, scores
from lit_bert.evaluate.predictions import Predictions
from lit_bert.evaluate.scores import Score, Scores
from lit_bert.product.formats import Format
from lit_bert.task.base import Task

BASELINE_BATCH = 32  # texts
MAX_DIFFERENCE = 1e-3  # most that a probability of the 32-bit file may differ by


class ProofError(Exception):
    """An exported file is not the model that was to be exported; the message says how it differs."""


@dataclass(frozen=True)
class Variant:
    """What an ONNX file makes of the validation rows.

    Attributes:
        scores: with 95 % bootstrap intervals, 0 to 1.
        agreement: share of the rows with the checkpoint's label.
        difference: largest difference of a probability from the checkpoint's.
        texts_per_s: on the machine that exported it.
        bytes: size of the file.
        f1_change: its macro F1 less the checkpoint's on the same rows, with the paired interval.
    """

    scores: Scores[Score]
    agreement: float
    difference: float
    texts_per_s: float
    bytes: int
    f1_change: Score


def checkpoint_probs(
    network: Any, tokenizer: Any, long_texts: LongTexts, task: Task, texts: Sequence[str]
) -> np.ndarray:
    """Probabilities, float32 (N, C), by the network of transformers in 32 bits.

    Args:
        tokenizer: which cuts nothing off.
    """
    import torch

    parts_of = [long_texts.parts(np.array(each.ids)) for each in encode_by_characters(tokenizer, texts)]
    parts = [part for parts in parts_of for part in parts]
    order = np.argsort([-len(part) for part in parts], kind="stable")
    logits = np.empty((len(parts), network.config.num_labels), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), BASELINE_BATCH):
            rows = order[start : start + BASELINE_BATCH]
            padded = pad([parts[row] for row in rows], network.config.pad_token_id or 0)
            input_ids, attention_mask = map(torch.from_numpy, padded)
            logits[rows] = network(input_ids=input_ids, attention_mask=attention_mask).logits.numpy()
    return task.probabilities(pooled(logits, [len(parts) for parts in parts_of], long_texts.pooling))


def measure(folder: Path, form: Format, task: Task, rows: Predictions, wanted: np.ndarray) -> Variant:
    """Predictions of a file of the folder, by the public way to run it, compared with the checkpoint's."""
    probabilities = form.open(folder)
    probabilities(rows.texts[:32])
    start = time.perf_counter()
    probs = probabilities(rows.texts)
    seconds = time.perf_counter() - start
    same = task.predictions(probs) == task.predictions(wanted)
    return Variant(
        scores.with_intervals(probs, rows.labels),
        float(same.reshape(len(probs), -1).all(1).mean()),
        float(np.abs(probs - wanted).max()),
        len(rows.texts) / seconds,
        (folder / form.file).stat().st_size,
        compare.macro_f1_change(wanted, probs, rows.labels),
    )


def lost_points(f1_change: Score) -> Score:
    """Hundredths of macro F1 that a file loses against the checkpoint; below 0 it gains."""
    value, low, high = f1_change
    return Score(-100 * value, -100 * high, -100 * low)


def format_points(lost: Score) -> str:
    """With the 95 % interval."""
    value, low, high = (each + 0.0 for each in lost)  # no negative zero
    return f"{value:.2f} points of macro F1 [{low:.2f}, {high:.2f}]"


def proof_table(own: Scores[Score], found: dict[str, Variant]) -> str:
    """One line a file."""
    lines = [f"{'':18}macro F1  same label  largest difference   texts/s       MB"]
    lines.append(f"{'checkpoint':18}{own.macro_f1.value:8.4f}")
    for name, each in found.items():
        lines.append(
            f"{name:18}{each.scores.macro_f1.value:8.4f}  {each.agreement:10.4f}  {each.difference:18.2g}"
            f"  {each.texts_per_s:8,.0f}  {each.bytes / 1e6:7.1f}"
        )
    return "\n".join(lines)
