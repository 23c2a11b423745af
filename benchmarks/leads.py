"""What was tried beside the kept recipe, as callbacks that set public attributes of BertClassifier.

`fit` is given one by `--trainer.callbacks`; benchmarks/recipe.py has the table of all.

    python -m lit_bert fit --trainer.callbacks+=benchmarks.leads.RobustLoss
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, kl_div, log_softmax

from benchmarks import harness
from lit_bert.data.batches import LengthGroupedSampler, collate
from lit_bert.model.bert import CpuBert
from lit_bert.model.windows import text_logits

LAYER_DECAY = 0.9  # of the learning rate, from each layer to the one below
DIVERGENCE_WEIGHT = 1.0  # of two predictions for one text, beside their losses
ROBUSTNESS = 0.3  # q of the generalized cross-entropy: 0 is cross-entropy, 1 the mean absolute error
ADAPT_EPOCHS, ADAPT_RATE, ADAPT_BATCH = 10, 2e-4, 64
MASKED = 0.15  # of the tokens


class PlainOperations(Callback):
    """Leaves the forward pass to transformers and the optimizer to torch."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        model: Any = pl_module
        model.fast_operations = False


class LayerDecay(Callback):
    """Learning rates that fall from layer to layer (Howard and Ruder, 2018)."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        model: Any = pl_module
        layers = model.network.config.num_hidden_layers

        def rate_factor(name: str) -> float:
            if not name.startswith("network.bert.") or ".pooler." in name:
                return 1.0
            depth = layers - 1 - int(name.split(".")[4]) if ".layer." in name else layers
            return float(LAYER_DECAY**depth)

        model.rate_factor = rate_factor


class RDrop(Callback):
    """Two dropout masks that should agree (Wu et al., 2021), https://arxiv.org/abs/2106.14448."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        model: Any = pl_module
        smoothing = model.hparams.label_smoothing

        def objective(logits: Tensor, batch: dict[str, Any]) -> Tensor:
            again = text_logits(model, batch)
            one, other = log_softmax(logits, -1), log_softmax(again, -1)
            divergence = kl_div(one, other, log_target=True, reduction="batchmean")
            divergence = divergence + kl_div(other, one, log_target=True, reduction="batchmean")
            loss = sum(
                cross_entropy(each, batch["labels"], label_smoothing=smoothing) for each in (logits, again)
            )
            return (loss + DIVERGENCE_WEIGHT * divergence) / 2

        model.objective = objective


class AgreeingPasses(Callback):
    """The second pass of a batch should also agree with the first (Jiang et al., 2020)."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        model: Any = pl_module
        smoothing = model.hparams.label_smoothing
        first_batch: Any = None
        first_pass: Any = None

        def objective(logits: Tensor, batch: dict[str, Any]) -> Tensor:
            nonlocal first_batch, first_pass
            loss = cross_entropy(logits, batch["labels"], label_smoothing=smoothing)
            if first_batch is not batch:
                first_batch, first_pass = batch, log_softmax(logits.detach(), -1)
                return loss
            divergence = kl_div(log_softmax(logits, -1), first_pass, log_target=True, reduction="batchmean")
            return loss + DIVERGENCE_WEIGHT * divergence

        model.objective = objective


class BalancedLoss(Callback):
    """The loss weighted by one over the root of the rows of the class."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        model: Any = pl_module
        data: Any = trainer
        labels = torch.from_numpy(data.datamodule.train_rows.labels)
        counts = torch.bincount(labels, minlength=len(model.hparams.label_names))
        weights = counts.clamp(min=1).float().rsqrt()
        weights *= len(labels) / weights[labels].sum()  # 1 on average
        smoothing = model.hparams.label_smoothing

        def objective(logits: Tensor, batch: dict[str, Any]) -> Tensor:
            return cross_entropy(logits, batch["labels"], weights, label_smoothing=smoothing)

        model.objective = objective


