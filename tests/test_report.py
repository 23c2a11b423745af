"""Two runs compared and several seeds summed up: by hand, and for real fits of the tiny BERT."""

import csv
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from conftest import texts_of, write_csv

from lit_bert import UserError
from lit_bert.__main__ import main
from lit_bert.evaluate import compare, report
from lit_bert.evaluate.predictions import Predictions
from lit_bert.task.single import SingleLabel

torch.set_num_threads(1)  # threads that share busy cores wait for each other: a fit takes 30 s, not 1

NAMES = ["anger", "joy", "sadness"]
TASK = SingleLabel.of(NAMES)
LABELS = np.array([0, 0, 1, 1, 2, 2])


def said(preds, sure=0.8):
    """Predictions of six rows; `sure` is the probability of each predicted class, or one a row."""
    probs = np.full((6, 3), 0.0) + (1 - np.broadcast_to(sure, 6)[:, None]) / 2
    probs[np.arange(6), preds] = sure
    texts = [f'text {number},\n"{number}"  of six' for number in range(6)]
    facts = {"split": "validation"}
    return Predictions(TASK, texts, np.arange(6), LABELS, probs.astype(np.float32), facts)


def keep(run, predictions, file="validate.parquet"):
    """Puts predictions where `fit` does; gives the run."""
    Path(run).mkdir(parents=True, exist_ok=True)
    predictions.write(Path(run) / file)
    return Path(run)


def numbers(table, start):
    """Those of the line that begins so."""
    (line,) = (line for line in table.splitlines() if line.startswith(start))
    return [float(number) for number in re.findall(r"(?<![\w.])[+-]?\d+\.\d+", line.removeprefix(start))]


# --- two runs ---

FIRST = said([0, 0, 1, 0, 0, 1], sure=[0.9, 0.6, 0.7, 0.7, 0.5, 0.8])
SECOND = said([0, 1, 1, 1, 2, 2], sure=[0.9, 0.9, 0.7, 0.4, 0.95, 0.9])


def test_two_runs_are_compared_by_hand(run):
    keep("a", FIRST), keep("b", SECOND)
    outcome = run("report", "a", "b")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[:3] == ["split validation, 6 rows", "first: a", "second: b"]
    # Of the first three are right, of the second five.
    assert numbers(outcome.out, "micro F1")[:3] == pytest.approx([3 / 6, 5 / 6, 2 / 6], abs=5e-5)
    f1 = {"anger": (4 / 6, 2 / 3), "joy": (2 / 4, 4 / 5), "sadness": (0, 1)}
    for name, (before, after) in f1.items():
        assert numbers(outcome.out, f"F1 {name}")[:3] == pytest.approx(
            [before, after, after - before], abs=5e-5
        )
    both = [np.mean(each) for each in zip(*f1.values(), strict=True)]
    assert numbers(outcome.out, "macro F1")[:3] == pytest.approx([*both, both[1] - both[0]], abs=5e-5)
    found = compare.compare(TASK, FIRST.outputs, SECOND.outputs, LABELS).differences
    for start, score in found.titled().items():
        assert numbers(outcome.out, start)[2:] == pytest.approx(list(score), abs=5e-5)
    # Rows 4, 5 and 6 are right by the second alone, row 2 by the first: 2 · (1 + 4) / 2^4.
    assert "right by the first alone 1, by the second alone 3;" in outcome.out
    assert "would occur with p = 0.625\n" in outcome.out
    listed = [line.strip() for line in lines if line.startswith("  row ")]
    assert listed == [  # the surest of both first
        'row 6 is sadness: joy 0.80 | sadness 0.90 | text 5, "5" of six',
        'row 2 is anger: anger 0.60 | joy 0.90 | text 1, "1" of six',
        'row 5 is sadness: anger 0.50 | sadness 0.95 | text 4, "4" of six',
        'row 4 is joy: anger 0.70 | joy 0.40 | text 3, "3" of six',
    ]
    assert "4 rows that they label differently" in lines


def test_a_run_compared_with_itself_has_no_difference(run):
    keep("a", FIRST)
    out = run("report", "a", "a/validate.parquet").out
    assert numbers(out, "macro F1")[2:] == [0, 0, 0]
    assert "with p = 1\n" in out
    assert "rows that they label differently" not in out


