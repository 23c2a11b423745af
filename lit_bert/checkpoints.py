"""Checkpoint files: written whole, found again by a later process, and checked before anything reads them.

The second hand-over on the journey. A checkpoint carries everything `test` and `predict` need: weights and
architecture (from `model`), tokenizer, class names and data source (from `data`), and the run's settings.

It may come from anybody, so reading one never runs code from it (`weights_only=True`), takes no more memory
than the file has bytes, and gives tensors and plain values that fit `schema`: names of classes, functions and
files are never taken from it.

    python -m lit_bert test --ckpt_path best
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import stat
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from lit_bert import RUNS, UserError, files
from lit_bert.escape import line
from lit_bert.finite import RESUMED, first_not_finite, tensors_in
from lit_bert.schema import BestSettings, Contents, Plain, StoppingSettings, TrainerSettings, checked

BEST, LAST = "best.ckpt", "last.ckpt"

PICKLE_BYTES = 2**28  # of what a checkpoint says beside the values of its tensors
MEMBERS = 100_000  # of its archive
VALUES = 2_000_000  # that it says, tensors counted once
DEPTH = 32  # of values in each other
PLAIN = (str, int, float, bool, type(None))
# Beside what `schema.Contents` has: tensors; how far a run has come; what Lightning writes and nobody needs.
TENSORS = {"state_dict", "training_weights"}
PROGRESS = {"loops", "callbacks", "optimizer_states", "lr_schedulers", "MixedPrecision"}
VERSION, OLDEST = "pytorch-lightning_version", (2, 6)
UNUSED = {
    "hparams_name",
    "hparams_type",
    "datamodule_hparams_name",
    "datamodule_hyper_parameters",
}  # Lightning's


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


def load(path: Path | str, shown: Path | None = None) -> dict[str, Any]:
    """The checked content of a local checkpoint file; its tensors are memory-mapped.

    Args:
        shown: what messages call the file.

    Raises:
        UserError: the file is missing, truncated, holds anything but tensors and plain values, or says
            something that no checkpoint of lit_bert says.
    """
    what = shown or path
    try:
        size = _checked_archive(Path(path), what)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise UserError(f"no checkpoint {what}. Run `python -m lit_bert fit` or check --ckpt_path.") from None
    except PermissionError as error:
        raise UserError(f"cannot read {what}: {error.strerror}. Check its rights.") from None
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
    return checked_content(content, str(what), size)


def _checked_archive(path: Path, what: Path | str) -> int:
    """Bytes of a file that is an archive as torch writes them, and whole.

    Nothing in it is compressed, so nothing swells, and no name stands twice, as readers differ in which one
    they take. Every member is compared with its CRC-32, which torch leaves out: values with changed bits
    would be taken for other weights.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise UserError(f"{what} is no regular file; expected a checkpoint that `fit` wrote.")
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
    return state.st_size


def checked_content(content: Any, what: str, size: int) -> dict[str, Any]:
    """The content of a checkpoint, with everything in it known and of its type.

    Args:
        what: what messages call it.
        size: bytes of the file; no tensor in it has more.

    Raises:
        UserError: the first thing that is not so.
    """
    _check_plain(content, what, size)
    if not isinstance(content, dict):
        raise UserError(
            f"{what} is no checkpoint of lit_bert: it holds a {type(content).__name__}. "
            "Give one that `python -m lit_bert fit` wrote."
        )
    _check_parts(content, {"state_dict", "hyper_parameters", "weights", "global_step", "epoch"}, what)
    version = content.get(VERSION)
    shown = line(version, 40) if isinstance(version, str) and version else "of an unknown version"
    match = re.fullmatch(r"(\d{1,4})\.(\d{1,4})\.\w{1,8}([.+]\w{1,20})?", shown)
    if match is None or (int(match[1]), int(match[2])) < OLDEST:
        raise UserError(
            f"{what} was written by Lightning {shown}; expected {OLDEST[0]}.{OLDEST[1]} or newer."
        )
    tensors = {name: _checked_tensors(content[name], name, what, size) for name in TENSORS & set(content)}
    if "training_weights" in tensors:
        check_same_shapes(tensors["training_weights"], tensors["state_dict"], f"training_weights of {what}")
    rest = {
        key: value
        for key, value in content.items()
        if key not in TENSORS | PROGRESS | UNUSED and key != VERSION
    }
    if isinstance(rest.get("config"), dict) and "composition" not in rest["config"]:
        rest["config"] = _translated(rest["config"], what)
    facts: Contents = checked(Contents, rest, what)
    data = facts.EmotionDataModule
    if data is not None and facts.hyper_parameters.label_names != data.label_names:
        raise UserError(f"{what} has different class names for its data and for its model.")
    plain = {key: value for key, value in facts.model_dump().items() if value is not None}
    progress = {key: content[key] for key in PROGRESS & set(content)}
    return {**plain, **progress, **tensors, VERSION: version}


