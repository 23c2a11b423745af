"""A model that goes on from an old one: rows of classes that stay, and both side by side on the same rows."""

import json

import conftest
import numpy as np
import pytest
import torch

from lit_bert.data.cache import text_hash
from lit_bert.evaluate.predictions import TRAINED, VALIDATED, Predictions, read_hashes
from lit_bert.evaluate.update import UPDATE, Side, compare_models, update_lines
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
        found = compare_models(*(Side(task, OUTPUTS[each]) for each in answers), labels)["parts"][0]
        alarms += bool(found["better"] or found["worse"])
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
