"""Labelling text: `transformers.pipeline` three ways, and lit_bert `predict`, with the same weights.

20,000 texts in file order (training and validation texts, repeated as far as needed) for lit_bert; the
pipelines label a random 2,000 of them in each round, and the default one all of them once, to compare labels.

    python -m benchmarks.predict --checkpoint checkpoints/version_0/best.ckpt
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Check, Contestant, Run, module_contestant, paired_ratios

PROBED = (8, 16, 32, 64)  # batch sizes
LATENCY_TEXTS = 100


def main(argv: list[str] | None = None) -> int:
    """Runs the part, or one contestant of it."""
    flags = harness.parser("predict", __doc__)
    flags.add_argument("--checkpoint", type=Path, help="a fine-tuned MiniLM (default: one epoch of `fit`)")
    flags.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    flags.add_argument("--texts", type=int, default=20_000, help="texts to label (default 20,000)")
    flags.add_argument("--subset", type=int, default=2_000, help="of them in a pipeline's round")
    flags.add_argument("--calls", type=int, default=200, help="single texts for the latency (default 200)")
    flags.add_argument("--batch_size", type=int, default=1, help=argparse.SUPPRESS)
    args = harness.checked_flags(flags.parse_args(argv))
    if args.contestant:
        return harness.print_figures(WORK[args.contestant](args))
    if args.quick:
        args.texts, args.subset, args.calls = 200, 40, 10
    with harness.scratch_folder() as place:
        harness.selected(line_up(args, place, 1), args.only)  # a wrong name shows before minutes of preparing
        best = prepare(args, place)
        contestants = harness.selected(line_up(args, place, best), args.only)
        runs = harness.measure(contestants, args.rounds, place)
        agreement = same_labels(place)
    add_rates(runs, args.texts)
    notes = [
        f"{args.texts:,} texts of {harness.data_folder().name} for lit_bert and `pipeline, all`; a random "
        f"{args.subset:,} of them for the other pipelines, whose rate holds per text.",
        f"pipeline: batch size 1, its default; pipeline-best: batch size {best}, the fastest of "
        f"{', '.join(map(str, PROBED))} in a short probe; pipeline-sorted: by length, batch size 64.",
        "Labels are compared over all texts, with the last round of lit_bert.",
        "texts/s is the labelling alone: the call of the pipeline; for lit_bert the whole `predict` less one "
        "for a single text. With start-up: whole processes for all texts (a pipeline's from its rate).",
        f"Latency: {args.calls} single texts in a running process, through BertClassifier for lit_bert.",
    ]
    columns = {
        "texts/s": "texts_per_s",
        "texts/s with start-up": "whole_texts_per_s",
        "ms a text, median": "median_ms",
        "ms a text, 99th percentile": "p99_ms",
        "peak memory, MB": "peak_mb",
    }
    report = harness.Report(
        "predict", "Prediction", contestants, runs, columns, checks(runs, agreement), notes, args.quick
    )
    return report.publish(args.results)


def prepare(args: argparse.Namespace, place: Path) -> int:
    """Puts checkpoint, exported folder and texts into `place`. Returns the pipeline's best batch size."""
    common = ("--place", place, "--texts", args.texts, "--subset", args.subset, *["--quick"] * args.quick)
    given = ("--checkpoint", args.checkpoint.resolve()) if args.checkpoint else ()
    harness.prepare(module_contestant("predict", "files", *common, *given, timeout_s=3600), place)
    rates = harness.prepare(module_contestant("predict", "probe", *common), place)
    return int(max(rates.keys() - {"wall_s", "peak_mb"}, key=lambda size: rates[size]))


