"""A loss that is not finite (NaN, infinity) ends the training at once, on all devices.

python -m lit_bert fit --model.learning_rate 1e30
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lit_bert import UserError
from lit_bert.io import escape
from lit_bert.sources.finite import RESUMED, first_not_finite, tensors_in

SHOWN_ROWS = 10  # of a batch, in a message
QUEUED = ("cuda",)  # devices that execute asynchronously


class _PendingCheck(NamedTuple):
    """The check of a batch's loss, perhaps still in progress on the GPU."""

    found: Tensor  # float32 (), 1 where the loss of any device is not finite
    own: Tensor  # the same of this device
    copied: Any  # the CUDA event after which `found` can be read; None: now
    loss: Tensor  # ()
    step: int  # the optimizer step that the batch belongs to, from 1
    learning_rate: float
    rows: Tensor | None  # int64 (B,), from 0


class LossCheck:
    """Ends a training at the first loss that is not finite, on all devices together.

    On a CPU a batch's loss is looked at before its backward pass. A GPU would first have to finish all that
    is queued for it; there the verdict is copied to pinned memory right after the forward pass and read when
    the next batch has been queued, so that no step waits, or before anything is validated or saved.
    """

    def __init__(self) -> None:
        self._pending: list[_PendingCheck] = []
        self._message: str | None = None

    def add(self, trainer: Trainer, loss: Tensor, rows: Tensor | None) -> None:
        """Takes the loss of a batch, (), and the numbers of its rows. Every device has to call it.

        Raises:
            UserError: this loss (CPU) or an earlier one (GPU) is not finite.
        """
        self.check(trainer)
        loss = loss.detach()
        own = (~loss.isfinite()).float()
        found, copied = own, None
        if trainer.world_size > 1:
            # All devices learn of it in the same step, so that none waits for one that has stopped.
            found = own.clone()
            dist.all_reduce(found, dist.ReduceOp.MAX)
        if loss.is_cuda:
            found = torch.empty((), pin_memory=True).copy_(found, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        self._pending.append(_PendingCheck(found, own, copied, loss, trainer.global_step + 1, rate, rows))
        if loss.device.type not in QUEUED:
            self.check(trainer)

    def check(self, trainer: Trainer) -> None:
        """Raises a UserError if a loss that was added is not finite, now and from then on."""
        while self._pending and self._message is None:
            verdict = self._pending.pop(0)
            if verdict.copied is not None:
                verdict.copied.synchronize()
            if verdict.found:
                self._message = self._described(trainer, verdict)
        if self._message is not None:
            stop(trainer, self._message)

    @staticmethod
    def _described(trainer: Trainer, verdict: _PendingCheck) -> str:
        mine = None
        if verdict.own:
            rows = None if verdict.rows is None else verdict.rows.tolist()
            mine = float(verdict.loss), rows
        parts: list[Any] = [mine]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            dist.all_gather_object(parts, mine)
        losses, rows_of = zip(*(part for part in parts if part is not None), strict=True)
        rows = [row for each in rows_of if each for row in each]
        return (
            f"the training loss is {losses[0]} in optimizer step {verdict.step:,} (learning rate "
            f"{verdict.learning_rate:g}{_shown(rows)}). {_remedy(trainer)}"
            + " If it is always the same rows, look at their texts."
            * bool(rows)
        )


def _shown(rows: list[int]) -> str:
    """The first rows of a batch, counted from 1, in a message; nothing where the batch does not tell."""
    numbers = ", ".join(str(row + 1) for row in rows[:SHOWN_ROWS])
    more = f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
    return f"; training rows {numbers}{more}" if rows else ""


def refuse_scores(trainer: Trainer, split: str, loss: float) -> NoReturn:
    """Ends a run whose model has no finite loss on a split that it is scored on. Every device calls it."""
    if trainer.state.fn == "fit":
        stop(
            trainer,
            f"the validation loss is {loss} after optimizer step {trainer.global_step:,}. {_remedy(trainer)}",
        )
    stop(
        trainer,
        f"the loss of split {split} is {loss}: its scores would mean nothing. Check the weights and, with "
        "--trainer.precision 32-true, the precision.",
    )


def check_saved(trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Ends a run whose weights are not finite, before they are written. Every device calls it."""
    parts = {name: checkpoint[name] for name in RESUMED if name in checkpoint}
    name = first_not_finite(tensors_in(parts))
    if name is not None:
        stop(
            trainer,
            f"{name} is not finite (NaN or infinity) after optimizer step {trainer.global_step:,} and not "
            f"saved. {_remedy(trainer)}",
        )


def stop(trainer: Trainer, message: str) -> NoReturn:
    """Ends the run on every device with one line, which the first says.

    The others end quietly and with exit code 0: Lightning's launcher kills the first process, before it has
    printed the message, when it sees that another one failed.
    """
    if trainer.is_global_zero:
        raise UserError(message)
    raise SystemExit(0)


def _remedy(trainer: Trainer) -> str:
    saved = {
        Path(path)
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint)
        for path in (callback.best_model_path, callback.last_model_path)
        if path and Path(path).is_file()
    }
    newest = sorted(saved, key=lambda path: path.stat().st_mtime_ns)
    kept = (
        f"The last good checkpoint is {escape.line(newest[-1])}; nothing was saved after it."
        if newest
        else "Nothing was saved: no checkpoint had been written before."
    )
    return f"{kept} Train again with a lower --model.learning_rate."
