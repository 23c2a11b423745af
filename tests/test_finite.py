"""Numbers that are not finite: where they appear in a fit, in a checkpoint, in a folder of weights."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from formats import content_of, write_content
from safetensors.torch import load_file, save_file

from lit_bert import UserError
from lit_bert.evaluate.attribution import Explainer
from lit_bert.evaluate.predictions import Predictions
from lit_bert.model import loss_check
from lit_bert.model.module import BertClassifier
from lit_bert.model.pretrained import load_network
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.finite import first_not_finite, tensors_in
from lit_bert.sources.weights import Weights
from lit_bert.train.checkpoint_io import SafeCheckpointIO

BAD = [float("nan"), float("inf"), float("-inf")]
ENCODER = "bert.encoder.layer.1.output.dense.weight"
WORDS = "bert.embeddings.word_embeddings.weight"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bad", BAD)
def test_one_value_among_many_is_found(bad, dtype):
    tensors = {
        "a": torch.zeros(0, dtype=dtype),
        "b": torch.arange(9),
        "c": torch.full((50, 70), 6e4).to(dtype),
    }
    assert first_not_finite(tensors.items()) is None
    tensors["c"][49, 69] = bad
    assert first_not_finite(tensors.items()) == "c"


def test_tensors_are_found_however_deep_they_lie():
    one = torch.ones(1)
    nested = {"a": [{"state": {0: {"step": one}}}, 3], "b": {"c.d": one}, "e": "text"}
    assert [name for name, _ in tensors_in(nested)] == ["a.0.state.0.step", "b.c.d"]


# --- a fit


def contents(run):
    return {path.name: path.read_bytes() for path in run.glob("*.ckpt")}


def stopped(outcome):
    """The line that says why."""
    assert outcome.code == 2, outcome
    assert "macro F1" not in outcome.out
    assert "best epoch" not in outcome.out
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("lit_bert fit: "))
    assert outcome.err.splitlines()[-1] == line
    return line


def test_a_learning_rate_that_is_too_high_stops_a_fit_before_anything_is_saved(run, quick):
    line = stopped(run("fit", *quick, "--model.learning_rate=1e30"))
    assert "the training loss is nan in optimizer step 2 (learning rate 9.375e+29; training rows " in line
    assert "Nothing was saved" in line
    assert "lower --model.learning_rate" in line
    assert not contents(Path("checkpoints/version_0"))


def poison(model):
    with torch.no_grad():
        model.network.bert.encoder.layer[0].output.dense.bias[3] = float("nan")


@pytest.fixture
def seen(monkeypatch):
    """What was there when the second batch of the second epoch was poisoned, at the point of time named."""
    found = {}

    def poisoned_at(hook, *, epoch=1, batch=1):
        original = getattr(BertClassifier, hook)

        def act(model, *arguments):
            place = model.trainer.fit_loop.epoch_loop.batch_idx if hook != "on_validation_start" else batch
            if model.trainer.current_epoch == epoch and place == batch and not found:
                found["rows"] = model._batch["rows"].tolist() if hook == "on_after_backward" else None
                found["step"] = model.trainer.global_step + 1
                found["files"] = contents(Path("checkpoints/version_0"))
                poison(model)
            return original(model, *arguments)

        monkeypatch.setattr(BertClassifier, hook, act)
        return found

    return poisoned_at


@pytest.mark.parametrize("queued", [False, True], ids=["at once", "a step later"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("hook", ["training_step", "on_after_backward"], ids=["first pass", "second pass"])
def test_a_fit_ends_with_the_batch_whose_loss_is_not_finite(
    run, quick, seen, monkeypatch, hook, accumulate, queued
):
    if queued:  # as on a GPU, but for the event
        monkeypatch.setattr(loss_check, "QUEUED", ("cpu",))
    found = seen(hook)
    flags = [f"--trainer.accumulate_grad_batches={accumulate}", "--trainer.log_every_n_steps=1"]
    line = stopped(run("fit", *quick, *flags))
    assert f"the training loss is nan in optimizer step {found['step']} (learning rate 0.0" in line
    if found["rows"]:
        assert f"training rows {', '.join(str(row + 1) for row in found['rows'])})" in line
    place = Path("checkpoints/version_0").resolve()
    assert "The last good checkpoint is checkpoints/version_0/last.ckpt; nothing" in line.replace(
        f"{place.parent.parent}/", ""
    )
    assert found["files"].keys() == {"best.ckpt", "last.ckpt"}
    assert contents(place) == found["files"]
    assert run("predict", "so glad", f"--ckpt_path={place / 'last.ckpt'}").code == 0


def test_a_validation_whose_loss_is_not_finite_ends_the_fit_and_is_not_the_best(run, quick, seen):
    found = seen("on_validation_start")
    line = stopped(run("fit", *quick))
    assert "the validation loss is nan after optimizer step 16." in line
    assert contents(Path("checkpoints/version_0")) == found["files"]
    assert found["files"].keys() == {"best.ckpt", "last.ckpt"}


def test_weights_that_the_last_step_spoiled_are_not_saved(run, quick, monkeypatch):
    def spoil(model, optimizer):
        if model.trainer.global_step == 9:
            model.network.classifier.bias.grad[0] = float("inf")

    monkeypatch.setattr(BertClassifier, "on_before_optimizer_step", spoil)
    flags = ["--trainer.max_epochs=-1", "--trainer.max_steps=10", "--trainer.gradient_clip_val=null"]
    line = stopped(run("fit", *quick, *flags))
    assert "is not finite (NaN or infinity) after optimizer step 10 and not saved. The last good" in line
    for name in ("best.ckpt", "last.ckpt"):
        assert Checkpoint.open(f"checkpoints/version_0/{name}").facts.global_step == 8


TWO_PROCESSES = """
import sys
sys.path[:0] = {path!r}
import torch
from lit_bert.__main__ import main
from lit_bert.model.module import BertClassifier
original = BertClassifier.training_step
def step(model, batch, batch_idx):
    if model.trainer.current_epoch == 1 and batch_idx == 1 and model.trainer.global_rank == 1:
        with torch.no_grad():
            model.network.bert.encoder.layer[0].output.dense.bias[3] = float("nan")
        open("rows", "w").write(", ".join(str(row + 1) for row in batch["rows"].tolist()))
    return original(model, batch, batch_idx)
