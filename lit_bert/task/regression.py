"""A number a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from lit_bert.task.base import Choice, Score, Scorer, Task
from lit_bert.task.guarantee import COVERAGE, Coverage, Labelled, Promise, interval, percent

SCALE, INTERVAL = "scale", "interval"  # parameters: mean and deviation of the labels; half an interval
COVERED = 0.9  # of the numbers, by the interval of an answer
DECIMALS = 6
OUTLIER = 3.0
MAD_TO_DEVIATION = 1.4826  # of a normal distribution, from the median absolute deviation


class Number(NamedTuple):
    """The answer to a text.

    Attributes:
        value: the expected number.
        low, high: the ends of an interval that holds the number of 9 in 10 texts like those that were
            validated on; None where these were too few to tell.
        truncated: whether the end of the text was not read, as it has more tokens than the model takes.
    """

    value: float
    low: float | None
    high: float | None
    truncated: bool


class Regression(Task):
    """Each text has a number; outputs (N, 1) are its expected value, in the unit of the labels.

    The network learns the number less the mean of the training labels, in units of their standard deviation.
    An interval is that of split conformal prediction (Vovk et al., 2005; Lei et al., 2018): a quantile of the
    absolute errors of the validation rows on both sides.
    """

    kind = "regression"
    summary = "a number"
    problem_type = "regression"
    label_form = "number"
    choice_use = "the width of intervals"
    worst = "largest"
    worst_note = "Furthest from the label, above or below it."
    gain_unit = "in its unit"
    guarantees = (COVERAGE,)
    set_words: ClassVar[str] = "the interval of a text holds its number at a rate of {rate}"
    size_words: ClassVar[str] = "it is the value ± {size:.4g}"
    fewest_classes = 1
    class_scores = ()
    scores: ClassVar[tuple[Score, ...]] = (
        Score("r2", "R²", "R², share of the variance that is explained"),
        Score("mae", "MAE", "mean absolute error", is_error=True),
        Score("rmse", "RMSE", "root mean squared error", is_error=True),
        Score("pearson", "Pearson", "Pearson's correlation"),
        Score("spearman", "Spearman", "Spearman's rank correlation"),
        Score("loss_nats", "loss, nats", "half the squared error, in units of the labels' variance", True),
    )
    main = "r2"
    logged_names = ("r2", "mae", "rmse", "pearson")
    logged_main = "r2"
    parameter_sizes: ClassVar[dict[str, int]] = {SCALE: 2, INTERVAL: 1}

    def check_parameters(self) -> None:
        for name, values in self.own_parameters.items():
            if len(values) != self.parameter_sizes.get(name) or not all(map(math.isfinite, values)):
                wanted = " and ".join(f"{size} of {each}" for each, size in self.parameter_sizes.items())
                raise ValueError(f"a task of kind {self.kind} has finite numbers, {wanted}")
        if self.deviation <= 0 or (self.half_width or 0) < 0 or len(self.class_names) != 1:
            raise ValueError("one number has a deviation above 0, and half an interval of 0 or more")

    @property
    def mean(self) -> float:
        """Of the training labels."""
        return self.parameters.get(SCALE, (0.0, 1.0))[0]

    @property
    def deviation(self) -> float:
        """The standard deviation of the training labels."""
        return self.parameters.get(SCALE, (0.0, 1.0))[1]

    @property
    def unit(self) -> float:
        return self.deviation

    @property
    def half_width(self) -> float | None:
        """Half the width of an interval, in the unit of the labels; None where it is not known."""
        promised = self.promises.get(COVERAGE)
        if isinstance(promised, Coverage):
            return promised.size
        found = self.parameters.get(INTERVAL)
        return found[0] if found else None

    @property
    def covered(self) -> str:
        """Of the numbers, by an interval."""
        return percent(self.promises[COVERAGE].rate if self.promises else COVERED)

    @classmethod
    def parameters_of_labels(cls, labels: np.ndarray) -> dict[str, tuple[float, ...]]:
        values = labels.astype(np.float64)
        return {SCALE: (float(values.mean()), float(values.std()) or 1.0)}

    def loss(
        self, functional: Any, logits: Any, labels: Any, label_smoothing: float = 0.0, weights: Any = None
    ) -> Any:
        """Half the squared error in units of the labels' variance; there is nothing to smooth.

        It is, but for a constant, the nats of a normal distribution with the labels' standard deviation.
        """
        wanted = (labels - self.mean) / self.deviation
        losses = 0.5 * (logits[:, 0] - wanted).square()
        return losses.mean() if weights is None else (weights * losses).mean()

    def metrics(self, torchmetrics: Any) -> dict[str, Any]:
        class R2(torchmetrics.R2Score):
            """0 of a single row, whose label does not vary, as of rows with one label."""

            def compute(self) -> Any:
                return super().compute() if self.total > 1 else self.sum_error.new_tensor(0.0)

        kinds = {
            "r2": R2(),
            "mae": torchmetrics.MeanAbsoluteError(),
            "rmse": torchmetrics.MeanSquaredError(squared=False),
            "pearson": torchmetrics.PearsonCorrCoef(),
        }
        wrap = torchmetrics.wrappers.LambdaInputTransformer
        return {name: wrap(metric, self._values) for name, metric in kinds.items()}

    def _values(self, logits: Any) -> Any:
        return logits[:, 0].float() * self.deviation + self.mean

    def logged(self, computed: dict[str, Any]) -> tuple[dict[str, Any], Any, list[int]]:
        return {name: computed[name] for name in self.logged_names}, [], []

    def outputs(self, logits: np.ndarray) -> np.ndarray:
        return (logits.astype(np.float64) * self.deviation + self.mean).astype(np.float32)

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        return outputs[:, 0]

    def answer(self, outputs: np.ndarray, truncated: bool) -> Any:
        return Number(*self._with_interval(float(outputs[0])), truncated)

    def _with_interval(self, value: float) -> tuple[float, float | None, float | None]:
        if self.half_width is None:
            return value, None, None
        lowest, highest = self.label_range
        return value, max(value - self.half_width, lowest), min(value + self.half_width, highest)

    def answer_schema(self) -> dict[str, Any]:
        end = {"type": ["number", "null"]}
        return {
            "value": {"type": "number", "description": "the expected number"},
            "low": {
                **end,
                "description": f"the lower end of a {self.covered} interval; null where it is not known",
            },
            "high": {**end, "description": "the upper end of it"},
        }

    def explained_class(self, outputs: np.ndarray) -> int:
        return 0

    def support(self, outputs: np.ndarray) -> np.ndarray:
        return outputs.astype(np.float64)

    def columns(self) -> list[str]:
        return ["predicted_value", "low", "high"]

    def cells(self, outputs: np.ndarray) -> list[Any]:
        found = self._with_interval(float(outputs[0]))
        return [None if value is None else round(value, DECIMALS) for value in found]

    def shown(self, label: Any) -> str:
        return f"{float(label):.6g}"

    def limits(self) -> str:
        interval = (
            f"The interval around it is for {self.covered} of the numbers."
            if self.half_width is not None
            else "It gives no interval, as there were too few validation rows."
        )
        return (
            f"It gives {self.summary} ({self.class_names[0]}) to any text, in whatever language and about "
            f"whatever it is. {interval}"
        )

    def stored_labels(self, labels: np.ndarray) -> list[Any]:
        return labels.tolist()

    def labels_of(self, cells: Sequence[Any]) -> np.ndarray:
        if not all(isinstance(cell, int | float) and math.isfinite(cell) for cell in cells):
            raise ValueError("labels that are no finite numbers")
        if not all(self.label_range[0] <= cell <= self.label_range[1] for cell in cells):
            raise ValueError("labels below {:g} or above {:g}".format(*self.label_range))
        return np.array(cells, dtype=np.float32)

    def outputs_problem(self, outputs: np.ndarray) -> str | None:
        return None

    def scorer(self, outputs: np.ndarray, labels: np.ndarray) -> Scorer:
        x, y = outputs[:, 0].astype(np.float64), labels.astype(np.float64)
        errors, losses, spearman = np.abs(x - y), self.row_losses(outputs, labels), WeightedSpearman(x, y)

        def score(times: np.ndarray) -> np.ndarray:
            total = times.sum()
            squared, centred = times @ errors**2, times @ (y - times @ y / total) ** 2
            r2 = 1 - squared / centred if centred > 0 else 0.0
            mae, rmse = times @ errors / total, np.sqrt(squared / total)
            return np.array(
                [r2, mae, rmse, correlation(x, y, times), spearman(times), times @ losses / total]
            )

        return score

    def row_losses(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        errors = (outputs[:, 0].astype(np.float64) - labels.astype(np.float64)) / self.deviation
        return 0.5 * errors**2

    def is_right(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
        return None

    def confidence(self, outputs: np.ndarray) -> np.ndarray:
        return np.zeros(len(outputs))

    def errors(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Indices of the rows outside their interval (all, where there is none), the furthest off first."""
        distance = np.abs(outputs[:, 0].astype(np.float64) - labels)
        order = np.argsort(-distance, kind="stable")
        return order[distance[order] > (self.half_width or 0.0)]

    def suspected_labels(self, outputs: np.ndarray, labels: np.ndarray, filters: Any) -> np.ndarray:
        """Rows whose number is off by more than `OUTLIER` robust standard deviations of all errors."""
        errors = outputs[:, 0].astype(np.float64) - labels
        distance = np.abs(errors - np.median(errors))
        far = np.flatnonzero(distance > OUTLIER * MAD_TO_DEVIATION * np.median(distance))
        return far[np.argsort(-distance[far], kind="stable")]

    def label_counts(self, labels: np.ndarray) -> list[int]:
        return []

    def guarantee(self, name: str, rate: float, rows: Labelled, validated: Labelled) -> Promise | None:
        return interval(rate, rows.outputs[:, 0], rows.labels)

    def held(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return (np.abs(outputs[:, 0].astype(np.float64) - labels) <= self.half_width).astype(np.float64)

    def logits_of(self, outputs: np.ndarray) -> np.ndarray:
        return (outputs.astype(np.float64) - self.mean) / self.deviation

    def choose(self, outputs: np.ndarray, labels: np.ndarray) -> Choice | None:
        """Half the width of the interval."""
        errors = np.sort(np.abs(outputs[:, 0].astype(np.float64) - labels))
        place = math.ceil((len(errors) + 1) * COVERED)
        if place > len(errors):
            return Choice(self, {"kept": False, "rows": len(errors), "half_width": None})
        half = float(errors[place - 1])
        fact = {"kept": True, "rows": len(errors), "half_width": half}
        return Choice(self.with_parameters(interval=[half]), fact)

    def choice_note(self, fact: dict[str, Any]) -> str:
        if not fact["kept"]:
            return f"no interval: {fact['rows']:,} rows are too few for one of {COVERED:.0%}"
        return (
            f"interval {COVERED:.0%}: the value ± {fact['half_width']:.4g}, by the errors of "
            f"{fact['rows']:,} rows"
        )

    def exported(self) -> tuple[Any, float, float]:
        kept = {name: values for name, values in self.parameters.items() if name != SCALE}
        return self.of(self.class_names, kept), self.deviation, self.mean


def correlation(x: np.ndarray, y: np.ndarray, times: np.ndarray) -> float:
    """Pearson's correlation of x and y (N,), each row counted so many times; 0 where one does not vary."""
    total = times.sum()
    x, y = x - times @ x / total, y - times @ y / total
    spread = math.sqrt((times @ x**2) * (times @ y**2))
    return float(times @ (x * y) / spread) if spread > 0 else 0.0


class WeightedSpearman:
    """Spearman's rank correlation of x and y (N,), as a function of how many times each row counts."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self._groups = [np.unique(each, return_inverse=True)[1] for each in (x, y)]

    def __call__(self, times: np.ndarray) -> float:
        ranks = []
        for groups in self._groups:
            sizes = np.bincount(groups, times)  # equal values share the mean of their ranks
            ranks.append((np.cumsum(sizes) - (sizes - 1) / 2)[groups])
        return correlation(ranks[0], ranks[1], times)
