"""BERT (Devlin et al., 2019) and those who took over its modules: RoBERTa and its kin, ELECTRA."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from lit_bert.encoders.base import Encoder
from lit_bert.encoders.config import (
    Activation,
    Architecture,
    Count,
    Epsilon,
    InnerWidth,
    Probability,
    TokenId,
    TokenTypes,
    Vocabulary,
    Width,
)
from lit_bert.encoders.parts import Embeddings, Layer, Parts


class Bert(Architecture):
    """BertConfig."""

    model_type: Literal["bert"]
    hidden_size: Width = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    intermediate_size: InnerWidth = 3072
    hidden_act: Activation = "gelu"
    hidden_dropout_prob: Probability = 0.1
    attention_probs_dropout_prob: Probability = 0.1
    classifier_dropout: Probability | None = None
    type_vocab_size: TokenTypes = 2
    layer_norm_eps: Epsilon = 1e-12
    use_cache: bool = True
    is_decoder: Literal[False] = False
    add_cross_attention: Literal[False] = False


class Roberta(Bert):
    """RobertaConfig: the first position is the one after the padding token's id."""

    model_type: Literal["roberta"]  # type: ignore[assignment]
    vocab_size: Vocabulary = 50265
    pad_token_id: TokenId = 1

    @property
    def limit(self) -> int:
        return self.max_position_embeddings - self.pad_token_id - 1


class XlmRoberta(Roberta):
    """XLMRobertaConfig."""

    model_type: Literal["xlm-roberta"]  # type: ignore[assignment]
    vocab_size: Vocabulary = 30522


class Camembert(Roberta):
    """CamembertConfig."""

    model_type: Literal["camembert"]  # type: ignore[assignment]
    vocab_size: Vocabulary = 30522


class Data2VecText(Roberta):
    """Data2VecTextConfig."""

    model_type: Literal["data2vec-text"]  # type: ignore[assignment]
    vocab_size: Vocabulary = 30522


# Of the head of ELECTRA's and ConvBERT's models for multiple choice.
SUMMARY = frozenset({"summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout"})


class Electra(Bert):
    """ElectraConfig: word embeddings of a size of their own."""

    without_effect = SUMMARY
    model_type: Literal["electra"]  # type: ignore[assignment]
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
    "learning_rate": 3e-5,  # Liu et al. (2019), appendix C
    "mask_token": "<mask>",
}
BERT = Encoder(Bert, "bert", pooler="pooler", parts=_parts)
ROBERTA = Encoder(Roberta, "roberta", parts=_parts, **LIKE_ROBERTA)
XLM_ROBERTA = Encoder(XlmRoberta, "roberta", parts=_parts, **LIKE_ROBERTA)
CAMEMBERT = Encoder(Camembert, "roberta", parts=_parts, **LIKE_ROBERTA)
DATA2VEC_TEXT = Encoder(Data2VecText, "data2vec_text", parts=_parts, **LIKE_ROBERTA)
ELECTRA = Encoder(
    Electra, "electra", projection="embeddings_project", logits="classifier.out_proj", parts=_parts
)
