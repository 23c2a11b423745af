"""The command line: what each verb takes, prints, writes and refuses, and that its scores can be trusted."""

import csv
import hashlib
import inspect
import io
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import threading
import types
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import yaml
from conftest import CLASSES, files, texts_of, write_csv
from formats import content_of, write_content
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from verbs import PARSERS, RESUMING, USING, arguments_of

from lit_bert.__main__ import main
from lit_bert.cli.lightning import native_precision
from lit_bert.data.module import EmotionDataModule
from lit_bert.evaluate.prediction_collector import PredictionCollector
from lit_bert.evaluate.predictions import Predictions
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.task.classes import softmax
from lit_bert.task.kinds import KINDS
from lit_bert.task.scaling import temperature
from lit_bert.train.choose import calibrate
from lit_bert.train.fit import run_fit
from lit_bert.verbs.fit import parsed, prepared
from lit_bert.verbs.table import VERBS, Verb

torch.set_num_threads(1)  # threads that share busy cores wait for each other: a fit takes 30 s, not 1

CONFIGS = Path(__file__).parent.parent / "configs"
BASE = CONFIGS / "base.yaml"
# The last four rows of each class in the test split, as the model of `learned` was never shown them.
UNSEEN = [(text, label) for label in CLASSES for text in texts_of(label, 36)[32:]]


