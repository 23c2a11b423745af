"""Groups of rows that are wrong more often: planted ones are found, random errors show none."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_csv

from lit_bert import UserError
from lit_bert.evaluate.predictions import Predictions
from lit_bert.evaluate.slice_columns import read_columns
from lit_bert.evaluate.slices import (
    ALPHA,
    FisherTest,
    Group,
    candidates,
    distinct,
    find_slices,
    holm,
    of_column,
    of_numbers,
    of_words,
    slice_lines,
    worse_groups,
)
from lit_bert.io.texts import TextForm
from lit_bert.task.multi_label import MultiLabel
from lit_bert.task.regression import Regression
from lit_bert.task.single import SingleLabel

WORDS = "rain sun late train dog cat tea soup bill shop door lamp road tree bird song".split()


def texts_of(count: int, seed: int = 0) -> list[str]:
    """Of 3 to 12 words."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(3, 13))) for _ in range(count)]


def made(texts: list[str], wrong: np.ndarray, **facts: Any) -> Predictions:
    """Predictions of two classes, wrong in these rows."""
    labels = np.arange(len(texts)) % 2
    preds = np.where(wrong, 1 - labels, labels)
    outputs = np.full((len(texts), 2), 0.2, np.float32)
    outputs[np.arange(len(texts)), preds] = 0.8
    task = SingleLabel.of(["joy", "fear"])
    return Predictions(task, texts, np.arange(len(texts)), labels, outputs, {"split": "test", **facts})


# --- the tests


def test_fishers_exact_test_by_hand():
    wrong = np.array([1, 1, 1, 0, 0, 0, 0, 0], dtype=bool)
    test = FisherTest(8)
    # Of 8 rows 3 are wrong: of the 56 ways to have 3 wrong rows, 1 has all of them among rows 0 to 2.
    assert test(wrong, np.array([0, 1, 2])) == pytest.approx(1 / 56)
    # Two or more of them: C(3,2)·C(5,1) + 1 = 16.
    assert test(wrong, np.array([0, 1, 3])) == pytest.approx(16 / 56)
    assert test(wrong, np.array([5, 6, 7])) == pytest.approx(1)
    assert test(np.ones(8, dtype=bool), np.array([0, 1])) == pytest.approx(1)
    assert test(np.zeros(8, dtype=bool), np.array([0, 1])) == pytest.approx(1)


def test_fishers_exact_test_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    generator, test = np.random.default_rng(0), FisherTest(5000)
    for size in (50, 400, 5000):
        wrong = generator.random(size) < 0.2
        rows = np.flatnonzero(generator.random(size) < np.where(wrong, 0.35, 0.25))
        inside, outside = int(wrong[rows].sum()), int(wrong.sum() - wrong[rows].sum())
        table = [[inside, len(rows) - inside], [outside, size - len(rows) - outside]]
        expected = stats.fisher_exact(table, alternative="greater").pvalue
        assert test(wrong, rows) == pytest.approx(expected, rel=1e-6)


def test_holms_correction_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1, and none less than the one before.
    assert holm(np.array([0.5, 0.01, 0.03, 0.02])) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm(np.array([0.4, 0.6])) == pytest.approx([0.8, 0.8])


# --- false alarms


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_random_errors_show_a_group_no_more_often_than_is_said(share):
    texts, generator, draws = texts_of(400), np.random.default_rng(1), 300
    nothing = made(texts, np.zeros(400, dtype=bool))
    columns = {"shop": [f"shop {n % 7}" for n in range(400)], "price": generator.random(400).tolist()}
    groups = list(distinct(candidates(nothing, columns, np.arange(400)), 400))
    assert len(groups) > 40
    alarms = sum(bool(worse_groups(groups, generator.random(400) < share)[0]) for _ in range(draws))
    ways = [math.comb(draws, k) * ALPHA**k * (1 - ALPHA) ** (draws - k) for k in range(draws + 1)]
    assert sum(ways[alarms + 1 :]) > 1e-3  # more alarms would not be unlikely if one in 20 is the rate


# --- what is found


def planted(share: float, text: str = "") -> tuple[list[str], np.ndarray]:
    """500 texts of which one in ten is wrong, and of the first 60, which have a word more, that share."""
    texts, generator = texts_of(500), np.random.default_rng(2)
    wrong = generator.random(500) < 0.1
    wrong[:60] = generator.random(60) < share
    return [f"{each} {text}" if n < 60 else each for n, each in enumerate(texts)], wrong


