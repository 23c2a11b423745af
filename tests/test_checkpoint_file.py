"""The file of a checkpoint: what format 2 holds, what it refuses, and what format 1 means."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import stable_id
from formats import content_of, forge, read_file, write_file
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer
from safetensors.torch import save_file
from test_checkpoints import content, equal, save

from lit_bert import BertClassifier, EmotionDataModule, UserError, Weights
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.nested import decoded, encoded
from lit_bert.train.checkpoint_io import SafeCheckpointIO

FORMAT_1 = Path(__file__).with_name("format_1")
MADE = sorted(FORMAT_1.glob("*.ckpt"))


# --- nested values as JSON

KEYS = st.text(max_size=4) | st.sampled_from(["$tensor", "$mapping", "$", "a.b"])
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    KEYS,
    st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]).map(
        lambda kind: torch.tensor([1.5, 0.0, -3.0]).to(kind)
    ),
    st.just(torch.tensor(math.inf)),
    st.just(torch.zeros(0, 3)),
)
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
        st.dictionaries(st.integers() | KEYS, inner, max_size=3),
    ),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    """Equal in values and types; NaN is NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


@given(value=NESTED)
def test_nested_values_come_back_from_json_as_they_were(value: Any) -> None:
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(encoded(value, "callbacks", tensors), allow_nan=False)
    assert same(decoded(json.loads(text), tensors), value)
    assert not tensors


@pytest.mark.parametrize(
    "value", [Path("x"), {1, 2}, b"x", {1.5: 2}, {None: 1}, {True: 1}, 1j, [object()], torch.Size([2])]
)
def test_what_is_no_plain_value_is_not_encoded(value):
    with pytest.raises(ValueError, match="callbacks has a"):
        encoded({"a": [value]}, "callbacks", {})


@pytest.mark.parametrize(
    "value",
    [
        *({"$tensor": "nowhere"}, {"$tensor": ["callbacks.0"]}, {"$tensor": "callbacks.0", "a": 1}),
        *({"a": 1, "$tuple": []}, {"$tuple": 3}, {"$tuple": {"a": 1}}, {"$float": "1.5"}, {"$float": 1.5}),
        *({"$mapping": {"a": 1}}, {"$mapping": [[1]]}, {"$mapping": [[1, 2, 3]]}, {"$mapping": [[[], 1]]}),
        *({"$mapping": [[1, 2], [1, 3]]}, {"$mapping": [[None, 1]]}, {"$mapping": [[True, 1]]}, {"$": 1}),
        *({"$code": "os.system"}, {"$reduce": ["os.system", ["touch pwned"]]}),
        *([{"$tensor": "callbacks.0"}, {"$tensor": "callbacks.0"}], {"$tensor": "state_dict.first"}),
    ],
    ids=stable_id,
)
def test_progress_in_another_form_is_refused(value):
    values, tensors = read_file(save("a.ckpt"))
    values["progress"] = {"callbacks": {"Their": value}}
    write_file(values, {**tensors, "callbacks.0": torch.zeros(2)}, "a.ckpt")
    with pytest.raises(UserError, match=r"^a\.ckpt: progress is not what lit_bert writes: ") as said:
        Checkpoint.open("a.ckpt")
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("progress", [[], None, 3, {"state_dict": {}}, {"hooks": {}}, {"$tuple": []}])
def test_progress_of_other_parts_is_refused(progress):
    values, tensors = read_file(save("a.ckpt"))
    write_file({**values, "progress": progress}, tensors, "a.ckpt")
    with pytest.raises(UserError, match=r"^a\.ckpt: progress has other parts than"):
        Checkpoint.open("a.ckpt")


# --- what a file holds


def test_a_file_is_tensors_and_one_json_text():
    save("a.ckpt", content(optimizer_states=[{"state": {0: {"exp_avg": torch.ones(2)}}, "betas": (0.9, 1)}]))
    values, tensors = read_file("a.ckpt")
    assert values["format"] == 2
    assert values["model"]["label_names"] == ["anger", "joy"]
    assert values["data"]["settings"]["max_length"] == 99
    assert "label_names" not in values["data"]  # the model has them
    assert bytes(tensors.pop("tokenizer.json").tolist()) == b"{}"
    assert {name for name in tensors if name.startswith("state_dict.")} == {
        f"state_dict.{name}" for name in ("first", "second", "third")
    }
    (moment,) = (name for name in tensors if name.startswith("optimizer_states."))
    state = {"$mapping": [[0, {"exp_avg": {"$tensor": moment}}]]}
    assert values["progress"] == {
        "optimizer_states": [{"state": state, "betas": {"$tuple": [0.9, 1]}}],
    }


