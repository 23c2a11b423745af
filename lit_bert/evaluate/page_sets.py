"""The error report where a text has any number of classes: which are missed, and which given wrongly."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from lit_bert.evaluate.charts import decision_chart, precision_recall_chart
from lit_bert.evaluate.evidence import counted
from lit_bert.evaluate.page_form import (
    MANY_CLASSES,
    Cell,
    Confusion,
    Figure,
    Matrix,
    PageForm,
    class_rows,
    frequent,
    likeliest,
)
from lit_bert.evaluate.scores import Score, Scores

MOST_QUESTIONS = 4  # classes for which the words of one text are coloured
NOTHING = "nothing"  # the last row and column of the matrix
ANY = "any"  # in the key of a cell: whatever else is missed, or given wrongly


class SetPage(PageForm):
    """Of labels that are sets of classes.

    The matrix has a row for each class that is missed and a column for each that is given wrongly in the same
    text, and one of both for texts where nothing is missed, or nothing given wrongly.
    """

    @cached_property
    def missed(self) -> np.ndarray:
        """Which classes a text has and was not given, bool (N, C)."""
        return (self.predictions.labels == 1) & (self.predictions.preds == 0)

    @cached_property
    def extra(self) -> np.ndarray:
        """Which classes a text was given and does not have, bool (N, C)."""
        return (self.predictions.labels == 0) & (self.predictions.preds == 1)

    @cached_property
    def hits(self) -> np.ndarray:
        """Which classes a text has and was given, bool (N, C)."""
        return (self.predictions.labels == 1) & (self.predictions.preds == 1)

    @cached_property
    def counts(self) -> np.ndarray:
        """The matrix, int64 (C + 1, C + 1)."""
        missed, extra = (np.c_[each, ~each.any(1)].astype(float) for each in (self.missed, self.extra))
        counts = (missed.T @ extra).astype(np.int64)
        counts[-1, -1] = (~self.predictions.labels.any(1) & ~self.predictions.preds.any(1)).sum()
        places = np.arange(len(self.names))
        counts[places, places] = self.hits.sum(0)
        return counts

    def right_groups(self) -> list[np.ndarray]:
        labels = self.predictions.labels
        right = ~(self.missed | self.extra).any(1)
        groups = [np.flatnonzero(right & (labels[:, c] == 1)) for c in range(len(self.names))]
        return [*groups, np.flatnonzero(right & ~labels.any(1))]

    def cells_of(self, index: int) -> list[str]:
        missed, extra, hits = (
            np.flatnonzero(each[index]).tolist() for each in (self.missed, self.extra, self.hits)
        )
        C = len(self.names)
        found = [f"{c}-{c}" for c in hits]
        if missed or extra:
            found += [f"{i}-{j}" for i in missed or [C] for j in extra or [C]]
        elif not hits:
            found.append(f"{C}-{C}")
        return [*found, *(f"{i}-{ANY}" for i in missed), *(f"{ANY}-{j}" for j in extra)]

    def questions(self, index: int) -> list[int]:
        """The wrongly given classes, the surest first, and the missed ones; of a right text its own."""
        probs = self.predictions.outputs[index]
        order = np.argsort(-probs, kind="stable")
        found = [*order[self.extra[index][order]], *order[self.missed[index][order]]]
        found = found or [*order[self.hits[index][order]]] or [self.task.explained_class(probs)]
        return [int(each) for each in found[:MOST_QUESTIONS]]

    def row(self, index: int) -> dict[str, Any]:
        """`y` are the labelled and `p` the given classes.

        `q` are those and the likeliest with their probabilities, `s` is how sure the least sure class is, `c`
        are the cells that the text is in.
        """
        predictions = self.predictions
        label, pred = (
            np.flatnonzero(each[index]).tolist() for each in (predictions.labels, predictions.preds)
        )
        shown = sorted(likeliest(predictions.outputs[index], [*label, *pred]), key=lambda each: -each[1])
        sure = round(float(self.confidence[index]), 4)
        return {"y": label, "p": pred, "q": shown, "s": sure, "c": self.cells_of(index)}

    def script_values(self) -> dict[str, Any]:
        counts = self.counts
        cells = {f"{i}-{j}": int(counts[i, j]) for i, j in zip(*np.nonzero(counts), strict=True)}
        for form, marks in ((f"{{}}-{ANY}", self.missed), (f"{ANY}-{{}}", self.extra)):
            totals = enumerate(marks.sum(0).tolist())
            cells |= {form.format(place): total for place, total in totals if total}
        return {"form": "classes", "cells": cells, "thresholds": self._thresholds}

    def has_other_label(self) -> bool:
        return 0 < self.predictions.labels.mean() < 1

    @property
    def _thresholds(self) -> list[float]:
        return [round(each, 4) for each in getattr(self.task, "thresholds", np.empty(0)).tolist()]

    def content(self, with_intervals: Scores[Score]) -> dict[str, Any]:
        hits, missed, extra = (each.sum(0) for each in (self.hits, self.missed, self.extra))
        rows = class_rows(
            self.predictions, self.names, with_intervals, hits, hits + missed, hits + extra, self._thresholds
        )
        matrix = self.matrix()
        return {
            "scope": f"{len(self.names)} classes, of which a text has any number",
            "wrong_words": "with a label that is missed or wrongly given",
            "class_rows": rows,
            "matrix": matrix,
            "matrix_note": "A row for each class that a text has and was not given, a column for each that "
            "it was given and does not have; on the diagonal, what was given rightly. A text is in a cell "
            "for each such pair. The colour follows the share of the texts with that label; in the last row, "
            "of those that were given it.",
            "confusions": [
                ("Missed or wrongly given most often", self.frequent_classes()),
                ("Pairs of a missed class and one that is given instead", self.frequent_pairs(matrix)),
            ],
            "suspect_lead": "Where it may be the labels that are wrong, by confident learning of each class "
            "for itself; the most suspect first.",
            "figures_title": "Probabilities",
            "figures_note": "Each text and class is a decision of its own. Whiskers are 95 % Wilson "
            "intervals, as if no decision depended on another.",
            "figures": [
                Figure(
                    "Calibration",
                    "On the dashed line, the probability is the share of texts that have the class. The bars "
                    "show where the decisions are; their height is the root of the number.",
                    decision_chart(self.predictions),
                ),
                Figure(
                    "Precision against recall",
                    "All classes together: how many of the given labels are right, and how many of the "
                    "labels are given, by one threshold for all classes. The dot is what was given.",
                    precision_recall_chart(self.predictions),
                ),
            ],
        }

    def matrix(self) -> Matrix:
        """The matrix of missed and wrongly given classes, with how often each is in all."""
        C, counts = len(self.names), self.counts
        missed, extra = self.missed.sum(0), self.extra.sum(0)
        labelled, given = self.predictions.labels.sum(0, dtype=np.int64), self.hits.sum(0) + extra
        of_row = [*labelled.tolist(), 0]
        rows: list[list[Cell | None]] = []
        for i in range(C + 1):
            cells: list[Cell | None] = []
            for j, count in enumerate(counts[i].tolist()):
                whole = of_row[i] if i < C else int(given[j]) if j < C else count
                if not count:
                    cells.append(None)
                else:
                    description = f"{counted(count, 'text')}: {self._described(i, j)}"
                    cells.append(Cell(f"{i}-{j}", count, description, i == j, count / whole))
            rows.append(cells)
        totals: list[list[int | Cell]] = [
            [self._total(f"{c}-{ANY}", int(missed[c]), f"{self.names[c]} missed"), int(labelled[c])]
            for c in range(C)
        ]
        totals.append([int((~self.missed.any(1)).sum()), int((~self.predictions.labels.any(1)).sum())])
        foot: list[int | Cell | None] = [
            self._total(f"{ANY}-{c}", int(extra[c]), f"{self.names[c]} wrongly given") for c in range(C)
        ]
        foot += [int((~self.extra.any(1)).sum()), None, None]
        return Matrix(
            ("missed ↓", "wrongly given →"),
            [*self.names, NOTHING],
            rows,
            ["missed", "labelled"],
            totals,
            ("wrongly given", foot),
            C > MANY_CLASSES,
        )

    def _described(self, i: int, j: int) -> str:
        C = len(self.names)
        if i == j:
            return f"{self.names[i]} rightly given" if i < C else "no label, and none given"
        missed = f"{self.names[i]} missed" if i < C else "nothing missed"
        extra = f"{self.names[j]} wrongly given" if j < C else "nothing wrongly given"
        return f"{missed}, {extra}" if i < C else f"{extra}, {missed}"

    @staticmethod
    def _total(key: str, count: int, what: str) -> int | Cell:
        return Cell(key, count, f"{counted(count, 'text')}: {what}") if count else 0

    def frequent_classes(self) -> list[Confusion]:
        """How often a class is missed or wrongly given, whatever else is."""
        found = []
        for c, name in enumerate(self.names):
            for key, marks, words in (
                (f"{c}-{ANY}", self.missed, "missed"),
                (f"{ANY}-{c}", self.extra, "wrongly given"),
            ):
                total = self._total(key, int(marks[:, c].sum()), f"{name} {words}")
                if isinstance(total, Cell):
                    found.append(Confusion(total, name, words))
        return frequent(found)

    def frequent_pairs(self, matrix: Matrix) -> list[Confusion]:
        """A class that is missed where another one is wrongly given."""
        C = len(self.names)
        return frequent(
            [
                Confusion(cell, self.names[i], "missed, given", self.names[j])
                for i, row in enumerate(matrix.rows[:C])
                for j, cell in enumerate(row[:C])
                if cell and not cell.is_right
            ]
        )
