"""What was tried beside the kept recipe: each lead sets a public hook, with the right values."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Run
from lightning.pytorch import Callback, Trainer
from test_model import NAMES, SIX, classifier, loader, trainer, without_dropout
from torch.nn.functional import cross_entropy

from benchmarks import harness, leads, recipe
from lit_bert.model.bert import CpuBert
from lit_bert.model.optimizer import DeferredAdamW
from lit_bert.model.pretrained import load_network
from lit_bert.sources.weights import MINILM, Weights

LABELS = torch.tensor([0] * 4 + [1] * 1)


def with_lead(folder: Any, lead: type[Callback], **settings: Any) -> Any:
    """A model without dropout whose hooks the lead has set."""
    model = without_dropout(classifier(folder, **settings))
    rows = SimpleNamespace(labels=LABELS.numpy())
    stub: Any = SimpleNamespace(datamodule=SimpleNamespace(train_rows=rows))
    lead().setup(stub, model, "fit")
    return model


def logits_of(model: Any) -> torch.Tensor:
    return model(SIX["input_ids"], SIX["attention_mask"]).float()


def test_every_lead_of_the_table_is_a_callback() -> None:
    named = {lead.callback for lead in recipe.LEADS.values() if lead.callback}
    assert all(issubclass(getattr(leads, name), Callback) for name in named)
    own = {
        name for name, each in inspect.getmembers(leads, inspect.isclass) if each.__module__ == leads.__name__
    }
    assert own - named == {"PlainOperations"}  # that of benchmarks/seeds.py
    for what, name, value in (
        ("layer decay", "LayerDecay", leads.LAYER_DECAY),
        ("rate × 0.7, robust", "RobustLoss", leads.ROBUSTNESS),
        ("rate × 0.7, adapted", "Adapted", leads.ADAPT_EPOCHS),
    ):
        assert recipe.LEADS[what].callback == name
        assert f"{value}" in recipe.LEADS[what].what


def test_plain_operations_are_transformers_and_torchs_own(tiny_bert: Any) -> None:
    model = with_lead(tiny_bert, leads.PlainOperations)
    run = trainer(max_steps=1, callbacks=[leads.PlainOperations()], precision="32-true")
    run.fit(model, loader([SIX]))
    assert type(run.optimizers[0]) is torch.optim.AdamW
    assert model._cpu_bert is None
    kept = classifier(tiny_bert)
    run = trainer(max_steps=1, precision="32-true")
    run.fit(kept, loader([SIX]))
    assert type(run.optimizers[0]) is DeferredAdamW
    assert kept._cpu_bert is not None


def test_the_rates_of_layers_fall_from_the_top(tiny_bert: Any) -> None:
    model = with_lead(tiny_bert, leads.LayerDecay, learning_rate=0.01, head_rate_factor=5.0)
    run = trainer(max_steps=1, precision="32-true")
    run.fit(model, loader([SIX]))
    groups = run.optimizers[0].param_groups
    names = {parameter: name for name, parameter in model.named_parameters()}
    rates = {names[each]: group["initial_lr"] for group in groups for each in group["params"]}
    assert rates.keys() == set(names.values())
    decay = leads.LAYER_DECAY
    for name, rate in {
        "network.classifier.weight": 0.05,
        "network.bert.pooler.dense.bias": 0.05,
        "network.bert.encoder.layer.1.output.dense.weight": 0.01,
        "network.bert.encoder.layer.0.output.dense.weight": 0.01 * decay,
        "network.bert.embeddings.word_embeddings.weight": 0.01 * decay**2,
        "network.bert.embeddings.LayerNorm.bias": 0.01 * decay**2,
    }.items():
        assert rates[name] == pytest.approx(rate), name
    for group in groups:  # the groups that a fit without the lead has, taken apart
        assert len({names[each].endswith(("bias", "LayerNorm.weight")) for each in group["params"]}) == 1
        assert (group["weight_decay"] == 0) == (group["params"][0].ndim < 2)


def test_r_drop_of_two_equal_passes_is_the_loss_of_one(tiny_bert: Any) -> None:
    model = with_lead(tiny_bert, leads.RDrop, label_smoothing=0.1)
    logits = logits_of(model)
    wanted = cross_entropy(logits, SIX["labels"], label_smoothing=0.1)
    assert float(model.training_loss(logits, SIX)) == pytest.approx(float(wanted), rel=1e-5)
    # Against another pass it adds half of both divergences, and half of what the losses differ by.
    other = logits + torch.tensor([0.5, 0.0, -0.5])
    p, q = (each.softmax(-1) for each in (other, logits))
    divergence = ((p - q) * (p.log() - q.log())).sum(-1).mean()
    mean = (wanted + cross_entropy(other, SIX["labels"], label_smoothing=0.1)) / 2
    assert float(model.training_loss(other, SIX)) == pytest.approx(float(mean + divergence / 2), rel=1e-4)


def test_the_second_pass_of_a_batch_is_compared_with_the_first(tiny_bert: Any) -> None:
    model = with_lead(tiny_bert, leads.AgreeingPasses, label_smoothing=0.0)
    first = logits_of(model)
    other = first + torch.tensor([0.5, 0.0, -0.5])
    plain = [float(cross_entropy(each, SIX["labels"])) for each in (first, other)]
    assert float(model.training_loss(first, SIX)) == pytest.approx(plain[0])
    p, q = other.softmax(-1), first.softmax(-1)
    divergence = float((q * (q.log() - p.log())).sum(-1).mean())
    assert divergence > 0.01
    assert float(model.training_loss(other, SIX)) == pytest.approx(plain[1] + divergence, rel=1e-4)
    assert float(model.training_loss(other, dict(SIX))) == pytest.approx(plain[1])  # a batch of its own


def test_rare_classes_weigh_more(tiny_bert: Any) -> None:
    model = with_lead(tiny_bert, leads.BalancedLoss, label_smoothing=0.0)
    logits = torch.zeros(2, len(NAMES))
    logits[0, 0] = 1.0
    labels = torch.tensor([0, 1])
    losses = cross_entropy(logits, labels, reduction="none")
    weights = torch.tensor([0.5, 1.0])  # one over the root of 4 and of 1 rows
    wanted = (losses * weights).sum() / weights.sum()
    assert float(model.training_loss(logits, {"labels": labels})) == pytest.approx(float(wanted))


def test_the_robust_loss_is_that_of_the_paper(tiny_bert: Any) -> None:
    model = with_lead(tiny_bert, leads.RobustLoss)
    logits = torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.8, 0.1]]).log()
    labels = torch.tensor([2, 0])
    wanted = ((1 - 0.5**0.3) / 0.3 + (1 - 0.1**0.3) / 0.3) / 2
    assert float(model.training_loss(logits, {"labels": labels})) == pytest.approx(wanted, rel=1e-5)


def test_the_pooler_gets_the_mean_of_the_tokens_that_are_no_padding(tiny_bert: Any) -> None:
    model = with_lead(tiny_bert, leads.MeanPooling).eval()
    ids = torch.tensor([[2, 10, 11, 3, 0, 0], [2, 12, 13, 14, 15, 3]])
    mask = (ids != 0).long()
    with torch.no_grad():
        logits = model(ids, mask)
        network = model.network
        states = network.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = torch.stack([states[0, :4].mean(0), states[1].mean(0)])
        wanted = network.classifier(torch.tanh(network.bert.pooler.dense(mean)))
    torch.testing.assert_close(logits, wanted)


def test_adapting_learns_to_fill_gaps_and_leaves_no_gradient() -> None:
    from lit_bert import EmotionDataModule

    weights = Weights(MINILM)
    data = EmotionDataModule("sample", train_rows=64, weights=weights)
    data.prepare_data()
    data.setup("fit")
    network = load_network(weights, data.label_names).train()
    assert CpuBert.can_run(network)
    pooler = network.bert.pooler.dense.weight.clone()
    before = network.bert.encoder.layer[0].output.dense.weight.clone()
    first, second, third = leads.pretrain(network, data.train_rows, seed=0, epochs=3)
    assert third < second < first
    assert torch.equal(network.bert.pooler.dense.weight, pooler)
    assert not torch.equal(network.bert.encoder.layer[0].output.dense.weight, before)
    assert all(parameter.grad is None for parameter in network.parameters())


class Seen(Callback):
    """Notes what a fit ran with."""

    model: Any = None

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        Seen.model = pl_module


@pytest.mark.parametrize("lead", ["RDrop", "AgreeingPasses", "MeanPooling"])
def test_a_fit_takes_a_lead_as_a_callback(lead: str, run: Run, quick: list[str]) -> None:
    few = ["--trainer.max_epochs=1", "--data.train_rows=16", "--model.adversarial_start=0"]
    callbacks = [f"--trainer.callbacks+=benchmarks.leads.{lead}", f"--trainer.callbacks+={__name__}.Seen"]
    outcome = run("fit", *quick, *few, *callbacks)
    assert outcome.code == 0, outcome.err
    assert (Seen.model.objective is not None) == (lead != "MeanPooling")
    assert Seen.model.fast_operations == (lead != "MeanPooling")


def test_a_lead_reads_the_seed_of_its_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(harness.ROUND, "3")
    seeds: list[int] = []
    monkeypatch.setattr(leads, "pretrain", lambda network, rows, seed: seeds.append(seed))
    stub: Any = SimpleNamespace(datamodule=SimpleNamespace(train_rows=None), network=None)
    leads.Adapted().on_train_start(stub, stub)
    assert seeds == [3]
