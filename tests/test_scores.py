"""Scores, intervals, comparison and temperature: against torchmetrics, scipy, grids and worked examples."""

import math
import re
from operator import attrgetter

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)

from lit_bert.evaluate import scores
from lit_bert.evaluate.calibration import cross_fitted, temperature
from lit_bert.evaluate.compare import _student_quantile, compare, loss_change, macro_f1_change, mcnemar
from lit_bert.evaluate.evidence import Evidence
from lit_bert.evaluate.scores import all_scores, calibration_error, f1_scores, row_losses, with_intervals
from lit_bert.task.single import softmax


def answers(N, C, seed, sure=2.0, skill=2.0):
    """Probabilities float32 (N, C) and labels of a made-up classifier; `skill` is the logit of the label."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(C, size=N)
    logits = generator.normal(size=(N, C)) * sure
    logits[np.arange(N), labels] += skill
    return softmax(logits).astype(np.float32), labels


# --- scores ---


@pytest.mark.parametrize("C", [2, 6, 77])
@pytest.mark.parametrize("absent", [False, True])
def test_scores_are_those_of_torchmetrics(C, absent):
    probs, labels = answers(400, C, seed=C)
    if absent:  # the last class is neither a label nor predicted, the one before is predicted alone
        labels = np.where(labels >= C - 2, 0, labels)
        probs[:, -1] = 0
        probs[:9, C - 2] += 2
        probs /= probs.sum(1, keepdims=True)
    found = all_scores(probs, labels)
    given = torch.from_numpy(probs), torch.from_numpy(labels)
    for value, average in ((found.macro_f1, "macro"), (found.micro_f1, "micro")):
        wanted = multiclass_f1_score(*given, num_classes=C, average=average)
        assert value == pytest.approx(wanted.item(), rel=1e-6)
    each = multiclass_f1_score(*given, num_classes=C, average="none").tolist()
    there = np.bincount(labels, minlength=C) > 0
    assert [value is not None for value in found.by_class] == there.tolist()
    assert [value or 0 for value in found.by_class] == pytest.approx(each, rel=1e-6)
    accuracy = multiclass_accuracy(*given, num_classes=C, average="micro")
    assert found.accuracy == pytest.approx(accuracy.item(), rel=1e-6)
    loss = torch.nn.functional.nll_loss(given[0].double().log(), given[1])
    assert found.loss_nats == pytest.approx(loss.item(), rel=1e-6)
    if absent:
        assert found.by_class[-1] is None
        assert found.macro_f1 > np.mean(each)  # the last does not count


def test_f1_by_hand():
    counts = np.array([[3, 1, 0], [2, 2, 0], [0, 0, 0]])  # rows are labels
    first, second = 6 / 9, 4 / 7
    macro, micro, by_class = f1_scores(counts)
    assert (macro, micro) == pytest.approx(((first + second) / 2, 5 / 8))
    assert by_class == pytest.approx([first, second, np.nan], nan_ok=True)


def test_the_loss_of_a_row_is_finite_where_its_label_had_no_chance():
    losses = row_losses(np.array([[0.25, 0.75], [1, 0]], dtype=np.float32), np.array([0, 1]))
    assert losses[0] == pytest.approx(math.log(4))
    assert 80 < losses[1] < 100


@pytest.mark.parametrize("C", [2, 6, 77])
@pytest.mark.parametrize("sure", [0.3, 1.0, 5.0])
def test_the_calibration_error_is_that_of_torchmetrics(C, sure):
    probs, labels = answers(700, C, seed=C, sure=sure)
    probs = np.minimum(probs, 1 - 1e-6).astype(np.float32)  # torchmetrics has a bin more, for 1 alone
    wanted = multiclass_calibration_error(
        torch.from_numpy(probs), torch.from_numpy(labels), num_classes=C, n_bins=15, norm="l1"
    ).item()
    assert wanted > 0.01
    assert calibration_error(probs, labels) == pytest.approx(wanted, abs=1e-6)


def test_the_calibration_error_by_hand():
    # Two rows of 0.9, one of them right, and one of 1, right: bins of 0.867 to 0.933 and 0.933 to 1.
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.0, 1.0]])
    assert calibration_error(probs, np.array([0, 1, 1])) == pytest.approx(2 / 3 * 0.4)


# --- intervals ---


def test_intervals_are_about_the_scores_and_come_out_the_same_again():
    for C, N in ((2, 30), (6, 400), (77, 300)):
        probs, labels = answers(N, C, seed=1)
        found = with_intervals(probs, labels)
        values = all_scores(probs, labels)
        plain = found.as_dict(range(C), lambda score: score.value)
        assert plain == values.as_dict(range(C))
        for score in filter(None, (*found.main.values(), found.accuracy, *found.by_class)):
            assert score.low <= score.value <= score.high
        assert found.accuracy.low < found.accuracy.high
        assert with_intervals(probs, labels) == found


def class_2(found):
    return found.by_class[2]


@pytest.mark.parametrize(
    "score", [attrgetter("accuracy"), attrgetter("loss_nats"), attrgetter("macro_f1"), class_2]
)
def test_an_interval_is_as_wide_as_the_spread_of_the_score_over_data_sets(score):
    # 95 % of a normal distribution lie within 1.96 standard deviations.
    sets = [score(all_scores(*answers(200, 3, seed))) for seed in range(300)]
    found = score(with_intervals(*answers(200, 3, seed=999)))
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.std(sets), rel=0.2)


def test_intervals_hold_the_truth_in_about_95_of_100_data_sets(monkeypatch):
    monkeypatch.setattr(scores, "RESAMPLES", 200)
    names = ("accuracy", "macro_f1", "loss_nats")
    truth = all_scores(*answers(300_000, 3, seed=10**6))
    held = dict.fromkeys(names, 0)
    sets = 400
    for seed in range(sets):
        found = with_intervals(*answers(150, 3, seed))
        for name in names:
            score = getattr(found, name)
            held[name] += score.low <= getattr(truth, name) <= score.high
    # Twice the standard deviation of such a count is 0.022.
    assert {name: count / sets for name, count in held.items()} == pytest.approx(
        dict.fromkeys(names, 0.95), abs=0.03
    )


def test_intervals_shrink_with_the_square_root_of_the_rows():
    small, large = (with_intervals(*answers(N, 3, seed=5)) for N in (400, 6400))
    for name in ("accuracy", "macro_f1", "loss_nats"):
        widths = [getattr(found, name).high - getattr(found, name).low for found in (small, large)]
        assert widths[0] / widths[1] == pytest.approx(4, rel=0.2), name


def test_rows_that_are_all_right_leave_nothing_to_chance():
    labels = np.arange(20) % 2
    found = with_intervals(np.eye(2)[labels], labels)
    assert {tuple(each) for each in (found.macro_f1, found.accuracy, found.by_class[0])} == {(1, 1, 1)}
    assert tuple(found.loss_nats) == tuple(found.calibration_error) == (0, 0, 0)


# --- comparison ---


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
    probs, labels = answers(200, 4, seed=3)
    found = compare(probs, probs, labels)
    found_all = (*found.differences.main.values(), found.differences.accuracy, *found.differences.by_class)
    assert {tuple(difference) for difference in found_all} == {(0, 0, 0)}
    assert (found.only_first, found.only_second, found.p_value) == (0, 0, 1)


def test_a_comparison_is_the_second_less_the_first():
    labels = np.array([0, 1] * 20)
    first, second = (np.full((40, 2), 0.5) for _ in range(2))
    for probs, right in ((first, 22), (second, 30)):
        probs[np.arange(40), labels] += np.where(np.arange(40) < right, 0.3, -0.3)
    found = compare(first, second, labels)
    assert found.differences.accuracy.value == pytest.approx(8 / 40)
    assert found.differences.loss_nats.value == pytest.approx(8 / 40 * math.log(0.2 / 0.8))
    assert 0 < found.differences.accuracy.low < 8 / 40 < found.differences.accuracy.high
    assert (found.only_first, found.only_second) == (0, 8)
    assert found.p_value == 2 / 2**8


def test_on_the_same_rows_a_difference_is_surer_than_on_others():
    probs, labels = answers(500, 3, seed=7)
    noise = np.random.default_rng(8).normal(size=probs.shape) * 0.5
    other = softmax(np.log(probs) + noise)
    paired = compare(probs, other, labels).differences
    alone = [with_intervals(each, labels) for each in (probs, other)]
    for name in ("accuracy", "macro_f1", "loss_nats"):
        # Of two independent scores the variances add up.
        own = [getattr(each, name) for each in alone]
        unpaired = math.hypot(*(each.high - each.low for each in own))
        both = getattr(paired, name)
        assert 0 < both.high - both.low < 0.8 * unpaired, name


# --- calibration ---


def smoothed_loss(logits, labels, T):
    """What `temperature` minimises, spelled out: 1 / (N + 2) of each label belongs to all classes."""
    log_probs = torch.from_numpy(logits / T).double().log_softmax(1).numpy()
    spread = 1 / (len(labels) + 2)
    return -((1 - spread) * log_probs[np.arange(len(labels)), labels] + spread * log_probs.mean(1)).mean()


def drawn(T, N=4000, C=5, seed=0):
    """Logits whose labels were drawn from softmax(logits / T)."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(N, C)) * 3
    chance = softmax(logits / T).cumsum(1)
    return logits, (generator.random((N, 1)) > chance).sum(1)


