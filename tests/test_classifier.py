"""TextClassifier, TextRegressor: as scikit-learn has them, the weights of the verbs, objects in and out."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from conftest import CLASSES, Run, texts_of, write_csv
from datasets import Dataset
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from lit_bert import TextClassifier, TextRegressor, UserError
from lit_bert.data.frames import frame_of
from lit_bert.sources.checkpoint import Checkpoint

TEXTS = [text for label in CLASSES for text in texts_of(label, 20)]
LABELS = [label for label in CLASSES for _ in range(20)]
QUICK = {"model.adversarial_norm": 0, "trainer.accelerator": "cpu", "model.learning_rate": 0.003}


@pytest.fixture(scope="module")
def settings(tiny_bert: Path) -> dict[str, Any]:
    return {"pretrained": str(tiny_bert), "max_epochs": 2, "batch_size": 8, "settings": QUICK}


@pytest.fixture(scope="module")
def fitted(settings: dict[str, Any]) -> TextClassifier:
    longer = {**QUICK, "early_stopping.patience": 30, "model.average_decay": 0}
    return TextClassifier(**{**settings, "max_epochs": 30, "settings": longer}).fit(TEXTS, LABELS)


def test_it_trains_what_the_verb_trains(run: Run, settings):
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    write_csv(Path("rows.csv"), rows)
    flags = [f"--{name}={value}" for name, value in QUICK.items()]
    common = [
        f"--weights.pretrained={settings['pretrained']}",
        "--data.batch_size=8",
        "--trainer.max_epochs=2",
    ]
    assert run("fit", "--data.dataset=rows.csv", *common, *flags).code == 0
    found = TextClassifier(**settings).fit(TEXTS, LABELS)
    by_verb = Checkpoint.open("checkpoints/version_0/best.ckpt")
    by_class = Checkpoint.open(found.checkpoint_)
    assert by_verb.state_dict.keys() == by_class.state_dict.keys()
    for name, value in by_verb.state_dict.items():
        assert torch.equal(value, by_class.state_dict[name]), name
    assert by_verb.facts.temperature == by_class.facts.temperature
    run("predict", "--input=rows.csv", "--output=labelled.jsonl")
    import json

    wanted = [json.loads(line)["predicted_label"] for line in Path("labelled.jsonl").read_text().splitlines()]
    assert found.predict(TEXTS).tolist() == wanted


def test_it_says_nothing_and_leaves_nothing_behind(settings, capfd):
    found = TextClassifier(**settings).fit(TEXTS, LABELS)
    found.predict(TEXTS[:3])
    assert capfd.readouterr() == ("", "")
    assert not Path("checkpoints").exists()
    place = found.checkpoint_.parent
    assert place.is_dir()
    del found
    assert not place.exists()


def test_probabilities_are_in_the_order_of_the_classes(fitted):
    assert fitted.classes_.tolist() == ["anger", "joy", "sadness"]
    probs = fitted.predict_proba(TEXTS)
    assert probs.shape == (60, 3)
    assert probs.sum(1) == pytest.approx(np.ones(60), abs=1e-5)
    assert (fitted.classes_[probs.argmax(1)] == fitted.predict(TEXTS)).all()
    assert fitted.score(TEXTS, LABELS) > 0.8
    assert set(fitted.scores_) >= {"macro_f1", "accuracy", "loss_nats"}


def test_labels_come_back_as_they_were_given(settings):
    codes = [10 * list(CLASSES).index(label) - 10 for label in LABELS]
    found = TextClassifier(**settings).fit(TEXTS, np.array(codes))
    assert found.classes_.tolist() == [-10, 0, 10]
    assert found.predict(TEXTS[:4]).dtype.kind == "i"
    flags = [label == "joy" for label in LABELS]
    assert TextClassifier(**settings).fit(TEXTS, flags).predict(TEXTS[:2]).dtype == bool


def test_several_labels_come_back_as_lists_or_as_an_array(settings):
    sets = [[label, "all"] if label != "anger" else [] for label in LABELS]
    found = TextClassifier(**settings).fit(TEXTS, sets)
    assert found.classes_.tolist() == ["all", "joy", "sadness"]
    assert all(isinstance(each, list) for each in found.predict(TEXTS[:5]))
    array = np.array([[name in each for name in ("all", "joy")] for each in sets], dtype=int)
    again = TextClassifier(**settings).fit(TEXTS, array)
    assert again.predict(TEXTS[:5]).shape == (5, 2)
    assert set(np.unique(again.predict(TEXTS))) <= {0, 1}


def test_an_array_has_a_class_a_column_whatever_is_in_it(settings, tmp_path):
    array = np.zeros((60, 12), dtype=int)
    array[np.arange(60), np.arange(60) % 11] = 1  # no text has the last, and 10 comes after 9
    for y in (array, pd.DataFrame(array), csr_array(array)):
        found = TextClassifier(**settings).fit(TEXTS, y)
        assert found.classes_.tolist() == list(range(12))
        assert found.predict(TEXTS[:5]).shape == found.predict_proba(TEXTS[:5]).shape == (5, 12)
    assert 0 <= found.score(TEXTS, array) <= 1
    again = TextClassifier.load(found.save(str(tmp_path / "saved")))
    assert (again.predict(TEXTS) == found.predict(TEXTS)).all()
    with pytest.raises(ValueError, match="values beside 0 and 1"):
        TextClassifier(**settings).fit(TEXTS, 2 * array)


def test_several_labels_are_right_where_all_are(fitted, settings):
    sets = [[label, "all"] for label in LABELS]
    longer = {**settings, "max_epochs": 30, "settings": fitted.settings}
    found = TextClassifier(**longer).fit(TEXTS, sets)
    hits = [set(one) == set(other) for one, other in zip(found.predict(TEXTS), sets, strict=True)]
    assert found.score(TEXTS, sets) == np.mean(hits) > 0.3
    assert found.score(TEXTS, sets, sample_weight=hits) == 1


@pytest.mark.parametrize(
    "y",
    [
        pd.Series(LABELS, dtype="category"),
        pa.array(LABELS),
        pa.chunked_array([LABELS]),
        np.array(LABELS, dtype=object),
        iter(LABELS),
    ],
    ids=lambda y: type(y).__name__,
)
def test_labels_come_in_any_column(settings, y):
    found = TextClassifier(**settings).fit(TEXTS, y)
    assert found.classes_.tolist() == sorted(CLASSES)


def test_a_column_of_labels_is_told(settings):
    with pytest.warns(DataConversionWarning):
        found = TextClassifier(**settings).fit(TEXTS, np.array(LABELS)[:, None])
    assert found.predict(TEXTS[:2]).shape == (2,)
    with pytest.warns(DataConversionWarning):
        TextRegressor(**settings).fit(TEXTS, pd.DataFrame({"value": np.arange(60) / 8}))


def test_no_column_of_X_is_lost_to_ours(settings):
    """What is called as ours are is a text, or a setting of the user, as any other column."""
    named = pd.DataFrame({"label": TEXTS, "id": range(60)})
    wanted = TextClassifier(**settings).fit(TEXTS, LABELS).predict_proba(TEXTS)
    found = TextClassifier(**settings).fit(named, LABELS)
    assert (found.predict_proba(named) == wanted).all()
    beside = named.rename(columns={"label": "text", "id": "label"})
    assert (TextClassifier(**settings).fit(beside, LABELS).predict_proba(beside) == wanted).all()
    own = {**QUICK, "data.group_column": "lit_bert group", "data.text_column": "label"}
    authors = named.assign(**{"lit_bert group": [f"author {n // 5}" for n in range(60)], "label_": "x"})
    grouped = TextClassifier(**{**settings, "settings": own}).fit(authors, LABELS, sample_weight=np.ones(60))
    facts = Checkpoint.open(grouped.checkpoint_).data.settings
    assert (facts.label_column, facts.group_column) == ("label__", "lit_bert group")
    assert grouped.predict(authors[:2]).tolist() == grouped.predict(TEXTS[:2]).tolist()
    groups = [f"a long name of the author {n}" for n in range(60)]
    short = pd.DataFrame({"word": [text.split()[-1] for text in TEXTS]})
    with pytest.raises(UserError, match="X: which column is the text"):  # not the groups
        TextClassifier(**settings).fit(short, LABELS, groups=groups)


def test_two_columns_of_one_name_are_refused(fitted):
    twice = pd.DataFrame([["a", "b"]], columns=["text", "text"])
    for given in (twice, pa.table([["a"], ["b"]], names=["text", "text"])):
        with pytest.raises(ValueError, match="several columns are called 'text'"):
            fitted.predict(given)
    for given in (
        pd.DataFrame({"text": TEXTS[:1], "probability": [0]}),
        [{"text": TEXTS[0], "probability": 0}],
    ):
        with pytest.raises(ValueError, match="a column 'probability' already"):
            fitted.label(given)


def test_whole_numbers_are_texts_as_in_files(fitted):
    assert fitted.predict(pd.DataFrame({"text": [7]})) == fitted.predict(["7"])
    with pytest.raises(ValueError, match=r"item 1 of X has a value of type float \(7.5\)"):
        fitted.predict(pd.DataFrame({"text": [7.5]}))


def test_a_fit_that_fails_leaves_the_last_one(settings):
    found = TextClassifier(**settings).fit(TEXTS, LABELS)
    wanted = found.predict(TEXTS)
    with pytest.raises(ValueError, match="a label twice"):
        found.fit(TEXTS, [[0, 1, 0]] * 60)
    with pytest.raises(UserError):
        found.set_params(settings={"model.lerning_rate": 1}).fit(TEXTS, range(60))
    assert (found.predict(TEXTS) == wanted).all()


def test_numbers_and_ordered_classes(settings):
    values = [{"joy": 2.5, "sadness": -1.0, "anger": 0.25}[label] for label in LABELS]
    number = TextRegressor(**settings).fit(TEXTS, values)
    assert number.predict(TEXTS[:3]).shape == (3,)
    assert isinstance(number.score(TEXTS, values), float)
    stars = TextClassifier(**settings, ordered=True).fit(
        TEXTS, [1 + list(CLASSES).index(each) for each in LABELS]
    )
    assert stars.task_.kind == "ordinal"
    assert set(stars.predict(TEXTS)) <= {1, 2, 3}
    values = {"joy": 10, "sadness": 2.5, "anger": 9.5}
    halves = TextClassifier(**settings, ordered=True).fit(TEXTS, [values[each] for each in LABELS])
    assert halves.classes_.tolist() == [2.5, 9.5, 10]


def test_weights_groups_and_validation_rows_are_those_given(settings):
    groups = [f"author {n // 5}" for n in range(60)]
    found = TextClassifier(**settings).fit(TEXTS, LABELS, sample_weight=np.arange(60), groups=groups)
    facts = Checkpoint.open(found.checkpoint_).data.settings
    assert (facts.weight_column, facts.group_column) == ("lit_bert weight", "lit_bert group")
    for weights in (None, np.ones(60)):
        other = TextClassifier(**settings).fit(TEXTS, LABELS, weights, validation=(TEXTS[::3], LABELS[::3]))
        assert Checkpoint.open(other.checkpoint_).data.rows["validation"].used == 20


def test_frames_tables_and_data_sets_are_read_and_come_back(fitted):
    frame = pd.DataFrame({"id": range(4), "text": TEXTS[:4]})
    wanted = fitted.predict(TEXTS[:4]).tolist()
    for given in (
        frame,
        pa.Table.from_pandas(frame),
        Dataset.from_pandas(frame),
        frame.to_dict("records"),
        iter(frame.to_dict("records")),
        frame["text"],
        np.array(TEXTS[:4]),
        tuple(TEXTS[:4]),
    ):
        assert fitted.predict(given).tolist() == wanted if not hasattr(given, "__next__") else True
    assert fitted.label(frame)["predicted_label"].tolist() == wanted
    assert list(fitted.label(frame).columns[:2]) == ["id", "text"]
    assert fitted.label(pa.Table.from_pandas(frame)).column("predicted_label").to_pylist() == wanted
    assert fitted.label(Dataset.from_pandas(frame))["predicted_label"][:] == wanted
    records = fitted.label(TEXTS[:4])
    assert [record["predicted_label"] for record in records] == wanted
    assert list(records[0]) == ["text", *fitted.task_.columns()]


def test_polars_frames(fitted):
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"text": TEXTS[:4]})
    assert fitted.label(frame)["predicted_label"].to_list() == fitted.predict(TEXTS[:4]).tolist()


def test_pairs_and_columns(settings):
    pairs = [(text, TEXTS[(n + 1) % 60]) for n, text in enumerate(TEXTS)]
    found = TextClassifier(**settings).fit(pairs, LABELS)
    assert found.predict(pairs[:2]).shape == (2,)
    frame = pd.DataFrame({"title": TEXTS, "body": TEXTS[::-1]})
    more = {**QUICK, "data.text_column": "title,body", "data.text_form": "joined"}
    joined = TextClassifier(**{**settings, "settings": more}).fit(frame, LABELS)
    assert joined.predict(frame[:3]).shape == (3,)


def test_it_works_in_the_tools_of_scikit_learn(settings):
    estimator = TextClassifier(**{**settings, "max_epochs": 1})
    assert clone(estimator).get_params() == estimator.get_params()
    assert cross_val_score(estimator, TEXTS, LABELS, cv=2).shape == (2,)
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    steps = Pipeline([("lower", lower), ("classify", clone(estimator))]).fit(TEXTS, LABELS)
    assert steps.predict(TEXTS[:3]).shape == (3,)
    search = GridSearchCV(estimator, {"batch_size": [8, 16]}, cv=2).fit(TEXTS, LABELS)
    assert search.best_params_["batch_size"] in (8, 16)
    assert search.best_estimator_.predict(TEXTS[:2]).shape == (2,)


def test_it_is_saved_pickled_and_exported(fitted, tmp_path):
    wanted = fitted.predict_proba(TEXTS[:5])
    again = TextClassifier.load(fitted.save(str(tmp_path / "saved")))
    assert (again.predict_proba(TEXTS[:5]) == wanted).all()
    assert again.classes_.tolist() == fitted.classes_.tolist()
    copy = pickle.loads(pickle.dumps(fitted))
    assert (copy.predict_proba(TEXTS[:5]) == wanted).all()
    from lit_bert import Predictor

    folder = fitted.export(str(tmp_path / "exported"))
    assert Predictor(folder, file="model.onnx").probs(TEXTS[:5]) == pytest.approx(wanted, abs=0.02)
    with pytest.raises(UserError, match=r"holds no TextRegressor"):
        TextRegressor.load(str(tmp_path / "saved"))


def test_a_saved_folder_names_no_settings(fitted, tmp_path):
    import json

    folder = Path(fitted.save(str(tmp_path / "saved")))
    facts = json.loads((folder / "classifier.json").read_text())
    for name, value in (
        ("settings", {"trainer.callbacks": "os.system"}),
        ("run_dir", "/"),
        ("max_epochs", "3"),
    ):
        changed = {**facts, "parameters": {**facts["parameters"], name: value}}
        (folder / "classifier.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=name):
            TextClassifier.load(str(folder))


def test_what_is_wrong_is_said(settings, fitted):
    estimator = TextClassifier(**settings)
    for X, y, expected in (
        (TEXTS, LABELS[:-1], "X has 60 texts, and y 59 values"),
        ([], [], "there are no texts"),
        ("a text", ["a"], "expected texts"),
        ([1, 2], ["a", "b"], "item 1 is a int"),
        (TEXTS, [None] * 60, "y has an empty label"),
        (TEXTS, [*LABELS[:-1], " joy"], "would be one class"),
        (TEXTS, [1, "1"] * 30, "would be one class"),
        (TEXTS, [{}] * 60, "y has a value of type nested value"),
        (TEXTS, None, "y to be passed, but the target y is None"),
        (TEXTS, "ab" * 30, "y is a str"),
        (TEXTS, ["joy"] * 60, "y has one class"),
        (TEXTS, np.arange(60) / 8, "Unknown label type: continuous"),
        (csr_array(np.eye(60)), LABELS, "got a sparse csr_array"),
    ):
        with pytest.raises((ValueError, TypeError), match=expected):
            estimator.fit(X, y)
    with pytest.raises(ValueError, match="item 2 of X has no text"):
        fitted.predict(["fine", " "])
    with pytest.raises(ValueError, match=r"item 2 of X has no text \(text\)"):
        estimator.fit([TEXTS[0], " ", *TEXTS[2:]], LABELS)
    for weights in ([-1, *[1] * 59], [0] * 60, [np.nan, *[1] * 59], np.ones((60, 2)), [1] * 59):
        with pytest.raises(ValueError, match="sample_weight"):
            estimator.fit(TEXTS, LABELS, sample_weight=weights)
    with pytest.raises(ValueError, match="y of validation has 'other', which y lacks"):
        estimator.fit(TEXTS, LABELS, validation=(TEXTS[:2], ["joy", "other"]))
    with pytest.raises(ValueError, match=r"settings have data\.label_column"):
        TextClassifier(**{**settings, "settings": {"data.label_column": "text"}}).fit(TEXTS, LABELS)
    with pytest.raises(UserError, match="cannot be had"):  # no stand-in without a word
        TextClassifier(**{**settings, "pretrained": "nobody/nothing"}).fit(TEXTS, LABELS)
    with pytest.raises(UserError, match="X has no column 'txt'; it has text"):
        TextClassifier(**{**settings, "settings": {"data.text_column": "txt"}}).fit(TEXTS, LABELS)
    with pytest.raises(UserError, match=r"Did you mean --model\.learning_rate"):
        TextClassifier(**{**settings, "settings": {"model.lerning_rate": 1}}).fit(TEXTS, LABELS)
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        TextClassifier(**settings).predict(TEXTS)


def test_the_predictor_takes_them_too(fitted, tmp_path):
    from lit_bert import Predictor

    predictor = Predictor(fitted.export(str(tmp_path / "exported")), file="model.onnx")
    frame = pd.DataFrame({"id": range(4), "text": TEXTS[:4]})
    wanted = [each.label for each in predictor(TEXTS[:4])]
    for given in (frame, pa.Table.from_pandas(frame), Dataset.from_pandas(frame)):
        found = predictor.label(given)
        assert type(found) is type(given)
        labels = (
            found.column("predicted_label").to_pylist()
            if hasattr(found, "to_pylist")
            else found["predicted_label"]
        )
        assert list(labels) == wanted
    assert [each["predicted_label"] for each in predictor.label(iter(TEXTS[:4]))] == wanted
    with pytest.raises(TypeError, match="expected a list of strings"):
        predictor.label(pd.DataFrame({"text": ["a", None]}))


def test_frames_keep_what_is_missing():
    frame = pd.DataFrame({"text": ["a", None], "n": [1, float("nan")]})
    assert list(frame_of(frame).rows) == [{"text": "a", "n": 1.0}, {"text": None, "n": None}]
    assert list(frame_of([("a", "b")]).rows) == [{"text": "a", "text_pair": "b"}]
