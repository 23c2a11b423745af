"""What the labels of a data set are taken for, how they are read, dealt out, weighed; and what is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from conftest import CLASSES, Run, files, texts_of, write_csv

from lit_bert import EmotionDataModule, UserError, Weights
from lit_bert.data.cells import CellError, flag_of, labels_of, number_of, weight_of
from lit_bert.data.stratify import assign_folds, assign_parts, split_off

TEXTS = [text for label in CLASSES for text in texts_of(label, 20)]  # 60


def module_of(rows: list[dict[str, Any]] | Path, weights: Weights, **settings: Any) -> EmotionDataModule:
    """A data module of a file with some rows: CSV, or JSON Lines where a cell is a list."""
    if isinstance(rows, Path):
        file = rows
    elif any(isinstance(value, list) for row in rows for value in row.values()):
        file = Path("rows.jsonl")
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        file = write_csv(Path("rows.csv"), rows)
    return EmotionDataModule(str(file), weights=weights, **settings)


def with_labels(labels: list[Any], column: str = "label") -> list[dict[str, Any]]:
    return [{"text": text, column: label} for text, label in zip(TEXTS, labels, strict=False)]


# --- the kind ---


@pytest.mark.parametrize(
    ("column", "labels", "settings", "kind"),
    [
        ("label", ["a", "b", "c"], {}, "single"),
        ("label", ["0", "1", "2"], {}, "single"),
        ("label", ["1", "2", "3"], {}, "single"),  # codes, as far as anybody knows
        ("stars", ["1", "2", "3"], {}, "ordinal"),
        ("Rating", ["0", "1", "2", "3"], {}, "ordinal"),
        ("stars", ["1", "5", "3"], {}, "single"),  # with a gap
        ("stars", [str(each) for each in range(1, 31)], {}, "single"),  # too many
        ("label", ["1", "2", "3"], {"task": "ordinal"}, "ordinal"),
        ("label", ["1.5", "2", "3"], {}, "regression"),
        ("label", ["1e3", "2e5", "12:30"], {}, "single"),
        ("label", ["1.5", "2", "3"], {"task": "single"}, "single"),
        ("label", ["1", "2", "3"], {"task": "regression"}, "regression"),
        ("label", [["a"], ["b", "c"], []], {}, "multi_label"),
        ("label", ["a|b", "b", ""], {"label_separator": "|"}, "multi_label"),
        ("label", ["a|b", "b", "a"], {}, "single"),
        ("label", ["a", "b", "c"], {"task": "multi_label"}, "multi_label"),
    ],
)
def test_the_kind_is_found_in_the_data_or_given(weights, column, labels, settings, kind):
    rows = with_labels([labels[n % len(labels)] for n in range(60)], column)
    assert module_of(rows, weights, **settings).task == kind


def test_what_was_found_is_said_once(weights, caplog):
    with caplog.at_level("INFO", "lit_bert"):
        data = module_of(with_labels([0.5, 1.5, 2.5] * 20, "stars"), weights)
        assert data.task == "regression"
        assert data.label_names == ["stars"]
    said = [record.message for record in caplog.records if record.message.startswith("task: ")]
    assert said == ["task: a number to predict (regression): column 'stars' has fractions (--data.task)"]


def test_numbers_from_0_to_1_are_said_to_fit_another_kind(weights, caplog):
    with caplog.at_level("INFO", "lit_bert"):
        assert module_of(with_labels([0.25, 0.5, 1.0] * 20), weights).task == "regression"
    assert "all from 0 to 1, as proportion keeps its answers (--data.task)" in caplog.text


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        ([["a"], ["b"]] * 30, "has lists, 0 of 60 with more than one label"),
        (
            [["a"], ["b"], ["a", "b"], []] * 15,
            "has lists, 15 of 60 with more than one label, the first in row 3 (line 3) of split train",
        ),
        (
            [*["a", "b"] * 28, ["a"], "b", ["a", "b"], ["b"]],
            "has lists in 3 of 60 rows, the first in row 57 (line 57) of split train",
        ),
        (
            [None, ["a"], "b", ["a"], " "],
            "has lists in 2 of 3 rows, the first in row 2 (line 2) of split train",
        ),
    ],
)
def test_how_many_rows_have_lists_is_said(weights, caplog, labels, note):
    with caplog.at_level("INFO", "lit_bert"):
        assert module_of(with_labels(labels), weights).task == "multi_label"
    assert (
        f"task: several labels a text (multi_label): column 'label' {note} (--data.task)" in caplog.messages
    )


def test_a_line_of_fasttext_with_two_labels_is_said(weights, caplog):
    lines = [f"__label__{'ab'[n % 2]} {text}\n" for n, text in enumerate(TEXTS)]
    lines[6] = f"__label__b {lines[6]}"
    Path("rows.txt").write_text("".join(lines))
    with caplog.at_level("INFO", "lit_bert"):
        assert module_of(Path("rows.txt"), weights).task == "multi_label"
    assert "1 of 60 with more than one label, the first in row 7 (line 7) of split train" in caplog.text


@pytest.mark.parametrize("label", [["a"], ["a", "b"], []])
def test_a_list_among_labels_is_refused_unless_the_task_is_given(weights, label):
    labels = ["a", "b"] * 30
    labels[40] = label
    rows = with_labels(labels)
    expected = (
        r"row 41 \(line 41\) of split train has a list in column 'label', as 1 of 60 rows with a label; the "
        r"others have one label\. Correct these rows, or .*: --data.task multi_label\.$"
    )
    for _ in range(2):  # nothing of it is cached
        with pytest.raises(UserError, match=expected):
            module_of(rows, weights).prepare_data()
    data = module_of(rows, weights, task="multi_label")
    data.prepare_data()
    assert data.splits.train_split().labels.sum(1).tolist() == [
        len(label) if n == 40 else 1 for n in range(60)
    ]
    with pytest.raises(UserError, match=r"row 41 .* list .* in column 'label'; expected a label"):
        module_of(rows, weights, task="single").prepare_data()


def test_the_file_of_a_list_among_labels_is_named(weights):
    for n in range(3):
        labels = [*["a", "b"] * 20, ["a"] if n == 2 else "a"]
        Path(f"part-{n}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in with_labels(labels)))
    with pytest.raises(UserError, match=r"^row 41 \(line 41\) of .*/part-2\.jsonl of split train has a list"):
        module_of(Path("part-*.jsonl"), weights).prepare_data()


def test_columns_of_0_and_1_lists_separators_and_json_are_the_same_labels(weights):
    generator = random.Random(0)
    names = ["a", "b", "c"]
    sets = [sorted(generator.sample(names, generator.randrange(4))) for _ in range(60)]
    forms = {
        "columns": [{"text": t, **{n: int(n in s) for n in names}} for t, s in zip(TEXTS, sets, strict=True)],
        "lists": with_labels(sets, "labels"),
        "separator": with_labels(["|".join(each) for each in sets]),
        "json": with_labels([json.dumps(each) for each in sets]),
    }
    found = {}
    for form, rows in forms.items():
        settings = {"separator": {"label_separator": "|"}, "json": {"task": "multi_label"}}.get(form, {})
        data = module_of(rows, weights, **settings)
        data.prepare_data()
        assert (data.task, data.label_names) == ("multi_label", names), form
        train = data.splits.train_split()
        assert train.labels.dtype == np.uint8
        found[form] = train.labels.tolist()
    assert found["columns"] == [[int(name in each) for name in names] for each in sets]
    assert all(each == found["columns"] for each in found.values())


def test_lists_of_class_codes_have_the_names_of_the_data_set(weights):
    feature = datasets.List(datasets.ClassLabel(names=["low", "high"]))
    features = datasets.Features({"text": datasets.Value("string"), "labels": feature})
    made = datasets.Dataset.from_dict(
        {"text": TEXTS[:4], "labels": [[0], [1, 0], [], [1]]}, features=features
    )
    made.save_to_disk("saved")
    made.to_parquet("saved.parquet")
    for place in ("saved", "saved.parquet"):
        data = module_of(Path(place), weights)
        data.prepare_data()
        assert (data.task, data.label_names) == ("multi_label", ["low", "high"]), place
        assert data.splits.train_split().labels.tolist() == [[1, 0], [1, 1], [0, 0], [0, 1]]


def test_a_number_is_kept_with_the_scale_of_the_training_split(weights):
    data = module_of(with_labels([1.0, 2.5, 5.0] * 20, "stars"), weights)
    data.prepare_data()
    labels = data.splits.train_split().labels
    assert labels.dtype == np.float32
    assert labels[:3].tolist() == [1.0, 2.5, 5.0]
    values = np.array([1.0, 2.5, 5.0])
    assert data.task_parameters == {"scale": pytest.approx([values.mean(), values.std()])}


def test_given_names_are_the_order_of_classes(weights):
    rows = with_labels(["low", "high", "middle"] * 20)
    data = module_of(rows, weights, task="ordinal", label_names=["low", "middle", "high"])
    data.prepare_data()
    assert data.splits.train_split().labels[:3].tolist() == [0, 2, 1]


# --- cells ---


def test_labels_of_a_cell():
    assert labels_of(["b", " a ", "b", 3]) == ["b", "a", "3"]
    assert labels_of('["a", "b"]') == ["a", "b"]
    assert labels_of("[a") == ["[a"]
    assert labels_of("a| b ||", "|") == ["a", "b"]
    assert labels_of("", "|") == []
    assert labels_of([]) == []
    assert labels_of(None) is None
    assert labels_of(" ") is None
    assert labels_of(None, "|") is None
    for value in ([None], ["a", ""], [["a"]], [{"a": 1}], {"a": 1}):
        with pytest.raises(CellError):
            labels_of(value)


def test_flags_and_numbers_and_weights_of_a_cell():
    assert [flag_of(each) for each in (0, 1, "0", " 1", True, "FALSE", 1.0, None)] == [
        False, True, False, True, True, False, True, None,
    ]  # fmt: skip
    assert [number_of(each) for each in (1, " 2.5 ", "-1e3", None, "", float("nan"))] == [
        1.0, 2.5, -1000.0, None, None, None,
    ]  # fmt: skip
    assert [weight_of(each) for each in ("0", 2)] == [0.0, 2.0]
    for convert, values in {
        flag_of: (2, "yes", 0.5, [1]),
        number_of: ("a", True, "inf", "nan", 1e39, "1,5", [1.0], "1 2"),
        weight_of: (-1, "", None, "a"),
    }.items():
        for value in values:
            with pytest.raises(CellError):
                convert(value)


# --- what is refused ---


@pytest.mark.parametrize(
    ("rows", "flags", "expected"),
    [
        (
            with_labels([*([0.5, 1.5] * 29), "many", 2.0], "stars"),
            [],
            "row 59 (line 60) of split train has 'many' in column 'stars', which has numbers elsewhere",
        ),
        (
            with_labels(["1", "2", "many"] * 20, "stars"),
            ["--data.task=regression"],
            "row 3 (line 4) of split train of {file} has 'many' in column 'stars'; expected a number",
        ),
        (
            [{"text": text, "a": n % 2, "b": 2 if n == 7 else 0} for n, text in enumerate(TEXTS)],
            ["--data.label_column=a,b"],
            "row 8 (line 9) of split train of {file} has '2', which is neither 0 nor 1 in column 'b'; "
            "expected 0 or 1",
        ),
        (
            with_labels(["a", "b"] * 30),
            ["--data.task=regression"],
            "split train of {file} has no numbers in column 'label'",
        ),
        (
            with_labels(["1.5", "2.5"] * 30),
            ["--data.label_names=a,b"],
            "names are for classes",
        ),
        (with_labels(["a", "b"] * 30), ["--data.task=several"], "several"),
        (with_labels(["a", "b"] * 30), ["--data.label_separator= "], "data.label_separator is blank"),
        (
            with_labels(["a|b", "b"] * 30),
            ["--data.label_separator=|", "--data.task=single"],
            "data.label_separator is '|', and the task is single: nothing is separated",
        ),
        (
            [{"text": text, "a": n % 2, "b": 1 - n % 2} for n, text in enumerate(TEXTS)],
            ["--data.label_column=a,b", "--data.label_separator=|"],
            "each of a, b is one label",
        ),
        (with_labels([2.5] * 60), [], "less than two numbers are left in split train"),
        (with_labels([["a"]] * 60), [], "only the class 'a'"),
        (
            [{"text": t, "label": "ab"[n % 2], "w": -1 if n == 4 else 1} for n, t in enumerate(TEXTS)],
            ["--data.weight_column=w"],
            "row 5 (line 6) of split train of {file} has the weight -1, which is below 0 in column 'w'; "
            "expected a weight. Correct the row, or name another column with --data.weight_column",
        ),
        (
            [{"text": t, "label": "ab"[n % 2], "w": 0} for n, t in enumerate(TEXTS)],
            ["--data.weight_column=w"],
            "all weights in column 'w' of the rows to train on are 0",
        ),
        (with_labels(["a", "b"] * 30), ["--data.weight_column=w"], "has no column 'w'"),
        (with_labels(["a", "b"] * 30), ["--data.group_column=author"], "has no column 'author'"),
    ],
)
def test_labels_that_are_not_of_the_task_are_refused_in_one_line(
    run: Run, tiny_bert: Path, rows, flags, expected
):
    is_list = isinstance(rows[0].get("label"), list)
    file = Path("rows.jsonl" if is_list else "rows.csv").resolve()
    if is_list:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        write_csv(file, rows)
    before = files()
    outcome = run("fit", f"--weights.pretrained={tiny_bert}", f"--data.dataset={file}", *flags)
    *said, line = outcome.err.splitlines()
    assert (outcome.code, outcome.out) == (2, ""), outcome
    assert expected.format(file=file) in line
    assert all(each.startswith(("task: ", "columns: ")) for each in said)  # what was found before
    assert files() == before


def test_a_label_of_another_data_set_is_refused(weights):
    data = module_of(with_labels([["a"], ["b"]] * 30), weights)
    known = data.label_names
    rows = with_labels([["a", "c"], ["b"]] * 30)
    other = module_of(rows, weights, label_names=known, task="multi_label")
    with pytest.raises(UserError, match=r"row 1 .* has the label 'c', none of the 2 known ones: a, b"):
        other.prepare_data()


# --- parts ---


def label_sets(N: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.random((N, 5)) < [0.5, 0.3, 0.1, 0.05, 0.02]).astype(np.uint8)


def test_each_part_has_its_share_of_each_of_several_labels():
    labels = label_sets(1000)
    parts = assign_parts(labels, np.array([0.9, 0.1]), seed=0)
    assert abs(int((parts == 1).sum()) - 100) <= 3
    for c in range(5):
        assert abs(labels[parts == 1, c].sum() - 0.1 * labels[:, c].sum()) <= 1.5, c
    by_chance = np.random.default_rng(0).permutation(1000)[:100]
    assert abs(labels[by_chance, 4].sum() - 0.1 * labels[:, 4].sum()) > 0
    folds = assign_parts(labels, np.full(5, 0.2), seed=1)
    assert np.ptp(np.bincount(folds)) <= 6
    for c in range(5):
        assert np.ptp([labels[folds == fold, c].sum() for fold in range(5)]) <= 4
    assert (assign_parts(labels, np.full(5, 0.2), seed=1) == folds).all()
    assert (assign_parts(labels, np.full(5, 0.2), seed=2) != folds).any()


def test_a_few_rows_are_dealt_out_by_their_shares_too():
    for labels in (np.arange(40, dtype=np.float32), np.eye(40, dtype=np.uint8), np.eye(10, dtype=np.uint8)[
        np.arange(40) % 10
    ]):  # fmt: skip
        for seed in range(5):
            parts = assign_parts(labels, np.array([0.9, 0.1]), seed=seed)
            assert 3 <= (parts == 1).sum() <= 5, seed


def test_numbers_are_dealt_out_by_their_size():
    labels = np.random.default_rng(0).exponential(1, 500).astype(np.float32)
    parts = assign_parts(labels, np.array([0.8, 0.2]), seed=0)
    assert (parts == 1).sum() == pytest.approx(100, abs=3)
    for share in (0.1, 0.5, 0.9):
        inside = labels <= np.quantile(labels, share)
        assert inside[parts == 1].mean() == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("kind", ["class", "classes", "number"])
def test_no_group_is_split(kind):
    generator = np.random.default_rng(0)
    groups = generator.integers(0, 60, 600).astype(np.uint64)
    labels = {
        "class": generator.integers(0, 3, 600),
        "classes": label_sets(600),
        "number": generator.normal(size=600).astype(np.float32),
    }[kind]
    parts = assign_parts(labels, np.array([0.75, 0.25]), seed=0, groups=groups)
    assert not set(groups[parts == 0]) & set(groups[parts == 1])
    assert (parts == 1).mean() == pytest.approx(0.25, abs=0.04)
    if kind == "class":
        for label in range(3):
            assert (parts[labels == label] == 1).mean() == pytest.approx(0.25, abs=0.06)


def test_one_label_without_groups_is_split_as_ever():
    labels = np.random.default_rng(0).integers(0, 4, 200)
    train, validation = split_off(labels, 0.1, seed=42)
    assert len(train) + len(validation) == 200
    assert np.bincount(labels[validation]).tolist() == [
        round(0.1 * count) for count in np.bincount(labels).tolist()
    ]
    assert np.ptp(np.bincount(assign_folds(labels, 7, seed=0))) <= 1


def test_rows_of_a_group_are_all_in_training_or_all_in_validation(weights):
    rows = [{"text": t, "label": "ab"[n % 2], "author": f"author {n // 4}"} for n, t in enumerate(TEXTS)]
    for settings in ({}, {"folds": 3, "fold": 1}):
        data = module_of(rows, weights, group_column="author", val_fraction=0.25, **settings)
        data.prepare_data()
        data.setup("fit")
        train, validation = (
            {rows[row]["author"] for row in part.rows} for part in (data.train_rows, data.val_rows)
        )
        assert train
        assert validation
        assert not train & validation
        assert len(data.train_rows) + len(data.val_rows) == 60


def test_groups_that_nothing_is_done_with_are_said(weights, caplog):
    rows = [{"text": t, "label": "ab"[n % 2], "author": f"author {n // 4}"} for n, t in enumerate(TEXTS)]
    Path("own").mkdir()
    for split in ("train", "validation"):
        write_csv(Path("own") / f"{split}.csv", rows)
    data = module_of(Path("own"), weights, group_column="author")
    with caplog.at_level("INFO", "lit_bert"):
        data.prepare_data()
        data.setup("fit")
    assert "data.group_column changes nothing: the data has the split validation" in caplog.text


def test_weights_have_a_mean_of_1_over_the_rows_that_are_trained_on(weights):
    rows = [{"text": t, "label": "ab"[n % 2], "w": n % 3} for n, t in enumerate(TEXTS)]
    data = module_of(rows, weights, weight_column="w", batch_size=7)
    data.prepare_data()
    data.setup("fit")
    found = data.train_rows.weights
    assert found.dtype == np.float32
    assert found.mean() == pytest.approx(1, rel=1e-6)
    given = np.array([rows[row]["w"] for row in data.train_rows.rows], dtype=float)
    assert found == pytest.approx(given / given.mean(), rel=1e-6)
    by_row = {}
    for batch in data.train_dataloader():
        by_row |= dict(zip(batch["rows"].tolist(), batch["weights"].tolist(), strict=True))
    assert by_row == pytest.approx(dict(zip(data.train_rows.rows.tolist(), found.tolist(), strict=True)))


def test_a_row_of_weight_2_trains_as_the_row_twice(tiny_bert, weights):
    import torch

    from lit_bert import BertClassifier

    rows = [{"text": t, "label": "ab"[n % 2], "w": 1 + (n < 30)} for n, t in enumerate(TEXTS)]
    weighted = module_of(rows, weights, weight_column="w", val_fraction=0.1, batch_size=90)
    weighted.prepare_data()
    weighted.setup("fit")
    model = BertClassifier(["a", "b"], weights=weights, label_smoothing=0.0)
    torch.manual_seed(0)
    model.configure_model()
    model.network.eval()
    (batch,) = weighted.train_dataloader()
    loss = model.training_loss(model(batch["input_ids"], batch["attention_mask"]).float(), batch)
    twice = torch.repeat_interleave(
        torch.arange(len(batch["rows"])), torch.tensor([1 + int(row < 30) for row in batch["rows"].tolist()])
    )
    repeated = {name: value[twice] for name, value in batch.items() if name != "weights"}
    logits = model(repeated["input_ids"], repeated["attention_mask"]).float()
    assert loss.item() == pytest.approx(model.training_loss(logits, repeated).item(), rel=1e-5)
