"""Texts to labelled probabilities from an exported folder: the same as the network's, in any company."""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES, WORDS, texts_of

import lit_bert
from lit_bert import UserError
from lit_bert.product.formats import FORMATS, ONNX, ONNX_INT8
from lit_bert.product.predictor import Predictor

ROOT = Path(lit_bert.__file__).parent.parent
HEAVY = ("torch", "transformers", "lightning", "uvicorn", "starlette", "pandas", "pyarrow")
ODD = [
    "",
    " ",
    "\0",
    "i am\0 happy",
    "\ud800",
    "sad \udfff\ud800 dog",
    "🙂",
    "sun 🙂🙃 dog",
    "日本",
    "a" * 500,
    "\u202e",
]


@pytest.fixture(scope="module", params=[ONNX, ONNX_INT8])
def either(exported, request):
    """A predictor of each file."""
    return Predictor(exported, file=request.param, threads=2)


@pytest.fixture(scope="module")
def exact(exported):
    return Predictor(exported, file=ONNX)


@pytest.fixture(scope="module")
def probs_of(exported):
    """Probabilities by transformers alone in 32 bits, (N, C), one text at a time."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    network = AutoModelForSequenceClassification.from_pretrained(exported).eval()
    tokenizer = AutoTokenizer.from_pretrained(exported)

    def call(texts):
        with torch.inference_mode():
            encodings = (tokenizer(text, truncation=True, return_tensors="pt") for text in texts)
            return torch.cat([network(**each).logits.softmax(-1) for each in encodings]).numpy()

    return call


@pytest.fixture
def copied(exported, tmp_path):
    """A copy of the exported folder to do harm to."""
    return shutil.copytree(exported, tmp_path / "copied")


def mixed(count=60, seed=0):
    """Texts of 0 to 60 words, neither sorted nor of one class."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.choice((0, 1, 3, 8, 20, 60)))) for _ in range(count)]


def sample(count):
    """Texts of the packaged data."""
    with (ROOT / "lit_bert" / "data" / "sample" / "train.csv").open(encoding="utf-8") as stream:
        return [row["text"] for row in csv.DictReader(stream)][:count]


# --- the same as the network's ---


def test_probabilities_are_those_of_transformers_and_sum_to_1(exact, probs_of):
    texts = [*mixed(), *(text for label in CLASSES for text in texts_of(label, 4))]
    found = exact.probs(texts)
    assert (found.dtype, found.shape) == (np.float32, (len(texts), 3))
    np.testing.assert_allclose(found, probs_of(texts), atol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    assert len(set(found.argmax(1))) == 3


def test_8_bits_change_probabilities_a_little_and_the_classes_texts_not_at_all(exported, exact):
    texts = [text for label in CLASSES for text in texts_of(label, 12)]
    found, wanted = Predictor(exported).probs(texts), exact.probs(texts)
    assert 0 < np.abs(found - wanted).max() < 0.1
    assert (found.argmax(1) == wanted.argmax(1)).all()


def test_each_text_gets_the_class_of_its_words(exported):
    predictor = Predictor(exported)
    for label in CLASSES:
        assert {each.label for each in predictor(texts_of(label, 12))} == {label}


def test_a_prediction_names_the_most_probable_class(exact):
    for found, row in zip(exact(mixed()), exact.probs(mixed()), strict=True):
        assert list(found.probabilities) == exact.labels == ["anger", "joy", "sadness"]
        assert list(found.probabilities.values()) == row.tolist()
        assert found.probability == max(found.probabilities.values()) == found.probabilities[found.label]
        assert type(found.probability) is float
        assert found.truncated is False


def test_order_is_kept_whatever_the_lengths(either):
    texts = mixed(40)
    assert len({len(text) for text in texts}) > 10
    alone = np.concatenate([either.probs([text]) for text in texts])
    np.testing.assert_allclose(either.probs(texts), alone, atol=1e-5)


def test_a_text_gets_the_same_in_any_company(either):
    texts = sample(300) + mixed(300) + ODD
    alone = np.concatenate([either.probs([text]) for text in texts])
    assert min(np.bincount(alone.argmax(1), minlength=3)) > 20
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(texts))
        together = either.probs([texts[row] for row in order])
        # Scales that followed the batch would move those of 8 bits.
        np.testing.assert_allclose(together, alone[order], atol=1e-5)
        assert np.array_equal(together.argmax(1), alone.argmax(1)[order])


def test_several_threads_at_once_get_what_one_gets(exported):
    predictor = Predictor(exported, threads=2)
    calls = [mixed(20, seed) for seed in range(12)]
    one_by_one = [predictor(texts) for texts in calls]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(predictor, calls)) == one_by_one