def line_up(args: argparse.Namespace, place: Path, best: int) -> list[Contestant]:
    """All contestants."""
    common = ("--place", place, "--subset", args.subset, "--calls", args.calls)
    predict = (sys.executable, "-m", "lit_bert", "predict")
    last = ("--ckpt_path", str(place / "best.ckpt"))
    files = ("--input", str(place / "texts.jsonl"), "--output", str(place / "lit_bert.csv"))
    return [
        module_contestant("predict", "pipeline, all", *common, rounds=0, timeout_s=3600),
        module_contestant("predict", "pipeline", *common),
        module_contestant("predict", "pipeline-best", *common, "--batch_size", best),
        module_contestant("predict", "pipeline-sorted", *common, "--batch_size", 64),
        Contestant("lit_bert", (*predict, *files, *last), reports=False),
        Contestant("lit_bert, one text", (*predict, "i feel so happy", *last), reports=False),
        module_contestant("predict", "pipeline, latency", *common),
        module_contestant("predict", "lit_bert, latency", *common),
    ]


def add_rates(runs: list[Run], texts: int) -> None:
    """Adds the rates that follow from whole processes."""
    single = {each.round: each.figures["wall_s"] for each in runs if each.contestant == "lit_bert, one text"}
    for run in runs:
        figures = run.figures
        if run.contestant == "lit_bert" and run.round in single:
            figures["texts_per_s"] = (texts - 1) / (figures["wall_s"] - single[run.round])
            figures["whole_texts_per_s"] = texts / figures["wall_s"]
        elif "call_s" in figures:
            start_s = figures["wall_s"] - figures["call_s"]
            figures["whole_texts_per_s"] = texts / (start_s + texts / figures["texts_per_s"])


def same_labels(place: Path) -> list[float]:
    """The share of rows on which `predict` and the pipeline agree; empty where one of them did not run."""
    theirs, ours = place / "pipeline.json", place / "lit_bert.csv"
    if not (theirs.is_file() and ours.is_file()):
        return []
    with ours.open(newline="", encoding="utf-8") as stream:
        labels = [row["predicted_label"] for row in csv.DictReader(stream)]
    pairs = list(zip(labels, json.loads(theirs.read_text(encoding="utf-8")), strict=True))
    return [sum(own == other for own, other in pairs) / len(pairs)]


def checks(runs: list[Run], agreement: list[float]) -> list[Check]:
    """The targets."""
    found = [
        Check(f"texts/s, lit_bert to {other}", paired_ratios(runs, "texts_per_s", "lit_bert", other), target)
        for other, target in (("pipeline", 5), ("pipeline-best", 2), ("pipeline-sorted", None))
    ]
    found.append(Check("rows with the label of the pipeline", agreement, 0.999))
    latencies = ("lit_bert, latency", "pipeline, latency")
    for figure, what in (("median_ms", "median"), ("p99_ms", "99th percentile")):
        found.append(
            Check(f"ms a text, {what}, lit_bert to pipeline", paired_ratios(runs, figure, *latencies))
        )
    return found


# --- in the contestant's own process ---


def files(args: argparse.Namespace) -> dict[str, Any]:
    """Writes best.ckpt (trained for an epoch where none is given), the folder `model`, and texts.jsonl."""
    import shutil

    from benchmarks import fit, hf
    from lit_bert.model.pretrained import load_network
    from lit_bert.sources.checkpoint import Checkpoint
    from lit_bert.sources.weights import Weights

    target = args.place / "best.ckpt"
    if args.checkpoint:
        shutil.copy(args.checkpoint, target)
    else:
        few = ["--data.train_rows=64", "--data.val_rows=64"] if args.quick else []
        fit.checkpoint(target, "--trainer.max_epochs=1", *few)
    checkpoint = Checkpoint.open(target)
    folder = args.place / "model"
    load_network(Weights(checkpoint=str(target)), checkpoint.model.label_names).save_pretrained(folder)
    for name, content in checkpoint.tokenizer.items():
        (folder / name).write_text(content, encoding="utf-8")
    texts = [*hf.split("train")["text"], *hf.split("validation")["text"]]
    with (args.place / "texts.jsonl").open("w", encoding="utf-8") as stream:
        for number in range(args.texts):
            stream.write(json.dumps({"text": texts[number % len(texts)]}) + "\n")
    return {}


