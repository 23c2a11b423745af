"""The error report where each text has a number: predicted against labelled ones, and the largest errors."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np

from lit_bert.evaluate.evidence import counted
from lit_bert.evaluate.number_charts import error_chart, scatter_chart
from lit_bert.evaluate.page_form import LISTED, Figure, PageForm
from lit_bert.evaluate.scores import Score, Scores

IN_UNIT = ("mae", "rmse")  # scores in the unit of the labels
SIGNIFICANT = 3  # digits of a standard deviation of the labels that are shown


class NumberPage(PageForm):
    """Of labels that are a number."""

    explained = "the number"
    has_cells = False

    @cached_property
    def distance(self) -> np.ndarray:
        """By how much predictions are off, float64 (N,)."""
        return np.abs(self.predictions.preds.astype(np.float64) - self.predictions.labels)

    @cached_property
    def errors(self) -> np.ndarray:
        """All rows, the furthest off first: an interval that holds 9 in 10 says little of a single row."""
        return np.argsort(-self.distance, kind="stable")

    @property
    def wrong(self) -> int | None:
        """How many labels are outside their interval; None without intervals."""
        return None if self.half_width is None else int((self.distance > self.half_width).sum())

    def found(self) -> str:
        wrong = self.wrong
        return "no intervals" if wrong is None else f"{counted(wrong, 'label')} outside the interval"

    @cached_property
    def half_width(self) -> float | None:
        """Half the width of an interval; None where it is not known."""
        return getattr(self.task, "half_width", None)

    @cached_property
    def decimals(self) -> int:
        """After the point, of a number in the unit of the labels."""
        spread = float(self.predictions.labels.astype(np.float64).std()) or self.task.unit
        return min(max(SIGNIFICANT - 1 - math.floor(math.log10(spread)), 0), 12)

    @property
    def score_decimals(self) -> int:
        return self.decimals + 1

    def shown(self, value: float) -> str:
        """A number in the unit of the labels."""
        return f"{value:,.{self.decimals}f}".replace("-", "−")

    def right_groups(self) -> list[np.ndarray]:
        return []

    def cells_of(self, index: int) -> list[str]:
        return []

    def questions(self, index: int) -> list[int]:
        return [0]

    def row(self, index: int) -> dict[str, Any]:
        """`y` is the label, `p` the prediction, `d` by how much it is off, `i` its interval, as text.

        `o` is whether the label is outside the interval.
        """
        label, value = float(self.predictions.labels[index]), float(self.predictions.preds[index])
        answer, difference = self.task.answer(self.predictions.outputs[index], False), value - label
        row = {"y": self.shown(label), "p": self.shown(value)}
        row["d"] = f"{'+' if difference >= 0 else ''}{self.shown(difference)}"
        if self.half_width is None:
            return row
        ends = f"{self.shown(answer.low)} – {self.shown(answer.high)}"
        return {**row, "i": ends, "o": bool(self.distance[index] > self.half_width)}

    def script_values(self) -> dict[str, Any]:
        return {"form": "number", "cells": {}, "decimals": self.decimals}

    def figure(self, value: float, key: str) -> str:
        return self.shown(value) if key in IN_UNIT else f"{value:.3f}"

    def content(self, with_intervals: Scores[Score]) -> dict[str, Any]:
        half = self.half_width
        band = (
            "" if half is None else f" In the band, the label is inside the interval of ± {self.shown(half)}."
        )
        lines = "" if half is None else " The dashed lines are the ends of the interval."
        return {
            "scope": f"the number {self.names[0]}",
            "wrong_words": "outside their interval",
            "class_rows": [],
            "matrix": None,
            "suspect_lead": "Where it may be the label that is wrong: off by more than three robust standard "
            "deviations of all errors; the furthest first.",
            "figures_title": "Predicted and labelled",
            "figures_note": "",
            "figures": [
                Figure(
                    "Predicted against labelled",
                    f"On the dashed line, the prediction is the label.{band}",
                    scatter_chart(self.predictions, half, self.shown),
                ),
                Figure(
                    "Errors",
                    f"By how much predictions are above or below the label; the outermost bars hold all that "
                    f"are further off.{lines}",
                    error_chart(self.predictions, half, self.shown),
                ),
            ],
        }

    def embedded_note(self, embedded: np.ndarray) -> str:
        return "This page holds the texts that are listed."

    def error_note(self) -> str:
        count = len(self.errors)
        return f"The {LISTED} largest of {count:,}." if count > LISTED else f"All {count:,} texts."

    def has_other_label(self) -> bool:
        return bool(np.ptp(self.predictions.labels) > 0)
