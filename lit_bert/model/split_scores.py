"""The loss and the scores of a split, counted over its batches and all devices."""

from __future__ import annotations

from typing import Any

import torchmetrics
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection, SumMetric

from lit_bert.io import escape
from lit_bert.task.base import Task

MAIN = "score"  # the score that chooses between epochs, under a name that every kind of task has


class SplitScores(nn.Module):
    """Torchmetrics of one split, by the tags that they are logged with.

    Args:
        task: whose metrics.
        class_tags: of the F1 of each class, as `class_tags` gives them.

    Attributes:
        rows: how many were scored last, on all devices.
    """

    def __init__(self, task: Task, class_tags: list[str]) -> None:
        super().__init__()
        self.task, self.class_tags = task, class_tags
        self.rows = 0
        # By default it leaves out batches whose loss is NaN. This way it is given a loss for each row.
        self.loss, self.counted = MeanMetric(nan_strategy="disable"), SumMetric()
        self.metrics = MetricCollection(task.metrics(torchmetrics))

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Counts a batch: its mean loss (), logits (B, C) and labels (B,)."""
        self.loss.update(loss.detach().expand(len(logits)))
        self.counted.update(len(logits))
        self.metrics.update(logits.detach(), labels)

    def compute(self) -> dict[str, Any]:
        """The scores of the rows since the last time; no F1 for a class that is the label of no row."""
        computed = self.metrics.compute()  # syncs over the devices, as the loss does
        found = {"loss_nats": self.loss.compute()}
        self.rows = int(self.counted.compute())
        for metric in (self.loss, self.counted, self.metrics):
            metric.reset()
        scores, by_class, labelled = self.task.logged(computed)
        found |= scores | {MAIN: scores[self.task.logged_main]}
        present = zip(self.class_tags, by_class, labelled, strict=True)
        return found | {tag: value for tag, value, rows in present if rows}


def class_tags(class_names: list[str]) -> list[str]:
    """The tag of the F1 of each class, in a namespace in which no class can be called like a score."""
    return [f"f1_class/{tag}" for tag in escape.tags(class_names)]
