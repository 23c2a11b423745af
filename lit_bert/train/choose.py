"""What a fit chooses by its validation rows when it ends: averaged weights, a calibration, thresholds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lit_bert.evaluate import compare
from lit_bert.evaluate.calibration import cross_fitted
from lit_bert.evaluate.predictions import Predictions
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.task.decisions import decision_note
from lit_bert.train.checkpoint_io import apply_calibration, set_task_parameters


def calibrate(checkpoint: Checkpoint, predictions: Predictions) -> tuple[Checkpoint, Predictions]:
    """Fits a calibration on what the checkpoint made of its rows, and folds it into its weights if it helps.

    With one label a text it is a temperature, with several a scale and a shift for each class. It is kept
    where the loss of rows that it was not fitted on falls beyond chance and their calibration error does not
    rise. Applied at most once: one that an earlier process has stored is used.

    Returns:
        The checkpoint as it is then, and what it makes of the rows, with the fact `calibration`: `kept`, the
        calibration error `before` and `after` one that was fitted on other rows, `loss_change`, in nats with
        its interval, of the same rows; null on few; and of a temperature the one in use, and that `fitted`.
        Both are as they were where the task has nothing to calibrate.
    """
    task, labels = predictions.task, predictions.labels
    logits = task.logits_of(predictions.outputs)
    held_out = cross_fitted(task, logits, labels)
    fitted = task.calibration(logits, labels, has_bias=checkpoint.has_logits_bias)
    if held_out is None or fitted is None:
        return checkpoint, predictions
    change = compare.loss_change(task, predictions.outputs, held_out, labels)
    before, after = (task.calibration_error(each, labels) for each in (predictions.outputs, held_out))
    stored = _stored_calibration(checkpoint)
    kept = stored is not None or (change is not None and change.high < 0 and after <= before)
    scale, shift = stored or fitted
    if kept and stored is None:
        checkpoint = apply_calibration(checkpoint, scale, shift)
    found: dict[str, Any] = {
        "kept": kept,
        "before": before,
        "after": after,
        "loss_change": None if change is None else list(change),
    }
    if not shift.any() and (scale == scale[0]).all():
        temperature = float(1 / scale[0])
        found |= {"temperature": temperature if kept else 1.0, "fitted": temperature}
    outputs = task.outputs(logits * scale + shift) if kept else predictions.outputs
    return checkpoint, predictions.with_outputs(outputs, calibration=found)


def _stored_calibration(checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray] | None:
    """What an earlier process has folded into the weights; None if nothing."""
    facts = checkpoint.facts
    if facts.calibration is not None:
        return np.array(facts.calibration.scale), np.array(facts.calibration.shift)
    if facts.temperature is not None:
        C = len(checkpoint.model.label_names)
        return np.full(C, 1 / facts.temperature), np.zeros(C)
    return None


def choose_parameters(checkpoint: Checkpoint, predictions: Predictions) -> tuple[Checkpoint, Predictions]:
    """Chooses what else the task takes from validation rows, such as thresholds, and keeps it.

    Returns:
        Both as they are then; the predictions with the fact `choice`.
    """
    choice = predictions.task.choose(predictions.outputs, predictions.labels)
    if choice is None:
        return checkpoint, predictions
    if choice.task != predictions.task:
        checkpoint = set_task_parameters(checkpoint, choice.task.parameters)
    return checkpoint, replace(predictions, task=choice.task).with_facts(choice=choice.fact)


def used_by_choices(predictions: Predictions) -> list[str]:
    """What was chosen or fitted on the validation rows when a fit ended."""
    uses = {
        "averaging": "choosing averaged weights",
        "calibration": "fitting the temperature" if _is_temperature(predictions.facts) else "calibrating",
        "choice": predictions.task.choice_use,
    }
    tried = (predictions.facts.get("method") or {}).get("tried", [])
    found = ["choosing the method"] * (len(tried) > 1)
    found += [use for fact, use in uses.items() if predictions.facts.get(fact)]
    return found + ["choosing a threshold"] * ("wanted" in (predictions.facts.get("decision") or {}))


def _is_temperature(facts: dict[str, Any]) -> bool:
    return "temperature" in (facts.get("calibration") or {})


def choose_weights(average: Predictions, plain: Predictions) -> dict[str, Any]:
    """The fact `averaging`: whether the average of the weights is `kept`, and the evidence for it.

    The main score of the task, such as macro F1, decides where it differs beyond chance; else the loss, which
    tells more from as many rows, has to be better beyond chance. Choosing by loss alone would lower F1 where
    labels are noisy. Each is first calibrated, on other rows than those that count: how sure they are is set
    by a temperature afterwards, and label smoothing makes both so underconfident that their losses cannot be
    compared.

    Returns:
        `kept`; `average` and `plain`, the loss of each in nats a text; `loss_change` and `score_change`, the
        first less the second with their intervals, of the same rows; null on few.
    """
    task, labels = average.task, average.labels
    fair = [_fair(average), _fair(plain)]
    change = compare.loss_change(task, fair[1], fair[0], labels)
    score = None if change is None else compare.main_change(task, plain.outputs, average.outputs, labels)
    return {
        "kept": change is not None
        and score is not None
        and (score.low > 0 or (change.high < 0 and not score.high < 0)),
        **{
            name: float(task.row_losses(each, labels).mean())
            for name, each in zip(("average", "plain"), fair, strict=True)
        },
        "loss_change": None if change is None else list(change),
        "score_change": None if score is None else list(score),
    }


def _fair(predictions: Predictions) -> np.ndarray:
    """Outputs that were calibrated on other rows, where the task has something to calibrate."""
    task = predictions.task
    found = cross_fitted(task, task.logits_of(predictions.outputs), predictions.labels)
    return predictions.outputs if found is None else found


def choice_notes(predictions: Predictions) -> list[str]:
    """One line for each thing that a fit chose by its validation rows: what, and why."""
    facts, lines = predictions.facts, []
    title = predictions.task.main_title
    if found := facts.get("averaging"):
        said = "kept" if found["kept"] else "not kept"
        step = found.get("global_step")  # earlier versions did not say
        which = "" if found["kept"] or step is None else f"; kept are the trained ones of step {step:,}"
        lines.append(
            f"averaging {said}: with the average of the weights {_shown_change(found, title)}{which}"
        )
    if found := facts.get("calibration"):
        errors = (
            f"expected calibration error {found['before']:.4f} before, {found['after']:.4f} after, on rows "
            "it was not fitted on"
        )
        of_temperature = _is_temperature(facts)
        if found.get("kept", True):  # older ones were always kept
            what = f"temperature {found['temperature']:.3f}" if of_temperature else "each class"
            lines.append(f"calibrated {what}; {errors}")
        else:
            which = f"temperature {found['fitted']:.3f}; " if of_temperature else ""
            lines.append(f"calibration not kept: {which}{_shown_change(found, title)}; {errors}")
    if found := facts.get("choice"):
        lines.append(predictions.task.choice_note(found))
    if found := facts.get("decision"):
        lines.append(f"answers {decision_note(found)}")
    return lines


def _shown_change(found: dict[str, Any], title: str) -> str:
    if found["loss_change"] is None:
        return f"the loss changes by less than {compare.FEWEST_ROWS} rows can show"
    score = found.get("score_change", found.get("f1_change"))  # its earlier name
    changes = {"the loss": found["loss_change"], title: score}
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
