"""What the runs of a part come to: medians and ranges, targets, the tables in Markdown and JSON.

python -m benchmarks.startup --rounds 1 --only help
"""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, machine_facts

PREFIX = "lit_bert-bench-"  # of the folder of one part


# --- runs ---


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
        figures: `wall_s`, `cpu_s` (user and system) and `peak_mb` (resident memory) of the process, and
            what it reported itself.
        failure: exit code or timeout, and the end of its standard error; None if all went well.
    """

    contestant: str
    round: int
    figures: dict[str, Any]
    failure: str | None = None


def runs_of(part: str, folder: Path) -> list[Run]:
    """Those that the tables of an earlier run rest on."""
    content = json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))
    return [Run(**each) for each in content["runs"]]


# --- arithmetic ---


def values(runs: Sequence[Run], contestant: str, figure: str) -> dict[int, float]:
    """From counted round to the contestant's figure in it."""
    return {
        each.round: each.figures[figure]
        for each in runs
        if each.contestant == contestant and each.round and not each.failure and figure in each.figures
    }


def paired_ratios(runs: Sequence[Run], figure: str, of: str, to: str) -> list[float]:
    """The ratio of two contestants' figures, for each counted round that both took part in."""
    above, below = values(runs, of, figure), values(runs, to, figure)
    return [above[number] / below[number] for number in sorted(above.keys() & below.keys())]


def median_and_range(numbers: Sequence[float]) -> str:
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
        return f"| {self.what} | {self.bound}{median_and_range(self.values)} | {wanted} | {verdict} |"


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
                median_and_range(list(values(self.runs, contestant.name, figure).values()))
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
