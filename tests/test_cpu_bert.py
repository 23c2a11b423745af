"""The CPU's way through BERT: the values and gradients of transformers' own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForSequenceClassification

from lit_bert.encoders.table import graph_of
from lit_bert.model.bert import CpuBert, Dropout, _LayerFunction
from lit_bert.model.pretrained import load_network
from lit_bert.sources.weights import Weights

LABELS = torch.tensor([0, 2, 1, 2])


@pytest.fixture
def network(tiny_bert: Path) -> BertForSequenceClassification:
    torch.manual_seed(1)
    made = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=3).eval()
    for name, value in made.named_parameters():  # biases and LayerNorm as if they had been trained
        if value.ndim == 1:
            torch.nn.init.normal_(value, mean=1.0 if name.endswith("LayerNorm.weight") else 0.0, std=0.2)
    return made


def texts(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Random input_ids and attention_mask, int64 (B, T)."""
    generator = torch.Generator().manual_seed(2)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return torch.randint(5, 30, mask.shape, generator=generator) * mask, mask


def gradients(network: BertForSequenceClassification, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    network.zero_grad()
    cross_entropy(logits, LABELS).backward()
    return {name: value.grad.clone() for name, value in network.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("lengths", [[7, 7, 7, 7], [9, 3, 5, 1], [1, 1, 1, 1], [33, 17, 16, 2]])
def test_logits_and_gradients_are_those_of_transformers(network, lengths):
    input_ids, mask = texts(lengths)
    own = CpuBert(network)(input_ids, mask)
    theirs = network(input_ids=input_ids, attention_mask=mask).logits
    torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-6)
    got, expected = gradients(network, own), gradients(network, theirs)
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_bf16_gives_the_logits_of_transformers_under_autocast_and_not_those_of_32_bit(network):
    input_ids, mask = texts([9, 3, 5, 1])
    with torch.autocast("cpu", torch.bfloat16):
        own = CpuBert(network)(input_ids, mask)
        theirs = network(input_ids=input_ids, attention_mask=mask).logits
    exact = CpuBert(network)(input_ids, mask)
    assert own.dtype == torch.float32
    assert not torch.equal(own, exact)
    torch.testing.assert_close(own, exact, rtol=0, atol=2 * (theirs.float() - exact).abs().max().item())


def test_gradients_with_dropout_are_those_of_plain_operations_with_the_same_masks(network):
    B, T, H, A = 4, 6, 32, 2
    layer = CpuBert(network).layers[0]
    layer.cast(layer.values(), torch.float32, training=True)
    torch.manual_seed(3)
    padding = torch.zeros(B, 1, 1, T).masked_fill_(torch.arange(T) >= 4, -1e9)
    for Q in (T, 1):
        x = torch.randn(B * T, H, requires_grad=True)
        masks = Dropout().masks([(B * A, Q, T), (B * Q, H), (B * Q, H)], 0.3, torch.float32)
        upstream = torch.randn(B * Q, H)
        own = _LayerFunction.apply(x, (B, T, Q), padding, masks, layer, *layer.values())
        got = torch.autograd.grad(own, [x, *layer.values()], upstream)

        (query,), (key, value), (attended,), (up,), (down,) = layer.linears
        heads = [each(x).view(B, T, A, H // A).transpose(1, 2) for each in (query, key, value)]
        scores = heads[0][:, :, :Q] @ heads[1].transpose(2, 3) / math.sqrt(H // A) + padding
        probs = scores.softmax(-1) * masks[0].view(B, A, Q, T)
        context = (probs @ heads[2]).transpose(1, 2).reshape(B * Q, H)
        first = x.view(B, T, H)[:, :Q].reshape(B * Q, H)
        middle = layer.norms[0](attended(context) * masks[1] + first)
        theirs = layer.norms[1](down(torch.nn.functional.gelu(up(middle))) * masks[2] + middle)
        expected = torch.autograd.grad(theirs, [x, *layer.values()], upstream)
        torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-5)
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_masks_drop_the_wanted_share_and_keep_the_mean():
    torch.manual_seed(0)
    first, second = Dropout().masks([(1000, 500), (300, 7)], 0.1, torch.float32)
    assert (first.shape, second.shape) == ((1000, 500), (300, 7))
    assert first.unique().tolist() == [0.0, pytest.approx(1 / 0.9, abs=1e-4)]
    assert float((first == 0).float().mean()) == pytest.approx(0.1, abs=0.002)
    assert float(first.mean()) == pytest.approx(1, abs=0.003)


def test_masks_differ_from_step_to_step_and_follow_the_seed():
    def draw() -> list[torch.Tensor]:
        torch.manual_seed(4)
        dropout = Dropout()
        return [dropout.masks([(50, 50)], 0.5, torch.float32)[0] for _ in range(2)]

    (first, second), again = draw(), draw()
    assert not torch.equal(first, second)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])


def test_no_dropout_draws_no_masks():
    assert Dropout().masks([(2, 3), (4,)], 0.0, torch.float32) == [None, None]


def test_training_drops_and_evaluation_does_not(network):
    input_ids, mask = texts([9, 3, 5, 1])
    bert = CpuBert(network)
    assert torch.equal(bert(input_ids, mask), bert(input_ids, mask))
    network.train()
    assert not torch.equal(bert(input_ids, mask), bert(input_ids, mask))


@pytest.mark.parametrize("how", ["optimizer", "load_state_dict", "data", "bf16 before"])
def test_changed_weights_are_seen(network, how):
    input_ids, mask = texts([9, 3, 5, 1])
    bert = CpuBert(network)
    with torch.no_grad():
        bert(input_ids, mask)
        if how == "optimizer":
            network.train()
            with torch.enable_grad():
                cross_entropy(bert(input_ids, mask), LABELS).backward()
            torch.optim.AdamW(network.parameters(), lr=0.1, fused=True).step()
        elif how == "load_state_dict":
            network.load_state_dict({name: value * 1.5 for name, value in network.state_dict().items()})
        elif how == "data":
            network.train()
            bert(input_ids, mask)
            for value in network.parameters():
                value.data.mul_(1.5)
        else:
            with torch.autocast("cpu", torch.bfloat16):
                bert(input_ids, mask)
        network.eval()
        own = bert(input_ids, mask)
    theirs = network(input_ids=input_ids, attention_mask=mask).logits
    torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5)


