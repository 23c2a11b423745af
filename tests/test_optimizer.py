"""Deferred AdamW: what torch's AdamW makes of the same gradients, though most rows wait; the average."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn

from lit_bert import BertClassifier, Weights
from lit_bert.model import optimizer as room
from lit_bert.model.average import AVERAGED_STEPS, WeightAverage
from lit_bert.model.optimizer import MIN_BETA2, DeferredAdamW

ROWS, SIZE = 60, 8


class Pair:
    """The same parameters under torch's AdamW and under the deferred one, fed the same gradients."""

    def __init__(self, weight_decay: float = 0.1, beta2: float = 0.999) -> None:
        torch.manual_seed(0)
        self.embedding, self.linear = nn.Embedding(ROWS, SIZE), nn.Linear(SIZE, 3)
        self.other = copy.deepcopy(nn.ModuleList([self.embedding, self.linear]))
        own, dense = (
            [{**group, "betas": (0.9, beta2)} for group in self.groups(*modules, weight_decay)]
            for modules in ((self.embedding, self.linear), self.other)
        )
        self.own = DeferredAdamW(own, self.embedding, 0.01)
        self.dense = torch.optim.AdamW(dense, lr=0.01, fused=True)
        self.schedules = [
            torch.optim.lr_scheduler.LambdaLR(each, lambda step: 1 / (1 + 0.05 * step))
            for each in (self.own, self.dense)
        ]
        self.generator = torch.Generator().manual_seed(1)

    @staticmethod
    def groups(embedding: Any, linear: Any, weight_decay: float) -> list[dict[str, Any]]:
        return [
            {"params": [embedding.weight, linear.weight], "weight_decay": weight_decay},
            {"params": [linear.bias], "weight_decay": 0.0},
        ]

    def step(self, rows: Tensor, clip: float | None = None) -> None:
        """One step of both with random gradients at `rows`, which are read before."""
        self.embedding(rows)
        values = torch.randn(len(rows), SIZE, generator=self.generator)
        self.embedding.weight.grad = torch.sparse_coo_tensor(rows[None], values, (ROWS, SIZE))
        self.other[0].weight.grad = self.embedding.weight.grad.to_dense()
        for one, other in zip(self.linear.parameters(), self.other[1].parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=self.generator)
            other.grad = one.grad.clone()
        if clip:
            self.own.clip_norm(clip)
            nn.utils.clip_grad_norm_(self.other.parameters(), clip)
        for optimizer in (self.own, self.dense):
            optimizer.step()
            optimizer.zero_grad()
        for schedule in self.schedules:
            schedule.step()

    def run(self, steps: int, clip: float | None = None) -> None:
        for number in range(steps):
            high = ROWS - 5 if number % 11 == 0 else 12  # most rows are rare, and the last five never come
            self.step(torch.randint(0, high, (6,), generator=self.generator), clip)

    def assert_equal(self, rtol: float = 2e-5) -> None:
        self.own.catch_up()
        torch.testing.assert_close(self.embedding.weight, self.other[0].weight, rtol=rtol, atol=1e-6)
        torch.testing.assert_close(self.linear.weight, self.other[1].weight, rtol=rtol, atol=1e-6)
        own, dense = self.own.state[self.embedding.weight], self.dense.state[self.other[0].weight]
        assert own.keys() == dense.keys()
        for name in own:
            torch.testing.assert_close(own[name], dense[name], rtol=1e-4, atol=1e-9, msg=name)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
@pytest.mark.parametrize("clip", [None, 0.3, 1e6])
def test_rows_end_where_adamw_takes_them(weight_decay, clip):
    pair = Pair(weight_decay)
    pair.run(120, clip)
    pair.assert_equal()


@pytest.mark.parametrize("beta2", [MIN_BETA2, 0.95, 0.98])
def test_rows_end_there_for_each_beta2_that_is_deferred(beta2):
    pair = Pair(beta2=beta2)
    assert DeferredAdamW.can_run(pair.embedding, beta2)
    pair.run(300)
    pair.assert_equal()


@pytest.mark.parametrize("beta2", [0.0, 1e-300, 0.5, 0.89])
def test_a_beta2_whose_closed_form_does_not_hold_is_left_to_torch(tiny_bert, beta2):
    model = BertClassifier(["a", "b"], weights=Weights(str(tiny_bert), stand_in=None), beta2=beta2)
    batch = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    batch |= {"labels": torch.tensor([1]), "rows": torch.tensor([0])}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_steps=3, enable_model_summary=False, **quiet)
    trainer.fit(model, torch.utils.data.DataLoader([batch] * 3, batch_size=None))
    assert type(trainer.optimizers[0]) is torch.optim.AdamW
    assert {group["betas"][1] for group in trainer.optimizers[0].param_groups} == {beta2}
    assert all(value.isfinite().all() for value in model.parameters())


def test_rows_wait_until_they_are_read():
    pair = Pair()
    pair.step(torch.arange(ROWS))
    waiting = pair.embedding.weight[7].clone()
    for _ in range(5):
        pair.step(torch.tensor([1, 2]))
    assert torch.equal(pair.embedding.weight[7], waiting)
    read = pair.embedding(torch.tensor([[7]]))[0, 0]
    assert not torch.equal(read, waiting)
    torch.testing.assert_close(read, pair.other[0].weight[7], rtol=1e-5, atol=1e-6)


def test_more_steps_than_the_history_holds(monkeypatch):
    monkeypatch.setattr(room, "HISTORY", 16)
    pair = Pair()
    pair.run(50)
    pair.assert_equal()


