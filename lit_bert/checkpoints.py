"""Checkpoint files: written whole, found again by a later process, read without running code.

The second hand-over on the journey. A checkpoint carries everything `test` and `predict` need: weights and
architecture (from `model`), tokenizer, label names and data source (from `data`), and the run's config.

    python -m lit_bert test --ckpt_path best
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lit_bert import RUNS, UserError, escape
from lit_bert.finite import RESUMED, first_not_finite, tensors_in

BEST, LAST = "best.ckpt", "last.ckpt"


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its name, forces it to disk, reads it back, then renames it.

    Lightning's own writer does none of the four (pytorch-lightning issues 19970, 21431, 21800), and leaves a
    full disk to be found out at the next load. Weights that are not finite are not written.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        final = Path(path)
        parts = {name: checkpoint[name] for name in RESUMED if name in checkpoint}
        if wrong := first_not_finite(tensors_in(parts)):
            raise UserError(
                f"{escape.line(final)} is not written: {wrong} is not finite (NaN or infinity). Earlier "
                "checkpoints are whole."
            )
        partial = final.with_name(f".{final.name}.{os.getpid()}")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())
            with zipfile.ZipFile(partial) as archive:
                damaged = archive.testzip()  # checks every member's CRC-32
            if damaged:
                raise OSError(f"{damaged} reads back differently")
            load(partial)  # refuses what a later process could not open
            partial.replace(final)
        except (OSError, RuntimeError, zipfile.BadZipFile, UserError) as error:
            # torch's writer turns a full disk into a RuntimeError; the OSError stands in its context.
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            why = getattr(cause, "strerror", None) or cause
            raise UserError(
                f"cannot write the checkpoint {final}: {why}. Make room, or choose another folder with "
                "--trainer.logger.init_args.save_dir. Earlier checkpoints are whole."
            ) from error
        finally:
            with contextlib.suppress(OSError):  # where nothing could be written
                partial.unlink()

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: Any = None
    ) -> dict[str, Any]:
        return load(path, map_location or "cpu")


def load(path: Path | str, map_location: Any = "cpu") -> dict[str, Any]:
    """The content of a local checkpoint file; its tensors are memory-mapped. Never runs code from the file.

    Raises:
        UserError: the file is missing, truncated, or holds anything but tensors and plain values.
    """
    try:
        return torch.load(path, map_location=map_location, weights_only=True, mmap=True)
    except FileNotFoundError:
        raise UserError(f"no checkpoint {path}. Run `python -m lit_bert fit` or check --ckpt_path.") from None
    except PermissionError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Check its rights.") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds more than tensors and plain values, so it is not loaded: unpickling runs code. "
            "Give a checkpoint that `python -m lit_bert fit` wrote."
        ) from None
    except Exception:
        # A damaged pickle ends in any exception: KeyError, IndexError, TypeError, …
        raise UserError(
            f"{path} is not a readable checkpoint, perhaps a truncated one. Use another one with --ckpt_path."
        ) from None


def cool(path: Path, temperature: float) -> None:
    """Divides the logits of a checkpoint by `temperature` for good: in the classifier's weight and bias.

    So every program that loads the weights has calibrated probabilities. Labels stay the same.
    """
    content = load(path)
    for name in ("network.classifier.weight", "network.classifier.bias"):
        content["state_dict"][name] = content["state_dict"][name] / temperature
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


@dataclass(frozen=True)
class Checkpoint:
    """A trained checkpoint of ours, opened."""

    path: Path
    content: dict[str, Any]

    @classmethod
    def open(cls, path: Path | str) -> Checkpoint:
        """Reads `path` and checks that it is a trained checkpoint of lit_bert.

        Raises:
            UserError: not readable, of another program, or saved before the first optimizer step.
        """
        content = load(path)
        parts = {"state_dict", "hyper_parameters", "weights", "EmotionDataModule", "global_step"}
        missing = parts - set(content if isinstance(content, dict) else ())
        if missing:
            raise UserError(
                f"{path} is no checkpoint of lit_bert: it lacks {', '.join(sorted(missing))}. "
                "Give one that `python -m lit_bert fit` wrote."
            )
        if content["global_step"] == 0:
            raise UserError(
                f"{path} was saved before the first optimizer step: its classifier was never trained. "
                "Run `python -m lit_bert fit` first."
            )
        return cls(Path(path).resolve(), content)

    @property
    def data(self) -> dict[str, Any]:
        """What the data module kept: `hyper_parameters` to find the rows again, tokenizer, source."""
        return self.content["EmotionDataModule"]

    @property
    def weights(self) -> dict[str, Any]:
        """What the model's weights say of themselves: what was asked for, architecture, source."""
        return self.content["weights"]

    @property
    def model(self) -> dict[str, Any]:
        """The hyper-parameters of BertClassifier."""
        return dict(self.content["hyper_parameters"])

    @property
    def run(self) -> Path:
        """The folder of the run that wrote it."""
        return self.path.parent

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the file."""
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    @property
    def val_f1(self) -> float | None:
        """Validation macro F1 (0 to 1) when it was saved; None if there was no validation."""
        return self.content.get("val_f1")


def find(which: str | None, root: Path = RUNS) -> Path:
    """The checkpoint file meant by `--ckpt_path`.

    Args:
        which: a file; or `best` or `last`, or None for `best`, of the newest fit.
        root: where runs are looked for.

    Raises:
        UserError: there is none.
    """
    name = {None: BEST, "best": BEST, "last": LAST}.get(which)
    if name is None:
        path = Path(str(which))
        if "://" in str(which):
            raise UserError(f"--ckpt_path {which} is an address; download it and give the file.")
        if not path.is_file():
            raise UserError(f"no checkpoint {path}; expected a file, or `best` or `last` of the newest fit.")
        return path
    times = {path: path.stat().st_mtime_ns for kind in (BEST, LAST) for path in root.glob(f"**/{kind}")}
    if not times:
        raise UserError(
            f"no {name} below {root.resolve()}: nothing was trained here yet. Run `python -m lit_bert fit`, "
            "or name a file with --ckpt_path."
        )
    newest = max(times, key=lambda path: times[path]).with_name(name)
    if newest not in times:
        raise UserError(f"the newest fit, {newest.parent}, has no {name}; name a file with --ckpt_path.")
    return newest