def test_a_file_that_is_written_by_hand_is_read(trained):
    for name in ("best.ckpt", "last.ckpt"):
        wanted = content_of(trained / name)
        assert equal(content_of(forge(wanted, name)), wanted)


KINDS = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int32, torch.bool]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (7,), (3, 5)])
def test_tensors_of_all_kinds_and_shapes_come_back(kind, shape):
    tensor = (torch.arange(math.prod(shape)).reshape(shape) + 1.25).to(kind)
    save(
        "a.ckpt",
        content(callbacks={"Own": {"one": tensor, "turned": tensor.expand(2, *shape).transpose(0, -1)}}),
    )
    found = content_of("a.ckpt")["callbacks"]["Own"]
    assert found["one"].dtype == kind
    assert torch.equal(found["one"], tensor)
    assert torch.equal(found["turned"], tensor.expand(2, *shape).transpose(0, -1))


def test_values_that_are_in_several_places_stand_in_each():
    """A score of ModelCheckpoint is one tensor in three places; a view lies in the values of another."""
    score, table = torch.tensor(0.5), torch.arange(12.0).reshape(3, 4)
    states = {
        "Own": {"best": score, "current": score, "table": table, "row": table[1], "column": table[:, 1]}
    }
    save("a.ckpt", content(callbacks=states))
    assert equal(content_of("a.ckpt")["callbacks"], states)


def test_a_link_to_a_checkpoint_is_followed():
    save("run/a.ckpt")
    Path("link.ckpt").symlink_to("run/a.ckpt")
    assert Checkpoint.open("link.ckpt").path == Path("run/a.ckpt").resolve()


def test_more_than_a_header_takes_is_refused_when_it_is_written():
    save("a.ckpt")
    names = [f"{number:0100}" for number in range(90_000)]
    long = content(hyper_parameters={"label_names": names}, EmotionDataModule=None)
    with pytest.raises(UserError, match=r"write the checkpoint a\.ckpt: it says more than 8,388,608 bytes"):
        save("a.ckpt", long)
    assert os.listdir() == ["a.ckpt"]
    assert Checkpoint.open("a.ckpt").model.label_names == ["anger", "joy"]


def test_many_thousand_classes_fit():
    names = [f"a class with a long name {number}" for number in range(20_000)]
    many = content(hyper_parameters={"label_names": names})
    many["EmotionDataModule"] = {**many["EmotionDataModule"], "label_names": names, "code_order": names}
    checkpoint = Checkpoint.open(save("a.ckpt", many))
    assert checkpoint.model.label_names == checkpoint.data.settings.label_names == names


