"""Checkpoints that somebody else made: nothing in them runs, writes, deletes or opens anything."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from formats import content_of, forge
from verbs import RESUMING, USING

from lit_bert import BertClassifier, EmotionDataModule, UserError
from lit_bert.sources import schema
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.train.checkpoint_io import SafeCheckpointIO

SECRET = "a-secret-that-nobody-may-see"
Crafted = Callable[..., Path]


WRITERS: dict[str, Callable[[Any, Path], Any]] = {"format 1": torch.save, "format 2": forge}


def written_as(write: Callable[[Any, Path], Any], trained: Path) -> Crafted:
    """A function that copies a run's last.ckpt with some of its values changed, and returns the copy."""

    def craft(changes: dict[str, Any], folder: str = "theirs", file: str = "last.ckpt") -> Path:
        content = content_of(trained / file)
        for place, value in changes.items():
            *above, last = place.split("/")
            part: Any = content
            for key in above:
                part = part[int(key) if isinstance(part, list) else key]
            if callable(value):
                value = value(part.get(last) if isinstance(part, dict) else part[int(last)])
            if value is ...:
                del part[last]
            else:
                part[int(last) if isinstance(part, list) else last] = value
        path = Path(folder) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(content, path)
        except RuntimeError:  # of no values, of too many, or of some at places
            pytest.skip("a file of safetensors cannot say this; the next tests change its header")
        return path

    return craft


@pytest.fixture(params=WRITERS)
def crafted(request: pytest.FixtureRequest, trained: Path) -> Crafted:
    """In both formats."""
    return written_as(WRITERS[request.param], trained)


@pytest.fixture
def crafted_1(trained: Path) -> Crafted:
    """In format 1 alone."""
    return written_as(torch.save, trained)


def everything() -> dict[str, bytes]:
    """All files below the test's own folder, to see whether one was made, changed or removed."""
    paths = (path for path in Path("..").rglob("*") if "cache" not in path.parts)
    return {str(path): path.read_bytes() for path in paths if path.is_file()}


def refused_by(run: Any, verb: str, path: Path) -> str:
    """The one line with which a verb refuses a checkpoint; nothing was written, nothing removed."""
    arguments = {
        "predict": ["what a day", f"--ckpt_path={path}"],
        "drift": [path, path.with_name("texts.csv")],
        "export": [f"--ckpt_path={path}", "--to=exported"],
        "weights": ["--weights.checkpoint", path, "--data.dataset=sample", "--trainer.max_epochs=1"],
    }.get(verb, [f"--ckpt_path={path}"])
    if verb == "drift":
        path.with_name("texts.csv").write_text("text\nwhat a day\n", encoding="utf-8")
    before = everything()
    outcome = run("fit" if verb == "weights" else verb, *arguments)
    assert outcome.code == 2, outcome
    assert outcome.err.count("\n") == 1, outcome.err
    assert "Traceback" not in outcome.err
    assert SECRET not in outcome.out + outcome.err
    assert not re.search(r"weights_only|safe_globals|trust", outcome.err)
    assert everything() == before
    return outcome.err


VERBS = [*USING, *RESUMING, "export", "weights", "drift"]
NAN = torch.tensor(float("nan"))
HEAD = "state_dict/network.classifier.weight"
WORDS = "network.bert.embeddings.word_embeddings.weight"
COMMAND = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "pwned"]}}
CALLBACK = {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"setup": "os.abort"}}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_refuses_a_crafted_checkpoint_in_one_line(run, crafted, verb):
    line = refused_by(run, verb, crafted({"hyper_parameters/learning_rate": COMMAND}))
    assert "model.learning_rate is wrong" in line


