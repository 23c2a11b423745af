"""The tensors in a folder of pretrained weights, as transformers saves them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from lit_bert import UserError
from lit_bert.io import escape, safetensors_files, untrusted

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
FLOATS = ("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64")  # of weights that are whole


def read_values(folder: Path, expected: int) -> dict[str, Any]:
    """The tensors of a folder by their names, of the first of WEIGHT_FILES that is there.

    Args:
        expected: values that config.json describes; a file of fewer bytes is refused before memory is taken.

    Raises:
        UserError: a file is damaged, leads out of the folder, holds more than tensors, or too little.
    """
    name = next(name for name in WEIGHT_FILES if (folder / name).is_file())
    files = _shards(folder / name) if name.endswith(".index.json") else [folder / name]
    size = 0
    for file in files:
        try:
            with untrusted.open_regular(file) as stream:
                size += os.fstat(stream.fileno()).st_size
            if file.suffix == ".safetensors":
                safetensors_files.check_safetensors(file)
        except UserError as error:
            raise UserError(f"the weights in {folder} cannot be read ({error}).") from None
    if expected > size:
        raise UserError(
            f"the weights in {folder} have {size:,} bytes, too few for the {expected:,} values that "
            "config.json describes: these are not the weights of that config.json."
        )
    values: dict[str, Any] = {}
    for file in files:
        part = _safetensors(file) if file.suffix == ".safetensors" else _pickled(file)
        for name, value in part.items():
            odd = str(value.dtype) not in FLOATS and not name.endswith("_ids")
            if odd or name in values:
                raise UserError(
                    f"the weights in {folder} cannot be read: {escape.line(name, 80)} is "
                    + (
                        f"of type {value.dtype}; expected one of {', '.join(FLOATS)}."
                        if odd
                        else "there twice."
                    )
                )
        values.update(part)
    return values


def _shards(index: Path) -> list[Path]:
    """The files that an index names: beside it, and called as transformers calls them."""
    names = untrusted.read_object(index).get("weight_map")
    suffix = "safetensors" if index.name == WEIGHT_FILES[1] else "bin"
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index} names no files (weight_map); copy the folder again.")
    for name in names.values():
        if not isinstance(name, str) or not re.fullmatch(rf"{stem}-\d{{5}}-of-\d{{5}}\.{suffix}", name):
            raise UserError(
                f"{index} names {escape.line(repr(name), 80)}; expected names such as "
                f"{stem}-00001-of-00002.{suffix}. Copy the folder again."
            )
    return [index.with_name(name) for name in sorted(set(names.values()))]


def _safetensors(file: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except Exception as error:  # it has an error class of its own, derived from Exception
        raise UserError(
            f"the weights {escape.line(file)} cannot be read ({type(error).__name__}). Copy them again."
        ) from error


def _pickled(file: Path) -> dict[str, Any]:
    """The tensors of a pytorch_model.bin, without running code from it."""
    import pickle
    import zipfile

    import torch

    shown, size = escape.line(file), file.stat().st_size
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist()):
                    raise ValueError("compressed")
        values = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{shown} holds more than tensors, so it is not loaded: unpickling runs code. Give weights as "
            "model.safetensors, from whoever made them."
        ) from None
    except Exception as error:  # a damaged pickle ends in any exception
        raise UserError(
            f"the weights {shown} cannot be read ({type(error).__name__}). Copy them again."
        ) from error
    plain = isinstance(values, dict) and all(
        isinstance(name, str)
        and isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        for name, value in values.items()
    )
    if not plain or sum(value.numel() * value.element_size() for value in values.values()) > 2 * size:
        raise UserError(f"{shown} holds something else than plain tensors by name. Give other weights.")
    return dict(values)
