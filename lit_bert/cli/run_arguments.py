"""The settings of a run beside the sections that all verbs have: for `fit`, and for `audit` with folds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.cli import LightningArgumentParser

from lit_bert import UserError
from lit_bert.train.keep import EarlyStop, KeepBest
from lit_bert.train.methods import METHODS
from lit_bert.train.trackers import TRACKERS

OF_THE_COMMAND = (
    "ckpt_path",
    "seeds",
    "result",
    "dry_run",
    "from",
)  # arguments that are no settings of a run


def add_run_arguments(parser: LightningArgumentParser) -> None:
    """Adds what may stand in the configuration of a run beside the sections that all verbs have."""
    parser.add_argument(
        "--calibrate",
        type=bool,
        default=True,
        help="whether to fit a temperature on the validation split and fold it into the classifier of "
        "the best checkpoint, so that its probabilities are calibrated (Guo et al., 2017), "
        "where rows that it was not fitted on show that it helps",
    )
    parser.add_argument(
        "--method",
        type=Literal[("auto", *METHODS)],
        default="auto",
        help="how the classifier is made: "
        + "; ".join(f"{name}: {method.summary}" for name, method in METHODS.items())
        + "; auto tries frozen and finetune and keeps the one that is better on rows that it has not seen; "
        "where trainer.max_epochs, max_steps or max_time is set, it is finetune as they are",
    )
    parser.add_argument(
        "--minutes",
        type=float | None,
        default=None,
        help="what the command may take, by the clock and with everything: the best model that is to be had "
        "until then; null trains as the recipe says",
    )
    parser.add_argument(
        "--descriptions",
        type=str | None,
        default=None,
        help="CSV file with the columns label and text: what describes each class, in a row or several, for "
        "--method zero_shot; null takes their names",
    )
    parser.add_argument(
        "--guarantee",
        type=str | None,
        default=None,
        help="rates to hold on new texts, as in accuracy=0.98 (below the threshold that gives it there is no "
        "answer), coverage=0.95 (sets of classes, or intervals, that hold the right one) or "
        "coverage_by_class=0.95, one or two with a comma between them; found on rows that serve nothing else",
    )
    parser.add_argument(
        "--want",
        type=str | None,
        default=None,
        help="a class, and the precision or recall that it is to have, as in spam:precision=0.95; the "
        "threshold of its probability is chosen on the validation split",
    )
    parser.add_argument(
        "--costs",
        type=dict[str, dict[str, float]] | str | None,
        default=None,
        help="CSV file of what it costs to answer the class of a column where that of the row is right; the "
        "answer is then the class of the least expected cost",
    )
    parser.add_argument(
        "--tracker",
        type=Literal[TRACKERS] | None,
        default=None,
        help="where scores, settings, pictures and the model card go; mlflow is at MLFLOW_TRACKING_URI, else "
        "a file beside the runs, and wandb as its variables say (WANDB_MODE=offline); default: "
        "trainer.logger, which is TensorBoard",
    )
    parser.add_lightning_class_args(KeepBest, "checkpoint")
    parser.add_lightning_class_args(EarlyStop, "early_stopping")
    parser.set_defaults(
        {
            "checkpoint.monitor": "val/score",
            "checkpoint.mode": "max",
            "checkpoint.filename": "best",
            # A third of the size; last.ckpt has the optimizer's state.
            "checkpoint.save_weights_only": True,
            "checkpoint.enable_version_counter": False,
            # At validation: last.ckpt then knows of it on resume.
            "checkpoint.save_on_train_epoch_end": False,
            "early_stopping.monitor": "val/score",
            "early_stopping.mode": "max",
            "early_stopping.strict": False,  # a run may end before its first validation
        }
    )


def settings_of_run(settings: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Those of a command without what is no setting of a run, and with some changes."""
    kept = {name: value for name, value in settings.items() if name not in OF_THE_COMMAND}
    return {**kept, **changes}


def root_of_runs(settings: Mapping[str, Any], flag: str) -> Path:
    """The folder below which several runs get a folder of their own.

    Raises:
        UserError: the logger has no such folder; the message names the flag that needs one.
    """
    logger = settings["trainer"]["logger"]
    if not isinstance(logger, dict) or not (root := logger.get("init_args", {}).get("save_dir")):
        raise UserError(f"trainer.logger keeps no folder for each run; with {flag}, leave it as it is.")
    return Path(root)
