"""The verbs that train and score: LightningCLI over the rooms, and the links between them.

Links: `weights` serves data (tokenizer) and model (architecture, values); `data.label_names` become the
model's. A verb that starts from a checkpoint reads its settings from there first; explicit flags win over
them.

    python -m lit_bert fit --config configs/base.yaml --trainer.max_epochs 1
"""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import math
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn

import numpy as np
import torch
import yaml
from jsonargparse import Namespace, get_loader, set_loader
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from lit_bert import RUNS, UserError, escape, files, need, scores
from lit_bert.arguments import given_settings, names_setting, strip_flag
from lit_bert.audit import (
    OUT_OF_FOLD,
    SUSPECTS,
    check_from,
    dataset_summary,
    find_flaws,
    findings_text,
    merged,
    suspects_text,
    write_suspects,
)
from lit_bert.callbacks import (
    ENDING,
    TRAINING,
    Dashboard,
    EarlyStop,
    KeepBest,
    Outputs,
    PredictionWriter,
    Progress,
    ProgressLines,
    Throughput,
    prediction_columns,
)
from lit_bert.checkpoints import (
    Checkpoint,
    SafeCheckpointIO,
    apply_temperature,
    check_progress,
    composition,
    flat_settings,
    keep_weights,
    replace_training_weights,
    run_settings,
)
from lit_bert.data import EmotionDataModule, text_hash
from lit_bert.escape import line
from lit_bert.finite import check_checkpoint
from lit_bert.model import SHARDED, BertClassifier
from lit_bert.optimizer import checked_moments
from lit_bert.predictions import TRAINED, VALIDATED, Predictions, read_hashes
from lit_bert.runs import LOG, fit_each, has_accelerator, next_folder
from lit_bert.scores import Evidence, Score, Scores
from lit_bert.sources import Source, Weights
from lit_bert.tables import (
    BadRow,
    CellError,
    Numbered,
    RowWriter,
    column_names,
    missing_column,
    near_column,
    quoting_of,
    read_rows,
    text_of,
    text_problem,
)

log = logging.getLogger("lit_bert")

# What is chosen or fitted on the validation rows when a fit ends, by the fact that says how.
CHOICES = {"averaging": "choosing averaged weights", "calibration": "fitting the temperature"}

# What a resumed run may change of its data: where the rows are, if they are the same ones, and how many are
# evaluated at a time.
CHANGEABLE_DATA = {"data.dataset", "data.stand_in", "data.eval_batch_size"}
FILE_SETTINGS = {"data.label_names", "data.quoting"}  # settings that hold for the files they were given with


NULLS = ("", "null", "Null", "NULL", "~")  # what a flag may have for null


def read_value(text: str) -> Any:
    """What a flag's value or a configuration says: JSON where it is JSON, else YAML.

    YAML alone reads JSON wrongly: the two halves of an escaped emoji stay halves, and U+0085 in a text is
    read as a blank. A flag's value is not taken for a comment (`#1.csv` would be null, and the flag ignored)
    or for the one entry of a list (`- a,b`).

    Raises:
        yaml.YAMLError: it is neither, so that it is a text.
    """
    start = text.lstrip()[:1]
    if start in ("[", "{"):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(text)
    found = get_loader("yaml")(text)
    if "\n" not in text and (
        (found is None and text.strip() not in NULLS) or (isinstance(found, list) and start != "[")
    ):
        raise yaml.YAMLError("a text")
    return found


PARSER_MODE = "lit_bert"  # of jsonargparse: how it reads values
set_loader(PARSER_MODE, read_value, (yaml.YAMLError,))


class Parser(LightningArgumentParser):
    """Its errors are one line, shown by the front door."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        verb = sys.argv[1]
        text = re.sub(r"\s+", " ", message).strip().rstrip(".")
        text = re.sub(r'Parser key "([^"]+)":', r"--\1:", re.sub(r"<class '(\w+)'>", r"\1", text))
        near = ""
        unknown = re.search(r"(?:unrecognized arguments: --|does not accept option ')([\w.]+)", text)
        if unknown:
            parser = getattr(ex, "subcommand_parser", None) or self
            flags = [option[2:] for action in parser._actions for option in action.option_strings]
            for action in parser._actions:  # the flags of the verb, where this is the parser above it
                for below in action.choices.values() if isinstance(action.choices, dict) else ():
                    flags += [option[2:] for each in below._actions for option in each.option_strings]
            close = difflib.get_close_matches(unknown[1], flags, 1)
            near = f" Did you mean --{close[0]}?" if close else ""
        elif verb == "predict" and text.startswith("unrecognized"):
            near = " Texts stand right after the verb."
        raise UserError(f"{text[:600]}.{near} `python -m lit_bert {verb} --help` lists what is accepted.")


class KeepConfig(SaveConfigCallback):
    """Writes config.yaml into the run's folder and has the model keep the same settings in checkpoints."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.folder = trainer.log_dir  # asks the first process: all take part, or they wait for ever
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Any, pl_module: Any, stage: str) -> None:
        settings = plain_settings(self.parser, self.config)
        pl_module.config = run_settings(settings)
        if self.folder:
            Path(self.folder).mkdir(parents=True, exist_ok=True)
            files.write_text(
                Path(self.folder) / "config.yaml", yaml.dump(settings, Dumper=Quoting, sort_keys=False)
            )


