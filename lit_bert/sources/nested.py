"""Nested values with tensors in them, as JSON values and tensors by name, and back.

The progress of a run (Lightning's loops, states of callbacks and of the optimizer) is whatever they keep:
tensors anywhere, tuples, and mappings by number. JSON has none of these, so each becomes an object with one
key that starts with `$`. The way back makes nothing but the types of `encoded`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from typing import Any

from torch import Tensor

from lit_bert.io.escape import line

_TENSOR, _TUPLE, _MAPPING, _FLOAT = "$tensor", "$tuple", "$mapping", "$float"
_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def encoded(value: Any, name: str, tensors: MutableMapping[str, Tensor]) -> Any:
    """The value as JSON has it; its tensors are added to `tensors` by `name` and a number.

    Raises:
        ValueError: there is something else in it than plain values, tensors, lists, tuples and mappings from
            texts or whole numbers.
    """
    kind = type(value)
    if value is None or kind in (str, int, bool):
        return value
    if kind is float:
        return value if math.isfinite(value) else {_FLOAT: str(value)}
    if isinstance(value, Tensor):
        numbered = f"{name}.{len(tensors)}"
        tensors[numbered] = value
        return {_TENSOR: numbered}
    if kind in (list, tuple):
        values = [encoded(each, name, tensors) for each in value]
        return values if kind is list else {_TUPLE: values}
    if isinstance(value, Mapping):
        if not all(type(key) in (str, int) for key in value):
            raise ValueError(f"{name} has a key that is neither text nor a number")
        pairs = [(key, encoded(each, name, tensors)) for key, each in value.items()]
        if all(type(key) is str and not key.startswith("$") for key in value):
            return dict(pairs)
        return {_MAPPING: [list(pair) for pair in pairs]}
    raise ValueError(f"{name} has a {line(kind.__name__, 60)}; expected plain values")


def decoded(value: Any, tensors: MutableMapping[str, Tensor]) -> Any:
    """The value that `encoded` made this JSON value of; takes its tensors out of `tensors`.

    Raises:
        ValueError: `encoded` makes nothing like it.
    """
    if isinstance(value, list):
        return [decoded(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "")
    if not tag.startswith("$"):
        if any(key.startswith("$") for key in value):
            raise ValueError(f"it has a key {line(sorted(value)[0], 60)} beside others")
        return {key: decoded(each, tensors) for key, each in value.items()}
    inner = value[tag]
    if len(value) > 1:
        raise ValueError(f"it has keys beside {line(tag, 60)}")
    if tag == _TENSOR and isinstance(inner, str) and inner in tensors:
        return tensors.pop(inner)
    if tag == _TUPLE and isinstance(inner, list):
        return tuple(decoded(inner, tensors))
    if tag == _FLOAT and isinstance(inner, str) and inner in _NOT_FINITE:
        return _NOT_FINITE[inner]
    if tag == _MAPPING and isinstance(inner, list):
        found: dict[str | int, Any] = {}
        for pair in inner:
            if not (isinstance(pair, list) and len(pair) == 2 and type(pair[0]) in (str, int)):
                raise ValueError(f"a pair of a {_MAPPING} is no text or number with a value")
            if pair[0] in found:
                raise ValueError(f"a {_MAPPING} has {line(pair[0], 60)} twice")
            found[pair[0]] = decoded(pair[1], tensors)
        return found
    raise ValueError(f"{line(tag, 60)} stands for nothing, or for what is not there")
