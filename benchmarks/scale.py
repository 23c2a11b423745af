"""What more rows cost: the cache step, the start from a cache, and memory, from 20,000 to 2 million rows.

The rows are made of the words of the real texts, as often and in texts as long as there. `cache` tokenizes
them from nothing; `cached` starts a process that finds them tokenized, and stops at the first training batch.

    python -m benchmarks.scale --rounds 5 --big_rounds 1
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Check, Contestant, Run, module_contestant, paired_ratios

SIZES = (20_000, 200_000, 2_000_000)
QUICK_SIZES = (200, 400, 800)
CHUNK = 20_000  # rows made at a time


def main(argv: list[str] | None = None) -> int:
    """Runs the part, or one contestant of it."""
    flags = harness.parser("scale", __doc__)
    flags.add_argument("--big_rounds", type=int, default=1, help="rounds of the largest size (default 1)")
    flags.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    flags.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    args = harness.checked_flags(flags.parse_args(argv))
    if args.contestant:
        return harness.print_figures(WORK[args.contestant.split()[0]](args))
    sizes = QUICK_SIZES if args.quick else SIZES
    with harness.scratch_folder() as place:
        contestants = harness.selected(line_up(sizes, place, args.big_rounds), args.only)
        for rows in sizes:
            harness.prepare(
                module_contestant("scale", "make", "--rows", rows, "--place", place, timeout_s=3600), place
            )
        runs = harness.measure(contestants, args.rounds, place, warmup=not args.quick)
    notes = [
        f"Rows made from the words of {harness.data_folder().name}, as Parquet; MiniLM's tokenizer. The "
        f"largest size has at most {args.big_rounds} counted rounds: its `cache` takes minutes.",
        "cache: tokens and audit from nothing, libraries and tokenizer loaded before. cached: from the "
        "construction of EmotionDataModule to the first batch of train_dataloader, and from the start of the "
        "process.",
        "Bytes a row are the growth of the highest anonymous memory (RssAnon, read every 10 ms) from the "
        "smallest to the largest size. Peak memory also counts the pages of mapped files, which the system "
        "takes back when it needs them.",
    ]
    columns = {
        "rows/s": "rows_per_s",
        "µs a row": "us_per_row",
        "seconds to the first batch": "first_batch_s",
        "… from the process's start": "first_batch_from_start_s",
        "anonymous memory, MB": "anon_mb",
        "peak memory, MB": "peak_mb",
    }
    report = harness.Report(
        "scale", "Scale", contestants, runs, columns, checks(runs, sizes), notes, args.quick
    )
    return report.publish(args.results)


def line_up(sizes: tuple[int, ...], place: Path, big_rounds: int) -> list[Contestant]:
    """Both processes for each size; a size's cache is made in the first round that it takes part in."""
    return [
        module_contestant(
            "scale",
            f"{step} {rows:,}",
            "--rows",
            rows,
            "--place",
            place,
            rounds=big_rounds if rows == sizes[-1] else None,
            timeout_s=3600,
        )
        for rows in sizes
        for step in ("cache", "cached")
    ]


def checks(runs: list[Run], sizes: tuple[int, ...]) -> list[Check]:
    """The targets."""
    small, middle, big = (f"{rows:,}" for rows in sizes)
    found = []
    for step in ("cache", "cached"):
        for figure, what, target in (("anon_mb", "anonymous", 100), ("peak_mb", "peak", None)):
            low, high = (harness.values(runs, f"{step} {size}", figure) for size in (small, big))
            growth = [
                (high[each] - low[each]) * 2**20 / (sizes[-1] - sizes[0]) for each in high.keys() & low.keys()
            ]
            found.append(Check(f"{step}: bytes a row, {what} memory", growth, target, at_least=False))
    for size in (middle, big):
        one, other = (
            harness.values(runs, f"cached {each}", "first_batch_from_start_s") for each in (size, small)
        )
        later = [abs(one[each] - other[each]) for each in one.keys() & other.keys()]
        found.append(
            Check(
                f"cached: seconds to the first batch, {size} and {small} rows apart", later, 2, at_least=False
            )
        )
    for size in (middle, big):
        ratios = paired_ratios(runs, "us_per_row", f"cache {size}", f"cache {small}")
        found.append(Check(f"cache: cost a row, {size} to {small} rows", ratios, 1.1, at_least=False))
    return found


