"""ALBERT (Lan et al., 2020): layers that share their weights."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from lit_bert.encoders.base import Encoder
from lit_bert.encoders.config import (
    Activation,
    Count,
    InnerWidth,
    Probability,
    TokenTypes,
    TransformerFields,
    Vocabulary,
    Width,
)
from lit_bert.encoders.parts import Embeddings, Layer, Parts


class Albert(TransformerFields):
    """AlbertConfig: layers that share their weights."""

    without_effect = frozenset({"net_structure_type", "gap_size", "num_memory_blocks", "down_scale_factor"})
    model_type: Literal["albert"]
    vocab_size: Vocabulary = 30000
    embedding_size: Width = 128
    hidden_size: Width = 4096
    num_hidden_groups: Count = 1
    num_attention_heads: Count = 64
    intermediate_size: InnerWidth = 16384
    inner_group_num: Count = 1
    hidden_act: Activation = "gelu_new"
    hidden_dropout_prob: Probability = 0.0
    attention_probs_dropout_prob: Probability = 0.0
    classifier_dropout_prob: Probability = 0.1
    type_vocab_size: TokenTypes = 2


def _parts(network: Any, encoder: Encoder) -> Parts:
    base, count = network.albert, network.config.num_hidden_layers
    tables, groups = base.embeddings, base.encoder.albert_layer_groups
    order = [
        layer
        for index in range(count)
        for layer in groups[int(index / (count / len(groups)))].albert_layers  # as transformers counts them
    ]

    def head(first_states: Tensor) -> Tensor:
        return network.classifier(network.dropout(base.pooler_activation(base.pooler(first_states))))

    return Parts(
        Embeddings(
            tables.word_embeddings,
            tables.position_embeddings,
            tables.token_type_embeddings,
            tables.LayerNorm,
            projection=base.encoder.embedding_hidden_mapping_in,
        ),
        [
            Layer(
                *(each.attention.query, each.attention.key, each.attention.value),
                *(each.attention.dense, each.attention.LayerNorm),
                *(each.ffn, each.ffn_output, each.full_layer_layer_norm),
            )
            for each in order
        ],
        order[0].activation,
        network.config.num_attention_heads,
        (tables.dropout.p, order[0].attention.attention_dropout.p),
        head,
    )


ALBERT = Encoder(
    Albert,
    "albert",
    blocks=None,
    projection="encoder.embedding_hidden_mapping_in",
    attention=("attention.query", "attention.value"),
    pooler="pooler",
    parts=_parts,
    fast=False,
)
