"""Tokens on disk: each split tokenized once into an Arrow file, and memory-mapped from then on.

The folder of a file is named by everything that changes what is in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from lit_bert import UserError
from lit_bert.data.counts import Skipped
from lit_bert.data.windows import LongTexts
from lit_bert.io import files
from lit_bert.io.texts import Text


def cache_root() -> Path:
    """Where tokenized text is kept: $LIT_BERT_CACHE, else lit_bert below the user's cache folder."""
    given = os.environ.get("LIT_BERT_CACHE")
    return Path(given or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "lit_bert").expanduser()


@contextmanager
def temporary_cache() -> Iterator[None]:
    """Within it, tokens go to a folder that does not stay."""
    before = os.environ.get("LIT_BERT_CACHE")
    with tempfile.TemporaryDirectory() as place:
        os.environ["LIT_BERT_CACHE"] = place
        try:
            yield
        finally:
            del os.environ["LIT_BERT_CACHE"]
            if before is not None:
                os.environ["LIT_BERT_CACHE"] = before


CACHE_FORMAT = 7  # part of every cache key: raise it when what is written changes
TOKENIZE_ROWS = 1000  # rows tokenized, and held, at a time


class TokenizedRows(Dataset):
    """Rows of one tokenized split, read from a memory-mapped Arrow file without copies.

    Memory grows with the rows, by less than 100 bytes each, and not with the length of the texts.

    Attributes:
        key: name of the file's folder, which changes with what is in it.
        skipped: rows of the split that could not be used, by reason; {} for a view.
        rows: int64 (N,), the rows that this view shows, in its order, by their numbers in the split from 0;
            skipped rows have numbers too. A split of several files is counted through.
        labels: (N,) or (N, C), as the kind of task stores them; see `task.base.Task.label_form`.
        weights: float32 (N,), of 1 in the mean of a training part; None where there are none.
        groups: uint64 (N,), the same for rows of one group; None where there are none.
        long_texts: what is read of those that are longer than the encoder takes; None where none is.
        lengths: int64 (N,), tokens that are read of each text, in all of its windows, special ones included.
        whole_lengths: int64 (N,), tokens of each text, special ones included.
        hashes: uint64 (N,), `text_hash` of each text; read from the file each time.
        truncated: bool (N,), whether some of the text is not read.
    """

    long_texts: LongTexts | None = None

    def __init__(self, file: Path) -> None:
        import datasets

        self.key = file.parent.name
        self._table = datasets.Dataset.from_file(str(file))
        chunks = self._table.data.column("input_ids").chunks
        self._values = [chunk.values.to_numpy() for chunk in chunks]
        self._types: list[np.ndarray] | None = None  # of pairs, cut as the ids are
        if "token_type_ids" in self._table.column_names:
            self._types = [
                each.values.to_numpy() for each in self._table.data.column("token_type_ids").chunks
            ]
        offsets = [chunk.offsets.to_numpy() for chunk in chunks]
        self._starts = np.concatenate([each[:-1] for each in offsets])
        self._lengths = np.concatenate([np.diff(each) for each in offsets])
        whole = self._numbers_of("whole_length")  # where the tokens are those that are read
        self._whole_lengths = self._lengths if whole is None else whole
        sizes = [len(each) for each in chunks]
        self._chunk = np.repeat(np.arange(len(chunks), dtype=np.int32), sizes)
        self._first_rows = np.cumsum([0, *sizes])  # of each chunk
        self._labels = _read_labels(self._table)
        self._weights = self._numbers_of("weight")
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
    def weights(self) -> np.ndarray | None:
        return None if self._weights is None else self._weights[self._indices]

    @property
    def groups(self) -> np.ndarray | None:
        found = self._numbers_of("group")
        return None if found is None else found[self._indices]

    def _numbers_of(self, column: str) -> np.ndarray | None:
        return self._table.data.column(column).to_numpy() if column in self._table.column_names else None

    def scaled(self) -> TokenizedRows:
        """This view, whose weights have a mean of 1: a loss then has the size that it has without.

        Raises:
            ValueError: all weights are 0.
        """
        if self._weights is None:
            return self
        mean = self._weights[self._indices].mean()
        if not mean > 0:
            raise ValueError("all weights are 0")
        other = self.view(np.arange(len(self)))
        other._weights = (self._weights / mean).astype(np.float32)
        other.skipped = self.skipped
        return other

    @property
    def lengths(self) -> np.ndarray:
        return self.lengths_in()

    def lengths_in(self, most: int | None = None) -> np.ndarray:
        """Tokens that are read of each text in `most` of its windows at most, int64 (N,)."""
        whole = self.whole_lengths
        return whole if self.long_texts is None else self.long_texts.tokens(whole, most)

    @property
    def whole_lengths(self) -> np.ndarray:
        return self._whole_lengths[self._indices].astype(np.int64)

    @property
    def hashes(self) -> np.ndarray:
        return self._table.data.column("hash").to_numpy()[self._indices]

    @property
    def truncated(self) -> np.ndarray:
        whole = self.whole_lengths
        return np.zeros(len(whole), bool) if self.long_texts is None else self.long_texts.loses(whole) > 0

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
        chunk, start = self._chunk[place], self._starts[place]
        tokens = slice(start, start + self._lengths[place])
        item = {"labels": self._labels[place], "rows": self._numbers[place]}
        if self._weights is not None:
            item["weights"] = self._weights[place]
        if self._types is not None:
            item["token_type_ids"] = self._types[chunk][tokens]
        input_ids = self._values[chunk][tokens]
        parts = [input_ids] if self.long_texts is None else self.long_texts.parts(input_ids)
        return {**item, "windows": parts} if len(parts) > 1 else {**item, "input_ids": parts[0]}

    def texts(self, rows: Sequence[int] | np.ndarray) -> list[Text]:
        """The texts of rows, given by their numbers in the split, as they were before tokenizing."""
        places = self._numbers.searchsorted(np.asarray(rows, dtype=np.int64))
        texts = self._strings("text", places)
        if "text_pair" not in self._table.column_names:
            return [*texts]
        return list(zip(texts, self._strings("text_pair", places), strict=True))

    def _strings(self, column: str, places: np.ndarray) -> list[str]:
        # One by one: `take` would first copy the whole column, since it has several chunks.
        chunks, chunk_of, first = self._table.data.column(column).chunks, self._chunk, self._first_rows
        return [chunks[chunk_of[place]][place - first[chunk_of[place]]].as_py() for place in places]

    def all_texts(self) -> Iterator[Text]:
        """The texts of this view, read piece by piece."""
        for start in range(0, len(self), TOKENIZE_ROWS):
            yield from self.texts(self.rows[start : start + TOKENIZE_ROWS])

    def indices_of_texts(self, texts: Iterable[Text]) -> np.ndarray:
        """Indices of the rows of this view whose text is one of `texts`, int64, ascending."""
        hashes = self.hashes
        order = hashes.argsort()
        hashes = hashes[order]
        found: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
        done: set[Text] = set()  # a text may come a million times
        for some in chunked(texts, TOKENIZE_ROWS):
            wanted = np.array([text_hash(text) for text in some], dtype=np.uint64)
            starts, ends = hashes.searchsorted(wanted), hashes.searchsorted(wanted, "right")
            for index in np.flatnonzero(starts < ends):
                if (text := some[index]) not in done:
                    done.add(text)
                    like = order[starts[index] : ends[index]]
                    same = [other == text for other in self.texts(self.rows[like])]
                    found.append(like[np.array(same)])
        return np.unique(np.concatenate(found))


