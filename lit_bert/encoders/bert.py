"""BERT (Devlin et al., 2019) and those who took over its modules: RoBERTa and its kin, ELECTRA."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from lit_bert.encoders.base import Encoder
from lit_bert.encoders.config import (
    Count,
    InnerWidth,
    Probability,
    TokenId,
    TokenTypes,
    TransformerFields,
    Vocabulary,
    Width,
)
from lit_bert.encoders.parts import Embeddings, Layer, Parts


class BertFields(TransformerFields):
    """Those of BertConfig, which others take over."""

    classifier_dropout: Probability | None = None
    type_vocab_size: TokenTypes = 2
    use_cache: bool = True
    is_decoder: Literal[False] = False
    add_cross_attention: Literal[False] = False


class Bert(BertFields):
    """BertConfig."""

    model_type: Literal["bert"]


class RobertaFields(BertFields):
    """Those of RobertaConfig: the first position is the one after the padding token's id."""

    vocab_size: Vocabulary = 50265
    pad_token_id: TokenId = 1

    @property
    def limit(self) -> int:
        return self.max_position_embeddings - self.pad_token_id - 1


class Roberta(RobertaFields):
    """RobertaConfig."""

    model_type: Literal["roberta"]


class XlmRoberta(RobertaFields):
    """XLMRobertaConfig."""

    model_type: Literal["xlm-roberta"]
    vocab_size: Vocabulary = 30522


class Camembert(RobertaFields):
    """CamembertConfig."""

    model_type: Literal["camembert"]
    vocab_size: Vocabulary = 30522


class Data2VecText(RobertaFields):
    """Data2VecTextConfig."""

    model_type: Literal["data2vec-text"]
    vocab_size: Vocabulary = 30522


# Of the head of ELECTRA's and ConvBERT's models for multiple choice.
SUMMARY = frozenset({"summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout"})


class Electra(BertFields):
    """ElectraConfig: word embeddings of a size of their own."""

    without_effect = SUMMARY
    model_type: Literal["electra"]
    embedding_size: Width = 128
    hidden_size: Width = 256
    num_attention_heads: Count = 4
    intermediate_size: InnerWidth = 1024


def _parts(network: Any, encoder: Encoder) -> Parts:
    """Where the parts are."""
    base: Any = encoder.base_of(network)
    tables, first = base.embeddings, base.encoder.layer[0]

    def head(first_states: Tensor) -> Tensor:
        if encoder.pooler is None:
            return network.classifier(first_states[:, None])  # reads the first token of each text
        pooled = base.pooler.activation(base.pooler.dense(first_states))
        return network.classifier(network.dropout(pooled))

    return Parts(
        Embeddings(
            tables.word_embeddings,
            tables.position_embeddings,
            tables.token_type_embeddings,
            tables.LayerNorm,
            tables.position_embeddings.padding_idx,
            getattr(base, "embeddings_project", None),
        ),
        [
            Layer(
                *(each.attention.self.query, each.attention.self.key, each.attention.self.value),
                *(each.attention.output.dense, each.attention.output.LayerNorm),
                *(each.intermediate.dense, each.output.dense, each.output.LayerNorm),
            )
            for each in base.encoder.layer
        ],
        first.intermediate.intermediate_act_fn,
        network.config.num_attention_heads,
        (tables.dropout.p, first.attention.self.dropout.p),
        head,
    )


LIKE_ROBERTA: dict[str, Any] = {
    "logits": "classifier.out_proj",
    "head_dense": "classifier.dense",
    "learning_rate": 3e-5,  # Liu et al. (2019), appendix C
    "mask_token": "<mask>",
}
BERT = Encoder(Bert, "bert", pooler="pooler", head_dense="bert.pooler.dense", parts=_parts)
ROBERTA = Encoder(Roberta, "roberta", parts=_parts, **LIKE_ROBERTA)
XLM_ROBERTA = Encoder(XlmRoberta, "roberta", parts=_parts, **LIKE_ROBERTA)
CAMEMBERT = Encoder(Camembert, "roberta", parts=_parts, **LIKE_ROBERTA)
DATA2VEC_TEXT = Encoder(Data2VecText, "data2vec_text", parts=_parts, **LIKE_ROBERTA)
ELECTRA = Encoder(
    Electra,
    "electra",
    projection="embeddings_project",
    logits="classifier.out_proj",
    head_dense="classifier.dense",
    parts=_parts,
)
