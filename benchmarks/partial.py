"""Training a part of the weights: samples/s and peak memory of LoRA and of frozen layers beside all of them.

MiniLM as it is packaged, and a BERT of 12 layers of 768 with random values, as speed does not depend on what
was learned. There is no second pass: with it the backward pass goes down to the word embeddings.

    python -m benchmarks.partial --rounds 3
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Contestant, Run, module_contestant, paired_ratios

PARTS = {
    "full": [],
    "lora": ["--model.lora.rank=8"],
    "lora_all": ["--model.lora.rank=8", "--model.lora.targets=all"],
    "half": [],  # `layers:N` of half of the layers
    "frozen": ["--model.freeze=all"],
}
KEYS = ("samples_per_s", "peak_mb")
NETWORKS = {"minilm": (6, 384), "base": (12, 768)}  # layers, hidden size


def main(argv: list[str] | None = None) -> int:
    """Runs the part, or one contestant of it."""
    flags = harness.parser("partial", __doc__, rounds=3)
    flags.add_argument("--warmup", type=int, default=5, help="steps before the clock starts (default 5)")
    flags.add_argument("--steps", type=int, default=40, help="steps counted (default 40)")
    flags.add_argument("--batch_size", type=int, default=32, help="texts a step (default 32)")
    args = harness.checked_flags(flags.parse_args(argv))
    if args.contestant:
        return harness.print_figures(contest(args))
    if args.quick:
        args.warmup, args.steps, args.batch_size = 1, 2, 8
    contestants = harness.selected(line_up(args), args.only)
    with harness.scratch_folder() as place:
        runs = harness.measure(contestants, args.rounds, place, warmup=not args.quick)
    notes = [
        f"On {harness.data_folder().name}, batches of {args.batch_size}, {args.steps} steps counted after "
        f"{args.warmup}, without the second pass. lora is of rank 8 on queries and values, lora_all on every "
        "linear layer; half freezes the embeddings and the lower half of the layers; frozen, all below the "
        "head.",
    ]
    columns = {"samples/s": "samples_per_s", "peak memory, MB": "peak_mb"}
    report = harness.Report(
        "partial", "Training a part", contestants, runs, columns, [], notes, args.quick, table(runs)
    )
    return report.publish(args.results)


def line_up(args: argparse.Namespace) -> list[Contestant]:
    """All contestants."""
    sizes = [
        each for name in ("warmup", "steps", "batch_size") for each in (f"--{name}", getattr(args, name))
    ]
    return [module_contestant("partial", f"{name} {part}", *sizes) for name in NETWORKS for part in PARTS]


def table(runs: list[Run]) -> list[str]:
    """One row a network and part: its figures as ratios to training all of that network."""
    lines = [
        "| network | trained part | samples/s to training all | peak memory to training all |",
        "| --- | --- | --- | --- |",
    ]
    for name in NETWORKS:
        for part in list(PARTS)[1:]:
            pair = f"{name} {part}", f"{name} full"
            cells = [harness.median_and_range(paired_ratios(runs, key, *pair)) for key in KEYS]
            lines.append(f"| {name} | {part} | {' | '.join(cells)} |")
    return lines


# --- in the contestant's own process ---


def contest(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one contestant."""
    from benchmarks.encoders import folder, shape
    from benchmarks.fit import Clock, fit
    from benchmarks.steps import StepClock
    from benchmarks.train import fit_flags
    from lit_bert.sources.weights import MINILM

    name, part = args.contestant.split()
    args.layers, args.hidden = NETWORKS[name]
    weights: Path | str = MINILM if name == "minilm" else folder("bert", args)
    flags = [f"--model.freeze=layers:{args.layers // 2}"] if part == "half" else PARTS[part]
    clock = StepClock(args.warmup, args.steps)
    Clock.clock = clock
    fit(*fit_flags(args), f"--weights.pretrained={weights}", *flags, callbacks=[Clock])
    figures = clock.figures(shape(args))
    return {"samples_per_s": figures["samples_per_s"]}  # its operations are those of all weights


if __name__ == "__main__":
    sys.exit(main())
