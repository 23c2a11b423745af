"""Texts with more tokens than the encoder takes: overlapping windows, head and tail, or a cut at the end.

From the token ids of whole texts to what the model reads of them, and from the logits of windows to those of
their text. Without torch, as the predictor uses it, too.

    python -m lit_bert fit --data.long_texts windows --data.window_overlap 32
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lit_bert import UserError
from lit_bert.io import escape, tokenizers
from lit_bert.io.texts import TextForm
from lit_bert.io.untrusted import is_count

MODES = ("windows", "head_tail", "cut")
POOLINGS = ("mean", "max")
MANY_LONG = 0.05  # a larger share of long texts among those to train on is read in windows, if nothing is set
HEAD = 4  # head_tail keeps 1 part of so many of the beginning: 128 of 510 in Sun et al. (2019)
CUT = {  # what is kept, by the form of a text
    "single": "the first",
    "pair": "the first, fewer of the longer text",
    "joined": "the first of each column",
}
# What is set for windows alone, and the value that is no setting.
WINDOW_SETTINGS = {"window_overlap": None, "window_pooling": "mean", "train_windows": 8}


@dataclass(frozen=True)
class LongTexts:
    """What is read of a text with more tokens than the encoder takes.

    Attributes:
        mode: windows (all of it), head_tail (a quarter of `max_length` from its beginning, the rest from its
            end; Sun et al., 2019, https://arxiv.org/abs/1905.05583) or cut (its beginning).
        max_length: tokens that the encoder takes, special ones included: the size of a window.
        overlap: tokens that a window has in common with the one before it.
        pooling: of the logits of a text's windows: their mean or, class by class, their maximum.
        before, after: special tokens at the two ends of every text, and so of every window.
    """

    mode: str
    max_length: int
    overlap: int = 0
    pooling: str = "mean"
    before: int = 1
    after: int = 1

    @classmethod
    def of(
        cls, tokenizer: Any, mode: str, max_length: int, overlap: int | None = None, pooling: str = "mean"
    ) -> LongTexts:
        """That of a tokenizer.

        Args:
            overlap: None is a quarter of a window's tokens, without the special ones.

        Raises:
            UserError: a window would not get on from the one before it.
        """
        special = tokenizers.encode(tokenizer, ["a"])[0].special_tokens_mask
        before = special.index(0)
        after = len(special) - before - special.count(0)
        size = max_length - before - after
        overlap = size // 4 if overlap is None else overlap
        if mode == "windows" and not 0 <= overlap < size:
            raise UserError(
                f"data.window_overlap is {overlap}; a window of {max_length} tokens has {size} of a text; "
                f"expected 0 to {size - 1}. Lower it, or raise --data.max_length."
            )
        return cls(mode, max_length, overlap if mode == "windows" else 0, pooling, before, after)

    @classmethod
    def of_settings(cls, tokenizer: Any, settings: Any, mode: str | None = None) -> LongTexts:
        """That of the arguments of EmotionDataModule, by attribute.

        Args:
            mode: in the place of an unset one.
        """
        mode = settings.long_texts or mode
        assert mode is not None, "nothing has decided what is done with long texts"
        return cls.of(tokenizer, mode, settings.max_length, settings.window_overlap, settings.window_pooling)

    @property
    def size(self) -> int:
        """Tokens of the text in a window."""
        return self.max_length - self.before - self.after

    def parts(self, ids: np.ndarray) -> list[np.ndarray]:
        """What the model reads of a text's token ids (T,): the ids themselves where they fit, else copies.

        Several only with windows, which are in the order of the text and each have the special tokens.
        """
        if len(ids) <= self.max_length:
            return [ids]
        start, content, end = np.split(ids, [self.before, len(ids) - self.after])
        if self.mode == "windows":
            step = self.size - self.overlap
            places = range(0, len(content) - self.overlap, step)
            return [np.concatenate((start, content[at : at + self.size], end)) for at in places]
        head = self.size // HEAD if self.mode == "head_tail" else self.size
        tail = content[len(content) - (self.size - head) :]
        return [np.concatenate((start, content[:head], tail, end))]

    def counts(self, lengths: np.ndarray) -> np.ndarray:
        """How many parts texts of so many tokens have, int64 (N,)."""
        if self.mode != "windows":
            return np.ones(len(lengths), np.int64)
        more = np.maximum(lengths - self.max_length, 0)
        return 1 - (-more // (self.size - self.overlap))

    def tokens(self, lengths: np.ndarray, most: int | None = None) -> np.ndarray:
        """How many tokens the model computes for texts of so many, int64 (N,), in `most` windows at most."""
        counts = self.counts(lengths)
        shared = (counts - 1) * (self.overlap + self.before + self.after)
        read = lengths + shared if self.mode == "windows" else np.minimum(lengths, self.max_length)
        return read if most is None else np.minimum(read, most * self.max_length)

    def loses(self, lengths: np.ndarray) -> np.ndarray:
        """How many tokens of texts of so many are not read, int64 (N,)."""
        return 0 * lengths if self.mode == "windows" else np.maximum(lengths - self.max_length, 0)

    def described(self, lengths: np.ndarray, form: TextForm) -> str:
        """What becomes of the long ones among texts of so many tokens, the end of a sentence."""
        if self.mode == "windows":
            most = int(self.counts(lengths).max())
            return (
                f"are read in windows of {self.max_length} tokens, {self.overlap} of them shared with the "
                f"one before (--data.long_texts windows: up to {most:,} a text; {self.pooling} of logits)"
            )
        kept = (
            f"the first {self.size // HEAD} and the last, in all"
            if self.mode == "head_tail"
            else CUT[form.kind]
        )
        lost = self.loses(lengths).sum() / lengths.sum()
        return (
            f"are cut at {self.max_length} tokens (--data.long_texts {self.mode}: {kept}), which loses "
            f"{lost:.1%} of the split's tokens"
        )


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuses settings of a data module about long texts that say nothing, or contradict each other.

    Raises:
        UserError: says which.
    """
    mode = settings["long_texts"]
    if mode is not None and mode not in MODES:
        raise UserError(f"data.long_texts is {mode}; expected {' or '.join(MODES)}, or null.")
    if settings["window_pooling"] not in POOLINGS:
        raise UserError(
            f"data.window_pooling is {settings['window_pooling']}; expected {' or '.join(POOLINGS)}."
        )
    if mode not in (None, "windows"):
        for name, value in WINDOW_SETTINGS.items():
            if settings[name] != value:
                raise UserError(
                    f"data.{name} is {settings[name]}, but data.long_texts is {mode}, which has no windows. "
                    "Leave it out, or set --data.long_texts windows."
                )


def check_form(settings: Mapping[str, Any], form: TextForm) -> None:
    """Refuses settings about long texts that the texts of a form do not have: all of them but `cut`.

    Raises:
        UserError: says which.
    """
    if form.kind == "single":
        return
    unset = {"long_texts": None, **WINDOW_SETTINGS}
    for name, value in unset.items():
        if settings[name] not in (value, "cut"):
            raise UserError(
                f"data.{name} is {settings[name]}, but the texts are {form.described}, which are cut where "
                "they are long. Leave it out, or name one column with --data.text_column."
            )


def chosen_mode(settings: Mapping[str, Any], lengths: np.ndarray) -> str:
    """What is done with long texts where single texts of so many tokens are trained on."""
    if settings["long_texts"] is not None:
        return settings["long_texts"]
    asked = any(settings[name] != value for name, value in WINDOW_SETTINGS.items())
    return "windows" if asked or (lengths > settings["max_length"]).mean() > MANY_LONG else "cut"


# --- token ids


def draw_windows(items: list[dict[str, Any]], most: int, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """The items of a training batch with `most` of their windows each, drawn anew for other `seeds`.

    Which are drawn of a row depends on `seeds` and on its number (`rows`) alone.
    """
    found = []
    for item in items:
        if len(windows := item.get("windows", ())) > most:
            generator = np.random.default_rng((*seeds, int(item["rows"])))
            drawn = np.sort(generator.choice(len(windows), most, replace=False))
            item = {**item, "windows": [windows[index] for index in drawn]}
        found.append(item)
    return found


# --- logits


def pooled(logits: np.ndarray, counts: Sequence[int], pooling: str) -> np.ndarray:
    """Logits of texts, float32 (N, C), from those of their windows (W, C).

    Args:
        counts: windows of each text, N numbers of 1 or more.
    """
    if len(logits) == len(counts):
        return logits
    starts = np.cumsum([0, *counts[:-1]])
    if pooling == "max":
        return np.maximum.reduceat(logits, starts)
    return np.add.reduceat(logits, starts) / np.array(counts, np.float32)[:, None]


def as_sentence(long_texts: LongTexts) -> str:
    """What is done with long texts, for readers of a model card."""
    each = long_texts
    if each.mode == "windows":
        how = (
            f"are read whole, in windows of {each.max_length} tokens, each with {each.overlap} in common "
            f"with the one before; the logits of a text are the {each.pooling} of those of its windows"
        )
    elif each.mode == "head_tail":
        how = f"are read at their two ends: the first {each.size // HEAD} and the last tokens"
    else:
        how = "are cut there"
    others = (
        "" if each.mode == "cut" else " The pipeline of transformers knows nothing of this and cuts them."
    )
    return f"Texts of more than {each.max_length} tokens {how}.{others}"


# --- an exported folder


def as_config(long_texts: LongTexts) -> dict[str, Any]:
    """What the config.json of an exported folder says of it, beside the tokenizer's maximum length."""
    each = long_texts
    return {"mode": each.mode, "overlap": each.overlap, "pooling": each.pooling}


def of_config(value: Any, tokenizer: Any, max_length: int) -> LongTexts:
    """What a config.json says; None is a cut, as earlier exports and other tools have it.

    Raises:
        UserError: it is not what `as_config` gives.
    """
    if value is None:
        return LongTexts("cut", max_length)
    valid = (
        isinstance(value, dict)
        and value.keys() == {"mode", "overlap", "pooling"}
        and value["mode"] in MODES
        and value["pooling"] in POOLINGS
        and is_count(value["overlap"], max_length)
    )
    if not valid:
        raise UserError(
            f"config.json says {escape.line(value, 100)} of long texts; expected mode, overlap and pooling"
        )
    return LongTexts.of(tokenizer, value["mode"], max_length, value["overlap"], value["pooling"])
