"""Checkpoints of format 1, which lit_bert wrote until November 2026: a pickle in a zip, as torch writes them.

Nothing else knows that form. It held what Lightning hands to its writer, so it is read as that, and goes the
way of a checkpoint that is saved: `Checkpoint.from_lightning`. A Trainer without `SafeCheckpointIO` still
writes such files.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from lit_bert import UserError
from lit_bert.io.escape import line
from lit_bert.sources.settings import COMPOSED, KEPT, NOT_STORED, run_settings

START = b"PK\x03\x04"  # of such a file

PICKLE_BYTES = 2**28  # of what a checkpoint says beside the values of its tensors
MEMBERS = 100_000  # of its archive
VALUES = 2_000_000  # that it says, tensors counted once
DEPTH = 32  # of values in each other
PLAIN = (str, int, float, bool, type(None))
_SECTIONS = {"seed_everything", "calibrate", "checkpoint", "early_stopping", "trainer"}
# Of the settings; said again beside them.
_ELSEWHERE = {"data", "weights", "model", "seeds", "ckpt_path", "weights_only"}


def read_v1(path: Path, what: str) -> dict[str, Any]:
    """The content of the file in the form of Lightning and of today, its tensors memory-mapped.

    It takes no more memory than the file has bytes, and holds nothing but tensors and plain values.

    Args:
        what: the name of the file in messages.

    Raises:
        UserError: it is truncated or damaged, or holds anything else.
    """
    try:
        _check_archive(path, what)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UserError:
        raise
    except pickle.UnpicklingError:
        raise UserError(
            f"{what} holds more than tensors and plain values, so it is not loaded: unpickling runs code. "
            "Give a checkpoint that `python -m lit_bert fit` wrote."
        ) from None
    except Exception:
        # A damaged pickle ends in any exception: KeyError, IndexError, TypeError, …
        raise UserError(
            f"{what} is not a readable checkpoint, perhaps a truncated one. Use another one with --ckpt_path."
        ) from None
    size = path.stat().st_size
    _check_plain(content, what, size)
    if not isinstance(content, dict):
        raise UserError(
            f"{what} is no checkpoint of lit_bert: it holds a {type(content).__name__}. "
            "Give one that `python -m lit_bert fit` wrote."
        )
    for name in ("state_dict", "training_weights"):
        found = content.get(name)
        values = found.values() if isinstance(found, dict) else ()
        tensors = [each for each in values if isinstance(each, torch.Tensor)]
        if sum(each.numel() * each.element_size() for each in tensors) > size:
            raise UserError(f"{name} of {what} would have more bytes than the file.")
    config = content.get("config")
    if isinstance(config, dict) and "composition" not in config:
        content["config"] = _translated_settings(config, what)
    callbacks = content.get("callbacks")
    if isinstance(callbacks, dict) and "Dashboard" in callbacks:  # which kept the best scores, too
        callbacks["EpochRecord"] = callbacks.pop("Dashboard")
    return content


def _check_archive(path: Path, what: str) -> None:
    """Raises a UserError where a file is no archive as torch writes them, or not whole.

    Nothing in it is compressed, so nothing swells, and no name stands twice, as readers differ in which one
    they take. Every member is compared with its CRC-32, which torch leaves out: values with changed bits
    would be taken for other weights.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        stored = all(each.compress_type == zipfile.ZIP_STORED for each in members)
        distinct = len({each.filename for each in members}) == len(members)
        pickled = sum(each.file_size for each in members if each.filename.endswith(".pkl"))
        if len(members) > MEMBERS or not stored or not distinct or pickled > PICKLE_BYTES:
            raise UserError(f"{what} is no archive as torch writes them; give another --ckpt_path.")
        if damaged := archive.testzip():
            raise UserError(
                f"{what} is damaged: {line(damaged, 100)} in it has another checksum than when it was "
                "written. Copy it again, or use another one with --ckpt_path."
            )


def _check_plain(content: Any, what: str, size: int) -> None:
    """Raises a UserError where there is anything but tensors and plain values, or far too much of it."""
    left = VALUES
    levels: list[tuple[Iterable[Any], str]] = [([content], "")]
    for _ in range(DEPTH):
        deeper: list[tuple[Iterable[Any], str]] = []
        for values, place in levels:
            for value in values:
                left -= 1
                if left < 0:
                    raise UserError(
                        f"{what} holds more than {VALUES:,} values; no checkpoint of lit_bert does."
                    )
                kind = type(value)
                if kind in (dict, OrderedDict):
                    if not all(type(key) in (str, int) for key in value):
                        raise UserError(f"{what} has a key that is neither text nor a number{place}.")
                    deeper += [((each,), f" in {line(key, 60)}") for key, each in value.items()]
                elif kind in (list, tuple):
                    deeper.append((value, place))
                elif isinstance(value, torch.Tensor):
                    if problem := _tensor_problem(value, size):
                        raise UserError(f"{what} has a tensor that is {problem}{place}.")
                elif kind not in PLAIN:
                    raise UserError(f"{what} has a {line(kind.__name__, 60)}{place}; expected plain values.")
        if not deeper:
            return
        levels = deeper
    raise UserError(f"{what} has values more than {DEPTH} deep in each other.")


def _tensor_problem(tensor: torch.Tensor, size: int) -> str | None:
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
        return "of an unusual kind"
    if tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
        return "of an unusual kind"
    if tensor.numel() * tensor.element_size() > size:
        return "larger than the file"
    return None


def _translated_settings(config: dict[str, Any], what: str) -> dict[str, Any]:
    """The settings of a run, all of them as LightningCLI had them, as `RunSettings`.

    So they were kept before the settings were told from how a run is composed.
    """
    for key in config:
        if key not in _SECTIONS and key not in _ELSEWHERE:
            raise _unknown(f"config.{line(key, 200)}", what)
    for section, model in KEPT.items():
        values = config.get(section, {})
        if not isinstance(values, dict):
            raise UserError(f"{what}: config.{section} is a {type(values).__name__}; expected settings.")
        known = {*model.model_fields, *COMPOSED.get(section, ()), *NOT_STORED[section]}
        for key in values:
            if key not in known:
                raise _unknown(f"config.{section}.{line(key, 200)}", what)
    return run_settings({name: config[name] for name in _SECTIONS if name in config})


def _unknown(key: str, what: str) -> UserError:
    return UserError(f"{what}: {key} is not a key that lit_bert knows. Give a file that lit_bert wrote.")
