"""Drift: how often nothing raises an alarm, whether planted changes do, and how files of it are read."""

import csv
import html
import json
import logging
import re
import shutil
import signal
from itertools import pairwise
from pathlib import Path

import conftest
import numpy as np
import pytest

from lit_bert import Predictor, UserError
from lit_bert.__main__ import main
from lit_bert.evaluate import drift
from lit_bert.evaluate.drift import RATE, Reference, Sketch, TextFacts, compare, sketch_as_dict
from lit_bert.evaluate.drift_files import Statistics, read_statistics
from lit_bert.evaluate.page_changes import changes
from lit_bert.evaluate.shift_tests import fisher, holm, smirnov
from lit_bert.product.folder import verify
from lit_bert.task.kinds import task_of

OUTPUTS = np.load(Path(__file__).with_name("emotion_outputs.npz"))
CLASSES = ("anger", "fear", "joy", "love", "sadness", "surprise")
TASK = task_of("single", list(CLASSES))
FEATURES = 24


class World:
    """Rows of a model: its outputs on emotion, and made lengths, pieces and embeddings."""

    def __init__(self, seed):
        self.generator = np.random.default_rng(seed)
        self.centres = np.random.default_rng(1).standard_normal((6, FEATURES))
        self.outputs = next(OUTPUTS[name] for name in OUTPUTS.files if OUTPUTS[name].ndim == 2)

    def rows(self, count, only=None, longer=1.0, unknown=0.03, pieces=1.0, power=1.0, moved=0.0):
        """The facts of texts, outputs and features of some rows."""
        some, generator = self.outputs, self.generator
        if only is not None:
            some = some[some.argmax(1) == only]
        outputs = some[generator.integers(len(some), size=count)].astype(np.float64) ** power
        outputs = (outputs / outputs.sum(1, keepdims=True)).astype(np.float32)
        length = np.maximum(3, generator.poisson(20 * longer, count))
        per_word = pieces * (1 + generator.gamma(2, 0.1, count))
        per_word[generator.random(count) < 0.05] = np.nan
        features = self.centres[outputs.argmax(1)] + generator.standard_normal((count, FEATURES)) + moved
        return TextFacts(length, generator.random(count) < unknown, per_word), outputs, features


def alarms(found):
    return {each.name for each in found if each.p_value <= RATE}


@pytest.mark.parametrize(("reference_rows", "batch_rows"), [(300, 50), (300, 300), (150, 2000)])
def test_batches_without_a_change_raise_no_more_alarms_than_stated(reference_rows, batch_rows):
    draws, count = 600, 0
    for seed in range(draws):
        world = World(seed)
        texts, outputs, features = world.rows(reference_rows)
        reference = Reference.of_rows(TASK, texts, outputs, features)
        count += bool(alarms(compare(reference, reference.count(*world.rows(batch_rows)))))
    # Of 600 draws with a rate of 1 %, 14 or more would come up in 0.3 % of all simulations.
    print(f"{reference_rows} and {batch_rows} rows: {count / draws:.2%} false alarms")
    assert count < 14


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"only": 2}, drift.CLASSES),
        ({"power": 0.3}, drift.CONFIDENCE),
        ({"longer": 1.5}, drift.LENGTH),
        ({"unknown": 0.4}, drift.UNKNOWN),
        ({"pieces": 1.6}, drift.PIECES),
        ({"moved": 1.0}, drift.EMBEDDINGS),
    ],
)
def test_a_planted_change_is_found_and_named(change, name):
    others = 0  # that an alarm is raised of, and which did not change
    for seed in range(20):
        world = World(seed)
        texts, outputs, features = world.rows(300)
        reference = Reference.of_rows(TASK, texts, outputs, features)
        found = compare(reference, reference.count(*world.rows(150, **change)))
        assert name in alarms(found)
        if name in (drift.LENGTH, drift.UNKNOWN, drift.PIECES, drift.EMBEDDINGS):
            others += len(alarms(found) - {name})
        (of_it,) = (each for each in found if each.name == name)
        assert "now" in of_it.effect or "farther" in of_it.effect
    assert others <= 2


def test_smirnov_by_hand():
    distance, p = smirnov(np.array([5, 5, 0]), np.array([0, 5, 5]))
    assert distance == 0.5
    # sqrt(10 * 10 / 20) * 0.5 = 1.118; 2 (exp(-2 * 1.25) - exp(-8 * 1.25) + …)
    assert p == pytest.approx(2 * (np.exp(-2.5) - np.exp(-10) + np.exp(-22.5)), abs=1e-12)
    assert smirnov(np.array([3, 3]), np.array([30, 30])) == (0, 1)


