"""A checkpoint as a folder for others: the same model in each file, described and proven."""

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import CLASSES, WORDS, files, texts_of, write_csv
from formats import content_of, forge
from test_checkpoints import room_for

import lit_bert
from lit_bert.evaluate.drift import REFERENCE
from lit_bert.evaluate.predictions import Predictions
from lit_bert.evaluate.scores import Score
from lit_bert.product.folder import CARD, CHECKSUMS, FACTS, facts, verify
from lit_bert.product.formats import FORMATS, ONNX, ONNX_INT8, Exportable
from lit_bert.product.predictor import Predictor
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.task.single import SingleLabel

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

FILES = [
    *(CARD, CHECKSUMS, FACTS, REFERENCE),
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *(each.file for each in FORMATS),
]
TEXTS = [text for label in CLASSES for text in texts_of(label, 36)[28:]]
LONG = " ".join(WORDS * 20)  # 700 tokens or so, 128 of which are read


@pytest.fixture(scope="module")
def network(able):
    """The checkpoint's network in 32 bits, by our own module."""
    from lit_bert import BertClassifier

    return BertClassifier.load_from_checkpoint(able / "best.ckpt", map_location="cpu").eval().network


@pytest.fixture(scope="module")
def wanted(network, able):
    """The checkpoint's probabilities of TEXTS and LONG, (N, C)."""
    from lit_bert.data.windows import LongTexts
    from lit_bert.product.proof import checkpoint_outputs
    from lit_bert.sources.weights import Weights

    tokenizer = Weights(checkpoint=str(able / "best.ckpt")).tokenizer(128)
    task = SingleLabel.of(network.config.id2label.values())
    return checkpoint_outputs(network, tokenizer, LongTexts("cut", 128), task, [*TEXTS, LONG])


@pytest.fixture
def at_once(exported, monkeypatch):
    """Exports in half a second: 32-bit files are the session's, which are of the same checkpoint."""
    monkeypatch.setattr(
        "lit_bert.product.onnx.write_onnx", lambda network, path, _: shutil.copy(exported / ONNX, path)
    )


@pytest.fixture
def own_run(able, tmp_path):
    """A copy of the run, to write into."""
    return shutil.copytree(able, tmp_path / "own_run")


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).iterdir()}


# --- the folder ---


def test_the_folder_has_these_files_and_anyone_may_read_them(exported):
    assert sorted(path.name for path in exported.iterdir()) == sorted(FILES)
    assert exported.stat().st_mode & 0o555 == 0o555
    for path in exported.iterdir():
        assert path.stat().st_mode & 0o444 == 0o444, path
    assert os.listdir(exported.parent) == [exported.name]


def test_configuration_and_tokenizer_know_classes_and_length(exported):
    config = json.loads((exported / "config.json").read_text())
    assert config["id2label"] == {"0": "anger", "1": "joy", "2": "sadness"}
    assert config["label2id"] == {"anger": 0, "joy": 1, "sadness": 2}
    assert json.loads((exported / "tokenizer_config.json").read_text())["model_max_length"] == 128
    assert json.loads((exported / "tokenizer.json").read_text())["truncation"]["max_length"] == 128


def test_both_graphs_are_made_of_standard_operators(exported):
    for name in (ONNX, ONNX_INT8):
        model = onnx.load(exported / name)
        onnx.checker.check_model(model)
        assert not model.functions
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}, name
        assert [each.name for each in model.graph.input] == ["input_ids", "attention_mask"]


# --- the same model in each file ---


def test_transformers_loads_the_checkpoints_weights(exported, network):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    found = AutoModelForSequenceClassification.from_pretrained(exported)
    assert type(found).__name__ == "BertForSequenceClassification"
    own = network.state_dict()
    assert found.state_dict().keys() == own.keys()
    assert all(torch.equal(value, own[name]) for name, value in found.state_dict().items())
    tokens = AutoTokenizer.from_pretrained(exported)(LONG, truncation=True)["input_ids"]
    assert len(tokens) == 128


