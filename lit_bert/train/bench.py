"""The network of a run, trained on some of its rows and asked about others, from the same start each time.

python -m lit_bert fit --method finetune --data.dataset few.csv
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lit_bert.data.cache import TokenizedRows
from lit_bert.data.stratify import assign_parts
from lit_bert.model import head
from lit_bert.model.head import Head
from lit_bert.train.clock import Clock
from lit_bert.train.features import features_of, outputs_of
from lit_bert.train.recipe import ROWS_A_CLASS, epochs_for
from lit_bert.train.run import FitRun, bare_trainer
from lit_bert.train.zero_shot import class_head, has_named_classes, name_prior

TIMED_STEPS = 4
HEAD_FOLDS = 4  # by which the strength of a head's penalty is chosen


class Bench:
    """Trains and asks the network of a run.

    Args:
        run: its rows are known, and its network is built.
        rows: those that methods are tried on.

    Attributes:
        labels: of the rows, as the kind of task stores them.
        trainings_left: that share what is left of the run's time, the next one included.
    """

    trainings_left = 1

    def __init__(self, run: FitRun, rows: TokenizedRows) -> None:
        self.run, self.rows = run, rows
        self.labels = rows.labels
        self._start = {name: value.detach().clone() for name, value in run.model.network.state_dict().items()}
        self._features: Tensor | None = None
        self._heads: dict[bytes, Head] = {}

    @property
    def outputs_count(self) -> int:
        """What the network says of a text: how many values."""
        return self.run.model.encoder.logits_of(self.run.model.network).out_features

    @property
    def features(self) -> Tensor:
        """What the head of the network as it starts is given of each row, float32 (N, F)."""
        if self._features is None:
            self.reset()
            self._features = features_of(self.run, self.rows)
        return self._features

    def reset(self) -> None:
        """Has the network as it was."""
        self.run.model.network.load_state_dict(self._start)

    def head(self, rows: np.ndarray) -> Head:
        """The best head of the network as it starts, which it then is, for some of the rows, int (M,)."""
        self.reset()
        key = rows.tobytes()
        if key not in self._heads:  # several methods begin with it
            features = self.features[torch.from_numpy(rows)]
            self._heads[key] = best_head(self.run, self.rows.view(rows), features)
        return self._heads[key]

    def train(self, rows: np.ndarray, objective: Callable[..., Tensor] | None = None) -> None:
        """Trains the network as it stands on some of the rows, int (M,), without a validation.

        For as many epochs as the run, or where the recipe has chosen that, as many as suit the rows.

        Args:
            objective: what is minimised; None is the loss of the task.
        """
        run, data = self.run, self.run.data
        before, run.model.objective = run.model.objective, objective or run.model.objective
        everything, data.train_rows = data.train_rows, self.rows.view(rows)
        try:
            size = data.hparams.batch_size
            epochs = epochs_for(len(rows), size) if run.chose_epochs else run.trainer.max_epochs
            ends = run.budget.callbacks(1 / self.trainings_left)
            trainer = bare_trainer(run, ends, max_epochs=epochs, limit_val_batches=0)
            trainer.fit(run.model, data.train_dataloader())
            run.steps_beside += trainer.global_step
            self.trainings_left = max(1, self.trainings_left - 1)
        finally:
            data.train_rows, run.model.objective = everything, before

    def step_s(self) -> float:
        """Seconds of a training step, by a few of them, which leave the network changed."""
        clock, data = Clock(), self.run.data
        trainer = bare_trainer(self.run, [clock], max_steps=TIMED_STEPS, limit_val_batches=0)
        trainer.fit(self.run.model, data.train_dataloader())
        return float(np.median(clock.train[1:] or clock.train))

    def outputs(self, rows: np.ndarray) -> np.ndarray:
        """What the network says of some of the rows, int (M,): float32 (M, C)."""
        return outputs_of(self.run, self.rows.view(rows))


def best_head(run: FitRun, rows: TokenizedRows, features: Tensor) -> Head:
    """The head with the least loss of rows for the network as it stands.

    The strength of its penalty is chosen by cross-validation. With few rows a class it draws to the names of
    the classes.

    Args:
        features: of the rows, float32 (N, F).
    """
    model, labels = run.model, torch.from_numpy(rows.labels)
    weights = None if rows.weights is None else torch.from_numpy(rows.weights)
    outputs = int(model.encoder.logits_of(model.network).out_features)

    def loss(logits: Tensor, some: Tensor) -> Tensor:
        batch = {"labels": labels[some]} | ({} if weights is None else {"weights": weights[some]})
        return model.default_objective(logits, batch, label_smoothing=0.0)

    is_few = len(rows) < ROWS_A_CLASS * outputs
    prior = name_prior(class_head(run), features, labels) if is_few and has_named_classes(run) else None
    return head.best_head(features, folds_of(run, rows, HEAD_FOLDS), outputs, loss, prior=prior)


def folds_of(run: FitRun, rows: TokenizedRows, folds: int) -> np.ndarray:
    """The fold of each row, int64 (N,), which has its share of each label; no group is split."""
    shares = np.full(folds, 1 / folds)
    return assign_parts(rows.labels, shares, run.data.hparams.subset_seed, rows.groups)


def set_head(run: FitRun, head: Head) -> None:
    """Puts a head into the network."""
    logits = run.model.encoder.logits_of(run.model.network)
    with torch.no_grad():
        logits.weight.copy_(head.weight)
        if logits.bias is not None:
            logits.bias.copy_(head.bias)
