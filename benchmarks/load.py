"""The HTTP server under load: lit_bert `serve` beside a FastAPI endpoint with `transformers.pipeline`.

Both serve the same exported folder, one after the other, to an open-loop generator (benchmarks/generator.py)
in a process of its own on the same cores. Searched is the highest rate of single texts whose 99th percentile
is within 100 ms and of which every answer is 200. lit_bert is then given twice that rate, and half of it
before and after.

    python -m benchmarks.load --folder checkpoints/version_0/exported --minutes 10
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.generator import CONNECTIONS, LATE_MS
from benchmarks.harness import Check, Contestant, Run, module_contestant, paired_ratios, values
from benchmarks.servers import Server, serve_baseline, serving

LIT_BERT, BASELINE = "lit_bert", "fastapi + pipeline"
OVERLOAD = "twice it"  # what the table calls the run at twice the highest rate
LIMIT_MS = 100.0  # for the 99th percentile
GROWTH = 1.5  # from a rate to the next, while none failed
PRECISION = 1.05  # between the highest rate that held and the lowest that did not
MIN_FIRST_RATE = 10.0  # requests a second to begin with: a stall in the warm-up must not make it the lowest
MIN_RATE = 1.0  # requests a second; a server that cannot do that has no rate
MIN_REQUESTS = 100  # requests in a trial, so that a 99th percentile means something
CONFIRMATIONS = 20  # each at a lower rate; those that fail end early
COMPARED_TEXTS, LIST_TEXTS = 500, 50  # texts whose labels are compared, texts in a list
CONCURRENT = 16  # of them sent at the same time
# Shares of --minutes: a step of the search, and the runs after it.
STEP, STEADY, HALF, TWICE, SHORT = 0.025, 0.3, 0.1, 0.2, 0.1


def main(argv: list[str] | None = None) -> int:
    """Runs the part, or one contestant of it."""
    flags = harness.parser("load", __doc__, rounds=1)
    flags.add_argument(
        "--folder", type=Path, help="an exported folder (default: one epoch of `fit`, exported)"
    )
    flags.add_argument("--minutes", type=float, default=10, help="for lit_bert's server (default 10)")
    flags.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    flags.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = harness.checked_flags(flags.parse_args(argv))
    if args.contestant == "app":
        return serve_baseline(args.place / "exported", args.port)
    if args.contestant:
        return harness.print_figures(WORK[args.contestant](args))
    if not 0 < args.minutes < math.inf:
        raise SystemExit(f"--minutes is {args.minutes:g}; expected more than 0.")
    args.minutes = 0.2 if args.quick else args.minutes
    with harness.scratch_folder() as place:
        contestants = harness.selected(line_up(args, place), args.only)
        prepare(args, place)
        runs = runs_by_phase(harness.measure(contestants, args.rounds, place, warmup=False), args.quick)
    rows = list(dict.fromkeys(run.contestant for run in runs))
    report = harness.Report(
        "load",
        "The server under load",
        [Contestant(name, ()) for name in rows],
        runs,
        COLUMNS,
        checks(runs),
        notes(args),
        args.quick,
    )
    return report.publish(args.results)


COLUMNS = {
    "requests/s": "rate",
    "ms, median": "p50_ms",
    "ms, 99th percentile": "p99_ms",
    "ms, 99.9th percentile": "p999_ms",
    "share of 200": "share_200",
    "429": "share_429",
    "503": "share_503",
    "lost, or any other": "wrong",
    "memory at the end, MB": "memory_mb",
    "server: ms of CPU a request": "server_cpu_ms",
    "generator: share of a core": "generator_cpu",
    "generator: ms late, 99th percentile": "late_p99_ms",
}


LOGGED_FIGURES = ("rate", "p50_ms", "p99_ms", "late_p99_ms", "server_cpu_ms", "memory_mb", "lost")


def notes(args: argparse.Namespace) -> list[str]:
    """What a reader has to know."""
    return [
        f"One text of {harness.data_folder().name} a request. Open loop: arrivals are a Poisson process, "
        f"whether or not earlier requests were answered, over at most {CONNECTIONS} connections, and a "
        "latency counts from the time at which the request was due. Latencies are those of answers 200.",
        f"The highest rate: up by half from rate to rate, then between the last two until they are "
        f"{PRECISION - 1:.0%} apart, {args.minutes * 60 * STEP:.3g} s a step (a third on the way up). A rate "
        "has failed where it failed twice; a run ends early once it cannot hold. The row without a further "
        f"name is the run that confirmed the rate, {args.minutes * 60 * STEADY:.3g} s for {LIT_BERT} and "
        f"{args.minutes * 60 * SHORT:.3g} s for the other; where the 99th percentile was above {LIMIT_MS:g} "
        f"ms or an answer not 200, the rate was lowered by {PRECISION - 1:.0%} and confirmed anew.",
        f"The generator shares the cores. Where its own 99th percentile of lateness is above {LATE_MS:g} ms, "
        f"the run is marked as failed and not counted; at twice the rate, where no latency has a target, "
        f"above {10 * LATE_MS:g} ms.",
        f"{BASELINE}: uvicorn, one process, a `def` endpoint that calls the pipeline; nothing is tuned.",
        "Memory is the resident memory of the server's processes, summed. The warm-up: 100 texts one after "
        "the other, then a step at twice the rate that this gave, so that all sizes of batches were seen.",
        f"Labels: {COMPARED_TEXTS} texts one after the other, in lists of {LIST_TEXTS}, and {CONCURRENT} at "
        "a time.",
    ]


def line_up(args: argparse.Namespace, place: Path) -> list[Contestant]:
    """Both servers, each with what loads it."""
    flags = ("--place", place, "--minutes", args.minutes, *["--quick"] * args.quick)
    return [
        module_contestant("load", name, *flags, timeout_s=600 + 360 * args.minutes)
        for name in (LIT_BERT, BASELINE)
    ]


def prepare(args: argparse.Namespace, place: Path) -> None:
    """Puts the exported folder and texts.jsonl into `place`."""
    if args.folder:
        folder = args.folder.resolve()
        if not (folder / "config.json").is_file():
            raise SystemExit(
                f"--folder is {args.folder}; expected one that `python -m lit_bert export` wrote."
            )
        (place / "exported").symlink_to(folder)
    flags = ("--place", place, *["--quick"] * args.quick)
    harness.prepare(module_contestant("load", "files", *flags, timeout_s=3600), place)


def runs_by_phase(runs: Sequence[Run], quick: bool = False) -> list[Run]:
    """A run for each thing that a contestant went through; one with a late generator failed, if not quick."""
    phase_runs = []
    for run in runs:
        phases = run.figures.pop("phases", {})
        for name, figures in ({"": {}} | phases).items():
            late = figures.get("late_p99_ms", 0.0)
            max_late_ms = 10 * LATE_MS if name == OVERLOAD else LATE_MS  # no latency is a target there
            failure = f"invalid: the generator was {late:.1f} ms late (99th percentile)"
            phase_runs.append(
                Run(
                    f"{run.contestant}, {name}" if name else run.contestant,
                    run.round,
                    figures if name else {**run.figures, **figures},
                    run.failure or (failure if late > max_late_ms and not quick else None),
                )
            )
    return phase_runs


def checks(runs: list[Run]) -> list[Check]:
    """The targets."""

    def of(phase: str, figure: str) -> list[float]:
        return list(values(runs, f"{LIT_BERT}, {phase}" if phase else LIT_BERT, figure).values())

    before, after = f"{LIT_BERT}, half of it before", f"{LIT_BERT}, half of it after"
    return [
        Check(f"requests/s, {LIT_BERT} to {BASELINE}", paired_ratios(runs, "rate", LIT_BERT, BASELINE), 5),
        Check("ms at the highest rate, 99th percentile", of("", "p99_ms"), LIMIT_MS, at_least=False),
        Check("twice the rate: lost, or neither 200, 429 nor 503", of(OVERLOAD, "wrong"), 0, False),
        Check("memory, growth in % from warm-up to the end", of("", "memory_growth"), 10, False),
        Check("memory, growth in % at twice the rate", of("", "memory_growth_twice")),
        *(
            Check(
                f"half the rate: {what}, after to before",
                paired_ratios(runs, figure, after, before),
                1.2,
                False,
            )
            for figure, what in (("p50_ms", "median"), ("p99_ms", "99th percentile"))
        ),
        Check(f"labels that differ in a list of {LIST_TEXTS}", of("", "differ_listed"), 0, False),
        Check(f"labels that differ with {CONCURRENT} at a time", of("", "differ_together"), 0, False),
        Check("probability, largest difference of those", of("", "differ_probability")),
    ]


# --- the search ---


def search(trial: Callable[[float, float], bool], first: float, step_s: float, confirm_s: float) -> float:
    """The highest rate that holds, 0 if none does.

    Args:
        trial: whether a rate holds for so many seconds.
        first: the rate to begin with.
        step_s: for a trial; a third of it while no rate has failed.
        confirm_s: for the last one. The rate is lowered until it holds.
    """
    held, failed, rate = 0.0, math.inf, first
    while not held or failed > held * PRECISION:
        if rate < MIN_RATE:
            return 0.0
        seconds = step_s / 3 if failed == math.inf else step_s
        if trial(rate, seconds) or trial(rate, seconds):  # one stall of a shared machine must not decide
            held = rate
        else:
            failed = rate
        if not held:
            rate = failed / GROWTH
        else:
            rate = held * GROWTH if failed == math.inf else math.sqrt(held * failed)
    for _ in range(CONFIRMATIONS):
        if trial(held, confirm_s):
            return held
        held /= PRECISION
    return 0.0


# --- in the contestant's own process ---


class Load:
    """What a server goes through.

    Args:
        server: it.
        texts: JSON Lines with the field text.
        min_requests: of a trial.
    """

    def __init__(self, server: Server, texts: Path, min_requests: int = MIN_REQUESTS) -> None:
        self.server, self.texts, self.min_requests = server, texts, min_requests
        self.usual_s = 0.0  # for one text alone
        self.trials: list[dict[str, Any]] = []

    def run_generator(
        self, rate: float, seconds: float, limit_ms: float | None = None, seed: int = 0
    ) -> dict[str, Any]:
        """Figures of a run of the generator."""
        command: list[object] = [sys.executable, "-m", "benchmarks.generator", "--port", self.server.port]
        command += ["--rate", rate, "--seconds", seconds, "--texts", self.texts, "--seed", seed]
        command += ["--limit_ms", limit_ms] if limit_ms else []
        cpu_s = self.server.cpu_s()
        done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        if self.server.process.poll() is not None:
            raise SystemExit(f"the server died at {rate:g} requests/s\n{self.server.log_end()}")
        figures["server_cpu_ms"] = 1000 * (self.server.cpu_s() - cpu_s) / max(figures["requests"], 1)
        figures["memory_mb"] = self.server.memory_mb()
        self.trials.append(figures)
        logged = ", ".join(f"{name} {figures.get(name, 0):.3g}" for name in LOGGED_FIGURES)
        print(f"{seconds:.3g} s: {logged}, {figures['statuses']}", file=sys.stderr)
        return figures

    def holds(self, rate: float, seconds: float) -> bool:
        """Whether all answers are 200 and their 99th percentile is within the limit."""
        figures = self.run_generator(
            rate, max(seconds, self.min_requests / rate), LIMIT_MS, seed=len(self.trials)
        )
        self.server.wait_until_idle(max(2 * self.usual_s, LIMIT_MS / 1000))
        return held(figures)

    def warm_up(self, seconds: float) -> float:
        """The rate of a client that asks one text after the other; it was then given twice that."""
        texts = [json.loads(line)["text"] for line in self.texts.read_text(encoding="utf-8").splitlines()]
        times = []
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        for number in range(100):
            start = time.perf_counter()
            self.server.ask(texts[number % len(texts)], connection)
            times.append(time.perf_counter() - start)
        connection.close()
        self.usual_s = statistics.median(times)
        rate = max(1 / self.usual_s, 2 * MIN_FIRST_RATE)
        # More than one waits at a time, as it will be later: memory grows until then.
        self.run_generator(2 * rate, seconds)
        self.server.wait_until_idle(max(2 * self.usual_s, LIMIT_MS / 1000))
        return rate


def held(figures: dict[str, Any]) -> bool:
    """Whether a run of the generator is one that a rate may rest on."""
    right = not figures["cut"] and figures["share_200"] == 1
    return right and figures["p99_ms"] <= LIMIT_MS and figures["late_p99_ms"] <= LATE_MS


def measure_lit_bert(args: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    command = (sys.executable, "-m", "lit_bert", "serve", str(args.place / "exported"))
    return contest(command, args, whole=True)


def measure_baseline(args: argparse.Namespace) -> dict[str, Any]:
    """The highest rate alone."""
    flags = ("--contestant", "app", "--place", str(args.place))
    return contest((sys.executable, "-m", "benchmarks.load", *flags), args, whole=False)


def contest(command: Sequence[str], args: argparse.Namespace, whole: bool) -> dict[str, Any]:
    """Figures of the server that the command starts.

    Args:
        command: to which `--port` is added.
        args: `place`, `minutes` and `quick`.
        whole: whether it is also given twice the highest rate and half of it, and its labels are compared.
    """
    seconds, texts = args.minutes * 60, args.place / "texts.jsonl"
    with serving(command) as server:
        load = Load(server, texts, 10 if args.quick else MIN_REQUESTS)
        memory = {"memory_start_mb": server.memory_mb()}
        first = load.warm_up(seconds * STEP) / 2
        memory["memory_warm_mb"] = server.memory_mb()
        rate = search(load.holds, first, seconds * STEP, seconds * (STEADY if whole else SHORT))
        if not rate and not args.quick:  # a smoke run goes on: its point is that everything runs
            raise SystemExit(f"no rate held\n{server.log_end()}")
        rate = rate or first
        steady = load.trials[-1] | memory
        if not whole:
            return {**steady, "trials": load.trials}
        phases = {
            name: load.run_generator(factor * rate, seconds * share)
            for name, factor, share in (
                ("half of it before", 0.5, HALF),
                (OVERLOAD, 2, TWICE),
                ("half of it after", 0.5, HALF),
            )
        }
        end_mb = server.memory_mb()
        before_mb, twice_mb = phases["half of it before"]["memory_mb"], phases[OVERLOAD]["memory_mb"]
        steady |= {
            "memory_growth": 100 * (end_mb / memory["memory_warm_mb"] - 1),
            "memory_growth_twice": 100 * (twice_mb / before_mb - 1),
            **same_labels(server, texts, 100 if args.quick else COMPARED_TEXTS),
        }
    return {**steady, "trials": load.trials, "phases": phases}


def same_labels(server: Server, file: Path, count: int) -> dict[str, float]:
    """How many labels are not those of the text alone: in lists, and with others at the same time."""
    lines = file.read_text(encoding="utf-8").splitlines()[:count]
    texts = [json.loads(line)["text"] for line in lines]
    alone = [server.ask(text) for text in texts]
    lists = [texts[start : start + LIST_TEXTS] for start in range(0, len(texts), LIST_TEXTS)]
    listed = [each for some in lists for each in server.ask(some)["predictions"]]
    with ThreadPoolExecutor(CONCURRENT) as pool:
        together = list(pool.map(server.ask, texts))
    differences = {
        f"differ_{name}": float(
            sum(one["label"] != other["label"] for one, other in zip(alone, many, strict=True))
        )
        for name, many in (("listed", listed), ("together", together))
    }
    differences["differ_probability"] = max(
        abs(one["probabilities"][label] - other["probabilities"][label])
        for many in (listed, together)
        for one, other in zip(alone, many, strict=True)
        for label in one["probabilities"]
    )
    return differences


def files(args: argparse.Namespace) -> dict[str, Any]:
    """Writes texts.jsonl, and the folder where none was given: an epoch of `fit`, exported."""
    from benchmarks import hf

    texts = [*hf.split("train")["text"], *hf.split("validation")["text"]]
    with (args.place / "texts.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    folder = args.place / "exported"
    if not folder.exists():
        from benchmarks.fit import exported

        exported(folder, args.quick)
    return {}


WORK = {LIT_BERT: measure_lit_bert, BASELINE: measure_baseline, "files": files}

if __name__ == "__main__":
    sys.exit(main())
