"""Token ids to batches: order, padding, and the rest of an epoch that was interrupted."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler

from lit_bert.data.cache import chunked
from lit_bert.data.cells import Numbered, text_in
from lit_bert.data.padding import padded_inputs
from lit_bert.io.texts import TextForm

GROUP_BATCHES = 50  # batches sorted by length together in training
PREDICT_ROWS = 4096  # rows tokenized and sorted by length together in prediction

Batch = dict[str, Any]


def collate(items: list[dict[str, Any]], pad_token_id: int = 0) -> Batch:
    """Pads to the longest text of the batch.

    Returns:
        `input_ids`, `attention_mask` and, of pairs, `token_type_ids`: int64 (B, T), right-padded; `labels` as
        the kind of task stores them, and every other key of the items: (B,) or (B, C).
    """
    types = [item["token_type_ids"] for item in items] if "token_type_ids" in items[0] else None
    padded = padded_inputs([item["input_ids"] for item in items], pad_token_id, types)
    batch = {name: torch.from_numpy(value) for name, value in padded.items()}
    for key in items[0].keys() - {"input_ids", "token_type_ids"}:
        batch[key] = torch.from_numpy(np.array([item[key] for item in items]))
    return batch


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

    A batch has the inputs of the network (B, T), `numbered` (the rows, in the batch's order),
    `truncated` (how many of its texts were cut) and `window`, which grows by one as soon as every row of the
    last is out.
    """

    def __init__(
        self,
        rows: Iterable[Numbered],
        form: TextForm,
        tokenizer: Any,
        batch_size: int,
        pad_token_id: int,
        type_vocab_size: int = 0,
    ) -> None:
        self.rows, self.form, self.tokenizer = rows, form, tokenizer
        self.batch_size, self.pad_token_id = batch_size, pad_token_id
        self.has_types = form.token_types(tokenizer, type_vocab_size)

    def __iter__(self) -> Iterator[Batch]:
        for window, rows in enumerate(chunked(self.rows, PREDICT_ROWS)):
            texts = [text_in(each.row, self.form) or "" for each in rows]
            encodings = self.form.encode(self.tokenizer, texts)
            order = sorted(range(len(rows)), key=lambda index: -len(encodings[index].ids))
            for some in chunked(order, self.batch_size):
                items = [{"input_ids": encodings[index].ids} for index in some]
                if self.has_types:
                    for item, index in zip(items, some, strict=True):
                        item["token_type_ids"] = encodings[index].type_ids
                batch = collate(items, self.pad_token_id)
                yield {
                    **batch,
                    "numbered": [rows[index] for index in some],
                    "truncated": sum(bool(encodings[index].overflowing) for index in some),
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
