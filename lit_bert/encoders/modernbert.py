"""ModernBERT (Warner et al., 2024): rotated positions, gated layers, windows of attention."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from lit_bert.encoders.base import Encoder
from lit_bert.encoders.config import (
    Activation,
    Architecture,
    Count,
    Deviation,
    Epsilon,
    InnerWidth,
    Positions,
    Probability,
    Theta,
    TokenId,
    Vocabulary,
    Width,
)
from lit_bert.encoders.graph import MASKED, joined, padding_mask


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


class ModernBertGraph(nn.Module):
    """That of ModernBERT (Warner et al., 2024): rotated positions, gated layers, windows of attention."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, config, model = network, network.config, network.model
        place = torch.arange(config.max_position_embeddings).float()
        self.place: Tensor
        self.register_buffer("place", place)
        for kind in set(config.layer_types):
            angles = place[:, None] * getattr(model.rotary_emb, f"{kind}_inv_freq").float()  # (L, D / 2)
            scaling = getattr(model.rotary_emb, f"{kind}_attention_scaling")
            self.register_buffer(f"{kind}_cos", angles.cos() * scaling)
            self.register_buffer(f"{kind}_sin", angles.sin() * scaling)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        model, config, (B, T) = self.network.model, self.network.config, input_ids.shape
        A = config.num_attention_heads
        x = model.embeddings.norm(model.embeddings.tok_embeddings(input_ids.t()))
        x = x.reshape(-1, x.shape[-1])  # (T * B, H)
        far = (
            self.place[:T, None] - self.place[:T]
        ).abs() - config.sliding_window  # above 0 outside a window
        whole = padding_mask(attention_mask)
        masks = {"full_attention": whole, "sliding_attention": whole + far.clamp(0, 1) * MASKED}
        for layer in model.layers:
            kind = layer.attention_type
            alone = layer is model.layers[-1] and config.classifier_pooling == "cls"  # the first token
            products = layer.attn.Wqkv(layer.attn_norm(x)).view(T, B, 3, A, -1).permute(2, 1, 3, 0, 4)
            q, k = self._rotated(products[0], kind, T), self._rotated(products[1], kind, T)
            q, mask = q * q.shape[-1] ** -0.5, masks[kind]
            if alone:
                q, x = q[:, :, :1], x[:B]
                mask = mask[:, :, :1]
            x = x + layer.attn.Wo(joined((q @ k.transpose(2, 3) + mask).softmax(-1) @ products[2]))
            value, gate = layer.mlp.Wi(layer.mlp_norm(x)).chunk(2, dim=-1)
            x = x + layer.mlp.Wo(layer.mlp.act(value) * gate)
        x = model.final_norm(x)
        if config.classifier_pooling == "mean":
            weights = attention_mask.t().float()[:, :, None]  # (T, B, 1)
            x = (x.view(T, B, -1) * weights).sum(0) / weights.sum(0)
        return self.network.classifier(self.network.head(x))

    def _rotated(self, x: Tensor, kind: str, T: int) -> Tensor:
        """(B, A, T, D), each pair of halves turned by the angles of its position (Su et al., 2021)."""
        cos, sin = getattr(self, f"{kind}_cos")[:T], getattr(self, f"{kind}_sin")[:T]  # (T, D / 2)
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


MODERNBERT = Encoder(
    ModernBert,
    "model",
    words="embeddings.tok_embeddings",
    layers="layers",
    blocks="layers",
    final_norm="final_norm",
    attention=("attn.Wqkv",),  # queries, keys and values in one product
    head=("head", "classifier"),
    graph=ModernBertGraph,
)
