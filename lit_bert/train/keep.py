"""Which epochs are kept, and when a run ends early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor

from lit_bert import UserError

PATIENCE = 3  # where it is left open


class EarlyStop(EarlyStopping):
    """EarlyStopping whose patience is a setting and no state: a flag overrides what a resumed run had."""

    def __init__(self, monitor: str, patience: int | None = None, **kwargs: Any) -> None:
        super().__init__(monitor=monitor, patience=PATIENCE if patience is None else patience, **kwargs)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        counts = {name: state_dict.get(name) for name in ("wait_count", "stopped_epoch")}
        if not all(type(count) is int and count >= 0 for count in counts.values()):
            raise UserError(
                f"the checkpoint's counts of early stopping are {counts}; expected whole numbers."
            )
        best = torch.tensor(checked_number(state_dict.get("best_score"), "the best score of early stopping"))
        super().load_state_dict({**self.state_dict(), **counts, "best_score": best})


class KeepBest(ModelCheckpoint):
    """ModelCheckpoint that recovers its best epochs by their file names in its own folder.

    Of a checkpoint's state it takes scores and the names of files, never a folder: the run may have been
    moved or come from somebody else, and what is worse than a new epoch gets removed. Lightning forgets the
    scores where a folder is called another way, and the first epoch of a resumed run then takes the place of
    a better one.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        scores = state_dict.get("best_k_models")
        if state_dict.get("monitor") != self.monitor or self.monitor is None or not isinstance(scores, dict):
            return
        here = {
            str(Path(str(self.dirpath)) / Path(name).name): torch.tensor(
                checked_number(score, "a score of an epoch")
            )
            for name, score in scores.items()
            if isinstance(name, str)
        }
        here = {
            path: score
            for path, score in here.items()
            if Path(path).is_file() and not Path(path).is_symlink()
        }
        if self.dirpath is None or not here:
            return
        order = sorted(here, key=lambda path: float(here[path]), reverse=self.mode == "max")
        best, worst = order[0], order[-1]
        self.best_k_models = here
        self.best_model_path, self.best_model_score = best, here[best]
        self.kth_best_model_path, self.kth_value = worst, here[worst]
        self.current_score = here[best]

    def is_best(self, trainer: Trainer) -> bool:
        """Whether the epoch that was just validated is going to be kept as the best one."""
        if self.dirpath is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return False
        score = trainer.callback_metrics.get(str(self.monitor))
        better = torch.lt if self.mode == "min" else torch.gt
        return score is not None and (
            self.best_model_score is None or bool(better(score, self.best_model_score.to(score.device)))
        )


def chooses_epoch(trainer: Trainer) -> bool:
    """Whether the validation rows decide which epoch is kept."""
    return any(
        isinstance(kept, KeepBest) and str(kept.monitor).startswith("val/")
        for kept in trainer.checkpoint_callbacks
    )


def checked_number(value: Any, what: str) -> float:
    """A number that a checkpoint holds as a tensor or as it is."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise UserError(f"{what} in the checkpoint is a {type(value).__name__}; expected a number.")
    return float(value)


def keeper_of_best(trainer: Trainer) -> KeepBest | None:
    """What keeps the best epoch of a run, beside which another one keeps the last."""
    found = (each for each in trainer.checkpoint_callbacks if isinstance(each, KeepBest) and each.monitor)
    return next(found, None)