def test_a_planted_word_is_found_once_and_with_its_examples():
    texts, wrong = planted(0.6, "however")
    predictions = made(texts, wrong)
    slices = find_slices(predictions)
    (found,) = slices.found
    assert found.name == "with the word “however”"
    assert found.rows == 60
    assert found.share == wrong[:60].mean()
    assert found.elsewhere == wrong[60:].mean()
    assert found.p_value < 1e-6
    assert len(found.examples) == 3
    assert all(wrong[index] and index < 60 for index in found.examples)
    lines = slice_lines(predictions, slices)
    assert lines[0].startswith(f"1 of {slices.looked_at} groups is predicted wrong more often than the other")
    assert "Holm's correction" in lines[0]
    assert "60 texts, " in lines[1]
    assert len(lines) == 5


def test_a_planted_value_of_a_column_is_found():
    texts, wrong = planted(0.6)
    columns = {"shop": ["north" if n < 60 else f"shop {n % 5}" for n in range(500)]}
    (found,) = find_slices(made(texts, wrong), columns).found
    assert found.name == "shop is north"


def test_planted_lengths_are_found():
    texts, generator = texts_of(600), np.random.default_rng(3)
    lengths = np.array([len(text.split()) for text in texts])
    wrong = generator.random(600) < np.where(lengths <= 4, 0.6, 0.1)
    found = find_slices(made(texts, wrong)).found[0]
    assert found.name in ("number of words up to 4", "number of words up to 5")


def test_groups_that_are_much_the_same_are_named_beside_one():
    texts, wrong = planted(0.7, "however much")  # two words and their pair have the same rows
    columns = {"shop": ["north" if n < 58 else "south" for n in range(500)]}  # nearly the same
    (found,) = find_slices(made(texts, wrong), columns).found
    names = {found.name, *found.alike}
    assert find_slices(made(texts, wrong), columns).worse == len(names)
    assert "shop is north" in names
    assert any("however" in name for name in names)


def test_two_groups_that_are_worse_for_themselves_are_both_kept():
    texts, wrong = planted(0.7, "however")
    texts = [f"{each} perhaps" if 200 <= n < 260 else each for n, each in enumerate(texts)]
    wrong[200:260] = np.random.default_rng(4).random(60) < 0.7
    names = [each.name for each in find_slices(made(texts, wrong)).found]
    assert sorted(names) == ["with the word “however”", "with the word “perhaps”"]


def test_nothing_is_found_where_nothing_or_all_is_wrong_or_rows_are_few():
    for count, wrong in ((100, False), (100, True), (10, True)):
        slices = find_slices(made(texts_of(count), np.full(count, wrong)))
        assert slices.found == []
        few = "There are too few texts to look for groups: 20 are one at least."
        assert slices.summary == few if count == 10 else slices.summary.startswith("0 of ")


def test_numbers_count_as_wrong_where_they_are_furthest_off():
    texts, _ = planted(0.0, "however")
    labels = np.random.default_rng(5).normal(size=500).astype(np.float32)
    off = np.random.default_rng(6).normal(size=500) * np.where(np.arange(500) < 60, 3.0, 0.3)
    outputs = (labels + off)[:, None].astype(np.float32)
    task = Regression.of(["stars"], {"scale": (0.0, 1.0)})
    slices = find_slices(Predictions(task, texts, np.arange(500), labels, outputs, {}))
    assert slices.found[0].name == "with the word “however”"
    assert "in the 25 % furthest off more often" in slices.summary
    furthest = np.argsort(-np.abs(off[:60]))[:3].tolist()
    assert slices.found[0].examples == furthest


def test_rows_with_several_labels_are_grouped_by_each():
    generator = np.random.default_rng(7)
    labels = generator.integers(0, 2, (500, 3)).astype(np.uint8)
    outputs = np.where(labels, 0.9, 0.1).astype(np.float32)
    missed = (labels[:, 2] == 1) & (generator.random(500) < 0.5)
    outputs[missed, 2] = 0.2
    task = MultiLabel.of(["a", "b", "c"])
    slices = find_slices(Predictions(task, texts_of(500), np.arange(500), labels, outputs, {}))
    assert slices.found[0].name == "labelled c"


# --- groups


def rows_by_name(groups: Any) -> dict[str, list[int]]:
    return {each.name: each.rows.tolist() for each in groups}


def test_groups_of_a_column():
    found = rows_by_name(of_column("shop", ["a", "b", None, " a ", "", True]))
    assert found == {
        "shop is empty": [2, 4],
        "shop is a": [0, 3],
        "shop is True": [5],
        "shop is b": [1],
    }
    few = rows_by_name(of_column("stars", [1, 2, 1]))
    assert set(few) == {"stars is empty", "stars is 1", "stars is 2"}
    many = rows_by_name(of_column("price {}", [*range(20), None]))
    assert many["price {} up to 9"] == list(range(10))
    assert many["price {} above 9"] == list(range(10, 20))


