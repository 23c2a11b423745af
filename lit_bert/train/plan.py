"""What a run does about the settings that are left open: the recipe, put into its parts, and the methods.

python -m lit_bert fit --data.dataset reviews.csv --trainer.max_epochs 5
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint

from lit_bert.model.mean_layer import can_add_mean_layer
from lit_bert.train.keep import EarlyStop
from lit_bert.train.methods import METHODS
from lit_bert.train.recipe import FEW_ROWS, SCARCE_ROWS_A_CLASS, Choice, recipe_for
from lit_bert.train.run import FitRun
from lit_bert.train.trainer_limits import needs_validations

AUTO, FINETUNE, SOUP = "auto", "finetune", "soup"


def has_schedule(settings: Mapping[str, Any]) -> bool:
    """Whether settings say how long a run is: then it is theirs as a whole, unless they name a method."""
    trainer = settings["trainer"]
    ends = any(trainer[name] is not None for name in ("max_epochs", "max_time"))
    return ends or trainer["max_steps"] != -1 or bool(trainer["fast_dev_run"])


def uses_recipe(settings: Mapping[str, Any], is_resumed: bool) -> bool:
    """Whether the recipe fills in what is open."""
    return not is_resumed and (settings["method"] not in (None, AUTO) or not has_schedule(settings))


def trains_in_parts(settings: Mapping[str, Any], is_resumed: bool, devices: int) -> bool:
    """Whether few rows are all trained on, with networks of parts of them beside the one of all.

    The length of these has to be in epochs, none of which is asked to be chosen, all weights have to train,
    and nothing else may cut the rows.
    """
    model, trainer = settings["model"], settings["trainer"]
    trains_less = (
        model["lora"]["rank"] or model["freeze"] is not None or settings["data"]["folds"] or devices > 1
    )
    by_epochs = trainer["max_steps"] == -1 and trainer["max_time"] is None
    is_free = by_epochs and not needs_validations(settings)
    return uses_recipe(settings, is_resumed) and is_free and not trains_less


def methods_of(run: FitRun) -> list[str]:
    """The methods that are tried, the recipe's own first."""
    method = run.settings["method"] or AUTO
    if method != AUTO:
        return [method]
    if not uses_recipe(run.settings, run.resumed is not None):
        return [FINETUNE]
    if run.trainer.world_size > 1 or run.data.hparams.folds or run.model.trains_part:
        return [FINETUNE]
    reads_max = run.data.hparams.window_pooling == "max" and run.data.train_rows.long_texts is not None
    if reads_max:
        return [FINETUNE]
    task, rows = run.model.task, len(run.data.train_rows)
    is_scarce = run.trains_in_parts and rows < SCARCE_ROWS_A_CLASS * len(task.class_names)
    has_one = task.label_form == "class" and not task.is_ordered
    return [SOUP if is_scarce and has_one else FINETUNE, "frozen"]


def goes_by_methods(run: FitRun) -> bool:
    """Whether networks are trained beside that of the run's trainer, or in its place."""
    return FINETUNE not in run.methods or (run.trains_in_parts and len(run.data.train_rows) < FEW_ROWS)


def apply_recipe(run: FitRun) -> None:
    """Fills in the settings of a run that are open, says which and why, and has its parts follow them."""
    data, model = run.data, run.model
    is_new = model.weights is not None and model.weights.checkpoint is None
    has_mean = is_new and not model.trains_part and can_add_mean_layer(model.network)
    given = run.settings["data"]["batch_size"], run.settings["trainer"]["max_epochs"]
    said: list[str] = []
    takes_steps = any(METHODS[name].trains for name in run.methods)
    for choice in recipe_for(len(data.train_rows), len(model.task.class_names), *given, has_mean):
        section, name = choice.name.split(".")
        if name == "check_val_every_n_epoch" and data.hparams.folds:  # what is held out chooses no epoch
            choice = choice._replace(value=run.trainer.max_epochs)
        value = run.settings[section][name]
        if choice.name == "model.head_start" and run.old is not None:
            choice = Choice(choice.name, False, "the classes that stay keep their rows")
        if value is None or (name == "check_val_every_n_epoch" and value == 1):
            _set(run, choice)
            reason = f" ({choice.reason})" if choice.reason else ""
            if takes_steps or choice.name == "model.pooling":
                said.append(f"{choice.name} {_shown(choice.value)}{reason}")
    run.notes = said


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _set(run: FitRun, choice: Choice) -> None:
    """Has a run follow a choice: its settings, their record, and the part that they are of."""
    section, name = choice.name.split(".")
    run.settings[section][name] = choice.value
    if run.config is not None:
        run.config[choice.name] = choice.value
    trainer = run.trainer
    if section == "data":
        run.data.hparams[name] = choice.value
    elif choice.name == "model.pooling":
        if choice.value == "mean":
            run.model.add_mean_layer()
    elif section == "model":
        run.model.hparams[name] = choice.value
    elif name == "max_epochs":
        run.chose_epochs = True
        trainer.fit_loop.max_epochs = choice.value
    elif name == "check_val_every_n_epoch":
        trainer.check_val_every_n_epoch = choice.value
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.monitor is None:  # the last one
                callback._every_n_epochs = choice.value
    else:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStop):
                callback.patience = choice.value
