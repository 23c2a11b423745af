"""The LightningDataModule: labelled text to batches, tokenized once and cached.

python -m lit_bert fit --data.dataset reviews.csv --data.text_column review --data.label_column stars
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from lightning.pytorch import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSamplerWrapper
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from lit_bert import UserError
from lit_bert.data.batches import LengthGroupedSampler, PredictionBatches, TrainingLoader, collate
from lit_bert.data.cache import (
    TOKENIZE_ROWS,
    TokenizedRows,
    cache_key,
    cache_root,
    chunked,
    remembered,
    text_hash,
    write_atomically,
)
from lit_bert.data.cells import Numbered
from lit_bert.data.corpus import SAMPLE, Corpus, find_corpus
from lit_bert.data.counts import RowCounts, Skipped
from lit_bert.data.delimited import QUOTING
from lit_bert.data.labels import (
    ClassIndex,
    RowSettings,
    SplitReader,
    class_names_of,
    is_whole_number,
    listed,
    parse_names,
    refused_row,
)
from lit_bert.data.splits import assign_folds, by_length, carve
from lit_bert.io import escape, tokenizers
from lit_bert.sources.hub import Source
from lit_bert.sources.weights import Weights

log = logging.getLogger(__name__)


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
        label_names = parse_names(label_names) if isinstance(label_names, str) else label_names
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
            fingerprint = self.corpus.fingerprint(self._split_name("train_split"))
            names = remembered(self._labels_note(fingerprint), self._find_label_names)
        if given and len(given) < 2:
            raise UserError(f"data.label_names is {listed(given)}; expected at least two names.")
        if len(names) < 2:
            split = self.hparams.train_split
            raise self._too_few(
                split, f"only the class '{escape.line(names[0], 100)}'" if names else "no rows"
            )
        return names

    def _find_label_names(self) -> list[str]:
        split = self._split_name("train_split")
        return class_names_of(self.corpus, split, self.hparams.label_column) or self._names_in_train()

    @property
    def _row_settings(self) -> RowSettings:
        settings = self.hparams
        return RowSettings(
            settings.text_column, settings.label_column, settings.missing, settings.label_names
        )

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
        reading = SplitReader(self.corpus, self._split_name("train_split"), self._row_settings)
        names = {label for _, _, label in reading}
        whole = all(is_whole_number(name) for name in names)
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
                raise ClassIndex(
                    self.corpus, split, self._row_settings, self.label_names
                ).codes_beside_names()
            if skipped and self.hparams.missing == "refuse":
                reason, each = next(iter(skipped.items()))
                raise refused_row(
                    f"row {each.first[0]} of split {split}", reason, self.corpus, self._row_settings
                )
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
        labels = ClassIndex(self.corpus, split, self._row_settings, names)
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
        reading = SplitReader(self.corpus, split, self._row_settings)
        kept = truncated = 0

        def write(partial: Path) -> None:
            nonlocal kept, truncated
            partial.mkdir()
            with ArrowWriter(path=str(partial / "rows.arrow"), features=features) as writer:
                for rows in chunked(reading, TOKENIZE_ROWS):
                    texts = [text for _, text, _ in rows]
                    encodings = tokenizers.encode(tokenizer, texts)
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

    def _no_rows(self, split: str, reading: SplitReader) -> UserError:
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
            self.val_rows = by_length(self._subset(part, self.hparams.val_rows))
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
            self.test_rows = by_length(part)
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
            train, val = carve(rows.labels, self.hparams.val_fraction, seed)
            return rows.view(train), rows.view(val)
        if folds > len(rows):
            raise UserError(
                f"data.folds is {folds}, but split {self.hparams.train_split} of {self.source.name} has only "
                f"{len(rows)} rows; expected at most that many."
            )
        is_val = assign_folds(rows.labels, folds, seed) == self.hparams.fold
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
        return (text for _, text, _ in SplitReader(self.corpus, split, self._row_settings, labelled=False))

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
        return self.weights.pad_token_id

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
        from lit_bert.sources.checkpoint import Checkpoint

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
