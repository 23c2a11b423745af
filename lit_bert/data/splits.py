"""Which rows a run trains on, validates on and tests on, and what became of the others."""

from __future__ import annotations

import itertools
import logging
from functools import cached_property
from typing import Any

import numpy as np

from lit_bert import UserError
from lit_bert.data.cache import TokenizedRows, cache_key, cache_root, cached_json
from lit_bert.data.counts import RowCounts
from lit_bert.data.stratify import assign_folds, assign_parts, split_off
from lit_bert.data.tokens import TokenizedCorpus
from lit_bert.io import escape

log = logging.getLogger(__name__)
KEPT_SHARE = 0.1  # of the training split, for guarantees where nothing else is said

VAL_FRACTION = 0.1  # of the training split, where it is left open


class RunSplits:
    """The training, validation and test rows of a run.

    Args:
        settings: the arguments of EmotionDataModule, by attribute.
        tokenized: the corpus that the rows are of.

    Attributes:
        counts: what became of the rows of each part that was asked for: `train`, `validation`, `test`,
            `guarantee`.
        fewest_to_split: rows from which on a part is split off to validate on where the data has none; of
            fewer, all are trained on, and a fit validates on them in turn.

    Raises:
        UserError: the rows for guarantees would be those of another part.
    """

    fewest_to_split = 0

    def __init__(self, settings: Any, tokenized: TokenizedCorpus) -> None:
        split, share = settings.guarantee_split, settings.guarantee_fraction
        if share is not None and not 0 < share < 1:
            raise UserError(f"data.guarantee_fraction is {share}; expected a share between 0 and 1.")
        if share is not None and split is not None:
            raise UserError("got data.guarantee_split and data.guarantee_fraction; expected one of them.")
        if split in (others := (settings.train_split, settings.val_split, settings.test_split)):
            raise UserError(
                f"data.guarantee_split is {escape.line(split, 60)}, which serves something else; expected "
                f"another split than {', '.join(escape.line(each, 60) for each in others)}."
            )
        self.settings, self.tokenized = settings, tokenized
        self.counts: dict[str, RowCounts] = {}
        self._duplicates: np.ndarray | None = None

    @property
    def source_name(self) -> str:
        """What messages call the data."""
        return self.tokenized.corpus.source.name

    # --- the rows of each part of a run ---

    def train_rows(self) -> TokenizedRows:
        """The rows that a fit trains on, in the order of the data."""
        part = self.train()
        if self.settings.group_column is not None and not self.splits_off_validation:
            log.info(
                f"data.group_column changes nothing: the data has the split {escape.line(self.val_name, 60)} "
                "to validate on, whatever groups stand in it"
            )
        rows = self._subset(part, self.settings.train_rows)
        try:
            rows = rows.scaled()
        except ValueError:
            raise UserError(
                f"all weights in column '{escape.line(self.settings.weight_column, 100)}' of the rows to "
                "train on are 0; expected some above. Correct them, or leave out --data.weight_column."
            ) from None
        splits = self.splits_off_validation and not self.cross_validates
        before = len(self._split_off_validation()[0]) if splits else len(self.train_split())
        left_out = {
            "data.guarantee_fraction": len(self._kept_apart[1]),
            self.validation_setting: len(self.train_split()) - before,
            "data.deduplicate": before - len(part),
            "data.train_rows": len(part) - len(rows),
        }
        self._count("train", "train_split", left_out, len(rows))
        return rows

    def val_rows(self) -> TokenizedRows:
        """The rows that are validated on, longest first."""
        part = self.validation()
        if self.cross_validates:  # those that are trained on, each by a network that has not seen it
            return by_length(self._subset(part, self.settings.train_rows))
        rows = by_length(self._subset(part, self.settings.val_rows))
        self._count_validation("validation", len(part), len(rows))
        return rows

    def guarantee_rows(self) -> TokenizedRows:
        """The rows that guarantees are given by, which nothing else sees, longest first."""
        if self.settings.guarantee_split is None:
            rows = self._kept_apart[1]
            others = {"other parts": len(self.tokenized.rows("train_split")) - len(rows)}
            self._count("guarantee", "train_split", others, len(rows))
            return by_length(rows)
        rows = self.tokenized.rows("guarantee_split")
        self._count("guarantee", "guarantee_split", {}, len(rows))
        return by_length(rows)

    @cached_property
    def _kept_apart(self) -> tuple[TokenizedRows, TokenizedRows]:
        """The training split without the rows for guarantees, and these.

        They are drawn at random and not class by class: the bounds are those of independent rows.
        """
        whole, share = self.tokenized.rows("train_split"), self.settings.guarantee_fraction
        if share is None:
            return whole, whole.view(np.arange(0))
        order = np.random.default_rng((self.settings.subset_seed, 1)).permutation(len(whole))
        count = round(share * len(whole))
        rest, kept = whole.view(np.sort(order[count:])), whole.view(np.sort(order[:count]))
        rest.skipped = whole.skipped
        return rest, kept

    def test_rows(self) -> TokenizedRows:
        """The rows that `test` scores, longest first."""
        part = self.test()
        if self._test_is_validation:
            self._count_validation("test", len(part), len(part))
        else:
            self._count("test", "test_split", {}, len(part))
        return by_length(part)

    # --- all rows of a part ---

    def train(self) -> TokenizedRows:
        """All rows that a fit may train on."""
        splits = self.splits_off_validation and not self.cross_validates
        rows = self._split_off_validation()[0] if splits else self.train_split()
        if self.settings.deduplicate:
            rows = rows.view(self._not_elsewhere(rows))
        labels = rows.labels
        if labels.ndim == 1 and len(np.unique(labels)) < 2:
            names, is_class = self.tokenized.label_names, np.issubdtype(labels.dtype, np.integer)
            only = [escape.line(names[each] if is_class else each, 100) for each in np.unique(labels)]
            what = "classes" if is_class else "numbers"
            raise UserError(
                f"less than two {what} are left in split {self.settings.train_split} of "
                f"{self.source_name} to train on ({', '.join(only) or 'no rows'}). Add rows, or change "
                "--data.folds or --data.deduplicate."
            )
        return rows

    def validation(self) -> TokenizedRows:
        """All rows of the validation part: a split of its own, a part of the training split, or all of it."""
        if not self.splits_off_validation:
            return self.tokenized.rows("val_split")
        if self.cross_validates:
            return self.train()
        rows = self._split_off_validation()[1]
        if not len(rows):
            raise UserError(
                f"{self.source_name} has too few rows to split a validation split off: at most one "
                "of each class. Add rows, or a file for --data.val_split."
            )
        return rows

    @property
    def cross_validates(self) -> bool:
        """Whether the rows to train on are also those to validate on, in turn."""
        settings, rows = self.settings, self.train_split
        if not self.fewest_to_split or settings.val_fraction is not None or settings.folds:
            return False
        return self.splits_off_validation and len(rows()) < self.fewest_to_split

    @property
    def _test_is_validation(self) -> bool:
        return self.settings.test_split == self.settings.val_split

    def test(self) -> TokenizedRows:
        """All rows of the test part."""
        return self.validation() if self._test_is_validation else self.tokenized.rows("test_split")

    @property
    def splits_off_validation(self) -> bool:
        """Whether the validation part is a part of the training split."""
        wanted = self.settings.val_split
        if self.settings.folds:
            return True
        if self.tokenized.has_split("val_split"):
            return False
        if wanted != "validation":  # asked for by name, so not made up
            raise self.tokenized.unknown_split("val_split", wanted, self.tokenized.split_names)
        return True

    def _split_off_validation(self) -> tuple[TokenizedRows, TokenizedRows]:
        rows, folds, seed = self.train_split(), self.settings.folds, self.settings.subset_seed
        labels, groups = rows.labels, rows.groups
        by_class = groups is None and np.issubdtype(labels.dtype, np.integer) and labels.ndim == 1
        if not folds and by_class:
            train, val = split_off(labels, self._val_fraction, seed)
            return rows.view(train), rows.view(val)
        if not folds:
            fraction = self._val_fraction
            parts = assign_parts(labels, np.array([1 - fraction, fraction]), seed, groups)
            return rows.view(np.flatnonzero(parts == 0)), rows.view(np.flatnonzero(parts == 1))
        if folds > len(rows):
            raise UserError(
                f"data.folds is {folds}, but split {self.settings.train_split} of {self.source_name} has "
                f"only {len(rows)} rows; expected at most that many."
            )
        fold = (
            assign_folds(labels, folds, seed)
            if by_class
            else assign_parts(labels, np.full(folds, 1 / folds), seed, groups)
        )
        is_val = fold == self.settings.fold
        return rows.view(np.flatnonzero(~is_val)), rows.view(np.flatnonzero(is_val))

    @property
    def _val_fraction(self) -> float:
        return VAL_FRACTION if self.settings.val_fraction is None else self.settings.val_fraction

    def _not_elsewhere(self, train: TokenizedRows) -> np.ndarray:
        """Indices of the training rows whose text stands neither in the validation nor in the test part.

        Looked for once. Of the test split only the texts are read, so that its labels, which may be missing,
        decide nothing.
        """
        if self._duplicates is None:
            nothing = np.empty(0, dtype=np.int64)  # rows that are trained on and validated on in turn
            val = train.view(nothing) if self.cross_validates else self.validation()
            test = self.settings.test_split
            apart = self.tokenized.has_split("test_split") and test not in (
                self.settings.train_split,
                self.val_name,
            )
            others = f"{self.val_name} or {test}" if apart else self.val_name
            kept = self.guarantee_rows() if self.has_guarantee_rows else None
            columns = self.tokenized.columns
            parts: tuple[Any, ...] = (train.fingerprint, val.fingerprint, columns.text, columns.form)
            split = self.tokenized.split_name("test_split") if apart else ""
            parts += (self.tokenized.corpus.fingerprint(split), split) if apart else ()
            parts += (kept.fingerprint,) if kept else ()

            def find() -> list[int]:
                texts = itertools.chain(val.all_texts(), self.tokenized.texts_of(split) if apart else ())
                texts = itertools.chain(texts, kept.all_texts() if kept else ())
                return train.indices_of_texts(texts).tolist()

            note = cache_root() / "duplicates" / f"{cache_key(parts)}.json"
            self._duplicates = np.array(cached_json(note, find), dtype=np.int64)
            log.info(
                f"{len(self._duplicates):,} of {len(train):,} rows of split {self.settings.train_split} are "
                f"left out of training: their texts also stand in {others} (--data.deduplicate)"
            )
        keep = np.ones(len(train), dtype=bool)
        keep[self._duplicates] = False
        return np.flatnonzero(keep)

    def _subset(self, rows: TokenizedRows, count: int | None) -> TokenizedRows:
        if count is None or count >= len(rows):
            return rows
        return rows.view(np.random.default_rng(self.settings.subset_seed).permutation(len(rows))[:count])

    def _count(self, part: str, flag: str, left_out: dict[str, int], used: int) -> None:
        whole = self.tokenized.rows(flag)
        read = len(whole) + sum(each.count for each in whole.skipped.values())
        left_out = {why: count for why, count in left_out.items() if count}
        self.counts[part] = RowCounts(self.tokenized.split_name(flag), read, whole.skipped, left_out, used)

    def _count_validation(self, part: str, available: int, used: int) -> None:
        flag = "train_split" if self.splits_off_validation else "val_split"
        whole = self.tokenized.rows(flag)
        kept = len(self._kept_apart[1]) if flag == "train_split" else 0
        left_out = {"data.guarantee_fraction": kept, self.validation_setting: len(whole) - kept - available}
        left_out |= {"data.val_rows": available - used}
        self._count(part, flag, left_out, used)

    @property
    def validation_setting(self) -> str:
        """The setting by which the training split gives rows to validation."""
        return "data.folds" if self.settings.folds else "data.val_fraction"

    @property
    def val_name(self) -> str:
        """What the validation part is called."""
        folds, fold = self.settings.folds, self.settings.fold
        if self.cross_validates:
            return f"{self.settings.train_split}, cross-validated"
        return f"fold {fold} of {folds} of {self.settings.train_split}" if folds else self.settings.val_split

    def all_parts(self) -> dict[str, TokenizedRows]:
        """All rows of the training, validation and (where there is one) test part, by their names.

        Tokenizes what never was, the test split too: for an audit, not for training.
        """
        train = self._split_off_validation()[0] if self.splits_off_validation else self.train_split()
        train.skipped = self.train_split().skipped
        found = {self.settings.train_split: train, self.val_name: self.validation()}
        if self.tokenized.has_split("test_split") and self.settings.test_split not in found:
            found[self.settings.test_split] = self.tokenized.rows("test_split")
        return found

    def train_split(self) -> TokenizedRows:
        """The training split as the data has it, less the rows for guarantees; folds are cut from it."""
        return self._kept_apart[0]

    @property
    def has_guarantee_rows(self) -> bool:
        """Whether some rows are for guarantees."""
        return self.settings.guarantee_split is not None or self.settings.guarantee_fraction is not None


def by_length(rows: TokenizedRows) -> TokenizedRows:
    """Longest first: like lengths share a batch, and the batch that needs most memory comes at once."""
    return rows.view(np.argsort(-rows.lengths, kind="stable"))
