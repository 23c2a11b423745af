"""Checkpoint files, written: whole or not at all, and read back before they take their name."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from lit_bert import UserError
from lit_bert.io import files
from lit_bert.io.escape import line
from lit_bert.model.encoder import ENCODERS
from lit_bert.sources.checkpoint import UNUSED, Checkpoint, load
from lit_bert.sources.finite import RESUMED, first_not_finite, tensors_in


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its name, forces it to disk, reads it back, then renames it.

    Lightning's own writer does none of the four (pytorch-lightning issues 19970, 21431, 21800), and leaves a
    full disk to be found out at the next load. Weights that are not finite are not written.
    """

    def __init__(self, opened: Checkpoint | None = None) -> None:
        """`opened` is what a resumed run goes on from: its checked content is not read again."""
        super().__init__()
        self._opened = opened
        self._written: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:
        final = Path(path)
        content = {key: value for key, value in checkpoint.items() if key not in UNUSED}
        parts = {name: content[name] for name in RESUMED if name in content}
        if wrong := first_not_finite(tensors_in(parts)):
            raise UserError(
                f"{line(final)} is not written: {wrong} is not finite (NaN or infinity). Earlier "
                "checkpoints are whole."
            )
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            with files.whole(final) as partial:
                with partial.open("wb") as stream:
                    torch.save(content, stream)
                    stream.flush()
                    os.fsync(stream.fileno())
                load(partial, shown=final)  # refuses what a later process could not open, or reads otherwise
        except UserError as error:
            raise UserError(f"cannot write the checkpoint {final}: {error}") from error
        except (OSError, RuntimeError) as error:
            # torch's writer turns a full disk into a RuntimeError; the OSError stands in its context.
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            why = getattr(cause, "strerror", None) or cause
            raise UserError(
                f"cannot write the checkpoint {final}: {why}. Make room, or choose another folder with "
                "--trainer.logger.init_args.save_dir. Earlier checkpoints are whole."
            ) from error
        self._written.add(_place(final))

    def load_checkpoint(
        self, path: _PATH, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        if self._opened and Path(path).resolve() == self._opened.path:
            return self._opened.content
        return Checkpoint.open(Path(path)).content

    def remove_checkpoint(self, path: _PATH) -> None:
        """Removes a file that this run wrote; leaves links, folders and other files where they are."""
        place = _place(Path(path))
        if place in self._written and not place.is_symlink() and place.is_file():
            place.unlink()
            self._written.discard(place)


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


def apply_temperature(path: Path, temperature: float) -> None:
    """Divides the logits of a checkpoint by `temperature` for good: in the last layer's weight and bias.

    So every program that loads the weights has calibrated probabilities. Labels stay the same.
    """
    content = load(path)
    encoder = ENCODERS[content["weights"]["architecture"]["model_type"]]
    for name, value in content["state_dict"].items():
        if encoder.in_logits(name.removeprefix("network.")):
            content["state_dict"][name] = value / temperature
    content["temperature"] = content.get("temperature", 1.0) * temperature
    SafeCheckpointIO().save_checkpoint(content, path)


def keep_weights(path: Path, average: bool, val_f1: float | None) -> None:
    """Leaves one of the two sets of weights in the best checkpoint of a fit.

    Args:
        average: whether the moving average stays; else the weights that were trained take its place.
        val_f1: validation macro F1 of those that stay.
    """
    content = load(path)
    trained = content.pop("training_weights")
    if not average:
        content["state_dict"].update(trained)
    content["val_f1"] = val_f1
    SafeCheckpointIO().save_checkpoint(content, path)
