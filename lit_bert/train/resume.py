"""A run that goes on from its checkpoint: what it takes over, what may change, what is refused.

python -m lit_bert fit --ckpt_path last --trainer.max_epochs 5
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from lit_bert import UserError
from lit_bert.data.module import EmotionDataModule
from lit_bert.io.escape import line
from lit_bert.model.hyperparameters import SHARDED
from lit_bert.model.module import BertClassifier
from lit_bert.model.optimizer import checked_moments
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.finite import check_checkpoint_finite
from lit_bert.sources.settings import flat_settings
from lit_bert.train.checkpoint_io import check_progress
from lit_bert.train.settings import BASE, checkpoint_settings, is_given, names_setting

# What a resumed run may change of its data: where the rows are, if they are the same ones, and how many are
# evaluated at a time; a split of others for a guarantee.
CHANGEABLE_DATA = {"data.dataset", "data.stand_in", "data.eval_batch_size", "data.guarantee_split"}


@dataclass
class Resumed:
    """The checkpoint that a run goes on from, and in what it differs from then on, a line for each change."""

    checkpoint: Checkpoint
    changes: list[str] = field(default_factory=list)


# --- settings ---


def apply_resumed_settings(
    config: Any, given: Mapping[str, bool], composed: Mapping[str, str], checkpoint: Checkpoint
) -> Resumed:
    """Fills in what the command does not say, and refuses what a run that goes on cannot change.

    Args:
        config: the parsed settings of the command, read and written by dotted names.
        given: settings that the command names; true where a flag does it, false where a configuration does.
        composed: the settings of the command that hold classes, paths and templates, as text to compare.

    Raises:
        UserError: the checkpoint has weights only, or a setting differs that cannot change.
    """
    if "optimizer_states" not in checkpoint.progress:
        raise UserError(
            f"{checkpoint.path} holds weights only: training cannot go on from it. Use --ckpt_path last, "
            f"or start a new run from these weights with --weights.checkpoint {checkpoint.path}."
        )
    resumed = Resumed(checkpoint)
    run = checkpoint.settings
    before = {**checkpoint_settings(checkpoint), **(flat_settings(run) if run else {})}
    for name, value in before.items():
        # The run's own configuration has what its weights started from, and means no change by it.
        is_set = is_given(config, given, name) and (name != "weights.checkpoint" or given.get(name))
        if name == BASE and given.get(name) and checkpoint.model.trains_part:
            continue  # what was frozen, whose SHA-256 is compared
        if not is_set:
            config[name] = value
        elif config[name] != value:
            _change_setting(name, value, config[name], resumed)
    for name, value in (run.composition if run else {}).items():
        if composed.get(name, "null") != value and not names_setting(given, name):
            raise UserError(
                f"the run of {checkpoint.path} had {name} {line(value, 200)}, and this command has "
                f"{line(composed.get(name, 'null'), 200)}. Classes and paths do not come from a checkpoint: "
                f"give --{name}, or a configuration, such as --config {checkpoint.run / 'config.yaml'}."
            )
    logger = config["trainer.logger"]
    if isinstance(logger, Namespace) and "version" in logger.get("init_args", {}):
        _place_run(logger["init_args"], given, resumed)
    return resumed


def _change_setting(name: str, before: Any, now: Any, resumed: Resumed) -> None:
    """Notes that a resumed run has another setting, or refuses it."""
    if name.startswith(("model.lora.", "model.freeze")):
        raise UserError(
            f"--{name} is {line(now, 100)}, and the run that goes on has {line(before, 100)}: what trains "
            "cannot change. Leave it out, or start a new run from these weights with --weights.checkpoint "
            f"{resumed.checkpoint.path}."
        )
    if name.startswith("weights.") or (name.startswith("data.") and name not in CHANGEABLE_DATA):
        raise UserError(
            f"--{name} is {line(now, 100)}, and the run that goes on has {line(before, 100)}: its rows, "
            "batches and weights cannot change. Leave it out, or start a new run from these weights with "
            f"--weights.checkpoint {resumed.checkpoint.path}."
        )
    if not name.startswith("data."):  # for these the rows are compared
        resumed.changes.append(f"{name}: {line(before, 100)} before, {line(now, 100)} from here on")


def _place_run(arguments: Any, given: Mapping[str, bool], resumed: Resumed) -> None:
    """Has a resumed run go on in its own folder, or in a new one where the command names another place.

    A configuration says where a run was before it was moved: another run may be there by now.

    Args:
        arguments: of the logger.
    """
    run = resumed.checkpoint.run
    for name, value in {"save_dir": str(run.parent), "name": ""}.items():
        if not names_setting(given, f"trainer.logger.init_args.{name}") or arguments[name] is None:
            arguments[name] = value
    flags = [name for name, is_flag in given.items() if is_flag]
    if names_setting(flags, "trainer.logger.init_args.version") and arguments["version"] is not None:
        return
    root = Path(arguments["save_dir"], arguments["name"])
    stays = root.resolve() == run.parent
    arguments["version"] = run.name if stays else None
    if not stays:
        resumed.changes.append(f"its folder: {line(run)} before, a new one in {line(root)} from here on")


# --- progress ---


def check_finite(resumed: Resumed) -> None:
    """Raises a UserError where a number in the checkpoint is not finite."""
    check_checkpoint_finite(resumed.checkpoint.as_lightning(), resumed.checkpoint.path)


def check_resumed(resumed: Resumed, trainer: Trainer, model: BertClassifier, data: EmotionDataModule) -> None:
    """Refuses progress that does not fit this run, so that Lightning only reads what fits.

    Of the schedule and of the optimizer how far they have come is taken, and not their settings.
    """
    checkpoint = resumed.checkpoint
    what, progress = str(checkpoint.path), checkpoint.progress
    if isinstance(trainer.strategy, SHARDED):  # which open files of torch alone, past any plugin
        raise UserError(
            f"{type(trainer.strategy).__name__} reads no checkpoint of lit_bert, so no run can go "
            "on with it. Choose --trainer.strategy ddp, or start a new run from these weights with "
            f"--weights.checkpoint {what}."
        )
    if links := [path.name for path in checkpoint.run.iterdir() if path.is_symlink()]:
        raise UserError(
            f"{checkpoint.run} holds a link, {line(links[0], 100)}, and a resumed run writes into that "
            "folder. Copy the checkpoint into a folder of its own."
        )
    before, now = checkpoint.data.fingerprint, data.fingerprint
    if before not in (None, now):
        raise UserError(
            f"the rows to train on are not those of {what}: texts or labels differ. Give the data it "
            f"was trained on, or start a new run from its weights with --weights.checkpoint {what}."
        )
    loops = progress.get("loops")
    saved: Any = loops.get("fit_loop") if isinstance(loops, dict) else None
    check_progress(saved, trainer.fit_loop.state_dict(), f"{what}: loops")
    progress["loops"] = {"fit_loop": saved}
    _skip_trained_batches(saved, resumed, trainer, data)
    schedules = progress.get("lr_schedulers")
    schedule = schedules[0] if isinstance(schedules, list) and len(schedules) == 1 else None
    steps: Any = schedule.get("last_epoch") if isinstance(schedule, dict) else None
    check_progress(steps, 0, f"{what}: lr_schedulers.last_epoch")
    progress["lr_schedulers"] = [{"last_epoch": steps, "_step_count": steps + 1, "lr_lambdas": []}]
    states = progress.get("optimizer_states")
    if not (isinstance(states, list) and len(states) == 1 and isinstance(states[0], dict)):
        raise UserError(f"{what}: optimizer_states is not a list with the state of one optimizer.")
    groups: Any = model.parameters_by_group
    checked_moments(states[0], groups)  # before the folder is written into
    progress["callbacks"] = _checked_states(progress.get("callbacks", {}), trainer, what)


def _skip_trained_batches(
    loop: dict[str, Any], resumed: Resumed, trainer: Trainer, data: EmotionDataModule
) -> None:
    """Has the data module leave out the batches of an unfinished epoch that were trained on."""
    epochs, batches = (loop[name]["current"] for name in ("epoch_progress", "epoch_loop.batch_progress"))
    of, done = _batches_in_epoch(trainer, data), batches["ready"]
    if not 0 < done < of:
        return
    if epochs["processed"] < epochs["started"]:
        _check_same_batches(resumed.checkpoint, trainer, data)
        data.skip_batches = done
        how = f"goes on after batch {done} of {of}; its train/ scores are of what is left"
    else:
        how = f"had ended after batch {done} of {of}; a new one begins"
    resumed.changes.append(f"epoch {epochs['started']} {how}")


def _batches_in_epoch(trainer: Trainer, data: EmotionDataModule) -> int:
    """How many batches each device has in an epoch."""
    limit = trainer.limit_train_batches
    rows = math.ceil(len(data.train_rows) / trainer.world_size)
    batches = math.ceil(rows / data.hparams.batch_size)
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def _check_same_batches(checkpoint: Checkpoint, trainer: Trainer, data: EmotionDataModule) -> None:
    """Raises a UserError where the rest of an epoch would not be the rows that are left of it."""
    before = {
        "seed_everything": checkpoint.data.settings.order_seed,
        "the number of devices": checkpoint.facts.devices or trainer.world_size,
    }
    now = (data.hparams.order_seed, trainer.world_size)
    for (name, value), other in zip(before.items(), now, strict=True):
        if value != other:
            raise UserError(
                f"{name} is {other}, and {checkpoint.path} is from within an epoch whose batches come "
                f"from {value}: rows of it would be left out and others trained on twice. Leave it as "
                "it was, or go on from a checkpoint of the end of an epoch."
            )


def _checked_states(states: Any, trainer: Trainer, what: str) -> dict[str, Any]:
    """The states of this run's callbacks; each is loaded once to see that it fits."""
    check_progress({}, {} if isinstance(states, dict) else states, f"{what}: callbacks")
    found = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        key = callback.state_key
        if (state := states.get(key)) is not None:
            try:
                callback.load_state_dict(state)
            except UserError:
                raise
            except Exception as error:  # a callback of the user's may raise anything
                raise UserError(
                    f"{what}: the state of {line(key, 100)} does not fit ({type(error).__name__})."
                ) from None
            found[key] = state
    return found