def test_weights_are_cast_once_while_evaluating(network):
    input_ids, mask = texts([9, 3, 5, 1])
    bert = CpuBert(network)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        bert(input_ids, mask)
        before = [weight._version for layer in bert.layers for weight in layer.weights]
        bert(input_ids, mask)
    assert [weight._version for layer in bert.layers for weight in layer.weights] == before


@pytest.mark.parametrize("change", [{"hidden_act": "relu"}, {"is_decoder": True}])
def test_another_architecture_is_left_to_transformers(change):
    config = BertConfig(
        vocab_size=30, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    assert CpuBert.can_run(BertForSequenceClassification(config))
    config.update(change)
    assert not CpuBert.can_run(BertForSequenceClassification(config))


def test_changed_modules_and_precisions_are_left_to_transformers(network):
    class Adapted(torch.nn.Linear):
        pass

    assert CpuBert.can_run(network)
    assert not CpuBert.can_run(network.bfloat16())
    network.float().bert.encoder.layer[0].attention.self.query = Adapted(32, 32)
    assert not CpuBert.can_run(network)


def test_a_part_that_the_description_leaves_out_keeps_a_network_from_the_fast_path(tiny_bert):
    """As ERNIE's second table of constants would: its values would be missing from every logit."""
    network = load_network(Weights(str(tiny_bert), stand_in=None), ["a", "b"])
    assert CpuBert.can_run(network)
    assert graph_of(network) is not None
    other = load_network(Weights(str(tiny_bert), stand_in=None), ["a", "b"])
    other.bert.embeddings.task_type_embeddings = torch.nn.Embedding(3, other.config.hidden_size)
    assert not CpuBert.can_run(other)
    assert graph_of(other) is None
