"""The TensorBoard dashboard of a run, and the predictions of its best epoch.

tensorboard --logdir checkpoints
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from lit_bert import UserError
from lit_bert.evaluate.evidence import CHOOSING, ENDING
from lit_bert.evaluate.outputs import Outputs
from lit_bert.evaluate.predictions import TRAINED, VALIDATED, Predictions, write_hashes
from lit_bert.io import escape
from lit_bert.train.keep import EarlyStop, KeepBest, checked_number, chooses_epoch

log = logging.getLogger(__name__)

WRONG_TEXTS = 20  # rows of the table of confident errors
PICTURE_NAME = 30  # characters of a class name in a picture


class Dashboard(Outputs):
    """Shows each validation in TensorBoard: confusion matrix, precision-recall curves, confident errors.

    The predictions of the best epoch are kept beside its checkpoint, and the hashes of the training texts.
    `log_settings` stores the settings beside the scores of what is kept in the end. What cannot be drawn or
    written there is reported once, and training goes on.

    Args:
        facts: what the run rests on: sources, seed, batch size, …
        monitor: the score that tells which epoch is best.
        mode: `max` or `min` of it.

    Attributes:
        validations: how many epochs were scored, by this run and by the one that it resumes.
    """

    def __init__(self, facts: dict[str, Any], monitor: str = "val/f1", mode: str = "max") -> None:
        self.facts, self.monitor, self.sign = facts, monitor, 1 if mode == "max" else -1
        self.best: dict[str, float] = {}
        self.validations = 0
        self._knows_training_rows = False
        self._reported: set[str] = set()

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        """Reports an error of the block, each once, and goes on after it: no epoch is worth a picture."""
        try:
            yield
        except Exception as error:
            problem = f"{type(error).__name__}: {escape.line(error, 200)}"
            if problem not in self._reported:
                self._reported.add(problem)
                log.warning(f"{what} cannot be shown or kept ({problem}); training goes on without it")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    self._guard_events(logger)

    def _guard_events(self, logger: TensorBoardLogger) -> None:
        """Has errors of the event file reported, through which all goes, Lightning's scalars too."""
        with self._guarded("TensorBoard's event file"):
            file = logger.experiment._get_file_writer()
            for name in ("add_event", "flush", "close"):
                setattr(file, name, self._tolerant(getattr(file, name)))

    def _tolerant(self, write: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any, **kwargs: Any) -> None:
            with self._guarded("TensorBoard's event file"):
                write(*args, **kwargs)

        return call

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(trainer.logger, TensorBoardLogger) and trainer.is_global_zero:
            with self._guarded("the table of the run"):
                facts = {**self.facts, **self._validation_facts(trainer, [CHOOSING] * chooses_epoch(trainer))}
                lines = [
                    f"| {escape.markdown(name.replace('_', ' '))} | {escape.markdown(value)} |"
                    for name, value in facts.items()
                ]
                table = "\n".join(["| what | value |", "| --- | --- |", *lines])
                trainer.logger.experiment.add_text("run", table, 0)

    def _validation_facts(self, trainer: Trainer, used_for: list[str]) -> dict[str, Any]:
        """On how many rows the scores rest, and what these rows are used for."""
        datamodule = getattr(trainer, "datamodule", None)
        rows = {} if datamodule is None else {"validation_rows": len(datamodule.val_rows)}
        return {**rows, "validation_rows_used_for": ", ".join(used_for) or "nothing else"}

    def used_for(self, trainer: Trainer) -> list[str]:
        """What the validation rows decided about the run, once it has ended: its best epoch, and its end."""
        ended = any(
            isinstance(each, EarlyStop) and each.stopped_epoch and each.monitor.startswith("val/")
            for each in trainer.callbacks  # type: ignore[attr-defined]
        )
        # From a single validation there was nothing to choose.
        return [CHOOSING] * (chooses_epoch(trainer) and self.validations > 1) + [ENDING] * ended

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        super().on_validation_end(trainer, pl_module)
        self.validations += 1
        self._keep_best(trainer)
        logger = trainer.logger
        if not (isinstance(logger, TensorBoardLogger) and trainer.is_global_zero):
            return
        board, step, names = logger.experiment, trainer.global_step, self.predictions.class_names
        labels, probs = (torch.from_numpy(each) for each in (self.predictions.labels, self.predictions.probs))
        with self._guarded("the confusion matrix"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of characters that matplotlib's font lacks
            counts = multiclass_confusion_matrix(probs.argmax(-1), labels, len(names))
            board.add_figure("val/confusion_matrix", confusion_figure(counts, names), step)
        with self._guarded("the precision-recall curves"):
            for index, tag in enumerate(escape.tags(names)):
                board.add_pr_curve(f"val/precision_recall/{tag}", labels == index, probs[:, index], step)
        with self._guarded("the table of confident errors"):
            board.add_text("val/most_confidently_wrong", errors_table(self.predictions), step)

    def _keep_best(self, trainer: Trainer) -> None:
        scores = {
            name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")
        }
        score, best = (each.get(self.monitor, -torch.inf * self.sign) for each in (scores, self.best))
        if self.sign * score > self.sign * best or not self.best:
            self.best = scores
        for kept in trainer.checkpoint_callbacks:  # they come after the other callbacks
            if isinstance(kept, KeepBest) and kept.is_best(trainer) and trainer.is_global_zero:
                with self._guarded(f"the predictions of the best epoch, {VALIDATED},"):
                    folder = Path(str(kept.dirpath))
                    folder.mkdir(parents=True, exist_ok=True)
                    facts = {
                        **self.predictions.facts,
                        "global_step": trainer.global_step,
                        "used_for": [CHOOSING] * chooses_epoch(trainer),
                    }
                    replace(self.predictions, facts=facts).write(folder / VALIDATED)
                    if not self._knows_training_rows:  # the same in every epoch
                        write_hashes(folder / TRAINED, trainer.datamodule.train_rows.hashes)  # type: ignore[attr-defined]
                        self._knows_training_rows = True

    def log_settings(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last thing of a fit."""
        if isinstance(trainer.logger, TensorBoardLogger) and self.best:
            self._guard_events(trainer.logger)  # the end of the training closed its file: this is another
            with self._guarded("the settings beside the scores"):
                facts = {**self.facts, **self._validation_facts(trainer, self.used_for(trainer))}
                settings = {"learning_rate": pl_module.learning_rate, **facts}
                scores = {f"val_best/{name.removeprefix('val/')}": value for name, value in self.best.items()}
                trainer.logger.log_hyperparams(settings, scores)
                trainer.logger.finalize("success")

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


def errors_table(predictions: Predictions) -> str:
    """The most confidently wrong texts as a table in Markdown."""
    names = [escape.markdown(name) for name in escape.names(predictions.class_names)]
    confidence = predictions.probs.max(1)
    wrong = np.flatnonzero(predictions.preds != predictions.labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:WRONG_TEXTS]
    # TensorBoard breaks the numbers of a column of their own in two.
    lines = ["| is, but predicted with probability | text |", "| --- | --- |"]
    for index in wrong.tolist():
        text = escape.markdown(" ".join(predictions.texts[index].split()), 300)
        pair = f"{names[predictions.labels[index]]}, but {names[predictions.preds[index]]}"
        lines.append(f"| {pair} {confidence[index]:.3f} | {text} |")
    return "\n".join(lines)


def confusion_figure(counts: Tensor, names: list[str]) -> Any:
    """A matplotlib figure: rows are true classes, columns predicted ones; colour is the share of the row.

    Args:
        counts: int64 (C, C).
        names: the C class names.
    """
    from matplotlib.figure import Figure

    size = min(max(4.0, 0.55 * len(names) + 1.6), 20.0)  # inches
    figure = Figure(figsize=(size + 0.8, size), dpi=110, layout="constrained")
    axes = figure.subplots()
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    image = axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set(xticks=range(len(names)), yticks=range(len(names)), xlabel="predicted", ylabel="true")
    shown = escape.names(names, PICTURE_NAME)
    plain: Any = {"parse_math": False}  # a dollar sign in a name opens no formula
    axes.set_xticklabels(shown, rotation=45, ha="right", rotation_mode="anchor", **plain)
    axes.set_yticklabels(shown, **plain)
    if len(names) > 30:
        # Beyond that many the labels of a picture of this size would stand on one another.
        axes.tick_params(labelsize=max(3.0, min(7.0, 1000 / len(names) * 0.55)))
    if len(names) <= 20:  # numbers in smaller cells cannot be read
        for row in range(len(names)):
            for column in range(len(names)):
                colour = "white" if share[row, column] > 0.55 else "black"
                axes.text(
                    column,
                    row,
                    str(int(counts[row, column])),
                    ha="center",
                    va="center",
                    color=colour,
                    fontsize=9,
                )
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    return figure
