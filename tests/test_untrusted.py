"""Files that a stranger may have written: what is refused before memory, time or another file is taken."""

import base64
import contextlib
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import WORDS

import lit_bert
from lit_bert import UserError
from lit_bert.io import onnx_files, safetensors_files, tokenizers, untrusted

ROOT = Path(lit_bert.__file__).parent.parent
GIGABYTE = 1 << 30


def alone(code, *arguments, memory=4 * GIGABYTE, seconds=60):
    """Runs code in a process of its own with bounded memory and time. Returns what it printed."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))\n"
    done = subprocess.run(
        [sys.executable, "-c", limit + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


# --- files ---


def fifo(path):
    os.mkfifo(path)


def outside(path):
    path.parent.joinpath("..", "secret.json").resolve().write_text('"the secret"')
    path.symlink_to("../secret.json")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (fifo, "is no ordinary file"),
        (lambda path: path.mkdir(), "is no ordinary file"),
        (lambda path: path.symlink_to("/dev/zero"), "is a link out of its folder"),
        (outside, "is a link out of its folder"),
        (lambda path: path.symlink_to(path), "cannot read"),
        (lambda path: path.symlink_to("gone"), "No such file"),
        (lambda path: path.write_text('"' + "a" * 2000 + '"'), "has 2,002 bytes; expected at most 1,000"),
        (lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 1 << 40), "expected at most 1,000"),
        (lambda path: path.write_bytes(b'"\xff"'), "is not text in UTF-8"),
    ],
    ids=["fifo", "folder", "device", "outside", "circle", "dangling", "long", "terabyte", "encoding"],
)
def test_only_an_ordinary_file_of_bounded_size_in_its_folder_is_read(tmp_path, make, says):
    folder = tmp_path / "folder"
    folder.mkdir()
    make(folder / "file.json")
    with pytest.raises(UserError, match=says) as said:
        untrusted.read_json(folder / "file.json", 1000)
    assert len(str(said.value).splitlines()) == 1
    assert "the secret" not in str(said.value)


def test_links_within_a_folder_and_into_the_hubs_cache_are_followed(tmp_path):
    snapshot, blobs = (
        tmp_path / "models--a--b" / "snapshots" / ("0" * 40),
        tmp_path / "models--a--b" / "blobs",
    )
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1234").write_text("1")
    (snapshot / "config.json").symlink_to("../../blobs/1234")
    (snapshot / "same.json").symlink_to("config.json")
    (tmp_path / "moved").symlink_to(snapshot)
    assert untrusted.read_json(snapshot / "config.json") == 1
    assert untrusted.read_json(tmp_path / "moved" / "config.json") == 1
    (tmp_path / "models--a--b" / "secret").write_text("2")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("../../secret")
    with pytest.raises(UserError, match="is a link out of its folder"):
        untrusted.read_json(snapshot / "config.json")


# --- JSON ---


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("NaN", "NaN is no number"),
        ("[1, -Infinity]", "-Infinity is no number"),
        ("1e999", "beyond all bounds"),
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' twice"),
        ("[" * 40 + "]" * 40, "nested too deeply"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ("1" * 50, "more than 39 digits"),
        ("1" * 10_000, "digits"),
        (r'"\ud800"', "surrogates not allowed"),
        (r'{"\udfff": 1}', "surrogates not allowed"),
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ('"' + "a" * 1000 + '"', "has 1,002 characters; expected at most 500"),
    ],
)
def test_json_that_programs_read_differently_is_refused(text, says):
    with pytest.raises(UserError, match=rf"^what .*{says}") as said:
        untrusted.parse_json(text, "what", max(500, len(text) * (len(text) > 1100)))
    assert len(str(said.value).splitlines()) == 1
    assert len(str(said.value)) < 400


@pytest.mark.parametrize("text", ['{"a": [1, 2.5, null, true, "é\\u00e9\\ud83d\\ude00"]}', "[]", str(10**30)])
def test_other_json_is_read_as_it_is(text):
    assert untrusted.parse_json(text, "what") == json.loads(text)


# --- classes ---


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "no id2label"),
        ({"id2label": []}, "no id2label"),
        ({"id2label": {}}, "no id2label"),
        ({"id2label": {"0": "a", "2": "b"}}, "no name for class 1"),
        ({"id2label": {"-1": "a", "0": "b"}}, "no name for class 1"),
        ({"id2label": {"00": "a"}}, "no name for class 0"),
        ({"id2label": {"0": "a", "1": 1}}, "no name for class 1"),
        ({"id2label": {"0": "a", "1": None}}, "no name for class 1"),
        ({"id2label": {"0": "a", "1": "a"}}, "names two classes 'a'"),
        ({"id2label": {"0": "a\n\x1b", "1": "a\n\x1b"}}, "names two classes"),
        ({"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}}, "label2id that contradicts"),
        ({"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0}}, "label2id that contradicts"),
        ({"id2label": {str(each): str(each) for each in range(100_001)}}, "1 to 100,000 classes"),
    ],
)
def test_class_names_have_every_number_once_and_no_contradiction(config, says):
    with pytest.raises(UserError, match=rf"^config\.json .*{says}"):
        untrusted.class_names_of_config(config, "config.json")


def test_class_names_are_in_the_order_of_their_numbers_not_of_the_alphabet_or_the_file():
    config = {
        "id2label": {
            "2": "a",
            "10": "k",
            "0": "z",
            "1": "m",
            **{str(each): str(each) for each in range(3, 10)},
        }
    }
    assert untrusted.class_names_of_config(config, "x") == [
        "z",
        "m",
        "a",
        "3",
        "4",
        "5",
        "6",
        "7",
        "8",
        "9",
        "k",
    ]


# --- tokenizers ---


@pytest.fixture
def content(tiny_bert):
    """A good tokenizer.json, taken apart."""
    return json.loads((tiny_bert / "tokenizer.json").read_text())


def refused(content, says):
    with pytest.raises(UserError, match=rf"^tokenizer\.json .*{says}") as said:
        tokenizers.load_tokenizer(json.dumps(content), "tokenizer.json")
    assert len(str(said.value).splitlines()) == 1
    assert len(str(said.value)) < 600


EXPLODING = {"type": "Split", "pattern": {"Regex": "(a|a|ab?)+$"}, "behavior": "Isolated", "invert": False}
GROWING = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}


@pytest.mark.parametrize(
    "place",
    [
        {"pre_tokenizer": EXPLODING},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "BertPreTokenizer"}, EXPLODING]}},
        {"pre_tokenizer": {"type": "Sequence", "pre_tokenizers": [], "pretokenizers": [EXPLODING]}},
        {"normalizer": {"type": "Replace", "pattern": EXPLODING["pattern"], "content": ""}},
        {"decoder": {"type": "Replace", "pattern": EXPLODING["pattern"], "content": ""}},
    ],
)
def test_a_regular_expression_that_could_explode_is_refused_wherever_it_stands(content, place):
    start = time.monotonic()
    refused({**content, **place}, "regular expression")
    assert time.monotonic() - start < 5


def test_such_an_expression_does_explode_in_the_library_itself(content):  # else the test above shows nothing
    code = """
