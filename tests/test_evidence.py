"""What limits a score: absent classes, rows that were used before, few rows."""

import re

import numpy as np
import pytest
from test_scores import answers, single

from lit_bert.evaluate.compare import compare
from lit_bert.evaluate.evidence import Evidence, counted
from lit_bert.evaluate.scores import all_scores, with_intervals
from lit_bert.task.kinds import task_of


def test_an_absent_class_has_no_score_and_no_difference():
    labels = np.array([0, 1] * 10)
    task, probs = single(3), np.full((20, 3), 0.1)
    probs[np.arange(20), np.where(np.arange(20) < 4, 2, labels)] = 0.8
    assert all_scores(task, probs, labels).by_class[2] is None
    assert with_intervals(task, probs, labels).by_class[2] is None
    assert compare(task, probs, probs[::-1], labels).differences.by_class[2] is None
    evidence = Evidence.of(task, probs, labels)
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
    task, probs, labels = answers(4000, 3, seed=1)
    notes = Evidence.of(task, probs, labels, used_for).notes(with_intervals(task, probs, labels))
    assert [note.startswith(str(said)) for note in notes] == [True] * (said is not None)


@pytest.mark.parametrize(("rows", "few"), [(1, True), (18, True), (200, True), (4000, False)])
def test_few_rows_are_said_to_be_few(rows, few):
    task, probs, labels = answers(rows, 3, seed=1)
    notes = Evidence.of(task, probs, labels).notes(with_intervals(task, probs, labels))
    assert [
        bool(re.match(rf"{rows} rows? (is|are) few: .* \d+ points wide", note)) for note in notes[-1:]
    ] == ([True] * few)


def test_a_few_rows_that_are_all_right_are_few_though_their_interval_has_no_width():
    labels = np.arange(18) % 3
    task, probs = single(3), np.eye(3)[labels]
    found = with_intervals(task, probs, labels)
    assert tuple(found.macro_f1) == (1, 1, 1)
    # Wilson: 18 of 18 rows leave shares of 0.824 to 1.
    assert "up to 18 points wide" in Evidence.of(task, probs, labels).few_rows_note(found)


@pytest.mark.parametrize(("rows", "few"), [(1, True), (3, True), (200, False)])
def test_a_few_rows_of_numbers_or_of_several_labels_are_few(rows, few):
    numbers = np.arange(rows) + np.float32(0.5)
    flags = np.tile(np.uint8([[1, 0]]), (rows, 1))
    for task, outputs, labels in (
        (task_of("regression", ["stars"]), numbers[:, None], numbers),
        (task_of("multi_label", ["a", "b"]), flags.astype(np.float32), flags),
    ):
        notes = Evidence.of(task, outputs, labels).notes(with_intervals(task, outputs, labels))
        assert any(re.match(rf"{rows} rows? (is|are) few: ", note) for note in notes) == few


def test_classes_that_are_neither_label_nor_predicted_are_not_averaged():
    evidence = Evidence.of(single(4), np.eye(4)[[0, 1, 1]], np.array([0, 1, 0]))
    assert (evidence.rows, evidence.labelled, evidence.predicted) == (3, (2, 1, 0, 0), (1, 2, 0, 0))
    assert evidence.averaged == 2
    assert evidence.macro_note == "mean over 2 of 4 classes"
    assert evidence.class_note(3) == "absent: no row has this label"
    assert evidence.notes()[0].startswith("macro F1 is the mean over 2 of 4 classes: no row has one of the")


def test_evidence_for_programs_has_counts_by_class_and_null_for_what_is_not_known():
    evidence = Evidence.of(single(2), np.eye(2)[[0, 1]], np.array([0, 0]), None)
    assert evidence.as_dict(["rows", "used_for"]) == {
        "rows": 2,
        "used_for": None,
        "labelled": {"rows": 2, "used_for": 0},
        "predicted": {"rows": 1, "used_for": 1},
    }


@pytest.mark.parametrize(("number", "text"), [(0, "0 rows"), (1, "1 row"), (1234, "1,234 rows")])
def test_a_noun_follows_its_number(number, text):
    assert counted(number, "row") == text
