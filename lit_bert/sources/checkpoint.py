"""Checkpoint files, read: found by a later process, and checked before anything else sees them.

A checkpoint carries everything `test` and `predict` need: weights and architecture, tokenizer, class names
and data source, and the settings of the run. It may come from anybody: names of classes, functions and files
are never taken from it. A file of format 2 (`checkpoint_file`) holds

* a JSON text: `schema.Facts`, and beside them `progress`, which `nested` made of what Lightning keeps to go
  on with a run;
* the weights, as `state_dict.NAME` (those that trained, where others were frozen: of these it has the
  SHA-256, and where they came from); those that were trained, where the former are their average, as
  `training_weights.NAME`;
* the files of the tokenizer by their name, as bytes;
* the tensors of the progress, among them the moments of the optimizer, by the names that `progress` has.

    python -m lit_bert test --ckpt_path best
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lit_bert import RUNS, UserError
from lit_bert.encoders.table import ENCODERS
from lit_bert.io import files
from lit_bert.io.escape import line
from lit_bert.io.tokenizers import MAX_TOKENIZER_BYTES
from lit_bert.io.untrusted import MAX_CLASSES
from lit_bert.sources.checkpoint_file import read_file, write_file
from lit_bert.sources.checkpoint_v1 import START, read_v1
from lit_bert.sources.nested import decoded, encoded
from lit_bert.sources.schema import (
    ClassNames,
    DataFacts,
    Facts,
    ModelSettings,
    Plain,
    RunSettings,
    Text,
    WeightsFacts,
    checked,
)
from lit_bert.sources.tokenizer_files import TOKENIZER_FILES
from lit_bert.task.base import Task
from lit_bert.task.kinds import task_of_plain

FORMAT = 2
BEST, LAST = "best.ckpt", "last.ckpt"

WEIGHTS = ("state_dict", "training_weights")
PROGRESS = ("loops", "callbacks", "optimizer_states", "lr_schedulers", "MixedPrecision")
# What Lightning writes and nobody needs.
UNUSED = {"hparams_name", "hparams_type", "datamodule_hparams_name", "datamodule_hyper_parameters"}
# Facts by the name that Lightning and the hooks of BertClassifier have for them.
LIGHTNING = {
    "hyper_parameters": "model",
    "config": "settings",
    "pytorch-lightning_version": "lightning",
    **{
        each: each
        for each in (
            *("epoch", "global_step", "is_published", "weights", "learning_rate", "devices"),
            "method",
        )
    },
    "val_f1": "val_score",  # its earlier name
    **{each: each for each in ("val_score", "temperature", "calibration")},
}
DATA = "EmotionDataModule"  # Lightning's name for the state of the data module
NEEDED = ("state_dict", "hyper_parameters", "weights", "global_step", "epoch")


class DataState(Plain):
    """What `EmotionDataModule.state_dict` gives; `DataFacts` checks the rest of it."""

    label_names: ClassNames
    tokenizer: dict[Literal["tokenizer.json", "tokenizer_config.json"], str]
    hyper_parameters: dict[Text, Any]
    source: dict[Text, Any]
    code_order: Annotated[list[Text], Field(max_length=MAX_CLASSES)] | None = None
    fingerprint: Text | None = None
    rows: dict[Text, Any] = Field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """`DataFacts`, unchecked: of the class names the argument alone, as the model has the others."""
        settings = {**self.hyper_parameters, "label_names": self.code_order}
        return {**self.model_dump(include={"source", "fingerprint", "rows"}), "settings": settings}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint of lit_bert, checked.

    Attributes:
        facts: what it says of itself.
        state_dict: the weights to label with, by the names of `BertClassifier`, but for frozen ones.
        training_weights: those that train, where `state_dict` is their average.
        tokenizer: content of tokenizer.json and tokenizer_config.json; empty where there are no `facts.data`.
        progress: what a run goes on from, by Lightning's names; without `optimizer_states` it cannot.
    """

    path: Path
    facts: Facts
    state_dict: dict[str, Tensor]
    training_weights: dict[str, Tensor] | None = None
    tokenizer: dict[str, str] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path | str) -> Checkpoint:
        """Reads `path` and checks that it is a trained checkpoint of lit_bert.

        Raises:
            UserError: not readable, of another program, or saved before the first optimizer step.
        """
        checkpoint = cls.read(path)
        if checkpoint.facts.data is None:
            raise UserError(
                f"{line(path)} is no checkpoint of lit_bert: it lacks its data. "
                "Give one that `python -m lit_bert fit` wrote."
            )
        facts = checkpoint.facts
        if facts.global_step == 0 and facts.method is None and not facts.is_published:
            raise UserError(
                f"{line(path)} was saved before the first optimizer step: its classifier was never trained. "
                "Run `python -m lit_bert fit` first."
            )
        return checkpoint

    @classmethod
    def read(cls, path: Path | str, shown: Path | None = None) -> Checkpoint:
        """Reads a local file; its tensors are memory-mapped.

        Args:
            shown: what messages call the file.

        Raises:
            UserError: the file is missing, truncated or damaged, or says something that no checkpoint of
                lit_bert says.
        """
        what = line(shown or path)
        place, start = _opened(Path(path), what)
        if start == START:
            return cls.from_lightning(read_v1(place, what), place, what)
        values, tensors = read_file(place, what)
        if values.get("format") != FORMAT:
            raise UserError(
                f"{what} is of format {line(values.get('format'), 40)}; this version of lit_bert reads 1 and "
                f"{FORMAT}. Update lit_bert."
            )
        progress = values.pop("progress", {})
        facts: Facts = checked(Facts, values, what)
        weights = {part: _taken(tensors, f"{part}.") for part in WEIGHTS}
        files = [name for name in TOKENIZER_FILES if name in tensors]
        tokenizer = {name: _text(tensors.pop(name), name, what) for name in files}
        try:
            progress = decoded(progress, tensors)
        except (ValueError, RecursionError) as error:
            why = line(error, 200) or type(error).__name__
            raise UserError(f"{what}: progress is not what lit_bert writes: {why}.") from None
        if tensors:
            raise UserError(f"{what} has an unknown tensor {line(next(iter(tensors)), 200)}.")
        trained = weights["training_weights"] or None
        return cls(place, facts, weights["state_dict"], trained, tokenizer, progress)._checked(what)

    @classmethod
    def from_lightning(cls, content: Mapping[str, Any], path: Path, what: str) -> Checkpoint:
        """What Lightning hands to its writer, as a checkpoint that is going to stand at `path`.

        Args:
            what: the name of the file in messages.

        Raises:
            UserError: it has another key than a checkpoint of lit_bert, lacks one, or has another value.
        """
        if missing := [name for name in NEEDED if name not in content]:
            raise UserError(
                f"{what} is no checkpoint of lit_bert: it lacks {', '.join(missing)}. "
                "Give one that `python -m lit_bert fit` wrote."
            )
        state: DataState | None = None
        values: dict[str, Any] = {}
        for key, value in content.items():
            if key == DATA:
                state = checked(DataState, value, f"{what}: {DATA}")
                values["data"] = state.facts()
            elif key in LIGHTNING:
                values[LIGHTNING[key]] = value
            elif key not in PROGRESS and key not in WEIGHTS and key not in UNUSED:
                raise UserError(
                    f"{what}: {line(key, 200)} is not a key that lit_bert knows. Give a file that it wrote."
                )
        facts: Facts = checked(Facts, values, what)
        if state is not None and state.label_names != facts.model.label_names:
            raise UserError(f"{what} has different class names for its data and for its model.")
        weights = {part: _weights(content[part], f"{part} of {what}") for part in WEIGHTS if part in content}
        tokenizer = {str(name): text for name, text in state.tokenizer.items()} if state else {}
        progress = {part: content[part] for part in PROGRESS if part in content}
        trained = weights.get("training_weights")
        return cls(path, facts, weights["state_dict"], trained, tokenizer, progress)._checked(what)

    def _checked(self, what: str) -> Checkpoint:
        """Itself; parts that do not fit each other are a UserError."""
        if not self.state_dict:
            raise UserError(
                f"{what} is no checkpoint of lit_bert: it lacks state_dict. "
                "Give one that `python -m lit_bert fit` wrote."
            )
        for part, tensors in (("state_dict", self.state_dict), ("training_weights", self.training_weights)):
            for name, tensor in (tensors or {}).items():
                if not tensor.is_floating_point():
                    raise UserError(
                        f"{part} of {what} has tensors of other than floating-point numbers, "
                        f"{line(name, 200)} for one."
                    )
        if self.training_weights is not None:
            check_same_shapes(self.training_weights, self.state_dict, f"training_weights of {what}")
        if (self.facts.data is None) != ("tokenizer.json" not in self.tokenizer):
            raise UserError(f"{what} has data without a tokenizer, or a tokenizer without data.")
        if (self.weights.base_sha256 is not None) != self.model.trains_part:
            raise UserError(f"{what} has frozen weights without their SHA-256, or this without them.")
        if not isinstance(self.progress, dict) or not self.progress.keys() <= set(PROGRESS):
            raise UserError(f"{what}: progress has other parts than {', '.join(PROGRESS)}.")
        try:
            _ = self.task
        except UserError as error:
            raise UserError(f"{what}: {error}") from None
        return self

    def as_lightning(self) -> dict[str, Any]:
        """The content as Lightning and its hooks know it."""
        facts = self.facts
        plain = facts.model_dump(exclude={"format", "data"})
        names = {own: theirs for theirs, own in LIGHTNING.items()}
        content = {names.get(key, key): value for key, value in plain.items() if value is not None}
        if facts.data is not None:
            kept = facts.data.model_dump()
            settings = kept.pop("settings")
            content[DATA] = {
                **kept,
                "label_names": facts.model.label_names,
                "code_order": settings["label_names"],
                "hyper_parameters": {**settings, "label_names": facts.model.label_names},
                "tokenizer": self.tokenizer,
            }
        trained = {} if self.training_weights is None else {"training_weights": self.training_weights}
        return {**content, "state_dict": self.state_dict, **trained, **self.progress}

    def write(self, path: Path) -> None:
        """Writes a file of format 2; `train.checkpoint_io` does so whole or not at all.

        Raises:
            OSError: it cannot be written.
            ValueError: its progress has something in it that is no plain value.
        """
        tensors = {f"state_dict.{name}": tensor for name, tensor in self.state_dict.items()}
        for name, tensor in (self.training_weights or {}).items():
            tensors[f"training_weights.{name}"] = tensor
        for name, text in self.tokenizer.items():
            tensors[name] = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        progress = {part: encoded(value, part, tensors) for part, value in self.progress.items()}
        write_file(path, {**self.facts.model_dump(), "progress": progress}, tensors)

    @property
    def data(self) -> DataFacts:
        """What the data module kept to find the rows again."""
        if self.facts.data is None:
            raise UserError(f"{self.path} has no data: its Trainer was given loaders.")
        return self.facts.data

    @property
    def weights(self) -> WeightsFacts:
        """What the model's weights say of themselves: what was asked for, architecture, source."""
        return self.facts.weights

    @property
    def task(self) -> Task:
        """What labels and outputs are."""
        model = self.model
        return task_of_plain(model.task, model.label_names, model.task_parameters)

    @property
    def has_logits_bias(self) -> bool:
        """Whether something can be added to the logits of a class."""
        encoder = ENCODERS[self.weights.architecture["model_type"]]
        logits = [name for name in self.state_dict if encoder.in_logits(name.removeprefix("network."))]
        return any(name.endswith(".bias") for name in logits)

    @property
    def model(self) -> ModelSettings:
        """The hyper-parameters of BertClassifier."""
        return self.facts.model

    @property
    def settings(self) -> RunSettings | None:
        """The settings of the run, if it had a command line."""
        return self.facts.settings

    @property
    def run(self) -> Path:
        """The folder of the run that wrote it."""
        return self.path.parent

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the file."""
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


def _opened(path: Path, what: str) -> tuple[Path, bytes]:
    """Where a file really lies, and its first bytes."""
    try:
        place = path.resolve(strict=True)
        if not place.is_file():
            raise UserError(f"{what} is no regular file; expected a checkpoint that `fit` wrote.")
        with place.open("rb") as stream:
            return place, stream.read(len(START))
    except FileNotFoundError:
        raise UserError(f"no checkpoint {what}. Run `python -m lit_bert fit` or check --ckpt_path.") from None
    except (OSError, RuntimeError, ValueError) as error:  # no right to; links in a circle; NUL in a name
        why = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(f"cannot read {what}: {why}. Check its rights.") from None


def _taken(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names have the prefix, without it; they are taken out of `tensors`."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def _weights(found: Any, what: str) -> dict[str, Tensor]:
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()
    ):
        raise UserError(f"{what} is no mapping from names to tensors.")
    return dict(found)


def _text(tensor: Tensor, name: str, what: str) -> str:
    """A text that is kept as the bytes of its UTF-8, uint8 (N,)."""
    if tensor.dtype != torch.uint8 or tensor.ndim != 1 or len(tensor) > MAX_TOKENIZER_BYTES:
        raise UserError(f"{what} has a {name} that is no text of at most {MAX_TOKENIZER_BYTES:,} bytes.")
    try:
        return tensor.numpy().tobytes().decode()
    except UnicodeDecodeError:
        raise UserError(f"{what} has a {name} that is no text in UTF-8.") from None


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
    newest = files.newest(root, BEST, LAST)
    if newest is None:
        raise UserError(
            f"no {name} below {root.resolve()}: nothing was trained here yet. Run `python -m lit_bert fit`, "
            "or name a file with --ckpt_path."
        )
    found = newest.with_name(name)
    if not found.is_file():
        raise UserError(f"the newest fit, {found.parent}, has no {name}; name a file with --ckpt_path.")
    return found
