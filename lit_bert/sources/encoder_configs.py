"""What each type of encoder may say of itself: one schema for a type, with values in bounds.

A new type of encoder needs a class here and an entry in `model.encoder.ENCODERS`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from lit_bert.io import tokenizers

Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish", "tanh"]
Vocabulary = Annotated[int, Field(ge=1, le=tokenizers.MAX_TOKENS)]
Width = Annotated[int, Field(ge=1, le=1 << 14)]
InnerWidth = Annotated[int, Field(ge=1, le=1 << 17)]
Count = Annotated[int, Field(ge=1, le=256)]  # of layers, heads, groups
Positions = Annotated[int, Field(ge=3, le=1 << 17)]
Buckets = Annotated[int, Field(ge=2, le=1 << 13)]
TokenTypes = Annotated[int, Field(ge=1, le=1 << 10)]
TokenId = Annotated[int, Field(ge=0, le=tokenizers.MAX_TOKENS)]
Probability = Annotated[float, Field(ge=0, le=1)]
Epsilon = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(ge=0, le=10)]
Theta = Annotated[float, Field(ge=1, le=1e9)]


class Architecture(BaseModel):
    """What makes the network of one type of encoder; defaults are those of its configuration class.

    Attributes:
        without_effect: further keys of its config.json that do not change a classifier.
        sizes: the names of the number of attention heads and of the hidden size that they share.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)
    without_effect: ClassVar[frozenset[str]] = frozenset()
    sizes: ClassVar[tuple[str, str]] = ("num_attention_heads", "hidden_size")

    model_type: str
    vocab_size: Vocabulary = 30522
    max_position_embeddings: Positions = 512
    initializer_range: Deviation = 0.02
    pad_token_id: TokenId | None = 0
    tie_word_embeddings: bool = True

    @property
    def limit(self) -> int:
        """Tokens of a text, special ones included, that the network has positions for."""
        return self.max_position_embeddings

    def problem(self) -> str | None:
        """Which values do not fit each other, with what was expected."""
        heads, hidden = (getattr(self, name) for name in self.sizes)
        if hidden % heads:
            return (
                f"{heads} attention heads for a {self.sizes[1]} of {hidden}; expected {self.sizes[0]} to "
                "divide it"
            )
        if (self.pad_token_id or 0) >= self.vocab_size:
            return (
                f"pad_token_id {self.pad_token_id} for a vocab_size of {self.vocab_size}; expected a smaller "
                "one"
            )
        if self.limit < 3:
            return f"positions for {self.limit} tokens a text; expected a larger max_position_embeddings"
        return None


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


class RobertaPreLayerNorm(Roberta):
    """RobertaPreLayerNormConfig."""

    model_type: Literal["roberta-prelayernorm"]  # type: ignore[assignment]


class Data2VecText(Roberta):
    """Data2VecTextConfig."""

    model_type: Literal["data2vec-text"]  # type: ignore[assignment]
    vocab_size: Vocabulary = 30522


class XlmRobertaXl(Roberta):
    """XLMRobertaXLConfig."""

    model_type: Literal["xlm-roberta-xl"]  # type: ignore[assignment]
    vocab_size: Vocabulary = 250880
    hidden_size: Width = 2560
    num_hidden_layers: Count = 36
    num_attention_heads: Count = 32
    intermediate_size: InnerWidth = 10240
    max_position_embeddings: Positions = 514
    type_vocab_size: TokenTypes = 1
    layer_norm_eps: Epsilon = 1e-5


class MegatronBert(Bert):
    """MegatronBertConfig."""

    model_type: Literal["megatron-bert"]  # type: ignore[assignment]
    vocab_size: Vocabulary = 29056
    hidden_size: Width = 1024
    num_hidden_layers: Count = 24
    num_attention_heads: Count = 16
    intermediate_size: InnerWidth = 4096


class RemBert(Bert):
    """RemBertConfig: word embeddings of a size of their own."""

    without_effect = frozenset({"output_embedding_size", "embedding_size"})
    model_type: Literal["rembert"]  # type: ignore[assignment]
    vocab_size: Vocabulary = 250300
    hidden_size: Width = 1152
    num_hidden_layers: Count = 32
    num_attention_heads: Count = 18
    input_embedding_size: Width = 256
    intermediate_size: InnerWidth = 4608
    hidden_dropout_prob: Probability = 0.0
    attention_probs_dropout_prob: Probability = 0.0
    classifier_dropout_prob: Probability = 0.1


