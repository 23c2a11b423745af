"""Every part of the benchmark, one after the other; this is `make bench` and takes hours.

python -m benchmarks --quick
"""

from __future__ import annotations

import argparse
import sys

from benchmarks import (
    encoders,
    frames,
    imbalance,
    kinds,
    labelling,
    load,
    long_texts,
    partial,
    predict,
    predictor,
    quality,
    recipe,
    scale,
    seeds,
    startup,
    train,
)


def main(argv: list[str] | None = None) -> int:
    """Runs the parts with the flags that all of them know. Returns 1 if a contestant failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    flags = ["--quick"] if parser.parse_args(argv).quick else []
    parts = (
        train,
        predict,
        predictor,
        startup,
        scale,
        load,
        quality,
        seeds,
        recipe,
        encoders,
        partial,
        kinds,
        imbalance,
        labelling,
        long_texts,
        frames,
    )
    return max(part.main(flags) for part in parts)


if __name__ == "__main__":
    sys.exit(main())
