"""LightningCLI, by its public interface: one parser for the verbs that train, score or label.

Links: `weights` serves data (tokenizer) and model (architecture, values); `data.label_names` become the
model's. Parsing and building are two steps: in between a verb fills in what a checkpoint answers for, or
hands the settings on without building anything.

    python -m lit_bert test --config configs/base.yaml --data.eval_batch_size 128
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from lit_bert import UserError
from lit_bert.cli.arguments import checked_configs, configs, given_settings, strip_flag
from lit_bert.cli.parser import PARSER_MODE, Parser, QuotedTextDumper, plain_settings
from lit_bert.cli.run_arguments import settings_of_run
from lit_bert.data.module import EmotionDataModule
from lit_bert.io import files
from lit_bert.model.module import BertClassifier
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.settings import run_settings
from lit_bert.sources.weights import Weights
from lit_bert.train.checkpoint_io import SafeCheckpointIO
from lit_bert.train.processes import find_checkpoint
from lit_bert.train.progress import Progress
from lit_bert.train.published import Asked
from lit_bert.train.settings import BASE, fill_from_checkpoint

MAX_SEED = 2**32 - 1  # that numpy takes
NO_FILES: dict[str, Any] = {"logger": False, "enable_checkpointing": False}  # of a trainer that keeps none


class KeepConfig(SaveConfigCallback):
    """Writes config.yaml into the run's folder and has the model keep the same settings in checkpoints."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.folder = trainer.log_dir  # asks the first process: all take part, or they wait for ever
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Any, pl_module: Any, stage: str) -> None:
        settings = settings_of_run(plain_settings(self.parser, self.config))
        pl_module.config = run_settings(settings)
        if self.folder:
            Path(self.folder).mkdir(parents=True, exist_ok=True)
            files.write_text(
                Path(self.folder) / "config.yaml",
                yaml.dump(settings, Dumper=QuotedTextDumper, sort_keys=False),
            )


@dataclass(frozen=True)
class VerbParser:
    """What one verb adds to the sections that all share.

    Attributes:
        description: the text at the top of its `--help`.
        checkpoint_help: what `--ckpt_path` is; None where the verb has no such flag.
        add_arguments: adds the verb's own arguments to a parser.
        trainer_defaults: of arguments of the trainer.
        starts_from_base: whether configs/base.yaml lies below all configurations.
        keeps_config: whether a run of it writes config.yaml.
    """

    name: str
    usage: str
    description: str
    checkpoint_help: str | None = (
        "best or last of the newest fit, a file, or a classifier that somebody else trained: a folder as "
        "transformers saves it, or its Hub id; without it, best"
    )
    add_arguments: Callable[[LightningArgumentParser], None] = lambda parser: None
    trainer_defaults: dict[str, Any] = field(default_factory=dict)
    starts_from_base: bool = False
    keeps_config: bool = False