def test_a_pipeline_gives_what_predictor_and_checkpoint_give(exported, wanted):
    from transformers import pipeline

    texts = [*TEXTS, LONG]
    found = Predictor(exported, file=ONNX)(texts)
    answers = pipeline("text-classification", model=str(exported), top_k=None, device="cpu")(
        texts, truncation=True
    )
    for one, answer, row in zip(found, answers, wanted, strict=True):
        assert one.label == answer[0]["label"]
        assert one.probabilities == pytest.approx({each["label"]: each["score"] for each in answer}, abs=1e-5)
        assert list(one.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-5)


def test_predict_of_the_checkpoint_gives_the_same(run, exported, able):
    outcome = run("predict", *TEXTS, "--ckpt_path", able / "best.ckpt", "--trainer.precision=32-true")
    assert outcome.code == 0, outcome.err
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    for one, row in zip(Predictor(exported, file=ONNX)(TEXTS), rows, strict=True):
        assert row["predicted_label"] == one.label
        for label, probability in one.probabilities.items():
            assert row[f"probability_{label}"] == pytest.approx(probability, abs=1e-4)


def test_the_temperature_is_in_every_file(exported, able, network, wanted):
    T = Checkpoint.read(able / "best.ckpt").facts.temperature
    assert abs(math.log(T)) > 0.1
    uncooled = np.exp(np.log(wanted) * T)
    uncooled /= uncooled.sum(1, keepdims=True)
    assert np.abs(uncooled - wanted).max() > 0.1  # what a file without it would give
    for file, close in ((ONNX, 1e-5), (ONNX_INT8, 0.05)):
        np.testing.assert_allclose(Predictor(exported, file=file).probs([*TEXTS, LONG]), wanted, atol=close)


