"""What an audit finds in labelled text, what a fit says of it, and the labels that models do not believe."""

import csv
import json
import os
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from conftest import CLASSES, texts_of, write_csv

from lit_bert import UserError
from lit_bert.data.module import EmotionDataModule
from lit_bert.evaluate import audit, audit_text
from lit_bert.evaluate.audit import find_dataset_issues, merge_folds, repeated_texts
from lit_bert.evaluate.audit_text import dataset_summary, findings_text, suspects_text
from lit_bert.evaluate.predictions import Predictions
from lit_bert.evaluate.scores import suspected_labels
from lit_bert.task.kinds import task_of

ROOT = Path(__file__).parent.parent
EMOTION = Path(os.environ.get("LIT_BERT_BENCH_DATA") or ROOT.parent / "shared" / "emotion")


@pytest.fixture
def parts(weights, tmp_path):
    """Makes the parts of a data set from pairs of text and label, split by split; their task too."""

    def make(number=0, settings=None, **splits):
        folder = tmp_path / f"texts{number}"
        folder.mkdir()
        for split, rows in splits.items():
            with (folder / f"{split}.jsonl").open("w") as stream:
                stream.writelines(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
        made = EmotionDataModule(str(folder), stand_in=None, weights=weights, **(settings or {}))
        return made.splits.all_parts(), task_of(made.task, made.label_names)

    return make


def some(count=12, classes="ab", start=0):
    """Different texts with labels in turn."""
    return [(f"sun {'so ' * (n % 5)}{n}", classes[n % len(classes)]) for n in range(start, start + count)]


def predictions_of(labels, probs, texts=None, rows=None):
    names = [f"class {index}" for index in range(probs.shape[1])]
    texts = texts or [f"text {index}" for index in range(len(labels))]
    rows = np.arange(len(labels)) if rows is None else rows
    return Predictions(task_of("single", names), texts, rows, labels, probs)


# --- findings ----------------------------------------------------------------------------------------------


def test_a_text_is_repeated_only_where_it_is_the_same_letter_by_letter(parts):
    rows = [*some(), ("i am glad", "a"), ("I am glad", "a"), ("i am glad ", "a"), ("i am glad", "a")]
    found = find_dataset_issues(*parts(train=rows, validation=some(start=20)), examples=5)
    train = found.splits["train"]
    assert (train.rows, train.repeated, train.extra_rows, train.conflicting) == (16, 1, 1, 0)
    (repeat,) = found.consistent
    assert repeat.text == "i am glad"
    assert [place.row for place in repeat.occurrences] == [12, 15]
    assert found.conflicting == found.across_splits == []
    assert [pair.texts for pair in found.shared] == [0]


def test_a_repeated_text_with_several_labels_is_counted_once(parts):
    rows = [*some(), ("sun dog", "a"), ("sun cat", "b"), ("sun dog", "b"), ("sun cat", "b"), ("sun dog", "a")]
    found = find_dataset_issues(*parts(train=rows, validation=some(start=20)), examples=5)
    train = found.splits["train"]
    assert (train.repeated, train.extra_rows, train.conflicting) == (2, 3, 1)
    assert [(each.text, each.rows("train")) for each in found.conflicting] == [("sun dog", 3)]
    assert [(each.text, each.rows("train")) for each in found.consistent] == [("sun cat", 2)]


def test_texts_in_several_splits_come_with_their_places_and_labels(parts):
    both, all_three = ("sun dog", "a"), ("sun cat", "b")
    found = find_dataset_issues(
        *parts(
            train=[*some(), both, all_three],
            validation=[*some(start=20), ("sun dog", "b"), all_three],
            test=[all_three, *some(start=40)],
        ),
        examples=5,
    )
    assert {(pair.first, pair.second): (pair.texts, pair.conflicting) for pair in found.shared} == {
        ("train", "validation"): (2, 1),
        ("train", "test"): (1, 0),
        ("validation", "test"): (1, 0),
    }
    assert all(split.repeated == 0 for split in found.splits.values())  # once in each
    assert found.across_splits[0].occurrences == [("train", 12, 0), ("validation", 12, 1)]
    assert found.across_splits[1].occurrences == [("train", 13, 1), ("validation", 13, 1), ("test", 0, 1)]
    text = findings_text(found)
    assert "train row 13 a, validation row 13 b | sun dog" in text
    assert "in train and validation: 2 texts, 1 of them with different labels" in text


def test_truncated_and_empty_texts_are_counted_where_they_stand(parts):
    rows = [("  \t", "a"), ("i am so very happy", "b"), ("", "b"), ("i am sad", "a"), ("sun", None), *some(2)]
    found = find_dataset_issues(
        *parts(train=rows, validation=some(start=20), settings={"max_length": 5, "long_texts": "cut"}),
        examples=1,
    )
    train = found.splits["train"]
    assert (train.truncated, train.blank) == (sum(len(text.split()) > 3 for text, _ in rows), 2)
    assert train.unlabelled == 1
    assert "without a label in train: row 5" in findings_text(found)
    assert found.blanks["train"] == ["1"]
    assert train.rows == len(rows) - 3
    assert "empty in train: row 1, …" in findings_text(found)


@pytest.mark.parametrize("classes", [2, 6, 77])
def test_class_balance_of_any_number_of_classes(parts, classes):
    rows = [(f"sun {n}", n % classes) for n in range(30 * classes)]
    few = [(text, label) for text, label in rows if label or text in ("sun 0", f"sun {classes}")]
    splits, task = parts(train=few, validation=rows[: 12 * classes], settings=None)
    found = find_dataset_issues(splits, task)
    assert found.splits["train"].classes == [2] + [30] * (classes - 1)
    assert found.splits["train"].rare == [0]
    assert found.splits["validation"].rare == []
    line = next(line for line in findings_text(found).splitlines() if line.startswith("0 "))
    assert re.search(r"  2 +\d\.\d % \*  ", line)


def test_a_class_far_below_its_share_is_rare_even_with_many_rows(parts):
    rows = [(f"sun {n}", "b" if n % 40 else "a") for n in range(1000)]
    found = find_dataset_issues(*parts(train=rows, validation=some(start=2000)))
    assert found.splits["train"].classes == [25, 975]  # a tenth of an equal share is 50
    assert found.splits["train"].rare == [0]


@pytest.mark.parametrize("read_rows", [1, 3, 4096])
@pytest.mark.parametrize("collide", [False, True])
def test_repeats_are_those_of_a_plain_count_even_where_hashes_collide(parts, monkeypatch, read_rows, collide):
    monkeypatch.setattr(audit, "CHUNK_ROWS", read_rows)
    if collide:
        monkeypatch.setattr("lit_bert.data.token_file.text_hash", lambda text: len(text) % 3)
    generator = np.random.default_rng(0)
    splits = {
        split: [(f"sun {generator.integers(150)}", "abc"[generator.integers(3)]) for _ in range(count)]
        for split, count in (("train", 120), ("validation", 40), ("test", 30))
    }
    expected = defaultdict(Counter)
    order = defaultdict(list)
    for split, rows in splits.items():
        for row, (text, label) in enumerate(rows):
            expected[text][split, "abc".index(label)] += 1
            order[text].append((split, row, "abc".index(label)))
    expected = {text: counts for text, counts in expected.items() if counts.total() > 1}
    found = list(repeated_texts(parts(**splits)[0]))
    assert {each.text: each.counts for each in found} == expected
    assert all(
        [tuple(place) for place in each.occurrences] == order[each.text][: audit.KEPT_OCCURRENCES]
        for each in found
    )
    if not collide:
        assert [each.text for each in found] == [text for text in order if text in expected]


def test_no_more_examples_are_kept_than_asked_for_but_all_are_counted(parts):
    rows = [*some(), *((f"dog {n // 2}", "ab"[n % 2]) for n in range(40))]
    found = find_dataset_issues(*parts(train=rows, validation=some(start=20)), examples=3)
    assert len(found.conflicting) == 3
    assert found.totals["conflicting"] == found.splits["train"].conflicting == 20
    assert "20 texts, the first 3 (--examples)" in findings_text(found)


def test_a_text_of_a_thousand_rows_takes_a_line(parts):
    rows = [*some(), *[("sun dog", "a")] * 1000]
    found = find_dataset_issues(*parts(train=rows, validation=some(start=20)), examples=3)
    (repeat,) = found.consistent
    assert len(repeat.occurrences) == audit.KEPT_OCCURRENCES
    assert f"and {1000 - audit.KEPT_OCCURRENCES:,} more | sun dog" in findings_text(found)


@pytest.mark.skipif(not (EMOTION / "train.parquet").is_file(), reason="the emotion splits are not at hand")
def test_the_known_blemishes_of_emotion_are_found(weights):
    made = EmotionDataModule(str(EMOTION), stand_in=None, weights=weights)
    found = find_dataset_issues(made.splits.all_parts(), task_of(made.task, made.label_names))
    train, validation = found.splits["train"], found.splits["validation"]
    assert (train.rows, train.repeated, train.conflicting) == (16_000, 31, 30)
    assert (validation.rows, validation.repeated, validation.conflicting) == (2_000, 2, 2)
    assert [(pair.first, pair.second, pair.texts) for pair in found.shared] == [("train", "validation", 5)]
    assert train.classes == [4666, 5362, 1304, 2159, 1937, 572]
    assert validation.classes == [550, 704, 178, 275, 212, 81]
    assert train.blank == validation.blank == 0


# --- the summary -------------------------------------------------------------------------------------------


def test_the_summary_of_sound_rows_is_empty(parts):
    splits, task = parts(train=some(40), validation=some(start=50))
    assert dataset_summary(splits, task, deduplicated=False) == []


def test_the_summary_names_what_bends_a_score(parts):
    train = [*some(40), ("sun dog", "a"), ("sun dog", "b"), ("", "a"), *some(2, "c", start=70)]
    splits, task = parts(train=train, validation=[*some(start=50), ("sun dog", "a"), train[0]])
    assert dataset_summary(splits, task, deduplicated=False) == [
        "1 text of train occurs more than once, with different labels",
        "2 texts of validation also occur in train, 1 of them with different labels; --data.deduplicate true "
        "leaves such rows out of training",
        "1 text of train is empty",
        "few rows to learn from in train: c (2)",
        "`python -m lit_bert audit` with the same flags shows which",
    ]


def test_the_summary_is_looked_for_once_per_rows(parts, monkeypatch):
    splits, task = parts(train=[*some(40), some(1)[0]], validation=some(start=50))
    looked = []
    monkeypatch.setattr(
        audit_text, "find_dataset_issues", lambda *rest: looked.append(1) or find_dataset_issues(*rest)
    )
    first = dataset_summary(splits, task, deduplicated=False)
    assert first == dataset_summary(splits, task, deduplicated=False) != []
    assert len(looked) == 1
    fewer = {**splits, "train": splits["train"].view(np.arange(40))}
    assert dataset_summary(fewer, task, deduplicated=False) == []
    assert len(looked) == 2


def test_the_summary_needs_no_cache_to_write_into(parts, monkeypatch, tmp_path):
    splits, task = parts(train=[*some(40), some(1)[0]], validation=some(start=50))
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LIT_BERT_CACHE", str(tmp_path / "file"))
    assert dataset_summary(splits, task, deduplicated=False)[0] == "1 text of train occurs more than once"


# --- labels that look wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 6, 77])
def test_planted_wrong_labels_are_found(classes):
    pytest.importorskip("cleanlab")
    generator = np.random.default_rng(0)
    truth = np.arange(60 * classes) % classes
    probs = generator.dirichlet(np.ones(classes) / classes, len(truth)) * 0.05
    probs[np.arange(len(truth)), truth] += 0.95
    labels = truth.copy()
    wrong = generator.choice(len(truth), len(truth) // 20, replace=False)
    labels[wrong] = (labels[wrong] + 1) % classes
    probs = probs.astype(np.float32)
    found = suspected_labels(predictions_of(labels, probs).task, probs, labels)
    assert set(found) <= set(wrong)
    assert len(found) > 0.7 * len(wrong)
    assert (np.diff(probs[found, labels[found]]) >= 0).all()  # the least probable label first


def test_a_class_without_rows_is_no_obstacle():
    pytest.importorskip("cleanlab")
    probs = np.tile(np.float32([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05]]), (20, 1))
    labels = np.tile([0, 1], 20)
    labels[3] = 0
    predictions = predictions_of(labels, probs)
    found = suspected_labels(predictions.task, probs, labels)
    assert found.tolist() == [3]
    text = suspects_text(predictions, found)
    assert "row 4 is class 0 (0.050), rather class 1 (0.900) | text 3" in text
    assert re.search(r"class 2 +0 +0 +0\.0 %", text)


def test_ranking_without_cleanlab_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    with pytest.raises(UserError, match=r"pip install 'lit_bert\[report\]'"):
        suspected_labels(task_of("single", "ab"), np.eye(2, dtype=np.float32), np.array([0, 1]))


def test_folds_are_merged_in_the_order_of_the_file():
    labels = np.array([0, 1, 0, 1, 1])
    probs = np.linspace(0, 1, 10, dtype=np.float32).reshape(5, 2)
    texts = list("abcde")
    folds = [
        predictions_of(labels[rows], probs[rows], [texts[row] for row in rows], np.array(rows))
        for rows in ([1, 4], [0, 3], [2])
    ]
    whole = merge_folds(folds, labels)
    assert (whole.texts, whole.rows.tolist()) == (texts, [0, 1, 2, 3, 4])
    assert np.array_equal(whole.labels, labels)
    assert np.array_equal(whole.outputs, probs)
    for broken in (folds[:2], [*folds, folds[2]]):
        with pytest.raises(UserError, match="each training row once"):
            merge_folds(broken, labels)


# --- the verb ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blemished(tmp_path_factory):
    """The texts of three classes, of which two repeat, one leaks and three are labelled wrongly."""
    folder = tmp_path_factory.mktemp("blemished")
    rows = [{"text": text, "label": label} for label in CLASSES for text in texts_of(label, 30)]
    for row in (2, 12, 31):
        rows[row]["label"] = "anger"
    validation = [{"text": text, "label": label} for label in CLASSES for text in texts_of(label, 36)[30:]]
    write_csv(folder / "train.csv", [*rows, rows[5], {**rows[6], "label": "sadness"}])
    write_csv(folder / "validation.csv", [*validation, rows[40]])
    write_csv(folder / "test.csv", [*validation[:7], validation[17]])
    return folder


@pytest.fixture(scope="module")
def flags(tiny_bert, blemished):
    return [f"--weights.pretrained={tiny_bert}", f"--data.dataset={blemished}", "--trainer.accelerator=cpu"]


def test_audit_prints_all_findings_and_trains_nothing(run, flags):
    outcome = run("audit", *flags)
    assert outcome.code == 0, outcome.err
    lines = [re.sub(r" +", " ", line) for line in outcome.out.splitlines()]
    assert "train 92 0 0.0 % 0 2 1 2" in lines
    assert "in train and validation: 1 text" in lines
    assert "in validation and test: 8 texts" in lines
    assert any(re.match(r" train row 7 joy, train row 92 sadness \|", line) for line in lines)
    assert any(re.match(r" train row 6 joy, train row 91 joy \|", line) for line in lines)
    assert any("audit --folds 3" in line for line in lines)
    assert not Path("checkpoints").exists()


def test_audit_takes_a_single_file_and_says_that_there_is_no_test_split(run, flags, blemished):
    outcome = run("audit", *flags, f"--data.dataset={blemished / 'train.csv'}", "--examples=0")
    assert outcome.code == 0, outcome.err
    assert "there is no split 'test' to look at" in outcome.out
    assert "row 7" not in outcome.out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--folds=1"], ["--folds is 1", "at least 2"]),
        (["--folds=-3"], ["--folds is -3"]),
        (["--folds=three"], ["folds", "three", "python -m lit_bert audit --help"]),
        (["--folds=200"], ["--folds is 200", "92 rows"]),
        (["--examples=-1"], ["--examples is -1"]),
        (["--output=found.csv"], ["--output", "--folds 3"]),
        (["--folds=2", "--output=found.txt"], ["found.txt", ".csv"]),
        (["--folds=2", "--output=nowhere/found.csv"], ["nowhere/found.csv", "No such file"]),
        (["--folds=2", "--reuse=audit_0"], ["--folds and --reuse"]),
        (["--folds=2", "--trainer.logger=false"], ["trainer.logger keeps no folder", "--folds"]),
        (["--reuse=audit_0"], ["audit_0"]),
        (["--config=settings.yaml"], ["folds stands in a configuration"]),
        (["--data.dataset=gone.csv"], ["gone.csv"]),
        (["--ckpt_path=best"], ["ckpt_path", "audit --help"]),
    ],
)
def test_what_audit_cannot_take_is_refused_in_one_line(run, flags, arguments, parts):
    Path("settings.yaml").write_text("folds: 3\n")
    outcome = run("audit", *flags, *arguments)
    assert outcome.code == 2
    last = outcome.err.splitlines()[-1]
    assert last.startswith("lit_bert audit: ")
    for part in parts:
        assert part in last
    assert not list(Path().glob("**/*.ckpt"))


