"""Texts in, labelled probabilities out, from an exported folder: without torch, transformers or lightning.

Needs onnxruntime, tokenizers and numpy, and of the folder `config.json`,
`tokenizer.json` and one of the ONNX files; everything else in it is for others.

    python -c "from lit_bert import Predictor; print(Predictor('exported')(['what a day']))"
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_bert import UserError, available_cores, require_package
from lit_bert.data.frames import frame_of, text_in
from lit_bert.data.padding import padded_inputs
from lit_bert.data.windows import of_config, pooled
from lit_bert.evaluate.drift_files import Statistics, read_reference
from lit_bert.evaluate.text_facts import TextReader
from lit_bert.io import escape, onnx_files, tokenizers, untrusted
from lit_bert.io.texts import Text, TextForm
from lit_bert.product.formats import predictor_files
from lit_bert.task.kinds import LONG_TEXTS_KEY, task_of_config

BATCH_SIZE, BATCH_TOKENS = 16, 192  # texts and, padding included, tokens; more takes memory and gains little
CHUNK = 256  # texts that are tokenized at a time: what the tokenizer returns takes kilobytes a text
# onnxruntime 1.32 adds and normalizes in one operator that takes five times as long as two; and adds a bias
# and computes GELU in one that takes half as long again.
SLOW_FUSIONS = {"SkipLayerNormFusion", "BiasGeluFusion"}
EXPLAINED_WINDOWS = 8  # of a text: those that speak most for its label
WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


class Word(NamedTuple):
    """A part of a text and what it did.

    Attributes:
        start, end: text[start:end] is the word.
        weight: by how much the word raises the log-odds of the text's label, in nats, or the number that the
            text is given; negative where it speaks against it.
        part: which string of the text, from 0: of a pair, or of the columns that are joined.
    """

    start: int
    end: int
    weight: float
    part: int = 0


class Predictor:
    """A classifier from a folder that `python -m lit_bert export` wrote.

    Can be called from several threads at a time.

    Args:
        folder: the exported folder.
        file: the ONNX file of it to run; None takes the fastest that was kept.
        threads: batches that are computed side by side, one core each; None is one for each core that this
            process may use.

    Raises:
        UserError: the folder lacks a file, or has one that cannot be read.
    """

    def __init__(self, folder: str | Path, file: str | None = None, threads: int | None = None) -> None:
        require_package("onnxruntime", "serve")
        self.folder = Path(folder)
        known = predictor_files()
        if file is not None and file not in known:
            raise UserError(f"there is no ONNX file {escape.line(file, 80)}; expected {' or '.join(known)}.")
        kept = (each for each in known if (self.folder / each).is_file())
        self.file = file or next(kept, " or ".join(known))  # the latter for the message below
        self.threads = threads or available_cores()
        self._statistics: Statistics | None = None
        for name in ("config.json", "tokenizer.json", self.file):
            if not (self.folder / name).is_file():
                raise UserError(
                    f"{self.folder} has no {name}; expected a folder that `python -m lit_bert export` wrote."
                )
        try:
            self._open()
        except Exception as error:  # onnxruntime has many of its own
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            what = escape.line(" ".join(str(error).split()), 300).removesuffix(". Export it again.")
            raise UserError(f"{self.folder} cannot be used ({kind}{what}). Export it again.") from None

    def _open(self) -> None:
        """Checks the files, loads them, and labels a text.

        Raises:
            Exception: that of any library, or a UserError.
        """
        import onnxruntime

        config = untrusted.read_object(self.folder / "config.json")
        self.labels: list[str] = untrusted.class_names_of_config(config, "config.json")
        self.task = task_of_config(config, self.labels, self.file)
        vocab_size, positions = (config.get(name) for name in ("vocab_size", "max_position_embeddings"))
        for name, value in (("vocab_size", vocab_size), ("max_position_embeddings", positions)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UserError(f"config.json has a {name} of {value!r}; expected a whole number above 0")
        pad: Any = config.get("pad_token_id")
        if pad is not None and (type(pad) is not int or not 0 <= pad < (vocab_size or pad + 1)):
            raise UserError(f"config.json has a pad_token_id of {pad!r}; expected the id of a token")
        self._pad_token_id: int = pad or 0
        text = untrusted.read_text(self.folder / "tokenizer.json", tokenizers.MAX_TOKENIZER_BYTES)
        self._tokenizer: Any = tokenizers.load_tokenizer(text, "tokenizer.json", vocab_size)
        truncation = self._tokenizer.truncation
        if truncation is None:
            raise UserError("tokenizer.json does not say how many tokens the model takes (truncation)")
        self.max_length = int(truncation["max_length"])  # tokens, special ones included
        self.truncation_side: str = truncation["direction"]  # where a long text is cut: right or left
        if positions is not None and self.max_length > positions:
            raise UserError(
                f"tokenizer.json lets {self.max_length} tokens through; the model takes {positions}"
            )
        self.form = TextForm.from_config(config)
        self.long_texts = of_config(config.get(LONG_TEXTS_KEY), self._tokenizer, self.max_length)
        direction = truncation["direction"]
        if self.form.kind == "single" and self.long_texts.mode == "cut":
            # A stride would have the tokenizer return all of a long text, in pieces that overlap.
            self._tokenizer.enable_truncation(self.max_length, direction=direction)
        elif self.form.kind == "single" or (self.long_texts.mode == "cut" and direction == "right"):
            self._tokenizer.no_truncation()
        else:
            raise UserError(
                f"config.json and tokenizer.json read long texts by {self.long_texts.mode}, from the "
                f"{direction}; expected pairs and joined columns to be cut at the right"
            )
        segments = config.get("type_vocab_size")
        self._has_types = self.form.token_types(self._tokenizer, segments if isinstance(segments, int) else 0)
        onnx_files.check_onnx(self.folder / self.file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # would plan, and keep, memory for each shape of a batch
        options.log_severity_level = 4  # what goes wrong is raised as well
        self._session = onnxruntime.InferenceSession(
            str(self.folder / self.file),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=SLOW_FUSIONS,
        )
        _check_ends(self._session, len(self.labels), self._has_types)
        self._label([self.form.of_parts([each] * len(self.form.columns)) for each in ("", "a")])
        give_back_memory()

    def __call__(self, texts: Sequence[Any]) -> list[Any]:
        """The answer to each text, in order: with one label a text, a `task.single.Prediction`.

        Args:
            texts: strings; of a model of pairs, pairs of strings; of one of joined columns, mappings from
                their names to strings.

        Raises:
            TypeError: a text instead of several, or something that is no text of the model's kind.
        """
        logits, truncated = self.asked_logits(self._read(texts))
        outputs = self.task.outputs(logits)
        return [self.task.answer(row, cut) for row, cut in zip(outputs, truncated, strict=True)]

    def label(self, given: Any) -> Any:
        """Rows with their answers, in the columns that the verb `predict` adds.

        Args:
            given: a frame of pandas or polars, an Arrow table or a Dataset with the model's columns of text;
                or an iterable of texts.

        Returns:
            An object of the kind that came in; of an iterable a list of records.

        Raises:
            TypeError: it is something else, or a row has no text.
        """
        frame = frame_of(given)
        columns, names = self.form.columns, self.task.columns()
        texts = [self.form.text_from(text_in(row, self.form.kind, columns)) for row in frame.rows]
        cells = [self.task.cells(row) for row in self.task.outputs(self.asked_logits(texts)[0])]
        return frame.with_columns({name: [row[at] for row in cells] for at, name in enumerate(names)})

    def probs(self, texts: Sequence[Any]) -> np.ndarray:
        """Class probabilities, float32 (N, C), of texts; where the task is a number, the values (N, 1)."""
        return self.task.outputs(self.asked_logits(self._read(texts))[0])

    def keep_statistics(self, path: str | Path | None = None) -> Statistics:
        """Counts the texts that are asked about from now on, for `python -m lit_bert drift`; keeps no text.

        Args:
            path: a file that is written every few seconds and by `flush` of what comes back; one that is
                there goes on.

        Raises:
            UserError: the folder does not say what the model was validated on, or the file is of another one.
        """
        reference = read_reference(self.folder, self.file, self.task)
        reader = TextReader(self.form, self._tokenizer, self.long_texts)
        self._statistics = Statistics(reference, reader, Path(path) if path else None)
        return self._statistics

    def asked_logits(self, texts: Sequence[Text]) -> tuple[np.ndarray, list[bool]]:
        """`logits` of texts as `TextForm` makes them; those that somebody asks about are counted here."""
        logits, truncated = self._logits_of(texts)
        if self._statistics is not None and texts:
            self._statistics.add(texts, self.task.outputs(logits))
        return logits, truncated

    def _read(self, texts: Sequence[Any]) -> list[Text]:
        if isinstance(texts, str | Mapping):
            raise TypeError(f"expected {self.form.expected}")
        return [self.form.text_from(text) for text in texts]

    def _label(self, texts: Sequence[Text]) -> tuple[np.ndarray, list[bool]]:
        """Outputs (N, C), and of which texts a part was not read."""
        logits, truncated = self._logits_of(texts)
        return self.task.outputs(logits), truncated

    def logits(self, texts: Sequence[Any]) -> tuple[np.ndarray, list[bool]]:
        """What becomes outputs, float32 (N, C), and of which texts a part was not read."""
        return self.asked_logits(self._read(texts))

    def _logits_of(self, texts: Sequence[Text]) -> tuple[np.ndarray, list[bool]]:
        windows: list[np.ndarray] = []
        types: list[np.ndarray] = []
        counts: list[int] = []  # of the windows of each text
        truncated: list[bool] = []
        for start in range(0, len(texts), CHUNK):
            some = texts[start : start + CHUNK]
            for each in self.form.encode(self._tokenizer, some, self.max_length):
                parts = self.long_texts.parts(np.array(each.ids, np.int32))
                windows += parts
                if self._has_types:
                    types.append(np.array(each.type_ids, np.int32))
                counts.append(len(parts))
                truncated.append(bool(each.overflowing or self.long_texts.loses(np.array(len(each.ids)))))
        return pooled(self._logits(windows, types), counts, self.long_texts.pooling), truncated

    def explain(self, text: Any) -> list[Word]:
        """Which words pushed the text towards its label: each in turn is left out, and the label asked again.

        Words that the model does not read are not among them. Of a text of several windows, those of the
        windows that speak most for its label are, `EXPLAINED_WINDOWS` at most: a word's tokens are left out
        of each window that has them, and the others stay as they are.
        """
        whole = self.form.text_from(text)
        (encoding,) = self.form.encode(self._tokenizer, [whole], self.max_length, offsets=True)
        if isinstance(whole, str) and len(encoding.ids) > self.max_length:
            return self._explain_parts(whole, encoding)
        offsets = encoding.offsets
        parts, words = self.form.parts(whole), []
        for number, (first, last) in enumerate(self.form.part_spans(whole)):
            read = max((end for _, end in offsets if first < end <= last), default=first) - first
            matches = WORD.finditer(parts[number])
            words += [(number, *match.span()) for match in matches if match.start() < read]
        without = [
            self.form.of_parts([*parts[:number], f"{part[:start]} {part[end:]}", *parts[number + 1 :]])
            for number, start, end in words
            for part in [parts[number]]
        ]
        return self._words(words, self._label([whole, *without])[0])

    def _words(self, spans: list[tuple[int, int, int]], outputs: np.ndarray) -> list[Word]:
        """Words (part, start, end) by the outputs (1 + N, C) of a text and without each of N words."""
        support = self.task.support(outputs)[:, self.task.explained_class(outputs[0])]
        weights = support[0] - support[1:]
        return [
            Word(start, end, float(weight), number)
            for (number, start, end), weight in zip(spans, weights, strict=True)
        ]

    def _explain_parts(self, text: str, encoding: Any) -> list[Word]:
        """`explain` for a single text that is longer than the model takes at a time."""
        ids = np.array(encoding.ids, np.int32)
        windows = self.long_texts.parts(ids)
        places = self.long_texts.parts(np.arange(len(ids)))  # of each window's tokens, in the text's
        logits = self._logits(windows)
        label = self.task.explained_class(self._outputs(logits, [len(windows)])[0])
        for_label = self.task.support(self.task.outputs(logits))[:, label]
        starts, ends = np.array(encoding.offsets).T
        is_read = np.zeros(len(text) + 1, bool)  # by character
        for index in np.argsort(-for_label, kind="stable")[:EXPLAINED_WINDOWS]:
            for place in places[index]:
                is_read[starts[place] : ends[place]] = True
        spans = [match.span() for match in WORD.finditer(text)]
        words = [(0, start, end) for start, end in spans if is_read[start:end].any()]
        first, last = np.array([(place[0], place[-1]) for place in places]).T
        without: list[np.ndarray] = []  # windows that lack the tokens of a word
        of: list[tuple[int, int]] = []  # the number of the word and of the window, of each
        for number, (_, start, end) in enumerate(words):
            is_word = (starts < end) & (ends > start)
            some = np.flatnonzero(is_word)
            for index in np.flatnonzero((first <= some[-1]) & (last >= some[0])).tolist():
                if is_word[places[index]].any():
                    without.append(windows[index][~is_word[places[index]]])
                    of.append((number, index))
        by_word = np.repeat(pooled(logits, [len(windows)], self.long_texts.pooling), len(words) + 1, 0)
        found = zip(of, self._logits(without), strict=True)
        for number, some_of_word in itertools.groupby(found, lambda each: each[0][0]):
            changed = logits.copy()
            for (_, index), values in some_of_word:
                changed[index] = values
            by_word[number + 1] = pooled(changed, [len(windows)], self.long_texts.pooling)[0]
        return self._words(words, self.task.outputs(by_word))

    def _outputs(self, logits: np.ndarray, counts: list[int]) -> np.ndarray:
        """Outputs (N, C) of texts from the logits of their windows (W, C), so many of each."""
        return self.task.outputs(pooled(logits, counts, self.long_texts.pooling))

    def _logits(self, ids: list[np.ndarray], types: Sequence[np.ndarray] = ()) -> np.ndarray:
        """Logits, float32 (W, C), of windows.

        Args:
            types: of segments, of the windows' tokens; () where the network is not told them.
        """
        logits = np.empty((len(ids), len(self.labels)), np.float32)
        order = np.argsort([-len(each) for each in ids], kind="stable")
        batches, start = [], 0
        while start < len(order):
            texts = max(1, min(BATCH_SIZE, BATCH_TOKENS // len(ids[order[start]])))
            batches.append(order[start : start + texts])
            start += texts

        def run(rows: np.ndarray) -> None:
            segments = [types[row] for row in rows] if types else None
            inputs = padded_inputs([ids[row] for row in rows], self._pad_token_id, segments)
            try:
                found = self._session.run(None, inputs)[0]
            except Exception as error:  # onnxruntime has many of its own
                what = escape.line(" ".join(str(error).split()), 200)
                raise UserError(f"{self.folder / self.file} cannot label a text ({what}).") from None
            if found.shape != (len(rows), len(self.labels)):
                raise UserError(
                    f"{self.folder / self.file} gives logits of shape {found.shape} for {len(rows)} texts; "
                    f"config.json names {len(self.labels)} classes. Export it again."
                )
            logits[rows] = found

        if len(batches) > 1 and self.threads > 1:
            with ThreadPoolExecutor(min(self.threads, len(batches))) as pool:
                list(pool.map(run, batches))
        else:
            for rows in batches:
                run(rows)
        if not np.isfinite(logits).all():
            raise UserError(f"{self.folder / self.file} gives logits that are not finite. Export it again.")
        return logits


def label_cost(model: Any, texts: Sequence[Any], explain: bool = False) -> int:
    """About how many times a model is asked for the answers to texts, said without tokenizing them.

    Args:
        model: a Predictor, or what knows its `form`, `long_texts` and `max_length`.
        explain: whether the words of the first text are asked for.
    """
    is_in_windows = model.long_texts.mode == "windows"
    if not is_in_windows and not explain:
        return len(texts)
    form: TextForm = model.form
    parts_of = (form.parts(form.text_from(text)) for text in texts)
    words = [sum(len(WORD.findall(part)) for part in parts) for parts in parts_of]
    cost = len(texts)
    if is_in_windows:
        cost += sum(words) // (model.long_texts.size - model.long_texts.overlap)
    if explain:  # once more for each word that is read
        cost += min(words[0], model.max_length * (EXPLAINED_WINDOWS if is_in_windows else 1))
    return cost


def outputs_of(folder: Path, file: str) -> Callable[[Sequence[Text]], np.ndarray]:
    """From texts, joined already, to their outputs, float32 (N, C), by an ONNX file of the folder."""
    predictor = Predictor(folder, file=file)
    return lambda texts: predictor._label(texts)[0]


def _check_ends(session: Any, classes: int, has_types: bool) -> None:
    """Raises a UserError where the graph is not one from token ids to the logits of so many classes."""
    inputs = {each.name: (each.type, len(each.shape)) for each in session.get_inputs()}
    expected = ("input_ids", "attention_mask", *(["token_type_ids"] if has_types else []))
    if inputs != dict.fromkeys(expected, ("tensor(int64)", 2)):
        raise UserError(
            f"the graph has the inputs {inputs}; expected {', '.join(expected[:-1])} and {expected[-1]}"
        )
    outputs = session.get_outputs()
    shape: list[Any] = outputs[0].shape if len(outputs) == 1 else []
    if len(shape) != 2 or outputs[0].type != "tensor(float)" or shape[1] not in (None, classes):
        found = {each.name: (each.type, each.shape) for each in outputs}
        raise UserError(f"the graph has the outputs {found}; expected the logits of {classes} classes")


def give_back_memory() -> None:
    """Returns to the system what reading the model took for a moment, where the C library can."""
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL("libc.so.6").malloc_trim(0)
