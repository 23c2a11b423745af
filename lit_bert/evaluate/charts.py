"""The two diagrams of the error report, as coordinates and tables of numbers; page.jinja draws them.

python -m lit_bert report checkpoints/version_0
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from lit_bert.evaluate.evidence import counted
from lit_bert.evaluate.predictions import Predictions
from lit_bert.evaluate.scores import wilson
from lit_bert.task.classes import BINS

CURVE_POINTS = 200  # at most, of accuracy against coverage
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
    confidence = predictions.outputs.max(1).astype(np.float64)
    is_right = predictions.preds == predictions.labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    all_counts = np.bincount(bins, minlength=BINS)
    used = np.flatnonzero(all_counts)
    counts = all_counts[used]
    hits = np.bincount(bins, weights=is_right, minlength=BINS)[used]
    mean = np.bincount(bins, weights=confidence, minlength=BINS)[used] / counts
    accuracy, (low, high) = hits / counts, wilson(hits, counts)
    axes = Axes(0.0, "confidence", "share right")
    axes.paths += [
        SvgPath(
            "histogram",
            f"M{axes.x(b / BINS) + 1:.1f} {axes.bottom}V{axes.y(height):.1f}"
            f"H{axes.x((b + 1) / BINS) - 1:.1f}V{axes.bottom}Z",
        )
        for b, height in zip(used, 0.25 * counts / counts.max(), strict=True)
    ]
    axes.paths.append(SvgPath("ideal", f"M{axes.line((0, 1), (0, 1))}"))
    rows = []
    for b, count, x, value, bottom, top in zip(used, counts, mean, accuracy, low, high, strict=True):
        title = f"{counted(int(count), 'text')}: confidence {x:.1%}, right {value:.1%}"
        axes.points.append(Point(title, axes.x(x), axes.y(value), f"M{axes.line((x, x), (bottom, top))}"))
        rows.append(
            [
                f"{b / BINS:.0%} – {(b + 1) / BINS:.0%}",
                *(f"{count:,}", f"{x:.1%}", f"{value:.1%}", f"{bottom:.1%} – {top:.1%}"),
            ]
        )
    heads = ("confidence", "texts", "its mean", "right", "95 % interval")
    return Chart(
        "Reliability diagram; its numbers are in the table below", axes, Table(heads, rows, is_open=False)
    )


def coverage_chart(predictions: Predictions) -> Chart:
    """Accuracy of the most confident texts against their share of all; the shares that reach some accuracies.

    El-Yaniv and Wiener (2010): the accuracy-coverage curve of a selective classifier.
    """
    N = len(predictions.labels)
    confidence = predictions.outputs.max(1)
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
        rows.append(
            [
                f"≥ {target:.0%}",
                *(f"{covered:.1%}", f"{confidence[order[last]]:.3f}", f"{low[last]:.1%} – {high[last]:.1%}"),
            ]
        )
    heads = ("right", "of the texts", "confidence from", "95 % interval")
    description = "Accuracy against the share of texts that are answered; some points are in the table below"
    return Chart(description, axes, Table(heads, rows, is_open=True))