class CommandLine(LightningCLI):
    """The settings of one command; `build` makes data module, model and trainer of them.

    Args:
        verb: whose arguments they are.
        arguments: after `checked_configs` and without `--ckpt_path`, which a verb resolves itself: Lightning
            would let a checkpoint win over explicit flags.

    Attributes:
        config: the parsed settings, by dotted names.
        given: settings that the command names; true where a flag does it, false where a configuration does.
        checkpoint: what the verb goes on from or uses; it is set before `build`.

    Raises:
        UserError: an argument is unknown, or a value is of another type.
        SystemExit: after `--help` and `--print_config`.
    """

    def __init__(self, verb: VerbParser, arguments: list[str]) -> None:
        self.verb = verb
        self.given = given_settings(arguments)
        self.checkpoint: Checkpoint | None = None
        self._callbacks: Sequence[Callback] = ()
        super().__init__(
            BertClassifier,
            EmotionDataModule,
            save_config_callback=KeepConfig if verb.keeps_config else None,
            save_config_kwargs={"save_to_log_dir": False},  # `save_config` does it
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={
                "prog": f"python -m lit_bert {verb.name}",
                "usage": f"python -m lit_bert {verb.name} {verb.usage}",  # not a list of a hundred flags
                "description": verb.description,
                "allow_abbrev": False,
                "parser_mode": PARSER_MODE,
                "default_config_files": [str(configs() / "base.yaml")] if verb.starts_from_base else [],
            },
            args=arguments,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Ours first, so that `--help` opens with what most people look for."""
        parser.add_lightning_class_args(EmotionDataModule, "data")
        parser.add_class_arguments(Weights, "weights")
        parser.add_lightning_class_args(BertClassifier, "model")
        if self.verb.checkpoint_help is not None:
            parser.add_argument("--ckpt_path", type=str | None, default=None, help=self.verb.checkpoint_help)
        self.verb.add_arguments(parser)
        parser.add_lightning_class_args(Trainer, "trainer")
        defaults = {"enable_model_summary": False, **self.verb.trainer_defaults}
        parser.set_defaults({f"trainer.{key}": value for key, value in defaults.items()})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments(
            "weights", "data.weights", apply_on="instantiate", compute_fn=self.with_checkpoint
        )
        parser.link_arguments("weights", "model.weights", apply_on="instantiate")
        parser.link_arguments("data.label_names", "model.label_names", apply_on="instantiate")
        parser.link_arguments("data.task", "model.task", apply_on="instantiate")
        parser.link_arguments("data.task_parameters", "model.task_parameters", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.order_seed", compute_fn=int)

    def with_checkpoint(self, weights: Weights) -> Weights:
        """The weights; those of a checkpoint that is used as it is take what was read, and its classes."""
        if self.given.get(BASE):
            weights.base_at = str(weights.request["pretrained"])
        if self.checkpoint is not None:
            weights.restore(self.checkpoint)
            weights.task = self.checkpoint.task
        return weights

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        with warnings.catch_warnings():  # of arguments in a list: they are those of sys.argv, after checks
            warnings.filterwarnings("ignore", "LightningCLI's args parameter")
            super().parse_arguments(parser, args)
        self.seed_asked_for = checked_seed(
            self.config["seed_everything"]
        )  # true: any, Lightning draws it next

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as plain values."""
        return plain_settings(self.parser, self.config)

    def instantiate_classes(self) -> None:
        """Waits for `build`."""

    def build(self, callbacks: Sequence[Callback]) -> None:
        """Sets `datamodule`, `model` and `trainer`.

        Args:
            callbacks: of the trainer, after the configured ones.

        Raises:
            UserError: a part refuses its settings.
        """
        self._callbacks = callbacks
        seed, trainer = checked_seed(self.config["seed_everything"]), self.config["trainer"]
        if seed is not False:  # as it may come from a checkpoint, and parsing may have drawn numbers
            seed_everything(seed, workers=True)
        self.config["data"]["order_seed"] = int(seed)
        if trainer["precision"] is None:
            trainer["precision"] = native_precision(trainer["accelerator"])
        try:
            super().instantiate_classes()
        except MisconfigurationException as error:  # of a callback of Lightning
            raise UserError(f"Lightning refuses a setting: {error} See --help.") from None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self.config_init["trainer"]
        plugins = settings["plugins"] or []
        try:
            return super().instantiate_trainer(
                enable_progress_bar=any(isinstance(each, Progress) for each in self._callbacks),
                plugins=[
                    *(plugins if isinstance(plugins, list) else [plugins]),
                    SafeCheckpointIO(self.checkpoint),
                ],
                callbacks=[*(settings["callbacks"] or []), *self._callbacks],
                **kwargs,
            )
        except (MisconfigurationException, ValueError) as error:
            raise UserError(f"the trainer refuses its settings: {error} See --trainer.* in --help.") from None

    def progress_bar(self) -> list[Callback]:
        """A bar, where standard error is a terminal and the settings do not forbid it."""
        wanted = sys.stderr.isatty() and self.config["trainer"]["enable_progress_bar"] is not False
        return [Progress()] if wanted else []


class _Unparsed(Exception):
    """Ends the construction of a command line where its parser is whole."""


def unparsed(verb: VerbParser) -> LightningArgumentParser:
    """The parser of a verb, which has parsed nothing."""

    class Unparsed(CommandLine):
        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            raise _Unparsed(parser)

    try:
        Unparsed(verb, [])
    except _Unparsed as found:
        return found.args[0]
    raise AssertionError


def checked_seed(seed: int | bool) -> int | bool:
    """The seed; true means any, false that none is set.

    Raises:
        UserError: numpy takes no such seed.
    """
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"seed_everything is {seed}; expected a whole number from 0 to {MAX_SEED:,}.")
    return seed


def command_with_checkpoint(
    verb: VerbParser, arguments: list[str], place: str | None = None
) -> tuple[CommandLine, Checkpoint]:
    """The parsed command with the checkpoint that it uses as it is, and the settings of both.

    Args:
        place: the checkpoint, of a verb without `--ckpt_path`.
    """
    arguments, which = checked_configs(arguments), place
    if place is None:
        arguments, which = strip_flag(arguments, "--ckpt_path", "best, last or a file")
    command = CommandLine(verb, arguments)
    config = command.config
    which = which or config["ckpt_path"]
    asked = Asked.of_settings(*(config[f"data.{name}"] for name in ("task", "text_column", "text_form")))
    checkpoint = Checkpoint.open(find_checkpoint(which, asked))
    fill_from_checkpoint(command.config, command.given, checkpoint, verb.name)
    command.checkpoint = checkpoint
    return command, checkpoint


def native_precision(accelerator: str) -> str:
    """The fastest precision that the device computes natively: `bf16-mixed` or `32-true`."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "32-true"
    capabilities = torch.cpu.get_capabilities()
    able = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return "bf16-mixed" if accelerator in ("auto", "cpu") and able else "32-true"
