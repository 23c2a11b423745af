"""Names of classes through every output: letter for letter for programs, harmless where people read."""

from __future__ import annotations

import csv
import html
import json
import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from conftest import WORDS, Run
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from test_escape import ACTIVE, Cells, common_mark, tensorboard
from ugly import UGLY

import lit_bert
from lit_bert.__main__ import main
from lit_bert.evaluate.audit_text import suspects_text
from lit_bert.evaluate.predictions import Predictions
from lit_bert.evaluate.record import score_table
from lit_bert.io import escape
from lit_bert.task.classes import softmax
from lit_bert.task.kinds import task_of
from lit_bert.train.dashboard import confusion_figure, errors_table


def some(names: list[str], seed: int = 0, **facts: Any) -> Predictions:
    """Predictions of three rows a class, most of them right, except that no row is labelled as the last."""
    generator, C = np.random.default_rng(seed), len(names)
    labels = np.arange(3 * C) % max(C - 1, 1)
    logits = generator.normal(size=(3 * C, C))
    logits[np.arange(3 * C), labels] += 3
    texts = [f"{names[n % C]} | {n}" for n in range(3 * C)]
    facts = {"split": "validation", "used_for": [], **facts}
    task, probs = task_of("single", names), softmax(logits).astype("f4")
    return Predictions(task, texts, np.arange(3 * C), labels, probs, facts)


# --- terminal


def test_a_table_of_scores_has_a_harmless_line_for_each_class() -> None:
    predictions = some(UGLY)
    found = predictions.intervals
    table = score_table("split x", found, predictions.evidence, [])
    lines = table.partition("F1 by class\n")[2].partition("\n\n")[0].splitlines()
    assert len(lines) == len(UGLY)
    assert not ACTIVE.search(table)
    assert max(map(len, table.splitlines())) < 160
    for line, name, score in zip(lines, escape.names(UGLY), found.by_class, strict=True):
        assert line.startswith(f"    {name} ")
        if score:
            assert line.endswith(f"{score.value:.4f}  [{score.low:.4f}, {score.high:.4f}]")


def test_comparison_and_seeds_have_a_harmless_line_for_each_class(run: Run) -> None:
    for seed in (0, 1):
        Path(f"runs/seed_{seed}").mkdir(parents=True)
        some(UGLY, seed).write(Path(f"runs/seed_{seed}/validate.parquet"))
    Path("runs/seeds.json").write_text('["seed_0", "seed_1"]')
    for arguments, start in ((["runs"], ""), (["runs/seed_0", "runs/seed_1"], "F1 ")):
        outcome = run("report", *arguments)
        assert outcome.code == 0
        assert not ACTIVE.search(outcome.out)
        for name in escape.names(UGLY):
            assert any(line.startswith(f"{start}{name} ") for line in outcome.out.splitlines()), name
        assert max(map(len, outcome.out.splitlines())) < 240


def test_the_box_of_stand_ins_reads_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    from lightning.pytorch import Trainer

    from lit_bert.cli.start import prepare_process
    from lit_bert.evaluate.announce import announce
    from lit_bert.sources.hub import Source

    names = ["[red]x[/red]", "[/]", "[link=http://127.0.0.1]x", "\x1b[31mred\x1b[0m", "a\nb"]
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    prepare_process()
    announce(trainer, [("rows", Source("sample", "packaged", stand_in_for=n, reason="none")) for n in names])
    shown = capsys.readouterr().err
    for name in names:
        assert f"instead of {escape.line(name)}" in re.sub(r"\s*│\n│\s*", " ", shown)
    assert "\x1b[31mred" not in shown


# --- an audit


def test_an_audit_shows_names_and_texts_that_do_nothing_to_a_terminal(
    run: Run, tiny_bert: Path, tmp_path: Path
) -> None:
    names = [*UGLY, "class", "split", "rows"]
    rows = [{"text": f"{WORDS[n % 28]} {n}", "label": name} for n, name in enumerate(names)]
    rows += [{"text": "twice \x1b[31m\u202e", "label": name} for name in names[:60]]
    file = tmp_path / "ugly.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    outcome = run("audit", f"--data.dataset={file}", f"--weights.pretrained={tiny_bert}", "--examples=50")
    assert outcome.code == 0, outcome.err
    assert not ACTIVE.search(outcome.out + outcome.err)
    lines = outcome.out.split("\n")
    start = next(index for index, line in enumerate(lines) if re.match(r"class +train", line)) + 1
    shown = escape.names(sorted(names))
    assert [line[: len(name)] for line, name in zip(lines[start:], shown, strict=False)] == shown
    assert r"| twice \x1b[31m\u202e" in outcome.out


