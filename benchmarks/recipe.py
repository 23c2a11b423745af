"""The recipe against what else has been proposed: each lead is `fit` with one thing changed, over seeds.

The scores are those of the validation split at the best epoch, which it also chooses; the test split is not
read. Runs have one thread each and stand side by side: their wall times compare among themselves only.
The table is written anew after each run.

    python -m benchmarks.recipe --rounds 3 || python -m benchmarks.recipe --rounds 3 --more
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from benchmarks import harness
from benchmarks.harness import Check, Contestant, Run, module_contestant
from lit_bert import available_cores

KEPT = "kept"


@dataclass(frozen=True)
class Lead:
    """One thing to change.

    Attributes:
        what: what it is and where it comes from.
        flags: of `fit`.
        callback: name of a class in benchmarks/leads.py, which this process does not import.
    """

    what: str
    flags: tuple[str, ...] = ()
    callback: str | None = None


LOWER = "--model.learning_rate=1.4e-4"  # 0.7 of what MiniLM gets by its size

LEADS = {
    KEPT: Lead("base.yaml as it is"),
    "rate × 0.5": Lead("half of the learning rate", ("--model.learning_rate=1e-4",)),
    "rate × 0.7": Lead("a lower learning rate, which those below have as well", (LOWER,)),
    "rate × 0.7, 4 epochs": Lead("an epoch more", (LOWER, "--trainer.max_epochs=4")),
    "rate × 0.7, batches of 16": Lead("twice the steps", (LOWER, "--data.batch_size=16")),
    "rate × 0.7, agreeing": Lead(
        "the second pass should also agree with the first (Jiang et al., 2020)", (LOWER,), "AgreeingPasses"
    ),
    "rate × 0.7, R-Drop": Lead(
        "two dropout masks that should agree, instead of the second pass (Wu et al., 2021)",
        (LOWER, "--model.adversarial_norm=0"),
        "RDrop",
    ),
    "rate × 0.7, balanced": Lead(
        "loss weighted by one over the root of the class's rows", (LOWER,), "BalancedLoss"
    ),
    "rate × 0.7, robust": Lead(
        "generalized cross-entropy, q = 0.3 (Zhang and Sabuncu, 2018)", (LOWER,), "RobustLoss"
    ),
    "rate × 0.7, mean pooling": Lead(
        "the mean of all tokens instead of [CLS]; other tools could not load it", (LOWER,), "MeanPooling"
    ),
    "rate × 0.7, adapted": Lead(
        "10 epochs of masked-language pretraining on the training texts first (Gururangan et al., 2020)",
        (LOWER,),
        "Adapted",
    ),
    "R-Drop": Lead("the same at the kept rate", ("--model.adversarial_norm=0",), "RDrop"),
    "rate × 1.4": Lead("a higher learning rate", ("--model.learning_rate=2.8e-4",)),
    "layer decay": Lead("rates fall by 0.9 from layer to layer (Howard and Ruder, 2018)", (), "LayerDecay"),
    "no smoothing": Lead("no label smoothing", ("--model.label_smoothing=0",)),
}


# --- the part ---


def main(argv: list[str] | None = None) -> int:
    """Runs the part, or one contestant of it."""
    flags = harness.parser("recipe", __doc__, rounds=3)
    flags.add_argument("--more", action="store_true", help="run only what the table lacks of these rounds")
    args = harness.checked_flags(flags.parse_args(argv))
    if args.contestant:
        return harness.print_figures(contest(args))
    os.environ["OMP_NUM_THREADS"] = "1"
    contestants = harness.selected(line_up(args), args.only)
    runs = harness.runs_of("recipe", args.results) if args.more else []
    there = {(each.round, each.contestant) for each in runs if not each.failure}
    missing = [
        (number, each)
        for number in range(1, args.rounds + 1)
        for each in contestants
        if (number, each.name) not in there
    ]
    harness.machine_facts()  # before this benchmark itself is what the machine is busy with
    code = publish(args, contestants, runs) if runs else 0  # the table lists those chosen
    with harness.scratch_folder() as place, ThreadPoolExecutor(available_cores()) as pool:
        for done in as_completed(pool.submit(harness.run, each, place, number) for number, each in missing):
            runs.append(done.result())
            print(f"{len(runs)} runs", file=sys.stderr, flush=True)
            code = publish(args, contestants, runs)
    return code


def publish(args: argparse.Namespace, contestants: list[Contestant], runs: list[Run]) -> int:
    """Writes the tables of the runs so far."""
    columns = {"micro F1": "val/f1_micro", "macro F1": "val/f1", "loss, nats a text": "val/loss_nats"}
    columns["wall seconds"] = "wall_s"
    notes = [f"{name}: {lead.what}." for name, lead in LEADS.items()] + [
        f"MiniLM on {harness.data_folder().name}; the seed is the number of the round. Points are hundredths "
        "of F1, a lead less the kept recipe of the same seed.",
    ]
    report = harness.Report("recipe", "Leads", contestants, runs, columns, checks(runs), notes, args.quick)
    return report.publish(args.results)


def line_up(args: argparse.Namespace) -> list[Contestant]:
    """The kept recipe and its rivals."""
    quick = ["--quick"] * args.quick
    return [module_contestant("recipe", name, *quick, timeout_s=3 * 3600) for name in LEADS]


def checks(runs: list[Run]) -> list[Check]:
    """What each lead gains, in points of F1."""
    found = []
    for figure, score in (("val/f1_micro", "micro"), ("val/f1", "macro")):
        kept = harness.values(runs, KEPT, figure)
        for name in LEADS:
            own = harness.values(runs, name, figure)
            points = [100 * (own[each] - kept[each]) for each in sorted(own.keys() & kept.keys())]
            if name != KEPT and points:
                found.append(Check(f"{name}: points of {score} F1", points))
    return found


# --- in the contestant's own process ---


def contest(args: argparse.Namespace) -> dict[str, Any]:
    """The validation scores of the best epoch."""
    from benchmarks import leads
    from benchmarks.fit import Best, fit

    lead = LEADS[args.contestant]
    callbacks = [Best]
    if lead.callback:
        callbacks.append(getattr(leads, lead.callback))
    few = ["--data.train_rows=64", "--data.val_rows=32", "--trainer.max_epochs=1"] if args.quick else []
    fit(f"--seed_everything={harness.round_number()}", *lead.flags, *few, callbacks=callbacks)
    return Best.figures


if __name__ == "__main__":
    sys.exit(main())
