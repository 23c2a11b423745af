"""Labelled text to batches: tokenized once into a memory-mapped cache, grouped by length, padded per batch.

Steps 2 and 3 of the journey. A split is tokenized the first time a run needs it, into an Arrow file under
`$LIT_BERT_CACHE` whose folder is named by everything that changes the result; later runs only map the file.
Rows without a text or without a label are skipped there and counted; rows keep the numbers that they have in
their file. What a cell is as a text and as a label, `tables.text_of` and `tables.label_of` say.

    python -m lit_bert fit --data.dataset reviews.csv --data.text_column review --data.label_column stars
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import itertools
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from filelock import FileLock
from lightning.pytorch import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSamplerWrapper
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, SequentialSampler

from lit_bert import UserError, escape, untrusted
from lit_bert.sources import SAMPLE, Corpus, Source, Weights, cache_root, find_corpus
from lit_bert.tables import (
    QUOTING,
    BadRow,
    CellError,
    Numbered,
    label_of,
    missing_column,
    near_column,
    text_of,
)

log = logging.getLogger(__name__)

CACHE_FORMAT = 3  # part of every cache key: raise it when what is written changes
TOKENIZE_ROWS = 1000  # rows tokenized, and held, at a time
GROUP_BATCHES = 50  # batches sorted by length together in training
PREDICT_ROWS = 4096  # rows tokenized and sorted by length together in prediction
NO_TEXT, NO_LABEL = "without a text", "without a label"  # why a row is skipped
FIRST_SKIPPED = 10  # rows skipped for one reason whose numbers are kept
SHOWN_LABELS = 20  # of a list in a message

Batch = dict[str, Any]


@dataclass
class Skipped:
    """Rows of a split that were skipped for one reason: how many, and the numbers of the first from 1."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.first) else ""
        return f"{self.count:,} (row{'s' * (self.count > 1)} {', '.join(self.first)}{more})"


