"""What is counted of texts, whatever a model says of them: how long they are, how the tokenizer takes them.

python -m lit_bert drift checkpoints/version_0/best.ckpt new.csv
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from lit_bert.data.windows import LongTexts
from lit_bert.io.texts import Text, TextForm, display


class TextFacts(NamedTuple):
    """What is counted of texts, whatever a model says of them.

    Attributes:
        length: tokens that are read, or of a text in windows all, (N,).
        unknown: whether the tokenizer does not know a piece, bool (N,).
        pieces: tokens a word, float (N,); NaN of texts that were cut.
    """

    length: np.ndarray
    unknown: np.ndarray
    pieces: np.ndarray

    @classmethod
    def of(
        cls, texts: Sequence[Text], encodings: Iterable[Any], max_length: int, unknown: int | None
    ) -> Self:
        """Of texts with their encodings, which may be cut or not.

        Args:
            max_length: tokens that are read of a text.
            unknown: the id of what the tokenizer does not know.
        """
        lengths, has_unknown, pieces = [], [], []
        for text, each in zip(texts, encodings, strict=True):
            ids = each.ids[:max_length]
            words = len(display(text).split())
            lengths.append(len(ids))
            has_unknown.append(unknown is not None and unknown in ids)
            pieces.append(len(ids) / max(words, 1) if len(ids) < max_length else np.nan)
        return cls(np.array(lengths), np.array(has_unknown, bool), np.array(pieces, float))


def unknown_id(tokenizer: Any) -> int | None:
    """The id of what a tokenizer does not know; None where it knows all."""
    model = json.loads(tokenizer.to_str())["model"]
    if (found := model.get("unk_id")) is not None:
        return int(found)
    token = model.get("unk_token")
    return None if token is None else tokenizer.token_to_id(token)


class TextReader:
    """Counts what texts are like.

    Args:
        form: of the texts.
        tokenizer: of the model; of pairs and joined columns one that cuts nothing off.
        long_texts: what is read of long ones.
    """

    def __init__(self, form: TextForm, tokenizer: Any, long_texts: LongTexts) -> None:
        self.form, self.tokenizer, self.long_texts = form, tokenizer, long_texts
        self._unknown = unknown_id(tokenizer)
        self._limit = sys.maxsize if long_texts.mode == "windows" else long_texts.max_length

    def facts(self, texts: Sequence[Text]) -> TextFacts:
        """What is counted of texts."""
        encodings = self.form.encode(self.tokenizer, texts, self.long_texts.max_length)
        return TextFacts.of(texts, encodings, self._limit, self._unknown)
