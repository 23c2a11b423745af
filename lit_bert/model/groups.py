"""Learning rates and decay: which parameters share them, and how they change from step to step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import nn

from lit_bert.encoders.table import encoder_of

MAX_RATE = 3e-4  # that Turc et al. (2019) allow the smallest BERTs
# On the packaged sample 5 scored lower and 20 alike, with two seeds each: too few to tell more.
LORA_RATE = 10  # Hu et al. (2021), table 9: 4e-4 to 5e-4 for roberta-base, fine-tuned with 3e-5 as a whole


def default_learning_rate(network: Any, layers: int, lora: bool) -> float:
    """The highest learning rate that suits architecture and size.

    The upper end of what its authors fine-tune 12 layers of 768 with (5e-5 for BERT, Devlin et al., 2019), in
    inverse proportion to layers × hidden size, up to `MAX_RATE`; with LoRA `LORA_RATE` times that.

    Args:
        layers: that were pretrained.
    """
    size = layers * network.config.hidden_size
    rate = min(encoder_of(network).learning_rate * 12 * 768 / size, MAX_RATE)
    return rate * LORA_RATE if lora else rate


def parameter_groups(
    network: Any,
    trained: Collection[nn.Parameter],
    rates: tuple[float, float],
    weight_decay: float,
    beta2: float,
) -> list[dict[str, Any]]:
    """Groups for AdamW: encoder and head, and of each first its matrices, then its vectors, without decay.

    Args:
        trained: the parameters that train.
        rates: learning rates of encoder and head.
        weight_decay: of matrices; biases and LayerNorm have none.
        beta2: decay of the second moment.
    """
    groups, encoder = [], encoder_of(network)
    for in_head, rate in enumerate(rates):
        named = ((name, each) for name, each in network.named_parameters() if each in trained)
        own = [each for name, each in named if encoder.in_head(name) == bool(in_head)]
        matrices, vectors = [each for each in own if each.ndim >= 2], [each for each in own if each.ndim < 2]
        shared = {"lr": rate, "betas": (0.9, beta2)}
        groups.append({"params": matrices, "weight_decay": weight_decay, **shared})
        groups.append({"params": vectors, "weight_decay": 0.0, **shared})
    return groups


def layer_factors(network: Any, decay: float) -> dict[nn.Parameter, float]:
    """What the learning rate of each parameter is multiplied by: 1 of the head, less in each layer below."""
    encoder, layers = encoder_of(network), network.config.num_hidden_layers
    blocks = None if encoder.blocks is None else f"{encoder.base}.{encoder.blocks}."
    factors = {}
    for name, parameter in network.named_parameters():
        on_top = encoder.in_head(name) or name.startswith(f"{encoder.base}.{encoder.final_norm}.")
        above = 0 if on_top else layers
        if blocks is not None and name.startswith(blocks):
            above = layers - 1 - int(name.removeprefix(blocks).partition(".")[0])
        factors[parameter] = decay**above
    return factors


def split_by_rate(
    groups: list[dict[str, Any]], factors: Mapping[nn.Parameter, float]
) -> list[dict[str, Any]]:
    """The groups, each split into those of one learning rate.

    Args:
        factors: what the rate of each parameter is multiplied by.
    """
    split = []
    for group in groups:
        for factor in sorted({factors[each] for each in group["params"]}):
            params = [each for each in group["params"] if factors[each] == factor]
            split.append({**group, "params": params, "lr": group["lr"] * factor})
    return split


def warmup_and_decay(
    warmup: int, steps: int, time_share: Callable[[], Callable[[], float] | None] = lambda: None
) -> Callable[[int], float]:
    """From the number of an optimizer step, from 0, to the share of the highest learning rate.

    It rises linearly over `warmup` steps and then falls linearly to 0 after `steps`.

    Args:
        time_share: gives what says how much of the time is over, 0 to 1, or None. It counts as that share of
            the steps, where they are not as far.
    """

    def factor(step: int) -> float:
        if (share := time_share()) is not None:
            step = max(step, int(share() * steps))
        return (step + 1) / (warmup + 1) if step < warmup else max(0.0, (steps - step) / (steps - warmup))

    return factor