def test_groups_of_numbers_and_words():
    assert rows_by_name(of_numbers("n", np.array([1.0, 1.0, 1.0]))) == {
        "n up to 1": [0, 1, 2],
        "n above 1": [],
    }
    assert list(of_numbers("n", np.array([np.nan]))) == []
    texts = ["The Rain, don't"] * 25 + ["sun"] * 25
    assert rows_by_name(of_words(texts)) == {
        name: list(range(25) if name != "with the word “sun”" else range(25, 50))
        for name in [
            *("with the word “the”", "with the word “rain”", "with the word “don't”"),
            *("with the words “the rain”", "with the words “rain don't”", "with the word “sun”"),
        ]
    }


def test_groups_with_few_rows_or_with_the_rows_of_another_are_left_out():
    groups = [Group("a", np.arange(30)), Group("b", np.arange(30)), Group("c", np.arange(5))]
    groups.append(Group("d", np.arange(95)))  # 5 are outside
    assert [each.name for each in distinct(iter(groups), 100)] == ["a"]


# --- columns of the file


def test_columns_are_read_from_the_file_that_was_scored():
    texts = texts_of(40)
    rows = [{"review": t, "label": "joy", "shop": f"s{n % 2}"} for n, t in enumerate(texts)]
    file = write_csv(Path("reviews.csv"), rows)
    predictions = made(texts, np.zeros(40, dtype=bool))
    some = Predictions(  # rows 1, 3, 5, … in another order
        predictions.task,
        texts[1::2][::-1],
        predictions.rows[1::2][::-1],
        predictions.labels[1::2][::-1],
        predictions.outputs[1::2][::-1],
    )
    for form in (TextForm("single", ("review",)), TextForm()):  # known, or to be found
        found = read_columns(file, some, form)
        assert found == {"label": ["joy"] * 20, "shop": ["s1"] * 20}


def test_columns_of_a_pair_and_of_joined_columns_are_read():
    rows = [{"title": f"t {n}", "body": f"b {n}", "shop": n % 3} for n in range(30)]
    file = write_csv(Path("rows.csv"), rows)
    for kind in ("pair", "joined"):
        form = TextForm(kind, ("title", "body"))
        texts = [form.text_of([each["title"], each["body"]]) for each in rows]
        found = read_columns(file, made(texts, np.zeros(30, dtype=bool)), form)
        assert found == {"shop": [str(n % 3) for n in range(30)]}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", "b", "other"], "no column has the texts that were scored"),
        (["a", "b", "c", "d"], "has no row 4, which was scored. Give the file of the split test"),
    ],
)
def test_a_file_with_other_rows_is_refused(texts, message):
    file = write_csv(Path("rows.csv"), [{"text": each, "shop": 1} for each in "abc"])
    with pytest.raises(UserError, match=message):
        read_columns(file, made(texts, np.zeros(len(texts), dtype=bool)), TextForm())


# --- the report


UGLY = ["</script><b id=evil>", "\x1b[31mred", "\u202eback"]


def test_the_report_lists_groups_and_no_name_becomes_part_of_it(run, tmp_path):
    pytest.importorskip("cleanlab")
    pytest.importorskip("captum")
    texts, wrong = planted(0.8)
    texts = [f"{UGLY[0]} {each}" if n < 60 else each for n, each in enumerate(texts)]
    made(texts, wrong).write(Path("test.parquet"))
    cells = [UGLY[n % 3] if n < 60 else f"shop {n % 5}" for n in range(500)]
    lines = [{"text": text, UGLY[1]: cell} for text, cell in zip(texts, cells, strict=True)]
    lines = [{**line, "x": int(n < 60)} for n, line in enumerate(lines)]
    Path("rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    outcome = run("report", "test.parquet", "--columns", "rows.jsonl")
    assert outcome.code == 0, outcome.err
    assert "predicted wrong more often than the other texts, beyond chance" in outcome.out
    assert "x is 1" in outcome.out
    assert "\x1b" not in outcome.out
    assert "\u202e" not in outcome.out
    page = Path("report.html").read_text(encoding="utf-8")
    assert "Groups with more errors" in page
    assert "<b id=evil>" not in page
    assert "\x1b" not in page


def test_columns_are_for_one_run(run, tmp_path):
    texts, wrong = planted(0.8)
    for name in ("a.parquet", "b.parquet"):
        made(texts, wrong).write(Path(name))
    outcome = run("report", "a.parquet", "b.parquet", "--columns", "rows.csv")
    assert outcome.code == 2
    assert "--columns is for the report of one run" in outcome.err
    outcome = run("report", "a.parquet", "--columns", "nowhere.csv")
    assert outcome.code == 2
    assert "nowhere.csv" in outcome.err
