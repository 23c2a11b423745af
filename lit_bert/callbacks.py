"""What a run shows and keeps: TensorBoard scalars and pictures, progress lines, predictions in files.

Step 5 of the journey. Nothing here changes what is learned.

    tensorboard --logdir checkpoints
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from lightning.pytorch.loggers import TensorBoardLogger
from rich.progress import BarColumn
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from lit_bert import UserError, escape
from lit_bert.predictions import TRAINED, VALIDATED, Predictions, write_hashes
from lit_bert.tables import Numbered, RowWriter

log = logging.getLogger("lit_bert")

WRONG_TEXTS = 20  # rows of the table of confident errors
PICTURE_NAME = 30  # characters of a class name in a picture
TRAINING = "training"
CHOOSING, ENDING = "choosing the epoch", "early stopping"  # what rows are used for before they are scored


class Throughput(Callback):
    """Logs how the training steps since the last logged one went.

    `train/loss_batch_nats` (nats per text, one batch), `train/learning_rate`, `train/texts_per_s`,
    `train/tokens_per_s` (real tokens, no padding) and `train/padding_ratio` (padding by all tokens, 0 to 1),
    all of this process; every `log_every_n_steps` of the trainer.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart()  # a run that is resumed within an epoch does not start that epoch again

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart()

    def _restart(self) -> None:
        self._start = time.perf_counter()
        self._texts = self._slots = 0
        self._rate: float | None = None  # of the last optimizer step since then
        self._tokens: Tensor | int = 0  # stays on the device: reading it there would hold up every step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self._rate = optimizer.param_groups[0]["lr"]  # by the end of the batch the scheduler has moved on

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        mask: Tensor = batch["attention_mask"]  # (B, T)
        self._texts += mask.shape[0]
        self._slots += mask.numel()
        self._tokens = self._tokens + mask.sum()
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self._rate is None or ((trainer.global_step % every) and not trainer.is_last_batch):
            return
        tokens = int(self._tokens)
        seconds = time.perf_counter() - self._start
        pl_module.log_dict(
            {
                "train/loss_batch_nats": float(outputs["loss"]) * trainer.accumulate_grad_batches,
                "train/learning_rate": self._rate,
                "train/texts_per_s": self._texts / seconds,
                "train/tokens_per_s": tokens / seconds,
                "train/padding_ratio": 1 - tokens / self._slots,
            },
            on_step=True,
            on_epoch=False,
            rank_zero_only=True,
        )
        self._restart()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._restart()  # the time spent validating is no training time


class EarlyStop(EarlyStopping):
    """EarlyStopping whose patience is a setting and no state: a flag wins over what a resumed run had."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        counts = {name: state_dict.get(name) for name in ("wait_count", "stopped_epoch")}
        if not all(type(count) is int and count >= 0 for count in counts.values()):
            raise UserError(
                f"the checkpoint's counts of early stopping are {counts}; expected whole numbers."
            )
        best = torch.tensor(_number(state_dict.get("best_score"), "the best score of early stopping"))
        super().load_state_dict({**self.state_dict(), **counts, "best_score": best})


class KeepBest(ModelCheckpoint):
    """ModelCheckpoint that knows its best epochs again by their names in its own folder.

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
                _number(score, "a score of an epoch")
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


class Outputs(Callback):
    """Keeps what a validation or test made of each row: all devices, in the order of the data.

    Attributes:
        predictions: of the last validation or test; on the first device only.
    """

    predictions: Predictions

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._seen.append((outputs["logits"].softmax(-1).cpu(), batch["labels"].cpu(), batch["rows"].cpu()))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._gather(trainer, pl_module, trainer.val_dataloaders)

    def _gather(self, trainer: Trainer, pl_module: LightningModule, loaders: Any) -> None:
        parts: list[Any] = [self._seen]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, self._seen)
        probs, labels, rows = (
            torch.cat(each).numpy() for each in zip(*(seen for part in parts for seen in part), strict=True)
        )
        self._seen = []
        order = rows.argsort(kind="stable")
        if trainer.is_global_zero:
            facts: dict[str, Any] = {}
            part = "test" if trainer.state.fn == "test" else "validation"
            counts = getattr(getattr(trainer, "datamodule", None), "counts", {}).get(part)
            if counts is not None:  # fewer are scored than could be where batches are limited
                facts["row_counts"] = {**counts.as_dict(), "scored": len(rows)}
            self.predictions = Predictions(
                loaders.dataset.texts(rows[order]),
                rows[order],
                labels[order],
                probs[order],
                list(pl_module.hparams["label_names"]),
                facts,
            )

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._gather(trainer, pl_module, trainer.test_dataloaders)


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
        self.best = {str(name): _number(value, "a best score") for name, value in best.items()}
        # Earlier versions did not count: some.
        self.validations = int(_number(state_dict.get("validations", 2), "the number of validations"))


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