# Of the head of ELECTRA's and ConvBERT's models for multiple choice.
SUMMARY = frozenset({"summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout"})


class ConvBert(Bert):
    """ConvBertConfig: some of the heads are convolutions."""

    without_effect = SUMMARY
    model_type: Literal["convbert"]  # type: ignore[assignment]
    pad_token_id: TokenId = 1
    embedding_size: Width = 768
    head_ratio: Count = 2
    conv_kernel_size: Annotated[int, Field(ge=1, le=31)] = 9
    num_groups: Count = 1


class Electra(Bert):
    """ElectraConfig: word embeddings of a size of their own."""

    without_effect = SUMMARY
    model_type: Literal["electra"]  # type: ignore[assignment]
    embedding_size: Width = 128
    hidden_size: Width = 256
    num_attention_heads: Count = 4
    intermediate_size: InnerWidth = 1024


class DistilBert(Architecture):
    """DistilBertConfig. Sinusoidal positions, too, stand in the weights."""

    without_effect = frozenset({"sinusoidal_pos_embds", "qa_dropout", "tie_weights_"})
    sizes = ("n_heads", "dim")
    model_type: Literal["distilbert"]
    dim: Width = 768
    n_layers: Count = 6
    n_heads: Count = 12
    hidden_dim: InnerWidth = 3072
    activation: Activation = "gelu"
    dropout: Probability = 0.1
    attention_dropout: Probability = 0.1
    seq_classif_dropout: Probability = 0.2


class MPNet(Architecture):
    """MPNetConfig. Its modules take 1 for the padding token whatever it says."""

    model_type: Literal["mpnet"]
    vocab_size: Vocabulary = 30527
    hidden_size: Width = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    intermediate_size: InnerWidth = 3072
    hidden_act: Activation = "gelu"
    hidden_dropout_prob: Probability = 0.1
    attention_probs_dropout_prob: Probability = 0.1
    layer_norm_eps: Epsilon = 1e-12
    relative_attention_num_buckets: Buckets = 32
    pad_token_id: Literal[1] = 1

    @property
    def limit(self) -> int:
        return self.max_position_embeddings - 2


class Albert(Architecture):
    """AlbertConfig: layers that share their weights."""

    without_effect = frozenset({"net_structure_type", "gap_size", "num_memory_blocks", "down_scale_factor"})
    model_type: Literal["albert"]
    vocab_size: Vocabulary = 30000
    embedding_size: Width = 128
    hidden_size: Width = 4096
    num_hidden_layers: Count = 12
    num_hidden_groups: Count = 1
    num_attention_heads: Count = 64
    intermediate_size: InnerWidth = 16384
    inner_group_num: Count = 1
    hidden_act: Activation = "gelu_new"
    hidden_dropout_prob: Probability = 0.0
    attention_probs_dropout_prob: Probability = 0.0
    classifier_dropout_prob: Probability = 0.1
    type_vocab_size: TokenTypes = 2
    layer_norm_eps: Epsilon = 1e-12


Terms = Literal["c2p", "p2c"]


