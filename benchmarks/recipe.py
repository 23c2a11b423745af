"""The recipe against what else has been proposed: each lead is `fit` with one thing changed, over seeds.

The scores are those of the validation split at the best epoch, which it also chooses; the test split is not
read. Runs have one thread each and stand side by side: their wall times compare among themselves only.
The table is written anew after each run.

    python -m benchmarks.recipe --rounds 3 || python -m benchmarks.recipe --rounds 3 --more
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import harness
from benchmarks.harness import Check, Contestant, Run, inner
from lit_bert import cores

if TYPE_CHECKING:
    from torch import Tensor

    from lit_bert.model.module import BertClassifier

KEPT = "kept"
LAYER_DECAY = 0.9  # of the learning rate, from each layer to the one below (Howard and Ruder, 2018)
DIVERGENCE_WEIGHT = 1.0  # R-Drop
ROBUSTNESS = 0.3  # q of the generalized cross-entropy: 0 is cross-entropy, 1 the mean absolute error
ADAPT_EPOCHS, ADAPT_RATE, ADAPT_BATCH = 10, 2e-4, 64
MASKED = 0.15  # of the tokens


@dataclass(frozen=True)
class Lead:
    """One thing to change.

    Attributes:
        what: what it is and where it comes from.
        flags: of `fit`.
        change: changes BertClassifier, in the contestant's own process, before `fit` runs.
    """

    what: str
    flags: tuple[str, ...] = ()
    change: Callable[[type[BertClassifier]], None] | None = None


# --- the leads ---


def layer_decay(model: type[BertClassifier]) -> None:
    plain = model._parameter_groups

    def groups(self: Any) -> list[dict[str, Any]]:
        layers = self.network.config.num_hidden_layers
        depths = {}  # of each parameter below the head, counted from the top layer
        for name, parameter in self.network.bert.named_parameters():
            if not name.startswith("pooler"):
                depths[parameter] = layers - 1 - int(name.split(".")[2]) if "layer" in name else layers
        found = []
        for group in plain(self):
            parameters = group.pop("params")
            for depth in sorted({depths.get(each, 0) for each in parameters}):
                own = [each for each in parameters if depths.get(each, 0) == depth]
                found.append({**group, "params": own, "lr": group["lr"] * LAYER_DECAY**depth})
        return found

    model._parameter_groups = groups  # type: ignore[method-assign]


def consistent(model: type[BertClassifier]) -> None:
    from torch.nn.functional import kl_div, log_softmax

    def training_step(self: Any, batch: dict[str, Any], batch_idx: int) -> Tensor:
        _, logits = self._step(batch, "train")
        again = self(batch["input_ids"], batch["attention_mask"]).float()
        one, other = log_softmax(logits, -1), log_softmax(again, -1)
        apart = kl_div(one, other, log_target=True, reduction="batchmean")
        apart = apart + kl_div(other, one, log_target=True, reduction="batchmean")
        loss = self._smoothed(logits, batch) + self._smoothed(again, batch)
        return (loss + DIVERGENCE_WEIGHT * apart) / 2

    model.training_step = training_step  # type: ignore[method-assign]


def agreeing(model: type[BertClassifier]) -> None:
    from torch.nn.functional import kl_div, log_softmax

    plain = model._smoothed

    def smoothed(self: Any, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        loss = plain(self, logits, batch)
        if self._of is not batch:
            self._of, self._clean = batch, log_softmax(logits.detach(), -1)
            return loss
        apart = kl_div(log_softmax(logits, -1), self._clean, log_target=True, reduction="batchmean")
        return loss + DIVERGENCE_WEIGHT * apart

    model._of = None  # type: ignore[attr-defined]
    model._smoothed = smoothed  # type: ignore[method-assign]


def balanced(model: type[BertClassifier]) -> None:
    import torch
    from torch.nn.functional import cross_entropy

    def smoothed(self: Any, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        labels = torch.from_numpy(self.trainer.datamodule.train_rows.labels)
        rarity = torch.bincount(labels).float().rsqrt()
        rarity *= len(labels) / rarity[labels].sum()  # 1 on average
        return cross_entropy(logits, batch["labels"], rarity, label_smoothing=self.hparams.label_smoothing)

    model._smoothed = smoothed  # type: ignore[method-assign]


def robust(model: type[BertClassifier]) -> None:
    def smoothed(self: Any, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        given = logits.softmax(-1).gather(1, batch["labels"][:, None])
        return (1 - given**ROBUSTNESS).mean() / ROBUSTNESS

    model._smoothed = smoothed  # type: ignore[method-assign]


def mean_pooled(model: type[BertClassifier]) -> None:
    import torch

    from lit_bert.model.bert import CpuBert

    def logits(self: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        network, mask = self.network, attention_mask[..., None]
        states = self.encode(input_ids, attention_mask, input_ids.shape[1])
        with torch.autocast("cpu", enabled=False):
            mean = (states * mask).sum(1) / mask.sum(1)
            return network.classifier(network.dropout(network.bert.pooler(mean[:, None])))

    CpuBert.__call__ = logits  # type: ignore[method-assign]


def adapted(model: type[BertClassifier]) -> None:
    plain = model.on_train_start

    def on_train_start(self: Any) -> None:
        pretrain(self.network, self.trainer.datamodule.train_rows)
        plain(self)

    model.on_train_start = on_train_start  # type: ignore[method-assign]


def pretrain(network: Any, rows: Any) -> None:
    """Masked-language pretraining of the encoder on the training texts, before the classifier sees a label.

    15 % of the tokens are predicted; of these 80 % are masked, 10 % replaced, 10 % left. The head starts as
    the identity over the word embeddings, because the packaged weights come without one.
    """
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy, gelu

    from lit_bert.data.batches import LengthGroupedSampler, collate
    from lit_bert.model.bert import CpuBert

    generator = torch.Generator().manual_seed(harness.round_number())
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
    steps = ADAPT_EPOCHS * -(-len(rows) // ADAPT_BATCH)
    warmup = max(1, int(0.06 * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / steps)
    )
    sampler = LengthGroupedSampler(rows.lengths, ADAPT_BATCH, harness.round_number())
    special = torch.tensor([0, 100, 101, 102])  # [PAD], [UNK], [CLS], [SEP] of the vocabulary of BERT
    for epoch in range(ADAPT_EPOCHS):
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
        print(f"masked-language epoch {epoch + 1}: {statistics.mean(losses):.3f} nats", file=sys.stderr)
    optimizer.zero_grad()


LOWER = "--model.learning_rate=1.4e-4"  # 0.7 of what MiniLM gets by its size

LEADS = {
    KEPT: Lead("base.yaml as it is"),
    "rate × 0.5": Lead("half of the learning rate", ("--model.learning_rate=1e-4",)),
    "rate × 0.7": Lead("a lower learning rate, which those below have as well", (LOWER,)),
    "rate × 0.7, 4 epochs": Lead("an epoch more", (LOWER, "--trainer.max_epochs=4")),
    "rate × 0.7, batches of 16": Lead("twice the steps", (LOWER, "--data.batch_size=16")),
    "rate × 0.7, agreeing": Lead(
        "the second pass should also agree with the first (Jiang et al., 2020)", (LOWER,), agreeing
    ),
    "rate × 0.7, R-Drop": Lead(
        "two dropout masks that should agree, instead of the second pass (Wu et al., 2021)",
        (LOWER, "--model.adversarial_norm=0"),
        consistent,
    ),
    "rate × 0.7, balanced": Lead(
        "loss weighted by one over the root of the class's rows", (LOWER,), balanced
    ),
    "rate × 0.7, robust": Lead(
        f"generalized cross-entropy, q = {ROBUSTNESS} (Zhang and Sabuncu, 2018)", (LOWER,), robust
    ),
    "rate × 0.7, mean pooling": Lead(
        "the mean of all tokens instead of [CLS]; other tools could not load it", (LOWER,), mean_pooled
    ),
    "rate × 0.7, adapted": Lead(
        f"{ADAPT_EPOCHS} epochs of masked-language pretraining on the training texts first "
        "(Gururangan et al., 2020)",
        (LOWER,),
        adapted,
    ),
    "R-Drop": Lead("the same at the kept rate", ("--model.adversarial_norm=0",), consistent),
    "rate × 1.4": Lead("a higher learning rate", ("--model.learning_rate=2.8e-4",)),
    "layer decay": Lead(
        f"rates fall by {LAYER_DECAY} from layer to layer (Howard and Ruder, 2018)", (), layer_decay
    ),
    "no smoothing": Lead("no label smoothing", ("--model.label_smoothing=0",)),
}


# --- the part ---


def main(argv: list[str] | None = None) -> int:
    """Runs the part, or one contestant of it."""
    flags = harness.parser("recipe", __doc__, rounds=3)
    flags.add_argument("--more", action="store_true", help="run only what the table lacks of these rounds")
    args = harness.settled(flags.parse_args(argv))
    if args.contestant:
        return harness.tell(contest(args))
    os.environ["OMP_NUM_THREADS"] = "1"
    contestants = harness.chosen(line_up(args), args.only)
    runs = harness.runs_of("recipe", args.results) if args.more else []
    there = {(each.round, each.contestant) for each in runs if not each.failure}
    missing = [
        (number, each)
        for number in range(1, args.rounds + 1)
        for each in contestants
        if (number, each.name) not in there
    ]
    harness.machine_facts()  # before this benchmark itself is what the machine is busy with
    code = publish(args, contestants, runs) if runs else 0  # the table lists those chosen
    with harness.place() as place, ThreadPoolExecutor(cores()) as pool:
        for done in as_completed(pool.submit(harness.run, each, place, number) for number, each in missing):
            runs.append(done.result())
            print(f"{len(runs)} runs", file=sys.stderr, flush=True)
            code = publish(args, contestants, runs)
    return code


def publish(args: argparse.Namespace, contestants: list[Contestant], runs: list[Run]) -> int:
    """Writes the tables of the runs so far."""
    columns = {"micro F1": "val/f1_micro", "macro F1": "val/f1", "loss, nats a text": "val/loss_nats"}
    columns["wall seconds"] = "wall_s"
    notes = [f"{name}: {lead.what}." for name, lead in LEADS.items()] + [
        f"MiniLM on {harness.data_folder().name}; the seed is the number of the round. Points are hundredths "
        "of F1, a lead less the kept recipe of the same seed.",
    ]
    report = harness.Report("recipe", "Leads", contestants, runs, columns, checks(runs), notes, args.quick)
    return report.publish(args.results)


def line_up(args: argparse.Namespace) -> list[Contestant]:
    """The kept recipe and its rivals."""
    quick = ["--quick"] * args.quick
    return [inner("recipe", name, *quick, timeout_s=3 * 3600) for name in LEADS]


def checks(runs: list[Run]) -> list[Check]:
    """What each lead gains, in points of F1."""
    found = []
    for figure, score in (("val/f1_micro", "micro"), ("val/f1", "macro")):
        kept = harness.values(runs, KEPT, figure)
        for name in LEADS:
            own = harness.values(runs, name, figure)
            points = [100 * (own[each] - kept[each]) for each in sorted(own.keys() & kept.keys())]
            if name != KEPT and points:
                found.append(Check(f"{name}: points of {score} F1", points))
    return found


# --- in the contestant's own process ---


def contest(args: argparse.Namespace) -> dict[str, Any]:
    """The validation scores of the best epoch."""
    from benchmarks.fit import Best, fit
    from lit_bert.model.module import BertClassifier

    lead = LEADS[args.contestant]
    if lead.change:
        lead.change(BertClassifier)
    few = ["--data.train_rows=64", "--data.val_rows=32", "--trainer.max_epochs=1"] if args.quick else []
    fit(f"--seed_everything={harness.round_number()}", *lead.flags, *few, callback=Best)
    return Best.figures


if __name__ == "__main__":
    sys.exit(main())
