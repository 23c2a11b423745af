"""Whether guarantees hold: rows that a model has scored, split at random 1,000 times.

In each split some rows give the guarantee, others (for accuracy) the thresholds, and all rows are the truth.

    python -m benchmarks.guarantees checkpoints/version_0/validate.parquet --rows 600
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from lit_bert.evaluate.predictions import Predictions
from lit_bert.task import guarantee
from lit_bert.task.guarantee import Labelled

RATES = {"accuracy": (0.95, 0.97, 0.98, 0.99), "coverage": (0.9, 0.95, 0.99)}


def main() -> None:
    """Prints a line for each guarantee."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("predictions", type=Path, help="validate.parquet or test.parquet of a run")
    parser.add_argument("--rows", type=int, default=600, help="that give the guarantee")
    parser.add_argument("--splits", type=int, default=1000)
    asked = parser.parse_args()
    found = Predictions.read(asked.predictions)
    whole, task = Labelled(found.outputs, found.labels), found.task.without_guarantees()
    scores, right = task.confidence(whole.outputs), task.is_right(*whole)
    if right is None or len(right) < 2 * asked.rows:
        raise SystemExit(f"expected one label a text, and at least {2 * asked.rows} rows")
    print(f"{len(right):,} rows, {right.mean():.2%} right; {asked.rows} of them give the guarantee\n")
    print("guarantee       given   broken   answered: mean, or classes in a set")
    for name, rates in RATES.items():
        for rate in rates:
            print(_line(name, rate, whole, scores, right, asked.rows, asked.splits))


def _line(
    name: str, rate: float, whole: Labelled, scores: np.ndarray, right: np.ndarray, rows: int, splits: int
) -> str:
    """What became of a guarantee: how often it was given, how often it does not hold, and what it costs."""
    generator, kept, broken = np.random.default_rng(0), [], 0
    held = []
    for _ in range(splits):
        order = generator.permutation(len(right))
        own, other = order[:rows], order[rows : 2 * rows]
        if name == "accuracy":
            found = guarantee.accuracy(rate, scores[own], right[own], (scores[other], right[other]))
            if found is not None:
                kept.append(found.answered / found.rows)
                broken += right[scores >= found.threshold].mean() < rate
            continue
        sets = guarantee.class_sets(rate, Labelled(*(each[own] for each in whole)), by_class=False)
        if sets is not None:
            left = order[rows:]
            inside = whole.outputs[left] >= np.array(sets.thresholds)
            held.append(inside[np.arange(len(left)), whole.labels[left]].mean())
            kept.append(sets.size)
    given = f"{len(kept) / splits:7.1%}"
    if name == "accuracy":
        mean = f"{np.mean(kept):.1%}" if kept else "–"
        return f"{name}={rate:<6g}{given}  {broken / splits:7.1%}   {mean}"
    others = f"held on average: {np.mean(held):.2%} of the other rows"
    return f"{name}={rate:<6g}{given}  {others}   {np.mean(kept):.2f}"


if __name__ == "__main__":
    main()
