"""Texts in, labelled probabilities out, from an exported folder: without torch, transformers or lightning.

Step 7 of the journey. Needs onnxruntime, tokenizers and numpy, and of the folder `config.json`,
`tokenizer.json` and one of the ONNX files; everything else in it is for others.

    python -c "from lit_bert import Predictor; print(Predictor('exported')(['what a day']))"
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_bert import UserError, cores, need

QUICK, EXACT = "model.int8.onnx", "model.onnx"  # the first that is there is taken
CARD, FACTS = "README.md", "lit_bert.json"  # the model card; what it says, for programs
BATCH_SIZE, BATCH_TOKENS = 16, 192  # texts and, padding included, tokens; more takes memory and gains little
CHUNK = 256  # texts that are tokenized at a time: what the tokenizer returns takes kilobytes a text
# onnxruntime 1.32 adds and normalizes in one operator that takes five times as long as two; and adds a bias
# and computes GELU in one that takes half as long again.
SLOW = {"SkipLayerNormFusion", "BiasGeluFusion"}
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
        file: the ONNX file of it to run; None takes `model.int8.onnx` where it was kept, else `model.onnx`.
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
        self.threads = threads or cores()
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
            self._tokenizer.no_padding()
            truncation = self._tokenizer.truncation or {}
            self.max_length = int(truncation["max_length"])  # tokens, special ones included
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.enable_mem_pattern = False  # would plan, and keep, memory for each shape of a batch
            self._session = onnxruntime.InferenceSession(
                str(self.folder / self.file),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=SLOW,
            )
            _give_back_memory()
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
        probs, truncated = self._label(texts)
        return [
            Prediction(
                self.labels[row.argmax()],
                float(row.max()),
                dict(zip(self.labels, row.tolist(), strict=True)),
                cut,
            )
            for row, cut in zip(probs, truncated, strict=True)
        ]

    def probs(self, texts: Sequence[str]) -> np.ndarray:
        """Class probabilities, float32 (N, C), of texts; rows sum to 1."""
        return self._label(texts)[0]

    def _label(self, texts: Sequence[str]) -> tuple[np.ndarray, list[bool]]:
        """Probabilities (N, C), and which texts were cut."""
        ids: list[np.ndarray] = []
        truncated: list[bool] = []
        for start in range(0, len(texts), CHUNK):
            encodings = self._tokenizer.encode_batch_fast(_readable(texts[start : start + CHUNK]))
            ids += [np.array(each.ids, np.int32) for each in encodings]
            truncated += [bool(each.overflowing) for each in encodings]
        return self._probs(ids), truncated

    def explain(self, text: str) -> list[Word]:
        """Which words pushed the text towards its label: each in turn is left out, and the label asked again.

        Words that the model does not read, past its maximum length, are not among them.
        """
        encoding = self._tokenizer.encode_batch(_readable([text]))[0]  # the fast one gives no offsets
        read = max((end for _, end in encoding.offsets), default=0)
        words = [match.span() for match in WORD.finditer(text) if match.start() < read]
        without = [f"{text[:start]} {text[end:]}" for start, end in words]
        probs = self.probs([text, *without]).astype(float)
        of_label = probs[:, probs[0].argmax()]
        odds = np.log(np.maximum(of_label, LEAST)) - np.log(np.maximum(1 - of_label, LEAST))
        weights = odds[0] - odds[1:]
        return [Word(*span, float(weight)) for span, weight in zip(words, weights, strict=True)]

    def _probs(self, ids: list[np.ndarray]) -> np.ndarray:
        logits = np.empty((len(ids), len(self.labels)), np.float32)
        order = np.argsort([-len(each) for each in ids], kind="stable")
        batches, start = [], 0
        while start < len(order):
            texts = max(1, min(BATCH_SIZE, BATCH_TOKENS // len(ids[order[start]])))
            batches.append(order[start : start + texts])
            start += texts

        def run(rows: np.ndarray) -> None:
            input_ids = np.zeros((len(rows), len(ids[rows[0]])), np.int64)
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


def _give_back_memory() -> None:
    """Returns to the system what reading the model took for a moment, where the C library can."""
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _readable(texts: Sequence[str]) -> list[str]:
    """The texts as UTF-8 can hold them: the tokenizer refuses lone surrogates, and their whole batch."""
    return [text.encode("utf-8", "replace").decode("utf-8") for text in texts]


def facts(folder: str | Path) -> dict[str, Any]:
    """What `export` wrote down of a folder, plain values: labels, scores with intervals, sources, command.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        return json.loads((Path(folder) / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} has no readable {FACTS} ({error}); `python -m lit_bert export` writes it."
        ) from None


def verify(folder: str | Path) -> dict[str, str]:
    """The SHA-256 of each file by its name, compared with the model card.

    Raises:
        UserError: a file differs or is missing, or the card lists none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; expected one that `python -m lit_bert export` wrote.")
    try:
        card = (folder / CARD).read_text(encoding="utf-8")
    except (OSError, ValueError):
        card = ""
    listed = {name: digest for digest, name in re.findall(r"^([0-9a-f]{64})  (\S+)$", card, re.MULTILINE)}
    if not listed:
        raise UserError(f"{folder / CARD} lists no files; expected a folder that `export` wrote.")
    for name, digest in listed.items():
        try:
            with (folder / name).open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"cannot read {folder / name}: {error.strerror}. Export again.") from None
        if found != digest:
            raise UserError(
                f"{folder / name} is not the file that its card describes: its SHA-256 is {found[:12]}…, "
                f"expected {digest[:12]}…. Export or download it again."
            )
    return listed