class RobustLoss(Callback):
    """Generalized cross-entropy (Zhang and Sabuncu, 2018), https://arxiv.org/abs/1805.07836."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        model: Any = pl_module

        def objective(logits: Tensor, batch: dict[str, Any]) -> Tensor:
            given = logits.softmax(-1).gather(1, batch["labels"][:, None])
            return (1 - given**ROBUSTNESS).mean() / ROBUSTNESS

        model.objective = objective


class MeanPooling(Callback):
    """The mean of all tokens instead of [CLS], before the pooler; other tools could not load such a model.

    Computed by the modules of transformers: the faster path computes the last layer for [CLS] alone.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        model: Any = pl_module
        model.fast_operations = False
        bert, mask = model.network.bert, None

        def remember_mask(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            nonlocal mask
            mask = kwargs["attention_mask"][..., None]

        def mean(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            (states,) = args  # (B, T, H)
            assert mask is not None
            return ((states * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True),)

        bert.register_forward_pre_hook(remember_mask, with_kwargs=True)
        bert.pooler.register_forward_pre_hook(mean)


class Adapted(Callback):
    """Masked-language pretraining on the training texts before the first step (Gururangan et al., 2020)."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model: Any = pl_module
        data: Any = trainer
        pretrain(model.network, data.datamodule.train_rows, harness.round_number())


def pretrain(network: Any, rows: Any, seed: int, epochs: int = ADAPT_EPOCHS) -> list[float]:
    """Masked-language pretraining of the encoder. Returns the mean loss of each epoch, in nats a token.

    15 % of the tokens are predicted; of these 80 % are masked, 10 % replaced, 10 % left. The head starts as
    the identity over the word embeddings, because the packaged weights come without one.
    """
    generator = torch.Generator().manual_seed(seed)
    bert, encoder, size = network.bert, CpuBert(network), network.config.hidden_size
    table = bert.embeddings.word_embeddings.weight
    transform, norm = nn.Linear(size, size), nn.LayerNorm(size)
    nn.init.eye_(transform.weight)
    nn.init.zeros_(transform.bias)
    bias = nn.Parameter(torch.zeros(len(table)))
    body = [each for name, each in bert.named_parameters() if not name.startswith("pooler")]
    head = [*transform.parameters(), *norm.parameters(), bias]
    groups = [{"params": body, "lr": ADAPT_RATE}, {"params": head, "lr": 5 * ADAPT_RATE}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
    steps = epochs * -(-len(rows) // ADAPT_BATCH)
    warmup = max(1, int(0.06 * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / steps)
    )
    sampler = LengthGroupedSampler(rows.lengths, ADAPT_BATCH, seed)
    special = torch.tensor([0, 100, 101, 102])  # [PAD], [UNK], [CLS], [SEP] of the vocabulary of BERT
    means = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        order, losses = list(sampler), []
        for start in range(0, len(order), ADAPT_BATCH):
            batch = collate([rows[index] for index in order[start : start + ADAPT_BATCH]])
            ids = batch["input_ids"]
            chosen = (torch.rand(ids.shape, generator=generator) < MASKED) & ~torch.isin(ids, special)
            if not chosen.any():
                continue
            fate, shown = torch.rand(ids.shape, generator=generator), ids.clone()
            shown[chosen & (fate < 0.8)] = 103  # [MASK]
            anything = torch.randint(1000, len(table), ids.shape, generator=generator)
            shown = torch.where(chosen & (fate >= 0.9), anything, shown)
            with torch.autocast("cpu", torch.bfloat16):
                states = encoder.encode(shown, batch["attention_mask"], ids.shape[1])[chosen]
                logits = norm(gelu(transform(states)).float()) @ table.t() + bias
            loss = cross_entropy(logits.float(), ids[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*body, *head], 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        means.append(statistics.mean(losses))
        print(f"masked-language epoch {epoch + 1}: {means[-1]:.3f} nats", file=sys.stderr)
    optimizer.zero_grad()
    return means
