"""What is promised of answers holds, by simulation; a promise that rows cannot give is refused."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lit_bert import UserError
from lit_bert.task import guarantee
from lit_bert.task.classes import softmax
from lit_bert.task.guarantee import Labelled, binomial_cdf, fewest_rows, parse, quantile, upper_bound
from lit_bert.task.kinds import task_of_plain

SPLITS = 1000
# Outputs and labels of the validation split of dair-ai/emotion, 2,000 rows, by MiniLM after two epochs of
# `fit --data.dataset FOLDER`.
EMOTION = Path(__file__).with_name("emotion_outputs.npz")


def simulated(count, classes=4, seed=0):
    """Outputs that are too sure of themselves, and labels by the probabilities behind them."""
    generator = np.random.default_rng(seed)
    logits = 4 * generator.standard_normal((count, classes))
    drawn = (softmax(logits).cumsum(1) < generator.random((count, 1))).sum(1)
    return Labelled(softmax(2 * logits).astype(np.float32), np.minimum(drawn, classes - 1))


def emotion():
    with np.load(EMOTION) as found:
        return Labelled(found["outputs"], found["labels"].astype(np.int64))


POPULATIONS = pytest.mark.parametrize("whole", [simulated(8_000), emotion()], ids=["simulated", "emotion"])


def draws(whole, sizes, seed=1):
    """Disjoint random parts of rows, SPLITS times; the last part is of all that are left."""
    generator = np.random.default_rng(seed)
    for _ in range(SPLITS):
        order = generator.permutation(len(whole.labels))
        cuts = np.cumsum(sizes)
        yield [Labelled(*(each[part] for each in whole)) for part in np.split(order, cuts)]


def at_most(share):
    """How many of SPLITS may fail, each with that probability, in all but one of 1,000 such tests."""
    return stats.binom.ppf(0.999, SPLITS, share)


def sureness(rows):
    return rows.outputs.max(1), rows.outputs.argmax(1) == rows.labels


@POPULATIONS
@pytest.mark.parametrize("rate", [0.9, 0.97])
def test_answered_texts_are_right_at_the_promised_rate(whole, rate):
    scores, right = sureness(whole)
    broken = given = 0
    for kept, validated, _ in draws(whole, (600, 600)):
        found = guarantee.accuracy(rate, *sureness(kept), sureness(validated))
        if found is None:
            continue
        given += 1
        broken += right[scores >= found.threshold].mean() < rate
    assert broken <= at_most(1 - guarantee.CONFIDENCE)
    assert given > 0.4 * SPLITS  # 0.97 is little more than these rows can show


def test_a_rate_that_no_threshold_reaches_is_hardly_ever_promised():
    generator = np.random.default_rng(0)
    false = 0
    for _ in range(SPLITS):
        kept, validated = ((generator.random(300), generator.random(300) < 0.9) for _ in range(2))
        false += guarantee.accuracy(0.9 + 1e-9, *kept, validated) is not None
    assert false <= at_most(1 - guarantee.CONFIDENCE)


@POPULATIONS
@pytest.mark.parametrize("by_class", [False, True])
def test_sets_hold_the_class_at_the_promised_rate(whole, by_class):
    rate, hits, below, sizes = 0.9, [], 0, []
    C = whole.outputs.shape[1]
    for kept, others in draws(whole, (900,)):
        found = guarantee.class_sets(rate, kept, by_class)
        assert found is not None
        sets = others.outputs >= found.thresholds
        held = sets[np.arange(len(others.labels)), others.labels]
        hits.append([held[others.labels == c].mean() for c in range(C)] if by_class else [held.mean()])
        below += not by_class and held.mean() < found.bound
        sizes.append(np.maximum(sets.sum(1), 1).mean())
    error = np.std(hits, 0) / np.sqrt(SPLITS)
    assert (np.mean(hits, 0) >= rate - 4 * error).all()
    if not by_class:
        assert np.mean(hits) <= rate + 1 / 901 + 4 * error  # and no more than it has to
        if len(whole.labels) > 5_000:  # of few others, their own chance comes on top
            assert below <= at_most(1 - guarantee.CONFIDENCE)
    assert np.mean(sizes) < C


@pytest.mark.parametrize("rate", [0.8, 0.95])
def test_sets_of_several_labels_lack_no_more_than_their_share(rate):
    generator = np.random.default_rng(2)
    logits = 2 * generator.standard_normal((6_000, 5)) - 1
    labels = (generator.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    outputs = (1 / (1 + np.exp(-1.5 * logits))).astype(np.float32)
    whole, missed = Labelled(outputs, labels), []
    for kept, others in draws(whole, (200,)):
        found = guarantee.label_sets(rate, kept)
        lacks = (others.labels * (others.outputs < found.thresholds)).sum(1)
        missed.append((lacks / np.maximum(others.labels.sum(1), 1)).mean())
    error = np.std(missed) / np.sqrt(SPLITS)
    assert np.mean(missed) <= 1 - rate + 4 * error
    assert np.mean(missed) >= 1 - rate - 2 / 201 - 4 * error


def test_intervals_hold_the_number_at_the_promised_rate():
    generator = np.random.default_rng(3)
    outputs = generator.standard_normal(6_000).astype(np.float32)
    labels = outputs + generator.standard_t(3, 6_000).astype(np.float32)
    held, below = [], 0
    for kept, others in draws(Labelled(outputs, labels), (200,)):
        found = guarantee.interval(0.95, *kept)
        held.append((np.abs(others.outputs - others.labels) <= found.size).mean())
        below += held[-1] < found.bound
    assert abs(np.mean(held) - 0.95) <= 1 / 201 + 4 * np.std(held) / np.sqrt(SPLITS)
    assert below <= at_most(1 - guarantee.CONFIDENCE)


def test_binomial_bounds_are_those_of_scipy():
    for k, n in ((0, 1), (0, 149), (3, 200), (199, 200), (200, 200), (40, 5000)):
        wanted = stats.beta.ppf(0.95, k + 1, n - k) if k < n else 1.0
        assert upper_bound(k, n) == pytest.approx(wanted, abs=1e-9)
        for p in (0.001, 0.02, 0.5, 0.99):
            assert binomial_cdf(k, n, p) == pytest.approx(stats.binom.cdf(k, n, p), abs=1e-9)


@pytest.mark.parametrize(
    ("name", "rate", "rows"), [("accuracy", 0.98, 149), ("coverage", 0.95, 19), ("coverage", 0.9, 9)]
)
def test_the_fewest_rows_are_enough_and_one_less_is_not(name, rate, rows):
    assert fewest_rows(name, rate) == rows

    def given(count):
        if name == "coverage":
            return quantile(rate, np.arange(count)) is not None
        sure, right = np.full(count, 0.9), np.ones(count, bool)
        return guarantee.accuracy(rate, sure, right, (sure, right)) is not None

    assert given(rows)
    assert not given(rows - 1)


def test_what_is_no_guarantee_is_refused():
    assert parse("accuracy=0.98, coverage=0.95") == {"accuracy": 0.98, "coverage": 0.95}
    wrong = ("", "accuracy", "accuracy=1", "accuracy=nan", "recall=0.9", "accuracy=.9,accuracy=.8")
    for said in (*wrong, "coverage=0.9,coverage_by_class=0.9"):
        with pytest.raises(UserError, match=r"--guarantee .*expected"):
            parse(said)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("single", {"accuracy": [0.9, 0.5, 100, 50]}),
        ("single", {"accuracy": [0.9, 0.5, 100, 101, 3]}),
        ("single", {"accuracy": [1.0, 0.5, 100, 50, 3]}),
        ("single", {"coverage": [0.9, 100, 0.8, 1.5, 0.1, 0.2]}),
        ("single", {"coverage": [0.9, 0, 0.8, 1.5, 0.1]}),
        ("single", {"costs": [0, 1, 1, 0]}),
        ("single", {"costs": [0.0] * 9, "wanted": [0, 0.5, 0.9, 1]}),
        ("single", {"wanted": [3, 0.5, 0.9, 1]}),
        ("ordinal", {"wanted": [0, 0.5, 0.9, 1]}),
        ("multi_label", {"accuracy": [0.9, 0.5, 100, 50, 3]}),
        ("multi_label", {"coverage": [0.9, 100, 0.8, 1.5]}),
    ],
)
def test_parameters_that_promise_nothing_sound_are_refused(kind, parameters):
    with pytest.raises(UserError, match="the parameters of the task"):
        task_of_plain(kind, ["a", "b", "c"], parameters)