@pytest.mark.parametrize("T", [0.3, 0.8, 1.0, 1.7, 4.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(T):
    logits, labels = drawn(T)
    assert temperature(logits, labels) == pytest.approx(T, rel=0.08)
    # Logits of another scale, or log-probabilities, say the same.
    log_probs = np.log(softmax(logits))
    assert temperature(log_probs, labels) == pytest.approx(temperature(logits, labels), rel=1e-6)
    assert temperature(7 * logits, labels) == pytest.approx(7 * temperature(logits, labels), rel=1e-6)


HARD = {
    "few rows": lambda: drawn(2.0, N=7, seed=1),
    "a row": lambda: drawn(2.0, N=1, seed=2),
    "two classes": lambda: drawn(0.5, N=50, C=2, seed=3),
    "77 classes": lambda: drawn(3.0, N=300, C=77, seed=4),
    "all right and sure": lambda: (np.eye(3)[[0, 1, 2, 0]] * 30, np.array([0, 1, 2, 0])),
    "all right and unsure": lambda: (np.eye(3)[[0, 1, 2, 0]] * 0.5, np.array([0, 1, 2, 0])),
    "all wrong": lambda: (np.eye(3)[[0, 1, 2, 0]] * 4, np.array([1, 2, 0, 1])),
    "float32": lambda: tuple(each.astype(kind) for each, kind in zip(drawn(1.5), ("f4", "i8"), strict=True)),
}


@pytest.mark.parametrize("case", HARD)
def test_no_other_temperature_does_better(case):
    logits, labels = HARD[case]()
    T = temperature(logits, labels)
    grid = np.geomspace(0.01, 100, 2001)
    losses = [smoothed_loss(logits, labels, each) for each in grid]
    least = min(losses)
    assert smoothed_loss(logits, labels, T) <= least + 1e-9
    assert smoothed_loss(logits, labels, T) <= smoothed_loss(logits, labels, 1.0)
    if case != "all wrong":  # there the loss falls all the way to the bound
        assert abs(T / grid[np.argmin(losses)] - 1) < 0.01


def test_a_few_right_rows_do_not_make_every_answer_certain():
    logits, labels = np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([0, 1])
    # 1/4 of each label is spread over two classes: 7/8 is the best that can be said of such rows.
    assert softmax(logits / temperature(logits, labels)).max(1) == pytest.approx([7 / 8] * 2, abs=1e-6)
    many = np.tile(logits, (500, 1)), np.tile(labels, 500)  # 1000 rows: 1 - 1/1002/2
    assert softmax(many[0] / temperature(*many)).max() == pytest.approx(1 - 1 / 2004, abs=1e-6)


def test_a_temperature_stays_within_its_bounds():
    right, wrong = np.array([[1e-4, 0.0]] * 9), np.array([[900.0, 0.0]] * 9)
    assert temperature(right, np.zeros(9, int)) == pytest.approx(0.01, rel=0.01)
    assert temperature(wrong, np.ones(9, int)) == pytest.approx(100, rel=0.01)
    assert temperature(np.zeros((9, 2)), np.zeros(9, int)) == 1  # all alike: nothing to tell


def test_the_interval_of_a_small_calibration_error_is_about_it():
    # Resamples of rows without an error beyond chance have a larger one, nearly all of them.
    for seed in range(5):
        logits, labels = drawn(1.0, N=100, seed=seed)
        found = with_intervals(softmax(logits), labels).calibration_error
        assert 0 <= found.low < found.value < found.high < 0.25


def test_each_half_is_calibrated_by_the_other():
    logits, labels = drawn(2.5, N=41)
    probs = cross_fitted(logits, labels, seed=3)
    assert probs.sum(1) == pytest.approx(np.ones(41))
    # The temperature of each row, from its two likeliest classes.
    rows, top = np.arange(41)[:, None], np.argsort(-logits, axis=1)[:, :2]
    gap, log_gap = -np.diff(logits[rows, top]), -np.diff(np.log(probs[rows, top]))
    used = (gap / log_gap)[:, 0]
    halves = [np.flatnonzero(np.isclose(used, value)) for value in sorted(set(used.round(9)))]
    assert sorted(map(len, halves)) == [20, 21]
    for here, there in (halves, halves[::-1]):
        assert used[here] == pytest.approx(temperature(logits[there], labels[there]))
    assert not np.array_equal(cross_fitted(logits, labels, seed=4), probs)
    assert np.array_equal(cross_fitted(logits, labels, seed=3), probs)


def test_calibration_brings_confidence_to_accuracy():
    logits, labels = drawn(3.0)
    before = calibration_error(softmax(logits), labels)
    after = calibration_error(cross_fitted(logits, labels), labels)
    assert before > 0.2
    assert after < 0.03


def test_a_single_row_is_calibrated_with_nothing():
    assert cross_fitted(np.array([[3.0, 1.0]]), np.array([1])) == pytest.approx(
        softmax(np.array([[3.0, 1.0]]))
    )


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
    found = loss_change(before, after, labels)
    rows = np.arange(40)
    changes = np.log(before[rows, labels]) - np.log(after[rows, labels])
    wanted = stats.ttest_1samp(changes, 0).confidence_interval(0.95)
    assert tuple(found) == pytest.approx((changes.mean(), wanted.low, wanted.high), rel=1e-3)
    assert loss_change(before[:15], after[:15], labels[:15]) is None


@pytest.mark.parametrize("N", [16, 30, 60])
def test_a_change_of_no_use_is_rarely_beyond_chance(N):
    """A temperature for probabilities from which the labels were drawn: any other than 1 does harm."""
    generator = np.random.default_rng(0)
    kept = 0
    for _ in range(200):
        logits = generator.normal(size=(N, 3))
        labels = np.array([generator.choice(3, p=each) for each in softmax(logits)])
        kept += loss_change(softmax(logits), cross_fitted(logits, labels), labels).high < 0
    assert kept <= 10


def test_the_change_of_macro_f1_is_that_of_the_comparison():
    generator = np.random.default_rng(0)
    labels = generator.integers(4, size=80)
    before, after = (softmax(generator.normal(size=(80, 4)) + 2 * np.eye(4)[labels]) for _ in range(2))
    wanted = compare(before, after, labels).differences.macro_f1
    assert tuple(macro_f1_change(before, after, labels)) == pytest.approx(tuple(wanted))


# --- what scores rest on


def test_a_class_without_a_row_in_a_resample_is_left_out_of_its_interval():
    # The only row of the last class is right: it is F1 1 in every resample that has it, in others nothing.
    labels = np.array([0] * 10 + [1] * 10 + [2])
    probs = np.eye(3)[labels] * 0.8 + 0.1
    found = with_intervals(probs, labels)
    assert tuple(found.by_class[2]) == (1, 1, 1)
    assert tuple(compare(probs, probs, labels).differences.by_class[2]) == (0, 0, 0)


def test_an_absent_class_has_no_score_and_no_difference():
    labels = np.array([0, 1] * 10)
    probs = np.full((20, 3), 0.1)
    probs[np.arange(20), np.where(np.arange(20) < 4, 2, labels)] = 0.8
    assert all_scores(probs, labels).by_class[2] is None
    assert with_intervals(probs, labels).by_class[2] is None
    assert compare(probs, probs[::-1], labels).differences.by_class[2] is None
    evidence = Evidence.of(probs, labels)
    assert evidence.averaged == 3
    assert evidence.macro_note == ""  # the third was predicted, and so is averaged
    assert evidence.class_note(2) == (
        "absent: no row has this label, 4 rows predicted as it; counts as 0 in macro F1"
    )
    assert evidence.class_note(0) == ""


@pytest.mark.parametrize(
    ("used_for", "said"),
    [
        ((), None),
        (None, "it is not recorded whether these rows were trained on, chose the epoch"),
        (("choosing the epoch",), "the same rows were used for choosing the epoch: scores on new texts are"),
        (("a", "b", "c"), "the same rows were used for a, b and c: "),
    ],
)
def test_scores_say_what_their_rows_had_decided(used_for, said):
    probs, labels = answers(4000, 3, seed=1)
    notes = Evidence.of(probs, labels, used_for).notes(with_intervals(probs, labels))
    assert [note.startswith(str(said)) for note in notes] == [True] * (said is not None)


@pytest.mark.parametrize(("rows", "few"), [(1, True), (18, True), (200, True), (4000, False)])
def test_few_rows_are_said_to_be_few(rows, few):
    probs, labels = answers(rows, 3, seed=1)
    notes = Evidence.of(probs, labels).notes(with_intervals(probs, labels))
    assert [
        bool(re.match(rf"{rows} rows? (is|are) few: .* \d+ points wide", note)) for note in notes[-1:]
    ] == ([True] * few)


def test_a_few_rows_that_are_all_right_are_few_though_their_interval_has_no_width():
    labels = np.arange(18) % 3
    probs = np.eye(3)[labels]
    found = with_intervals(probs, labels)
    assert tuple(found.macro_f1) == (1, 1, 1)
    # Wilson: 18 of 18 rows leave shares of 0.824 to 1.
    assert "up to 18 points wide" in Evidence.of(probs, labels).few_rows_note(found)
