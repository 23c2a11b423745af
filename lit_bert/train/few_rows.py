"""A run with few rows: all of them are trained on, and each is scored by a network that has not seen it.

python -m lit_bert fit --data.dataset few.csv
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from lit_bert.data.cache import TokenizedRows
from lit_bert.evaluate.predictions import VALIDATED, Predictions
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.train.bench import Bench
from lit_bert.train.features import outputs_of
from lit_bert.train.keep import keeper_of_best
from lit_bert.train.methods import METHODS, start_finetuning
from lit_bert.train.plan import FINETUNE, SOUP
from lit_bert.train.race import Race, corrected_score, cross_validate, trainings
from lit_bert.train.recipe import FEW_ROWS
from lit_bert.train.record import record_training
from lit_bert.train.run import FitRun
from lit_bert.train.zero_shot import class_head, has_named_classes

log = logging.getLogger(__name__)

FOLDS = 3  # parts of the cross-validation
LEAST_STEPS = 25  # of a training, below which the frozen network is not worse


def fit_by_methods(run: FitRun) -> tuple[Checkpoint | None, Predictions | None]:
    """Chooses a method by cross-validation and trains it on all rows.

    Returns:
        The checkpoint, and what it says of the validation rows, or where there are none, what networks that
        had not seen them say of the rows to train on; None where no file is kept, or there are no rows.
    """
    bench = Bench(run, run.data.train_rows)
    if not run.has_rows:
        _train_on_all(run, bench, Race(run.methods[0], {}, {}))
        return _saved(run), None
    _say_baseline(run, bench)
    methods, folds = _in_time(run, bench)
    race = Race(methods[0], {}, {})
    if len(bench.rows) < FEW_ROWS:
        race = cross_validate(bench, methods, folds)
        _say(run, bench, race)
    _train_on_all(run, bench, race)
    if not run.trainer.log_dir:
        return None, None
    if run.data.splits.cross_validates:
        return _kept(run, bench, race, bench.rows, race.outputs[race.kept])
    return _kept(run, bench, race, run.data.val_rows, outputs_of(run, run.data.val_rows))


def _in_time(run: FitRun, bench: Bench) -> tuple[list[str], int]:
    """The methods, and the parts of the cross-validation, for which there is time."""
    if run.budget.minutes is None or not any(METHODS[name].trains for name in run.methods):
        return run.methods, FOLDS
    bench.reset()
    step_s = bench.step_s()
    is_auto = len(run.methods) > 1
    plain = [FINETUNE if name == SOUP and is_auto else name for name in run.methods]
    for methods, folds in ((run.methods, FOLDS), (plain, FOLDS), (plain, 2)):
        count = trainings(methods, folds)
        steps = int(run.budget.left_s / count / step_s)
        if steps >= LEAST_STEPS:
            log.info(
                f"budget     {step_s:.2g} s a step: time for {count} trainings of {steps:,} steps at most"
            )
            return methods, folds
    if not is_auto:
        log.info(
            f"budget     {step_s:.2g} s a step: there is time for less than {LEAST_STEPS} steps a training"
        )
        return plain, 2
    log.info(f"budget     {step_s:.2g} s a step: there is no time to train, only for the last layer")
    return ["frozen"], FOLDS


def _train_on_all(run: FitRun, bench: Bench, race: Race) -> None:
    """Leaves the network of the kept method, trained on all rows, in the run."""
    trainer, everything, method = run.trainer, np.arange(len(bench.rows)), METHODS[race.kept]
    soup = race.soups.get(race.kept)
    trains = soup is None or not run.budget.is_over  # else there are those of the cross-validation
    limit, trainer.limit_val_batches = trainer.limit_val_batches, 0
    run.model.method = race.kept
    bench.trainings_left = max(1, method.trainings)
    if method.is_of_the_run and trains:
        start_finetuning(bench, everything)
        trainer.callbacks.extend(run.budget.callbacks())  # type: ignore[attr-defined]
    else:
        if trains:
            method.fit(bench, everything)
        trainer.fit_loop.max_epochs = 0
    trainer.fit(run.model, datamodule=run.data)
    trainer.limit_val_batches = limit
    if soup is not None:
        if trains:
            soup.add(run.model.network)
        soup.load_mean(run.model.network)
        if method.finish is not None:
            method.finish(bench, everything)


def _kept(
    run: FitRun, bench: Bench, race: Race, rows: TokenizedRows, outputs: np.ndarray
) -> tuple[Checkpoint | None, Predictions]:
    """Writes the checkpoint, what is said of the rows that are scored, and the hashes of the texts.

    Args:
        outputs: of the rows, float32 (N, C).
    """
    folder = _place(run).parent
    folder.mkdir(parents=True, exist_ok=True)
    order = np.argsort(rows.rows)
    facts: dict[str, Any] = {
        "global_step": run.trainer.global_step,
        "method": {"kept": race.kept, "tried": list(race.outputs) if rows is bench.rows else []},
    }
    predictions = Predictions(
        run.model.task,
        rows.texts(rows.rows[order]),
        rows.rows[order],
        rows.labels[order],
        outputs[order],
        facts,
    )
    predictions.write(folder / VALIDATED)
    record_training(folder, bench.rows.hashes, run.model.weights)
    return _saved(run), predictions


def _place(run: FitRun) -> Path:
    """Where the best checkpoint goes, by the settings of what keeps it."""
    kept = keeper_of_best(run.trainer)
    assert kept is not None  # else `needs_validations` holds
    return Path(kept.format_checkpoint_name({}))


def _saved(run: FitRun) -> Checkpoint | None:
    """The network as it stands, as the best checkpoint of the run; None where nothing is kept."""
    if not run.trainer.log_dir:
        return None
    best = _place(run)
    run.trainer.save_checkpoint(best, weights_only=True)
    return Checkpoint.open(best)


def _say_baseline(run: FitRun, bench: Bench) -> None:
    """Says how good the names of the classes alone are, which labels have to beat."""
    if not has_named_classes(run):
        return
    task = run.model.task
    outputs = task.outputs(class_head(run, run.descriptions).logits(bench.features).numpy())
    score = task.main_scorer(outputs, bench.labels)(np.ones(len(bench.labels)))
    log.info(f"baseline   no training, the nearest class name: {task.main_title} {score:.4f}")


def _say(run: FitRun, bench: Bench, race: Race) -> None:
    """Says what each method came to and which is kept."""
    task, title = run.model.task, run.model.task.main_title
    for name, outputs in race.outputs.items():
        score = task.main_scorer(outputs, bench.labels)(np.ones(len(bench.labels)))
        log.info(
            f"method     {name}: {title} {score:.4f} by cross-validation{' (kept)' * (name == race.kept)}"
        )
    if len(race.outputs) > 1:
        found = corrected_score(task, race.outputs, bench.labels)
        log.info(f"           {title} {found:.4f} once corrected for the choice between them")
