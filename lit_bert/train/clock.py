"""How long batches take.

python -m lit_bert fit --dry_run
"""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Clock(Callback):
    """Seconds of each batch.

    Attributes:
        train, validation: of theirs, in order.
    """

    def __init__(self) -> None:
        self.train: list[float] = []
        self.validation: list[float] = []
        self._start = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self._start = _now()

    def on_train_batch_end(self, *_: Any) -> None:
        self.train.append(_now() - self._start)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._start = _now()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.validation.append(_now() - self._start)


def _now() -> float:
    """The time when what was handed to the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
