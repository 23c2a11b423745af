"""What a fit would do, how long it would take and how much memory: a few real steps, and nothing written.

python -m lit_bert fit --dry_run
"""

from __future__ import annotations

import itertools
import math
import resource
import statistics
import sys
from typing import Any, NamedTuple

import numpy as np
import torch

from lit_bert import UserError
from lit_bert.data.batches import collate
from lit_bert.data.cache import TokenizedRows
from lit_bert.train.clock import Clock
from lit_bert.train.fit import check_run
from lit_bert.train.run import FitRun, bare_trainer
from lit_bert.train.summary import say_what_is_used

BATCHES = 8  # of the first epoch that are timed, after the longest possible one


class Measured(NamedTuple):
    """What the steps took.

    Attributes:
        plain_s: mean seconds of a training batch with one pass.
        second_s: of one with two; the same where there is no second pass.
        validation_s: of a validation batch.
        memory: bytes at the peak, of the device's own memory where it has some.
    """

    plain_s: float
    second_s: float
    validation_s: float
    memory: int


class Plan(NamedTuple):
    """How much a run does, at most.

    Attributes:
        batches: of an epoch.
        epochs: of the run.
        steps: of the optimizer.
        validations: of all validation rows.
        validation_batches: of one of them.
    """

    batches: int
    epochs: int
    steps: int
    validations: int
    validation_batches: int


def dry_run(run: FitRun) -> None:
    """Checks the run, shows what it would use, takes a few steps, and prints what the whole would take.

    Raises:
        UserError: what `fit` would refuse, or more than one device.
    """
    check_run(run)
    if run.trainer.world_size > 1:
        raise UserError("--dry_run measures one device; add --trainer.devices 1.")
    say_what_is_used(run)
    plan, found = plan_of(run), measure(run)
    start = run.model.hparams.adversarial_start if run.model.hparams.adversarial_norm else 1.0
    batch_s = start * found.plain_s + (1 - start) * found.second_s
    train = plan.steps * run.trainer.accumulate_grad_batches * batch_s
    validate = plan.validations * plan.validation_batches * found.validation_s
    second = f", {found.second_s:.3g} with a second pass" if start < 1 else ""
    print(
        f"steps      {plan.steps:,}: {plan.epochs} epochs of {plan.batches:,} batches, if none ends it early"
    )
    print(f"a batch    {found.plain_s:.3g} s{second}; of validation {found.validation_s:.3g} s")
    print(f"time       about {_minutes(train + validate)}, of which {_minutes(validate)} for validation")
    print(f"memory     about {found.memory / 1e6:,.0f} MB, the longest batch included")
    print(f"measured on {BATCHES} batches; nothing was written. Without --dry_run it starts.")


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 6 else f"{seconds:.1f} seconds"


def plan_of(run: FitRun) -> Plan:
    """How much the settings of a run come to."""
    trainer, data = run.trainer, run.data
    batches = _limited(data.train_rows, data.hparams.batch_size, trainer.limit_train_batches)
    a_step = trainer.accumulate_grad_batches
    steps_an_epoch = math.ceil(batches / a_step)
    epochs = trainer.max_epochs if trainer.max_epochs not in (None, -1) else None
    steps = trainer.max_steps if trainer.max_steps != -1 else None
    if epochs is None:
        assert steps is not None  # `check_run` refuses a run without an end
        epochs = math.ceil(steps / steps_an_epoch)
    steps = min(epochs * steps_an_epoch, steps or epochs * steps_an_epoch)
    epochs = math.ceil(steps / steps_an_epoch)
    interval = trainer.val_check_interval or 1.0
    if trainer.check_val_every_n_epoch is None:
        validations = steps * a_step // int(interval)
    else:
        in_epoch = int(1 / interval) if isinstance(interval, float) else batches // interval
        validations = epochs // trainer.check_val_every_n_epoch * in_epoch
    size = _limited(data.val_rows, data.hparams.eval_batch_size, trainer.limit_val_batches)
    return Plan(batches, epochs, steps, validations, size)


def _limited(rows: TokenizedRows, size: int, limit: float | None) -> int:
    """The batches of some rows, as a limit of the trainer leaves them."""
    count = math.ceil(len(rows) / size)
    if limit is None:
        return count
    return int(count * limit) if isinstance(limit, float) else min(count, limit)


def measure(run: FitRun) -> Measured:
    """Takes steps with the batches of the first epoch, after one of the longest texts."""
    model, data = run.model, run.data
    size, eval_size = data.hparams.batch_size, data.hparams.eval_batch_size
    longest = np.argsort(-data.train_rows.lengths, kind="stable")[:size]
    half = [_batch(run, data.train_rows, longest)]
    half += itertools.islice(data.train_dataloader(), BATCHES)
    has_second = bool(model.hparams.adversarial_norm)
    batches = half + half if has_second else half
    starts = np.linspace(0, max(0, len(data.val_rows) - eval_size), 3).astype(int)
    validation = [
        _batch(run, data.val_rows, np.arange(start, min(start + eval_size, len(data.val_rows))))
        for start in starts
    ]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    clock = Clock()
    share = model.hparams.adversarial_start
    model.hparams.adversarial_start = 0.5  # of these steps
    trainer = bare_trainer(run, [clock], max_epochs=1)
    try:
        trainer.fit(model, _loader(batches), _loader(validation))
    finally:
        model.hparams.adversarial_start = share
    plain = clock.train[1 : len(half)]
    second = clock.train[len(half) + 1 :] if has_second else plain
    on_gpu = trainer.strategy.root_device.type == "cuda"
    memory = torch.cuda.max_memory_allocated() if on_gpu else peak_memory()
    plain_s, second_s, validation_s = map(statistics.fmean, (plain, second, clock.validation))
    return Measured(plain_s, second_s, validation_s, memory)


def _batch(run: FitRun, rows: TokenizedRows, numbers: np.ndarray) -> dict[str, Any]:
    return collate([rows[int(number)] for number in numbers], run.data.weights.pad_token_id)


def _loader(batches: list[dict[str, Any]]) -> Any:
    return torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def peak_memory() -> int:
    """The most bytes that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
