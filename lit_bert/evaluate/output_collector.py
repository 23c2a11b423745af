"""What a model says of rows that it labels, in their order, in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer


class OutputCollector(Callback):
    """Keeps the outputs of a prediction by the numbers of the rows, which count from 1 without a gap.

    Attributes:
        outputs: float32 (N, C), of all rows of the last prediction.
    """

    def start(self, columns: int) -> None:
        """Forgets the last prediction; the next one has so many outputs a row."""
        self._columns = columns
        self._found: list[tuple[np.ndarray, np.ndarray]] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._found.append((np.array([each.number for each in batch["numbered"]]), outputs.cpu().numpy()))

    @property
    def outputs(self) -> np.ndarray:
        count = sum(len(rows) for rows, _ in self._found)
        whole = np.empty((count, self._columns), np.float32)
        for rows, values in self._found:
            whole[rows - 1] = values
        return whole