import sys
from tokenizers import Tokenizer
try:
    Tokenizer.from_str(sys.argv[1]).encode("a" * 40 + "!")
except BaseException as error:
    print(type(error).__name__)
"""
    crafted = json.dumps({**content, "normalizer": None, "pre_tokenizer": EXPLODING})
    with contextlib.suppress(subprocess.TimeoutExpired):  # where the library's engine has no limit
        assert alone(code, crafted, seconds=10) == "PanicException\n"  # after ten million steps back


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"normalizer": {"type": "Sequence", "normalizers": [GROWING] * 40}}, "replaces 'a' by 'aa'"),
        ({"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "a"}}, "pattern is ''"),
        ({"normalizer": {"type": "Prepend", "prepend": "a" * 10**6}}, "prepends"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "damaged charsmap"),
        ({"normalizer": {"type": "Python"}}, "unknown type 'Python'"),
        ({"normalizer": {"type": ["Lowercase"]}}, "unknown type"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 65}}, "without steps"),
        ({"normalizer": []}, "no object"),
        ({"pre_tokenizer": {"type": "Split", "pattern": "x", "behavior": "Isolated"}}, "pattern is 'x'"),
        ({"truncation": {"max_length": 0}}, "truncates to 0 tokens"),
        ({"truncation": {"max_length": 10**12}}, "truncates to 1000000000000 tokens"),
        ({"truncation": {"max_length": 8, "stride": 8}}, "stride of 8"),
        ({"truncation": 5}, "no object"),
        ({"added_tokens": [{"id": 10**9, "content": "x"}]}, "added token"),
        ({"added_tokens": [{"id": 1, "content": ""}]}, "added token"),
        ({"added_tokens": {}}, "no usable tokenizer"),
        ({"added_tokens": "[PAD]"}, "no list"),
        ({"run": "os.system"}, "unknown key"),
        ({"model": None}, "has no model"),
        ({"model": {"type": "Code"}}, "model of type 'Code'"),
    ],
)
def test_a_tokenizer_with_a_part_that_no_published_one_has_is_refused(content, change, says):
    refused({**content, **change}, says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vocab": {}}, "vocabulary that is none"),
        ({"vocab": ["a"]}, "vocabulary that is none"),
        ({"vocab": {"[UNK]": -1}}, "ids out of range"),
        ({"vocab": {"[UNK]": 0, "a": 10**10}}, "ids out of range"),
        ({"vocab": {"[UNK]": 0, "a": 1.0}}, "no whole numbers"),
        ({"vocab": {"[UNK]": 0, "a": True}}, "no whole numbers"),
        ({"vocab": {"[UNK]": 0, "a": 0}}, "two tokens of one id"),
        ({"unk_token": "gone"}, "lacks its unknown token"),
        ({"unk_token": None}, "lacks its unknown token"),
        ({"max_input_chars_per_word": 10**9}, "splits words of 1000000000 characters"),
        ({"type": "BPE", "merges": [], "dropout": 0.5}, "at random"),
        ({"type": "Unigram", "vocab": [["a", 0.0], ["b"]]}, "piece that is none"),
        ({"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 5}, "unk_id of 5"),
    ],
)
def test_a_vocabulary_that_cannot_be_is_refused(content, change, says):
    refused({**content, "model": {**content["model"], **change}}, says)


@pytest.mark.parametrize(
    "change",
    [
        {"special_tokens": {}},
        {"special_tokens": []},
        {"special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}}},  # found by fuzzing
        {"single": []},
        {"single": [{"Sequence": {"id": "B", "type_id": 0}}]},
        {"single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2},
        {"single": [{"Sequence": {"id": "A"}}]},
        {"single": [{"Sequence": "A"}]},
        {"single": [{}]},
        {"single": ["A"]},
        {"single": [{"SpecialToken": {"id": ["[CLS]"], "type_id": 0}}]},
        {"pair": None},
    ],
)
def test_a_template_that_does_not_fit_itself_is_refused(content, change, capfd):
    refused({**content, "post_processor": {**content["post_processor"], **change}}, "template|special|piece")
    assert capfd.readouterr().err == ""  # the library would panic, and show its stack


def test_ids_beyond_the_embeddings_are_refused_wherever_they_come_from(content):
    text, size = json.dumps(content), len(content["model"]["vocab"])
    assert tokenizers.load_tokenizer(text, "tokenizer.json", size).get_vocab_size() == size
    added = {"id": size, "content": "[NEW]", "single_word": False, "lstrip": False, "rstrip": False}
    added |= {"normalized": False, "special": True}
    more = {**content, "added_tokens": [*content["added_tokens"], added]}
    template = json.loads(text)
    template["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [size + 5]
    shifted = {**content, "model": {**content["model"], "vocab": {**content["model"]["vocab"], "dog": size}}}
    for each, largest in ((more, size), (template, size + 5), (shifted, size)):
        with pytest.raises(UserError, match=rf"ids up to {largest:,}; the model knows {size:,} tokens"):
            tokenizers.load_tokenizer(json.dumps(each), "tokenizer.json", size)


@pytest.mark.parametrize(
    "model",
    [
        {"type": "WordPiece"},
        {},  # as in the file of bert-base-uncased
    ],
)
def test_stock_tokenizers_are_taken(content, model):
    kept = {key: value for key, value in content["model"].items() if key != "type"}
    found = tokenizers.load_tokenizer(json.dumps({**content, "model": {**kept, **model}}), "tokenizer.json")
    assert found.encode("happy dog").tokens == ["[CLS]", "happy", "dog", "[SEP]"]


def charsmap(units, texts):
    """A table of replacements as SentencePiece writes it: some units, then a block full of them."""
    trie = np.zeros(256, "<u4")
    trie[list(units)] = list(units.values())
    return base64.b64encode(struct.pack("<I", trie.nbytes) + trie.tobytes() + texts).decode()


def unigram(table):
    """A tokenizer.json like that of XLM-R."""
    return {
        "version": "1.0",
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Precompiled", "precompiled_charsmap": table},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            ],
        },
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["▁a", -1.0], ["▁b", -1.0]]},
    }


LEAF = 1 << 8  # of a unit: a text ends here, and the unit at its offset says which one replaces it
VALUE = 1 << 31


def test_a_sentencepiece_tokenizer_with_its_stock_expression_is_taken():
    # The root leads to the units of the bytes; that of "c" says that "b", the text at 2, replaces it.
    table = charsmap({ord("c"): LEAF | ord("c") | ((ord("c") ^ 200) << 10), 200: VALUE | 2}, b"\0\0b\0")
    assert tokenizers.load_tokenizer(json.dumps(unigram(table)), "x").encode("a  c").ids == [1, 2]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (charsmap({0: 0x7FFFFFFF}, b"\0"), "leads out of itself"),
        (charsmap({99: 1000 << 10}, b"\0"), "leads out of itself"),
        (charsmap({99: LEAF | (99 << 10), 0: VALUE | 9}, b"b\0"), "leads out of its texts"),
        (charsmap({99: LEAF | (99 << 10), 0: VALUE | 1}, "é\0".encode()), "leads out of its texts"),
        (charsmap({}, b"b" * 65 + b"\0"), "makes characters long"),
        (charsmap({}, b"\xff\0"), "damaged charsmap"),
        ("no base64", "damaged charsmap"),
        (None, "damaged charsmap"),
    ],
)
def test_a_table_of_replacements_that_leads_elsewhere_or_grows_is_refused(table, says, capfd):
    refused(unigram(table), says)
    assert capfd.readouterr().err == ""  # the library would panic, and show its stack


def test_a_long_word_and_a_long_text_take_no_more_than_their_share_of_time(content):
    found = tokenizers.load_tokenizer(json.dumps(content), "tokenizer.json")
    start = time.monotonic()
    tokenizers.encode(found, ["a" * 200_000, " ".join(WORDS * 2000)])
    assert time.monotonic() - start < 10


def test_a_text_that_the_tokenizer_fails_at_is_an_error_in_one_line():
    from tokenizers import Tokenizer, models

    found = Tokenizer(models.WordLevel({"happy": 0}, unk_token="[UNK]"))
    assert [each.ids for each in tokenizers.encode(found, ["happy"])] == [[0]]
    for offsets in (False, True):
        with pytest.raises(UserError, match=r"^the tokenizer cannot read a text \(.*\[UNK\].*\); use one as"):
            tokenizers.encode(found, ["sad"], offsets)


# --- safetensors ---


def header_of(length, text=b"{}"):
    return struct.pack("<Q", length) + text


def tensors(values=b"\0" * 16, **described):
    text = json.dumps(described).encode()
    return struct.pack("<Q", len(text)) + text + values


def tensor(dtype="F32", shape=(4,), offsets=(0, 16)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


CRAFTED = {
    "empty": (b"", "no whole safetensors file"),
    "terabyte header": (header_of(1 << 40), "header would have 1,099,511,627,776 bytes"),
    "largest header": (header_of((1 << 64) - 1), "no whole safetensors file"),
    "header past the end": (header_of(50), "no whole safetensors file"),
    "no text": (header_of(2, b"\xff\xff"), "is no text"),
    "no object": (header_of(2, b"[]"), "no JSON object"),
    "twice": (header_of(19, b'{"a": {}, "a": {} }'), "key 'a' twice"),
    "terabyte tensor": (tensors(a=tensor(shape=(1 << 38,), offsets=(0, 1 << 40))), "cannot be"),
    "terabyte shape": (tensors(a=tensor(shape=(1 << 38,))), "cannot be"),
    "overflow": (tensors(a=tensor(shape=(1 << 32, 1 << 32, 4))), "cannot be"),
    "many axes": (tensors(a=tensor(shape=(1,) * 1000 + (4,))), "cannot be"),
    "negative": (tensors(a=tensor(shape=(-2, -2))), "cannot be"),
    "unknown type": (tensors(a=tensor(dtype="PY")), "cannot be"),
    "type of another size": (tensors(a=tensor(dtype="F16")), "cannot be"),
    "backwards": (tensors(a=tensor(shape=(0,), offsets=(16, 0))), "cannot be"),
    "text for a number": (tensors(a=tensor(shape=("4",))), "cannot be"),
    "overlapping": (tensors(a=tensor(), b=tensor()), "two tensors in one place"),
    "a gap": (
        tensors(b"\0" * 32, a=tensor(), b=tensor(offsets=(16, 32), shape=(4,)) | {}, c={}),
        "cannot be",
    ),
    "a hole": (tensors(b"\0" * 48, a=tensor(), b=tensor(offsets=(32, 48))), "a gap"),
    "too much": (tensors(b"\0" * 17, a=tensor()), "17 bytes of values"),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_a_crafted_header_is_refused(case):
    content, says = CRAFTED[case]
    Path("model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=says) as said:
        safetensors_files.check_safetensors(Path("model.safetensors"))
    assert len(str(said.value).splitlines()) == 1


def test_a_header_of_a_terabyte_takes_no_memory():
    """Of a sparse file that is as long as its header says, so that the size alone does not give it away."""
    path = Path("model.safetensors")
    path.write_bytes(header_of((1 << 40) - 8))
    os.truncate(path, 1 << 40)
    code = """
