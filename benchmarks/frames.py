"""Labelling a frame in Python: `TextClassifier.predict` beside the verb `predict` on files of the same rows.

100,000 texts, none twice: those of the packaged sample, each with two words of random letters behind it.

    python -m benchmarks.frames
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import string
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Check, Contestant, Run, module_contestant, paired_ratios

SAMPLE = Path(__file__).parent.parent / "lit_bert" / "data" / "sample"
FILES = ("csv", "parquet")
FRAMES = ("pandas", *["polars"] * bool(find_spec("polars")), "arrow", "list")
ONE = "predict, one text"
TARGET = 0.9  # of the rate of the verb


def main(argv: list[str] | None = None) -> int:
    """Runs the part, or one contestant of it."""
    flags = harness.parser("frames", __doc__, rounds=3)
    flags.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    flags.add_argument("--texts", type=int, default=100_000, help="texts to label (default 100,000)")
    args = harness.checked_flags(flags.parse_args(argv))
    if args.contestant:
        return harness.print_figures(files(args) if args.contestant == "files" else predict(args))
    if args.quick:
        args.texts = 200
    with harness.scratch_folder() as place:
        contestants = harness.selected(line_up(place), args.only)
        quick = ["--quick"] * args.quick
        made = ("--place", place, "--texts", args.texts, *quick)
        harness.prepare(module_contestant("frames", "files", *made, timeout_s=3600), place)
        runs = harness.measure(contestants, args.rounds, place, warmup=False)
        agreement = same_labels(place)
    add_rates(runs, args.texts)
    notes = [
        f"{args.texts:,} different texts; MiniLM, trained on rows of the sample by TextClassifier; the verb "
        "reads the checkpoint that it saved, and writes a file of the form that it reads.",
        f"texts/s: for the verb the whole command less one for a single text (`{ONE}`); for TextClassifier "
        "the call of `predict`, after one for a single text. With start-up: whole processes.",
    ]
    columns = {
        "texts/s": "texts_per_s",
        "texts/s with start-up": "whole_texts_per_s",
        "peak memory, MB": "peak_mb",
    }
    return harness.Report(
        "frames", "Frames", contestants, runs, columns, checks(runs, agreement), notes, args.quick
    ).publish(args.results)


def line_up(place: Path) -> list[Contestant]:
    """All contestants."""
    verb = (sys.executable, "-m", "lit_bert", "predict")
    last = ("--ckpt_path", str(place / "saved" / "best.ckpt"))

    def of_files(form: str) -> tuple[str, ...]:
        named = ("--input", str(place / f"texts.{form}"), "--output", str(place / f"labelled.{form}"))
        return (*verb, *named, *last)

    return [
        *(Contestant(f"predict {form}", of_files(form), reports=False, timeout_s=3600) for form in FILES),
        *(module_contestant("frames", frame, "--place", place, timeout_s=3600) for frame in FRAMES),
        Contestant(ONE, (*verb, "i feel so happy", *last), reports=False),
    ]


def add_rates(runs: list[Run], texts: int) -> None:
    """Adds the rates that follow from whole processes."""
    single = {each.round: each.figures["wall_s"] for each in runs if each.contestant == ONE}
    for run in runs:
        if run.contestant == ONE:
            continue
        figures = run.figures
        figures["whole_texts_per_s"] = texts / figures["wall_s"]
        if "call_s" in figures:
            figures["texts_per_s"] = texts / figures["call_s"]
        elif run.round in single and figures["wall_s"] > single[run.round]:
            figures["texts_per_s"] = (texts - 1) / (figures["wall_s"] - single[run.round])


def same_labels(place: Path) -> list[float]:
    """The share of rows on which TextClassifier agrees with the verb, for each kind of frame that ran."""
    file = place / "labelled.csv"
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        labels = [row["predicted_label"] for row in csv.DictReader(stream)]
    found = [json.loads(each.read_text(encoding="utf-8")) for each in sorted(place.glob("labels-*.json"))]
    return [
        sum(own == other for own, other in zip(labels, each, strict=True)) / len(labels) for each in found
    ]


def checks(runs: list[Run], agreement: list[float]) -> list[Check]:
    """The targets."""
    return [
        *(
            Check(
                f"texts/s, {frame} to predict {form}",
                paired_ratios(runs, "texts_per_s", frame, f"predict {form}"),
                TARGET,
            )
            for frame in FRAMES
            for form in FILES
        ),
        *(
            Check(
                f"texts/s with start-up, pandas to predict {form}",
                paired_ratios(runs, "whole_texts_per_s", "pandas", f"predict {form}"),
                TARGET,
            )
            for form in FILES
        ),
        # The least of them, as a median would hide one kind of frame.
        Check("rows with the label of predict csv, the least", [min(agreement)] if agreement else [], 1),
    ]


# --- in the contestant's own process ---


def sample() -> list[dict[str, str]]:
    """The rows of the packaged sample to train on."""
    with (SAMPLE / "train.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def different_texts(count: int) -> list[str]:
    """Those of the sample, in turn, each with two words of random letters."""
    known = [row["text"] for row in sample()]
    generator = random.Random(0)
    words = (
        "".join(generator.choices(string.ascii_lowercase, k=generator.randint(3, 8)))
        for _ in range(2 * count)
    )
    return [f"{known[number % len(known)]} {next(words)} {next(words)}" for number in range(count)]


def files(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the folder `saved`, and the texts in each form."""
    from lit_bert import TextClassifier
    from lit_bert.data.writer import RowWriter

    rows = sample()[:: 20 if args.quick else 4]
    found = TextClassifier(max_epochs=1).fit([row["text"] for row in rows], [row["label"] for row in rows])
    found.save(str(args.place / "saved"))
    texts = different_texts(args.texts)
    for form in FILES:
        with RowWriter(args.place / f"texts.{form}") as writer:
            writer.write({"id": number, "text": text} for number, text in enumerate(texts))
    return {}


def predict(args: argparse.Namespace) -> dict[str, Any]:
    """Labels the frame in one call."""
    from lit_bert import TextClassifier

    given = read(args.contestant, args.place / "texts.parquet")
    found = TextClassifier.load(str(args.place / "saved"))
    found.predict(["i feel so happy"])
    start = time.perf_counter()
    labels = found.predict(given)
    seconds = time.perf_counter() - start
    (args.place / f"labels-{args.contestant}.json").write_text(json.dumps(labels.tolist()), encoding="utf-8")
    return {"call_s": seconds}


def read(kind: str, file: Path) -> Any:
    """The rows of a Parquet file as an object of that kind; a list has the texts alone."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file)
    if kind == "pandas":
        return table.to_pandas()
    if kind == "polars":
        return import_module("polars").from_arrow(table)
    return table if kind == "arrow" else table.column("text").to_pylist()


if __name__ == "__main__":
    sys.exit(main())
