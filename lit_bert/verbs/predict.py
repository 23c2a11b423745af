"""The verb `predict`: label texts.

python -m lit_bert predict --input reviews.csv --output labelled.parquet
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

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
    text_in,
    text_problem,
)
from lit_bert.data.columns import check_same_form, find_text
from lit_bert.data.readers.options import ReadOptions
from lit_bert.data.rows import column_names, is_plain, read_rows, reading_notes
from lit_bert.data.writer import RowWriter
from lit_bert.evaluate.prediction_writer import PredictionWriter
from lit_bert.io.escape import line
from lit_bert.io.texts import SINGLE, TextForm
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.text_settings import form_of, parse_names
from lit_bert.train.reference import StatisticsCollector, statistics_of

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
    given = given_rows(command, texts, command.datamodule.hparams, command.datamodule.weights.text_form)
    kept, bad_rows = _label(command, given, checkpoint)
    if kept.truncated:
        most = command.datamodule.hparams.max_length
        lost = kept.lost / kept.tokens
        log.info(
            f"{kept.truncated} of {kept.rows} texts were cut at {most} tokens ({lost:.1%} of all are lost)"
        )
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
        help="file of any form that --data.dataset takes, or an address; - is standard input, a text a line "
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
    parser.add_argument(
        "--statistics",
        type=str | None,
        default=None,
        help="JSON file of counts, without a text, to compare with `drift`; one that is there goes on",
    )


PREDICT = VerbParser(
    "predict",
    "[TEXT ...] [--input FILE] [--output FILE] [OPTIONS]",
    "Label texts from the command line, standard input or a file, in their order; a model of pairs or of "
    "several columns takes that many texts of the command line for a row. Each row gets "
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
        form: the columns of the texts, and what they make.
    """

    name: str
    columns: list[str]
    rows: Iterator[Numbered]
    form: TextForm


def given_rows(
    command: CommandLine, texts: list[str], settings: Any, text_form: TextForm | None
) -> GivenRows:
    """The texts of the command line, or the rows of a file or of standard input.

    Args:
        settings: of the data, by attribute.
        text_form: of the texts that the model was trained on; None is a single text.

    Raises:
        UserError: there are none, both, or no column with texts.
    """
    file = command.config["input"]
    name = "the command line" if texts else "standard input" if file in (None, "-") else line(file)
    if texts and file:
        raise UserError("got texts and --input; expected one of them.")
    trained = text_form or SINGLE
    if texts and trained.kind != "single":
        size, columns = len(trained.columns), list(trained.columns)
        if len(texts) % size:
            raise UserError(
                f"got {len(texts)} of them on the command line, and the model was trained on "
                f"{trained.described}; expected {size} texts for each row, one after the other."
            )
        return GivenRows(name, columns, _rows(columns, texts), trained)
    if texts:
        columns = ["text"]
        rows = _rows(columns, texts)
    else:
        if file is None and sys.stdin.isatty():
            raise UserError('nothing to label; give texts, as in `predict "what a day"`, or --input FILE.')
        options = _options(settings)
        for note in reading_notes(file or "-", options):
            log.info(note)
        columns = column_names(file or "-", options)
        rows = read_rows(file or "-", options)
    plain = texts or is_plain(file or "-", options)
    form = _form(command, settings, trained, name, columns, bool(plain))
    return GivenRows(name, columns, rows, form)


def _options(settings: Any) -> ReadOptions:
    """How the rows to label are read: they need no label."""
    return ReadOptions.of({**settings, "label_column": None})


def _rows(columns: list[str], texts: list[str]) -> Iterator[Numbered]:
    """The texts of the command line as rows of these columns."""
    for number, start in enumerate(range(0, len(texts), len(columns)), 1):
        cells = texts[start : start + len(columns)]
        problem = next(filter(None, map(text_problem, cells)), None)
        yield Numbered(number, 0, BadRow(problem) if problem else dict(zip(columns, cells, strict=True)))


