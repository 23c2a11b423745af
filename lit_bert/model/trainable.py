"""The part of a network that trains: all of it, what is not frozen, or changes of low rank (LoRA).

    python -m lit_bert fit --model.lora.rank 8
    python -m lit_bert fit --model.freeze layers:3

What an architecture calls its parts stands in `encoders/`. The head always trains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lit_bert import UserError
from lit_bert.encoders.table import encoder_of
from lit_bert.io.escape import line
from lit_bert.sources.schema import NO_LORA, Lora

APART = ".parametrizations.weight.original"  # what torch adds to the name of a weight with a change


class LowRank(nn.Module):
    """A weight with a change of low rank, W + alpha / rank · B A (Hu et al., 2021).

    Args:
        weight: W, (out, in); `up`, B, starts at 0, and so does the change.
    """

    def __init__(self, weight: Tensor, lora: Lora) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.down = nn.Parameter(weight.new_empty(lora.rank, columns))
        self.up = nn.Parameter(weight.new_zeros(rows, lora.rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)
        self.scale = lora.alpha / lora.rank

    def forward(self, weight: Tensor) -> Tensor:
        # As it is merged for an export: under autocast the sum would be rounded to 16 bits.
        with torch.autocast(weight.device.type, enabled=False):
            return torch.addmm(weight, self.up, self.down, alpha=self.scale)


def check_trainable(lora: Lora, freeze: str | None) -> None:
    """Raises a UserError where the settings mean nothing, whatever the network."""
    if lora.rank < 0 or not lora.alpha > 0:
        raise UserError(
            f"model.lora.rank is {lora.rank} and model.lora.alpha is {lora.alpha:g}; expected a rank of at "
            "least 1, or 0 for no LoRA, and an alpha above 0."
        )
    if not lora.rank and lora != NO_LORA:
        raise UserError(
            "model.lora.alpha and model.lora.targets have no effect while model.lora.rank is 0. Give a rank, "
            "such as --model.lora.rank 8, or leave them out."
        )
    if freeze is not None:
        _frozen_layers(freeze)
    if lora.rank and freeze == "all":
        raise UserError(
            f"model.freeze is all and model.lora.rank is {lora.rank}: LoRA would have nothing to change. "
            "Leave one of them out."
        )


def _frozen_layers(freeze: str) -> int:
    """N of `layers:N`, else 0.

    Raises:
        UserError: it is none of the settings.
    """
    kind, _, count = freeze.partition(":")
    if freeze in ("embeddings", "all"):
        return 0
    if kind == "layers" and count.isascii() and count.isdecimal() and len(count) < 6 and int(count):
        return int(count)
    raise UserError(
        f"model.freeze is {line(freeze, 60)}; expected embeddings, layers:N for the embeddings and the "
        "lowest N layers, such as layers:6, or all for everything below the head."
    )


def set_trainable(network: Any, lora: Lora, freeze: str | None) -> None:
    """Freezes all that does not train, and adds the changes of LoRA, which are drawn anew.

    Raises:
        UserError: the architecture has no such part.
    """
    check_trainable(lora, freeze)
    is_frozen, in_head = _frozen_by(network, freeze), encoder_of(network).in_head
    linears = list(_targets(network, lora, is_frozen)) if lora.rank else []
    if lora.rank and not linears:
        raise UserError(
            f"model.freeze is {freeze} and model.lora.rank is {lora.rank}: LoRA would have nothing to "
            "change. Freeze fewer layers, or leave one of them out."
        )
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(in_head(name) or not (lora.rank or is_frozen(name)))
    for linear in linears:
        parametrize.register_parametrization(linear, "weight", LowRank(linear.weight, lora))


def _frozen_by(network: Any, freeze: str | None) -> Callable[[str], bool]:
    """Whether `freeze` holds a parameter below the head, by its name in the network."""
    encoder = encoder_of(network)
    if freeze is None:
        return lambda name: False
    if freeze == "all":
        return lambda name: True
    if freeze == "embeddings":
        places = [encoder.words.partition(".")[0], encoder.projection]
        return lambda name: _within(name, encoder.base, places)
    frozen, kind = _frozen_layers(freeze), encoder.model_type
    if encoder.blocks is None:
        raise UserError(
            f"model.freeze is {freeze}, and the layers of {kind} share their weights: none can be frozen "
            "alone. Give embeddings or all."
        )
    layers = len(network.get_submodule(f"{encoder.base}.{encoder.blocks}"))
    if frozen > layers:
        raise UserError(f"model.freeze is {freeze}, and this {kind} has {layers} layers; expected that many.")
    # Tables of relative positions, which all layers read, are frozen with the lowest.
    above = [encoder.final_norm, *(f"{encoder.blocks}.{index}" for index in range(frozen, layers))]
    return lambda name: not _within(name, encoder.base, above)


def _within(name: str, base: str, places: list[str | None]) -> bool:
    return any(name.startswith(f"{base}.{place}.") for place in places if place is not None)


def _targets(network: Any, lora: Lora, is_frozen: Callable[[str], bool]) -> Iterator[nn.Linear]:
    """The linear layers that get a change."""
    encoder = encoder_of(network)
    place = f"{encoder.base}.{encoder.blocks or encoder.layers}"
    for name, module in network.get_submodule(place).named_modules(prefix=place):
        if (
            not isinstance(module, nn.Linear)
            or is_frozen(f"{name}.weight")
            or name == f"{encoder.base}.{encoder.projection}"
            or not (lora.targets == "all" or name.endswith(encoder.attention))
        ):
            continue
        if lora.rank > (most := min(module.weight.shape)):
            raise UserError(
                f"model.lora.rank is {lora.rank}, and a linear layer of this {encoder.model_type} has rank "
                f"{most} as a whole; expected 1 to {most}."
            )
        yield module


def merge(network: Any) -> None:
    """Adds the changes of LoRA to the weights that they change: the plain network, all of which can train."""
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    network.requires_grad_(True)


def frozen_sha256(network: Any) -> str:
    """Hex digest of the frozen parameters of a network: names, shapes and values in 32 bits."""
    frozen = {
        name.replace(APART, ".weight"): parameter
        for name, parameter in network.named_parameters()
        if not parameter.requires_grad
    }
    digest = hashlib.sha256()
    for name in sorted(frozen):
        values = frozen[name].detach().float().cpu().contiguous()
        digest.update(f"{name} {list(values.shape)}\n".encode())
        digest.update(values.numpy().data)
    return digest.hexdigest()
