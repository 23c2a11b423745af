"""Few labelled rows: `fit` and each of its methods beside SetFit, and TF-IDF with logistic regression.

Each round draws other rows to train on; all contestants get the same ones, and are scored on the same rows,
which none of them was chosen by: the test split where there is one, else the validation split.

    python -m benchmarks few_rows
    LIT_BERT_BENCH_DATA=my_folder python -m benchmarks.few_rows --rounds 5 --only "lit_bert 100" "setfit 100"
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import harness
from benchmarks.harness import Run, module_contestant

SIZES = ("30", "8 a class", "100", "1000")
MINUTES = {"30": 1}  # for the size, as a user who has no more rows need not wait
OURS = {"lit_bert": "auto", **{name: name for name in ("finetune", "frozen", "contrastive", "soup")}}
OTHERS = ("frozen_lr", "setfit", "tfidf")
PAIRS, FROM = 20, 100  # a row and kind, from that many rows on: num_iterations of SetFit
STRENGTH = 30.0  # C of logistic regression on embeddings
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # of TF-IDF, by cross-validation
MOST_TESTED = 2000  # rows
MOST_DRAWS = 1000  # of rows, until each class is among them


def main(argv: list[str] | None = None) -> int:
    """Runs the part, or one contestant of it."""
    args = harness.checked_flags(harness.parser("few_rows", __doc__, more=True).parse_args(argv))
    if args.contestant:
        return harness.print_figures(contest(args))
    names = [f"{who} {size}" for size in SIZES for who in ("lit_bert", *list(OURS)[1:], *OTHERS)]
    quick = ["--quick"] * args.quick
    made = [module_contestant("few_rows", name, *quick, timeout_s=3600) for name in names]
    contestants = harness.selected(made, args.only)
    earlier = harness.runs_of("few_rows", args.results) if args.more else []
    with harness.scratch_folder() as place:
        runs = harness.measure(contestants, args.rounds, place, warmup=False, earlier=earlier)
    contestants = [each for each in made if any(run.contestant == each.name for run in runs)]
    notes = [
        *intervals(runs),
        f"Data: {harness.data_folder().name}; each round draws other rows, the same for all, "
        "two of each class at least.",
        "lit_bert: MiniLM, the defaults of `fit`, with `--minutes 1` of 30 rows; finetune, frozen, "
        "contrastive and soup are its methods alone (--method). Seconds of a whole fit, scoring apart.",
        "frozen_lr: the mean of the last hidden states of the same weights, normalised, and scikit-learn's "
        f"LogisticRegression(C={STRENGTH:g}). setfit: SetFit with the same weights and its defaults, of "
        f"{FROM} rows and more with the {PAIRS} pairs a row of its paper, as its defaults make all. tfidf: "
        "words and pairs of words, logistic regression of the strength that is best by cross-validation.",
    ]
    columns = {"accuracy": "accuracy", "macro F1": "macro_f1", "seconds": "wall_s"}
    return harness.Report(
        "few_rows", "Few labelled rows", contestants, runs, columns, [], notes, args.quick
    ).publish(args.results)


# --- rows


class Rows(NamedTuple):
    """Texts with their classes."""

    texts: list[str]
    labels: list[str]


def intervals(runs: list[Run]) -> list[str]:
    """How often the intervals that a fit gives of its own accuracy held that of the rows that are scored."""
    found = [run.figures for run in runs if not run.failure and "said_low" in run.figures]
    held = sum(each["said_low"] <= each["accuracy"] <= each["said_high"] for each in found)
    above = sum(each["accuracy"] > each["said_high"] for each in found)
    if not found:
        return []
    return [
        f"The 95 % interval that the fits gave of their own accuracy held the one in the table in {held} of "
        f"{len(found)}; in {above} the one in the table was above it."
    ]


def read() -> tuple[Rows, Rows]:
    """All rows to draw from, and those to score."""
    from lit_bert.data.module import EmotionDataModule
    from lit_bert.sources.weights import MINILM, Weights

    data = EmotionDataModule(str(harness.data_folder()), weights=Weights(MINILM))
    has_test = data.tokenized.has_split("test_split")
    found = []
    for split in ("train_split", "test_split" if has_test else "val_split"):
        rows = data.tokenized.rows(split)
        texts = [str(text) for text in rows.all_texts()]
        found.append(Rows(texts, [data.label_names[each] for each in rows.labels]))
    return found[0], found[1]


def drawn(rows: Rows, size: str, seed: int) -> Rows:
    """That many of the rows, at random, with two of each class at least; or that many of each class."""
    import numpy as np

    generator, labels = np.random.default_rng(seed), np.array(rows.labels)
    order, classes = generator.permutation(len(labels)), np.unique(labels)
    if size.endswith("a class"):
        each = int(size.split()[0])
        chosen = np.concatenate([order[labels[order] == name][:each] for name in classes])
    else:
        for _ in range(MOST_DRAWS):
            chosen = order[: int(size)]
            if min((labels[chosen] == name).sum() for name in classes) >= 2:
                break
            order = generator.permutation(len(labels))
        else:
            raise SystemExit(f"{size} rows are too few for two of each of the {len(classes)} classes.")
    return Rows([rows.texts[row] for row in chosen], labels[chosen].tolist())


def contest(args: argparse.Namespace) -> dict[str, Any]:
    who, _, size = args.contestant.partition(" ")
    everything, test = read()
    most = 100 if args.quick else MOST_TESTED
    train, test = drawn(everything, size, harness.round_number()), Rows(test.texts[:most], test.labels[:most])
    if who in OURS:
        minutes = MINUTES.get(size) if who == "lit_bert" else None
        return lit_bert(OURS[who], train, test, minutes, args.quick)
    started = harness.since_start()
    found = {"frozen_lr": frozen_lr, "setfit": setfit, "tfidf": tfidf}[who](train, test.texts)
    return {**scores(test.labels, found), "wall_s": harness.since_start() - started}


def scores(truth: list[str], found: list[str]) -> dict[str, float]:
    from sklearn import metrics

    return {
        "accuracy": float(metrics.accuracy_score(truth, found)),
        "macro_f1": float(metrics.f1_score(truth, found, average="macro")),
    }


# --- contestants


def lit_bert(method: str, train: Rows, test: Rows, minutes: int | None, quick: bool) -> dict[str, Any]:
    from lit_bert.__main__ import main as command
    from lit_bert.sources.weights import MINILM

    folder = Path("data")
    folder.mkdir()
    for split, rows in (("train", train), ("test", test)):
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("text", "label"), *zip(*rows, strict=True)])
    flags = [f"--weights.pretrained={MINILM}", f"--data.dataset={folder}", "--data.quoting=csv"]
    flags += ["--trainer.max_epochs=1"] * quick + [f"--minutes={minutes}"] * (minutes is not None)
    started = harness.since_start()
    assert command(["fit", *flags, f"--method={method}", "--trainer.accelerator=cpu"]) == 0
    seconds = harness.since_start() - started
    (best,) = Path("checkpoints").glob("version_*/best.ckpt")
    assert command(["test", f"--ckpt_path={best}"]) == 0
    found = json.loads(best.with_name("test.json").read_text())["scores"]
    low, high = json.loads(best.with_name("validate.json").read_text())["intervals"]["accuracy"]
    return {
        **{name: found[name] for name in ("accuracy", "macro_f1")},
        "said_low": low,
        "said_high": high,
        "wall_s": seconds,
    }


def embedder() -> Any:
    """MiniLM as sentence-transformers has it: the mean of the last hidden states, normalised."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    from lit_bert.sources.weights import MINILM, Weights

    network = Transformer(str(Weights(MINILM).folder), max_seq_length=128)
    pooling = Pooling(network.get_embedding_dimension(), "mean")
    return SentenceTransformer(modules=[network, pooling, Normalize()], device="cpu")


def frozen_lr(train: Rows, texts: list[str]) -> list[str]:
    from sklearn.linear_model import LogisticRegression

    model = embedder()
    head = LogisticRegression(C=STRENGTH, max_iter=1000).fit(model.encode(train.texts), train.labels)
    return list(head.predict(model.encode(texts)))


def setfit(train: Rows, texts: list[str]) -> list[str]:
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments
    from sklearn.linear_model import LogisticRegression

    model = SetFitModel(model_body=embedder(), model_head=LogisticRegression(max_iter=1000))
    pairs = PAIRS if len(train.texts) >= FROM else None
    arguments = TrainingArguments(
        output_dir="setfit", save_strategy="no", report_to="none", num_iterations=pairs
    )
    rows = Dataset.from_dict({"text": train.texts, "label": train.labels})
    Trainer(model=model, args=arguments, train_dataset=rows).train()
    return [str(label) for label in model.predict(texts)]


def tfidf(train: Rows, texts: list[str]) -> list[str]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    head = LogisticRegressionCV(Cs=list(STRENGTHS), cv=3, max_iter=1000)
    return list(make_pipeline(words, head).fit(train.texts, train.labels).predict(texts))


if __name__ == "__main__":
    raise SystemExit(main())
