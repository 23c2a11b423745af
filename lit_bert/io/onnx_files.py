"""ONNX files that a stranger may have written, checked before onnxruntime reads them."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from lit_bert import UserError
from lit_bert.io import escape
from lit_bert.io.untrusted import UnsafeFileError, expect, open_regular

MAX_ONNX_BYTES = 1 << 31  # what protobuf allows
MAX_NODES = 100_000
# The operators of the graphs that `export` writes, for any architecture and activation function. None of them
# loops, branches, draws random numbers, or makes a large tensor of a small one by itself.
OPERATORS = set(
    (
        "Abs Add Cast Clip Concat Constant CumSum DequantizeLinear Div Equal Erf Gather "
        "Gelu Gemm Identity LayerNormalization MatMul Min Mul Neg Not Pow QuantizeLinear "
        "ReduceMean ReduceSum Relu Reshape Shape Sigmoid Slice Softmax Softplus "
        "Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze "
    ).split()
)


def check_onnx(path: Path) -> None:
    """Checks an ONNX file of ours before onnxruntime sees it, which would open files that it names.

    Walks the protobuf messages of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; values are skipped.

    Raises:
        UserError: it is damaged, keeps values in another file, or has an operator that `export` does not
            write: a custom one, a loop, or one that makes a small tensor large.
    """
    with open_regular(path, MAX_ONNX_BYTES) as stream:
        if not os.fstat(stream.fileno()).st_size:
            raise UserError(f"{escape.line(path)} is empty; export it again.")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
            try:
                _check_onnx_model(view)
            except (UnsafeFileError, IndexError, ValueError) as error:
                why = (
                    escape.line(error, 200) if isinstance(error, UnsafeFileError) else "is no whole ONNX file"
                )
                raise UserError(f"{escape.line(path)} {why}. Export it again.") from None


def _messages(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a protobuf message; those of fixed size are skipped."""
    place, end = 0, len(view)
    while place < end:
        tag, place = _varint(view, place)
        kind = tag & 7
        if kind == 0:
            value, place = _varint(view, place)
            yield tag >> 3, value
        elif kind == 2:
            length, place = _varint(view, place)
            if length > end - place:
                raise ValueError
            with view[place : place + length] as part:
                yield tag >> 3, part
            place += length
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        else:
            raise ValueError
    if place != end:
        raise ValueError


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    value = view[place]
    place += 1
    if value < 128:
        return value, place
    value &= 127
    for shift in range(7, 70, 7):
        byte = view[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError


def _check_onnx_model(model: memoryview) -> None:
    graphs = 0
    for number, value in _messages(model):
        if number == 7 and isinstance(value, memoryview):
            graphs += 1
            _check_graph(value)
        expect(number != 25, "defines functions of its own")
        expect(number != 20, "holds a graph for training")
    expect(graphs == 1, "holds no graph, or several")


def _check_graph(graph: memoryview) -> None:
    nodes = 0
    for number, value in _messages(graph):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            nodes += 1
            expect(nodes <= MAX_NODES, f"has more than {MAX_NODES:,} nodes")
            _check_node(value)
        elif number == 5:
            _check_initializer(value)
        expect(number != 15, "holds sparse tensors")


def _check_node(node: memoryview) -> None:
    operator, domain = "", ""
    for number, value in _messages(node):
        if not isinstance(value, memoryview):
            continue
        if number == 4:
            operator = bytes(value).decode()
        elif number == 7:
            domain = bytes(value).decode()
        elif number == 5:
            for inner, each in _messages(value):
                if inner in (5, 10) and isinstance(each, memoryview):
                    _check_initializer(each)
                expect(inner not in (6, 11, 22, 23), "has a graph within a node, or a sparse tensor")
    if operator not in OPERATORS or domain not in ("", "ai.onnx"):
        raise UnsafeFileError(f"has the operator {domain}:{operator}, which `export` does not write")


def _check_initializer(tensor: memoryview) -> None:
    """Its values stand in the file itself, and there are as many as its shape says, or none."""
    values = 1
    for number, value in _messages(tensor):
        if number == 1:
            packed = [value] if isinstance(value, int) else _varints(value)
            for size in packed:
                values *= size
        external = number == 13 or (number == 14 and value != 0)
        expect(not external, "keeps values in another file, which is not opened")
    expect(values <= 2 * len(tensor), "has a tensor of more values than the file holds")


def _varints(view: memoryview) -> list[int]:
    found, place = [], 0
    while place < len(view):
        value, place = _varint(view, place)
        found.append(value)
    return found
