"""`predict`, as LightningCLI has it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser

from lit_bert import UserError
from lit_bert.cli.evaluate import Evaluate
from lit_bert.cli.lightning import Verb
from lit_bert.data.cells import (
    BadRow,
    CellError,
    Numbered,
    missing_column,
    near_column,
    text_of,
    text_problem,
)
from lit_bert.data.delimited import quoting_of
from lit_bert.data.module import EmotionDataModule
from lit_bert.data.rows import column_names, read_rows
from lit_bert.data.writer import RowWriter
from lit_bert.evaluate.labelling import PredictionWriter
from lit_bert.io.escape import line
from lit_bert.model.module import BertClassifier
from lit_bert.sources.checkpoint import Checkpoint

log = logging.getLogger(__name__)


class Predict(Verb):
    """Label texts from the command line, standard input or a file, in their order.

    Each row gets predicted_label, probability and probability_<class> beside the columns it has. Exit code 1:
    some rows have no text or could not be read; they were reported by number, and come back in their place
    with an empty answer.
    """

    name = "predict"
    usage = "[TEXT ...] [--input FILE] [--output FILE] [OPTIONS]"
    trainer_settings: ClassVar[dict[str, Any]] = {**Evaluate.trainer_settings, "devices": 1}

    def __init__(self, arguments: list[str], checkpoint: Checkpoint | None, texts: list[str]) -> None:
        self.texts = texts  # no flag: YAML could not hold what a command line can
        self.bad_rows = 0
        super().__init__(arguments, checkpoint)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"predict": {"model", "dataloaders", "datamodule", "return_predictions", "weights_only"}}

    def add_verb_arguments(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--input",
            type=str | None,
            default=None,
            help="CSV, TSV, JSON Lines, Parquet or plain text file; - is standard input, a text per line "
            "(the default without texts)",
        )
        parser.add_argument(
            "--output",
            type=str | None,
            default=None,
            help="CSV, TSV, JSON Lines or Parquet file to write; null prints JSON Lines",
        )
        parser.add_argument(
            "--prefix",
            type=str,
            default="",
            help="put before the names of the columns that are added, where the input has such columns "
            "already",
        )
        parser.add_argument(
            "--formulas",
            type=Literal["escape", "keep"],
            default="escape",
            help="CSV and TSV cells that a spreadsheet would run as a formula: escape them with an "
            "apostrophe, or keep them as they are",
        )

    def callbacks(self, bar: bool) -> list[Callback]:
        """No bar across the predictions themselves."""
        return super().callbacks(bar and self.config["predict"]["output"] is not None)

    def predict(self, datamodule: EmotionDataModule, model: BertClassifier, **_: Any) -> None:
        if self.trainer.world_size > 1:
            raise UserError(
                f"there are {self.trainer.world_size} devices; predict writes rows in their order from one. "
                "Leave --trainer.devices out."
            )
        config, quoting = self.config_init["predict"], datamodule.hparams.quoting
        texts, file = self.texts, config["input"]
        name = "the command line" if texts else "standard input" if file in (None, "-") else line(file)
        if texts and file:
            raise UserError("got texts and --input; expected one of them.")
        if texts:
            columns = ["text"]
            rows: Iterator[Numbered] = (
                Numbered(number, 0, BadRow(problem) if (problem := text_problem(text)) else {"text": text})
                for number, text in enumerate(texts, 1)
            )
        else:
            if file is None and sys.stdin.isatty():
                raise UserError(
                    'nothing to label; give texts, as in `predict "what a day"`, or --input FILE.'
                )
            columns = column_names(file or "-", quoting)
            rows = read_rows(file or "-", quoting)
            if file not in (None, "-") and (note := quoting_of(Path(file), quoting).note):
                log.info(note)
        plain = texts or file in (None, "-") or str(file).lower().endswith(".txt")
        column = "text" if plain else datamodule.hparams.text_column
        if column not in columns and columns:
            raise missing_column(column, columns, "text_column", name)
        datamodule.hparams.text_column = column
        added = [f"{config['prefix']}{column}" for column in model.task.columns()]
        if twins := [each for each in added if each in columns]:
            raise UserError(
                f"{name} has a column '{line(twins[0], 100)}' already, which the answer would "
                "overwrite. Give the columns of the answer other names with --prefix, as in --prefix new_."
            )
        with RowWriter(config["output"], [*columns, *added], config["formulas"]) as writer:
            kept = PredictionWriter(writer, config["prefix"])
            self.trainer.callbacks.append(kept)  # type: ignore[attr-defined]
            datamodule.predict_from(self._with_text(rows, column, name, kept))
            self.trainer.predict(model, datamodule=datamodule, return_predictions=False)
            if not kept.rows:
                raise UserError(f"{name} has no row that can be labelled.")
        if kept.truncated:
            log.info(
                f"{kept.truncated} of {kept.rows} texts were cut at {datamodule.hparams.max_length} tokens"
            )
        if config["output"]:
            log.info(f"{kept.rows} rows written to {config['output']}")
        if self.checkpoint and (config["output"] or sys.stderr.isatty()):
            log.info(f"labelled by {self.checkpoint.path}")
        if self.bad_rows:
            log.info(f"{self.bad_rows} of {kept.rows} rows could not be labelled and have an empty answer")

    def _with_text(
        self, rows: Iterator[Numbered], column: str, name: str, kept: PredictionWriter
    ) -> Iterator[Numbered]:
        """The rows with a text; reports the others by number and hands them on without an answer."""
        for numbered in rows:
            row = numbered.row
            if isinstance(row, BadRow):
                problem = row.problem
            else:
                if column not in row and near_column(column, row) is not None:
                    raise missing_column(column, row, "text_column", f"{name}, {numbered.place}")
                try:
                    text, problem = (
                        text_of(row.get(column)),
                        f"no text in column '{line(column, 100)}'",
                    )
                except CellError as error:
                    text, problem = None, f"{error} in column '{line(column, 100)}' is no text"
                if text is not None:
                    yield numbered
                    continue
            self.bad_rows += 1
            kept.add_unanswered(numbered)
            log.info(f"{name}, {numbered.place}: {problem}; its answer is empty")
