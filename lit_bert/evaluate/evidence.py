"""The rows behind scores: how many, and their earlier uses (training, choice of the epoch, temperature)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lit_bert.evaluate.compare import FEWEST_ROWS
from lit_bert.evaluate.scores import Score, Scores, wilson
from lit_bert.task.base import Task

TRAINING = "training"
CHOOSING, ENDING = "choosing the epoch", "early stopping"  # what rows are used for before they are scored

WIDE_INTERVAL = 0.10  # of F1 or accuracy; models that differ by less cannot be told apart


@dataclass(frozen=True)
class Evidence:
    """Numbers of rows by class, and what the rows were used for before they were scored.

    Attributes:
        rows: how many.
        labelled: rows that have each class as a label (scikit-learn's support); () without classes.
        predicted: rows for which each class was predicted.
        used_for: what these rows were used for before the model was scored on them, such as "choosing the
            epoch" or "training"; None where that was not recorded.
    """

    rows: int
    labelled: tuple[int, ...]
    predicted: tuple[int, ...]
    used_for: tuple[str, ...] | None = ()

    @classmethod
    def of(
        cls, task: Task, outputs: np.ndarray, labels: np.ndarray, used_for: Iterable[str] | None = ()
    ) -> Evidence:
        """The evidence of outputs and labels, as `task.base` describes them."""
        labelled, predicted = (tuple(task.label_counts(each)) for each in (labels, task.predictions(outputs)))
        return cls(len(labels), labelled, predicted, None if used_for is None else tuple(used_for))

    @property
    def averaged(self) -> int:
        """Over how many classes macro F1 is the mean."""
        return sum(bool(label or pred) for label, pred in zip(self.labelled, self.predicted, strict=True))

    @property
    def macro_note(self) -> str:
        """Over how many classes macro F1 is the mean, where it is not over all; else empty."""
        C = len(self.labelled)
        return f"mean over {self.averaged} of {C} classes" if self.averaged < C else ""

    def class_note(self, index: int) -> str:
        """Why a class has no F1; empty if it has one."""
        if self.labelled[index]:
            return ""
        pred = self.predicted[index]
        return "absent: no row has this label" + (
            f", {counted(pred, 'row')} predicted as it; counts as 0 in macro F1" if pred else ""
        )

    @property
    def usage_note(self) -> str:
        """That the rows were used before they were scored, and for what; empty where they were not."""
        if self.used_for is None:
            return (
                "it is not recorded whether these rows were trained on, chose the epoch or fitted the "
                "temperature"
            )
        if not self.used_for:
            return ""
        *others, last = self.used_for
        what = f"{', '.join(others)} and {last}" if others else last
        return f"the same rows were used for {what}: scores on new texts are likely to be lower"

    def few_rows_note(self, scores: Scores[Score]) -> str:
        """That there are too few rows to tell models apart, in words; empty where there are enough.

        Where every row is predicted right, so is every resample, and the bootstrap interval has no width; the
        interval of Wilson (1927) has. Where no accuracy is counted, fewer than FEWEST_ROWS are few.
        """
        few = f"{counted(self.rows, 'row')} {'is' if self.rows == 1 else 'are'} few"
        width = scores.chosen_by.high - scores.chosen_by.low
        which = f"the 95 % interval of {scores.task.main_title} (bootstrap) is {{}} wide"
        if accuracy := scores.values.get("accuracy"):
            hits = np.array([accuracy.value * self.rows])
            low, high = wilson(hits, np.array([self.rows]))
            width = max(float(high[0] - low[0]), scores.macro_f1.high - scores.macro_f1.low)
            which = "95 % intervals of F1 (bootstrap) and accuracy (Wilson) are up to {} wide"
        elif self.rows < FEWEST_ROWS:
            return f"{few}: their bootstrap intervals are too narrow to tell models apart by"
        if width <= WIDE_INTERVAL:
            return ""
        return (
            f"{few}: {which.format(f'{100 * width:.0f} points')}, and models that differ by less cannot be "
            "told apart"
        )

    def notes(self, scores: Scores[Score] | None = None) -> list[str]:
        """What limits the scores, a sentence each, without its full stop; none is the best case."""
        macro = (
            self.macro_note
            and f"macro F1 is the {self.macro_note}: no row has one of the others as label or prediction"
        )
        few = self.few_rows_note(scores) if scores and self.rows else ""
        return [note for note in (macro, self.usage_note, few) if note]

    def as_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Plain values for JSON; without classes no numbers of their rows."""
        return {
            "rows": self.rows,
            "used_for": None if self.used_for is None else list(self.used_for),
            **(
                {
                    "labelled": dict(zip(class_names, self.labelled, strict=True)),
                    "predicted": dict(zip(class_names, self.predicted, strict=True)),
                }
                if self.labelled
                else {}
            ),
        }


def counted(number: int, noun: str) -> str:
    """The number with its noun, as in `1,234 texts`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
