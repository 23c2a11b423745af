"""The network as it is exported: the values of BertForSequenceClassification as a short ONNX graph.

Step 6 of the journey. Standard operators alone, so that every ONNX runtime runs both files:

- The last layer is computed for the [CLS] token alone, the only one that the classifier reads.
- Queries, keys and values come from one product, which in 8 bits quantizes its input once. What is constant
  is folded away: the scale of the scores, the biases of keys and values.
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
        self.network, self.heads = network, network.config.num_attention_heads
        self.projections, self.outputs = nn.ModuleList(), nn.ModuleList()
        self.query_biases = nn.ParameterList()
        for layer in network.bert.encoder.layer:
            inner, output = layer.attention.self, copy.deepcopy(layer.attention.output.dense)
            D = inner.query.out_features // self.heads
            with torch.no_grad():
                # A key's bias adds the same to all scores of a query, which softmax does not see; a value's
                # comes through attention as it is, because the probabilities sum to 1.
                output.bias += output.weight @ inner.value.bias
                weights = torch.cat([inner.query.weight * D**-0.5, inner.key.weight, inner.value.weight])
                bias = (inner.query.bias * D**-0.5).view(self.heads, 1, D)
            self.outputs.append(output)
            self.query_biases.append(nn.Parameter(bias))
            self.projections.append(_product(weights))
        H = weights.shape[1]
        self.last_query, self.projections[-1] = (
            _product(weights[:H]),
            _product(weights[H:]),
        )  # for [CLS] alone

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        bert, (B, T), A = self.network.bert, input_ids.shape, self.heads
        parts = bert.embeddings
        place = parts.position_embeddings.weight[:T] + parts.token_type_embeddings.weight[0]
        x = parts.LayerNorm(parts.word_embeddings(input_ids) + place)  # (B, T, H)
        mask = (1 - attention_mask.float())[:, None, None, :] * MASKED
        D, last = x.shape[-1] // A, len(self.projections) - 1
        for index, layer in enumerate(bert.encoder.layer):
            projected = self.projections[index](x).view(B, T, -1, A, D).permute(2, 0, 3, 1, 4)
            k, v = projected[-2], projected[-1]  # (B, A, T, D)
            first = x[:, :1] if index == last else x  # (B, Q, H); Q is 1 or T
            q = self.last_query(first).view(B, A, 1, D) if index == last else projected[0]
            scores = (q + self.query_biases[index]) @ k.transpose(2, 3) + mask  # (B, A, Q, T)
            context = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
            x = layer.attention.output.LayerNorm(self.outputs[index](context) + first)
            up = layer.intermediate.intermediate_act_fn(layer.intermediate.dense(x))
            x = layer.output.LayerNorm(layer.output.dense(up) + x)
        return self.network.classifier(bert.pooler(x))


def _product(weights: Tensor) -> nn.Linear:
    """A linear layer of these weights, (out, in), without a bias."""
    linear = nn.Linear(weights.shape[1], weights.shape[0], bias=False)
    with torch.no_grad():
        linear.weight.copy_(weights)
    return linear


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
    place = {"MatMul": 1, "Gather": 0}  # of the weights among the inputs
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
            extra_options={"OpTypesToExcludeOutputQuantization": list(place)},  # sums stay in 32 bits
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
