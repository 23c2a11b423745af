"""Checkpoint files, written: whole or not at all, and read back before they take their name."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.types import _PATH
from safetensors import SafetensorError
from torch import Tensor

from lit_bert import UserError
from lit_bert.encoders.table import ENCODERS
from lit_bert.io import files
from lit_bert.io.escape import line
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.finite import first_not_finite, tensors_in
from lit_bert.sources.schema import Calibration
from lit_bert.task.base import Parameters


class SafeCheckpointIO(CheckpointIO):
    """Lightning's reader and writer of checkpoints, of the form of `sources.checkpoint`.

    A file is written beside its name, forced to disk, read back and then renamed. Lightning's own writer does
    none of the four (pytorch-lightning issues 19970, 21431, 21800), and leaves a full disk to be found out at
    the next load. Weights that are not finite are not written.
    """

    def __init__(self, opened: Checkpoint | None = None) -> None:
        """`opened` is what a resumed run goes on from: it is not read again."""
        super().__init__()
        self._opened = opened
        self._written: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:
        final = Path(path)
        try:
            found = Checkpoint.from_lightning(checkpoint, final, line(final))
        except UserError as error:
            raise UserError(f"cannot write the checkpoint {line(final)}: {error}") from error
        write_checkpoint(found, final)
        self._written.add(_place(final))

    def load_checkpoint(
        self, path: _PATH, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The content as Lightning knows it; nothing is ever unpickled, whatever `weights_only` says."""
        if self._opened and Path(path).resolve() == self._opened.path:
            return self._opened.as_lightning()
        return Checkpoint.read(Path(path)).as_lightning()

    def remove_checkpoint(self, path: _PATH) -> None:
        """Removes a file that this run wrote; leaves links, folders and other files where they are."""
        place = _place(Path(path))
        if place in self._written and not place.is_symlink() and place.is_file():
            place.unlink()
            self._written.discard(place)


def write_checkpoint(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """Writes a checkpoint whole or not at all.

    Returns:
        It as it was read back.

    Raises:
        UserError: its numbers are not finite, it cannot be written, or could not be read again. What was
            there before still is.
    """
    parts = {
        "state_dict": checkpoint.state_dict,
        "training_weights": checkpoint.training_weights,
        "optimizer_states": checkpoint.progress.get("optimizer_states"),
    }
    if wrong := first_not_finite(tensors_in(parts)):
        raise UserError(
            f"{line(path)} is not written: {wrong} is not finite (NaN or infinity). Earlier checkpoints are "
            "whole."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(path) as partial:
            checkpoint.write(partial)
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())  # before it is read back: a disk may keep something else
            written = Checkpoint.read(partial, shown=path)  # refuses what a later process could not read
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot write the checkpoint {line(path)}: {why}. Make room, or choose another folder with "
            "--trainer.logger.init_args.save_dir. Earlier checkpoints are whole."
        ) from error
    except (UserError, ValueError, RuntimeError) as error:  # RuntimeError: torch cannot copy a tensor
        why = line(error, 500) or type(error).__name__
        raise UserError(f"cannot write the checkpoint {line(path)}: {why}") from error
    return replace(written, path=_place(path))


def _place(path: Path) -> Path:
    """The path with its folder resolved, but not the file itself, which may be a link."""
    return path.parent.resolve() / path.name


def check_progress(found: Any, own: Any, what: str) -> None:
    """Raises a UserError where progress has other keys or types than the trainer's own, `own`."""
    if type(found) is not type(own) and not {type(found), type(own)} <= {dict, OrderedDict}:
        raise UserError(f"{what} is a {line(type(found).__name__)}; expected a {type(own).__name__}.")
    if isinstance(own, dict):
        if set(found) != set(own):
            odd = line(sorted(map(str, set(found) ^ set(own)))[0], 200)
            raise UserError(f"{what} does not fit this version of Lightning: {odd} is unknown or missing.")
        for key, value in own.items():
            check_progress(found[key], value, f"{what}.{line(key, 60)}")
    elif isinstance(own, list) and own:
        for value in found:
            check_progress(value, own[0], what)
    elif isinstance(own, int) and not 0 <= found < 2**62:
        raise UserError(f"{what} is {line(found, 60)}; expected a count.")


# --- changed where they stand: each takes a checkpoint that was read, and returns it as it is then ---


def apply_calibration(checkpoint: Checkpoint, scale: np.ndarray, shift: np.ndarray) -> Checkpoint:
    """Multiplies the logits of each class and adds to them for good: in the last layer's weight and bias.

    So every program that loads the weights has calibrated probabilities.

    Args:
        scale: (C,), above 0.
        shift: (C,); 0 where the layer has no bias.
    """
    encoder = ENCODERS[checkpoint.weights.architecture["model_type"]]
    factor, summand = (torch.from_numpy(each) for each in (scale, shift))
    state_dict = dict(checkpoint.state_dict)
    for name, value in state_dict.items():
        if encoder.in_logits(name.removeprefix("network.")):
            changed = value.double() * (factor[:, None] if value.ndim == 2 else factor)
            state_dict[name] = (changed + summand if value.ndim == 1 else changed).to(value.dtype)
    facts = checkpoint.facts
    if shift.any() or (scale != scale[0]).any():
        found = {"scale": scale.tolist(), "shift": shift.tolist()}
        facts = facts.model_copy(update={"calibration": Calibration(**found)})
    else:
        facts = facts.model_copy(update={"temperature": (facts.temperature or 1.0) / float(scale[0])})
    return write_checkpoint(replace(checkpoint, facts=facts, state_dict=state_dict), checkpoint.path)


def set_task_parameters(checkpoint: Checkpoint, parameters: Parameters) -> Checkpoint:
    """Has the checkpoint hold what the task took from validation rows, such as thresholds."""
    found = {name: list(values) for name, values in parameters.items()}
    model = checkpoint.model.model_copy(update={"task_parameters": found})
    facts = checkpoint.facts.model_copy(update={"model": model})
    return write_checkpoint(replace(checkpoint, facts=facts), checkpoint.path)


def replace_training_weights(checkpoint: Checkpoint, weights: dict[str, Tensor]) -> Checkpoint:
    """Has the best checkpoint of a fit hold other trained weights beside their average."""
    return write_checkpoint(replace(checkpoint, training_weights=weights), checkpoint.path)


def keep_weights(checkpoint: Checkpoint, choice: Mapping[str, Any]) -> Checkpoint:
    """Leaves one of the two sets of weights in the best checkpoint of a fit.

    Args:
        choice: `kept`, whether the moving average stays, else the weights that were trained take its place;
            `val_score`, validation score of those that stay; `epoch` and `global_step` that they are of.
    """
    trained = {} if choice["kept"] or checkpoint.training_weights is None else checkpoint.training_weights
    place = {name: choice[name] for name in ("val_score", "epoch", "global_step")}
    facts = checkpoint.facts.model_copy(update=place)
    weights = {**checkpoint.state_dict, **trained}
    kept = replace(checkpoint, facts=facts, state_dict=weights, training_weights=None)
    return write_checkpoint(kept, checkpoint.path)