def test_rows_left_for_longer_than_momentum_reaches():
    pair = Pair()
    pair.step(torch.arange(ROWS))
    for _ in range(room.REACH + 100):
        pair.step(torch.tensor([0]))
    pair.assert_equal(rtol=1e-4)


def test_what_is_saved_is_up_to_date():
    pair = Pair()
    pair.run(40)
    saved = pair.embedding.state_dict()["weight"]
    torch.testing.assert_close(saved, pair.other[0].weight, rtol=2e-5, atol=1e-6)
    pair.run(40)
    state = pair.own.state_dict()["state"][0]
    torch.testing.assert_close(
        state["exp_avg"], pair.dense.state_dict()["state"][0]["exp_avg"], rtol=1e-4, atol=1e-9
    )


@pytest.mark.parametrize("source", ["own", "dense"])
def test_a_run_goes_on_from_its_state_and_from_that_of_adamw(source):
    pair = Pair()
    pair.run(30)
    state = copy.deepcopy(getattr(pair, source).state_dict())
    resumed = Pair()
    resumed.embedding.load_state_dict(pair.embedding.state_dict())
    resumed.linear.load_state_dict(pair.linear.state_dict())
    resumed.other = pair.other
    resumed.dense = pair.dense
    resumed.own.load_state_dict(state)
    resumed.schedules[0] = torch.optim.lr_scheduler.LambdaLR(
        resumed.own, lambda step: 1 / (1 + 0.05 * step), last_epoch=29
    )
    resumed.schedules[1] = pair.schedules[1]
    resumed.run(30)
    resumed.assert_equal()


def test_gradients_accumulate_over_batches():
    pair = Pair()
    rows = torch.tensor([[3, 4, 3], [4, 9, 9]])
    for each in rows:
        pair.linear(pair.embedding(each)).square().sum().backward()
        pair.other[1](pair.other[0](each)).square().sum().backward()
    pair.own.clip_norm(0.1)
    nn.utils.clip_grad_norm_(pair.other.parameters(), 0.1)
    pair.own.step()
    pair.dense.step()
    pair.assert_equal()


def test_rows_can_be_read_and_saved_while_evaluating():
    pair = Pair()
    pair.run(20)
    with torch.inference_mode():
        pair.embedding(torch.arange(ROWS))
        pair.embedding.state_dict()
    pair.run(20)
    pair.assert_equal()


def test_frozen_embeddings_stay():
    pair = Pair()
    before = pair.embedding.weight.clone()
    pair.linear.weight.grad = torch.ones(3, SIZE)
    pair.own.clip_norm(1.0)
    pair.own.step()
    pair.own.catch_up()
    assert torch.equal(pair.embedding.weight, before)


def test_a_dense_gradient_counts_where_it_is_not_zero():
    pair = Pair()
    pair.run(10)
    for each in (pair.embedding, pair.other[0]):
        if each is pair.embedding:
            pair.own.catch_up()
        each.weight[[3, 50]].square().sum().backward()
    pair.own.step()
    pair.dense.step()
    pair.assert_equal()


def test_a_released_module_is_up_to_date_and_as_it_was():
    pair = Pair()
    pair.run(30)
    pair.own.release()
    torch.testing.assert_close(pair.embedding.weight, pair.other[0].weight, rtol=2e-5, atol=1e-6)
    pair.embedding(torch.tensor([1, 2])).sum().backward()
    assert not pair.embedding.weight.grad.is_sparse
    assert not pair.embedding._forward_pre_hooks


# --- the average of the weights


def moved(average: WeightAverage, weights: Tensor, steps: int) -> list[float]:
    """Takes steps that add 1 to all weights. Returns the first weight after each of them."""
    path = []
    for _ in range(steps):
        weights += 1
        average.update()
        path.append(float(weights[0]))
    return path


def test_the_average_forgets_by_its_decay_and_early_on_faster():
    weights = torch.zeros(3)
    average = WeightAverage([weights], decay=0.9)
    path = moved(average, weights, 2 * AVERAGED_STEPS)
    expected = 0.0
    for step in (AVERAGED_STEPS, 2 * AVERAGED_STEPS):
        kept = min(0.9, (1 + step) / (10 + step)) ** AVERAGED_STEPS
        expected = kept * expected + (1 - kept) * path[step - 1]
    assert average.values[0].tolist() == pytest.approx([expected] * 3)
    late = WeightAverage([weights], decay=0.9, step=1000)  # as a resumed run has it
    start = float(weights[0])
    moved(late, weights, AVERAGED_STEPS)
    assert late.values[0][0] == pytest.approx(start + AVERAGED_STEPS * (1 - 0.9**AVERAGED_STEPS))


def test_a_run_of_few_steps_is_averaged_up_to_its_last():
    weights = torch.zeros(3)
    average = WeightAverage([weights], decay=0.99)
    moved(average, weights, 3)
    average.swap()
    assert weights.tolist() == pytest.approx([3 * (1 - (4 / 13) ** 3)] * 3)


def test_weights_come_back_from_a_swap_and_go_on():
    weights = torch.zeros(3)
    average = WeightAverage([weights], decay=0.99)
    moved(average, weights, AVERAGED_STEPS + 2)
    trained = weights.clone()
    average.swap()
    assert average.in_use
    assert not torch.equal(weights, trained)
    shown = weights.clone()
    average.fold_in()  # nothing has moved
    average.swap()
    assert torch.equal(weights, trained)
    assert torch.equal(average.values[0], shown)
    moved(average, weights, AVERAGED_STEPS)
    assert float(average.values[0][0]) > float(shown[0])
