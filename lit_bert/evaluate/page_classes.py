"""The error report where each text has one class: a confusion matrix, its texts, how far confidence holds."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from lit_bert.evaluate.charts import coverage_chart, reliability_chart, wanted_chart
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
from lit_bert.task.decisions import wanted_of


class ClassPage(PageForm):
    """Of labels that are the index of a class."""

    @cached_property
    def counts(self) -> np.ndarray:
        """The confusion matrix, int64 (C, C), whose rows are labels."""
        C, predictions = len(self.names), self.predictions
        cells = predictions.labels * C + predictions.preds
        return np.bincount(cells, minlength=C * C).reshape(C, C)

    def right_groups(self) -> list[np.ndarray]:
        labels, preds = self.predictions.labels, self.predictions.preds
        right = labels == preds
        return [np.flatnonzero(right & (labels == label)) for label in range(len(self.names))]

    def cells_of(self, index: int) -> list[str]:
        return [f"{self.predictions.labels[index]}-{self.predictions.preds[index]}"]

    def questions(self, index: int) -> list[int]:
        """The predicted class and, where that is wrong, the labelled one."""
        return list(dict.fromkeys(map(int, (self.predictions.preds[index], self.predictions.labels[index]))))

    def row(self, index: int) -> dict[str, Any]:
        """`y` is the labelled and `p` the predicted class, `q` are the likeliest with their probabilities."""
        label, pred = int(self.predictions.labels[index]), int(self.predictions.preds[index])
        return {"y": label, "p": pred, "q": likeliest(self.predictions.outputs[index], [pred, label])}

    def script_values(self) -> dict[str, Any]:
        counts = self.counts
        cells = {f"{i}-{j}": int(counts[i, j]) for i, j in zip(*np.nonzero(counts), strict=True)}
        return {"form": "class", "cells": cells}

    def content(self, with_intervals: Scores[Score]) -> dict[str, Any]:
        counts, C = self.counts, len(self.names)
        rows = class_rows(
            self.predictions, self.names, with_intervals, np.diag(counts), counts.sum(1), counts.sum(0)
        )
        matrix = confusion_matrix(self.names, counts)
        return {
            "scope": f"{C} classes",
            "wrong_words": "predicted wrong",
            "class_rows": rows,
            "matrix": matrix,
            "matrix_note": "A row for each labelled class, a column for each predicted one; the colour "
            "follows the share of the row.",
            "confusions": [("Most frequent", frequent_confusions(self.names, matrix))],
            "suspect_lead": "Where it may be the label that is wrong, by confident learning; the most "
            "suspect first.",
            "figures_title": "Confidence",
            "figures_note": "Confidence is the probability of the predicted class. Whiskers and bands are "
            "95 % Wilson intervals.",
            "figures": [
                Figure(
                    "Calibration",
                    "On the dashed line, confidence is the share that is right. The bars show where the "
                    "texts are.",
                    reliability_chart(self.predictions),
                ),
                Figure(
                    "Accuracy against coverage",
                    "How many of the answered texts are right, when those below some confidence go to a "
                    "person instead.",
                    coverage_chart(self.predictions),
                ),
                *self._wanted_figure(),
            ],
        }

    def _wanted_figure(self) -> list[Figure]:
        """Of the class that a rate is wanted of, if there is one."""
        wanted = wanted_of(self.task.parameters)
        if wanted is None:
            return []
        said = f"Of {self.names[wanted.place]} against the other classes; the dot is the threshold in use."
        return [Figure("Precision against recall", said, wanted_chart(self.predictions))]


def confusion_matrix(names: list[str], counts: np.ndarray) -> Matrix:
    """The matrix of `counts` (C, C), whose rows are labels."""
    totals = counts.sum(1).tolist()
    rows: list[list[Cell | None]] = []
    for label, name in enumerate(names):
        cells: list[Cell | None] = []
        for pred, count in enumerate(counts[label].tolist()):
            if not count:
                cells.append(None)
                continue
            description = f"{counted(count, 'text')} of {name} predicted as {names[pred]}"
            cells.append(Cell(f"{label}-{pred}", count, description, label == pred, count / totals[label]))
        rows.append(cells)
    foot: tuple[str, list[Any]] = ("all", [*counts.sum(0).tolist(), int(counts.sum())])
    corner = ("label ↓", "predicted →")
    return Matrix(corner, names, rows, ["all"], [[each] for each in totals], foot, len(names) > MANY_CLASSES)


def frequent_confusions(names: list[str], matrix: Matrix) -> list[Confusion]:
    """The pairs of classes with most errors, the most first."""
    return frequent(
        [
            Confusion(cell, names[i], "as", names[j])
            for i, row in enumerate(matrix.rows)
            for j, cell in enumerate(row)
            if cell and not cell.is_right
        ]
    )
