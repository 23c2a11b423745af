"""How often a run does something: what Lightning would divide by, or find out only when it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lit_bert import UserError
from lit_bert.data.hyperparameters import MAX_COUNT
from lit_bert.train.run import FitRun

INTERVALS = ("accumulate_grad_batches", "check_val_every_n_epoch", "log_every_n_steps")


MONITOR = "val/score"  # where it is left as it is
WHOLE = (None, 1.0)  # limits that leave all batches


def needs_validations(settings: Mapping[str, Any]) -> bool:
    """Whether settings ask for what a network without validations, trained on all of its rows, cannot give.

    That is how an epoch is chosen, when a run ends early, when it validates, and with which batches.
    """
    trainer, stop = settings["trainer"], settings["early_stopping"]
    chooses = any(each["monitor"] != MONITOR for each in (settings["checkpoint"], stop))
    asks = trainer["val_check_interval"] is not None or trainer["check_val_every_n_epoch"] != 1
    limits = [trainer[f"limit_{part}_batches"] for part in ("train", "val")]
    cuts = any(each not in WHOLE or type(each) is int for each in limits) or bool(trainer["overfit_batches"])
    return chooses or stop["patience"] is not None or asks or cuts


def check_trainer_limits(run: FitRun) -> None:
    """Raises a UserError where an interval of the trainer is none, or a limit leaves no batch.

    Args:
        run: its rows are known.
    """
    settings, trainer = run.settings["trainer"], run.trainer
    for name in INTERVALS:
        value = settings[name]
        if value is not None and not 1 <= value <= MAX_COUNT:
            raise UserError(f"trainer.{name} is {value}; expected at least 1 and at most {MAX_COUNT:,}.")
    if trainer.max_steps == 0:
        raise UserError("trainer.max_steps is 0; expected at least 1, or -1 for no limit.")
    data, batches = run.data, {}
    for part, rows, size in (
        ("train", data.train_rows, data.hparams.batch_size),
        ("val", data.val_rows, data.hparams.eval_batch_size),
    ):
        count = math.ceil(len(rows) / (size * trainer.world_size))
        limit = getattr(trainer, f"limit_{part}_batches")
        if isinstance(limit, float) and 0 < limit * count < 1:
            raise UserError(
                f"trainer.limit_{part}_batches is {limit}, which is less than one of {count:,} batches; "
                f"expected 0, or at least {1 / count:.3g}."
            )
        if isinstance(limit, float) and limit > 1:  # overfit_batches becomes such a limit unchecked
            raise UserError(
                f"trainer.limit_{part}_batches is {limit:g}, by trainer.overfit_batches; expected a whole "
                "number of batches, or a share of them, 0 to 1."
            )
        batches[part] = int(count * limit) if isinstance(limit, float) else min(count, limit)
    interval = settings["val_check_interval"]
    if isinstance(interval, int | float):
        within = settings["check_val_every_n_epoch"] is not None  # else it counts on over epochs
        most = max(1, batches["train"]) if within else MAX_COUNT
        if not 0 < interval <= most:
            raise UserError(
                f"trainer.val_check_interval is {interval}; expected a share of an epoch, or 1 to {most:,} "
                "batches."
            )