def test_evened_out_a_network_computes_the_same_and_stays_as_it_was(network):
    from lit_bert.product.onnx import Smooth, smoothed

    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(0)
    ids = [torch.randint(5, 35, (length,)).tolist() for length in (1, 7, 30)]
    changed = smoothed(network, Exportable(network, ids).batches)
    input_ids, mask = torch.randint(5, 35, (4, 20)), torch.ones(4, 20, dtype=torch.int64)
    mask[1, 5:] = 0
    with torch.inference_mode():
        found, own = (each(input_ids=input_ids, attention_mask=mask).logits for each in (changed, network))
    torch.testing.assert_close(found, own, rtol=0, atol=1e-5)
    evened = [module for module in changed.modules() if isinstance(module, Smooth)]
    assert len(evened) == 4  # two in each of two layers
    assert all(module.inverse.std() > 0.01 for module in evened)
    assert not any(isinstance(module, Smooth) or module._forward_pre_hooks for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_graph_ignores_padding_and_takes_any_size(exported):
    import onnxruntime

    session = onnxruntime.InferenceSession(exported / ONNX)
    ids = np.random.default_rng(0).integers(5, 35, (1, 9))
    (alone,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    for B, T in ((1, 10), (3, 128), (70, 31)):
        input_ids, mask = np.full((B, T), 7), np.zeros((B, T), np.int64)
        input_ids[:, :9], mask[:, :9] = ids, 1
        (logits,) = session.run(None, {"input_ids": input_ids, "attention_mask": mask})
        assert logits.shape == (B, 3)
        np.testing.assert_allclose(logits, np.repeat(alone, B, 0), atol=1e-5)


@pytest.mark.parametrize("count", [2, 77])
def test_any_number_of_classes_with_any_name_is_exported(run, tiny_bert, tmp_path, count):
    names = ["a|b", "don't know: 'x' # 1"] if count == 2 else [f"class {number}" for number in range(count)]
    texts = [f"{WORDS[n % 29]} {WORDS[n // 29]} {WORDS[n % 7]}" for n in range(4 * count)]
    rows = [{"text": text, "label": names[n % count]} for n, text in enumerate(texts)]
    (tmp_path / "corpus").mkdir()
    for split, part in (("train", rows[: 2 * count]), ("validation", rows[2 * count :])):
        write_csv(tmp_path / "corpus" / f"{split}.csv", part)
    flags = [f"--weights.pretrained={tiny_bert}", f"--data.dataset={tmp_path / 'corpus'}"]
    flags += ["--trainer.max_epochs=1", "--data.batch_size=32", "--trainer.accelerator=cpu"]
    outcome = run("fit", *flags)
    assert outcome.code == 0, outcome.err
    outcome = run("export", "--max_f1_loss=100", "--license=mit")
    assert outcome.code == 0, outcome.err
    folder = Path("checkpoints/version_0/exported")
    assert outcome.out.splitlines()[-1].endswith(str(folder))
    found = Predictor(folder)
    assert sorted(found.labels) == sorted(names)
    assert found.probs(texts).shape == (4 * count, count)
    assert verify(folder).keys() == set(FILES) - {CARD, CHECKSUMS}
    front = yaml.safe_load((folder / CARD).read_text().split("---\n")[1])
    assert front["license"] == "mit"
    assert facts(folder)["scores"]["validation"]["by_class"].keys() == set(names)


# --- what it says of itself ---


def test_the_hubs_client_reads_the_card(exported):
    from huggingface_hub import ModelCard

    card = ModelCard.load(exported / CARD)
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.library_name == "transformers"
    scores = facts(exported)["scores"]["validation"]
    assert {each.metric_type: each.metric_value for each in card.data.eval_results} == {
        "accuracy": scores["accuracy"]["value"],
        "f1": scores["macro_f1"]["value"],
    }
    assert {each.dataset_split for each in card.data.eval_results} == {"validation"}
    for name, each in facts(exported)["files"].items():
        assert (
            f"| {name} | {each['scores']['macro_f1']['value']:.4f} | {each['agreement']:.2%} |" in card.text
        )
        assert each["bytes"] == (exported / name).stat().st_size


def test_the_scores_are_those_of_the_fit_but_for_its_16_bits(exported, able):
    scored = json.loads((able / "validate.json").read_text())["scores"]
    found = facts(exported)["scores"]["validation"]
    classes, found_classes = scored.pop("by_class"), found["by_class"]
    assert classes.keys() == found_classes.keys() == {"anger", "joy", "sadness"}
    pairs = [(value, found[name]) for name, value in scored.items()]
    pairs += [(value, found_classes[name]) for name, value in classes.items()]
    for value, score in pairs:
        assert score["value"] == pytest.approx(value, abs=0.02)


def test_the_facts_name_their_origin(exported, able):
    found = facts(exported)
    assert found["checkpoint_sha256"] == hashlib.sha256((able / "best.ckpt").read_bytes()).hexdigest()
    assert found["command"].startswith("python -m lit_bert export --ckpt_path=best.ckpt --to=exported")
    assert found["recipe"]["learning_rate"] == 0.003
    assert "max_steps" not in found["recipe"]  # as it is not set
    assert found["weights"]["kind"] == found["data"]["kind"] == "folder"
    assert found["calibration"]["temperature"] == pytest.approx(
        Checkpoint.read(able / "best.ckpt").facts.temperature
    )


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="needs sha256sum")
def test_sha256sum_checks_every_file_but_the_card(exported):
    assert f"`sha256sum --check {CHECKSUMS}`" in (exported / CARD).read_text()
    command = ["sha256sum", "--strict", "--check", CHECKSUMS]
    done = subprocess.run(command, cwd=exported, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(
        f"{name}: OK" for name in FILES if name not in (CARD, CHECKSUMS)
    )


def test_no_file_says_where_things_lie_on_the_machine(exported, able, tiny_bert, corpus):
    places = {str(path.parent) for path in (exported, able, tiny_bert, corpus)} | {str(Path.home())}
    for path in exported.iterdir():
        content = path.read_bytes()
        assert not [place for place in places if place.encode() in content], path.name
    for name in (CARD, FACTS):
        assert not re.search(r"(?<![\w.:/])/(?:\w+/)", (exported / name).read_text()), name


def test_a_card_that_cannot_be_drawn_loses_neither_folder_nor_proof(run, able, at_once, monkeypatch):
    def breaks(*_):
        raise RuntimeError("no card today\n")

    monkeypatch.setattr("lit_bert.product.card.card", breaks)
    outcome = run("export", "--ckpt_path", able / "best.ckpt", "--to=out", "--max_f1_loss=100")
    assert outcome.code == 0, outcome.err
    said = "the model card cannot be written as a whole (RuntimeError: no card today\\n); lit_bert.json has"
    assert outcome.err.count(said) == 1
    assert sorted(os.listdir("out")) == sorted(FILES)
    assert verify("out").keys() == set(FILES) - {CARD, CHECKSUMS}
    assert "macro_f1" in facts("out")["scores"]["validation"]
    assert "lit_bert.json" in Path("out", CARD).read_text()


def test_the_card_says_how_many_rows_scores_rest_on_and_what_these_decided(exported):
    found = facts(exported)["scores"]["validation"]
    assert (found["rows"], found["used_for"]) == (24, ["choosing the epoch", "fitting the temperature"])
    text = (exported / CARD).read_text()
    assert "On 24 rows of the split `validation`." in text
    assert "The same rows were used for choosing the epoch and fitting the temperature: " in text
    assert "24 rows are few: " in text


# --- proven, or not kept ---


def changed_onnx(path, change):
    """Applies `change` to the weights (C, H) of the classifier in an ONNX file."""
    model = onnx.load(path)
    (place,) = [each for each in model.graph.initializer if tuple(each.dims) in ((3, 32), (32, 3))]
    place.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(place)), place.name))
    onnx.save(model, path)


