"""The parts of an encoder of BERT's structure; `base.Encoder.parts` says where an architecture has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """The parts of one post-norm transformer layer (Vaswani et al., 2017; Devlin et al., 2019)."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attended: nn.Linear
    attended_norm: nn.LayerNorm
    up: nn.Linear
    down: nn.Linear
    norm: nn.LayerNorm


@dataclass(frozen=True)
class Embeddings:
    """What a token is before the first layer.

    Attributes:
        words, positions, token_types, norm: the tables, of which `token_types` may be missing, and the norm.
        skipped_id: the token that takes no position, the first of which is `skipped_id + 1`; None: every
            token takes one, from 0.
        projection: from their size to the hidden size; None where it is the same.
    """

    words: nn.Embedding
    positions: nn.Embedding
    token_types: nn.Embedding | None
    norm: nn.LayerNorm
    skipped_id: int | None = None
    projection: nn.Linear | None = None


@dataclass(frozen=True)
class Parts:
    """The parts of an encoder of BERT's structure.

    Attributes:
        layers: in order; one that shares its weights stands there each time.
        activation: what follows `Layer.up`.
        heads: of attention.
        dropout: probabilities for hidden states, and for what attention gives to tokens.
        head: logits (B, C) of the last hidden states (B, H) of each text's first token.
        drops_attended: whether hidden states are dropped after attention, too.
        bias: added to the scores of attention, float (A, T, T), by the number of tokens; None adds nothing.
    """

    embeddings: Embeddings
    layers: list[Layer]
    activation: Callable[[Tensor], Tensor]
    heads: int
    dropout: tuple[float, float]
    head: Callable[[Tensor], Tensor]
    drops_attended: bool = True
    bias: Callable[[int], Tensor] | None = None