def test_nothing_is_unpickled_by_a_run_that_goes_on(run, quick, monkeypatch):
    assert run("fit", *quick).code == 0

    def refuse(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("torch.load was called")

    monkeypatch.setattr(torch, "load", refuse)
    outcome = run("fit", "--ckpt_path=last", "--trainer.max_epochs=3")
    assert outcome.code == 0, outcome
    for verb in ("test", "validate"):
        assert run(verb).code == 0
    assert run("predict", "so glad").code == 0


def test_a_trainer_of_ones_own_reads_and_writes_them_by_the_plugin(tiny_bert, corpus):
    weights = Weights(str(tiny_bert), stand_in=None)
    data = EmotionDataModule(str(corpus), max_length=16, batch_size=8, weights=weights)

    def trainer(epochs: int) -> Trainer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return Trainer(accelerator="cpu", max_epochs=epochs, plugins=[SafeCheckpointIO()], **quiet)

    def model() -> BertClassifier:
        torch.manual_seed(0)
        return BertClassifier(data.label_names, learning_rate=0.003, weights=weights)

    first = trainer(1)
    first.fit(model(), data)
    (scores,) = first.test(
        datamodule=data, ckpt_path=first.checkpoint_callback.best_model_path, verbose=False
    )
    path = first.checkpoint_callback.best_model_path
    assert read_file(path)[0]["epoch"] == 0
    for weights_only in (None, True, False):
        found = trainer(1).test(model(), data, ckpt_path=path, verbose=False, weights_only=weights_only)
        assert found == [scores]
    second = trainer(2)
    second.fit(model(), data, ckpt_path=path)
    assert (second.current_epoch, second.global_step) == (2, 16)
    loaders = {"train_dataloaders": data.train_dataloader(), "val_dataloaders": data.val_dataloader()}
    third = trainer(1)
    third.fit(model(), **loaders)
    path = third.checkpoint_callback.best_model_path
    assert read_file(path)[0]["data"] is None
    fourth = trainer(2)
    fourth.fit(model(), **loaders, ckpt_path=path)
    assert fourth.global_step == 16


# --- files that hold something else


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"format": 2, "format": 2}', "key 'format' twice"),
        ('{"format": 2, "val_score": NaN}', "NaN is no number"),
        ('{"format": 2, "val_score": 1e999}', "beyond all bounds"),
        ('{"format": 2, "epoch": 1' + "0" * 60 + "}", "more than 39 digits"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"format": 2, "weights": ' + "[" * 40 + "]" * 40 + "}", "nested too deeply"),
        ('{"format": 2, "lightning": "\\ud800"}', "not JSON that can be used"),
        ("[2]", "no JSON object"),
        ("", "not JSON that can be used"),
        ("{'format': 2}", "not JSON that can be used"),
    ],
    ids=range(10),
)
def test_a_text_that_is_no_sound_json_is_refused(text, says):
    write_file(text, read_file(save("a.ckpt"))[1], "a.ckpt")
    with pytest.raises(UserError, match=r"^what a\.ckpt says ") as said:
        Checkpoint.open("a.ckpt")
    assert says in str(said.value)
    assert len(str(said.value)) < 500


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"format": "pt"}, "it has other metadata than lit_bert"),
        ({"crc32": "00000000"}, "it has other metadata than lit_bert"),
        ({"__class__": "os.system"}, "it has other metadata than lit_bert"),
    ],
)
def test_other_metadata_are_refused(metadata, says):
    values, tensors = read_file(save("a.ckpt"))
    write_file(values, tensors, "a.ckpt", **metadata)
    with pytest.raises(UserError, match=f"^a.ckpt .*{says}"):
        Checkpoint.open("a.ckpt")