@pytest.mark.parametrize(("allowed", "kept"), [(0.0, False), (99.0, True)])
def test_an_8_bit_file_is_kept_where_the_rows_rule_out_that_it_loses_more(
    run, able, at_once, monkeypatch, exported, allowed, kept
):
    from lit_bert.product import proof

    def measure(folder, form, task, rows, wanted, measure=proof.measure):
        found = measure(folder, form, task, rows, wanted)
        # Two of a few rows change sides, one for the better: no points are lost, by the estimate.
        return replace(found, main_change=Score(0.0, -0.08, 0.08)) if form.file == ONNX_INT8 else found

    monkeypatch.setattr("lit_bert.product.export.measure", measure)
    outcome = run("export", "--ckpt_path", able / "best.ckpt", "--to=out", f"--max_f1_loss={allowed}")
    assert outcome.code == 0, outcome.err
    assert f"\n{ONNX_INT8} loses 0.00 points of macro F1 [-8.00, 8.00]" in outcome.out
    assert (Path("out") / ONNX_INT8).is_file() == kept
    card = (Path("out") / CARD).read_text()
    assert (
        f"`{ONNX_INT8}` loses 0.00 points of macro F1 [-8.00, 8.00] against the checkpoint" in card
    ) == kept


def test_an_8_bit_file_that_loses_too_much_is_left_out(run, able, at_once, monkeypatch, exported):
    from lit_bert.product import onnx

    def write_damaged(even, path, token_ids, write=onnx.write_int8):
        # Eight bits cost a network as small as this one nothing, so its classifier is taken away.
        changed_onnx(even, np.zeros_like)
        write(even, path, token_ids)

    monkeypatch.setattr(onnx, "write_int8", write_damaged)
    outcome = run("export", "--ckpt_path", able / "best.ckpt", "--to=out")
    assert outcome.code == 0, outcome.err
    lost = re.search(
        rf"^{re.escape(ONNX_INT8)} loses (\d+\.\d\d) points of macro F1 \[\d+\.\d\d, \d+\.\d\d\]: the rows "
        r"do not rule out that it is more than 1\.5, so it is left out",
        outcome.out,
        re.M,
    )
    assert lost
    assert float(lost[1]) == pytest.approx(
        100 * (facts("out")["scores"]["validation"]["macro_f1"]["value"] - 1 / 6), abs=0.01
    )
    assert re.search(rf"out, without .*{re.escape(ONNX_INT8)}", outcome.out.splitlines()[-1])
    assert {*FILES} - {*os.listdir("out")} >= {ONNX_INT8}
    assert verify("out").keys() == {*os.listdir("out")} - {CARD, CHECKSUMS}
    assert ONNX_INT8 not in Path("out", CARD).read_text()
    assert ONNX in facts("out")["files"].keys() == {*os.listdir("out")} & {each.file for each in FORMATS}
    assert Predictor("out").file != ONNX_INT8

    outcome = run("export", "--ckpt_path", able / "best.ckpt", "--to=out", "--max_f1_loss=100")
    assert (outcome.code, Path("out", ONNX_INT8).is_file()) == (0, True)


