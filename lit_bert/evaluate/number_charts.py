"""The diagrams of the error report where labels are numbers: predicted against labelled ones, and errors.

python -m lit_bert report checkpoints/version_0
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lit_bert.evaluate.charts import Axes, Chart, SvgPath, Table, Tick
from lit_bert.evaluate.predictions import Predictions

DOTS = 2000  # drawn at most, evenly over the labels; of the rest, those that are furthest off
FAR_DOTS = 200
PARTS = 5  # of the rows, by label, in the table
BARS = 30
SHOWN = 0.99  # of the errors, by the bars but the outermost two
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

Words = Callable[[float], str]  # of a number in the unit of the labels


@dataclass
class ValueAxes(Axes):
    """Axes between any two numbers; upwards as well, or shares from 0 on.

    Attributes:
        across: the least and the largest number across.
        upwards: likewise; `lowest` is not used.
        has_shares: whether numbers upwards are shares.
    """

    across: tuple[float, float] = (0.0, 1.0)
    upwards: tuple[float, float] = (0.0, 1.0)
    has_shares: bool = False

    def x(self, share: float) -> float:
        """The coordinate of a number on the horizontal axis."""
        low, high = self.across
        return self.left + (share - low) / (high - low) * (self.right - self.left)

    def y(self, share: float) -> float:
        """The coordinate of a number on the vertical axis."""
        low, high = self.upwards
        return self.bottom - (share - low) / (high - low) * (self.bottom - self.top)

    @property
    def x_ticks(self) -> list[Tick]:
        """Some round numbers."""
        return [Tick(self.x(value), short(value)) for value in round_numbers(*self.across)]

    @property
    def y_ticks(self) -> list[Tick]:
        """Some round numbers."""
        words: Words = "{:.3g} %".format if self.has_shares else short
        scale = 100 if self.has_shares else 1
        return [Tick(self.y(value), words(scale * value)) for value in round_numbers(*self.upwards)]


def round_numbers(low: float, high: float, most: int = 7) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of 10 from `low` to `high`, `most` at most."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    steps = (power * times for times in (1, 2, 5, 10, 20))
    step = next(step for step in steps if math.floor(high / step) - math.ceil(low / step) < most)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [place * step for place in range(first, last + 1)]


def short(value: float) -> str:
    """A round number in few characters."""
    size = abs(value)
    unit, sign = (1e6, "M") if 1e6 <= size < 1e9 else (1e3, "k") if 1e4 <= size < 1e6 else (1.0, "")
    return f"{value / unit:.6g}{sign}".replace("-", "−")


def scatter_chart(predictions: Predictions, half_width: float | None, words: Words) -> Chart:
    """Predictions against labels, the interval as a band; how far off they are in fifths of the labels."""
    labels, preds = (each.astype(np.float64) for each in (predictions.labels, predictions.preds))
    low, high = min(labels.min(), preds.min()), max(labels.max(), preds.max())
    room = 0.04 * (high - low) or max(abs(low), 1.0) * 0.5
    low, high = low - room, high + room
    name = predictions.class_names[0]
    axes = ValueAxes(0.0, "labelled", "predicted", across=(low, high), upwards=(low, high))
    if half_width is not None:
        h = min(half_width, high - low)
        xs = (low, high - h, high, high, low + h, low)
        ys = (low + h, high, high, high - h, low, low)
        axes.paths.append(SvgPath("band", f"M{axes.line(xs, ys)}Z"))
    axes.paths.append(SvgPath("ideal", f"M{axes.line((low, high), (low, high))}"))
    drawn = _drawn(labels, np.abs(preds - labels))
    dots = (f"M{axes.x(labels[row]):.1f} {axes.y(preds[row]):.1f}h0" for row in drawn)
    axes.paths.append(SvgPath("dots", "".join(dots)))
    heads: tuple[str, ...] = ("labelled", "texts", "mean error", "MAE")
    rows = []
    for some in np.array_split(np.argsort(labels, kind="stable"), min(PARTS, len(labels))):
        errors = preds[some] - labels[some]
        signed = f"{'+' if errors.mean() >= 0 else ''}{words(errors.mean())}"
        cells = [f"{words(labels[some].min())} – {words(labels[some].max())}", f"{len(some):,}", signed]
        cells.append(words(np.abs(errors).mean()))
        if half_width is not None:
            cells.append(f"{(np.abs(errors) <= half_width).mean():.1%}")
        rows.append(cells)
    if half_width is not None:
        heads = (*heads, "inside")
    left = len(labels) - len(drawn)
    drawn_words = f"; {left:,} of {len(labels):,} texts are not drawn" if left else ""
    description = f"Predicted against labelled {name}{drawn_words}"
    return Chart(description, axes, Table(heads, rows, is_open=True))


def _drawn(labels: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Indices of the rows that are drawn: the furthest off, and others evenly over the labels."""
    if len(labels) <= DOTS:
        return np.arange(len(labels))
    far = np.argsort(-distance, kind="stable")[:FAR_DOTS]
    places = np.linspace(0, len(labels) - 1, DOTS - FAR_DOTS).round().astype(int)
    return np.union1d(far, np.argsort(labels, kind="stable")[places])


def error_chart(predictions: Predictions, half_width: float | None, words: Words) -> Chart:
    """How many predictions are off by how much, above and below; quantiles of it."""
    errors = predictions.preds.astype(np.float64) - predictions.labels
    end = float(np.quantile(np.abs(errors), SHOWN)) or float(np.abs(errors).max()) or 1.0
    edges = np.linspace(-end, end, BARS + 1)
    counts = np.bincount(
        np.clip(np.searchsorted(edges, errors, side="right") - 1, 0, BARS - 1), minlength=BARS
    )
    shares = counts / len(errors)
    wide = max(end, half_width or 0.0) * 1.03
    axes = ValueAxes(
        0.0,
        "predicted less labelled",
        "share of the texts",
        across=(-wide, wide),
        upwards=(0.0, float(shares.max()) * 1.08),
        has_shares=True,
    )
    places = [axes.x(edge) for edge in edges]
    axes.paths += [
        SvgPath(
            "bars", f"M{left + 0.5:.1f} {axes.bottom}V{axes.y(share):.1f}H{right - 0.5:.1f}V{axes.bottom}Z"
        )
        for left, right, share in zip(places, places[1:], shares, strict=False)
        if share
    ]
    ends = () if half_width is None else (-half_width, half_width)
    axes.paths += [SvgPath("ideal", f"M{axes.x(each):.1f} {axes.bottom}V{axes.top}") for each in ends]
    rows = []
    for name, values in (("error", errors), ("absolute", np.abs(errors))):
        rows.append([name, *map(words, np.quantile(values, QUANTILES).tolist()), words(float(values.max()))])
    heads = ("share below", *(f"{share:.0%}" for share in QUANTILES), "most")
    description = "Errors; their quantiles are in the table below"
    return Chart(description, axes, Table(heads, rows, is_open=True))
