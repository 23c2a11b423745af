"""What a run shows: event files are read back as TensorBoard reads them, pictures and tables looked into."""

import html
import io
import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from conftest import texts_of, write_csv
from formats import content_of
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_ndarray
from torch.nn.functional import nll_loss
from torch.utils.data import DataLoader

from lit_bert.__main__ import main
from lit_bert.data.cells import Numbered
from lit_bert.data.module import EmotionDataModule
from lit_bert.data.writer import RowWriter
from lit_bert.evaluate.prediction_writer import PredictionWriter
from lit_bert.evaluate.predictions import Predictions
from lit_bert.model.module import BertClassifier
from lit_bert.sources.weights import Weights
from lit_bert.train.dashboard import confusion_figure
from lit_bert.train.progress import Throughput

torch.set_num_threads(1)  # threads that share busy cores wait for each other: a fit takes 30 s, not 1

NAMES = ["anger", "joy", "sadness"]


def events_of(folder):
    board = EventAccumulator(str(folder), size_guidance=dict.fromkeys(("scalars", "tensors", "images"), 0))
    return board.Reload()


def values(board, tag):
    return [event.value for event in board.Scalars(tag)]


def texts(board, tag):
    """Markdown of a text, by step."""
    return {event.step: make_ndarray(event.tensor_proto).item().decode() for event in board.Tensors(tag)}


def cells(table):
    """Rows of a markdown table without its head, as a browser shows them."""
    rows = [line.split("|")[1:-1] for line in table.splitlines()]
    return [[html.unescape(cell.strip()) for cell in row] for row in rows[2:]]


@dataclass
class Shown:
    """A fit that learned its texts, on validation texts of which every third label is wrong."""

    folder: Path
    validation: Path
    rows: list[dict[str, str]]
    out: str
    board: EventAccumulator


@pytest.fixture(scope="module")
def shown(tiny_bert, corpus, quick, tmp_path_factory):
    place = tmp_path_factory.mktemp("shown")
    folder = shutil.copytree(corpus, place / "data")
    rows = [{"text": text, "label": label} for label in NAMES for text in texts_of(label, 36)]
    for number, row in enumerate(rows):  # 108 rows, 36 of them wrong: anger for joy, joy for sadness, …
        if number % 3 == 0:
            row["label"] = NAMES[NAMES.index(row["label"]) - 1]
            row["text"] += " |\n *cat* |" if number % 2 else ""
    validation = write_csv(folder / "validation.csv", rows)
    flags = [
        *quick,
        f"--data.dataset={folder}",
        f"--trainer.logger.init_args.save_dir={place / 'checkpoints'}",
        "--trainer.max_epochs=6",
        "--trainer.log_every_n_steps=1",
        "--trainer.precision=32-true",
        "--data.batch_size=4",
        "--model.learning_rate=0.01",
        "--model.head_rate_factor=1",
        "--seed_everything=1",  # a random start that tells all classes apart within 90 steps
        "--early_stopping.patience=9",
    ]
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_BERT_CACHE", str(place / "cache"))
        patch.setattr(sys, "stdout", out)
        assert main(["fit", *flags]) == 0
    run = place / "checkpoints" / "version_0"
    return Shown(run, validation, rows, out.getvalue(), events_of(run))


@pytest.fixture
def asked(shown, run):
    """What the last epoch's model says to each validation text, asked through `predict`."""
    labelled = run(
        "predict",
        f"--ckpt_path={shown.folder / 'last.ckpt'}",
        f"--input={shown.validation}",
        "--trainer.precision=32-true",
    )
    return [json.loads(line) for line in labelled.out.splitlines()]


# --- scalars


def test_scalars_cover_each_split_and_say_their_units(trained):
    scores = ["accuracy", "f1", "f1_micro", *(f"f1_class/{name}" for name in NAMES), "loss_nats", "score"]
    wanted = {f"{split}/{score}" for split in ("train", "val") for score in scores}
    wanted |= {
        f"train/{name}"
        for name in ("learning_rate", "loss_batch_nats", "padding_ratio", "texts_per_s", "tokens_per_s")
    }
    found = set(events_of(trained).Tags()["scalars"])
    assert wanted <= found
    assert not [tag for tag in found if tag.startswith("test")]


