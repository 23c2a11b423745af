"""One run of `fit`: what is checked before it starts, the training, and what is chosen when it has ended.

python -m lit_bert fit --config configs/debug.yaml
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lit_bert import UserError
from lit_bert.evaluate.evidence import TRAINING
from lit_bert.evaluate.predictions import TRAINED, VALIDATED, Predictions, read_hashes
from lit_bert.evaluate.record import record_scores
from lit_bert.evaluate.scores import Score, Scores
from lit_bert.io import escape
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.train.candidates import keep_better_weights
from lit_bert.train.choose import calibrate, choice_notes, choose_parameters, used_by_choices
from lit_bert.train.decide import check_decisions, decide
from lit_bert.train.few_rows import fit_by_methods
from lit_bert.train.frozen import MOST_ROWS, frozen_rival, keep_better_method, start_with_best_head
from lit_bert.train.keep import keeper_of_best
from lit_bert.train.methods import check_method
from lit_bert.train.plan import apply_recipe, goes_by_methods, methods_of, uses_recipe
from lit_bert.train.record import seen_before
from lit_bert.train.reference import keep_reference
from lit_bert.train.result import RunResult, storable
from lit_bert.train.resume import check_finite, check_resumed
from lit_bert.train.run import FitRun
from lit_bert.train.runs import next_folder
from lit_bert.train.summary import facts, say_what_is_used, shortened
from lit_bert.train.trackers import Tracker, open_tracker
from lit_bert.train.trainer_limits import check_trainer_limits
from lit_bert.train.update import check_update, record_update

log = logging.getLogger(__name__)

VALIDATION_PASSES = 3  # after the last step: that of the epoch, and those that compare weights


def run_fit(run: FitRun) -> RunResult | None:
    """Trains, keeps the best epoch and the last, and prints what came of it.

    Returns:
        What it came to; None on other devices than the first.

    Raises:
        UserError: something does not fit; nothing was written where it shows before the training.
    """
    check_run(run)
    _claim_folder(run.trainer, run.settings)
    tracker = _track(run)
    say_what_is_used(run)
    run.callbacks.dashboard.facts = facts(run)
    # Only the checkpoint of a best epoch is looked at again when the fit ends.
    run.model.keeps_training_weights = run.settings["checkpoint"]["monitor"] is not None
    start = time.perf_counter()
    # Else rows would be validated by the network that is trained on them.
    assert goes_by_methods(run) or not run.data.splits.cross_validates
    checkpoint, predictions = fit_by_methods(run) if goes_by_methods(run) else _finetune(run)
    result = _finish(run, checkpoint, predictions, (time.perf_counter() - start) / 60)
    if tracker is not None:
        _close_tracker(run, tracker, result)
    return result


def _finetune(run: FitRun) -> tuple[Checkpoint | None, Predictions | None]:
    """Trains with validations, and keeps the best epoch, or the frozen network where that is better.

    Returns:
        The checkpoint of what is kept, and what that says of the validation rows; None where no file is kept.
    """
    with (
        run.budget.reserving(
            VALIDATION_PASSES * len(run.data.val_rows) / (MOST_ROWS + len(run.data.val_rows))
        ),
        torch.random.fork_rng(devices=[]),
    ):  # a run of the same seed is the same without a rival
        rival = frozen_rival(run) if len(run.methods) > 1 else None
    if run.model.hparams.head_start and not run.resumed:
        start_with_best_head(run, rival)
    ckpt_path = str(run.resumed.checkpoint.path) if run.resumed else None
    run.trainer.callbacks.extend(run.budget.callbacks())  # type: ignore[attr-defined]
    run.trainer.fit(run.model, datamodule=run.data, ckpt_path=ckpt_path)
    _free_training_state(run)
    checkpoint, predictions = keep_better_weights(run, *_best(run))
    if rival is not None and checkpoint is not None and predictions is not None:
        return keep_better_method(run, checkpoint, predictions, rival)
    return checkpoint, predictions


def _best(run: FitRun) -> tuple[Checkpoint | None, Predictions | None]:
    """The best checkpoint and its predictions; None where none is kept, and on devices but the first."""
    trainer = run.trainer
    if run.resumed and trainer.global_step == run.resumed.checkpoint.facts.global_step:
        log.info(
            f"{run.resumed.checkpoint.path} stands at the end of its run already, so nothing was trained. "
            "Give it more with --trainer.max_epochs."
        )
    kept = keeper_of_best(trainer)
    best = Path(kept.best_model_path) if kept else None
    if best is None or not (trainer.is_global_zero and best.is_file()):
        return None, None
    checkpoint = Checkpoint.open(best)
    return checkpoint, _validated(checkpoint)


# --- before the training ---


def check_run(run: FitRun) -> None:
    """Raises a UserError where settings, weights and rows do not fit each other."""
    trainer = run.trainer
    if run.resumed:
        check_finite(run.resumed)
    if trainer.max_epochs == -1 and trainer.max_steps == -1:
        raise UserError("the run has no end; set --trainer.max_epochs or --trainer.max_steps.")
    for section in ("checkpoint", "early_stopping"):
        if (monitor := run.settings[section]["monitor"]) is not None:
            _check_monitor(run, section, monitor)
    run.model.configure_model()  # what is wrong with weights or rows shows before anything is written
    run.data.setup("fit")
    if run.old is not None:
        check_update(run, run.old)
    check_decisions(run)
    run.methods = methods_of(run)
    for name in run.methods:
        check_method(name, run)
    if uses_recipe(run.settings, run.resumed is not None):
        apply_recipe(run)
    run.model.default_objective.set_by_rows(run.data)
    check_trainer_limits(run)
    if run.resumed:
        check_resumed(run.resumed, trainer, run.model, run.data)


def _check_monitor(run: FitRun, section: str, monitor: str) -> None:
    """Raises a UserError where a score is to be watched that is never logged."""
    names = run.model.score_names
    if monitor not in names:
        raise UserError(
            f"{section}.monitor is {escape.line(monitor, 100)}; expected one of {shortened(names, 20)}."
        )
    split, _, score = monitor.partition("/")
    if split == "train" and run.settings[section].get("save_on_train_epoch_end") is False:
        raise UserError(
            f"{section}.monitor is {monitor}, which is not known when an epoch is validated and kept. "
            f"Add --{section}.save_on_train_epoch_end true, or watch val/{score}."
        )
    if score not in run.model.class_tags:
        return
    run.data.setup("fit")
    rows = run.data.val_rows if split == "val" else run.data.train_rows
    if not run.model.task.label_counts(rows.labels)[run.model.class_tags.index(score)]:
        raise UserError(
            f"{section}.monitor is {monitor}, but no row of that split has this label, so that there is "
            "nothing to watch. Choose another score."
        )


def _claim_folder(trainer: Trainer, settings: Mapping[str, Any]) -> None:
    """Gives the run a folder of its own, whatever else starts in the same moment."""
    logger, rank_0 = trainer.logger, trainer.is_global_zero
    asked = settings["trainer"]["logger"]
    if rank_0 and isinstance(logger, TensorBoardLogger | CSVLogger) and isinstance(asked, dict):
        arguments = asked["init_args"]
        if arguments["version"] is None:
            folder = next_folder(Path(logger.root_dir), "version")
            trainer.logger = type(logger)(**{**arguments, "version": folder.name})
    if not trainer.log_dir:
        return
    run = Path(trainer.log_dir)
    if rank_0:
        _make_writable(run)
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(run)  # Lightning would put one more folder `checkpoints` in between


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


def _track(run: FitRun) -> Tracker | None:
    """The tracker of the run beside its folder, which then gets all that is logged."""
    trainer = run.trainer
    if not (trainer.is_global_zero and trainer.log_dir):
        return None
    errors = run.callbacks.record.errors
    try:
        tracker = open_tracker(run.settings["tracker"], Path(trainer.log_dir), errors)
    except UserError:
        with contextlib.suppress(OSError):  # one that goes on is not empty
            Path(trainer.log_dir).rmdir()
        raise
    if tracker is not None:
        trainer.loggers = [*trainer.loggers, tracker]
    return tracker


# --- after the training ---


def _close_tracker(run: FitRun, tracker: Tracker, result: RunResult | None) -> None:
    """Hands over the settings as a file, the scores and the model card, and ends the run there."""
    if result is not None and result.checkpoint is not None and run.card is not None:
        best = Path(result.checkpoint)
        with run.callbacks.record.errors.guard("the model card"), tempfile.TemporaryDirectory() as place:
            tracker.add_file(run.card(best, Path(place)))
        for name in ("config.yaml", "validate.json"):
            if (best.parent / name).is_file():
                tracker.add_file(best.parent / name)
    tracker.close()


def _free_training_state(run: FitRun) -> None:
    """Frees moments and gradients, three times the weights, before the weights are copied to be compared."""
    run.trainer.optimizers = []
    run.trainer.strategy.lr_scheduler_configs = []  # which hold the optimizer, too
    run.model.zero_grad()


def _finish(
    run: FitRun, checkpoint: Checkpoint | None, predictions: Predictions | None, minutes: float
) -> RunResult | None:
    """Chooses a temperature and the like by the validation rows, and prints and keeps the scores."""
    trainer = run.trainer
    if not trainer.is_global_zero:
        return None
    run.callbacks.dashboard.log_settings(trainer, run.model)
    if checkpoint is None:
        return RunResult(status="done", steps=trainer.global_step, minutes=minutes)
    # As the user has named the folder, which asking the trainer for would have all processes take part in.
    kept = keeper_of_best(trainer)
    best = Path(str(kept.dirpath), checkpoint.path.name) if kept else checkpoint.path
    found = _score(run, checkpoint, predictions) if predictions is not None else None
    steps = trainer.global_step + run.steps_beside
    print(f"took       {minutes:.1f} minutes for {steps:,} optimizer steps")
    print(f"\n{'checkpoint' if goes_by_methods(run) else 'best epoch'}: {best}")
    test, splits = run.data.hparams.test_split, run.data.corpus.splits
    if splits and test not in splits:
        print("score it:   python -m lit_bert test --data.dataset FILE --data.test_split train")
        print(f"            with rows that it has not seen: the data has no split '{test}'")
    else:
        print("score it:   python -m lit_bert test")
    if found is not None:
        print(f"its errors: python -m lit_bert report {best.parent}")
    if command := _look_at(run, best):
        print(f"look at it: {command}")
    result = RunResult(status="done", checkpoint=storable(str(best)), steps=steps, minutes=minutes)
    if found is not None:
        result.scores = {name: score.value for name, score in found.values.items()}
        result.main = (found.task.main_title, found.chosen_by.value)
    return result


def _look_at(run: FitRun, best: Path) -> str:
    """What shows the run; nothing where nothing was logged."""
    if isinstance(run.trainer.logger, TensorBoardLogger):
        return f"tensorboard --logdir {best.parent.parent}"
    for each in run.trainer.loggers:
        if isinstance(each, Tracker):
            return each.command()
    scores = best.parent / "metrics.csv"
    return str(scores) if scores.is_file() else ""


def _validated(best: Checkpoint) -> Predictions | None:
    """What the best checkpoint made of the validation rows; None, with a line, if that is not there."""
    file = best.run / VALIDATED
    predictions = Predictions.read(file) if file.is_file() else None
    facts = predictions.facts if predictions else {}
    scored = facts.get("sha256")  # by the fit that was resumed; None for those of an epoch just trained
    # Of weights that were chosen where a process ended before the checkpoint had them.
    chosen = "averaging" in facts and best.training_weights is not None
    if (
        predictions is None
        or not (chosen or facts.get("global_step") == best.facts.global_step)
        or (scored is not None and scored != best.sha256)
    ):  # another verb has written there since
        log.info(
            f"the scores of {best.path} are no longer beside it; "
            f"`python -m lit_bert validate --ckpt_path {best.path}` finds them again."
        )
        return None
    return predictions


def _score(run: FitRun, best: Checkpoint, predictions: Predictions) -> Scores[Score]:
    """Calibrates the best checkpoint, prints its scores on the validation split and keeps them."""
    scored = predictions.facts.get("sha256")
    if scored is None:
        if run.settings["calibrate"] or best.facts.temperature or best.facts.calibration:
            best, predictions = calibrate(best, predictions)
        best, predictions = choose_parameters(best, predictions)
    best, predictions, refused = decide(run, best, predictions)
    predictions = _with_usage(run, predictions, predictions.facts.get("used_for") if scored else None)
    split, notes = run.data.splits.val_name, choice_notes(predictions)
    # Where they are cross-validated, each row was scored by networks that had not seen it.
    trained = seen_before(run.model.weights)
    if trained is not None and not run.data.splits.cross_validates:
        trained = read_hashes(best.run / TRAINED)
    found = record_scores(best, "validate", split, predictions, run.sources, trained, notes)
    keep_reference(run, best, predictions)
    if run.old is not None:
        record_update(run, run.old, best, predictions)
    if refused is not None:
        raise refused
    return found


def _with_usage(run: FitRun, predictions: Predictions, earlier: list[str] | None) -> Predictions:
    """The predictions of the best epoch, with what their rows were used for as a fact that stays.

    Args:
        earlier: what they had been used for by the fit that this one resumes.
    """
    used_for = run.callbacks.record.used_for(run.trainer)
    used_for += used_by_choices(predictions)
    decided = [each for each in earlier or () if not each.startswith(TRAINING)]
    used_for = list(dict.fromkeys([*decided, *used_for]))
    return predictions.with_facts(used_for=used_for)
