"""How a classifier is made of labelled rows: one function a method, one table.

Each has the network as it starts, and leaves it trained on some of the rows.

    python -m lit_bert fit --method frozen --data.dataset reviews.csv
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lit_bert import UserError
from lit_bert.model.average import WeightSum
from lit_bert.train.bench import Bench, best_head, set_head
from lit_bert.train.features import features_of
from lit_bert.train.run import FitRun
from lit_bert.train.trainer_limits import needs_validations
from lit_bert.train.zero_shot import class_head


def frozen(bench: Bench, rows: np.ndarray) -> None:
    """Fits the last layer alone."""
    set_head(bench.run, bench.head(rows))


def finetune(bench: Bench, rows: np.ndarray) -> None:
    """Trains the whole network, whose classifier starts as the best one where the recipe says so."""
    start_finetuning(bench, rows)
    bench.train(rows)


def start_finetuning(bench: Bench, rows: np.ndarray) -> None:
    """Has the network as it starts to be trained on some rows."""
    bench.reset()
    if bench.run.model.hparams.head_start:
        set_head(bench.run, bench.head(rows))


def contrastive(bench: Bench, rows: np.ndarray) -> None:
    """Has texts of one class come near each other and others apart, then fits the last layer.

    SetFit's loss (Tunstall et al., 2022, https://arxiv.org/abs/2209.11055) of all pairs of a batch, those of
    one class and those of two alike: the square of how far the cosine of two texts is from 1 where they have
    one class, and from 0 where not.
    """
    run = bench.run
    bench.reset()
    seen: list[Tensor] = []
    logits = run.model.encoder.logits_of(run.model.network)
    hook = logits.register_forward_pre_hook(lambda _, given: seen.append(given[0]))

    def objective(logits: Tensor, batch: dict[str, Any]) -> Tensor:
        features = normalize(seen[-1].float(), dim=1)
        seen.clear()
        labels = batch["labels"]
        same = (labels[:, None] == labels[None]).float()
        errors = (features @ features.T - same).square()
        of_others = 1 - torch.eye(len(labels), device=labels.device)
        kinds = (same * of_others, 1 - same)  # as many pairs of one class as of two
        return sum((each * errors).sum() / each.sum().clamp(min=1) for each in kinds) / 2

    try:
        bench.train(rows, objective)
    finally:
        hook.remove()
    fit_last_layer(bench, rows)


def fit_last_layer(bench: Bench, rows: np.ndarray) -> None:
    """Fits the last layer to some rows, on the network as it stands."""
    some = bench.rows.view(rows)
    set_head(bench.run, best_head(bench.run, some, features_of(bench.run, some)))


def soup(bench: Bench, rows: np.ndarray) -> None:
    """Leaves the mean of the networks of three methods, which vary more from draw to draw than it does."""
    networks = WeightSum()
    for method in (frozen, finetune, contrastive):
        method(bench, rows)
        networks.add(bench.run.model.network)
    networks.load_mean(bench.run.model.network)


def zero_shot(bench: Bench, rows: np.ndarray) -> None:
    """Has each class be where its name lies: nothing is learned of the rows."""
    bench.reset()
    set_head(bench.run, class_head(bench.run, bench.run.descriptions))


@dataclass(frozen=True)
class Method:
    """A way to make a classifier of labelled rows.

    Attributes:
        summary: for the help of `--method`.
        fit: leaves the network of a bench trained on some of its rows, int (M,).
        finish: likewise, once the mean of several such networks is in its place; None has nothing left to do.
        trainings: how many networks take steps.
        is_of_the_run: whether the trainer of the run can take them.
    """

    summary: str
    fit: Callable[[Bench, np.ndarray], None]
    finish: Callable[[Bench, np.ndarray], None] | None = None
    trainings: int = 1
    is_of_the_run: bool = False

    @property
    def trains(self) -> bool:
        """Whether it takes steps."""
        return self.trainings > 0


METHODS = {
    "frozen": Method("the last layer alone, on the pretrained network as it is", frozen, trainings=0),
    "finetune": Method("all weights", finetune, is_of_the_run=True),
    "contrastive": Method(
        "texts of a class are drawn together, then the last layer", contrastive, fit_last_layer
    ),
    "soup": Method("the mean of the networks of these three", soup, trainings=2),
    "zero_shot": Method(
        "nothing is trained: the class whose name, or --descriptions, is nearest", zero_shot, trainings=0
    ),
}


def check_method(name: str, run: FitRun) -> None:
    """Raises a UserError where a method cannot be used for the task, the encoder or the devices."""
    needs_class = name in ("contrastive", "soup", "zero_shot")
    if needs_class and run.model.task.label_form != "class":
        raise UserError(
            f"--method is {name}, which needs one class a text, and the task is {run.data.task}. "
            "Choose finetune or frozen."
        )
    if name == "zero_shot" and run.data.tokenized.columns.form != "single":
        raise UserError(
            "--method is zero_shot, which compares a text with the name of a class, and a text has several "
            "columns here. Name one with --data.text_column, or choose another method."
        )
    reads_max = run.data.hparams.window_pooling == "max" and run.data.train_rows.long_texts is not None
    if reads_max and name != "finetune":
        raise UserError(
            f"--method is {name}, which reads the mean of a text's windows, and data.window_pooling is max. "
            "Choose finetune, or --data.window_pooling mean."
        )
    if needs_validations(run.settings) and "finetune" not in run.methods:
        raise UserError(
            f"--method is {name}, which validates no epoch and leaves out no batch, and checkpoint.monitor, "
            "early_stopping or a limit or interval of the trainer is set. Leave it out, or choose finetune."
        )
    if run.trainer.world_size > 1 and name != "finetune":
        raise UserError(
            f"--method is {name}, which uses one device. Add --trainer.devices 1, or choose finetune."
        )
    if run.model.trains_part and name != "finetune":
        raise UserError(
            f"--method is {name}, and model.lora or model.freeze is set, which only finetune knows. Leave "
            "them out, or choose finetune."
        )