@pytest.mark.parametrize("change", [lambda weight: -weight, lambda weight: weight * 1.05])
def test_a_32_bit_file_that_is_not_the_checkpoint_keeps_nothing(run, able, exported, monkeypatch, change):
    def write_another(network, path, _):
        shutil.copy(exported / ONNX, path)
        changed_onnx(path, change)

    monkeypatch.setattr("lit_bert.product.onnx.write_onnx", write_another)
    shutil.copytree(exported, "out")
    before = hashes("out")
    for target in ("out", "new"):
        outcome = run("export", "--ckpt_path", able / "best.ckpt", f"--to={target}")
        assert outcome.code == 1
        (line,) = [line for line in outcome.err.splitlines() if line.startswith("lit_bert export: ")]
        assert f"{ONNX} is not the checkpoint" in line
        assert line.endswith("Nothing was kept.")
    assert hashes("out") == before
    assert os.listdir() == ["out"]


def test_an_earlier_export_is_replaced_as_a_whole(run, able, exported, at_once):
    shutil.copytree(exported, "out")
    Path("out", "model.fp16.onnx").write_bytes(b"of an earlier version")
    Path("out", ONNX_INT8).write_bytes(b"of an earlier checkpoint")
    outcome = run("export", "--ckpt_path", able / "best.ckpt", "--to=out", "--max_f1_loss=100")
    assert outcome.code == 0, outcome.err
    assert sorted(os.listdir("out")) == sorted(FILES)
    assert verify("out")[ONNX_INT8] == hashes("out")[ONNX_INT8]
    assert os.listdir() == ["out"]
    assert Path("out").stat().st_mode & 0o777 == 0o755


def test_by_default_it_lies_in_the_runs_folder(run, own_run, at_once):
    outcome = run("export", "--ckpt_path", own_run / "best.ckpt", "--max_f1_loss=100")
    assert outcome.code == 0, outcome.err
    assert sorted(os.listdir(own_run / "exported")) == sorted(FILES)
    assert outcome.out.endswith(f"\n{own_run / 'exported'}\n")
    assert not [name for name in os.listdir(own_run) if name.startswith(".")]
    assert os.listdir() == []


def test_an_earlier_export_is_replaced_through_a_link_and_from_within(
    run, able, exported, at_once, monkeypatch
):
    shutil.copytree(exported, "out")
    Path("link").symlink_to("out")
    for target in ("link", "."):
        Path("out", "old").touch()
        if target == ".":
            monkeypatch.chdir("out")
        outcome = run("export", "--ckpt_path", able / "best.ckpt", f"--to={target}", "--max_f1_loss=100")
        assert outcome.code == 0, outcome.err
        monkeypatch.chdir(outcome.out.splitlines()[-1] + "/..")
        assert sorted(os.listdir()) == ["link", "out"]
        assert sorted(os.listdir("link")) == sorted(os.listdir("out")) == sorted(FILES)


