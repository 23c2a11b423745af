"""The network as it is exported: the values of transformers' classifiers as short ONNX graphs.

Made of operators that neither loop nor make a large tensor of a small one, so that `io.onnx_files` can refuse
all others in a file of a stranger:

- The last layer is computed for the first token alone, the only one that the classifier reads.
- Every product with weights is one of two dimensions: in 8 bits onnxruntime adds a Gemm's bias to the
  integers, and not in a pass of its own.
- Tokens lie in the order of their position in the text, then of the text: a head's queries, keys and values
  then are at equal distances from each other, and onnxruntime multiplies them where they lie. With texts
  first it copies them.
- What depends on positions alone (distances, their buckets, rotations) is a constant that is sliced.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from lit_bert.model.encoder import encoder_of

MASKED = -1e4  # added to the scores of padding


def graph_of(network: Any) -> nn.Module | None:
    """The module to export: logits, float32 (B, C), of `input_ids` and `attention_mask`, int64 (B, T).

    None where there is none for the architecture, or for what its configuration adds to it.
    """
    encoder = encoder_of(network)
    if encoder.parts is not None:
        return Graph(network).eval() if encoder.has_parts(network) else None
    make = {"deberta-v2": DebertaGraph, "modernbert": ModernBertGraph}.get(encoder.model_type)
    if make is None or getattr(network.config, "conv_kernel_size", 0) > 0:
        return None
    return make(network).eval()


def _divided(linear: nn.Linear, by: float) -> nn.Linear:
    """A copy whose output is divided, so that the scores of attention need not be."""
    changed = copy.deepcopy(linear)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.div_(by)
    return changed


def _heads(x: Tensor, B: int, A: int) -> Tensor:
    """(B, A, T, D) of (T · B, A · D)."""
    return x.view(-1, B, A, x.shape[-1] // A).permute(1, 2, 0, 3)


def _joined(context: Tensor) -> Tensor:
    """(T · B, A · D) of (B, A, T, D)."""
    return context.permute(2, 0, 1, 3).reshape(-1, context.shape[1] * context.shape[3])


def _mask(attention_mask: Tensor) -> Tensor:
    """What is added to the scores, (B, 1, 1, T)."""
    return (1 - attention_mask.float())[:, None, None, :] * MASKED


class Graph(nn.Module):
    """That of an encoder of BERT's structure."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        make_parts = encoder_of(network).parts
        assert make_parts is not None
        self.network, self.parts = network, make_parts(network)
        scale = (network.config.hidden_size // self.parts.heads) ** 0.5
        queries: dict[nn.Module, nn.Linear] = {}  # of layers that share their weights: one
        for layer in self.parts.layers:
            queries[layer.query] = queries.get(layer.query) or _divided(layer.query, scale)
        self.queries = nn.ModuleList(queries.values())  # known to the module, as parameters of it
        self._queries = [queries[layer.query] for layer in self.parts.layers]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        parts, (B, T), A = self.parts, input_ids.shape, self.parts.heads
        x = self._embed(input_ids.t())  # (T * B, H): a token of every text, then the next of every text
        mask = _mask(attention_mask)
        if parts.bias is not None:
            mask = mask + parts.bias(T)  # (B, A, T, T)
        last = len(parts.layers) - 1
        for index, (layer, query) in enumerate(zip(parts.layers, self._queries, strict=True)):
            read = x[:B] if index == last else x  # (Q * B, H); Q is 1 or T
            q = _heads(query(read), B, A)
            k = layer.key(x).view(T, B, A, -1).permute(1, 2, 3, 0)  # (B, A, D, T)
            own = mask[:, :, :1] if index == last else mask
            context = (q @ k + own).softmax(-1) @ _heads(layer.value(x), B, A)
            x = layer.attended_norm(layer.attended(_joined(context)) + read)
            x = layer.norm(layer.down(parts.activation(layer.up(x))) + x)
        return parts.head(x)

    def _embed(self, ids: Tensor) -> Tensor:
        """(T · B, H) of ids (T, B)."""
        parts, T = self.parts.embeddings, ids.shape[0]
        if parts.skipped_id is None:
            place = parts.positions.weight[:T][:, None]
        else:
            counted = (ids != parts.skipped_id).long()
            place = parts.positions(counted.cumsum(0) * counted + parts.skipped_id)
        if parts.token_types is not None:
            place = place + parts.token_types.weight[0]
        x = parts.norm(parts.words(ids) + place)
        x = x.reshape(-1, x.shape[-1])
        return x if parts.projection is None else parts.projection(x)


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
        self.queries = nn.ModuleList(
            _divided(each.attention.self.query_proj, scale) for each in encoder.layer
        )
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

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        base, (B, T), A = self.network.deberta, input_ids.shape, self.A
        x, mask = self._embed(input_ids.t(), attention_mask.t()), _mask(attention_mask)
        for index, (layer, query) in enumerate(zip(base.encoder.layer, self.queries, strict=True)):
            own, attended, last = layer.attention.self, layer.attention.output, index == len(self.queries) - 1
            read = x[:B] if last else x  # (Q * B, H); Q is 1 or T
            q, k = _heads(query(read), B, A), _heads(own.key_proj(x), B, A)
            scores = q @ k.transpose(2, 3)
            if "c2p" in self.terms:
                found = (q @ self.keys_of_distances[index]).reshape(B, A, -1)  # (B, A, Q * S)
                scores = scores + _pairs(found, self.c2p[: 1 if last else T, :T])
            if "p2c" in self.terms:
                found = (k @ self.queries_of_distances[index]).reshape(B, A, -1)  # (B, A, T * S)
                scores = scores + _pairs(found, self.p2c[: 1 if last else T, :T])
            context = (scores + mask).softmax(-1) @ _heads(own.value_proj(x), B, A)
            x = attended.LayerNorm(attended.dense(_joined(context)) + read)
            up = layer.intermediate.intermediate_act_fn(layer.intermediate.dense(x))
            x = layer.output.LayerNorm(layer.output.dense(up) + x)
        return self.network.classifier(self.network.pooler(x[:, None]))

    def _embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(T · B, H) of ids and mask (T, B)."""
        parts = self.network.deberta.embeddings
        x = parts.word_embeddings(ids)
        if parts.position_embeddings is not None:
            x = x + parts.position_embeddings.weight[: ids.shape[0]][:, None]
        if parts.token_type_embeddings is not None:
            x = x + parts.token_type_embeddings.weight[0]
        if parts.embed_proj is not None:
            x = parts.embed_proj(x)
        x = parts.LayerNorm(x) * mask.float()[:, :, None]
        return x.reshape(-1, x.shape[-1])


def _pairs(scores: Tensor, places: Tensor) -> Tensor:
    """(B, A, Q, T) of scores (B, A, N) at places (Q, T)."""
    return scores.index_select(2, places.reshape(-1)).view(*scores.shape[:2], *places.shape)


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
        whole = _mask(attention_mask)
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
            x = x + layer.attn.Wo(_joined((q @ k.transpose(2, 3) + mask).softmax(-1) @ products[2]))
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
