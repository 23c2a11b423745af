"""The base of what a config.json may say of an encoder, and types of its values, each in bounds."""

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


class TransformerFields(Architecture):
    """What most configurations say of their layers, by these names; defaults are those of bert-base."""

    hidden_size: Width = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    intermediate_size: InnerWidth = 3072
    hidden_act: Activation = "gelu"
    hidden_dropout_prob: Probability = 0.1
    attention_probs_dropout_prob: Probability = 0.1
    layer_norm_eps: Epsilon = 1e-12
