"""Which words pushed a prediction where: integrated gradients, from word pieces to words.

Reads a checkpoint and texts; the error report colours words with it.

    python -m lit_bert report
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lit_bert import UserError, require_package
from lit_bert.data.padding import pad, padded_inputs
from lit_bert.data.windows import LongTexts
from lit_bert.encoders.table import encoder_of
from lit_bert.io import escape, untrusted
from lit_bert.io.texts import SINGLE, Text, TextForm, display
from lit_bert.model.logits import INPUTS
from lit_bert.model.pretrained import load_network
from lit_bert.sources.checkpoint import BEST, Checkpoint
from lit_bert.sources.weights import Weights
from lit_bert.task.base import Task

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# Points of the Gauss-Legendre rule. Over 60 texts of the sample's validation split, MiniLM after one epoch,
# the words' scores miss what the predicted class gains (3.6 in the median) by a median of 0.23 with 8 points,
# 0.022 with 16, 0.002 with 24. The page says how much it is for its own texts.
STEPS = 24
BATCH_TOKENS = 8192  # padded tokens a forward pass, all points counted
BUDGET = 8e12  # floating-point operations, in 32 bits: about a minute on two cores


class Question(NamedTuple):
    """Why this class, for this text? Of a number the label is 0."""

    text: Text
    label: int


@dataclass(frozen=True)
class Attribution:
    """What each word of a text did for a class, or for the number.

    Attributes:
        spans: character offsets (start, end) of the W words in `texts.display`, in order; nothing that the
            model does not read.
        scores: float32 (W,); above 0 the word pushed towards the class, below 0 against it; in logits, or in
            the unit of the number.
        gap: what the class gained over the baseline, less the sum of `scores`; 0 but for the number of steps.
    """

    spans: list[tuple[int, int]]
    scores: np.ndarray
    gap: float


class _Part(NamedTuple):
    """What the model reads of a text at a time: all of it, or a window."""

    text: int  # the number of its question
    places: np.ndarray  # int64 (T,), of its tokens, in the text's
    ids: np.ndarray  # int64 (T,)
    types: np.ndarray  # int64 (T,), of segments
    special: np.ndarray  # int64 (T,), 1 for special tokens
    weights: np.ndarray  # float32 (C,), by what its logits count


class Explainer:
    """Integrated gradients (Sundararajan et al., 2017, https://arxiv.org/abs/1703.01365) of a checkpoint.

    Along the straight line from a baseline to the text's word embeddings, the gradients of a class are summed
    up; the words' scores then add up to what the class gains on that line.

    - The class is its logit less the mean of all logits: the softmax does not see what all have in common.
      A sigmoid sees each logit for itself; of a number the logit is brought into the unit of the labels.
    - The baseline is the text with the mask token in the place of every word piece. Pretraining has taught
      the encoder that any word can stand there, so that the line starts from a text like those it knows, of
      the same length. An attended padding token it has never seen. Special tokens stay, and so get exactly 0.
    - Of a text that is read in windows, each window has a line of its own. With the mean of their logits a
      word gets the sum over the windows that have it, each by its share of the mean, which adds up to what
      the text gains. With their maximum, windows count for the classes whose maximum they have at the text.

    Args:
        network: a classifier of transformers.
        tokenizer: as `Weights.tokenizer` gives it.
        form: of the texts.
        task: that the network was trained for; None is one label a text.
        long_texts: what is read of long texts; None is as much as the tokenizer leaves.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Tokenizer,
        form: TextForm = SINGLE,
        task: Task | None = None,
        long_texts: LongTexts | None = None,
    ) -> None:
        self.network, self.tokenizer = network.eval().requires_grad_(False), tokenizer
        if long_texts is None:
            truncation: Any = tokenizer.truncation
            long_texts = LongTexts.of(tokenizer, "cut", int(truncation["max_length"]))
        self.long_texts = long_texts
        tokenizer.no_truncation()
        self.encoder, self.pad_token_id = encoder_of(network), network.config.pad_token_id or 0
        self.form = form
        self.is_centred = task is None or task.label_form == "class"
        self.unit = 1.0 if task is None else task.unit
        self.has_types = form.token_types(tokenizer, getattr(network.config, "type_vocab_size", 0))
        known = (tokenizer.token_to_id(token) for token in (self.encoder.mask_token, "[UNK]", "<unk>"))
        self.baseline_id = next((token for token in known if token is not None), self.pad_token_id)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Explainer:
        """That of a trained checkpoint, on the CPU, in 32 bits."""
        weights = Weights(checkpoint=str(checkpoint.path))
        settings = checkpoint.data.settings
        task = checkpoint.task
        tokenizer = weights.tokenizer(settings.max_length)
        long_texts = LongTexts.of_settings(tokenizer, settings)
        network = load_network(weights, checkpoint.model.label_names, task.problem_type)
        return cls(network, tokenizer, settings.texts, task, long_texts)

    def within_budget(self, questions: Sequence[Sequence[Question]], budget: float = BUDGET) -> int:
        """How many groups of questions, from the first, can be answered in `budget` operations."""
        lengths = {group[0].text: 0 for group in questions if group}
        for text, encoding in zip(lengths, self._encode(list(lengths)), strict=True):
            lengths[text] = sum(map(len, self._parts(np.array(encoding.ids))))
        # A multiplication and an addition a weight and token, forward and again backward.
        each = 4 * STEPS * self.encoder.layer_weights(self.network)
        spent = np.cumsum([each * sum(lengths[question.text] for question in group) for group in questions])
        return int(np.searchsorted(spent, budget, side="right"))

    def explain(self, questions: Sequence[Question]) -> list[Attribution]:
        """One answer a question, in their order."""
        texts = [question.text for question in questions]
        encodings = list(self._encode(texts, offsets=True))
        pieces = [np.zeros(len(each.ids), np.float32) for each in encodings]  # scores of tokens
        gaps = np.zeros(len(questions))
        parts: list[_Part] = []
        for index, (question, encoding) in enumerate(zip(questions, encodings, strict=True)):
            places = self._parts(np.arange(len(encoding.ids)))
            ids, types, special = (
                self._parts(np.array(each))
                for each in (encoding.ids, encoding.type_ids, encoding.special_tokens_mask)
            )
            weights = self._weights(ids, question.label)
            parts += map(_Part, [index] * len(ids), places, ids, types, special, weights)
        parts = [each for each in parts if each.weights.any()]
        order = sorted(range(len(parts)), key=lambda index: len(parts[index].ids))
        for batch in _batches(order, [len(each.ids) * STEPS for each in parts], BATCH_TOKENS):
            some = [parts[index] for index in batch]
            for part, scores, gap in zip(some, *self._explain(some), strict=True):
                pieces[part.text][part.places] += scores[: len(part.places)]  # no place comes twice
                gaps[part.text] += gap
        return [
            Attribution(*self._read_words(encoding, scores, display(text)), gap=float(gap))
            for encoding, scores, text, gap in zip(encodings, pieces, texts, gaps, strict=True)
        ]

    def _parts(self, values: np.ndarray) -> list[np.ndarray]:
        """Those of a text's values, one a token, that each part has which the model reads."""
        return self.long_texts.parts(values)

    def _encode(self, texts: Sequence[Text], offsets: bool = False) -> Iterator[Any]:
        return self.form.encode(self.tokenizer, texts, self.long_texts.max_length, offsets)

    def _weights(self, parts: Sequence[np.ndarray], label: int) -> np.ndarray:
        """By what the logits of a text's parts count for a class, float32 (W, C)."""
        classes = self.network.config.num_labels
        of_label = np.eye(classes, dtype=np.float32)[label]
        explained = (
            of_label - np.float32(1 / classes) if self.is_centred else of_label * np.float32(self.unit)
        )
        if self.long_texts.pooling == "mean" or len(parts) == 1:
            return np.tile(explained / len(parts), (len(parts), 1))
        logits = self._logits(parts)
        weights = np.zeros_like(logits)
        weights[logits.argmax(0), np.arange(classes)] = explained
        return weights

    def _logits(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Logits, float32 (W, C), of parts of a text."""
        import torch

        found = []
        some = max(1, BATCH_TOKENS // max(map(len, parts)))
        with torch.inference_mode():
            for start in range(0, len(parts), some):
                padded = pad(parts[start : start + some], self.pad_token_id)
                input_ids, attention_mask = map(torch.from_numpy, padded)
                found.append(self.network(input_ids=input_ids, attention_mask=attention_mask).logits.numpy())
        return np.concatenate(found)

    def _read_words(
        self, encoding: Encoding, scores: np.ndarray, text: str
    ) -> tuple[list[tuple[int, int]], np.ndarray]:
        """`words`, without those of which the model reads nothing."""
        spans, sums = words(encoding, scores, text)
        is_read = np.zeros(len(text) + 1, bool)  # by character
        for place in np.concatenate(self._parts(np.arange(len(encoding.ids)))):
            is_read[slice(*encoding.offsets[place])] = True
        kept = [is_read[start:end].any() for start, end in spans]
        return list(itertools.compress(spans, kept)), sums[np.array(kept, bool)]

    def _explain(self, parts: Sequence[_Part]) -> tuple[np.ndarray, np.ndarray]:
        """Scores of word pieces, float32 (B, T), and the gaps (B,) of one batch."""
        import torch

        types = [each.types for each in parts] if self.has_types else None
        padded = padded_inputs([each.ids for each in parts], self.pad_token_id, types)
        input_ids, *others = map(torch.from_numpy, padded.values())  # (B, T)
        # Padding, too, is as in the text.
        special = torch.from_numpy(pad([each.special for each in parts], 1)[0]).bool()
        weights = torch.from_numpy(np.stack([each.weights for each in parts]))  # (B, C)
        scores, gaps = self._gradients.attribute(
            input_ids,
            baselines=torch.where(special, input_ids, self.baseline_id),
            additional_forward_args=(weights, *others),
            n_steps=STEPS,
            method="gausslegendre",
            return_convergence_delta=True,
        )  # (B, T, H) and (B,)
        return scores.sum(-1).detach().float().numpy(), gaps.detach().neg().numpy()

    @cached_property
    def _gradients(self) -> Any:
        require_package("captum", "report")
        from captum.attr import LayerIntegratedGradients

        def weighted(input_ids: Any, weights: Any, *others: Any) -> Any:
            inputs = dict(zip(INPUTS, (input_ids, *others), strict=False))
            return (self.network(**inputs).logits * weights).sum(-1)

        return LayerIntegratedGradients(weighted, self.encoder.words_of(self.network))


def words(
    encoding: Encoding, scores: np.ndarray, text: str | None = None
) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Character offsets of a text's words, and each one's score: the sum of those of its pieces.

    A piece of white space, as byte-level tokenizers have them, counts to the word after it.

    Args:
        encoding: of T tokens.
        scores: float (T or more,).
        text: where it is given, words start after the white space that their first piece includes.
    """
    spans: list[tuple[int, int]] = []
    sums: list[float] = []
    last: int | None = None
    space = 0.0  # score of white space whose word is yet to come
    for word, (start, end), score in zip(encoding.word_ids, encoding.offsets, scores, strict=False):
        if word is None and start == end:  # special tokens
            continue
        while text is not None and start < end and text[start].isspace():
            start += 1
        if start >= end:
            space += float(score)
        elif spans and word is not None and word == last:
            spans[-1] = spans[-1][0], max(end, spans[-1][1])
            sums[-1] += float(score)
        else:
            spans.append((start, end))
            sums.append(float(score) + space)
            space = 0.0
        last = word
    if sums:
        sums[-1] += space
    return spans, np.array(sums, dtype=np.float32)


def _batches(order: Sequence[int], sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Runs of `order`, whose sizes rise, padded to at most `most` each, unless one alone is larger."""
    batch: list[int] = []
    for index in order:
        if batch and sizes[index] * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def checkpoint_of(facts: dict[str, Any], predictions_file: Path) -> Checkpoint:
    """The checkpoint that predictions came from: beside them, of the name that they give, else best.ckpt.

    No other folder is looked into, as the file that names it may come from anywhere; and where it says what
    the checkpoint's bytes were, another one is not opened.

    Raises:
        UserError: it is gone, or is not the one any more that was scored.
    """
    name = Path(str(facts.get("checkpoint"))).name
    named = predictions_file.with_name(name if name.endswith(".ckpt") else BEST)
    path = named if named.is_file() else predictions_file.with_name(BEST)
    if not path.is_file():
        raise UserError(f"there is no checkpoint {escape.line(named)}.")
    with untrusted.open_regular(path) as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if facts.get("sha256") not in (None, found):
        raise UserError(f"{path} was written anew after these texts were scored; score them again.")
    return Checkpoint.open(path)