def file_pages_mb() -> float:
    """Pages of files that count as memory of this process."""
    size = re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(size[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_file_that_is_read_back_is_no_memory_of_the_process_until_it_is_used():
    large = torch.arange(16 << 20, dtype=torch.float32)  # 64 MB, which are compared in many pieces
    whole = content(state_dict={"first": large, "second": torch.ones(3)})
    before = file_pages_mb()
    checkpoint = Checkpoint.read(save("a.ckpt", whole))
    assert file_pages_mb() - before < 16
    assert torch.equal(checkpoint.state_dict["first"], large)
    assert file_pages_mb() - before > 60  # it is mapped
    for place in (1 << 20, 40 << 20, 60 << 20):
        with Path("a.ckpt").open("r+b") as stream:
            stream.seek(place)
            byte = stream.read(1)
            stream.seek(place)
            stream.write(bytes([byte[0] ^ 1]))
        with pytest.raises(UserError, match="another checksum"):
            Checkpoint.read("a.ckpt")
        with Path("a.ckpt").open("r+b") as stream:
            stream.seek(place)
            stream.write(byte)
    assert Checkpoint.read("a.ckpt").state_dict.keys() == {"first", "second"}


@pytest.mark.parametrize(
    "checksum",
    [
        *(torch.tensor(0), torch.tensor(-1), torch.zeros(1), torch.zeros(0), torch.zeros(3, 3)),
        *(torch.tensor(float("nan")), torch.tensor(True)),
    ],
    ids=stable_id,
)
def test_another_checksum_is_damage(checksum):
    values, tensors = read_file(save("a.ckpt"))
    write_file(values, {**tensors, "crc32": checksum}, "a.ckpt")
    with pytest.raises(UserError, match=r"^a\.ckpt is damaged: it has another checksum"):
        Checkpoint.open("a.ckpt")


def test_equal_content_is_an_equal_file():
    program = (
        "from test_checkpoints import content, save\n"
        "save('a.ckpt', content(loops={'a': 1}, callbacks={'Own': {'b': 2}}, lr_schedulers=[]))\n"
    )
    found = set()
    for _ in range(3):  # a process has one order of what is hashed
        command = [sys.executable, "-c", program]
        tests = str(Path(__file__).parent)
        path = os.pathsep.join([tests, str(Path(tests).parent)])
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path}, timeout=120)
        found.add(Path("a.ckpt").read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize(
    ("name", "tensor", "says"),
    [
        ("more", torch.zeros(2), "unknown tensor more"),
        ("../../pwned", torch.zeros(2), "unknown tensor ../../pwned"),
        ("optimizer_states.7", torch.zeros(2), "unknown tensor optimizer_states.7"),
        ("state_dict.first", torch.zeros(2, dtype=torch.int64), "floating-point numbers, first for one"),
        ("training_weights.first", torch.zeros(2), "training_weights of a.ckpt"),
        ("state_dict.more", torch.zeros(2).to(torch.float8_e4m3fn), "unusual kind, F8_E4M3"),
        ("state_dict.more", torch.zeros(2).to(torch.complex64), "unusual kind, C64"),
        ("tokenizer.json", torch.zeros(2), "no text of at most"),
        ("tokenizer.json", torch.zeros(2, 2, dtype=torch.uint8), "no text of at most"),
        ("tokenizer.json", torch.tensor([0xFF, 0xFE], dtype=torch.uint8), "no text in UTF-8"),
        ("tokenizer.json", None, "data without a tokenizer"),
    ],
)
def test_other_tensors_are_refused(name, tensor, says):
    values, tensors = read_file(save("a.ckpt"))
    tensors = (
        {**tensors, name: tensor} if tensor is not None else {n: t for n, t in tensors.items() if n != name}
    )
    write_file(values, tensors, "a.ckpt")
    with pytest.raises(UserError, match=r"^(training_weights of )?(state_dict of )?a\.ckpt") as said:
        Checkpoint.open("a.ckpt")
    assert says in str(said.value)


def with_header(change: Any, file: str = "a.ckpt") -> None:
    """The file with another header, of its length."""
    whole = Path(file).read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    new = change(header)
    new = new if isinstance(new, bytes) else json.dumps(header if new is None else new).encode()
    Path(file).write_bytes(len(new).to_bytes(8, "little") + new + whole[8 + length :])


FIRST = "state_dict.first"


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header[FIRST].update(shape=[10**6, 10**6]),
        lambda header: header[FIRST].update(shape=[-1]),
        lambda header: header[FIRST].update(data_offsets=[0, 10**15]),
        lambda header: header[FIRST].update(data_offsets=header["state_dict.second"]["data_offsets"]),
        lambda header: header[FIRST].update(dtype="F64"),
        lambda header: header[FIRST].update(dtype="os.system"),
        lambda header: header.update({FIRST: 3}),
        lambda header: header.pop(FIRST),
        lambda header: header["__metadata__"].update(lit_bert={"format": 2}),
        lambda header: header.update(__metadata__=3),
        lambda header: json.dumps(header).replace("{", '{"a": 1, "a": 2, ', 1).encode(),
        lambda header: b"[" * 100_000,
        lambda header: b"\xff\xfe",
        lambda header: [header],
    ],
    ids=range(14),
)
def test_a_header_that_describes_what_is_not_there_is_refused(change):
    save("a.ckpt")
    with_header(lambda header: None)
    Checkpoint.open("a.ckpt")  # the header was written again, and nothing else
    with_header(change)
    with pytest.raises(UserError, match=r"^a\.ckpt is not a readable checkpoint, perhaps a truncated one"):
        Checkpoint.open("a.ckpt")


def test_tensors_that_changed_places_are_damage():
    """All of one shape and type: only the checksum knows which is which."""
    save("a.ckpt", content(state_dict={"first": torch.zeros(3), "second": torch.ones(3)}))

    def swap(header: Any) -> None:
        one, other = header[FIRST], header["state_dict.second"]
        one["data_offsets"], other["data_offsets"] = other["data_offsets"], one["data_offsets"]

    with_header(swap)
    with pytest.raises(UserError, match=r"^a\.ckpt is damaged"):
        Checkpoint.open("a.ckpt")


def test_a_length_of_a_header_takes_no_memory():
    Path("a.ckpt").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(UserError, match=r"^a\.ckpt is not a readable checkpoint"):
        Checkpoint.open("a.ckpt")


def test_weights_alone_are_no_checkpoint(tiny_bert):
    with pytest.raises(UserError, match=r"is no checkpoint of lit_bert: it has other metadata than"):
        Checkpoint.open(tiny_bert / "model.safetensors")
    save_file({"state_dict.first": torch.zeros(1)}, "a.ckpt", {"lit_bert": "{}"})
    with pytest.raises(UserError, match=r"is no checkpoint of lit_bert: it has other metadata than"):
        Checkpoint.open("a.ckpt")


# --- format 1, written by the code of its time (tests/format_1/make.py)


