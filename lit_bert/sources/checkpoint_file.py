"""The file of a checkpoint, format 2: a safetensors file whose metadata has one JSON text.

So any tool that reads safetensors reads it, nothing in it is code, and its tensors are memory-mapped. The
text is the one key of the metadata, `lit_bert`, as several would be written in a random order. The tensor
`crc32`, int64 (), is the checksum of it and of all other tensors.

    python -c "from safetensors import safe_open
    print(safe_open('checkpoints/version_0/best.ckpt', 'pt').metadata()['lit_bert'])"
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import RawIOBase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lit_bert import UserError
from lit_bert.io.safetensors_files import MAX_HEADER_BYTES, Described, check_safetensors
from lit_bert.io.untrusted import parse_object

TEXT, CHECKSUM = "lit_bert", "crc32"
MAX_TEXT_BYTES = MAX_HEADER_BYTES // 2  # the rest of a header is for the names of tensors
PIECE_BYTES = 1 << 20  # read at a time: what is compared with the checksum stays in the cache
DTYPES = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"}


def write_file(path: Path, values: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Writes a file that `read_file` reads.

    Raises:
        OSError: it cannot be written.
        ValueError: `values` are no JSON, or have more of it than a header may have.
    """
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    if len(json.dumps(text, ensure_ascii=False).encode()) > MAX_TEXT_BYTES:
        raise ValueError(f"it says more than {MAX_TEXT_BYTES:,} bytes beside its tensors")
    whole = _with_own_bytes(tensors)
    whole[CHECKSUM] = torch.tensor(checksum(text, whole, lambda name: [_bytes_of(whole[name])]))
    try:
        save_file(whole, path, metadata={TEXT: text})
    except SafetensorError as error:
        if code := re.search(r"(?:os error |Os { code: )(\d+)", str(error)):
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
        raise


def _with_own_bytes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous, no two of them in one storage: a file has each of them once."""
    whole: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided:
            raise ValueError(f"{name} is no tensor that lists all its values")
        each = tensor.detach().cpu().contiguous()
        if each.untyped_storage().data_ptr() in storages:
            each = each.clone()
        storages.add(each.untyped_storage().data_ptr())
        whole[name] = each
    return whole


def _bytes_of(tensor: Tensor) -> memoryview:
    """The values of a contiguous tensor as they lie in memory."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def read_file(path: Path, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON object of the file, unchecked but for its checksum, and its tensors, memory-mapped.

    Sizes are compared with that of the file before anything takes memory.

    Args:
        what: the name of the file in messages.

    Raises:
        UserError: it is no whole safetensors file, or none that `write_file` wrote.
    """
    try:
        described = check_safetensors(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (UserError, SafetensorError, OSError):
        raise _unreadable(what) from None
    kept = tensors.pop(CHECKSUM, None)
    if metadata.keys() != {TEXT} or kept is None:
        raise UserError(
            f"{what} is no checkpoint of lit_bert: it has other metadata than {TEXT}, or no {CHECKSUM}. "
            "Give one that `python -m lit_bert fit` wrote."
        )
    if odd := next((name for name, each in described.items() if each.dtype not in DTYPES), None):
        raise UserError(f"{what} has a tensor of an unusual kind, {described[odd].dtype}, in {odd!r:.200}.")
    try:
        with path.open("rb", buffering=0) as stream:
            piece = memoryview(bytearray(PIECE_BYTES))
            found = checksum(metadata[TEXT], tensors, lambda name: _pieces(stream, described[name], piece))
    except OSError:
        raise _unreadable(what) from None
    if not torch.equal(kept, torch.tensor(found)):
        raise UserError(
            f"{what} is damaged: it has another checksum than when it was written. Copy it again, or use "
            "another one with --ckpt_path."
        )
    return parse_object(metadata[TEXT], f"what {what} says", MAX_HEADER_BYTES), tensors


def _unreadable(what: str) -> UserError:
    return UserError(
        f"{what} is not a readable checkpoint, perhaps a truncated one. Use another one with --ckpt_path."
    )


def _pieces(stream: RawIOBase, described: Described, piece: memoryview) -> Iterator[memoryview]:
    """The bytes of a tensor in a file, read into `piece` as often as it takes.

    They are read, not mapped: each page of a mapping that was looked at counts as memory of this process.
    """
    stream.seek(described.start)
    left = described.stop - described.start
    while left and (count := stream.readinto(piece[:left])):
        yield piece[:count]
        left -= count


def checksum(text: str, tensors: Mapping[str, Tensor], values: Callable[[str], Iterable[memoryview]]) -> int:
    """CRC-32 of the text, then of name, type, shape and values of each tensor in the order of their names.

    It finds damage. Whoever changes a file on purpose can write another one, also of a longer digest: SHA-256
    takes three times as long (1.9 GB/s against 6.5 on one core of an AMD Zen 4; far longer without its
    instructions).

    Args:
        values: the bytes of the tensor of that name, in pieces.
    """
    found = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode(), found)
        for piece in values(name):
            found = zlib.crc32(piece, found)
    return found
