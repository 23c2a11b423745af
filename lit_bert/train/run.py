"""What a run of `fit` consists of: trainer, model, data, settings and callbacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from lit_bert.data.module import EmotionDataModule
from lit_bert.evaluate.announce import checkpoint_sources
from lit_bert.model.module import BertClassifier
from lit_bert.sources.hub import Source
from lit_bert.train.dashboard import Dashboard
from lit_bert.train.keep import KeepBest
from lit_bert.train.progress import ProgressLines, Throughput
from lit_bert.train.record import EpochRecord
from lit_bert.train.resume import Resumed


class RunCallbacks:
    """The callbacks of every run, in their order: what is kept of an epoch comes before what draws it.

    Args:
        config: the settings of the run, by section.
        bar: the progress bar; without one each validation gets a line.
        more: others, such as those that tell another process how the run comes on.
    """

    def __init__(self, config: Any, bar: Sequence[Callback], more: Sequence[Callback] = ()) -> None:
        self.record = EpochRecord(
            config["checkpoint"]["monitor"] or "val/score", config["checkpoint"]["mode"]
        )
        self.dashboard = Dashboard(self.record)
        last = KeepBest(filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
        self.all = [Throughput(), self.record, self.dashboard, *(bar or [ProgressLines()]), *more, last]


@dataclass
class FitRun:
    """What a run consists of.

    Attributes:
        settings: of the run as plain values, by section; what trainer, model and data module were built from.
        callbacks: those that the trainer was built with.
        resumed: the run that goes on; None for a new one.
        card: writes the model card of a checkpoint, for trackers, into a folder; gives its path.
    """

    trainer: Trainer
    model: BertClassifier
    data: EmotionDataModule
    settings: Mapping[str, Any]
    callbacks: RunCallbacks
    resumed: Resumed | None = None
    card: Callable[[Path, Path], Path] | None = None

    @property
    def sources(self) -> list[tuple[str, Source]]:
        """What the scores rest on, by role."""
        if self.resumed:
            return checkpoint_sources(self.resumed.checkpoint)
        assert self.model.weights is not None
        return [("weights", self.model.weights.source), ("trained on", self.data.source)]
