"""DeBERTa-v2 and v3 (He et al., 2021): distances have terms of their own in the scores of attention."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lit_bert.encoders.base import Encoder
from lit_bert.encoders.bert import BertFields
from lit_bert.encoders.config import Activation, Count, Epsilon, InnerWidth, Probability, Vocabulary, Width
from lit_bert.encoders.graph import divided, heads, joined, padding_mask

Terms = Literal["c2p", "p2c"]


class DebertaV2(BertFields):
    """DebertaV2Config, which is that of DeBERTa-v3 as well: distances have terms of their own."""

    without_effect = frozenset({"legacy", "max_length"})
    model_type: Literal["deberta-v2"]
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


class DebertaGraph(nn.Module):
    """That of DeBERTa-v2 (He et al., 2021): scores from content, and from content with distance."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        config, encoder = network.config, network.deberta.encoder
        attention = encoder.layer[0].attention.self
        self.network, self.A, D = network, config.num_attention_heads, attention.attention_head_size
        terms = set(attention.pos_att_type) if attention.relative_attention else set()
        self.terms = terms
        scale = (D * (1 + len(set(attention.pos_att_type)))) ** 0.5
        self.queries = nn.ModuleList(divided(each.attention.self.query_proj, scale) for each in encoder.layer)
        self.keys_of_distances, self.queries_of_distances = nn.ParameterList(), nn.ParameterList()
        if not terms:
            return
        span, L = attention.pos_ebd_size, config.max_position_embeddings
        with torch.no_grad():
            distances = encoder.get_rel_embedding()[: 2 * span]  # (S, H)
            for layer in encoder.layer:
                own = layer.attention.self
                shared = own.share_att_key
                if "c2p" in terms:
                    keys = (own.key_proj if shared else own.pos_key_proj)(distances)
                    self.keys_of_distances.append(
                        keys.view(-1, self.A, D).permute(1, 2, 0).clone()
                    )  # (A, D, S)
                if "p2c" in terms:
                    asked = (own.query_proj if shared else own.pos_query_proj)(distances) / scale
                    self.queries_of_distances.append(asked.view(-1, self.A, D).permute(1, 2, 0).clone())
            bucket = encoder.get_rel_pos(torch.zeros(1, L, 1))[0]  # (L, L), of row less column
        place, S = torch.arange(L), 2 * span
        # Where the score of a pair of tokens stands among those of all tokens and distances, (T · S,).
        self.c2p: Tensor
        self.p2c: Tensor
        self.register_buffer("c2p", place[:, None] * S + (bucket + span).clamp(0, S - 1))
        self.register_buffer("p2c", place[None] * S + (span - bucket).clamp(0, S - 1).t())

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        base, (B, T), A = self.network.deberta, input_ids.shape, self.A
        types = None if token_type_ids is None else token_type_ids.t()
        x, mask = self._embed(input_ids.t(), attention_mask.t(), types), padding_mask(attention_mask)
        for index, (layer, query) in enumerate(zip(base.encoder.layer, self.queries, strict=True)):
            own, attended, last = layer.attention.self, layer.attention.output, index == len(self.queries) - 1
            read = x[:B] if last else x  # (Q * B, H); Q is 1 or T
            q, k = heads(query(read), B, A), heads(own.key_proj(x), B, A)
            scores = q @ k.transpose(2, 3)
            if "c2p" in self.terms:
                found = (q @ self.keys_of_distances[index]).reshape(B, A, -1)  # (B, A, Q * S)
                scores = scores + _pairs(found, self.c2p[: 1 if last else T, :T])
            if "p2c" in self.terms:
                found = (k @ self.queries_of_distances[index]).reshape(B, A, -1)  # (B, A, T * S)
                scores = scores + _pairs(found, self.p2c[: 1 if last else T, :T])
            context = (scores + mask).softmax(-1) @ heads(own.value_proj(x), B, A)
            x = attended.LayerNorm(attended.dense(joined(context)) + read)
            up = layer.intermediate.intermediate_act_fn(layer.intermediate.dense(x))
            x = layer.output.LayerNorm(layer.output.dense(up) + x)
        return self.network.classifier(self.network.pooler(x[:, None]))

    def _embed(self, ids: Tensor, mask: Tensor, types: Tensor | None) -> Tensor:
        """(T · B, H) of ids, mask and types (T, B)."""
        parts = self.network.deberta.embeddings
        x = parts.word_embeddings(ids)
        if parts.position_embeddings is not None:
            x = x + parts.position_embeddings.weight[: ids.shape[0]][:, None]
        if (table := parts.token_type_embeddings) is not None:
            x = x + (table.weight[0] if types is None else table(types))
        if parts.embed_proj is not None:
            x = parts.embed_proj(x)
        x = parts.LayerNorm(x) * mask.float()[:, :, None]
        return x.reshape(-1, x.shape[-1])


def _pairs(scores: Tensor, places: Tensor) -> Tensor:
    """(B, A, Q, T) of scores (B, A, N) at places (Q, T)."""
    return scores.index_select(2, places.reshape(-1)).view(*scores.shape[:2], *places.shape)


def _graph(network: Any) -> nn.Module | None:
    return None if getattr(network.config, "conv_kernel_size", 0) > 0 else DebertaGraph(network)


DEBERTA_V2 = Encoder(
    DebertaV2,
    "deberta",
    attention=("attention.self.query_proj", "attention.self.value_proj"),
    head=("pooler", "classifier"),
    learning_rate=4e-5,  # He et al. (2021), appendix A
    graph=_graph,
)
