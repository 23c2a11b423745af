"""What the network of a run makes of texts: what its last linear layer is given of them, and its outputs.

python -m lit_bert fit --method frozen --data.dataset reviews.csv
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from lit_bert.data.batches import collate
from lit_bert.data.cache import TokenizedRows
from lit_bert.model.windows import pooled
from lit_bert.train.run import FitRun, bare_trainer


class Features(Callback):
    """Keeps what the last linear layer is given of the texts that are predicted, float32 (N, F)."""

    def __init__(self) -> None:
        self._found: list[Tensor] = []
        self._parts: list[Tensor] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        logits = pl_module.encoder.logits_of(pl_module.network)  # type: ignore[operator, union-attr]
        self._hook = logits.register_forward_pre_hook(lambda _, given: self._parts.append(given[0]))

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        found = torch.cat([each.float() for each in self._parts])
        self._parts.clear()
        if "text_index" in batch:
            found = pooled(found, batch["text_index"], "mean")
        self._found.append(found.cpu())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._hook.remove()
        self.values = torch.cat(self._found)


def features_of(run: FitRun, rows: TokenizedRows) -> Tensor:
    """What the head of the network is given of rows, float32 (N, F)."""
    features = Features()
    _predict(run, rows, [features])
    return features.values[torch.from_numpy(_unsorted(rows))]


def outputs_of(run: FitRun, rows: TokenizedRows) -> np.ndarray:
    """What the network says of rows, float32 (N, C)."""
    return torch.cat(_predict(run, rows, [])).numpy()[_unsorted(rows)]


def _predict(run: FitRun, rows: TokenizedRows, callbacks: list[Callback]) -> list[Tensor]:
    loader = run.data.eval_loader(rows.view(_by_length(rows)))
    return bare_trainer(run, callbacks).predict(run.model, loader)  # type: ignore[return-value]


def _by_length(rows: TokenizedRows) -> np.ndarray:
    return np.argsort(-rows.lengths, kind="stable")


def _unsorted(rows: TokenizedRows) -> np.ndarray:
    """The place of each row in `_by_length`."""
    return np.argsort(_by_length(rows))


def features_of_texts(run: FitRun, texts: Sequence[str]) -> Tensor:
    """What the head of the network is given of texts, float32 (N, F)."""
    tokenizer = run.data.weights.tokenizer(run.data.hparams.max_length)
    items = [{"input_ids": np.array(each.ids), "labels": 0} for each in tokenizer.encode_batch(list(texts))]
    size = run.data.hparams.eval_batch_size
    batches = [
        collate(items[start : start + size], run.data.weights.pad_token_id)
        for start in range(0, len(items), size)
    ]
    features = Features()
    loader: Any = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    bare_trainer(run, [features]).predict(run.model, loader)
    return features.values
