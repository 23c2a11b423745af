"""Rows of a file with their predictions, in the order of the file."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_bert.data.cells import Numbered
from lit_bert.data.writer import RowWriter
from lit_bert.task.base import Task


class PredictionWriter(Callback):
    """Writes each row with its prediction, in the order of the input, as soon as its window is complete.

    Adds the columns of the task to those of the row. Rows without an answer keep their place, with these
    columns empty.

    Args:
        writer: what rows are written with.
        prefix: of the names of the columns that are added.

    Attributes:
        rows: how many were written.
        truncated: how many texts were longer than what is read of them.
        tokens, lost: how many the texts have, and how many of them were not read.
    """

    def __init__(self, writer: RowWriter, prefix: str = "") -> None:
        self.writer, self.prefix = writer, prefix
        self.rows = self.truncated = self.tokens = self.lost = 0
        self._window = 0
        self._answered: list[tuple[Numbered, Tensor]] = []
        self._unanswered: list[Numbered] = []

    def add_unanswered(self, numbered: Numbered) -> None:
        """Takes a row that has no text or cannot be read; to be called in the order of the input."""
        self._unanswered.append(numbered)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch["window"] != self._window:
            self._write(pl_module)
            self._window = batch["window"]
        self._answered += zip(batch["numbered"], outputs.cpu(), strict=True)
        self.truncated += batch["truncated"]
        self.tokens += batch["tokens"]
        self.lost += batch["lost"]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(pl_module, is_last=True)

    def _write(self, pl_module: LightningModule, is_last: bool = False) -> None:
        task: Task = pl_module.task  # type: ignore[assignment]
        columns = [f"{self.prefix}{column}" for column in task.columns()]
        # The reader is ahead of the model: some rows without an answer belong to the next window.
        last = max((numbered.number for numbered, _ in self._answered), default=0)
        unanswered = (
            self._unanswered if is_last else [each for each in self._unanswered if each.number < last]
        )
        self._unanswered = self._unanswered[len(unanswered) :]
        answered = [(numbered, task.cells(outputs.numpy())) for numbered, outputs in self._answered]
        rows = [*answered, *((numbered, [None] * len(columns)) for numbered in unanswered)]
        rows.sort(key=lambda row: row[0].number)
        self.writer.write(
            {
                **(numbered.row if isinstance(numbered.row, dict) else {}),
                **dict(zip(columns, answer, strict=True)),
            }
            for numbered, answer in rows
        )
        self.rows += len(rows)
        self._answered = []
