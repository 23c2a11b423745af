"""The LightningDataModule: labelled text to batches, tokenized once and cached.

python -m lit_bert fit --data.dataset reviews.csv --data.text_column review --data.label_column stars
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from lightning.pytorch import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSamplerWrapper
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from lit_bert.data.batches import (
    ClassQuotas,
    LengthGroupedSampler,
    PredictionBatches,
    TrainingLoader,
    collate,
)
from lit_bert.data.cache import TokenizedRows
from lit_bert.data.cells import Numbered
from lit_bert.data.columns import TEXT, stored_form
from lit_bert.data.corpus import SAMPLE, Corpus
from lit_bert.data.hyperparameters import check_hyperparameters
from lit_bert.data.labels import parse_class_names
from lit_bert.data.splits import RunSplits
from lit_bert.data.tokens import TokenizedCorpus
from lit_bert.data.windows import check_form, draw_windows
from lit_bert.io import escape
from lit_bert.io.texts import TextForm
from lit_bert.sources.hub import Source
from lit_bert.sources.text_settings import form_in_settings, names_as_setting
from lit_bert.sources.weights import Weights
from lit_bert.task.classes import class_shares
from lit_bert.task.kinds import check_balancing, kind_of, summaries

log = logging.getLogger(__name__)

BATCH_SIZE = 32  # where it is left open: the upper end of Devlin et al. (2019)


class EmotionDataModule(LightningDataModule):
    """Labelled text, tokenized once and cached; made for `emotion`, good for any text with one label.

    Args:
        dataset: a file (CSV, TSV, JSON, fastText, Parquet, Arrow, Excel, OpenDocument; text also
            compressed), a pattern (`part-*.csv`) or a list (`a.csv,b.csv`); a folder with train.*,
            validation.* and test.* of those kinds, with a folder of such files for each split, with a folder
            of texts for each class, or as `datasets` saves it; an address (https://, s3://, gs://, hf://) of
            a file; one of a database (sqlite:///file.db), with `query`; `sample`
            for the packaged corpus; or `owner/name:configuration@revision` on the Hub, the last two parts as
            needed.
        stand_in: what to use when the Hub cannot be asked and nothing is cached: `sample`, or null to make
            that an error.
        text_column: column with the text, a string or a whole number; several with commas between them, as
            in premise,hypothesis. null finds it: `text`; else a usual name in any case (sentence, review,
            tweet, premise and hypothesis, …); else the only column of long strings.
        text_form: what several columns are: a `pair` of two texts, or `joined` to one text of lines `name:
            value`, each cut by its share of `max_length`; `auto` takes two as a pair and more as joined.
        label_column: column with the label: a string (white space around it is cut), a number or a boolean.
            null finds it: `label`; else a usual name in any case (category, sentiment, stars, …); else the
            only column of few values that recur.
        label_names: class names in the order of their indices, and of the codes 0, 1, 2, … where this data
            has codes for labels: a list, or the names with commas between them (a name with a comma in
            quotes, as in CSV). null takes them from the data (its ClassLabel feature, else the sorted values
            in the training split).
        task: kind of task, by what each text has: {kinds}. null takes the one that
            the labels look like, and says so.
        label_separator: what stands between the labels of a text in one cell, such as |; null where a cell
            has one label or a list.
        weight_column: column with the weight of each training row, 0 or more, which its loss is multiplied
            by; null is 1 each.
        group_column: column with the group of each row, such as its author: rows of one group are all in
            training or all in validation, where validation rows are split off, and in one fold.
        format: what files are, whatever their names end in: `csv`, `tsv`, `jsonl`, `json` (one array),
            `lines` (a text each), `fasttext`, `parquet`, `arrow` (Feather, too) or `sheet` (Excel,
            OpenDocument).
        delimiter: what stands between the cells of CSV and TSV files: a character, or `comma`, `semicolon`,
            `tab` or `pipe`; null finds out, and asks where the lines do not decide.
        encoding: of text files, by a name that Python knows; null takes UTF-8 and UTF-16, finds cp1252 where
            that is safe, and asks otherwise.
        header: whether the first line of CSV, TSV and sheets holds the names of the columns, which else are
            called column_1, column_2, …; null finds out by the columns that are named and by the rows, and
            asks where these do not decide.
        quoting: how `"` in CSV and TSV files is taken: `csv` for cells in quotes, which may hold line ends;
            `none` for an ordinary character; `auto` reads a file in both ways to find out, and asks where
            both give rows.
        sheet: name of the sheet of a workbook; null takes the only one.
        query: SQL that gives the rows, where the data set is the address of a database.
        missing: what to do with rows that have no text or no label: `skip` them, counted, or `refuse` them.
        train_split: split to train on. A single file is the split `train`.
        val_split: split to validate on (in the data it may also be called val, valid, dev, development or
            eval); split off the training split where the data has none.
        test_split: split that `test` scores.
        guarantee_split: split that `--guarantee` uses, and nothing else.
        guarantee_fraction: share of the training split, drawn at random, that only `--guarantee` uses; null
            is 0.1 with that flag and without a `guarantee_split`.
        val_fraction: share of the training split, class by class, that becomes the validation split where the
            data has none; null is a tenth, or none where `fit` cross-validates, as it does with few rows.
        train_rows: train on that many rows only, taken after a shuffle; null takes all.
        val_rows: validate on that many rows only, taken after a shuffle; null takes all.
        subset_seed: seed of those shuffles, of splitting off validation rows and of the folds; with 42
            `train_rows` picks the same rows as `Dataset.shuffle(seed=42)` of the tutorial.
        deduplicate: whether to leave out of training the rows whose exact text also stands in the validation
            or the test split. The one setting under which fit reads the texts of the test split (where there
            is one); never its labels.
        folds: cross-validation: cut the training split into that many parts, class by class, and validate on
            one of them instead of on the validation split; null does not.
        fold: which of the folds to validate on, from 0.
        order_seed: seed of the order of training batches.
        balanced_sampling: what an epoch, which has as many rows as there are, has of each class: a share in
            proportion to (its rows) ** (1 - balanced_sampling). With 0 that is every row once; with 1 every
            class equally often: rows of a rare class come several times, and of a frequent one others are
            left out in each epoch.
        max_length: tokens that the model takes at a time, special ones included: the size of a window, or
            what is read of a text at all.
        long_texts: what is done with texts of more tokens: `windows` reads them in windows that overlap and
            pools the logits of a text's windows; `head_tail` reads a quarter of max_length from their
            beginning and the rest from their end; `cut` reads their beginning. null takes windows where more
            than 5 % of the texts to train on have more, or one of the three settings below is set; else cut.
            Pairs and joined columns are always cut.
        window_overlap: tokens that a window has in common with the one before it; null is a quarter of its
            tokens.
        window_pooling: logits of a text from those of its windows: `mean`, or the `max` of each class.
        train_windows: windows of a text that are trained on in an epoch, drawn at random in each if it has
            more; a step takes as much memory as batch_size times so many texts of max_length. Validation,
            test and prediction read all windows, a bounded number at a time.
        batch_size: texts per optimizer step and device; null is 32, or what suits the number of rows.
        eval_batch_size: texts per batch and device in validation, test and prediction.
        weights: whose tokenizer to use.

    Attributes:
        tokenized: the corpus, its splits as tokens.
        splits: which of its rows are for training, validation and test.
    """

    if TYPE_CHECKING:
        hparams: Any  # Lightning types it as a mapping; it has attributes as well

    def __init__(
        self,
        dataset: str = "dair-ai/emotion:split",
        stand_in: str | None = SAMPLE,
        text_column: str | None = None,
        text_form: Literal["auto", "pair", "joined"] = "auto",
        label_column: str | None = None,
        label_names: list[str] | str | None = None,
        label_separator: str | None = None,
        task: str | None = None,
        weight_column: str | None = None,
        group_column: str | None = None,
        format: str | None = None,
        delimiter: str | None = None,
        encoding: str | None = None,
        header: bool | None = None,
        quoting: Literal["auto", "csv", "none"] = "auto",
        sheet: str | None = None,
        query: str | None = None,
        missing: Literal["skip", "refuse"] = "skip",
        train_split: str = "train",
        val_split: str = "validation",
        test_split: str = "test",
        guarantee_split: str | None = None,
        guarantee_fraction: float | None = None,
        val_fraction: float | None = None,
        train_rows: int | None = None,
        val_rows: int | None = None,
        subset_seed: int = 42,
        deduplicate: bool = False,
        folds: int | None = None,
        fold: int = 0,
        order_seed: int = 0,
        balanced_sampling: float = 0.0,
        max_length: int = 128,
        long_texts: Literal["windows", "head_tail", "cut"] | None = None,
        window_overlap: int | None = None,
        window_pooling: Literal["mean", "max"] = "mean",
        train_windows: int = 8,
        batch_size: int | None = None,
        eval_batch_size: int = 64,
        weights: Weights | None = None,
    ) -> None:
        super().__init__()
        label_names = parse_class_names(label_names) if isinstance(label_names, str) else label_names
        # Not to the logger: there the model's `label_names` would meet the unset one here.
        self.save_hyperparameters(ignore=["weights"], logger=False)
        self.hparams.batch_size = BATCH_SIZE if batch_size is None else batch_size
        self.weights = weights or Weights()
        self.skip_batches = 0  # of the first epoch, that an earlier process trained on
        check_hyperparameters(self.hparams)
        self.tokenized = TokenizedCorpus(self.hparams, self.weights)
        self.splits = RunSplits(self.hparams, self.tokenized)
        self._predict_rows: Iterable[Numbered] | None = None
        self._restored_source: Source | None = None

    # --- what is known of the data ---

    @property
    def corpus(self) -> Corpus:
        """The text, found but not read."""
        return self.tokenized.corpus

    @property
    def source(self) -> Source:
        """Where the text really came from."""
        return self._restored_source or self.corpus.source

    @property
    def task(self) -> str:
        """The kind of task: the model's, the one that was asked for, or what the labels are."""
        return self.tokenized.labels.kind

    @property
    def task_parameters(self) -> dict[str, list[float]]:
        """What the task took from rows: the model's parameters, or those of the labels."""
        return self.tokenized.labels.parameters

    @property
    def label_names(self) -> list[str]:
        """Class names in the order of their indices: the model's, the given ones, or those in the data."""
        return self.tokenized.label_names

    # --- LightningDataModule ---

    def prepare_data(self) -> None:
        """Tokenizes the splits that the stage needs, once. Fit never tokenizes the test split."""
        if self._predict_rows is not None:
            return
        stage = self.trainer.state.fn if self.trainer else "fit"
        if stage == "fit":
            self.splits.train()
        if stage in ("fit", "validate"):
            self.splits.validation()
        if stage == "fit" and self.splits.has_guarantee_rows:
            self.splits.guarantee_rows()
        if stage == "test":
            self.splits.test()

    def setup(self, stage: str) -> None:
        """Maps the splits that the stage needs, and counts what became of their rows."""
        if stage == "fit":
            if self.hparams.balanced_sampling:
                check_balancing(kind_of(self.task), "data.balanced_sampling")
            self.train_rows = self.splits.train_rows()
        if stage in ("fit", "validate"):
            self.val_rows = self.splits.val_rows()
        if stage == "fit":
            labels = self.val_rows.labels
            classes = np.unique(labels)
            if len(classes) == 1 and labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
                name = escape.line(self.label_names[classes[0]], 100)
                log.info(
                    f"validation has only the class '{name}': its scores choose the epoch and say nothing of "
                    "the other classes"
                )
        if stage == "test":
            self.test_rows = self.splits.test_rows()

    def train_dataloader(self) -> DataLoader:
        trainer, batch_size = self.trainer, self.hparams.batch_size
        devices = trainer.world_size if trainer else 1
        rows, seed, most = self.train_rows, self.hparams.order_seed, self.hparams.train_windows
        sampler = LengthGroupedSampler(rows.lengths_in(most), batch_size * devices, seed, self._quotas)

        def collate_drawn(items: list[dict[str, Any]]) -> dict[str, Any]:
            return self._collate(draw_windows(items, most, (seed, sampler.epoch)))

        loader = TrainingLoader(rows, batch_size, sampler=sampler, collate_fn=collate_drawn)
        loader.skip = self.skip_batches
        return loader

    @property
    def _quotas(self) -> ClassQuotas | None:
        """How often an epoch has the rows of each class; None: every row once."""
        if not self.hparams.balanced_sampling:
            return None
        return ClassQuotas.of(self.train_rows.labels, self.hparams.balanced_sampling)

    @property
    def class_shares(self) -> np.ndarray:
        """The share of each class in the weight of the rows of an epoch, float64 (C,).

        With several labels a text, the share of the rows that have the class.
        """
        rows, times = self.train_rows, np.ones(len(self.train_rows))
        if (quotas := self._quotas) is not None:
            times = quotas.mean_times
        weights = times if rows.weights is None else times * rows.weights
        return class_shares(rows.labels, len(self.label_names), weights)

    def val_dataloader(self) -> DataLoader:
        return self.eval_loader(self.val_rows)

    def test_dataloader(self) -> DataLoader:
        return self.eval_loader(self.test_rows)

    def predict_dataloader(self) -> DataLoader:
        assert self._predict_rows is not None, "call predict_from first"
        check_form(self.hparams, self._predict_form)
        tokenizer = self.weights.tokenizer(self.hparams.max_length)
        tokenizer.no_truncation()
        batches = PredictionBatches(
            self._predict_rows,
            self._predict_form,
            tokenizer,
            self.tokenized.long_texts,
            self.hparams.eval_batch_size,
            self._pad_token_id,
            self.weights.type_vocab_size,
        )
        return DataLoader(batches, batch_size=None)

    def predict_from(self, rows: Iterable[Numbered], form: TextForm | None = None) -> None:
        """Sets the rows that `predict` labels: readable ones, each with a text.

        Args:
            form: the columns of the texts; None: those of the settings, `text` where none is named.
        """
        settings = self.hparams
        self._predict_rows = rows
        self._predict_form = form or form_in_settings(settings.text_column or TEXT, settings.text_form)

    def eval_loader(self, rows: TokenizedRows) -> DataLoader:
        """Batches of rows in their order, without gradients."""
        sampler: Sampler = SequentialSampler(rows)
        trainer = self.trainer
        if trainer and trainer.world_size > 1:
            # Lightning's own sampler repeats rows to make the ranks' shares equal, which bends the score.
            sampler = UnrepeatedDistributedSamplerWrapper(
                sampler, num_replicas=trainer.world_size, rank=trainer.global_rank, shuffle=False
            )
        return self._loader(rows, self.hparams.eval_batch_size, sampler)

    def _loader(self, rows: TokenizedRows, batch_size: int, sampler: Sampler) -> DataLoader:
        # No worker processes: a batch is put together faster than it could be handed over.
        return DataLoader(rows, batch_size, sampler=sampler, collate_fn=self._collate)

    def _collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        return collate(items, self._pad_token_id, self.hparams.window_pooling)

    @property
    def _pad_token_id(self) -> int:
        return self.weights.pad_token_id

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to find and tokenize the same rows again, in plain values."""
        columns = self.tokenized.columns
        resolved = {
            "dataset": self.source.address,
            "stand_in": None,
            "label_names": self.label_names,
            "task": self.task,
            "text_column": names_as_setting(columns.text),
            "label_column": names_as_setting(columns.label),
            "text_form": stored_form(columns),
            "long_texts": self.tokenized.long_texts_mode,
        }
        return {
            "label_names": self.label_names,
            "source": self.source.as_dict(),
            "tokenizer": self.weights.tokenizer_files,
            "rows": {part: counts.as_dict() for part, counts in self.splits.counts.items()},
            "hyper_parameters": {**self.hparams, **resolved},
            "code_order": self.hparams.label_names,
            "fingerprint": self.fingerprint if hasattr(self, "train_rows") else None,
        }

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the texts, labels and order of the rows to train on."""
        digest = hashlib.sha256(np.ascontiguousarray(self.train_rows.hashes).data)
        digest.update(np.ascontiguousarray(self.train_rows.labels).data)
        if (weights := self.train_rows.weights) is not None:
            digest.update(np.ascontiguousarray(weights).data)
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
        weights.task = checkpoint.task
        return cls(**{**checkpoint.data.settings.model_dump(), "weights": weights, **settings})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called when a run is resumed: what its text stood in for is not forgotten."""
        source = Source(**state_dict["source"])
        if source.address == self.source.address:
            self._restored_source = source


if EmotionDataModule.__doc__:  # `python -OO` has none
    EmotionDataModule.__doc__ = EmotionDataModule.__doc__.replace("{kinds}", summaries())