def _check_parts(content: dict[str, Any], parts: set[str], what: str) -> None:
    if missing := parts - set(content):
        raise UserError(
            f"{what} is no checkpoint of lit_bert: it lacks {', '.join(sorted(missing))}. "
            "Give one that `python -m lit_bert fit` wrote."
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


def _checked_tensors(found: Any, name: str, what: str, size: int) -> dict[str, torch.Tensor]:
    """Weights by name; together they have no more bytes than the file, so that no two are the same ones."""
    if not isinstance(found, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) and value.is_floating_point()
        for key, value in found.items()
    ):
        raise UserError(f"{name} of {what} is no mapping from names to tensors of floating-point numbers.")
    if sum(tensor.numel() * tensor.element_size() for tensor in found.values()) > size:
        raise UserError(f"{name} of {what} would have more bytes than the file.")
    return found


def check_same_shapes(
    found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], what: str
) -> None:
    """Raises a UserError where names or shapes of tensors differ; the message names the first."""
    for name in [*expected, *found]:
        if name not in found or name not in expected:
            kind = "lacks" if name not in found else "has an unknown tensor"
            raise UserError(f"{what} {kind} {line(name, 200)}.")
        if found[name].shape != expected[name].shape:
            shapes = f"{tuple(found[name].shape)}; expected {tuple(expected[name].shape)}"
            raise UserError(f"{what}: {line(name, 200)} has the shape {shapes}.")


# --- the form of checkpoints before settings and composition were told apart; nothing else knows it ---

_SECTIONS = {"seed_everything", "calibrate", "checkpoint", "early_stopping", "trainer"}
_ELSEWHERE = {
    "data",
    "weights",
    "model",
    "seeds",
    "ckpt_path",
    "weights_only",
}  # said again beside the tensors


def _translated(config: dict[str, Any], what: str) -> dict[str, Any]:
    """The settings of a run, all of them as LightningCLI had them, as `RunSettings`."""
    for key in config:
        if key not in _SECTIONS and key not in _ELSEWHERE:
            raise _unknown(f"config.{line(key, 200)}", what)
    for section, model in _KEPT.items():
        values = config.get(section, {})
        if not isinstance(values, dict):
            raise UserError(f"{what}: config.{section} is a {type(values).__name__}; expected settings.")
        known = {*model.model_fields, *_COMPOSED.get(section, ()), *_NOT_STORED[section]}
        for key in values:
            if key not in known:
                raise _unknown(f"config.{section}.{line(key, 200)}", what)
    return run_settings({name: config[name] for name in _SECTIONS if name in config})


def _unknown(key: str, what: str) -> UserError:
    return UserError(f"{what}: {key} is not a key that lit_bert knows. Give a file that lit_bert wrote.")


# --- settings of a run ---

