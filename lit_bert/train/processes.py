"""The processes of one run: that all of them use the same checkpoint.

python -m lit_bert test --trainer.devices 2 --trainer.strategy ddp
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_bert import UserError
from lit_bert.io.ranks import is_first_process
from lit_bert.sources.checkpoint import Checkpoint, find
from lit_bert.train.published import Asked, as_checkpoint, is_published

CHECKPOINT = "LIT_BERT_CHECKPOINT"  # the one that the first process found, for those that it starts


def find_checkpoint(which: str | None, asked: Asked | None = None) -> Path:
    """As `sources.checkpoint.find`; a process that the first one started takes what that one found.

    Between the two another fit may have written a newer checkpoint.

    Args:
        asked: what is said of a classifier from the Hub or a folder; None: only files will do.
    """
    found = None if is_first_process() else os.environ.get(CHECKPOINT)
    if found:
        return Path(found)
    if asked is not None and which not in (None, "best", "last") and is_published(which):
        return as_checkpoint(which, asked)
    return find(which)


@contextmanager
def shared_checkpoint(checkpoint: Checkpoint | None) -> Iterator[None]:
    """Within the block, processes that are started take this checkpoint: Lightning hands them no arguments
    but those of this process.
    """
    before = os.environ.get(CHECKPOINT)
    if checkpoint is not None and is_first_process():
        os.environ[CHECKPOINT] = str(checkpoint.path)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(CHECKPOINT, None)
        else:
            os.environ[CHECKPOINT] = before


class SameCheckpoint(Callback):
    """Refuses a run whose processes opened different checkpoints, as when torchrun starts them apart."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            return
        found: list[tuple[str, str]] = [("", "")] * dist.get_world_size()
        dist.all_gather_object(found, (self.checkpoint.sha256, str(self.checkpoint.path)))
        for sha256, path in found:
            if sha256 != found[0][0]:
                dist.destroy_process_group()  # else its threads may abort a process that ends
                raise UserError(
                    f"the processes of this run opened different checkpoints, {found[0][1]} and {path}. "
                    "Name one file with --ckpt_path."
                )
