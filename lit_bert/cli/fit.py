"""The training run of `fit`, as LightningCLI has it."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lit_bert import UserError
from lit_bert.cli.arguments import names_setting
from lit_bert.cli.lightning import Verb, announce
from lit_bert.cli.parser import plain_settings
from lit_bert.evaluate.audit_text import dataset_summary
from lit_bert.evaluate.evidence import TRAINING
from lit_bert.evaluate.outputs import Outputs
from lit_bert.evaluate.predictions import TRAINED, VALIDATED, Predictions, read_hashes
from lit_bert.evaluate.record import record_scores
from lit_bert.io import escape
from lit_bert.io.escape import line
from lit_bert.model.module import SHARDED
from lit_bert.model.optimizer import checked_moments
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.finite import check_checkpoint
from lit_bert.sources.settings import composition, flat_settings
from lit_bert.train.checkpoint_io import check_progress, keep_weights
from lit_bert.train.choose import CHOICES, calibrate, choice_notes, choose_weights
from lit_bert.train.dashboard import Dashboard
from lit_bert.train.keep import EarlyStop, KeepBest
from lit_bert.train.progress import ProgressLines, Throughput
from lit_bert.train.runs import next_folder

log = logging.getLogger(__name__)

# What a resumed run may change of its data: where the rows are, if they are the same ones, and how many are
# evaluated at a time.
CHANGEABLE_DATA = {"data.dataset", "data.stand_in", "data.eval_batch_size"}


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
        kind = self.model.encoder.model_type
        log.info(
            f"model      {kind}, {size:.1f}M parameters, highest learning rate {self.model.learning_rate:g}"
        )
        log.info(f"           computed by {self.model.path(self.trainer)}")
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
        if (
            predictions is None
            or facts.get("global_step") != checkpoint.content["global_step"]
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

        Both are of the same step. The predictions are written before the checkpoint, so that a process that
        ends in between leaves what the next one can finish.

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
                keep_weights(best, chosen["kept"], chosen["val_f1"])
                trained = None
        trained = self.trainer.strategy.broadcast(trained)
        if trained is None:
            return predictions
        plain = self._predictions_with(trained)
        if best is None or predictions is None or plain is None:
            return predictions
        if not np.array_equal(plain.rows, predictions.rows):
            raise RuntimeError("the validation rows changed within a fit")
        chosen = choose_weights(predictions, plain)
        chosen["val_f1"] = Checkpoint.open(best).val_f1
        if not chosen["kept"]:
            metrics = self.trainer.callback_metrics
            chosen["val_f1"] = metrics["val/f1"].item()
            self._dashboard.best = {name: metrics[name].item() for name in self._dashboard.best}
        probs = (predictions if chosen["kept"] else plain).probs
        predictions = predictions.with_probs(probs, averaging=chosen)
        predictions.write(best.with_name(VALIDATED))
        keep_weights(best, chosen["kept"], chosen["val_f1"])
        return predictions

    def _predictions_with(self, weights: dict[str, torch.Tensor]) -> Predictions | None:
        """What other weights make of the validation rows; None on other devices than the first."""
        trainer, outputs, loggers = self.trainer, Outputs(), self.trainer.loggers
        own = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        self.model.load_state_dict(weights, strict=False)
        trainer.loggers = []  # it is no validation of the run
        trainer.callbacks.append(outputs)  # type: ignore[attr-defined]
        trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
        trainer.callbacks.remove(outputs)  # type: ignore[attr-defined]
        trainer.loggers = loggers
        self.model.load_state_dict(own, strict=False)
        return outputs.predictions if trainer.is_global_zero else None

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


def _some(names: list[str], most: int = 10) -> str:
    return ", ".join(escape.names(names[:most])) + (", …" if len(names) > most else "")


def no_seeds_in(settings: Any) -> None:
    if settings["seeds"] is not None:
        raise UserError("seeds stands in a configuration; give it on the command line, as --seeds 5.")