@pytest.mark.parametrize(
    "counts", [(3, 300, 3, 20), (0, 50, 12, 60), (40, 50, 12, 60), (7, 9, 7, 9), (0, 9, 0, 4)]
)
def test_fisher_is_the_sum_of_a_tail(counts):
    from math import comb

    hits, of, hits_2, of_2 = counts
    marked, whole = hits + hits_2, of + of_2
    ways = [comb(marked, k) * comb(whole - marked, of_2 - k) for k in range(of_2 + 1)]
    tails = sum(ways[: hits_2 + 1]), sum(ways[hits_2:])
    assert fisher(*counts) == pytest.approx(min(1, 2 * min(tails) / comb(whole, of_2)), rel=1e-9)


def test_fisher_takes_counts_of_a_busy_server():
    assert fisher(50, 1000, 50_000_000, 1_000_000_000) == 1
    assert fisher(50, 1000, 100_000_000, 1_000_000_000) < 1e-6


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])


def test_sketches_add_up():
    world = World(0)
    texts, outputs, features = world.rows(300)
    reference = Reference.of_rows(TASK, texts, outputs, features)
    whole, parts = reference.count(texts, outputs, features), Sketch()
    for start, end in pairwise((0, 1, 120, 300)):
        some = TextFacts(*(each[start:end] for each in texts))
        parts.merge(reference.count(some, outputs[start:end], features[start:end]))
    assert sketch_as_dict(parts) == sketch_as_dict(whole) == sketch_as_dict(reference.sketch)
    assert whole.rows == 300


def test_a_reference_is_read_as_it_was_written():
    world = World(0)
    texts, outputs, features = world.rows(300)
    reference = Reference.of_rows(TASK, texts, outputs, features, {"checkpoint": "a"})
    again = Reference.from_dict(TASK, json.loads(json.dumps(reference.as_dict())), "drift.json")
    assert again.as_dict() == reference.as_dict()
    assert again.key == reference.key
    batch = world.rows(100)
    assert compare(again, again.count(*batch)) == compare(reference, reference.count(*batch))


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said.pop("edges"),
        lambda said: said.update(rows=-1),
        lambda said: said.update(rows="many"),
        lambda said: said["edges"]["length"][0].reverse(),
        lambda said: said["edges"].update(odd=[[1.0]]),
        lambda said: said["counts"].update(length=[1, 2]),
        lambda said: said["counts"].update(unknown=[-1, 2]),
        lambda said: said["counts"].update(classes=[1.5] * 6),
        lambda said: said["counts"].pop("confidence"),
        lambda said: said["embedding"].update(scale=[0.0] * FEATURES),
        lambda said: said.update(embedding=None),
        lambda said: said.update(counts=[]),
    ],
)
def test_a_damaged_reference_is_refused(change):
    texts, outputs, features = World(0).rows(100)
    said = json.loads(json.dumps(Reference.of_rows(TASK, texts, outputs, features).as_dict()))
    change(said)
    with pytest.raises(UserError, match=r"drift\.json is no reference"):
        Reference.from_dict(TASK, said, "drift.json")


def test_few_rows_are_refused():
    world = World(0)
    texts, outputs, _ = world.rows(100)
    reference = Reference.of_rows(TASK, texts, outputs)
    with pytest.raises(UserError, match="the batch has 5 texts; expected 20"):
        compare(reference, reference.count(*world.rows(5)[:2]))


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_other_kinds_of_tasks_are_counted(kind):
    generator = np.random.default_rng(0)
    task = task_of(kind, ["price"] if kind == "regression" else ["a", "b", "c"])
    size = len(task.class_names)
    texts = World(0).rows(200)[0]
    outputs = generator.random((200, size)).astype(np.float32)
    reference = Reference.of_rows(task, texts, outputs)
    assert not alarms(compare(reference, reference.sketch))
    shifted = np.clip(outputs + 0.4, 0, 1)
    expected = {drift.VALUE} if kind == "regression" else {drift.CLASSES}
    assert expected <= alarms(compare(reference, reference.count(texts, shifted)))


# --- from the command line


