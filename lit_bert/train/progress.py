"""What a run shows while it trains: speed, a progress bar, or a line per validation."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from rich.progress import BarColumn
from torch import Tensor

from lit_bert.model.split_scores import MAIN
from lit_bert.task.base import Task
from lit_bert.train.keep import chooses_epoch
from lit_bert.train.result import EventFile, Validation


class Throughput(Callback):
    """Logs how the training steps since the last logged one went.

    `train/loss_batch_nats` (nats per text, one batch), `train/learning_rate`, `train/texts_per_s`,
    `train/tokens_per_s` (real tokens, no padding) and `train/padding_ratio` (padding by all tokens, 0 to 1),
    all of this process; every `log_every_n_steps` of the trainer.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart()  # a run that is resumed within an epoch does not start that epoch again

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart()

    def _restart(self) -> None:
        self._start = time.perf_counter()
        self._texts = self._slots = 0
        self._rate: float | None = None  # of the last optimizer step since then
        self._tokens: Tensor | int = 0  # stays on the device: reading it there would hold up every step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self._rate = optimizer.param_groups[0]["lr"]  # by the end of the batch the scheduler has moved on

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        mask: Tensor = batch["attention_mask"]  # of texts, or of their windows: (B, T) or (W, T)
        self._texts += len(batch["labels"])
        self._slots += mask.numel()
        self._tokens = self._tokens + mask.sum()
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self._rate is None or ((trainer.global_step % every) and not trainer.is_last_batch):
            return
        tokens = int(self._tokens)
        seconds = time.perf_counter() - self._start
        pl_module.log_dict(
            {
                "train/loss_batch_nats": float(outputs["loss"]) * trainer.accumulate_grad_batches,
                "train/learning_rate": self._rate,
                "train/texts_per_s": self._texts / seconds,
                "train/tokens_per_s": tokens / seconds,
                "train/padding_ratio": 1 - tokens / self._slots,
            },
            on_step=True,
            on_epoch=False,
            rank_zero_only=True,
        )
        self._restart()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._restart()  # the time spent validating is no training time


class Progress(RichProgressBar):
    """A bar on standard error, for terminals; shows loss, validation scores and speed."""

    SHOWN = (
        ("train/loss_batch_nats", "loss", ".3f"),
        (f"val/{MAIN}", "score", ".3f"),
        ("train/tokens_per_s", "tok/s", ".0f"),
    )

    def __init__(self) -> None:
        theme = RichProgressBarTheme(metrics_text_delimiter="  ")
        # Four times a second: drawn at every step, the bar costs more than it tells.
        super().__init__(refresh_rate=4, leave=True, theme=theme, console_kwargs={"stderr": True})

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """Lightning's, with a bar of 16 characters: with its 40 the scores wrap on a line of 110."""
        columns = super().configure_columns(trainer)
        for column in columns:
            if isinstance(column, BarColumn):
                column.bar_width = 16
        return columns

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = trainer.callback_metrics
        shown = {
            label: f"{float(metrics[name]):{form}}" for name, label, form in self.SHOWN if name in metrics
        }
        if "score" in shown:
            task: Task = pl_module.task  # type: ignore[assignment]
            name = task.logged_main
            shown = {name if label == "score" else label: value for label, value in shown.items()}
            shown[name] += f" (n={validated_rows(pl_module):,})"
        return shown


def validated_rows(pl_module: LightningModule) -> int:
    """How many rows the last validation scored, on all devices."""
    scores: Any = pl_module.scores
    return int(scores["val_scores"].rows)


class ProgressLines(Callback):
    """One line per validation on standard error, where that is not a terminal."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if validation := _validation(trainer, pl_module):
            print(validation, file=sys.stderr, flush=True)


class ProgressEvents(Callback):
    """One event per validation, for another process."""

    def __init__(self, events: EventFile) -> None:
        self.events = events

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if validation := _validation(trainer, pl_module):
            self.events.write(validation)


def _validation(trainer: Trainer, pl_module: LightningModule) -> Validation | None:
    """What the validation of a fit came to; None on other devices than the first and in other stages."""
    if trainer.state.fn != "fit" or trainer.sanity_checking or not trainer.is_global_zero:
        return None
    task: Task = pl_module.task  # type: ignore[assignment]
    names = [f"val/{name}" for name in ("loss_nats", *task.logged_names[:2])]
    metrics = {name: float(trainer.callback_metrics.get(name, math.nan)) for name in names}
    return Validation(
        epoch=trainer.current_epoch + 1,
        step=trainer.global_step,
        scores={name: value if math.isfinite(value) else None for name, value in metrics.items()},
        rows=validated_rows(pl_module),
        chooses_epoch=chooses_epoch(trainer),
    )