# --- odd texts ---


def test_no_texts_give_no_predictions(exact):
    assert exact([]) == []
    assert exact.probs([]).shape == (0, 3)


def test_odd_texts_get_a_label_and_harm_no_other(either):
    between = [part for text in ODD for part in (text, "i am so happy")]
    found = either(between)
    assert found[1::2] == either(["i am so happy"]) * len(ODD)
    for each in found:
        assert sum(each.probabilities.values()) == pytest.approx(1, abs=1e-6)
        assert not each.truncated


def test_a_lone_surrogate_is_read_as_a_question_mark(exact):
    assert exact(["happy \ud800 dog"]) == exact(["happy ? dog"])


def test_the_end_of_a_long_text_is_not_read_and_the_prediction_says_so(either):
    words = random.Random(0).choices(WORDS, k=5000)
    long, cut, short = either([" ".join(words), " ".join(words[:126]), " ".join(words[:10])])
    assert (long.truncated, cut.truncated, short.truncated) == (True, False, False)  # 126, [CLS] and [SEP]
    assert long == cut._replace(truncated=True)
    assert long.probabilities != short.probabilities


def test_every_word_of_the_maximum_length_counts(exact):  # 8 bits may round one of 126 away
    words = random.Random(0).choices(WORDS, k=126)
    whole, shorter = exact([" ".join(words), " ".join(words[:125])])
    assert whole.probabilities != shorter.probabilities


@pytest.mark.parametrize(
    "texts", ["i am happy", b"i am happy", [b"i am"], ["a", None], [1], [["a"]], [float("nan")]]
)
def test_anything_but_a_list_of_strings_says_what_is_expected(exact, texts):
    with pytest.raises(TypeError, match="expected a list of strings"):
        exact(texts)


# --- which words mattered ---


def test_the_words_of_an_explanation_are_cut_out_of_the_text(exact):
    text = "  Don't say 🙂 «happy», it’s\n2nd\train-sun! 日本"
    found = exact.explain(text)
    assert [text[word.start : word.end] for word in found] == [
        *("Don't", "say", "🙂", "«", "happy", "»", ",", "it’s", "2nd", "rain", "-", "sun", "!", "日本")
    ]
    assert all(np.isfinite(word.weight) for word in found)


