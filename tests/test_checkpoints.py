"""Checkpoint files: whole or not there, found by a later process, and read without running code."""

import contextlib
import hashlib
import os
import pickle
import re
import resource
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from formats import content_of, forge, read_file, write_file
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification
from verbs import RESUMING, USING

from lit_bert import UserError
from lit_bert.model.module import BertClassifier
from lit_bert.sources import checkpoint_file
from lit_bert.sources.checkpoint import Checkpoint, find
from lit_bert.train.checkpoint_io import SafeCheckpointIO, apply_calibration

SIZE = 50_000  # float32 values of each weight


def content(value=1.0, **changes):
    """What the smallest checkpoint of ours holds; `key=None` leaves a key out."""
    whole = {
        "state_dict": {name: torch.full((SIZE,), value) for name in ("first", "second", "third")},
        "hyper_parameters": {"label_names": ["anger", "joy"], "learning_rate": None},
        "weights": {
            "request": {"pretrained": "a/b"},
            "architecture": {"hidden_size": 32},
            "source": {"kind": "folder", "name": "somewhere"},
        },
        "EmotionDataModule": {
            "label_names": ["anger", "joy"],
            "source": {"kind": "file", "name": "a.csv"},
            "tokenizer": {"tokenizer.json": "{}"},
            "hyper_parameters": {"dataset": "a.csv", "max_length": 99},
        },
        "epoch": 1,
        "global_step": 7,
        "pytorch-lightning_version": "2.6.6",
        "val_score": 0.5,
        **changes,
    }
    return {key: each for key, each in whole.items() if each is not None}


def save(file, what=None):
    SafeCheckpointIO().save_checkpoint(content() if what is None else what, file)
    return Path(file)


def said_by(said, found):
    """Whether everything plain in `said` is in `found`, which may have defaults beside it."""
    if isinstance(said, dict):
        return all(said_by(value, found[key]) for key, value in said.items() if key != "state_dict")
    return said == found


def value_of(file):
    """The number that all weights of a checkpoint have, read without anything of ours."""
    weights = [tensor for name, tensor in read_file(file)[1].items() if name.startswith("state_dict.")]
    (value,) = torch.cat(weights).unique().tolist()
    assert len(weights) == 3
    return value


class RunsCode:
    """Makes the file `marker` when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch marker",)


@contextlib.contextmanager
def room_for(size):
    """No file can grow beyond `size` bytes, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def no_access(path):
    """Takes every right to `path` away; root, who needs none, becomes nobody."""
    mode, root = path.stat().st_mode, os.geteuid() == 0
    path.chmod(0)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(mode)


# --- saved whole or not at all ---


def test_a_saved_checkpoint_loads_with_equal_values():
    save("a.ckpt")
    found = content_of("a.ckpt")
    assert value_of("a.ckpt") == 1.0
    assert torch.equal(found.pop("state_dict")["third"], torch.ones(SIZE))
    assert said_by(content(), found)
    assert os.listdir() == ["a.ckpt"]


def test_saving_makes_the_folders_it_needs():
    save("runs/of/today/a.ckpt")
    assert value_of("runs/of/today/a.ckpt") == 1.0


def test_a_second_save_takes_the_place_of_the_first():
    save("a.ckpt")
    save("a.ckpt", content(2.0))
    assert value_of("a.ckpt") == 2.0
    assert os.listdir() == ["a.ckpt"]


def test_weights_that_were_loaded_stay_when_their_file_is_saved_anew():
    weight = Checkpoint.read(save("a.ckpt")).state_dict["first"]  # still mapped from the file
    save("a.ckpt", content(2.0))
    assert weight.unique().tolist() == [1.0]


