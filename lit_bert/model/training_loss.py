"""The loss that training minimises: the task's, with smoothed labels and what rare classes weigh in it.

Losses that are reported know nothing of it.

    python -m lit_bert fit --model.class_weights balanced
    python -m lit_bert fit --model.logit_adjustment 1
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lit_bert import UserError
from lit_bert.io import escape
from lit_bert.io.untrusted import parse_json
from lit_bert.task.base import Task
from lit_bert.task.kinds import check_balancing

BALANCED = "balanced"
MAX_WEIGHT = 1e6
SETTINGS = ("class_weights", "focal_gamma", "logit_adjustment")


class TrainingLoss(nn.Module):
    """The mean loss of a training batch.

    Args:
        task: of the model.
        settings: the arguments of BertClassifier, by attribute. What a file of class weights says takes the
            place of its name there, and `set_by_rows` puts in a value a class where it finds one, so that
            checkpoints have the values.

    Raises:
        UserError: a setting means nothing to this kind of task, or the file does not fit its classes.
    """

    class_weights: Tensor | None
    adjustment: Tensor | None

    def __init__(self, task: Task, settings: Any) -> None:
        super().__init__()
        self.task, self.settings = task, settings
        for name in SETTINGS:
            if settings[name]:
                check_balancing(type(task), f"model.{name}")
        names, weights = task.class_names, settings.class_weights
        if isinstance(weights, str) and weights != BALANCED:
            settings.class_weights = read_class_weights(Path(weights), names)
        for name in ("class_weights", "logit_adjustment"):
            check_values(settings[name], name, names)
        # Of the run, not of the model: no checkpoint has them as tensors.
        self.register_buffer("class_weights", None, persistent=False)
        self.register_buffer("adjustment", None, persistent=False)
        self._take_values()

    def _take_values(self) -> None:
        weights, adjustment = self.settings.class_weights, self.settings.logit_adjustment
        self.class_weights = torch.tensor(weights, dtype=torch.float) if isinstance(weights, list) else None
        is_list = isinstance(adjustment, list)
        self.adjustment = torch.tensor(adjustment, dtype=torch.float) if is_list else None

    def set_by_rows(self, data: Any) -> None:
        """Takes from the rows to train on what the settings leave to them; called again it changes nothing.

        Args:
            data: with the `class_shares` of EmotionDataModule; None where a Trainer was given loaders.

        Raises:
            UserError: nothing is known of the rows, one of the classes is in none or all of them, or two
                settings correct for the same.
        """
        settings = self.settings
        balances = settings.class_weights == BALANCED
        adjusts = bool(settings.logit_adjustment) and not isinstance(settings.logit_adjustment, list)
        if not (balances or adjusts):
            return
        if balances and adjusts:
            raise UserError(
                "model.class_weights balanced and model.logit_adjustment correct for the same shares of the "
                "classes; expected one of them. Leave the other out."
            )
        if data is None:
            name, value = ("class_weights", BALANCED) if balances else ("logit_adjustment", "a number")
            raise UserError(
                f"model.{name} is {value}, which takes the rows of an EmotionDataModule, and the trainer was "
                "given others. Give a value for each class, in a list."
            )
        shares = data.class_shares
        if balances:
            settings.class_weights = self.task.balanced_weights(shares).tolist()
        if adjusts:
            with np.errstate(divide="ignore"):
                prior = self.task.log_prior(shares)
            if not np.isfinite(prior).all():
                name = self.task.class_names[int(np.flatnonzero(~np.isfinite(prior))[0])]
                raise UserError(
                    f"--model.logit_adjustment takes the logarithm of the share of each class, and none or "
                    f"all of the rows to train on have '{escape.line(name, 100)}'. Add rows, or leave it out."
                )
            settings.logit_adjustment = (settings.logit_adjustment * prior).tolist()
        self._take_values()

    def notes(self) -> list[str]:
        """What the values of the classes are, a line each, from the least to the greatest."""
        what = {"class_weights": "loss of a class multiplied by", "logit_adjustment": "added to its logits"}
        return [
            f"{words} {_range(self.settings[name], self.task.class_names)}"
            for name, words in what.items()
            if isinstance(self.settings[name], list)
        ]

    def forward(self, logits: Tensor, batch: dict[str, Any], label_smoothing: float | None = None) -> Tensor:
        """Mean nats per text, (), of logits (B, C).

        Args:
            label_smoothing: None is the setting's.
        """
        smoothing = self.settings.label_smoothing if label_smoothing is None else label_smoothing
        if self.adjustment is not None:
            logits = logits + self.adjustment
        return self.task.training_loss(
            functional,
            logits,
            batch["labels"],
            smoothing,
            batch.get("weights"),
            self.class_weights,
            self.settings.focal_gamma,
        )


def _range(values: Sequence[float], class_names: Sequence[str]) -> str:
    """The least and the greatest value, with the names of their classes."""
    ends = (int(np.argmin(values)), int(np.argmax(values)))
    low, high = (f"{values[index]:.3g} ({escape.line(class_names[index], 60)})" for index in ends)
    return f"{low} to {high}"


def check_values(values: Any, setting: str, class_names: Sequence[str]) -> None:
    """Raises a UserError where a list of a value a class is none.

    Args:
        values: anything that is no list is let through.
        setting: `class_weights` or `logit_adjustment`.
    """
    if not isinstance(values, list):
        return
    if len(values) != len(class_names):
        raise UserError(
            f"model.{setting} has {len(values)} values, and there are {len(class_names)} classes; expected "
            "one a class, in the order of data.label_names."
        )
    for name, value in zip(class_names, values, strict=True):
        if setting == "class_weights" and not 0 < value <= MAX_WEIGHT:
            raise UserError(
                f"the class weight of '{escape.line(name, 100)}' is {value}; expected more than 0 and at "
                f"most {MAX_WEIGHT:g}."
            )
        if not math.isfinite(value):
            raise UserError(f"model.{setting} has the value {value}; expected finite ones.")


def read_class_weights(file: Path, class_names: Sequence[str]) -> list[float]:
    """The weight of each class, in the order of the classes.

    Args:
        file: a JSON object of weights by class, or a CSV file with the columns class and weight.

    Raises:
        UserError: it cannot be read, a class is missing, unknown or there twice, or a weight is no number.
    """
    what = escape.line(file, 200)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "no text in UTF-8"
        raise UserError(
            f"model.class_weights is {what}: {why}; expected balanced, a value for each class in a list, or "
            "a file, JSON or CSV, of class and weight."
        ) from None
    found = _of_json(text, what) if file.suffix.lower() == ".json" else _of_csv(text, what)
    for name in class_names:
        if name not in found:
            raise UserError(f"{what} has no weight for the class '{escape.line(name, 100)}'; add one.")
    if unknown := found.keys() - set(class_names):
        known = ", ".join(escape.names(class_names[:10]))
        name = escape.line(min(unknown), 100)
        raise UserError(f"{what} has the class '{name}', which the data has not; expected {known}.")
    return [found[name] for name in class_names]


def _of_json(text: str, what: str) -> dict[str, float]:
    values = parse_json(text, what)
    if not isinstance(values, dict):
        raise UserError(f'{what} is no JSON object; expected one like {{"joy": 1, "fear": 10}}.')
    return {name: _weight(value, name, what) for name, value in values.items()}


def _of_csv(text: str, what: str) -> dict[str, float]:
    rows = csv.DictReader(io.StringIO(text, newline=""), restval="")
    if sorted(rows.fieldnames or []) != ["class", "weight"]:
        columns = ", ".join(escape.names(list(rows.fieldnames or [])[:10]))
        raise UserError(f"{what} has the columns {columns or 'of an empty file'}; expected class,weight.")
    found: dict[str, float] = {}
    for row in rows:
        name = row["class"].strip()
        if None in row:
            raise UserError(f"{what}: the line of '{escape.line(name, 100)}' has more than two cells.")
        if name in found:
            raise UserError(f"{what} has the class '{escape.line(name, 100)}' twice; leave one out.")
        found[name] = _weight(row["weight"], name, what)
    return found


def _weight(value: Any, name: str, what: str) -> float:
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise UserError(
        f"{what}: the weight of '{escape.line(name, 100)}' is {escape.line(value, 60)}; expected a number."
    )