def test_audit_with_folds_ranks_every_training_row(run, flags, blemished, monkeypatch):
    pytest.importorskip("cleanlab")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the fits, which are processes of their own
    quick = ["--trainer.max_epochs=4", "--data.batch_size=8", "--model.learning_rate=0.003"]
    outcome = run("audit", *flags, *quick, "--folds", 2)
    assert outcome.code == 0, outcome.err[-2000:]
    folder = Path("checkpoints/audit_0")
    whole = Predictions.read(folder / audit.OUT_OF_FOLD)
    rows = list(csv.DictReader((blemished / "train.csv").open()))
    assert whole.texts == [row["text"] for row in rows]
    assert [whole.class_names[label] for label in whole.labels] == [row["label"] for row in rows]
    assert np.allclose(whole.outputs.sum(1), 1, atol=1e-5)
    found = list(csv.DictReader((folder / audit.SUSPECTS).open()))
    assert list(found[0])[:5] == ["row", "text", "label", "suggested_label", "score"]
    for each in found:
        assert rows[int(each["row"]) - 1] == {"text": each["text"], "label": each["label"]}
        assert float(each["score"]) == pytest.approx(float(each[f"probability_{each['label']}"]), abs=1e-6)
        assert each["suggested_label"] != each["label"]
    wanted = suspected_labels(whole.task, whole.outputs, whole.labels)
    scores = [float(each["score"]) for each in found]
    assert scores == sorted(scores)
    assert [int(each["row"]) - 1 for each in found] == wanted.tolist()
    assert str(folder / audit.SUSPECTS) in outcome.out
    # Its folds are no runs: neither `test` nor `report` may take one for the newest fit.
    assert not [*folder.glob("**/*.ckpt"), *folder.glob("**/validate.parquet")]
    logs = [(folder / name / "fit.log").read_text() for name in ("fold_0", "fold_1")]
    # One validation at the end: no fold chooses the epoch of the model that judges it.
    assert all("split fold" in log and log.count("epoch 4, step") == 1 for log in logs)
    assert not any("epoch 3, step" in log for log in logs)

    again = run("audit", *flags, "--reuse", folder, "--output", "again.csv")
    assert again.code == 0, again.err
    assert Path("again.csv").read_text() == (folder / audit.SUSPECTS).read_text()
    other = run("audit", *flags, "--reuse", folder, f"--data.dataset={blemished / 'validation.csv'}")
    assert other.code == 2
    assert "audit of other rows" in other.err