@pytest.fixture
def counting(copied):
    """A predictor whose graph, made by hand, adds up what words say: happy 2 for joy, sad 1 for sadness."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    said = np.zeros((5 + len(WORDS), 3), np.float32)
    said[5 + WORDS.index("happy"), 1], said[5 + WORDS.index("sad"), 2] = 2, 1
    nodes = [
        helper.make_node("Gather", ["said", "input_ids"], ["each"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["read"]),
        helper.make_node("Mul", ["each", "read"], ["left"]),
        helper.make_node("ReduceSum", ["left", "tokens"], ["logits"], keepdims=0),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "T"])
        for name in ("input_ids", "attention_mask")
    ]
    graph = helper.make_graph(
        nodes,
        "counting",
        inputs,
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 3])],
        [
            numpy_helper.from_array(said, "said"),
            numpy_helper.from_array(np.array([2]), "last"),
            numpy_helper.from_array(np.array([1]), "tokens"),
        ],
    )
    (copied / ONNX_INT8).unlink()
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), copied / ONNX
    )
    return Predictor(copied)


def test_the_word_that_carries_the_class_weighs_most(counting):
    text = "today i am happy but sad"
    (found,) = counting([text])
    assert found.label == "joy"
    assert found.probability == pytest.approx(np.exp(2) / (np.exp(2) + np.exp(1) + 1))
    weights = {text[word.start : word.end]: word.weight for word in counting.explain(text)}
    assert max(weights, key=weights.get) == "happy"
    assert weights == {
        **dict.fromkeys(("today", "i", "am", "but"), pytest.approx(0, abs=1e-6)),
        "happy": pytest.approx(2, abs=1e-5),  # log-odds of joy: 2 - log(1 + e), without it 0 - log(1 + e)
        "sad": pytest.approx(-np.log((1 + np.e) / 2), abs=1e-5),  # without it 2 - log(1 + 1)
    }


def test_a_weight_is_what_leaving_the_word_out_does_to_the_log_odds(exact, probs_of):
    found = exact.explain("happy sad dog")
    probs = probs_of(["happy sad dog", "sad dog", "happy dog", "happy sad"]).astype(float)
    of_label = probs[:, probs[0].argmax()]
    odds = np.log(of_label / (1 - of_label))
    assert [word.weight for word in found] == pytest.approx(list(odds[0] - odds[1:]), abs=1e-3)


@pytest.mark.parametrize("text", ["", "   ", "\0", "\n\t"])
def test_a_text_without_words_has_nothing_to_explain(exact, text):
    assert exact.explain(text) == []


def test_words_past_the_maximum_length_are_not_explained(exact):
    text = " ".join(["sun"] * 126 + ["rain"] * 50)
    found = exact.explain(text)
    assert len(found) == 126
    assert {text[word.start : word.end] for word in found} == {"sun"}


def test_a_lone_surrogate_moves_no_offset(exact):
    text = "\ud800 happy \udfff sun"
    assert "happy" in [text[word.start : word.end] for word in exact.explain(text)]


# --- the folder ---


def test_8_bits_are_taken_where_they_are(copied):
    assert Predictor(copied).file == ONNX_INT8
    (copied / ONNX_INT8).unlink()
    assert Predictor(copied).file == ONNX
    assert Predictor(str(copied)).max_length == 128


def test_it_needs_no_more_than_three_files(copied, exact):
    for path in copied.iterdir():
        if path.name not in ("config.json", "tokenizer.json", ONNX):
            path.unlink()
    assert np.array_equal(Predictor(copied).probs(mixed(8)), exact.probs(mixed(8)))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", ONNX])
def test_a_missing_file_is_named(copied, name):
    for each in [each.file for each in FORMATS] if name == ONNX else [name]:
        (copied / each).unlink()
    with pytest.raises(UserError, match=f"copied has no .*{name}.*; expected a folder that .* export"):
        Predictor(copied)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone has no config\.json"):
        Predictor(tmp_path / "gone")


def without_truncation(content):
    return json.dumps({**json.loads(content), "truncation": None}).encode()


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("config.json", lambda content: b""),
        ("config.json", lambda content: content[:-50]),
        ("config.json", lambda content: b"[]"),
        ("config.json", lambda content: b"{}"),
        ("config.json", lambda content: b'{"id2label": {"0": "a", "2": "b"}}'),
        ("config.json", lambda content: b'{"id2label": {"zero": "a"}}'),
        ("config.json", lambda content: b"\xff\xfe{}"),
        ("tokenizer.json", lambda content: b"{}"),
        ("tokenizer.json", lambda content: content[:100]),
        ("tokenizer.json", without_truncation),
        (ONNX_INT8, lambda content: b""),
        (ONNX_INT8, lambda content: b"no graph"),
        (ONNX_INT8, lambda content: content[: len(content) // 2]),
    ],
)
def test_a_damaged_file_is_one_message_that_names_the_folder(copied, name, harm):
    (copied / name).write_bytes(harm((copied / name).read_bytes()))
    with pytest.raises(UserError) as said:
        Predictor(copied)
    assert str(said.value).startswith(f"{copied} cannot be used (")
    assert str(said.value).endswith("Export it again.")
    assert "\n" not in str(said.value)


def json_edit(**changes):
    """Sets keys of a JSON file."""
    return lambda content: json.dumps({**json.loads(content), **changes}).encode()


def vocab_of(count):
    def edit(content):
        changed = json.loads(content)
        changed["model"]["vocab"] |= {f"word{number}": 1000 + number for number in range(count)}
        return json.dumps(changed).encode()

    return edit


def graph_edit(change):
    def edit(content):
        import onnx

        model = onnx.load_from_string(content)
        change(model.graph)
        return model.SerializeToString()

    return edit


def of_two_classes(graph):
    """Cuts the classifier, whose weights and bias stand last, to two of its three classes."""
    from onnx import numpy_helper

    for name in graph.node[-1].input[1:]:
        (tensor,) = (each for each in graph.initializer if each.name == name)
        values = numpy_helper.to_array(tensor)
        axis = next(axis for axis, size in enumerate(values.shape) if size == 3)
        tensor.CopyFrom(numpy_helper.from_array(np.take(values, [0, 1], axis).copy(), name))
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2


def not_finite(graph):
    from onnx import numpy_helper

    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 2:
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(values, np.nan), tensor.name))


def other_input(graph):
    for node in graph.node:
        node.input[:] = ["ids" if name == "input_ids" else name for name in node.input]
    graph.input[0].name = "ids"


def fewer_embeddings(graph):
    from onnx import numpy_helper

    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.shape == (35, 32):
            tensor.CopyFrom(numpy_helper.from_array(values[:3].copy(), tensor.name))


@pytest.mark.parametrize(
    ("name", "harm", "says"),
    [
        (
            "config.json",
            json_edit(id2label={"0": "joy", "1": "joy", "2": "anger"}, label2id=None),
            "two classes",
        ),
        ("config.json", json_edit(label2id={"joy": 0, "anger": 1, "sadness": 2}), "contradicts"),
        ("config.json", json_edit(id2label={"0": "a", "1": "b"}, label2id=None), "logits of 2 classes"),
        ("config.json", json_edit(vocab_size=20), "ids up to 34; the model knows 20 tokens"),
        ("config.json", json_edit(vocab_size="35"), "vocab_size of '35'"),
        ("config.json", json_edit(max_position_embeddings=64), "lets 128 tokens through; the model takes 64"),
        ("tokenizer.json", vocab_of(5), "ids up to 1,004; the model knows 35 tokens"),
        ("tokenizer.json", json_edit(truncation={"max_length": 10**9}), "truncates to 1000000000 tokens"),
        (ONNX, graph_edit(of_two_classes), r"outputs .*; expected the logits of 3 classes"),
        (ONNX, graph_edit(not_finite), "logits that are not finite"),
        (ONNX, graph_edit(other_input), "inputs .*; expected input_ids and attention_mask"),
        (ONNX, graph_edit(fewer_embeddings), "cannot label a text"),
    ],
)
def test_files_that_do_not_fit_each_other_are_one_message(copied, name, harm, says, capfd):
    pytest.importorskip("onnx")
    (copied / name).write_bytes(harm((copied / name).read_bytes()))
    with pytest.raises(UserError, match=rf"^{copied} cannot be used \(.*{says}.*\)\. Export it again\.$"):
        Predictor(copied, ONNX)
    assert capfd.readouterr() == ("", "")  # onnxruntime would write to the terminal


def test_a_graph_never_opens_a_file_that_it_names(copied, tmp_path):
    """With its values in another file: a harmless one here, whose times say whether it was opened."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(copied / ONNX)
    onnx.save(model, copied / ONNX, save_as_external_data=True, location="values.bin", size_threshold=0)
    os.utime(copied / "values.bin", (1, 2**31))  # read long before it was written: the next read shows
    with pytest.raises(UserError, match="keeps values in another file, which is not opened"):
        Predictor(copied, ONNX)
    assert (copied / "values.bin").stat().st_atime == 1
    (copied / "values.bin").read_bytes()
    if (copied / "values.bin").stat().st_atime == 1:
        pytest.skip("this file system keeps no times of access")


