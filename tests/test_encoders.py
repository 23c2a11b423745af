"""All architectures through all that one can do: trained, resumed, scored, explained, exported, served.

Each has random weights, two layers, and a tokenizer of its own family. What transformers makes of the same
weights is the truth.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tiny
import torch
from conftest import CLASSES, Run, texts_of
from torch.nn.functional import cross_entropy

from lit_bert import BertClassifier, UserError, Weights
from lit_bert.__main__ import main
from lit_bert.encoders.base import Encoder
from lit_bert.encoders.bert import BertFields
from lit_bert.encoders.table import ENCODERS, encoder_of, graph_of
from lit_bert.evaluate.attribution import Explainer, Question
from lit_bert.io import tokenizers
from lit_bert.model.bert import CpuBert
from lit_bert.model.logits import exact_logits
from lit_bert.model.optimizer import DeferredAdamW
from lit_bert.model.pretrained import load_network
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.train.checkpoint_io import apply_calibration

NAMES = sorted(CLASSES)
LABELS = torch.tensor([0, 2, 1, 2])
TEXTS = [text for label in CLASSES for text in texts_of(label, 36)[28:]]
# White space of all kinds, words that no vocabulary has, marks, and names of special tokens as text.
UGLY = [
    "i'm  so\thappy,today",
    "Ünïcödé 猫 🙂 l'été",
    "<pad> happy [PAD] <s> sad </s> [SEP] <mask> [MASK]",
    "sad",
    "happy " * 100,
]

every_architecture = pytest.mark.parametrize("folder", tiny.WHOLE, indirect=True)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("encoders")
    return {name: tiny.write(name, place / name) for name in tiny.WHOLE}


@pytest.fixture
def folder(folders: dict[str, Path], request: pytest.FixtureRequest) -> Path:
    return folders[request.param]


@pytest.fixture(scope="session")
def runs(folders: dict[str, Path], corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a run of each architecture, made when it is first asked for."""

    class Runs(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            place = tmp_path_factory.mktemp(f"run-{name}")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("LIT_BERT_CACHE", str(place / "cache"))
                patch.setattr(sys, "argv", list(sys.argv))
                flags = [f"--weights.pretrained={folders[name]}", f"--data.dataset={corpus}"]
                flags += ["--trainer.max_epochs=4", "--data.batch_size=8", "--model.learning_rate=0.002"]
                flags += ["--trainer.accelerator=cpu", f"--data.max_length={tiny.LIMIT}"]
                flags += ["--model.average_decay=0", "--early_stopping.patience=9"]
                logger = f"--trainer.logger.init_args.save_dir={place / 'checkpoints'}"
                assert main(["fit", *flags, logger]) == 0
            self[name] = place / "checkpoints" / "version_0"
            return self[name]

    return Runs()


@pytest.fixture(scope="session")
def exports(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The exported folder of each architecture, made when it is first asked for."""
    pytest.importorskip("onnxruntime")

    class Exports(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            target = tmp_path_factory.mktemp(f"export-{name}") / "exported"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", list(sys.argv))
                flags = [f"--ckpt_path={runs[name] / 'best.ckpt'}", f"--to={target}", "--max_f1_loss=100"]
                assert main(["export", *flags]) == 0
            self[name] = target
            return target

    return Exports()


def network_of(folder: Path) -> Any:
    """Its classifier in evaluation mode, with a head whose logits differ from text to text."""
    torch.manual_seed(1)
    network = load_network(Weights(str(folder), stand_in=None), NAMES).eval()
    with torch.no_grad():
        encoder_of(network).logits_of(network).weight.mul_(20)
    return network


def batch_of(folder: Path, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """input_ids and attention_mask, int64 (B, T)."""
    weights = Weights(str(folder), stand_in=None)
    ids = [each.ids for each in tokenizers.encode(weights.tokenizer(tiny.LIMIT), texts)]
    mask = torch.tensor([[1] * len(each) + [0] * (max(map(len, ids)) - len(each)) for each in ids])
    input_ids = torch.full(mask.shape, weights.pad_token_id)
    input_ids[mask == 1] = torch.tensor([token for each in ids for token in each])
    return input_ids, mask


def gradients(network: Any, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    network.zero_grad()
    cross_entropy(logits, LABELS).backward()
    return {name: value.grad.clone() for name, value in network.named_parameters() if value.grad is not None}


def test_every_architecture_has_a_tiny_one_here():
    assert tiny.ENCODERS.keys() == ENCODERS.keys()


def test_what_the_readme_says_of_architectures_is_so():
    """But for what one value of a configuration decides, which stands after the types."""
    text = Path(__file__).parent.parent.joinpath("README.md").read_text(encoding="utf-8")
    lines = text.split("| `model_type` |")[1].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    said = {
        kind.partition(" ")[0]: (computed.startswith("lit_bert"), exported.startswith("yes"))
        for types, computed, exported in rows
        for kind in types.split(", ")
    }
    actual = {name: (each.own_operations, each.graph) for name, each in tiny.ENCODERS.items()}
    assert said.items() <= actual.items()
    assert said.keys() >= {"bert", "roberta", "deberta-v2", "modernbert"}


# --- tokens ---


@every_architecture
def test_tokens_are_those_of_transformers(folder):
    from transformers import AutoTokenizer

    weights, theirs = Weights(str(folder), stand_in=None), AutoTokenizer.from_pretrained(folder)
    own = tokenizers.encode(weights.tokenizer(tiny.LIMIT), [*TEXTS, *UGLY, ""])
    wanted = theirs([*TEXTS, *UGLY, ""], truncation=True, max_length=tiny.LIMIT)["input_ids"]
    assert [each.ids for each in own] == wanted
    assert max(map(len, wanted)) == tiny.LIMIT
    assert weights.pad_token_id == theirs.pad_token_id
    assert theirs.padding_side == "right"


@every_architecture
def test_a_text_has_as_many_tokens_as_there_are_positions_and_no_more(folder):
    weights = Weights(str(folder), stand_in=None)
    with pytest.raises(UserError, match=f"takes 3 to {tiny.LIMIT} tokens"):
        weights.tokenizer(tiny.LIMIT + 1)
    input_ids, mask = batch_of(folder, ["happy " * 100])
    assert input_ids.shape == (1, tiny.LIMIT)
    assert network_of(folder)(input_ids=input_ids, attention_mask=mask).logits.isfinite().all()


@pytest.mark.parametrize("form", ["vocab.txt", "vocab.json", "spm.model"])
def test_a_vocabulary_without_tokenizer_json_gives_the_tokens_of_transformers(folders, tmp_path, form):
    from transformers import AutoTokenizer

    kind = {"vocab.txt": "electra", "vocab.json": "roberta", "spm.model": "deberta-v2"}[form]
    copy = shutil.copytree(folders[kind], tmp_path / "copy")
    model = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (copy / "tokenizer.json").unlink()
    if form == "vocab.txt":
        (copy / form).write_text("\n".join(sorted(model["vocab"], key=model["vocab"].get)) + "\n")
    elif form == "vocab.json":
        (copy / form).write_text(json.dumps(model["vocab"]), encoding="utf-8")
        merges = "\n".join(" ".join(pair) for pair in model["merges"])
        (copy / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    else:
        sentencepiece = pytest.importorskip("sentencepiece")
        with (copy / form).open("wb") as stream:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(tiny.SENTENCES),
                model_writer=stream,
                vocab_size=38,
                pad_id=0,
                unk_id=1,
                bos_id=2,
                eos_id=3,
                pad_piece="[PAD]",
                unk_piece="[UNK]",
                bos_piece="[CLS]",
                eos_piece="[SEP]",
                user_defined_symbols=["[MASK]"],
                minloglevel=2,
            )
    theirs = AutoTokenizer.from_pretrained(copy)
    own = Weights(str(copy), stand_in=None).tokenizer(tiny.LIMIT)
    assert [each.ids for each in own.encode_batch(TEXTS)] == theirs(TEXTS)["input_ids"]
    assert len({tuple(each.ids) for each in own.encode_batch(TEXTS)}) > 10


# --- values ---


@every_architecture
def test_logits_and_gradients_are_those_of_transformers(folder):
    network, texts = network_of(folder), [TEXTS[0], TEXTS[9], UGLY[2], UGLY[4]]
    input_ids, mask = batch_of(folder, texts)
    theirs = network(input_ids=input_ids, attention_mask=mask).logits
    assert theirs.std(0).min() > 1e-3
    assert CpuBert.can_run(network) == tiny.ENCODERS[folder.name].own_operations
    own = (
        CpuBert(network)(input_ids, mask)
        if CpuBert.can_run(network)
        else exact_logits(network, input_ids, mask)
    )
    torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-5)
    got, expected = gradients(network, own), gradients(network, theirs)
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-3, atol=1e-5, msg=name)


@every_architecture
def test_bf16_is_as_close_to_32_bit_as_that_of_transformers(folder):
    model = BertClassifier(NAMES, weights=Weights(str(folder), stand_in=None))
    model.network = network = network_of(folder)
    model.eval()
    input_ids, mask = batch_of(folder, [*TEXTS, *UGLY])
    with torch.no_grad():
        exact = network(input_ids=input_ids, attention_mask=mask).logits
        with torch.autocast("cpu", torch.bfloat16):
            own, theirs = model(input_ids, mask), network(input_ids=input_ids, attention_mask=mask).logits
    assert own.dtype == torch.float32
    assert 0 < (own - exact).norm() < 3 * (theirs.float() - exact).norm()  # rounded at other places


@every_architecture
def test_dropout_is_drawn_in_training_alone(folder):
    model = BertClassifier(NAMES, weights=Weights(str(folder), stand_in=None))
    model.network = network_of(folder)
    batch = batch_of(folder, TEXTS)
    with torch.no_grad():
        assert torch.equal(model.eval()(*batch), model(*batch))
        assert not torch.equal(model.train()(*batch), model(*batch))


@every_architecture
def test_the_exported_graph_gives_the_logits_of_transformers(folder):
    network = network_of(folder)
    graph = graph_of(network)
    for texts in (["happy"], TEXTS[:3], [*TEXTS[:2], *UGLY]):
        input_ids, mask = batch_of(folder, texts)
        with torch.no_grad():
            theirs = network(input_ids=input_ids, attention_mask=mask).logits
            torch.testing.assert_close(graph(input_ids, mask), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("deberta-v2", {"share_att_key": False}),
        ("deberta-v2", {"share_att_key": False, "pos_att_type": ["c2p"], "position_buckets": -1}),
        ("deberta-v2", {"relative_attention": False, "pos_att_type": None, "position_biased_input": True}),
        ("deberta-v2", {"type_vocab_size": 2, "embedding_size": 16, "norm_rel_ebd": "none"}),
        ("modernbert", {"classifier_pooling": "mean", "mlp_bias": True, "attention_bias": True}),
        ("albert", {"num_hidden_groups": 2, "inner_group_num": 2, "hidden_act": "gelu"}),
        ("electra", {"embedding_size": 32}),
        ("mpnet", {"hidden_act": "relu"}),
    ],
)
def test_what_a_configuration_changes_is_in_the_graph(tmp_path, kind, config):
    network = network_of(tiny.write(kind, tmp_path / "folder", **config))
    input_ids, mask = batch_of(tmp_path / "folder", [*TEXTS[:3], *UGLY])
    with torch.no_grad():
        theirs = network(input_ids=input_ids, attention_mask=mask).logits
        torch.testing.assert_close(graph_of(network)(input_ids, mask), theirs, rtol=1e-5, atol=1e-5)


@every_architecture
def test_a_head_in_a_folder_is_taken_over_in_our_order_of_classes(folder, tmp_path, capfd):
    network, copy = network_of(folder), shutil.copytree(folder, tmp_path / "copy")
    network.save_pretrained(copy)
    again = load_network(Weights(str(copy), stand_in=None), NAMES[::-1]).eval()
    other = load_network(Weights(str(copy), stand_in=None), ["some", "other", "task"]).eval()
    assert "not used" not in capfd.readouterr().err  # transformers writes no setting that is unknown
    input_ids, mask = batch_of(folder, TEXTS)
    with torch.no_grad():
        own, found, fresh = (
            each(input_ids=input_ids, attention_mask=mask).logits for each in (network, again, other)
        )
    torch.testing.assert_close(found, own.flip(1))
    assert not torch.allclose(fresh, own, atol=0.01)
    encoder = encoder_of(network)
    for name, value in other.named_parameters():
        if not encoder.in_logits(name):
            assert torch.equal(value, network.get_parameter(name)), name


# --- optimization ---


@every_architecture
def test_head_decay_and_word_embeddings_are_found_in_every_architecture(folder):
    model = BertClassifier(NAMES, learning_rate=1e-3, weights=Weights(str(folder), stand_in=None))
    model.configure_model()
    names = {id(value): name for name, value in model.network.named_parameters()}
    body, body_vectors, head, head_vectors = (
        {names[id(each)] for each in group} for group in model.parameters_by_group
    )
    assert body | body_vectors | head | head_vectors == set(names.values())
    encoder = encoder_of(model.network)
    assert f"{encoder.base}.{encoder.words}.weight" in body
    above = {name for name in names.values() if not name.startswith(f"{encoder.base}.")}
    pooler = {name for name in names.values() if encoder.pooler and encoder.pooler in name}
    assert head | head_vectors == above | pooler
    assert f"{encoder.logits}.weight" in head
    assert f"{encoder.logits}.bias" in head_vectors
    assert all("norm" in name.lower() or name.endswith("bias") for name in body_vectors | head_vectors)


def test_the_learning_rate_falls_with_size_from_what_the_authors_took(folders):
    def rate(kind: str) -> float:
        model = BertClassifier(NAMES, weights=Weights(str(folders[kind]), stand_in=None))
        model.configure_model()
        model.network.config.update({"hidden_size": 768, "num_hidden_layers": 12})
        return model.learning_rate

    rates = {kind: rate(kind) for kind in ("bert", "roberta", "deberta-v2")}
    assert rates == pytest.approx({"bert": 5e-5, "roberta": 3e-5, "deberta-v2": 4e-5})


@every_architecture
def test_a_temperature_divides_the_logits(folder, runs, tmp_path):
    path = Path(shutil.copy(runs[folder.name] / "best.ckpt", tmp_path / "copy.ckpt"))
    batch = batch_of(folder, TEXTS)

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return BertClassifier.load_from_checkpoint(path).eval()(*batch)

    before = logits()
    checkpoint = Checkpoint.read(path)
    C = len(checkpoint.model.label_names)
    apply_calibration(checkpoint, np.full(C, 1 / 1.7), np.zeros(C))
    torch.testing.assert_close(logits() * 1.7, before, rtol=1e-5, atol=1e-5)


# --- the whole way ---


@every_architecture
def test_it_trains_resumes_and_answers_the_same_everywhere(folder, runs, run: Run, corpus):
    place = runs[folder.name]
    summary = (place / "best.ckpt", place / "last.ckpt", place / "validate.parquet")
    assert all(path.is_file() for path in summary)
    copy = shutil.copytree(place, Path("checkpoints") / "version_0")

    resumed = run(
        "fit", "--ckpt_path", copy / "last.ckpt", "--trainer.max_epochs=5", "--data.dataset", corpus
    )
    assert resumed.code == 0, resumed.err
    is_own = tiny.ENCODERS[folder.name].own_operations
    own = "BERT on a CPU in fewer operations" if is_own else "the modules of transformers"
    assert f"model      {folder.name}, " in resumed.err
    assert f"computed by {own}" in resumed.err
    assert Checkpoint.read(copy / "last.ckpt").facts.epoch == 4

    tested = run("test", "--ckpt_path", copy / "best.ckpt")
    assert tested.code == 0, tested.err
    assert "macro F1" in tested.out
    predicted = run("predict", *TEXTS, "--ckpt_path", copy / "best.ckpt", "--trainer.precision=32-true")
    assert predicted.code == 0, predicted.err
    network = BertClassifier.load_from_checkpoint(copy / "best.ckpt").eval().network
    input_ids, mask = batch_of(folder, TEXTS)
    with torch.no_grad():
        probs = network(input_ids=input_ids, attention_mask=mask).logits.softmax(-1)
    rows = [json.loads(line) for line in predicted.out.splitlines()]
    found = [[row[f"probability_{name}"] for name in NAMES] for row in rows]
    np.testing.assert_allclose(found, probs.numpy(), atol=2e-6)


@every_architecture
def test_its_errors_are_reported_and_its_words_explained(folder, runs, run: Run):
    pytest.importorskip("captum")
    pytest.importorskip("cleanlab")
    copy = shutil.copytree(runs[folder.name], Path("checkpoints") / "version_0")
    reported = run("report", copy)
    assert reported.code == 0, reported.err
    assert (copy / "report.html").is_file()
    explainer = Explainer.of(Checkpoint.open(copy / "best.ckpt"))
    texts = ["i'm  so\thappy,today", "sad"]
    for text, found in zip(texts, explainer.explain([Question(text, 1) for text in texts]), strict=True):
        pieces = [text[start:end] for start, end in found.spans]
        assert not any(piece != piece.strip() or not piece for piece in pieces)
        assert "".join(pieces) == "".join(text.split())
        gained = abs(float(found.scores.sum()))
        assert abs(found.gap) < 0.05 * gained + 0.02


@pytest.mark.parametrize(
    "folder", [name for name in tiny.WHOLE if name != "bert"], indirect=True
)  # see test_export.py
def test_the_export_is_the_same_model_in_each_file(folder, exports, runs):
    from transformers import pipeline

    from lit_bert.product.predictor import Predictor

    exported, texts = exports[folder.name], [*TEXTS, *UGLY]
    own = Predictor(exported, file="model.onnx")
    probs = own.probs(texts)
    model = pipeline("text-classification", model=str(exported), top_k=None, device="cpu")
    answers = model(texts, truncation=True)
    theirs = [
        [{each["label"]: each["score"] for each in answer}[name] for name in NAMES] for answer in answers
    ]
    np.testing.assert_allclose(probs, theirs, atol=1e-5)
    together = model(texts, truncation=True, batch_size=len(texts))
    assert [each[0]["label"] for each in together] == [each[0]["label"] for each in answers]
    quick = Predictor(exported, file="model.int8.onnx").probs(texts)
    assert np.abs(quick - probs).max() < 0.2
    assert {len(own.explain("i am so happy"))} == {4}
    facts = json.loads((exported / "lit_bert.json").read_text())
    assert facts["architecture"] == folder.name
    assert facts["files"]["model.onnx"]["agreement"] == 1
    assert f"A text classifier ({folder.name})" in (exported / "README.md").read_text()


def test_an_architecture_without_a_graph_says_so_and_exports_what_it_can(tmp_path, corpus, run: Run):
    folder = tiny.write("deberta-v2", tmp_path / "folder", conv_kernel_size=3, conv_act="gelu")
    flags = [f"--weights.pretrained={folder}", f"--data.dataset={corpus}", "--trainer.max_epochs=1"]
    assert run("fit", *flags, "--data.batch_size=32", "--data.max_length=64").code == 0
    outcome = run("export")
    assert outcome.code == 0, outcome.err
    notes = [line for line in outcome.err.splitlines() if line.startswith("note ")]
    assert [note for note in notes if "has no ONNX graph" in note] == notes[:1]
    exported = Path("checkpoints") / "version_0" / "exported"
    assert sorted(path.name for path in exported.iterdir()) == [
        *("README.md", "SHA256SUMS", "config.json", "lit_bert.json", "model.safetensors", "tokenizer.json"),
        "tokenizer_config.json",
    ]
    assert "Predictor" not in (exported / "README.md").read_text()


@every_architecture
def test_rows_that_look_mislabelled_are_found(folder, corpus, run: Run):
    pytest.importorskip("cleanlab")
    flags = [f"--weights.pretrained={folder}", f"--data.dataset={corpus}", "--data.max_length=64"]
    outcome = run("audit", "--folds=2", *flags, "--trainer.max_epochs=1", "--data.batch_size=16")
    assert outcome.code == 0, outcome.err
    assert "judged by" in outcome.out


@pytest.mark.parametrize("folder", [name for name in tiny.WHOLE if name != "bert"], indirect=True)
def test_the_server_answers_as_the_predictor_does(folder, exports):  # see test_serve.py for BERT
    pytest.importorskip("uvicorn")
    from serving import servers

    from lit_bert.product.predictor import Predictor

    with servers() as start:
        answer = start(exports[folder.name]).predict([*TEXTS, *UGLY])
    assert answer.status == 200, answer.content
    wanted = Predictor(exports[folder.name])([*TEXTS, *UGLY])
    for own, expected in zip(answer.json["predictions"], wanted, strict=True):
        assert own.keys() == expected._asdict().keys()
        assert own["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)


# --- variations of these ---


@pytest.mark.parametrize("kind", tiny.RELATIVES)
def test_a_relative_of_these_is_trained_and_labels_as_transformers_does(kind, corpus, tmp_path, run: Run):
    from transformers import AutoTokenizer

    folder = tiny.write(kind, tmp_path / "folder")
    flags = [f"--weights.pretrained={folder}", f"--data.dataset={corpus}", "--trainer.max_epochs=1"]
    outcome = run("fit", *flags, "--data.batch_size=16", f"--data.max_length={tiny.LIMIT}")
    assert outcome.code == 0, outcome.err
    network = BertClassifier.load_from_checkpoint("checkpoints/version_0/best.ckpt").eval().network
    assert CpuBert.can_run(network) == tiny.ENCODERS[kind].own_operations
    assert (graph_of(network) is not None) == tiny.ENCODERS[kind].graph
    texts = [*TEXTS, "sad", "happy " * 100]
    batch = AutoTokenizer.from_pretrained(folder)(
        texts, truncation=True, max_length=tiny.LIMIT, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        wanted = network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.softmax(
            -1
        )
    predicted = run("predict", *texts, "--trainer.precision=32-true")
    rows = [json.loads(line) for line in predicted.out.splitlines()]
    found = [[row[f"probability_{name}"] for name in NAMES] for row in rows]
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-6)


# --- what is refused ---


def changed(folder: Path, target: Path, **values: Any) -> Path:
    copy = shutil.copytree(folder, target)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **values}))
    return copy


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("gpt2", r"'gpt2' \(a decoder, which writes text\); expected an encoder: albert, bert, "),
        ("qwen2", "a decoder, which writes text"),
        ("t5", "it reads one text and writes another"),
        ("vit", "it reads pictures"),
        ("wav2vec2", "it reads sound"),
        ("deberta", "an encoder that lit_bert has no schema for"),
        ("nothing-like-it", "Give such weights, such as FacebookAI/roberta-base"),
    ],
)
def test_what_is_no_encoder_of_texts_is_refused_with_what_would_work(refused, folders, tmp_path, kind, says):
    folder = changed(folders["roberta"], tmp_path / "copy", model_type=kind)
    line = refused("fit", f"--weights.pretrained={folder}", "--data.dataset", "nowhere.csv")
    with pytest.raises(UserError, match=says):
        _ = Weights(str(folder)).described
    assert line


def test_code_from_the_hub_is_refused_where_the_model_needs_it(folders, tmp_path):
    maps = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.Own"}
    folder = changed(folders["bert"], tmp_path / "copy", model_type="own-bert", auto_map=maps)
    with pytest.raises(UserError, match=r"by code from its folder \(auto_map\), which lit_bert does not run"):
        _ = Weights(str(folder)).described


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("roberta", {"pad_token_id": 10**6}),
        ("roberta", {"pad_token_id": None}),
        ("roberta", {"max_position_embeddings": 4}),
        ("roberta", {"hidden_size": 10**9}),
        ("mpnet", {"pad_token_id": 0}),
        ("mpnet", {"relative_attention_num_buckets": -1}),
        ("distilbert", {"n_heads": 3}),
        ("distilbert", {"activation": "os.system"}),
        ("electra", {"embedding_size": "16"}),
        ("albert", {"num_hidden_groups": 0}),
        ("albert", {"num_hidden_layers": 10**6}),
        ("deberta-v2", {"position_buckets": 2}),
        ("deberta-v2", {"pos_att_type": ["p2p"]}),
        ("deberta-v2", {"pos_att_type": "os.system"}),
        ("deberta-v2", {"attention_head_size": 5}),
        ("deberta-v2", {"conv_kernel_size": 2}),
        ("deberta-v2", {"is_decoder": True}),
        ("modernbert", {"layer_types": ["full_attention"]}),
        ("modernbert", {"layer_types": ["os.system"] * 2}),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "dynamic", "factor": 9}}}),
        ("modernbert", {"num_attention_heads": 32}),
        ("modernbert", {"classifier_pooling": "max"}),
        ("xlm-roberta", {"quantization_config": {"load_in_8bit": True}}),
        ("camembert", {"position_embedding_type": "relative_key"}),
    ],
)
def test_a_value_that_no_such_encoder_has_is_refused(folders, tmp_path, kind, values):
    folder = changed(folders[kind], tmp_path / "copy", **values)
    with pytest.raises(UserError, match=r"config\.json has ") as caught:
        _ = Weights(str(folder)).described
    assert len(str(caught.value).splitlines()) == 1


def test_weights_of_another_architecture_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["roberta"], tmp_path / "copy")
    shutil.copy(folders["distilbert"] / "model.safetensors", folder)
    with pytest.raises(UserError, match=r"not the weights that|do not fit"):
        load_network(Weights(str(folder), stand_in=None), NAMES)


# --- a new one ---


def test_a_new_architecture_needs_its_description_alone(folders, corpus, tmp_path, monkeypatch, run: Run):
    """Ernie has BERT's modules under another name, which nothing but its description knows."""

    class Ernie(BertFields):
        model_type: Literal["ernie"]

    parts = ENCODERS["bert"].parts
    monkeypatch.setitem(ENCODERS, "ernie", Encoder(Ernie, "ernie", pooler="pooler", parts=parts))
    folder = changed(folders["bert"], tmp_path / "copy", model_type="ernie", architectures=["ErnieModel"])
    network = network_of(folder)
    assert CpuBert.can_run(network)
    input_ids, mask = batch_of(folder, TEXTS)
    with torch.no_grad():
        theirs = network(input_ids=input_ids, attention_mask=mask).logits
        for own in (CpuBert(network), graph_of(network)):
            torch.testing.assert_close(own(input_ids, mask), theirs, rtol=1e-5, atol=1e-5)
    flags = [f"--weights.pretrained={folder}", f"--data.dataset={corpus}", "--trainer.max_epochs=1"]
    assert run("fit", *flags, "--data.batch_size=16", "--data.max_length=64").code == 0
    assert run("predict", "i am happy").code == 0


def test_the_optimizer_defers_word_embeddings_on_a_cpu_for_every_architecture(folders):
    for folder in folders.values():
        network = network_of(folder)
        assert DeferredAdamW.can_run(encoder_of(network).words_of(network), beta2=0.98)