def test_the_rows_that_two_runs_label_differently_go_into_a_csv(run):
    keep("a", FIRST), keep("b", SECOND)
    outcome = run("report", "a", "b", "--output=rows.csv")
    assert (outcome.code, outcome.err) == (
        0,
        "rows.csv has all of the rows that they label differently\n",
    )
    with Path("rows.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["row"] for row in rows] == ["6", "2", "5", "4"]
    assert rows[1] == {
        "row": "2",
        "label": "anger",
        "first": "anger",
        "probability_first": "0.6",
        "second": "joy",
        "probability_second": "0.9",
        "text": FIRST.texts[1],
    }
    assert [row["text"] for row in rows] == [FIRST.texts[int(row["row"]) - 1] for row in rows]


def test_a_csv_that_cannot_be_written_is_named_in_one_line(run):
    keep("a", FIRST), keep("b", SECOND)
    outcome = run("report", "a", "b", "--output=no/where.csv")
    assert outcome.code == 2
    assert outcome.err == (
        "lit_bert report: cannot write no/where.csv: No such file or directory. Make room, or choose another "
        "file with --output.\n"
    )


def test_only_the_surest_of_many_differing_rows_are_shown(run):
    generator = np.random.default_rng(0)
    rows = np.arange(90)
    texts = [f"{'very ' * 40}text {number}" for number in range(90)]
    for name in "ab":
        probs = generator.dirichlet(np.ones(3), 90).astype("f4")
        keep(name, Predictions(TASK, texts, rows, rows % 3, probs))
    both = [Predictions.read(Path(name, "validate.parquet")) for name in "ab"]
    differing = np.flatnonzero(both[0].preds != both[1].preds)
    assert len(differing) > 40
    out = run("report", "a", "b", "--output=rows.csv").out
    assert f"{len(differing)} rows that they label differently, the first 20:" in out
    shown = [line for line in out.splitlines() if line.startswith("  row ")]
    assert len(shown) == 20
    assert max(map(len, shown)) < 180
    sure = [sum(float(found) for found in re.findall(r" (0\.\d\d) \|", line)) for line in shown]
    assert sure == pytest.approx(sorted(sure, reverse=True), abs=0.011)
    assert len(Path("rows.csv").read_text().splitlines()) == len(differing) + 1


# --- real fits ---


@pytest.fixture(scope="module")
def runs(trained, quick, tmp_path_factory):
    """Two fits on the same rows, of seeds 0 and 1, and one on other rows."""
    place = tmp_path_factory.mktemp("runs")
    rows = [{"text": text, "label": label} for label in NAMES for text in texts_of(label, 20)]
    other = write_csv(place / "other.csv", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_BERT_CACHE", str(place / "cache"))
        for flags in (["--seed_everything=1"], [f"--data.dataset={other}"]):
            where = f"--trainer.logger.init_args.save_dir={place / 'checkpoints'}"
            assert main(["fit", *quick, "--trainer.max_epochs=1", *flags, where]) == 0
    return trained, place / "checkpoints" / "version_0", place / "checkpoints" / "version_1"


def test_two_fits_are_compared_by_the_scores_they_were_kept_with(run, runs):
    outcome = run("report", *runs[:2])
    assert (outcome.code, outcome.err) == (0, "")
    kept = [json.loads((folder / "validate.json").read_text())["scores"] for folder in runs[:2]]
    lines = {"macro F1": "macro_f1", "micro F1": "micro_f1", "loss, nats": "loss_nats"}
    lines |= {"calib. error": "calibration_error"}
    values = {start: [each[name] for each in kept] for start, name in lines.items()}
    values |= {f"F1 {name}": [each["by_class"][name] for each in kept] for name in NAMES}
    for start, wanted in values.items():
        first, second, difference, low, high = numbers(outcome.out, start)
        assert [first, second] == pytest.approx(wanted, abs=5e-5)
        assert difference == pytest.approx(second - first, abs=2e-4)
        assert low <= difference <= high
    assert kept[0]["loss_nats"] != kept[1]["loss_nats"]
    # Either checkpoint of a run means the run.
    assert (
        run("report", runs[0] / "best.ckpt", runs[1] / "last.ckpt").out.splitlines()[3:]
        == (outcome.out.splitlines()[3:])
    )


def test_the_predictions_of_a_fit_are_what_predict_says_of_its_rows(run, runs, corpus):
    flags = (f"--ckpt_path={runs[0] / 'best.ckpt'}", f"--input={corpus / 'validation.csv'}")
    assert run("predict", *flags, "--output=labelled.parquet").code == 0
    labelled = pyarrow.parquet.read_table("labelled.parquet").to_pylist()
    kept = pyarrow.parquet.read_table(runs[0] / "validate.parquet").to_pylist()
    assert len(kept) == 24
    for number, (one, other) in enumerate(zip(kept, labelled, strict=True)):
        assert one["row"] == number
        assert [one[name] for name in ("text", "label")] == [other[name] for name in ("text", "label")]
        for name in NAMES:
            assert one[f"probability_{name}"] == pytest.approx(other[f"probability_{name}"], abs=2e-3)


def test_runs_on_other_rows_cannot_be_compared(refused, runs):
    line = refused("report", runs[0], runs[2])
    assert re.search(r"\d+ rows|rows differ", line)
    assert "only runs that were scored on the same rows can be compared" in line


def test_the_test_split_has_predictions_of_its_own(run, runs, refused):
    line = refused("report", *runs[:2], "--split=test")
    wanted = f"{runs[0]} has no test.parquet; `python -m lit_bert test --ckpt_path {runs[0]}/best.ckpt` "
    assert line == f"lit_bert report: {wanted}writes it."
    for folder in runs[:2]:
        assert run("test", f"--ckpt_path={folder / 'best.ckpt'}").code == 0
    try:
        out = run("report", *runs[:2], "--split=test").out
    finally:
        for folder in runs[:2]:  # others share the run
            for name in ("test.parquet", "test.json"):
                (folder / name).unlink()
    assert out.startswith("split test, 24 rows\n")


# --- several seeds ---


def seeds(folder, **runs):
    for name, predictions in runs.items():
        keep(Path(folder) / name, predictions)
    (Path(folder) / "seeds.json").write_text(json.dumps(list(runs)))
    return Path(folder)


def test_seeds_are_summed_up_by_hand(run):
    fewer = said([0, 0, 0, 0, 0, 1])
    seeds("runs", seed_3=FIRST, seed_4=SECOND, seed_10=fewer)
    outcome = run("report", "runs")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0] == "split validation, 6 rows, 3 seeds"
    assert lines[1].split() == "seed_3 seed_4 seed_10 mean st. dev. min max ensemble".split()
    # Right are 3, 5 and 2 of 6: deviations from the mean of 10/3 are -1/3, 5/3 and -4/3.
    spread = np.sqrt((1 + 25 + 16) / 9 / 2) / 6
    # The averages are highest for anger in rows 0, 1, 3 and 4 (1.325 to 1.3 of sadness), for joy in 2 and 5.
    wanted = [3 / 6, 5 / 6, 2 / 6, 10 / 18, spread, 2 / 6, 5 / 6, 3 / 6]
    assert numbers(outcome.out, "micro F1") == pytest.approx(wanted, abs=5e-5)
    anger = [4 / 6, 2 / 3, 4 / 7]
    assert numbers(outcome.out, "anger")[:4] == pytest.approx([*anger, sum(anger) / 3], abs=5e-5)
    assert numbers(outcome.out, "anger")[-1] == pytest.approx(2 * 2 / (4 + 2), abs=5e-5)
    assert numbers(outcome.out, "joy")[:3] == pytest.approx([2 / 4, 4 / 5, 0], abs=5e-5)
    assert lines[-1] == "best by macro F1 of this split: runs/seed_4"
    wrong = lines.index("wrong in every run: 0 rows, 0 of them with one and the same answer")
    ends = {len(line) for line in lines[1 : wrong - 2]}
    assert len(ends) == 1  # columns stand below their heads


def test_rows_that_no_seed_gets_right_are_counted(run):
    # Row 4 is wrong in all and told apart, rows 3 and 5 have one and the same wrong label.
    seeds("runs", seed_0=FIRST, seed_1=said([0, 0, 0, 0, 0, 1]), seed_2=said([1, 0, 1, 0, 1, 1]))
    lines = run("report", "runs").out.splitlines()
    assert "wrong in every run: 3 rows, 2 of them with one and the same answer" in lines


@pytest.mark.parametrize("C", [2, 6, 77])
def test_any_number_of_classes_is_summed_up_and_compared(run, C):
    names = [f"class {index}" for index in range(C)]
    labels = np.arange(4 * C) % C
    runs = []
    for seed in (3, 4):
        probs = np.random.default_rng(seed).dirichlet(np.ones(C), len(labels)).astype(np.float32)
        texts = [f"text {row}" for row in range(len(labels))]
        task, rows = SingleLabel.of(names), np.arange(len(labels))
        runs.append(Predictions(task, texts, rows, labels, probs, {"split": "validation"}))
    seeds("seeds_0", seed_3=runs[0], seed_4=runs[1])
    found = [each.scores for each in runs]
    table, comparison = (
        run("report", *which).out for which in (["seeds_0"], ["seeds_0/seed_3", "seeds_0/seed_4"])
    )
    for index, name in enumerate(names):
        values = [each.by_class[index] for each in found]
        own = numbers(table, f"{name} ")
        assert own[:3] == pytest.approx([*values, sum(values) / 2], abs=5e-5)
        assert numbers(comparison, f"F1 {name} ")[:3] == pytest.approx(
            [*values, values[1] - values[0]], abs=2e-4
        )


def test_one_seed_has_no_spread(run):
    seeds("runs", seed_0=FIRST)
    assert numbers(run("report", "runs").out, "micro F1") == [0.5, 0.5, 0, 0.5, 0.5, 0.5]


def test_seeds_without_predictions_or_on_other_rows_are_refused(refused):
    seeds("runs", seed_0=FIRST, seed_1=SECOND)
    assert "no run below runs has test.parquet" in refused("report", "runs", "--split=test")
    line = refused("report", "runs", "runs/seed_0")
    assert "runs holds several runs; name one of them, as in runs/seed_0." in line
    other = replace(FIRST, texts=["other"] * 6)
    keep("runs/seed_1", other)
    assert "6 of 6 rows differ" in refused("report", "runs")
    Path("runs/seeds.json").write_text('["seed_0"')
    assert "runs/seeds.json is not JSON" in refused("report", "runs")


@pytest.mark.parametrize(
    "names",
    [
        ["../outside"],
        ["seed_0", "/outside"],
        ["seed_0", "seed_0/../../outside"],
        ["."],
        [".."],
        [""],
        ["seed_0", "seed_0"],
        [5],
        [None],
        [["seed_0"]],
        {"seed_0": 1},
        "seed_0",
        [],
        [f"seed_{number}" for number in range(1001)],
        ["seed_0\n\x1b[31m"],
        ["link"],
    ],
    ids=lambda names: str(names)[:30],
)
def test_seeds_name_folders_directly_in_theirs_alone(refused, names):
    keep("outside", FIRST), keep("runs/seed_0", FIRST)
    Path("runs/link").symlink_to("../outside")
    Path("runs/seeds.json").write_text(json.dumps(names))
    assert "runs/seeds.json" in refused("report", "runs")


# --- which run ---


def test_the_newest_run_is_the_one_that_was_scored_last():
    for time, name in ((30, "version_1"), (20, "version_2"), (10, "deeper/down/version_9")):
        os.utime(keep(f"checkpoints/{name}", FIRST) / "validate.parquet", (time, time))
    assert report.newest("validate.parquet") == Path("checkpoints/version_1")
    file = keep("checkpoints/deeper/down/version_9", FIRST, "test.parquet") / "test.parquet"
    os.utime(file, (5, 5))
    assert report.newest("test.parquet") == file.parent
    assert report.newest("validate.parquet", Path("checkpoints/deeper")) == file.parent


def test_the_newest_run_of_several_seeds_is_their_folder(run):
    seeds("checkpoints/seeds_0", seed_0=FIRST, seed_1=SECOND)
    assert report.newest("validate.parquet") == Path("checkpoints/seeds_0")
    assert run("report").out == run("report", "checkpoints/seeds_0").out != ""


def test_without_a_fit_there_is_nothing_to_report(refused, tmp_path):
    line = refused("report")
    assert f"no validate.parquet below {tmp_path / 'work' / 'checkpoints'}: nothing was scored here" in line
    assert "Run `python -m lit_bert fit`, or name a run." in line
    assert "Run `python -m lit_bert test`, or name a run." in refused("report", "--split=test")


def test_a_run_that_is_not_there_is_refused(refused):
    keep("a", FIRST)
    assert "no run gone; expected a folder that `python -m lit_bert fit` wrote." in refused(
        "report", "a", "gone"
    )
    assert "no predictions gone.parquet;" in refused("report", "a", "gone.parquet")
    Path("bare").mkdir()
    assert "bare has no validate.parquet; `python -m lit_bert validate --ckpt" in refused(
        "report", "a", "bare"
    )
    Path("foreign.parquet").write_text("text")
    assert "foreign.parquet holds no predictions that lit_bert wrote" in refused(
        "report", "a", "foreign.parquet"
    )


def test_what_the_verb_cannot_do_is_refused(refused):
    assert "got 3 runs; expected one or two. `python -m lit_bert report --help`" in refused("report", *"abc")
    assert "invalid choice: 'train'" in refused("report", "a", "--split=train")
    assert "unrecognized arguments: --outptu" in refused("report", "a", "--outptu=b")


def test_classes_in_another_order_are_other_classes():
    other = replace(FIRST, task=SingleLabel.of(NAMES[::-1]))
    with pytest.raises(UserError, match="different tasks or classes"):
        FIRST.check_same_rows(other)
