"""The commands of the README run as they stand, but for a tiny BERT and fewer rows."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from conftest import CLASSES, Run, texts_of, write_csv

from lit_bert.verbs.table import VERBS

ROOT = str(Path(__file__).parent.parent)
README = Path(ROOT, "README.md").read_text(encoding="utf-8")


def commands_in(section: str) -> list[list[str]]:
    """The arguments of each `python -m lit_bert` in the shell blocks of a section, in order."""
    content = re.split(r"\n##+ ", README.split(f"## {section}\n")[1])[0]
    block = "\n".join(re.findall(r"```sh\n(.*?)```", content, re.DOTALL))
    lines = block.replace("\\\n", " ").splitlines()
    found = [line.split("python -m lit_bert ", 1)[1] for line in lines if "python -m lit_bert " in line]
    return [shlex.split(command.split(">")[0], comments=True) for command in found]


def fewer(arguments: list[str], tiny_bert: Path) -> list[str]:
    if arguments[0] not in ("fit", "audit") or "--ckpt_path" in arguments:
        return arguments
    return [*arguments, f"--weights.pretrained={tiny_bert}", "--trainer.max_epochs=1"]


def test_the_verbs_of_the_readme_are_those_of_the_table() -> None:
    shown = re.findall(r"^(?:cat .*\| )?python -m lit_bert ([a-z_]+)", README, re.MULTILINE)
    assert {"fit", "predict", "export", "serve"} <= set(shown) <= VERBS.keys()


def test_the_verbs(tiny_bert: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = commands_in("The verbs")
    assert commands
    Path("reviews.csv").write_text("text\nnever again\n")
    Path("other.csv").write_text("text,label\nso glad,joy\nso sad,sadness\n")
    for arguments in commands:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one text\nanother\n")))
        outcome = run(*fewer(arguments, tiny_bert))
        assert outcome.code == 0, (arguments, outcome.err)
    assert Path("labelled.parquet").is_file()


def test_your_own_text(tiny_bert: Path, run: Run) -> None:
    rows = re.search(r"cat > reviews.csv <<'EOF'\n(.*?)EOF", README, re.DOTALL)
    assert rows
    Path("reviews.csv").write_text(rows[1])
    for arguments in commands_in("Your own text"):
        outcome = run(*fewer(arguments, tiny_bert))
        assert outcome.code == 0, (arguments, outcome.err)
    assert (
        Path("labelled.csv")
        .read_text()
        .startswith("review,stars,shop,predicted_label,probability,probability_1,")
    )


KINDS = {  # by the section of a kind of task: its file, column, labels and the columns of its answers
    "Several labels a text": ("topics.csv", "label", ["a|b", "b", ""], "predicted_labels,probability_a,"),
    "Numbers": ("prices.csv", "price", [1.5, 20.0, 3.25], "predicted_value,low,high"),
    "Ordered classes": ("ratings.csv", "stars", [1, 2, 3], ""),
}


@pytest.mark.parametrize("section", KINDS)
def test_a_kind_of_task(section: str, tiny_bert: Path, run: Run) -> None:
    file, column, labels, added = KINDS[section]
    texts = [text for label in CLASSES for text in texts_of(label, 12)]
    rows = [{"text": text, column: labels[n % 3]} for n, text in enumerate(texts)]
    write_csv(Path(file), rows)
    for arguments in commands_in(section):
        outcome = run(*fewer(arguments, tiny_bert))
        assert outcome.code == 0, (arguments, outcome.err)
    if added:
        assert f"text,{column},{added}" in Path("labelled.csv").read_text()


def test_pairs_and_several_columns(tiny_bert: Path, run: Run) -> None:
    rows: list[dict[str, object]] = [
        {"premise": one, "hypothesis": other, "label": label}
        for label in CLASSES
        for one, other in zip(texts_of(label, 8), texts_of(label, 9)[1:], strict=True)
    ]
    write_csv(Path("pairs.csv"), rows)
    for arguments in commands_in("Pairs and several columns"):
        outcome = run(*fewer(arguments, tiny_bert))
        assert outcome.code == 0, (arguments, outcome.err)
    assert outcome.out.startswith('{"premise": "the cat sleeps", "hypothesis": "an animal rests", ')


def test_long_texts(tiny_bert: Path, run: Run) -> None:
    commands = commands_in("Long texts")
    assert len(commands) == 2
    for arguments in commands:
        outcome = run(*fewer(arguments, tiny_bert), "--data.train_rows=64")
        assert outcome.code == 0, (arguments, outcome.err)


def test_few_rows(tiny_bert: Path, run: Run) -> None:
    rows = [{"text": text, "label": label} for label in CLASSES for text in texts_of(label, 6)]
    write_csv(Path("few.csv"), rows)
    for arguments in commands_in("Few rows"):
        minutes = ["--minutes", "0.1"] if "--minutes" in arguments else []
        kept = arguments[: arguments.index("--minutes")] if minutes else arguments
        outcome = run(*kept, *minutes, f"--weights.pretrained={tiny_bert}")
        assert outcome.code == 0, (arguments, outcome.err)
        if "zero_shot" in arguments:  # of no rows
            assert "optimizer steps" in outcome.out
        else:
            assert "split train, cross-validated, 18 rows" in outcome.out


def test_confidence_intervals_and_calibration(tiny_bert: Path, run: Run) -> None:
    newest, two, seeds = commands_in("Confidence intervals and calibration")
    assert seeds == ["fit", "--seeds", "5"]  # tried in test_runs
    for _ in range(2):
        assert run(*fewer(["fit"], tiny_bert), "--data.train_rows=64").code == 0
    for arguments in (newest, two):
        outcome = run(*arguments)
        assert outcome.code == 0, (arguments, outcome.err)
    assert Path("checkpoints/version_1/report.html").is_file()
    assert "McNemar" in outcome.out


def test_answers_with_a_guarantee(tiny_bert: Path, run: Run) -> None:
    for arguments in commands_in("Answers with a guarantee"):
        outcome = run(*fewer(arguments, tiny_bert))  # whose network is a random one
        assert outcome.code == 0 or "no threshold reaches it" in outcome.err, (arguments, outcome.err)
        assert Path("checkpoints/version_0/best.ckpt").is_file()


def test_auditing_a_data_set(tiny_bert: Path, run: Run) -> None:
    plain, folds, reuse = commands_in("Auditing a data set")
    assert (plain, folds[:2], reuse[:2]) == (["audit"], ["audit", "--folds"], ["audit", "--reuse"])
    outcome = run(*fewer(plain, tiny_bert))  # those that train are tried in test_audit
    assert outcome.code == 0, outcome.err
    assert "audit --folds 3" in outcome.out


def test_python() -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code
    exec(code[1].replace("max_epochs=1", "max_steps=2, logger=False, limit_val_batches=1"), {})


def test_from_checkpoint_to_product(able: Path, run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    plain, named, push, *others, serve, several = commands_in("From checkpoint to product")
    assert push[:2] == ["export", "--push"]  # tried in test_push
    shutil.copytree(able, "checkpoints/version_0")
    for arguments in (plain, named):
        outcome = run(*arguments, "--max_f1_loss=100")
        assert outcome.code == 0, (arguments, outcome.err)
    assert Path("checkpoints/version_0/exported/model.int8.onnx").is_file()
    Path("reviews.csv").write_text("text,label\nso glad,joy\nso sad,sadness\n")
    for arguments in others:  # of somebody else's classifier: here a folder in the place of a Hub id
        outcome = run(*("my-classifier" if each == "owner/name" else each for each in arguments))
        assert outcome.code == 0, (arguments, outcome.err)
    section = README.split("## From checkpoint to product\n")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code
    exec(code[1], {"texts": ["happy sun", "sad rain"]})
    assert len(capfd.readouterr().out.splitlines()) == 2
    shutil.copytree("my-classifier", "other-classifier")
    requests = re.findall(r"curl http://127.0.0.1:8000(\S+) --json '(.*?)'", section)
    assert len(requests) == 3
    for arguments in ([*serve[:-1], "0"], [*several, "--port=0"]):
        command = [sys.executable, "-m", "lit_bert", *arguments]
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ROOT}
        )
        try:
            assert server.stdout
            address = re.search(r"http://[\d.:]+", server.stdout.readline())
            assert address
            for path, body in requests:
                if path.startswith("/models/") is (arguments[0:2] == several[0:2]):
                    request = urllib.request.Request(
                        f"{address[0]}{path}", body.encode(), {"Content-Type": "application/json"}
                    )
                    with urllib.request.urlopen(request, timeout=30) as answer:
                        assert '"label"' in answer.read().decode()
        finally:
            server.terminate()
            assert server.wait(30) == 0


def test_layout_names_every_room() -> None:
    root = Path(ROOT)
    rooms = {f"lit_bert/{file.name}" for file in (root / "lit_bert").glob("*.py")} - {"lit_bert/__init__.py"}
    assert rooms <= set(re.findall(r"`([\w./]+)`", README))
