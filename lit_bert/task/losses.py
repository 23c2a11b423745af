"""Parts of training losses, of tensors, without importing torch."""

from __future__ import annotations

from typing import Any

LEAST_MISS = 1e-6  # of 1 - p in the focal loss: at 0 the gradient of its root is infinite


def focal_factor(probs: Any, gamma: float) -> Any:
    """What the loss of a label is multiplied by, of the label's probability: (1 - p) ** gamma."""
    return (1 - probs).clamp(min=LEAST_MISS) ** gamma


def smoothed(labels: Any, label_smoothing: float) -> Any:
    """Labels of 0 and 1, float (B, C), a share of each spread evenly over the classes."""
    if not label_smoothing:
        return labels
    return (1 - label_smoothing) * labels + label_smoothing * labels.mean(1, keepdim=True)


def label_losses(
    functional: Any,
    logits: Any,
    labels: Any,
    label_smoothing: float = 0.0,
    class_weights: Any = None,
    focal_gamma: float = 0.0,
) -> Any:
    """Binary cross-entropy of each text and class, (B, C), of labels of 0 and 1, float (B, C).

    A class weight is that of the texts which have the class, by the label before it is smoothed: what
    smoothing gives to other classes would be raised as well.
    """
    wanted = smoothed(labels, label_smoothing)
    losses = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    if class_weights is not None:
        losses = losses * (1 + (class_weights - 1) * labels)
    if focal_gamma:
        probs = (logits * (2 * labels - 1)).sigmoid()  # of having the class, or not having it, as labelled
        losses = losses * focal_factor(probs, focal_gamma)
    return losses