@pytest.mark.parametrize(
    "error", [RuntimeError("half way"), ValueError("half way"), KeyboardInterrupt("half way")]
)
def test_a_writer_that_fails_half_way_leaves_the_earlier_file_whole_and_nothing_else(error, monkeypatch):
    save("a.ckpt")
    beside = []

    def half(tensors, path, metadata):
        save_file(tensors, path, metadata)
        os.truncate(path, path.stat().st_size // 2)
        beside.extend(os.listdir())
        raise error

    monkeypatch.setattr(checkpoint_file, "save_file", half)
    with pytest.raises((UserError, type(error)), match="half way"):
        save("a.ckpt", content(2.0))
    assert len(beside) == 2  # it was written beside the earlier one
    assert os.listdir() == ["a.ckpt"]
    assert value_of("a.ckpt") == 1.0


@pytest.mark.parametrize("filled", [0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_full_disk_leaves_the_earlier_file_whole_and_nothing_else(filled):
    size = save("a.ckpt").stat().st_size
    with room_for(int(filled * size)), pytest.raises(UserError) as said:
        save("a.ckpt", content(2.0))
    assert re.match(
        r"cannot write the checkpoint a\.ckpt: File too large\. Make room, or choose", str(said.value)
    )
    assert os.listdir() == ["a.ckpt"]
    assert value_of("a.ckpt") == 1.0
    with room_for(size):  # once there is room
        save("a.ckpt", content(2.0))
    assert value_of("a.ckpt") == 2.0


@pytest.mark.parametrize("place", [0.01, 0.5, 0.999])
def test_a_disk_that_keeps_something_else_is_found_out_before_the_earlier_file_is_lost(place, monkeypatch):
    save("a.ckpt")
    fsync = os.fsync

    def bad_disk(descriptor):
        fsync(descriptor)
        (name,) = set(os.listdir()) - {"a.ckpt"}
        damaged = bytearray(Path(name).read_bytes())
        damaged[int(place * len(damaged))] ^= 1
        Path(name).write_bytes(damaged)

    monkeypatch.setattr(os, "fsync", bad_disk)
    with pytest.raises(UserError, match=r"cannot write the checkpoint a\.ckpt"):
        save("a.ckpt", content(2.0))
    assert os.listdir() == ["a.ckpt"]
    assert value_of("a.ckpt") == 1.0


def test_what_could_not_be_loaded_again_is_refused_when_it_is_saved():
    save("a.ckpt")
    with pytest.raises(UserError, match=r"cannot write the checkpoint a\.ckpt"):
        save("a.ckpt", content(2.0, callbacks={"of a user": Path("not a plain value")}))
    assert os.listdir() == ["a.ckpt"]
    assert value_of("a.ckpt") == 1.0


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    file = save(tmp_path / "closed" / "a.ckpt")
    with (
        no_access(file.parent),
        pytest.raises(UserError, match=r"closed/a\.ckpt: Permission denied\. .*save_dir"),
    ):
        save(file, content(2.0))
    assert value_of(file) == 1.0
    assert os.listdir(file.parent) == ["a.ckpt"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file/a.ckpt", "(File exists|Not a directory)"),
        ("file/below/a.ckpt", "Not a directory"),
        ("folder.ckpt", "Is a directory"),
    ],
)
def test_a_place_where_no_checkpoint_can_be_is_named(name, why):
    Path("file").write_text("in the way")
    Path("folder.ckpt").mkdir()
    with pytest.raises(UserError, match=rf"cannot write the checkpoint {name}: {why}\. .*save_dir"):
        save(name)
    assert sorted(os.listdir()) == ["file", "folder.ckpt"]


def test_a_finished_fit_leaves_two_whole_checkpoints_and_no_part_of_another(trained):
    files = sorted(
        file.name for file in trained.iterdir() if "ckpt" in file.name or file.name.startswith(".")
    )
    assert files == ["best.ckpt", "last.ckpt"]
    for name in files:
        read_file(trained / name)  # and its checksum


# --- files that are no checkpoint ---


@pytest.fixture(scope="module", params=[1, 2], ids=["format 1", "format 2"])
def small(request, tmp_path_factory):
    """The format of a checkpoint of a few kilobytes, and its bytes."""
    file = tmp_path_factory.mktemp("small") / "a.ckpt"
    write = torch.save if request.param == 1 else SafeCheckpointIO().save_checkpoint
    write(content(state_dict={"weight": torch.arange(300.0)}), file)
    return request.param, file.read_bytes()


def test_a_truncated_checkpoint_is_said_to_be_truncated_wherever_it_ends(small):
    small_bytes = small[1]
    for end in [*range(0, len(small_bytes), 31), *range(len(small_bytes) - 60, len(small_bytes))]:
        Path("cut.ckpt").write_bytes(small_bytes[:end])
        with pytest.raises(
            UserError, match=r"^cut\.ckpt is not a readable checkpoint, perhaps a trunc"
        ) as said:
            Checkpoint.open("cut.ckpt")
        assert "--ckpt_path" in str(said.value)
        assert "\n" not in str(said.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_damaged_checkpoint_has_the_same_weights_or_is_refused(small):
    form, small_bytes = small
    outcomes = set()
    for place in [*range(0, 600, 2), *range(600, len(small_bytes), 13)]:  # the pickle comes first
        damaged = bytearray(small_bytes)
        damaged[place] ^= 0b101
        Path("bad.ckpt").write_bytes(damaged)
        try:
            opened = Checkpoint.open("bad.ckpt")
            assert torch.equal(opened.state_dict["weight"], torch.arange(300.0))
            outcomes.add(Checkpoint)
        except UserError as error:
            assert "bad.ckpt" in str(error)  # noqa: PT017
            outcomes.add(UserError)
    assert outcomes == ({Checkpoint, UserError} if form == 1 else {UserError})


def test_a_changed_bit_of_a_weight_is_said_to_be_damage(small):
    form, small_bytes = small
    place = small_bytes.index(torch.arange(300.0).numpy().tobytes())
    damaged = bytearray(small_bytes)
    damaged[place + 402] ^= 1
    Path("bad.ckpt").write_bytes(damaged)
    member = r"\S+/data/0 in it has" if form == 1 else "it has"
    with pytest.raises(UserError, match=rf"^bad\.ckpt is damaged: {member} another checksum"):
        Checkpoint.open("bad.ckpt")


def zip_of(**members):
    def write(file):
        with zipfile.ZipFile(file, "w") as archive:
            for name, text in members.items():
                archive.writestr(name.replace("__", "/"), text)

    return write


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_text("text,label\na,joy\n"),
        lambda file: file.write_bytes(b"\0" * 5000),
        lambda file: file.write_bytes(b"PK\x03\x04" + b"\0" * 100),
        lambda file: torch.save(content(), file, _use_new_zipfile_serialization=False),
        zip_of(readme="hello"),
        zip_of(a__readme="hello"),
        zip_of(a__version="3", a__byteorder="little"),
    ],
    ids=["empty", "text", "zeros", "zip-head", "old-torch", "zip", "zip-folder", "zip-version"],
)
def test_a_file_that_is_no_checkpoint_is_refused_in_plain_words(write):
    write(Path("a.ckpt"))
    with pytest.raises(UserError, match=r"^a\.ckpt is not a readable checkpoint") as said:
        Checkpoint.open("a.ckpt")
    assert "--ckpt_path" in str(said.value)
    # Advice for people who call torch themselves.
    assert not re.search(r"mmap|torch\.save|PyTorch|enforce|hasRecord|\n", str(said.value)), said.value


@pytest.mark.parametrize(
    "what",
    [
        content()["state_dict"],
        {},
        {"model": {"weight": torch.zeros(2)}, "epoch": 3},
        torch.zeros(3),
        torch.tensor(1.0),
        [content()],
        "state_dict",
        7,
        None,
    ],
    ids=["weights", "empty", "another", "tensor", "scalar", "list", "str", "int", "None"],
)
def test_a_checkpoint_of_another_program_is_refused(what):
    torch.save(what, "a.ckpt")
    with pytest.raises(
        UserError, match=r"^a\.ckpt is no checkpoint of lit_bert.* `python -m lit_bert fit` wrote"
    ):
        Checkpoint.open("a.ckpt")


def test_a_safetensors_file_of_another_program_is_refused():
    save_file({"weight": torch.zeros(3)}, "a.ckpt")
    with pytest.raises(UserError, match=r"^a\.ckpt is no checkpoint of lit_bert: it has other metadata than"):
        Checkpoint.open("a.ckpt")


@pytest.mark.parametrize("write", [torch.save, forge], ids=["format 1", "format 2"])
@pytest.mark.parametrize(
    "key", ["state_dict", "hyper_parameters", "weights", "EmotionDataModule", "global_step", "epoch"]
)
def test_a_checkpoint_that_lacks_a_part_is_refused_with_the_name_of_the_part(key, write):
    write(content(**{key: None}), "a.ckpt")
    part = {"EmotionDataModule": "its data"}.get(key, key)
    said = rf" is no checkpoint of lit_bert: it lacks {part}\."
    if write is forge and key not in ("EmotionDataModule", "state_dict"):
        said = f": {key.replace('hyper_parameters', 'model')} is missing"
    with pytest.raises(UserError, match=rf"^a\.ckpt{said}"):
        Checkpoint.open("a.ckpt")


@pytest.mark.parametrize("form", [1, 3, "2", 2.5, None, [2]])
def test_another_format_is_refused_with_its_number(form):
    values, tensors = read_file(save("a.ckpt"))
    write_file({**values, "format": form}, tensors, "a.ckpt")
    with pytest.raises(UserError, match=r"^a\.ckpt is of format .*reads 1 and 2\. Update lit_bert"):
        Checkpoint.open("a.ckpt")


def test_a_model_whose_head_was_never_trained_is_refused():
    save("a.ckpt", content(global_step=0))
    with pytest.raises(UserError, match=r"^a\.ckpt was saved before the first optimizer step.* fit` first"):
        Checkpoint.open("a.ckpt")
    assert Checkpoint.open(save("a.ckpt", content(global_step=1)))


def test_a_missing_or_unreadable_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint gone\.ckpt"):
        Checkpoint.read("gone.ckpt")
    Path("folder.ckpt").mkdir()
    with pytest.raises(UserError, match=r"folder\.ckpt"):
        Checkpoint.read("folder.ckpt")
    file = save(tmp_path / "a.ckpt")
    with no_access(file), pytest.raises(UserError, match=r"a\.ckpt.*Permission denied"):
        Checkpoint.read(file)


# --- no code runs ---


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write_bytes(pickle.dumps(content(extra=RunsCode()))),
        lambda file: file.write_bytes(pickle.dumps(RunsCode(), protocol=0)),
        lambda file: torch.save(content(extra=RunsCode()), file),
        lambda file: torch.save(RunsCode(), file),
        lambda file: torch.save(content(extra=RunsCode()), file, _use_new_zipfile_serialization=False),
    ],
    ids=["pickle", "pickle-alone", "torch", "torch-alone", "old-torch"],
)
@pytest.mark.parametrize(
    "read",
    [
        Checkpoint.open,
        Checkpoint.read,
        lambda file: SafeCheckpointIO().load_checkpoint(file),
        lambda file: SafeCheckpointIO().load_checkpoint(file, weights_only=False),
    ],
    ids=["open", "read", "io", "io-trusting"],
)
def test_code_in_a_checkpoint_never_runs(write, read):
    write(Path("a.ckpt"))
    with pytest.raises(UserError, match=r"^a\.ckpt "):
        read("a.ckpt")
    assert os.listdir() == ["a.ckpt"]


