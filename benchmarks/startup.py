"""How long a person waits: whole processes, from their start to their end (or to the first training step).

python -m benchmarks.startup --rounds 5
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Check, Contestant, Run, module_contestant, paired_ratios

LIBRARIES = "import lightning, transformers"


def main(argv: list[str] | None = None) -> int:
    """Runs the part, or one contestant of it."""
    flags = harness.parser("startup", __doc__)
    flags.add_argument("--checkpoint", type=Path, help="checkpoint to predict with (default: one is made)")
    args = harness.checked_flags(flags.parse_args(argv))
    if args.contestant:
        return harness.print_figures(contest(args))
    with harness.scratch_folder() as place:
        contestants = harness.selected(line_up(args.checkpoint or place / "best.ckpt"), args.only)
        if not args.checkpoint and any(each.name == "predict" for each in contestants):
            harness.prepare(
                module_contestant("startup", "checkpoint", "--checkpoint", place / "best.ckpt"), place
            )
        runs = harness.measure(contestants, args.rounds, place, warmup=not args.quick)
    notes = [
        "fit: MiniLM, tokens cached, from the start of the process to the end of the first optimizer step. "
        "predict: one text from a checkpoint of MiniLM.",
        "Files are in the page cache after the warm-up round, for everybody.",
    ]
    columns = {
        "wall seconds": "wall_s",
        "seconds to the first step": "first_step_s",
        "peak memory, MB": "peak_mb",
    }
    report = harness.Report(
        "startup", "Start-up", contestants, runs, columns, checks(runs), notes, args.quick
    )
    return report.publish(args.results)


def line_up(checkpoint: Path) -> list[Contestant]:
    """All contestants."""

    def command(name: str, *arguments: object) -> Contestant:
        return Contestant(name, (sys.executable, *map(str, arguments)), reports=False)

    return [
        command("import torch", "-c", "import torch"),
        command(LIBRARIES, "-c", LIBRARIES),
        command("help", "-m", "lit_bert", "--help"),
        command("fit help", "-m", "lit_bert", "fit", "--help"),
        command("predict", "-m", "lit_bert", "predict", "i feel so happy", "--ckpt_path", checkpoint),
        module_contestant("startup", "fit"),
    ]


def checks(runs: list[Run]) -> list[Check]:
    """The targets."""
    return [
        Check(f"seconds, {of} to {to}", paired_ratios(runs, "wall_s", of, to), target, at_least=False)
        for of, to, target in (
            ("help", "import torch", 0.5),
            ("fit help", LIBRARIES, 1.3),
            ("predict", LIBRARIES, 1.3),
        )
    ]


# --- in the contestant's own process ---


def contest(args: argparse.Namespace) -> dict[str, Any]:
    """`fit`: seconds to the first step. `checkpoint`: trains for two steps and keeps what fit wrote."""
    from benchmarks.fit import FirstStep, checkpoint, fit

    if args.contestant == "fit":
        fit("--trainer.max_steps=1", callbacks=[FirstStep])
        return FirstStep.figures
    checkpoint(args.checkpoint, "--data.train_rows=64", "--data.val_rows=64", "--trainer.max_epochs=1")
    return {}


if __name__ == "__main__":
    sys.exit(main())
