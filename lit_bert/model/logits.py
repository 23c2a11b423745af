"""Logits by the modules of transformers, exact in their last layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lit_bert.encoders.table import encoder_of

INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # of a network; the last one only of pairs


def inputs_of(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a network takes of a batch."""
    return {name: batch[name] for name in INPUTS if name in batch}


def exact_logits(
    network: Any, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
) -> Tensor:
    """Logits (B, C) by the modules of transformers, the last linear layer in the precision of its weights.

    Under autocast, too: a temperature in weights of 32 bits then divides exactly.
    """
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if token_type_ids is not None:
        inputs["token_type_ids"] = token_type_ids
    if not torch.is_autocast_enabled(input_ids.device.type):
        return network(**inputs).logits
    linear, seen = encoder_of(network).logits_of(network), list[Tensor]()
    hook = linear.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        network(**inputs)
    finally:
        hook.remove()
    with torch.autocast(input_ids.device.type, enabled=False):
        return linear(seen[-1].to(linear.weight.dtype))
