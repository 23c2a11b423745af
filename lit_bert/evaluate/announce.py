"""What a verb says before it starts: the device, the precision, where weights and rows come from."""

from __future__ import annotations

import io
import logging
import sys

import torch
from lightning.pytorch import Trainer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from lit_bert.io import escape
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.hub import Source

log = logging.getLogger(__name__)


def checkpoint_sources(checkpoint: Checkpoint) -> list[tuple[str, Source]]:
    """What the scores of a checkpoint rest on, by role."""
    weights, data = checkpoint.weights.source, checkpoint.data.source
    return [("weights", weights.as_source()), ("trained on", data.as_source())]


def announce(trainer: Trainer, sources: list[tuple[str, Source]]) -> None:
    """Logs what runs on what, and where things come from; a stand-in in a box that cannot be overlooked."""
    device, count = type(trainer.accelerator).__name__.removesuffix("Accelerator"), torch.get_num_threads()
    threads = f", {count} thread{'s' * (count != 1)}" if device == "CPU" else ""
    log.info(f"device     {trainer.num_devices} × {device}{threads}, precision {trainer.precision}")
    for role, source in sources:
        log.info(f"{role:10} {escape.line(source)}")
    stand_ins = [
        f"{role}: {source.name} instead of {source.stand_in_for} ({source.reason})"
        for role, source in sources
        if source.stand_in_for
    ]
    if stand_ins:
        log.info(stand_in_box([escape.line(each) for each in stand_ins]))


def stand_in_box(lines: list[str]) -> str:
    """The stand-ins of a run in a box, in red where standard error is a terminal."""
    warning = "Scores of this run hold for these alone, not for what was asked for."
    body = Text("\n".join([*lines, warning]))  # Rich would read a string as its own markup
    width = Console(stderr=True).width
    console = Console(file=io.StringIO(), force_terminal=sys.stderr.isatty(), highlight=False, width=width)
    with console.capture() as capture:
        console.print(Panel(body, title="STAND-INS", border_style="bold red"))
    return capture.get().rstrip("\n")
