"""The weights that a run could keep: their average, and the trained ones of the best epoch and of the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lit_bert.data.cache import TokenizedRows
from lit_bert.evaluate.prediction_collector import PredictionCollector
from lit_bert.evaluate.predictions import VALIDATED, Predictions
from lit_bert.model.split_scores import MAIN
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.train.checkpoint_io import keep_weights, replace_training_weights
from lit_bert.train.choose import choose_weights
from lit_bert.train.run import FitRun


def keep_better_weights(
    run: FitRun, checkpoint: Checkpoint | None, predictions: Predictions | None
) -> tuple[Checkpoint | None, Predictions | None]:
    """Keeps the average of the weights where it is better than those that train, beyond chance.

    Those that train are taken of the best epoch of the average or of the end of the run, whichever scores
    higher: while the learning rate is high the average scores far higher than they do, and its best epoch
    need not be theirs. The predictions are written before the checkpoint, so that a process that ends in
    between leaves what the next one can finish.

    Args:
        checkpoint: the best one; None on ranks other than 0, which only help to validate.
        predictions: of the average.

    Returns:
        The checkpoint as it is then, and the predictions of the weights that are kept.
    """
    trained = checkpoint.training_weights if checkpoint and predictions else None
    chosen = predictions.facts.get("averaging") if predictions else None
    if checkpoint is not None and trained is not None and chosen and "val_score" in chosen:
        checkpoint, trained = keep_weights(checkpoint, chosen), None
    trained = run.trainer.strategy.broadcast(trained)
    if trained is None:
        return checkpoint, predictions
    plain = _trained_candidate(run, trained, checkpoint)
    if checkpoint is None or predictions is None or plain.predictions is None:
        return checkpoint, predictions
    if not np.array_equal(plain.predictions.rows, predictions.rows):
        raise RuntimeError("the validation rows changed within a fit")
    chosen = choose_weights(predictions, plain.predictions)
    if chosen["kept"]:
        facts = checkpoint.facts
        chosen |= {"val_score": facts.val_score, "epoch": facts.epoch, "global_step": facts.global_step}
    else:
        if plain.weights is not trained:
            checkpoint = replace_training_weights(checkpoint, plain.weights)
        score = plain.scores[f"val/{MAIN}"]
        chosen |= {"val_score": score, "epoch": plain.epoch, "global_step": plain.global_step}
        record = run.callbacks.record
        # Those of a run that goes on may have a score that this version does not know.
        record.best = {name: plain.scores[name] for name in record.best if name in plain.scores}
    outputs = (predictions if chosen["kept"] else plain.predictions).outputs
    predictions = predictions.with_outputs(outputs, averaging=chosen, global_step=chosen["global_step"])
    predictions.write(checkpoint.run / VALIDATED)
    return keep_weights(checkpoint, chosen), predictions


@dataclass
class _Candidate:
    """Trained weights, and what they make of the validation rows.

    Attributes:
        predictions: None on other devices than the first.
        scores: by the names that are logged.
        epoch, global_step: that the weights are of.
    """

    weights: dict[str, torch.Tensor]
    predictions: Predictions | None
    scores: dict[str, float]
    epoch: int
    global_step: int


def _trained_candidate(
    run: FitRun, trained: dict[str, torch.Tensor], checkpoint: Checkpoint | None
) -> _Candidate:
    """The better of the trained weights of best epoch and end, by the score that is watched, then by loss.

    Args:
        trained: those of the best epoch.
        checkpoint: of the best epoch; None on other devices than the first.
    """
    trainer, record = run.trainer, run.callbacks.record
    at_best = (checkpoint.facts.epoch, checkpoint.facts.global_step) if checkpoint else (0, 0)
    epoch, step = trainer.strategy.broadcast(at_best)
    found = _Candidate(trained, *predictions_with(run, trained), epoch, step)
    last = run.model.last_weights
    if last is None or step == trainer.global_step or record.monitor not in found.scores:
        return found
    at_end = _Candidate(
        last, *predictions_with(run, last), max(trainer.current_epoch - 1, 0), trainer.global_step
    )

    def rank(candidate: _Candidate) -> tuple[float, float]:
        scores = candidate.scores
        return record.sign * scores[record.monitor], -scores["val/loss_nats"]

    return at_end if rank(at_end) > rank(found) else found


def predictions_with(
    run: FitRun, weights: dict[str, torch.Tensor], rows: TokenizedRows | None = None
) -> tuple[Predictions | None, dict[str, float]]:
    """What other weights make of rows (None but on the first device), and their scores.

    Args:
        rows: None are those of validation.
    """
    trainer, model, outputs, loggers = run.trainer, run.model, PredictionCollector(), run.trainer.loggers
    own = {name: parameter.detach().clone() for name, parameter in model.trained.items()}
    model.load_state_dict(weights, strict=False)
    trainer.loggers = []  # it is no validation of the run
    trainer.callbacks.append(outputs)  # type: ignore[attr-defined]
    if rows is None:
        trainer.validate(model, datamodule=run.data, verbose=False)
    else:
        trainer.validate(model, run.data.eval_loader(rows), verbose=False)
    trainer.callbacks.remove(outputs)  # type: ignore[attr-defined]
    trainer.loggers = loggers
    model.load_state_dict(own, strict=False)
    found = {name: value.item() for name, value in trainer.callback_metrics.items()}
    return (outputs.predictions if trainer.is_global_zero else None), found