def test_every_validation_is_logged_once(shown):
    for tag in ("val/f1", "val/loss_nats", "train/f1"):
        assert [event.step for event in shown.board.Scalars(tag)] == [
            14,
            29,
            44,
            59,
            74,
            89,
        ]  # 15 steps an epoch
    assert all(
        0 <= value <= 1 for tag in ("val/f1", "val/f1_class/joy") for value in values(shown.board, tag)
    )


def test_the_logged_learning_rate_is_the_one_each_step_used(shown):
    # 90 steps, 4 of them warm-up
    shares = [step / 5 for step in range(1, 5)] + [left / 86 for left in range(86, 0, -1)]
    assert values(shown.board, "train/learning_rate") == pytest.approx([0.01 * share for share in shares])


def test_padding_is_a_share_and_speed_is_positive(shown):
    padding = values(shown.board, "train/padding_ratio")
    assert len(padding) == 90
    assert all(0 <= value < 1 for value in padding)
    assert any(value > 0 for value in padding)
    assert all(
        value > 0 for tag in ("texts", "tokens") for value in values(shown.board, f"train/{tag}_per_s")
    )


def batch(*masks):
    mask = torch.tensor(masks)
    return {"input_ids": 5 * mask, "attention_mask": mask, "labels": torch.arange(len(masks)) % 3}