def test_the_code_of_these_tests_would_run_if_it_were_let():
    torch.save(RunsCode(), "a.ckpt")
    torch.load("a.ckpt", weights_only=False)
    assert sorted(os.listdir()) == ["a.ckpt", "marker"]


def test_the_refusal_of_code_does_not_teach_how_to_run_it():
    torch.save(content(extra=RunsCode()), "a.ckpt")
    with pytest.raises(
        UserError, match=r"^a\.ckpt holds more than tensors and plain values.*runs code"
    ) as said:
        Checkpoint.read("a.ckpt")
    assert not re.search(r"weights_only|Re-running|safe_globals|\x1b|\n", str(said.value)), said.value


# --- what a checkpoint says of itself ---


def test_an_opened_checkpoint_gives_its_parts():
    checkpoint = Checkpoint.open(save("run/best.ckpt"))
    assert checkpoint.path == Path.cwd() / "run" / "best.ckpt"
    assert checkpoint.run == Path.cwd() / "run"
    assert checkpoint.facts.val_score == 0.5
    assert checkpoint.data.settings.max_length == 99
    assert checkpoint.weights.architecture == {"hidden_size": 32}
    assert checkpoint.model.label_names == ["anger", "joy"]
    assert checkpoint.model.learning_rate is None
    assert checkpoint.tokenizer == {"tokenizer.json": "{}"}


