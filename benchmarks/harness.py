"""What every part shares: contestants as processes, alternating rounds, medians and spreads, the tables.

A contestant is a command. It runs in a process and an empty working directory of its own, offline, with
standard error on a pseudo-terminal, so that progress bars are drawn as they are for a person. Round 0 warms
up and is not counted. This process stays small, without numpy and torch: on Linux the peak memory of a
process starts from that of the process which started it.

    python -m benchmarks.startup --rounds 5 --only "import torch" help
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import fcntl
import functools
import importlib.metadata
import json
import os
import platform
import pty
import re
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
STARTED = "LIT_BERT_BENCH_STARTED"  # time.time() at which the harness started the process
PREFIX = "lit_bert-bench-"  # of the folder of one part
ROUND = "LIT_BERT_BENCH_ROUND"  # its number; 0 warms up
PACKAGES = ("torch", "transformers", "accelerate", "lightning", "tokenizers", "datasets")


# --- contestants ---


@dataclass(frozen=True)
class Contestant:
    """A command to measure.

    Attributes:
        name: its name in the tables.
        command: program and arguments.
        rounds: most counted rounds it takes part in; None: all of them; 0: only the warm-up.
        reports: whether the last line of its standard output is a JSON object with figures.
        cold: whether its token caches start empty.
        timeout_s: it is killed after that time, and counts as failed.
    """

    name: str
    command: tuple[str, ...]
    rounds: int | None = None
    reports: bool = True
    cold: bool = False
    timeout_s: float = 1200


@dataclass
class Run:
    """What one process of a contestant gave.

    Attributes:
        figures: `wall_s` and `peak_mb` (resident memory) of the process, and what it reported itself.
        failure: exit code or timeout, and the end of its standard error; None if all went well.
    """

    contestant: str
    round: int
    figures: dict[str, Any]
    failure: str | None = None


def inner(part: str, name: str, *arguments: object, **settings: Any) -> Contestant:
    """A contestant that is a function of `benchmarks.<part>`, in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{part}", "--contestant", name, *map(str, arguments)]
    return Contestant(name, tuple(command), **settings)


def tell(figures: dict[str, Any]) -> int:
    """The last thing a contestant's own process does. Returns its exit code."""
    print(json.dumps(figures), flush=True)
    return 0


def since_start() -> float:
    """Seconds since the harness started this process."""
    return time.time() - float(os.environ[STARTED])


def round_number() -> int:
    """The round that this process was started for, which is also the seed where rounds differ by theirs."""
    return int(os.environ[ROUND])


def data_folder() -> Path:
    """The labelled text: `$LIT_BERT_BENCH_DATA`, else ../shared/emotion, else the packaged sample."""
    given = os.environ.get("LIT_BERT_BENCH_DATA")
    if given and not Path(given).is_dir():
        raise SystemExit(
            f"LIT_BERT_BENCH_DATA is {given}; expected a folder with train and validation files."
        )
    emotion = Path(given).resolve() if given else ROOT.parent / "shared" / "emotion"
    return emotion if emotion.is_dir() else ROOT / "lit_bert" / "data" / "sample"


# --- processes ---


