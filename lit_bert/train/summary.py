"""What a run says before it starts: device, sources, model, rows, and what was chosen for it.

python -m lit_bert fit --dry_run
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lit_bert.evaluate.announce import announce
from lit_bert.evaluate.audit_text import dataset_summary
from lit_bert.io import escape
from lit_bert.model.bert import path_of
from lit_bert.train.run import FitRun

log = logging.getLogger(__name__)


def say_what_is_used(run: FitRun) -> None:
    """Logs device, sources, model, rows, classes and the folder."""
    trainer, model, data = run.trainer, run.model, run.data
    announce(trainer, run.sources)
    size, trained = (
        sum(parameter.numel() for parameter in some) / 1e6
        for some in (model.parameters(), model.trained.values())
    )
    kind = model.encoder.model_type
    log.info(f"model      {kind}, {size:.1f}M parameters, highest learning rate {model.learning_rate:g}")
    if model.trains_part:
        log.info(f"           trains {_millions(trained)} of {size:.1f}M parameters")
    log.info(f"           computed by {path_of(model.network, trainer)}")
    log.info(f"rows       {_rows(run)}")
    for part, counts in data.splits.counts.items():
        if counts.skipped or set(counts.left_out) - {data.splits.validation_setting}:
            log.info(f"           {part}: {counts}")
    if model.task.class_scores:
        log.info(f"classes    {len(data.label_names)}: {shortened(data.label_names)}")
        for note in model.default_objective.notes():
            log.info(f"           {note}")
    else:
        low, high = (f"{each:.6g}" for each in (data.train_rows.labels.min(), data.train_rows.labels.max()))
        log.info(f"numbers    {shortened(data.label_names)}, {low} to {high} in the rows to train on")
    if trainer.is_global_zero and run.has_rows:
        used = {data.hparams.train_split: data.train_rows}
        if not data.splits.cross_validates:
            used[data.splits.val_name] = data.val_rows
        if data.splits.has_guarantee_rows:
            used["guarantee"] = data.splits.guarantee_rows()
        for finding in dataset_summary(used, run.model.task, data.hparams.deduplicate):
            log.info(f"audit      {finding}")
    for place, note in enumerate(run.notes):
        log.info(f"{'' if place else 'recipe':10} {note}")
    if trainer.log_dir:
        log.info(f"run        {Path(trainer.log_dir)}")
    for change in run.resumed.changes if run.resumed else ():
        log.info(f"resumed    {change}")


def _millions(count: float) -> str:
    return f"{count:.1f}M" if count >= 0.1 else f"{count * 1e3:.1f}k"


def facts(run: FitRun) -> dict[str, Any]:
    """What the dashboard shows of a run: sources and settings."""
    settings = run.settings
    found: dict[str, Any] = {role: str(source) for role, source in run.sources}
    found |= {name: run.data.hparams[name] for name in ("batch_size", "max_length")}
    found |= {name: run.model.hparams[name] for name in settings["model"] if name != "learning_rate"}
    found |= {name: settings["trainer"][name] for name in ("max_epochs", "precision")}
    return {**found, "seed": settings["seed_everything"]}


def _rows(run: FitRun) -> str:
    """How many rows there are, and of what."""
    data = run.data
    if not run.has_rows:
        return f"none: the {'names' if run.descriptions is None else 'descriptions'} of the classes alone"
    split, validation = data.splits.counts["train"], data.splits.counts.get("validation")
    count = f"{len(data.train_rows):,} to train on"
    if validation is None:
        return f"{count}, each scored by a network that has not seen it"
    of_split = f", of the {split.read:,} of split {escape.line(split.split)}" * (
        validation.split == split.split
    )
    return f"{count}, {len(data.val_rows):,} to validate on{of_split}"


def shortened(names: list[str], most: int = 10) -> str:
    """The first of some names, in a line."""
    return ", ".join(escape.names(names[:most])) + (", …" if len(names) > most else "")
