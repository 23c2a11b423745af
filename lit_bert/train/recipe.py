"""How a run is trained where its settings leave it open: a function of rows, classes and the encoder.

Few rows need steps, not epochs: three passes over a hundred texts change nothing, and thirty over ten
thousand learn their noise. docs/few_rows.md has the measurements behind each rule.

    python -m lit_bert fit --data.dataset reviews.csv
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

BATCH_SIZE, SMALL_BATCH = 32, 16
FEW_ROWS = 2000  # below which batches are small, and methods are chosen by cross-validation
STEPS = 100  # of the optimizer, at least
EPOCHS, LEAST_EPOCHS = 10, 3  # where that many make more steps; of many rows
TEXTS = 48_000  # that are read: from 4,800 rows on epochs get fewer, down to three of 16,000
ROWS_A_CLASS = 50  # below which the classifier starts as the best one for the network as it is
SCARCE_ROWS_A_CLASS = 16  # below which the mean of networks of several methods is tried first
LAYER_DECAY = 0.9
MOST_VALIDATIONS = 10  # of a run


class Choice(NamedTuple):
    """A setting of the recipe.

    Attributes:
        name: as on the command line.
        reason: why, as part of a line; empty where it goes with another one.
    """

    name: str
    value: Any
    reason: str = ""


def epochs_for(rows: int, batch_size: int) -> int:
    """Passes over that many rows."""
    by_texts = max(LEAST_EPOCHS, min(EPOCHS, round(TEXTS / rows)))
    return max(by_texts, math.ceil(STEPS / math.ceil(rows / batch_size)))


def recipe_for(
    rows: int,
    classes: int,
    batch_size: int | None = None,
    epochs: int | None = None,
    has_mean: bool = True,
) -> Iterator[Choice]:
    """The settings for that many rows to train on.

    Args:
        classes: of the labels; 1 of a number.
        batch_size: texts a step, where that is given; `epochs` likewise.
        has_mean: whether the network can get a layer for the mean of all tokens.
    """
    few = rows < FEW_ROWS
    size = batch_size or (SMALL_BATCH if few else BATCH_SIZE)
    yield Choice("data.batch_size", size, "few rows: more steps" if few else "")
    epochs = epochs or epochs_for(rows, size)
    steps = epochs * math.ceil(rows / size)
    why = f"at least {STEPS} steps" if epochs > EPOCHS else f"{epochs * rows:,} texts"
    yield Choice("trainer.max_epochs", epochs, f"{steps:,} steps, {why}")
    between = math.ceil(epochs / MOST_VALIDATIONS)
    yield Choice("trainer.check_val_every_n_epoch", between)
    yield Choice("early_stopping.patience", max(2, math.ceil(epochs / between / 3)))
    yield Choice("model.adversarial_norm", 0.0 if few else 1.0, "few rows" if few else "")
    yield Choice("model.layer_decay", LAYER_DECAY if few else 1.0)
    starts = rows < ROWS_A_CLASS * max(classes, 2)
    yield Choice("model.head_start", starts, "few rows a class" if starts else "")
    yield Choice("model.head_rate_factor", 1.0 if starts else 5.0)
    mean = few and has_mean
    yield Choice("model.pooling", "mean" if mean else "first", "few rows" if mean else "")
