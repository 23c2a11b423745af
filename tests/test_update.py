"""A model that goes on from an old one: rows of classes that stay, and both side by side on the same rows."""

import html
import json
import logging
import re
import shutil

import conftest
import numpy as np
import pytest
import torch

from lit_bert.data.cache import text_hash
from lit_bert.evaluate.page_changes import changes
from lit_bert.evaluate.predictions import TRAINED, VALIDATED, Predictions, read_hashes
from lit_bert.evaluate.update import UPDATE, Side, class_changes, compare_models, update_lines
from lit_bert.model.pretrained import load_network
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.weights import Weights
from lit_bert.task.kinds import task_of

OUTPUTS = torch.eye(4).numpy()


def test_classes_that_stay_keep_their_rows_by_name(trained):
    weights = Weights(checkpoint=str(trained / "best.ckpt"))
    weights.keeps_classes = True
    known = weights.checkpoint.model.label_names
    own = load_network(weights, known).classifier
    names = ["fear", known[2], "love", known[0]]
    found = load_network(weights, names).classifier
    assert torch.equal(found.weight[[1, 3]], own.weight[[2, 0]])
    assert torch.equal(found.bias[[1, 3]], own.bias[[2, 0]])
    assert found.weight[[0, 2]].abs().max() < 0.2  # drawn small
    assert not found.bias[[0, 2]].any()


def sides():
    """An old model of a, b, c; a new one of b, a, d: rows, and what both say of them."""
    old, new = task_of("single", ["a", "b", "c"]), task_of("single", ["b", "a", "d"])
    labels = np.array([0] * 40 + [1] * 40 + [2] * 20)  # b, a, d of the new model
    of_old = np.array([1] * 20 + [2] * 20 + [0] * 40 + [0] * 20)  # half of b right, all of a, none of d
    of_new = np.array([0] * 40 + [0] * 20 + [1] * 20 + [2] * 20)  # all of b, half of a, all of d
    eye = np.eye(3, dtype=np.float32)
    return Side(old, eye[of_old]), Side(new, eye[of_new]), labels


def test_rows_whose_classes_both_know_are_compared_apart():
    old, new, labels = sides()
    shared, whole = compare_models(old, new, labels)["parts"]
    assert (shared["rows"], whole["rows"]) == (80, 100)
    scores = {name: values for name, *values in shared["scores"]}
    assert scores["F1 b"][:2] == pytest.approx([2 / 3, 0.8])  # 20 right of 40, none wrong; 40 right, 20 wrong
    assert scores["F1 a"][:2] == pytest.approx([1, 2 / 3])
    # Of a, b, and c and d that one of them answers for such rows: the mean is that of a and b.
    assert scores["macro F1"][:3] == pytest.approx([5 / 6, (0.8 + 2 / 3) / 2, (0.8 + 2 / 3) / 2 - 5 / 6])
    assert scores["macro F1"][3] < scores["macro F1"][2] < scores["macro F1"][4]
    assert "F1 c" not in scores
    assert "F1 d" not in scores
    assert shared["p_value"] == 1  # each alone has 20 rows right
    assert shared["worse"] == ["a"]
    assert shared["better"] == []  # of b, the new one answers 20 more rightly, and 20 more wrongly
    assert "d" in whole["better"]
    text = "\n".join(update_lines({"parts": [shared, whole], "notes": ["a note"]}))
    assert "rows whose classes both know: 80" in text
    assert "worse: a" in text


def test_no_class_is_better_by_chance():
    generator, alarms = np.random.default_rng(0), 0
    task = task_of("single", ["a", "b", "c", "d"])
    for _ in range(200):
        labels = generator.integers(4, size=200)
        answers = [
            np.where(generator.random(200) < 0.8, labels, generator.integers(4, size=200)) for _ in range(2)
        ]
        found = class_changes(task, tuple(OUTPUTS[each] for each in answers), labels, task.class_names)
        alarms += any(p <= 0.05 for *_, p in found.values())
    assert alarms <= 18  # of 200 at 5 %: more come up in 1 % of all simulations


def test_several_labels_are_compared_with_the_thresholds_of_each():
    old = task_of("multi_label", ["a", "b"], {"thresholds": (0.2, 0.5)})
    new = task_of("multi_label", ["a", "b"], {"thresholds": (0.5, 0.5)})
    outputs = np.array([[0.3, 0.1], [0.3, 0.9]] * 20, np.float32)
    labels = np.array([[1, 0], [1, 1]] * 20, np.uint8)
    (part,) = compare_models(Side(old, outputs), Side(new, outputs), labels)["parts"]
    scores = {name: values for name, *values in part["scores"]}
    assert scores["F1 a"][:2] == [1, 0]
    assert scores["F1 b"][:2] == [1, 1]
    assert part["worse"] == ["a"]


