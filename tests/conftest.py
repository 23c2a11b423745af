"""What the tests share: a tiny random BERT, a few dozen texts, and the command line run in this process.

All of it is made of ordinary folders and files: nothing in lit_bert knows that it is being tested.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = (
    "1"  # read when the libraries are imported; tests of the Hub start new processes
)
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["OMP_NUM_THREADS"] = "1"  # tiny matrices: two threads on busy cores wait for each other

import pytest
import torch
from hypothesis import HealthCheck, settings
from serving import Start, servers

from lit_bert.__main__ import main
from lit_bert.sources import hub
from lit_bert.sources.weights import Weights

FUZZ_INPUTS = int(os.environ.get("LIT_BERT_FUZZ", "25"))  # of each fuzz target; `make fuzz` sets it
settings.register_profile(
    "fuzz",
    max_examples=FUZZ_INPUTS,
    deadline=None,
    derandomize="LIT_BERT_FUZZ" not in os.environ,  # `make test` tries the same inputs each time
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("fuzz")

WORDS = (
    "i am so very happy glad sad down angry mad about the rain sun dog cat train late today tomorrow my your "
    "is was not and but it this that"
).split()
CLASSES = {
    "joy": ["happy", "glad", "sun"],
    "sadness": ["sad", "down", "rain"],
    "anger": ["angry", "mad", "late"],
}


def texts_of(label: str, count: int) -> list[str]:
    """`count` different short texts that hold words of their class."""
    first, second, third = CLASSES[label]
    signs = (first, f"{second} and {third}", f"{third} but {first}", second)
    starts = ("i am", "this is", "it was")
    ends = ("today", "about my dog", "about the cat", "so so", "tomorrow")
    return [f"{starts[n % 3]} {signs[n % 4]} {ends[n % 5]}" for n in range(count)]


def write_csv(file: Path, rows: list[dict[str, object]]) -> Path:
    """Writes rows that all have the same columns."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random 2-layer BERT and a vocabulary of some 40 words, as transformers saves them."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-bert")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def weights(tiny_bert: Path) -> Weights:
    """One object for all data modules of a file, so that the tokenizer's files are read once."""
    found = Weights(str(tiny_bert), stand_in=None)
    assert found.tokenizer_files
    return found


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.csv (60 rows), validation.csv (24), test.csv (24): three classes, string labels."""
    folder = tmp_path_factory.mktemp("corpus")
    for split, start, stop in (("train", 0, 20), ("validation", 20, 28), ("test", 28, 36)):
        rows: list[dict[str, object]] = [
            {"text": text, "label": label} for label in CLASSES for text in texts_of(label, 36)[start:stop]
        ]
        write_csv(folder / f"{split}.csv", rows)
    return folder


def stable_id(value: object) -> str:
    """The name of a case, the same in each process that runs tests: without addresses of objects."""
    return re.sub(r" object at 0x[0-9a-f]+", "", str(value))


@dataclass
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a working directory and with a token cache of its own, and with a Hub not asked yet."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("LIT_BERT_CACHE", str(tmp_path / "cache"))
    hub._hub_is_down.clear()


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process, as `python -m lit_bert ARGUMENTS` would."""

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capfd.readouterr())

    return call