@pytest.fixture(scope="module")
def fitted(quick, tmp_path_factory):
    """The folder of a fit with 120 validation rows and a guarantee, exported; and files of texts."""
    folder = tmp_path_factory.mktemp("fitted")
    rows = {name: [] for name in ("train", "validation", "like", "other")}
    generator = np.random.default_rng(0)
    for label in conftest.CLASSES:
        for place, text in enumerate(conftest.texts_of(label, 200)):
            text = f"{text} {' '.join(generator.choice(conftest.WORDS, 3))}"
            part = "train" if place < 80 else "validation" if place < 140 else "like"
            rows[part].append({"text": text, "label": label})
            rows["other"].append({"text": f"le chat dort sur la chaise verte {place}", "label": label})
    (folder / "data").mkdir()
    for name, some in rows.items():
        place = folder / "data" if name in ("train", "validation") else folder
        conftest.write_csv(place / f"{name}.csv", some)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_BERT_CACHE", str(folder / "cache"))
        flags = [f"--data.dataset={folder / 'data'}", "--trainer.max_epochs=20", "--model.average_decay=0"]
        flags += ["--guarantee=accuracy=0.8", "--data.guarantee_fraction=0.3"]
        place = f"--trainer.logger.init_args.save_dir={folder / 'checkpoints'}"
        assert main(["fit", *quick, *flags, place]) == 0
        run = folder / "checkpoints" / "version_0"
        assert main(["export", f"--ckpt_path={run / 'best.ckpt'}", "--max_f1_loss=100"]) == 0
    return folder


def test_a_checkpoint_says_whether_texts_are_like_those_it_was_validated_on(fitted, run):
    model = fitted / "checkpoints" / "version_0"
    outcome = run("drift", model / "best.ckpt", fitted / "like.csv")
    assert outcome.code == 0, outcome
    assert "compared   180 texts with 180 of the validation split" in outcome.out
    assert "none found" in outcome.out
    assert "promise" not in outcome.out
    outcome = run("drift", model, fitted / "other.csv")
    assert outcome.code == 1, outcome
    assert "moved      texts with a piece that the tokenizer does not know" in outcome.out
    assert "where the network places the texts" in outcome.out
    assert "promise    the promise accuracy=0.8 is off: the texts are not like those" in outcome.out
    said = json.loads((model / "drift_found.json").read_text())
    assert said["drift"]
    assert said["texts"] == 600


def cells_of(page):
    """The cells of the table of the section on new texts, a list each row."""
    section = page.split('<section id="drift"')[1].split("</section>")[0]
    rows = section.split("<tbody>")[1].split("</tbody>")[0].split("<tr>")[1:]
    return [[html.unescape(each) for each in re.findall(r"<t[dh][^>]*>([^<]*)</t", row)] for row in rows]


def test_the_report_shows_what_was_compared_last(fitted, run, tmp_path):
    model = tmp_path / "run"
    shutil.copytree(fitted / "checkpoints" / "version_0", model)
    (model / "drift_found.json").unlink(missing_ok=True)
    assert run("report", model).code == 0
    page = (model / "report.html").read_text(encoding="utf-8")
    assert 'id="drift"' not in page
    assert 'href="#drift"' not in page
    ugly = tmp_path / "<b>other.csv"
    shutil.copy(fitted / "other.csv", ugly)
    assert run("drift", model, ugly).code == 1
    assert run("report", model).code == 0
    page = (model / "report.html").read_text(encoding="utf-8")
    said = json.loads((model / "drift_found.json").read_text())
    assert cells_of(page) == [
        [
            drift.TITLES[each["name"]],
            "moved" if each["p_value"] <= RATE else "same",
            each["effect"],
            f"{each['distance']:.2f}",
            f"{each['p_value']:.2g}",
        ]
        for each in said["findings"]
    ]
    assert (
        f"600 texts of {html.escape(str(ugly))}, compared with 180 of the validation split. They differ"
        in page
    )
    assert "The promise accuracy=0.8 is off: the texts are not like those it was found on." in page
    assert run("drift", model, fitted / "like.csv").code == 0
    assert run("report", model).code == 0
    page = (model / "report.html").read_text(encoding="utf-8")
    assert "No difference beyond chance was found." in page
    assert "is off" not in page
    assert {row[1] for row in cells_of(page)} == {"same"}


