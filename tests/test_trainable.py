"""A part that trains beside frozen weights: changes of low rank, frozen layers, and checkpoints of it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from conftest import Run
from formats import content_of
from test_model import SIX, Gradients, loader, trainer, without_dropout
from torch.nn.functional import cross_entropy

from lit_bert import BertClassifier, UserError, Weights
from lit_bert.encoders.table import encoder_of
from lit_bert.evaluate.predictions import Predictions
from lit_bert.model.bert import CpuBert
from lit_bert.model.logits import exact_logits
from lit_bert.model.module import BertClassifier as Model
from lit_bert.model.pretrained import load_network
from lit_bert.model.trainable import LowRank, frozen_sha256, merge, set_trainable
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.schema import NO_LORA, Lora, SourceFacts
from lit_bert.train.checkpoint_io import write_checkpoint

NAMES = ["a", "b", "c"]
KINDS = sorted(tiny.ENCODERS)
PARTS = {
    "lora": (Lora(rank=2), None),
    "lora_all": (Lora(rank=2, alpha=3.0, targets="all"), None),
    "embeddings": (NO_LORA, "embeddings"),
    "layers:1": (NO_LORA, "layers:1"),
    "lora_layers:1": (Lora(rank=2), "layers:1"),
    "all": (NO_LORA, "all"),
}
LORA, FREEZE = ["--model.lora.rank=2"], ["--model.freeze=layers:1"]
QUICKER = ["--trainer.max_epochs=2", "--model.adversarial_start=0.5"]
both = pytest.mark.parametrize("flags", [LORA, FREEZE, [*LORA, *FREEZE]], ids=["lora", "freeze", "both"])


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("trained-part")
    return {kind: tiny.write(kind, place / kind) for kind in KINDS}


def network_of(folder: Path, part: str, seed: int = 0) -> Any:
    """A network with changes that do something, and logits that differ from text to text."""
    torch.manual_seed(seed)
    network = load_network(Weights(str(folder), stand_in=None), NAMES).eval()
    set_trainable(network, *PARTS[part])
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, LowRank):
                module.up.normal_(std=0.2)
        encoder_of(network).logits_of(network).weight.mul_(20)
    return network


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(4, 9, dtype=torch.long)
    mask[1, 6:] = 0
    return torch.randint(5, 30, (4, 9), generator=generator), mask


def gradients(network: Any, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    network.zero_grad()
    cross_entropy(logits, torch.tensor([0, 2, 1, 2])).backward()
    return {name: each.grad.clone() for name, each in network.named_parameters() if each.grad is not None}


def fitted(run: Run, *flags: object) -> Checkpoint:
    """The best checkpoint of a fit."""
    outcome = run("fit", *flags)
    assert outcome.code == 0, outcome.err
    return Checkpoint.open(sorted(Path("checkpoints").glob("version_*"))[-1] / "best.ckpt")


# --- what trains ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", PARTS)
def test_the_gradient_reaches_what_trains_and_nothing_else(tiny_folders, kind, part):
    if kind == "albert" and "layers" in part:
        with pytest.raises(UserError, match=r"layers of albert share their weights.*embeddings or all"):
            network_of(tiny_folders[kind], part)
        return
    network = network_of(tiny_folders[kind], part)
    trained = {name for name, each in network.named_parameters() if each.requires_grad}
    theirs = exact_logits(network, *batch())
    wanted = gradients(network, theirs)
    assert wanted.keys() == trained
    encoder = encoder_of(network)
    below = {name for name in trained if not encoder.in_head(name)}
    assert {name for name, _ in network.named_parameters() if encoder.in_head(name)} <= trained
    if part == "all":
        assert not below
    elif "lora" in part:
        assert below
        assert all(".parametrizations.weight.0." in name for name in below)
    else:
        assert not any("embeddings" in name.partition("encoder")[0] for name in below)
    if "layers" in part:  # of two
        assert not any(f"{encoder.blocks}.0." in name for name in below)
        assert any(f"{encoder.blocks}.1." in name for name in below)
    if CpuBert.can_run(network):
        own = CpuBert(network)(*batch())
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5)
        found = gradients(network, own)
        assert found.keys() == trained
        for name, each in wanted.items():
            torch.testing.assert_close(found[name], each, rtol=1e-3, atol=1e-5, msg=name)
    merge(network)
    assert not any("parametrizations" in name for name, _ in network.named_modules())
    assert all(each.requires_grad for each in network.parameters())
    torch.testing.assert_close(exact_logits(network, *batch()), theirs, rtol=1e-4, atol=1e-5)


def test_a_change_is_alpha_by_rank_times_the_product(tiny_bert):
    network = load_network(Weights(str(tiny_bert), stand_in=None), NAMES)
    query = network.bert.encoder.layer[0].attention.self.query
    before = query.weight.detach().clone()
    set_trainable(network, Lora(rank=4, alpha=6.0), None)
    assert torch.equal(query.weight, before)  # a run starts from the base
    change = query.parametrizations.weight[0]
    with torch.no_grad():
        change.up.normal_()
    torch.testing.assert_close(query.weight, before + 1.5 * change.up @ change.down)
    with torch.autocast("cpu", torch.bfloat16):
        assert query.weight.dtype == torch.float32


def test_a_changed_layer_is_computed_anew_on_the_fast_path(tiny_bert):
    network = network_of(tiny_bert, "lora")
    fast = CpuBert(network)
    with torch.no_grad():
        first = fast(*batch())
        change = network.bert.encoder.layer[0].attention.self.value.parametrizations.weight[0]
        change.up.mul_(3)
        assert (fast(*batch()) - first).abs().max() > 1e-3
        torch.testing.assert_close(fast(*batch()), exact_logits(network, *batch()), rtol=1e-4, atol=1e-5)


def test_no_gradient_is_kept_for_frozen_layers(tiny_bert):
    network = network_of(tiny_bert, "layers:1").train()
    states: list[torch.Tensor] = []
    layer = CpuBert(network).layers[1]
    fast = CpuBert(network)
    fast.layers[1] = layer
    cast = layer.cast
    layer.cast = lambda *given: (states.append(given[0][0]), cast(*given))[1]
    logits = fast(*batch())
    node, nodes = logits.grad_fn, []
    todo = [node]
    while todo:
        node = todo.pop()
        nodes.append(type(node).__name__)
        todo += [each for each, _ in node.next_functions if each is not None]
    assert nodes.count("_LayerFunctionBackward") == 1  # of the second of two layers
    assert not any("Embedding" in each for each in nodes)


# --- settings ---


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.freeze=layers"], r"model.freeze is layers; expected embeddings, layers:N .* or all"),
        (["--model.freeze=layers:0"], r"model.freeze is layers:0; expected"),
        (["--model.freeze=layers:-1"], r"model.freeze is layers:-1; expected"),
        (["--model.freeze=head"], r"model.freeze is head; expected"),
        (["--model.freeze=layers:3"], r"model.freeze is layers:3, and this bert has 2 layers"),
        (["--model.lora.rank=-1"], r"model.lora.rank is -1 .* expected a rank of at least 1"),
        (["--model.lora.rank=33"], r"model.lora.rank is 33, and a linear layer .* expected 1 to 32"),
        (["--model.lora.rank=two"], r"--model.lora.rank"),
        (["--model.lora.rank=2", "--model.lora.alpha=0"], r"model.lora.alpha is 0; expected .* above 0"),
        (["--model.lora.alpha=8"], r"model.lora.alpha .* no effect while model.lora.rank is 0"),
        (["--model.lora.targets=all"], r"model.lora.targets have no effect while model.lora.rank is 0"),
        (["--model.lora.rank=2", "--model.lora.targets=keys"], r"--model.lora.targets"),
        (["--model.lora.dropout=0.1"], r"lora.dropout"),
        (["--model.lora.rank=2", "--model.freeze=all"], r"LoRA would have nothing to change"),
        (["--model.lora.rank=2", "--model.freeze=layers:2"], r"LoRA would have nothing to change"),
    ],
)
def test_settings_that_mean_nothing_are_refused(refused, quick, flags, message):
    assert re.search(message, refused("fit", *quick, *flags))


def test_fit_says_how_much_trains(run, quick):
    outcome = run("fit", *quick, *LORA, "--trainer.max_epochs=1")
    assert outcome.code == 0, outcome.err
    assert "trains 1.6k of 0.0M parameters" in outcome.err or "trains 1.7k of 0.0M parameters" in outcome.err
    assert "highest learning rate 0.003" in outcome.err
    assert "trains" not in run("fit", *quick, "--trainer.max_epochs=1").err.split("rows ")[0]


def test_unset_the_learning_rate_of_lora_is_higher(tiny_bert):
    rates = []
    for lora in (NO_LORA, Lora(rank=2)):
        model = Model(NAMES, lora=lora, weights=Weights(str(tiny_bert), stand_in=None))
        model.configure_model()
        rates.append(model.learning_rate)
    assert rates[1] == pytest.approx(10 * rates[0])


# --- a run ---


@both
@pytest.mark.parametrize("fast", [True, False])
def test_frozen_weights_stay_bit_for_bit(run, quick, tiny_bert, flags, fast, monkeypatch):
    ended: list[Model] = []
    end = Model.on_train_end
    monkeypatch.setattr(Model, "fast_operations", fast)
    monkeypatch.setattr(Model, "on_train_end", lambda model: (end(model), ended.append(model))[0])
    fitted(run, *quick, *QUICKER, *flags)
    base = load_network(Weights(str(tiny_bert), stand_in=None), NAMES)
    before, network = dict(base.named_parameters()), ended[0].network
    changed = {name for name, each in network.named_parameters() if each.requires_grad}
    frozen = [name for name, _ in network.named_parameters() if name not in changed]
    assert len(frozen) > 10
    for name in frozen:
        plain = name.replace(".parametrizations.weight.original", ".weight")
        assert torch.equal(network.get_parameter(name), before[plain]), name
    for name in changed & before.keys():
        assert not torch.equal(network.get_parameter(name), before[name]), name


@both
def test_a_checkpoint_has_what_trained_and_the_hash_of_the_rest(run, quick, tiny_bert, trained, flags):
    best = fitted(run, *quick, *QUICKER, *flags)
    whole = Checkpoint.open(trained / "best.ckpt")
    assert whole.weights.base_sha256 is None
    assert best.path.stat().st_size < 0.7 * (trained / "best.ckpt").stat().st_size
    network = load_network(Weights(str(tiny_bert), stand_in=None), NAMES)
    set_trainable(network, best.model.lora, best.model.freeze)
    assert best.state_dict.keys() == {
        f"network.{name}" for name, each in network.named_parameters() if each.requires_grad
    }
    assert best.weights.base_sha256 == frozen_sha256(network)
    last = content_of(best.path.with_name("last.ckpt"))
    assert last["training_weights"].keys() == last["state_dict"].keys() == best.state_dict.keys()


@both
def test_every_verb_takes_such_a_checkpoint(run, quick, tiny_bert, flags):
    best = fitted(run, *quick, *QUICKER, *flags)
    fit = json.loads(best.path.with_name("validate.json").read_text())["scores"]
    base = f"--weights.pretrained={tiny_bert}"
    assert run("validate", base).code == 0
    again = json.loads(best.path.with_name("validate.json").read_text())["scores"]
    assert again["loss_nats"] == pytest.approx(fit["loss_nats"], rel=1e-3)
    assert again["macro_f1"] == fit["macro_f1"]
    assert run("test", base).code == 0
    labelled = run("predict", "i am happy", "it was sad rain", base)
    assert labelled.code == 0
    assert len(labelled.out.splitlines()) == 2


def test_folds_and_seeds_train_a_part(run, quick):
    outcome = run("audit", *quick, *LORA, "--folds=2", "--trainer.max_epochs=1")
    assert outcome.code == 0, outcome.err
    outcome = run("fit", *quick, *FREEZE, "--seeds=2", "--trainer.max_epochs=1")
    assert outcome.code == 0, outcome.err
    for run_folder in Path("checkpoints/seeds_0").glob("seed_*"):
        assert Checkpoint.open(run_folder / "best.ckpt").model.freeze == "layers:1"


@both
def test_an_export_is_the_merged_network(run, quick, flags):
    pytest.importorskip("onnxruntime")
    from transformers import AutoModelForSequenceClassification

    best = fitted(run, *quick, *QUICKER, *flags)
    outcome = run("export", "--max_f1_loss=100", f"--weights.pretrained={best.weights.source.name}")
    assert outcome.code == 0, outcome.err
    folder = best.run / "exported"
    network = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    plain = load_network(Weights(best.weights.source.name, stand_in=None), best.model.label_names)
    assert network.state_dict().keys() == plain.state_dict().keys()
    model = BertClassifier.load_from_checkpoint(best.path, base_at=best.weights.source.name).eval()
    assert any(isinstance(each, LowRank) for each in model.modules()) == bool(best.model.lora.rank)
    with torch.no_grad():
        own, theirs = model(*batch()), network(*batch()).logits
    torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5)
    rows = Predictions.read(best.run / "validate.parquet")
    assert np.isfinite(rows.outputs).all()
    recipe = json.loads((folder / "lit_bert.json").read_text())["recipe"]
    assert recipe.get("lora_rank", 0) == best.model.lora.rank
    assert recipe.get("freeze") == best.model.freeze


@pytest.fixture
def still(tiny_bert: Path, tmp_path: Path, quick: list[str]) -> list[str]:
    """Flags of a quick fit without dropout, whose masks a resumed run would draw anew."""
    folder = shutil.copytree(tiny_bert, tmp_path / "still")
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return [*quick, f"--weights.pretrained={folder}"]


@both
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_interrupted(run, still, flags, decay):
    schedule = ["--model.adversarial_start=0", f"--model.average_decay={decay}", "--calibrate=false"]
    flags = [*still, *flags, *schedule, "--trainer.precision=32-true", "--early_stopping.patience=9"]
    every = [
        "--checkpoint.save_weights_only=false",
        "--checkpoint.monitor=null",
        "--checkpoint.save_top_k=-1",
    ]
    every += ["--checkpoint.every_n_epochs=1", "--checkpoint.filename={epoch}"]
    outcome = run("fit", *flags, *every, "--trainer.max_epochs=3")
    assert outcome.code == 0, outcome.err
    place = Path("checkpoints/version_0")
    whole = content_of(place / "last.ckpt")
    (place / "last.ckpt").unlink()
    base = next(flag for flag in reversed(flags) if flag.startswith("--weights.pretrained"))
    outcome = run("fit", f"--ckpt_path={place / 'epoch=0.ckpt'}", base, *every)
    assert outcome.code == 0, outcome.err
    again = content_of(place / "last.ckpt")
    assert again["global_step"] == whole["global_step"]
    assert again["weights"] == whole["weights"]
    for part in ("state_dict", *(["training_weights"] if decay else [])):
        for name, value in whole[part].items():
            torch.testing.assert_close(again[part][name], value, rtol=1e-5, atol=1e-6, msg=name)


@both
def test_the_second_pass_of_frozen_words_is_that_of_words_that_train(flags, tiny_bert):
    """Of a single batch, whose gradient is what moves them, on either path."""
    found: list[dict[str, torch.Tensor]] = []
    lora = Lora(rank=2) if "--model.lora.rank=2" in flags else NO_LORA
    freeze = "layers:1" if "--model.freeze=layers:1" in flags else None
    settings: dict[str, Any] = {"lora": lora, "freeze": freeze, "adversarial_norm": 0.7}

    def made() -> Model:
        torch.manual_seed(0)
        weights = Weights(str(tiny_bert), stand_in=None)
        model = Model(NAMES, adversarial_start=0.0, weights=weights, **settings)
        model.configure_model()
        return without_dropout(model)

    for fast in (True, False):
        model, kept = made(), Gradients()
        model.fast_operations = fast
        table = model.network.bert.embeddings.word_embeddings.weight
        before = table.detach().clone()
        trainer(max_steps=1, callbacks=[kept], precision="32-true").fit(model, loader([SIX]))
        assert torch.equal(table, before)
        found.append(kept.found)

    network = made().network
    table = network.bert.embeddings.word_embeddings.weight.requires_grad_(True)
    inputs = {name: SIX[name] for name in ("input_ids", "attention_mask")}
    for moves in (False, True):
        if moves:
            table.data += table.grad * (0.7 / table.grad.norm())
        cross_entropy(network(**inputs).logits, SIX["labels"], label_smoothing=0.1).backward()
    named = network.named_parameters()
    wanted = {name: each.grad for name, each in named if each.grad is not None and each is not table}
    for own in found:
        assert own.keys() == wanted.keys()
        for name, each in wanted.items():
            torch.testing.assert_close(own[name], each, rtol=1e-3, atol=1e-5, msg=name)


# --- the base ---


def test_another_base_is_refused_by_every_verb(run, refused, quick, tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "mine")
    flags = [*quick, f"--weights.pretrained={folder}", *LORA, *QUICKER]
    best = fitted(run, *flags)
    elsewhere = folder.rename(tmp_path / "elsewhere")
    verbs = [("validate",), ("test",), ("predict", "so happy"), ("export",)]
    others = [flag for flag in quick if "pretrained" not in flag]
    verbs += [("fit", "--ckpt_path=last"), ("fit", *others, f"--weights.checkpoint={best.path}")]
    for verb in verbs:
        outcome = run(*verb)
        assert (outcome.code, outcome.out) == (2, "")
        message = outcome.err.splitlines()[-1]
        assert "has the weights that trained alone, and the others cannot be had from" in message
        assert "--weights.pretrained" in message
    assert run("report").code == 0
    assert "Words are not coloured" in best.path.with_name("report.html").read_text()
    for verb in verbs[:3]:
        outcome = run(*verb, f"--weights.pretrained={elsewhere}")
        assert outcome.code == 0, outcome.err
    pytest.importorskip("onnxruntime")
    outcome = run("export", f"--weights.pretrained={elsewhere}", "--max_f1_loss=100")
    assert outcome.code == 0, outcome.err
    outcome = run("fit", "--ckpt_path=last", f"--weights.pretrained={elsewhere}", "--trainer.max_epochs=3")
    assert outcome.code == 0, outcome.err
    from safetensors.torch import load_file, save_file

    values = load_file(elsewhere / "model.safetensors")
    values["embeddings.LayerNorm.weight"][3] += 1e-3
    save_file(values, elsewhere / "model.safetensors", metadata={"format": "pt"})
    message = refused("test", f"--weights.pretrained={elsewhere}")
    assert "was trained beside frozen weights with the SHA-256" in message


def test_a_checkpoint_of_all_weights_needs_no_base(refused, trained, tiny_bert):
    flag = f"--weights.pretrained={tiny_bert}"
    for verb in ("validate", "export"):
        message = refused(verb, f"--ckpt_path={trained / 'best.ckpt'}", flag)
        assert "--weights.pretrained would change nothing" in message


def test_a_new_run_from_such_a_checkpoint_trains_all_or_starts_from_its_export(
    run, refused, quick, tiny_bert
):
    pytest.importorskip("onnxruntime")
    first = fitted(run, *quick, *LORA, *QUICKER)
    start = f"--weights.checkpoint={first.path}"
    assert "Export it first" in refused("fit", *quick, *QUICKER, *FREEZE, start)
    outcome = run("fit", *quick, *QUICKER, start)
    assert outcome.code == 0, outcome.err
    assert run("test").code == 0
    base = f"--weights.pretrained={tiny_bert}"
    assert run("export", f"--ckpt_path={first.path}", "--to=whole", "--max_f1_loss=100", base).code == 0
    outcome = run("fit", *quick, "--weights.pretrained=whole", *QUICKER, *FREEZE)
    assert outcome.code == 0, outcome.err
    assert "not opened" in refused("test")
    assert run("test", "--weights.pretrained=whole").code == 0
    message = refused("test", f"--weights.pretrained={first.path}")
    assert "that checkpoint, too, has the weights that trained alone" in message


def test_what_trains_cannot_change_in_a_run_that_goes_on(run, refused, quick):
    fitted(run, *quick, *LORA, *QUICKER)
    for flag in ("--model.lora.rank=4", "--model.lora.alpha=8", "--model.freeze=embeddings"):
        assert "what trains cannot change" in refused("fit", "--ckpt_path=last", flag)
    fitted(run, *quick, "--trainer.max_epochs=1")
    assert "what trains cannot change" in refused("fit", "--ckpt_path=last", "--model.lora.rank=2")


def test_a_checkpoint_has_no_path_opened_and_no_hub_asked(run, quick, refused, tmp_path):
    best = fitted(run, *quick, *FREEZE, *QUICKER)
    crafted = tmp_path / "work" / "crafted.ckpt"
    for source in (
        {"kind": "checkpoint", "name": str(crafted)},
        {"kind": "hub", "name": "owner/name", "revision": "0" * 40},
        {"kind": "folder", "name": "owner/name"},
    ):
        facts = best.facts.model_copy(
            update={"weights": best.weights.model_copy(update={"source": SourceFacts(**source)})}
        )
        write_checkpoint(replace(best, facts=facts), crafted)
        message = refused("validate", f"--ckpt_path={crafted}")
        wanted = "is not in the cache" if source["kind"] == "hub" else "a path that stands in a checkpoint"
        assert wanted in message
        assert "Hub cannot be" not in message


@pytest.mark.parametrize("change", ["without", "with"])
def test_a_hash_belongs_to_frozen_weights(run, quick, trained, tmp_path, change):
    best = (
        fitted(run, *quick, *FREEZE, *QUICKER)
        if change == "without"
        else Checkpoint.open(trained / "best.ckpt")
    )
    sha256 = None if change == "without" else "0" * 64
    facts = best.facts.model_copy(update={"weights": best.weights.model_copy(update={"base_sha256": sha256})})
    crafted = replace(best, facts=facts)
    crafted.write(tmp_path / "crafted.ckpt")
    with pytest.raises(UserError, match="frozen weights without their SHA-256"):
        Checkpoint.open(tmp_path / "crafted.ckpt")