def run(contestant: Contestant, place: Path, number: int = 0) -> Run:
    """Starts the contestant's process, waits for its end, and takes its figures.

    Args:
        contestant: what to run.
        place: folder whose `tokens` and `hf` hold the caches that processes share.
        number: the round.
    """
    work = Path(tempfile.mkdtemp(prefix="process-", dir=place))
    caches = work if contestant.cold else place
    env = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(caches / "hf"),
        "LIT_BERT_CACHE": str(caches / "tokens"),
        "LIT_BERT_BENCH_DATA": str(data_folder()),
        ROUND: str(number),
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm-256color",
    }
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    start, env[STARTED] = time.perf_counter(), repr(time.time())
    process = subprocess.Popen(
        contestant.command,
        cwd=work,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=slave,
        start_new_session=True,  # so that its own children can be killed with it
    )
    os.close(slave)
    assert process.stdout
    out, err = _Drain(process.stdout.fileno()), _Drain(master)
    late = threading.Event()

    def kill() -> None:
        late.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(contestant.timeout_s, kill)
    timer.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        kill()
        process.wait()
        raise
    finally:
        timer.cancel()
        out.join(5)
        err.join(5)
        process.stdout.close()
        os.close(master)
        shutil.rmtree(work, ignore_errors=True)
    figures = {"wall_s": wall_s, "peak_mb": usage.ru_maxrss / 1024}
    if late.is_set() or process.returncode:
        why = (
            f"killed after {contestant.timeout_s:g} s" if late.is_set() else f"exit code {process.returncode}"
        )
        return Run(contestant.name, number, figures, f"{why}\n{_plain(err.text)[-2000:]}")
    if contestant.reports:
        try:
            figures |= json.loads(out.text.strip().splitlines()[-1])
        except (IndexError, ValueError, TypeError):
            return Run(contestant.name, number, figures, f"reported no figures\n{_plain(err.text)[-2000:]}")
    return Run(contestant.name, number, figures)


class _Drain(threading.Thread):
    """Reads a descriptor until its writer is gone; keeps the end of it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(daemon=True)
        self.descriptor, self.content = descriptor, b""
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal open any more
            while some := os.read(self.descriptor, 65536):
                self.content = (self.content + some)[-1_000_000:]

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")


def _plain(terminal: str) -> str:
    """What was written to a terminal, without colours and without lines that were drawn over."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal).replace("\r\n", "\n")
    return "\n".join(line.rsplit("\r", 1)[-1] for line in text.splitlines()).strip()


def once(contestant: Contestant, place: Path) -> dict[str, Any]:
    """The figures of a preparation, which is not measured. Ends the benchmark if it fails."""
    _say(f"preparing: {contestant.name}")
    done = run(contestant, place)
    if done.failure:
        raise SystemExit(f"{contestant.name}: {done.failure}")
    return done.figures


def runs_of(part: str, folder: Path) -> list[Run]:
    """Those that the tables of an earlier run rest on."""
    content = json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))
    return [Run(**each) for each in content["runs"]]


def schedule(
    contestants: Sequence[Contestant], rounds: int, warmup: bool = True
) -> Iterator[tuple[int, Contestant]]:
    """(round, contestant) in the order in which they run; each round starts with the next contestant."""
    first = 0 if warmup else 1
    for number in range(first, rounds + 1):
        turn = (number - first) % len(contestants)
        for contestant in (*contestants[turn:], *contestants[:turn]):
            if contestant.rounds is None or number <= contestant.rounds:
                yield number, contestant


def measure(
    contestants: Sequence[Contestant],
    rounds: int,
    place: Path,
    warmup: bool = True,
    earlier: Sequence[Run] = (),
) -> list[Run]:
    """All runs of all rounds. A contestant that fails does not keep the others from running.

    Args:
        earlier: runs to which these are added; their rounds are counted on.
    """
    machine_facts()  # before this benchmark itself is what the machine is busy with
    runs, before = list(earlier), max((each.round for each in earlier), default=0)
    for number, contestant in schedule(contestants, rounds, warmup):
        done = run(contestant, place, before + number)
        runs.append(done)
        phase = f"round {before + number} of {before + rounds}" if number else "warm-up"
        _say(f"{phase}: {contestant.name}, {done.figures['wall_s']:.1f} s")
        if done.failure:
            _say(f"{contestant.name} FAILED: {done.failure}")
    return runs


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """A folder for caches and files of one part, removed at the end."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        yield Path(folder)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# --- arithmetic ---


def values(runs: Sequence[Run], contestant: str, figure: str) -> dict[int, float]:
    """From counted round to the contestant's figure in it."""
    return {
        each.round: each.figures[figure]
        for each in runs
        if each.contestant == contestant and each.round and not each.failure and figure in each.figures
    }


