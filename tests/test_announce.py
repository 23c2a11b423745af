"""What a verb says before it starts: the device, the sources, and stand-ins in a box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from lit_bert.cli.start import prepare_process
from lit_bert.evaluate.announce import announce, checkpoint_sources, stand_in_box
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.hub import Source

FILE = Source("file", "/data/reviews.csv")
STAND_IN = Source("packaged", "minilm", stand_in_for="bert-base-uncased", reason="no network")


def said(capfd: pytest.CaptureFixture[str], sources: list[tuple[str, Source]], **settings: Any) -> list[str]:
    """The lines on standard error."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **settings)
    prepare_process()
    capfd.readouterr()
    announce(trainer, sources)
    return capfd.readouterr().err.splitlines()


def test_device_precision_and_sources_are_one_line_each(capfd: pytest.CaptureFixture[str]) -> None:
    sources = [("weights", Source("hub", "a/b", revision="0123456789abcdef")), ("rows", FILE)]
    count = torch.get_num_threads()
    threads = "1 thread" if count == 1 else f"{count} threads"
    assert said(capfd, sources, precision="bf16-mixed") == [
        f"device     1 × CPU, {threads}, precision bf16-mixed",
        "weights    a/b (hub, revision 0123456789ab)",
        "rows       /data/reviews.csv (file)",
    ]


def test_a_stand_in_is_said_in_its_line_and_in_a_box_of_stand_ins_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    _, weights, rows, *box = said(capfd, [("weights", STAND_IN), ("rows", FILE)])
    assert weights == "weights    minilm (packaged), STANDING IN for bert-base-uncased: no network"
    assert rows == "rows       /data/reviews.csv (file)"
    assert "STAND-INS" in box[0]
    assert "weights: minilm instead of bert-base-uncased (no network)" in box[1]
    assert "Scores of this run hold for these alone" in box[2]
    assert len(box) == 4


def test_the_box_is_as_wide_as_the_screen_and_takes_names_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    lines = stand_in_box(["weights: [red]a[/red] " + "very " * 20 + "long"]).splitlines()
    assert {len(line) for line in lines} == {50}
    assert "[red]a[/red]" in lines[1]
    assert sum(line.count("very") for line in lines) == 20


def test_the_scores_of_a_checkpoint_rest_on_its_weights_and_its_rows(
    trained: Path, tiny_bert: Path, corpus: Path
) -> None:
    (weights, rows) = checkpoint_sources(Checkpoint.open(trained / "best.ckpt"))
    assert (weights[0], weights[1].name) == ("weights", str(tiny_bert))
    assert (rows[0], rows[1].name) == ("trained on", str(corpus))
