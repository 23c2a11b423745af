"""The classifier: what it computes, how it is scored, how it is optimized, what its checkpoint needs."""

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from formats import content_of
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

from lit_bert import UserError
from lit_bert.model.adversarial import perturbed_embeddings
from lit_bert.model.bert import CpuBert
from lit_bert.model.module import BertClassifier
from lit_bert.model.optimizer import DeferredAdamW
from lit_bert.sources.weights import Weights

NAMES = ["anger", "joy", "sadness"]


def classifier(folder, **settings):
    """A BertClassifier over the weights in `folder`, its network built with seed 0."""
    weights = Weights(pretrained=str(folder), stand_in=None)
    model = BertClassifier(settings.pop("label_names", NAMES), weights=weights, **settings)
    torch.manual_seed(0)
    model.configure_model()
    return model


def without_dropout(model):
    for module in model.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.network.config.update({"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0})
    return model


def trainer(**settings):
    """A Trainer that writes nothing."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **quiet, **settings)


def batch(*rows, labels):
    """Rows of one length as the data module hands them over, without padding."""
    input_ids = torch.tensor(rows)
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "labels": torch.tensor(labels),
    }


def loader(batches):
    return DataLoader(batches, batch_size=None)


# [CLS] … [SEP] over the vocabulary of `tiny_bert`; every row has a token that no other has
SIX = batch(
    [2, 5, 7, 9, 3],
    [2, 5, 7, 10, 3],
    [2, 6, 11, 12, 3],
    [2, 6, 13, 12, 3],
    [2, 8, 14, 9, 3],
    [2, 8, 15, 9, 3],
    labels=[0, 1, 2, 0, 1, 2],
)


class Answering(BertClassifier):
    """Its answer stands in the text: the second token names the predicted class, with probability 0.7.

    So scores can be worked out by hand; everything but `forward` is BertClassifier.
    """

    def forward(self, input_ids, attention_mask):
        probs = torch.full((len(input_ids), len(NAMES)), 0.15)
        probs[torch.arange(len(input_ids)), input_ids[:, 1]] = 0.7
        return probs.log() + 0 * next(self.network.parameters()).sum()  # logits that a loss can train


def answering(folder):
    model = Answering(NAMES, weights=Weights(pretrained=str(folder), stand_in=None))
    model.configure_model()
    return model


def answers(preds, labels):
    return batch(*([2, pred, 3] for pred in preds), labels=labels)


# --- what it computes


def test_logits_are_one_float_per_row_and_class(tiny_bert):
    logits = classifier(tiny_bert)(SIX["input_ids"], SIX["attention_mask"])
    assert logits.shape == (6, 3)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("filler", [0, 17])
def test_padding_leaves_logits_unchanged(tiny_bert, filler):
    model = classifier(tiny_bert).eval()
    alone = model(SIX["input_ids"], SIX["attention_mask"])
    padded = torch.cat([SIX["input_ids"], torch.full((6, 9), filler)], 1)
    mask = torch.cat([SIX["attention_mask"], torch.zeros(6, 9, dtype=torch.int64)], 1)
    torch.testing.assert_close(model(padded, mask), alone, rtol=1e-5, atol=1e-6)
    # the comparison means something: with the filler attended to, the logits are others
    assert not torch.allclose(model(padded, torch.ones_like(mask)), alone, rtol=1e-5, atol=1e-6)


def test_a_text_has_the_same_logits_in_any_company(tiny_bert):
    model = classifier(tiny_bert).eval()
    together = model(SIX["input_ids"], SIX["attention_mask"])
    alone = torch.cat(
        [
            model(row[None], ones[None])
            for row, ones in zip(SIX["input_ids"], SIX["attention_mask"], strict=True)
        ]
    )
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_predictions_are_the_softmax_of_the_logits(tiny_bert):
    model = classifier(tiny_bert).eval()
    probs = model.predict_step(SIX, 0)
    exponentials = model(SIX["input_ids"], SIX["attention_mask"]).exp()
    torch.testing.assert_close(probs, exponentials / exponentials.sum(1, keepdim=True))
    torch.testing.assert_close(probs.sum(1), torch.ones(6))
    assert probs.dtype == torch.float32


def test_predictions_are_32_bit_under_bf16(tiny_bert):
    probs = trainer(precision="bf16-mixed").predict(classifier(tiny_bert), loader([SIX]))[0]
    assert probs.dtype == torch.float32
    torch.testing.assert_close(probs.sum(1), torch.ones(6))


def test_the_network_trains_with_dropout(tiny_bert):
    model = classifier(tiny_bert)
    assert all(module.training for module in model.modules())
    one, other = (model(SIX["input_ids"], SIX["attention_mask"]) for _ in range(2))
    assert not torch.equal(one, other)


def test_a_batch_can_be_overfitted(tiny_bert):
    torch.manual_seed(0)
    model = classifier(tiny_bert, adversarial_norm=0.0, learning_rate=5e-3)
    trainer(max_epochs=40).fit(model, loader([SIX] * 2))
    model.eval()
    logits = model(SIX["input_ids"], SIX["attention_mask"])
    assert torch.nn.functional.cross_entropy(logits, SIX["labels"]) < 0.1  # 1.1 nats for guessing
    assert logits.argmax(1).tolist() == SIX["labels"].tolist()


def test_the_head_depends_on_the_seed_alone(tiny_bert):
    one, same = (classifier(tiny_bert).network.classifier.weight for _ in range(2))
    assert torch.equal(one, same)
    torch.manual_seed(1)
    model = BertClassifier(NAMES, weights=Weights(pretrained=str(tiny_bert), stand_in=None))
    model.configure_model()
    assert not torch.equal(one, model.network.classifier.weight)


# --- how it is scored

# Confusion over all six rows, batch by batch: 3 rows, then 1, then 2.
UNEQUAL = [answers([0, 0, 1], [0, 0, 0]), answers([1], [1]), answers([0, 2], [1, 2])]
# class 0: 2 true positives, 1 false positive, 1 false negative; class 1: 1, 1, 1; class 2: 1, 0, 0
BY_HAND = {
    "f1_class/anger": 2 * 2 / (2 * 2 + 1 + 1),
    "f1_class/joy": 2 * 1 / (2 * 1 + 1 + 1),
    "f1_class/sadness": 1.0,
    "f1": (2 / 3 + 1 / 2 + 1) / 3,
    "score": (2 / 3 + 1 / 2 + 1) / 3,
    "f1_micro": 4 / 6,
    "accuracy": 4 / 6,
    "loss_nats": -(4 * math.log(0.7) + 2 * math.log(0.15)) / 6,
}


@pytest.mark.parametrize(("verb", "split"), [("validate", "val"), ("test", "test")])
def test_scores_are_those_of_the_whole_split(tiny_bert, verb, split):
    scores = getattr(trainer(), verb)(answering(tiny_bert), loader(UNEQUAL), verbose=False)[0]
    assert scores == pytest.approx({f"{split}/{name}": value for name, value in BY_HAND.items()}, rel=1e-6)


def test_scores_do_not_depend_on_how_rows_are_batched(tiny_bert):
    one = {
        key: torch.cat([each[key] for each in UNEQUAL]) for key in ("input_ids", "attention_mask", "labels")
    }
    scores = trainer().test(answering(tiny_bert), loader([one]), verbose=False)[0]
    assert scores == pytest.approx({f"test/{name}": value for name, value in BY_HAND.items()}, rel=1e-6)


def test_training_is_scored_over_the_epoch(tiny_bert):
    fit = trainer(max_epochs=2)  # the second epoch begins afresh
    fit.fit(answering(tiny_bert), loader(UNEQUAL))
    found = {name: float(value) for name, value in fit.callback_metrics.items()}
    assert found == pytest.approx({f"train/{name}": value for name, value in BY_HAND.items()}, rel=1e-6)


def test_a_second_validation_knows_nothing_of_the_first(tiny_bert):
    model, again = answering(tiny_bert), trainer()
    again.validate(model, loader([answers([1, 2, 0], [0, 1, 2])]), verbose=False)
    scores = again.validate(model, loader([answers([0, 1, 2], [0, 1, 2])]), verbose=False)[0]
    assert scores["val/f1"] == 1
    assert scores["val/loss_nats"] == pytest.approx(-math.log(0.7))


def test_a_class_that_is_neither_there_nor_predicted_does_not_lower_macro_f1(tiny_bert):
    scores = trainer().test(answering(tiny_bert), loader([answers([0, 1], [0, 1])]), verbose=False)[0]
    assert scores["test/f1"] == 1


def test_a_temperature_in_the_head_divides_the_logits_whatever_the_precision(tiny_bert, monkeypatch):
    for own in (True, False):
        if not own:  # the way that a GPU takes
            monkeypatch.setattr(CpuBert, "can_run", lambda network: False)
        model = classifier(tiny_bert).eval()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            before = model(SIX["input_ids"], SIX["attention_mask"])
            for parameter in model.network.classifier.parameters():
                parameter /= 1.7
            after = model(SIX["input_ids"], SIX["attention_mask"])
        assert before.dtype == after.dtype == torch.float32
        torch.testing.assert_close(after * 1.7, before, rtol=1e-5, atol=1e-7)


# --- how it is optimized


class Steps(Callback):
    """Notes the learning rate of each optimizer step and the gradient norm it worked with."""

    def __init__(self):
        self.rates, self.norms = [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        gradients = [p.grad.to_dense().flatten() for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(torch.cat(gradients).norm().item())


def fitted(model, batches, **settings):
    steps = Steps()
    fit = trainer(callbacks=[steps], **settings)
    fit.fit(model, loader(batches))
    return fit, steps


def test_the_rate_rises_over_the_warmup_steps_and_falls_to_zero(tiny_bert):
    model = classifier(tiny_bert, learning_rate=0.01, warmup_ratio=0.2)
    fit, steps = fitted(model, [SIX] * 5, max_epochs=4)  # 20 steps, 4 of them warm-up
    rising = [1 / 5, 2 / 5, 3 / 5, 4 / 5]
    falling = [left / 16 for left in range(16, 0, -1)]
    assert steps.rates == pytest.approx([0.01 * share for share in rising + falling])
    assert {group["lr"] for group in fit.optimizers[0].param_groups} == {0}  # where the 21st would be


def test_the_schedule_counts_optimizer_steps_when_gradients_are_accumulated(tiny_bert):
    model = classifier(tiny_bert, learning_rate=0.01, warmup_ratio=0.25)
    fit, steps = fitted(model, [SIX] * 10, max_epochs=2, accumulate_grad_batches=3)
    # 10 batches are 4 steps (3 + 3 + 3 + 1), so 8 in all, 2 of them warm-up
    assert fit.global_step == 8
    shares = [1 / 3, 2 / 3, 6 / 6, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert steps.rates == pytest.approx([0.01 * share for share in shares])
    assert fit.optimizers[0].param_groups[0]["lr"] == 0


def test_the_schedule_ends_with_max_steps(tiny_bert):
    model = classifier(tiny_bert, learning_rate=0.01, warmup_ratio=0)
    _, steps = fitted(model, [SIX] * 5, max_steps=4)
    assert steps.rates == pytest.approx([0.01, 0.0075, 0.005, 0.0025])


def test_biases_and_layer_norms_do_not_decay_and_the_head_learns_faster(tiny_bert):
    settings = {"weight_decay": 0.07, "learning_rate": 0.01, "head_rate_factor": 3.0, "beta2": 0.9}
    fit, _ = fitted(model := classifier(tiny_bert, **settings), [SIX], max_steps=1)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for group in fit.optimizers[0].param_groups:
        assert group["betas"] == (0.9, 0.9)
        for parameter in group["params"]:
            found[name_of[id(parameter)]] = group["weight_decay"], group["initial_lr"]
    assert found.keys() == set(name_of.values())
    for name, (decay, rate) in found.items():
        assert decay == (0.0 if name.endswith(".bias") or "LayerNorm" in name else 0.07), name
        assert rate == pytest.approx(0.03 if "classifier" in name or "pooler" in name else 0.01), name
    assert sum(decay == 0 for decay, _ in found.values()) > 10


def test_a_head_that_cannot_learn_is_an_error():
    with pytest.raises(UserError, match=r"model\.head_rate_factor is 0\.0; expected more than 0"):
        BertClassifier(NAMES, head_rate_factor=0.0)


def test_labels_are_smoothed_where_the_loss_is_minimised_alone(tiny_bert):
    model = without_dropout(classifier(tiny_bert, label_smoothing=0.3))
    log_probs = model(SIX["input_ids"], SIX["attention_mask"]).log_softmax(-1)
    right = log_probs.gather(1, SIX["labels"][:, None])[:, 0]
    smooth = 0.7 * right + 0.3 * log_probs.mean(1)
    assert float(model.training_step(SIX, 0)) == pytest.approx(-float(smooth.mean()), rel=1e-5)
    for split in ("train", "val"):
        assert float(model._step(SIX, split)[0]) == pytest.approx(-float(right.mean()), rel=1e-5)


SIZES = {"bert-base": (12, 768, 5e-5), "MiniLM": (6, 384, 2e-4), "one that is smaller still": (2, 32, 3e-4)}


@pytest.mark.parametrize("size", SIZES)
def test_an_unset_learning_rate_follows_the_size_of_the_bert(size):
    layers, hidden_size, rate = SIZES[size]
    model = BertClassifier(NAMES)
    model.network = BertForSequenceClassification(
        BertConfig(
            vocab_size=8,
            hidden_size=hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=8,
        )
    )
    assert model.learning_rate == pytest.approx(rate)


def test_optimizer_and_checkpoint_have_the_rate_of_the_size_or_the_given_one(tiny_bert, tmp_path):
    for given, used in ((None, 3e-4), (0.004, 0.004)):
        model = classifier(tiny_bert, learning_rate=given, warmup_ratio=0)
        fit, steps = fitted(model, [SIX], max_steps=1)
        assert steps.rates == pytest.approx([used])
        fit.save_checkpoint(tmp_path / "a.ckpt")
        assert content_of(tmp_path / "a.ckpt")["learning_rate"] == pytest.approx(used)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_with_the_fused_optimizer(tiny_bert, precision):
    _, steps = fitted(classifier(tiny_bert), [SIX], max_steps=1, precision=precision)
    assert steps.norms[0] > 0.1
    clipped, steps = fitted(
        classifier(tiny_bert), [SIX], max_steps=1, precision=precision, gradient_clip_val=0.01
    )
    assert steps.norms == pytest.approx([0.01], rel=0.01)
    assert clipped.optimizers[0].defaults["fused"]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_cpu_trains_to_the_weights_of_transformers_forward_and_torchs_adamw(
    tiny_bert, monkeypatch, accumulate
):
    ends = []
    for own in (True, False):
        if not own:
            monkeypatch.setattr(CpuBert, "can_run", lambda network: False)
            monkeypatch.setattr(DeferredAdamW, "can_run", lambda embedding, beta2: False)
        model = without_dropout(classifier(tiny_bert, learning_rate=0.003))
        batches = [SIX, batch([2, 20, 3], [2, 21, 3], labels=[0, 1])] * 2
        settings = {"gradient_clip_val": 0.5, "accumulate_grad_batches": accumulate}
        fit, _ = fitted(model, batches, max_epochs=4, precision="32-true", **settings)
        assert isinstance(fit.optimizers[0], DeferredAdamW) == own
        ends.append(dict(model.network.named_parameters()))
    for name, value in ends[0].items():
        if not name.endswith("key.bias"):  # it changes no score: its gradient is all rounding
            torch.testing.assert_close(value, ends[1][name], rtol=1e-3, atol=2e-4, msg=name)


# --- the second pass, at embeddings that were moved


@pytest.mark.parametrize("sparse", [True, False])
def test_rows_move_along_their_gradient_and_come_back(sparse):
    embedding = torch.nn.Embedding(9, 4, sparse=sparse)
    before = embedding.weight.detach().clone()
    (embedding(torch.tensor([1, 5, 1])) ** 2).sum().backward()
    with perturbed_embeddings(embedding.weight, embedding.weight.grad, 0.5):
        step = embedding.weight.detach() - before
        gradient = embedding.weight.grad.to_dense()
        assert float(step.norm()) == pytest.approx(0.5, rel=1e-5)
        torch.testing.assert_close(step, gradient * (0.5 / gradient.norm()))
        assert step[[0, 2, 3, 4, 6, 7, 8]].count_nonzero() == 0
    assert torch.equal(embedding.weight, before)
    with pytest.raises(KeyboardInterrupt), perturbed_embeddings(embedding.weight, embedding.weight.grad, 0.5):
        raise KeyboardInterrupt
    assert torch.equal(embedding.weight, before)


class Gradients(Callback):
    """Keeps those of the first step."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 0:
            named = pl_module.network.named_parameters()
            self.found = {name: p.grad.to_dense().clone() for name, p in named if p.grad is not None}


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_second_pass_adds_the_gradient_where_the_loss_is_higher(tiny_bert, monkeypatch, own, accumulate):
    if not own:
        monkeypatch.setattr(CpuBert, "can_run", lambda network: False)
    settings = {"label_smoothing": 0.1, "adversarial_start": 0.0}
    model = without_dropout(classifier(tiny_bert, adversarial_norm=0.7, **settings))
    kept = Gradients()
    fit = trainer(max_steps=1, callbacks=[kept], precision="32-true", accumulate_grad_batches=accumulate)
    fit.fit(model, loader([SIX] * accumulate))

    network = without_dropout(classifier(tiny_bert)).network
    table = network.bert.embeddings.word_embeddings.weight
    inputs = {name: SIX[name] for name in ("input_ids", "attention_mask")}
    losses = []
    for _ in range(accumulate):
        for moves in (False, True):
            if moves:
                step = table.grad * (0.7 / table.grad.norm())
                table.data += step
            loss = cross_entropy(network(**inputs).logits, SIX["labels"], label_smoothing=0.1)
            losses.append(float(loss))
            (loss / accumulate).backward()
            if moves:
                table.data -= step
    assert losses[1] > losses[0]
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(kept.found[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


def passes_of(model):
    """A list that grows by one with each forward pass."""
    seen, forward = [], model.forward
    model.forward = lambda **batch: seen.append(1) or forward(**batch)
    return seen


def test_the_second_pass_starts_at_its_share_of_the_steps(tiny_bert):
    for norm, passes in ((1.0, 4 + 2), (0.0, 4)):
        model = classifier(tiny_bert, adversarial_norm=norm, adversarial_start=0.5)
        seen = passes_of(model)
        trainer(max_steps=4).fit(model, loader([SIX] * 4))
        assert len(seen) == passes


def test_frozen_embeddings_get_a_second_pass_and_stay(tiny_bert):
    model = classifier(tiny_bert, adversarial_start=0.0)
    model.network.bert.embeddings.requires_grad_(False)
    model._optimizer = lambda: torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    head = model.network.classifier.weight.detach().clone()
    words = model.network.bert.embeddings.word_embeddings.weight.detach().clone()
    seen = passes_of(model)
    trainer(max_steps=2).fit(model, loader([SIX] * 2))
    assert len(seen) == 4
    assert torch.equal(model.network.bert.embeddings.word_embeddings.weight, words)
    assert not torch.equal(model.network.classifier.weight, head)


TWO_PROCESSES = """
import sys
sys.path[:0] = {path!r}
import torch
from test_model import SIX, classifier, loader, trainer, without_dropout
from lit_bert.sources.schema import Lora
torch.manual_seed(0)
model = without_dropout(classifier({folder!r}, learning_rate=0.01, adversarial_start=0.0, {part}))
def half(rank): return {{name: value[rank::2] for name, value in SIX.items()}}
class Data(torch.utils.data.IterableDataset):
    def __iter__(self):
        rank = model.trainer.global_rank
        return iter([half(rank)] * 3 if {devices} == 2 else [SIX] * 3)
fit = trainer(max_steps=3, devices={devices}, strategy={strategy!r}, precision="32-true")
fit.fit(model, loader(Data()))
torch.save(dict(model.network.named_parameters()), f"{devices}-{{fit.global_rank}}.pt")
"""


@pytest.mark.parametrize("part", ["", "freeze='embeddings'", "lora=Lora(rank=2)"])
def test_the_second_pass_of_two_processes_is_that_of_one(tiny_bert, tmp_path, part):
    path = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    for devices, strategy in ((1, "auto"), (2, "ddp")):
        script = tmp_path / f"{devices}.py"
        settings = {"path": path, "folder": str(tiny_bert), "devices": devices, "strategy": strategy}
        script.write_text(TWO_PROCESSES.format(**settings, part=part))
        subprocess.run([sys.executable, script], cwd=tmp_path, check=True, capture_output=True, timeout=200)
    alone, *both = (torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    for name, value in alone.items():
        assert torch.equal(both[0][name], both[1][name]), name
        if not name.endswith("key.bias"):  # its gradient is all rounding, and so is that of a rare weight
            apart = ~torch.isclose(both[0][name], value, rtol=1e-3, atol=2e-4)
            assert apart.float().mean() <= 1e-3, name


class Keeping(Callback):
    """Keeps the weights that are validated and trained; saves a full checkpoint and one of weights alone."""

    def __init__(self, folder):
        self.folder, self.validated = folder, []

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.validated.append(weights_of(pl_module))

    def on_validation_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.folder / "best.ckpt", weights_only=True)

    def on_train_epoch_end(self, trainer, pl_module):
        self.trained = weights_of(pl_module)
        trainer.save_checkpoint(self.folder / f"epoch{trainer.current_epoch}.ckpt")


def weights_of(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def stored(path):
    return content_of(path)


def fit_keeping(model, folder, max_epochs, **more):
    kept = Keeping(folder)
    run = trainer(max_epochs=max_epochs, callbacks=[kept], num_sanity_val_steps=0)
    run.fit(model, loader([SIX, SIX, SIX]), loader([SIX]), **more)
    return kept


def test_the_average_is_what_is_validated_saved_and_left(tiny_bert, tmp_path):
    model = classifier(tiny_bert, learning_rate=0.01)
    kept = fit_keeping(model, tmp_path, 2)
    assert_same(kept.validated[-1], stored(tmp_path / "best.ckpt")["state_dict"])
    assert_same(kept.validated[-1], weights_of(model))
    full = stored(tmp_path / "epoch1.ckpt")
    assert_same(kept.validated[-1], full["state_dict"])
    assert_same(kept.trained, full["training_weights"])
    names = {name for name in kept.trained if not torch.equal(kept.trained[name], full["state_dict"][name])}
    assert "network.bert.embeddings.word_embeddings.weight" in names
    assert "network.classifier.weight" in names


def test_without_an_average_the_weights_are_kept_as_they_stand(tiny_bert, tmp_path):
    model = classifier(tiny_bert, learning_rate=0.01, average_decay=0.0)
    fit_keeping(model, tmp_path, 2)
    full = stored(tmp_path / "epoch1.ckpt")
    assert_same(full["state_dict"], weights_of(model))
    assert_same(full["state_dict"], stored(tmp_path / "best.ckpt")["state_dict"])
    assert "training_weights" not in full


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tiny_bert, tmp_path):
    whole, resumed = (without_dropout(classifier(tiny_bert, learning_rate=0.01)) for _ in range(2))
    fit_keeping(whole, tmp_path, 4)
    fit_keeping(resumed, tmp_path, 4, ckpt_path=tmp_path / "epoch1.ckpt", weights_only=True)
    for name, value in weights_of(whole).items():
        torch.testing.assert_close(weights_of(resumed)[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("off", "left"), [({}, "average_decay"), ({"average_decay": 0.0}, "adversarial_norm")]
)
def test_a_strategy_that_spreads_weights_is_refused_until_what_needs_them_is_off(tiny_bert, off, left):
    with pytest.raises(UserError, match=rf"ModelParallelStrategy spreads .*--model\.{left} 0"):
        trainer(strategy=ModelParallelStrategy(), devices=1, max_steps=1).fit(
            classifier(tiny_bert, **off), loader([SIX])
        )
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("value", [-0.1, 1.0])
@pytest.mark.parametrize("setting", ["adversarial_start", "average_decay", "beta2", "label_smoothing"])
def test_a_share_that_is_none_is_an_error(setting, value):
    with pytest.raises(UserError, match=rf"model\.{setting} is {value}; expected 0 to below 1"):
        BertClassifier(NAMES, **{setting: value})


def test_a_run_without_an_end_is_an_error(tiny_bert):
    with pytest.raises(UserError, match=r"no end; set --trainer\.max_epochs or --trainer\.max_steps"):
        trainer(max_epochs=-1).fit(classifier(tiny_bert), loader([SIX]))


@pytest.mark.parametrize("names", [[], ["joy"]])
def test_fewer_than_two_classes_are_an_error(names):
    with pytest.raises(UserError, match="at least two"):
        BertClassifier(names)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 10, math.nan])
def test_a_warmup_that_is_no_share_of_the_steps_is_an_error(ratio):
    with pytest.raises(UserError, match=rf"model\.warmup_ratio is {ratio}"):
        BertClassifier(NAMES, warmup_ratio=ratio)


@pytest.mark.parametrize("setting", ["adversarial_norm", "head_rate_factor", "learning_rate", "weight_decay"])
@pytest.mark.parametrize("value", [-0.1, 1e308, math.inf, math.nan])
def test_a_setting_of_the_optimizer_that_it_cannot_compute_with_is_an_error(setting, value):
    with pytest.raises(
        UserError, match=re.escape(f"model.{setting} is {value}; expected a number from 0 to")
    ):
        BertClassifier(NAMES, **{setting: value})


# --- what its checkpoint needs


def test_a_checkpoint_alone_gives_equal_logits(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "weights")
    model = classifier(folder, learning_rate=0.01)
    fit = trainer(max_steps=3)
    fit.fit(model, loader([SIX] * 3))
    fit.save_checkpoint(tmp_path / "model.ckpt")
    shutil.rmtree(folder)

    again = BertClassifier.load_from_checkpoint(tmp_path / "model.ckpt").eval()
    inputs = SIX["input_ids"], SIX["attention_mask"]
    assert torch.equal(again(*inputs), model.eval()(*inputs))
    assert not torch.equal(again(*inputs), classifier(tiny_bert).eval()(*inputs))  # it had learned
    assert again.hparams.label_names == NAMES
    assert again.network.config.id2label == {0: "anger", 1: "joy", 2: "sadness"}


def test_a_loaded_checkpoint_can_be_trained_on(tiny_bert, tmp_path):
    fit = trainer(max_steps=1)
    fit.fit(classifier(tiny_bert), loader([SIX]))
    fit.save_checkpoint(tmp_path / "model.ckpt")
    again = BertClassifier.load_from_checkpoint(tmp_path / "model.ckpt")
    before = again.network.classifier.weight.clone()
    more = trainer(max_steps=1)
    more.fit(again, loader([SIX]))
    assert not torch.equal(again.network.classifier.weight, before)
    more.save_checkpoint(tmp_path / "again.ckpt")
    BertClassifier.load_from_checkpoint(tmp_path / "again.ckpt")
