"""What every part shares: contestants as processes, alternating rounds, the flags.

What the runs come to is in report.py, whose names are offered here as well: a part needs one import.

A contestant is a command. It runs in a process and an empty working directory of its own, offline, with
standard error on a pseudo-terminal, so that progress bars are drawn as they are for a person. Round 0 warms
up and is not counted. This process stays small, without numpy and torch: on Linux the peak memory of a
process starts from that of the process which started it.

    python -m benchmarks.startup --rounds 5 --only "import torch" help
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, machine_facts
from benchmarks.report import (
    PREFIX,
    Check,
    Contestant,
    Report,
    Run,
    median_and_range,
    paired_ratios,
    runs_of,
    values,
)

__all__ = [
    "Check",
    "Contestant",
    "Report",
    "Run",
    "checked_flags",
    "data_folder",
    "machine_facts",
    "measure",
    "median_and_range",
    "module_contestant",
    "paired_ratios",
    "parser",
    "prepare",
    "print_figures",
    "round_number",
    "run",
    "runs_of",
    "schedule",
    "scratch_folder",
    "selected",
    "since_start",
    "values",
]

RESULTS = ROOT / "benchmarks" / "results"
STARTED = "LIT_BERT_BENCH_STARTED"  # time.time() at which the harness started the process
ROUND = "LIT_BERT_BENCH_ROUND"  # its number; 0 warms up


# --- contestants ---


def module_contestant(part: str, name: str, *arguments: object, **settings: Any) -> Contestant:
    """A contestant that is a function of `benchmarks.<part>`, in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{part}", "--contestant", name, *map(str, arguments)]
    return Contestant(name, tuple(command), **settings)


def print_figures(figures: dict[str, Any]) -> int:
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
    figures = {
        "wall_s": wall_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
    }
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


def prepare(contestant: Contestant, place: Path) -> dict[str, Any]:
    """The figures of a preparation, which is not measured. Ends the benchmark if it fails."""
    _say(f"preparing: {contestant.name}")
    done = run(contestant, place)
    if done.failure:
        raise SystemExit(f"{contestant.name}: {done.failure}")
    return done.figures


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
def scratch_folder() -> Iterator[Path]:
    """A folder for caches and files of one part, removed at the end."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        yield Path(folder)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# --- flags ---


def parser(part: str, doc: str | None, rounds: int = 5, more: bool = False) -> argparse.ArgumentParser:
    """The flags that all parts know.

    Args:
        more: whether rounds can be added to those of a table.
    """
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
    if more:
        flags.add_argument(
            "--more", action="store_true", help="add rounds to those of the table, with other rows and seeds"
        )
    return flags


def checked_flags(args: argparse.Namespace) -> argparse.Namespace:
    """The flags with their consequences: a partial run never overwrites the tables of a whole one."""
    if args.rounds < 1:
        raise SystemExit(f"--rounds is {args.rounds}; expected at least 1.")
    args.rounds = 1 if args.quick else args.rounds
    args.results = args.results or (RESULTS / "partial" if args.quick or args.only else RESULTS)
    return args


def selected(contestants: Sequence[Contestant], only: Sequence[str]) -> list[Contestant]:
    """Those that `--only` names; all without it."""
    names = [each.name for each in contestants]
    for name in only:
        if name not in names:
            raise SystemExit(f"--only {name}: expected some of {', '.join(names)}.")
    return [each for each in contestants if not only or each.name in only]
