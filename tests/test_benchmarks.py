"""The benchmark: its arithmetic by hand, its processes, and contestants that train on the same rows."""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import answers
import numpy as np
import pytest
import torch

from benchmarks import (
    encoders,
    frames,
    generator,
    harness,
    hf,
    imbalance,
    kinds,
    load,
    long_texts,
    partial,
    predict,
    quality,
    scale,
    seeds,
    servers,
    startup,
    train,
    versions,
)
from benchmarks.generator import Generator, arrivals, percentile
from benchmarks.harness import (
    Check,
    Contestant,
    Report,
    Run,
    median_and_range,
    module_contestant,
    paired_ratios,
    schedule,
)
from benchmarks.steps import Shape, StepClock, training_flops
from lit_bert import EmotionDataModule, Weights
from lit_bert.sources.weights import MINILM

SETTINGS = argparse.Namespace(warmup=1, steps=2, batch_size=4)


@pytest.fixture(autouse=True)
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packaged corpus for all contestants, and the caches of `datasets` elsewhere than at home."""
    monkeypatch.setenv("LIT_BERT_BENCH_DATA", str(harness.ROOT / "lit_bert" / "data" / "sample"))
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
    assert paired_ratios(runs, "speed", "ours", "theirs") == [2, 3]
    assert paired_ratios(runs, "speed", "ours", "nobody") == []


def test_the_median_decides() -> None:
    assert median_and_range([3, 1, 2]) == "2 [1–3]"
    assert median_and_range([1234.4]) == "1,234"
    assert median_and_range([0.9998]) == "0.9998"
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


def test_tables_are_free_of_the_paths_of_a_machine(tmp_path: Path) -> None:
    with harness.scratch_folder() as place:
        tells = python("tells", f"import sys; sys.exit('no {place}/a.csv for {harness.ROOT}/b.py')")
        runs = harness.measure([tells], rounds=1, place=place, warmup=False)
    report = Report("part", "Title", [tells], runs, {"seconds": "wall_s"}, [])
    assert report.publish(tmp_path) == 1
    content = json.loads((tmp_path / "part.json").read_text())
    assert content["runs"][0]["failure"] == "exit code 1\nno PLACE/a.csv for ./b.py"
    assert content["contestants"][0]["command"][0] == "python"
    assert "no PLACE/a.csv for ./b.py" in (tmp_path / "part.md").read_text()


def test_a_partial_run_does_not_overwrite_the_tables() -> None:
    flags = harness.parser("train", None)
    assert harness.checked_flags(flags.parse_args([])).results == harness.RESULTS
    assert harness.checked_flags(flags.parse_args(["--quick"])).results != harness.RESULTS
    assert harness.checked_flags(flags.parse_args(["--only", "best"])).results != harness.RESULTS
    with pytest.raises(SystemExit, match="expected some of a"):
        harness.selected([Contestant("a", ())], ["b"])


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


def test_an_architecture_is_compared_with_transformers_and_gets_a_row() -> None:
    sizes = {"warmup": 1, "steps": 2, "batch_size": 8, "layers": 2, "hidden": 64}
    figures = encoders.contest(argparse.Namespace(contestant="distilbert values", **sizes))
    assert figures["path"] == "fewer operations"
    assert 0 < figures["logits"] < 1e-5
    assert 0 < figures["gradients"] < 1e-4
    assert 0 < figures["onnx"] < 1e-5 < figures["int8"] < 0.2
    runs = [Run("distilbert values", 1, figures)]
    runs += [
        Run(f"distilbert {who}", 1, {"samples_per_s": each}) for who, each in (("lit_bert", 6), ("best", 4))
    ]
    (row,) = [line for line in encoders.table(runs) if line.startswith("| distilbert ")]
    assert row.split(" | ")[1] == "fewer operations"
    assert row.split(" | ")[4] == "1.5"
    assert [check.reached for check in encoders.checks(runs)] == [True, True, True]


def test_a_part_that_trains_is_timed_and_compared_with_training_all() -> None:
    sizes = {"warmup": 1, "steps": 2, "batch_size": 8}
    assert partial.contest(argparse.Namespace(contestant="minilm lora", **sizes))["samples_per_s"] > 0
    runs = [
        Run("minilm full", 1, {"samples_per_s": 4, "peak_mb": 100}),
        Run("minilm lora", 1, {"samples_per_s": 6, "peak_mb": 50}),
    ]
    (row,) = [line for line in partial.table(runs) if line.startswith("| minilm | lora |")]
    assert row == "| minilm | lora | 1.5 | 0.5 |"


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


def test_rates_of_frames_leave_the_start_out() -> None:
    runs = [
        Run("predict csv", 1, {"wall_s": 15.0}),
        Run("predict, one text", 1, {"wall_s": 5.0}),
        Run("pandas", 1, {"wall_s": 20.0, "call_s": 12.5}),
    ]
    frames.add_rates(runs, texts=1001)
    assert runs[0].figures["texts_per_s"] == 100
    assert runs[2].figures["texts_per_s"] == 1001 / 12.5
    first, *_, last = frames.checks(runs, [1.0, 0.99])
    assert (list(first.values), first.reached) == ([0.8008], False)
    assert not last.reached


def test_frames_hold_the_texts_of_the_files(tmp_path: Path) -> None:
    args = argparse.Namespace(place=tmp_path, texts=12, quick=True)
    frames.files(args)
    for kind in frames.FRAMES:
        args.contestant = kind
        assert frames.predict(args)["call_s"] > 0
        assert len(frames.read(kind, tmp_path / "texts.parquet")) == 12
    found = [file.read_text() for file in tmp_path.glob("labels-*.json")]
    assert len(found) == len(frames.FRAMES)
    assert len(set(found)) == 1
    assert len(set(frames.different_texts(3000))) == 3000


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
    for contestant in load.line_up(argparse.Namespace(minutes=1, quick=True), tmp_path):
        assert contestant.name in load.WORK
    assert module_contestant("scale", "cache 1", "--rows", 1).command[1:] == (
        *("-m", "benchmarks.scale", "--contestant", "cache 1", "--rows", "1"),
    )


# --- versions ---


def test_another_checkout_is_compared_from_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """This one as it is, and one whose package says where it is and takes its time."""
    other = tmp_path / "other" / "lit_bert"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("import time; time.sleep(0.5)")
    (other / "__main__.py").write_text("print('usage')")
    results = tmp_path / "results"
    only = ["--quick", "--only", "help", "import lit_bert", "--results", str(results)]
    assert versions.main([str(other.parent), *only]) == 0
    content = json.loads((results / "versions.json").read_text())
    seconds = {run["contestant"]: run["figures"]["wall_s"] for run in content["runs"]}
    assert seconds.keys() == {f"{what}, {side}" for what in only[2:4] for side in ("this", "other")}
    assert seconds["import lit_bert, other"] > 0.5
    assert str(tmp_path) not in (results / "versions.json").read_text()
    ratio = seconds["import lit_bert, this"] / seconds["import lit_bert, other"]
    (shown,) = [check for check in content["checks"] if check["what"].startswith("import lit_bert: seconds")]
    assert shown["values"] == pytest.approx([ratio])
    assert "| fit: peak memory, this to other | not measured |" in capsys.readouterr().out


def test_no_checkout_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is no checkout of lit_bert"):
        versions.main([str(tmp_path)])
    with pytest.raises(SystemExit, match="expected some of 'import lit_bert', 'help', "):
        versions.main([str(harness.ROOT), "--only", "nothing"])


def test_rates_of_versions_leave_start_and_end_out() -> None:
    runs = [
        Run("fit, this", 1, {"wall_s": 20.0, "cpu_s": 14.0}),
        Run("fit, one step, this", 1, {"wall_s": 5.0, "cpu_s": 4.0}),
        Run("fit, other", 1, {"wall_s": 5.0, "cpu_s": 5.0}),  # not longer than its short one
        Run("fit, one step, other", 1, {"wall_s": 5.0, "cpu_s": 4.0}),
        Run("predict, this", 1, {"wall_s": 6.0, "cpu_s": 5.0}),
        Run("predict, one row, this", 2, {"wall_s": 5.0, "cpu_s": 4.0}),  # of another round
    ]
    versions.add_rates(runs, versions.Sizes(train_rows=96, epochs=2, rows=50, requests=1))
    assert runs[0].figures["steps_per_s"] == 5 / 15
    assert runs[0].figures["cpu_ms_a_step"] == 2000
    assert all(len(run.figures) == 2 for run in runs[1:])


def test_a_pair_turns_round_from_round_to_round(tmp_path: Path) -> None:
    pair = [python(f"one, {side}", "pass", reports=False) for side in versions.SIDES]
    runs = versions.alternating([pair], 2, tmp_path, warmup=True)
    assert [(run.round, run.contestant) for run in runs] == [
        *((0, "one, this"), (0, "one, other"), (1, "one, this"), (1, "one, other")),
        *((2, "one, other"), (2, "one, this")),
    ]


def test_a_closed_loop_counts_what_the_server_takes() -> None:
    figures = versions.closed_loop((sys.executable, str(Path(answers.__file__))), 200)
    assert figures["requests_per_s"] > 1
    assert figures["server_cpu_ms"] > 0


# --- load ---


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server in this process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), answers.Answers)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def offered(port: int, texts: list[str], due: list[float], **settings: float) -> generator.Outcome:
    return Generator(port, [generator.request(text) for text in texts], **settings).run(due)


def test_arrivals_are_a_poisson_process_from_a_seed() -> None:
    due = arrivals(rate=200, seconds=100, seed=1)
    assert due == arrivals(rate=200, seconds=100, seed=1) != arrivals(rate=200, seconds=100, seed=2)
    gaps = [after - before for before, after in zip([0, *due], due, strict=False)]
    assert min(gaps) > 0
    assert due[-1] < 100
    assert len(due) == pytest.approx(20_000, rel=0.03)
    assert statistics.mean(gaps) == pytest.approx(1 / 200, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(1 / 200, rel=0.05)  # 0 if they were evenly spaced


def test_a_percentile_is_the_least_number_that_the_share_does_not_exceed() -> None:
    assert percentile([4, 2, 1, 3], 0.5) == 2
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile(range(1, 102), 0.99) == 100
    assert percentile([7], 0.99) == percentile([7], 0.001) == 7


def test_latency_counts_from_the_time_at_which_a_request_was_due(port: int) -> None:
    due = [0.1 + 0.01 * number for number in range(10)]
    outcome = offered(port, ["stall", *["quick"] * 9], due, connections=1)
    # The last is due 90 ms after the one that takes 500 ms on the only connection.
    assert len(outcome.latencies) == 10
    assert min(outcome.latencies) > 0.4
    assert outcome.connections == 1
    assert statistics.median(outcome.late) < 0.1  # of the generator itself, which did not wait


def test_every_request_is_answered_or_lost(port: int) -> None:
    texts = ["fine", "429", "503", "500", "hang up"]
    outcome = offered(port, texts, [0.01 * number for number in range(50)])
    assert outcome.statuses == {200: 10, 429: 10, 503: 10, 500: 10}
    assert dict(+outcome.lost) == {"connection closed": 10}
    figures = outcome.figures()
    assert (figures["requests"], figures["lost"], figures["wrong"]) == (50, 10, 20)
    assert (figures["share_200"], figures["share_429"]) == (0.2, 0.2)
    stalled = offered(port, ["stall"], [0, 0.01], connections=1, drain_s=0.1)
    assert dict(+stalled.lost) == {"no answer": 1, "never sent": 1}


def test_nobody_listening_is_a_loss() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), answers.Answers) as closed:
        port = closed.server_address[1]
    assert dict(+offered(port, ["fine"], [0, 0.01]).lost) == {"connection closed": 2}


def test_a_run_ends_early_once_it_cannot_keep_the_limit(port: int) -> None:
    due = [0.01 * number for number in range(1000)]
    outcome = offered(port, ["fine", "503"], due, limit_s=10)
    assert outcome.cut
    assert outcome.statuses.total() < 500
    outcome = offered(port, ["fine", "stall"], due, limit_s=0.1)  # 10 of the 1,000 may be slow
    assert outcome.cut
    assert outcome.statuses.total() < 500


def test_the_highest_rate_is_found_within_five_percent() -> None:
    for limit in (3, 40, 217, 1000):
        tried: list[tuple[float, float]] = []

        def trial(rate: float, seconds: float, limit: int = limit, tried: list = tried) -> bool:
            tried.append((rate, seconds))
            return rate <= limit

        found = load.search(trial, first=60, step_s=15, confirm_s=180)
        assert limit / 1.05 <= found <= limit
        assert tried[-1] == (found, 180)
        assert tried[0] == (60, 5)  # a third of a step while nothing has failed
        assert len(tried) < 40


def test_a_rate_that_fails_when_confirmed_is_lowered_and_one_stall_decides_nothing() -> None:
    stalls = iter([False])

    def trial(rate: float, seconds: float) -> bool:
        return rate <= (90 if seconds == 180 else 100) and next(stalls, True)

    assert 90 / 1.05 <= load.search(trial, first=60, step_s=15, confirm_s=180) <= 90
    assert load.search(lambda rate, seconds: False, first=60, step_s=15, confirm_s=180) == 0


def test_a_late_generator_makes_a_run_invalid() -> None:
    run = Run("lit_bert", 1, {"rate": 9.0, "phases": {"half of it before": {"late_p99_ms": 50.0}}})
    whole, half = load.runs_by_phase([run])
    assert (whole.contestant, whole.figures, whole.failure) == ("lit_bert", {"rate": 9.0}, None)
    assert half.contestant == "lit_bert, half of it before"
    assert half.failure == "invalid: the generator was 50.0 ms late (99th percentile)"
    again = Run("lit_bert", 1, {"phases": {load.OVERLOAD: {"late_p99_ms": 50.0}}})  # no latency is a target
    assert not any(each.failure for each in load.runs_by_phase([again]))
    assert load.held({"cut": False, "share_200": 1, "p99_ms": 99, "late_p99_ms": 9})
    for name, figure in (("cut", True), ("share_200", 0.999), ("p99_ms", 101), ("late_p99_ms", 11)):
        assert not load.held({"cut": False, "share_200": 1, "p99_ms": 99, "late_p99_ms": 9, name: figure})


def test_memory_is_that_of_the_whole_tree_of_processes() -> None:
    child = "sum(range(10**7)); print(flush=True); input()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as parent:
        parent.stdout.readline()  # of the child
        parts = servers.process_tree(parent.pid)
        assert len(parts) == 2
        assert all(servers.resident_mb(each) > 1 for each in parts)
        assert 0.02 < servers.cpu_s(parts[1]) < 10
        parent.stdin.write(b"end\n")


def test_a_server_goes_through_all_phases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["fine", "moody"]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    monkeypatch.setenv("PYTHONPATH", str(harness.ROOT))
    monkeypatch.setattr(load, "LIMIT_MS", 10_000)  # how fast this machine is does not matter here
    monkeypatch.setattr(load, "LATE_MS", 10_000)
    monkeypatch.setattr(load, "search", lambda holds, *_: 50.0 * holds(50.0, 1.0))
    command = (sys.executable, str(Path(answers.__file__)))
    args = argparse.Namespace(place=tmp_path, minutes=0.1, quick=True)
    figures = load.contest(command, args, whole=True)
    runs = load.runs_by_phase([Run("lit_bert", 1, figures)])
    assert [run.contestant for run in runs] == [
        *("lit_bert", "lit_bert, half of it before", "lit_bert, twice it", "lit_bert, half of it after"),
    ]
    assert not any(run.failure for run in runs)
    assert [run.figures["rate"] for run in runs] == [50, 25, 100, 25]
    assert all(run.figures["share_200"] == 1 and run.figures["memory_mb"] > 1 for run in runs)
    found = {check.what: check for check in load.checks(runs)}
    assert found["twice the rate: lost, or neither 200, 429 nor 503"].reached
    assert list(found["labels that differ in a list of 50"].values) == [1]
    assert list(found["labels that differ with 16 at a time"].values) == [0]


def test_a_server_that_does_not_start_is_told(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "import sys; sys.exit('no such luck')")
    with pytest.raises(SystemExit, match="no such luck"), servers.serving(command):
        pass


def test_long_texts_have_their_answer_once_at_a_random_place() -> None:
    rows = list(long_texts.texts("test", 3000, 40))
    assert rows == list(long_texts.texts("test", 3000, 40)) != list(long_texts.texts("validation", 3000, 40))
    assert {row["label"] for row in rows} == long_texts.WANTS.keys()
    places = []
    for row in rows:
        sentences = row["text"].removesuffix(".").split(". ")
        starts = tuple(want.split("{}")[0] for want in long_texts.WANTS[row["label"]])
        (place,) = (number for number, each in enumerate(sentences) if each.startswith(starts))
        places.append(place / len(sentences))
        assert 2900 < len(row["text"].replace(".", " .").split()) < 3010
    assert min(places) < 0.1
    assert max(places) > 0.9
    lengths = [len(row["text"].split()) for row in long_texts.texts("train", 3000, 200)]
    assert min(lengths) < 50
    assert max(lengths) > 2000


@pytest.mark.parametrize("ratio", imbalance.ROWS)
def test_rows_of_a_rare_class_are_in_one_part_each(ratio: str) -> None:
    files = [Path("held_out.csv"), Path("data/train.csv"), Path("data/validation.csv")]
    drawn = []
    for seed in (1, 1, 2):
        imbalance.write(ratio, seed, Path("data"))
        parts = []
        for file in files:
            with file.open(newline="", encoding="utf-8") as stream:
                parts.append([(row["text"], row["label"]) for row in csv.DictReader(stream)])
        shutil.rmtree("data")
        drawn.append(parts)
    assert drawn[0] == drawn[1] != drawn[2]
    held_out, train, validation = drawn[0]
    labels = [[label for _, label in part].count(imbalance.RARE) for part in drawn[0]]
    (frequent, rare), (frequent_val, rare_val) = imbalance.ROWS[ratio]
    assert labels == [imbalance.DECIDE + imbalance.TEST, rare, rare_val]
    assert [len(part) - count for part, count in zip(drawn[0], labels, strict=True)] == [
        imbalance.DECIDE + imbalance.TEST,
        frequent,
        frequent_val,
    ]
    to_decide = held_out[: 2 * imbalance.DECIDE]
    assert [label for _, label in to_decide].count(imbalance.RARE) == imbalance.DECIDE
    assert len(set(held_out + train + validation)) == sum(map(len, drawn[0]))


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_the_peers_read_the_rows_of_a_kind(kind: str, tmp_path: Path) -> None:
    kinds.write(kind, tmp_path, quick=True)
    task = kinds.read(kind, tmp_path)
    for split, labels in task.labels.items():
        expected = list(kinds.rows(kind, split, len(labels)))
        assert list(zip(*task.texts[split], strict=True)) == [tuple(row.values())[:-1] for row in expected]
        assert len(labels) == kinds.ROWS[split] // 20
        if kind == "multi_label":
            names = ["|".join(np.array(sorted(kinds.VALUES))[row == 1]) for row in labels]
        elif kind == "pairs":
            names = [("different", "same")[label] for label in labels]
        else:
            names = [label + (kind == "ordinal") for label in labels]
        assert names == [tuple(row.values())[-1] for row in expected]
        assert task.score(labels, labels) == 1


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        ("single_label_classification", [1, 0]),
        ("multi_label_classification", [[1, 0], [1, 1]]),
        ("regression", [-2.0, 2.0]),
    ],
)
def test_the_trainer_is_scored_at_the_rate_that_is_best_on_validation(
    problem: str, labels: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(harness.STARTED, repr(time.time()))
    text = [["a happy day", "the bank was robbed"] * 12]
    splits = {split: (text, np.array(labels * 12)) for split in ("train", "validation", "test")}
    splits["test"] = (text, splits["test"][1][::-1])  # nobody may choose by it
    figures = hf.classify(
        "tuned",
        (1e-9, 2e-4),
        problem,
        1 if problem == "regression" else 2,
        splits,
        lambda truth, found: -float(abs(truth - found).mean()),
        per_device_train_batch_size=8,
        num_train_epochs=8,
    )
    assert figures["learning_rate"] == 2e-4, figures
    assert figures["validation"] > -0.3
    assert figures["score"] < figures["validation"]
    assert 0 < figures["wall_s"] < harness.since_start()
