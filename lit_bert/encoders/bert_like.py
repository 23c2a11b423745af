"""Encoders near BERT whose layers differ from its: they are computed by the modules of transformers alone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lit_bert.encoders.base import Encoder
from lit_bert.encoders.bert import LIKE_ROBERTA, SUMMARY, BertFields, RobertaFields
from lit_bert.encoders.config import (
    Count,
    Epsilon,
    InnerWidth,
    Positions,
    Probability,
    TokenId,
    TokenTypes,
    Vocabulary,
    Width,
)


class RobertaPreLayerNorm(RobertaFields):
    """RobertaPreLayerNormConfig."""

    model_type: Literal["roberta-prelayernorm"]


class XlmRobertaXl(RobertaFields):
    """XLMRobertaXLConfig."""

    model_type: Literal["xlm-roberta-xl"]
    vocab_size: Vocabulary = 250880
    hidden_size: Width = 2560
    num_hidden_layers: Count = 36
    num_attention_heads: Count = 32
    intermediate_size: InnerWidth = 10240
    max_position_embeddings: Positions = 514
    type_vocab_size: TokenTypes = 1
    layer_norm_eps: Epsilon = 1e-5


class MegatronBert(BertFields):
    """MegatronBertConfig."""

    model_type: Literal["megatron-bert"]
    vocab_size: Vocabulary = 29056
    hidden_size: Width = 1024
    num_hidden_layers: Count = 24
    num_attention_heads: Count = 16
    intermediate_size: InnerWidth = 4096


class RemBert(BertFields):
    """RemBertConfig: word embeddings of a size of their own."""

    without_effect = frozenset({"output_embedding_size", "embedding_size"})
    model_type: Literal["rembert"]
    vocab_size: Vocabulary = 250300
    hidden_size: Width = 1152
    num_hidden_layers: Count = 32
    num_attention_heads: Count = 18
    input_embedding_size: Width = 256
    intermediate_size: InnerWidth = 4608
    hidden_dropout_prob: Probability = 0.0
    attention_probs_dropout_prob: Probability = 0.0
    classifier_dropout_prob: Probability = 0.1


class ConvBert(BertFields):
    """ConvBertConfig: some of the heads are convolutions."""

    without_effect = SUMMARY
    model_type: Literal["convbert"]
    pad_token_id: TokenId = 1
    embedding_size: Width = 768
    head_ratio: Count = 2
    conv_kernel_size: Annotated[int, Field(ge=1, le=31)] = 9
    num_groups: Count = 1


MEGATRON_BERT = Encoder(MegatronBert, "bert", pooler="pooler", final_norm="encoder.ln")
REMBERT = Encoder(RemBert, "rembert", pooler="pooler", projection="encoder.embedding_hidden_mapping_in")
ROBERTA_PRELAYERNORM = Encoder(
    RobertaPreLayerNorm, "roberta_prelayernorm", final_norm="LayerNorm", **LIKE_ROBERTA
)
XLM_ROBERTA_XL = Encoder(XlmRobertaXl, "roberta", final_norm="encoder.LayerNorm", **LIKE_ROBERTA)
CONVBERT = Encoder(ConvBert, "convbert", projection="embeddings_project", logits="classifier.out_proj")