def files(folder: Path | str = ".") -> dict[str, int | None]:
    """Everything below `folder`, with sizes, so that a write shows."""
    paths = list(Path(folder).rglob("*"))
    return {str(path): path.stat().st_size if path.is_file() else None for path in paths}


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Runs a command that has to be refused in one line, with nothing written; gives the line."""

    def call(verb: str, *arguments: object) -> str:
        before = files()
        outcome = run(verb, *arguments)
        assert outcome.code == 2, outcome
        assert outcome.out == ""
        assert len(outcome.err.splitlines()) == 1, outcome.err
        assert outcome.err.startswith(f"lit_bert {verb}: ")
        assert files() == before
        return outcome.err.strip()

    return call


@pytest.fixture(scope="session")
def quick(tiny_bert: Path, corpus: Path) -> list[str]:
    """Flags of a fit that takes a second or two: tiny BERT, the corpus above, two epochs."""
    return [
        f"--weights.pretrained={tiny_bert}",
        f"--data.dataset={corpus}",
        "--trainer.max_epochs=2",
        "--data.batch_size=8",
        "--model.learning_rate=0.003",
        "--trainer.accelerator=cpu",
    ]


@pytest.fixture(scope="session")
def trained(quick: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished fit: best.ckpt, last.ckpt, config.yaml, events."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_BERT_CACHE", str(folder / "cache"))
        assert main(["fit", *quick, f"--trainer.logger.init_args.save_dir={folder / 'checkpoints'}"]) == 0
    return folder / "checkpoints" / "version_0"


@pytest.fixture(scope="session")
def able(quick: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fit that was long enough to tell the classes apart."""
    folder = tmp_path_factory.mktemp("able")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_BERT_CACHE", str(folder / "cache"))
        flags = ["--trainer.max_epochs=30", "--model.average_decay=0", "--early_stopping.patience=30"]
        place = f"--trainer.logger.init_args.save_dir={folder / 'checkpoints'}"
        assert main(["fit", *quick, *flags, place]) == 0
    return folder / "checkpoints" / "version_0"


@pytest.fixture(scope="session")
def exported(able: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `export` writes it, with both ONNX files."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("run") / "exported"
    flags = [f"--ckpt_path={able / 'best.ckpt'}", f"--to={folder}", "--max_f1_loss=100"]
    assert main(["export", *flags]) == 0
    return folder


@pytest.fixture(scope="session")
def exported_ugly(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder with a random last layer, whose classes have the names of tests/ugly.py."""
    from ugly import UGLY

    score = {"value": 0.5, "low": 0.25, "high": 0.75}
    by_class = {name: score if len(name) > 3 else None for name in UGLY}
    scores = {"validation": {"macro_f1": score, "by_class": by_class}}
    return with_head(exported, tmp_path_factory.mktemp("ugly") / "exported", UGLY, 100, {}, scores)


def with_head(
    exported: Path,
    folder: Path,
    names: list[str],
    factor: float,
    settings: dict[str, Any],
    scores: dict[str, Any],
) -> Path:
    """A copy of an exported folder with a random last layer.

    Args:
        exported: the folder.
        folder: where the copy goes.
        names: of the outputs.
        factor: of the weights of the last layer, so that texts differ in their label.
        settings: of config.json, beside the names.
        scores: of lit_bert.json.
    """
    from transformers import BertForSequenceClassification

    from lit_bert.product.formats import FORMATS, ONNX
    from lit_bert.product.onnx import write_onnx

    shutil.copytree(exported, folder)
    for form in FORMATS:
        (folder / form.file).unlink()
    torch.manual_seed(0)
    sizes = {"num_labels": len(names), "ignore_mismatched_sizes": True}
    network = BertForSequenceClassification.from_pretrained(folder, **sizes)
    with torch.no_grad():
        network.classifier.weight.mul_(factor)
    write_onnx(network, folder / ONNX)
    network.config.update(settings)
    network.config.id2label = dict(enumerate(names))
    network.config.label2id = {name: place for place, name in enumerate(names)}
    network.save_pretrained(folder)
    facts = json.loads((folder / "lit_bert.json").read_text(encoding="utf-8"))
    facts |= {"labels": names, "scores": scores}
    (folder / "lit_bert.json").write_text(json.dumps(facts), encoding="utf-8")
    list_files(folder)
    return folder


def list_files(folder: Path) -> None:
    """Lists the files of an exported folder as they are now."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in ("README.md", "SHA256SUMS"))
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}" for name in names]
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts servers, and ends those that a test left running."""
    with servers() as call:
        yield call


def rendered(page: Path, address: str = "") -> str:
    """The document that headless Chromium makes of a page.

    Args:
        page: a file.
        address: what follows its address, such as `#cell-0-1`.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium here")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [chromium, *flags, profile, "--dump-dom", f"{page.as_uri()}{address}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
