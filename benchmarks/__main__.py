"""Parts of the benchmark, one after the other; all of them are `make bench` and take hours.

python -m benchmarks --quick
python -m benchmarks few_rows --rounds 5
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import sys

PARTS = (
    *("train", "predict", "predictor", "startup", "scale", "load", "quality", "seeds", "recipe", "encoders"),
    *("partial", "kinds", "few_rows", "imbalance", "labelling", "long_texts", "frames"),
)


def main(argv: list[str] | None = None) -> int:
    """Runs parts. Returns 1 if a contestant failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks [PART ...]",
        description=f"{__doc__}\nParts: {', '.join(PARTS)}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    arguments = sys.argv[1:] if argv is None else argv
    named = list(itertools.takewhile(lambda each: not each.startswith("-"), arguments))
    for name in named:
        if name not in PARTS:
            parser.error(f"{name} is no part; expected some of {', '.join(PARTS)}")
    flags = arguments[len(named) :]
    if len(named) != 1:  # the flags of one part are its own
        flags = ["--quick"] * parser.parse_args(flags).quick
    return max(importlib.import_module(f"benchmarks.{part}").main(flags) for part in named or PARTS)


if __name__ == "__main__":
    sys.exit(main())
