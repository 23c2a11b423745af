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

from lit_bert.encoders.parts import Parts

MASKED = -1e4  # added to the scores of padding


def divided(linear: nn.Linear, by: float) -> nn.Linear:
    """A copy whose output is divided, so that the scores of attention need not be."""
    changed = copy.deepcopy(linear)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.div_(by)
    return changed


def heads(x: Tensor, B: int, A: int) -> Tensor:
    """(B, A, T, D) of (T · B, A · D)."""
    return x.view(-1, B, A, x.shape[-1] // A).permute(1, 2, 0, 3)


def joined(context: Tensor) -> Tensor:
    """(T · B, A · D) of (B, A, T, D)."""
    return context.permute(2, 0, 1, 3).reshape(-1, context.shape[1] * context.shape[3])


def padding_mask(attention_mask: Tensor) -> Tensor:
    """What is added to the scores, (B, 1, 1, T)."""
    return (1 - attention_mask.float())[:, None, None, :] * MASKED


class Graph(nn.Module):
    """That of an encoder of BERT's structure.

    Args:
        network: a classifier of transformers.
        parts: of it, all of them.
    """

    def __init__(self, network: Any, parts: Parts) -> None:
        super().__init__()
        self.network, self.parts = network, parts
        scale = (network.config.hidden_size // self.parts.heads) ** 0.5
        queries: dict[nn.Module, nn.Linear] = {}  # of layers that share their weights: one
        for layer in self.parts.layers:
            queries[layer.query] = queries.get(layer.query) or divided(layer.query, scale)
        self.queries = nn.ModuleList(queries.values())  # known to the module, as parameters of it
        self._queries = [queries[layer.query] for layer in self.parts.layers]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        parts, (B, T), A = self.parts, input_ids.shape, self.parts.heads
        types = None if token_type_ids is None else token_type_ids.t()
        # (T * B, H): a token of every text, then the next of every text
        x = self._embed(input_ids.t(), types)
        mask = padding_mask(attention_mask)
        if parts.bias is not None:
            mask = mask + parts.bias(T)  # (B, A, T, T)
        last = len(parts.layers) - 1
        for index, (layer, query) in enumerate(zip(parts.layers, self._queries, strict=True)):
            read = x[:B] if index == last else x  # (Q * B, H); Q is 1 or T
            q = heads(query(read), B, A)
            k = layer.key(x).view(T, B, A, -1).permute(1, 2, 3, 0)  # (B, A, D, T)
            own = mask[:, :, :1] if index == last else mask
            context = (q @ k + own).softmax(-1) @ heads(layer.value(x), B, A)
            x = layer.attended_norm(layer.attended(joined(context)) + read)
            x = layer.norm(layer.down(parts.activation(layer.up(x))) + x)
        return parts.head(x)

    def _embed(self, ids: Tensor, types: Tensor | None) -> Tensor:
        """(T · B, H) of ids and types (T, B)."""
        parts, T = self.parts.embeddings, ids.shape[0]
        if parts.skipped_id is None:
            place = parts.positions.weight[:T][:, None]
        else:
            counted = (ids != parts.skipped_id).long()
            place = parts.positions(counted.cumsum(0) * counted + parts.skipped_id)
        if parts.token_types is not None:
            place = place + (parts.token_types.weight[0] if types is None else parts.token_types(types))
        x = parts.norm(parts.words(ids) + place)
        x = x.reshape(-1, x.shape[-1])
        return x if parts.projection is None else parts.projection(x)