def test_throughput_counts_what_it_says(tiny_bert, tmp_path):
    # Logged every two steps: 8 tokens in 10 slots and 4 in 4; then 6 in 12 and 3 in 3.
    batches = [
        batch([1, 1, 1, 1, 1], [1, 1, 1, 0, 0]),
        batch([1, 1], [1, 1]),
        batch([1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0]),
        batch([1, 1, 1]),
    ]
    model = BertClassifier(NAMES, weights=Weights(pretrained=str(tiny_bert), stand_in=None))
    Trainer(
        accelerator="cpu",
        max_epochs=1,
        log_every_n_steps=2,
        logger=TensorBoardLogger(tmp_path, name="", version="run"),
        callbacks=[Throughput()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(model, DataLoader(batches, batch_size=None))
    board = events_of(tmp_path / "run")
    assert values(board, "train/padding_ratio") == pytest.approx([2 / 14, 6 / 15])
    per_text = [
        tokens / rows
        for tokens, rows in zip(
            values(board, "train/tokens_per_s"), values(board, "train/texts_per_s"), strict=True
        )
    ]
    assert per_text == pytest.approx([12 / 4, 9 / 4])  # real tokens by texts, whatever the seconds


class SavingAt(Callback):
    """Saves after a batch, in the middle of an epoch."""

    def __init__(self, batch, path):
        self.batch, self.path = batch, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == self.batch:
            trainer.save_checkpoint(self.path)


def test_a_run_that_is_resumed_within_an_epoch_logs_its_speed(tiny_bert, tmp_path):
    # As `fit` does, at the end of a batch and after the callback that is tested.
    batches = [batch([1, 1, 1], [1, 1, 0]) for _ in range(5)]
    for name, ckpt_path in (("first", None), ("resumed", tmp_path / "within.ckpt")):
        model = BertClassifier(NAMES, weights=Weights(pretrained=str(tiny_bert), stand_in=None))
        Trainer(
            accelerator="cpu",
            max_epochs=1,
            log_every_n_steps=1,
            logger=TensorBoardLogger(tmp_path, name="", version=name),
            callbacks=[Throughput(), SavingAt(1, tmp_path / "within.ckpt")],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(model, DataLoader(batches, batch_size=None), ckpt_path=ckpt_path, weights_only=True)
    for name, steps in (("first", [0, 1, 2, 3, 4]), ("resumed", [2, 3, 4])):
        logged = events_of(tmp_path / name).Scalars("train/texts_per_s")
        assert [event.step for event in logged] == steps
        assert all(event.value > 0 for event in logged)


# --- pictures


def test_each_validation_has_a_confusion_matrix(shown, asked):
    pictures = shown.board.Images("val/confusion_matrix")
    assert [picture.step for picture in pictures] == [15, 30, 45, 60, 75, 90]
    counts = torch.zeros(3, 3, dtype=torch.int64)
    for row, said in zip(shown.rows, asked, strict=True):
        counts[NAMES.index(row["label"]), NAMES.index(said["predicted_label"])] += 1
    canvas = FigureCanvasAgg(confusion_figure(counts, NAMES))
    canvas.draw()
    pixels = matplotlib.image.imread(io.BytesIO(pictures[-1].encoded_image_string), format="png")
    assert np.array_equal((pixels * 255).round(), np.asarray(canvas.buffer_rgba())[..., : pixels.shape[-1]])
    assert (counts != counts.T).any()  # or rows and columns could be swapped


def test_each_class_has_a_precision_recall_curve_per_validation(shown, asked):
    assert set(shown.board.PluginTagToContent("pr_curves")) == {
        f"val/precision_recall/{name}" for name in NAMES
    }
    for name in NAMES:
        curves = shown.board.Tensors(f"val/precision_recall/{name}")
        assert [curve.step for curve in curves] == [15, 30, 45, 60, 75, 90]
        right, wrong, _, missed, _, _ = make_ndarray(curves[-1].tensor_proto)
        # 127 thresholds from 0 to 1, so that the middle one is 1/2
        chosen = [
            row["label"]
            for row, said in zip(shown.rows, asked, strict=True)
            if said[f"probability_{name}"] >= 0.5
        ]
        assert (right[63], wrong[63]) == (chosen.count(name), len(chosen) - chosen.count(name))
        assert right[63] + missed[63] == [row["label"] for row in shown.rows].count(name)
    assert chosen


@pytest.mark.parametrize("classes", [2, 6, 77])
def test_a_confusion_figure_shows_every_class(classes):
    names = [f"class {index}" for index in range(classes)]
    counts = torch.arange(classes * classes).reshape(classes, classes) % 10
    counts[1] = 0  # a class without a row
    figure = confusion_figure(counts, names)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == names
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    shares = axes.images[0].get_array()
    assert shares.shape == (classes, classes)
    assert shares[0].sum() == pytest.approx(1)
    assert shares[0, 1] == pytest.approx(counts[0, 1] / counts[0].sum())
    assert (shares[1] == 0).all()
    written = {(text.get_position(), text.get_text()) for text in axes.texts}
    fits = classes <= 20
    assert len(written) == (classes * classes if fits else 0)
    assert (((1, 0), str(counts[0, 1].item())) in written) == fits  # x is the predicted class
    picture = io.BytesIO()
    figure.savefig(picture)
    height, width, _ = matplotlib.image.imread(io.BytesIO(picture.getvalue()), format="png").shape
    assert 400 <= height <= width <= 2400  # pixels; a browser shows it beside others
    assert len(picture.getvalue()) < 500_000


# --- what cannot be drawn


def fails(*_, **__):
    raise OSError(28, "No space left on device")


def breaks(*_, **__):
    raise RuntimeError("no picture today\n[red]")


FAILURES = {
    "a picture": ("matplotlib.figure.Figure.subplots", breaks, "the confusion matrix"),
    "a table": ("lit_bert.train.dashboard.errors_table", breaks, "the table of confident errors"),
    "a curve": ("torch.utils.tensorboard.SummaryWriter.add_pr_curve", breaks, "the precision-recall curves"),
    "settings": (
        "lightning.pytorch.loggers.TensorBoardLogger.log_hyperparams",
        breaks,
        "the settings beside the scores",
    ),
    "a writer of pictures": (
        "torch.utils.tensorboard.SummaryWriter.add_figure",
        fails,
        "the confusion matrix",
    ),
    "every writer": (
        "tensorboard.summary.writer.event_file_writer.EventFileWriter.add_event",
        fails,
        "TensorBoard's event file",
    ),
    "predictions": (
        "lit_bert.evaluate.predictions.Predictions.write",
        fails,
        "the predictions of the best epoch, validate.parquet,",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_cannot_be_drawn_is_said_once_and_ends_no_run(case, run, quick, monkeypatch):
    target, error, what = FAILURES[case]
    if case == "settings":  # Lightning itself logs settings when a run starts

        def at_the_end(self, params, metrics=None, step=None):
            return error() if metrics else None

        monkeypatch.setattr(target, at_the_end)
    elif case == "every writer":  # which opens its file by an event of its own
        opening = EventFileWriter.add_event

        def of_values(self, event):
            return error() if event.HasField("summary") else opening(self, event)

        monkeypatch.setattr(target, of_values)
    else:
        monkeypatch.setattr(target, error)
    outcome = run("fit", *quick)
    assert outcome.code == 0, outcome.err
    problem = (
        "OSError: [Errno 28] No space left on device"
        if error is fails
        else ("RuntimeError: no picture today\\n[red]")
    )
    wanted = f"{what} cannot be shown or kept ({problem}); training goes on without it"
    assert outcome.err.count(wanted) == 1
    assert outcome.err.count("cannot be shown") == 1
    assert "epoch 2, step 16" in outcome.err
    assert "Traceback" not in outcome.err
    folder = Path("checkpoints/version_0")
    assert (folder / "best.ckpt").is_file()
    assert (folder / "validate.json").is_file() == (case != "predictions")
    assert run("validate").code == 0 or case == "predictions"


# --- hyper-parameters


def test_settings_stand_beside_the_scores_that_were_printed(shown):
    plugin = shown.board.PluginTagToContent("hparams")
    settings = HParamsPluginData.FromString(plugin["_hparams_/session_start_info"]).session_start_info.hparams
    assert settings["learning_rate"].number_value == 0.01
    assert settings["batch_size"].number_value == 4
    assert settings["validation_rows"].number_value == 108
    assert settings["validation_rows_used_for"].string_value == "choosing the epoch"
    assert settings["trained on"].string_value == f"{shown.validation.parent} (folder)"
    infos = HParamsPluginData.FromString(plugin["_hparams_/experiment"]).experiment.metric_infos
    metrics = {info.name.tag for info in infos}
    scores = ("score", "f1", "f1_micro", "accuracy", "loss_nats", *(f"f1_class/{name}" for name in NAMES))
    assert metrics == {f"val_best/{name}" for name in scores}
    printed = dict(
        re.findall(r"^ +(macro F1|micro F1|accuracy|loss, nats|\w+) +(\d\.\d{4})", shown.out, re.MULTILINE)
    )
    label = {"score": "macro F1", "f1": "macro F1", "f1_micro": "micro F1"}
    best = {name: values(shown.board, f"val_best/{name}")[0] for name in scores}
    loss = best.pop("loss_nats")
    for name, value in best.items():
        assert f"{value:.4f}" == printed[label.get(name, name.removeprefix("f1_class/"))]
    # The printed loss is that of calibrated logits; as the weights left them, they have the logged one.
    kept = Predictions.read(shown.folder / "validate.parquet")
    T = content_of(shown.folder / "best.ckpt").get("temperature", 1.0)
    log_probs, labels = torch.from_numpy(kept.outputs).log(), torch.from_numpy(kept.labels)
    assert f"{nll_loss(log_probs, labels):.4f}" == printed["loss, nats"]
    assert float(nll_loss((T * log_probs).log_softmax(1), labels)) == pytest.approx(loss, rel=1e-4)


def test_the_best_scores_are_those_of_the_kept_weights(shown):
    """Of their average at its best epoch, or as trained where the rows do not tell the two apart."""
    record = json.loads((shown.folder / "validate.json").read_text())
    kept, scores = content_of(shown.folder / "best.ckpt"), record["scores"]
    assert kept["global_step"] == record["averaging"]["global_step"]
    found = {
        "score": scores["macro_f1"],
        "f1": scores["macro_f1"],
        "f1_micro": scores["micro_f1"],
        "f1_class/joy": scores["by_class"]["joy"],
    }
    for name, score in found.items():
        assert values(shown.board, f"val_best/{name}") == [pytest.approx(score)]
    assert kept["val_score"] == pytest.approx(scores["macro_f1"])
    f1 = values(shown.board, "val/f1")
    assert scores["macro_f1"] >= max(f1) - 1e-6 or not record["averaging"]["kept"]


# --- texts


def test_the_table_holds_the_most_confidently_wrong_texts(shown, asked):
    tables = texts(shown.board, "val/most_confidently_wrong/text_summary")
    assert sorted(tables) == [15, 30, 45, 60, 75, 90]
    wrong = [
        (row["probability"], f"{label}, but {row['predicted_label']}", " ".join(row["text"].split()))
        for row, label in zip(asked, (row["label"] for row in shown.rows), strict=True)
        if row["predicted_label"] != label
    ]
    assert len(wrong) > 20
    table = [(*said.rsplit(" ", 1), text) for said, text in cells(tables[90])]
    assert len(table) == 20
    confidence = [float(probability) for _, probability, _ in table]
    assert confidence == sorted(confidence, reverse=True)
    assert confidence == pytest.approx(sorted((each[0] for each in wrong), reverse=True)[:20], abs=0.001)
    pairs = {(text, pair): probability for probability, pair, text in wrong}
    for pair, probability, text in table:
        assert pairs[text, pair] == pytest.approx(float(probability), abs=0.001)


def test_borders_in_a_text_do_not_break_the_table(shown):
    table = texts(shown.board, "val/most_confidently_wrong/text_summary")[15]
    assert "| *cat* |" not in table
    assert any(cell.endswith("| *cat* |") for _, cell in cells(table))
    assert all(len(row) == 2 for row in cells(table))


def test_sources_are_written_to_the_dashboard(run, tiny_bert):
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.accelerator=cpu"]
    stands_in = ["--data.dataset=nobody/tweets", "--data.train_rows=12", "--data.val_rows=12"]
    assert run("fit", f"--weights.pretrained={tiny_bert}", *stands_in, *short).code == 0
    facts = dict(cells(texts(events_of("checkpoints/version_0"), "run/text_summary")[0]))
    assert facts["weights"] == f"{tiny_bert} (folder)"
    assert facts["trained on"] == "sample (packaged), STANDING IN for nobody/tweets: HF_HUB_OFFLINE is set"
    assert (facts["seed"], facts["batch size"]) == ("0", "32")
    assert facts["precision"] in ("bf16-mixed", "32-true")
    assert facts["validation rows"] == "12"
    assert facts["validation rows used for"] == "choosing the epoch"


# --- progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_with_the_metrics_that_matter(quick, monkeypatch):
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "110", "LINES": "40"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "CI", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert main(["fit", *quick]) == 0
    seen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert re.search(r"Epoch 1.*loss: \d\.\d{3}.*f1: 0\.\d{3} \(n=24\)  tok/s: \d+", seen)
    assert "epoch 1, step" not in seen  # the lines are for what is no terminal


# --- predictions


@pytest.fixture
def labelling(shown, monkeypatch):
    """Labels rows in windows of four and batches of three; gives the callback and the model."""
    monkeypatch.setattr("lit_bert.data.batches.PREDICT_ROWS", 4)
    weights = Weights(checkpoint=str(shown.folder / "last.ckpt"))
    model = BertClassifier(NAMES, weights=weights)

    def label(rows, file=None):
        module = EmotionDataModule(label_names=NAMES, weights=weights, eval_batch_size=3, max_length=7)
        module.predict_from(rows)
        with RowWriter(file) as writer:
            kept = PredictionWriter(writer)
            Trainer(
                accelerator="cpu",
                logger=False,
                callbacks=[kept],
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            ).predict(model, module, return_predictions=False)
        return kept, model

    return label


def test_rows_keep_their_order_and_their_predictions_whatever_their_length(labelling):
    words = ["happy", "sad", "angry", "glad", "rain", "late", "down", "sun", "mad", "happy", "rain"]
    lengths = [3, 9, 1, 5, 2, 8, 8, 4, 1, 6, 2]  # words; five and two special tokens fit
    texts = [" ".join([word] * length) for word, length in zip(words, lengths, strict=True)]
    rows = [Numbered(number, 0, {"id": number, "text": text}) for number, text in enumerate(texts, 1)]
    kept, model = labelling(rows, "out.jsonl")
    assert (kept.rows, kept.truncated) == (11, 4)
    written = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [(row["id"], row["text"]) for row in written] == list(enumerate(texts, 1))
    model.eval()
    alone = []
    for text in texts:
        ids = torch.tensor([model.weights.tokenizer(7).encode(text).ids])
        alone.append(model.predict_step({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 0)[0])
    for row, probs in zip(written, alone, strict=True):
        found = [row[f"probability_{name}"] for name in NAMES]
        assert found == pytest.approx(probs.tolist(), abs=1e-4)
        assert row["predicted_label"] == NAMES[probs.argmax()]
    assert {row["predicted_label"] for row in written[:3]} == {"joy", "sadness", "anger"}


def test_rows_come_out_before_the_last_one_is_read(labelling, capfd):
    out_by_then = []

    def stream():
        for number in range(1, 21):
            out_by_then.append(capfd.readouterr().out.count("\n"))
            yield Numbered(number, 0, {"text": "happy"})

    labelling(stream())
    # The reader is at most a window and a batch ahead, so that a pipe without an end can be labelled.
    assert sum(out_by_then) >= 12