def test_a_checkpoint_saved_without_validation_has_no_score():
    assert Checkpoint.open(save("a.ckpt", content(val_score=None))).facts.val_score is None


def test_the_sha256_is_that_of_the_file():
    first, second = save("a.ckpt"), save("b.ckpt", content(2.0))
    for file in (first, second):
        assert Checkpoint.open(file).sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert Checkpoint.open(first).sha256 != Checkpoint.open(second).sha256


def test_a_trained_checkpoint_carries_what_a_later_process_needs(trained):
    best, last = Checkpoint.open(trained / "best.ckpt"), Checkpoint.open(trained / "last.ckpt")
    for checkpoint in (best, last):
        assert checkpoint.run == trained.resolve()
        assert checkpoint.model.label_names == ["anger", "joy", "sadness"]
        assert checkpoint.weights.architecture["hidden_size"] == 32
        assert checkpoint.tokenizer.keys() == {"tokenizer.json", "tokenizer_config.json"}
        assert 0 <= checkpoint.facts.val_score <= 1
    assert best.facts.val_score >= last.facts.val_score
    assert "optimizer_states" in last.progress
    assert "optimizer_states" not in best.progress


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
def test_a_trained_checkpoint_carries_the_settings_of_its_run(trained, name):
    settings = Checkpoint.open(trained / name).settings
    assert settings.trainer.max_epochs == 2
    assert settings.checkpoint.monitor == "val/score"
    assert settings.composition["trainer.callbacks"] == "null"
    assert Checkpoint.open(trained / name).model.learning_rate == 0.003


