"""How fast an optimizer step is: the Hugging Face Trainer three ways, and lit_bert as `fit` runs it.

Everybody trains the packaged MiniLM on the same rows with the same batch size, maximum length (but for the
tutorial's padding to 512) and optimizer settings. The clock runs from the end of the last warm-up step to the
end of the last step, so that loading, validation and checkpoints are not in it.

    python -m benchmarks.train --rounds 5
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Check, Contestant, Run, module_contestant, paired_ratios
from benchmarks.steps import Shape, StepClock, peak_gflops

LEARNING_RATE = 2e-4
TUTORIAL_STEPS = 1  # a quarter of a minute and more each, and all alike: each text is padded to 512
DEFAULT_STEPS = 50  # half a second and more each


def main(argv: list[str] | None = None) -> int:
    """Runs the part, or one contestant of it."""
    flags = harness.parser("train", __doc__)
    flags.add_argument("--warmup", type=int, default=10, help="steps before the clock starts (default 10)")
    flags.add_argument("--steps", type=int, default=150, help="steps counted (default 150)")
    flags.add_argument("--batch_size", type=int, default=32, help="texts a step (default 32)")
    args = harness.checked_flags(flags.parse_args(argv))
    if args.contestant:
        return harness.print_figures(contest(args))
    if args.quick:
        args.warmup, args.steps, args.batch_size = 1, 2, 8
    with harness.scratch_folder() as place:
        harness.selected(line_up(args), args.only)  # a wrong name shows first
        rows = harness.prepare(module_contestant("train", "rows"), place)["rows"]
        args.steps = min(args.steps, rows // args.batch_size - args.warmup)  # the sample is small
        contestants = harness.selected(line_up(args), args.only)
        runs = harness.measure(contestants, args.rounds, place, warmup=not args.quick)
    add_fractions(runs)
    notes = [
        f"MiniLM on {harness.data_folder().name}, batches of {args.batch_size}, at most 128 tokens "
        f"(tutorial: all padded to 512), AdamW at {LEARNING_RATE:g} with decay 0.01, clipping at 1, linear "
        "warm-up and decay.",
        f"{args.steps} steps counted after {args.warmup} (default: {min(args.steps, DEFAULT_STEPS)}; "
        f"tutorial: {TUTORIAL_STEPS} after 1, as all of its steps cost the same). tutorial and default "
        "compute in 32 bit; best is bf16, group_by_length and fused AdamW; lit_bert is `fit` with logger, "
        "metrics, checkpoints and a progress bar on a terminal.",
        "Real tokens leave padding out. The fraction is of the best bf16 matrix product in the same round, "
        "for 6 operations a token and parameter of the encoder layers, and the attention products: what a "
        "plain implementation computes, whatever a contestant leaves out of it.",
    ]
    columns = {
        "samples/s": "samples_per_s",
        "real tokens/s": "tokens_per_s",
        "fraction of bf16 peak": "fraction",
        "peak memory, MB": "peak_mb",
        "bf16 GFLOP/s": "bfloat16",
        "32-bit GFLOP/s": "float32",
    }
    report = harness.Report(
        "train", "Training speed", contestants, runs, columns, checks(runs), notes, args.quick
    )
    return report.publish(args.results)


def line_up(args: argparse.Namespace) -> list[Contestant]:
    """All contestants."""
    common = ("--batch_size", args.batch_size)
    counted = ("--warmup", args.warmup, "--steps", args.steps, *common)
    fewer = ("--warmup", args.warmup, "--steps", min(args.steps, DEFAULT_STEPS), *common)
    return [
        module_contestant("train", "tutorial", "--warmup", 1, "--steps", TUTORIAL_STEPS, *common),
        module_contestant("train", "default", *fewer),
        module_contestant("train", "best", *counted),
        module_contestant("train", "lit_bert", *counted),
        module_contestant("train", "peak"),
    ]


def add_fractions(runs: list[Run]) -> None:
    """Adds the fraction of the bf16 peak of the same round to each trainer's figures."""
    peaks = harness.values(runs, "peak", "bfloat16")
    for run in runs:
        if run.round in peaks and "gflops_per_s" in run.figures:
            run.figures["fraction"] = run.figures["gflops_per_s"] / peaks[run.round]


def checks(runs: list[Run]) -> list[Check]:
    """The targets."""
    fractions = list(harness.values(runs, "lit_bert", "fraction").values())
    ratios = {"tutorial": 170, "default": 5, "best": 1.3}
    return [
        *(
            Check(
                f"samples/s, lit_bert to {other}",
                paired_ratios(runs, "samples_per_s", "lit_bert", other),
                target,
            )
            for other, target in ratios.items()
        ),
        Check("lit_bert's fraction of the bf16 peak", fractions, 0.55),
    ]


# --- in the contestant's own process ---


def contest(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one contestant."""
    if args.contestant == "peak":
        return {dtype: peak_gflops(dtype) for dtype in ("bfloat16", "float32")}
    if args.contestant == "rows":
        from benchmarks import hf

        return {"rows": len(hf.split("train"))}
    clock = StepClock(args.warmup, args.steps)
    train = train_lit_bert if args.contestant == "lit_bert" else train_hugging_face
    return clock.figures(train(args, clock))


def train_lit_bert(args: argparse.Namespace, clock: StepClock) -> Shape:
    """`fit`, timed."""
    from benchmarks.fit import Clock, fit
    from lit_bert.sources.weights import MINILM, Weights

    Clock.clock = clock
    fit(*fit_flags(args), callbacks=[Clock])
    return Shape.of(Weights(MINILM).folder)


def fit_flags(args: argparse.Namespace) -> list[str]:
    """The settings that everybody shares, as flags of `fit`; the rest is its default."""
    return [
        f"--data.train_rows={(args.warmup + args.steps) * args.batch_size}",
        "--data.val_rows=64",  # after the clock
        f"--data.batch_size={args.batch_size}",
        "--data.max_length=128",
        f"--model.learning_rate={LEARNING_RATE}",
        "--model.weight_decay=0.01",
        "--model.warmup_ratio=0.1",
        "--model.adversarial_norm=0",  # one pass a step, as in the first epoch of a fit
        "--trainer.gradient_clip_val=1.0",
        "--trainer.max_epochs=1",
        "--seed_everything=0",
    ]


def train_hugging_face(args: argparse.Namespace, clock: StepClock) -> Shape:
    """The Trainer as the contestant uses it, timed."""
    from benchmarks import hf

    trainer_of(args, args.contestant, clock, hf.weights_folder()).train()
    return Shape.of(hf.weights_folder())


def trainer_of(args: argparse.Namespace, variant: str, clock: StepClock, weights: Path) -> Any:
    """A Trainer with the settings that everybody shares, ready to train the weights of a folder."""
    from benchmarks import hf

    return hf.trainer(
        variant,
        (args.warmup + args.steps) * args.batch_size,
        clock,
        weights=weights,
        per_device_train_batch_size=args.batch_size,
        learning_rate=LEARNING_RATE,
        weight_decay=0.01,
        max_grad_norm=1.0,
        warmup_steps=0.1,  # below 1 it is a share of all steps
        num_train_epochs=1,
        seed=0,
    )


if __name__ == "__main__":
    sys.exit(main())
