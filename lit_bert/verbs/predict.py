"""The verb `predict`: label texts.

python -m lit_bert predict --input reviews.csv --output labelled.parquet
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from lightning.pytorch.cli import LightningArgumentParser

from lit_bert import UserError
from lit_bert.cli.lightning import NO_FILES, CommandLine, VerbParser, command_with_checkpoint, unparsed
from lit_bert.cli.start import prepare_process
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
from lit_bert.data.rows import column_names, read_rows
from lit_bert.data.writer import RowWriter
from lit_bert.evaluate.prediction_writer import PredictionWriter
from lit_bert.io.escape import line

log = logging.getLogger(__name__)


def predict(arguments: list[str]) -> int:
    """The exit code of `predict`.

    Returns:
        0; 1 where rows without a text were given an empty answer.
    """
    texts = []  # no flag: YAML could not hold what a command line can
    while arguments and not arguments[0].startswith("--") and arguments[0] not in ("-h", "-c"):
        texts.append(arguments[0])
        arguments = arguments[1:]
    prepare_process()
    command, checkpoint = command_with_checkpoint(PREDICT, arguments)
    output = command.config["output"]
    # No bar across the predictions themselves.
    command.build(command.progress_bar() if output is not None else [])
    if command.trainer.world_size > 1:
        raise UserError(
            f"there are {command.trainer.world_size} devices; predict writes rows in their order from one. "
            "Leave --trainer.devices out."
        )
    given = _given_rows(command, texts)
    kept, bad_rows = _label(command, given)
    if kept.truncated:
        most = command.datamodule.hparams.max_length
        log.info(f"{kept.truncated} of {kept.rows} texts were cut at {most} tokens")
    if output:
        log.info(f"{kept.rows} rows written to {output}")
    if output or sys.stderr.isatty():
        log.info(f"labelled by {checkpoint.path}")
    if bad_rows:
        log.info(f"{bad_rows} of {kept.rows} rows could not be labelled and have an empty answer")
    return 1 if bad_rows else 0


def _add_arguments(parser: LightningArgumentParser) -> None:
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
        help="put before the names of the columns that are added, where the input has such columns already",
    )
    parser.add_argument(
        "--formulas",
        type=Literal["escape", "keep"],
        default="escape",
        help="CSV and TSV cells that a spreadsheet would run as a formula: escape them with an "
        "apostrophe, or keep them as they are",
    )


PREDICT = VerbParser(
    "predict",
    "[TEXT ...] [--input FILE] [--output FILE] [OPTIONS]",
    "Label texts from the command line, standard input or a file, in their order. Each row gets "
    "predicted_label, probability and probability_<class> beside the columns it has. Exit code 1: some rows "
    "have no text or could not be read; they were reported by number, and come back in their place with an "
    "empty answer.",
    add_arguments=_add_arguments,
    trainer_defaults={**NO_FILES, "devices": 1},
)


@dataclass(frozen=True)
class GivenRows:
    """The rows to label.

    Attributes:
        name: what messages call the place they come from.
        column: the one with the texts.
    """

    name: str
    columns: list[str]
    rows: Iterator[Numbered]
    column: str


def _given_rows(command: CommandLine, texts: list[str]) -> GivenRows:
    """The texts of the command line, or the rows of a file or of standard input.

    Raises:
        UserError: there are none, both, or no column with texts.
    """
    file, settings = command.config["input"], command.datamodule.hparams
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
            raise UserError('nothing to label; give texts, as in `predict "what a day"`, or --input FILE.')
        columns = column_names(file or "-", settings.quoting)
        rows = read_rows(file or "-", settings.quoting)
        if file not in (None, "-") and (note := quoting_of(Path(file), settings.quoting).note):
            log.info(note)
    plain = texts or file in (None, "-") or str(file).lower().endswith(".txt")
    column = "text" if plain else settings.text_column
    if column not in columns and columns:
        raise missing_column(column, columns, "text_column", name)
    return GivenRows(name, columns, rows, column)


def _label(command: CommandLine, given: GivenRows) -> tuple[PredictionWriter, int]:
    """Writes every row with its answer; the writer, and how many rows have an empty one."""
    config, data, model = command.config, command.datamodule, command.model
    data.hparams.text_column = given.column
    added = [f"{config['prefix']}{column}" for column in model.task.columns()]
    if twins := [each for each in added if each in given.columns]:
        raise UserError(
            f"{given.name} has a column '{line(twins[0], 100)}' already, which the answer would "
            "overwrite. Give the columns of the answer other names with --prefix, as in --prefix new_."
        )
    with RowWriter(config["output"], [*given.columns, *added], config["formulas"]) as writer:
        kept = PredictionWriter(writer, config["prefix"])
        command.trainer.callbacks.append(kept)  # type: ignore[attr-defined]
        labelled = RowsWithText(given, kept)
        data.predict_from(labelled)
        command.trainer.predict(model, datamodule=data, return_predictions=False)
        if not kept.rows:
            raise UserError(f"{given.name} has no row that can be labelled.")
    return kept, labelled.bad_rows


class RowsWithText:
    """The rows with a text; the others are reported by number and handed on without an answer.

    Attributes:
        bad_rows: how many were handed on so far.
    """

    def __init__(self, given: GivenRows, kept: PredictionWriter) -> None:
        self.given, self.kept = given, kept
        self.bad_rows = 0

    def __iter__(self) -> Iterator[Numbered]:
        column, name = self.given.column, self.given.name
        for numbered in self.given.rows:
            row = numbered.row
            if isinstance(row, BadRow):
                problem = row.problem
            else:
                if column not in row and near_column(column, row) is not None:
                    raise missing_column(column, row, "text_column", f"{name}, {numbered.place}")
                try:
                    text, problem = text_of(row.get(column)), f"no text in column '{line(column, 100)}'"
                except CellError as error:
                    text, problem = None, f"{error} in column '{line(column, 100)}' is no text"
                if text is not None:
                    yield numbered
                    continue
            self.bad_rows += 1
            self.kept.add_unanswered(numbered)
            log.info(f"{name}, {numbered.place}: {problem}; its answer is empty")


PARSERS = {"predict": partial(unparsed, PREDICT)}