# --- calibrated ---

HEAD = ("network.classifier.weight", "network.classifier.bias")
TEXTS = torch.arange(5, 35).reshape(6, 5), torch.ones(6, 5, dtype=torch.int64)


def divide_logits(file, T):
    """Folds a temperature into a checkpoint of three classes."""
    apply_calibration(Checkpoint.read(file), np.full(3, 1 / T), np.zeros(3))


@pytest.mark.parametrize("T", [0.4, 1.7])
def test_a_cooled_checkpoint_divides_its_logits_and_keeps_all_else(trained, T):
    shutil.copy(trained / "last.ckpt", "a.ckpt")
    content = content_of("a.ckpt")
    average = BertClassifier.load_from_checkpoint("a.ckpt").eval()(*TEXTS).mean(0)
    content["state_dict"]["network.classifier.bias"] -= average.detach()  # so that labels differ
    before = content_of(save("a.ckpt", content))
    logits = BertClassifier.load_from_checkpoint("a.ckpt").eval()(*TEXTS)
    divide_logits("a.ckpt", T)
    after = content_of("a.ckpt")
    cooled = BertClassifier.load_from_checkpoint("a.ckpt").eval()(*TEXTS)
    torch.testing.assert_close(cooled * T, logits, rtol=1e-5, atol=1e-6)
    assert torch.equal(cooled.argmax(1), logits.argmax(1))
    assert len(logits.argmax(1).unique()) > 1
    assert after.pop("temperature") == T
    weights = before.pop("state_dict"), after.pop("state_dict")
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        wanted = (value.double() / T).to(value.dtype) if name in HEAD else value
        assert torch.equal(weights[1][name], wanted), name
    assert equal(before, after)
    assert "training_weights" in before  # what a resumed run goes on from


