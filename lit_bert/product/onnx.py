"""The network as ONNX files, in 32 and in 8 bits.

Standard operators alone, so that every ONNX runtime runs both files. In 8 bits the
scale of each activation is fixed beforehand, from some texts: one that followed the batch would have a text's
label depend on the texts beside it. So that 256 steps are enough, the inputs of the feed-forward products,
where a few channels are ten times as large as the others, are evened out first (SmoothQuant, Xiao et al.,
2023).

    python -m lit_bert export
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_bert.encoders.table import encoder_of, graph_of
from lit_bert.model.logits import INPUTS
from lit_bert.product.formats import CannotExport, Exportable

OPSET = 20  # the first with Gelu
SMOOTHING = 0.8  # share of the unevenness that moves from activations to weights
MIN_SCALE = 1e-5
QUANTIZED = ["Gemm", "MatMul", "Gather"]  # products with weights, and the word embeddings


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


def smoothed(network: Any, batches: Iterable[dict[str, np.ndarray]]) -> Any:
    """A copy that computes the same from feed-forward inputs of more even size.

    Args:
        network: left as it is.
        batches: what it takes of some texts like those that it will see.
    """
    highest: dict[nn.Module, Tensor] = {}

    def watch(linear: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        size = inputs[0].abs().flatten(0, -2).amax(0)
        highest[linear] = torch.maximum(highest.get(linear, size), size)

    changed = copy.deepcopy(network)
    places = {
        name: module for name, module in changed.named_modules() if module in set(_feed_forward(changed))
    }
    hooks = [linear.register_forward_pre_hook(watch) for linear in places.values()]
    with torch.inference_mode():
        for batch in batches:
            changed(**{name: torch.from_numpy(value) for name, value in batch.items()})
    for hook in hooks:
        hook.remove()
    for name, linear in places.items():
        weights = linear.weight.detach().abs().amax(0).clamp(min=MIN_SCALE)
        inputs = highest[linear].clone().clamp(min=MIN_SCALE)
        changed.set_submodule(name, Smooth(linear, inputs**SMOOTHING / weights ** (1 - SMOOTHING)))
    return changed


def _feed_forward(network: Any) -> list[nn.Linear]:
    """The linear layers whose inputs are evened out."""
    encoder = encoder_of(network)
    if encoder.parts is not None:
        return [linear for layer in encoder.parts_of(network).layers for linear in (layer.up, layer.down)]
    linears = [each for each in encoder.layers_of(network).modules() if isinstance(each, nn.Linear)]
    return [each for each in linears if each.in_features != each.out_features]


def write_float32_file(model: Exportable, path: Path) -> None:
    """Writes the network in 32 bits.

    Raises:
        CannotExport: its architecture has no graph.
    """
    _check_graph(model.network)
    write_onnx(model.network, path, model.token_type_ids is not None)


def write_int8_file(model: Exportable, path: Path) -> None:
    """Writes the network in 8 bits.

    Raises:
        CannotExport: its architecture has no graph.
    """
    _check_graph(model.network)
    even = path.with_name("smoothed.onnx")
    write_onnx(smoothed(model.network, model.batches), even, model.token_type_ids is not None)
    write_int8(even, path, model.batches)
    even.unlink()


def _check_graph(network: Any) -> None:
    if graph_of(network) is None:
        raise CannotExport(f"a {network.config.model_type} of this configuration has no ONNX graph")


def write_onnx(network: Any, path: Path, has_types: bool = False) -> None:
    """Writes the network as ONNX in 32 bits, for any number of texts and tokens.

    Args:
        network: of an architecture that `graph_of` knows.
        has_types: whether it takes token_type_ids, too: those of pairs.
    """
    graph = graph_of(network)
    assert graph is not None, "ask graph_of first"
    ids = torch.zeros(2, 3, dtype=torch.int64)  # sizes of 0 and 1 would be taken as fixed
    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    names = INPUTS if has_types else INPUTS[:2]
    with _quiet():
        program = torch.onnx.export(
            graph,
            (ids, torch.ones_like(ids), torch.zeros_like(ids))[: len(names)],
            dynamo=True,
            input_names=list(names),
            output_names=["logits"],
            dynamic_shapes=(sizes,) * len(names),
            opset_version=OPSET,
            verbose=False,
        )
        assert program is not None
        program.save(path)


def write_int8(exact: Path, path: Path, batches: Sequence[dict[str, np.ndarray]]) -> None:
    """Writes an ONNX file with its products and word embeddings in 8 bits, one scale a column of weights.

    Args:
        exact: the file in 32 bits.
        path: the new one.
        batches: what the network takes of some texts like those that it will see, for the scales of
            activations.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Texts(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    graph = onnx.load(exact).graph
    matrices = {each.name for each in graph.initializer if len(each.dims) == 2}
    token_ids_in = {"input_ids"}
    token_ids_in |= {
        each.output[0] for each in graph.node if each.op_type == "Transpose" and "input_ids" in each.input
    }
    products = [
        each for each in graph.node if each.op_type in ("Gemm", "MatMul") and each.input[1] in matrices
    ]
    tables = [each for each in graph.node if each.op_type == "Gather" and each.input[1] in token_ids_in]
    with _quiet():
        quantize_static(
            exact,
            path,
            Texts(),
            op_types_to_quantize=QUANTIZED,
            nodes_to_quantize=[each.name for each in products + tables],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Sums stay in 32 bits, and so does what else reads the input of a product: the residual.
            extra_options={"OpTypesToExcludeOutputQuantization": QUANTIZED, "DedicatedQDQPair": True},
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
