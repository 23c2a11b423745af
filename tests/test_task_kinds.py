"""Each kind of task against scikit-learn, scipy and worked examples: scores, losses, thresholds, answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torchmetrics
from jsonschema import Draft202012Validator
from sklearn import metrics
from torch.nn import functional
from torchmetrics import MetricCollection

from lit_bert import UserError
from lit_bert.evaluate import scores
from lit_bert.task.base import Task
from lit_bert.task.kinds import KINDS, task_of, task_of_plain
from lit_bert.task.multi_label import MultiLabel, best_thresholds, sigmoid
from lit_bert.task.ordinal import Ordinal
from lit_bert.task.regression import Regression
from lit_bert.task.scaling import platt_scaling
from lit_bert.task.single import SingleLabel

NAMES = ["a", "b", "c", "d"]


def rows_of(kind: str, N: int = 300, seed: int = 0) -> tuple[Task, np.ndarray, np.ndarray]:
    """A task, logits (N, C) that are partly right, and labels as the task stores them."""
    generator = np.random.default_rng(seed)
    if KINDS[kind].label_form == "number":
        low, high = KINDS[kind].label_range
        labels = generator.uniform(low, high, N) if np.isfinite(high - low) else generator.normal(50, 10, N)
        labels = labels.astype(np.float32)
        task = task_of(kind, ["stars"], KINDS[kind].parameters_of_labels(labels))
        logits = task.logits_of(labels[:, None]) + generator.normal(0, 0.5, (N, 1))
        return task, logits.astype(np.float32), labels
    task = task_of(kind, NAMES)
    if kind == "multi_label":
        labels = (generator.random((N, 4)) < [0.5, 0.3, 0.1, 0.02]).astype(np.uint8)
        logits = 3.0 * labels - 1.5 + generator.normal(0, 1.5, (N, 4))
        return task, logits.astype(np.float32), labels
    labels = generator.integers(0, 4, N)
    logits = -np.abs(np.arange(4) - labels[:, None]) + generator.normal(0, 1, (N, 4))
    return task, logits.astype(np.float32), labels


# --- scores ---


def test_scores_of_several_labels_are_those_of_sklearn():
    task, logits, labels = rows_of("multi_label")
    outputs = task.outputs(logits)
    found = scores.all_scores(task, outputs, labels)
    preds = (outputs > 0.5).astype(int)
    for key, average in (("macro_f1", "macro"), ("micro_f1", "micro"), ("samples_f1", "samples")):
        wanted = metrics.f1_score(labels, preds, average=average, zero_division=np.nan)
        if average == "samples":  # sklearn leaves texts without a label out, or has 0 for them
            each = [metrics.f1_score(y, p, zero_division=1.0) for y, p in zip(labels, preds, strict=True)]
            wanted = np.mean(each)
        assert found.values[key] == pytest.approx(wanted, rel=1e-9), key
    assert found.subset_accuracy == pytest.approx(metrics.accuracy_score(labels, preds))
    assert found.label_ranking == pytest.approx(
        metrics.label_ranking_average_precision_score(labels, outputs), rel=1e-9
    )
    precision = metrics.average_precision_score(labels, outputs, average=None)
    assert found.classes["average_precision"] == pytest.approx(precision, rel=1e-9)
    assert found.macro_average_precision == pytest.approx(precision.mean(), rel=1e-9)
    assert found.by_class == pytest.approx(metrics.f1_score(labels, preds, average=None), rel=1e-9)
    loss = [metrics.log_loss(labels[:, c], outputs[:, c].astype(float), labels=[0, 1]) for c in range(4)]
    assert found.loss_nats == pytest.approx(np.mean(loss), rel=1e-6)


def test_average_precision_counts_texts_of_equal_probability_together():
    outputs = np.array([[0.9], [0.5], [0.5], [0.5], [0.1]], dtype=np.float32).repeat(2, axis=1)
    labels = np.array([[0, 1], [1, 0], [0, 0], [1, 1], [1, 0]], dtype=np.uint8)
    found = scores.all_scores(MultiLabel.of(["a", "b"]), outputs, labels)
    wanted = metrics.average_precision_score(labels, outputs, average=None)
    assert found.classes["average_precision"] == pytest.approx(wanted)


def test_a_row_that_counts_twice_is_the_row_twice():
    for kind in KINDS:
        task, logits, labels = rows_of(kind, N=60)
        times = np.random.default_rng(1).integers(0, 3, 60)
        rows = np.repeat(np.arange(60), times)
        outputs = task.outputs(logits)
        weighted = task.scorer(outputs, labels)(times.astype(float))
        repeated = task.scorer(outputs[rows], labels[rows])(np.ones(len(rows)))
        assert weighted == pytest.approx(repeated, rel=1e-9, abs=1e-12, nan_ok=True), kind
        main = [each.key for each in task.scores].index(task.main)
        assert task.main_scorer(outputs, labels)(times.astype(float)) == pytest.approx(weighted[main])


def test_a_class_of_no_text_has_no_score():
    labels = np.array([[1, 0, 0], [0, 0, 0], [1, 0, 0]], dtype=np.uint8)
    outputs = np.array([[0.9, 0.1, 0.8], [0.2, 0.1, 0.3], [0.7, 0.2, 0.1]], dtype=np.float32)
    found = scores.all_scores(MultiLabel.of(["a", "b", "c"]), outputs, labels)
    assert found.by_class == (1.0, None, None)
    assert found.classes["average_precision"] == (1.0, None, None)
    assert found.macro_f1 == 0.5  # of a, and of c, which was given and is no label


def test_scores_of_numbers_are_those_of_sklearn_and_scipy():
    from scipy import stats

    task, logits, labels = rows_of("regression")
    labels = labels.round()  # equal ones share their rank
    outputs = task.outputs(logits)
    found, values = scores.all_scores(task, outputs, labels), outputs[:, 0]
    assert found.mae == pytest.approx(metrics.mean_absolute_error(labels, values), rel=1e-6)
    assert found.rmse == pytest.approx(metrics.root_mean_squared_error(labels, values), rel=1e-6)
    assert found.r2 == pytest.approx(metrics.r2_score(labels, values), rel=1e-6)
    assert found.pearson == pytest.approx(stats.pearsonr(labels, values).statistic, rel=1e-6)
    assert found.spearman == pytest.approx(stats.spearmanr(labels, values).statistic, rel=1e-6)
    assert found.by_class == ()


def test_scores_of_ordered_classes_are_those_of_sklearn():
    from scipy import stats

    task, logits, labels = rows_of("ordinal")
    outputs = task.outputs(logits)
    found, preds = scores.all_scores(task, outputs, labels), task.predictions(outputs)
    kappa = metrics.cohen_kappa_score(labels, preds, weights="quadratic")
    assert found.quadratic_kappa == pytest.approx(kappa, rel=1e-9)
    assert found.mae == pytest.approx(metrics.mean_absolute_error(labels, preds))
    assert found.rmse == pytest.approx(metrics.root_mean_squared_error(labels, preds))
    assert found.spearman == pytest.approx(stats.spearmanr(labels, preds).statistic)
    assert found.macro_f1 == pytest.approx(metrics.f1_score(labels, preds, average="macro"))
    assert found.accuracy == pytest.approx(metrics.accuracy_score(labels, preds))


@pytest.mark.parametrize("kind", KINDS)
def test_what_training_logs_is_what_is_scored_afterwards(kind):
    task, logits, labels = rows_of(kind)
    if kind == "multi_label":  # with thresholds, too
        task = task.with_parameters(thresholds=[0.3, 0.6, 0.7, 0.2])
    collection = MetricCollection(task.metrics(torchmetrics))
    for rows in np.array_split(np.arange(len(logits)), 7):
        collection.update(torch.from_numpy(logits[rows]), torch.from_numpy(labels[rows]))
    logged, by_class, counts = task.logged(collection.compute())
    assert tuple(logged) == task.logged_names
    found = scores.all_scores(task, task.outputs(logits), labels)
    same = {"f1": "macro_f1", "f1_micro": "micro_f1", "kappa": "quadratic_kappa"}
    for name, value in logged.items():
        key = same.get(name, name)
        key = "subset_accuracy" if (kind, key) == ("multi_label", "accuracy") else key
        if key in found.values:
            assert float(value) == pytest.approx(found.values[key], rel=2e-5), name
    assert float(logged[task.logged_main]) == pytest.approx(found.chosen_by, rel=2e-5)
    assert [float(each) for each in by_class] == pytest.approx(
        [each or 0 for each in found.by_class], rel=1e-5
    )
    assert list(counts) == task.label_counts(labels)


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_are_about_the_scores(kind):
    task, logits, labels = rows_of(kind, N=120)
    outputs = task.outputs(logits)
    found, values = scores.with_intervals(task, outputs, labels), scores.all_scores(task, outputs, labels)
    for key, score in found.values.items():
        assert score.value == values.values[key]
        assert score.low <= score.value <= score.high, key
        assert score.low < score.high, key
    assert json.loads(json.dumps(found.as_dict(list))).keys() >= set(values.values)


# --- losses ---


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_against_the_gradient_lowers_the_loss_and_weights_count(kind):
    task, logits, labels = rows_of(kind, N=32)
    z, y = torch.tensor(logits, requires_grad=True), torch.from_numpy(labels)
    for loss_of in (task.loss, task.training_loss):
        plain = loss_of(functional, z, y)
        assert plain.shape == ()
        (gradient,) = torch.autograd.grad(plain, z)
        assert loss_of(functional, z - gradient, y) < plain
        assert loss_of(functional, z, y, 0.0, torch.ones(32)).item() == pytest.approx(plain.item(), rel=1e-6)
        first = torch.cat([torch.full((1,), 32.0), torch.zeros(31)])
        alone = loss_of(functional, z[:1], y[:1])
        assert loss_of(functional, z, y, 0.0, first).item() == pytest.approx(alone.item(), rel=1e-5)
    rows = task.row_losses(task.outputs(logits), labels)
    assert rows.mean() == pytest.approx(task.loss(functional, z, y).item(), rel=1e-4)


def test_smoothing_several_labels_spreads_a_share_of_each_over_the_classes():
    labels = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]], dtype=torch.uint8)
    logits = torch.tensor([[0.5, -1.0, 2.0, 0.0], [0.1, 0.2, -0.3, 0.4]])
    wanted = torch.tensor([[0.95, 0.05, 0.95, 0.05], [0, 0, 0, 0]])
    by_hand = functional.binary_cross_entropy_with_logits(logits, wanted)
    assert MultiLabel.of(NAMES).loss(functional, logits, labels, 0.1) == by_hand


def test_to_be_off_by_two_classes_costs_more_than_by_one():
    task = Ordinal.of(NAMES)
    sure = torch.eye(4) * 8
    losses = [task.training_loss(functional, sure[[pred]], torch.tensor([0])).item() for pred in range(4)]
    assert losses == sorted(losses)
    assert losses[3] - losses[2] > 0.9
    plain = [task.loss(functional, sure[[pred]], torch.tensor([0])).item() for pred in range(1, 4)]
    assert max(plain) == pytest.approx(min(plain))  # what is reported is cross-entropy


def test_smoothing_ordered_classes_spreads_over_those_beside_them():
    task, logits = Ordinal.of(NAMES), torch.zeros(1, 4)
    logits = torch.tensor([[1.0, 0.0, -1.0, 0.5]])
    wanted = torch.tensor([[0.05, 0.9, 0.05, 0.0]])
    p = logits.softmax(1)
    by_hand = -(wanted * logits.log_softmax(1)).sum() + (p.cumsum(1) - wanted.cumsum(1)).square().sum()
    found = task.training_loss(functional, logits, torch.tensor([1]), 0.1)
    assert found.item() == pytest.approx(by_hand.item(), rel=1e-6)
    at_end = task.training_loss(functional, logits, torch.tensor([0]), 0.1)  # one neighbour
    assert at_end.isfinite()


# --- answers ---


def test_a_text_has_the_classes_above_their_thresholds():
    task = MultiLabel.of(["a", "b", "c"], {"thresholds": [0.5, 0.2, 0.9]})
    outputs = np.array([[0.4, 0.3, 0.8], [0.6, 0.7, 0.95], [0.5, 0.19, 0.9]], dtype=np.float32)
    assert task.predictions(outputs).tolist() == [[0, 1, 0], [1, 1, 1], [0, 0, 0]]
    answers = [task.answer(row, truncated=False) for row in outputs]
    assert [each.labels for each in answers] == [["b"], ["c", "b", "a"], []]
    assert answers[0].probabilities == pytest.approx({"a": 0.4, "b": 0.3, "c": 0.8})
    assert task.columns() == ["predicted_labels", "probability_a", "probability_b", "probability_c"]
    assert task.cells(outputs[1]) == [["c", "b", "a"], 0.6, 0.7, 0.95]
    assert task.shown(np.array([1, 0, 1])) == "a, c"
    assert task.shown(np.array([0, 0, 0])) == "no label"
    assert task.explained_class(outputs[0]) == 1  # above its threshold, though c is more probable


def test_an_ordered_class_is_the_median_with_an_interval():
    task = Ordinal.of(["1", "2", "3", "4", "5"])
    outputs = np.array([0.35, 0.1, 0.1, 0.05, 0.4], dtype=np.float32)
    answer = task.answer(outputs, truncated=True)
    assert (answer.label, answer.low, answer.high, answer.truncated) == ("3", "1", "5", True)
    assert answer.probability == pytest.approx(0.1)
    narrow = task.answer(np.array([0.01, 0.02, 0.93, 0.02, 0.02], dtype=np.float32), truncated=False)
    assert (narrow.low, narrow.label, narrow.high) == ("3", "3", "3")


def test_a_number_has_the_unit_of_the_labels_and_an_interval():
    task = Regression.of(["stars"], {"scale": [3.0, 2.0], "interval": [0.5]})
    outputs = task.outputs(np.array([[-1.0], [0.25]], dtype=np.float32))
    assert outputs.tolist() == [[1.0], [3.5]]
    assert tuple(task.answer(outputs[1], truncated=False)) == (3.5, 3.0, 4.0, False)
    assert task.cells(outputs[1]) == [3.5, 3.0, 4.0]
    unknown = Regression.of(["stars"], {"scale": [3.0, 2.0]})
    assert tuple(unknown.answer(outputs[0], truncated=False)) == (1.0, None, None, False)
    plain, scale, shift = task.exported()
    assert plain.outputs(np.array([[-1.0 * scale + shift]])).tolist() == [[1.0]]
    assert plain.half_width == 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_answers_fit_their_schema_and_labels_come_back_from_a_file(kind):
    task, logits, labels = rows_of(kind, N=20)
    outputs = task.outputs(logits)
    assert outputs.dtype == np.float32
    assert task.outputs_problem(outputs) is None
    schema = task.answer_schema()
    for row in outputs:
        answer = task.answer(row, truncated=False)._asdict()
        assert list(answer) == [*schema, "truncated"]
        whole = {"type": "object", "properties": schema, "required": list(schema)}
        assert Draft202012Validator(whole).is_valid(json.loads(json.dumps(answer)))
        assert len(task.cells(row)) == len(task.columns())
    kept = json.loads(json.dumps(task.stored_labels(labels)))
    assert (task.labels_of(kept) == labels).all()
    assert task.labels_of(kept).dtype == labels.dtype
    again = task.outputs(task.logits_of(outputs).astype(np.float32))
    assert again == pytest.approx(outputs, rel=1e-4, abs=1e-6)


# --- calibration, thresholds, intervals ---


def test_platt_scaling_finds_what_was_done_to_the_logits():
    generator = np.random.default_rng(0)
    truth = generator.normal(0, 2, 20_000)
    labels = (generator.random(20_000) < sigmoid(truth)).astype(np.uint8)
    scale, shift = platt_scaling((truth - 1.0) * 2.0, labels)
    assert scale == pytest.approx(0.5, abs=0.03)
    assert shift == pytest.approx(1.0, abs=0.06)
    assert platt_scaling(truth, labels, has_shift=False)[1] == 0.0


def test_platt_scaling_of_few_rows_changes_little():
    assert platt_scaling(np.zeros(0), np.zeros(0)) == (1.0, 0.0)
    scale, shift = platt_scaling(np.array([4.0, -4.0]), np.array([1, 0]))
    assert abs(scale - 1) < 0.2
    assert abs(shift) < 0.2
    assert platt_scaling(np.array([-3.0] * 50), np.zeros(50))[0] >= 0


def test_thresholds_have_the_highest_f1_there_is():
    _, logits, labels = rows_of("multi_label", N=200, seed=3)
    outputs = MultiLabel.of(NAMES).outputs(logits)
    chosen = best_thresholds(outputs, labels)
    for c in range(3):
        f1 = metrics.f1_score(labels[:, c], outputs[:, c] > chosen[c])
        steps = [metrics.f1_score(labels[:, c], outputs[:, c] > at) for at in np.linspace(0.01, 0.99, 99)]
        assert f1 >= max(steps) - 1e-12
    few = np.zeros((200, 1), np.uint8)
    few[:3] = 1
    assert best_thresholds(outputs[:, :1], few).tolist() == [0.5]


def test_chosen_thresholds_are_kept_where_they_help_other_rows():
    generator = np.random.default_rng(0)
    labels = (generator.random((400, 2)) < 0.2).astype(np.uint8)
    outputs = np.where(labels, 0.35, 0.15) + generator.uniform(0, 0.1, (400, 2))  # 0.5 gives no label at all
    choice = MultiLabel.of(["a", "b"]).choose(outputs.astype(np.float32), labels)
    assert choice.fact["kept"]
    assert (choice.fact["f1_before"], choice.fact["f1_after"]) == (0.0, 1.0)
    assert all(0.25 < each < 0.35 for each in choice.task.thresholds)
    noise = generator.random((40, 2)).astype(np.float32)
    other = MultiLabel.of(["a", "b"]).choose(noise, (generator.random((40, 2)) < 0.5).astype(np.uint8))
    if not other.fact["kept"]:
        assert other.task.thresholds.tolist() == [0.5, 0.5]


def test_an_interval_of_numbers_holds_nine_in_ten_others():
    held = []
    for seed in range(200):
        generator = np.random.default_rng(seed)
        labels = generator.normal(0, 1, 60).astype(np.float32)
        values = (labels + generator.standard_t(3, 60)).astype(np.float32)[:, None]
        task = Regression.of(["x"]).choose(values[:50], labels[:50]).task
        held += [abs(values[row, 0] - labels[row]) <= task.half_width for row in range(50, 60)]
    assert np.mean(held) == pytest.approx(0.9, abs=0.03)
    few = Regression.of(["x"]).choose(values[:8], labels[:8])
    assert (few.task.half_width, few.fact["kept"]) == (None, False)
    assert "8 rows are too few" in few.task.choice_note(few.fact)


def test_errors_come_the_worst_first():
    task = Ordinal.of(["1", "2", "3"])
    outputs = np.array([[0.9, 0.1, 0], [0, 0.1, 0.9], [0.2, 0.8, 0], [0, 0.95, 0.05]], dtype=np.float32)
    assert task.errors(outputs, np.array([2, 2, 0, 0])).tolist() == [0, 3, 2]
    numbers = Regression.of(["x"], {"interval": [0.5]})
    values, labels = np.array([[1.0], [2.0], [3.0]], dtype=np.float32), np.array([1.2, 0.0, 4.0])
    assert numbers.errors(values, labels).tolist() == [1, 2]
    several = MultiLabel.of(["a", "b"])
    sure = np.array([[0.9, 0.9], [0.9, 0.6], [0.9, 0.9]], dtype=np.float32)
    assert several.errors(sure, np.array([[1, 1], [0, 1], [1, 0]])).tolist() == [2, 1]


# --- what a stranger's file may say ---


@pytest.mark.parametrize(
    ("kind", "names", "parameters"),
    [
        ("single", ["a", "b"], {"thresholds": [0.5, 0.5]}),
        ("multi_label", ["a", "b"], {"thresholds": [0.5]}),
        ("multi_label", ["a", "b"], {"thresholds": [0.0, 0.5]}),
        ("multi_label", ["a", "b"], {"thresholds": [float("nan"), 0.5]}),
        ("multi_label", ["a", "b"], {"scale": [0.0, 1.0]}),
        ("regression", ["x"], {"scale": [0.0, 0.0]}),
        ("regression", ["x"], {"scale": [0.0, float("inf")]}),
        ("regression", ["x"], {"interval": [-1.0]}),
        ("regression", ["x", "y"], {}),
        ("ordinal", ["a", "b"], {"thresholds": [0.5, 0.5]}),
        ("multi_label", ["a", "b"], {"thresholds": ["0.5", "0.5"]}),
        ("multi_label", ["a", "b"], {"thresholds": 0.5}),
        ("multi_label", ["a", "b"], []),
    ],
)
def test_parameters_that_do_not_fit_are_refused(kind, names, parameters):
    with pytest.raises(UserError, match="the parameters of the task"):
        task_of_plain(kind, names, parameters or ([] if parameters == [] and kind != "regression" else {}))


def test_labels_that_are_none_are_refused():
    for task, cells in (
        (MultiLabel.of(["a", "b"]), [["a", "c"]]),
        (MultiLabel.of(["a", "b"]), ["a"]),
        (SingleLabel.of(["a", "b"]), ["c"]),
        (Regression.of(["x"]), ["1"]),
        (Regression.of(["x"]), [float("nan")]),
    ):
        with pytest.raises((ValueError, KeyError, TypeError)):
            task.labels_of(cells)
