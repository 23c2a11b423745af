"""Drift: how often nothing raises an alarm, whether planted changes do, and how files of it are read."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lit_bert import UserError
from lit_bert.evaluate import drift
from lit_bert.evaluate.drift import RATE, Reference, Sketch, TextFacts, compare, sketch_as_dict
from lit_bert.evaluate.shift_tests import fisher, holm, smirnov
from lit_bert.task.kinds import task_of

OUTPUTS = np.load(Path(__file__).with_name("emotion_outputs.npz"))
CLASSES = ("anger", "fear", "joy", "love", "sadness", "surprise")
TASK = task_of("single", list(CLASSES))
FEATURES = 24


class World:
    """Rows of a model: its outputs on emotion, and made lengths, pieces and embeddings."""

    def __init__(self, seed):
        self.generator = np.random.default_rng(seed)
        self.centres = np.random.default_rng(1).standard_normal((6, FEATURES))
        self.outputs = next(OUTPUTS[name] for name in OUTPUTS.files if OUTPUTS[name].ndim == 2)

    def rows(self, count, only=None, longer=1.0, unknown=0.03, pieces=1.0, power=1.0, moved=0.0):
        """The facts of texts, outputs and features of some rows."""
        some, generator = self.outputs, self.generator
        if only is not None:
            some = some[some.argmax(1) == only]
        outputs = some[generator.integers(len(some), size=count)].astype(np.float64) ** power
        outputs = (outputs / outputs.sum(1, keepdims=True)).astype(np.float32)
        length = np.maximum(3, generator.poisson(20 * longer, count))
        per_word = pieces * (1 + generator.gamma(2, 0.1, count))
        per_word[generator.random(count) < 0.05] = np.nan
        features = self.centres[outputs.argmax(1)] + generator.standard_normal((count, FEATURES)) + moved
        return TextFacts(length, generator.random(count) < unknown, per_word), outputs, features


def alarms(found):
    return {each.name for each in found if each.p_value <= RATE}


@pytest.mark.parametrize(("reference_rows", "batch_rows"), [(300, 50), (300, 300), (150, 2000)])
def test_batches_without_a_change_raise_no_more_alarms_than_stated(reference_rows, batch_rows):
    draws, count = 600, 0
    for seed in range(draws):
        world = World(seed)
        texts, outputs, features = world.rows(reference_rows)
        reference = Reference.of_rows(TASK, texts, outputs, features)
        count += bool(alarms(compare(reference, reference.count(*world.rows(batch_rows)))))
    # Of 600 draws with a rate of 1 %, 14 or more would come up in 0.3 % of all simulations.
    print(f"{reference_rows} and {batch_rows} rows: {count / draws:.2%} false alarms")
    assert count < 14


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"only": 2}, drift.CLASSES),
        ({"power": 0.3}, drift.CONFIDENCE),
        ({"longer": 1.5}, drift.LENGTH),
        ({"unknown": 0.4}, drift.UNKNOWN),
        ({"pieces": 1.6}, drift.PIECES),
        ({"moved": 1.0}, drift.EMBEDDINGS),
    ],
)
def test_a_planted_change_is_found_and_named(change, name):
    others = 0  # that an alarm is raised of, and which did not change
    for seed in range(20):
        world = World(seed)
        texts, outputs, features = world.rows(300)
        reference = Reference.of_rows(TASK, texts, outputs, features)
        found = compare(reference, reference.count(*world.rows(150, **change)))
        assert name in alarms(found)
        if name in (drift.LENGTH, drift.UNKNOWN, drift.PIECES, drift.EMBEDDINGS):
            others += len(alarms(found) - {name})
        (of_it,) = (each for each in found if each.name == name)
        assert "now" in of_it.effect or "farther" in of_it.effect
    assert others <= 2


def test_smirnov_by_hand():
    distance, p = smirnov(np.array([5, 5, 0]), np.array([0, 5, 5]))
    assert distance == 0.5
    # sqrt(10 * 10 / 20) * 0.5 = 1.118; 2 (exp(-2 * 1.25) - exp(-8 * 1.25) + …)
    assert p == pytest.approx(2 * (np.exp(-2.5) - np.exp(-10) + np.exp(-22.5)), abs=1e-12)
    assert smirnov(np.array([3, 3]), np.array([30, 30])) == (0, 1)


@pytest.mark.parametrize(
    "counts", [(3, 300, 3, 20), (0, 50, 12, 60), (40, 50, 12, 60), (7, 9, 7, 9), (0, 9, 0, 4)]
)
def test_fisher_is_the_sum_of_a_tail(counts):
    from math import comb

    hits, of, hits_2, of_2 = counts
    marked, whole = hits + hits_2, of + of_2
    ways = [comb(marked, k) * comb(whole - marked, of_2 - k) for k in range(of_2 + 1)]
    tails = sum(ways[: hits_2 + 1]), sum(ways[hits_2:])
    assert fisher(*counts) == pytest.approx(min(1, 2 * min(tails) / comb(whole, of_2)), rel=1e-9)


def test_fisher_takes_counts_of_a_busy_server():
    assert fisher(50, 1000, 50_000_000, 1_000_000_000) == 1
    assert fisher(50, 1000, 100_000_000, 1_000_000_000) < 1e-6


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])


def test_sketches_add_up():
    world = World(0)
    texts, outputs, features = world.rows(300)
    reference = Reference.of_rows(TASK, texts, outputs, features)
    whole, parts = reference.count(texts, outputs, features), Sketch()
    for start, end in pairwise((0, 1, 120, 300)):
        some = TextFacts(*(each[start:end] for each in texts))
        parts.merge(reference.count(some, outputs[start:end], features[start:end]))
    assert sketch_as_dict(parts) == sketch_as_dict(whole) == sketch_as_dict(reference.sketch)
    assert whole.rows == 300


def test_a_reference_is_read_as_it_was_written():
    world = World(0)
    texts, outputs, features = world.rows(300)
    reference = Reference.of_rows(TASK, texts, outputs, features, {"checkpoint": "a"})
    again = Reference.from_dict(TASK, json.loads(json.dumps(reference.as_dict())), "drift.json")
    assert again.as_dict() == reference.as_dict()
    assert again.key == reference.key
    batch = world.rows(100)
    assert compare(again, again.count(*batch)) == compare(reference, reference.count(*batch))


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said.pop("edges"),
        lambda said: said.update(rows=-1),
        lambda said: said.update(rows="many"),
        lambda said: said["edges"]["length"][0].reverse(),
        lambda said: said["edges"].update(odd=[[1.0]]),
        lambda said: said["counts"].update(length=[1, 2]),
        lambda said: said["counts"].update(unknown=[-1, 2]),
        lambda said: said["counts"].update(classes=[1.5] * 6),
        lambda said: said["counts"].pop("confidence"),
        lambda said: said["embedding"].update(scale=[0.0] * FEATURES),
        lambda said: said.update(embedding=None),
        lambda said: said.update(counts=[]),
    ],
)
def test_a_damaged_reference_is_refused(change):
    texts, outputs, features = World(0).rows(100)
    said = json.loads(json.dumps(Reference.of_rows(TASK, texts, outputs, features).as_dict()))
    change(said)
    with pytest.raises(UserError, match=r"drift\.json is no reference"):
        Reference.from_dict(TASK, said, "drift.json")


def test_few_rows_are_refused():
    world = World(0)
    texts, outputs, _ = world.rows(100)
    reference = Reference.of_rows(TASK, texts, outputs)
    with pytest.raises(UserError, match="the batch has 5 texts; expected 20"):
        compare(reference, reference.count(*world.rows(5)[:2]))


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_other_kinds_of_tasks_are_counted(kind):
    generator = np.random.default_rng(0)
    task = task_of(kind, ["price"] if kind == "regression" else ["a", "b", "c"])
    size = len(task.class_names)
    texts = World(0).rows(200)[0]
    outputs = generator.random((200, size)).astype(np.float32)
    reference = Reference.of_rows(task, texts, outputs)
    assert not alarms(compare(reference, reference.sketch))
    shifted = np.clip(outputs + 0.4, 0, 1)
    expected = {drift.VALUE} if kind == "regression" else {drift.CLASSES}
    assert expected <= alarms(compare(reference, reference.count(texts, shifted)))