DAMAGES = {
    "no JSON": lambda said: "[",
    "of another checkpoint": lambda said: said | {"checkpoint": "0" * 64},
    "without findings": lambda said: {"checkpoint": said["checkpoint"]},
    "a finding that is none": lambda said: said | {"findings": [{"name": "shoes"}]},
    "a distance that is none": lambda said: said | {"findings": [said["findings"][0] | {"distance": "far"}]},
    "a p-value that is none": lambda said: said | {"findings": [said["findings"][0] | {"p_value": None}]},
    "rows that are none": lambda said: said | {"rows": [1]},
    "files that are none": lambda said: said | {"files": 3},
    "a rate that is none": lambda said: said | {"rate": {}},
    "promises that are none": lambda said: said | {"promises": [1]},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_was_compared_is_left_out_of_the_report_where_it_is_damaged(damage, tmp_path, caplog):
    finding = {"name": "length", "p_value": 0.5, "distance": 0.1, "effect": "median 3, now 4"}
    said = {"checkpoint": "a" * 64, "files": ["a.csv"], "texts": 30, "rows": 30, "rate": 0.01, "drift": False}
    said |= {"findings": [finding], "promises": []}
    place = tmp_path / "drift_found.json"
    place.write_text(json.dumps(said))
    assert changes(tmp_path, "a" * 64)["drift"]
    found = DAMAGES[damage](said)
    place.write_text(found if isinstance(found, str) else json.dumps(found))
    with caplog.at_level(logging.INFO):
        assert changes(tmp_path, "a" * 64) == {"update": None, "drift": None}
    (line,) = caplog.messages
    assert line.startswith(f"left out: {place} is ")
    assert line.endswith("run `drift` again")


def test_an_exported_folder_does_so_too(fitted, run):
    folder = fitted / "checkpoints" / "version_0" / "exported"
    assert verify(folder).keys() >= {drift.REFERENCE}
    outcome = run("drift", folder, fitted / "like.csv")
    assert outcome.code == 0, outcome
    assert "where the network" not in outcome.out
    outcome = run("drift", folder, fitted / "other.csv")
    assert outcome.code == 1, outcome
    assert "promise accuracy=0.8 is off" in outcome.out
    for name, reference in json.loads((folder / drift.REFERENCE).read_text())["references"].items():
        assert name in ("model.onnx", "model.int8.onnx")
        assert sum(reference["counts"]["confidence"]) == 180


def test_statistics_add_up_and_hold_no_text(fitted, run, tmp_path):
    model = fitted / "checkpoints" / "version_0"
    flags = [f"--ckpt_path={model / 'best.ckpt'}", f"--output={tmp_path / 'out.csv'}"]
    for _ in range(2):  # the second goes on with the file
        outcome = run("predict", *flags, "--input", fitted / "other.csv", "--statistics", tmp_path / "a.json")
        assert outcome.code == 0, outcome
    run("predict", *flags, "--input", fitted / "like.csv", "--statistics", tmp_path / "b.json")
    said = (tmp_path / "a.json").read_text()
    assert json.loads(said)["rows"] == 1200
    assert "chat" not in said
    assert run("drift", model, tmp_path / "b.json").code == 0
    outcome = run("drift", model, tmp_path / "a.json", tmp_path / "b.json")
    assert outcome.code == 1
    assert "compared   1,380 texts" in outcome.out
    # They are those of the texts themselves.
    alone = run("drift", model, fitted / "like.csv").out.splitlines()[2:]
    assert run("drift", model, tmp_path / "b.json").out.splitlines()[2:] == alone


def test_what_cannot_be_compared_is_refused(fitted, refused, tmp_path):
    model = fitted / "checkpoints" / "version_0"
    assert "got 1 of MODEL and FILE" in refused("drift", model)
    assert "is a model; expected MODEL first" in refused("drift", fitted / "like.csv", model)
    assert "there is no nowhere; expected a checkpoint" in refused("drift", "nowhere", fitted / "like.csv")
    assert "neither best.ckpt nor lit_bert.json" in refused("drift", fitted, fitted / "like.csv")
    assert "expected one file of texts" in refused("drift", model, fitted / "like.csv", fitted / "other.csv")
    (tmp_path / "few.csv").write_text("text\ni am happy\n")
    assert "the batch has 1 text; expected 20" in refused("drift", model, tmp_path / "few.csv")
    other = ("--input", fitted / "other.csv")
    assert "names the texts" in refused("drift", model, fitted / "like.csv", *other)
    assert "--ckpt_path" in refused("drift", model, fitted / "like.csv", "--ckpt_path=best")
    assert "--rate is 2" in refused("drift", model, fitted / "like.csv", "--rate", "2")
    Predictor(model / "exported").keep_statistics(tmp_path / "c.json")
    assert "statistics of another model" in refused("drift", model, tmp_path / "c.json")
    assert "statistics twice" in refused("drift", model, tmp_path / "c.json", tmp_path / "c.json")
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    (copy / drift.REFERENCE).unlink()
    assert "has no drift.json" in refused("drift", copy, fitted / "like.csv")


def test_the_predictor_counts_what_it_is_asked(fitted, tmp_path):
    predictor = Predictor(fitted / "checkpoints" / "version_0" / "exported")
    statistics = predictor.keep_statistics(tmp_path / "a.json")
    predictor(["i am happy", "i am sad today"])
    predictor.explain("i am happy")
    predictor.logits(["i am mad"])
    predictor.probs(["le chat"])
    statistics.flush()
    said = json.loads((tmp_path / "a.json").read_text())
    assert said["rows"] == 4
    assert said["counts"]["unknown"] == [3, 1]
    assert sum(said["counts"]["classes"]) == 4


def test_the_server_counts_what_it_is_asked(fitted, start, run, tmp_path):
    model = fitted / "checkpoints" / "version_0" / "exported"
    server = start(model, f"--statistics={tmp_path / 'a.json'}")
    with (fitted / "other.csv").open(encoding="utf-8") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)][:60]
    assert server.predict(texts[:30]).status == 200
    assert server.predict(texts[30], explain=True).status == 200
    tei = json.dumps({"inputs": [[text] for text in texts[31:]]})
    assert server.ask("POST", "/predict", tei, {"Content-Type": "application/json"}).status == 200
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    said = (tmp_path / "a.json").read_text()
    assert json.loads(said)["rows"] == 60
    assert "chat" not in said
    assert run("drift", model, tmp_path / "a.json").code == 1


