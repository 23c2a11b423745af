"""LightningCLI over the rooms, and the links between them.

Links: `weights` serves data (tokenizer) and model (architecture, values); `data.label_names` become the
model's. A verb that starts from a checkpoint reads its settings from there first; explicit flags win over
them.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from lit_bert import UserError
from lit_bert.cli.arguments import given_settings, names_setting
from lit_bert.cli.parser import PARSER_MODE, Parser, Quoting, plain_settings
from lit_bert.data.module import EmotionDataModule
from lit_bert.io import escape, files
from lit_bert.io.escape import line
from lit_bert.model.module import BertClassifier
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.hub import Source
from lit_bert.sources.settings import run_settings
from lit_bert.sources.weights import Weights
from lit_bert.train.checkpoint_io import SafeCheckpointIO
from lit_bert.train.progress import Progress

log = logging.getLogger(__name__)

FILE_SETTINGS = {"data.label_names", "data.quoting"}  # settings that hold for the files they were given with


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
        model = checkpoint.model.model_dump(exclude={"label_names"})
        data = checkpoint.data.settings.model_dump(exclude={"order_seed"})
        weights = {**checkpoint.weights.request.model_dump(), "checkpoint": str(checkpoint.path)}
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
            weights.class_names = self.checkpoint.model.label_names
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
        weights, data = self.checkpoint.weights.source, self.checkpoint.data.source
        return [("weights", weights.as_source()), ("trained on", data.as_source())]


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
