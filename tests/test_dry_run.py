"""`fit --dry_run`: what it says is what a fit does, and nothing is written."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run, files
from lightning.pytorch import Trainer

from lit_bert.train.dry_run import Clock, peak_memory


def said(out: str, name: str) -> str:
    found = re.search(rf"^{name} +(.*)$", out, re.MULTILINE)
    assert found, out
    return found[1]


def test_it_says_what_a_fit_does_and_writes_nothing(
    run: Run, quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = os.environ["LIT_BERT_CACHE"]
    before = files(tmp_path)
    outcome = run("fit", *quick, "--dry_run")
    assert outcome.code == 0, outcome.err
    assert files(tmp_path) == before
    assert os.environ["LIT_BERT_CACHE"] == cache
    assert said(outcome.out, "steps").startswith("16: 2 epochs of 8 batches")  # 60 rows, 8 a batch
    assert "second pass" in said(outcome.out, "a batch")
    assert float(said(outcome.out, "memory").split()[1].replace(",", "")) > 100
    assert "60 to train on, 24 to validate on" in outcome.err
    real = run("fit", *quick)
    assert real.code == 0
    assert "for 16 optimizer steps" in real.out


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        (["--trainer.max_steps=5"], "5: 1 epochs of 8"),
        (["--trainer.max_epochs=-1", "--trainer.max_steps=20"], "20: 3 epochs of 8"),
        (["--trainer.limit_train_batches=0.5"], "8: 2 epochs of 4"),
        (["--trainer.accumulate_grad_batches=3"], "6: 2 epochs of 8"),
        (["--model.adversarial_norm=0", "--model.lora.rank=2"], "16: 2 epochs of 8"),
    ],
)
def test_the_settings_of_the_run_count(run: Run, quick: list[str], flags: list[str], steps: str) -> None:
    outcome = run("fit", *quick, *flags, "--dry_run")
    assert outcome.code == 0, outcome.err
    assert said(outcome.out, "steps").startswith(steps)
    assert ("second pass" in outcome.out) is ("--model.adversarial_norm=0" not in flags)


def test_what_a_fit_refuses_is_refused_alike(quick: list[str], refused: Callable[..., str]) -> None:
    assert "none.csv" in refused("fit", *quick, "--dry_run", "--data.dataset=none.csv")
    assert "checkpoint.monitor" in refused("fit", *quick, "--dry_run", "--checkpoint.monitor=val/nope")
    for flag in ("--seeds=2", "--result=place", "--ckpt_path=last"):
        assert flag.partition("=")[0] in refused("fit", *quick, "--dry_run", flag)
    Path("settings.yaml").write_text("dry_run: true\n")
    assert "--dry_run" in refused("fit", *quick, "--config=settings.yaml")


def test_the_clock_has_a_time_for_each_batch() -> None:
    clock = Clock()
    for _ in range(3):
        clock.on_train_batch_start()
        clock.on_train_batch_end()
    clock.on_validation_batch_start(Trainer.__new__(Trainer), None)  # type: ignore[arg-type]
    clock.on_validation_batch_end(Trainer.__new__(Trainer), None)  # type: ignore[arg-type]
    assert (len(clock.train), len(clock.validation)) == (3, 1)
    assert all(seconds >= 0 for seconds in clock.train)
    assert peak_memory() > 50e6