class Progress(RichProgressBar):
    """A bar on standard error, for terminals; shows loss, validation scores and speed."""

    SHOWN = (
        ("train/loss_batch_nats", "loss", ".3f"),
        ("val/f1", "f1", ".3f"),
        ("train/tokens_per_s", "tok/s", ".0f"),
    )

    def __init__(self) -> None:
        theme = RichProgressBarTheme(metrics_text_delimiter="  ")
        # Four times a second: drawn at every step, the bar costs more than it tells.
        super().__init__(refresh_rate=4, leave=True, theme=theme, console_kwargs={"stderr": True})

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """Lightning's, with a bar of 16 characters: with its 40 the scores wrap on a line of 110."""
        columns = super().configure_columns(trainer)
        for column in columns:
            if isinstance(column, BarColumn):
                column.bar_width = 16
        return columns

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = trainer.callback_metrics
        shown = {
            label: f"{float(metrics[name]):{form}}" for name, label, form in self.SHOWN if name in metrics
        }
        if "f1" in shown:
            shown["f1"] += f" (n={validated_rows(pl_module):,})"
        return shown


def validated_rows(pl_module: LightningModule) -> int:
    """How many rows the last validation scored, on all devices."""
    labelled: dict[str, list[int]] = pl_module.labelled  # type: ignore[assignment]
    return sum(labelled.get("val", ()))


class ProgressLines(Callback):
    """One line per validation on standard error, where that is not a terminal."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking or not trainer.is_global_zero:
            return
        scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
        rows = validated_rows(pl_module)
        print(
            f"epoch {trainer.current_epoch + 1}, step {trainer.global_step}: "
            + ", ".join(f"{name} {scores[name]:.4f}" for name in ("val/loss_nats", "val/f1", "val/f1_micro"))
            + f" on {rows:,} row{'s' * (rows != 1)}"
            + ", which choose the epoch" * chooses_epoch(trainer),
            file=sys.stderr,
            flush=True,
        )


def _number(value: Any, what: str) -> float:
    """A number that a checkpoint holds as a tensor or as it is."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise UserError(f"{what} in the checkpoint is a {type(value).__name__}; expected a number.")
    return float(value)


class PredictionWriter(Callback):
    """Hands each row on with its prediction, in the order of the input, as soon as its window is complete.

    Adds `prediction_columns` to the columns of the row. Rows without an answer come in their place, too.

    Args:
        writer: where rows go.
        prefix: of the names of the columns that are added.

    Attributes:
        rows: how many were written.
        unanswered: how many of them have no answer.
        truncated: how many texts were longer than the model reads.
    """

    def __init__(self, writer: RowWriter, prefix: str = "") -> None:
        self.writer, self.prefix = writer, prefix
        self.rows = self.unanswered = self.truncated = 0
        self._window = 0
        self._held: list[tuple[Numbered, Tensor]] = []
        self._without: list[Numbered] = []

    def add_unanswered(self, numbered: Numbered) -> None:
        """Takes a row that has no text or cannot be read; to be called in the order of the input."""
        self._without.append(numbered)

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
        self._held += zip(batch["numbered"], outputs.cpu(), strict=True)
        self.truncated += batch["truncated"]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(pl_module, is_last=True)

    def _write(self, pl_module: LightningModule, is_last: bool = False) -> None:
        columns = prediction_columns(pl_module.hparams["label_names"], self.prefix)
        names = pl_module.hparams["label_names"]
        # The reader is ahead: of the rows without an answer some belong to the next window.
        last = max((numbered.number for numbered, _ in self._held), default=0)
        without = self._without if is_last else [each for each in self._without if each.number < last]
        self._without = self._without[len(without) :]
        answered = [(numbered, _answer(probs, names)) for numbered, probs in self._held]
        rows = [*answered, *((numbered, [None] * len(columns)) for numbered in without)]
        rows.sort(key=lambda row: row[0].number)
        self.writer.write(
            {
                **(numbered.row if isinstance(numbered.row, dict) else {}),
                **dict(zip(columns, answer, strict=True)),
            }
            for numbered, answer in rows
        )
        self.rows += len(rows)
        self.unanswered += len(without)
        self._held = []


def prediction_columns(names: list[str], prefix: str = "") -> list[str]:
    """The columns that `predict` adds for classes of these names."""
    columns = ["predicted_label", "probability", *(f"probability_{name}" for name in names)]
    return [prefix + column for column in columns]


def _answer(probs: Tensor, names: list[str]) -> list[Any]:
    """The values of `prediction_columns`."""
    values = [round(value, 6) for value in probs.tolist()]
    best = int(probs.argmax())
    return [names[best], values[best], *values]