def test_code_that_an_architecture_names_is_left_out_and_said(run, crafted):
    path = crafted({"weights/architecture/auto_map": {"AutoModel": "pwned--pwned.Model"}})
    outcome = run("predict", "what a day", f"--ckpt_path={path}")
    assert outcome.code == 0
    assert "auto_map not used; neither code nor unknown settings are taken" in outcome.err


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"EmotionDataModule/tokenizer/..%2F..%2Fpwned": "x"}, ("tokenizer", "unknown tensor ..%2F")),
        (
            {"EmotionDataModule/tokenizer": {"tokenizer.json": "{}", "/tmp/pwned": "x"}},
            ("tokenizer", "unknown tensor /tmp"),
        ),
        ({"hyper_parameters/learning_rate": COMMAND}, "model.learning_rate"),
        ({"hyper_parameters/class_path": "os.system"}, "model.class_path"),
        ({"hyper_parameters/_instantiator": "os.system"}, "model._instantiator"),
        ({"EmotionDataModule/hyper_parameters/dataset": COMMAND}, "data.settings.dataset"),
        ({"EmotionDataModule/hyper_parameters/config": "/etc/passwd"}, "data.settings.config"),
        ({"weights/request/checkpoint": "/etc/passwd"}, "weights.request.checkpoint"),
        ({"weights/request/pretrained": COMMAND}, "weights.request.pretrained"),
        ({"weights/source/kind": "shell"}, "weights.source.kind"),
        ({"config/config": "/etc/passwd"}, "settings.config"),
        ({"config/model": COMMAND}, "settings.model"),
        ({"config/trainer/callbacks": [CALLBACK]}, "settings.trainer.callbacks"),
        ({"config/composition/trainer.callbacks": COMMAND}, "settings.composition"),
        ({"config/trainer/max_epochs": "3"}, "settings.trainer.max_epochs"),
        ({"config/trainer/max_epochs": True}, "settings.trainer.max_epochs"),
        ({"hyper_parameters/beta2": float("nan")}, ("model.beta2", "NaN is no number")),
        ({"hyper_parameters/label_names": []}, "label_names"),
        ({"hyper_parameters/label_names": ["anger"]}, ("different class names", "data.label_names")),
        (
            {"hyper_parameters/label_names": ["anger"], "EmotionDataModule/label_names": ["anger"]},
            "a task of kind single with 1 class; expected at least 2",
        ),
        ({"hyper_parameters/task": "guess"}, "the task is 'guess'"),
        ({"hyper_parameters/task_parameters": {"thresholds": [0.5]}}, "of kind single has no parameters"),
        ({"hyper_parameters/label_names": ["anger", "anger", "joy"]}, "label_names"),
        ({"hyper_parameters/label_names": ["a", "b", "c"]}, ("different class names", "data.label_names")),
        ({"hyper_parameters": ...}, ("lacks hyper_parameters", "model is missing")),
        ({"epoch": -1}, "epoch"),
        ({"global_step": 1.5}, "global_step"),
        ({"something_new": 1}, "something_new"),
        ({"pytorch-lightning_version": "0.0.1"}, "Lightning 0.0.1"),
        ({"pytorch-lightning_version": [2, 6]}, "lightning"),
        ({"pytorch-lightning_version": torch.zeros(3)}, "lightning"),
        ({"state_dict": {}}, ""),
        (
            {"state_dict": lambda tensors: {**dict.fromkeys(map(str, range(99)), tensors[WORDS])}},
            ("more bytes", ""),
        ),
        ({HEAD: ...}, "network.classifier.weight"),
        ({HEAD: torch.zeros(3, 7)}, "(3, 7)"),
        ({HEAD: torch.zeros(3, 32).to(torch.complex64)}, "unusual kind"),
        ({HEAD: torch.zeros(3, 32).to(torch.int64)}, "floating-point"),
        (
            {"state_dict/network.classifier.weight": torch.zeros(1).expand(10**6, 10**6)},
            "larger than the file",
        ),
        ({HEAD: torch.empty(3, 32, device="meta")}, "unusual kind"),
        ({HEAD: torch.zeros(3, 32).to_sparse()}, "unusual kind"),
        ({HEAD: "weights"}, ("tensors", "state_dict.network")),
        ({"state_dict": [1, 2]}, "state_dict"),
        ({"EmotionDataModule/label_names": {"anger": 0}}, "label_names"),
        ({"EmotionDataModule/tokenizer": {}}, "tokenizer"),
        ({"weights/architecture/vocab_size": 10}, ""),
        ({"weights/architecture/num_hidden_layers": 10**7}, ""),
        ({"weights/architecture/hidden_size": 10**9}, ""),
        ({"weights/architecture/hidden_act": "os.system"}, ""),
        (
            {"weights/architecture/chunk_size_feed_forward": torch.zeros(3)},
            ("chunk_size_feed_forward", "unknown tensor"),
        ),
        ({"weights/architecture": 3}, "architecture"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_no_checkpoint_says_is_refused_in_one_line(run, crafted, changes, says):
    path = crafted(changes)
    if isinstance(says, tuple):
        says = says[path.read_bytes()[:2] != b"PK"]
    assert says in refused_by(run, "predict", path)


# --- a run that goes on from it ---


@pytest.mark.parametrize(
    "changes",
    [
        {"loops": ...},
        {"loops/fit_loop/epoch_progress": 3},
        {"loops/fit_loop/epoch_progress/current/ready": -1},
        {"loops/fit_loop/epoch_progress/current/ready": "2"},
        {"loops/fit_loop/surprise": 1},
        {"lr_schedulers": []},
        {"lr_schedulers": [{"last_epoch": "x"}]},
        {"lr_schedulers": {"last_epoch": 1}},
        {"optimizer_states": {}},
        {"optimizer_states/0": []},
        {"optimizer_states/0": ()},
        {"optimizer_states": lambda states: states * 2},
        {"optimizer_states/0/state": []},
        {"optimizer_states/0/param_groups": []},
        {"optimizer_states/0/param_groups": False},
        {"optimizer_states/0/param_groups/0/params": torch.zeros(3)},
        {"optimizer_states/0/param_groups/0/params": [0]},
        {"optimizer_states/0/state": lambda states: {**states, 0: {**states[0], "exp_avg": torch.zeros(3)}}},
        {"optimizer_states/0/state": lambda states: {**states, 0: {**states[0], "step": NAN}}},
        {"optimizer_states/0/state": lambda states: {**states, 0: {}}},
        {"optimizer_states/0/state": lambda states: {**states, 999: states[0]}},
        {"callbacks": []},
        {"callbacks/EpochRecord": {"best": [1]}},
        {"callbacks/EpochRecord": {"best": {"val/f1": "high"}}},
        {"training_weights/network.classifier.weight": torch.zeros(2, 2)},
        {"training_weights": lambda weights: dict(list(weights.items())[1:])},
        {"config/seed_everything": -1},
        {"config/trainer/accumulate_grad_batches": 0},
        {"config/trainer/limit_train_batches": 1e-300},
        {"config/trainer/val_check_interval": 10**12},
        {"val_f1": 1.5},
        {"val_score": 1.5},
        {"config/checkpoint/every_n_train_steps": -1},
        {"EmotionDataModule/hyper_parameters/batch_size": 10**30},
        {"hyper_parameters/learning_rate": 1e308},
    ],
    ids=lambda value: next(iter(value)),
)
def test_progress_that_does_not_fit_is_refused_in_one_line_before_anything_is_written(run, crafted, changes):
    path = crafted(changes)
    before = everything()
    outcome = run("fit", f"--ckpt_path={path}", "--trainer.max_epochs=3", "--trainer.accelerator=cpu")
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.err
    assert outcome.err.splitlines()[-1].startswith("lit_bert fit: ")
    assert everything() == before


def early_stop_key(content: dict[str, Any]) -> str:
    return next(key for key in content["callbacks"] if key.startswith("EarlyStop"))


@pytest.mark.parametrize("state", [{}, {"wait_count": "1"}, {"wait_count": -1, "stopped_epoch": 0}, [], 3])
def test_an_odd_state_of_a_callback_is_refused_in_one_line(run, crafted, trained, state):
    key = early_stop_key(content_of(trained / "last.ckpt"))
    path = crafted({"callbacks": lambda states: {**states, key: state}})
    outcome = run("fit", f"--ckpt_path={path}", "--trainer.max_epochs=3", "--trainer.accelerator=cpu")
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.err


def test_a_resumed_run_takes_no_settings_of_the_optimizer_from_the_file(run, crafted):
    # `maximize` would train the other way round, without a word.
    path = crafted({"optimizer_states/0/param_groups/0/maximize": True})
    outcome = run("fit", f"--ckpt_path={path}", "--trainer.max_epochs=3", "--trainer.accelerator=cpu")
    assert outcome.code == 0, outcome
    groups = content_of(path)["optimizer_states"][0]["param_groups"]
    assert groups[0]["maximize"] is False


def best_state(victim: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """States in which everything that could be removed or written is the victim."""

    def change(states: dict[str, Any]) -> dict[str, Any]:
        changed = copy.deepcopy(states)
        for state in changed.values():
            if "best_model_path" in state:
                low = torch.tensor(-1.0)
                state.update(
                    best_model_path=str(victim),
                    kth_best_model_path=str(victim),
                    last_model_path=str(victim),
                    dirpath=str(victim.parent),
                    best_model_score=low,
                    current_score=low,
                    kth_value=low,
                    best_k_models={str(victim): low},
                )
        return changed

    return change


@pytest.mark.parametrize("kind", ["folder", "file", "checkpoint"])
def test_a_resumed_run_deletes_nothing_that_a_checkpoint_names(run, crafted, trained, kind):
    victim = Path("mine").resolve() / ("best.ckpt" if kind == "checkpoint" else "precious")
    victim.parent.mkdir()
    if kind == "folder":
        victim.mkdir()
        (victim / "thesis.txt").write_text("years of work")
    elif kind == "checkpoint":
        shutil.copy(trained / "best.ckpt", victim)
    else:
        victim.write_text("years of work")
    path = crafted({"callbacks": best_state(victim)})
    before = {each: each.read_bytes() for each in victim.parent.rglob("*") if each.is_file()}
    outcome = run("fit", f"--ckpt_path={path}", "--trainer.max_epochs=4", "--trainer.accelerator=cpu")
    assert outcome.code == 0, outcome
    assert {each: each.read_bytes() for each in victim.parent.rglob("*") if each.is_file()} == before
    assert (path.parent / "best.ckpt").is_file()  # a better epoch was kept: the removal was on its way


def test_a_copied_checkpoint_leaves_its_origin_alone(run, trained):
    copied = Path("copy/last.ckpt")
    copied.parent.mkdir()
    shutil.copy(trained / "last.ckpt", copied)
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    outcome = run("fit", f"--ckpt_path={copied}", "--trainer.max_epochs=4", "--trainer.accelerator=cpu")
    assert outcome.code == 0, outcome
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before
    assert (copied.parent / "best.ckpt").is_file()


def test_a_folder_with_links_is_not_written_into(run, trained):
    target = Path("target.txt")
    target.write_text(SECRET)
    theirs = Path("theirs")
    theirs.mkdir()
    shutil.copy(trained / "last.ckpt", theirs / "last.ckpt")
    for name in ("hparams.yaml", "config.yaml", "validate.json"):
        (theirs / name).symlink_to(target.resolve())
    outcome = run("fit", f"--ckpt_path={theirs / 'last.ckpt'}", "--trainer.max_epochs=3")
    assert outcome.code == 2
    assert "holds a link" in outcome.err
    assert (theirs / "config.yaml").is_symlink()
    assert run("test", f"--ckpt_path={theirs / 'last.ckpt'}").code == 0
    assert run("validate", f"--ckpt_path={theirs / 'last.ckpt'}").code == 0
    assert target.read_text() == SECRET  # the link's name got the scores, and not what it led to


def test_only_files_of_its_own_are_removed_by_a_run(tmp_path):
    writer = SafeCheckpointIO()
    folder, other = tmp_path / "folder.ckpt", tmp_path / "other.ckpt"
    folder.mkdir()
    other.write_text("x")
    link = tmp_path / "link.ckpt"
    link.symlink_to(other)
    for path in (folder, other, link, tmp_path / "gone.ckpt"):
        writer.remove_checkpoint(path)
    assert folder.is_dir()
    assert other.is_file()
    assert link.is_symlink()


@pytest.mark.parametrize(
    ("name", "value"),
    [("trainer.callbacks", [CALLBACK]), ("trainer.profiler", COMMAND), ("trainer.plugins", COMMAND)],
)
def test_classes_that_the_old_form_names_are_compared_and_never_built(run, crafted_1, name, value):
    content = {name_: json.loads(text) for name_, text in OLD_FORM.items()}
    content["trainer"][name.partition(".")[2]] = value
    path = crafted_1({"config": content})
    line = refused_by(run, "fit", path)
    assert f"had {name}" in line
    assert "do not come from a checkpoint" in line
    assert not Path("pwned").exists()
    assert run("test", f"--ckpt_path={path}").code == 0  # asks for none of them


OLD_FORM = {
    "seed_everything": "0",
    "data": '{"dataset": "somewhere"}',
    "weights": '{"pretrained": "somewhere"}',
    "model": "{}",
    "seeds": "null",
    "calibrate": "true",
    "checkpoint": '{"monitor": "val/f1", "mode": "max", "filename": "best", "dirpath": null}',
    "early_stopping": '{"monitor": "val/f1", "mode": "max", "patience": 2, "strict": false}',
    "trainer": '{"max_epochs": 2, "precision": "32-true", "callbacks": null, "devices": "auto"}',
    "ckpt_path": "null",
}


def test_a_checkpoint_of_the_old_form_is_read_and_resumed(run, crafted_1):
    path = crafted_1({"config": {name: json.loads(text) for name, text in OLD_FORM.items()}})
    assert Checkpoint.read(path).settings.trainer.max_epochs == 2
    outcome = run("fit", f"--ckpt_path={path}", "--trainer.max_epochs=3", "--trainer.accelerator=cpu")
    assert outcome.code == 0, outcome
    assert "precision 32-true" in outcome.err  # a plain value of the run that goes on


@pytest.mark.parametrize("section", [None, "trainer", "checkpoint", "early_stopping"])
def test_an_unknown_key_of_the_old_form_is_refused_with_its_name(crafted_1, section):
    content = {name: json.loads(text) for name, text in OLD_FORM.items()}
    (content[section] if section else content)["surprise"] = 1
    with pytest.raises(UserError, match="surprise is not a key that lit_bert knows"):
        Checkpoint.read(crafted_1({"config": content}))


# --- in Python ---


def test_lightnings_way_to_load_runs_nothing_either(crafted):
    path = crafted({"hyper_parameters/_instantiator": "os.mkdir", "hyper_parameters/path": "pwned"})
    for kind in (BertClassifier, EmotionDataModule):
        with pytest.raises(UserError, match="not a key that lit_bert knows"):
            kind.load_from_checkpoint(path)
    assert not Path("pwned").exists()


def test_a_good_checkpoint_is_loaded_in_python(trained):
    model = BertClassifier.load_from_checkpoint(trained / "best.ckpt")
    data = EmotionDataModule.load_from_checkpoint(trained / "best.ckpt")
    assert data.label_names == model.hparams.label_names == ["anger", "joy", "sadness"]
    assert model.training  # else a Trainer would go on without dropout
    assert model.network.training


# --- sizes ---


def bomb() -> list[Any]:
    """2 ** 40 values in a pickle of a few hundred bytes."""
    value: list[Any] = ["x"]
    for _ in range(40):
        value = [value, value]
    return value


@pytest.mark.parametrize("value", [bomb(), [0] * 2_000_001], ids=["aliases", "many"])
def test_far_too_many_values_are_refused_and_not_counted_to_the_end(crafted_1, value):
    with pytest.raises(UserError, match=r"more than .* (values|deep)"):
        Checkpoint.read(crafted_1({"val_f1": value}))


def test_values_far_inside_each_other_are_refused(crafted):
    value: Any = 0
    for _ in range(200):
        value = [value]
    with pytest.raises(UserError, match="deep"):
        Checkpoint.read(crafted({"val_f1": value}))


def test_an_archive_that_swells_is_refused(crafted_1):
    compressed = zipfile.ZipFile("swells.ckpt", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(crafted_1({})) as before, compressed as archive:
        for member in before.infolist():
            archive.writestr(member.filename, before.read(member))
    with pytest.raises(UserError, match="no archive as torch writes them"):
        Checkpoint.read("swells.ckpt")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_a_name_twice_is_refused(crafted_1):
    shutil.copy(crafted_1({}), "twice.ckpt")
    with zipfile.ZipFile("twice.ckpt", "a") as archive:
        name = next(each for each in archive.namelist() if each.endswith("/data/0"))
        archive.writestr(name, bytes(len(archive.read(name))))  # the readers of Python and of torch part here
    with pytest.raises(UserError, match="no archive as torch writes them"):
        Checkpoint.read("twice.ckpt")


def test_what_is_no_file_is_refused_at_once():
    os.mkfifo("pipe.ckpt")
    with pytest.raises(UserError, match="no regular file"):
        Checkpoint.read("pipe.ckpt")
    with pytest.raises(UserError, match="no regular file"):
        Checkpoint.read("/dev/zero")


def test_a_model_that_would_take_a_terabyte_takes_nothing(crafted):
    path = crafted({"weights/architecture/hidden_size": 2**20, "weights/architecture/vocab_size": 2**18})
    program = (
        "import re, sys\n"
        "from lit_bert.__main__ import main\n"
        "code = main(['predict', 'x', '--ckpt_path=' + sys.argv[1]])\n"
        "status = open('/proc/self/status').read()\n"  # a peak of its own; that of rusage is the parent's
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) // 1024, code)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, timeout=120, check=True
    )
    megabytes, code = map(int, found.stdout.split())
    assert code == 2
    assert megabytes < 1500


# --- the schema is what the classes take ---


@pytest.mark.parametrize(
    ("model", "kind"), [(schema.ModelSettings, BertClassifier), (schema.DataSettings, EmotionDataModule)]
)
def test_the_schema_has_the_settings_of_the_class(model, kind):
    import inspect

    parameters = inspect.signature(kind.__init__).parameters
    assert set(model.model_fields) == set(parameters) - {"self", "weights"}


def test_all_settings_of_the_trainer_are_known(trained):
    # A key that is in none of the lists of checkpoints.py would be compared as text: say so on purpose.
    import inspect

    from lightning.pytorch import Trainer

    from lit_bert.sources import settings

    known = {
        *schema.TrainerSettings.model_fields,
        *settings.COMPOSED["trainer"],
        *settings.NOT_STORED["trainer"],
    }
    assert set(inspect.signature(Trainer.__init__).parameters) - {"self"} <= known
    assert Checkpoint.open(trained / "last.ckpt").settings.composition
