"""Settings by their name on the command line: which of them a command gives, and which a checkpoint does."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lit_bert import UserError
from lit_bert.io.escape import line

if TYPE_CHECKING:
    from lit_bert.sources.checkpoint import Checkpoint

log = logging.getLogger(__name__)

BASE = "weights.pretrained"  # as a flag beside a checkpoint: where the weights are that were frozen
# What they are where they are left to be found in the data, which a checkpoint knows the answer to.
TO_BE_FOUND = {
    **dict.fromkeys(("data.text_column", "data.label_column", "data.task", "data.long_texts")),
    "data.text_form": "auto",
}
FILE_SETTINGS = {  # hold for the files that they were given with
    f"data.{name}"
    for name in ("label_names", "format", "delimiter", "encoding", "header", "quoting", "sheet", "query")
}
TEXT_SETTINGS = {"data.text_column", "data.text_form"}


def names_setting(given: Iterable[str], setting: str) -> bool:
    """Whether one of the given settings is `setting`, a part of it, or has it as a part."""
    return any(
        name == setting or name.startswith(f"{setting}.") or setting.startswith(f"{name}.") for name in given
    )


def is_given(config: Any, given: Iterable[str], setting: str) -> bool:
    """Whether a command says what a setting is, and does not leave it to be found."""
    left = setting in TO_BE_FOUND and config[setting] == TO_BE_FOUND[setting]
    return names_setting(given, setting) and not left


def checkpoint_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings of model, data and weights that a checkpoint answers for, by name."""
    model = checkpoint.model.model_dump(exclude={"label_names", "task", "task_parameters"})
    model |= {f"lora.{name}": value for name, value in model.pop("lora").items()}
    data = checkpoint.data.settings.model_dump(exclude={"order_seed"})
    weights = {**checkpoint.weights.request.model_dump(), "checkpoint": str(checkpoint.path)}
    sections = {"model": model, "data": data, "weights": weights}
    return {
        f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()
    }


def fill_from_checkpoint(config: Any, given: Mapping[str, bool], checkpoint: Checkpoint, verb: str) -> None:
    """Fills in what a command that uses a checkpoint as it is does not say, with the checkpoint's own values.

    Args:
        config: the parsed settings, read and written by dotted names; no parser sees the values.
        given: settings that the command names; true where a flag does it, false where a configuration does.

    Raises:
        UserError: a flag would change the model or its weights.
    """
    for name, is_flag in given.items():
        if name == BASE and is_flag and checkpoint.model.trains_part:
            continue
        changes = name == "data.task" and not checkpoint.facts.is_published  # else it was taken
        if is_flag and (name.startswith(("model.", "weights.")) or changes):
            raise UserError(
                f"--{name} would change nothing: `{verb}` takes the model of {checkpoint.path} as it is. "
                "Leave the flag out."
            )
    other_data = names_setting(given, "data.dataset") or names_setting(given, "input") or verb == "predict"
    dataset = checkpoint.data.settings.dataset
    if not other_data and checkpoint.facts.is_published:
        raise UserError(
            f"{line(checkpoint.weights.source.name)} was trained elsewhere, and on what is not known. Give "
            "labelled rows with --data.dataset."
        )
    if not other_data and "://" in dataset:
        # A stranger's checkpoint shall neither connect nor be shown passwords of the environment.
        raise UserError(
            f"{checkpoint.path} was trained on {line(dataset, 200)}, and `{verb}` connects only to what the "
            "command names. Give --data.dataset, and for a database --data.query, as for fit."
        )
    of_file = FILE_SETTINGS
    if checkpoint.facts.is_published:  # no file has given its columns names, unless these are part of a text
        joins = checkpoint.data.settings.texts.kind == "joined"
        of_file = FILE_SETTINGS | {"data.label_column"} | (set() if joins else TEXT_SETTINGS)
    for name, value in checkpoint_settings(checkpoint).items():
        # A configuration may be that of another fit.
        if name == BASE and given.get(name):
            continue
        if name.startswith(("model.", "weights.")) or name == "data.task":
            if names_setting(given, name) and config[name] not in (value, None):
                log.info(f"{name} is that of the checkpoint, {line(value, 100)}, not of the configuration")
            config[name] = value
        # How quotes and codes were read in one file says nothing of another.
        elif not is_given(config, given, name) and not (other_data and name in of_file):
            config[name] = value