class Quoting(yaml.SafeDumper):
    """YAML in which every text that could be read as something else stands in quotes."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = re.fullmatch(r"[A-Za-z_./][\w./-]*( [\w./-]+)*", text) and yaml.safe_load(text) == text
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


Quoting.add_representer(str, _represent_text)


def plain_settings(parser: LightningArgumentParser, config: Any) -> dict[str, Any]:
    """A parsed configuration as plain values."""
    # JSON, as its texts are always in quotes: YAML's `1e3` may come back as a number.
    return json.loads(parser.dump(config, skip_none=False, format="json"))


class Verb(LightningCLI):
    """What all verbs share. One class a verb, so that only that verb's parser is built."""

    name: ClassVar[str]
    usage: ClassVar[str] = "[--config FILE ...] [OPTIONS]"
    trainer_settings: ClassVar[dict[str, Any]] = {"enable_model_summary": False}
    checkpoint_help: ClassVar[str] = "best or last of the newest fit, or a file; without it, best"
    trainer_type: ClassVar[type[Trainer]] = Trainer

    def __init__(
        self, arguments: list[str], checkpoint: Checkpoint | None, config_file: Path | None = None
    ) -> None:
        self.checkpoint = checkpoint
        self.given = given_settings(arguments)
        sys.argv[1:] = [self.name, *arguments]  # LightningCLI warns when it is given them any other way
        super().__init__(
            BertClassifier,
            EmotionDataModule,
            trainer_class=self.trainer_type,
            save_config_callback=KeepConfig if self.name == "fit" else None,
            save_config_kwargs={"save_to_log_dir": False},  # `save_config` does it
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={
                "prog": "python -m lit_bert",
                "allow_abbrev": False,
                "parser_mode": PARSER_MODE,
                self.name: {
                    "allow_abbrev": False,
                    "usage": f"python -m lit_bert {self.name} {self.usage}",  # not a list of a hundred flags
                    "description": self.__doc__,
                    "default_config_files": [str(config_file)] if config_file else [],
                },
            },
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def _parse_ckpt_path(self) -> None:
        """Does nothing: Lightning would let the checkpoint win over explicit flags; see `settings_of`."""

    def _prepare_subcommand_parser(self, *args: Any, **kwargs: Any) -> LightningArgumentParser:
        """Describes --ckpt_path as it is here: Lightning's text is of its own trainer, registry included."""
        parser = super()._prepare_subcommand_parser(*args, **kwargs)
        for group in parser._action_groups:
            for action in group._group_actions:
                if action.dest == "ckpt_path":
                    action.help, group.title = self.checkpoint_help, "The checkpoint"
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        if self.checkpoint is not None:
            self.take_settings(self.checkpoint)

    def take_settings(self, checkpoint: Checkpoint) -> None:
        """Fills in what the command does not say, with the checkpoint's own values: no parser sees them."""
        config = self.config[self.name]
        config["ckpt_path"] = str(checkpoint.path)
        other_data = names_setting(self.given, "data.dataset") or names_setting(self.given, "input")
        for name, value in self.settings_of(checkpoint).items():
            if name.startswith(("model.", "weights.")):  # a configuration may be that of another fit
                if names_setting(self.given, name) and config[name] not in (value, None):
                    log.info(
                        f"{name} is that of the checkpoint, {line(value, 100)}, not of the configuration"
                    )
                config[name] = value
            # How quotes and codes were read in one file says nothing of another.
            elif not names_setting(self.given, name) and not (other_data and name in FILE_SETTINGS):
                config[name] = value
        for name, is_flag in self.given.items():
            if is_flag and name.startswith(("model.", "weights.")):
                raise UserError(
                    f"--{name} would change nothing: `{self.name}` takes the model of {checkpoint.path} as "
                    "it is. Leave the flag out."
                )

    @staticmethod
    def settings_of(checkpoint: Checkpoint) -> dict[str, Any]:
        """The settings that the checkpoint answers for, by name."""
        model = {key: value for key, value in checkpoint.model.items() if key != "label_names"}
        data = {
            **{
                key: value
                for key, value in checkpoint.data["hyper_parameters"].items()
                if key != "order_seed"
            },
            "label_names": checkpoint.data["code_order"],
        }
        weights = {**checkpoint.weights["request"], "checkpoint": str(checkpoint.path)}
        sections = {"model": model, "data": data, "weights": weights}
        return {
            f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()
        }

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Ours first, so that `--help` opens with what most people look for."""
        parser.add_lightning_class_args(EmotionDataModule, "data")
        parser.add_class_arguments(Weights, "weights")
        parser.add_lightning_class_args(BertClassifier, "model")
        self.add_verb_arguments(parser)
        parser.add_lightning_class_args(Trainer, "trainer")
        parser.set_defaults({f"trainer.{key}": value for key, value in self.trainer_settings.items()})

    def add_verb_arguments(self, parser: LightningArgumentParser) -> None:
        """Arguments of one verb alone."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments(
            "weights", "data.weights", apply_on="instantiate", compute_fn=self.with_checkpoint
        )
        parser.link_arguments("weights", "model.weights", apply_on="instantiate")
        parser.link_arguments("data.label_names", "model.label_names", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.order_seed", compute_fn=int)

    def with_checkpoint(self, weights: Weights) -> Weights:
        """The weights; those of a checkpoint that is used as it is take what was read, and its classes."""
        if self.checkpoint is not None:
            weights.checkpoint = self.checkpoint
            weights.class_names = self.checkpoint.data["label_names"]
        return weights

    def before_instantiate_classes(self) -> None:
        if self.checkpoint:  # Lightning starts the other processes of a run with these arguments
            sys.argv += ["--ckpt_path", str(self.checkpoint.path)]
        settings = self.config[self.name]["trainer"]
        if settings["precision"] is None:
            settings["precision"] = native_precision(settings["accelerator"])

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self.config_init[self.name]["trainer"]
        callbacks = self.callbacks(sys.stderr.isatty() and settings["enable_progress_bar"] is not False)
        plugins = settings["plugins"] or []
        try:
            return super().instantiate_trainer(
                enable_progress_bar=any(isinstance(each, Progress) for each in callbacks),
                plugins=[
                    *(plugins if isinstance(plugins, list) else [plugins]),
                    SafeCheckpointIO(self.checkpoint),
                ],
                callbacks=[*(settings["callbacks"] or []), *callbacks],
                **kwargs,
            )
        except (MisconfigurationException, ValueError) as error:
            raise UserError(f"the trainer refuses its settings: {error} See --trainer.* in --help.") from None

    def callbacks(self, bar: bool) -> list[Callback]:
        """Those that always run with this verb."""
        return [Progress()] if bar else []

    def sources(self) -> list[tuple[str, Source]]:
        """What the scores rest on, by role."""
        if self.checkpoint is None:
            return [("weights", self.model.weights.source), ("trained on", self.datamodule.source)]
        weights, data = self.checkpoint.weights["source"], self.checkpoint.data["source"]
        return [("weights", Source(**weights)), ("trained on", Source(**data))]


class Fit(Verb):
    """Train; keep the best epoch (best.ckpt) and the last (last.ckpt)."""

    name = "fit"
    checkpoint_help = "run to go on with, in its folder: last (that of the newest fit) or its last.ckpt"
    defaults: ClassVar[dict[str, Any]] = {
        "checkpoint.monitor": "val/f1",
        "checkpoint.mode": "max",
        "checkpoint.filename": "best",
        "checkpoint.save_weights_only": True,  # a third of the size; last.ckpt has the optimizer's state
        "checkpoint.enable_version_counter": False,
        "checkpoint.save_on_train_epoch_end": False,  # at validation: last.ckpt then knows of it on resume
        "early_stopping.monitor": "val/f1",
        "early_stopping.mode": "max",
        "early_stopping.strict": False,  # a run may end before its first validation
    }

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only"}}

    def add_verb_arguments(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--seeds",
            type=int | None,
            default=None,
            help="train that many times, with seeds counting up from seed_everything, and show mean and "
            "spread; on the command line only",
        )
        self.add_run_arguments(parser)

    @classmethod
    def add_run_arguments(cls, parser: LightningArgumentParser) -> None:
        """Arguments that may stand in a configuration beside the sections that all verbs have."""
        parser.add_argument(
            "--calibrate",
            type=bool,
            default=True,
            help="whether to fit a temperature on the validation split and fold it into the classifier of "
            "the best checkpoint, so that its probabilities can be taken at their word (Guo et al., 2017), "
            "where rows that it was not fitted on show that it helps",
        )
        parser.add_lightning_class_args(KeepBest, "checkpoint")
        parser.add_lightning_class_args(EarlyStop, "early_stopping")
        parser.set_defaults(cls.defaults)

    def take_settings(self, checkpoint: Checkpoint) -> None:
        """Fills in what the command does not say, and refuses what a run that goes on cannot change."""
        if "optimizer_states" not in checkpoint.content:
            raise UserError(
                f"{checkpoint.path} holds weights only: training cannot go on from it. Use --ckpt_path last, "
                f"or start a new run from these weights with --weights.checkpoint {checkpoint.path}."
            )
        self.changes: list[str] = []
        config = self.config["fit"]
        config["ckpt_path"] = str(checkpoint.path)
        run = checkpoint.content.get("config")
        before = {**self.settings_of(checkpoint), **(flat_settings(run) if run else {})}
        for name, value in before.items():
            # The run's own configuration has what its weights started from, and means no change by it.
            is_given = names_setting(self.given, name) and (
                name != "weights.checkpoint" or self.given.get(name)
            )
            if not is_given:
                config[name] = value
            elif config[name] != value:
                self._change_setting(name, value, config[name])
        found = composition(plain_settings(self.parser, self.config)["fit"])
        for name, value in (run or {}).get("composition", {}).items():
            if found.get(name, "null") != value and not names_setting(self.given, name):
                raise UserError(
                    f"the run of {checkpoint.path} had {name} {line(value, 200)}, and this command has "
                    f"{line(found.get(name, 'null'), 200)}. Classes and paths do not come from a checkpoint: "
                    f"give --{name}, or a configuration, such as --config {checkpoint.run / 'config.yaml'}."
                )
        logger = config["trainer"]["logger"]
        if isinstance(logger, Namespace) and "version" in logger.get("init_args", {}):
            self._place_run(logger["init_args"], checkpoint.run)

    def _place_run(self, arguments: Namespace, run: Path) -> None:
        """Has a resumed run go on in its own folder, or in a new one where the command names another place.

        A configuration says where a run was before it was moved: another run may be there by now.
        """
        for name, value in {"save_dir": str(run.parent), "name": ""}.items():
            if not names_setting(self.given, f"trainer.logger.init_args.{name}") or arguments[name] is None:
                arguments[name] = value
        flags = [name for name, is_flag in self.given.items() if is_flag]
        if names_setting(flags, "trainer.logger.init_args.version") and arguments["version"] is not None:
            return
        root = Path(arguments["save_dir"], arguments["name"])
        stays = root.resolve() == run.parent
        arguments["version"] = run.name if stays else None
        if not stays:
            self.changes.append(f"its folder: {line(run)} before, a new one in {line(root)} from here on")

    def _change_setting(self, name: str, before: Any, now: Any) -> None:
        """Says that a resumed run has another setting, or refuses it."""
        if name.startswith("weights.") or (name.startswith("data.") and name not in CHANGEABLE_DATA):
            raise UserError(
                f"--{name} is {line(now, 100)}, and the run that goes on has {line(before, 100)}: its rows, "
                "batches and weights cannot change. Leave it out, or start a new run from these weights with "
                f"--weights.checkpoint {self.config['fit']['ckpt_path']}."
            )
        if not name.startswith("data."):  # for these the rows are compared
            self.changes.append(f"{name}: {line(before, 100)} before, {line(now, 100)} from here on")

    def callbacks(self, bar: bool) -> list[Callback]:
        last = KeepBest(filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
        config = self.config["fit"]
        facts: dict[str, Any] = {role: str(source) for role, source in self.sources()}
        facts |= {name: config["data"][name] for name in ("batch_size", "max_length")}
        facts |= {name: value for name, value in config["model"].items() if name != "learning_rate"}
        facts |= {name: config["trainer"][name] for name in ("max_epochs", "precision")}
        facts["seed"] = config["seed_everything"]
        self._dashboard = Dashboard(
            facts, config["checkpoint"]["monitor"] or "val/f1", config["checkpoint"]["mode"]
        )
        return [Throughput(), self._dashboard, *(super().callbacks(bar) or [ProgressLines()]), last]

    def before_fit(self) -> None:
        no_seeds_in(self.config["fit"])
        if self.checkpoint:
            check_checkpoint(self.checkpoint.content, self.checkpoint.path)
        if self.trainer.max_epochs == -1 and self.trainer.max_steps == -1:
            raise UserError("the run has no end; set --trainer.max_epochs or --trainer.max_steps.")
        for section in ("checkpoint", "early_stopping"):
            monitor = self.config["fit"][section]["monitor"]
            if monitor is not None:
                self._check_monitor(section, monitor)
        self.model.configure_model()  # what is wrong with weights or rows shows before anything is written
        self.datamodule.setup("fit")
        if self.checkpoint:
            self._check_resumed(self.checkpoint)
        self._claim_folder()
        run = Path(str(self.trainer.log_dir))
        announce(self.trainer, self.sources())
        size = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        log.info(f"model      {size:.1f}M parameters, highest learning rate {self.model.learning_rate:g}")
        data = self.datamodule
        carved = data.counts["validation"].split == data.counts["train"].split
        split = data.counts["train"]
        whole = f", of the {split.read:,} of split {escape.line(split.split)}" if carved else ""
        log.info(
            f"rows       {len(data.train_rows):,} to train on, {len(data.val_rows):,} to validate on{whole}"
        )
        for part, counts in data.counts.items():
            if counts.skipped or set(counts.left_out) - {data.carving}:
                log.info(f"           {part}: {counts}")
        log.info(f"classes    {len(data.label_names)}: {_some(data.label_names)}")
        if self.trainer.is_global_zero:
            used = {data.hparams.train_split: data.train_rows, data.val_name: data.val_rows}
            for finding in dataset_summary(used, data.label_names, data.hparams.deduplicate):
                log.info(f"audit      {finding}")
        if self.trainer.log_dir:
            log.info(f"run        {run}")
        for change in self.changes if self.checkpoint else ():
            log.info(f"resumed    {change}")
        # Only the checkpoint of a best epoch is looked at again when the fit ends.
        self.model.keeps_training_weights = self.config["fit"]["checkpoint"]["monitor"] is not None
        self.start = time.perf_counter()

    def _check_monitor(self, section: str, monitor: str) -> None:
        """Raises a UserError where a score is to be watched that is never logged."""
        names = self.model.score_names
        if monitor not in names:
            raise UserError(
                f"{section}.monitor is {escape.line(monitor, 100)}; expected one of {_some(names, 20)}."
            )
        split, _, score = monitor.partition("/")
        if split == "train" and self.config["fit"][section].get("save_on_train_epoch_end") is False:
            raise UserError(
                f"{section}.monitor is {monitor}, which is not known when an epoch is validated and kept. "
                f"Add --{section}.save_on_train_epoch_end true, or watch val/{score}."
            )
        if score not in self.model.class_tags:
            return
        self.datamodule.setup("fit")
        rows = self.datamodule.val_rows if split == "val" else self.datamodule.train_rows
        if not (rows.labels == self.model.class_tags.index(score)).any():
            raise UserError(
                f"{section}.monitor is {monitor}, but no row of that split has this label, so that there is "
                "nothing to watch. Choose another score."
            )

    def _claim_folder(self) -> None:
        """Gives the run a folder of its own, whatever else starts in the same moment."""
        logger, rank_0 = self.trainer.logger, self.trainer.is_global_zero
        settings = self.config["fit"]["trainer"]["logger"]
        if rank_0 and isinstance(logger, TensorBoardLogger | CSVLogger) and isinstance(settings, Namespace):
            arguments = dict(settings["init_args"])
            if arguments["version"] is None:
                folder = next_folder(Path(logger.root_dir), "version")
                self.trainer.logger = type(logger)(**{**arguments, "version": folder.name})
        if not self.trainer.log_dir:
            return
        run = Path(self.trainer.log_dir)
        if rank_0:
            _make_writable(run)
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(run)  # Lightning would put one more folder `checkpoints` in between

    def _check_resumed(self, checkpoint: Checkpoint) -> None:
        """Refuses progress that does not fit this run, so that Lightning only reads what fits.

        Of the schedule and of the optimizer how far they have come is taken, and not their settings.
        """
        what, content = str(checkpoint.path), checkpoint.content
        if links := [path.name for path in checkpoint.run.iterdir() if path.is_symlink()]:
            raise UserError(
                f"{checkpoint.run} holds a link, {line(links[0], 100)}, and a resumed run writes into that "
                "folder. Copy the checkpoint into a folder of its own."
            )
        before, now = checkpoint.data.get("fingerprint"), self.datamodule.fingerprint
        if before not in (None, now):
            raise UserError(
                f"the rows to train on are not those of {what}: texts or labels differ. Give the data it "
                f"was trained on, or start a new run from its weights with --weights.checkpoint {what}."
            )
        loops = content.get("loops")
        saved: Any = loops.get("fit_loop") if isinstance(loops, dict) else None
        check_progress(saved, self.trainer.fit_loop.state_dict(), f"{what}: loops")
        content["loops"] = {"fit_loop": saved}
        self._say_where_it_goes_on(saved, checkpoint)
        schedules = content.get("lr_schedulers")
        schedule = schedules[0] if isinstance(schedules, list) and len(schedules) == 1 else None
        steps: Any = schedule.get("last_epoch") if isinstance(schedule, dict) else None
        check_progress(steps, 0, f"{what}: lr_schedulers.last_epoch")
        content["lr_schedulers"] = [{"last_epoch": steps, "_step_count": steps + 1, "lr_lambdas": []}]
        states = content.get("optimizer_states")
        if not (isinstance(states, list) and len(states) == 1 and isinstance(states[0], dict)):
            raise UserError(f"{what}: optimizer_states is not a list with the state of one optimizer.")
        if not isinstance(self.trainer.strategy, SHARDED):
            checked_moments(states[0], self.model.parameters_by_group)  # before the folder is written into
        content["callbacks"] = self._checked_states(content.get("callbacks", {}), what)

    def _say_where_it_goes_on(self, loop: dict[str, Any], checkpoint: Checkpoint) -> None:
        """Has the data module leave out the batches of an unfinished epoch that were trained on."""
        epochs, batches = (loop[name]["current"] for name in ("epoch_progress", "epoch_loop.batch_progress"))
        of, done = self._batches_in_epoch(), batches["ready"]
        if not 0 < done < of:
            return
        if epochs["processed"] < epochs["started"]:
            self._check_same_batches(checkpoint)
            self.datamodule.skip_batches = done
            how = f"goes on after batch {done} of {of}; its train/ scores are of what is left"
        else:
            how = f"had ended after batch {done} of {of}; a new one begins"
        self.changes.append(f"epoch {epochs['started']} {how}")

    def _batches_in_epoch(self) -> int:
        """How many batches each device has in an epoch."""
        data, limit = self.datamodule, self.trainer.limit_train_batches
        rows = math.ceil(len(data.train_rows) / self.trainer.world_size)
        batches = math.ceil(rows / data.hparams.batch_size)
        return min(batches, limit) if isinstance(limit, int) else int(batches * limit)

    def _check_same_batches(self, checkpoint: Checkpoint) -> None:
        """Raises a UserError where the rest of an epoch would not be the rows that are left of it."""
        before = {
            "seed_everything": checkpoint.data["hyper_parameters"]["order_seed"],
            "the number of devices": checkpoint.content.get("devices", self.trainer.world_size),
        }
        now = (self.datamodule.hparams.order_seed, self.trainer.world_size)
        for (name, value), other in zip(before.items(), now, strict=True):
            if value != other:
                raise UserError(
                    f"{name} is {other}, and {checkpoint.path} is from within an epoch whose batches come "
                    f"from {value}: rows of it would be left out and others trained on twice. Leave it as "
                    "it was, or go on from a checkpoint of the end of an epoch."
                )

    def _checked_states(self, states: Any, what: str) -> dict[str, Any]:
        """The states of this run's callbacks; each is loaded once to see that it fits."""
        check_progress({}, {} if isinstance(states, dict) else states, f"{what}: callbacks")
        found = {}
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            key = callback.state_key
            if key in states:
                try:
                    callback.load_state_dict(states[key])
                except UserError:
                    raise
                except Exception as error:  # a callback of the user's may raise anything
                    raise UserError(
                        f"{what}: the state of {line(key, 100)} does not fit ({type(error).__name__})."
                    ) from None
                found[key] = states[key]
        return found

    def after_fit(self) -> None:
        minutes = (time.perf_counter() - self.start) / 60
        if self.checkpoint and self.trainer.global_step == self.checkpoint.content["global_step"]:
            log.info(
                f"{self.checkpoint.path} stands at the end of its run already, so nothing was trained. "
                "Give it more with --trainer.max_epochs."
            )
        kept = [c for c in self.trainer.checkpoint_callbacks if isinstance(c, KeepBest) and c.monitor]
        best = Path(kept[0].best_model_path) if kept else None
        if best is not None and not (self.trainer.is_global_zero and best.is_file()):
            best = None
        predictions = self._choose_weights(best, self._validated(best) if best else None)
        if not self.trainer.is_global_zero:
            return
        self._dashboard.log_settings(self.trainer, self.model)
        if best is None:
            return
        if predictions is not None:
            self._score(best, predictions)
        print(f"took       {minutes:.1f} minutes for {self.trainer.global_step:,} optimizer steps")
        print(f"\nbest epoch: {best}")
        test, splits = self.datamodule.hparams.test_split, self.datamodule.corpus.splits
        if splits and test not in splits:
            print("score it:   python -m lit_bert test --data.dataset FILE --data.test_split train")
            print(f"            with rows that it has not seen: the data has no split '{test}'")
        else:
            print("score it:   python -m lit_bert test")
        print(f"its errors: python -m lit_bert report {best.parent}")
        print(f"look at it: tensorboard --logdir {best.parent.parent}")

    def _validated(self, best: Path) -> Predictions | None:
        """What the best checkpoint made of the validation rows; None, with a line, if that is not there."""
        checkpoint, file = Checkpoint.open(best), best.with_name(VALIDATED)
        predictions = Predictions.read(file) if file.is_file() else None
        facts = predictions.facts if predictions else {}
        settled = facts.get("sha256")  # by the fit that was resumed; None for those of an epoch just trained
        # Of weights that were chosen where a process ended before the checkpoint had them.
        chosen = "averaging" in facts and "training_weights" in checkpoint.content
        if (
            predictions is None
            or not (chosen or facts.get("global_step") == checkpoint.content["global_step"])
            or settled not in (None, checkpoint.sha256)
        ):  # another verb has written there since
            log.info(
                f"the scores of {best} are no longer beside it; "
                f"`python -m lit_bert validate --ckpt_path {best}` finds them again."
            )
            return None
        return predictions

    def _choose_weights(self, best: Path | None, predictions: Predictions | None) -> Predictions | None:
        """Keeps the average of the weights where it is better than those that train, beyond chance.

        Those that train are taken of the best epoch of the average or of the end of the run, whichever scores
        higher: while the learning rate is high the average is far ahead of them, and its best epoch need not
        be theirs. The predictions are written before the checkpoint, so that a process that ends in between
        leaves what the next one can finish.

        Args:
            best: the best checkpoint; None on other devices than the first, which only help to validate.
            predictions: of the average.

        Returns:
            Those of the weights that are kept.
        """
        trained = None
        if best is not None and predictions is not None:
            trained = Checkpoint.open(best).content.get("training_weights")
            if trained is not None and (chosen := predictions.facts.get("averaging")):
                keep_weights(best, chosen)
                trained = None
        trained = self.trainer.strategy.broadcast(trained)
        if trained is None:
            return predictions
        plain, scores_of_plain = self._predictions_with(trained)
        content = Checkpoint.open(best).content if best is not None else {}
        place = {name: content.get(name) for name in ("epoch", "global_step")}
        last, monitor, sign = self.model.last_weights, self._dashboard.monitor, self._dashboard.sign
        went_on = self.trainer.strategy.broadcast(place["global_step"] != self.trainer.global_step)
        if last is not None and went_on and monitor in scores_of_plain:
            at_end, scores_at_end = self._predictions_with(last)
            if best is not None and sign * scores_at_end[monitor] > sign * scores_of_plain[monitor]:
                replace_training_weights(best, last)
                plain, scores_of_plain = at_end, scores_at_end
                epoch = max(self.trainer.current_epoch - 1, 0)
                place = {"epoch": epoch, "global_step": self.trainer.global_step}
        if best is None or predictions is None or plain is None:
            return predictions
        if not np.array_equal(plain.rows, predictions.rows):
            raise RuntimeError("the validation rows changed within a fit")
        chosen = choose_weights(predictions, plain)
        if chosen["kept"]:
            place = {name: content[name] for name in place}
            chosen |= {**place, "val_f1": content.get("val_f1")}
        else:
            chosen |= {**place, "val_f1": scores_of_plain["val/f1"]}
            self._dashboard.best = {name: scores_of_plain[name] for name in self._dashboard.best}
        probs = (predictions if chosen["kept"] else plain).probs
        predictions = predictions.with_probs(probs, averaging=chosen, global_step=chosen["global_step"])
        predictions.write(best.with_name(VALIDATED))
        keep_weights(best, chosen)
        return predictions

    def _predictions_with(
        self, weights: dict[str, torch.Tensor]
    ) -> tuple[Predictions | None, dict[str, float]]:
        """What other weights make of the validation rows (None but on the first device), and their scores."""
        trainer, outputs, loggers = self.trainer, Outputs(), self.trainer.loggers
        own = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        self.model.load_state_dict(weights, strict=False)
        trainer.loggers = []  # it is no validation of the run
        trainer.callbacks.append(outputs)  # type: ignore[attr-defined]
        trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
        trainer.callbacks.remove(outputs)  # type: ignore[attr-defined]
        trainer.loggers = loggers
        self.model.load_state_dict(own, strict=False)
        found = {name: value.item() for name, value in trainer.callback_metrics.items()}
        return (outputs.predictions if trainer.is_global_zero else None), found

    def _score(self, best: Path, predictions: Predictions) -> None:
        """Calibrates the best checkpoint, prints its scores on the validation split and keeps them."""
        checkpoint = Checkpoint.open(best)
        settled = predictions.facts.get("sha256")
        if settled is None and (self.config["fit"]["calibrate"] or "temperature" in checkpoint.content):
            predictions = calibrate(checkpoint, predictions)
        predictions = self._with_usage(predictions, predictions.facts.get("used_for") if settled else None)
        split, notes = self.datamodule.val_name, choice_notes(predictions.facts)
        trained = read_hashes(best.with_name(TRAINED))
        record_scores(Checkpoint.open(best), "validate", split, predictions, self.sources(), trained, notes)

    def _with_usage(self, predictions: Predictions, earlier: list[str] | None) -> Predictions:
        """The predictions of the best epoch, with what their rows were used for as a fact that stays.

        Args:
            earlier: what they had been used for by the fit that this one resumes.
        """
        used_for = self._dashboard.used_for(self.trainer)
        used_for += [what for fact, what in CHOICES.items() if predictions.facts.get(fact)]
        decided = [each for each in earlier or () if not each.startswith(TRAINING)]
        used_for = list(dict.fromkeys([*decided, *used_for]))
        return predictions.with_probs(predictions.probs, used_for=used_for)


class _Evaluate(Verb):
    """Score a checkpoint on one split."""

    trainer_settings: ClassVar[dict[str, Any]] = {
        "enable_model_summary": False,
        "logger": False,
        "enable_checkpointing": False,
    }
    split: ClassVar[str]

    @classmethod
    def subcommands(cls) -> dict[str, set[str]]:
        return {cls.name: {"model", "dataloaders", "datamodule", "verbose", "weights_only"}}

    def evaluate(self, datamodule: EmotionDataModule, model: BertClassifier, **_: Any) -> None:
        """Prints the scores, what they rest on, and keeps them as JSON beside the checkpoint."""
        assert self.checkpoint is not None
        datamodule.setup(self.name)  # what is wrong with the rows shows first
        trained = read_hashes(self.checkpoint.run / TRAINED)
        announce(self.trainer, [])
        outputs = Outputs()
        self.trainer.callbacks.append(outputs)  # type: ignore[attr-defined]
        # The weights came with `weights.checkpoint`: nothing is left to load.
        getattr(self.trainer, self.name)(model, datamodule=datamodule, verbose=False)
        if not self.trainer.is_global_zero:
            return
        print(f"checkpoint {self.checkpoint.path}\nsha256     {self.checkpoint.sha256}")
        if self.checkpoint.val_f1 is not None:
            fit = fit_usage(self.checkpoint)
            rows = f", on {fit['rows']:,} rows" if fit else ""
            print(f"validation macro F1 when it was saved: {self.checkpoint.val_f1:.4f}{rows}")
        split = datamodule.val_name if self.split == "val" else datamodule.hparams.test_split
        sources = [*self.sources(), ("scored on", datamodule.source)]
        record_scores(self.checkpoint, self.name, split, outputs.predictions, sources, trained)

    validate = test = evaluate


class Validate(_Evaluate):
    """Score a checkpoint on the validation split; without --ckpt_path the best of the newest fit."""

    name, split = "validate", "val"


class Test(_Evaluate):
    """Score a checkpoint on the test split; without --ckpt_path the best of the newest fit."""

    name, split = "test", "test"


class Predict(Verb):
    """Label texts from the command line, standard input or a file, in their order.

    Each row gets predicted_label, probability and probability_<class> beside the columns it has. Exit code 1:
    some rows have no text or could not be read; they were reported by number, and come back in their place
    with an empty answer.
    """

    name = "predict"
    usage = "[TEXT ...] [--input FILE] [--output FILE] [OPTIONS]"
    trainer_settings: ClassVar[dict[str, Any]] = {**_Evaluate.trainer_settings, "devices": 1}

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
        added = prediction_columns(model.hparams["label_names"], config["prefix"])
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
        rows, names = datamodule.whole(), datamodule.label_names
        if folds > len(rows):
            raise UserError(f"--folds is {folds}; expected at most one for each of the {len(rows):,} rows.")
        earlier = Predictions.read(reuse / OUT_OF_FOLD) if reuse else None
        if earlier and reuse:
            check_from(earlier, rows, names, reuse)
        announce(self.trainer, [("weights", datamodule.weights.source), ("rows", datamodule.source)])
        parts = datamodule.parts()
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
        predictions = merged([Predictions.read(run / VALIDATED) for run in runs], labels)
        predictions.write(folder / OUT_OF_FOLD)
        for run in runs:  # parts of an audit, which `report` and `test` would take for the newest fit
            for file in (run / VALIDATED, run / TRAINED, *run.glob("*.ckpt")):
                file.unlink(missing_ok=True)
        return predictions


def _make_writable(folder: Path) -> None:
    """Makes the folder of a run, or says that nothing can be kept there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise UserError(
            f"cannot write checkpoints into {folder}: {error.strerror}. Choose another folder with "
            "--trainer.logger.init_args.save_dir."
        ) from None


def native_precision(accelerator: str) -> str:
    """The fastest precision that the device computes natively: `bf16-mixed` or `32-true`."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "32-true"
    able = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if accelerator in ("auto", "cpu") and able else "32-true"


def announce(trainer: Trainer, sources: list[tuple[str, Source]]) -> None:
    """Says what runs on what, and where things come from; a stand-in in a box that cannot be overlooked."""
    device, count = type(trainer.accelerator).__name__.removesuffix("Accelerator"), torch.get_num_threads()
    threads = f", {count} thread{'s' * (count != 1)}" if device == "CPU" else ""
    log.info(f"device     {trainer.num_devices} × {device}{threads}, precision {trainer.precision}")
    for role, source in sources:
        log.info(f"{role:10} {escape.line(source)}")
    stand_ins = [
        f"{role}: {source.name} instead of {source.stand_in_for} ({source.reason})"
        for role, source in sources
        if source.stand_in_for
    ]
    if stand_ins and log.isEnabledFor(logging.INFO):
        stand_ins = [escape.line(each) for each in stand_ins]
        warning = "Scores of this run hold for these alone, not for what was asked for."
        body = Text("\n".join([*stand_ins, warning]))  # Rich would read a string as its own markup
        Console(stderr=True, highlight=False).print(Panel(body, title="STAND-INS", border_style="bold red"))


def calibrate(checkpoint: Checkpoint, predictions: Predictions) -> Predictions:
    """Fits a temperature on what the checkpoint made of its rows, and folds it into its weights if it helps.

    It is kept where the loss of rows that a temperature was not fitted on falls beyond chance and their
    calibration error does not rise; else it is 1. Does not fold twice: where an earlier process ended in
    between, its temperature is taken.

    Returns:
        What the checkpoint makes of the rows then, with the fact `calibration`: `kept`, the `temperature` in
        use, the one that was `fitted`, the calibration error `before` and `after` one that was fitted on
        other rows, and `loss_change`, in nats with its interval, of the same rows; null on few.
    """
    labels = predictions.labels
    logits = scores.log_probs(predictions.probs)
    held_out = scores.cross_fitted(logits, labels)
    change = scores.loss_change(predictions.probs, held_out, labels)
    before, after = (scores.calibration_error(probs, labels) for probs in (predictions.probs, held_out))
    fitted = checkpoint.content.get("temperature")
    kept = fitted is not None or (change is not None and change.high < 0 and after <= before)
    if fitted is None:
        fitted = scores.temperature(logits, labels)
        if kept:
            apply_temperature(checkpoint.path, fitted)
    found = {
        "kept": kept,
        "temperature": fitted if kept else 1.0,
        "fitted": fitted,
        "before": before,
        "after": after,
        "loss_change": None if change is None else list(change),
    }
    probs = scores.softmax(logits / fitted) if kept else predictions.probs
    return predictions.with_probs(probs, calibration=found)


def choose_weights(average: Predictions, plain: Predictions) -> dict[str, Any]:
    """The fact `averaging`: whether the average of the weights is `kept`, and what says so.

    Macro F1 decides where it differs beyond chance; else the loss, which tells more from as many rows, has to
    be better beyond chance. Loss alone would give points of F1 away where labels are noisy. Each is first
    calibrated, on other rows than those that count: how sure they are is set by a temperature afterwards, and
    label smoothing makes both so unsure that it hides what they know.

    Returns:
        `kept`; `average` and `plain`, the loss of each in nats a text; `loss_change` and `f1_change`, the
        first less the second with their intervals, of the same rows; null on few.
    """
    labels = average.labels
    fair = [scores.cross_fitted(scores.log_probs(each.probs), labels) for each in (average, plain)]
    change = scores.loss_change(fair[1], fair[0], labels)
    f1 = None if change is None else scores.macro_f1_change(plain.probs, average.probs, labels)
    return {
        "kept": change is not None
        and f1 is not None
        and (f1.low > 0 or (change.high < 0 and not f1.high < 0)),
        **{
            name: float(scores.row_losses(each, labels).mean())
            for name, each in zip(("average", "plain"), fair, strict=True)
        },
        "loss_change": None if change is None else list(change),
        "f1_change": None if f1 is None else list(f1),
    }


def choice_notes(facts: dict[str, Any]) -> list[str]:
    """One line for each thing that a fit chose by its validation rows: what, and why."""
    lines = []
    if found := facts.get("averaging"):
        said = "kept" if found["kept"] else "not kept"
        step = found.get("global_step")  # earlier versions did not say
        which = "" if found["kept"] or step is None else f"; kept are the trained ones of step {step:,}"
        lines.append(f"averaging {said}: with the average of the weights {_shown_change(found)}{which}")
    if found := facts.get("calibration"):
        errors = (
            f"expected calibration error {found['before']:.4f} before, {found['after']:.4f} after, on rows "
            "it was not fitted on"
        )
        if found.get("kept", True):  # older ones were always kept
            lines.append(f"calibrated temperature {found['temperature']:.3f}; {errors}")
        else:
            lines.append(
                f"calibration not kept: temperature {found['fitted']:.3f}; {_shown_change(found)}; {errors}"
            )
    return lines


def _shown_change(found: dict[str, Any]) -> str:
    if found["loss_change"] is None:
        return f"the loss changes by less than {scores.FEWEST_ROWS} rows can show"
    changes = {"the loss": found["loss_change"], "macro F1": found.get("f1_change")}
    shown: list[str] = []
    chance: list[str] = []
    for name, change in changes.items():
        if change is not None:
            value, low, high = change
            verb = "" if shown else "changes "
            shown.append(f"{name} {verb}by {value:+.4f} [{low:+.4f}, {high:+.4f}]")
            chance.append("" if high < 0 or low > 0 else ", which may be chance")
    if len(set(chance)) == 1:
        return " and ".join(shown) + chance[0]
    return " and ".join(map("".join, zip(shown, chance, strict=True)))


def record_scores(
    checkpoint: Checkpoint,
    verb: str,
    split: str,
    predictions: Predictions,
    sources: list[tuple[str, Source]],
    trained: np.ndarray | None,
    notes: Sequence[str] = (),
) -> None:
    """Prints the scores of a split and what they rest on; keeps both and the rows by the checkpoint.

    Args:
        trained: hashes of the texts that the run trained on, uint64; None where they are not known.
    """
    fit = fit_usage(checkpoint)
    if "used_for" in predictions.facts:  # those of a fit, which has just ended
        decided: list[str] | None = predictions.facts["used_for"]
        fit = {
            "checkpoint_sha256": checkpoint.sha256,
            "rows_sha256": predictions.rows_sha256,
            "rows": len(predictions.labels),
            "used_for": decided,
        }
    else:
        decided = rows_used_for(predictions, checkpoint, fit)
    if decided is None or trained is None:
        used_for = None
    else:
        used_for = [*trained_on(predictions.texts, trained), *decided]
    predictions = predictions.with_probs(predictions.probs, used_for=used_for)
    evidence = predictions.evidence
    found = scores.with_intervals(predictions.probs, predictions.labels)
    title = f"split {escape.line(split)}, {len(predictions.labels):,} rows"
    print(score_table(title, predictions.class_names, found, evidence, sources, notes))
    facts = {
        **predictions.facts,
        "checkpoint": str(checkpoint.path),
        "sha256": checkpoint.sha256,
        "split": split,
        "seed": checkpoint.content.get("config", {}).get("seed_everything"),
        **{role: str(source) for role, source in sources},
        "fit": fit,
    }
    names = predictions.class_names
    record = {
        **facts,
        **evidence.as_dict(names),
        "scores": found.as_dict(names, lambda score: score.value),
        "intervals": found.as_dict(names, lambda score: [score.low, score.high]),
    }
    try:
        predictions.with_probs(predictions.probs, **facts).write(checkpoint.run / f"{verb}.parquet")
        files.write_text(checkpoint.run / f"{verb}.json", json.dumps(record, indent=2) + "\n")
    except OSError as error:
        log.info(f"the scores are not kept beside the checkpoint: {error.strerror}")


def trained_on(texts: list[str], trained: np.ndarray) -> list[str]:
    """That some of the texts were trained on, and how many; [] if none was.

    Args:
        texts: of the rows that are scored.
        trained: the hashes of those that the run trains on, uint64.
    """
    hashes = np.array([text_hash(text) for text in texts], dtype=np.uint64)
    count = int(np.isin(hashes, trained).sum())
    some = f" ({count:,} of the {len(texts):,} texts)" if count < len(texts) else ""
    return [f"{TRAINING}{some}"] * (count > 0)


def fit_usage(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """What `record_scores` wrote of the fit: its best checkpoint, its validation rows, what they decided.

    It stays with the validation predictions beside the checkpoint, whatever is validated after the fit; None
    where they are gone or of an earlier version.
    """
    file = checkpoint.run / VALIDATED
    try:
        found = Predictions.read(file).facts.get("fit") if file.is_file() else None
    except UserError:  # another file of that name
        return None
    kinds = {"rows": int, "rows_sha256": str, "checkpoint_sha256": str, "used_for": list}
    known = isinstance(found, dict) and all(isinstance(found.get(key), kind) for key, kind in kinds.items())
    return found if known else None


def rows_used_for(
    predictions: Predictions, checkpoint: Checkpoint, fit: dict[str, Any] | None
) -> list[str] | None:
    """What the rows decided about a checkpoint; None where the fit left no record of it.

    The epoch and the temperature are those of the best checkpoint; another one of the run, such as the last,
    had at most its end from these rows.
    """
    if fit is None:
        return None
    if predictions.rows_sha256 != fit["rows_sha256"]:
        return []
    is_best = checkpoint.sha256 == fit["checkpoint_sha256"]
    return [each for each in fit["used_for"] if is_best or each == ENDING]


def score_table(
    title: str,
    class_names: Sequence[str],
    found: Scores[Score],
    evidence: Evidence,
    sources: list[tuple[str, Source]],
    notes: Sequence[str] = (),
) -> str:
    """Scores with their intervals as text: the main ones, each class, and what they rest on."""
    main = {
        "macro F1": found.macro_f1,
        "micro F1": found.micro_f1,
        "accuracy": found.accuracy,
        **found.main,
    }
    names = [f"  {name}" for name in escape.names(class_names)]
    width = escape.width_of([*main, *names]) + 2
    macro = {"macro F1": evidence.macro_note}
    lines = [
        "",
        f"{title}; in brackets 95 % bootstrap intervals",
        *(scores.score_line(shown, score, width, macro.get(shown, "")) for shown, score in main.items()),
        "  F1 by class",
        *(
            scores.score_line(name, score, width, evidence.class_note(index))
            for index, (name, score) in enumerate(zip(names, found.by_class, strict=True))
        ),
        "",
        *evidence.notes(found),
        *notes,
        *(f"{role:10} {escape.line(source)}" for role, source in sources),
    ]
    return "\n".join(lines)


def _some(names: list[str], most: int = 10) -> str:
    return ", ".join(escape.names(names[:most])) + (", …" if len(names) > most else "")


def no_seeds_in(settings: Any) -> None:
    if settings["seeds"] is not None:
        raise UserError("seeds stands in a configuration; give it on the command line, as --seeds 5.")