class DebertaV2(Bert):
    """DebertaV2Config, which is that of DeBERTa-v3 as well: distances have terms of their own."""

    without_effect = frozenset({"legacy", "max_length"})
    model_type: Literal["deberta-v2"]  # type: ignore[assignment]
    vocab_size: Vocabulary = 128100
    hidden_size: Width = 1536
    num_hidden_layers: Count = 24
    num_attention_heads: Count = 24
    intermediate_size: InnerWidth = 6144
    attention_head_size: Width = Field(default=None)  # type: ignore[assignment]  # may be left out, not null
    embedding_size: Width = Field(default=None)  # type: ignore[assignment]  # hidden_size where it is left out
    position_buckets: Annotated[int, Field(ge=-1, le=1 << 13)] = -1
    norm_rel_ebd: Literal["none", "layer_norm"] = "none"
    share_att_key: bool = False
    conv_kernel_size: Annotated[int, Field(ge=0, le=31)] = 0
    conv_groups: Count = 1
    conv_act: Activation = "tanh"
    type_vocab_size: Annotated[int, Field(ge=0, le=1 << 10)] = 0
    layer_norm_eps: Epsilon = 1e-7
    cls_dropout: Probability | None = None
    relative_attention: bool = False
    max_relative_positions: Annotated[int, Field(ge=-1, le=1 << 13)] = -1
    position_biased_input: bool = True
    pos_att_type: Literal["", "none", "c2p", "p2c", "c2p|p2c", "p2c|c2p"] | list[Terms] | None = None
    pooler_dropout: Probability = 0.0
    pooler_hidden_act: Activation = "gelu"
    pooler_hidden_size: Width | None = None

    def problem(self) -> str | None:
        if found := super().problem():
            return found
        head = self.hidden_size // self.num_attention_heads
        for name, expected in (("attention_head_size", head), ("pooler_hidden_size", self.hidden_size)):
            if getattr(self, name) not in (None, expected):
                return f"a value of {getattr(self, name)} for {name}; expected {expected}"
        if self.hidden_size % self.conv_groups or (self.conv_kernel_size and not self.conv_kernel_size % 2):
            return "a convolution whose groups or whose even kernel do not fit its input"
        furthest = self.max_relative_positions if self.max_relative_positions > 0 else self.limit
        if self.position_buckets > 0 and not 4 <= self.position_buckets < 2 * (furthest - 1):
            return f"{self.position_buckets} position_buckets for distances up to {furthest}"
        return None


class Rope(BaseModel):
    """Rotary position embeddings of one kind of layer, without scaling."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)
    rope_type: Literal["default"] = "default"
    rope_theta: Theta


class Ropes(BaseModel):
    """Those of layers that see the whole text, and of those that see a window of it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    full_attention: Rope
    sliding_attention: Rope


class ModernBert(Architecture):
    """ModernBertConfig, in the form of transformers 5 and in the earlier one."""

    without_effect = frozenset(
        {
            *("decoder_bias", "deterministic_flash_attn", "layer_norm_eps", "position_embedding_type"),
            *("reference_compile", "repad_logits_with_grad", "sparse_pred_ignore_index", "sparse_prediction"),
        }
    )
    model_type: Literal["modernbert"]
    vocab_size: Vocabulary = 50368
    max_position_embeddings: Positions = 8192
    pad_token_id: TokenId = 50283
    hidden_size: Width = 768
    intermediate_size: InnerWidth = 1152
    num_hidden_layers: Count = 22
    num_attention_heads: Count = 12
    hidden_activation: Activation = "gelu"
    initializer_cutoff_factor: Deviation = 2.0
    norm_eps: Epsilon = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    attention_dropout: Probability = 0.0
    embedding_dropout: Probability = 0.0
    mlp_bias: bool = False
    mlp_dropout: Probability = 0.0
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None
    rope_parameters: Ropes | None = None
    local_attention: Annotated[int, Field(ge=2, le=1 << 17)] = 128
    global_attn_every_n_layers: Count = 3
    global_rope_theta: Theta = 160_000.0
    local_rope_theta: Theta = 10_000.0
    classifier_pooling: Literal["cls", "mean"] = "cls"
    classifier_dropout: Probability = 0.0
    classifier_bias: bool = False
    classifier_activation: Activation = "gelu"

    def problem(self) -> str | None:
        if self.layer_types is not None and len(self.layer_types) != self.num_hidden_layers:
            return f"{len(self.layer_types)} layer_types for {self.num_hidden_layers} layers"
        if self.hidden_size // self.num_attention_heads % 2:
            return "attention heads of an odd size, which cannot be rotated"
        return super().problem()


ARCHITECTURES: dict[str, type[Architecture]] = {
    "albert": Albert,
    "bert": Bert,
    "camembert": Camembert,
    "convbert": ConvBert,
    "data2vec-text": Data2VecText,
    "deberta-v2": DebertaV2,
    "distilbert": DistilBert,
    "electra": Electra,
    "megatron-bert": MegatronBert,
    "modernbert": ModernBert,
    "mpnet": MPNet,
    "rembert": RemBert,
    "roberta": Roberta,
    "roberta-prelayernorm": RobertaPreLayerNorm,
    "xlm-roberta": XlmRoberta,
    "xlm-roberta-xl": XlmRobertaXl,
}