@pytest.fixture
def more(tmp_path):
    """Rows of two of the known classes, and of a new one."""
    rows = [
        {"text": text, "label": label}
        for label in ("sadness", "joy")
        for text in conftest.texts_of(label, 40)
    ]
    rows += [{"text": f"{text} dog cat train", "label": "fear"} for text in conftest.texts_of("anger", 40)]
    return conftest.write_csv(tmp_path / "more.csv", rows)


def flags_of(quick, more):
    return [*quick[2:], f"--data.dataset={more}", "--data.val_fraction=0.4"]


def test_a_fit_from_a_model_compares_both(able, quick, more, run):
    outcome = run("fit", *flags_of(quick, more), "--trainer.max_epochs=8", "--from", able)
    assert outcome.code == 0, outcome.err
    assert "2 classes stay: joy, sadness" in outcome.err
    assert "1 class is new: fear" in outcome.err
    assert "1 class goes: anger" in outcome.err
    assert "rows whose classes both know: 32" in outcome.out
    assert "all rows: 48" in outcome.out
    assert "F1 fear" in outcome.out
    assert "better: " in outcome.out
    run_folder = next(conftest.Path("checkpoints").glob("version_*"))
    said = json.loads((run_folder / UPDATE).read_text())
    assert [part["rows"] for part in said["parts"]] == [32, 48]
    scores = {name: values for name, *values in said["parts"][0]["scores"]}
    assert scores["F1 joy"][0] > 0.9  # the old model is read as it labels
    checkpoint = Checkpoint.open(run_folder / "best.ckpt")
    assert checkpoint.model.label_names == ["fear", "joy", "sadness"]
    assert run("report", run_folder).code == 0
    page = (run_folder / "report.html").read_text(encoding="utf-8")
    assert f"The run started from {able / 'best.ckpt'}" in page
    for part in said["parts"]:
        _, rest = page.split(f"<h3>{part['title'].capitalize()}: {part['rows']}</h3>")
        cells = re.findall(r"<td[^>]*>([^<]*)</td>", rest.split("</table>")[0])
        expected = [
            (f"{old:.3f}", f"{new:.3f}", f"{change:+.3f}", f"{low:+.3f} to {high:+.3f}")
            for _, old, new, change, low, high in part["scores"]
        ]
        assert cells == [cell for row in expected for cell in row]
        assert f"equally often: p = {part['p_value']:.3g}. Better: {', '.join(part['better'])}" in rest
    assert "The rows chose between epochs of the new model, which favours it." in page


HOSTILE = "<script>alert(1)</script>\u202e"


def compared(sha256):
    """What `fit --from` keeps, with a class name that is no good for a page."""
    old, new, labels = sides()
    old, new = (
        Side(task_of("single", [HOSTILE if name == "b" else name for name in task.class_names]), outputs)
        for task, outputs in (old, new)
    )
    found = compare_models(old, new, labels)
    return {**found, "old": f"{HOSTILE}.ckpt", "notes": [f"a note {HOSTILE}"], "checkpoint": sha256}


