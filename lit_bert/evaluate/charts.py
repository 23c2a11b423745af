"""Diagrams of the error report, as coordinates and tables of numbers; page.jinja draws them.

Those of classes and probabilities; number_charts.py has those of numbers.

python -m lit_bert report checkpoints/version_0
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from lit_bert.evaluate.evidence import counted
from lit_bert.evaluate.predictions import Predictions
from lit_bert.evaluate.scores import wilson
from lit_bert.task.classes import BINS, confidence_bins
from lit_bert.task.decisions import wanted_of
from lit_bert.task.guarantee import ACCURACY, Accuracy, percent

CURVE_POINTS = 200  # at most, of accuracy against coverage
TARGET_PRECISIONS = (0.8, 0.9, 0.95, 0.99)  # whose recall is looked up
TARGET_ACCURACIES = (0.9, 0.95, 0.98, 0.99)  # whose coverage is looked up on that curve
FEWEST_TEXTS = 30  # that decide how far down the axis of accuracy reaches


class Tick(NamedTuple):
    """A mark on an axis: its coordinate in the picture, and what is written there."""

    position: float
    text: str


class SvgPath(NamedTuple):
    """A line or an area.

    Attributes:
        kind: its class in the style sheet.
        d: as SVG has it.
    """

    kind: str
    d: str


class Point(NamedTuple):
    """A dot, with the interval of its value as a whisker where it has one."""

    title: str
    x: float
    y: float
    whisker: str | None = None


class Table(NamedTuple):
    """The numbers of a chart, all as text."""

    heads: tuple[str, ...]
    rows: list[list[str]]
    is_open: bool


@dataclass
class Axes:
    """Axes in a picture of 440 by 340: 0 to 1 across, `lowest` to 1 upwards.

    Attributes:
        paths: drawn first, in their order.
        points: drawn over them.
    """

    lowest: float
    x_label: str
    y_label: str
    paths: list[SvgPath] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)

    left, right, top, bottom = 62, 416, 14, 284

    def x(self, share: float) -> float:
        """The coordinate of a share on the horizontal axis."""
        return self.left + share * (self.right - self.left)

    def y(self, share: float) -> float:
        """The coordinate of a share on the vertical axis."""
        return self.bottom - (share - self.lowest) / (1 - self.lowest) * (self.bottom - self.top)

    def line(self, xs: Iterable[float], ys: Iterable[float]) -> str:
        """The straight lines through some points, for the `d` of a path that starts with M."""
        return "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in zip(xs, ys, strict=True))

    def whisker(self, share: float) -> str:
        """A line all the way up at a share of the horizontal axis."""
        return f"M{self.x(share):.1f} {self.bottom}V{self.top}"

    @property
    def x_ticks(self) -> list[Tick]:
        """Quarters."""
        return [Tick(self.x(share), f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)]

    @property
    def y_ticks(self) -> list[Tick]:
        """Six at most, from 1 down."""
        step = next(step for step in (0.02, 0.05, 0.1, 0.2) if 1 - self.lowest <= 5.01 * step)
        shares = [1 - place * step for place in range(6)]
        return [Tick(self.y(share), f"{share:.0%}") for share in shares if share > self.lowest - 1e-9]


class Chart(NamedTuple):
    """A diagram with its description and the table of its numbers."""

    description: str
    axes: Axes
    table: Table


def reliability_chart(predictions: Predictions) -> Chart:
    """Accuracy against confidence in 15 equal bins, with intervals, over how many texts each bin has."""
    confidence = predictions.task.confidence(predictions.outputs).astype(np.float64)
    is_right = predictions.preds == predictions.labels
    return _reliability(confidence, is_right, RELIABILITY)


def decision_chart(predictions: Predictions) -> Chart:
    """The share of texts that have a class against its probability, over all texts and classes."""
    probs, has_class = predictions.outputs.ravel().astype(np.float64), predictions.labels.ravel() == 1
    return _reliability(probs, has_class, DECISIONS)


class _Words(NamedTuple):
    """What a reliability diagram is of.

    Attributes:
        confidence, right: what is across and upwards; `right_axis` stands on the axis.
        counted: what is counted in a bin.
        scale: of the bars, from the share of the largest one.
    """

    confidence: str
    right: str
    right_axis: str
    counted: str
    scale: Callable[[np.ndarray], np.ndarray]


RELIABILITY = _Words("confidence", "right", "share right", "text", lambda shares: shares)
DECISIONS = _Words("probability", "have the class", "share with the class", "decision", np.sqrt)


def _reliability(confidence: np.ndarray, is_right: np.ndarray, words: _Words) -> Chart:
    bins = confidence_bins(confidence)
    all_counts = np.bincount(bins, minlength=BINS)
    used = np.flatnonzero(all_counts)
    counts = all_counts[used]
    hits = np.bincount(bins, weights=is_right, minlength=BINS)[used]
    mean = np.bincount(bins, weights=confidence, minlength=BINS)[used] / counts
    accuracy, (low, high) = hits / counts, wilson(hits, counts)
    axes = Axes(0.0, words.confidence, words.right_axis)
    axes.paths += [
        SvgPath(
            "histogram",
            f"M{axes.x(b / BINS) + 1:.1f} {axes.bottom}V{axes.y(height):.1f}"
            f"H{axes.x((b + 1) / BINS) - 1:.1f}V{axes.bottom}Z",
        )
        for b, height in zip(used, 0.25 * words.scale(counts / counts.max()), strict=True)
    ]
    axes.paths.append(SvgPath("ideal", f"M{axes.line((0, 1), (0, 1))}"))
    rows = []
    for b, count, x, value, bottom, top in zip(used, counts, mean, accuracy, low, high, strict=True):
        title = f"{counted(int(count), words.counted)}: {words.confidence} {x:.1%}, {words.right} {value:.1%}"
        axes.points.append(Point(title, axes.x(x), axes.y(value), f"M{axes.line((x, x), (bottom, top))}"))
        rows.append(
            [
                f"{b / BINS:.0%} – {(b + 1) / BINS:.0%}",
                *(f"{count:,}", f"{x:.1%}", f"{value:.1%}", f"{bottom:.1%} – {top:.1%}"),
            ]
        )
    heads = (words.confidence, f"{words.counted}s", "its mean", words.right, "95 % interval")
    return Chart(
        "Reliability diagram; its numbers are in the table below", axes, Table(heads, rows, is_open=False)
    )


def coverage_chart(predictions: Predictions) -> Chart:
    """Accuracy of the most confident texts against their share of all; the shares that reach some accuracies.

    El-Yaniv and Wiener (2010): the accuracy-coverage curve of a selective classifier.
    """
    N = len(predictions.labels)
    confidence = predictions.task.confidence(predictions.outputs)
    order = np.argsort(-confidence, kind="stable")
    hits = np.cumsum((predictions.preds == predictions.labels)[order])
    counts = np.arange(1, N + 1)
    # Texts of equal confidence are answered together or not at all.
    ends = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True))
    accuracy, (low, high) = hits / counts, wilson(hits, counts)
    picked = ends[np.unique(np.linspace(0, len(ends) - 1, min(CURVE_POINTS, len(ends))).round().astype(int))]
    # The first few texts alone say next to nothing: their interval would squeeze the rest of the picture.
    lowest = min(accuracy[picked].min(), low[picked][counts[picked] >= min(FEWEST_TEXTS, N)].min())
    axes = Axes(
        min(np.floor(lowest * 10) / 10, 0.9),
        "share of the texts that are answered, most confident first",
        "right",
    )
    xs, bottom = counts[picked] / N, np.maximum(low[picked], axes.lowest)
    band = axes.line(xs, high[picked]) + "L" + axes.line(xs[::-1], bottom[::-1])
    axes.paths += [SvgPath("band", f"M{band}Z"), SvgPath("curve", f"M{axes.line(xs, accuracy[picked])}")]
    rows = []
    for target in TARGET_ACCURACIES:
        reached = ends[accuracy[ends] >= target]
        if not len(reached):
            rows.append([f"≥ {target:.0%}", "none", "–", "–"])
            continue
        last = int(reached[-1])
        covered = counts[last] / N
        title = f"{target:.0%} right: {covered:.1%} of the texts"
        axes.points.append(Point(title, axes.x(covered), axes.y(accuracy[last])))
        ends_of = f"{low[last]:.1%} – {high[last]:.1%}"
        rows.append([f"≥ {target:.0%}", f"{covered:.1%}", f"{confidence[order[last]]:.3f}", ends_of])
    promised = predictions.task.promises.get(ACCURACY)
    if isinstance(promised, Accuracy) and (count := int((confidence >= promised.threshold).sum())):
        covered, right = count / N, accuracy[count - 1]
        title = f"guaranteed {percent(promised.rate)}: {right:.1%} right, {covered:.1%} of the texts"
        axes.points.append(Point(title, axes.x(covered), axes.y(right), axes.whisker(covered)))
        ends_of = f"{low[count - 1]:.1%} – {high[count - 1]:.1%}"
        cells = [f"{covered:.1%}", f"{promised.threshold:.3f}", ends_of]
        rows.append([f"guaranteed {percent(promised.rate)}", *cells])
    heads = ("right", "of the texts", "confidence from", "95 % interval")
    description = "Accuracy against the share of texts that are answered; some points are in the table below"
    return Chart(description, axes, Table(heads, rows, is_open=True))


def precision_recall_chart(predictions: Predictions) -> Chart:
    """Precision against recall of all decisions on texts and classes, with one threshold for all classes."""
    has_class, given = (each.ravel() == 1 for each in (predictions.labels, predictions.preds))
    return _precision_recall(predictions.outputs.ravel(), has_class, given)


def wanted_chart(predictions: Predictions) -> Chart:
    """Precision against recall of the class that a rate is wanted of."""
    wanted = wanted_of(predictions.task.parameters)
    assert wanted
    has_class, given = (each == wanted.place for each in (predictions.labels, predictions.preds))
    return _precision_recall(predictions.outputs[:, wanted.place], has_class, given)


def _precision_recall(probs: np.ndarray, has_class: np.ndarray, given: np.ndarray) -> Chart:
    """With what is given as a dot, and the thresholds that give the best F1 or some precisions."""
    axes = Axes(0.0, "recall: share of the labels that are given", "precision: share of what is given")
    heads = ("", "precision", "recall", "F1", "threshold")
    description = "Precision against recall; some points are in the table below"
    positives = int(has_class.sum())
    hits, count = int((given & has_class).sum()), int(given.sum())
    rows = [["as given", *_precision_cells(hits, count, positives), "its own"]]
    if positives and count:
        precision, recall = hits / count, hits / positives
        title = f"as given: precision {precision:.1%}, recall {recall:.1%}"
        axes.points.append(Point(title, axes.x(recall), axes.y(precision)))
    order = np.argsort(-probs, kind="stable")
    found, counts = np.cumsum(has_class[order]), np.arange(1, len(order) + 1)
    # Decisions of equal probability are taken together.
    ends = np.flatnonzero(np.append(np.diff(probs[order]) != 0, True))
    if not positives:
        return Chart(description, axes, Table(heads, rows, is_open=True))
    precisions, recalls = found[ends] / counts[ends], found[ends] / positives
    shares = np.linspace(0, 1, CURVE_POINTS)
    picked = np.unique(np.searchsorted(recalls, shares).clip(max=len(ends) - 1))
    axes.paths.append(SvgPath("curve", f"M{axes.line(recalls[picked], precisions[picked])}"))
    best = ends[np.argmax(2 * found[ends] / (counts[ends] + positives))]
    picks = [("best F1", best)]
    for target in TARGET_PRECISIONS:
        reached = ends[precisions >= target]
        picks.append((f"precision ≥ {target:.0%}", reached[-1] if len(reached) else None))
    for name, end in picks:
        if end is None:
            rows.append([name, "none", "–", "–", "–"])
            continue
        cells = _precision_cells(int(found[end]), int(counts[end]), positives)
        rows.append([name, *cells, f"{probs[order[end]]:.3f}"])
    return Chart(description, axes, Table(heads, rows, is_open=True))


def _precision_cells(hits: int, given: int, positives: int) -> list[str]:
    """Precision, recall and F1 in words."""
    shares = ((hits, given), (hits, positives), (2 * hits, given + positives))
    return [f"{part / whole:.1%}" if whole else "–" for part, whole in shares]
