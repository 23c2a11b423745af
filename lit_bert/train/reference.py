"""What a run's best checkpoint was validated on, counted for `drift`; and what it is asked about later.

python -m lit_bert fit && python -m lit_bert drift checkpoints/version_0/best.ckpt new.csv
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from lit_bert import UserError
from lit_bert.data.cells import text_in
from lit_bert.data.windows import LongTexts
from lit_bert.evaluate.drift import REFERENCE, Reference
from lit_bert.evaluate.drift_files import CHECKPOINT, Statistics, read_reference, write_references
from lit_bert.evaluate.predictions import Predictions
from lit_bert.evaluate.text_facts import TextReader
from lit_bert.io.texts import TextForm
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.weights import Weights
from lit_bert.train.features import Features, features_of
from lit_bert.train.run import FitRun

log = logging.getLogger(__name__)

MOST_EMBEDDED = 1000  # validation rows, as their embeddings take another pass of the network


def text_reader(checkpoint: Checkpoint) -> TextReader:
    """The reader of the texts that a checkpoint labels."""
    settings = checkpoint.data.settings
    tokenizer = Weights.restored(checkpoint).tokenizer(settings.max_length)
    long_texts = LongTexts.of_settings(tokenizer, settings)
    tokenizer.no_truncation()
    return TextReader(settings.texts, tokenizer, long_texts)


def keep_reference(run: FitRun, checkpoint: Checkpoint, predictions: Predictions) -> None:
    """Writes the reference of a checkpoint beside it.

    Where rows were cross-validated, the answers are of other networks than the one that is kept, which has
    seen all of the rows: then texts alone are compared.
    """
    outputs = None if run.data.splits.cross_validates else predictions.outputs
    features = None if outputs is None or run.trainer.world_size > 1 else _embeddings(run, checkpoint)
    facts = {"checkpoint": checkpoint.sha256, "rows": predictions.rows_sha256}
    texts = text_reader(checkpoint).facts(predictions.texts)
    found = Reference.of_rows(checkpoint.task, texts, outputs, features, facts)
    try:
        write_references(checkpoint.run / REFERENCE, {CHECKPOINT: found})
    except OSError as error:
        log.info(f"the reference for drift is not kept beside the checkpoint: {error.strerror}")


def _embeddings(run: FitRun, checkpoint: Checkpoint) -> np.ndarray:
    """What the last layer of a checkpoint is given of some validation rows, float32 (N, F)."""
    rows, model = run.data.val_rows, run.model
    order = np.random.default_rng(run.data.hparams.subset_seed).permutation(len(rows))
    own = {name: parameter.detach().clone() for name, parameter in model.trained.items()}
    model.load_state_dict(checkpoint.state_dict, strict=False)
    found = features_of(run, rows.view(np.sort(order[:MOST_EMBEDDED])))
    model.load_state_dict(own, strict=False)
    return found.numpy()


def statistics_of(checkpoint: Checkpoint, path: Path | None = None) -> Statistics:
    """Statistics of what a checkpoint is asked about.

    Args:
        path: the file that they are kept in; None: they are not.

    Raises:
        UserError: there is no reference beside the checkpoint, or that of another one.
    """
    reference = read_reference(checkpoint.run, CHECKPOINT, checkpoint.task)
    if reference.facts.get("checkpoint") != checkpoint.sha256:
        raise UserError(
            f"{checkpoint.run / REFERENCE} is not of {checkpoint.path.name} but of another checkpoint; a fit "
            "writes that of its best one."
        )
    return Statistics(reference, text_reader(checkpoint), path)


class StatisticsCollector(Features):
    """Counts the texts that are predicted.

    Args:
        statistics: that count.
        form: the columns of the texts.
    """

    def __init__(self, statistics: Statistics, form: TextForm) -> None:
        super().__init__()
        self.statistics, self.form = statistics, form

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        super().on_predict_batch_end(trainer, pl_module, outputs, batch)
        texts = [text_in(each.row, self.form) or "" for each in batch["numbered"]]
        self.statistics.add(texts, outputs.cpu().numpy(), self._found.pop().numpy())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._hook.remove()
        self.statistics.flush()
