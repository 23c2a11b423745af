"""A run that ends when its minutes are over: what is trained until then, and what is left out.

    python -m lit_bert fit --minutes 5 --data.dataset reviews.csv

The learning rate falls with the steps or with the time, whichever is further on, so that a run that the clock
ends has ended its schedule, too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_bert import COMMAND, UserError

log = logging.getLogger(__name__)

FIRST_STEPS = 5  # after which it is said what to expect
RESERVE_S = 4.0  # for what comes after the training: weights compared, written, scored
LEAST_S = 2.0  # left, below which nothing more is trained
MOST_MINUTES = 60 * 24 * 30


class Budget:
    """The time of a command, from its beginning, or that of this object where there is no command.

    Args:
        minutes: what it may take; None is without end.
    """

    def __init__(self, minutes: float | None) -> None:
        if minutes is not None and not 0 < minutes <= MOST_MINUTES:
            raise UserError(f"--minutes is {minutes:g}; expected more than 0, at most {MOST_MINUTES:,}.")
        self.minutes = minutes
        started = COMMAND["started"] or time.monotonic()
        self._end = None if minutes is None else started + 60 * minutes
        self.reserve_s = RESERVE_S

    @property
    def is_over(self) -> bool:
        """Whether nothing more can be trained."""
        return self.left_s < LEAST_S

    @property
    def left_s(self) -> float:
        """Seconds until the end, less the reserve."""
        return float("inf") if self._end is None else self._end - time.monotonic() - self.reserve_s

    @contextmanager
    def reserving(self, factor: float) -> Iterator[None]:
        """Keeps as much time for the end as the block takes, times a factor."""
        start = time.monotonic()
        yield
        self.reserve_s += factor * (time.monotonic() - start)

    def callbacks(self, share: float = 1.0) -> list[Callback]:
        """What ends a training that may take a share of what is left."""
        return [] if self._end is None else [Deadline(max(0.0, self.left_s) * share)]


class Deadline(Callback):
    """Ends a training after some seconds, with its learning rate at 0 by then."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start, self._steps = time.monotonic(), trainer.global_step
        pl_module.time_share = self._share  # type: ignore[assignment]

    def _share(self) -> float:
        """Of the time that is over, 0 to 1."""
        return min(1.0, (time.monotonic() - self._start) / max(self.limit_s, 1e-9))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step - self._steps == FIRST_STEPS:
            self._foresee(trainer, pl_module)
        if self._share() >= 1:
            trainer.should_stop = True
            trainer.check_val_every_n_epoch = 1  # what there is, is validated

    def _foresee(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says how far the run will come; leaves out the second pass where there is no time for all steps."""
        step_s = (time.monotonic() - self._start) / FIRST_STEPS
        whole = int(trainer.estimated_stepping_batches)
        both: Any = pl_module.second_pass_share
        wanted_s = whole * step_s * (1 + both)
        if wanted_s > self.limit_s and both:
            pl_module.leave_out_second_pass()  # type: ignore[operator]
            wanted_s = whole * step_s
        steps = min(whole, int(self.limit_s / step_s))
        what = "all" if wanted_s <= self.limit_s else "about"
        log.info(
            f"budget     {step_s:.2g} s a step: expects {what} {steps:,} of {whole:,} steps in "
            f"{min(wanted_s, self.limit_s) / 60:.1f} minutes"
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.time_share = None  # type: ignore[assignment]
