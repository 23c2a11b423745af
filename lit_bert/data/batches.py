"""Token ids to batches: order, padding, and the rest of an epoch that was interrupted."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler

from lit_bert.data.cache import chunked
from lit_bert.data.cells import Numbered, text_in
from lit_bert.data.padding import padded_inputs
from lit_bert.data.windows import LongTexts
from lit_bert.io.texts import TextForm, whole_length

GROUP_BATCHES = 50  # batches sorted by length together in training
PREDICT_ROWS = 4096  # rows tokenized and sorted by length together in prediction

Batch = dict[str, Any]


def collate(items: list[dict[str, Any]], pad_token_id: int = 0, pooling: str = "mean") -> Batch:
    """Pads to the longest text, or window of a text, of the batch.

    Args:
        items: each with the token ids `input_ids`, or those of several `windows`.
        pooling: of the logits of a text's windows.

    Returns:
        `input_ids`, `attention_mask` and, of pairs, `token_type_ids`: int64 (B, T), right-padded; `labels` as
        the kind of task stores them, and every other key of the items: (B,) or (B, C). Where a text has
        several windows, the first are (W, T), and beside them stand `text_index`, int64 (W,), the place in
        the batch of each window's text, ascending, and `pooling`.
    """
    windows = [item["windows"] if "windows" in item else [item["input_ids"]] for item in items]
    types = [item["token_type_ids"] for item in items] if "token_type_ids" in items[0] else None
    padded = padded_inputs(list(itertools.chain(*windows)), pad_token_id, types)
    batch: Batch = {name: torch.from_numpy(value) for name, value in padded.items()}
    for key in items[0].keys() - {"input_ids", "windows", "token_type_ids"}:
        batch[key] = torch.from_numpy(np.array([item[key] for item in items]))
    if len(padded["input_ids"]) == len(items):
        return batch
    text_index = np.repeat(np.arange(len(items)), [len(each) for each in windows])
    return {**batch, "text_index": torch.from_numpy(text_index), "pooling": pooling}


class ClassQuotas(NamedTuple):
    """How many of the rows of an epoch have each class.

    Attributes:
        labels: of the rows, int (N,).
        counts: rows of each class, int64 (C,).
        quotas: that an epoch has of them, int64 (C,); they sum to N.
    """

    labels: np.ndarray
    counts: np.ndarray
    quotas: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, power: float) -> ClassQuotas:
        """Quotas in proportion to counts ** (1 - power), rounded by the largest remainder."""
        counts = np.bincount(labels)
        wanted = np.where(counts > 0, counts.astype(np.float64) ** (1 - power), 0.0)
        wanted *= len(labels) / wanted.sum()
        quotas = np.floor(wanted + 1e-9).astype(np.int64)
        most = np.argsort(quotas - wanted, kind="stable")
        quotas[most[: len(labels) - quotas.sum()]] += 1
        return cls(labels, counts, quotas)

    @property
    def mean_times(self) -> np.ndarray:
        """How often a row comes in an epoch, in the mean over epochs, float64 (N,)."""
        return (self.quotas / np.maximum(self.counts, 1))[self.labels]

    def drawn(self, generator: np.random.Generator) -> np.ndarray:
        """The indices of an epoch, int64 (N,), in random order.

        Those of a class come equally often, but for the rest of the division, which is drawn.
        """
        if (self.quotas == self.counts).all():
            return generator.permutation(len(self.labels))
        found = []
        for index in np.flatnonzero(self.counts):
            rows = np.flatnonzero(self.labels == index)
            whole, rest = divmod(int(self.quotas[index]), len(rows))
            found += [np.tile(rows, whole), generator.permutation(rows)[:rest]]
        return generator.permutation(np.concatenate(found))


class LengthGroupedSampler(Sampler[int]):
    """Every index once per epoch; each batch holds texts of like length, and batches come in random order.

    Indices are shuffled, cut into groups of `GROUP_BATCHES` batches and sorted by length within each; the
    batches are then shuffled. The order depends on (seed, epoch) alone. A short last batch stays last. With
    `quotas` there are as many indices, and each as often as these say.

    Args:
        lengths: tokens of each text, int (N,).
        batch_size: texts per batch over all devices.
        seed: with the epoch, the one source of randomness.
        quotas: of each class; None is every index once.
    """

    def __init__(
        self, lengths: np.ndarray, batch_size: int, seed: int = 0, quotas: ClassQuotas | None = None
    ) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0
        self.quotas = quotas

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self.seed, self.epoch))
        N = len(self.lengths)
        order = generator.permutation(N) if self.quotas is None else self.quotas.drawn(generator)
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
        form: TextForm,
        tokenizer: Any,
        long_texts: LongTexts,
        batch_size: int,
        pad_token_id: int,
        type_vocab_size: int = 0,
    ) -> None:
        self.rows, self.form, self.tokenizer, self.long_texts = rows, form, tokenizer, long_texts
        self.batch_size, self.pad_token_id = batch_size, pad_token_id
        self.has_types = form.token_types(tokenizer, type_vocab_size)

    def __iter__(self) -> Iterator[Batch]:
        for window, rows in enumerate(chunked(self.rows, PREDICT_ROWS)):
            texts = [text_in(each.row, self.form) or "" for each in rows]
            items, whole = [], []
            for each in self.form.encode(self.tokenizer, texts, self.long_texts.max_length):
                items.append(self._item(each))
                whole.append(whole_length(each))
            lengths = np.array(whole)
            lost = self.long_texts.loses(lengths)
            order = np.argsort(-self.long_texts.tokens(lengths), kind="stable")
            for some in chunked(order, self.batch_size):
                yield {
                    **collate([items[index] for index in some], self.pad_token_id, self.long_texts.pooling),
                    "numbered": [rows[index] for index in some],
                    "tokens": int(lengths[some].sum()),
                    "lost": int(lost[some].sum()),
                    "truncated": int((lost[some] > 0).sum()),
                    "window": window,
                }

    def _item(self, encoding: Any) -> dict[str, Any]:
        item: dict[str, Any] = {"windows": self.long_texts.parts(np.array(encoding.ids, dtype=np.int32))}
        return {**item, "token_type_ids": encoding.type_ids} if self.has_types else item


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