def test_the_report_shows_names_as_text_and_has_no_section_without_a_comparison(able, run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(able, folder)
    assert run("report", folder, "--output", tmp_path / "without.html").code == 0
    page = (tmp_path / "without.html").read_text(encoding="utf-8")
    assert "Old and new model" not in page
    assert 'id="update"' not in page
    assert "New texts" not in page
    sha256 = Checkpoint.open(folder / "best.ckpt").sha256
    (folder / UPDATE).write_text(json.dumps(compared(sha256)))
    assert run("report", folder).code == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    section = page.split('<section id="update"')[1].split("</section>")[0]
    assert "<script" not in section
    assert "\u202e" not in section
    shown = html.unescape(section)
    for text in ("F1 <script>alert(1)</script>\\u202e", "A note <script>", "from <script>", "Worse: a."):
        assert text in shown


DAMAGES = {
    "no JSON": lambda said: "{",
    "no object": lambda said: [],
    "of another checkpoint": lambda said: said | {"checkpoint": "0" * 64},
    "of none": lambda said: said | {"checkpoint": None},
    "without parts": lambda said: {"checkpoint": said["checkpoint"]},
    "parts of another kind": lambda said: said | {"parts": [1]},
    "a number that is none": lambda said: said | {"parts": [said["parts"][0] | {"scores": [["a"] * 6]}]},
    "a number that is too large": lambda said: (
        said | {"parts": [said["parts"][0] | {"scores": [["a", *[10**38] * 5]], "rows": "many"}]}
    ),
    "too few numbers": lambda said: said | {"parts": [said["parts"][0] | {"scores": [["a", 1]]}]},
    "notes that are none": lambda said: said | {"notes": [None]},
    "classes that are none": lambda said: said | {"parts": [said["parts"][0] | {"better": 3}]},
    "a p-value that is none": lambda said: said | {"parts": [said["parts"][0] | {"p_value": [1]}]},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_comparison_that_is_damaged_or_of_another_checkpoint_is_left_out(damage, tmp_path, caplog):
    found = DAMAGES[damage](compared("a" * 64))
    (tmp_path / UPDATE).write_text(found if isinstance(found, str) else json.dumps(found))
    with caplog.at_level(logging.INFO):
        assert changes(tmp_path, "a" * 64) == {"update": None, "drift": None}
    (line,) = caplog.messages
    assert line.startswith("left out: ")
    assert str(tmp_path / UPDATE) in line


def test_a_report_is_made_beside_a_damaged_comparison(able, run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(able, folder)
    (folder / UPDATE).write_text("{")
    outcome = run("report", folder)
    assert outcome.code == 0
    assert f"left out: {folder / UPDATE} is not JSON" in outcome.err


@pytest.mark.parametrize("flag", ["--from", "--weights.checkpoint"])
def test_what_the_old_model_was_trained_on_counts_as_trained_on(able, more, run, flag):
    """Cross-validation holds texts out of the new training alone."""
    flags = [f"--data.dataset={more}", "--trainer.accelerator=cpu", "--method=frozen"]
    outcome = run("fit", *flags, flag, able / "best.ckpt")
    assert outcome.code == 0, outcome.err
    folder = conftest.Path("checkpoints/version_0")
    record = json.loads((folder / "validate.json").read_text())
    assert record["split"] == "train, cross-validated"
    before, now = (read_hashes(place / TRAINED) for place in (able, folder))
    assert set(before) < set(now)
    texts = Predictions.read(folder / VALIDATED).texts
    count = sum(text_hash(text) in set(before) for text in texts)
    assert 0 < count < len(texts)
    assert any(f"({count} of the {len(texts)} texts)" in each for each in record["used_for"])


def test_an_old_model_of_unknown_rows_says_so(able, more, run, tmp_path):
    alone = tmp_path / "best.ckpt"
    alone.write_bytes((able / "best.ckpt").read_bytes())
    outcome = run(
        "fit", f"--data.dataset={more}", "--method=frozen", "--trainer.accelerator=cpu", "--from", alone
    )
    assert outcome.code == 0, outcome.err
    record = json.loads(conftest.Path("checkpoints/version_0/validate.json").read_text())
    assert record["used_for"] is None
    assert "whether the old model was trained on some of the rows is not known" in outcome.out


def test_an_exported_folder_can_be_started_from(exported, quick, more, run):
    outcome = run("fit", *flags_of(quick, more), "--trainer.max_epochs=1", "--from", exported)
    assert outcome.code == 0, outcome.err
    said = json.loads(next(conftest.Path("checkpoints").glob("version_*")).joinpath(UPDATE).read_text())
    scores = {name: values for name, *values in said["parts"][0]["scores"]}
    assert scores["F1 joy"][0] > 0.9


def test_what_does_not_fit_is_refused_in_one_line(able, quick, more, refused, tmp_path):
    flags = flags_of(quick, more)
    best = f"--from={able / 'best.ckpt'}"
    assert "expected one of them" in refused("fit", *flags, best, "--weights.pretrained=x")
    assert "--from and --ckpt_path" in refused("fit", *flags, best, "--ckpt_path=last")
    assert "--seeds and --from" in refused("fit", *flags, best, "--seeds=2")
    assert "no checkpoint" in refused("fit", *flags, "--from=nowhere.ckpt")
    numbers = [{"text": f"{text} {n}", "label": n / 7} for n, text in enumerate(conftest.texts_of("joy", 36))]
    file = conftest.write_csv(tmp_path / "numbers.csv", numbers)
    line = refused("fit", *quick[2:], f"--data.dataset={file}", "--data.task=regression", best)
    assert "is a model of the task single, the rows are regression" in line
    others = [{"text": text, "label": f"x{n % 2}"} for n, text in enumerate(conftest.texts_of("joy", 36))]
    file = conftest.write_csv(tmp_path / "others.csv", others)
    line = refused("fit", *quick[2:], f"--data.dataset={file}", "--data.val_fraction=0.4", best)
    assert "knows none of the classes" in line
    pairs = [{"a": each["text"], "b": "i am", "label": each["label"]} for each in others]
    file = conftest.write_csv(tmp_path / "pairs.csv", pairs)
    pair = [f"--data.dataset={file}", "--data.text_column=a,b", "--data.val_fraction=0.4"]
    assert "pair" in refused("fit", *quick[2:], *pair, best)


def test_a_number_is_compared_by_its_score():
    task = task_of("regression", ["price"])
    labels = np.arange(40, dtype=np.float32)
    old, new = (Side(task, (labels + error)[:, None].astype(np.float32)) for error in (5.0, 0.0))
    (part,) = compare_models(old, new, labels)["parts"]
    assert part["p_value"] is None
    assert part["scores"][0][0] == "R²"
    assert part["scores"][0][2] == 1
    assert update_lines({"parts": [part], "notes": []})
