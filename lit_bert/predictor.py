"""Texts in, labelled probabilities out, from an exported folder: without torch, transformers or lightning.

Step 7 of the journey. Needs onnxruntime, tokenizers and numpy, and of the folder `config.json`,
`tokenizer.json` and one of the ONNX files; everything else in it is for others.

    python -c "from lit_bert import Predictor; print(Predictor('exported')(['what a day']))"
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_bert import UserError, need

QUICK, EXACT = "model.int8.onnx", "model.onnx"  # the first that is there is taken
BATCH_SIZE = 16
LEAST = 1e-9  # keeps the logarithm of a probability finite
WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


class Prediction(NamedTuple):
    """What a text got.

    Attributes:
        label: the most probable class.
        probability: of that class, 0 to 1.
        probabilities: of each class, in the order of the classes; they sum to 1.
        truncated: whether the end of the text was not read, as it has more tokens than the model takes.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    truncated: bool


class Word(NamedTuple):
    """A part of a text and what it did.

    Attributes:
        start, end: text[start:end] is the word.
        weight: by how much the word raises the log-odds of the text's label, in nats; negative where it
            speaks against it.
    """

    start: int
    end: int
    weight: float


class Predictor:
    """A classifier from a folder that `python -m lit_bert export` wrote.

    Can be called from several threads at a time.

    Args:
        folder: the exported folder.
        file: the ONNX file of it to run; None takes `model.int8.onnx` where export kept it, else `model.onnx`.
        threads: batches that are computed side by side, one core each; None is one for each core that this
            process may use.

    Raises:
        UserError: the folder lacks a file, or has one that cannot be read.
    """

    def __init__(self, folder: str | Path, file: str | None = None, threads: int | None = None) -> None:
        need("onnxruntime", "serve")
        import onnxruntime
        from tokenizers import Tokenizer

        self.folder = Path(folder)
        self.file = file or (QUICK if (self.folder / QUICK).is_file() else EXACT)
        self.threads = threads or _cores()
        for name in ("config.json", "tokenizer.json", self.file):
            if not (self.folder / name).is_file():
                raise UserError(
                    f"{self.folder} has no {name}; expected a folder that `python -m lit_bert export` wrote."
                )
        try:
            config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
            names = {int(index): name for index, name in config["id2label"].items()}
            self.labels: list[str] = [names[index] for index in range(len(names))]
            self._tokenizer: Any = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
            self.max_length = int(self._tokenizer.truncation["max_length"])  # tokens, special ones included
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            self._session = onnxruntime.InferenceSession(
                str(self.folder / self.file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # each library has its own
            what = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self.folder} cannot be used ({type(error).__name__}: {what}). Export it again."
            ) from None

    def __call__(self, texts: Sequence[str]) -> list[Prediction]:
        """Label and probabilities of each text, in order.

        Raises:
            TypeError: one string instead of several, or something that is no string.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError("expected a list of strings")
        encodings = self._encode(texts)
        probs = self._probs([each.ids for each in encodings])
        return [
            Prediction(
                self.labels[row.argmax()],
                float(row.max()),
                dict(zip(self.labels, row.tolist(), strict=True)),
                bool(encoding.overflowing),
            )
            for row, encoding in zip(probs, encodings, strict=True)
        ]

    def probs(self, texts: Sequence[str]) -> np.ndarray:
        """Class probabilities, float32 (N, C), of texts; rows sum to 1."""
        return self._probs([each.ids for each in self._encode(texts)])

    def explain(self, text: str) -> list[Word]:
        """Which words pushed the text towards its label: each in turn is left out, and the label asked again.

        Words that the model does not read, past its maximum length, are not among them.
        """
        encoding = self._encode([text])[0]
        read = max((end for _, end in encoding.offsets), default=0)
        words = [match.span() for match in WORD.finditer(text) if match.start() < read]
        without = [f"{text[:start]} {text[end:]}" for start, end in words]
        probs = self.probs([text, *without]).astype(float)
        of_label = probs[:, probs[0].argmax()]
        odds = np.log(np.maximum(of_label, LEAST)) - np.log(np.maximum(1 - of_label, LEAST))
        weights = odds[0] - odds[1:]
        return [Word(*span, float(weight)) for span, weight in zip(words, weights, strict=True)]

    def _encode(self, texts: Sequence[str]) -> list[Any]:
        # Lone surrogates have no UTF-8; the tokenizer would refuse the whole batch.
        readable = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        return self._tokenizer.encode_batch(readable)

    def _probs(self, ids: list[list[int]]) -> np.ndarray:
        logits = np.empty((len(ids), len(self.labels)), np.float32)
        order = np.argsort([-len(each) for each in ids], kind="stable")
        batches = [order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE)]

        def run(rows: np.ndarray) -> None:
            width = len(ids[rows[0]])
            input_ids = np.zeros((len(rows), width), np.int64)
            attention_mask = np.zeros_like(input_ids)
            for place, row in enumerate(rows):
                input_ids[place, : len(ids[row])] = ids[row]
                attention_mask[place, : len(ids[row])] = 1
            inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
            logits[rows] = self._session.run(None, inputs)[0]

        if len(batches) > 1 and self.threads > 1:
            with ThreadPoolExecutor(min(self.threads, len(batches))) as pool:
                list(pool.map(run, batches))
        else:
            for rows in batches:
                run(rows)
        raised = np.exp(logits - logits.max(1, keepdims=True))
        return raised / raised.sum(1, keepdims=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def verify(folder: str | Path) -> dict[str, str]:
    """The sha256 of each file that the folder's card lists.

    Raises:
        UserError: there is no card, or a file is missing or is not the one that the card was written for.
    """
    card = Path(folder) / "README.md"
    if not card.is_file():
        raise UserError(
            f"{folder} has no README.md; expected a folder that `python -m lit_bert export` wrote."
        )
    sums = re.findall(r"^([0-9a-f]{64})  (\S+)$", card.read_text(encoding="utf-8"), re.MULTILINE)
    if not sums:
        raise UserError(f"{card} lists no sha256 of the files. Export again.")
    for wanted, name in sums:
        file = Path(folder) / name
        if not file.is_file():
            raise UserError(f"{folder} has no {name}, which its README.md lists. Export again.")
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != wanted:
            raise UserError(f"{file} is not the file that was exported: its sha256 is {found}. Export again.")
    return {name: wanted for wanted, name in sums}


def facts(folder: str | Path) -> dict[str, Any]:
    """What export wrote down about the model, in lit_bert.json; empty where it did not."""
    file = Path(folder) / "lit_bert.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
