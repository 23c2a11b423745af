"""AdamW that updates word embeddings only where a batch reads them.

Over half of the parameters of a small BERT are word embeddings, of which a batch of short texts reads one or
two percent. On a CPU their dense gradient, its norm and its update cost more than all the attention.

    python -m benchmarks.train --only best lit_bert peak
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lit_bert import UserError

HISTORY = 1024  # steps that rows may be behind
REACH = 512  # steps after which momentum has decayed to nothing
MIN_BETA2 = 0.9  # below it √v falls to ε before momentum has decayed: 0.84 ends 1e-3 beside AdamW, 0.5 at NaN
ROWS = 4096  # brought up to date at a time


class DeferredAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter, 2019) whose embedding rows are brought up to date when they are read.

    A row without a gradient still moves: its moments decay, it follows them, and its weight decays. Those
    steps are made up for at once, in closed form, before the row is next read by its module or saved. With
    r = β1 / √β2, and lr and the bias corrections c1, c2 of each step j missed since the last one, s,

        p · Π (1 − lr_j λ) − m / (√v + ε') · Σ lr_j r^(j−s) √c2_j / c1_j · Π_(i>j) (1 − lr_i λ)

    is what AdamW makes of p, but for rounding and for ε, which is taken as of the first missed step. Code
    that reads the parameter in any other way calls `catch_up()` first.

    Args:
        groups: parameter groups as torch.optim.AdamW takes them, with `embedding.weight` in one of them.
        embedding: the module with the rows. Its gradients become sparse.
        lr: learning rate of groups without one.
    """

    grad_scale: Tensor | None = None  # torch's fused step divides gradients by it

    def __init__(self, groups: list[dict[str, Any]], embedding: nn.Embedding, lr: float) -> None:
        super().__init__(groups, lr=lr, fused=True)
        self._table = table = embedding.weight
        self.state[table] = {
            "step": torch.tensor(0.0),
            "exp_avg": torch.zeros_like(table),
            "exp_avg_sq": torch.zeros_like(table),
        }
        self._behind_since = torch.zeros(len(table), dtype=torch.long)  # by row: the last step it has seen
        self._shrink = torch.ones(HISTORY + 1, dtype=torch.float64)  # product of 1 - lr λ up to each step
        self._drift = torch.zeros(HISTORY + 1, dtype=torch.float64)  # the sum above by s, over `_shrink`
        self._epsilon = torch.zeros(HISTORY + 1)  # ε' by s
        self._forget()
        self._embedding, embedding.sparse = embedding, True
        self._hooks = [
            embedding.register_forward_pre_hook(lambda _, inputs: self.catch_up(inputs[0])),
            embedding.register_state_dict_pre_hook(lambda *_: self.catch_up()),
        ]
        self.register_state_dict_pre_hook(lambda _: self.catch_up())
        self.register_load_state_dict_post_hook(lambda _: self._forget())

    @staticmethod
    def can_run(embedding: nn.Embedding, beta2: float) -> bool:
        """Whether the rows are those of a plain embedding in 32 bits on a CPU, and the closed form holds."""
        where = embedding.weight.device.type, embedding.weight.dtype
        return type(embedding) is nn.Embedding and where == ("cpu", torch.float32) and beta2 >= MIN_BETA2

    def _forget(self) -> None:
        """Counts steps from here on: every row is up to date."""
        self._group = next(g for g in self.param_groups if any(p is self._table for p in g["params"]))
        self._steps = 0
        self._behind_since.zero_()
        self._drift.zero_()

    def release(self) -> None:
        """Brings all rows up to date and lets go of the module: the end of training."""
        self.catch_up()
        self._embedding.sparse = False
        for hook in self._hooks:
            hook.remove()

    def clip_norm(self, max_norm: float) -> None:
        """Has the next step scale all gradients to a joint 2-norm of at most `max_norm`."""
        self._coalesce()
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        flat = [(each.values() if each.is_sparse else each).flatten() for each in gradients]
        # A product with itself is found in half the time of a 2-norm.
        norm = torch.stack([torch.dot(each, each) for each in flat]).sum().sqrt()
        self.grad_scale = (norm / max_norm).clamp(min=1.0)

    def _coalesce(self) -> None:
        """Has each row stand once in the gradient of the rows."""
        table = self._table
        if table.grad is not None:  # dense where something else than the module read the rows
            table.grad = table.grad.coalesce() if table.grad.is_sparse else table.grad.to_sparse(1)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of AdamW; rows without a gradient are updated when they are next read."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._coalesce()
        gradient, self._table.grad = self._table.grad, None
        super().step()
        if gradient is not None:
            self._step_rows(gradient.indices()[0], gradient.values())
            self._table.grad = gradient
        self.grad_scale = None
        return loss

    def _step_rows(self, rows: Tensor, gradient: Tensor) -> None:
        """One step for the rows (N,) with their gradients (N, H)."""
        group, state, now = self._group, self.state[self._table], self._steps + 1
        lr, (beta1, beta2), eps = float(group["lr"]), group["betas"], group["eps"]
        shrink = 1 - lr * group["weight_decay"]
        if self.grad_scale is not None:
            gradient.div_(self.grad_scale)
        state["step"] += 1
        correction1, correction2 = (1 - beta ** state["step"].item() for beta in (beta1, beta2))
        weights, first, second = self._read(rows)
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        update = first / second.sqrt().div_(correction2**0.5).add_(eps)
        self._write(rows, weights.mul_(shrink).sub_(update, alpha=lr / correction1), first, second)

        # What the rows without a gradient have missed.
        self._epsilon[now - 1] = eps * correction2**0.5
        self._shrink[now] = self._shrink[now - 1] * shrink
        behind = torch.arange(max(0, now - REACH), now)
        powers = (beta1 / beta2**0.5) ** (now - behind).double()
        self._drift[behind] += lr * correction2**0.5 / correction1 / self._shrink[now] * powers
        self._behind_since[rows] = now
        self._steps = now
        if now == HISTORY:
            self.catch_up()

    @torch.no_grad()
    def catch_up(self, rows: Tensor | None = None) -> None:
        """Brings rows up to date.

        Args:
            rows: int64, any shape, with repeats; None: all.
        """
        if not self._steps:
            return
        due = self._behind_since < self._steps
        if rows is not None:
            asked = torch.zeros_like(due)
            asked[rows.flatten()] = True
            due &= asked
        for some in due.nonzero().flatten().split(ROWS):
            self._catch_up(some)
        if rows is None:
            self._forget()

    def _catch_up(self, rows: Tensor) -> None:
        now, since = self._steps, self._behind_since[rows]
        beta1, beta2 = self._group["betas"]
        missed = (now - since).double()[:, None]
        weights, first, second = self._read(rows)
        shrink = (self._shrink[now] / self._shrink[since]).float()[:, None]
        drift = (self._drift[since] * self._shrink[now]).float()[:, None]
        update = first / (second.sqrt() + self._epsilon[since, None])
        weights.mul_(shrink).addcmul_(update, drift, value=-1)
        self._write(rows, weights, first.mul_((beta1**missed).float()), second.mul_((beta2**missed).float()))
        self._behind_since[rows] = now

    def _read(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Copies of rows (N,): weights, first and second moments, each (N, H)."""
        state = self.state[self._table]
        tables = (self._table, state["exp_avg"], state["exp_avg_sq"])
        weights, first, second = (each.index_select(0, rows) for each in tables)  # `table[rows]` is slower
        return weights, first, second

    def _write(self, rows: Tensor, weights: Tensor, first: Tensor, second: Tensor) -> None:
        state = self.state[self._table]
        self._table.index_copy_(0, rows, weights)
        state["exp_avg"].index_copy_(0, rows, first)
        state["exp_avg_sq"].index_copy_(0, rows, second)


def fused_adamw(groups: list[dict[str, Any]], scales_loss: bool) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019) of torch in one operation for all parameters.

    Args:
        groups: parameter groups, each with its learning rate.
        scales_loss: whether the loss is scaled for 16-bit gradients.
    """
    optimizer: Any = torch.optim.AdamW(groups, fused=not scales_loss)
    # A fused optimizer offers to unscale gradients itself, and Lightning then refuses to clip them. Without a
    # loss scaler there is nothing to unscale.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def optimizer_of(model: Any, groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    """The optimizer of a run: `DeferredAdamW` where it can be.

    Args:
        model: a BertClassifier with its trainer.
        groups: its parameter groups.
    """
    trainer = model.trainer
    by_norm = trainer.gradient_clip_algorithm in (None, "norm")
    words = model.encoder.words_of(model.network)
    trains = words.weight in set(model.trained.values())
    can_defer = trainer.world_size == 1 and by_norm and DeferredAdamW.can_run(words, model.hparams.beta2)
    if model.fast_operations and trains and can_defer:
        return DeferredAdamW(groups, words, model.learning_rate)
    return fused_adamw(groups, scales_loss=getattr(trainer.precision_plugin, "scaler", None) is not None)


def deferred(optimizers: Iterable[Any]) -> list[DeferredAdamW]:
    """Those that bring rows up to date when they are read."""
    return [each for each in optimizers if isinstance(each, DeferredAdamW)]


def restore_moments_only(optimizer: torch.optim.Optimizer) -> None:
    """Has `load_state_dict` restore steps and moments of each parameter, and no settings."""

    def check(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        states = checked_moments(state_dict, [group["params"] for group in optimizer.param_groups])
        return {"state": states, "param_groups": optimizer.state_dict()["param_groups"]}

    optimizer.register_load_state_dict_pre_hook(check)


def reset_learning_rates(schedulers: Iterable[Any]) -> None:
    """Has the optimizers of a run that goes on take its own learning rates, and not those that it had."""
    for scheduler in schedulers:
        parts = (scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas)
        for group, rate, factor in zip(*parts, strict=True):
            group["lr"] = rate * factor(scheduler.last_epoch)


def checked_moments(state_dict: Any, groups: list[list[Tensor]]) -> dict[int, Any]:
    """How far each parameter has come, by its number, as a checkpoint has it of an AdamW.

    The moments have to fit the parameters: torch itself finds out in the next step, or never.

    Args:
        groups: the parameters of each group of this run's optimizer.

    Raises:
        UserError: they do not, or a group has other parameters.
    """
    saved = state_dict.get("param_groups") if isinstance(state_dict, dict) else None
    numbers = itertools.count()
    mine = [[next(numbers) for _ in group] for group in groups]
    if not isinstance(saved, list) or [_params(group) for group in saved] != mine:
        raise UserError("the optimizer of the checkpoint has other groups of parameters than this run.")
    parameters = [each for group in groups for each in group]
    states = state_dict.get("state")
    if not isinstance(states, dict):
        raise UserError("the optimizer of the checkpoint has no state.")
    for index, state in states.items():
        if type(index) is not int or not 0 <= index < len(parameters) or not isinstance(state, dict):
            raise UserError("the optimizer of the checkpoint has the state of an unknown parameter.")
        shape = parameters[index].shape
        shapes = {"step": torch.Size(()), "exp_avg": shape, "exp_avg_sq": shape}
        found = {name: value.shape if isinstance(value, Tensor) else None for name, value in state.items()}
        if found != shapes or not all(value.isfinite().all() for value in state.values()):
            raise UserError(f"the moments of parameter {index} in the checkpoint do not fit the parameter.")
    return states


def _params(group: Any) -> list[int] | None:
    """The numbers of a saved group's parameters; None where it has none."""
    found = group.get("params") if isinstance(group, dict) else None
    return found if isinstance(found, list) and all(type(each) is int for each in found) else None