def test_statistics_of_several_models_are_refused(fitted, refused):
    model = fitted / "checkpoints" / "version_0" / "exported"
    flags = ["--models", f"a={model}", f"b={model}", "--statistics=a.json"]
    assert "--statistics is of one model" in refused("serve", *flags)


def test_a_file_of_statistics_is_of_one_process_and_can_be_moved_away(fitted, tmp_path):
    place = tmp_path / "a.json"
    predictor = Predictor(fitted / "checkpoints" / "version_0" / "exported")
    statistics = predictor.keep_statistics(place)
    predictor(["i am happy", "i am sad"])
    statistics.flush()
    place.rename(tmp_path / "monday.json")
    predictor(["i am mad"])
    statistics.flush()
    assert [json.loads(each.read_text())["rows"] for each in (tmp_path / "monday.json", place)] == [2, 1]
    predictor(["i am mad"])
    statistics.flush()
    assert json.loads(place.read_text())["rows"] == 2
    other = Statistics(statistics.reference, statistics.reader, place)
    with pytest.raises(UserError, match="written by another process, too"):
        statistics.flush()
    other.flush()
    assert json.loads(place.read_text())["rows"] == 2


STATISTICS = {
    "no JSON": ("{", "is not JSON"),
    "no statistics": ("{}", "no file of statistics"),
    "other rows": (lambda said: said | {"rows": 1000}, "counts of length that are not of 1000 texts"),
    "fewer rows": (lambda said: said | {"rows": 1}, "not of 1 texts"),
    "without counts": (lambda said: {k: v for k, v in said.items() if k != "counts"}, "is damaged"),
    "fewer counts": (lambda said: said | {"counts": {"length": said["counts"]["length"]}}, "is damaged"),
    "counts below 0": (lambda said: said | {"counts": said["counts"] | {"unknown": [4, -1]}}, "is damaged"),
    "other classes": (lambda said: said | {"counts": said["counts"] | {"classes": [3, 0, 1]}}, "not of 3"),
}


@pytest.mark.parametrize("damage", STATISTICS)
def test_statistics_that_are_damaged_are_refused(damage, fitted, tmp_path):
    predictor, place = Predictor(fitted / "checkpoints" / "version_0" / "exported"), tmp_path / "a.json"
    statistics = predictor.keep_statistics(place)
    predictor(["i am happy", "i am sad", "i am mad"])
    statistics.flush()
    assert read_statistics(place, statistics.reference).rows == 3
    change, message = STATISTICS[damage]
    said = json.loads(place.read_text())
    place.write_text(change if isinstance(change, str) else json.dumps(change(said)))
    with pytest.raises(UserError, match=message) as refused:
        Statistics(statistics.reference, statistics.reader, place)
    assert str(place) in str(refused.value)


def test_a_file_that_cannot_be_written_fails_no_answer(fitted, tmp_path):
    (tmp_path / "place").mkdir()
    predictor = Predictor(fitted / "checkpoints" / "version_0" / "exported")
    statistics = predictor.keep_statistics(tmp_path / "place" / "a.json")
    shutil.rmtree(tmp_path / "place")
    statistics._next = 0.0
    assert len(predictor(["i am happy"])) == 1
    with pytest.raises(UserError, match="cannot write the statistics"):
        statistics.flush()
