"""The predictions of a validation or test, gathered from all devices."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_bert.evaluate.predictions import Predictions
from lit_bert.task.base import Task


class PredictionCollector(Callback):
    """Keeps the predictions of the last validation or test: of all devices, in the order of the data.

    Attributes:
        predictions: on the process of rank 0 only.
    """

    predictions: Predictions

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._batches.append((outputs["logits"].cpu(), batch["labels"].cpu(), batch["rows"].cpu()))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._gather(trainer, pl_module, trainer.val_dataloaders)

    def _gather(self, trainer: Trainer, pl_module: LightningModule, loaders: Any) -> None:
        by_rank: list[Any] = [self._batches]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            by_rank = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(by_rank, self._batches)
        logits, labels, rows = (
            torch.cat(each).numpy()
            for each in zip(*(batch for batches in by_rank for batch in batches), strict=True)
        )
        self._batches = []
        order = rows.argsort(kind="stable")
        if trainer.is_global_zero:
            facts: dict[str, Any] = {}
            task: Task = pl_module.task  # type: ignore[assignment]
            part = "test" if trainer.state.fn == "test" else "validation"
            datamodule: Any = getattr(trainer, "datamodule", None)
            counts = datamodule.splits.counts.get(part) if datamodule else None
            if counts is not None:  # fewer are scored than could be where batches are limited
                facts["row_counts"] = {**counts.as_dict(), "scored": len(rows)}
            texts, outputs = loaders.dataset.texts(rows[order]), task.outputs(logits[order])
            self.predictions = Predictions(task, texts, rows[order], labels[order], outputs, facts)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._gather(trainer, pl_module, trainer.test_dataloaders)