def _form(
    command: CommandLine, settings: Any, trained: TextForm, name: str, columns: list[str], plain: bool
) -> TextForm:
    """The columns of the texts: those of the training, named by a flag, or the only ones that can be meant.

    Args:
        name: what messages call the rows.
        plain: whether each is a text alone.
    """
    if plain and trained.kind == "single":
        return TextForm()
    if plain:
        raise UserError(
            f"{name} has texts alone, and the model was trained on {trained.described}. Give a file with "
            "these columns, as in --input rows.csv."
        )
    form = trained
    named = command.given.get("data.text_column") or command.given.get("data.text_form")
    if named:
        names = parse_names(settings.text_column, "text_column")
        names = (settings.text_column,) if settings.text_column in columns else names
        form = TextForm(form_of(names, settings.text_form), names)
        check_same_form(trained, form)
    missing = [column for column in form.columns if column not in columns]
    if not missing or not columns:
        return form
    found = None
    if not named and all(near_column(column, columns) is None for column in missing):
        found = find_text(columns, read_rows(command.config["input"], _options(settings)), form)
    if found is None:
        raise missing_column(missing[0], columns, "text_column", name)
    shown = ", ".join(f"'{line(column, 60)}'" for column in found)
    log.info(f"{name} has no column '{line(missing[0], 60)}': the text is {shown} (--data.text_column)")
    return TextForm(form.kind, found)


def _label(command: CommandLine, given: GivenRows, checkpoint: Checkpoint) -> tuple[PredictionWriter, int]:
    """Writes every row with its answer; the writer, and how many rows have an empty one."""
    config, data, model = command.config, command.datamodule, command.model
    added = [f"{config['prefix']}{column}" for column in model.task.columns()]
    if twins := [each for each in added if each in given.columns]:
        raise UserError(
            f"{given.name} has a column '{line(twins[0], 100)}' already, which the answer would "
            "overwrite. Give the columns of the answer other names with --prefix, as in --prefix new_."
        )
    if config["statistics"] is not None:
        statistics = statistics_of(checkpoint, Path(config["statistics"]))
        command.trainer.callbacks.append(StatisticsCollector(statistics, given.form))  # type: ignore[attr-defined]
    with RowWriter(config["output"], [*given.columns, *added], config["formulas"]) as writer:
        kept = PredictionWriter(writer, config["prefix"])
        command.trainer.callbacks.append(kept)  # type: ignore[attr-defined]
        labelled = RowsWithText(given, kept.add_unanswered, "its answer is empty")
        data.predict_from(labelled, given.form)
        command.trainer.predict(model, datamodule=data, return_predictions=False)
        if not kept.rows:
            raise UserError(f"{given.name} has no row that can be labelled.")
    return kept, labelled.bad_rows


class RowsWithText:
    """The rows with a text; the others are reported by number and handed on.

    Args:
        given: all of them.
        hand_on: takes those without a text.
        consequence: what becomes of them, for messages.

    Attributes:
        bad_rows: how many were handed on so far.
    """

    def __init__(
        self,
        given: GivenRows,
        hand_on: Callable[[Numbered], None] = lambda _: None,
        consequence: str = "it is left out",
    ) -> None:
        self.given, self.hand_on, self.consequence = given, hand_on, consequence
        self.bad_rows = 0

    def __iter__(self) -> Iterator[Numbered]:
        form, name = self.given.form, self.given.name
        where = "column" if len(form.columns) == 1 else "columns"
        columns = f"{where} '{line(', '.join(form.columns), 100)}'"
        for numbered in self.given.rows:
            row = numbered.row
            if isinstance(row, BadRow):
                problem = row.problem
            else:
                for column in form.columns:
                    if column not in row and near_column(column, row) is not None:
                        raise missing_column(column, row, "text_column", f"{name}, {numbered.place}")
                try:
                    text, problem = text_in(row, form), f"no text in {columns}"
                except CellError as error:
                    text, problem = None, f"{error} in {columns} is no text"
                if text is not None:
                    yield numbered
                    continue
            self.bad_rows += 1
            self.hand_on(numbered)
            log.info(f"{name}, {numbered.place}: {problem}; {self.consequence}")


PARSERS = {"predict": partial(unparsed, PREDICT)}
