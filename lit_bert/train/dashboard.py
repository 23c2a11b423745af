"""The dashboard of a run, in TensorBoard or another tracker.

tensorboard --logdir checkpoints
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lit_bert.evaluate.evidence import CHOOSING
from lit_bert.evaluate.predictions import Predictions, label_text
from lit_bert.io import escape
from lit_bert.io.texts import shown
from lit_bert.train.keep import chooses_epoch
from lit_bert.train.record import EpochRecord
from lit_bert.train.trackers import Tracker

WRONG_TEXTS = 20  # rows of the table of confident errors
PICTURE_NAME = 30  # characters of a class name in a picture
EVENT_FILE = "TensorBoard's event file"


class Dashboard(Callback):
    """Draws each validation: confusion matrix, precision-recall curves, confident errors.

    `log_settings` stores the settings beside the scores of what is kept in the end. What cannot be drawn is
    reported once, and training goes on.

    Args:
        record: holds the predictions that are drawn; it stands before this callback.

    Attributes:
        facts: what the run rests on: sources, seed, batch size, …; set before it starts.
    """

    def __init__(self, record: EpochRecord) -> None:
        self.record = record
        self.facts: dict[str, Any] = {}
        self._guard = record.errors.guard

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    self._guard_events(logger)

    def _guard_events(self, logger: TensorBoardLogger) -> None:
        """Has errors of the event file reported, through which all goes, Lightning's scalars too."""
        with self._guard(EVENT_FILE):
            file = logger.experiment.file_writer
            file.event_writer = _GuardedEvents(file.event_writer, self._guard)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for board in _boards(trainer):
            with self._guard("the table of the run"):
                facts = {**self.facts, **_validation_facts(trainer, [CHOOSING] * chooses_epoch(trainer))}
                lines = [
                    f"| {escape.markdown(name.replace('_', ' '))} | {escape.markdown(value)} |"
                    for name, value in facts.items()
                ]
                table = "\n".join(["| what | value |", "| --- | --- |", *lines])
                board.add_text("run", table, 0)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        for board in _boards(trainer):
            self._draw(board, trainer.global_step)

    def _draw(self, board: Any, step: int) -> None:
        predictions = self.record.predictions
        form, names = predictions.task.label_form, predictions.class_names
        if form == "class":
            with self._guard("the confusion matrix"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of characters that matplotlib's font lacks
                C = len(names)
                cells = predictions.labels * C + predictions.preds
                counts = np.bincount(cells, minlength=C * C).reshape(C, C)
                board.add_figure("val/confusion_matrix", confusion_figure(counts, names), step)
        if form == "number":
            with self._guard("the picture of the numbers"):
                board.add_figure("val/predicted_by_label", numbers_figure(predictions), step)
        else:
            with self._guard("the precision-recall curves"):
                for index, tag in enumerate(escape.tags(names)):
                    has = predictions.labels == index if form == "class" else predictions.labels[:, index]
                    board.add_pr_curve(
                        f"val/precision_recall/{tag}", has, predictions.outputs[:, index], step
                    )
        with self._guard("the table of confident errors"):
            board.add_text("val/most_confidently_wrong", errors_table(predictions), step)

    def log_settings(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last thing of a fit. The end of the training has closed the event file: this opens another."""
        trackers = [each for each in trainer.loggers if isinstance(each, TensorBoardLogger | Tracker)]
        if trackers and self.record.best:
            with self._guard("the settings beside the scores"):
                facts = {**self.facts, **_validation_facts(trainer, self.record.used_for(trainer))}
                settings = {"learning_rate": pl_module.learning_rate, **facts}
                scores = {
                    f"val_best/{name.removeprefix('val/')}": value for name, value in self.record.best.items()
                }
                for each in trackers:
                    if isinstance(each, Tracker):
                        each.log_settings(settings, scores)
                    else:
                        each.log_hyperparams(settings, scores)
                        each.finalize("success")


def _boards(trainer: Trainer) -> list[Any]:
    """What draws, in the first process: TensorBoard's writers, and trackers, which have its methods."""
    if not trainer.is_global_zero:
        return []
    boards = [each.experiment for each in trainer.loggers if isinstance(each, TensorBoardLogger)]
    return [*boards, *(each for each in trainer.loggers if isinstance(each, Tracker))]


class _GuardedEvents:
    """TensorBoard's writer of one event file, by its own interface; its errors are reported.

    It writes in a thread, so that an error comes with any later event, or when the file is closed.
    """

    def __init__(self, writer: Any, guard: Callable[[str], AbstractContextManager[None]]) -> None:
        self._writer, self._guard = writer, guard

    def get_logdir(self) -> str:
        return str(self._writer.get_logdir())

    def add_event(self, event: Any) -> None:
        with self._guard(EVENT_FILE):
            self._writer.add_event(event)

    def flush(self) -> None:
        with self._guard(EVENT_FILE):
            self._writer.flush()

    def close(self) -> None:
        with self._guard(EVENT_FILE):
            self._writer.close()


def _validation_facts(trainer: Trainer, used_for: list[str]) -> dict[str, Any]:
    """On how many rows the scores rest, and what these rows are used for."""
    datamodule = getattr(trainer, "datamodule", None)
    rows = {} if datamodule is None else {"validation_rows": len(datamodule.val_rows)}
    return {**rows, "validation_rows_used_for": ", ".join(used_for) or "nothing else"}


def errors_table(predictions: Predictions) -> str:
    """The most confidently wrong texts as a table in Markdown."""
    task, wrong = predictions.task, predictions.errors[:WRONG_TEXTS]
    is_sure = task.label_form != "number"
    confidence = task.confidence(predictions.outputs[wrong])
    # TensorBoard breaks the numbers of a column of their own in two.
    lines = [f"| is, but predicted{' with probability' * is_sure} | text |", "| --- | --- |"]
    for place, index in enumerate(wrong.tolist()):
        text = escape.markdown(shown(predictions.texts[index]), 300)
        label, pred = (
            escape.markdown(label_text(task, each[index])) for each in (predictions.labels, predictions.preds)
        )
        sure = f" {confidence[place]:.3f}" if is_sure else ""
        lines.append(f"| {label}, but {pred}{sure} | {text} |")
    return "\n".join(lines)


def numbers_figure(predictions: Predictions) -> Any:
    """A matplotlib figure: the predicted number of each row over its label, and where both are equal."""
    from matplotlib.figure import Figure

    labels, values = predictions.labels, predictions.outputs[:, 0]
    figure = Figure(figsize=(5, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    ends = [min(labels.min(), values.min()), max(labels.max(), values.max())]
    axes.plot(ends, ends, color="0.6", linewidth=1)
    axes.scatter(labels, values, s=10, alpha=0.5, linewidths=0)
    axes.set(xlabel="label", ylabel="predicted")
    return figure


def confusion_figure(counts: np.ndarray, names: list[str]) -> Any:
    """A matplotlib figure: rows are true classes, columns predicted ones; colour is the share of the row.

    Args:
        counts: int64 (C, C).
        names: the C class names.
    """
    from matplotlib.figure import Figure

    size = min(max(4.0, 0.55 * len(names) + 1.6), 20.0)  # inches
    figure = Figure(figsize=(size + 0.8, size), dpi=110, layout="constrained")
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
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