@dataclass(frozen=True)
class RowCounts:
    """What became of the rows of a split in one part of a run. The numbers add up.

    Attributes:
        split: its name.
        read: rows it has.
        skipped: those that could not be used, by reason.
        left_out: those that a setting leaves to another part or to none, by that setting.
        used: the others: trained on, validated on, or scored.
    """

    split: str
    read: int
    skipped: dict[str, Skipped]
    left_out: dict[str, int]
    used: int

    def __post_init__(self) -> None:
        lost = sum(each.count for each in self.skipped.values()) + sum(self.left_out.values())
        assert self.read == lost + self.used, f"rows do not add up: {self}"

    def __str__(self) -> str:
        parts = [f"{self.read:,} read"]
        parts += [f"{each} {reason} skipped" for reason, each in self.skipped.items()]
        parts += [f"{count:,} left out by {why}" for why, count in self.left_out.items()]
        return ", ".join([*parts, f"{self.used:,} used"])

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a record."""
        return asdict(self)


class TokenizedRows(Dataset):
    """Rows of one tokenized split, read from a memory-mapped Arrow file without copies.

    Memory grows with the rows, by less than 100 bytes each, and not with the length of the texts.

    Attributes:
        key: name of the file's folder, which changes with what is in it.
        skipped: rows of the split that could not be used, by reason; {} for a view.
        rows: int64 (N,), the rows that this view shows, in its order, by their numbers in the split from 0;
            skipped rows have numbers too. A split of several files is counted through.
        labels: int64 (N,), class indices.
        lengths: int64 (N,), tokens of each text, special ones included.
        hashes: uint64 (N,), `text_hash` of each text; read from the file each time, as `truncated` is.
        truncated: bool (N,), whether the text was cut.
    """

    def __init__(self, file: Path) -> None:
        import datasets

        self.key = file.parent.name
        self._table = datasets.Dataset.from_file(str(file))
        chunks = self._table.data.column("input_ids").chunks
        self._values = [chunk.values.to_numpy() for chunk in chunks]
        offsets = [chunk.offsets.to_numpy() for chunk in chunks]
        self._starts = np.concatenate([each[:-1] for each in offsets])
        self._lengths = np.concatenate([np.diff(each) for each in offsets])
        sizes = [len(each) for each in chunks]
        self._chunk = np.repeat(np.arange(len(chunks), dtype=np.int32), sizes)
        self._first_rows = np.cumsum([0, *sizes])  # of each chunk
        self._labels = self._table.data.column("labels").to_numpy()
        self._numbers = self._table.data.column("row").to_numpy()  # ascending
        self._indices = np.arange(len(self._starts))  # of the Arrow file's rows
        self.skipped: dict[str, Skipped] = {}

    def view(self, indices: np.ndarray) -> TokenizedRows:
        """The same file, showing only those rows of this view, in that order."""
        other = object.__new__(TokenizedRows)
        other.__dict__.update(self.__dict__, _indices=self._indices[indices], skipped={})
        return other

    @property
    def rows(self) -> np.ndarray:
        return self._numbers[self._indices]

    @property
    def labels(self) -> np.ndarray:
        return self._labels[self._indices]

    @property
    def lengths(self) -> np.ndarray:
        return self._lengths[self._indices].astype(np.int64)

    @property
    def hashes(self) -> np.ndarray:
        return self._column("hash")

    @property
    def truncated(self) -> np.ndarray:
        return self._column("truncated")

    def _column(self, name: str) -> np.ndarray:
        return self._table.data.column(name).to_numpy()[self._indices]

    @property
    def fingerprint(self) -> str:
        """Changes with the file and with the rows of it that this view shows."""
        digest = hashlib.sha256(self.key.encode())
        digest.update(np.ascontiguousarray(self._indices).data)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        place = self._indices[index]
        start = self._starts[place]
        input_ids = self._values[self._chunk[place]][start : start + self._lengths[place]]
        return {"input_ids": input_ids, "labels": self._labels[place], "rows": self._numbers[place]}

    def texts(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """The texts of rows, given by their numbers in the split, as they were before tokenizing."""
        # One by one: `take` would first copy the whole column, since it has several chunks.
        chunks, chunk_of, first = self._table.data.column("text").chunks, self._chunk, self._first_rows
        places = self._numbers.searchsorted(np.asarray(rows, dtype=np.int64))
        return [chunks[chunk_of[place]][place - first[chunk_of[place]]].as_py() for place in places]

    def all_texts(self) -> Iterator[str]:
        """The texts of this view, read piece by piece."""
        for start in range(0, len(self), TOKENIZE_ROWS):
            yield from self.texts(self.rows[start : start + TOKENIZE_ROWS])

    def found_in(self, texts: Iterable[str]) -> np.ndarray:
        """Indices of the rows of this view whose text is one of `texts`, int64, ascending."""
        hashes = self.hashes
        order = hashes.argsort()
        hashes = hashes[order]
        found: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
        done: set[str] = set()  # a text may come a million times
        for some in _chunks(texts, TOKENIZE_ROWS):
            wanted = np.array([text_hash(text) for text in some], dtype=np.uint64)
            starts, ends = hashes.searchsorted(wanted), hashes.searchsorted(wanted, "right")
            for index in np.flatnonzero(starts < ends):
                if (text := some[index]) not in done:
                    done.add(text)
                    like = order[starts[index] : ends[index]]
                    same = [other == text for other in self.texts(self.rows[like])]
                    found.append(like[np.array(same)])
        return np.unique(np.concatenate(found))


def text_hash(text: str) -> int:
    """64 bits of a text, the same in every process. Equal ones have to be compared: they may collide."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def collate(items: list[dict[str, Any]], pad_token_id: int = 0) -> Batch:
    """Pads to the longest text of the batch.

    Returns:
        `input_ids` and `attention_mask`: int64 (B, T), right-padded; every other key of the items: int64
        (B,).
    """
    lengths = np.array([len(item["input_ids"]) for item in items])
    mask = np.arange(lengths.max()) < lengths[:, None]  # (B, T)
    input_ids = np.full(mask.shape, pad_token_id, dtype=np.int64)
    input_ids[mask] = np.concatenate([item["input_ids"] for item in items])
    batch = {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)),
    }
    for key in items[0].keys() - {"input_ids"}:
        batch[key] = torch.from_numpy(np.array([item[key] for item in items], dtype=np.int64))
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

    A batch has `input_ids` and `attention_mask` (B, T), `numbered` (the rows, in the batch's order),
    `truncated` (how many of its texts were cut) and `window`, which grows by one as soon as every row of the
    last is out.
    """

    def __init__(
        self, rows: Iterable[Numbered], column: str, tokenizer: Any, batch_size: int, pad_token_id: int
    ) -> None:
        self.rows, self.column, self.tokenizer = rows, column, tokenizer
        self.batch_size, self.pad_token_id = batch_size, pad_token_id

    def __iter__(self) -> Iterator[Batch]:
        for window, rows in enumerate(_chunks(self.rows, PREDICT_ROWS)):
            encodings = untrusted.encode(
                self.tokenizer, [text_of(each.row[self.column]) or "" for each in rows]
            )
            order = sorted(range(len(rows)), key=lambda index: -len(encodings[index].ids))
            for some in _chunks(order, self.batch_size):
                batch = collate([{"input_ids": encodings[index].ids} for index in some], self.pad_token_id)
                yield {
                    **batch,
                    "numbered": [rows[index] for index in some],
                    "truncated": sum(bool(encodings[index].overflowing) for index in some),
                    "window": window,
                }


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class _Reading:
    """One pass over a split: its rows with a text and a label, and how many were skipped.

    Iterating gives, for each row that can be used, its number in the split from 0 with the row itself, its
    text, and its label as `tables.label_of` has it (or its code in a ClassLabel column).

    Args:
        data: whose columns and split to read.
        split: its name.
        labelled: whether the label is needed; else it is not looked at, and "" given.

    Attributes:
        read: rows so far.
        skipped: those of them that were, by reason.
    """

    def __init__(self, data: EmotionDataModule, split: str, labelled: bool = True) -> None:
        self.data, self.split, self.labelled = data, split, labelled
        self.read = 0
        self.skipped: dict[str, Skipped] = {}
        self._is_code = labelled and bool(data._own_names(split))
        self._spellings: dict[str, str] = {}  # of a label without the white space around it: one with it
        self._joined: dict[str, tuple[str, str]] = {}

    def __iter__(self) -> Iterator[tuple[tuple[int, Numbered], str, str]]:
        settings = self.data.hparams
        wanted = [settings.text_column, *([settings.label_column] if self.labelled else [])]
        unseen, columns = set(wanted), dict[str, None]()
        for index, numbered in enumerate(self.data.corpus.splits[self.split]()):
            self.read += 1
            row = numbered.row
            if isinstance(row, BadRow):
                raise UserError(
                    f"{self._place(numbered)}: {row.problem}. Mend or remove the row and run again."
                )
            if unseen:
                columns.update(dict.fromkeys(row))
                unseen -= row.keys()
            for column in wanted:
                if column not in row and near_column(column, row) is not None:
                    raise missing_column(column, row, self._flag(column), self._place(numbered))
            text = self._cell(numbered, settings.text_column, text_of)
            label = self._label(numbered) if self.labelled and text is not None else ""
            if text is not None and label is not None:
                yield (index, numbered), text, label
            elif not unseen:
                self._skip(numbered, NO_TEXT if text is None else NO_LABEL)
            else:  # perhaps no row has the column, which is another matter: told at the end
                self._skip(numbered, NO_TEXT if text is None else NO_LABEL, refuse=False)
        if self.read and unseen:
            column = next(each for each in wanted if each in unseen)
            where = f"split {self.split} of {self.data.source.name}"
            raise missing_column(column, columns, self._flag(column), where)

    def _place(self, numbered: Numbered) -> str:
        return f"{numbered.place} of split {self.split} of {self.data.source.name}"

    def _flag(self, column: str) -> str:
        return "text_column" if column == self.data.hparams.text_column else "label_column"

    def _cell(self, numbered: Numbered, column: str, convert: Callable[[Any], str | None]) -> str | None:
        assert isinstance(numbered.row, dict)
        try:
            return convert(numbered.row.get(column))
        except CellError as error:
            wanted = "a label" if convert is label_of else "a text"
            raise UserError(
                f"{self._place(numbered)} has {error} in column '{escape.line(column, 100)}'; expected "
                f"{wanted}. Mend the row, or name another column with --data.{self._flag(column)}."
            ) from None

    def _label(self, numbered: Numbered) -> str | None:
        assert isinstance(numbered.row, dict)
        value = numbered.row.get(self.data.hparams.label_column)
        label = self._cell(numbered, self.data.hparams.label_column, label_of)
        if self._is_code and label == "-1":  # how `datasets` says that a row has no label
            return None
        if label is not None and isinstance(value, str) and self._spellings.setdefault(label, value) != value:
            self._joined.setdefault(label, (self._spellings[label], value))
        return label

    def _skip(self, numbered: Numbered, reason: str, refuse: bool = True) -> None:
        if refuse and self.data.hparams.missing == "refuse":
            raise self.data._refused(f"{numbered.place} of split {self.split}", reason)
        skipped = self.skipped.setdefault(reason, Skipped())
        skipped.count += 1
        if len(skipped.first) < FIRST_SKIPPED:
            where = f" of {escape.line(numbered.file)}" if numbered.file else ""
            skipped.first.append(f"{numbered.number}{where}")

    def notes(self) -> list[str]:
        """What was done to labels that a person may not expect."""
        return [
            f"labels '{escape.line(first, 60)}' and '{escape.line(other, 60)}' of split {self.split} are one "
            "class: white space around a label is cut"
            for first, other in list(self._joined.values())[:SHOWN_LABELS]
        ]


class _Labels:
    """From the labels of a split to class indices.

    A label is found by its name. Codes (whole numbers where no class is called like one) are translated only
    by an order that the file gives (ClassLabel) or the user (`data.label_names`).

    Args:
        data: whose settings hold.
        split: its name.
        names: the class names in the order of their indices.
    """

    def __init__(self, data: EmotionDataModule, split: str, names: list[str]) -> None:
        self.data, self.split, self.names = data, split, names
        self.index_of = {name: index for index, name in enumerate(names)}
        self.codes: list[str] | None = data._own_names(split) or None  # by the file: every label is a code
        self.order: list[str] | None = None  # by the user: a label may be a code, where no class is so called
        self.translated: dict[str, str] = {}  # codes by an order of the user
        given = data.hparams.label_names
        self._renamed = bool(self.codes) and not set(self.codes or ()) & set(names)
        if self._renamed:
            if not given or len(given) != len(self.codes or ()):
                raise UserError(
                    f"the file of split {split} of {data.source.name} names the classes "
                    f"{_listed(self.codes or ())}; the classes here are {_listed(names)}. Expected the same "
                    "names; or say what its codes 0, 1, 2, … mean with --data.label_names, a name for each."
                )
            self.codes = given
        elif not self.codes and not any(map(_is_whole, names)):
            self.order = given

    def index(self, numbered: Numbered, label: str) -> int:
        """The class index of a row's label."""
        assert isinstance(numbered.row, dict)
        value, name = numbered.row[self.data.hparams.label_column], label
        if self.codes and isinstance(value, int) and 0 <= value < len(self.codes):
            name = self.codes[value]
            if self._renamed:
                self.translated[label] = name
        elif self.order and _is_whole(label) and 0 <= int(label) < len(self.order):
            name = self.translated[label] = self.order[int(label)]
        if name in self.index_of:
            return self.index_of[name]
        if _is_whole(name) and not any(map(_is_whole, self.names)):
            raise self.codes_beside_names()
        raise UserError(
            f"{numbered.place} of split {self.split} of {self.data.source.name} has the label "
            f"'{escape.line(name, 100)}', none of the {len(self.names)} known ones: {_listed(self.names)}. "
            "Mend the row, or name all classes with --data.label_names when training."
        )

    def codes_beside_names(self) -> UserError:
        """The labels of the split beside the classes, for a person to see what the codes may mean."""
        found: dict[str, None] = {}
        for _, _, label in _Reading(self.data, self.split):
            found[label] = None
            if len(found) > SHOWN_LABELS:
                break
        labels = sorted(found, key=lambda name: (int(name) if _is_whole(name) else -1, name))
        given = self.data.hparams.label_names
        order = f", and data.label_names is {_listed(given)}" if given else ""
        return UserError(
            f"the labels in split {self.split} of {self.data.source.name} are {_listed(labels)}; the classes "
            f"are {_listed(self.names)}{order}. Nothing says which code means which class: give the names in "
            "the order of the codes 0, 1, 2, … with --data.label_names, or write names into the file."
        )

    def notes(self) -> list[str]:
        """How codes were translated."""
        pairs = [f"{code} as {escape.line(name, 60)}" for code, name in sorted(self.translated.items())]
        more = ", …" if len(pairs) > SHOWN_LABELS else ""
        read = ", ".join(pairs[:SHOWN_LABELS]) + more
        return [f"label codes of split {self.split} are read by --data.label_names: {read}"] if pairs else []


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


class EmotionDataModule(LightningDataModule):
    """Labelled text, tokenized once and cached; made for `emotion`, good for any text with one label.

    Args:
        dataset: a CSV, TSV, JSON Lines or Parquet file; a folder with train.*, validation.* and test.* of
            those kinds, with a folder of such files for each split, or as `datasets` saves it; `sample` for
            the packaged corpus; or `owner/name:configuration@revision` on the Hub, the last two parts as
            needed.
        stand_in: what to use when the Hub cannot be asked and nothing is cached: `sample`, or null to make
            that an error.
        text_column: column with the text, a string or a whole number.
        label_column: column with the label: a string (white space around it is cut), a number or a boolean.
        label_names: class names in the order of their indices, and of the codes 0, 1, 2, … where this data
            has codes for labels: a list, or the names with commas between them (a name with a comma in
            quotes, as in CSV). null takes them from the data (its ClassLabel feature, else the sorted values
            in the training split).
        quoting: how `"` in CSV and TSV files is taken: `csv` for cells in quotes, which may hold line ends;
            `none` for a letter like any other; `auto` reads a file in both ways to find out, and asks where
            both give rows.
        missing: what to do with rows that have no text or no label: `skip` them, counted, or `refuse` them.
        train_split: split to train on. A single file is the split `train`.
        val_split: split to validate on (in the data it may also be called val, valid, dev, development or
            eval); carved from the training split where the data has none.
        test_split: split that `test` scores.
        val_fraction: share of the training split, class by class, that becomes the validation split where the
            data has none.
        train_rows: train on that many rows only, taken after a shuffle; null takes all.
        val_rows: validate on that many rows only, taken after a shuffle; null takes all.
        subset_seed: seed of those shuffles, of the carving and of the folds; with 42 `train_rows` picks the
            same rows as `Dataset.shuffle(seed=42)` of the tutorial.
        deduplicate: whether to leave out of training the rows whose exact text also stands in the validation
            or the test split. The one setting under which fit reads the texts of the test split (where there
            is one); never its labels.
        folds: cross-validation: cut the training split into that many parts, class by class, and validate on
            one of them instead of on the validation split; null does not.
        fold: which of the folds to validate on, from 0.
        order_seed: seed of the order of training batches.
        max_length: tokens a text is cut at, special ones included.
        batch_size: texts per optimizer step and device.
        eval_batch_size: texts per batch and device in validation, test and prediction.
        weights: whose tokenizer to use.

    Attributes:
        counts: what became of the rows of each part (`train`, `validation`, `test`) that was set up.
    """

    if TYPE_CHECKING:
        hparams: Any  # Lightning types it as a mapping; it has attributes as well

    def __init__(
        self,
        dataset: str = "dair-ai/emotion:split",
        stand_in: str | None = SAMPLE,
        text_column: str = "text",
        label_column: str = "label",
        label_names: list[str] | str | None = None,
        quoting: Literal["auto", "csv", "none"] = "auto",
        missing: Literal["skip", "refuse"] = "skip",
        train_split: str = "train",
        val_split: str = "validation",
        test_split: str = "test",
        val_fraction: float = 0.1,
        train_rows: int | None = None,
        val_rows: int | None = None,
        subset_seed: int = 42,
        deduplicate: bool = False,
        folds: int | None = None,
        fold: int = 0,
        order_seed: int = 0,
        max_length: int = 128,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        weights: Weights | None = None,
    ) -> None:
        super().__init__()
        label_names = _names(label_names) if isinstance(label_names, str) else label_names
        # Not to the logger: there the model's `label_names` would meet the unset one here.
        self.save_hyperparameters(ignore=["weights"], logger=False)
        self.weights = weights or Weights()
        self.counts: dict[str, RowCounts] = {}
        self.skip_batches = 0  # of the first epoch, that an earlier process trained on
        self._splits: dict[str, TokenizedRows] = {}
        self._duplicates: np.ndarray | None = None
        self._predict_rows: Iterable[Numbered] | None = None
        self._restored_source: Source | None = None
        for name, least in {"batch_size": 1, "eval_batch_size": 1, "train_rows": 1, "val_rows": 1}.items():
            value = self.hparams[name]
            if value is not None and value < least:
                raise UserError(f"data.{name} is {value}; expected at least {least}.")
        for name, choices in {"quoting": QUOTING, "missing": ("skip", "refuse")}.items():
            if self.hparams[name] not in choices:
                raise UserError(f"data.{name} is {self.hparams[name]}; expected {' or '.join(choices)}.")
        if not 0 < val_fraction < 1:
            raise UserError(f"data.val_fraction is {val_fraction}; expected a share between 0 and 1.")
        if folds is not None and folds < 2:
            raise UserError(
                f"data.folds is {folds}; expected at least 2 parts, or null for no cross-validation."
            )
        if folds is None and fold:
            raise UserError(f"data.fold is {fold}, but there are no folds; set --data.folds as well.")
        if folds is not None and not 0 <= fold < folds:
            raise UserError(f"data.fold is {fold}; expected 0 to {folds - 1}, as data.folds is {folds}.")

    # --- what is known of the data ---

    @cached_property
    def corpus(self) -> Corpus:
        """The text, found but not read."""
        settings = self.hparams
        return find_corpus(settings.dataset, settings.stand_in, self._have_fit_splits, settings.quoting)

    @property
    def source(self) -> Source:
        """Where the text really came from."""
        return self._restored_source or self.corpus.source

    @property
    def label_names(self) -> list[str]:
        """Class names in the order of their indices: the model's, the given ones, or those in the data."""
        given = self.hparams.label_names
        if given and not all(name.strip() for name in given):
            raise UserError(f"data.label_names is {_listed(given)}, with an empty name; expected names.")
        double = [name for name, count in Counter(given or ()).items() if count > 1]
        if double:
            raise UserError(
                f"data.label_names has '{escape.line(double[0], 100)}' twice; expected different names."
            )
        known = self.weights.class_names
        if given and known and set(given) != set(known):
            raise UserError(
                f"data.label_names is {_listed(given)}, but the classes of the model are {_listed(known)}; "
                "expected the same names, in the order of the label codes."
            )
        names = known or given
        if not names:
            fingerprint = self.corpus.fingerprint(self._split_name("train_split"))
            names = remembered(self._labels_note(fingerprint), self._find_label_names)
        if given and len(given) < 2:
            raise UserError(f"data.label_names is {_listed(given)}; expected at least two names.")
        if len(names) < 2:
            split = self.hparams.train_split
            raise self._too_few(
                split, f"only the class '{escape.line(names[0], 100)}'" if names else "no rows"
            )
        return names

    def _find_label_names(self) -> list[str]:
        split = self._split_name("train_split")
        return self._own_names(split) or self._names_in_train()

    def _own_names(self, split: str) -> list[str]:
        """The names in a ClassLabel column, in the order of their codes; [] where it is none."""
        return [name.strip() for name in self.corpus.class_names(self.hparams.label_column, split) or ()]

    @property
    def _split_names(self) -> list[str]:
        if self.source.kind != "hub" or not self.source.revision:
            return list(self.corpus.splits)
        note = self._splits_note(self.corpus.fingerprint(self.hparams.train_split))
        return remembered(note, lambda: list(self.corpus.splits))

    def _split_name(self, flag: str) -> str:
        """What the corpus calls the split that a setting names.

        Raises:
            UserError: there is none, or there are several.
        """
        corpus, wanted = self.corpus, self.hparams[flag]
        name = corpus.own_names.get(wanted, wanted)
        if corpus.splits and name in corpus.candidates:
            there = corpus.candidates[name]
            raise UserError(
                f"{self.source.name} has {len(there)} splits for {name}: {', '.join(there)}. Move all but "
                f"one away, or say which it is with --data.{flag}, as in --data.{flag} {there[0]}."
            )
        if corpus.splits and name not in corpus.splits:
            raise self._no_split(flag, wanted, corpus.splits)
        return name

    def _has_split(self, flag: str) -> bool:
        corpus, wanted = self.corpus, self.hparams[flag]
        name = corpus.own_names.get(wanted, wanted)
        return name in corpus.candidates or name in self._split_names

    def _names_in_train(self) -> list[str]:
        """The sorted names in the label column; whole numbers in numeric order."""
        reading = _Reading(self, self._split_name("train_split"))
        names = {label for _, _, label in reading}
        whole = all(_is_whole(name) for name in names)
        return sorted(names, key=lambda name: (int(name) if whole else 0, name))

    def _no_split(self, flag: str, wanted: str, there: Iterable[str]) -> UserError:
        there = sorted(there)
        has = f"it has {', '.join(escape.line(name, 100) for name in there)}"
        one = f"Name another with --data.{flag}, for example --data.{flag} {there[0]}."
        if flag == "test_split":  # best are rows that were not trained on
            one = (
                f"Name another with --data.test_split, score the validation rows with --data.test_split "
                f"{self.hparams.val_split}, or other rows with --data.dataset FILE --data.test_split train."
            )
        return UserError(f"{self.source.name} has no split '{wanted}'; {has}. {one}")

    # --- the cache ---

    def _labels_note(self, fingerprint: str) -> Path:
        # The text column, too: a row without a text is skipped with its label.
        parts = (fingerprint, self.hparams.train_split, self.hparams.text_column, self.hparams.label_column)
        return cache_root() / "labels" / f"{cache_key(parts)}.json"

    def _splits_note(self, fingerprint: str) -> Path:
        return cache_root() / "splits" / f"{cache_key((fingerprint,))}.json"

    def _split_folder(self, fingerprint: str, split: str, label_names: list[str]) -> Path:
        tokenizer = self.weights.tokenizer_files["tokenizer.json"]
        columns = (self.hparams.text_column, self.hparams.label_column, label_names, self._codes)
        key = cache_key((fingerprint, split, *columns, tokenizer, self.hparams.max_length))
        return cache_root() / "tokens" / key

    def _have_fit_splits(self, fingerprint: str) -> bool:
        """Whether training needs nothing but the cache."""
        notes = [self._labels_note(fingerprint), self._splits_note(fingerprint)]
        if not all(note.is_file() for note in notes):
            return False
        found, splits = (json.loads(note.read_text(encoding="utf-8")) for note in notes)
        if self.hparams.train_split not in splits or self.hparams.val_split not in (*splits, "validation"):
            return False  # by another name, which only the data knows
        wanted = {self.hparams.train_split}
        if not self.hparams.folds:
            wanted |= {self.hparams.val_split} & set(splits)
        names = self.weights.class_names or self.hparams.label_names or found
        return all(self._split_folder(fingerprint, split, names).is_dir() for split in wanted)

    @property
    def _codes(self) -> list[str] | None:
        """The given order of label codes, where it is not that of the classes."""
        return self.hparams.label_names if self.weights.class_names else None

    def _tokenized(self, flag: str) -> TokenizedRows:
        """A split as the data has it, tokenized now if it never was."""
        split = self._split_name(flag)
        if split not in self._splits:
            folder = self._split_folder(self.corpus.fingerprint(split), split, self.label_names)
            if not folder.is_dir():
                if split not in self._readers():
                    raise self._no_split(flag, split, self.corpus.splits)
                self._tokenize(split, folder)
            facts = json.loads((folder / "split.json").read_text(encoding="utf-8"))
            skipped = {reason: Skipped(**each) for reason, each in facts["skipped"].items()}
            if facts["order"] not in (None, self.hparams.label_names):  # given when it was tokenized, not now
                self._readers()
                raise _Labels(self, split, self.label_names).codes_beside_names()
            if skipped and self.hparams.missing == "refuse":
                reason, each = next(iter(skipped.items()))
                raise self._refused(f"row {each.first[0]} of split {split}", reason)
            for note in facts["notes"]:
                log.info(note)
            if facts["truncated"]:
                log.info(
                    f"{facts['truncated']:,} of {facts['rows']:,} texts of split {split} are cut at "
                    f"{self.hparams.max_length} tokens (--data.max_length)"
                )
            rows = TokenizedRows(folder / "rows.arrow")
            rows.skipped = skipped
            self._splits[split] = rows
        return self._splits[split]

    def _readers(self) -> dict[str, Callable[[], Iterator[Numbered]]]:
        """The corpus's splits, to be read."""
        if not self.corpus.splits:  # found by its pinned revision alone: now it has to be asked for
            self.__dict__["corpus"] = find_corpus(self.hparams.dataset, None, quoting=self.hparams.quoting)
        return self.corpus.splits

    def _tokenize(self, split: str, folder: Path) -> None:
        """Writes `rows.arrow` (tokens, labels and the columns of an audit) and `split.json` (counts)."""
        from datasets import ClassLabel, Features, List, Value
        from datasets.arrow_writer import ArrowWriter

        tokenizer = self.weights.tokenizer(self.hparams.max_length)
        names = self.label_names
        labels = _Labels(self, split, names)
        features = Features(
            {
                "row": Value("int64"),
                "text": Value("string"),
                "input_ids": List(Value("int32")),
                "labels": ClassLabel(names=names),
                "hash": Value("uint64"),
                "truncated": Value("bool"),
            }
        )
        reading = _Reading(self, split)
        kept = truncated = 0

        def write(partial: Path) -> None:
            nonlocal kept, truncated
            partial.mkdir()
            with ArrowWriter(path=str(partial / "rows.arrow"), features=features) as writer:
                for rows in _chunks(reading, TOKENIZE_ROWS):
                    texts = [text for _, text, _ in rows]
                    encodings = untrusted.encode(tokenizer, texts)
                    cut = [bool(each.overflowing) for each in encodings]
                    truncated += sum(cut)
                    kept += len(rows)
                    batch = {
                        "row": np.array([index for (index, _), _, _ in rows]),
                        "text": texts,
                        "input_ids": [np.array(each.ids, dtype=np.int32) for each in encodings],
                        "labels": [labels.index(numbered, label) for (_, numbered), _, label in rows],
                        "hash": np.array([text_hash(text) for text in texts], dtype=np.uint64),
                        "truncated": np.array(cut),
                    }
                    writer.write_batch(batch)
                if not kept:
                    raise self._no_rows(split, reading)
                writer.finalize()
            assert reading.read == kept + sum(each.count for each in reading.skipped.values())
            facts = {
                "rows": kept,
                "truncated": truncated,
                "read": reading.read,
                "skipped": {reason: asdict(each) for reason, each in reading.skipped.items()},
                "order": self.hparams.label_names if labels.translated else None,
                "notes": [*self.corpus.notes(split), *reading.notes(), *labels.notes()],
            }
            (partial / "split.json").write_text(json.dumps(facts), encoding="utf-8")

        write_atomically(folder, write)

    def _no_rows(self, split: str, reading: _Reading) -> UserError:
        why = "".join(f", {each} {reason}" for reason, each in reading.skipped.items())
        return UserError(
            f"split {split} of {self.source.name} has no rows to use: {reading.read:,} read{why}. Add rows, "
            "or name other columns with --data.text_column and --data.label_column."
        )

    def _too_few(self, split: str, found: str) -> UserError:
        return UserError(
            f"split {split} of {self.source.name} has {found}; expected at least two classes. "
            "Add rows, or name another column with --data.label_column."
        )

    def _refused(self, place: str, reason: str) -> UserError:
        return UserError(
            f"{place} of {self.source.name} is {reason} (column '{self._column_of(reason)}'), and "
            "data.missing is refuse. Mend or remove the row, or skip such rows with --data.missing skip."
        )

    def _column_of(self, reason: str) -> str:
        return escape.line(self.hparams.text_column if reason == NO_TEXT else self.hparams.label_column, 100)

    # --- LightningDataModule ---

    def prepare_data(self) -> None:
        """Tokenizes the splits that the stage needs, once. Fit never tokenizes the test split."""
        if self._predict_rows is not None:
            return
        stage = self.trainer.state.fn if self.trainer else "fit"
        if stage == "fit":
            self._train_part()
        if stage in ("fit", "validate"):
            self._val_part()
        if stage == "test":
            self._test_part()

    def setup(self, stage: str) -> None:
        """Maps the splits that the stage needs, and counts what became of their rows."""
        if stage == "fit":
            part = self._train_part()
            self.train_rows = self._subset(part, self.hparams.train_rows)
            self._count_train(part)
        if stage in ("fit", "validate"):
            part = self._val_part()
            self.val_rows = _by_length(self._subset(part, self.hparams.val_rows))
            self._count_val(part)
        if stage == "fit":
            classes = np.unique(self.val_rows.labels)
            if len(classes) == 1:
                name = escape.line(self.label_names[classes[0]], 100)
                log.info(
                    f"validation has only the class '{name}': its scores choose the epoch and say nothing of "
                    "the other classes"
                )
        if stage == "test":
            part = self._test_part()
            self.test_rows = _by_length(part)
            if self._test_is_val:
                self._count_val(part, "test", len(part))
            else:
                self._count("test", self._split_name("test_split"), {}, len(part))

    def _count(self, part: str, split: str, left_out: dict[str, int], used: int) -> None:
        whole = self._splits[split]
        read = len(whole) + sum(each.count for each in whole.skipped.values())
        left_out = {why: count for why, count in left_out.items() if count}
        self.counts[part] = RowCounts(split, read, whole.skipped, left_out, used)

    def _count_train(self, part: TokenizedRows) -> None:
        split = self._split_name("train_split")
        before = len(self._carved()[0]) if self._carves else len(self.whole())
        left_out = {
            self.carving: len(self.whole()) - before,
            "data.deduplicate": before - len(part),
            "data.train_rows": len(part) - len(self.train_rows),
        }
        self._count("train", split, left_out, len(self.train_rows))

    def _count_val(self, part: TokenizedRows, name: str = "validation", used: int | None = None) -> None:
        flag = "train_split" if self._carves else "val_split"
        used = len(self.val_rows) if used is None else used
        whole = self._splits[self._split_name(flag)]
        left_out = {self.carving: len(whole) - len(part), "data.val_rows": len(part) - used}
        self._count(name, self._split_name(flag), left_out, used)

    @property
    def carving(self) -> str:
        """The setting by which the training split gives rows to validation."""
        return "data.folds" if self.hparams.folds else "data.val_fraction"

    @property
    def val_name(self) -> str:
        """What the validation part is called."""
        folds, fold = self.hparams.folds, self.hparams.fold
        return f"fold {fold} of {folds} of {self.hparams.train_split}" if folds else self.hparams.val_split

    def parts(self) -> dict[str, TokenizedRows]:
        """All rows of the training, validation and (where there is one) test part, by their names.

        Tokenizes what never was, the test split too: for an audit, not for training.
        """
        train = self._carved()[0] if self._carves else self.whole()
        train.skipped = self.whole().skipped
        found = {self.hparams.train_split: train, self.val_name: self._val_part()}
        if self._has_split("test_split") and self.hparams.test_split not in found:
            found[self.hparams.test_split] = self._tokenized("test_split")
        return found

    def whole(self) -> TokenizedRows:
        """The training split as the data has it, which folds are cut from."""
        return self._tokenized("train_split")

    @property
    def _carves(self) -> bool:
        """Whether the validation part is a part of the training split."""
        wanted = self.hparams.val_split
        if self.hparams.folds:
            return True
        if self._has_split("val_split"):
            return False
        if wanted != "validation":  # asked for by name, so not made up
            raise self._no_split("val_split", wanted, self._split_names)
        return True

    def _train_part(self) -> TokenizedRows:
        rows = self._carved()[0] if self._carves else self.whole()
        if self.hparams.deduplicate:
            rows = rows.view(self._not_elsewhere(rows))
        if np.count_nonzero(np.bincount(rows.labels)) < 2:
            only = [escape.line(self.label_names[index], 100) for index in np.unique(rows.labels)]
            raise UserError(
                f"less than two classes are left in split {self.hparams.train_split} of {self.source.name} "
                f"to train on ({', '.join(only) or 'no rows'}). Add rows, or change --data.folds or "
                "--data.deduplicate."
            )
        return rows

    def _val_part(self) -> TokenizedRows:
        if not self._carves:
            return self._tokenized("val_split")
        rows = self._carved()[1]
        if not len(rows):
            raise UserError(
                f"{self.source.name} has too few rows to carve a validation split from: at most one of "
                "each class. Add rows, or a file for --data.val_split."
            )
        return rows

    @property
    def _test_is_val(self) -> bool:
        return self.hparams.test_split == self.hparams.val_split

    def _test_part(self) -> TokenizedRows:
        return self._val_part() if self._test_is_val else self._tokenized("test_split")

    def _carved(self) -> tuple[TokenizedRows, TokenizedRows]:
        rows, folds, seed = self.whole(), self.hparams.folds, self.hparams.subset_seed
        if not folds:
            train, val = _carve(rows.labels, self.hparams.val_fraction, seed)
            return rows.view(train), rows.view(val)
        if folds > len(rows):
            raise UserError(
                f"data.folds is {folds}, but split {self.hparams.train_split} of {self.source.name} has only "
                f"{len(rows)} rows; expected at most that many."
            )
        is_val = _folds(rows.labels, folds, seed) == self.hparams.fold
        return rows.view(np.flatnonzero(~is_val)), rows.view(np.flatnonzero(is_val))

    def _not_elsewhere(self, train: TokenizedRows) -> np.ndarray:
        """Indices of the training rows whose text stands neither in the validation nor in the test part.

        Looked for once. Of the test split only the texts are read, so that its labels, which may be missing,
        decide nothing.
        """
        if self._duplicates is None:
            val, test = self._val_part(), self.hparams.test_split
            apart = self._has_split("test_split") and test not in (self.hparams.train_split, self.val_name)
            others = f"{self.val_name} or {test}" if apart else self.val_name
            parts: tuple[Any, ...] = (train.fingerprint, val.fingerprint, self.hparams.text_column)
            split = self._split_name("test_split") if apart else ""
            parts += (self.corpus.fingerprint(split), split) if apart else ()

            def find() -> list[int]:
                texts = itertools.chain(val.all_texts(), self._texts_of(split) if apart else ())
                return train.found_in(texts).tolist()

            note = cache_root() / "duplicates" / f"{cache_key(parts)}.json"
            self._duplicates = np.array(remembered(note, find), dtype=np.int64)
            log.info(
                f"{len(self._duplicates):,} of {len(train):,} rows of split {self.hparams.train_split} are "
                f"left out of training: their texts also stand in {others} (--data.deduplicate)"
            )
        keep = np.ones(len(train), dtype=bool)
        keep[self._duplicates] = False
        return np.flatnonzero(keep)

    def _texts_of(self, split: str) -> Iterator[str]:
        """The texts of a split, straight from the data."""
        self._readers()
        return (text for _, text, _ in _Reading(self, split, labelled=False))

    def _subset(self, rows: TokenizedRows, count: int | None) -> TokenizedRows:
        if count is None or count >= len(rows):
            return rows
        return rows.view(np.random.default_rng(self.hparams.subset_seed).permutation(len(rows))[:count])

    def train_dataloader(self) -> DataLoader:
        trainer, batch_size = self.trainer, self.hparams.batch_size
        devices = trainer.world_size if trainer else 1
        sampler = LengthGroupedSampler(self.train_rows.lengths, batch_size * devices, self.hparams.order_seed)
        pad = self._pad_token_id
        loader = TrainingLoader(
            self.train_rows, batch_size, sampler=sampler, collate_fn=lambda items: collate(items, pad)
        )
        loader.skip = self.skip_batches
        return loader

    def val_dataloader(self) -> DataLoader:
        return self._eval_loader(self.val_rows)

    def test_dataloader(self) -> DataLoader:
        return self._eval_loader(self.test_rows)

    def predict_dataloader(self) -> DataLoader:
        assert self._predict_rows is not None, "call predict_from first"
        batches = PredictionBatches(
            self._predict_rows,
            self.hparams.text_column,
            self.weights.tokenizer(self.hparams.max_length),
            self.hparams.eval_batch_size,
            self._pad_token_id,
        )
        return DataLoader(batches, batch_size=None)

    def predict_from(self, rows: Iterable[Numbered]) -> None:
        """Sets the rows that `predict` labels: readable ones, each with a text in the text column."""
        self._predict_rows = rows

    def _eval_loader(self, rows: TokenizedRows) -> DataLoader:
        sampler: Sampler = SequentialSampler(rows)
        trainer = self.trainer
        if trainer and trainer.world_size > 1:
            # Lightning's own sampler repeats rows to make the ranks' shares equal, which bends the score.
            sampler = UnrepeatedDistributedSamplerWrapper(
                sampler, num_replicas=trainer.world_size, rank=trainer.global_rank, shuffle=False
            )
        return self._loader(rows, self.hparams.eval_batch_size, sampler)

    def _loader(self, rows: TokenizedRows, batch_size: int, sampler: Sampler) -> DataLoader:
        pad = self._pad_token_id
        # No worker processes: a batch is put together faster than it could be handed over.
        return DataLoader(rows, batch_size, sampler=sampler, collate_fn=lambda items: collate(items, pad))

    @property
    def _pad_token_id(self) -> int:
        return self.weights.architecture.get("pad_token_id") or 0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to find and tokenize the same rows again, in plain values."""
        resolved = {"dataset": self.source.address, "stand_in": None, "label_names": self.label_names}
        return {
            "label_names": self.label_names,
            "source": self.source.as_dict(),
            "tokenizer": self.weights.tokenizer_files,
            "rows": {part: counts.as_dict() for part, counts in self.counts.items()},
            "hyper_parameters": {**self.hparams, **resolved},
            "code_order": self.hparams.label_names,
            "fingerprint": self.fingerprint if hasattr(self, "train_rows") else None,
        }

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the texts, labels and order of the rows to train on."""
        digest = hashlib.sha256(np.ascontiguousarray(self.train_rows.hashes).data)
        digest.update(np.ascontiguousarray(self.train_rows.labels).data)
        return digest.hexdigest()

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # without what would read YAML or pickles
        cls, checkpoint_path: Any, **settings: Any
    ) -> Self:
        """The data of a local checkpoint; Lightning's own method would import and call what the file names.

        Raises:
            UserError: the file cannot be read, or says something that no checkpoint of lit_bert says.
        """
        from lit_bert.checkpoints import Checkpoint

        checkpoint = Checkpoint.open(checkpoint_path)
        weights = Weights.restored(checkpoint)
        weights.class_names = checkpoint.data["label_names"]
        stored = {**checkpoint.data["hyper_parameters"], "label_names": checkpoint.data["code_order"]}
        return cls(**{**stored, "weights": weights, **settings})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called when a run is resumed: what its text stood in for is not forgotten."""
        source = Source(**state_dict["source"])
        if source.address == self.source.address:
            self._restored_source = source


def cache_key(parts: tuple[Any, ...]) -> str:
    """A name for what depends on `parts`, and on how this version writes it."""
    return hashlib.sha256(json.dumps([CACHE_FORMAT, *parts]).encode()).hexdigest()[:32]


def remembered(file: Path, find: Callable[[], Any]) -> Any:
    """Plain values that are the same for the same text, found once."""
    if not file.is_file():
        found = json.dumps(find())
        write_atomically(file, lambda partial: partial.write_text(found, encoding="utf-8"))
    return json.loads(file.read_text(encoding="utf-8"))


def _names(text: str) -> list[str]:
    """Names with commas between them, as in a line of CSV; brackets around them, as in YAML, are dropped."""
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1]
    try:
        rows = list(csv.reader([inner], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise UserError(
            f"data.label_names is {escape.line(text, 200)}; expected names with commas between them "
            f"({error})."
        ) from None
    return [name.strip() for name in rows[0]] if rows else []


def _is_whole(name: str) -> bool:
    return name.isascii() and name.removeprefix("-").isdecimal() and len(name) < 1000


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = ", …" if len(names) > SHOWN_LABELS else ""
    return ", ".join(escape.line(name, 100) for name in names[:SHOWN_LABELS]) + more


def _by_length(rows: TokenizedRows) -> TokenizedRows:
    """Longest first: like lengths share a batch, and the batch that needs most memory comes at once."""
    return rows.view(np.argsort(-rows.lengths, kind="stable"))


def _carve(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the training and validation part, each in file order.

    Each class gives its share, rounded; a class of two rows or more gives and keeps at least one.
    """
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        of_class = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(round(fraction * len(of_class)), 1), len(of_class) - 1)
        chosen.append(of_class[:count])
    validation = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def _folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each row, int64 (N,), 0 to `folds` - 1.

    Each class is shuffled and dealt out, and the next class goes on where the last one ended: the folds' rows
    of a class, and their rows altogether, differ by one at most.
    """
    generator = np.random.default_rng(seed)
    of_class = [np.flatnonzero(labels == each) for each in np.unique(labels)]
    dealt = np.concatenate([generator.permutation(rows) for rows in of_class])
    found = np.empty(len(labels), dtype=np.int64)
    found[dealt] = np.arange(len(labels)) % folds
    return found


def write_atomically(final: Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` make a file or folder beside `final`, then renames it; whoever comes first wins.

    The lock only saves work: file systems that ignore locks still get whole results.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(FileLock(f"{final}.lock"))
            if final.exists():
                return
            partial = final.with_name(f".{final.name}.{os.getpid()}")
            try:
                shutil.rmtree(partial, ignore_errors=True)
                write(partial)
                try:
                    partial.rename(final)
                except OSError:
                    if not final.exists():
                        raise
            finally:
                shutil.rmtree(partial, ignore_errors=True)
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write the token cache {final.parent}: {error.strerror or error}. Make room, or choose "
            "another folder with the environment variable LIT_BERT_CACHE."
        ) from error
