"""The frozen network beside the one that trains: its head as a start, and as a rival that costs seconds.

python -m lit_bert fit --data.dataset reviews.csv
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from lit_bert.data.cache import TokenizedRows
from lit_bert.evaluate.predictions import VALIDATED, Predictions
from lit_bert.model.head import Head
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.train.bench import best_head, set_head
from lit_bert.train.checkpoint_io import write_checkpoint
from lit_bert.train.features import features_of
from lit_bert.train.race import best_method
from lit_bert.train.run import FitRun

log = logging.getLogger(__name__)

MOST_ROWS = 1000  # that the head is fitted to beside a training: seconds, whatever the data


class Rival(NamedTuple):
    """The frozen network with its best head.

    Attributes:
        outputs: of the validation rows, by their numbers in ascending order, float32 (N, C).
    """

    head: Head
    outputs: np.ndarray


def _sample(run: FitRun, rows: TokenizedRows) -> TokenizedRows:
    """Some of the rows, the same each time."""
    order = np.random.default_rng(run.data.hparams.subset_seed).permutation(len(rows))
    return rows.view(np.sort(order[:MOST_ROWS]))


def _head(run: FitRun) -> Head:
    """The best one for the network as it stands, by some of the rows to train on."""
    some = _sample(run, run.data.train_rows)
    return best_head(run, some, features_of(run, some))


def frozen_rival(run: FitRun) -> Rival:
    """The network as it starts, with the best head for rows to train on."""
    head, validation = _head(run), run.data.val_rows
    order = np.argsort(validation.rows)
    logits = head.logits(features_of(run, validation.view(order)))
    return Rival(head, run.model.task.outputs(logits.numpy()))


def start_with_best_head(run: FitRun, rival: Rival | None) -> None:
    """Has the classifier start as the best one for the network as it is, which a rival has found already."""
    set_head(run, rival.head if rival else _head(run))


def keep_better_method(
    run: FitRun, checkpoint: Checkpoint, predictions: Predictions, rival: Rival
) -> tuple[Checkpoint, Predictions]:
    """Keeps the frozen network where the validation rows say that it is better than the trained one.

    Returns:
        The checkpoint as it is then, and what it says of the validation rows.
    """
    task = predictions.task
    outputs = {"finetune": predictions.outputs, "frozen": rival.outputs}
    scores = {
        name: task.main_scorer(each, predictions.labels)(np.ones(len(predictions.labels)))
        for name, each in outputs.items()
    }
    kept = best_method(task, outputs, predictions.labels)
    for name, score in scores.items():
        shown = f"{task.main_title} {score:.4f} on the validation rows{' (kept)' * (name == kept)}"
        log.info(f"method     {name}: {shown}")
    facts = {"method": {"kept": kept, "tried": list(outputs)}}
    if kept == "finetune":
        return checkpoint, predictions.with_facts(**facts)
    model = run.model
    model.network = None
    model.configure_model()  # the values that it started from
    set_head(run, rival.head)
    state = {name: value.detach() for name, value in model.state_dict().items()}
    place = {"epoch": 0, "global_step": 0, "val_score": scores["frozen"], "method": "frozen"}
    facts_of_it = checkpoint.facts.model_copy(update=place)
    checkpoint = write_checkpoint(replace(checkpoint, facts=facts_of_it, state_dict=state), checkpoint.path)
    predictions = predictions.with_outputs(rival.outputs, **facts)
    predictions.write(checkpoint.run / VALIDATED)
    return checkpoint, predictions
