"""What a run of `fit` consists of: trainer, model, data, settings and callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from lit_bert.data.module import EmotionDataModule
from lit_bert.evaluate.announce import checkpoint_sources
from lit_bert.model.module import BertClassifier
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.hub import Source
from lit_bert.train.budget import Budget
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
        methods: those that are tried, by their names in `train.methods`; `check_run` sets them.
        notes: what was chosen for the settings that were left open, and why, a line each.
        chose_epochs: whether the recipe has chosen how many there are.
        trains_in_parts: whether, of few rows, networks of parts of them are trained beside the one of all.
        descriptions: texts of each class, for the method zero_shot; None takes their names.
        has_rows: whether there are labelled rows, and not the names or descriptions of the classes alone.
        budget: the time that it may take.
        steps_beside: optimizer steps of networks beside that of the trainer.
        old: the model that a new run starts from and is compared with, by `--from`.
        config: the same settings, as the parser has them and the run's folder keeps them; None without one.
        card: writes the model card of a checkpoint, for trackers, into a folder; gives its path.
    """

    trainer: Trainer
    model: BertClassifier
    data: EmotionDataModule
    settings: dict[str, Any]
    callbacks: RunCallbacks
    resumed: Resumed | None = None
    card: Callable[[Path, Path], Path] | None = None
    config: Any = None
    methods: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    chose_epochs: bool = False
    trains_in_parts: bool = False
    descriptions: dict[str, list[str]] | None = None
    has_rows: bool = True
    budget: Budget = field(default_factory=lambda: Budget(None))
    steps_beside: int = 0
    old: Checkpoint | None = None

    @property
    def sources(self) -> list[tuple[str, Source]]:
        """What the scores rest on, by role."""
        if self.resumed:
            return checkpoint_sources(self.resumed.checkpoint)
        assert self.model.weights is not None
        return [("weights", self.model.weights.source), ("trained on", self.data.source)]


OF_A_STEP = (  # settings of the trainer that a step depends on
    *("accelerator", "precision", "deterministic", "benchmark"),
    *("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"),
)


def bare_trainer(run: FitRun, callbacks: Sequence[Callback] = (), **arguments: Any) -> Trainer:
    """A trainer whose steps are those of a run, on one device, and which writes nothing."""
    settings: dict[str, Any] = {name: run.settings["trainer"][name] for name in OF_A_STEP}
    return Trainer(
        **settings,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        devices=1,
        num_sanity_val_steps=0,
        inference_mode=False,  # what it computes is trained on, too
        callbacks=list(callbacks),
        **arguments,
    )
