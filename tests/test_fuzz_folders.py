"""Folders with random edits: the same answers as before, or one line that says what is wrong with them."""

import contextlib
import json
import shutil
import signal
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_bert import UserError
from lit_bert.io.escape import JOINERS
from lit_bert.model.pretrained import load_network
from lit_bert.product.folder import facts, verify
from lit_bert.product.formats import ONNX, ONNX_INT8
from lit_bert.product.predictor import Predictor
from lit_bert.sources import architecture
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.weights import Weights
from lit_bert.train.published import Asked, as_checkpoint

TEXTS = ["i am so happy today", "sad", "", "the dog is mad but glad " * 30]
SECONDS = 20  # that one folder may take; a thousandth of it is usual
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.sampled_from([-1, 0, 1, 2, 3, 127, 128, 129, 2**31, 2**63, 10**9, 0.5, 1e308]),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["../../etc/passwd", "/etc/passwd", "(a+)+$", "[UNK]", "os.system", "\ud800"]),
    st.just([]),
    st.just({}),
    st.lists(st.integers(-3, 300), max_size=4),
    st.just([[[[[[]]]]]]),
)


@contextlib.contextmanager
def limited(seconds=SECONDS):
    """Ends what hangs."""

    def stop(*_):
        pytest.fail(f"not done after {seconds} seconds")

    earlier = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)


