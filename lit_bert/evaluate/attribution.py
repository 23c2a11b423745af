"""Which words pushed a prediction where: integrated gradients, from word pieces to words.

Reads a checkpoint and texts; the error report colours words with it.

    python -m lit_bert report
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lit_bert import UserError, require_package
from lit_bert.data.padding import pad, padded_inputs
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
        spans: character offsets (start, end) of the W words in `texts.display`, in order; nothing of a text
            past `max_length`.
        scores: float32 (W,); above 0 the word pushed towards the class, below 0 against it; in logits, or in
            the unit of the number.
        gap: what the class gained over the baseline, less the sum of `scores`; 0 but for the number of steps.
    """

    spans: list[tuple[int, int]]
    scores: np.ndarray
    gap: float


class Explainer:
    """Integrated gradients (Sundararajan et al., 2017, https://arxiv.org/abs/1703.01365) of a checkpoint.

    Along the straight line from a baseline to the text's word embeddings, the gradients of a class are summed
    up; the words' scores then add up to what the class gains on that line.

    - The class is its logit less the mean of all logits: the softmax does not see what all have in common.
      A sigmoid sees each logit for itself; of a number the logit is brought into the unit of the labels.
    - The baseline is the text with the mask token in the place of every word piece. Pretraining has taught
      the encoder that any word can stand there, so that the line starts from a text like those it knows, of
      the same length. An attended padding token it has never seen. Special tokens stay, and so get exactly 0.

    Args:
        network: a classifier of transformers.
        tokenizer: as `Weights.tokenizer` gives it.
        form: of the texts.
        task: that the network was trained for; None is one label a text.
    """

    def __init__(
        self, network: Any, tokenizer: Tokenizer, form: TextForm = SINGLE, task: Task | None = None
    ) -> None:
        self.network, self.tokenizer = network.eval().requires_grad_(False), tokenizer
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
        network = load_network(weights, checkpoint.model.label_names, task.problem_type)
        return cls(network, weights.tokenizer(settings.max_length), settings.texts, task)

    def within_budget(self, questions: Sequence[Sequence[Question]], budget: float = BUDGET) -> int:
        """How many groups of questions, from the first, can be answered in `budget` operations."""
        lengths = {group[0].text: 0 for group in questions if group}
        for text, encoding in zip(lengths, self.form.encode(self.tokenizer, list(lengths)), strict=True):
            lengths[text] = len(encoding.ids)
        # A multiplication and an addition a weight and token, forward and again backward.
        each = 4 * STEPS * self.encoder.layer_weights(self.network)
        spent = np.cumsum([each * sum(lengths[question.text] for question in group) for group in questions])
        return int(np.searchsorted(spent, budget, side="right"))

    def explain(self, questions: Sequence[Question]) -> list[Attribution]:
        """One answer a question, in their order."""
        texts = [question.text for question in questions]
        encodings = self.form.encode(self.tokenizer, texts, offsets=True)
        order = sorted(range(len(questions)), key=lambda index: len(encodings[index].ids))
        found: dict[int, Attribution] = {}
        for batch in _batches(order, [len(each.ids) * STEPS for each in encodings], BATCH_TOKENS):
            labels = [questions[index].label for index in batch]
            pieces, gaps = self._explain([encodings[index] for index in batch], labels)
            for index, scores, gap in zip(batch, pieces, gaps, strict=True):
                spans = words(encodings[index], scores, display(texts[index]))
                found[index] = Attribution(*spans, gap=float(gap))
        return [found[index] for index in range(len(questions))]

    def _explain(self, encodings: list[Encoding], labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Scores of word pieces, float32 (B, T), and the gaps (B,) of one batch."""
        import torch

        types = [each.type_ids for each in encodings] if self.has_types else None
        padded = padded_inputs([each.ids for each in encodings], self.pad_token_id, types)
        input_ids, *others = map(torch.from_numpy, padded.values())  # (B, T)
        # Padding, too, is as in the text.
        special = torch.from_numpy(pad([each.special_tokens_mask for each in encodings], 1)[0]).bool()
        scores, gaps = self._gradients.attribute(
            input_ids,
            baselines=torch.where(special, input_ids, self.baseline_id),
            target=torch.tensor(labels),
            additional_forward_args=tuple(others),
            n_steps=STEPS,
            method="gausslegendre",
            return_convergence_delta=True,
        )  # (B, T, H) and (B,)
        return scores.sum(-1).detach().float().numpy(), gaps.detach().neg().numpy()

    @cached_property
    def _gradients(self) -> Any:
        require_package("captum", "report")
        from captum.attr import LayerIntegratedGradients

        def explained(*inputs: Any) -> Any:
            logits = self.network(**dict(zip(INPUTS, inputs, strict=False))).logits  # (B, C)
            return logits - logits.mean(-1, keepdim=True) if self.is_centred else logits * self.unit

        return LayerIntegratedGradients(explained, self.encoder.words_of(self.network))


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