# --- in the contestant's own process ---


def make(args: argparse.Namespace) -> dict[str, Any]:
    """Writes train.parquet and validation.parquet of one size."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from lit_bert.data.rows import read_rows

    file = next(harness.data_folder().glob("train.*"))
    rows: Any = read_rows(file)
    real = [str(each.row["text"]).split() for each in rows]
    lengths = np.array([len(words) for words in real])
    words = np.array([word for text in real for word in text], dtype=object)
    generator = np.random.default_rng(args.rows)
    folder = _folder(args)
    folder.mkdir()
    schema = pa.schema({"text": pa.string(), "label": pa.int64()})
    for split, wanted in (("train", args.rows), ("validation", min(args.rows, 1000))):
        with pq.ParquetWriter(folder / f"{split}.parquet", schema) as writer:
            for start in range(0, wanted, CHUNK):
                count = min(CHUNK, wanted - start)
                ends = generator.choice(lengths, count).cumsum()
                pool = words[generator.integers(len(words), size=ends[-1])]
                texts = [" ".join(each) for each in np.split(pool, ends[:-1])]
                labels = generator.integers(6, size=count)
                writer.write_table(pa.table({"text": texts, "label": labels}, schema=schema))
    return {}


def cache(args: argparse.Namespace) -> dict[str, Any]:
    """Rows/s of tokenizing from nothing."""
    shutil.rmtree(_folder(args) / "tokens", ignore_errors=True)
    import datasets  # noqa: F401  # its import is no part of the step

    data = _data(args)
    data.weights.tokenizer(128)
    with anonymous_memory() as memory:
        start = time.perf_counter()
        _begin(data)
        seconds = time.perf_counter() - start
    return {"rows_per_s": args.rows / seconds, "us_per_row": 1e6 * seconds / args.rows, **memory}


def cached(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds to the first batch."""
    with anonymous_memory() as memory:
        import lit_bert.evaluate.audit_text  # noqa: F401  # counted from the start of the process only

        start = time.perf_counter()
        data = _data(args)
        _begin(data)
        next(iter(data.train_dataloader()))
        seconds = time.perf_counter() - start
        whole = harness.since_start()
    return {"first_batch_s": seconds, "first_batch_from_start_s": whole, **memory}


def _begin(data: Any) -> None:
    """What `fit` does with its rows before the first batch."""
    from lit_bert.evaluate.audit_text import dataset_summary
    from lit_bert.task.kinds import task_of

    data.prepare_data()
    data.setup("fit")
    parts = {"train": data.train_rows, "validation": data.val_rows}
    dataset_summary(parts, task_of(data.task, data.label_names), deduplicated=False)


def _folder(args: argparse.Namespace) -> Path:
    return args.place / f"rows-{args.rows}"


def _data(args: argparse.Namespace) -> Any:
    """The data module over the rows, with a token cache of their own."""
    from lit_bert import EmotionDataModule, Weights
    from lit_bert.sources.weights import MINILM

    os.environ["LIT_BERT_CACHE"] = str(_folder(args) / "tokens")
    return EmotionDataModule(str(_folder(args)), weights=Weights(MINILM))


@contextlib.contextmanager
def anonymous_memory() -> Iterator[dict[str, float]]:
    """Figures that hold, at the end, the highest `anon_mb` that was seen."""
    figures = {"anon_mb": 0.0}
    done = threading.Event()

    def look() -> None:
        while True:
            found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
            assert found, "this kernel does not tell anonymous memory"
            figures["anon_mb"] = max(figures["anon_mb"], int(found[1]) / 1024)
            if done.wait(0.01):
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield figures
    finally:
        done.set()
        thread.join()


WORK = {"make": make, "cache": cache, "cached": cached}

if __name__ == "__main__":
    sys.exit(main())
