"""A corpus whose splits are tokenized once: class names, the splits' names, and tokens from the cache.

A split is tokenized the first time a run needs it, into an Arrow file whose folder is named by everything
that changes the result; later runs only map the file. Rows without a text or without a label are skipped
there and counted; rows keep the numbers that they have in their file.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lit_bert import UserError
from lit_bert.data.cache import (
    TOKENIZE_ROWS,
    TokenizedRows,
    cache_key,
    cache_root,
    cached_json,
    chunked,
    text_hash,
    write_to_cache,
)
from lit_bert.data.cells import Numbered
from lit_bert.data.corpus import Corpus, find_corpus
from lit_bert.data.counts import Skipped
from lit_bert.data.labels import (
    ClassIndex,
    RowSettings,
    SplitReader,
    class_names_of,
    is_whole_number,
    listed,
    refused_row,
)
from lit_bert.data.windows import LongTexts, chosen_mode, encode_by_characters
from lit_bert.io import escape
from lit_bert.sources.weights import Weights

log = logging.getLogger(__name__)


class TokenizedCorpus:
    """The splits of a corpus as tokens and class indices.

    Args:
        settings: the arguments of EmotionDataModule, by attribute.
        weights: whose tokenizer to use, and whose classes where they are those of a trained model.
    """

    def __init__(self, settings: Any, weights: Weights) -> None:
        self.settings, self.weights = settings, weights
        self._mapped: dict[str, TokenizedRows] = {}
        self._is_ready: set[str] = set()  # flags of splits for which it is known what is read of them

    @cached_property
    def corpus(self) -> Corpus:
        """The text, found but not read."""
        settings = self.settings
        return find_corpus(settings.dataset, settings.stand_in, self._have_fit_splits, settings.quoting)

    @cached_property
    def long_texts_mode(self) -> str:
        """What is done with long texts; unset, the lengths of the training split decide."""
        lengths = np.zeros(1) if self.settings.long_texts else self._map("train_split").whole_lengths
        return chosen_mode(self.settings, lengths)

    @property
    def long_texts(self) -> LongTexts:
        """What is read of long texts; where nothing was set or read that decides, it is a cut."""
        known = self.settings.long_texts or "long_texts_mode" in self.__dict__
        return self._decided if known else self._long_texts(chosen_mode(self.settings, np.zeros(1)))

    @cached_property
    def _decided(self) -> LongTexts:
        return self._long_texts(self.long_texts_mode)

    def _long_texts(self, mode: str) -> LongTexts:
        tokenizer = self.weights.tokenizer(self.settings.max_length)
        return LongTexts.of_settings(tokenizer, self.settings, mode)

    @property
    def label_names(self) -> list[str]:
        """Class names in the order of their indices: the model's, the given ones, or those in the data."""
        given = self.settings.label_names
        if given and not all(name.strip() for name in given):
            raise UserError(f"data.label_names is {listed(given)}, with an empty name; expected names.")
        double = [name for name, count in Counter(given or ()).items() if count > 1]
        if double:
            raise UserError(
                f"data.label_names has '{escape.line(double[0], 100)}' twice; expected different names."
            )
        known = self.weights.class_names
        if given and known and set(given) != set(known):
            raise UserError(
                f"data.label_names is {listed(given)}, but the classes of the model are {listed(known)}; "
                "expected the same names, in the order of the label codes."
            )
        names = known or given
        if not names:
            fingerprint = self.corpus.fingerprint(self.split_name("train_split"))
            names = cached_json(self._labels_note(fingerprint), self._find_label_names)
        if given and len(given) < 2:
            raise UserError(f"data.label_names is {listed(given)}; expected at least two names.")
        if len(names) < 2:
            split = self.settings.train_split
            raise self._too_few(
                split, f"only the class '{escape.line(names[0], 100)}'" if names else "no rows"
            )
        return names

    def _find_label_names(self) -> list[str]:
        split = self.split_name("train_split")
        return class_names_of(self.corpus, split, self.settings.label_column) or self._names_in_train()

    @property
    def _row_settings(self) -> RowSettings:
        settings = self.settings
        return RowSettings(
            settings.text_column, settings.label_column, settings.missing, settings.label_names
        )

    @property
    def split_names(self) -> list[str]:
        if self.corpus.source.kind != "hub" or not self.corpus.source.revision:
            return list(self.corpus.splits)
        note = self._splits_note(self.corpus.fingerprint(self.settings.train_split))
        return cached_json(note, lambda: list(self.corpus.splits))

    def split_name(self, flag: str) -> str:
        """What the corpus calls the split that a setting names.

        Raises:
            UserError: there is none, or there are several.
        """
        corpus, wanted = self.corpus, self.settings[flag]
        name = corpus.own_names.get(wanted, wanted)
        if corpus.splits and name in corpus.candidates:
            there = corpus.candidates[name]
            raise UserError(
                f"{self.corpus.source.name} has {len(there)} splits for {name}: {', '.join(there)}. Move "
                f"all but one away, or say which it is with --data.{flag}, as in --data.{flag} {there[0]}."
            )
        if corpus.splits and name not in corpus.splits:
            raise self.unknown_split(flag, wanted, corpus.splits)
        return name

    def has_split(self, flag: str) -> bool:
        corpus, wanted = self.corpus, self.settings[flag]
        name = corpus.own_names.get(wanted, wanted)
        return name in corpus.candidates or name in self.split_names

    def _names_in_train(self) -> list[str]:
        """The sorted names in the label column; whole numbers in numeric order."""
        reading = SplitReader(self.corpus, self.split_name("train_split"), self._row_settings)
        names = {label for _, _, label in reading}
        whole = all(is_whole_number(name) for name in names)
        return sorted(names, key=lambda name: (int(name) if whole else 0, name))

    def unknown_split(self, flag: str, wanted: str, there: Iterable[str]) -> UserError:
        there = sorted(there)
        has = f"it has {', '.join(escape.line(name, 100) for name in there)}"
        one = f"Name another with --data.{flag}, for example --data.{flag} {there[0]}."
        if flag == "test_split":  # best are rows that were not trained on
            one = (
                f"Name another with --data.test_split, score the validation rows with --data.test_split "
                f"{self.settings.val_split}, or other rows with --data.dataset FILE --data.test_split train."
            )
        return UserError(f"{self.corpus.source.name} has no split '{wanted}'; {has}. {one}")

    def _labels_note(self, fingerprint: str) -> Path:
        # The text column, too: a row without a text is skipped with its label.
        parts = (
            fingerprint,
            self.settings.train_split,
            self.settings.text_column,
            self.settings.label_column,
        )
        return cache_root() / "labels" / f"{cache_key(parts)}.json"

    def _splits_note(self, fingerprint: str) -> Path:
        return cache_root() / "splits" / f"{cache_key((fingerprint,))}.json"

    def _split_folder(self, fingerprint: str, split: str, label_names: list[str]) -> Path:
        tokenizer = self.weights.tokenizer_files["tokenizer.json"]
        columns = (self.settings.text_column, self.settings.label_column, label_names, self._codes)
        key = cache_key((fingerprint, split, *columns, tokenizer))
        return cache_root() / "tokens" / key

    def _have_fit_splits(self, fingerprint: str) -> bool:
        """Whether training needs nothing but the cache."""
        notes = [self._labels_note(fingerprint), self._splits_note(fingerprint)]
        if not all(note.is_file() for note in notes):
            return False
        found, splits = (json.loads(note.read_text(encoding="utf-8")) for note in notes)
        if self.settings.train_split not in splits or self.settings.val_split not in (*splits, "validation"):
            return False  # by another name, which only the data knows
        wanted = {self.settings.train_split}
        if not self.settings.folds:
            wanted |= {self.settings.val_split} & set(splits)
        names = self.weights.class_names or self.settings.label_names or found
        return all(self._split_folder(fingerprint, split, names).is_dir() for split in wanted)

    @property
    def _codes(self) -> list[str] | None:
        """The given order of label codes, where it is not that of the classes."""
        return self.settings.label_names if self.weights.class_names else None

    def rows(self, flag: str) -> TokenizedRows:
        """A split as the data has it, tokenized now if it never was."""
        rows, most = self._map(flag), self.settings.max_length
        if flag not in self._is_ready:
            self._is_ready.add(flag)
            self.weights.check_max_length(most)
            long = np.count_nonzero(rows.whole_lengths > most)
            if long or self.settings.window_overlap is not None:  # which is checked, needed or not
                rows.long_texts = self._decided
            if long:
                described = self._decided.described(rows.whole_lengths)
                log.info(f"{long:,} of {len(rows):,} texts of split {self.split_name(flag)} {described}")
        return rows

    def _map(self, flag: str) -> TokenizedRows:
        """A split with its whole texts, whatever is going to be read of them."""
        split = self.split_name(flag)
        if split not in self._mapped:
            folder = self._split_folder(self.corpus.fingerprint(split), split, self.label_names)
            if not folder.is_dir():
                if split not in self._readers():
                    raise self.unknown_split(flag, split, self.corpus.splits)
                self._tokenize(split, folder)
            facts = json.loads((folder / "split.json").read_text(encoding="utf-8"))
            skipped = {reason: Skipped(**each) for reason, each in facts["skipped"].items()}
            if facts["order"] not in (
                None,
                self.settings.label_names,
            ):  # given when it was tokenized, not now
                self._readers()
                raise ClassIndex(
                    self.corpus, split, self._row_settings, self.label_names
                ).codes_beside_names()
            if skipped and self.settings.missing == "refuse":
                reason, each = next(iter(skipped.items()))
                raise refused_row(
                    f"row {each.first[0]} of split {split}", reason, self.corpus, self._row_settings
                )
            for note in facts["notes"]:
                log.info(note)
            rows = TokenizedRows(folder / "rows.arrow")
            rows.skipped = skipped
            self._mapped[split] = rows
        return self._mapped[split]

    def _readers(self) -> dict[str, Callable[[], Iterator[Numbered]]]:
        """The corpus's splits, to be read."""
        if not self.corpus.splits:  # found by its pinned revision alone: now it has to be asked for
            self.__dict__["corpus"] = find_corpus(self.settings.dataset, None, quoting=self.settings.quoting)
        return self.corpus.splits

    def _tokenize(self, split: str, folder: Path) -> None:
        """Writes `rows.arrow` (tokens of whole texts, labels, columns of an audit) and `split.json`."""
        from datasets import ClassLabel, Features, List, Value
        from datasets.arrow_writer import ArrowWriter

        tokenizer = self.weights.tokenizer(self.settings.max_length)
        tokenizer.no_truncation()
        names = self.label_names
        labels = ClassIndex(self.corpus, split, self._row_settings, names)
        features = Features(
            {
                "row": Value("int64"),
                "text": Value("string"),
                "input_ids": List(Value("int32")),
                "labels": ClassLabel(names=names),
                "hash": Value("uint64"),
            }
        )
        reading = SplitReader(self.corpus, split, self._row_settings)
        kept = 0

        def write(partial: Path) -> None:
            nonlocal kept
            partial.mkdir()
            with ArrowWriter(path=str(partial / "rows.arrow"), features=features) as writer:
                for rows in chunked(reading, TOKENIZE_ROWS):
                    texts = [text for _, text, _ in rows]
                    encodings = encode_by_characters(tokenizer, texts)
                    kept += len(rows)
                    batch = {
                        "row": np.array([index for (index, _), _, _ in rows]),
                        "text": texts,
                        "input_ids": [np.array(each.ids, dtype=np.int32) for each in encodings],
                        "labels": [labels.index(numbered, label) for (_, numbered), _, label in rows],
                        "hash": np.array([text_hash(text) for text in texts], dtype=np.uint64),
                    }
                    writer.write_batch(batch)
                if not kept:
                    raise self._no_rows(split, reading)
                writer.finalize()
            assert reading.read == kept + sum(each.count for each in reading.skipped.values())
            facts = {
                "rows": kept,
                "read": reading.read,
                "skipped": {reason: asdict(each) for reason, each in reading.skipped.items()},
                "order": self.settings.label_names if labels.translated else None,
                "notes": [*self.corpus.notes(split), *reading.notes(), *labels.notes()],
            }
            (partial / "split.json").write_text(json.dumps(facts), encoding="utf-8")

        write_to_cache(folder, write)

    def _no_rows(self, split: str, reading: SplitReader) -> UserError:
        why = "".join(f", {each} {reason}" for reason, each in reading.skipped.items())
        return UserError(
            f"split {split} of {self.corpus.source.name} has no rows to use: {reading.read:,} read{why}. "
            "Add rows, or name other columns with --data.text_column and --data.label_column."
        )

    def _too_few(self, split: str, found: str) -> UserError:
        return UserError(
            f"split {split} of {self.corpus.source.name} has {found}; expected at least two classes. "
            "Add rows, or name another column with --data.label_column."
        )

    def texts_of(self, split: str) -> Iterator[str]:
        """The texts of a split, straight from the data."""
        self._readers()
        return (text for _, text, _ in SplitReader(self.corpus, split, self._row_settings, labelled=False))
