"""lit_bert's side of the comparison: `__main__` in this process, with a callback that looks on.

python -m benchmarks.train --only lit_bert
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from lit_bert.__main__ import main, retain_freed_memory

retain_freed_memory()  # `__main__` does it before torch is imported

from lightning.pytorch import Callback, LightningModule, Trainer  # noqa: E402

from benchmarks.harness import data_folder, since_start  # noqa: E402
from benchmarks.steps import StepClock  # noqa: E402
from lit_bert.sources.weights import MINILM  # noqa: E402


def fit(*flags: str, callbacks: Sequence[type[Callback]] = ()) -> None:
    """Runs `python -m lit_bert fit` with the packaged weights and the benchmark's text.

    Args:
        flags: further flags.
        callbacks: those below look on; those of benchmarks/leads.py change the recipe.
    """
    arguments = [f"--weights.pretrained={MINILM}", f"--data.dataset={data_folder()}", *flags]
    arguments += [f"--trainer.callbacks+={each.__module__}.{each.__qualname__}" for each in callbacks]
    code = main(["fit", *arguments])
    if code:
        raise SystemExit(code)


def checkpoint(target: Path, *flags: str) -> None:
    """Trains in the working directory and moves the best checkpoint to `target`."""
    fit(*flags)
    shutil.move("checkpoints/version_0/best.ckpt", target)


def exported(target: Path, quick: bool) -> None:
    """Trains for an epoch in the working directory and exports to `target`."""
    few = ["--data.train_rows=64", "--data.val_rows=64"] if quick else []
    fit("--trainer.max_epochs=1", *few)
    code = main(["export", "--to", str(target), *["--max_f1_loss=100"] * quick])
    if code:
        raise SystemExit(code)


class Clock(Callback):
    """Times the steps."""

    clock: ClassVar[StepClock]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.clock.step(batch["attention_mask"].sum(1))


class Until(Callback):
    """Stops at the first validation whose micro F1 reaches `threshold`, and remembers when that was."""

    threshold: ClassVar[float]
    figures: ClassVar[dict[str, float]] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        score = float(trainer.callback_metrics["val/f1_micro"])
        self.figures["best"] = max(score, self.figures.get("best", 0.0))
        if score >= self.threshold and "reached_s" not in self.figures:
            self.figures["reached_s"] = since_start()
            trainer.should_stop = True


class Best(Callback):
    """Remembers the validation scores of the best epoch."""

    figures: ClassVar[dict[str, float]] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = ("val/f1", "val/f1_micro", "val/loss_nats")
        scores = {name: float(trainer.callback_metrics[name]) for name in names}
        if scores["val/f1"] > self.figures.get("val/f1", -1.0):
            self.figures.update(scores)


class FirstStep(Callback):
    """Remembers when the first optimizer step was done."""

    figures: ClassVar[dict[str, float]] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.figures.setdefault("first_step_s", since_start())
