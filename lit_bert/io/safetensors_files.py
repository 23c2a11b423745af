"""Files of safetensors that a stranger may have written, checked before their tensors are read."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from lit_bert import UserError
from lit_bert.io import escape
from lit_bert.io.untrusted import is_count, open_regular, parse_object

MAX_HEADER_BYTES = 16 << 20  # of a safetensors file; that of BERT-large has 45 kB
MAX_TENSORS = 100_000
# Bytes a value, as safetensors names types; those of less than a byte are not among weights.
DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}


class Described(NamedTuple):
    """What a header says of a tensor: its type as safetensors names it, its shape, its bytes in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def check_safetensors(path: Path) -> dict[str, Described]:
    """What a safetensors file says of each of its tensors, from its header, without reading values.

    Raises:
        UserError: the header is longer than the file or than any real one, or says of a tensor what cannot
            be: an unknown type, bytes that are not in the file or are another's, a shape of another size.
    """
    what = escape.line(path)
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise UserError(
                f"{what} is no whole safetensors file: its header would have {length:,} bytes, the file has "
                f"{size:,}. Get it again."
            )
        content = stream.read(length)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{what} is no safetensors file: its header is no text. Get it again.") from None
    header = parse_object(text, f"the header of {what}", MAX_HEADER_BYTES)
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise UserError(f"{what} has {len(header):,} tensors; expected at most {MAX_TENSORS:,}.")
    found: dict[str, Described] = {}
    for name, described in header.items():
        values: Any = described if isinstance(described, dict) else {}
        dtype, shape, offsets = (values.get(key) for key in ("dtype", "shape", "data_offsets"))
        valid = (
            isinstance(dtype, str)
            and dtype in DTYPE_BYTES
            and isinstance(shape, list)
            and len(shape) <= 16
            and all(is_count(length, 1 << 48) for length in shape)
            and isinstance(offsets, list)
            and len(offsets) == 2
            and all(is_count(offset, size) for offset in offsets)
            and math.prod(shape) * DTYPE_BYTES[dtype] == offsets[1] - offsets[0]
        )
        if not valid:
            raise UserError(
                f"{what} describes its tensor {escape.line(name, 80)} in a way that cannot be: "
                f"{escape.line(described, 200)}. Get it again."
            )
        found[name] = Described(dtype, tuple(shape), *(8 + length + offset for offset in offsets))
    end = 8 + length
    for start, stop, name in sorted((each.start, each.stop, name) for name, each in found.items()):
        if start != end:
            raise UserError(
                f"{what} has a gap or two tensors in one place before {escape.line(name, 80)}. Get it again."
            )
        end = stop
    if end != size:
        raise UserError(
            f"{what} has {size - 8 - length:,} bytes of values; its header describes {end - 8 - length:,}. "
            "Get it again."
        )
    return found