def places(value, path=()):
    """The path of every value within a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def edited_json(data, content):
    """The JSON text with one to three values replaced, taken out, renamed or doubled."""
    value = json.loads(content)
    for _ in range(data.draw(st.integers(1, 3))):
        value = json.loads(json.dumps(value))  # no list or object in two places
        path = data.draw(st.sampled_from(list(places(value))[1:] or [()]))
        if not path:
            return json.dumps(data.draw(ODD)).encode()
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        kind = data.draw(st.sampled_from(["replace", "replace", "remove", "rename", "double"]))
        if kind == "replace":
            holder[path[-1]] = data.draw(ODD)
        elif kind == "remove":
            del holder[path[-1]]
        elif isinstance(holder, list):
            holder.append(holder[path[-1]])
        else:
            name = data.draw(st.sampled_from(["auto_map", "type", "", "Regex", "x", *map(str, holder)]))
            holder[name] = holder[path[-1]] if kind == "double" else holder.pop(path[-1])
    return json.dumps(value).encode()


def edited_bytes(data, content):
    """The bytes with some of them changed, cut off, doubled, or put in."""
    content = bytearray(content)
    kind = data.draw(st.sampled_from(["flip", "flip", "cut", "insert", "double", "remove"]))
    if kind == "flip" and content:
        for _ in range(data.draw(st.integers(1, 4))):
            # headers and names stand at the start and the end
            place = data.draw(st.one_of(st.integers(0, len(content) - 1), st.integers(-400, 400)))
            content[place % len(content)] = data.draw(st.integers(0, 255))
    else:
        start = data.draw(st.integers(0, len(content)))
        stop = data.draw(st.integers(start, min(len(content), start + 64)))
        if kind == "cut":
            del content[start:]
        elif kind == "insert":
            content[start:start] = data.draw(st.binary(max_size=16))
        elif kind == "double":
            content[start:start] = content[start:stop]
        else:
            del content[start:stop]
    return bytes(content)


def edit(data, folder, names):
    """Changes one of the files. Returns its name."""
    name = data.draw(st.sampled_from(names))
    content = (folder / name).read_bytes()
    as_json = name.endswith(".json") and data.draw(st.integers(0, 4)) > 0
    (folder / name).write_bytes((edited_json if as_json else edited_bytes)(data, content))
    return name


@pytest.fixture(scope="module")
def answers(exported):
    return {name: Predictor(exported, name, threads=1)(TEXTS) for name in (ONNX, ONNX_INT8)}


@pytest.mark.fuzz
@given(data=st.data())
def test_an_edited_export_gives_the_same_answers_or_one_line(
    exported, answers, tmp_path_factory, capfd, data
):
    folder = shutil.copytree(exported, tmp_path_factory.mktemp("fuzz") / "exported")
    try:
        name = edit(data, folder, sorted(path.name for path in folder.iterdir()))
        whole = (folder / name).read_bytes() == (exported / name).read_bytes()
        with limited():
            verified = one_line(lambda: verify(folder))
            one_line(lambda: facts(folder))
            for file in (ONNX, ONNX_INT8):
                found = one_line(lambda file=file: Predictor(folder, file, threads=1)(TEXTS))
                if found is not None:
                    for each in found:
                        assert np.isfinite(list(each.probabilities.values())).all()
                        assert sum(each.probabilities.values()) == pytest.approx(1, abs=1e-4)
                if verified is not None:  # what the list says of each file holds
                    assert found == answers[file]
            assert whole or name in ("README.md", "SHA256SUMS") or verified is None
        assert "panicked" not in capfd.readouterr().err  # of Rust, with its stack
    finally:
        shutil.rmtree(folder.parent)


@pytest.fixture(scope="module")
def values(tiny_bert):
    weights = Weights(str(tiny_bert))
    return load_network(weights, ["no", "yes"]).state_dict(), weights.tokenizer(16).to_str()


@pytest.mark.fuzz
@given(data=st.data())
def test_an_edited_folder_of_weights_is_a_whole_network_or_one_line(
    tiny_bert, values, tmp_path_factory, capfd, data
):
    folder = shutil.copytree(tiny_bert, tmp_path_factory.mktemp("fuzz") / "bert")
    architecture._said.clear()
    try:
        name = edit(data, folder, sorted(path.name for path in folder.iterdir()))
        with limited():
            weights = Weights(str(folder), stand_in=None)
            network = one_line(lambda: load_network(weights, ["no", "yes"]))
            tokenizer = one_line(lambda: weights.tokenizer(16))
            if tokenizer is not None:
                for each in tokenizer.encode_batch(TEXTS):
                    assert max(each.ids, default=0) < weights.architecture.get("vocab_size", 30522)
                    assert len(each.ids) <= 16
            if network is not None and name not in ("config.json", "model.safetensors"):
                for key, value in network.state_dict().items():
                    assert key.startswith("classifier.") or (value == values[0][key]).all()
            if tokenizer is not None and name in ("config.json", "model.safetensors"):
                assert tokenizer.to_str() == values[1]
        assert "panicked" not in capfd.readouterr().err  # of Rust, with its stack
    finally:
        shutil.rmtree(folder.parent)


@pytest.mark.fuzz
@given(data=st.data())
def test_an_edited_classifier_of_others_becomes_a_checkpoint_or_one_line(
    exported, tmp_path_factory, monkeypatch, capfd, data
):
    place = tmp_path_factory.mktemp("fuzz")
    folder = shutil.copytree(exported, place / "theirs")
    architecture._said.clear()
    kept = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    try:
        with monkeypatch.context() as patch, limited():
            patch.chdir(place)
            edit(data, folder, kept)
            file = one_line(lambda: as_checkpoint("theirs", Asked()))
            if file is None:
                assert not (place / "checkpoints").exists()
            else:
                checkpoint = Checkpoint.open(file)
                weights = Weights(checkpoint=str(file))
                network = load_network(weights, list(checkpoint.task.class_names), has_head=True)
                assert all(value.isfinite().all() for value in network.parameters())
                assert weights.tokenizer(checkpoint.data.settings.max_length).encode("a").ids
        assert "panicked" not in capfd.readouterr().err  # of Rust, with its stack
    finally:
        shutil.rmtree(place)


def one_line(call):
    """What it returns; None where it raises a UserError of one line without advice to lower a guard."""
    try:
        return call()
    except UserError as error:
        check_line(str(error))
    return None


def check_line(said):
    """One line of a terminal without anything that acts on it, and without advice to lower a guard."""
    assert len(said.splitlines()) == 1, said
    kinds = {unicodedata.category(each) for each in said if each not in JOINERS}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}, said
    for advice in ("weights_only", "safe_globals", "trust_remote_code", "ignore_mismatched_sizes"):
        assert advice not in said.replace("save_weights_only", "")  # a setting