import sys
from pathlib import Path
from lit_bert import UserError
from lit_bert.io import safetensors_files
try:
    safetensors_files.check_safetensors(Path(sys.argv[1]))
except UserError as error:
    print(error)
"""
    assert "is no whole safetensors file" in alone(code, path.resolve(), memory=GIGABYTE)


def test_a_good_file_says_what_is_in_it():
    from safetensors.numpy import save_file

    save_file({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(7)}, "model.safetensors")
    found = safetensors_files.check_safetensors(Path("model.safetensors"))
    assert {name: each[:2] for name, each in found.items()} == {"a": ("F32", (2, 3)), "b": ("I64", ())}
    content = Path("model.safetensors").read_bytes()
    assert {name: content[each.start : each.stop] for name, each in found.items()} == {
        "a": np.arange(6, dtype=np.float32).tobytes(),
        "b": np.array(7).tobytes(),
    }


# --- ONNX ---

onnx = pytest.importorskip("onnx")
helper = onnx.helper


def graph_of(nodes, initializers=(), **settings):
    """An ONNX file of these nodes, from input_ids to logits."""
    ends = [
        [helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["B", "T"])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["B", 3])],
    ]
    graph = helper.make_graph(list(nodes), "g", *ends, list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], **settings)


def node(operator, domain="", **attributes):
    return helper.make_node(operator, ["input_ids"], ["logits"], domain=domain, **attributes)


def external(place):
    tensor = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "weights")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": place, "offset": "0", "length": "16"}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def within(tensor):
    """The tensor as an attribute of a node."""
    return graph_of([helper.make_node("Constant", [], ["logits"], value=tensor)])


def large():
    tensor = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "weights")
    tensor.dims[:] = [1 << 40]
    return tensor


INNER = helper.make_graph([], "inner", [], [])
ONNX_CASES = {
    "external": (lambda: graph_of([node("Cast")], [external("/etc/passwd")]), "values in another file"),
    "external, upwards": (lambda: graph_of([node("Cast")], [external("../x")]), "values in another file"),
    "external, within": (lambda: within(external("../../etc/passwd")), "values in another file"),
    "custom operator": (lambda: graph_of([node("Run", "ai.evil")]), "operator ai.evil:Run"),
    "contributed": (lambda: graph_of([node("Gelu", "com.microsoft")]), "operator com.microsoft:Gelu"),
    "loop": (lambda: graph_of([node("Loop", body=INNER)]), "a graph within a node"),
    "branch": (lambda: graph_of([node("If")]), "operator :If"),
    "random": (lambda: graph_of([node("RandomNormalLike")]), "operator :RandomNormalLike"),
    "expanding": (lambda: graph_of([node("ConstantOfShape")]), "operator :ConstantOfShape"),
    "terabyte": (lambda: graph_of([node("Cast")], [large()]), "more values than the file holds"),
    "function": (
        lambda: graph_of(
            [node("Cast")],
            functions=[helper.make_function("f", "F", [], [], [], [helper.make_opsetid("", 20)])],
        ),
        "functions of its own",
    ),
    "no graph": (onnx.ModelProto, "is empty"),
    "version alone": (lambda: onnx.ModelProto(ir_version=10), "no graph"),
}


@pytest.mark.parametrize("case", ONNX_CASES)
def test_a_crafted_graph_is_refused(case):
    make, says = ONNX_CASES[case]
    Path("model.onnx").write_bytes(make().SerializeToString())
    with pytest.raises(UserError, match=says) as said:
        onnx_files.check_onnx(Path("model.onnx"))
    assert len(str(said.value).splitlines()) == 1


@pytest.mark.parametrize(
    "content", [b"no graph", b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 30, b"\x3b\x01", b"\x3a"]
)
def test_what_is_no_protobuf_is_refused(content):
    Path("model.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"is no whole ONNX file|holds no graph"):
        onnx_files.check_onnx(Path("model.onnx"))


def test_both_files_of_an_export_pass(exported):
    for name in ("model.onnx", "model.int8.onnx"):
        onnx_files.check_onnx(exported / name)