def test_fit_says_the_summary_of_the_rows_it_uses_and_reads_no_test_row(run, flags, blemished, tmp_path):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_bytes((blemished / f"{split}.csv").read_bytes())
    (tmp_path / "test.csv").write_bytes(b'text,label\n"broken\n\xff,\n,,,\n')
    outcome = run("fit", *flags, f"--data.dataset={tmp_path}", "--trainer.max_steps=2")
    assert outcome.code == 0, outcome.err
    assert [line for line in outcome.err.splitlines() if line.startswith("audit ")] == [
        "audit      2 texts of train occur more than once, 1 of them with different labels",
        "audit      1 text of validation also occurs in train; --data.deduplicate true leaves such rows out "
        "of training",
        "audit      `python -m lit_bert audit` with the same flags shows which",
    ]


def test_fit_without_the_duplicates_says_how_many_it_left_out(run, flags):
    outcome = run("fit", *flags, "--data.deduplicate=true", "--trainer.max_steps=2")
    assert outcome.code == 0, outcome.err
    said = (
        "1 of 92 rows of split train are left out of training: their texts also stand in validation or test"
    )
    assert outcome.err.count(said) == 1
    assert "also occurs in train" not in outcome.err
    assert re.search(r"^rows +91 to train on, 19 to validate on$", outcome.err, re.MULTILINE)