# Classes, paths and templates, which a checkpoint may not bring along.
_COMPOSED = {
    "trainer": (
        *(
            "callbacks",
            "fast_dev_run",
            "logger",
            "max_time",
            "plugins",
            "profiler",
            "reload_dataloaders_every_n_epochs",
        ),
        *("strategy", "sync_batchnorm", "use_distributed_sampler"),
    ),
    "checkpoint": ("dirpath", "filename", "save_last", "save_on_exception", "train_time_interval"),
}
# Of the machine, the screen, or other stages than fit.
_NOT_STORED = {
    "trainer": {
        *("accelerator", "devices", "num_nodes", "enable_checkpointing", "enable_progress_bar"),
        *("enable_model_summary", "enable_autolog_hparams", "benchmark", "inference_mode", "detect_anomaly"),
        *("barebones", "default_root_dir", "limit_test_batches", "limit_predict_batches", "model_registry"),
    },
    "checkpoint": {"verbose", "auto_insert_metric_name", "enable_version_counter"},
    "early_stopping": {"verbose", "log_rank_zero_only"},
}
_KEPT: dict[str, type[Plain]] = {
    "trainer": TrainerSettings,
    "checkpoint": BestSettings,
    "early_stopping": StoppingSettings,
}


def run_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint keeps of the settings of `fit`, in the form of `schema.RunSettings`.

    Args:
        config: sections and values as plain values, as the parser has them.
    """
    settings: dict[str, Any] = {
        name: config[name] for name in ("seed_everything", "calibrate") if name in config
    }
    for section, model in _KEPT.items():
        values = config.get(section, {})
        settings[section] = {key: values[key] for key in values if key in model.model_fields}
    return {**settings, "composition": composition(config)}


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `run_settings` by their name on the command line, without the composition."""
    sections = {name: values for name, values in settings.items() if name in _KEPT}
    flat = {
        f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()
    }
    return {**{name: settings[name] for name in ("seed_everything", "calibrate")}, **flat}


def composition(config: Mapping[str, Any]) -> dict[str, str]:
    """The settings that hold classes, paths and templates, by their name, as text to compare."""
    return {
        f"{section}.{key}": _as_text(key, value)
        for section, model in _KEPT.items()
        for key, value in config.get(section, {}).items()
        if key not in model.model_fields and key not in _NOT_STORED[section]
    }


def _as_text(key: str, value: Any) -> str:
    """Equal texts for equal values; of loggers the classes count, as a run has a folder of its own."""
    if key == "logger":
        some = value if isinstance(value, list) else [value]
        value = [each.get("class_path") if isinstance(each, Mapping) else each for each in some]
    text = json.dumps(value, sort_keys=True, default=str)
    return text if len(text) < 2000 else hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


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
    """Divides the logits of a checkpoint by `temperature` for good: in the classifier's weight and bias.

    So every program that loads the weights has calibrated probabilities. Labels stay the same.
    """
    content = load(path)
    for name in ("network.classifier.weight", "network.classifier.bias"):
        content["state_dict"][name] = content["state_dict"][name] / temperature
    content["temperature"] = content.get("temperature", 1.0) * temperature
    SafeCheckpointIO().save_checkpoint(content, path)


def replace_training_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Has the best checkpoint of a fit hold other trained weights beside their average."""
    content = load(path)
    content["training_weights"] = weights
    SafeCheckpointIO().save_checkpoint(content, path)


def keep_weights(path: Path, choice: Mapping[str, Any]) -> None:
    """Leaves one of the two sets of weights in the best checkpoint of a fit.

    Args:
        choice: `kept`, whether the moving average stays, else the weights that were trained take its place;
            `val_f1`, validation macro F1 of those that stay; `epoch` and `global_step` that they are of.
    """
    content = load(path)
    trained = content.pop("training_weights")
    if not choice["kept"]:
        content["state_dict"].update(trained)
    content |= {name: choice[name] for name in ("val_f1", "epoch", "global_step")}
    SafeCheckpointIO().save_checkpoint(content, path)


@dataclass(frozen=True)
class Checkpoint:
    """A trained checkpoint of ours, opened and checked.

    Attributes:
        content: tensors and progress; everything else as plain values that fit `schema.Contents`.
    """

    path: Path
    content: dict[str, Any]

    @classmethod
    def open(cls, path: Path | str) -> Checkpoint:
        """Reads `path` and checks that it is a trained checkpoint of lit_bert.

        Raises:
            UserError: not readable, of another program, or saved before the first optimizer step.
        """
        content = load(path)
        _check_parts(content, {"EmotionDataModule"}, str(path))
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