def _read_labels(table: Any) -> np.ndarray:
    """Labels as a kind of task stores them: int64 (N,), uint8 (N, C) or float32 (N,)."""
    column, feature = table.data.column("labels"), table.features["labels"]
    if (members := getattr(feature, "feature", None)) is not None:
        labels = np.zeros((len(column), len(members.names)), np.uint8)
        rows = np.repeat(np.arange(len(column)), column.combine_chunks().value_lengths().to_numpy())
        labels[rows, column.combine_chunks().flatten().to_numpy()] = 1
        return labels
    found = column.to_numpy()
    return found.astype(np.float32) if np.issubdtype(found.dtype, np.floating) else found


def text_hash(text: Text) -> int:
    """64 bits of a text, the same in every process. Equal ones have to be compared: they may collide."""
    content = text if isinstance(text, str) else json.dumps(text)
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "little")


def chunked(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def cache_key(parts: tuple[Any, ...]) -> str:
    """A name for what depends on `parts`, and on how this version writes it."""
    return hashlib.sha256(json.dumps([CACHE_FORMAT, *parts]).encode()).hexdigest()[:32]


def cached_json(file: Path, find: Callable[[], Any]) -> Any:
    """Plain values that are the same for the same text, found once."""
    if not file.is_file():
        found = json.dumps(find())
        write_to_cache(file, lambda partial: partial.write_text(found, encoding="utf-8"))
    return json.loads(file.read_text(encoding="utf-8"))


def write_to_cache(final: Path, write: Callable[[Path], Any]) -> None:
    """Has `write` make a file or folder of the cache, unless it is there already."""
    try:
        files.make_once(final, write)
    except OSError as error:
        raise UserError(
            f"cannot write the token cache {final.parent}: {error.strerror or error}. Make room, or choose "
            "another folder with the environment variable LIT_BERT_CACHE."
        ) from error
