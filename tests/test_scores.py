"""Scores and their intervals: against torchmetrics, many data sets and worked examples."""

import math
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
from lit_bert.evaluate.compare import compare
from lit_bert.evaluate.scores import all_scores, with_intervals
from lit_bert.task.classes import f1_of_counts, softmax
from lit_bert.task.single import SingleLabel


def answers(N, C, seed, sure=2.0, skill=2.0):
    """The task, probabilities float32 (N, C) and labels of a made-up classifier.

    Args:
        skill: the logit of the label.
    """
    generator = np.random.default_rng(seed)
    labels = generator.integers(C, size=N)
    logits = generator.normal(size=(N, C)) * sure
    logits[np.arange(N), labels] += skill
    return single(C), softmax(logits).astype(np.float32), labels


def single(C):
    """One of C classes a text."""
    return SingleLabel.of([f"class {number}" for number in range(C)])


# --- scores ---


@pytest.mark.parametrize("C", [2, 6, 77])
@pytest.mark.parametrize("absent", [False, True])
def test_scores_are_those_of_torchmetrics(C, absent):
    task, probs, labels = answers(400, C, seed=C)
    if absent:  # the last class is neither a label nor predicted, the one before is predicted alone
        labels = np.where(labels >= C - 2, 0, labels)
        probs[:, -1] = 0
        probs[:9, C - 2] += 2
        probs /= probs.sum(1, keepdims=True)
    found = all_scores(task, probs, labels)
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
    macro, by_class = f1_of_counts(np.diag(counts), counts.sum(1), counts.sum(0))
    assert macro == pytest.approx((first + second) / 2)
    assert by_class == pytest.approx([first, second, np.nan], nan_ok=True)


def test_the_loss_of_a_row_is_finite_where_its_label_had_no_chance():
    losses = single(2).row_losses(np.array([[0.25, 0.75], [1, 0]], dtype=np.float32), np.array([0, 1]))
    assert losses[0] == pytest.approx(math.log(4))
    assert 80 < losses[1] < 100


@pytest.mark.parametrize("C", [2, 6, 77])
@pytest.mark.parametrize("sure", [0.3, 1.0, 5.0])
def test_the_calibration_error_is_that_of_torchmetrics(C, sure):
    task, probs, labels = answers(700, C, seed=C, sure=sure)
    probs = np.minimum(probs, 1 - 1e-6).astype(np.float32)  # torchmetrics has a bin more, for 1 alone
    wanted = multiclass_calibration_error(
        torch.from_numpy(probs), torch.from_numpy(labels), num_classes=C, n_bins=15, norm="l1"
    ).item()
    assert wanted > 0.01
    assert task.calibration_error(probs, labels) == pytest.approx(wanted, abs=1e-6)


def test_the_calibration_error_by_hand():
    # Two rows of 0.9, one of them right, and one of 1, right: bins of 0.867 to 0.933 and 0.933 to 1.
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.0, 1.0]])
    assert single(2).calibration_error(probs, np.array([0, 1, 1])) == pytest.approx(2 / 3 * 0.4)


# --- intervals ---


def test_intervals_are_about_the_scores_and_come_out_the_same_again():
    for C, N in ((2, 30), (6, 400), (77, 300)):
        task, probs, labels = answers(N, C, seed=1)
        found = with_intervals(task, probs, labels)
        values = all_scores(task, probs, labels)
        plain = found.as_dict(lambda score: score.value)
        assert plain == values.as_dict()
        for score in filter(None, (*found.values.values(), *found.by_class)):
            assert score.low <= score.value <= score.high
        assert found.accuracy.low < found.accuracy.high
        assert with_intervals(task, probs, labels) == found


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
    found = with_intervals(single(2), np.eye(2)[labels], labels)
    assert {tuple(each) for each in (found.macro_f1, found.accuracy, found.by_class[0])} == {(1, 1, 1)}
    assert tuple(found.loss_nats) == tuple(found.calibration_error) == (0, 0, 0)


def test_a_class_without_a_row_in_a_resample_is_left_out_of_its_interval():
    # The only row of the last class is right: it is F1 1 in every resample that has it, in others nothing.
    labels = np.array([0] * 10 + [1] * 10 + [2])
    probs = np.eye(3)[labels] * 0.8 + 0.1
    found = with_intervals(single(3), probs, labels)
    assert tuple(found.by_class[2]) == (1, 1, 1)
    assert tuple(compare(single(3), probs, probs, labels).differences.by_class[2]) == (0, 0, 0)
