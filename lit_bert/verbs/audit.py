"""The verb `audit`: what is wrong with labelled text.

python -m lit_bert audit --data.dataset reviews.csv --folds 3
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.cli import LightningArgumentParser

from lit_bert import RUNS, UserError, require_package
from lit_bert.cli.arguments import checked_configs, strip_flag
from lit_bert.cli.lightning import CommandLine, VerbParser, unparsed
from lit_bert.cli.run_arguments import add_run_arguments, root_of_runs, settings_of_run
from lit_bert.cli.start import prepare_process
from lit_bert.data.writer import RowWriter
from lit_bert.evaluate import scores
from lit_bert.evaluate.announce import announce
from lit_bert.evaluate.audit import (
    OUT_OF_FOLD,
    SUSPECTS,
    check_same_training_rows,
    find_dataset_issues,
    merge_folds,
)
from lit_bert.evaluate.audit_text import findings_text, suspects_text, write_suspects
from lit_bert.evaluate.predictions import TRAINED, VALIDATED, Predictions
from lit_bert.task.kinds import task_of
from lit_bert.train.runs import LOG, fit_each, next_folder, runs_on_cpu

log = logging.getLogger(__name__)

OWN: dict[str, tuple[Any, Any, str]] = {  # type, default and help of the arguments that fit does not have
    "folds": (
        int,
        0,
        "train that many models, each on all but one part of the training split, and rank the labels to "
        "which these give the lowest probability; 3 takes about as long as two fits; 0 trains nothing",
    ),
    "reuse": (
        str | None,
        None,
        "folder of an earlier audit of the same rows: ranks labels again without training",
    ),
    "output": (
        str | None,
        None,
        "CSV, TSV, JSON Lines or Parquet file for all suspected rows; null is suspects.csv in the folder of "
        "the audit",
    ),
    "examples": (int, 10, "texts to show of each finding"),
}


def audit(arguments: list[str]) -> int:
    """The exit code of `audit`. The folder of the folds keeps their predictions, not their checkpoints."""
    prepare_process()
    command = _parsed(checked_configs(arguments))
    command.build([])
    config, data = command.config, command.datamodule
    folds, reuse = config["folds"], config["reuse"] and Path(config["reuse"])
    rows, task = data.splits.train_split(), task_of(data.task, data.label_names)
    if folds > len(rows):
        raise UserError(f"--folds is {folds}; expected at most one for each of the {len(rows):,} rows.")
    earlier = Predictions.read(reuse / OUT_OF_FOLD) if reuse else None
    if earlier and reuse:
        check_same_training_rows(earlier, rows, task, reuse)
    announce(command.trainer, [("weights", data.weights.source), ("rows", data.source)])
    parts = data.splits.all_parts()
    print(findings_text(find_dataset_issues(parts, task, config["examples"])), flush=True)
    if data.hparams.test_split not in parts:
        print(f"\nthere is no split '{data.hparams.test_split}' to look at")
    if not folds and not reuse:
        print(
            "\nnext: labels that look wrong, for about the time of two fits:\n"
            "      python -m lit_bert audit --folds 3 and the same flags"
        )
        return 0
    folder = reuse or next_folder(root_of_runs(command.settings, "--folds"), "audit")
    output = Path(config["output"] or folder / SUSPECTS)
    with RowWriter(output) as writer:  # opened first, so that no training is in vain
        predictions = earlier or _train_folds(command.settings, folds, folder, rows.labels)
        found = scores.suspected_labels(predictions.task, predictions.outputs, predictions.labels)
        write_suspects(predictions, found, writer)
    print(f"\n{suspects_text(predictions, found)}\n\nall of them: {output}")
    return 0


def _add_arguments(parser: LightningArgumentParser) -> None:
    for name, (kind, default, text) in OWN.items():
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)
    add_run_arguments(parser)


AUDIT = VerbParser(
    "audit",
    "[--folds K] [--config FILE ...] [OPTIONS]",
    "Show what is wrong with labelled text; takes the flags and configurations of fit. Repeated texts, texts "
    "with several labels, texts that stand in several splits, truncated and empty ones, rare classes; with "
    "--folds also labels that look wrong. The test split is read too, but --folds trains on the training "
    "split alone.",
    checkpoint_help=None,
    add_arguments=_add_arguments,
    starts_from_base=True,
)


def _parsed(arguments: list[str]) -> CommandLine:
    """The settings of an audit.

    Raises:
        UserError: an argument of its own stands in a configuration, is out of range, or misses another.
    """
    command = CommandLine(AUDIT, arguments)
    config = command.config
    for name, (_, default, _) in OWN.items():
        given = strip_flag(arguments, f"--{name}", "a value")[1]
        if given is None and config[name] != default:
            raise UserError(f"{name} stands in a configuration; give it on the command line, as --{name}.")
    folds = config["folds"]
    if folds < 0 or folds == 1:
        raise UserError(f"--folds is {folds}; expected at least 2, or 0 to train nothing.")
    if config["examples"] < 0:
        raise UserError(f"--examples is {config['examples']}; expected at least 0.")
    for name in ("guarantee", "want", "costs"):
        if config[name] is not None:
            raise UserError(
                f"--{name} is for the answers of a model that `fit` keeps; leave it out of an audit."
            )
    if folds and config["reuse"]:
        raise UserError("got --folds and --reuse; expected one of them.")
    if config["reuse"] and not (Path(config["reuse"]) / OUT_OF_FOLD).is_file():
        raise UserError(
            f"--reuse {config['reuse']} has no {OUT_OF_FOLD}; expected the folder of an audit with "
            f"folds, such as {RUNS / 'audit_0'}."
        )
    if folds:
        root_of_runs(command.settings, "--folds")
    if folds or config["reuse"]:
        require_package("cleanlab", "report")
    elif config["output"]:
        raise UserError("--output is for labels that look wrong; add --folds 3, which looks for them.")
    return command


def _train_folds(settings: dict[str, Any], folds: int, folder: Path, labels: np.ndarray) -> Predictions:
    """Predictions of every training row by a model that was trained without it."""
    trainer = dict(settings["trainer"])
    by_epochs = (trainer["max_epochs"] or 0) > 0 and trainer["max_steps"] == -1 and not trainer["max_time"]
    if by_epochs and trainer["val_check_interval"] in (None, 1.0):
        # One validation, at the end: the fold that is held out chooses no epoch.
        trainer["check_val_every_n_epoch"] = trainer["max_epochs"]
    kept = {name: value for name, value in settings_of_run(settings).items() if name not in OWN}
    each = {}
    for fold in range(folds):
        data = {**settings["data"], "folds": folds, "fold": fold, "val_rows": None}
        each[f"fold_{fold}"] = {**kept, "trainer": trainer, "data": data}
    log.info(f"training {folds} models, each without one of {folds} parts; {folder}/fold_*/{LOG} say more")
    runs = fit_each(each, folder, on_cpu=runs_on_cpu(settings), quiet=True)
    predictions = merge_folds([Predictions.read(run / VALIDATED) for run in runs], labels)
    predictions.write(folder / OUT_OF_FOLD)
    for run in runs:  # parts of an audit, which `report` and `test` would take for the newest fit
        for file in (run / VALIDATED, run / TRAINED, *run.glob("*.ckpt")):
            file.unlink(missing_ok=True)
    return predictions


PARSERS = {"audit": partial(unparsed, AUDIT)}