@pytest.mark.parametrize("file", ["../exported/model.onnx", "/etc/passwd", "", "config.json", "model.onnx/"])
def test_only_the_two_files_of_an_export_can_be_named(exported, file):
    with pytest.raises(UserError, match=rf"there is no ONNX file {file}; expected {ONNX_INT8} or {ONNX}"):
        Predictor(exported, file=file)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", ONNX])
def test_a_link_out_of_the_folder_is_not_followed(copied, tmp_path, name):
    (copied / name).rename(tmp_path / "elsewhere")
    (copied / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link out of its folder"):
        Predictor(copied, ONNX)


def test_a_stride_in_the_file_does_not_multiply_long_texts(copied, exact):
    content = json.loads((copied / "tokenizer.json").read_text())
    content["truncation"]["stride"] = 100
    (copied / "tokenizer.json").write_text(json.dumps(content))
    text = "happy dog " * 500
    strided = Predictor(copied, ONNX)
    assert len(strided._tokenizer.encode(text).overflowing) < 10  # with the stride about forty
    assert np.array_equal(strided.probs([text]), exact.probs([text]))


# --- what it needs ---


def modules_after(code, *arguments):
    """Top-level packages that a new interpreter has imported after `code`, and what it printed."""
    code += "\nimport json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    *printed, names = done.stdout.splitlines()
    return set(json.loads(names)) - sys.stdlib_module_names, printed


USED = """
import sys
from lit_bert import Predictor
predictor = Predictor(sys.argv[1])
print(predictor(["i am so happy"])[0].label, len(predictor.explain("i am so happy")))
"""


def test_labelling_imports_nothing_beyond_three_packages(exported):
    found, printed = modules_after(USED, str(exported))
    without, _ = modules_after("import numpy, onnxruntime, tokenizers")
    assert printed == ["joy 4"]
    assert not found & set(HEAVY)
    assert found - without == {"lit_bert"}


def test_labelling_works_where_nothing_heavy_can_be_imported(exported):
    blocked = f"import sys\nfor name in {HEAVY}: sys.modules[name] = None"
    _, printed = modules_after(blocked + USED, str(exported))
    assert printed == ["joy 4"]
