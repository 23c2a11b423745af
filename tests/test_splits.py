"""How rows are divided, by hand; test_data.py has what a data module makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lit_bert import EmotionDataModule
from lit_bert.data.splits import by_length
from lit_bert.data.stratify import assign_folds, split_off
from lit_bert.sources.weights import Weights


@pytest.mark.parametrize(
    ("rows", "fraction", "given"),
    [(1, 0.9, 0), (2, 0.01, 1), (2, 0.99, 1), (5, 0.4, 2), (10, 0.24, 2), (10, 0.26, 3), (10, 0.99, 9)],
)
def test_a_class_gives_its_share_and_keeps_a_row(rows: int, fraction: float, given: int) -> None:
    labels = np.array([0, 0, 0] + [1] * rows)
    train, validation = split_off(labels, fraction, seed=3)
    assert np.count_nonzero(labels[validation] == 1) == given
    assert np.count_nonzero(labels[train] == 1) == rows - given


def test_the_parts_are_whole_in_the_order_of_the_file_and_follow_the_seed() -> None:
    labels = np.arange(60) % 3
    train, validation = split_off(labels, 0.3, seed=1)
    assert sorted([*train, *validation]) == list(range(60))
    assert np.all(np.diff(train) > 0)
    assert np.all(np.diff(validation) > 0)
    assert np.array_equal(split_off(labels, 0.3, seed=1)[1], validation)
    assert not np.array_equal(split_off(labels, 0.3, seed=2)[1], validation)


def test_folds_go_on_in_the_next_class_where_the_last_one_ended() -> None:
    labels = np.array([0] * 4 + [1] * 4 + [2] * 4)
    folds = assign_folds(labels, 3, seed=0)
    counts = [np.bincount(folds[labels == each], minlength=3).tolist() for each in range(3)]
    assert counts == [[2, 1, 1], [1, 2, 1], [1, 1, 2]]  # dealt 0 1 2 0, then 1 2 0 1, then 2 0 1 2
    assert not np.array_equal(assign_folds(labels, 3, seed=1), folds)


def test_rows_of_one_length_keep_their_order_behind_longer_ones(tmp_path: Path, weights: Weights) -> None:
    lines = ["happy,joy", "so happy,joy", "sad,sadness", "very sad dog,sadness", "so sad,sadness"]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]))
    data = EmotionDataModule(str(tmp_path / "rows.csv"), val_fraction=0.4, weights=weights)
    data.setup("fit")
    assert by_length(data.splits.train_split()).rows.tolist() == [3, 1, 4, 0, 2]