@pytest.fixture
def printed(capfd):
    """Runs a command that prints and ends, as --help and --print_config do; gives what it printed."""

    def call(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        assert ended.value.code == 0
        return capfd.readouterr().out

    return call


@dataclass
class Learned:
    """A fit that learned its three classes, after its weights and its token cache were deleted."""

    checkpoints: Path  # holds version_0
    data: Path
    flags: list[str]
    best_scores: dict[str, Any]  # of the test split, from the trainer of the fit: best epoch
    last_scores: dict[str, Any]  # the same, last epoch

    @property
    def best(self):
        return self.checkpoints / "version_0" / "best.ckpt"


def scored(fit, **which):
    """Scores of the test split as test.json has them, by the trainer of a fit: those of torchmetrics."""
    outputs = PredictionCollector()
    fit.trainer.callbacks.append(outputs)
    logged = fit.trainer.test(fit.model, datamodule=fit.data, verbose=False, **which)[0]
    fit.trainer.callbacks.remove(outputs)
    made = outputs.predictions
    found = made.scores
    main = {"f1": found.macro_f1, "f1_micro": found.micro_f1, "accuracy": found.accuracy}
    main |= {"score": found.macro_f1}
    classes = zip(made.class_names, found.by_class, strict=True)
    main |= {"loss_nats": found.loss_nats, **{f"f1_class/{name}": value for name, value in classes}}
    assert {f"test/{name}": value for name, value in main.items()} == pytest.approx(logged, rel=1e-5)
    return found.as_dict()


@pytest.fixture(scope="module")
def learned(tiny_bert, corpus, quick, tmp_path_factory):
    place = tmp_path_factory.mktemp("learned")
    weights = shutil.copytree(tiny_bert, place / "weights")
    folder = shutil.copytree(corpus, place / "data")
    # Three labels of the test split are wrong, so that a perfect model has scores to work out by hand.
    with (folder / "test.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    joys, angers = ([row for row in rows if row["label"] == label] for label in ("joy", "anger"))
    joys[0]["label"] = joys[1]["label"] = "sadness"
    angers[0]["label"] = "joy"
    write_csv(folder / "test.csv", rows)
    flags = [
        *quick,
        f"--weights.pretrained={weights}",
        f"--data.dataset={folder}",
        "--trainer.max_epochs=12",
        "--early_stopping.patience=12",  # some random starts take a few epochs to get going
        "--data.batch_size=4",
        "--model.learning_rate=0.01",
        "--model.head_rate_factor=1",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("LIT_BERT_CACHE", str(place / "cache"))
        fit = prepared(parsed(flags), None, [])
        assert run_fit(fit).status == "done"
        last = scored(fit)
        best = scored(fit, ckpt_path="checkpoints/version_0/best.ckpt")
    shutil.rmtree(weights)
    shutil.rmtree(place / "cache")
    return Learned(place / "checkpoints", folder, flags, best, last)


@pytest.fixture
def home(learned):
    """The run of `learned`, copied into the working directory: where bare verbs look."""
    return shutil.copytree(learned.checkpoints, Path("checkpoints")) / "version_0"


@contextmanager
def full_disk(limit):
    """Lets no file grow beyond `limit` bytes, which is how a full disk looks to the program."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def json_lines(text):
    return [json.loads(line) for line in text.split("\n") if line]


def fed(monkeypatch, content):
    """Makes `content`, bytes, standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


# --- the entry point


def test_help_lists_every_verb(run):
    for arguments in (["--help"], ["-h"], []):
        outcome = run(*arguments)
        assert outcome.code == 0
        for name, verb in VERBS.items():
            assert re.search(rf"^  {name} +{re.escape(verb.help)}$", outcome.out, re.MULTILINE)


def test_an_unknown_verb_names_the_nearest(run):
    outcome = run("tets")
    assert outcome.code == 2
    assert outcome.err == (
        f"lit_bert: there is no verb 'tets'; did you mean test? Expected one of {', '.join(VERBS)}.\n"
    )


def test_help_and_mistakes_in_the_verb_are_answered_without_torch():
    script = (
        "import sys; from lit_bert.__main__ import main; codes = main(['--help']), main(['tets']);"
        "heavy = {'torch', 'lightning', 'transformers', 'numpy'} & set(sys.modules);"
        "sys.exit(f'{codes} {heavy}' if heavy or codes != (0, 2) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_verbs_that_use_a_checkpoint_are_found_by_the_table():  # else the tests of them were empty
    assert {"validate", "test", "predict"} <= {*USING}
    assert "fit" in RESUMING
    assert "audit" in PARSERS.keys() - {*USING, *RESUMING}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(printed, verb):
    page = printed(verb, "--help")
    assert page.startswith(f"usage: python -m lit_bert {verb} ")
    assert printed(verb, "-h") == page


@pytest.mark.parametrize("verb", PARSERS)
def test_every_verb_of_the_trainer_has_help_with_every_default(printed, verb):
    page = printed(verb, "--help")
    options = [" ".join(option.split()) for option in re.split(r"\n  (?=-)", page)]
    ours = {f"--data.{name}" for name in inspect.signature(EmotionDataModule.__init__).parameters}
    ours -= {"--data.self", "--data.weights", "--data.order_seed"}  # the last two are linked, not given
    ours |= {"--weights.stand_in", "--model.learning_rate", "--trainer.max_epochs", "--trainer.precision"}
    assert ours <= {option.split()[0] for option in options}
    checkpoint = [option for option in options if option.startswith("--ckpt_path ")]
    assert all("of the newest fit" in option and "registry" not in option for option in checkpoint)
    assert len(checkpoint) == (verb in [*USING, *RESUMING])
    silent = [option for option in options if "(type: " in option and "default: " not in option]
    assert silent == []
    (kinds,) = (option for option in options if option.startswith("--data.task "))
    assert all(f"`{name}`, {kind.summary}" in kinds for name, kind in KINDS.items())


# --- verbs are functions

MADE_UP = """
from lightning.pytorch import Trainer

from lit_bert import UserError
from lit_bert.cli.lightning import NO_FILES, VerbParser, command_with_checkpoint
from lit_bert.cli.start import prepare_process


def add_arguments(parser):
    parser.add_argument("--times", type=int, default=2, help="how often to count them")


COUNT = VerbParser("count", "[OPTIONS]", "Count.", add_arguments=add_arguments, trainer_defaults=NO_FILES)


def count(arguments):
    prepare_process()
    command, checkpoint = command_with_checkpoint(COUNT, arguments)
    if command.config["times"] < 1:
        raise UserError(f"--times is {command.config['times']}; expected at least 1.")
    command.build([])
    command.model.configure_model()
    counted = sum(parameter.numel() for parameter in command.model.parameters())
    print(counted * command.config["times"], checkpoint.path.name)
    return 7
"""


def test_a_new_verb_is_a_file_and_a_line_of_the_table(run, refused, printed, learned, home, monkeypatch):
    module = types.ModuleType("lit_bert.verbs.count")
    exec(MADE_UP, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(VERBS, "count", Verb("count", "count", "count the parameters of a checkpoint"))
    tensors = content_of(learned.best)["state_dict"]
    counted = sum(tensor.numel() for name, tensor in tensors.items() if "position_ids" not in name)
    outcome = run("count", "--times=3", "--ckpt_path=last")
    assert (outcome.code, outcome.out) == (7, f"{3 * counted} last.ckpt\n")
    assert module.count([]) == 7
    assert "  count      count the parameters" in run("--help").out
    assert "--times TIMES" in printed("count", "--help")
    assert "--times is 0; expected at least 1." in refused("count", "--times=0")
    assert "`python -m lit_bert count --help` lists" in refused("count", "--tims=0")


# --- configurations


def test_fit_without_a_configuration_is_base_yaml(printed):
    bare = printed("fit", "--print_config")
    assert yaml.safe_load(bare) == yaml.safe_load(printed("fit", f"--config={BASE}", "--print_config"))
    assert_within(yaml.safe_load(BASE.read_text()), yaml.safe_load(bare))


def assert_within(part, whole):
    """Every value of `part` stands in `whole`, at its place."""
    for key, value in part.items():
        if isinstance(value, dict):
            assert_within(value, whole[key])
        else:
            assert whole[key] == value, key


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.name)
def test_every_configuration_parses_and_takes_effect(printed, file):
    settings = yaml.safe_load(printed("fit", "--config", file, "--print_config"))
    assert_within(yaml.safe_load(file.read_text()), settings)


def test_every_configuration_is_found_by_its_name_from_anywhere(printed):
    for name in ("configs/subset.yaml", "subset.yaml"):
        assert (
            yaml.safe_load(printed("fit", "--config", name, "--print_config"))["data"]["train_rows"] == 1000
        )


def test_a_configuration_in_the_working_directory_comes_before_the_packaged_one(printed):
    Path("subset.yaml").write_text("data: {train_rows: 7}\n")
    assert yaml.safe_load(printed("fit", "--config=subset.yaml", "--print_config"))["data"]["train_rows"] == 7


def test_later_configurations_and_flags_win(printed):
    Path("one.yaml").write_text("data: {batch_size: 1, max_length: 11}\nmodel: {weight_decay: 0.1}\n")
    Path("two.yaml").write_text("data: {batch_size: 2, eval_batch_size: 22}\n")
    stacked = ["--config=one.yaml", "--config=two.yaml"]
    settings = yaml.safe_load(printed("fit", *stacked, "--data.eval_batch_size=222", "--print_config"))
    assert [settings["data"][key] for key in ("batch_size", "max_length", "eval_batch_size")] == [2, 11, 222]
    assert settings["model"]["weight_decay"] == 0.1
    assert settings["model"]["warmup_ratio"] == 0.05  # base.yaml lies below them all
    flipped = yaml.safe_load(printed("fit", *reversed(stacked), "--print_config"))
    assert flipped["data"]["batch_size"] == 1
    behind = yaml.safe_load(printed("fit", "--data.batch_size=3", "--config=one.yaml", "--print_config"))
    assert behind["data"]["batch_size"] == 1


BAD_SETTINGS = {
    "an unknown flag": ("--data.batchsize=3", r"--data\.batchsize.*Did you mean --data\.batch_size\?"),
    "a flag cut short": (
        "--trainer.max_epoch=3",
        r"--trainer\.max_epoch.*Did you mean --trainer\.max_epochs",
    ),
    "a stray word": ("stray", r"unrecognized arguments: stray"),
    "a word for a number": ("--data.batch_size=many", r"--data\.batch_size.*int.*many"),
    "a word for a rate": ("--model.learning_rate=fast", r"--model\.learning_rate.*float.*fast"),
    "a batch of none": ("--data.batch_size=0", r"data\.batch_size is 0; expected at least 1"),
    "more in a batch than can be counted": (
        f"--data.batch_size={10**30}",
        r"data\.batch_size is 10{30}; expected at least 1 and at most 4,294,967,295",
    ),
    "a negative seed of the subset": (
        "--data.subset_seed=-1",
        r"data\.subset_seed is -1; expected at least 0",
    ),
    "a negative seed": ("--seed_everything=-1", r"seed_everything is -1; expected a whole number from 0 to"),
    "a seed beyond numpy's": (f"--seed_everything={2**32}", r"seed_everything is 4294967296; expected"),
    "no batch to accumulate": (
        "--trainer.accumulate_grad_batches=0",
        r"trainer\.accumulate_grad_batches is 0; expected at least 1",
    ),
    "a log of no step": (
        "--trainer.log_every_n_steps=0",
        r"trainer\.log_every_n_steps is 0; expected at least 1",
    ),
    "a validation of no epoch": (
        "--trainer.check_val_every_n_epoch=0",
        r"trainer\.check_val_every_n_epoch is 0; expected at least 1",
    ),
    "no step": ("--trainer.max_steps=0", r"trainer\.max_steps is 0; expected at least 1, or -1"),
    "less than a batch": (
        "--trainer.limit_train_batches=0.01",
        r"limit_train_batches is 0\.01, which is less than one of 8 batches; expected 0, or at least 0\.125",
    ),
    "less than a batch to validate": (
        "--trainer.limit_val_batches=0.01",
        r"limit_val_batches is 0\.01, .* 1 batch",
    ),
    "a validation after more than an epoch": (
        "--trainer.val_check_interval=9",
        r"trainer\.val_check_interval is 9; expected a share of an epoch, or 1 to 8 batches",
    ),
    "a validation after nothing": (
        "--trainer.val_check_interval=0",
        r"trainer\.val_check_interval is 0; expected",
    ),
    "more than all": (
        "--trainer.overfit_batches=1e308",
        r"1e\+308, by trainer\.overfit_batches; expected a whole",
    ),
    "an epoch before each": ("--checkpoint.every_n_epochs=-1", r"every_n_epochs=-1.*See --help"),
    "a negative rate": ("--model.learning_rate=-1", r"model\.learning_rate is -1"),
    "a warm-up of all steps": ("--model.warmup_ratio=1", r"model\.warmup_ratio is 1"),
    "texts longer than the model": ("--data.max_length=1000", r"data\.max_length is 1000;.* 3 to 128 tokens"),
    "a share of all": ("--data.val_fraction=1", r"data\.val_fraction is 1"),
    "no end": ("--trainer.max_epochs=-1", r"no end; set --trainer\.max_epochs or --trainer\.max_steps"),
    "a device that is not there": ("--trainer.accelerator=gpu", r"(?i)gpu"),
    "an unknown device": ("--trainer.accelerator=abacus", r"abacus"),
    "an unknown strategy": ("--trainer.strategy=hope", r"hope"),
    "no device": ("--trainer.devices=0", r"devices"),
    "a score to keep the best of that is not there": ("--checkpoint.monitor=val/luck", r"val/luck.*val/f1"),
    "a score that is known too late to keep the best by": (
        "--checkpoint.monitor=train/f1",
        r"train/f1, which is not known.*--checkpoint\.save_on_train_epoch_end true, or watch val/f1",
    ),
    "a score to stop by that is not there": ("--early_stopping.monitor=val/luck", r"val/luck.*val/f1"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_a_bad_setting_is_refused(refused, quick, case):
    flag, message = BAD_SETTINGS[case]
    assert re.search(message, refused("fit", *quick, flag))


BAD_CONFIGURATIONS = {
    "an unknown key": (b"data: {batchsize: 3}\n", r"data\.batchsize.*Did you mean --data\.batch_size\?"),
    "an unknown section": (b"dta: {batch_size: 3}\n", r"dta"),
    "a wrong type": (b"data: {batch_size: many}\n", r"--data\.batch_size.*int.*many"),
    "broken YAML": (b"data: [1, 2\n", r"(?s)config.*did not find expected ',' or '\]'"),
    "nothing": (b"", r"bad\.yaml.*empty"),
    "a list": (b"- 1\n- 2\n", r"bad\.yaml"),
    "no UTF-8": (b"data: {dataset: caf\xe9.csv}\n", r"bad\.yaml.*UTF-8"),
}


@pytest.mark.parametrize("case", BAD_CONFIGURATIONS)
def test_a_bad_configuration_is_refused(refused, quick, case):
    content, message = BAD_CONFIGURATIONS[case]
    Path("bad.yaml").write_bytes(content)
    assert re.search(message, refused("fit", *quick, "--config=bad.yaml"))


def test_a_configuration_that_is_not_there_is_refused(refused, quick):
    for name in ("nothere.yaml", "some/where/nothere.yaml"):
        line = refused("fit", *quick, "--config", name)
        assert f"no configuration {name}; packaged are base.yaml, " in line
    assert "--config" in refused("fit", *quick, "--config")


# --- data and weights that cannot be used


def csv_of(*lines):
    return ("\n".join(lines) + "\n").encode()


def parquet_cut_in_half():
    stream = io.BytesIO()
    pa.parquet.write_table(
        pa.table({"text": ["happy", "sad"] * 50, "label": ["joy", "sadness"] * 50}), stream
    )
    return stream.getvalue()[: len(stream.getvalue()) // 2]


BAD_DATA = {
    "no label column": (
        "rows.csv",
        csv_of("text,lable", "happy,joy", "sad,sadness"),
        r"rows\.csv: which column is the label\?.* lable: .*--data\.label_column lable",
    ),
    "no text column": (
        "rows.csv",
        csv_of("words,label", "happy,joy", "sad,sadness"),
        r"rows\.csv: which column is the text\?.* words: .*--data\.text_column words",
    ),
    "one class": ("rows.csv", csv_of("text,label", "happy,joy", "glad,joy"), r"rows\.csv.*class.*joy.*two"),
    "no rows": ("rows.csv", csv_of("text,label"), r"rows\.csv.*no rows"),
    "nothing": ("rows.csv", b"", r"rows\.csv is empty; expected a first line"),
    "no UTF-8": (
        "rows.csv",
        b"text,label\nhappy,joy\ncaf\xe9,sadness\n",
        r"row 2 \(line 3\).*rows\.csv: byte 0xe9 at character 4 is not UTF-8\. Correct",
    ),
    "a row too short": (
        "rows.csv",
        csv_of("text,label", "happy,joy", "sad"),
        r"row 2 \(line 3\).*rows\.csv: 1 cells where the header has 2\. Correct",
    ),
    "no label": ("rows.csv", csv_of("text,label", "happy,joy", "sad,"), r"only the class 'joy'"),
    "no JSON": ("rows.jsonl", b'{"text": "happy", "label": "joy"}\n{"text"\n', r"row 2 \(line 2\).*not JSON"),
    "a truncated Parquet file": (
        "rows.parquet",
        parquet_cut_in_half(),
        r"rows\.parquet is not a readable Par",
    ),
    "an unknown kind": ("rows.pdf", b"[]", r"rows\.pdf ends in \.pdf; expected one of \.csv.*--data\.format"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_data_that_cannot_be_used_is_refused(refused, tiny_bert, case):
    name, content, message = BAD_DATA[case]
    Path(name).write_bytes(content)
    line = refused("fit", f"--weights.pretrained={tiny_bert}", f"--data.dataset={name}")
    assert re.search(message, line), line


def test_data_that_is_not_there_is_refused(refused, tiny_bert):
    for name in ("nothere.csv", "./nothere"):
        line = refused("fit", f"--weights.pretrained={tiny_bert}", "--data.dataset", name)
        assert f"no {name} here; expected a file or folder with labelled text" in line


def test_no_stand_in_makes_a_missing_hub_an_error(refused, tiny_bert, corpus):
    line = refused(
        "fit",
        f"--weights.pretrained={tiny_bert}",
        "--data.dataset=nobody/nothing",
        "--data.stand_in=null",
    )
    assert re.search("nobody/nothing cannot be had: HF_HUB_OFFLINE is set.*--data.dataset", line)
    line = refused(
        "fit", "--weights.pretrained=nobody/nothing", "--weights.stand_in=null", f"--data.dataset={corpus}"
    )
    assert re.search("nobody/nothing cannot be had: HF_HUB_OFFLINE is set.*--weights.pretrained", line)


def test_folders_without_usable_weights_are_refused(refused, tiny_bert, corpus):
    def line():
        return refused("fit", f"--data.dataset={corpus}", "--weights.pretrained=weights")

    Path("weights").mkdir()
    assert re.search(r"weights has no config\.json; expected a folder with an encoder", line())
    shutil.copytree(tiny_bert, "weights", dirs_exist_ok=True)
    whole = Path("weights/model.safetensors").read_bytes()
    Path("weights/model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert re.search(r"the weights in weights cannot be read", line())
    Path("weights/model.safetensors").unlink()
    assert re.search(r"weights has no weights; expected one of model\.safetensors", line())
    Path("weights/config.json").write_text('{"model_type": "gpt2"}')
    Path("weights/model.safetensors").write_bytes(whole)
    assert re.search(r"model of type 'gpt2' \(a decoder, which writes text\); expected an encoder", line())


# --- checkpoints that cannot be used


@pytest.mark.parametrize("verb", USING)
def test_without_a_fit_there_is_nothing_to_score(refused, verb):
    line = refused(verb, *arguments_of(verb))
    assert "nothing was trained here yet. Run `python -m lit_bert fit`" in line


def test_without_a_fit_there_is_nothing_to_resume(refused, quick):
    assert "no last.ckpt below" in refused("fit", *quick, "--ckpt_path=last")


@pytest.mark.parametrize("verb", [*USING, *RESUMING])
def test_a_checkpoint_that_cannot_be_used_is_refused(refused, learned, verb):
    def line(name):
        return refused(verb, *arguments_of(verb), "--ckpt_path", name)

    assert "no checkpoint nothere.ckpt; expected a file, or `best` or `last`" in line("nothere.ckpt")
    assert "--ckpt_path has no value; expected best, last or a file" in refused(verb, "--ckpt_path")
    whole = (learned.checkpoints / "version_0" / "last.ckpt").read_bytes()
    for size in (0, 1000, len(whole) // 2, len(whole) - 1):
        Path("cut.ckpt").write_bytes(whole[:size])
        assert "cut.ckpt is not a readable checkpoint, perhaps a truncated one" in line("cut.ckpt")
    torch.save({"state_dict": {}, "global_step": 9}, "other.ckpt")
    assert "other.ckpt is no checkpoint of lit_bert: it lacks" in line("other.ckpt")
    torch.save(torch.nn.Linear(1, 1), "code.ckpt")
    assert re.search(
        r"code\.ckpt holds more than tensors and plain values.*unpickling runs code", line("code.ckpt")
    )
    assert "\x1b" not in line("code.ckpt")  # torch's advice, in bold, is to load it anyway
    assert "is an address; download it" in line("https://example.org/best.ckpt")


def test_a_configuration_does_not_take_the_place_of_the_weights_of_a_checkpoint(run, learned, tiny_bert):
    """One that is shared with fit may name weights that training starts from, or another checkpoint."""
    wanted = run("predict", "happy", "--ckpt_path", learned.best).out
    weights = {"pretrained": str(tiny_bert), "stand_in": None, "checkpoint": None}
    for name, settings in {
        "fit.yaml": {"weights": weights, "model": {"learning_rate": None}},
        "transfer.yaml": {"weights": {"checkpoint": "other.ckpt"}, "model": {"learning_rate": 0.5}},
    }.items():
        Path(name).write_text(yaml.safe_dump(settings))
        outcome = run("predict", "happy", "--ckpt_path", learned.best, "--config", name)
        assert outcome.out == wanted
    for setting in ("weights.checkpoint", "model.learning_rate"):
        assert f"{setting} is that of the checkpoint, " in outcome.err


@pytest.mark.parametrize("verb", USING)
def test_a_head_that_was_never_trained_is_refused(refused, learned, verb):
    content = content_of(learned.best)
    write_content({**content, "global_step": 0}, "untrained.ckpt")
    line = refused(verb, *arguments_of(verb), "--ckpt_path=untrained.ckpt")
    assert re.search("before the first optimizer step: its classifier was never trained.*lit_bert fit", line)


# --- places that cannot be written


def test_a_file_where_checkpoints_go_is_refused(refused, quick):
    Path("checkpoints").write_text("not a folder")
    line = refused("fit", *quick)
    assert re.search(r"cannot write runs into checkpoints.*--trainer\.logger\.init_args\.save_dir", line)


@pytest.mark.parametrize("room", [500, 4000])  # bytes: no tokenizer fits, no tokens fit
def test_a_disk_too_full_for_tokens_is_refused(refused, quick, room):
    with full_disk(room):
        line = refused("fit", *quick)
    assert re.search(r"cannot write .*File too large.*(LIT_BERT_CACHE|TMPDIR)", line)


def test_a_disk_that_fills_up_leaves_the_earlier_checkpoint_whole(run, quick):
    assert run("fit", *quick, "--trainer.max_epochs=1").code == 0
    before = files()
    with full_disk(100_000):
        outcome = run("fit", "--ckpt_path=last", "--trainer.max_epochs=2")
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    last = outcome.err.splitlines()[-1]
    assert re.search(r"^lit_bert fit: cannot write the checkpoint .*: File too large\. Make room", last)
    after = files()
    assert {name: after[name] for name in before if name.endswith(".ckpt")} == {
        name: size for name, size in before.items() if name.endswith(".ckpt")
    }
    assert not [name for name in after if Path(name).name.startswith(".")]  # nothing half-written stays
    assert run("test").code == 0


def test_a_disk_too_full_for_the_dashboard_ends_the_fit_with_one_line(run, quick, monkeypatch):
    # TensorBoard writes in a thread: what fails there must not show as a traceback of that thread.
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # pytest has its own
    with full_disk(30_000):
        outcome = run("fit", *quick)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    assert re.search(r"^lit_bert fit: cannot write .*File too large.*Make room", outcome.err, re.MULTILINE)


def test_a_disk_too_full_for_the_predictions_is_refused(refused, learned):
    write_csv(Path("many.csv"), [{"text": f"happy {number}"} for number in range(200)])
    for output in ("out.csv", "out.jsonl", "out.parquet"):
        with full_disk(2000):
            line = refused("predict", "--ckpt_path", learned.best, "--input=many.csv", "--output", output)
        assert re.search(f"cannot write {output}: .*File too large", line)


# --- fit


def test_fit_says_what_it_uses_and_where_it_writes(run, quick, tiny_bert, corpus):
    outcome = run("fit", *quick, "--trainer.precision=32-true", "--trainer.max_epochs=1")
    assert outcome.code == 0
    assert re.search(r"^device +1 × CPU, \d+ threads?, precision 32-true$", outcome.err, re.MULTILINE)
    assert re.search(rf"^weights +{tiny_bert} \(folder\)$", outcome.err, re.MULTILINE)
    assert re.search(rf"^trained on +{corpus} \(folder\)$", outcome.err, re.MULTILINE)
    assert re.search(r"^classes +3: anger, joy, sadness$", outcome.err, re.MULTILINE)
    assert re.search(r"^run +checkpoints/version_0$", outcome.err, re.MULTILINE)
    assert "best epoch: checkpoints/version_0/best.ckpt" in outcome.out
    written = {path.name for path in Path("checkpoints/version_0").iterdir()}
    assert written > {"best.ckpt", "last.ckpt", "config.yaml"}
    assert {path.name for path in Path().iterdir()} == {"checkpoints"}


def test_runs_are_numbered(run, quick):
    for _ in range(2):
        assert run("fit", *quick, "--trainer.max_epochs=1").code == 0
    assert sorted(path.name for path in Path("checkpoints").iterdir()) == ["version_0", "version_1"]


def test_the_configuration_of_a_run_repeats_it(run, quick):
    assert run("fit", *quick, "--trainer.max_epochs=1").code == 0
    assert run("fit", "--config=checkpoints/version_0/config.yaml").code == 0
    first, second = (content_of(f"checkpoints/version_{n}/last.ckpt") for n in (0, 1))
    assert first["state_dict"].keys() == second["state_dict"].keys()
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name]), name


def test_another_seed_is_another_run(run, quick):
    for seed in (0, 1):
        assert run("fit", *quick, "--trainer.max_epochs=1", f"--seed_everything={seed}").code == 0
    first, second = (content_of(f"checkpoints/version_{n}/last.ckpt") for n in (0, 1))
    name = "network.classifier.weight"
    assert not torch.equal(first["state_dict"][name], second["state_dict"][name])


@pytest.mark.parametrize("kept", [[], ["--checkpoint.monitor=val/loss_nats", "--checkpoint.mode=min"]])
def test_the_scores_that_fit_prints_are_those_of_the_kept_checkpoint(run, learned, tiny_bert, kept):
    # A rate this high goes up and down, so that the best epoch is neither the first nor the last.
    restless = [f"--weights.pretrained={tiny_bert}", "--model.learning_rate=0.03", "--trainer.max_epochs=5"]
    outcome = run("fit", *learned.flags, *restless, "--early_stopping.patience=9", *kept)
    assert outcome.code == 0
    table, validated = table_of(outcome.out, "validation"), table_of(run("validate").out, "validation")
    assert len(table.splitlines()) == 9
    assert table == validated
    kept = json.loads(Path("checkpoints/version_0/validate.json").read_text())["scores"]
    assert f"{kept['loss_nats']:.4f}" in table


def table_of(out, split, rows=24):
    """The lines of a split's scores, with their intervals."""
    head = f"\nsplit {split}, {rows} rows; in brackets 95 % bootstrap intervals\n"
    assert out.count(head) == 1
    return out.partition(head)[2].partition("\n\n")[0]


# --- what scores rest on

NO_TEMPERATURE, NO_AVERAGE = "--calibrate=false", "--model.average_decay=0"
CHOSE = (
    "the same rows were used for choosing the epoch, choosing averaged weights and fitting the temperature: "
)


def usage_of(file):
    record = json.loads(Path(file).read_text())
    return record["rows"], record["used_for"]


def test_a_fit_says_that_its_rows_chose_and_validate_knows_it_again(run, home, learned):
    both = ["choosing the epoch", "choosing averaged weights", "fitting the temperature"]
    assert usage_of(home / "validate.json") == (24, both)
    outcome = run("validate")
    assert CHOSE in outcome.out
    assert "24 rows are few: " in outcome.out
    assert usage_of(home / "validate.json") == (24, both)
    outcome = run("test", "--data.test_split=validation")  # the same rows by another name
    assert CHOSE in outcome.out
    assert usage_of(home / "test.json") == (24, both)
    outcome = run("test")
    assert "same rows" not in outcome.out
    assert "not recorded" not in outcome.out
    assert usage_of(home / "test.json") == (24, [])
    # The fit stays known after something else was validated.
    assert "same rows" not in run("validate", "--data.val_split=test").out
    assert CHOSE in run("validate").out


def test_scores_of_rows_that_were_trained_on_say_so(run, home, learned):
    outcome = run("test", "--data.test_split=train")
    assert "the same rows were used for training: scores on new texts are likely to be lower" in outcome.out
    assert usage_of(home / "test.json") == (60, ["training"])
    # Known by the texts, whatever file and split they come from.
    with (learned.data / "train.csv").open(newline="") as stream:
        old = list(csv.DictReader(stream))[:3]
    write_csv(Path("mixed.csv"), [*old, {"text": "it was raining cats and dogs", "label": "sadness"}])
    outcome = run("test", "--data.dataset=mixed.csv", "--data.test_split=train")
    assert "the same rows were used for training (3 of the 4 texts): " in outcome.out
    assert usage_of(home / "test.json") == (4, ["training (3 of the 4 texts)"])


def test_an_edited_list_of_training_texts_is_refused(refused, home):
    list_of_texts = home / "train_hashes.bin"
    list_of_texts.write_bytes(list_of_texts.read_bytes()[:-1])
    assert "train_hashes.bin has 479 bytes; expected 8 for each text" in refused("test")


def test_rows_decide_nothing_about_a_checkpoint_that_was_not_chosen_by_them(run, home):
    assert "same rows" not in run("validate", "--ckpt_path=last").out
    assert usage_of(home / "validate.json") == (24, [])
    assert CHOSE in run("validate").out


def test_without_the_record_of_a_fit_it_is_not_known_what_rows_decided(run, learned):
    shutil.copy(learned.best, "alone.ckpt")
    outcome = run("test", "--ckpt_path=alone.ckpt")
    assert "it is not recorded whether these rows were trained on, chose the epoch" in outcome.out
    assert usage_of("test.json") == (24, None)


@pytest.mark.parametrize(
    ("flags", "used_for"),
    [
        (["--trainer.max_epochs=1", "--calibrate=false"], []),
        (["--trainer.max_epochs=1"], ["fitting the temperature"]),
        (["--trainer.max_epochs=2", "--calibrate=false"], ["choosing the epoch"]),
        (
            [
                "--trainer.max_epochs=9",
                "--early_stopping.patience=1",
                "--model.learning_rate=0",
                NO_TEMPERATURE,
            ],
            ["choosing the epoch", "early stopping"],
        ),
    ],
)
def test_a_fit_knows_what_its_validation_rows_decided(run, quick, flags, used_for):
    outcome = run("fit", *quick, NO_AVERAGE, *flags)
    assert outcome.code == 0, outcome.err
    assert usage_of("checkpoints/version_0/validate.json") == (24, used_for)
    assert ("same rows were used for" in outcome.out) == bool(used_for)


def test_a_resumed_fit_adds_what_its_rows_decided_since(run, quick):
    still = ["--model.learning_rate=0", NO_TEMPERATURE, NO_AVERAGE]  # no epoch is better than the first
    assert run("fit", *quick, *still, "--trainer.max_epochs=1").code == 0
    assert usage_of("checkpoints/version_0/validate.json") == (24, [])
    assert run("fit", "--ckpt_path=last", "--trainer.max_epochs=2").code == 0
    assert usage_of("checkpoints/version_0/validate.json") == (24, ["choosing the epoch"])


def test_the_score_of_a_class_can_be_watched_where_it_has_rows(run, quick, refused, corpus):
    score = "val/f1_class/joy"
    assert run("fit", *quick, f"--checkpoint.monitor={score}", f"--early_stopping.monitor={score}").code == 0
    with (corpus / "validation.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["label"] != "joy"]
    shutil.copytree(corpus, "other")
    write_csv(Path("other/validation.csv"), rows)
    line = refused("fit", *quick, "--data.dataset=other", f"--checkpoint.monitor={score}")
    assert f"checkpoint.monitor is {score}, but no row of that split has this label" in line


# --- calibration

HEAD = ("network.classifier.weight", "network.classifier.bias")
SAID = r"^calibrated temperature (\d+\.\d{3}); .* error (0\.\d{4}) before, (0\.\d{4}) after"


@pytest.fixture(scope="module")
def with_and_without(learned, tiny_bert, tmp_path_factory):
    """(folder, standard output) of a fit that is calibrated and of one that is not, else alike."""
    place = tmp_path_factory.mktemp("calibrated")
    found = []
    for number, wanted in enumerate(("true", "false")):
        out = io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            patch.setenv("LIT_BERT_CACHE", str(place / "cache"))
            patch.setattr(sys, "stdout", out)
            flags = [*learned.flags, f"--weights.pretrained={tiny_bert}"]
            assert main(["fit", *flags, f"--calibrate={wanted}"]) == 0
        found.append((place / "checkpoints" / f"version_{number}", out.getvalue()))
    return found


def test_a_fit_folds_a_temperature_into_its_best_checkpoint(with_and_without):
    (folder, out), (other, silent) = with_and_without
    calibrated, plain = (content_of(each / "best.ckpt") for each in (folder, other))
    assert "temperature" not in plain
    assert "calibrated" not in silent
    T = calibrated["temperature"]
    assert abs(T - 1) > 0.01
    record = json.loads((folder / "validate.json").read_text())["calibration"]
    assert record["temperature"] == T
    said = re.search(SAID, out, re.MULTILINE).groups()
    assert said == (f"{T:.3f}", f"{record['before']:.4f}", f"{record['after']:.4f}")
    assert calibrated["state_dict"].keys() == plain["state_dict"].keys()
    for name, value in plain["state_dict"].items():
        wanted = (value.double() / T).to(value.dtype) if name in HEAD else value
        assert torch.equal(calibrated["state_dict"][name], wanted), name
    last = [content_of(each / "last.ckpt")["state_dict"] for each in (folder, other)]
    assert all(torch.equal(value, last[1][name]) for name, value in last[0].items())


def test_calibration_changes_no_label_and_is_the_best_temperature(with_and_without):
    calibrated, plain = (Predictions.read(folder / "validate.parquet") for folder, _ in with_and_without)
    assert np.array_equal(calibrated.preds, plain.preds)
    T = temperature(np.log(plain.outputs), plain.labels)
    assert abs(T - calibrated.facts["calibration"]["temperature"]) < 1e-9
    assert calibrated.outputs == pytest.approx(softmax(np.log(plain.outputs) / T), rel=1e-4)


def test_an_uncalibrated_fit_prints_the_scores_of_its_best_epoch(with_and_without, run, monkeypatch):
    folder, out = with_and_without[1]
    logged = EventAccumulator(str(folder)).Reload()
    kept = json.loads((folder / "validate.json").read_text())["scores"]
    for tag, name in (("loss_nats", "loss_nats"), ("f1", "macro_f1")):
        (best,) = logged.Scalars(f"val_best/{tag}")
        assert kept[name] == pytest.approx(best.value, rel=1e-5)
    assert table_of(out, "validation") == table_of(
        run("validate", f"--ckpt_path={folder / 'best.ckpt'}").out, "validation"
    )


def test_a_calibrated_checkpoint_is_not_calibrated_again(with_and_without):
    calibrated, plain = (Predictions.read(folder / "validate.parquet") for folder, _ in with_and_without)
    shutil.copy(with_and_without[1][0] / "best.ckpt", "best.ckpt")
    for _ in range(2):  # as if the first process had ended before it kept the scores
        _, found = calibrate(Checkpoint.open("best.ckpt"), plain)
        assert np.array_equal(found.outputs, calibrated.outputs)
        assert found.facts["calibration"] == calibrated.facts["calibration"]
    once = content_of("best.ckpt")["state_dict"]
    wanted = content_of(with_and_without[0][0] / "best.ckpt")["state_dict"]
    assert all(torch.equal(once[name], wanted[name]) for name in HEAD)


def one_more_epoch(run, home):
    epochs = content_of(home / "last.ckpt")["epoch"] + 2  # it counts from 0
    outcome = run("fit", "--ckpt_path=last", f"--trainer.max_epochs={epochs}", "--early_stopping.patience=9")
    assert outcome.code == 0
    assert f"epoch {epochs}, step" in outcome.err
    return outcome


def test_a_resumed_fit_without_a_better_epoch_repeats_its_scores_and_calibrates_nothing(run, home):
    before, record = (home / "best.ckpt").read_bytes(), json.loads((home / "validate.json").read_text())
    assert record["scores"]["macro_f1"] == 1  # there is no better one
    outcome = one_more_epoch(run, home)
    assert (home / "best.ckpt").read_bytes() == before
    again = json.loads((home / "validate.json").read_text())
    same = ("scores", "intervals", "calibration", "sha256", "split")
    assert {name: again[name] for name in same} == {name: record[name] for name in same}
    assert re.search(SAID, outcome.out, re.MULTILINE)[1] == f"{record['calibration']['temperature']:.3f}"
    assert table_of(outcome.out, "validation") == table_of(run("validate").out, "validation")


def test_scores_that_are_not_of_the_best_epoch_are_not_taken_for_its_own(run, home):
    before = (home / "best.ckpt").read_bytes()
    for other in (["--data.val_split=test"], ["--ckpt_path=last"]):
        assert run("validate", *other).code == 0  # takes the place of what the fit kept
        outcome = one_more_epoch(run, home)
        assert "bootstrap" not in outcome.out
        assert re.search(
            "best.ckpt are no longer beside it; `python -m lit_bert validate --ckpt", outcome.err
        )
        assert f"best epoch: {home.resolve()}/best.ckpt\n" in outcome.out
        assert (home / "best.ckpt").read_bytes() == before


def test_a_better_epoch_of_a_resumed_fit_is_calibrated_anew(run, learned, tiny_bert):
    flags = [*learned.flags, f"--weights.pretrained={tiny_bert}", "--trainer.max_epochs=1"]
    # So small a BERT learns faster without them, and in few epochs enough for a temperature to be kept.
    plain = ["--model.adversarial_norm=0", "--model.average_decay=0"]
    assert run("fit", *flags, *plain).code == 0
    first = content_of("checkpoints/version_0/best.ckpt")
    outcome = run("fit", "--ckpt_path=last", "--trainer.max_epochs=9")
    assert outcome.code == 0
    best = content_of("checkpoints/version_0/best.ckpt")
    assert best["epoch"] > first["epoch"]
    assert re.search(SAID, outcome.out, re.MULTILINE)[1] == f"{best['temperature']:.3f}"
    assert table_of(outcome.out, "validation") == table_of(run("validate").out, "validation")


def test_checkpoints_in_a_folder_of_their_own_are_scored_and_calibrated_there(run, quick):
    outcome = run("fit", *quick, "--trainer.max_epochs=1", "--checkpoint.dirpath=elsewhere/kept")
    assert outcome.code == 0
    assert {path.name for path in Path("elsewhere/kept").iterdir()} == {
        "best.ckpt",
        "drift.json",
        "train_hashes.bin",
        "validate.json",
        "validate.parquet",
    }
    assert not list(Path("checkpoints").rglob("validate.*"))
    validated = run("validate", "--ckpt_path=elsewhere/kept/best.ckpt").out
    assert table_of(outcome.out, "validation") == table_of(validated, "validation")


def test_early_stopping_ends_a_fit_that_does_not_improve(run, quick):
    # Rate 0 learns nothing, so every validation after the first is one without a better score.
    still = ["--model.learning_rate=0", "--trainer.max_epochs=9", "--early_stopping.patience=2"]
    outcome = run("fit", *quick, *still)
    assert outcome.code == 0
    assert [line.split(",")[0] for line in outcome.err.splitlines() if line.startswith("epoch")] == [
        "epoch 1",
        "epoch 2",
        "epoch 3",
    ]


def test_a_fit_that_ends_before_its_first_validation_keeps_what_it_learned(run, quick):
    outcome = run("fit", *quick, "--trainer.max_steps=3")
    assert outcome.code == 0
    assert content_of("checkpoints/version_0/last.ckpt")["global_step"] == 3


def test_a_trial_run_writes_nothing(run, quick):
    outcome = run("fit", *quick, "--trainer.fast_dev_run=true")
    assert outcome.code == 0
    assert files() == {}
    assert "None" not in outcome.err


# --- resuming


def test_a_resumed_fit_goes_on_in_its_own_folder(run, quick):
    assert run("fit", *quick, "--trainer.max_epochs=1", "--model.weight_decay=0.5").code == 0
    outcome = run("fit", "--ckpt_path=last", "--trainer.max_epochs=3")
    assert outcome.code == 0
    epochs = [line.partition(":")[0] for line in outcome.err.splitlines() if line.startswith("epoch")]
    assert epochs == ["epoch 2, step 16", "epoch 3, step 24"]  # batches of 8, as the first epoch had
    assert [path.name for path in Path("checkpoints").iterdir()] == ["version_0"]
    last = content_of("checkpoints/version_0/last.ckpt")
    assert (last["epoch"], last["global_step"]) == (2, 24)
    assert last["hyper_parameters"]["weight_decay"] == 0.5
    settings = yaml.safe_load(Path("checkpoints/version_0/config.yaml").read_text())
    assert settings["trainer"]["max_epochs"] == 3
    assert settings["model"]["weight_decay"] == 0.5


def test_resuming_a_file_writes_beside_it(run, quick, monkeypatch, tmp_path):
    assert run("fit", *quick, "--trainer.max_epochs=1").code == 0
    file = Path("checkpoints/version_0/last.ckpt").resolve()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run("fit", f"--ckpt_path={file}", "--trainer.max_epochs=2").code == 0
    assert files() == {}
    assert content_of(file)["epoch"] == 1


def test_a_moved_run_that_is_resumed_by_its_configuration_overwrites_no_other(run, quick):
    """The configuration says where it was: another run may be there by now."""
    assert run("fit", *quick, "--trainer.max_epochs=1").code == 0
    shutil.copytree("checkpoints/version_0", "moved/version_0")
    assert run("fit", *quick, "--trainer.max_epochs=1", "--trainer.logger.init_args.save_dir=other").code == 0
    before = {name: content for name, content in files().items() if not name.startswith("cache")}
    resumed = ["--ckpt_path=moved/version_0/last.ckpt", "--trainer.max_epochs=2"]
    for place in ("--config=moved/version_0/config.yaml", "--trainer.logger.init_args.save_dir=other"):
        outcome = run("fit", place, *resumed)
        assert outcome.code == 0, outcome.err
        assert "resumed    its folder: " in outcome.err
    after = files()
    assert {name: after[name] for name in before} == before
    assert Path("checkpoints/version_1/last.ckpt").is_file()
    assert Path("other/version_1/last.ckpt").is_file()


WITHIN = ["--trainer.val_check_interval=0.5", "--checkpoint.save_weights_only=false"]


def test_within_an_epoch_the_order_of_its_batches_cannot_change(run, refused, quick):
    assert run("fit", *quick, *WITHIN, "--trainer.max_epochs=1", "--model.learning_rate=0").code == 0
    within = ["--ckpt_path=checkpoints/version_0/best.ckpt", "--trainer.max_epochs=2"]
    line = refused("fit", *within, "--seed_everything=9")
    assert re.search("seed_everything is 9, and .*best.ckpt is from within an epoch .* come from 0: ", line)
    content = content_of("checkpoints/version_0/best.ckpt")
    write_content({**content, "devices": 2}, "checkpoints/version_0/best.ckpt")
    assert "the number of devices is 1, and " in refused("fit", *within)
    last = ["--ckpt_path=last", "--trainer.max_epochs=2", "--seed_everything=9"]
    assert run("fit", *last).code == 0  # the end of an epoch


def test_an_epoch_of_limited_batches_that_was_validated_is_not_gone_on_with(run, quick):
    few = ["--trainer.limit_train_batches=5", "--checkpoint.save_weights_only=false"]
    assert run("fit", *quick, *few, "--trainer.max_epochs=1").code == 0
    outcome = run("fit", "--ckpt_path=checkpoints/version_0/best.ckpt", "--trainer.max_epochs=2")
    assert outcome.code == 0, outcome.err
    assert "goes on after" not in outcome.err
    assert "epoch 2, step 10: " in outcome.err  # all five of them


def test_predictions_come_from_one_device(refused, learned):
    line = refused("predict", "happy", f"--ckpt_path={learned.best}", "--trainer.devices=2")
    assert "there are 2 devices; predict writes rows in their order from one" in line


def test_resuming_needs_no_weights(run, home):
    epochs = content_of(home / "last.ckpt")["epoch"] + 2  # one more; it counts from 0
    flags = (f"--trainer.max_epochs={epochs}", "--early_stopping.patience=9")
    outcome = run("fit", "--ckpt_path=last", *flags)
    assert outcome.code == 0
    assert f"epoch {epochs}, step {15 * epochs}" in outcome.err


def test_flags_win_over_what_a_resumed_run_remembers(run, quick):
    still = ("--model.learning_rate=0", "--trainer.max_epochs=9", "--early_stopping.patience=1")
    assert "epoch 3" not in run("fit", *quick, *still).err  # it stopped for want of patience
    outcome = run("fit", "--ckpt_path=last", "--trainer.max_epochs=4", "--early_stopping.patience=99")
    assert outcome.code == 0
    assert "epoch 4, step 32" in outcome.err


def test_weights_only_cannot_be_resumed(refused, home):
    line = refused("fit", "--ckpt_path=best")
    assert re.search("best.ckpt holds weights only.*Use --ckpt_path last, or.*--weights.checkpoint", line)


def test_a_new_run_starts_from_the_weights_of_a_checkpoint(run, learned):
    new = [
        f"--weights.checkpoint={learned.best}",
        f"--data.dataset={learned.data}",
        "--model.learning_rate=0",
    ]
    outcome = run("fit", *new, "--trainer.max_epochs=1", "--trainer.accelerator=cpu")
    assert outcome.code == 0
    assert re.search(r"macro F1 +1\.0000", outcome.out)  # the head came along: nothing was learned here


def test_data_with_other_labels_cannot_be_resumed_on(refused, home):
    rows = [{"text": text, "label": f"very {label}"} for label in CLASSES for text in texts_of(label, 8)]
    write_csv(Path("other.csv"), rows)
    line = refused("fit", "--ckpt_path=last", "--trainer.max_epochs=9", "--data.dataset=other.csv")
    assert re.search("label 'very joy', none of the 3 known ones: anger, joy, sadness", line)
    line = refused("fit", "--ckpt_path=last", "--trainer.max_epochs=9", "--data.label_names=[anger,joy,rage]")
    assert re.search("--data.label_names is .*'rage'.*the run that goes on has None: .*cannot change", line)


# --- test and validate


def test_scores_are_those_worked_out_by_hand(run, learned, home):
    assert run("test").code == 0
    scores = json.loads((home / "test.json").read_text())["scores"]
    # Of 24 rows a perfect model gets three wrong: two joys labelled sadness and an anger labelled joy.
    anger, joy, sadness = 14 / 15, 12 / 15, 16 / 18  # 2 · right / (predicted + labelled)
    by_hand = {"macro_f1": (anger + joy + sadness) / 3, "micro_f1": 21 / 24, "accuracy": 21 / 24}
    assert {name: scores[name] for name in by_hand} == pytest.approx(by_hand, rel=1e-6)
    assert scores["by_class"] == pytest.approx({"anger": anger, "joy": joy, "sadness": sadness}, rel=1e-6)


@pytest.mark.parametrize("which", ["best", "last"])
def test_fit_then_test_equals_test_from_the_checkpoint(run, learned, home, which):
    assert run("test", f"--ckpt_path={which}").code == 0
    record = json.loads((home / "test.json").read_text())
    assert record["scores"] == getattr(learned, f"{which}_scores")
    assert record["checkpoint"] == str((home / f"{which}.ckpt").resolve())


def test_the_checkpoint_of_a_configuration_is_used(run, learned, home):
    Path("mine.yaml").write_text(f"ckpt_path: {home / 'last.ckpt'}\n")
    wanted = {"": "last.ckpt", "--ckpt_path=best": "best.ckpt"}  # a flag wins
    for flag, name in wanted.items():
        outcome = run("test", *[flag] * bool(flag), "--config=mine.yaml")
        assert outcome.out.startswith(f"checkpoint {(home / name).resolve()}\n")


def test_no_verb_changes_the_arguments_of_its_process(run, learned, home):
    before = list(sys.argv)
    assert run("test").code == 0
    assert sys.argv == before


def test_a_checkpoint_alone_is_enough(run, learned):
    # `learned` has deleted the weights and the token cache; here the file lies alone, too.
    shutil.copy(learned.best, "alone.ckpt")
    assert run("test", "--ckpt_path=alone.ckpt").code == 0
    assert json.loads(Path("test.json").read_text())["scores"] == learned.best_scores
    labelled = run("predict", *(text for text, _ in UNSEEN), "--ckpt_path=alone.ckpt", "--data.dataset=gone")
    assert [row["predicted_label"] for row in json_lines(labelled.out)] == [label for _, label in UNSEEN]


def test_bare_test_scores_the_best_checkpoint_and_says_which(run, home):
    outcome = run("test")
    best = home / "best.ckpt"
    assert outcome.out.splitlines()[:3] == [
        f"checkpoint {best.resolve()}",
        f"sha256     {hashlib.sha256(best.read_bytes()).hexdigest()}",
        "validation macro F1 when it was saved: 1.0000, on 24 rows",
    ]
    first, second = table_of(outcome.out, "test").splitlines()[:2]
    assert re.fullmatch(r"  macro F1 +0\.8741  \[0\.\d{4}, \d\.\d{4}\]", first)
    assert re.fullmatch(r"  micro F1 +0\.8750  \[0\.\d{4}, \d\.\d{4}\]", second)


def test_bare_test_takes_the_newest_fit(run, home):
    def written(folder, when):
        for file in folder.glob("*.ckpt"):
            os.utime(file, (when, when))

    other = shutil.copytree(home, home.parent / "version_1")
    written(other, 1e9)
    assert f"checkpoint {(home / 'best.ckpt').resolve()}\n" in run("test").out
    written(home, 5e8)
    assert f"checkpoint {(other / 'best.ckpt').resolve()}\n" in run("test").out


def test_validate_repeats_the_score_that_the_checkpoint_was_kept_for(run, home):
    assert run("validate").code == 0
    record = json.loads((home / "validate.json").read_text())
    assert record["split"] == "validation"
    assert record["scores"]["macro_f1"] == content_of(home / "best.ckpt")["val_score"] == 1


def test_flags_win_over_what_the_checkpoint_holds(run, learned, home):
    assert run("test", "--data.test_split=validation").code == 0
    record = json.loads((home / "test.json").read_text())
    assert (record["split"], record["scores"]["macro_f1"]) == ("validation", 1)
    rows = [{"tweet": text, "label": "joy" if label == "joy" else "anger"} for text, label in UNSEEN]
    write_csv(Path("other.csv"), rows)
    other = ["--data.dataset=other.csv", "--data.test_split=train", "--data.text_column=tweet"]
    outcome = run("test", *other)
    assert outcome.code == 0
    assert json.loads((home / "test.json").read_text())["scores"]["accuracy"] == pytest.approx(8 / 12)
    assert f"trained on {learned.data} (folder)" in outcome.out
    assert f"scored on  {Path('other.csv').resolve()} (file)" in outcome.out
    assert "1 of 1 texts were cut at 3 tokens" in run("predict", "happy sun", "--data.max_length=3").err


def test_a_configuration_wins_over_what_the_checkpoint_holds(run, home):
    Path("mine.yaml").write_text("data: {test_split: validation}\n")
    assert "split validation" in run("test", "--config=mine.yaml").out


def test_scores_do_not_depend_on_the_batch_size(run, learned, home):
    assert run("test", "--data.eval_batch_size=5").code == 0
    scores = json.loads((home / "test.json").read_text())["scores"]
    exact = ("macro_f1", "micro_f1", "accuracy", "by_class")
    assert {name: scores[name] for name in exact} == {name: learned.best_scores[name] for name in exact}
    for name in ("loss_nats", "calibration_error"):
        assert scores[name] == pytest.approx(learned.best_scores[name], rel=0.01)


@pytest.mark.parametrize(
    "flag", ["--model.label_smoothing=0.2", "--weights.stand_in=null", "--data.task=single"]
)
def test_a_flag_that_would_change_the_model_of_a_checkpoint_is_refused(refused, home, flag):
    line = refused("test", flag)
    assert f"{flag.partition('=')[0]} would change nothing: `test` takes the model of " in line


def test_a_split_that_is_not_there_is_refused(refused, home, learned):
    line = refused("test", "--data.test_split=tset")
    assert re.search(
        "no split 'tset'; it has test, train, validation. Name another with --data.test_split, score", line
    )
    shutil.copy(learned.data / "train.csv", "single.csv")
    line = refused("test", "--data.dataset=single.csv")
    assert re.search("no split 'test'; it has train.*--data.test_split train", line)


def test_bad_test_splits_are_refused(refused, home):
    def line(*lines):
        Path("rows.csv").write_bytes(csv_of("text,label", *lines))
        return refused("test", "--data.dataset=rows.csv", "--data.test_split=train")

    assert "row 3 (line 4)" in (seen := line("happy,joy", "sad,sadness", "so so,boredom"))
    assert "label 'boredom', none of the 3 known ones: anger, joy, sadness" in seen
    assert "split train of" in (none := line())
    assert "has no rows to use: 0 read" in none
    assert "3 read, 2 (rows 1, 2) without a label, 1 (row 3) without a text" in line("a,", "b, ", ",joy")


# --- predict

ROWS = [
    {"id": str(number), "text": text, "note": note}
    for number, ((text, _), note) in enumerate(
        zip(UNSEEN, 'ab,c"d éf\tg|hi j k l'.split(" ") * 9, strict=False)
    )
]
WANTED = [label for _, label in UNSEEN]


def write(file, rows):
    kind = Path(file).suffix
    if kind == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), file)
    elif kind == ".jsonl":
        Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with Path(file).open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if kind == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)


def read(file):
    kind = Path(file).suffix
    if kind == ".parquet":
        return pa.parquet.read_table(file).to_pylist()
    if kind == ".jsonl":
        return json_lines(Path(file).read_text())
    with Path(file).open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t" if kind == ".tsv" else ","))


PROBABILITIES = ["probability_anger", "probability_joy", "probability_sadness"]


@pytest.mark.parametrize(
    ("source", "target"),
    [("csv", "jsonl"), ("tsv", "csv"), ("jsonl", "parquet"), ("parquet", "tsv")],
)
def test_predictions_keep_order_and_columns(run, learned, monkeypatch, source, target):
    monkeypatch.setattr(
        "lit_bert.data.batches.PREDICT_ROWS", 5
    )  # three windows, each sorted by length within
    write(f"in.{source}", ROWS)
    outcome = run(
        "predict",
        f"--ckpt_path={learned.best}",
        f"--input=in.{source}",
        f"--output=out.{target}",
        "--data.eval_batch_size=2",
    )
    assert (outcome.code, outcome.out) == (0, "")
    assert f"12 rows written to out.{target}" in outcome.err
    assert re.search(r"labelled by .*best\.ckpt", outcome.err)
    found = read(f"out.{target}")
    assert [{key: row[key] for key in ("id", "text", "note")} for row in found] == ROWS
    assert list(found[0]) == ["id", "text", "note", "predicted_label", "probability", *PROBABILITIES]
    assert [row["predicted_label"] for row in found] == WANTED
    for row in found:
        probs = [float(row[name]) for name in PROBABILITIES]
        assert sum(probs) == pytest.approx(1, abs=2e-6)
        assert float(row["probability"]) == max(probs)
        assert max(probs) == float(row[f"probability_{row['predicted_label']}"])


@pytest.mark.parametrize("way", ["arguments", "standard input", "a dash", "plain lines"])
def test_texts_come_in_any_way_and_go_to_standard_output(run, learned, monkeypatch, way):
    texts = [text for text, _ in UNSEEN]
    lines = "".join(f"{text}\n" for text in texts).encode()
    fed(monkeypatch, lines if "in" in way or "dash" in way else b"not asked for\n")
    Path("in.txt").write_bytes(lines)
    arguments = {"arguments": texts, "a dash": ["--input=-"], "plain lines": ["--input=in.txt"]}
    outcome = run("predict", *arguments.get(way, []), f"--ckpt_path={learned.best}")
    assert (outcome.code, outcome.err) == (0, "")
    found = json_lines(outcome.out)
    assert [(row["text"], row["predicted_label"]) for row in found] == UNSEEN


AWKWARD = {
    "empty": "",
    "blank": "   ",
    "100,000 characters": "happy sad " * 10_000,
    "emoji": "so happy 😀👩‍👩‍👧",
    "right to left": "שלום happy مرحبا",
    "NUL": "hap\0py",
    "control characters": "sad \x07\x80 \u2028 \ufffe",
    "a number": "123",
    "null": "null",
    "quotes and braces": "\"{[sad]}\": 'x' #",
    "a line break": "sad\nhappy",
}


NO_TEXT = ("empty", "blank")  # there is nothing to label
ADDED = ["predicted_label", "probability"]


@pytest.mark.parametrize("case", AWKWARD)
def test_an_awkward_argument_gets_an_answer(run, learned, case):
    outcome = run("predict", "happy", AWKWARD[case], "sad", f"--ckpt_path={learned.best}")
    assert outcome.code == (case in NO_TEXT), outcome.err[-300:]
    found = json_lines(outcome.out)
    assert [row["text"] for row in found] == ["happy", AWKWARD[case], "sad"]
    assert [found[0]["predicted_label"], found[2]["predicted_label"]] == ["joy", "sadness"]
    if case in NO_TEXT:
        assert {found[1][name] for name in [*ADDED, *PROBABILITIES]} == {None}
        assert "the command line, row 2: no text in column 'text'; its answer is empty" in outcome.err
        return
    assert sum(found[1][name] for name in PROBABILITIES) == pytest.approx(1, abs=2e-6)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_awkward_rows_get_an_answer(run, learned, kind):
    rows = [{"text": text} for text in AWKWARD.values()]
    write(f"in.{kind}", rows)
    both = [f"--input=in.{kind}", f"--output=out.{kind}"]
    assert run("predict", f"--ckpt_path={learned.best}", *both).code == 1
    found = read(f"out.{kind}")
    assert [row["text"] for row in found] == list(AWKWARD.values())
    for row, case in zip(found, AWKWARD, strict=True):
        assert not row["predicted_label"] if case in NO_TEXT else row["predicted_label"] in CLASSES


def test_an_argument_that_is_not_text_is_reported(run, learned):
    outcome = run(
        "predict", "happy", "caf\udce9", "sad", f"--ckpt_path={learned.best}"
    )  # as Python sees \xe9
    assert outcome.code == 1
    assert [row["predicted_label"] for row in json_lines(outcome.out)] == ["joy", None, "sadness"]
    assert [row["text"] for row in json_lines(outcome.out)] == ["happy", None, "sad"]
    assert re.search(r"row 2: byte 0xe9 at character 4 is not UTF-8; its answer is empty", outcome.err)


BROKEN = {
    "csv": (
        b'id,text\n1,happy\n2\n3,sad\n4,caf\xe9\n5,"never closed\n6,i am angry today\n',
        {2: "line 3.*1 cells", 4: "line 5.*0xe9.*not UTF-8", 5: "line 6.*quot"},
        ["joy", "sadness", "anger"],
    ),
    "jsonl": (
        b'{"text": "happy"}\n{"text": \n[1]\n{"txt": "x"}\n{"text": null}\n'
        b'{"text": ["a"]}\n{"text": "sad"}\n',
        {2: "line 2.*not JSON", 3: "line 3.*not a JSON object", 4: "no text", 5: "no text", 6: "no text"},
        ["joy", "sadness"],
    ),
    "txt": (b"happy\ncaf\xe9\nsad\n", {2: "0xe9.*not UTF-8"}, ["joy", "sadness"]),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_rows_are_reported_by_number_and_nothing_else_is_lost(run, learned, kind):
    content, problems, labels = BROKEN[kind]
    Path(f"in.{kind}").write_bytes(content)
    outcome = run("predict", f"--ckpt_path={learned.best}", f"--input=in.{kind}", "--output=out.jsonl")
    assert outcome.code == 1
    found = read("out.jsonl")
    assert [row["predicted_label"] for row in found if row["predicted_label"]] == labels
    empty = [number for number, row in enumerate(found, 1) if row["predicted_label"] is None]
    assert empty == list(problems)  # every row is there, in its place
    assert len({tuple(row) for row in found}) == 1  # with the same columns
    reported = [line for line in outcome.err.splitlines() if line.startswith(f"in.{kind}, row ")]
    assert len(reported) == len(problems)
    for line, (number, problem) in zip(reported, problems.items(), strict=True):
        assert line.startswith(f"in.{kind}, row {number}")
        assert re.search(problem, line)
        assert line.endswith("its answer is empty")


def test_predict_refuses_what_it_cannot_read_or_write(refused, learned, monkeypatch):
    def line(*arguments):
        return refused("predict", *arguments, f"--ckpt_path={learned.best}")

    write("in.csv", ROWS)
    assert re.search(
        "in.csv has no column 'tweet'; it has id, text, note.*--data.text_column",
        line("--input=in.csv", "--data.text_column=tweet", "--output=out.csv"),
    )
    assert "no file gone.csv; expected one of .csv" in line("--input=gone.csv", "--output=out.csv")
    assert "out.xlsx; expected a name that ends in .csv" in line("--input=in.csv", "--output=out.xlsx")
    assert "cannot write no/where.csv" in line("--input=in.csv", "--output=no/where.csv")
    assert "got texts and --input; expected one of them" in line("happy", "--input=in.csv")
    Path("in.parquet").write_bytes(parquet_cut_in_half())
    assert "in.parquet is not a readable Parquet file" in line("--input=in.parquet", "--output=out.csv")
    Path("empty.csv").write_text("text\n")
    assert "empty.csv has no row that can be labelled" in line("--input=empty.csv", "--output=out.csv")
    fed(monkeypatch, b"")
    assert "standard input has no row that can be labelled" in line()


def test_a_failed_prediction_leaves_the_earlier_output_alone(refused, learned):
    Path("in.csv").write_text("one,other\nso happy today,5\n")
    Path("out.csv").write_text("precious\n")
    flags = [f"--ckpt_path={learned.best}", "--data.text_column=text"]
    refused("predict", *flags, "--input=in.csv", "--output=out.csv")
    assert Path("out.csv").read_text() == "precious\n"


# --- what a score rests on


def test_a_stand_in_is_announced_kept_and_repeated_beside_every_score(run, tiny_bert):
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu"]
    outcome = run("fit", f"--weights.pretrained={tiny_bert}", "--data.dataset=nobody/tweets", *short)
    assert outcome.code == 0
    assert "STAND-INS" in outcome.err
    said = " ".join(re.sub(r"[│╭╮╰╯─]", " ", outcome.err).split())
    assert ": sample instead of nobody/tweets (HF_HUB_OFFLINE is set)" in said
    beside = "sample (packaged), STANDING IN for nobody/tweets: HF_HUB_OFFLINE is set"
    assert f"trained on {beside}\n" in outcome.out
    for name in ("best", "last"):
        source = content_of(f"checkpoints/version_0/{name}.ckpt")["EmotionDataModule"]["source"]
        assert (source["name"], source["stand_in_for"]) == ("sample", "nobody/tweets")
    for verb in ("test", "validate"):
        assert f"trained on {beside}\n" in run(verb).out
        assert json.loads(Path(f"checkpoints/version_0/{verb}.json").read_text())["trained on"] == beside


def test_nothing_is_announced_when_nothing_stands_in(run, quick):
    outcome = run("fit", *quick, "--trainer.max_epochs=1")
    assert "STAND" not in outcome.err + outcome.out


@pytest.mark.parametrize(
    ("bf16", "amx", "accelerator", "precision"),
    [
        (True, False, "cpu", "bf16-mixed"),
        (False, True, "auto", "bf16-mixed"),
        (False, False, "cpu", "32-true"),
        (False, False, "auto", "32-true"),
        (True, True, "tpu", "32-true"),
    ],
)
def test_precision_is_what_the_device_computes_natively(monkeypatch, bf16, amx, accelerator, precision):
    found = {"architecture": "x86_64", "avx512_bf16": bf16, "amx_bf16": amx}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert native_precision(accelerator) == precision


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_precision_of_a_gpu_is_what_it_computes_natively(monkeypatch, native, precision):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **how: asked.append(how) or native)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": not native})
    assert [native_precision(name) for name in ("auto", "gpu", "cuda")] == [precision] * 3
    assert asked == [{"including_emulation": False}] * 3


# --- fresh processes: all are started at once, as most of their time is imports

# 23 rows do not come out even over two processes
ODD = ["--data.dataset=odd.csv", "--data.test_split=train", "--data.eval_batch_size=5"]
ODD += ["--ckpt_path=alone.ckpt", "--trainer.precision=32-true"]


def lay_out_odd(learned, folder):
    shutil.copy(learned.best, folder / "alone.ckpt")
    lines = (learned.data / "test.csv").read_text().splitlines(keepends=True)
    (folder / "odd.csv").write_text("".join(lines[:-1]))


@pytest.fixture(scope="module")
def processes(learned, quick, tmp_path_factory):
    """By name, (folder, exit code, standard output, standard error) of `python -m lit_bert …` runs."""
    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    commands = {
        "fit": ["fit", *quick],
        "fit in two processes": ["fit", *quick, *two],
        "test in two processes": ["test", *ODD, *two],
    }
    place = tmp_path_factory.mktemp("processes")
    environment = {**os.environ, "LIT_BERT_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(CONFIGS.parent)
    started = {}
    for name, arguments in commands.items():
        folder = place / name.replace(" ", "-")
        folder.mkdir()
        lay_out_odd(learned, folder)
        command = [sys.executable, "-m", "lit_bert", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        started[name] = folder, subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes)
    ended = {}
    try:
        for name, (folder, process) in started.items():
            out, err = process.communicate(timeout=200)
            ended[name] = folder, process.returncode, out, err
    finally:
        for _, process in started.values():
            process.kill()
    return ended


def test_a_fit_says_nothing_on_standard_error_that_it_does_not_mean(processes):
    _, code, out, err = processes["fit"]
    assert code == 0
    meant = [
        r"device +1 × CPU, 1 thread, precision (bf16-mixed|32-true)",
        r"(weights|trained on) +\S+ \(folder\)",
        r"model +bert, \d+\.\dM parameters, highest learning rate 0\.003",
        r" +computed by BERT on a CPU in fewer operations",
        r"rows +60 to train on, 24 to validate on",
        r"classes +3: anger, joy, sadness",
        r"run +checkpoints/version_0",
        r"epoch [12], step (8|16): val/loss_nats \d\.\d{4}, val/f1 \d\.\d{4}, val/f1_micro \d\.\d{4} "
        r"on 24 rows, which choose the epoch",
    ]
    strange = [line for line in err.splitlines() if not any(re.fullmatch(each, line) for each in meant)]
    assert strange == []
    assert len(err.splitlines()) >= 7
    assert "\x1b" not in out + err
    assert "\r" not in out + err


def test_another_process_finds_the_newest_fit(processes, run, monkeypatch):
    folder, _, out, _ = processes["fit"]
    monkeypatch.chdir(folder)
    outcome = run("validate")
    assert f"checkpoint {folder}/checkpoints/version_0/best.ckpt\n" in outcome.out
    assert table_of(outcome.out, "validation") == table_of(
        out, "validation"
    )  # as the fit said of its best epoch


def test_two_processes_score_as_one_does(processes, run, learned):
    folder, code, out, err = processes["test in two processes"]
    assert code == 0, err
    shared = json.loads((folder / "test.json").read_text())["scores"]
    lay_out_odd(learned, Path())
    assert run("test", *ODD).code == 0
    alone = json.loads(Path("test.json").read_text())["scores"]
    assert alone["accuracy"] == pytest.approx(20 / 23)  # a row scored twice would show
    sums = ["loss_nats", "calibration_error"]  # in other order
    exact = alone.keys() - set(sums)
    assert {name: shared[name] for name in exact} == {name: alone[name] for name in exact}
    for name in sums:
        assert shared[name] == pytest.approx(alone[name], rel=1e-5)
    assert out.count("macro F1") == 2  # the validation score and this one, said once
    assert err.count(" 2 × CPU") == 1


def test_two_processes_fit_into_one_folder(processes):
    folder, code, out, err = processes["fit in two processes"]
    assert code == 0, err
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["version_0"]
    last = content_of(folder / "checkpoints" / "version_0" / "last.ckpt")
    assert last["global_step"] == 8  # 60 rows, 2 × 8 a step, 2 epochs
    best = content_of(folder / "checkpoints" / "version_0" / "best.ckpt")
    assert "training_weights" not in best  # both processes validated them, and one chose
    assert out.count("\naveraging ") == 1
    assert table_of(out, "validation")
    assert [line.partition(",")[0] for line in err.splitlines() if line.startswith("epoch")] == [
        "epoch 1",
        "epoch 2",
    ]


# --- the processes of one run use one checkpoint

NEWER = '''
import os, shutil, time
from pathlib import Path

from lightning.pytorch import Callback


class NewerFit(Callback):
    """Another fit ends after the first process has found its checkpoint and before it starts the other."""

    def __init__(self):
        if os.environ.get("LOCAL_RANK", "0") == "0":
            Path("checkpoints/version_1").mkdir()
            shutil.copy("other.ckpt", "checkpoints/version_1/best.ckpt")


class Opened(Callback):
    """Writes down which checkpoint this process has opened."""

    def on_test_start(self, trainer, pl_module):
        path = pl_module.weights.checkpoint.path
        Path(f"opened_{trainer.global_rank}").write_text(str(path))
'''


@pytest.fixture
def two_fits(learned):
    """A fit where bare verbs look, and in other.ckpt a later one."""
    shutil.copytree(learned.checkpoints, Path("checkpoints"))
    content = content_of(learned.best)
    content["state_dict"]["network.classifier.bias"] += 1
    write_content(content, "other.ckpt")
    Path("newer.py").write_text(NEWER)
    return [f"--data.dataset={learned.data}", "--trainer.precision=32-true"]


def started(arguments, folder, **environment):
    command = [sys.executable, "-m", "lit_bert", *arguments]
    here = {**os.environ, "PYTHONPATH": f"{CONFIGS.parent}:{Path.cwd()}", **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=folder, env=here, text=True, **pipes)


def test_processes_that_the_first_one_starts_open_what_it_found(two_fits):
    callbacks = ["--trainer.callbacks+=newer.NewerFit", "--trainer.callbacks+=newer.Opened"]
    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    process = started(["test", *two_fits, *callbacks, *two], Path.cwd())
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    first = str(Path("checkpoints/version_0/best.ckpt").resolve())
    assert [Path(f"opened_{rank}").read_text() for rank in (0, 1)] == [first, first]
    assert Path("checkpoints/version_1/best.ckpt").is_file()  # what the second would have found


def test_processes_that_were_started_apart_and_opened_different_checkpoints_are_refused(two_fits):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    Path("elsewhere/checkpoints/version_0").mkdir(parents=True)
    shutil.copy("other.ckpt", "elsewhere/checkpoints/version_0/best.ckpt")
    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    # As torchrun does it: Lightning then starts no process itself.
    rendezvous |= {"TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    both = [
        started(["test", *two_fits, *two], folder, **rendezvous, RANK=rank, LOCAL_RANK=rank)
        for rank, folder in (("0", Path.cwd()), ("1", Path("elsewhere")))
    ]
    try:
        printed = [process.communicate(timeout=200)[0] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [2, 2], printed
    for each in printed:
        assert "lit_bert test: the processes of this run opened different checkpoints, " in each
    assert not list(Path().rglob("test.json"))


def test_the_last_checkpoint_knows_the_best_score_so_far(run, quick):
    # Saved in the other order, a resumed run could replace the best epoch by a worse one.
    assert run("fit", *quick, "--trainer.max_epochs=1").code == 0
    states = content_of("checkpoints/version_0/last.ckpt")["callbacks"].values()
    watching = (state for state in states if state.get("monitor") == "val/score")
    (best,) = (state for state in watching if "best_model_path" in state)
    assert best["best_model_path"].endswith("best.ckpt")
    assert best["best_model_score"] == Checkpoint.open("checkpoints/version_0/best.ckpt").facts.val_score


def test_every_fit_says_how_many_texts_are_cut(run, quick):
    for _ in range(2):  # the second finds them in the cache
        flags = ["--data.max_length=5", "--data.long_texts=cut", "--trainer.fast_dev_run=true"]
        outcome = run("fit", *quick, *flags)
        assert re.search(r"\d+ of 60 texts of split train are cut at 5 tokens", outcome.err)


def test_a_fit_without_a_test_split_says_how_to_score_it(run, tiny_bert, corpus):
    flags = [f"--weights.pretrained={tiny_bert}", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    outcome = run("fit", f"--data.dataset={corpus / 'train.csv'}", *flags)
    assert "test --data.dataset FILE --data.test_split train" in outcome.out
    assert "the data has no split 'test'" in outcome.out
    assert "score it:   python -m lit_bert test\n" in run("fit", f"--data.dataset={corpus}", *flags).out


def test_a_reader_that_has_seen_enough_of_the_help_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "lit_bert", "--help"], stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
