"""Token ids to batches: order, padding, and the rest of an epoch that was interrupted."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler

from lit_bert.data.cache import chunked
from lit_bert.data.cells import Numbered, text_of
from lit_bert.data.padding import pad
from lit_bert.data.windows import LongTexts, encode_by_characters

GROUP_BATCHES = 50  # batches sorted by length together in training
PREDICT_ROWS = 4096  # rows tokenized and sorted by length together in prediction

Batch = dict[str, Any]


def collate(items: list[dict[str, Any]], pad_token_id: int = 0, pooling: str = "mean") -> Batch:
    """Pads to the longest text, or window of a text, of the batch.

    Args:
        items: each with the token ids `input_ids`, or those of several `windows`.
        pooling: of the logits of a text's windows.

    Returns:
        `input_ids` and `attention_mask`: int64 (B, T), right-padded; every other key of the items: int64
        (B,). Where a text has several windows, the first two are (W, T), and beside them stand `text_index`,
        int64 (W,), the place in the batch of each window's text, ascending, and `pooling`.
    """
    windows = [item["windows"] if "windows" in item else [item["input_ids"]] for item in items]
    input_ids, attention_mask = pad(list(itertools.chain(*windows)), pad_token_id)
    batch = {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy(attention_mask),
    }
    for key in items[0].keys() - {"input_ids", "windows"}:
        batch[key] = torch.from_numpy(np.array([item[key] for item in items], dtype=np.int64))
    if len(input_ids) == len(items):
        return batch
    text_index = np.repeat(np.arange(len(items)), [len(each) for each in windows])
    return {**batch, "text_index": torch.from_numpy(text_index), "pooling": pooling}


class LengthGroupedSampler(Sampler[int]):
    """Every index once per epoch; each batch holds texts of like length, and batches come in random order.

    Indices are shuffled, cut into groups of `GROUP_BATCHES` batches and sorted by length within each; the
    batches are then shuffled. The order depends on (seed, epoch) alone. A short last batch stays last.

    Args:
        lengths: tokens of each text, int (N,).
        batch_size: texts per batch over all devices.
        seed: with the epoch, the one source of randomness.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int = 0) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(len(self.lengths))
        size = GROUP_BATCHES * self.batch_size
        for start in range(0, len(order), size):
            group = order[start : start + size]
            order[start : start + size] = group[np.argsort(-self.lengths[group], kind="stable")]
        whole = len(order) // self.batch_size * self.batch_size
        batches = order[:whole].reshape(-1, self.batch_size)
        for index in generator.permutation(len(batches)):
            yield from batches[index].tolist()  # all at once they would take 40 bytes a row
        yield from order[whole:].tolist()


class PredictionBatches(IterableDataset):
    """Ready batches from a stream of rows, tokenized and sorted by length in windows of `PREDICT_ROWS`.

    A batch has what `collate` makes of texts, `numbered` (the rows, in the batch's order), `tokens` and
    `lost` (how many its texts have, and how many of them are not read), `truncated` (how many of its texts
    lose some) and `window`, which grows by one as soon as every row of the last is out.

    Args:
        tokenizer: which cuts nothing off.
    """

    def __init__(
        self,
        rows: Iterable[Numbered],
        column: str,
        tokenizer: Any,
        long_texts: LongTexts,
        batch_size: int,
        pad_token_id: int,
    ) -> None:
        self.rows, self.column, self.tokenizer, self.long_texts = rows, column, tokenizer, long_texts
        self.batch_size, self.pad_token_id = batch_size, pad_token_id

    def __iter__(self) -> Iterator[Batch]:
        for window, rows in enumerate(chunked(self.rows, PREDICT_ROWS)):
            texts = [text_of(each.row[self.column]) or "" for each in rows]
            encodings = encode_by_characters(self.tokenizer, texts)
            ids = [np.array(each.ids, dtype=np.int32) for each in encodings]
            lengths = np.array([len(each) for each in ids])
            lost = self.long_texts.loses(lengths)
            order = np.argsort(-self.long_texts.tokens(lengths), kind="stable")
            for some in chunked(order, self.batch_size):
                items = [{"windows": self.long_texts.parts(ids[index])} for index in some]
                yield {
                    **collate(items, self.pad_token_id, self.long_texts.pooling),
                    "numbered": [rows[index] for index in some],
                    "tokens": int(lengths[some].sum()),
                    "lost": int(lost[some].sum()),
                    "truncated": int((lost[some] > 0).sum()),
                    "window": window,
                }


class TrainingLoader(DataLoader):
    """A DataLoader whose first epoch can go on where an earlier process left it.

    Lightning's way, loaders with a state, does not load it where the number of steps was asked for before:
    https://github.com/Lightning-AI/pytorch-lightning/issues/20550

    Attributes:
        skip: batches of the first epoch that are not handed out.
    """

    skip = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # a plain iterator is one
        skip, self.skip = self.skip, 0
        yield from itertools.islice(super().__iter__(), skip, None)
