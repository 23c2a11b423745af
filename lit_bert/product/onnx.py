"""The network as it is exported: the values of BertForSequenceClassification as a short ONNX graph.

Step 6 of the journey. Standard operators alone, so that every ONNX runtime runs both files:

- The last layer is computed for the [CLS] token alone, the only one that the classifier reads.
- Every product with weights is a Gemm of two dimensions, with its bias: in 8 bits onnxruntime adds that to
  the integers, and not in a pass of its own.
- Tokens lie in the order of their position in the text, then of the text: a head's queries, keys and values
  then are at equal distances from each other, and onnxruntime multiplies them where they lie. With texts
  first it copies them.
- In 8 bits the scale of each activation is fixed beforehand, from some texts: one that followed the batch
  would have a text's label depend on the texts beside it. So that 256 steps are enough, the inputs of the
  feed-forward products, where a few channels are ten times as large as the others, are evened out first
  (SmoothQuant, Xiao et al., 2023).

    python -m lit_bert export
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification

OPSET = 20  # the first with Gelu
MASKED = -1e4  # added to the scores of padding
SMOOTHING = 0.8  # share of the unevenness that moves from activations to weights
LEAST = 1e-5


class Graph(nn.Module):
    """Logits, float32 (B, C), of `input_ids` and `attention_mask`, int64 (B, T), right-padded."""

    def __init__(self, network: BertForSequenceClassification) -> None:
        super().__init__()
        self.network = network
        self.queries = nn.ModuleList()  # scaled, so that the scores need not be
        for layer in network.bert.encoder.layer:
            query = copy.deepcopy(layer.attention.self.query)
            with torch.no_grad():
                for parameter in query.parameters():
                    parameter.mul_(layer.attention.self.attention_head_size**-0.5)
            self.queries.append(query)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        bert, (B, T) = self.network.bert, input_ids.shape
        A = self.network.config.num_attention_heads
        D = self.network.config.hidden_size // A
        parts = bert.embeddings
        place = parts.position_embeddings.weight[:T] + parts.token_type_embeddings.weight[0]
        x = parts.LayerNorm(parts.word_embeddings(input_ids.t()) + place[:, None])
        x = x.reshape(-1, A * D)  # (T * B, H): a token of every text, then the next of every text
        mask = (1 - attention_mask.float())[:, None, None, :] * MASKED
        for layer, query in zip(bert.encoder.layer, self.queries, strict=True):
            inner, attended = layer.attention.self, layer.attention.output
            read = x[:B] if layer is bert.encoder.layer[-1] else x  # (Q * B, H); Q is 1 or T
            q = query(read).view(-1, B, A, D).permute(1, 2, 0, 3)  # (B, A, Q, D)
            k = inner.key(x).view(T, B, A, D).permute(1, 2, 3, 0)  # (B, A, D, T)
            v = inner.value(x).view(T, B, A, D).permute(1, 2, 0, 3)  # (B, A, T, D)
            context = (q @ k + mask).softmax(-1) @ v
            context = context.permute(2, 0, 1, 3).reshape(-1, A * D)
            x = attended.LayerNorm(attended.dense(context) + read)
            up = layer.intermediate.intermediate_act_fn(layer.intermediate.dense(x))
            x = layer.output.LayerNorm(layer.output.dense(up) + x)
        return self.network.classifier(bert.pooler.activation(bert.pooler.dense(x)))


class Smooth(nn.Module):
    """A linear layer whose input channels are divided by `scale`, (in,), and its weights multiplied."""

    def __init__(self, linear: nn.Linear, scale: Tensor) -> None:
        super().__init__()
        self.inverse = nn.Parameter(1 / scale)
        self.linear = copy.deepcopy(linear)
        with torch.no_grad():
            self.linear.weight.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * self.inverse)


def smoothed(
    network: BertForSequenceClassification, token_ids: Iterable[list[int]]
) -> BertForSequenceClassification:
    """A copy that computes the same from feed-forward inputs of more even size.

    Args:
        network: left as it is.
        token_ids: of some texts like those that it will see.
    """
    highest: dict[nn.Module, Tensor] = {}

    def watch(linear: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        size = inputs[0].abs().flatten(0, -2).amax(0)
        highest[linear] = torch.maximum(highest.get(linear, size), size)

    changed = copy.deepcopy(network)
    places = [each for layer in changed.bert.encoder.layer for each in (layer.intermediate, layer.output)]
    hooks = [place.dense.register_forward_pre_hook(watch) for place in places]
    with torch.inference_mode():
        for ids in token_ids:
            changed(input_ids=torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    for place in places:
        weights = place.dense.weight.detach().abs().amax(0).clamp(min=LEAST)
        inputs = highest[place.dense].clone().clamp(min=LEAST)
        place.dense = Smooth(place.dense, inputs**SMOOTHING / weights ** (1 - SMOOTHING))
    return changed


def write_onnx(network: BertForSequenceClassification, path: Path) -> None:
    """Writes the network as ONNX in 32 bits, for any number of texts and tokens."""
    ids = torch.zeros(2, 3, dtype=torch.int64)  # sizes of 0 and 1 would be taken as fixed
    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with _quiet():
        program = torch.onnx.export(
            Graph(network).eval(),
            (ids, torch.ones_like(ids)),
            dynamo=True,
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes=(sizes, sizes),
            opset_version=OPSET,
            verbose=False,
        )
        assert program is not None
        program.save(path)


def write_int8(exact: Path, path: Path, token_ids: Sequence[list[int]]) -> None:
    """Writes an ONNX file with its products and word embeddings in 8 bits, one scale a column of weights.

    Args:
        exact: the file in 32 bits.
        path: the new one.
        token_ids: of some texts like those that it will see, for the scales of activations.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Texts(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(token_ids)

        def get_next(self) -> dict[str, np.ndarray] | None:
            ids = next(self.left, None)
            if ids is None:
                return None
            return {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}

    graph = onnx.load(exact).graph
    constants = {each.name for each in graph.initializer}
    place = {"Gemm": 1, "Gather": 0}  # of the weights among the inputs
    nodes = [each for each in graph.node if each.op_type in place]
    with _quiet():
        quantize_static(
            exact,
            path,
            Texts(),
            op_types_to_quantize=list(place),
            nodes_to_quantize=[each.name for each in nodes if each.input[place[each.op_type]] in constants],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Sums stay in 32 bits, and so does what else reads the input of a product: the residual.
            extra_options={"OpTypesToExcludeOutputQuantization": list(place), "DedicatedQDQPair": True},
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps off the screen what the libraries say of themselves."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(disabled)
