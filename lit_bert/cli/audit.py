"""`audit`, as LightningCLI has it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from lit_bert import RUNS, UserError, need
from lit_bert.cli.arguments import strip_flag
from lit_bert.cli.fit import Fit
from lit_bert.cli.lightning import Verb, announce
from lit_bert.data.module import EmotionDataModule
from lit_bert.data.writer import RowWriter
from lit_bert.evaluate import scores
from lit_bert.evaluate.audit import OUT_OF_FOLD, SUSPECTS, check_same_training_rows, find_flaws, merge_folds
from lit_bert.evaluate.audit_text import findings_text, suspects_text, write_suspects
from lit_bert.evaluate.predictions import TRAINED, VALIDATED, Predictions
from lit_bert.model.module import BertClassifier
from lit_bert.train.runs import LOG, fit_each, has_accelerator, next_folder

log = logging.getLogger(__name__)


class AuditTrainer(Trainer):
    """LightningCLI wants every verb to be a method of its trainer."""

    def audit(self, model: BertClassifier, datamodule: EmotionDataModule) -> None:
        """Show what is wrong with labelled text."""


class Audit(Verb):
    """Show what is wrong with labelled text; takes the flags and configurations of fit.

    Repeated texts, texts with several labels, texts that stand in several splits, truncated and empty ones,
    rare classes; with --folds also labels that look wrong. The test split is read too, but --folds trains on
    the training split alone.
    """

    name = "audit"
    usage = "[--folds K] [--config FILE ...] [OPTIONS]"
    trainer_type = AuditTrainer
    own: ClassVar[dict[str, Any]] = {"folds": 0, "reuse": None, "output": None, "examples": 10}

    def __init__(self, arguments: list[str], config_file: Path) -> None:
        self.arguments = arguments
        super().__init__(arguments, None, config_file)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"audit": {"model", "datamodule"}}

    def add_verb_arguments(self, parser: LightningArgumentParser) -> None:
        for name, kind, text in (
            (
                "folds",
                int,
                "train that many models, each on all but one part of the training split, and rank the labels "
                "they do not believe; 3 takes about as long as two fits; 0 trains nothing",
            ),
            (
                "reuse",
                str | None,
                "folder of an earlier audit of the same rows: ranks labels again without training",
            ),
            (
                "output",
                str | None,
                "CSV, TSV, JSON Lines or Parquet file for all suspected rows; null is suspects.csv in the "
                "folder of the audit",
            ),
            ("examples", int, "texts to show of each finding"),
        ):
            parser.add_argument(f"--{name}", type=kind, default=self.own[name], help=text)
        Fit.add_run_arguments(parser)

    def audit(self, datamodule: EmotionDataModule, model: BertClassifier, **_: Any) -> None:
        """Prints all of it. The folder of the folds keeps their predictions, not their checkpoints."""
        config = self.config["audit"]
        arguments = self._checked_arguments()
        folds, reuse = config["folds"], config["reuse"] and Path(config["reuse"])
        rows, names = datamodule.splits.whole(), datamodule.label_names
        if folds > len(rows):
            raise UserError(f"--folds is {folds}; expected at most one for each of the {len(rows):,} rows.")
        earlier = Predictions.read(reuse / OUT_OF_FOLD) if reuse else None
        if earlier and reuse:
            check_same_training_rows(earlier, rows, names, reuse)
        announce(self.trainer, [("weights", datamodule.weights.source), ("rows", datamodule.source)])
        parts = datamodule.splits.parts()
        print(findings_text(find_flaws(parts, names, config["examples"])), flush=True)
        if datamodule.hparams.test_split not in parts:
            print(f"\nthere is no split '{datamodule.hparams.test_split}' to look at")
        if not folds and not reuse:
            print(
                "\nnext: labels that look wrong, for about the time of two fits:\n"
                "      python -m lit_bert audit --folds 3 and the same flags"
            )
            return
        arguments, root = strip_flag(arguments, "--trainer.logger.init_args.save_dir", "a folder")
        folder = reuse or next_folder(Path(root or RUNS), "audit")
        output = Path(config["output"] or folder / SUSPECTS)
        with RowWriter(output) as writer:  # opened first, so that no training is in vain
            predictions = earlier or self._train_folds(arguments, folds, folder, rows.labels)
            found = scores.suspected_labels(predictions.probs, predictions.labels)
            write_suspects(predictions, found, writer)
        print(f"\n{suspects_text(predictions, found)}\n\nall of them: {output}")

    def _checked_arguments(self) -> list[str]:
        """Those that are also fit's."""
        config, arguments = self.config["audit"], self.arguments
        for name, default in self.own.items():
            arguments, given = strip_flag(arguments, f"--{name}", "a value")
            if given is None and config[name] != default:
                raise UserError(
                    f"{name} stands in a configuration; give it on the command line, as --{name}."
                )
        folds = config["folds"]
        if folds < 0 or folds == 1:
            raise UserError(f"--folds is {folds}; expected at least 2, or 0 to train nothing.")
        if config["examples"] < 0:
            raise UserError(f"--examples is {config['examples']}; expected at least 0.")
        if folds and config["reuse"]:
            raise UserError("got --folds and --reuse; expected one of them.")
        if config["reuse"] and not (Path(config["reuse"]) / OUT_OF_FOLD).is_file():
            raise UserError(
                f"--reuse {config['reuse']} has no {OUT_OF_FOLD}; expected the folder of an audit with "
                f"folds, such as {RUNS / 'audit_0'}."
            )
        if folds or config["reuse"]:
            need("cleanlab", "report")
        elif config["output"]:
            raise UserError("--output is for labels that look wrong; add --folds 3, which looks for them.")
        return arguments

    def _train_folds(self, arguments: list[str], folds: int, folder: Path, labels: np.ndarray) -> Predictions:
        """Predictions of every training row by a model that was trained without it."""
        trainer = self.config["audit"]["trainer"]
        shared = [f"--data.folds={folds}", "--data.val_rows=null"]
        by_epochs = (
            (trainer["max_epochs"] or 0) > 0 and trainer["max_steps"] == -1 and not trainer["max_time"]
        )
        if by_epochs and trainer["val_check_interval"] in (None, 1.0):
            # One validation, at the end: the fold that is held out chooses no epoch.
            shared.append(f"--trainer.check_val_every_n_epoch={trainer['max_epochs']}")
        each = {f"fold_{fold}": [*shared, f"--data.fold={fold}"] for fold in range(folds)}
        log.info(
            f"training {folds} models, each without one of {folds} parts; {folder}/fold_*/{LOG} say more"
        )
        runs = fit_each(arguments, each, folder, on_cpu=not has_accelerator(), quiet=True)
        predictions = merge_folds([Predictions.read(run / VALIDATED) for run in runs], labels)
        predictions.write(folder / OUT_OF_FOLD)
        for run in runs:  # parts of an audit, which `report` and `test` would take for the newest fit
            for file in (run / VALIDATED, run / TRAINED, *run.glob("*.ckpt")):
                file.unlink(missing_ok=True)
        return predictions
