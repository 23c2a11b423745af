"""Whether speed costs quality: `fit` as it runs, and the same recipe in plain operations, over several seeds.

Plain is the forward pass of transformers under autocast and torch's own fused AdamW, with everything else of
`fit` around them, but for its second pass at perturbed word embeddings. The scores are those of the
validation split at the best epoch, which it also chooses.

    python -m benchmarks.seeds --rounds 3 && python -m benchmarks.seeds --rounds 3 --more
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from benchmarks import harness
from benchmarks.harness import Check, Contestant, Run, module_contestant

MAX_POINTS = 0.2  # of F1 that speed may cost


def main(argv: list[str] | None = None) -> int:
    """Runs the part, or one contestant of it."""
    args = harness.checked_flags(harness.parser("seeds", __doc__, rounds=3, more=True).parse_args(argv))
    if args.contestant:
        return harness.print_figures(contest(args))
    with harness.scratch_folder() as place:
        contestants = harness.selected(line_up(args), args.only)
        earlier = harness.runs_of("seeds", args.results) if args.more else []
        runs = harness.measure(contestants, args.rounds, place, warmup=False, earlier=earlier)
    notes = [
        f"MiniLM on {harness.data_folder().name}, base.yaml with one pass a step; the seed is the number of "
        "the round. plain: the same, computed by transformers and torch.optim.AdamW.",
        "Points are hundredths of F1, in favour of lit_bert; differences are taken within a seed. Two runs "
        "of different random numbers differ as well: both draw their own dropout masks.",
    ]
    if earlier:
        notes.append(f"The first {earlier[-1].round} rounds ran before, at an earlier commit.")
    columns = {
        "micro F1": "val/f1_micro",
        "macro F1": "val/f1",
        "loss, nats a text": "val/loss_nats",
        "wall seconds": "wall_s",
    }
    report = harness.Report(
        "seeds", "Quality over seeds", contestants, runs, columns, checks(runs), notes, args.quick
    )
    return report.publish(args.results)


def line_up(args: argparse.Namespace) -> list[Contestant]:
    """Both contestants."""
    quick = ["--quick"] * args.quick
    return [module_contestant("seeds", name, *quick, timeout_s=3600) for name in ("lit_bert", "plain")]


def checks(runs: list[Run]) -> list[Check]:
    """What speed costs, in points of F1."""
    found = []
    for figure, name in (("val/f1_micro", "micro"), ("val/f1", "macro")):
        own, plain = (harness.values(runs, each, figure) for each in ("lit_bert", "plain"))
        points = [100 * (own[each] - plain[each]) for each in sorted(own.keys() & plain.keys())]
        found.append(Check(f"points of {name} F1, lit_bert less plain", points, -MAX_POINTS))
    return found


# --- in the contestant's own process ---


def contest(args: argparse.Namespace) -> dict[str, Any]:
    """The validation scores of the best epoch."""
    from benchmarks.fit import Best, fit
    from benchmarks.leads import PlainOperations

    callbacks = [Best, PlainOperations] if args.contestant == "plain" else [Best]
    few = ["--data.train_rows=64", "--data.val_rows=32", "--trainer.max_epochs=1"] if args.quick else []
    one_pass = "--model.adversarial_norm=0"  # a second is the same for both
    fit(f"--seed_everything={harness.round_number()}", one_pass, *few, callbacks=callbacks)
    return Best.figures


if __name__ == "__main__":
    sys.exit(main())