def paired(runs: Sequence[Run], figure: str, of: str, to: str) -> list[float]:
    """The ratio of two contestants' figures, for each counted round that both took part in."""
    above, below = values(runs, of, figure), values(runs, to, figure)
    return [above[number] / below[number] for number in sorted(above.keys() & below.keys())]


def spread(numbers: Sequence[float]) -> str:
    """`median [least–most]`, three digits, five just below 1; a single number stands alone."""
    if not numbers:
        return "–"
    if len(numbers) == 1:
        return _digits(numbers[0])
    return f"{_digits(statistics.median(numbers))} [{_digits(min(numbers))}–{_digits(max(numbers))}]"


def _digits(number: float) -> str:
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.5g}" if 0.99 < number < 1 else f"{number:.3g}"  # a share of 0.9998 is not all


@dataclass(frozen=True)
class Check:
    """A ratio or figure with its target; the median over the rounds decides.

    Attributes:
        what: what it is, in words.
        values: one number a counted round.
        target: what to reach; None: told only.
        at_least: whether the target is the least (else the most) that counts as reached.
        bound: `<` or `>` where the numbers are only bounds.
    """

    what: str
    values: Sequence[float]
    target: float | None = None
    at_least: bool = True
    bound: str = ""

    @property
    def reached(self) -> bool | None:
        """None: without a target, or not measured."""
        if self.target is None or not self.values:
            return None
        median = statistics.median(self.values)
        return median >= self.target if self.at_least else median <= self.target

    def row(self) -> str:
        """The row of the table of targets."""
        wanted = "" if self.target is None else f"{'≥' if self.at_least else '≤'} {self.target:g}"
        if not self.values:
            return f"| {self.what} | not measured | {wanted} | |"
        verdict = {True: "yes", False: "**no**", None: ""}[self.reached]
        return f"| {self.what} | {self.bound}{spread(self.values)} | {wanted} | {verdict} |"


@dataclass
class Report:
    """The outcome of one part.

    Attributes:
        part: its name, and that of its files.
        title: headline of its table.
        contestants: those that took part, in order.
        runs: all their runs.
        columns: from the head of a column to the figure in it.
        checks: the targets.
        notes: what else a reader has to know.
        quick: whether this was a smoke run.
        table: lines of a further table, above the targets.
    """

    part: str
    title: str
    contestants: Sequence[Contestant]
    runs: list[Run]
    columns: dict[str, str]
    checks: list[Check]
    notes: list[str] = field(default_factory=list)
    quick: bool = False
    table: list[str] = field(default_factory=list)

    def markdown(self, machine: dict[str, Any]) -> str:
        """The tables."""
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        lines = [
            f"# {self.title}",
            "",
            *(["**A smoke run with tiny sizes: none of its figures means anything.**", ""] * self.quick),
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB of memory, "
            f"{', '.join(machine['instructions'])}. GPU: {machine['gpu']}. {versions}. "
            f"Commit {machine['commit']}, {machine['date']}, "
            f"load average at the start {machine['load']:.1f}.",
            "",
            "Median [least–most] over the counted rounds; ratios are taken within a round.",
            "",
            f"| contestant | {' | '.join(self.columns)} | rounds |",
            f"| --- |{' --- |' * (len(self.columns) + 1)}",
        ]
        for contestant in self.contestants:
            own = [each for each in self.runs if each.contestant == contestant.name]
            failed = sum(bool(each.failure) for each in own)
            counted = sum(bool(each.round) and not each.failure for each in own)
            cells = [
                spread(list(values(self.runs, contestant.name, figure).values()))
                for figure in self.columns.values()
            ]
            rounds = f"{counted}{f', {failed} failed' if failed else ''}"
            lines.append(f"| {contestant.name} | {' | '.join(cells)} | {rounds} |")
        if self.table:
            lines += ["", *self.table]
        if self.checks:
            lines += ["", "| ratio or figure | measured | target | reached |", "| --- | --- | --- | --- |"]
            lines += [check.row() for check in self.checks]
        lines += ["", *(f"- {note}" for note in self.notes)]
        for each in self.runs:
            if each.failure:
                lines += ["", f"{each.contestant} failed in round {each.round}:", "", "```"]
                lines += [each.failure[-600:], "```"]
        return "\n".join(lines).rstrip() + "\n"

    def publish(self, folder: Path) -> int:
        """Writes `<part>.md` and `<part>.json`, prints the former. Returns 1 if a contestant failed."""
        machine = machine_facts()
        text = _anywhere(self.markdown(machine))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.part}.md").write_text(text, encoding="utf-8")
        content = {
            "part": self.part,
            "quick": self.quick,
            "machine": machine,
            "contestants": [dataclasses.asdict(each) for each in self.contestants],
            "checks": [{**dataclasses.asdict(each), "reached": each.reached} for each in self.checks],
            "notes": self.notes,
            "runs": [dataclasses.asdict(each) for each in self.runs],
        }
        lines = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (folder / f"{self.part}.json").write_text(_anywhere(lines), encoding="utf-8")
        print(text)
        return int(any(each.failure for each in self.runs))


