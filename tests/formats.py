"""Checkpoint files for tests: their content, and files as a stranger would write them."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

PROGRESS = {"loops", "callbacks", "optimizer_states", "lr_schedulers", "MixedPrecision"}
NAMES = {"hyper_parameters": "model", "config": "settings", "pytorch-lightning_version": "lightning"}


def content_of(file: Path | str) -> dict[str, Any]:
    """The content of a checkpoint of either format, as Lightning knows it."""
    from lit_bert.sources.checkpoint import Checkpoint  # test_sources.py is imported before the Hub's client

    return Checkpoint.read(file).as_lightning()


def write_content(content: dict[str, Any], file: Path | str) -> Path:
    """Writes a checkpoint whose numbers need not be finite."""
    from lit_bert.sources.checkpoint import Checkpoint

    Checkpoint.from_lightning(content, Path(file), str(file)).write(Path(file))
    return Path(file)


# --- format 2, by hand


def checksum(text: str, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """As the module of the file describes it."""
    parts = [text.encode()]
    for name in sorted(tensors):
        values = tensors[name]
        parts.append(f"{name} {values.dtype} {list(values.shape)}\n".encode())
        parts.append(bytes(values.reshape(-1).view(torch.uint8).tolist()))
    return torch.tensor(zlib.crc32(b"".join(parts)))


def read_file(file: Path | str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The JSON of a file of format 2 and its tensors but for the checksum, with nothing of ours."""
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
        (text,) = opened.metadata().values()
        assert tensors.pop("crc32") == checksum(text, tensors)
        return json.loads(text), tensors


def write_file(values: Any, tensors: dict[str, torch.Tensor], file: Path | str, **metadata: str) -> Path:
    """A file that says what is given, sense or nonsense, with the checksum that belongs to it."""
    text = values if isinstance(values, str) else json.dumps(values, skipkeys=True, default=str)
    tensors = {name: each.detach().clone().contiguous() for name, each in tensors.items()}
    save_file({"crc32": checksum(text, tensors), **tensors}, file, metadata={"lit_bert": text, **metadata})
    return Path(file)


def forge(content: dict[str, Any], file: Path | str) -> Path:
    """Writes content of Lightning's form as format 2, unchecked: whatever is in it goes where it belongs."""
    values: dict[str, Any] = {"format": 2, "progress": {}}
    tensors: dict[str, torch.Tensor] = {}
    for key, value in content.items():
        if key in PROGRESS:
            values["progress"][key] = _tagged(value, key, tensors)
        elif key in ("state_dict", "training_weights") and isinstance(value, dict):
            for name, each in value.items():
                if isinstance(each, torch.Tensor):
                    tensors[f"{key}.{name}"] = each
                else:
                    values[f"{key}.{name}"] = each
        elif key == "EmotionDataModule" and isinstance(value, dict):
            kept = {"label_names": None, "code_order": None, "hyper_parameters": {}, "tokenizer": {}, **value}
            tokenizer, settings, names, order = (
                kept.pop(name) for name in ("tokenizer", "hyper_parameters", "label_names", "code_order")
            )
            for name, text in tokenizer.items():
                tensors[name] = torch.tensor(list(text.encode()), dtype=torch.uint8)
            if names != content.get("hyper_parameters", {}).get("label_names", names):
                kept["label_names"] = names
            values["data"] = {**kept, "settings": {**settings, "label_names": order}}
        else:
            values[NAMES.get(key, key)] = _tagged(value, key, tensors)
    return write_file(values, tensors, file)


def _tagged(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        tensors[f"{name}.{len(tensors)}"] = value
        return {"$tensor": f"{name}.{len(tensors) - 1}"}
    if isinstance(value, tuple):
        return {"$tuple": [_tagged(each, name, tensors) for each in value]}
    if isinstance(value, list):
        return [_tagged(each, name, tensors) for each in value]
    if isinstance(value, float) and not math.isfinite(value) and name in PROGRESS:
        return {"$float": str(value)}
    if isinstance(value, dict):
        pairs = [(key, _tagged(each, name, tensors)) for key, each in value.items()]
        if all(isinstance(key, str) for key in value):
            return dict(pairs)
        return {"$mapping": [list(pair) for pair in pairs]}
    return value