def test_suspected_labels_are_shown_by_names_that_do_nothing_to_a_terminal() -> None:
    names = ["label", *UGLY]
    text = suspects_text(some(names), np.arange(40))
    assert not ACTIVE.search(text)
    lines = text.split("\n")
    start = next(index for index, line in enumerate(lines) if re.match(r"label +rows", line)) + 1
    shown = escape.names(names)
    assert [line[: len(name)] for line, name in zip(lines[start:], shown, strict=False)] == shown


# --- flags

FLAGS = {  # what --data.label_names gets, and the names that it means
    '["\\ud83d\\ude00", "b"]': ["😀", "b"],  # JSON as Python's json writes it
    '["a\x85b", "c"]': ["a\x85b", "c"],
    '["nul\\u0000l", "1e3"]': ["nul\x00l", "1e3"],
    "[a, 1e3]": ["a", "1e3"],
    "[a, b]": ["a", "b"],
    "#x,b": ["#x", "b"],
    "a #b,c": ["a #b", "c"],
    "- x,b": ["- x", "b"],
    "~,null": ["~", "null"],
    "1e3,12:30,yes": ["1e3", "12:30", "yes"],
    "a: b,{c}": ["a: b", "{c}"],
    "&x,*x,!x,%x": ["&x", "*x", "!x", "%x"],
    '"a,b",c': ["a,b", "c"],
}


@pytest.mark.parametrize("flag", FLAGS)
def test_names_in_a_flag_are_no_yaml(flag: str, run: Run, tiny_bert: Path, tmp_path: Path) -> None:
    names = FLAGS[flag]
    rows = [{"text": f"{WORDS[n]} {time}", "label": name} for n, name in enumerate(names) for time in "ab"]
    for split in ("train", "validation"):
        lines = [json.dumps({**row, "text": f"{row['text']} {split}"}) for row in rows]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    place = f"--trainer.logger.init_args.save_dir={tmp_path / 'runs'}"
    flags = [f"--weights.pretrained={tiny_bert}", f"--data.dataset={tmp_path}", "--trainer.max_epochs=1"]
    outcome = run("fit", *flags, f"--data.label_names={flag}", place, "--trainer.accelerator=cpu")
    assert outcome.code == 0, outcome.err
    record = json.loads((tmp_path / "runs/version_0/validate.json").read_text(encoding="utf-8"))
    assert list(record["scores"]["by_class"]) == names


def test_a_file_in_a_flag_is_no_comment(run: Run, trained: Path) -> None:
    outcome = run("predict", "happy", f"--ckpt_path={trained / 'best.ckpt'}", "--output=#1.csv")
    assert outcome.code == 0, outcome.err
    assert outcome.out == ""
    assert Path("#1.csv").read_text(encoding="utf-8").startswith("text,predicted_label")


# --- pictures


@pytest.mark.parametrize("start", range(0, len(UGLY), 20))
def test_a_picture_shows_each_name_and_warns_of_nothing(
    start: int, capfd: pytest.CaptureFixture[str]
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    names = UGLY[start : start + 20]
    figure = confusion_figure(np.eye(len(names), dtype=np.int64), names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs, as the Dashboard does
        FigureCanvasAgg(figure).draw()
    labels = figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == escape.names(names, 30)
    assert not any(label.get_parse_math() for label in labels)
    assert capfd.readouterr().err == ""


# --- files


def test_predictions_keep_names_letter_for_letter() -> None:
    some(UGLY).write(Path("some.parquet"))
    found = Predictions.read(Path("some.parquet"))
    assert found.class_names == UGLY
    assert np.array_equal(found.labels, some(UGLY).labels)
    assert np.array_equal(found.outputs, some(UGLY).outputs)


@pytest.mark.fuzz
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=6, unique=True))
def test_predictions_keep_any_names(names: list[str]) -> None:
    some(names).write(Path("fuzz.parquet"))
    found = Predictions.read(Path("fuzz.parquet"))
    assert (found.class_names, found.texts) == (names, some(names).texts)
    assert np.array_equal(found.labels, some(names).labels)


