"""A number from 0 to 1 a text, such as the share of annotators who said yes.

python -m lit_bert fit --data.dataset comments.csv --data.label_column toxicity --data.task proportion
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from lit_bert.task.base import Score, Task
from lit_bert.task.multi_label import MultiLabel, sigmoid
from lit_bert.task.regression import INTERVAL, Regression


class Proportion(Regression):
    """Each text has a number from 0 to 1; outputs (N, 1) are the sigmoid of the only logit.

    Fractional logistic regression (Papke and Wooldridge, 1996, Journal of Applied Econometrics 11): trained
    on the cross-entropy of the sigmoid with the number, which is least where the sigmoid is its expectation,
    however the numbers are distributed. The problem_type is that of several labels, as transformers then
    takes the sigmoid, too. Intervals are those of regression, cut off at 0 and 1.
    """

    kind = "proportion"
    summary = "a number from 0 to 1"
    problem_type = MultiLabel.problem_type
    label_range = (0.0, 1.0)
    gain_unit = "in log-odds"
    scores: ClassVar[tuple[Score, ...]] = (
        *Regression.scores[:-1],
        Score("loss_nats", "loss, nats", "cross-entropy, nats per text", is_error=True),
    )
    parameter_sizes: ClassVar[dict[str, int]] = {INTERVAL: 1}

    @classmethod
    def parameters_of_labels(cls, labels: np.ndarray) -> dict[str, tuple[float, ...]]:
        return {}

    def loss(
        self, functional: Any, logits: Any, labels: Any, label_smoothing: float = 0.0, weights: Any = None
    ) -> Any:
        """Binary cross-entropy with the numbers as they are; there is nothing to smooth."""
        found = functional.binary_cross_entropy_with_logits
        losses = found(logits[:, 0].float(), labels, reduction="none")  # not labels in the bits of the logits
        return losses.mean() if weights is None else (weights * losses).mean()

    def _values(self, logits: Any) -> Any:
        return logits[:, 0].float().sigmoid()

    def outputs(self, logits: np.ndarray) -> np.ndarray:
        return sigmoid(logits).astype(np.float32)

    def logits_of(self, outputs: np.ndarray) -> np.ndarray:
        return Task.support(self, outputs)  # log-odds

    def outputs_problem(self, outputs: np.ndarray) -> str | None:
        return Task.outputs_problem(self, outputs)

    def row_losses(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        logits = self.logits_of(outputs)[:, 0]
        return np.logaddexp(0, logits) - labels.astype(np.float64) * logits

    def answer_schema(self) -> dict[str, Any]:
        return {name: {**each, "minimum": 0, "maximum": 1} for name, each in super().answer_schema().items()}

    def choice_note(self, fact: dict[str, Any]) -> str:
        return super().choice_note(fact) + ", cut off at 0 and 1" * bool(fact["kept"])
