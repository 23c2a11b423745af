"""The table of types of encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lit_bert.encoders import albert, bert, bert_like, deberta, distilbert, modernbert, mpnet
from lit_bert.encoders.base import Encoder
from lit_bert.encoders.graph import Graph

ENCODERS: Mapping[str, Encoder] = {
    each.model_type: each
    for each in (
        bert.BERT,
        bert.ROBERTA,
        bert.XLM_ROBERTA,
        bert.CAMEMBERT,
        bert.ELECTRA,
        distilbert.DISTILBERT,
        albert.ALBERT,
        mpnet.MPNET,
        deberta.DEBERTA_V2,
        modernbert.MODERNBERT,
        bert.DATA2VEC_TEXT,
        bert_like.CONVBERT,
        bert_like.MEGATRON_BERT,
        bert_like.REMBERT,
        bert_like.ROBERTA_PRELAYERNORM,
        bert_like.XLM_ROBERTA_XL,
    )
}


def encoder_of(network: Any) -> Encoder:
    """That of a network of transformers."""
    return ENCODERS[network.config.model_type]


def graph_of(network: Any) -> nn.Module | None:
    """The module to export: logits, float32 (B, C), of `input_ids` and `attention_mask`, int64 (B, T).

    None where there is none for the architecture, or for what its configuration adds to it.
    """
    encoder = encoder_of(network)
    if encoder.parts is not None:
        return Graph(network, encoder.parts_of(network)).eval() if encoder.has_parts(network) else None
    graph = encoder.graph(network) if encoder.graph is not None else None
    return None if graph is None else graph.eval()
