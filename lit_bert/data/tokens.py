"""A corpus whose splits are tokenized once: class names, the splits' names, and tokens from the cache.

A split is tokenized the first time a run needs it, into an Arrow file whose folder is named by everything
that changes the result; later runs only map the file. Rows without a text or without a label are skipped
there and counted; rows keep the numbers that they have in their file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lit_bert import UserError
from lit_bert.data.cache import TokenizedRows, cache_key, cache_root, cached_json, write_to_cache
from lit_bert.data.cells import Numbered
from lit_bert.data.columns import Columns, check_same_form, find_columns, named_columns
from lit_bert.data.corpus import NAMES, Corpus, corpus_of_names, find_corpus
from lit_bert.data.counts import Skipped
from lit_bert.data.found_labels import check_enough, check_separator, checked_names, scan_labels, with_names
from lit_bert.data.label_kind import Labels
from lit_bert.data.labels import ClassIndex, RowSettings, SplitReader, listed, refused_row
from lit_bert.data.readers.options import ReadOptions
from lit_bert.data.token_file import FACTS, ROWS, TokenFile
from lit_bert.data.windows import LongTexts, check_form, chosen_mode
from lit_bert.io import escape
from lit_bert.io.texts import Text, TextForm
from lit_bert.sources.weights import Weights
from lit_bert.task.kinds import kind_of

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
        if settings.dataset == NAMES:
            return corpus_of_names(settings.label_names)
        return find_corpus(
            settings.dataset, settings.stand_in, self._have_fit_splits, ReadOptions.of(settings)
        )

    @cached_property
    def long_texts_mode(self) -> str:
        """What is done with long texts; unset, the lengths of the training split decide."""
        if self.settings.long_texts:
            return self.settings.long_texts
        if self.text_form.kind != "single":
            return "cut"
        return chosen_mode(self.settings, self._map("train_split").whole_lengths)

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
        return self.labels.names

    @cached_property
    def labels(self) -> Labels:
        """The kind of task, its classes and parameters: the model's, the given ones, or those in the data.

        Raises:
            UserError: they do not fit each other, or are too few.
        """
        settings, task = self.settings, self.weights.task
        given = checked_names(settings.label_names)
        if task is not None:
            known = list(task.class_names)
            if given and set(given) != set(known):
                raise UserError(
                    f"data.label_names is {listed(given)}, but the classes of the model are {listed(known)}; "
                    "expected the same names, in the order of the label codes."
                )
            return Labels(task.kind, known, {name: list(each) for name, each in task.parameters.items()})
        if given and settings.task is not None:
            found = Labels(settings.task, given, {})
        else:
            fingerprint = self.corpus.fingerprint(self.split_name("train_split"))
            stored = cached_json(self._labels_note(fingerprint, self.columns), lambda: self._scan()._asdict())
            found = Labels(**stored)
            if found.note:
                log.info(f"task: {found.note} (--data.task)")
        if given:
            found = with_names(found, given)
        check_separator(found, settings.label_separator, self.columns.label)
        if len(found.names) < kind_of(found.kind).fewest_classes:
            self._readers()
            check_enough(found, self.corpus, self.split_name("train_split"), self._columns_alone)
        return found

    def _scan(self) -> Labels:
        """What one pass over the labels of the training split finds."""
        self._readers()
        split = self.split_name("train_split")
        return scan_labels(self.corpus, split, self._columns_alone, self.settings.task)

    @property
    def _columns_alone(self) -> RowSettings:
        settings, columns = self.settings, self.columns
        named = (columns.text, columns.form, columns.label)
        return RowSettings(*named, settings.missing, settings.label_names, "raw", settings.label_separator)

    def _is_train(self, split: str) -> bool:
        train = self.settings.train_split  # there need not be one where others are scored
        return split == self.corpus.own_names.get(train, train)

    def _other_columns(self, is_train: bool) -> dict[str, str]:
        """By the setting, columns of a split beside text and label; those of the training split alone."""
        named = {flag: self.settings[flag] for flag in ("weight_column", "group_column") if is_train}
        return {flag: column for flag, column in named.items() if column is not None}

    @cached_property
    def columns(self) -> Columns:
        """The columns of text and label: as the settings name them, else found in the training split.

        Raises:
            UserError: they are not clear, or not those that the model was trained on the likes of.
        """
        settings, corpus = self.settings, self.corpus
        named = settings.text_column, settings.label_column, settings.text_form
        found = named_columns(*named)
        if found is None:
            wanted = corpus.own_names.get(settings.train_split, settings.train_split)
            split = wanted if not corpus.splits or wanted in corpus.splits else next(iter(corpus.splits))

            def find() -> Columns:
                where = f"split {split} of {self.corpus.source.name}"
                return find_columns(self._readers()[split](), *named, where)

            # A pinned data set may be known by the cache alone.
            if corpus.source.kind == "hub" and corpus.source.revision:
                note = self._columns_note(corpus.fingerprint(split))
                found = Columns.from_json(cached_json(note, lambda: find()._asdict()))
            else:
                found = find()
        trained = self.weights.text_form
        if trained is not None:
            check_same_form(trained, found.text_form)
        check_form(settings, found.text_form)
        if found.note:
            log.info(found.note)
        return found

    @property
    def text_form(self) -> TextForm:
        """How the cells of a row make its text."""
        return self.columns.text_form

    @property
    def _row_settings(self) -> RowSettings:
        return self._columns_alone.of_kind(kind_of(self.labels.kind))

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

    def _columns_note(self, fingerprint: str) -> Path:
        settings = self.settings
        parts = (fingerprint, settings.text_column, settings.label_column, settings.text_form)
        return cache_root() / "columns" / f"{cache_key(parts)}.json"

    def _labels_note(self, fingerprint: str, columns: Columns) -> Path:
        # The text column, too: a row without a text is skipped with its label.
        settings = self.settings
        columns_read = (columns.text, columns.form, columns.label, settings.label_separator)
        parts = (fingerprint, settings.train_split, *columns_read, settings.task)
        return cache_root() / "labels" / f"{cache_key(parts)}.json"

    def _splits_note(self, fingerprint: str) -> Path:
        return cache_root() / "splits" / f"{cache_key((fingerprint,))}.json"

    def _split_folder(
        self, fingerprint: str, split: str, columns: Columns, labels: Labels, is_train: bool
    ) -> Path:
        tokenizer = self.weights.tokenizer_files["tokenizer.json"]
        segments = columns.form == "pair" and self.weights.type_vocab_size
        settings = self.settings
        kind = kind_of(labels.kind)
        form = kind.label_form, kind.label_range  # labels beyond it are refused when they are tokenized
        columns_read = (columns.text, columns.form, columns.label, settings.label_separator)
        most = None if columns.form == "single" else settings.max_length  # single texts are kept whole
        parts = (*columns_read, labels.names, self._codes, segments, form, self._other_columns(is_train))
        key = cache_key((fingerprint, split, *parts, tokenizer, most))
        return cache_root() / "tokens" / key

    def _have_fit_splits(self, fingerprint: str) -> bool:
        """Whether training needs nothing but the cache."""
        settings, stored = self.settings, self._columns_note(fingerprint)
        columns = named_columns(settings.text_column, settings.label_column, settings.text_form)
        if columns is None and stored.is_file():
            columns = Columns.from_json(json.loads(stored.read_text(encoding="utf-8")))
        if columns is None:
            return False
        notes = [self._labels_note(fingerprint, columns), self._splits_note(fingerprint)]
        if not all(note.is_file() for note in notes):
            return False
        found, splits = (json.loads(note.read_text(encoding="utf-8")) for note in notes)
        if self.settings.train_split not in splits or self.settings.val_split not in (*splits, "validation"):
            return False  # by another name, which only the data knows
        wanted = {self.settings.train_split}
        if not self.settings.folds:
            wanted |= {self.settings.val_split} & set(splits)
        if self.settings.guarantee_split is not None:
            wanted.add(self.settings.guarantee_split)
        labels = Labels(**found)
        task = self.weights.task
        if task is not None:
            labels = Labels(task.kind, list(task.class_names), {})
        elif self.settings.label_names:
            labels = labels._replace(names=self.settings.label_names)
        return all(
            self._split_folder(fingerprint, split, columns, labels, split == settings.train_split).is_dir()
            for split in wanted
        )

    @property
    def _codes(self) -> list[str] | None:
        """The given order of label codes, where it is not that of the classes."""
        return self.settings.label_names if self.weights.task else None

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
                described = self._decided.described(rows.whole_lengths, self.text_form)
                log.info(f"{long:,} of {len(rows):,} texts of split {self.split_name(flag)} {described}")
        return rows

    def _map(self, flag: str) -> TokenizedRows:
        """A split with its whole texts, whatever is going to be read of them."""
        split = self.split_name(flag)
        if split not in self._mapped:
            fingerprint = self.corpus.fingerprint(split)
            is_train = self._is_train(split)
            folder = self._split_folder(fingerprint, split, self.columns, self.labels, is_train)
            if not folder.is_dir():
                if split not in self._readers():
                    raise self.unknown_split(flag, split, self.corpus.splits)
                self._tokenize(split, folder)
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
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
            rows = TokenizedRows(folder / ROWS)
            rows.skipped = skipped
            self._mapped[split] = rows
        return self._mapped[split]

    def _readers(self) -> dict[str, Callable[[], Iterator[Numbered]]]:
        """The corpus's splits, to be read."""
        if not self.corpus.splits:  # found by its pinned revision alone: now it has to be asked for
            self.__dict__["corpus"] = find_corpus(
                self.settings.dataset, None, options=ReadOptions.of(self.settings)
            )
        return self.corpus.splits

    def _tokenize(self, split: str, folder: Path) -> None:
        """Writes the folder of a split into the cache."""
        form, max_length = self.text_form, self.settings.max_length
        settings = replace(self._row_settings, other_columns=self._other_columns(self._is_train(split)))
        tokenizer = self.weights.tokenizer(max_length)
        tokenizer.no_truncation()
        has_types = form.token_types(tokenizer, self.weights.type_vocab_size)
        labels = ClassIndex(self.corpus, split, settings, self.label_names)
        reading = SplitReader(self.corpus, split, settings)
        write_to_cache(folder, TokenFile(reading, labels, form, tokenizer, max_length, has_types).write)

    def texts_of(self, split: str) -> Iterator[Text]:
        """The texts of a split, straight from the data."""
        self._readers()
        return (text for _, text, _ in SplitReader(self.corpus, split, self._row_settings, labelled=False))
