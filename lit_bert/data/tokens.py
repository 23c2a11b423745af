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
from dataclasses import asdict, replace
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
from lit_bert.data.cells import Numbered, label_of, weight_of
from lit_bert.data.columns import Columns, check_same_form, find_columns, named_columns
from lit_bert.data.corpus import Corpus, find_corpus
from lit_bert.data.counts import Skipped
from lit_bert.data.label_kind import Labels, LabelScan
from lit_bert.data.labels import (
    ClassIndex,
    RowSettings,
    SplitReader,
    class_names_of,
    listed,
    refused_row,
)
from lit_bert.data.readers.options import ReadOptions
from lit_bert.io import escape
from lit_bert.io.texts import Text, TextForm, strings_of
from lit_bert.sources.weights import Weights
from lit_bert.task.kinds import kind_of
from lit_bert.task.multi_label import MultiLabel

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

    @cached_property
    def corpus(self) -> Corpus:
        """The text, found but not read."""
        settings = self.settings
        return find_corpus(
            settings.dataset, settings.stand_in, self._have_fit_splits, ReadOptions.of(settings)
        )

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
        given = self._given_names()
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
            if kind_of(found.kind).label_form == "number":
                raise UserError(
                    f"data.label_names is {listed(given)}, and the labels are numbers ({found.kind}); names "
                    "are for classes. Leave them out, or set --data.task."
                )
            found = found._replace(names=given)
        self._check_enough(found)
        return found

    def _given_names(self) -> list[str] | None:
        """The class names that the user gave, in the order of their indices.

        Raises:
            UserError: one is empty, or there twice, or there is but one.
        """
        given = self.settings.label_names
        if not given:
            return None
        if not all(name.strip() for name in given):
            raise UserError(f"data.label_names is {listed(given)}, with an empty name; expected names.")
        double = [name for name, count in Counter(given).items() if count > 1]
        if double:
            raise UserError(
                f"data.label_names has '{escape.line(double[0], 100)}' twice; expected different names."
            )
        if len(given) < 2:
            raise UserError(f"data.label_names is {listed(given)}; expected at least two names.")
        return given

    def _check_enough(self, found: Labels) -> None:
        kind, split = kind_of(found.kind), self.settings.train_split
        if kind.label_form == "number":
            if not found.parameters:
                raise self._no_numbers(split)
        elif len(found.names) < kind.fewest_classes:
            self._readers()
            settings = replace(self._columns_alone, label_form=kind.label_form)
            for _ in SplitReader(self.corpus, self.split_name("train_split"), settings):
                pass  # a cell that is no label is refused by its row
            only = found.names and f"only the class '{escape.line(found.names[0], 100)}'"
            raise self._too_few(split, only or "no rows")

    def _scan(self) -> Labels:
        """What one pass over the labels of the training split finds."""
        settings, columns = self.settings, self.columns
        split = self.split_name("train_split")
        codes = class_names_of(self.corpus, split, columns.label[0]) if len(columns.label) == 1 else []
        wanted = settings.task
        if wanted is None and codes and self.corpus.has_lists(columns.label[0], split):
            wanted = MultiLabel.kind
        scan = LabelScan(wanted, columns.label, settings.label_separator, codes)
        if codes and wanted is not None and kind_of(wanted).label_form != "number":
            return scan.result()
        for (_, numbered), _, _ in SplitReader(self.corpus, split, self._columns_alone):
            scan.add(numbered, f"{numbered.place} of split {split}")
        return scan.result()

    @property
    def _columns_alone(self) -> RowSettings:
        settings, columns = self.settings, self.columns
        return RowSettings(
            columns.text, columns.form, columns.label, settings.missing, settings.label_names, "raw"
        )

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
        if found.note:
            log.info(found.note)
        return found

    @property
    def text_form(self) -> TextForm:
        """How the cells of a row make its text."""
        return self.columns.text_form

    @property
    def _row_settings(self) -> RowSettings:
        form, separator = kind_of(self.labels.kind).label_form, self.settings.label_separator
        return replace(self._columns_alone, label_form=form, label_separator=separator)

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
        form = kind_of(labels.kind).label_form
        columns_read = (columns.text, columns.form, columns.label, settings.label_separator)
        parts = (*columns_read, labels.names, self._codes, segments, form, self._other_columns(is_train))
        key = cache_key((fingerprint, split, *parts, tokenizer, self.settings.max_length))
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
        split = self.split_name(flag)
        if split not in self._mapped:
            fingerprint = self.corpus.fingerprint(split)
            is_train = self._is_train(split)
            folder = self._split_folder(fingerprint, split, self.columns, self.labels, is_train)
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
            if facts["truncated"]:
                log.info(
                    f"{facts['truncated']:,} of {facts['rows']:,} texts of split {split} are cut at "
                    f"{self.settings.max_length} tokens (--data.max_length)"
                )
            rows = TokenizedRows(folder / "rows.arrow")
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
        """Writes `rows.arrow` (tokens, labels and the columns of an audit) and `split.json` (counts)."""
        from datasets import Features, List, Value
        from datasets.arrow_writer import ArrowWriter

        form, max_length = self.text_form, self.settings.max_length
        others = self._other_columns(self._is_train(split))
        settings = replace(self._row_settings, other_columns=others)
        tokenizer = self.weights.tokenizer(max_length)
        has_types = form.token_types(tokenizer, self.weights.type_vocab_size)
        names = self.label_names
        labels = ClassIndex(self.corpus, split, settings, names)
        features = Features(
            {
                "row": Value("int64"),
                "text": Value("string"),
                **({"text_pair": Value("string")} if form.kind == "pair" else {}),
                "input_ids": List(Value("int32")),
                **({"token_type_ids": List(Value("int32"))} if has_types else {}),
                "labels": _feature(settings.label_form, names),
                "hash": Value("uint64"),
                "truncated": Value("bool"),
                **({"weight": Value("float64")} if "weight_column" in others else {}),
                **({"group": Value("uint64")} if "group_column" in others else {}),
            }
        )
        reading = SplitReader(self.corpus, split, settings)
        kept = truncated = 0

        def write(partial: Path) -> None:
            nonlocal kept, truncated
            partial.mkdir()
            with ArrowWriter(path=str(partial / "rows.arrow"), features=features) as writer:
                for rows in chunked(reading, TOKENIZE_ROWS):
                    texts = [text for _, text, _ in rows]
                    encodings = form.encode(tokenizer, texts)
                    cut = [bool(each.overflowing) for each in encodings]
                    truncated += sum(cut)
                    kept += len(rows)
                    batch = {
                        "row": np.array([index for (index, _), _, _ in rows]),
                        "text": [strings_of(text)[0] for text in texts],
                        "input_ids": [np.array(each.ids, dtype=np.int32) for each in encodings],
                        "labels": [labels.stored(numbered, label) for (_, numbered), _, label in rows],
                        "hash": np.array([text_hash(text) for text in texts], dtype=np.uint64),
                        "truncated": np.array(cut),
                    }
                    if "weight_column" in others:
                        batch["weight"] = [
                            reading.other(each, "weight_column", weight_of) for (_, each), *_ in rows
                        ]
                    if "group_column" in others:
                        groups = [
                            (index, reading.other(each, "group_column", label_of))
                            for (index, each), *_ in rows
                        ]
                        batch["group"] = np.array([_group(*each) for each in groups], dtype=np.uint64)
                    if form.kind == "pair":
                        batch["text_pair"] = [text[1] for text in texts]
                    if has_types:
                        batch["token_type_ids"] = [
                            np.array(each.type_ids, dtype=np.int32) for each in encodings
                        ]
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

    def _no_numbers(self, split: str) -> UserError:
        return UserError(
            f"split {split} of {self.corpus.source.name} has no numbers in column "
            f"'{escape.line(self.columns.label[0], 100)}'. Name another column with --data.label_column, or "
            "another kind of task with --data.task."
        )

    def texts_of(self, split: str) -> Iterator[Text]:
        """The texts of a split, straight from the data."""
        self._readers()
        return (text for _, text, _ in SplitReader(self.corpus, split, self._row_settings, labelled=False))


def _group(index: int, name: str | None) -> int:
    """The group of a row, as 64 bits; a row without a name there is a group of its own."""
    return text_hash(f"row {index}" if name is None else f"group {name}")


def _feature(form: str, names: list[str]) -> Any:
    """How the cache has labels of a form: a class index, a list of them, or a number."""
    from datasets import ClassLabel, List, Value

    if form == "number":
        return Value("float64")
    return ClassLabel(names=names) if form == "class" else List(ClassLabel(names=names))