def test_predictions_of_an_earlier_version_are_read_and_other_classes_refused() -> None:
    some(["a", "b", "c"]).write(Path("new.parquet"))
    table = pyarrow.parquet.read_table("new.parquet")
    old = table.replace_schema_metadata({b"lit_bert": table.schema.metadata[b"lit_bert"]})
    pyarrow.parquet.write_table(old, "old.parquet")
    assert Predictions.read(Path("old.parquet")).class_names == ["a", "b", "c"]
    wrong = table.replace_schema_metadata({**table.schema.metadata, b"lit_bert classes": '["a", "c", "b"]'})
    pyarrow.parquet.write_table(wrong, "wrong.parquet")
    with pytest.raises(
        lit_bert.UserError, match="columns of probabilities that are not those of its classes"
    ):
        Predictions.read(Path("wrong.parquet"))
    assert pa.types.is_string(table.schema.field("label").type)


def test_rows_where_two_runs_part_keep_names_in_a_file(run: Run) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        Path(name).mkdir()
        some(UGLY, seed).write(Path(name, "validate.parquet"))
    assert run("report", "a", "b", "--output=differing.parquet").code == 0
    rows = pyarrow.parquet.read_table("differing.parquet").to_pylist()
    assert len(rows) > 20
    first, second = some(UGLY, 0), some(UGLY, 1)
    for row in rows:
        index = row["row"] - 1
        wanted = (UGLY[each] for each in (first.labels[index], first.preds[index], second.preds[index]))
        assert (row["label"], row["first"], row["second"]) == tuple(wanted)
    assert run("report", "a", "b", "--output=differing.csv").code == 0
    with Path("differing.csv").open(newline="", encoding="utf-8") as stream:
        assert len(list(csv.DictReader(stream))) == len(rows)


def test_the_page_of_a_run_holds_names_as_text(tmp_path: Path) -> None:
    pytest.importorskip("cleanlab")
    pytest.importorskip("captum")
    from test_report_page import written

    page = written(some(UGLY), tmp_path)
    assert page.data["classes"] == UGLY
    shown = re.sub(r'<script type="application/json".*?</script>', "", page.text, flags=re.S)
    assert not ACTIVE.search(shown)
    assert page.data["names"] == escape.names(UGLY, 60)
    assert [tag for tag, _ in page.tags].count("script") == 2 == len(page.scripts)
    heads = re.findall(r'<th scope="row"><bdi>(.*?)</bdi></th>', page.text)
    assert {html.unescape(head) for head in heads} == set(escape.names(UGLY, 60))


# --- a model whose classes are called so


@dataclass
class Ugly:
    """A fit whose classes have all the ugly names, and the folder that it was exported to."""

    folder: Path
    exported: Path
    out: str
    err: str


