"""Two classifiers on the same rows: against scipy and worked examples."""

import math

import numpy as np
import pytest
from test_scores import answers, single

from lit_bert.evaluate.calibration import cross_fitted
from lit_bert.evaluate.compare import _student_quantile, compare, loss_change, main_change, mcnemar
from lit_bert.evaluate.scores import with_intervals
from lit_bert.task.classes import softmax


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1),
        (1, 0, 1),  # 2 · 1/2
        (0, 3, 1 / 4),  # 2 · 1/8
        (5, 0, 1 / 16),
        (1, 4, 3 / 8),  # 2 · (1 + 5) / 32
        (2, 8, 7 / 64),  # 2 · (1 + 10 + 45) / 1024
        (3, 3, 1),
    ],
)
def test_mcnemar_by_hand(only_first, only_second, p):
    assert mcnemar(only_first, only_second) == mcnemar(only_second, only_first) == p


@pytest.mark.parametrize(("fewer", "tosses"), [(10, 37), (450, 1000), (4900, 10_000), (40_000, 81_000)])
def test_mcnemar_is_the_binomial_test_of_scipy(fewer, tosses):
    stats = pytest.importorskip("scipy.stats")
    wanted = stats.binomtest(fewer, tosses, 0.5).pvalue
    assert mcnemar(fewer, tosses - fewer) == pytest.approx(wanted, rel=1e-8)


def test_a_classifier_is_no_better_than_itself():
    task, probs, labels = answers(200, 4, seed=3)
    found = compare(task, probs, probs, labels)
    found_all = (*found.differences.values.values(), *found.differences.by_class)
    assert {tuple(difference) for difference in found_all} == {(0, 0, 0)}
    assert (found.only_first, found.only_second, found.p_value) == (0, 0, 1)


def test_a_comparison_is_the_second_less_the_first():
    labels = np.array([0, 1] * 20)
    first, second = (np.full((40, 2), 0.5) for _ in range(2))
    for probs, right in ((first, 22), (second, 30)):
        probs[np.arange(40), labels] += np.where(np.arange(40) < right, 0.3, -0.3)
    found = compare(single(2), first, second, labels)
    assert found.differences.accuracy.value == pytest.approx(8 / 40)
    assert found.differences.loss_nats.value == pytest.approx(8 / 40 * math.log(0.2 / 0.8))
    assert 0 < found.differences.accuracy.low < 8 / 40 < found.differences.accuracy.high
    assert (found.only_first, found.only_second) == (0, 8)
    assert found.p_value == 2 / 2**8


def test_on_the_same_rows_a_difference_is_surer_than_on_others():
    task, probs, labels = answers(500, 3, seed=7)
    noise = np.random.default_rng(8).normal(size=probs.shape) * 0.5
    other = softmax(np.log(probs) + noise)
    paired = compare(task, probs, other, labels).differences
    alone = [with_intervals(task, each, labels) for each in (probs, other)]
    for name in ("accuracy", "macro_f1", "loss_nats"):
        # Of two independent scores the variances add up.
        own = [getattr(each, name) for each in alone]
        unpaired = math.hypot(*(each.high - each.low for each in own))
        both = getattr(paired, name)
        assert 0 < both.high - both.low < 0.8 * unpaired, name


# --- beyond chance ---


@pytest.mark.parametrize("degrees", [9, 17, 50, 2000])
def test_quantiles_of_students_t_are_scipys(degrees):
    stats = pytest.importorskip("scipy.stats")
    assert _student_quantile(0.975, degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-3)


def test_the_change_of_the_loss_has_students_interval():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=40)
    before, after = (softmax(generator.normal(size=(40, 3))) for _ in range(2))
    found = loss_change(single(3), before, after, labels)
    rows = np.arange(40)
    changes = np.log(before[rows, labels]) - np.log(after[rows, labels])
    wanted = stats.ttest_1samp(changes, 0).confidence_interval(0.95)
    assert tuple(found) == pytest.approx((changes.mean(), wanted.low, wanted.high), rel=1e-3)
    assert loss_change(single(3), before[:15], after[:15], labels[:15]) is None


@pytest.mark.parametrize("N", [16, 30, 60])
def test_a_change_of_no_use_is_rarely_beyond_chance(N):
    """A temperature for probabilities from which the labels were drawn: any other than 1 does harm."""
    generator = np.random.default_rng(0)
    kept = 0
    for _ in range(200):
        logits = generator.normal(size=(N, 3))
        labels = np.array([generator.choice(3, p=each) for each in softmax(logits)])
        fitted = cross_fitted(single(3), logits, labels)
        kept += loss_change(single(3), softmax(logits), fitted, labels).high < 0
    assert kept <= 10


def test_the_change_of_the_main_score_is_that_of_the_comparison():
    generator = np.random.default_rng(0)
    labels = generator.integers(4, size=80)
    before, after = (softmax(generator.normal(size=(80, 4)) + 2 * np.eye(4)[labels]) for _ in range(2))
    wanted = compare(single(4), before, after, labels).differences.macro_f1
    assert tuple(main_change(single(4), before, after, labels)) == pytest.approx(tuple(wanted))
