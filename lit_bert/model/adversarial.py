"""A second pass of training at perturbed word embeddings.

python -m lit_bert fit --model.adversarial_norm 1
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lit_bert.model.windows import text_logits

TINY = 1e-12  # keeps a gradient of zeros from being divided by zero


class FrozenEmbeddingGradient:
    """The gradient of word embeddings that are frozen, which torch does not keep.

    Args:
        words: their module. While `is_wanted`, what it gives is where the backward pass ends.
    """

    def __init__(self, words: nn.Embedding) -> None:
        self.words, self.is_wanted = words, False
        self._hook = words.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], embedded: Tensor) -> Tensor | None:
        if not self.is_wanted:
            return None
        self._read = inputs[0], embedded.detach().requires_grad_()  # ids (B, T), embeddings (B, T, H)
        return self._read[1].clone()  # which may be written to

    def gradient(self, processes: int) -> Tensor:
        """Of the table, after a backward pass: sparse, or where there are several processes, their mean."""
        ids, embedded = self._read
        assert embedded.grad is not None
        shape = self.words.weight.shape
        found = torch.sparse_coo_tensor(
            ids.flatten()[None], embedded.grad.flatten(0, 1), shape, check_invariants=False
        )
        if processes == 1:
            return found
        whole = found.to_dense()
        dist.all_reduce(whole)
        return whole.div_(processes)

    def release(self) -> None:
        """Lets go of the module."""
        self._hook.remove()


@contextmanager
def perturbed_embeddings(table: Tensor, gradient: Tensor, norm: float) -> Iterator[None]:
    """Adds to an embedding its gradient, scaled to a 2-norm of `norm` over all rows, while the block runs.

    Where that is sparse, only the rows that it has are read and written.
    """
    with torch.no_grad():
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            if table.grad is not None:
                table.grad = gradient
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


class SecondPass:
    """The second pass of each batch, at word embeddings moved along their gradient (Miyato et al., 2017).

    Args:
        words: the module of the word embeddings.
        norm: 2-norm by which those of a batch are moved.
        start: the optimizer step from which on there is one.
        trainer: of the run.
    """

    def __init__(self, words: nn.Embedding, norm: float, start: float, trainer: Trainer) -> None:
        self.table, self.norm, self.start, self.trainer = words.weight, norm, start, trainer
        self.frozen = None if words.weight.requires_grad else FrozenEmbeddingGradient(words)

    def before_first_pass(self) -> None:
        """Called before the first pass."""
        if self.frozen:
            self.frozen.is_wanted = self.trainer.global_step >= self.start

    def after_first_pass(self, model: Any, batch: dict[str, Any]) -> None:
        """Called after the backward pass of the first: adds the gradients of the second.

        Args:
            model: a BertClassifier.
        """
        trainer, processes = self.trainer, self.trainer.world_size
        if trainer.global_step < self.start:
            return
        gradient = self.table.grad
        if self.frozen:
            gradient, self.frozen.is_wanted = self.frozen.gradient(processes), False
        if gradient is None:
            return
        with perturbed_embeddings(self.table, gradient, self.norm):
            with trainer.precision_plugin.forward_context():
                logits = text_logits(model, batch)
                loss = model.training_loss(logits, batch) / trainer.accumulate_grad_batches
            before = pop_gradients(model.parameters()) if processes > 1 else {}
            trainer.precision_plugin.pre_backward(loss, model).backward()
            add_averaged_gradients(before, processes)  # DDP averages the first pass of a batch only

    def release(self) -> None:
        """Lets go of the module: the end of training."""
        if self.frozen:
            self.frozen.release()


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
