"""A classifier that somebody else trained, from the Hub or a folder, as a checkpoint.

From then on every verb has it as one of our own. What it was trained on is not known, and nothing that
depends on it is said: no rows, no recipe, no scores before labelled rows were given.

    python -m lit_bert test --ckpt_path owner/name --data.dataset reviews.csv
    python -m lit_bert export --ckpt_path owner/name
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning

from lit_bert import RUNS, UserError
from lit_bert.data.windows import of_config
from lit_bert.io import untrusted
from lit_bert.io.escape import line
from lit_bert.io.texts import CONFIG_KEY as TEXT_KEY
from lit_bert.io.texts import TextForm
from lit_bert.io.untrusted import MAX_CLASSES
from lit_bert.model.pretrained import load_network
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.schema import Facts, checked
from lit_bert.sources.text_settings import form_of, names_as_setting, parse_names
from lit_bert.sources.weights import Weights
from lit_bert.task.base import Task
from lit_bert.task.kinds import CONFIG_KEY, KINDS, LONG_TEXTS_KEY, kind_of, task_of_config
from lit_bert.train.checkpoint_io import write_checkpoint

FOLDER, FILE = "published", "published.ckpt"  # below the runs; no `best.ckpt`, which would be the newest fit
PAIR = TextForm("pair", ("text", "text_pair"))


@dataclass(frozen=True)
class Asked:
    """What a command says of a classifier whose config.json leaves it open.

    Attributes:
        task: its kind.
        text_form: that of its texts.
    """

    task: str | None = None
    text_form: Literal["single", "pair", "joined"] | None = None

    @classmethod
    def of_settings(cls, task: str | None, text_column: str | None, text_form: str) -> Asked:
        """Of the settings of EmotionDataModule."""
        if text_column is None:
            return cls(task, "pair" if text_form == "pair" else None)
        return cls(task, form_of(parse_names(text_column, "text_column"), text_form))


def is_published(which: str) -> bool:
    """Whether `--ckpt_path` names a folder or a classifier on the Hub, and no file."""
    path = Path(which)
    return path.is_dir() or not (path.is_file() or path.suffix == ".ckpt" or which.count("/") > 1)


def as_checkpoint(place: str, asked: Asked) -> Path:
    """The checkpoint that a classifier becomes, below the runs: the same bytes for the same classifier.

    Args:
        place: a folder as transformers saves it or `export` writes it, or `owner/name@revision` on the Hub.

    Raises:
        UserError: there is no such thing, it is no classifier or none that lit_bert computes, or what it says
            of itself does not fit.
    """
    weights = Weights(place, stand_in=None)
    try:
        source = weights.source
    except UserError as error:
        if (runs := Path(place)).is_dir() and any(runs.glob("**/*.ckpt")):
            raise UserError(
                f"--ckpt_path {line(place)} is the folder of a run; name a file, such as "
                f"{line(next(iter(sorted(runs.glob('**/*.ckpt')))))}."
            ) from None
        raise UserError(f"--ckpt_path: {error}") from None
    config, what = untrusted.read_object(weights.folder / "config.json"), f"config.json of {line(place)}"
    task = _task(config, what, asked)
    network = load_network(weights, list(task.class_names), task.problem_type, has_head=True)
    values = {f"network.{name}": value.contiguous() for name, value in network.state_dict().items()}
    facts = {
        "lightning": lightning.__version__,
        "epoch": 0,
        "global_step": 0,
        "is_published": True,
        "model": {
            "label_names": list(task.class_names),
            "task": task.kind,
            "task_parameters": {name: list(each) for name, each in task.parameters.items()},
        },
        "data": {
            "source": {"kind": "unknown", "name": "unknown"},
            "settings": _data_settings(weights, config, task, asked),
        },
        "weights": {
            "request": {"pretrained": source.address},
            "architecture": weights.architecture,
            "source": source.as_dict(),
        },
    }
    found = checked(Facts, facts, f"what {what} says")
    checkpoint = Checkpoint(Path(FILE), found, values, tokenizer=weights.tokenizer_files)
    name = source.name if source.kind == "hub" else Path(source.name).name
    slug = re.sub(r"[^\w.-]+", "--", name).strip(".-")[-80:]
    known = hashlib.sha256(source.address.encode()).hexdigest()[:8]
    return write_checkpoint(checkpoint, RUNS / FOLDER / f"{slug}-{known}" / FILE).path


def _task(config: Mapping[str, Any], what: str, asked: Asked) -> Task:
    """The task, of what config.json says, else of what was asked for, else as transformers takes it."""
    count = config.get("num_labels", 2)
    if config.get("id2label") is None and type(count) is int and 0 < count <= MAX_CLASSES:
        names = [f"LABEL_{index}" for index in range(count)]  # as transformers calls them
    else:
        names = untrusted.class_names_of_config(dict(config), what)
    said = dict(config)
    if asked.task is not None:
        kind = kind_of(asked.task)
        if config.get(CONFIG_KEY) not in (None, kind.kind):
            raise UserError(
                f"{what} says that its task is {line(config[CONFIG_KEY], 60)}, and data.task is {kind.kind}. "
                "Leave --data.task out."
            )
        said |= {"problem_type": config.get("problem_type") or kind.problem_type, CONFIG_KEY: kind.kind}
    elif len(names) == 1 and not config.get("problem_type"):
        kinds = [name for name, kind in KINDS.items() if kind.fewest_classes == 1]
        raise UserError(
            f"{what} has one output and no problem_type, so that it may be a number or a probability. Say it "
            f"with --data.task {' or '.join(kinds)}."
        )
    try:
        return task_of_config(said, names)
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


def _data_settings(weights: Weights, config: Mapping[str, Any], task: Task, asked: Asked) -> dict[str, Any]:
    """`DataSettings`: as a folder of `export` says, else texts are cut at their end, as of transformers."""
    files = json.loads(weights.tokenizer_files["tokenizer_config.json"])
    if files.get("truncation_side") == "left":
        raise UserError(
            f"the tokenizer of {line(weights.source.name)} cuts long texts at their beginning "
            "(truncation_side left), which lit_bert does not."
        )
    max_length = int(min(files.get("model_max_length", weights.described.limit), weights.described.limit))
    long_texts = of_config(config.get(LONG_TEXTS_KEY), weights.tokenizer(max_length), max_length)
    form = TextForm.from_config(config)
    if CONFIG_KEY in config or TEXT_KEY in config:  # of `export`: it would say so if it were another form
        if asked.text_form not in (None, form.kind):
            raise UserError(
                f"{line(weights.source.name)} was trained on {form.described}, and data.text_form is "
                f"{asked.text_form}. Leave it out, and name columns of that kind with --data.text_column."
            )
    elif asked.text_form == "pair":
        form = PAIR
    return {
        "dataset": "",
        "text_column": names_as_setting(form.columns),
        "text_form": "auto" if form.kind == "single" else form.kind,
        "task": task.kind,
        "max_length": max_length,
        "long_texts": long_texts.mode,
        "window_overlap": long_texts.overlap if long_texts.mode == "windows" else None,
        "window_pooling": long_texts.pooling,
    }