def test_there_are_checkpoints_of_both_kinds_of_format_1():
    kinds = {file.stem: torch.load(file, weights_only=True)["config"].keys() for file in MADE}
    assert kinds.keys() == {"config-last", "settings-best", "settings-last"}
    assert {name for name, keys in kinds.items() if "composition" in keys} == {
        "settings-best",
        "settings-last",
    }
    assert {name for name, keys in kinds.items() if "ckpt_path" in keys} == {"config-last"}


@pytest.mark.parametrize("file", MADE, ids=lambda file: file.stem)
def test_a_checkpoint_of_format_1_answers_as_it_did(file):
    wanted = json.loads(file.with_suffix(".json").read_text())
    model = BertClassifier.load_from_checkpoint(file).eval()
    assert model.hparams.label_names == wanted["names"]
    tokenizer = model.weights.tokenizer(30)
    for text, probs in zip(wanted["texts"], wanted["probs"], strict=True):
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.inference_mode():
            found = model.predict_step({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 0)
        torch.testing.assert_close(found, torch.tensor([probs]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("file", MADE, ids=lambda file: file.stem)
def test_a_checkpoint_of_format_1_says_the_same_in_format_2(file):
    before = torch.load(file, weights_only=True)
    checkpoint = Checkpoint.open(file)
    facts = checkpoint.facts
    assert (facts.epoch, facts.global_step) == (before["epoch"], before["global_step"])
    assert facts.model.model_dump(include=set(before["hyper_parameters"])) == before["hyper_parameters"]
    assert facts.weights.architecture == before["weights"]["architecture"]
    assert facts.settings.trainer.max_epochs == 8
    assert facts.settings.early_stopping.patience == before["config"]["early_stopping"]["patience"]
    assert facts.settings.composition["trainer.callbacks"] == "null"
    data = before["EmotionDataModule"]
    assert (facts.data.fingerprint, checkpoint.tokenizer) == (data.get("fingerprint"), data["tokenizer"])
    if "callbacks" in before:  # the record of epochs has a callback of its own by now
        before["callbacks"]["EpochRecord"] = before["callbacks"].pop("Dashboard")
    SafeCheckpointIO().save_checkpoint(checkpoint.as_lightning(), "again.ckpt")
    assert read_file("again.ckpt")[0]["format"] == 2
    again = Checkpoint.open("again.ckpt")
    assert again.facts == facts
    assert equal(again.as_lightning(), checkpoint.as_lightning())
    assert equal(again.state_dict, dict(before["state_dict"]))
    assert equal(again.progress, {key: value for key, value in before.items() if key in again.progress})


@pytest.mark.parametrize("kind", ["config-last", "settings-last"])
def test_a_run_of_format_1_goes_on_in_format_2(run, corpus, kind):
    run_folder = Path("checkpoints/version_0")
    run_folder.mkdir(parents=True)
    shutil.copy(FORMAT_1 / f"{kind}.ckpt", run_folder / "last.ckpt")
    before = Checkpoint.open(run_folder / "last.ckpt")
    flags = [f"--data.dataset={corpus}", "--trainer.max_epochs=9", "--trainer.accelerator=cpu"]
    outcome = run("fit", "--ckpt_path=last", *flags)
    assert outcome.code == 0, outcome
    assert "resumed    trainer.max_epochs: 8 before, 9 from here on" in outcome.err
    values, _ = read_file(run_folder / "last.ckpt")
    assert values["epoch"] == before.facts.epoch + 1
    assert values["model"] == before.model.model_dump()
    assert values["global_step"] == before.facts.global_step + 8
    steps = content_of(run_folder / "last.ckpt")["optimizer_states"][0]["state"][0]["step"]
    assert steps == values["global_step"]


def test_rows_of_a_run_of_format_1_are_compared(refused, corpus, tmp_path):
    Path("run").mkdir()
    shutil.copy(FORMAT_1 / "settings-last.ckpt", "run/last.ckpt")
    data = Path(shutil.copytree(corpus, tmp_path / "data"))
    file = data / "train.csv"
    file.write_text(file.read_text().replace("happy", "glad", 1))
    line = refused("fit", "--ckpt_path=run/last.ckpt", f"--data.dataset={data}", "--trainer.accelerator=cpu")
    assert "the rows to train on are not those of" in line


def test_format_1_is_tested_by_format_2(run, corpus):
    shutil.copy(FORMAT_1 / "settings-best.ckpt", "best.ckpt")
    outcome = run("test", "--ckpt_path=best.ckpt", f"--data.dataset={corpus}", "--trainer.accelerator=cpu")
    assert outcome.code == 0, outcome
    assert "validation macro F1 when it was saved: " in outcome.out