def equal(one, other):
    """Whether two checkpoints hold the same, bit by bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def test_a_checkpoint_that_is_cooled_twice_knows_both_temperatures(trained):
    shutil.copy(trained / "last.ckpt", "a.ckpt")
    logits = BertClassifier.load_from_checkpoint("a.ckpt").eval()(*TEXTS)
    for T in (2.0, 3.0):
        divide_logits("a.ckpt", T)
    assert Checkpoint.read("a.ckpt").facts.temperature == 6
    cooled = BertClassifier.load_from_checkpoint("a.ckpt").eval()(*TEXTS)
    torch.testing.assert_close(cooled * 6, logits, rtol=1e-5, atol=1e-6)


def test_a_full_disk_leaves_an_uncalibrated_checkpoint_as_it_was(trained):
    before = Path(shutil.copy(trained / "best.ckpt", "a.ckpt")).read_bytes()
    with room_for(len(before) // 2), pytest.raises(UserError, match="File too large"):
        divide_logits("a.ckpt", 2.0)
    assert os.listdir() == ["a.ckpt"]
    assert Path("a.ckpt").read_bytes() == before


def test_transformers_reads_the_weights_of_a_calibrated_checkpoint(able):
    content = content_of(able / "best.ckpt")
    assert content["temperature"] != 1
    network = BertForSequenceClassification(
        BertConfig(**content["weights"]["architecture"], num_labels=3)
    ).eval()
    network.load_state_dict(
        {name.removeprefix("network."): value for name, value in content["state_dict"].items()}
    )
    found = network(input_ids=TEXTS[0], attention_mask=TEXTS[1]).logits
    wanted = BertClassifier.load_from_checkpoint(able / "best.ckpt").eval()(*TEXTS)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


# --- found by a later process ---


def at(time, file):
    """An empty file written `time` seconds after the epoch; finding opens none."""
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (time, time))
    return path


@pytest.fixture
def two_runs():
    """Run 0 was trained last, though its number is lower."""
    at(10, "checkpoints/version_1/last.ckpt")
    at(11, "checkpoints/version_1/best.ckpt")
    at(20, "checkpoints/version_0/best.ckpt")
    at(21, "checkpoints/version_0/last.ckpt")


@pytest.mark.parametrize(("which", "name"), [(None, "best"), ("best", "best"), ("last", "last")])
def test_best_and_last_are_those_of_the_newest_fit(two_runs, which, name):
    assert find(which) == Path(f"checkpoints/version_0/{name}.ckpt")


def test_runs_are_found_below_any_folder_and_in_it():
    file = at(10, "elsewhere/project/emotion/version_3/best.ckpt")
    assert find(None, Path("elsewhere")) == file
    newer = at(11, "elsewhere/best.ckpt")
    assert find("best", Path("elsewhere")) == newer


def test_an_older_run_that_was_resumed_is_the_newest_fit(two_runs):
    at(30, "checkpoints/version_1/last.ckpt")  # went on, and its best epoch stayed the best
    assert find("last") == Path("checkpoints/version_1/last.ckpt")
    assert find("best") == Path("checkpoints/version_1/best.ckpt")


def test_the_best_of_an_older_fit_does_not_stand_in_for_that_of_the_newest(two_runs):
    at(30, "checkpoints/version_2/last.ckpt")  # trained without validation
    assert find("last") == Path("checkpoints/version_2/last.ckpt")
    with pytest.raises(UserError, match=r"version_2.*--ckpt_path"):
        find(None)


@pytest.mark.parametrize("which", [None, "best", "last"])
def test_nothing_trained_yet_says_where_it_looked_and_what_to_run(which, tmp_path):
    at(10, "checkpoints/version_0/.best.ckpt.123")  # part of one
    at(10, "checkpoints/version_0/other.ckpt")
    at(10, "best.ckpt")
    at(10, "last.ckpt")
    with pytest.raises(UserError) as said:
        find(which)
    assert str(said.value).startswith(
        f"no {which or 'best'}.ckpt below {tmp_path / 'work' / 'checkpoints'}: "
    )
    assert "python -m lit_bert fit" in str(said.value)


def test_a_file_is_taken_as_it_is_named(two_runs):
    file = at(1, "mine/some.ckpt")
    assert find("mine/some.ckpt") == Path("mine/some.ckpt")
    assert find(str(file.resolve())) == file.resolve()


@pytest.mark.parametrize("which", ["gone.ckpt", "newest", "", "checkpoints", "BEST"])
def test_a_file_that_is_not_there_says_what_is_accepted(two_runs, which):
    with pytest.raises(
        UserError, match=r"no checkpoint .*expected a file, or `best` or `last` of the newest fit"
    ):
        find(which)


@pytest.mark.parametrize(
    "which", ["https://host/best.ckpt", "http://127.0.0.1:9/a.ckpt", "s3://bucket/a.ckpt"]
)
def test_an_address_is_refused_with_what_to_do(which):
    with pytest.raises(UserError, match=f"{which} is an address; download it and give the file"):
        find(which)


# --- at the command line ---


@pytest.mark.parametrize("verb", [*USING, *RESUMING])
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("gone", "no checkpoint gone.ckpt"),
        ("truncated", "truncated.ckpt is not a readable checkpoint"),
        ("code", "code.ckpt holds more than tensors and plain values"),
        ("another", "another.ckpt is no checkpoint of lit_bert"),
        ("untrained", "untrained.ckpt was saved before the first optimizer step"),
        ("https://host/a", "https://host/a.ckpt is an address"),
        ("nothing-yet", "no best.ckpt below"),
    ],
)
def test_a_verb_refuses_in_one_line_and_writes_nothing(run, verb, kind, says):
    save("untrained.ckpt", content(global_step=0))
    Path("truncated.ckpt").write_bytes(Path("untrained.ckpt").read_bytes()[:-100])
    torch.save(content(extra=RunsCode()), "code.ckpt")
    torch.save({"model": 1}, "another.ckpt")
    before = sorted(os.listdir())
    outcome = run(verb, "--ckpt_path", "best" if kind == "nothing-yet" else f"{kind}.ckpt")
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith(f"lit_bert {verb}: ")
    assert outcome.err.count("\n") == 1
    assert says in outcome.err
    assert sorted(os.listdir()) == before


def test_a_bare_verb_before_any_fit_says_what_to_run(run):
    outcome = run("test")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("lit_bert test: no best.ckpt below ")
    assert "Run `python -m lit_bert fit`" in outcome.err
    assert os.listdir() == []