def _anywhere(text: str) -> str:
    """Without the paths of this machine, which commands have and failures may have."""
    text = re.sub(rf"{re.escape(tempfile.gettempdir())}/{PREFIX}\w+", "PLACE", text)
    return text.replace(sys.executable, "python").replace(str(ROOT), ".")


# --- the machine, the flags ---


@functools.cache
def machine_facts() -> dict[str, Any]:
    """What the figures hold for, as it is at the first call."""
    facts = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE))
    memory = re.search(r"MemTotal:\s+(\d+) kB", _read("/proc/meminfo"))
    gpus = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    flags = set(facts.get("flags", "").split())
    return {
        "cpu": f"{facts.get('model name', platform.machine())} "
        f"(family {facts.get('cpu family', '?')}, model {facts.get('model', '?')})",
        "cores": len(os.sched_getaffinity(0)),
        "instructions": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile"}),
        "memory_gb": int(memory[1]) / 2**20 if memory else 0,
        "gpu": ", ".join(gpus.splitlines()) or "none, everything ran on the CPU",
        "versions": versions,
        "commit": _output("git", "describe", "--always", "--dirty", "--abbrev=12") or "unknown",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load": os.getloadavg()[0],
    }


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text()
    return ""


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def parser(part: str, doc: str | None, rounds: int = 5) -> argparse.ArgumentParser:
    """The flags that all parts know."""
    flags = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{part}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    flags.add_argument("--rounds", type=int, default=rounds, help=f"counted rounds (default {rounds})")
    flags.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these contestants alone")
    flags.add_argument("--quick", action="store_true", help="one round of tiny sizes, to see that it runs")
    flags.add_argument("--results", type=Path, help="folder for the tables (default benchmarks/results)")
    flags.add_argument("--contestant", help=argparse.SUPPRESS)  # a process of the harness itself
    return flags


def settled(args: argparse.Namespace) -> argparse.Namespace:
    """The flags with their consequences: a partial run never overwrites the tables of a whole one."""
    if args.rounds < 1:
        raise SystemExit(f"--rounds is {args.rounds}; expected at least 1.")
    args.rounds = 1 if args.quick else args.rounds
    args.results = args.results or (RESULTS / "partial" if args.quick or args.only else RESULTS)
    return args


def chosen(contestants: Sequence[Contestant], only: Sequence[str]) -> list[Contestant]:
    """Those that `--only` names; all without it."""
    names = [each.name for each in contestants]
    for name in only:
        if name not in names:
            raise SystemExit(f"--only {name}: expected some of {', '.join(names)}.")
    return [each for each in contestants if not only or each.name in only]
