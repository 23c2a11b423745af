"""What a run keeps of its best epoch beside the checkpoint: predictions, scores, the texts it trains on.

Calibration, `report`, `export` and later scores rest on these files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer

from lit_bert import UserError
from lit_bert.evaluate.evidence import CHOOSING, ENDING
from lit_bert.evaluate.prediction_collector import PredictionCollector
from lit_bert.evaluate.predictions import TRAINED, VALIDATED, read_hashes, write_hashes
from lit_bert.io import escape
from lit_bert.sources.weights import Weights
from lit_bert.train.keep import EarlyStop, KeepBest, checked_number, chooses_epoch

log = logging.getLogger(__name__)


class ErrorReporter:
    """Reports errors of what a run can do without, each once."""

    def __init__(self) -> None:
        self._reported: set[str] = set()

    @contextmanager
    def guard(self, what: str) -> Iterator[None]:
        """Reports an error of the block and goes on after it: one in a picture does not end the training."""
        try:
            yield
        except Exception as raised:
            error: BaseException = raised
            while error.__cause__ is not None:  # Lightning's loggers put their own error around the first
                error = error.__cause__
            problem = f"{type(error).__name__}: {escape.line(error, 200)}"
            if problem not in self._reported:
                self._reported.add(problem)
                log.warning(f"{what} cannot be shown or kept ({problem}); training goes on without it")


class EpochRecord(PredictionCollector):
    """Writes the predictions of the best epoch beside its checkpoint, and the hashes of the training texts.

    Args:
        monitor: the score that tells which epoch is best.
        mode: `max` or `min` of it.

    Attributes:
        best: the validation scores of the best epoch by their name, such as `val/f1`.
        validations: how many epochs were scored, by this run and by the one that it resumes.
        errors: reports what cannot be written.
    """

    def __init__(self, monitor: str = "val/score", mode: str = "max") -> None:
        self.monitor, self.sign = monitor, 1 if mode == "max" else -1
        self.best: dict[str, float] = {}
        self.validations = 0
        self.errors = ErrorReporter()
        self._knows_training_rows = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        super().on_validation_end(trainer, pl_module)
        self.validations += 1
        scores = {
            name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")
        }
        score, best = (each.get(self.monitor, -torch.inf * self.sign) for each in (scores, self.best))
        if self.sign * score > self.sign * best or not self.best:
            self.best = scores
        for kept in trainer.checkpoint_callbacks:  # they come after the other callbacks
            if isinstance(kept, KeepBest) and kept.is_best(trainer) and trainer.is_global_zero:
                with self.errors.guard(f"the predictions of the best epoch, {VALIDATED},"):
                    self._write(trainer, Path(str(kept.dirpath)))

    def _write(self, trainer: Trainer, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        facts = {
            **self.predictions.facts,
            "global_step": trainer.global_step,
            "used_for": [CHOOSING] * chooses_epoch(trainer),
        }
        replace(self.predictions, facts=facts).write(folder / VALIDATED)
        if not self._knows_training_rows:  # the same in every epoch
            weights: Any = trainer.lightning_module.weights
            record_training(folder, trainer.datamodule.train_rows.hashes, weights)  # type: ignore[attr-defined]
            self._knows_training_rows = True

    def used_for(self, trainer: Trainer) -> list[str]:
        """What the validation rows decided about the run, once it has ended: its best epoch, and its end."""
        ended = any(
            isinstance(each, EarlyStop) and each.stopped_epoch and each.monitor.startswith("val/")
            for each in trainer.callbacks  # type: ignore[attr-defined]
        )
        # From a single validation there was nothing to choose.
        return [CHOOSING] * (chooses_epoch(trainer) and self.validations > 1) + [ENDING] * ended

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        best = state_dict.get("best")
        if not isinstance(best, dict):
            raise UserError(
                f"the best scores in the checkpoint are a {type(best).__name__}; expected a mapping."
            )
        self.best = {str(name): checked_number(value, "a best score") for name, value in best.items()}
        # Earlier versions did not count: some.
        self.validations = int(checked_number(state_dict.get("validations", 2), "the number of validations"))


def seen_before(weights: Weights | None) -> np.ndarray | None:
    """The hashes of the texts that weights of a checkpoint were trained on, uint64; None where not known."""
    if weights is None or weights.checkpoint is None:
        return np.empty(0, np.uint64)
    found = read_hashes(weights.checkpoint.run / TRAINED)
    if found is None and weights.source.kind != "checkpoint":  # of a run that goes on: its first validation
        return np.empty(0, np.uint64)
    return found


def record_training(folder: Path, hashes: np.ndarray, weights: Weights | None) -> None:
    """Writes the hashes of the texts that the weights of a run are trained on, by it or before it."""
    before = seen_before(weights)
    write_hashes(folder / TRAINED, hashes if before is None else np.union1d(hashes, before))
