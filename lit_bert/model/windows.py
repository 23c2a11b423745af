"""Logits of texts: where a batch has several windows of a text, those of its windows, pooled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_bert.model.logits import inputs_of

# Padded tokens of windows computed at a time where no gradient is kept: memory does not grow with the length
# of texts. As many as a batch of 64 texts of 128 tokens has.
WINDOW_TOKENS = 8192


def text_logits(model: Any, batch: dict[str, Any]) -> Tensor:
    """Logits, float (B, C), of the texts of a batch as `data.batches.collate` makes it.

    Args:
        model: from what `inputs_of` gives of a batch, (W, T) each, to logits (W, C).
    """
    inputs = inputs_of(batch)
    if "text_index" not in batch:
        return model(**inputs).float()
    W, T = inputs["input_ids"].shape
    some = W if torch.is_grad_enabled() else max(1, WINDOW_TOKENS // T)
    parts = zip(*(each.split(some) for each in inputs.values()), strict=True)
    logits = torch.cat([model(**dict(zip(inputs, part, strict=True))).float() for part in parts])
    return pooled(logits, batch["text_index"], batch["pooling"])


def pooled(logits: Tensor, text_index: Tensor, pooling: str) -> Tensor:
    """Logits of texts (B, C): the mean, or by class the maximum, of those of their windows (W, C).

    Args:
        text_index: int64 (W,), ascending from 0 to B - 1.
    """
    counts = torch.unique_consecutive(text_index, return_counts=True)[1].tolist()
    reduce = torch.amax if pooling == "max" else torch.mean
    return torch.stack([reduce(each, 0) for each in logits.split(counts)])
