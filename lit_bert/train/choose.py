"""What a fit chooses by its validation rows when it ends: averaged weights, a temperature."""

from __future__ import annotations

from typing import Any

from lit_bert.evaluate import calibration, compare, scores
from lit_bert.evaluate.predictions import Predictions
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.task.single import softmax
from lit_bert.train.checkpoint_io import apply_temperature

# What is chosen or fitted on the validation rows when a fit ends, by the fact that says how.
CHOICES = {"averaging": "choosing averaged weights", "calibration": "fitting the temperature"}


def calibrate(checkpoint: Checkpoint, predictions: Predictions) -> tuple[Checkpoint, Predictions]:
    """Fits a temperature on what the checkpoint made of its rows, and folds it into its weights if it helps.

    It is kept where the loss of rows that a temperature was not fitted on falls beyond chance and their
    calibration error does not rise; else it is 1. Applied at most once: a temperature that an earlier
    process has stored is used.

    Returns:
        The checkpoint as it is then, and what it makes of the rows, with the fact `calibration`: `kept`, the
        `temperature` in use, the one that was `fitted`, the calibration error `before` and `after` one that
        was fitted on other rows, and `loss_change`, in nats with its interval, of the same rows; null on few.
    """
    labels = predictions.labels
    logits = calibration.log_probs(predictions.probs)
    held_out = calibration.cross_fitted(logits, labels)
    change = compare.loss_change(predictions.probs, held_out, labels)
    before, after = (scores.calibration_error(probs, labels) for probs in (predictions.probs, held_out))
    fitted = checkpoint.facts.temperature
    kept = fitted is not None or (change is not None and change.high < 0 and after <= before)
    if fitted is None:
        fitted = calibration.temperature(logits, labels)
        if kept:
            checkpoint = apply_temperature(checkpoint, fitted)
    found = {
        "kept": kept,
        "temperature": fitted if kept else 1.0,
        "fitted": fitted,
        "before": before,
        "after": after,
        "loss_change": None if change is None else list(change),
    }
    probs = softmax(logits / fitted) if kept else predictions.probs
    return checkpoint, predictions.with_probs(probs, calibration=found)


def choose_weights(average: Predictions, plain: Predictions) -> dict[str, Any]:
    """The fact `averaging`: whether the average of the weights is `kept`, and the evidence for it.

    Macro F1 decides where it differs beyond chance; else the loss, which tells more from as many rows, has to
    be better beyond chance. Choosing by loss alone would lower F1 where labels are noisy. Each is first
    calibrated, on other rows than those that count: how sure they are is set by a temperature afterwards, and
    label smoothing makes both so underconfident that their losses cannot be compared.

    Returns:
        `kept`; `average` and `plain`, the loss of each in nats a text; `loss_change` and `f1_change`, the
        first less the second with their intervals, of the same rows; null on few.
    """
    labels = average.labels
    fair = [calibration.cross_fitted(calibration.log_probs(each.probs), labels) for each in (average, plain)]
    change = compare.loss_change(fair[1], fair[0], labels)
    f1 = None if change is None else compare.macro_f1_change(plain.probs, average.probs, labels)
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
        return f"the loss changes by less than {compare.FEWEST_ROWS} rows can show"
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
