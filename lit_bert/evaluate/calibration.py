"""What calibrating is worth: outputs of rows that it was not fitted on."""

from __future__ import annotations

import numpy as np

from lit_bert.task.base import Task


def cross_fitted(task: Task, logits: np.ndarray, labels: np.ndarray, seed: int = 0) -> np.ndarray | None:
    """Outputs (N, C) of rows whose calibration was fitted on the other half of them; None if it has none.

    What calibration is worth can only be told from rows that it was not fitted on.
    """
    outputs = np.empty(logits.shape, np.float32)
    for here, there in halves(len(labels), seed):
        fitted = task.calibration(logits[there], labels[there])
        if fitted is None:
            return None
        scale, shift = fitted
        outputs[here] = task.outputs(logits[here] * scale + shift)
    return outputs


def halves(count: int, seed: int = 0) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The rows in two random halves: the first and the second, and the second and the first."""
    order = np.random.default_rng(seed).permutation(count)
    one, other = order[: count // 2], order[count // 2 :]
    return (one, other), (other, one)