BertClassifier.training_step = step
if __name__ == "__main__":
    sys.exit(main({arguments!r}))
"""


def test_two_processes_stop_together_when_one_has_a_loss_that_is_not_finite(quick, tmp_path):
    path = [str(Path(__file__).parent.parent)]
    arguments = ["fit", *quick, "--trainer.devices=2", "--trainer.strategy=ddp"]
    (tmp_path / "two.py").write_text(TWO_PROCESSES.format(path=path, arguments=arguments))
    environment = {**os.environ, "LIT_BERT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "two.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("lit_bert fit: "))
    assert "optimizer step 6 (learning rate 0.00" in line
    assert f"training rows {(tmp_path / 'rows').read_text()})" in line
    assert "macro F1" not in done.stdout
    for name in ("best.ckpt", "last.ckpt"):
        assert Checkpoint.open(tmp_path / "checkpoints/version_0" / name).facts.global_step == 4


# --- checkpoints and folders


def poisoned_copy(trained, name="best.ckpt", bad=float("nan"), part="state_dict"):
    """A copy of the run, whose scores go with the checkpoint that was changed."""
    folder = Path(shutil.copytree(trained, "poisoned"))
    content = content_of(folder / name)
    if part == "optimizer_states":
        content[part][0]["state"][3]["exp_avg"].view(-1)[0] = bad
    else:
        content[part][f"network.{ENCODER}"][0, 0] = bad
    write_content(content, folder / name)
    if name == "best.ckpt":
        rows = Predictions.read(folder / "validate.parquet")
        facts = {**rows.facts, "sha256": Checkpoint.open(folder / name).sha256}
        replace(rows, facts=facts).write(folder / "validate.parquet")
    return folder / name


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("part", ["state_dict", "training_weights", "optimizer_states"])
def test_a_checkpoint_with_a_value_that_is_not_finite_is_not_written(trained, part, bad):
    content = content_of(poisoned_copy(trained, "last.ckpt", bad, part))
    before = Path("a.ckpt")
    before.write_bytes(b"earlier")
    with pytest.raises(UserError, match=rf"a\.ckpt is not written: {part}\..* is not finite"):
        SafeCheckpointIO().save_checkpoint(content, "a.ckpt")
    assert before.read_bytes() == b"earlier"
    assert not list(Path().glob(".a.ckpt*"))


VERBS = {
    "validate": ["validate", "--ckpt_path={path}"],
    "test": ["test", "--ckpt_path={path}"],
    "predict": ["predict", "so glad", "--ckpt_path={path}", "--output=out.csv"],
    "export": ["export", "--ckpt_path={path}", "--to=out"],
    "fit from it": ["fit", "--weights.checkpoint={path}", "--data.dataset={corpus}"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_refuses_weights_that_are_not_finite(run, trained, corpus, verb):
    if verb == "export":
        pytest.importorskip("onnxruntime")
    path = poisoned_copy(trained)
    kept = {each: each.read_bytes() for each in path.parent.iterdir()}
    outcome = run(*(part.format(path=path, corpus=corpus) for part in VERBS[verb]))
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    line = outcome.err.splitlines()[-1]
    assert f"best.ckpt (checkpoint) holds weights that are not finite (NaN or infinity), {ENCODER}" in line
    assert {each: each.read_bytes() for each in path.parent.iterdir()} == kept
    assert not Path("out").exists()
    assert not Path("out.csv").exists()
    assert not list(Path().glob("checkpoints/*/*.ckpt"))


def test_nothing_is_explained_with_weights_that_are_not_finite(trained):
    checkpoint = Checkpoint.open(poisoned_copy(trained))
    with pytest.raises(UserError, match="weights that are not finite"):
        Explainer.of(checkpoint)
    with pytest.raises(UserError, match="weights that are not finite"):
        BertClassifier.load_from_checkpoint(checkpoint.path)


@pytest.mark.parametrize("part", ["state_dict", "training_weights", "optimizer_states"])
def test_no_run_goes_on_from_values_that_are_not_finite(run, trained, part):
    path = poisoned_copy(trained, "last.ckpt", part=part)
    before = contents(path.parent)
    outcome = run("fit", f"--ckpt_path={path}", "--trainer.max_epochs=3")
    assert outcome.code == 2, outcome
    assert "last.ckpt" in outcome.err.splitlines()[-1]
    assert "that are not finite (NaN or infinity)" in outcome.err.splitlines()[-1]
    assert contents(path.parent) == before


@pytest.mark.parametrize("name", [WORDS, ENCODER, "bert.embeddings.LayerNorm.bias"])
def test_a_folder_of_weights_that_are_not_finite_is_refused(tiny_bert, name):
    folder = Path(shutil.copytree(tiny_bert, "folder"))
    tensors = load_file(folder / "model.safetensors")
    tensors[name.removeprefix("bert.")].view(-1)[0] = float("inf")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=rf"folder \(folder\) holds weights that are not finite .*{name}"):
        load_network(Weights(str(folder), stand_in=None), ["a", "b"])


def test_finite_weights_whose_answers_overflow_label_nothing(run, trained):
    path = Path(shutil.copytree(trained, "poisoned")) / "best.ckpt"
    content = content_of(path)
    content["state_dict"]["network.classifier.weight"].fill_(3e38)
    write_content(content, path)
    outcome = run("predict", "so glad", f"--ckpt_path={path}", "--output=out.csv")
    assert outcome.code == 2, outcome
    assert "a probability or a value that is not a number" in outcome.err
    assert not Path("out.csv").exists()
    outcome = run("test", f"--ckpt_path={path}")
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert "the loss of split test is nan: its scores would mean nothing" in outcome.err
