"""Time to quality: seconds from a cold start until a validation micro F1 of 0.925 is first seen.

The clock starts with the process: imports, tokenizing and loading are in it, and token caches are empty.
Everybody validates four times an epoch. The Trainer runs 3 epochs, its default; lit_bert is what base.yaml
says. Each round has a seed of its own. What is slow runs in the first one only, and the Trainer at its
default learning rate only for as long as it could still be the better one.

    python -m benchmarks.quality --only lit_bert "best@1e-4"
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import shlex
import sys
from typing import Any

from benchmarks import harness
from benchmarks.harness import Check, Contestant, Run, module_contestant

RATES = ("1e-4", "5e-5")  # the better one for a model of this size, and the Trainer's default
TARGETS = {"default": 1 / 10, "best": 1 / 3}


def main(argv: list[str] | None = None) -> int:
    """Runs the part, or one contestant of it."""
    flags = harness.parser("quality", __doc__, rounds=3)
    flags.add_argument("--threshold", type=float, default=0.925, help="micro F1 to reach (default 0.925)")
    flags.add_argument("--limit_s", type=float, default=math.inf, help=argparse.SUPPRESS)
    flags.add_argument("--fit_flags", default="", help="more flags of lit_bert fit, in one string")
    args = harness.checked_flags(flags.parse_args(argv))
    if args.contestant:
        return harness.print_figures(contest(args))
    with harness.scratch_folder() as place:
        contestants = harness.selected(line_up(args), args.only)
        first = [each for each in contestants if not each.name.endswith(RATES[1])]
        runs = harness.measure(first, args.rounds, place, warmup=False) if first else []
        for each in contestants:
            if each not in first:
                runs += harness.measure([limited(each, runs)], args.rounds, place, warmup=False)
    for run in runs:
        if "reached_s" not in run.figures:
            run.figures["not_reached_s"] = run.figures["wall_s"]
    extra = f" with `{args.fit_flags}`" if args.fit_flags else " as base.yaml is"
    notes = [
        f"MiniLM on {harness.data_folder().name}, batches of 32, validation four times an epoch; what is not "
        "named here is at the Trainer's own default (3 epochs, no warm-up, no decay). "
        f"The threshold is {args.threshold:g}. lit_bert runs{extra}, its patience counted in these "
        "validations.",
        "The seed is the number of the round. Fewer rounds than in other parts, and no warm-up round: each "
        "process starts cold, and the slow ones take a quarter of an hour and more.",
        f"At {RATES[1]} the Trainer is stopped when it has taken longer than at {RATES[0]}. Where neither "
        "got there, the total time is compared, which makes the ratio a bound (<).",
    ]
    columns = {
        "seconds to the threshold": "reached_s",
        "seconds in all, not reached": "not_reached_s",
        "best micro F1 seen": "best",
        "peak memory, MB": "peak_mb",
    }
    report = harness.Report(
        "quality", "Time to quality", contestants, runs, columns, checks(runs), notes, args.quick
    )
    return report.publish(args.results)


def line_up(args: argparse.Namespace) -> list[Contestant]:
    """All contestants; the names of the Trainer's hold their learning rate."""
    flags: list[object] = ["--threshold", args.threshold]
    flags += [f"--fit_flags={args.fit_flags}", *["--quick"] * args.quick]
    names = ["lit_bert", *(f"{variant}@{rate}" for rate in RATES for variant in TARGETS)]
    return [
        module_contestant(
            "quality",
            name,
            *flags,
            cold=True,
            timeout_s=3 * 3600,
            rounds=None if name in ("lit_bert", f"best@{RATES[0]}") else 1,
        )
        for name in names
    ]


def limited(contestant: Contestant, runs: list[Run]) -> Contestant:
    """The contestant, told to stop when the other learning rate of its variant would have been there."""
    other = f"{contestant.name.split('@')[0]}@{RATES[0]}"
    times = harness.values(runs, other, "reached_s").values()
    limit = ("--limit_s", str(max(times))) if times else ()
    return dataclasses.replace(contestant, command=(*contestant.command, *limit))


def checks(runs: list[Run]) -> list[Check]:
    """lit_bert's time to that of each variant at the better of its learning rates in the same round."""
    own = harness.values(runs, "lit_bert", "reached_s")
    found = []
    for variant, target in TARGETS.items():
        names = [f"{variant}@{rate}" for rate in RATES]
        reached = [harness.values(runs, name, "reached_s") for name in names]
        ended = [harness.values(runs, name, "not_reached_s") for name in names]
        ratios, bound = [], ""
        for number, seconds in own.items():
            times = [each[number] for each in reached if number in each]
            if not times:
                times = [each[number] for each in ended if number in each]
                bound = "<" if times else bound
            ratios += [seconds / min(times)] if times else []
        what = f"seconds, lit_bert to {variant} at its better learning rate"
        found.append(Check(what, ratios, target, at_least=False, bound=bound))
    return found


# --- in the contestant's own process ---


def contest(args: argparse.Namespace) -> dict[str, Any]:
    """When the threshold was reached (`reached_s`, absent if it never was), and the best score seen."""
    return _lit_bert(args) if args.contestant == "lit_bert" else _hugging_face(args)


def _lit_bert(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.fit import Until, fit

    Until.threshold = args.threshold
    flags = ["--trainer.val_check_interval=0.25", "--early_stopping.patience=8"]
    if args.quick:
        flags += ["--data.train_rows=64", "--data.val_rows=32", "--data.batch_size=8"]
        flags += ["--trainer.max_epochs=1"]
    flags += [f"--seed_everything={harness.round_number()}", *shlex.split(args.fit_flags)]
    fit(*flags, callbacks=[Until])
    return Until.figures


def _hugging_face(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import hf

    variant, rate = args.contestant.split("@")
    until = hf.Until(args.threshold, args.limit_s)
    rows = 64 if args.quick else None
    settings: dict[str, Any] = {"per_device_eval_batch_size": 64} if variant == "best" else {}
    hf.trainer(
        variant,
        rows,
        evaluate=True,
        callbacks=(until,),
        per_device_train_batch_size=8 if args.quick else 32,
        learning_rate=float(rate),
        num_train_epochs=1 if args.quick else 3,
        eval_strategy="steps",
        eval_steps=1 / 4 / (1 if args.quick else 3),  # below 1 it is a share of all steps
        seed=harness.round_number(),
        **settings,
    ).train()
    return until.figures


if __name__ == "__main__":
    sys.exit(main())