def probe(args: argparse.Namespace) -> dict[str, Any]:
    """Texts/s of the pipeline by batch size."""
    texts, pipe = subset_of(args)[:640], _pipeline(args)
    pipe(texts[:64])
    rates = {}
    for size in PROBED:
        start = time.perf_counter()
        pipe(texts, batch_size=size)
        rates[str(size)] = len(texts) / (time.perf_counter() - start)
    return rates


def pipeline_all(args: argparse.Namespace) -> dict[str, Any]:
    """The pipeline's label of every text, kept in pipeline.json."""
    texts, pipe = texts_of(args), _pipeline(args)
    labels = [each["label"] for each in pipe(texts)]
    (args.place / "pipeline.json").write_text(json.dumps(labels), encoding="utf-8")
    return {}


def pipeline(args: argparse.Namespace) -> dict[str, Any]:
    """The pipeline over the subset, called once with all of it."""
    texts, pipe = subset_of(args), _pipeline(args)
    start = time.perf_counter()
    if args.contestant == "pipeline-sorted":
        texts = sorted(texts, key=len, reverse=True)
    pipe(texts, batch_size=args.batch_size)
    seconds = time.perf_counter() - start
    return {"call_s": seconds, "texts_per_s": len(texts) / seconds}


def pipeline_latency(args: argparse.Namespace) -> dict[str, Any]:
    """One text a call."""
    pipe = _pipeline(args)
    return latency(args, lambda text: pipe(text)[0]["label"])


def lit_bert_latency(args: argparse.Namespace) -> dict[str, Any]:
    """One text a call, through what lit_bert offers in Python."""
    import torch

    from lit_bert import BertClassifier

    model = BertClassifier.load_from_checkpoint(args.place / "best.ckpt", map_location="cpu").eval()
    tokenizer, names = model.weights.tokenizer(128), model.hparams.label_names

    @torch.inference_mode()
    def label(text: str) -> str:
        ids = torch.tensor([tokenizer.encode(text).ids])
        return names[int(model(ids, torch.ones_like(ids)).argmax())]

    return latency(args, label)


def latency(args: argparse.Namespace, label: Callable[[str], str]) -> dict[str, float]:
    texts = subset_of(args)[:LATENCY_TEXTS]
    for text in texts[:10]:
        label(text)
    times = []
    for number in range(args.calls):
        start = time.perf_counter()
        label(texts[number % len(texts)])
        times.append((time.perf_counter() - start) * 1000)
    times.sort()
    return {"median_ms": times[len(times) // 2], "p99_ms": times[round(0.99 * (len(times) - 1))]}


def texts_of(args: argparse.Namespace) -> list[str]:
    with (args.place / "texts.jsonl").open(encoding="utf-8") as stream:
        return [json.loads(line)["text"] for line in stream]


def subset_of(args: argparse.Namespace) -> list[str]:
    """Some of the texts; the others are not in memory, which is measured."""
    with (args.place / "texts.jsonl").open(encoding="utf-8") as stream:
        numbers = random.Random(0).sample(range(sum(1 for _ in stream)), args.subset)
        stream.seek(0)
        wanted = set(numbers)
        kept = {number: json.loads(line)["text"] for number, line in enumerate(stream) if number in wanted}
    return [kept[number] for number in numbers]


def _pipeline(args: argparse.Namespace) -> Any:
    import transformers

    return transformers.pipeline("text-classification", model=str(args.place / "model"))


WORK = {
    "files": files,
    "probe": probe,
    "pipeline, all": pipeline_all,
    "pipeline": pipeline,
    "pipeline-best": pipeline,
    "pipeline-sorted": pipeline,
    "pipeline, latency": pipeline_latency,
    "lit_bert, latency": lit_bert_latency,
}

if __name__ == "__main__":
    sys.exit(main())
