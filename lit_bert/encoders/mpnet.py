"""MPNet (Song et al., 2020): a bias by distance in the scores of attention."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from lit_bert.encoders.base import Encoder
from lit_bert.encoders.config import (
    Buckets,
    TransformerFields,
    Vocabulary,
)
from lit_bert.encoders.parts import Embeddings, Layer, Parts


class MPNet(TransformerFields):
    """MPNetConfig. Its modules take 1 for the padding token whatever it says."""

    model_type: Literal["mpnet"]
    vocab_size: Vocabulary = 30527
    relative_attention_num_buckets: Buckets = 32
    pad_token_id: Literal[1] = 1

    @property
    def limit(self) -> int:
        return self.max_position_embeddings - 2


def _parts(network: Any, encoder: Encoder) -> Parts:
    base = network.mpnet
    tables, first, distances = base.embeddings, base.encoder.layer[0], base.encoder.relative_attention_bias
    places = torch.arange(network.config.max_position_embeddings)
    buckets = base.encoder.relative_position_bucket(places - places[:, None])  # (L, L)

    def bias(tokens: int) -> Tensor:
        return distances(buckets[:tokens, :tokens]).permute(2, 0, 1)

    return Parts(
        Embeddings(
            tables.word_embeddings,
            tables.position_embeddings,
            None,
            tables.LayerNorm,
            tables.padding_idx,
        ),
        [
            Layer(
                *(each.attention.attn.q, each.attention.attn.k, each.attention.attn.v),
                *(each.attention.attn.o, each.attention.LayerNorm),
                *(each.intermediate.dense, each.output.dense, each.output.LayerNorm),
            )
            for each in base.encoder.layer
        ],
        first.intermediate.intermediate_act_fn,
        network.config.num_attention_heads,
        (tables.dropout.p, first.attention.attn.dropout.p),
        lambda first_states: network.classifier(first_states[:, None]),
        bias=bias,
    )


MPNET = Encoder(
    MPNet,
    "mpnet",
    attention=("attention.attn.q", "attention.attn.v"),
    logits="classifier.out_proj",
    learning_rate=3e-5,  # Song et al. (2020), section 4.1
    parts=_parts,
    fast=False,
    mask_token="<mask>",
)
