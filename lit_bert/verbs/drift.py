"""The verb `drift`: whether new texts are like those that a model was validated on.

python -m lit_bert drift checkpoints/version_0/best.ckpt new.csv
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch.cli import LightningArgumentParser

from lit_bert import UserError
from lit_bert.cli.arguments import checked_configs
from lit_bert.cli.lightning import NO_FILES, CommandLine, VerbParser, command_with_checkpoint, unparsed
from lit_bert.cli.start import prepare_process
from lit_bert.data.cells import Numbered, text_in
from lit_bert.evaluate.drift import RATE, compare
from lit_bert.evaluate.drift_files import Statistics, is_statistics, read_statistics
from lit_bert.evaluate.drift_text import FOUND, drift_lines, found_as_dict
from lit_bert.io import files
from lit_bert.io.escape import line
from lit_bert.product.folder import FACTS
from lit_bert.product.predictor import CHUNK, Predictor
from lit_bert.sources.checkpoint import BEST, Checkpoint
from lit_bert.task.base import Task
from lit_bert.train.reference import StatisticsCollector, statistics_of
from lit_bert.verbs.predict import RowsWithText, given_rows


def drift(arguments: list[str]) -> int:
    """The exit code of `drift`.

    Returns:
        0 where nothing differs beyond chance, 1 where something does.
    """
    prepare_process()
    places, rest = _places(arguments)
    if {"-h", "--help"} & set(rest):
        CommandLine(DRIFT, rest)  # which ends the process
    if any(each.split("=")[0] == "--input" for each in rest):
        raise UserError("got --input; FILE, after MODEL, names the texts. Leave the flag out.")
    if len(places) < 2:
        raise UserError(
            f"got {len(places)} of MODEL and FILE; expected a checkpoint or an exported folder, and a file "
            "of texts or files of statistics, as in `drift checkpoints/version_0/best.ckpt new.csv`."
        )
    model, given = Path(places[0]), [Path(each) for each in places[1:]]
    if any((given[0] / name).is_file() for name in (BEST, FACTS)):
        raise UserError(f"{line(given[0])} is a model; expected MODEL first, then FILE.")
    if not model.exists():
        raise UserError(f"there is no {line(model)}; expected a checkpoint or an exported folder.")
    if (model / BEST).is_file():  # the folder of a run
        model = model / BEST
    stored = [is_statistics(each) for each in given]
    if len(given) > 1 and not all(stored):
        raise UserError(f"got {len(given)} files; expected one file of texts, or files of statistics.")
    if len({each.resolve() for each in given}) < len(given):
        raise UserError("got a file of statistics twice, whose texts would be counted twice; name it once.")
    texts = None if stored[0] else places[1]
    flags = [*rest, f"--input={texts}"] if texts else rest
    if (model / FACTS).is_file():
        rate, task, statistics = _of_folder(model, flags, texts is not None)
    else:
        rate, task, statistics = _of_checkpoint(model, flags, texts is not None)
    for each in given if texts is None else ():
        statistics.sketch.merge(read_statistics(each, statistics.reference))
    found = compare(statistics.reference, statistics.sketch)
    lines = drift_lines(statistics, found, rate, task)
    print(
        "\n".join([f"model      {line(model)}", f"texts      of {line(', '.join(places[1:]), 200)}", *lines])
    )
    if model.is_file():
        said = found_as_dict(statistics, found, rate, task, places[1:])
        files.write_text(model.parent / FOUND, json.dumps(said, indent=2) + "\n")
    return int(any(each.p_value <= rate for each in found))


def _places(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Model and files, which stand before all flags; and the flags."""
    count = next((at for at, each in enumerate(arguments) if each.startswith("-")), len(arguments))
    return arguments[:count], arguments[count:]


def _add_arguments(parser: LightningArgumentParser) -> None:
    parser.add_argument("--input", type=str | None, default=None, help="the FILE of texts, as for `predict`")
    parser.add_argument(
        "--rate",
        type=float,
        default=RATE,
        help="how often drift may be found where there is none, over all that is compared together",
    )


DRIFT = VerbParser(
    "drift",
    "MODEL FILE [FILE ...] [OPTIONS]",
    "Compare texts with those that a model was validated on. MODEL is a checkpoint or an exported folder; "
    "FILE is a file of texts, or files that `predict --statistics` and `serve --statistics` wrote, whose "
    "counts are added up. Exit code 0: nothing differs beyond chance; 1: something does; 2: they could not "
    "be compared.",
    checkpoint_help=None,
    add_arguments=_add_arguments,
    trainer_defaults={**NO_FILES, "devices": 1},
)


def _rate(command: CommandLine) -> float:
    rate = command.config["rate"]
    if not 0 < rate < 1:
        raise UserError(f"--rate is {rate:g}; expected a rate between 0 and 1, such as 0.01.")
    return rate


def _of_checkpoint(model: Path, flags: list[str], has_texts: bool) -> tuple[float, Task, Statistics]:
    """The rate of false alarms, the task, and the statistics of the texts, if there are any."""
    if model.is_dir():
        raise UserError(
            f"{line(model)} has neither {BEST} nor {FACTS}; expected a checkpoint, the folder of a run, or "
            "one that `export` wrote."
        )
    if not has_texts:
        checkpoint = Checkpoint.open(model)
        return _rate(CommandLine(DRIFT, checked_configs(flags))), checkpoint.task, statistics_of(checkpoint)
    command, checkpoint = command_with_checkpoint(DRIFT, flags, str(model))
    statistics = statistics_of(checkpoint)
    rate = _rate(command)
    command.build(command.progress_bar())
    data = command.datamodule
    given = given_rows(command, [], data.hparams, data.weights.text_form)
    command.trainer.callbacks.append(StatisticsCollector(statistics, given.form))  # type: ignore[attr-defined]
    data.predict_from(RowsWithText(given), given.form)
    command.trainer.predict(command.model, datamodule=data, return_predictions=False)
    return rate, checkpoint.task, statistics


def _of_folder(folder: Path, flags: list[str], has_texts: bool) -> tuple[float, Task, Statistics]:
    """The same, of an exported folder."""
    command = CommandLine(DRIFT, checked_configs(flags))
    predictor = Predictor(folder)
    statistics, rate = predictor.keep_statistics(), _rate(command)
    if has_texts:
        settings: Any = AttributeDict(command.config["data"].as_dict())
        given = given_rows(command, [], settings, predictor.form)
        rows: Iterator[Numbered] = iter(RowsWithText(given))
        while some := list(islice(rows, CHUNK)):
            # Those that could not be read are left out already.
            cells = [each.row for each in some if isinstance(each.row, dict)]
            predictor.asked_logits([text_in(row, given.form) or "" for row in cells])
    return rate, predictor.task, statistics


PARSERS = {"drift": partial(unparsed, DRIFT)}
