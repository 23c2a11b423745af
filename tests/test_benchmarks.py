"""The benchmark: its arithmetic by hand, its processes, and contestants that train on the same rows."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import harness, hf, predict, quality, scale, seeds, startup, train
from benchmarks.harness import Check, Contestant, Report, Run, inner, paired, schedule, spread
from benchmarks.steps import Shape, StepClock, training_flops
from lit_bert import EmotionDataModule, Weights
from lit_bert.sources import MINILM

SETTINGS = argparse.Namespace(warmup=1, steps=2, batch_size=4)


@pytest.fixture(autouse=True)
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packaged corpus for all contestants, and the caches of `datasets` elsewhere than at home."""
    monkeypatch.setenv("LIT_BERT_BENCH_DATA", str(harness.ROOT / "lit_bert" / "sample"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


def python(name: str, code: str, **settings: object) -> Contestant:
    return Contestant(name, (sys.executable, "-c", code), **settings)


def runs_of(name: str, *speeds: float) -> list[Run]:
    """Round 0 is the warm-up."""
    return [Run(name, number, {"speed": speed}) for number, speed in enumerate(speeds)]


def test_rounds_alternate_and_start_with_another_contestant_each() -> None:
    three = [Contestant("a", ()), Contestant("b", (), rounds=1), Contestant("c", (), rounds=0)]
    order = [f"{number}{each.name}" for number, each in schedule(three, rounds=2)]
    assert order == ["0a", "0b", "0c", "1b", "1a", "2a"]
    assert [number for number, _ in schedule(three[:1], rounds=2, warmup=False)] == [1, 2]


def test_ratios_are_taken_within_a_round_and_the_warm_up_does_not_count() -> None:
    runs = [*runs_of("ours", 1000, 20, 30, 44), *runs_of("theirs", 1, 10, 10, 11)]
    runs[-1].failure = "exit code 1"  # of round 3, which then has no pair
    assert paired(runs, "speed", "ours", "theirs") == [2, 3]
    assert paired(runs, "speed", "ours", "nobody") == []


def test_the_median_decides() -> None:
    assert spread([3, 1, 2]) == "2 [1–3]"
    assert spread([1234.4]) == "1,234"
    assert spread([0.9998]) == "0.9998"
    assert Check("", [1, 5, 6], target=5).reached
    assert not Check("", [1, 4, 6], target=5).reached
    assert Check("", [0.1, 0.3, 9], target=0.3, at_least=False).reached
    assert Check("", [], target=5).reached is None


def test_flops_of_two_texts_by_hand() -> None:
    # One layer: 4 · 2² + 2 · 2 · 8 = 48 parameters. Texts of 3 and 1 tokens: 2 · 48 · 4 for the products with
    # them, 4 · 2 · (3² + 1²) for attention; backward costs twice as much as forward.
    assert training_flops(Shape(layers=1, hidden=2, intermediate=8), [3, 1]) == 3 * (384 + 80)


def test_the_clock_leaves_out_warm_up_and_counts_a_short_batch_as_it_is() -> None:
    clock = StepClock(warmup=1, steps=2)
    for lengths in ([9, 9], [2, 3], [4]):
        clock.step(torch.tensor(lengths))
    clock.times = [10.0, 11.0, 14.0]
    figures = clock.figures(Shape(1, 2, 8))
    assert figures["seconds"] == 4
    assert figures["samples_per_s"] == 3 / 4
    assert figures["tokens_per_s"] == 9 / 4
    with pytest.raises(SystemExit, match="after 3 steps; expected 4"):
        StepClock.figures(_later(clock, steps=3), Shape(1, 2, 8))


def _later(clock: StepClock, steps: int) -> StepClock:
    clock.steps = steps
    return clock


def test_figures_come_from_the_last_line_and_the_terminal_is_one(tmp_path: Path) -> None:
    code = "import sys, json; print('chat'); print(json.dumps({'bar': sys.stderr.isatty()}))"
    done = harness.run(python("one", code), tmp_path)
    assert done.failure is None
    assert done.figures["bar"] is True
    assert done.figures["wall_s"] > 0
    assert done.figures["peak_mb"] > 1


def test_a_failing_contestant_is_shown_and_the_others_run(tmp_path: Path) -> None:
    contestants = [
        python("broken", "import sys; sys.exit('no such luck')"),
        python("slow", "import time; time.sleep(60)", timeout_s=0.5),
        python("silent", "pass"),
        python("well", "print('{}')"),
    ]
    runs = harness.measure(contestants, rounds=1, place=tmp_path, warmup=False)
    broken, slow, silent, well = runs
    assert broken.failure == "exit code 1\nno such luck"
    assert slow.failure == "killed after 0.5 s\n"
    assert silent.failure is not None
    assert silent.failure.startswith("reported no figures")
    assert well.failure is None
    report = Report("part", "Title", contestants, runs, {"seconds": "wall_s"}, [Check("x", [2.0], 1)])
    assert report.publish(tmp_path / "results") == 1
    text = (tmp_path / "results" / "part.md").read_text()
    assert "| broken | – | 0, 1 failed |" in text
    assert "no such luck" in text
    assert "| x | 2 | ≥ 1 | yes |" in text
    assert len(json.loads((tmp_path / "results" / "part.json").read_text())["runs"]) == 4


def test_a_partial_run_does_not_overwrite_the_tables() -> None:
    flags = harness.parser("train", None)
    assert harness.settled(flags.parse_args([])).results == harness.RESULTS
    assert harness.settled(flags.parse_args(["--quick"])).results != harness.RESULTS
    assert harness.settled(flags.parse_args(["--only", "best"])).results != harness.RESULTS
    with pytest.raises(SystemExit, match="expected some of a"):
        harness.chosen([Contestant("a", ())], ["b"])


def test_a_part_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--quick", "--only", "import torch", "help", "--results", str(tmp_path)]
    assert startup.main(flags) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == (tmp_path / "startup.md").read_text().strip()
    assert "smoke run" in printed
    assert "| seconds, help to import torch | 0." in printed
    assert "| seconds, predict to import lightning, transformers | not measured |" in printed


def test_all_trainers_get_the_same_rows() -> None:
    data = EmotionDataModule("sample", train_rows=20, weights=Weights(MINILM))
    data.setup("fit")
    assert data.train_rows.texts(data.train_rows.rows.tolist()) == hf.split("train", 20)["text"]
    assert [data.label_names[each] for each in data.train_rows.labels] == [
        hf.split("train").features["label"].int2str(each) for each in hf.split("train", 20)["label"]
    ]


@pytest.mark.parametrize("contestant", ["default", "best", "lit_bert"])
def test_every_trainer_is_timed(contestant: str) -> None:
    figures = train.contest(argparse.Namespace(contestant=contestant, **vars(SETTINGS)))
    texts = figures["samples_per_s"] * figures["seconds"]
    assert round(texts) == SETTINGS.steps * SETTINGS.batch_size
    assert 3 * texts < figures["tokens_per_s"] * figures["seconds"] < 128 * texts


def test_the_tutorial_pads_to_512_and_counts_no_padding() -> None:
    rows = hf.trainer("tutorial", 4).train_dataset
    assert {len(ids) for ids in rows["input_ids"]} == {512}
    assert max(sum(mask) for mask in rows["attention_mask"]) < 100


def test_time_to_quality_takes_the_better_rate_and_says_where_it_is_a_bound() -> None:
    def ended(name: str, **figures: float) -> Run:
        return Run(name, 1, figures)

    runs = [
        ended("lit_bert", reached_s=30),
        ended("default@5e-5", reached_s=400),
        ended("default@1e-4", reached_s=200),
        ended("best@5e-5", not_reached_s=90),
        ended("best@1e-4", not_reached_s=100),
    ]
    default, best = quality.checks(runs)
    assert (list(default.values), default.bound, default.reached) == ([0.15], "", False)
    assert (list(best.values), best.bound, best.reached) == ([30 / 90], "<", True)
    assert quality.checks(runs[1:])[0].reached is None
    default, _ = quality.checks([*runs, Run("lit_bert", 2, {"reached_s": 50})])  # the others ran once
    assert (list(default.values), default.bound) == ([0.15], "")


def test_a_trainer_is_stopped_when_its_other_rate_was_faster() -> None:
    runs = [Run("default@1e-4", 1, {"reached_s": 200.0}), Run("best@1e-4", 1, {"not_reached_s": 90.0})]
    default, best = Contestant("default@5e-5", ("run",)), Contestant("best@5e-5", ("run",))
    assert quality.limited(default, runs).command == ("run", "--limit_s", "200.0")
    assert quality.limited(best, runs).command == ("run",)


def test_what_speed_costs_is_told_in_points_within_a_seed() -> None:
    scores = {"lit_bert": (0.930, 0.935, 0.95), "plain": (0.932, 0.934)}
    runs = [
        Run(name, number, {"val/f1_micro": score, "val/f1": score - 0.02})
        for name, each in scores.items()
        for number, score in enumerate(each, 1)
    ]
    micro, macro = seeds.checks(runs)
    assert list(micro.values) == pytest.approx([-0.2, 0.1])
    assert list(macro.values) == pytest.approx([-0.2, 0.1])
    assert micro.reached


def test_rates_of_predict_leave_the_start_out() -> None:
    runs = [
        Run("lit_bert", 1, {"wall_s": 15.0}),
        Run("lit_bert, one text", 1, {"wall_s": 5.0}),
        Run("pipeline", 1, {"wall_s": 7.0, "call_s": 2.0, "texts_per_s": 50.0}),
    ]
    predict.add_rates(runs, texts=1001)
    assert runs[0].figures["texts_per_s"] == 100
    assert runs[2].figures["whole_texts_per_s"] == 1001 / (5 + 1001 / 50)
    (speed, *_), same = predict.checks(runs, [0.9995]), predict.checks(runs, [0.9995])[3]
    assert list(speed.values) == [2]
    assert same.reached


def test_scale_makes_a_cache_and_starts_from_it(tmp_path: Path) -> None:
    args = argparse.Namespace(rows=50, place=tmp_path)
    scale.make(args)
    assert scale.cache(args)["rows_per_s"] > 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(harness.STARTED, "0")
        figures = scale.cached(args)
    assert figures["first_batch_s"] > 0
    assert figures["anon_mb"] > 1


def test_the_growth_of_memory_is_told_in_bytes_a_row() -> None:
    runs = [Run("cached 200", 1, {"anon_mb": 100.0}), Run("cached 1,200", 1, {"anon_mb": 101.0})]
    growth = next(
        check
        for check in scale.checks(runs, (200, 400, 1200))
        if check.what == "cached: bytes a row, anonymous memory"
    )
    assert list(growth.values) == [2**20 / 1000]
    assert growth.reached is False


def test_every_inner_contestant_is_known(tmp_path: Path) -> None:
    for contestant in predict.line_up(argparse.Namespace(subset=1, calls=1), tmp_path, 8):
        assert contestant.command[1:3] == ("-m", "lit_bert") or contestant.name in predict.WORK
    assert inner("scale", "cache 1", "--rows", 1).command[1:] == (
        *("-m", "benchmarks.scale", "--contestant", "cache 1", "--rows", "1"),
    )
