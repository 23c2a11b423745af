"""A new run that starts from an old model: what has to fit, and how both do on the new validation rows.

python -m lit_bert fit --from checkpoints/version_0/best.ckpt --data.dataset more.csv
"""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import torch

from lit_bert import UserError
from lit_bert.data.columns import check_same_form
from lit_bert.evaluate.evidence import CHOOSING
from lit_bert.evaluate.predictions import TRAINED, Predictions, read_hashes
from lit_bert.evaluate.record import trained_on
from lit_bert.evaluate.update import UPDATE, Side, compare_models, update_lines
from lit_bert.io import escape, files
from lit_bert.model.module import BertClassifier
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.train.run import FitRun, bare_trainer

log = logging.getLogger(__name__)


def check_update(run: FitRun, old: Checkpoint) -> None:
    """Says which classes stay.

    Raises:
        UserError: the rows are of another kind than those of the old model, or of wholly other classes.
    """
    task, known, what = run.model.task, old.task, f"--from {escape.line(old.path)}"
    instead = "start a new model with --weights.checkpoint in its place"
    if task.kind != known.kind:
        raise UserError(f"{what} is a model of the task {known.kind}, the rows are {task.kind}; {instead}.")
    check_same_form(old.data.settings.texts, run.data.tokenized.text_form)
    if task.label_form == "number":
        return
    names, before = list(task.class_names), list(known.class_names)
    if task.is_ordered and names != before:
        raise UserError(f"{what} has other classes, or another order of them, than the rows; {instead}.")
    if not set(names) & set(before):
        raise UserError(f"{what} knows none of the classes of the rows; {instead}.")
    for one, several, some in (
        ("class stays", "classes stay", [name for name in names if name in before]),
        ("class is new", "classes are new", [name for name in names if name not in before]),
        ("class goes", "classes go", [name for name in before if name not in names]),
    ):
        if some:
            said = f"{len(some)} {one if len(some) == 1 else several}"
            log.info(f"from       {said}: {', '.join(escape.names(some[:10]))}")


def record_update(run: FitRun, old: Checkpoint, checkpoint: Checkpoint, predictions: Predictions) -> None:
    """Prints how both models do on the rows that the new one was validated on, and keeps it beside it."""
    if run.trainer.world_size > 1:
        log.info("the old model is compared on one device; run `validate` for each.")
        return
    sides = Side(old.task, _outputs(run, old, predictions)), Side(predictions.task, predictions.outputs)
    said: dict[str, Any] = compare_models(*sides, predictions.labels)
    said |= {"old": str(old.path), "notes": _notes(run, old, predictions), "checkpoint": checkpoint.sha256}
    print(f"\nold {escape.line(old.path)}\nnew {escape.line(checkpoint.path)}")
    print("\n".join(update_lines(said)))
    try:
        files.write_text(checkpoint.run / UPDATE, json.dumps(said, indent=2) + "\n")
    except OSError as error:
        log.info(f"the comparison is not kept beside the checkpoint: {error.strerror}")


def _outputs(run: FitRun, old: Checkpoint, predictions: Predictions) -> np.ndarray:
    """What the old model says of the rows of predictions, float32 (N, C)."""
    rows = run.data.train_rows if run.data.splits.cross_validates else run.data.val_rows
    place = {number: at for at, number in enumerate(rows.rows.tolist())}
    order = np.array([place[number] for number in predictions.rows.tolist()])
    model = BertClassifier.load_from_checkpoint(old.path)
    loader = run.data.eval_loader(rows.view(order))
    return torch.cat(bare_trainer(run).predict(model, loader)).numpy()  # type: ignore[arg-type]


def _notes(run: FitRun, old: Checkpoint, predictions: Predictions) -> list[str]:
    """What a reader has to know of the rows."""
    notes = []
    if CHOOSING in predictions.facts["used_for"]:
        notes.append("the rows chose between epochs of the new model, which favours it")
    hashes = read_hashes(old.run / TRAINED)
    if hashes is None:
        notes.append("whether the old model was trained on some of the rows is not known")
    elif trained_on(predictions.texts, hashes):
        count = trained_on(predictions.texts, hashes)[0]
        notes.append(f"the old model: {count}, which favours it")
    before, now = (each.max_length for each in (old.data.settings, run.data.hparams))
    if before != now:
        notes.append(f"both read {now} tokens of a text here; the old model was trained to read {before}")
    return notes
