"""The loss and the scores of a split, counted over its batches and all devices."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection, classification

from lit_bert.io import escape
from lit_bert.task.base import Task


class SplitScores(nn.Module):
    """Torchmetrics of one split, by the tags that they are logged with.

    Args:
        task: whose metrics.
        class_tags: of the F1 of each class, as `class_tags` gives them.

    Attributes:
        labelled: how many rows of each class were scored last.
    """

    def __init__(self, task: Task, class_tags: list[str]) -> None:
        super().__init__()
        self.class_tags = class_tags
        self.labelled: list[int] = []
        # By default it leaves out batches whose loss is NaN. This way it is given a loss for each row.
        self.loss = MeanMetric(nan_strategy="disable")
        self.metrics = MetricCollection(task.metrics(classification))

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Counts a batch: its mean loss (), logits (B, C) and labels (B,)."""
        self.loss.update(loss.detach().expand(len(logits)))
        self.metrics.update(logits.detach(), labels)

    def compute(self) -> dict[str, Any]:
        """The scores of the rows since the last time; no F1 for a class that is the label of no row."""
        found = {"loss_nats": self.loss.compute(), **self.metrics.compute()}  # both sync over the devices
        self.loss.reset()
        self.metrics.reset()
        by_class, self.labelled = found.pop("f1_class"), found.pop("class_counts")[:, -1].tolist()
        present = zip(self.class_tags, by_class, self.labelled, strict=True)
        return found | {tag: value for tag, value, rows in present if rows}


def class_tags(class_names: list[str]) -> list[str]:
    """The tag of the F1 of each class, in a namespace in which no class can be called like a score."""
    return [f"f1_class/{tag}" for tag in escape.tags(class_names)]