@pytest.fixture(scope="module")
def ugly(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Ugly:
    import io

    place = tmp_path_factory.mktemp("ugly")
    (place / "data").mkdir()
    for split, repeats in (("train", 3), ("validation", 2)):
        rows = [
            (f"{WORDS[n % 28]} {WORDS[(n // 28 + time) % 28]} {split[0] * (time + 1)}", name)
            for time in range(repeats)
            for n, name in enumerate(UGLY)
            if split == "train" or n % 11  # some have no row to be validated on
        ]
        texts, labels = zip(*rows, strict=True)
        texts = tuple(f"{text} {number}" for number, text in enumerate(texts))
        pyarrow.parquet.write_table(
            pa.table({"text": texts, "label": labels}), place / "data" / f"{split}.parquet"
        )
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_BERT_CACHE", str(place / "cache"))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        flags = [f"--weights.pretrained={tiny_bert}", f"--data.dataset={place / 'data'}"]
        flags += [f"--trainer.logger.init_args.save_dir={place / 'checkpoints'}", "--trainer.max_epochs=2"]
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of glyphs
            warnings.filterwarnings("ignore", module="(lightning|torch|transformers)")
            assert main(["fit", *flags, "--trainer.accelerator=cpu"]) == 0, err.getvalue()
        folder = place / "checkpoints" / "version_0"
        checkpoint = f"--ckpt_path={folder / 'best.ckpt'}"
        assert main(["export", checkpoint, "--max_f1_loss=100", f"--to={place / 'exported'}"]) == 0, (
            err.getvalue()
        )
    return Ugly(folder, place / "exported", out.getvalue(), err.getvalue())


def test_a_fit_prints_names_that_do_nothing_to_a_terminal(ugly: Ugly) -> None:
    assert "audit      few rows to learn from" in ugly.err
    assert not ACTIVE.search(ugly.out + ugly.err)


def test_json_has_each_class_under_its_own_key(ugly: Ugly) -> None:
    record = json.loads((ugly.folder / "validate.json").read_text(encoding="utf-8"))
    for part in (record["scores"]["by_class"], record["intervals"]["by_class"], record["labelled"]):
        assert sorted(part) == sorted(UGLY)
    absent = {name for name, rows in record["labelled"].items() if not rows}
    assert len(absent) == len(range(0, len(UGLY), 11))
    assert {name for name, f1 in record["scores"]["by_class"].items() if f1 is None} == absent
    assert record["scores"].keys() == {
        *("macro_f1", "micro_f1", "accuracy", "loss_nats", "calibration_error", "by_class")
    }


def test_a_checkpoint_gives_names_letter_for_letter(ugly: Ugly, run: Run, tmp_path: Path) -> None:
    checkpoint = f"--ckpt_path={ugly.folder / 'best.ckpt'}"
    before = json.loads((ugly.folder / "validate.json").read_text(encoding="utf-8"))
    outcome = run("validate", checkpoint)
    assert outcome.code == 0, outcome.err
    after = json.loads((ugly.folder / "validate.json").read_text(encoding="utf-8"))
    assert after["scores"]["by_class"] == pytest.approx(before["scores"]["by_class"])
    assert after["used_for"] == before["used_for"] != []
    outcome = run("predict", "happy", checkpoint, f"--output={tmp_path / 'out.parquet'}")
    assert outcome.code == 0, outcome.err
    (row,) = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [f"probability_{name}" for name in sorted(UGLY)] == list(row)[-len(UGLY) :]
    assert row["predicted_label"] == max(sorted(UGLY), key=lambda name: row[f"probability_{name}"])


def test_tensorboard_has_a_tag_of_its_own_for_each_class(ugly: Ugly) -> None:
    sizes = dict.fromkeys(("scalars", "tensors", "images"), 0)
    board = EventAccumulator(str(ugly.folder), size_guidance=sizes).Reload()
    names = sorted(UGLY)
    present = [tag for tag, name in zip(escape.tags(names), names, strict=True) if UGLY.index(name) % 11]
    logged = [tag for tag in board.Tags()["scalars"] if tag.startswith("val/f1_class/")]
    assert sorted(logged) == sorted(f"val/f1_class/{tag}" for tag in present)
    assert len(board.PluginTagToContent("pr_curves")) == len(UGLY)
    assert len(board.Images("val/confusion_matrix")) == 2
    for event in board.Tensors("val/most_confidently_wrong/text_summary"):
        table = make_ndarray(event.tensor_proto).item().decode()
        found = Cells(tensorboard(table))
        assert found.tags <= {"table", "thead", "tbody", "tr", "th", "td"}
        shown = set(escape.names(names))
        for cell in found.cells[::2]:
            assert cell.split(", but ")[0].strip() in {name.strip() for name in shown} | {"a", "a,b"}


def test_an_exported_folder_gives_names_letter_for_letter(ugly: Ugly) -> None:
    from lit_bert.product.folder import facts
    from lit_bert.product.formats import ONNX, ONNX_INT8
    from lit_bert.product.predictor import Predictor

    for file in (ONNX, ONNX_INT8):
        assert Predictor(ugly.exported, file=file).labels == sorted(UGLY)
    config = json.loads((ugly.exported / "config.json").read_text(encoding="utf-8"))
    assert [config["id2label"][str(index)] for index in range(len(UGLY))] == sorted(UGLY)
    found = facts(ugly.exported)
    assert found["labels"] == sorted(UGLY)
    assert found["scores"]["validation"]["by_class"].keys() == set(UGLY)
    # Both validate and labels of the checkpoint are the same model, class by class.
    kept = json.loads((ugly.folder / "validate.json").read_text(encoding="utf-8"))["scores"]["by_class"]
    assert {name for name, f1 in kept.items() if f1 is None} == {
        name for name, f1 in found["scores"]["validation"]["by_class"].items() if f1 is None
    }


def test_the_card_is_markdown_with_a_row_for_each_class(ugly: Ugly) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(ugly.exported / "README.md")
    assert yaml.safe_load(card.data.to_yaml())["library_name"] == "transformers"
    page = Cells(common_mark(card.text))
    assert page.tags <= {
        *("p", "h1", "h2", "ul", "li", "pre", "code"),
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    }
    shown = {f"F1 {name}".strip() for name in escape.names(sorted(UGLY))}
    assert shown <= {cell.strip() for cell in page.cells}


# --- a class whose name is that of a score


def test_a_class_called_micro_takes_the_place_of_no_score(run: Run, tmp_path: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    names = ["macro", "micro", "pico"]
    labels, preds = np.array([0] * 5 + [1] * 3 + [2] * 4), np.array([0, 0, 1, 2, 0, 1, 1, 0, 2, 2, 2, 1])
    probs = np.full((12, 3), 0.1, dtype="f4")
    probs[np.arange(12), preds] = 0.8
    texts = [f"text {n}" for n in range(12)]
    predictions = Predictions(task_of("single", names), texts, np.arange(12), labels, probs, {})
    found = predictions.intervals
    each = metrics.f1_score(labels, preds, average=None)
    assert found.macro_f1.value == pytest.approx(metrics.f1_score(labels, preds, average="macro"))
    assert found.micro_f1.value == pytest.approx(metrics.f1_score(labels, preds, average="micro"))
    assert [score.value for score in found.by_class] == pytest.approx(each)
    plain = found.as_dict(lambda score: score.value)
    assert plain["by_class"] == dict(zip(names, each, strict=True))
    table = score_table("split x", found, predictions.evidence, [])
    for start, value in {"macro F1": plain["macro_f1"], "micro F1": plain["micro_f1"]}.items():
        assert re.search(rf"^  {start} +{value:.4f} ", table, re.MULTILINE)
    for name, value in plain["by_class"].items():
        assert re.search(rf"^    {name} +{value:.4f} ", table, re.MULTILINE)
    for name in "ab":
        Path(name).mkdir()
        predictions.write(Path(name, "validate.parquet"))
    out = run("report", "a", "b").out
    for name, value in plain["by_class"].items():
        assert re.search(rf"^F1 {name} +{value:.4f} +{value:.4f} ", out, re.MULTILINE)
    assert errors_table(predictions).count("\n") == 5


@pytest.mark.parametrize("count", [1, 2])
def test_scores_of_rows_that_lack_classes_say_so(count: int, run: Run, tmp_path: Path) -> None:
    """As for a test set of one class: the others are absent, or were predicted and count as 0."""
    labels = np.arange(20) % count
    probs = np.full((20, 4), 0.05, dtype="f4")
    probs[np.arange(20), labels] = 0.85
    probs[:3] = [0.05, 0.05, 0.85, 0.05]  # of a class that is no label
    names = ["fee", "debit", "cheque", "card"]
    texts = [f"text {n}" for n in range(20)]
    predictions = Predictions(task_of("single", names), texts, np.arange(20), labels, probs, {})
    found = predictions.intervals
    by_class = [None if score is None else score.value for score in found.by_class]
    assert by_class[count:] == [None] * (4 - count)
    assert found.macro_f1.value == pytest.approx(sum(by_class[:count]) / (count + 1))
    table = score_table("split x", found, predictions.evidence, [])
    assert f"mean over {count + 1} of 4 classes" in table
    assert re.search(
        r"^    cheque +absent: no row has this label, 3 rows predicted as it; counts as 0", table, re.M
    )
    assert re.search(r"^    card +absent: no row has this label$", table, re.M)
    for name in ("seed_0", "seed_1"):
        Path("runs", name).mkdir(parents=True)
        predictions.write(Path("runs", name, "validate.parquet"))
    Path("runs/seeds.json").write_text('["seed_0", "seed_1"]')
    for arguments in (["runs"], ["runs/seed_0", "runs/seed_1"]):
        out = run("report", *arguments).out
        assert re.search(r"^(F1 )?card +absent: no row has this label$", out, re.M)
        assert not re.search(r"^(F1 )?(card|cheque) +0", out, re.M)
        assert f"macro F1 is the mean over {count + 1} of 4 classes" in out
    pytest.importorskip("cleanlab")
    pytest.importorskip("captum")
    outcome = run("report", "runs/seed_0")
    assert outcome.code == 0
    page = Path("runs/seed_0/report.html").read_text(encoding="utf-8")
    assert f"mean over {count + 1} of 4 classes" in page
    row = re.search(r'<tr><th scope="row"><bdi>card</bdi></th>(.*?)</tr>', page)
    assert row
    assert "absent: no row has this label" in row[1]
    assert "0.000" not in row[1]