def test_two_exports_of_a_checkpoint_are_the_same_but_for_the_time(run, able, exported, at_once):
    for target in ("one", "two"):
        assert (
            run("export", "--ckpt_path", able / "best.ckpt", f"--to={target}", "--max_f1_loss=100").code == 0
        )
    same = {name for name, digest in hashes("one").items() if hashes("two")[name] == digest}
    assert same >= {*FILES} - {CARD, CHECKSUMS, FACTS}


# --- refused ---


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--max_f1_loss=nan"], "--max_f1_loss is nan; expected points of macro F1, at least 0"),
        (["--max_f1_loss=-1"], "--max_f1_loss is -1.0; expected"),
        (["--max_f1_loss=much"], "invalid float value: 'much'"),
        (["--private"], "--private is for --push"),
        (["--push=tiny"], "--push tiny names no owner; expected OWNER/NAME."),
        (["--push=owner/a--b"], "--push owner/a--b: "),
        (["--push=owner/a/b"], "--push owner/a/b: "),
        (["--quantize"], "unrecognized arguments: --quantize"),
        (["--int8=1"], "unrecognized arguments: --int8=1"),
        (["best.ckpt"], "unrecognized arguments: best.ckpt"),
        (["--ckpt_path=gone.ckpt"], "no checkpoint gone.ckpt"),
        ([], "no best.ckpt below"),
    ],
)
def test_wrong_flags_are_one_line(refused, flags, says):
    line = refused("export", *flags)
    assert says in line


def test_the_earlier_name_of_a_flag_still_works_and_is_noted(run):
    outcome = run("export", "--int8_loss=-1")
    assert outcome.code == 2
    note, line = outcome.err.splitlines()[0], outcome.err.splitlines()[-1]
    assert "--int8_loss is now --max_f1_loss" in note
    assert "--max_f1_loss is -1.0; expected" in line


def test_help_is_shown_without_anything_trained(run):
    with pytest.raises(SystemExit) as ended:
        run("export", "--help")
    assert ended.value.code == 0


@pytest.mark.parametrize("kind", ["something else", "a file", "below a file"])
def test_nothing_but_an_earlier_export_is_overwritten(refused, able, kind):
    if kind == "something else":
        Path("mine").mkdir()
        Path("mine", "letter.txt").write_text("dear")
    else:
        Path("mine").write_text("dear")
    target = "mine/out" if kind == "below a file" else "mine"
    line = refused("export", "--ckpt_path", able / "best.ckpt", f"--to={target}")
    assert "mine" in line
    assert "--to" in line


def test_an_empty_folder_is_filled(run, able, at_once):
    Path("mine").mkdir()
    assert run("export", "--ckpt_path", able / "best.ckpt", "--to=mine", "--max_f1_loss=100").code == 0
    assert sorted(os.listdir("mine")) == sorted(FILES)


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a place where not even root may write")
def test_a_place_that_cannot_be_written_is_named(refused, able):
    line = refused("export", "--ckpt_path", able / "best.ckpt", "--to=/sys/out")
    assert re.search(r": cannot write /sys/out: .+\. Name another folder with --to\.$", line)


@pytest.mark.parametrize("size", [2_000, 50_000, 120_000])  # falls short at the tokenizer, weights and ONNX
def test_a_full_disk_is_one_line_and_leaves_an_earlier_export(run, able, exported, size, at_once):
    shutil.copytree(exported, "out")
    before = hashes("out")
    with room_for(size):
        outcome = run("export", "--ckpt_path", able / "best.ckpt", "--to=out")
    assert outcome.code == 2
    assert outcome.out == ""
    last = outcome.err.splitlines()[-1]
    assert last.startswith("lit_bert export: cannot write ")
    assert "File too large. Make room, or choose another folder." in last
    assert "Traceback" not in outcome.err
    assert hashes("out") == before
    assert os.listdir() == ["out"]


