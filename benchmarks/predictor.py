"""lit_bert's Predictor beside `transformers.pipeline`, both over the same exported folder.

20,000 texts in file order (training and validation texts, repeated as far as needed) for the Predictor; the
pipeline labels a random 2,000 of them in each round.

    python -m benchmarks.predictor --folder checkpoints/version_0/exported
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Check, Contestant, Run, module_contestant, paired_ratios, since_start
from benchmarks.predict import latency, subset_of, texts_of

PIPELINE, QUICK, EXACT = "pipeline", "Predictor, int8", "Predictor, 32-bit"
FIRST = ", first answer"


def main(argv: list[str] | None = None) -> int:
    """Runs the part, or one contestant of it."""
    flags = harness.parser("predictor", __doc__)
    flags.add_argument(
        "--folder", type=Path, help="an exported folder (default: one epoch of `fit`, exported)"
    )
    flags.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    flags.add_argument("--texts", type=int, default=20_000, help="texts to label (default 20,000)")
    flags.add_argument("--subset", type=int, default=2_000, help="of them in a pipeline's round")
    flags.add_argument("--calls", type=int, default=200, help="single texts for the latency (default 200)")
    args = harness.checked_flags(flags.parse_args(argv))
    if args.contestant:
        return harness.print_figures(WORK[args.contestant.removesuffix(FIRST)](args))
    if args.quick:
        args.texts, args.subset, args.calls = 200, 40, 10
    with harness.scratch_folder() as place:
        contestants = harness.selected(line_up(args, place), args.only)
        prepare(args, place)
        runs = harness.measure(contestants, args.rounds, place)
    notes = [
        f"{args.texts:,} texts of {harness.data_folder().name} for the Predictor; {args.subset:,} of them, "
        "drawn at random, for the pipeline at its defaults, whose rate holds per text.",
        f"Latency: {args.calls} single texts in a running process. Peak memory: of a process that has "
        f"labelled the same {args.subset:,} texts; at the end the Predictor's has labelled all.",
        "First answer: from the start of the process to the label of one text.",
        "Labels: the share of the texts whose label by themselves is their label among all.",
    ]
    columns = {
        "texts/s": "texts_per_s",
        "ms a text, median": "median_ms",
        "ms a text, 99th percentile": "p99_ms",
        "peak memory, MB": "same_mb",
        "… at the end": "peak_mb",
        "seconds to the first answer": "first_s",
    }
    report = harness.Report(
        "predictor", "Predictor", contestants, runs, columns, checks(runs), notes, args.quick
    )
    return report.publish(args.results)


def prepare(args: argparse.Namespace, place: Path) -> None:
    """Puts the folder `exported` and texts.jsonl into `place`."""
    if args.folder:
        (place / "exported").symlink_to(args.folder.resolve())
    flags = ("--place", place, "--texts", args.texts, *["--quick"] * args.quick)
    harness.prepare(module_contestant("predictor", "files", *flags, timeout_s=3600), place)


def line_up(args: argparse.Namespace, place: Path) -> list[Contestant]:
    """All contestants."""
    common = ("--place", place, "--subset", args.subset, "--calls", args.calls)
    names = [PIPELINE, QUICK, EXACT]
    return [module_contestant("predictor", name + what, *common) for what in ("", FIRST) for name in names]


def checks(runs: list[Run]) -> list[Check]:
    """The targets."""

    def ratios(of: str, figure: str, what: str = "") -> list[float]:
        return paired_ratios(runs, figure, of + what, PIPELINE + what)

    found = []
    for name, texts_per_s in ((QUICK, 12), (EXACT, 4)):
        found.append(Check(f"texts/s, {name} to pipeline", ratios(name, "texts_per_s"), texts_per_s))
    for name, goal in ((QUICK, True), (EXACT, False)):
        for figure, what, most in (
            ("median_ms", "ms a text, median", 0.25),
            ("same_mb", "peak memory", 0.25),
        ):
            target = most if goal else None
            found.append(Check(f"{what}, {name} to pipeline", ratios(name, figure), target, at_least=False))
        first = ratios(name, "first_s", FIRST)
        target = 0.2 if goal else None
        found.append(Check(f"seconds to the first answer, {name} to pipeline", first, target, at_least=False))
    same = list(harness.values(runs, QUICK, "same").values())
    return [*found, Check("labels of int8, alone and among all", same)]


# --- in the contestant's own process ---


def files(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the folder `exported` (trained for an epoch, where none is given) and texts.jsonl."""
    from benchmarks import fit, hf

    if not (args.place / "exported").exists():
        fit.exported(args.place / "exported", args.quick)
    texts = [*hf.split("train")["text"], *hf.split("validation")["text"]]
    with (args.place / "texts.jsonl").open("w", encoding="utf-8") as stream:
        for number in range(args.texts):
            stream.write(json.dumps({"text": texts[number % len(texts)]}) + "\n")
    return {}


def pipeline(args: argparse.Namespace) -> dict[str, Any]:
    """At its defaults."""
    import transformers

    pipe = transformers.pipeline("text-classification", model=str(args.place / "exported"))
    if args.contestant.endswith(FIRST):
        pipe("i feel so happy")
        return {"first_s": since_start()}
    texts = subset_of(args)
    start = time.perf_counter()
    pipe(texts)
    seconds = time.perf_counter() - start
    figures = {"texts_per_s": len(texts) / seconds, "same_mb": peak_mb()}
    return {**figures, **latency(args, lambda text: pipe(text)[0]["label"])}


def predictor(args: argparse.Namespace) -> dict[str, Any]:
    """Over all texts, and a hundredth of them alone."""
    from lit_bert import Predictor

    file = "model.int8.onnx" if args.contestant.startswith(QUICK) else "model.onnx"
    own = Predictor(args.place / "exported", file)
    if args.contestant.endswith(FIRST):
        own(["i feel so happy"])
        return {"first_s": since_start()}
    own(subset_of(args))
    same_mb = peak_mb()
    texts = texts_of(args)
    start = time.perf_counter()
    labels = [each.label for each in own(texts)]
    seconds = time.perf_counter() - start
    every = max(1, len(texts) // 1000)
    same = [own([text])[0].label == label for text, label in list(zip(texts, labels, strict=True))[::every]]
    figures = latency(args, lambda text: own([text])[0].label)
    rate = {"texts_per_s": len(texts) / seconds, "same_mb": same_mb}
    return {**rate, "same": sum(same) / len(same), **figures}


def peak_mb() -> float:
    """Of this process so far, resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


WORK = {"files": files, PIPELINE: pipeline, QUICK: predictor, EXACT: predictor}

if __name__ == "__main__":
    sys.exit(main())
