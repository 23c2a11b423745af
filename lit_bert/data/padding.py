"""Token ids of several texts as one array: the only place that pads. numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def padded_inputs(
    token_ids: Sequence[Sequence[int] | np.ndarray],
    pad_token_id: int = 0,
    token_type_ids: Sequence[Sequence[int] | np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """What a network takes: `input_ids`, `attention_mask` and, of pairs, `token_type_ids`, int64 (B, T)."""
    input_ids, attention_mask = pad(token_ids, pad_token_id)
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if token_type_ids is not None:
        inputs["token_type_ids"] = pad(token_type_ids)[0]
    return inputs


def pad(
    token_ids: Sequence[Sequence[int] | np.ndarray], pad_token_id: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Pads texts on the right to the longest of them.

    Returns:
        `input_ids` and `attention_mask`, int64 (B, T).
    """
    lengths = np.array([len(each) for each in token_ids])
    mask = np.arange(lengths.max()) < lengths[:, None]  # (B, T)
    input_ids = np.full(mask.shape, pad_token_id, dtype=np.int64)
    input_ids[mask] = np.concatenate(token_ids)
    return input_ids, mask.astype(np.int64)