def test_without_the_validation_rows_there_is_no_proof(refused, own_run):
    (own_run / "validate.parquet").unlink()
    before = files(own_run)
    line = refused("export", "--ckpt_path", own_run / "best.ckpt")
    assert "has no validate.parquet, which the proof needs" in line
    assert f"`python -m lit_bert validate --ckpt_path {own_run / 'best.ckpt'}` writes it" in line
    assert files(own_run) == before


def test_rows_with_the_classes_in_another_order_prove_nothing(refused, own_run):
    """By their order the classifier would be drawn anew, and prove to be itself."""
    rows = Predictions.read(own_run / "validate.parquet")
    C = len(rows.class_names)
    task = SingleLabel.of(rows.class_names[::-1])
    turned = replace(rows, task=task, outputs=rows.outputs[:, ::-1], labels=C - 1 - rows.labels)
    turned.write(own_run / "validate.parquet")
    line = refused("export", "--ckpt_path", own_run / "best.ckpt")
    assert "validate.parquet has another task or other classes than best.ckpt" in line


def test_the_rows_of_another_checkpoint_prove_nothing(refused, own_run):
    before = files(own_run)
    line = refused("export", "--ckpt_path", own_run / "last.ckpt")
    assert "validate.parquet is of another checkpoint than last.ckpt" in line
    assert files(own_run) == before


def test_damaged_rows_are_refused(refused, own_run):
    (own_run / "validate.parquet").write_bytes(b"PAR1")
    assert "holds no predictions that lit_bert wrote" in refused(
        "export", "--ckpt_path", own_run / "best.ckpt"
    )


@pytest.mark.parametrize("module", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_library_says_which_extra_has_it(refused, able, monkeypatch, module):
    from importlib import util

    found = util.find_spec
    monkeypatch.setattr(lit_bert, "find_spec", lambda name: None if name == module else found(name))
    line = refused("export", "--ckpt_path", able / "best.ckpt")
    assert f"this needs {module}, which is not installed. Run `pip install 'lit_bert[export]'`" in line


@pytest.mark.parametrize("write", [torch.save, forge], ids=["format 1", "format 2"])
@pytest.mark.parametrize(
    "name", ["../../escaped", "/tmp/lit_bert_escaped", "config.json", "vocab.txt", "a/b"]
)
def test_names_of_files_in_a_checkpoint_are_never_written_to(refused, able, tmp_path, name, write):
    run = shutil.copytree(able, tmp_path / "run")
    content = content_of(run / "best.ckpt")
    content["EmotionDataModule"]["tokenizer"][name] = "payload"
    (run / "best.ckpt").unlink()  # what is mapped into memory stays as it is
    write(content, run / "best.ckpt")
    digest = hashlib.sha256((run / "best.ckpt").read_bytes()).hexdigest()
    rows = Predictions.read(run / "validate.parquet")
    replace(rows, facts={**rows.facts, "sha256": digest}).write(run / "validate.parquet")
    before = files(tmp_path)
    refused("export", f"--ckpt_path={run / 'best.ckpt'}", f"--to={tmp_path / 'x' / 'y' / 'exported'}")
    assert {path: size for path, size in files(tmp_path).items() if "/x" not in path} == before
    assert not Path("/tmp/lit_bert_escaped").exists()


@pytest.mark.parametrize("activation", ["gelu_new", "quick_gelu", "relu", "silu"])
def test_graphs_of_other_activations_are_made_of_operators_that_are_taken(tiny_bert, activation):
    from transformers import BertConfig, BertForSequenceClassification

    from lit_bert.io.onnx_files import check_onnx
    from lit_bert.product.onnx import write_int8, write_onnx

    config = BertConfig.from_pretrained(tiny_bert, hidden_act=activation, num_hidden_layers=1)
    write_onnx(BertForSequenceClassification(config), Path("model.onnx"))
    batches = Exportable(None, [[2, 5, 3], [2, 6, 7, 3]]).batches
    write_int8(Path("model.onnx"), Path("model.int8.onnx"), batches)
    check_onnx(Path("model.onnx"))
    check_onnx(Path("model.int8.onnx"))
