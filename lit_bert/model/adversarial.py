"""A second pass of training at perturbed word embeddings.

python -m lit_bert fit --model.adversarial_norm 1
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

TINY = 1e-12  # keeps a gradient of zeros from being divided by zero


@contextmanager
def perturbed_embeddings(table: Tensor, norm: float) -> Iterator[None]:
    """Adds to an embedding its gradient, scaled to a 2-norm of `norm` over all rows, while the block runs.

    Where that is sparse, only the rows that it has are read and written.
    """
    with torch.no_grad():
        gradient = table.grad
        assert gradient is not None
        if gradient.is_sparse:
            table.grad = gradient = gradient.coalesce()
            rows, values = gradient.indices()[0], gradient.values()
            kept = table.index_select(0, rows)
            table.index_add_(0, rows, values * (norm / values.norm().clamp(min=TINY)))
        else:
            kept = table.clone()
            table.add_(gradient * (norm / gradient.norm().clamp(min=TINY)))
    try:
        yield
    finally:
        with torch.no_grad():
            if gradient.is_sparse:
                table.index_copy_(0, rows, kept)
            else:
                table.copy_(kept)


def pop_gradients(parameters: Iterable[nn.Parameter]) -> dict[nn.Parameter, Tensor]:
    """The gradients of the parameters, which are then None."""
    taken = {each: each.grad for each in parameters if each.grad is not None}
    for each in taken:
        each.grad = None
    return taken


def add_averaged_gradients(before: Mapping[nn.Parameter, Tensor], processes: int) -> None:
    """Averages the gradients of the parameters over all processes, and adds those that they had before."""
    for parameter, gradient in before.items():
        now = torch.zeros_like(gradient) if parameter.grad is None else parameter.grad
        dist.all_reduce(now)
        parameter.grad = now.div_(processes).add_(gradient)
