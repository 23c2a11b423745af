"""Labelled text to batches: tokenized once into a memory-mapped cache, grouped by length, padded per batch.

Steps 2 and 3 of the journey. A split is tokenized the first time a run needs it, into an Arrow file under
`$LIT_BERT_CACHE` whose folder is named by everything that changes the result; later runs only map the file.

    python -m lit_bert fit --data.dataset reviews.csv --data.text_column review --data.label_column stars
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from filelock import FileLock
from lightning.pytorch import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSamplerWrapper
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, SequentialSampler

from lit_bert import UserError
from lit_bert.sources import SAMPLE, Corpus, Source, Weights, cache_root, find_corpus
from lit_bert.tables import BadRow, Numbered

log = logging.getLogger(__name__)

CACHE_FORMAT = 2  # part of every cache key: raise it when what is written changes
TOKENIZE_ROWS = 1000  # rows tokenized, and held, at a time
GROUP_BATCHES = 50  # batches sorted by length together in training
PREDICT_ROWS = 4096  # rows tokenized and sorted by length together in prediction

Batch = dict[str, Any]


class TokenizedRows(Dataset):
    """Rows of one tokenized split, read from a memory-mapped Arrow file without copies.

    Memory grows with the rows, by less than 100 bytes each, and not with the length of the texts.

    Attributes:
        key: name of the file's folder, which changes with what is in it.
        rows: int64 (N,), the rows of the file that this view shows, in its order.
        labels: int64 (N,), class indices.
        lengths: int64 (N,), tokens of each text, special ones included.
        hashes: uint64 (N,), `text_hash` of each text; read from the file each time, as `truncated` and
            `blank` are.
        truncated: bool (N,), whether the text was cut.
        blank: bool (N,), whether the text is empty or white space only.
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
        self.rows = np.arange(len(self._starts))

    def view(self, rows: np.ndarray) -> TokenizedRows:
        """The same file, showing only `rows` of this view, in that order."""
        other = object.__new__(TokenizedRows)
        other.__dict__.update(self.__dict__, rows=self.rows[rows])
        return other

    @property
    def labels(self) -> np.ndarray:
        return self._labels[self.rows]

    @property
    def lengths(self) -> np.ndarray:
        return self._lengths[self.rows].astype(np.int64)

    @property
    def hashes(self) -> np.ndarray:
        return self._column("hash")

    @property
    def truncated(self) -> np.ndarray:
        return self._column("truncated")

    @property
    def blank(self) -> np.ndarray:
        return self._column("blank")

    def _column(self, name: str) -> np.ndarray:
        return self._table.data.column(name).to_numpy()[self.rows]

    @property
    def fingerprint(self) -> str:
        """Changes with the file and with the rows of it that this view shows."""
        digest = hashlib.sha256(self.key.encode())
        digest.update(np.ascontiguousarray(self.rows).data)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        start = self._starts[row]
        input_ids = self._values[self._chunk[row]][start : start + self._lengths[row]]
        return {"input_ids": input_ids, "labels": self._labels[row], "rows": row}

    def texts(self, rows: Iterable[int]) -> list[str]:
        """The texts of rows of the file, as they were before tokenizing."""
        # One by one: `take` would first copy the whole column, since it has several chunks.
        chunks, chunk_of, first = self._table.data.column("text").chunks, self._chunk, self._first_rows
        return [chunks[chunk_of[row]][row - first[chunk_of[row]]].as_py() for row in rows]

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
            encodings = self.tokenizer.encode_batch_fast([str(each.row[self.column]) for each in rows])
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
            those kinds; `sample` for the packaged corpus; or `owner/name:configuration@revision` on the Hub,
            the last two parts as needed.
        stand_in: what to use when the Hub cannot be asked and nothing is cached: `sample`, or null to make
            that an error.
        text_column: column with the text.
        label_column: column with the label, a string or an integer.
        label_names: class names in the order of their indices; null takes them from the data (its ClassLabel
            feature, else the sorted values in the training split).
        train_split: split to train on. A single file is the split `train`.
        val_split: split to validate on; carved from the training split where the data has none.
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
    """

    if TYPE_CHECKING:
        hparams: Any  # Lightning types it as a mapping; it has attributes as well

    def __init__(
        self,
        dataset: str = "dair-ai/emotion:split",
        stand_in: str | None = SAMPLE,
        text_column: str = "text",
        label_column: str = "label",
        label_names: list[str] | None = None,
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
        # Not to the logger: there the model's `label_names` would meet the unset one here.
        self.save_hyperparameters(ignore=["weights"], logger=False)
        self.weights = weights or Weights()
        self.skip_batches = 0  # of the first epoch, that an earlier process trained on
        self._splits: dict[str, TokenizedRows] = {}
        self._duplicates: np.ndarray | None = None
        self._predict_rows: Iterable[Numbered] | None = None
        self._restored_source: Source | None = None
        for name, least in {"batch_size": 1, "eval_batch_size": 1, "train_rows": 1, "val_rows": 1}.items():
            value = self.hparams[name]
            if value is not None and value < least:
                raise UserError(f"data.{name} is {value}; expected at least {least}.")
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
        return find_corpus(self.hparams.dataset, self.hparams.stand_in, self._have_fit_splits)

    @property
    def source(self) -> Source:
        """Where the text really came from."""
        return self._restored_source or self.corpus.source

    @property
    def label_names(self) -> list[str]:
        """Class names in the order of their indices. Looks at the data when `label_names` was not given."""
        if self.weights.class_names:
            return self.weights.class_names
        if self.hparams.label_names:
            return self.hparams.label_names
        split = self.hparams.train_split
        if self.corpus.splits and split not in self.corpus.splits:
            raise self._no_split("train_split", split, self.corpus.splits)
        return remembered(self._labels_note(self.corpus.fingerprint(split)), self._find_label_names)

    def _find_label_names(self) -> list[str]:
        split = self.hparams.train_split
        names = self.corpus.class_names(self.hparams.label_column, split) or self._names_in_train()
        if len(names) < 2:
            raise self._too_few(split, f"only the class '{names[0]}'" if names else "no rows")
        return names

    @property
    def _split_names(self) -> list[str]:
        if self.source.kind != "hub" or not self.source.revision:
            return list(self.corpus.splits)
        note = self._splits_note(self.corpus.fingerprint(self.hparams.train_split))
        return remembered(note, lambda: list(self.corpus.splits))

    def _names_in_train(self) -> list[str]:
        """The sorted values of the label column; integers in numeric order."""
        names: set[str] = set()
        for numbered in self.corpus.splits[self.hparams.train_split]():
            names.add(_label_name(self._cell(numbered, self.hparams.train_split, self.hparams.label_column)))
        whole = all(_is_whole(name) for name in names)
        return sorted(names, key=lambda name: (int(name) if whole else 0, name))

    def _cell(self, numbered: Numbered, split: str, column: str) -> Any:
        """One cell, or a UserError that names the row."""
        if isinstance(numbered.row, BadRow):
            raise UserError(
                f"{numbered.place} of split {split} of {self.source.name}: {numbered.row.problem}. "
                "Mend or remove the row and run again."
            )
        if column not in numbered.row:
            flag = "text_column" if column == self.hparams.text_column else "label_column"
            raise UserError(
                f"{self.source.name} has no column '{column}' (split {split}, {numbered.place}); it has "
                f"{', '.join(map(str, numbered.row))}. Name the right one with --data.{flag}."
            )
        value = numbered.row[column]
        is_label = column == self.hparams.label_column
        if isinstance(value, list | dict):
            raise UserError(
                f"{numbered.place} of split {split} of {self.source.name} has a {type(value).__name__} in "
                f"'{column}'; expected {'one label' if is_label else 'a text'}. Mend the row, or name "
                f"another column with --data.{'label' if is_label else 'text'}_column."
            )
        if value is None or (is_label and (not str(value).strip() or value != value)):
            raise UserError(
                f"{numbered.place} of split {split} of {self.source.name} has an empty '{column}'. "
                "Mend or remove the row and run again."
            )
        return value

    def _no_split(self, flag: str, wanted: str, there: Iterable[str]) -> UserError:
        there = sorted(there)
        if flag == "test_split":  # best the rows that were not trained on, carved ones too
            one = f"--data.test_split {self.hparams.val_split}, or all of --data.test_split {there[0]}"
        else:
            one = f"--data.{flag}, for example --data.{flag} {there[0]}"
        has = f"it has {', '.join(there)}. Name another with {one}."
        return UserError(f"{self.source.name} has no split '{wanted}'; {has}")

    # --- the cache ---

    def _labels_note(self, fingerprint: str) -> Path:
        parts = (fingerprint, self.hparams.train_split, self.hparams.label_column)
        return cache_root() / "labels" / f"{cache_key(parts)}.json"

    def _splits_note(self, fingerprint: str) -> Path:
        return cache_root() / "splits" / f"{cache_key((fingerprint,))}.json"

    def _split_folder(self, fingerprint: str, split: str, label_names: list[str]) -> Path:
        tokenizer = self.weights.tokenizer_files["tokenizer.json"]
        columns = (self.hparams.text_column, self.hparams.label_column, label_names)
        key = cache_key((fingerprint, split, *columns, tokenizer, self.hparams.max_length))
        return cache_root() / "tokens" / key

    def _have_fit_splits(self, fingerprint: str) -> bool:
        """Whether training needs nothing but the cache."""
        notes = [self._labels_note(fingerprint), self._splits_note(fingerprint)]
        if not all(note.is_file() for note in notes):
            return False
        found, splits = (json.loads(note.read_text(encoding="utf-8")) for note in notes)
        wanted = {self.hparams.train_split}
        if not self.hparams.folds:
            wanted |= {self.hparams.val_split} & set(splits)
        names = self.hparams.label_names or found
        return all(self._split_folder(fingerprint, split, names).is_dir() for split in wanted)

    def _tokenized(self, flag: str) -> TokenizedRows:
        """A split as the data has it, tokenized now if it never was."""
        split = self.hparams[flag]
        if split not in self._splits:
            if self.corpus.splits and split not in self.corpus.splits:
                raise self._no_split(flag, split, self.corpus.splits)
            folder = self._split_folder(self.corpus.fingerprint(split), split, self.label_names)
            if not folder.is_dir():
                if split not in self._readers():
                    raise self._no_split(flag, split, self.corpus.splits)
                self._tokenize(split, folder)
            facts = json.loads((folder / "split.json").read_text(encoding="utf-8"))
            if facts["truncated"]:
                log.info(
                    f"{facts['truncated']:,} of {facts['rows']:,} texts of split {split} are cut at "
                    f"{self.hparams.max_length} tokens (--data.max_length)"
                )
            self._splits[split] = TokenizedRows(folder / "rows.arrow")
        return self._splits[split]

    def _readers(self) -> dict[str, Callable[[], Iterator[Numbered]]]:
        """The corpus's splits, to be read."""
        if not self.corpus.splits:  # found by its pinned revision alone: now it has to be asked for
            self.__dict__["corpus"] = find_corpus(self.hparams.dataset, None)
        return self.corpus.splits

    def _tokenize(self, split: str, folder: Path) -> None:
        """Writes `rows.arrow` (tokens, labels and the columns of an audit) and `split.json` (counts)."""
        from datasets import ClassLabel, Features, List, Value
        from datasets.arrow_writer import ArrowWriter

        tokenizer = self.weights.tokenizer(self.hparams.max_length)
        names = self.label_names
        if len(names) < 2:
            raise self._too_few(self.hparams.train_split, f"only the class '{names[0]}'")
        double = [name for name, count in Counter(names).items() if count > 1]
        if double:
            raise UserError(f"data.label_names has '{double[0]}' twice; expected different names.")
        index_of = {name: index for index, name in enumerate(names)}
        features = Features(
            {
                "text": Value("string"),
                "input_ids": List(Value("int32")),
                "labels": ClassLabel(names=names),
                "hash": Value("uint64"),
                "truncated": Value("bool"),
                "blank": Value("bool"),
            }
        )
        counts: Counter[int] = Counter()
        truncated = 0

        def write(partial: Path) -> None:
            nonlocal truncated
            partial.mkdir()
            with ArrowWriter(path=str(partial / "rows.arrow"), features=features) as writer:
                for rows in _chunks(self.corpus.splits[split](), TOKENIZE_ROWS):
                    texts = [str(self._cell(each, split, self.hparams.text_column)) for each in rows]
                    labels = [self._label_index(each, split, index_of) for each in rows]
                    encodings = tokenizer.encode_batch_fast(texts)
                    cut = [bool(each.overflowing) for each in encodings]
                    truncated += sum(cut)
                    counts.update(labels)
                    batch = {
                        "text": texts,
                        "input_ids": [np.array(each.ids, dtype=np.int32) for each in encodings],
                        "labels": labels,
                        "hash": np.array([text_hash(text) for text in texts], dtype=np.uint64),
                        "truncated": np.array(cut),
                        "blank": np.array([not text.strip() for text in texts]),
                    }
                    writer.write_batch(batch)
                if len(counts) < 2:
                    found = f"only the class '{names[next(iter(counts))]}'" if counts else "no rows"
                    raise self._too_few(split, found)
                writer.finalize()
            facts = {"rows": counts.total(), "truncated": truncated}
            (partial / "split.json").write_text(json.dumps(facts), encoding="utf-8")

        write_atomically(folder, write)

    def _too_few(self, split: str, found: str) -> UserError:
        return UserError(
            f"split {split} of {self.source.name} has {found}; expected at least two classes. "
            "Add rows, or name another column with --data.label_column."
        )

    def _label_index(self, numbered: Numbered, split: str, index_of: dict[str, int]) -> int:
        value = self._cell(numbered, split, self.hparams.label_column)
        own = self.corpus.class_names(self.hparams.label_column, split) or []
        name = own[value] if own and isinstance(value, int) and 0 <= value < len(own) else _label_name(value)
        if name in index_of:
            return index_of[name]
        name = _label_name(value)
        if not any(map(_is_whole, index_of)) and _is_whole(name) and 0 <= int(name) < len(index_of):
            return int(name)
        known = ", ".join(list(index_of)[:10]) + (", …" if len(index_of) > 10 else "")
        raise UserError(
            f"{numbered.place} of split {split} of {self.source.name} has the label '{name}', none of the "
            f"{len(index_of)} known ones: {known}. "
            "Mend the row, or name all classes with --data.label_names when training."
        )

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
        """Maps the splits that the stage needs."""
        if stage == "fit":
            self.train_rows = self._subset(self._train_part(), self.hparams.train_rows)
        if stage in ("fit", "validate"):
            val_rows = self._val_part()
            if not len(val_rows):
                raise UserError(
                    f"{self.source.name} has too few rows to carve a validation split from: at most one of "
                    "each class. Add rows, or a file for --data.val_split."
                )
            self.val_rows = _by_length(self._subset(val_rows, self.hparams.val_rows))
        if stage == "test":
            self.test_rows = _by_length(self._test_part())

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
        found = {self.hparams.train_split: train, self.val_name: self._val_part()}
        if self.hparams.test_split in self._split_names and self.hparams.test_split not in found:
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
        if wanted not in self._split_names and wanted != "validation":  # asked for by name, so not made up
            raise self._no_split("val_split", wanted, self._split_names)
        return wanted not in self._split_names

    def _train_part(self) -> TokenizedRows:
        rows = self._carved()[0] if self._carves else self.whole()
        if self.hparams.deduplicate:
            rows = rows.view(self._not_elsewhere(rows))
        if np.count_nonzero(np.bincount(rows.labels)) < 2:
            raise UserError(
                f"less than two classes are left in split {self.hparams.train_split} of {self.source.name} "
                "to train on. Add rows, or change --data.folds or --data.deduplicate."
            )
        return rows

    def _val_part(self) -> TokenizedRows:
        return self._carved()[1] if self._carves else self._tokenized("val_split")

    def _test_part(self) -> TokenizedRows:
        is_val = self.hparams.test_split == self.hparams.val_split
        return self._val_part() if is_val else self._tokenized("test_split")

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
            apart = test in self._split_names and test not in (self.hparams.train_split, self.val_name)
            others = f"{self.val_name} or {test}" if apart else self.val_name
            parts: tuple[Any, ...] = (train.fingerprint, val.fingerprint, self.hparams.text_column)
            parts += (self.corpus.fingerprint(test), test) if apart else ()

            def find() -> list[int]:
                texts = itertools.chain(val.all_texts(), self._texts_of(test) if apart else ())
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
        for numbered in self._readers()[split]():
            yield str(self._cell(numbered, split, self.hparams.text_column))

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


def _label_name(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _is_whole(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


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
