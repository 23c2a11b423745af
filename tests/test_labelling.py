"""Labels by people: no text goes to two of them, none of their answers is lost, the score is honest."""

from __future__ import annotations

import csv
import io
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLASSES, texts_of

from lit_bert import UserError
from lit_bert.data.readers.options import ReadOptions
from lit_bert.labelling.choose import entropy, next_texts
from lit_bert.labelling.curve import extrapolated, forecast, points_of
from lit_bert.labelling.embed import Embedder
from lit_bert.labelling.estimate import estimate, fitted, probabilities
from lit_bert.labelling.pool import Pool, classes_of, read_pool
from lit_bert.labelling.session import RANDOM_EVERY, Session
from lit_bert.labelling.show import summary
from lit_bert.labelling.store import LEASE_S, RANDOM, Answer, Store, Taken, stored_facts
from lit_bert.labelling.terminal import WIDTH, label_in_terminal

ROOT = Path(__file__).parents[1]
NAMES = ",".join(CLASSES)


def write_pool(path: Path, texts: list[str], labels: list[str] | None = None) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        rows = (
            [("text", "label"), *zip(texts, labels, strict=True)]
            if labels
            else [("text",), *((t,) for t in texts)]
        )
        csv.writer(stream).writerows(rows)
    return path


@pytest.fixture
def pool_file(tmp_path: Path) -> Path:
    return write_pool(tmp_path / "pool.csv", [text for name in CLASSES for text in texts_of(name, 12)])


def store_at(path: Path, **keys: Any) -> Store:
    return Store(path, {"pool": "a", "classes": ["x", "y"]}, **keys)


def give(
    store: Store, person: str, label: str | None = "x", drawn: tuple[int, ...] = tuple(range(50))
) -> int:
    lease = store.lend(person, (), drawn, RANDOM_EVERY)
    assert lease is not None
    store.answer(person, lease.text, label)
    return lease.text


# --- the store


HAMMER = """
import sys
from pathlib import Path
from lit_bert.labelling.store import Store
store = Store(Path(sys.argv[1]), {})
texts = list(range(300))
print("ready", flush=True)
sys.stdin.readline()
while lease := store.lend(sys.argv[2], texts[::-1], texts, 5):
    print(lease.text)
    store.answer(sys.argv[2], lease.text, "x")
"""


def test_two_processes_never_get_the_same_text(tmp_path):
    place = tmp_path / "labels.sqlite"
    command = [sys.executable, "-c", HAMMER, str(place)]
    both = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for name in ("a", "b")
    ]
    assert [each.stdout.readline() for each in both] == ["ready\n"] * 2
    for each in both:
        each.stdin.write("\n")
        each.stdin.flush()
    given = [list(map(int, each.communicate(timeout=240)[0].split())) for each in both]
    assert [each.returncode for each in both] == [0, 0]
    assert all(given)
    assert sorted(given[0] + given[1]) == list(range(300))
    assert sorted(each.text for each in Store(place, {}).answers()) == list(range(300))


def test_a_text_that_is_lent_is_nobody_elses_until_its_lease_ends(tmp_path):
    now = [1000.0]
    store = store_at(tmp_path / "labels", clock=lambda: now[0])
    lent = store.lend("a", (), (0, 1), 5)
    assert store.lend("a", (), (0, 1), 5) == lent
    assert store.lend("b", (), (0, 1), 5).text == 1
    assert store.lend("c", (), (0, 1), 5) is None
    with pytest.raises(Taken):
        store.answer("b", lent.text, "x")
    now[0] += LEASE_S + 1
    assert store.lend("c", (), (0, 1), 5).text == 0
    with pytest.raises(Taken):
        store.answer("a", 0, "x")
    store.release("c")
    assert store.lend("d", (), (0, 1), 5).text == 0


def test_the_last_answer_of_a_person_is_taken_back_and_asked_again(tmp_path):
    store = store_at(tmp_path / "labels")
    first, second, other = give(store, "a"), give(store, "a", None), give(store, "b", "y")
    assert store.undo("a") == second
    assert store.lend("a", (), (9,), 5).text == second
    store.answer("a", second, "y")
    assert store.answers() == [
        Answer(first, "x", RANDOM),
        Answer(other, "y", RANDOM),
        Answer(second, "y", RANDOM),
    ]
    assert [store.undo("b"), store.undo("b")] == [other, None]


def test_answers_for_another_pool_are_refused(tmp_path):
    store_at(tmp_path / "labels")
    with pytest.raises(UserError, match="another pool"):
        Store(tmp_path / "labels", {"pool": "b", "classes": ["x", "y"]})
    (tmp_path / "other").write_text("no database at all, but a text of some length\n" * 99)
    with pytest.raises(UserError, match="cannot keep answers"):
        store_at(tmp_path / "other")
    with pytest.raises(UserError, match="cannot keep answers"):
        store_at(tmp_path / "missing" / "labels")


def test_facts_that_are_damaged_are_refused(tmp_path):
    for name, said in (("classes", '"xy"'), ("classes", "[1, 2]"), ("format", "{"), ("classes", "[" * 9999)):
        place = tmp_path / f"{len(said)}.sqlite"
        store_at(place)
        with closing(sqlite3.connect(place)) as db, db:
            db.execute("UPDATE facts SET value = ? WHERE name = ?", (said, name))
        with pytest.raises(UserError, match="is damaged; name another file"):
            store_at(place)


def test_classes_can_be_added_and_before_the_first_label_be_others(tmp_path):
    place = tmp_path / "labels"
    store = store_at(place)

    def reopened(*names: str) -> list[str]:
        Store(place, {"pool": "a", "classes": list(names)})
        return stored_facts(place)["classes"]

    assert reopened("u", "v") == ["u", "v"]
    store.lend("a", (), range(9), 5)  # who is asked sees the classes
    with pytest.raises(UserError, match=r"is for the classes u, v\. Give these in this order"):
        reopened("x", "y")
    store.release("a")
    assert reopened("x", "y") == ["x", "y"]
    give(store, "a", None)
    assert reopened("y", "x") == ["y", "x"]
    give(store, "a", "x")
    for names in (["x", "y"], ["y"], ["y", "z", "x"]):
        with pytest.raises(UserError, match="with new ones behind"):
            reopened(*names)
    assert reopened("y", "x", "z") == ["y", "x", "z"]
    give(store, "a", "z")


def test_a_session_learns_of_classes_that_another_one_adds(tmp_path):
    session, _ = session_of(tmp_path / "labels")
    give(session.store, "a", "x")
    Store(session.store.path, {"pool": "a", "classes": ["x", "y", "z"]})
    give(session.store, "b", "z")
    assert session.labelled().labels.tolist() == [0, 2]
    assert session.progress().counts == [1, 0, 1]
    lease = session.lend("a")
    session.answer("a", lease.text, 2)
    assert session.store.answers()[-1].label == "z"


# --- what is chosen


def test_one_text_in_five_is_drawn_at_random(tmp_path):
    store = store_at(tmp_path / "labels")
    for _ in range(20):
        lease = store.lend("a", range(100), range(100, 200), RANDOM_EVERY)
        store.answer("a", lease.text, "x")
    shares = [each.share for each in store.answers()]
    assert shares.count(RANDOM) == 4
    assert all((each.text >= 100) == (each.share == RANDOM) for each in store.answers())


def test_texts_are_chosen_that_stand_for_others_and_differ():
    generator = np.random.default_rng(0)
    features = np.eye(8, dtype=np.float32)[np.minimum(np.arange(80) % 16, 7)]  # the last group is the largest
    nothing, everything = np.array([], np.int64), np.arange(80)
    found = next_texts(features, None, nothing, everything, 8, generator)
    assert np.flatnonzero(features[found[0]]) == 7
    assert sorted(features[found].argmax(1)) == list(range(8))
    after = next_texts(features, None, found[:3], everything, 5, generator)
    assert sorted(features[after].argmax(1)) == sorted(features[found[3:]].argmax(1))
    assert sorted(next_texts(features, None, nothing, np.arange(5), 9, generator)) == list(range(5))
    assert len(next_texts(features, None, nothing, nothing, 9, generator)) == 0


def test_texts_are_chosen_whose_class_is_not_sure():
    features = np.eye(8, dtype=np.float32)[np.arange(80) % 8]
    outputs = np.full((80, 2), [1.0, 0.0])
    outputs[np.arange(80) % 8 == 5] = 0.5
    found = next_texts(features, outputs, np.array([0]), np.arange(80), 1, np.random.default_rng(0))
    assert found % 8 == 5
    assert entropy(np.array([[0.5, 0.5], [1.0, 0.0]])) == pytest.approx([np.log(2), 0.0])


def session_of(place: Path, count: int = 60, **keys: Any) -> tuple[Session, np.ndarray]:
    generator = np.random.default_rng(0)
    truth = generator.integers(2, size=count)
    features = generator.normal(size=(count, 6)).astype(np.float32)
    features[:, 0] += 3 * truth
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    pool = Pool(
        Path("pool.csv"),
        [f"text {n}" for n in range(count)],
        list(range(1, count + 1)),
        [None] * count,
        "",
        0,
    )
    return Session(pool, ["x", "y"], store_at(place), features, **keys), truth


def test_the_sample_is_the_start_of_the_random_order_with_what_was_chosen_in_it(tmp_path):
    session, truth = session_of(tmp_path / "labels")
    for _ in range(30):
        session.choose(session.labelled())
        lease = session.lend("a")
        session.answer("a", lease.text, int(truth[lease.text]))
    found = session.labelled()
    sample = set(found.texts[found.is_scored].tolist())
    assert sample == set(session.drawn[: len(sample)])
    drawn = [each.text for each in session.store.answers() if each.share == RANDOM]
    assert set(drawn) <= sample
    assert len(drawn) == 6
    assert session.progress().counts == np.bincount(truth[found.texts]).tolist()


def test_what_was_drawn_at_random_does_not_change_what_is_chosen(tmp_path):
    session, truth = session_of(tmp_path / "a")
    other, _ = session_of(tmp_path / "b")
    for each, wrong in ((session, False), (other, True)):
        each.choose(each.labelled())
        for _ in range(25):
            lease = each.lend("a")
            label = int(truth[lease.text])
            each.answer("a", lease.text, 1 - label if wrong and lease.share == RANDOM else label)
        each.choose(each.labelled())
    assert session.head is not None
    assert session.queue == other.queue


# --- the score and the curve


def test_labels_that_say_nothing_of_the_text_score_as_chance():
    generator = np.random.default_rng(1)
    features = generator.normal(size=(240, 20)).astype(np.float32)
    labels, scored = generator.integers(2, size=240), np.arange(240) % 2 == 0
    found = estimate(features, labels, scored, 2, 0)
    assert found.labels == 240
    assert found.scored == 120
    assert found.curve[-1].low < 0.5 < found.curve[-1].high


def test_labels_that_a_head_can_tell_score_high():
    generator = np.random.default_rng(1)
    labels = generator.integers(3, size=90)
    features = (np.eye(3)[labels] + 0.1 * generator.normal(size=(90, 3))).astype(np.float32)
    found = estimate(features, labels, np.arange(90) % 3 == 0, 3, 0)
    assert found.curve[-1].score == 1.0
    assert found.curve[-1].low < 1.0
    assert [point.labels for point in found.curve] == [22, 45, 90]
    head = fitted(features, labels, 3)
    assert (probabilities(head, features).argmax(1) == labels).all()
    assert fitted(features[:9], labels[:9], 3) is None
    assert estimate(features, labels, np.zeros(90, bool), 3, 0) is None


def test_the_power_law_is_found_again():
    sizes = np.array([25, 50, 100, 200])
    scores = 0.9 - 2.0 * sizes**-0.5
    assert extrapolated(sizes, scores[None], 300)[0] == pytest.approx(0.9 - 2.0 * 300**-0.5, abs=0.01)
    assert extrapolated(sizes, np.full((1, 4), 0.7), 300)[0] == pytest.approx(0.7)
    falling = extrapolated(sizes, np.array([[0.8, 0.7, 0.6, 0.5]]), 300)[0]
    assert 0.5 <= falling <= 0.8
    assert extrapolated(sizes, np.array([[0.4, 0.7, 0.9, 1.0]]), 300)[0] <= 1.0


def test_a_forecast_has_an_interval_and_needs_a_few_texts():
    generator = np.random.default_rng(0)
    right = generator.random((3, 40)) < np.array([[0.5], [0.6], [0.7]])
    found = forecast([50, 100, 200], right, generator)
    assert found.labels == 300
    assert found.low < found.score < found.high
    assert forecast([50, 100, 200], right[:, :5], generator) is None
    assert forecast([50, 100], right[:2], generator) is None
    (point,) = points_of([50], np.ones((1, 10), bool))
    assert (point.score, point.high) == (1.0, pytest.approx(1.0))
    assert 0.6 < point.low < 0.8


def test_embeddings_do_not_depend_on_the_texts_beside_them(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("LIT_BERT_CACHE", str(tmp_path))
    embedder = Embedder(weights, 16, "32-true")
    texts = [text for name in CLASSES for text in texts_of(name, 5)]
    found = embedder.cached(texts)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    for text, value in zip(texts[:4], found[:4], strict=True):
        assert np.allclose(embedder([text])[0], value, atol=1e-5)
    assert isinstance(found, np.memmap)
    (file,) = (tmp_path / "embeddings").glob("*.npy")
    stamp = file.stat().st_mtime_ns
    assert (embedder.cached(texts) == found).all()
    assert file.stat().st_mtime_ns == stamp


# --- the pool


def test_a_pool_has_each_text_once_with_the_label_that_stands_there(tmp_path):
    path = write_pool(tmp_path / "pool.csv", ["one text", "two texts", "one text", " "], ["", "b", "a", "b"])
    pool = read_pool(path, ReadOptions(), None, None)
    assert (pool.texts, pool.labels, pool.rows, pool.left_out) == (
        ["one text", "two texts"],
        ["a", "b"],
        [1, 2],
        2,
    )
    assert classes_of(pool, None) == ["a", "b"]
    assert classes_of(pool, ["b", "c", "a"]) == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("labels", "given", "message"),
    [
        (["1.5", "2.25"], None, "are numbers"),
        (["a", "b"], ["a", "c"], "the pool has the label b"),
        (["a", ""], None, "is 1; expected 2 to 35"),
        (["", ""], None, "has no labels to take the classes from"),
        (["a", "b"], ["a", "b", "b"], "names b twice"),
        (["a", "b"], ["a", "b", ""], "a class without a name"),
        (["a", "b"], [f"{n}" for n in range(34)] + ["a", "b"], "expected 2 to 35"),
    ],
)
def test_classes_that_have_no_key_each_are_refused(labels, given, message, tmp_path):
    pool = read_pool(
        write_pool(tmp_path / "pool.csv", ["one text", "two texts"], labels), ReadOptions(), None, None
    )
    with pytest.raises(UserError, match=message):
        classes_of(pool, given)


def test_pools_that_are_none_are_refused(tmp_path):
    contradiction = write_pool(tmp_path / "a.csv", ["one text", "one text", "two"], ["a", "b", "a"])
    with pytest.raises(UserError, match="another label"):
        read_pool(contradiction, ReadOptions(), None, None)
    several = tmp_path / "b.jsonl"
    several.write_text('{"text": "one text", "label": ["a", "b"]}\n{"text": "two texts", "label": []}\n')
    with pytest.raises(UserError, match="not for several labels"):
        read_pool(several, ReadOptions(), None, None)
    with pytest.raises(UserError, match="no file"):
        read_pool(tmp_path / "missing.csv", ReadOptions(), None, None)
    for texts, message in (([], "has no texts"), (["one text"], "has 1 text;")):
        with pytest.raises(UserError, match=message):
            read_pool(write_pool(tmp_path / "few.csv", texts), ReadOptions(), "text", None)
    columns = tmp_path / "c.csv"
    columns.write_text(
        "first,second\na long text of words,another long text\nand one more of it,and so on it goes\n"
    )
    with pytest.raises(UserError, match="which column"):
        read_pool(columns, ReadOptions(), None, None)


def test_why_there_is_no_score_is_said():
    assert "it needs 10 labels" in summary(None, 9)
    assert "it is being computed, or needs more of the texts" in summary(None, 10)


def test_all_35_classes_have_a_key_in_the_terminal_and_labels_of_the_file_count(tmp_path):
    session, _ = session_of(tmp_path / "labels", count=12)
    classes = ["x", "y", *(f"class {n}" for n in range(33))]
    Store(session.store.path, {"pool": "a", "classes": classes})
    labels = ["y", *[None] * 11]
    session = Session(session.pool._replace(labels=labels), classes, session.store, session.features)
    keys, out = iter([*"9az", "A", "-", "."]), io.StringIO()
    assert not label_in_terminal(session, "a", lambda: next(keys), out)
    shown = out.getvalue()
    assert "1 x   2 y   3 class 0" in shown
    assert "a class 7" in shown
    assert "z class 32" in shown
    assert all(len(each) <= WIDTH + 3 for each in shown.splitlines() if "class 1" in each)
    assert shown.count("that is no key here") == 1
    assert [each.label for each in session.store.answers()] == ["class 6", "class 7", "class 32", None]
    assert session.progress()[:3] == (4, 1, 7)
    assert session.write(tmp_path / "out.jsonl") == 4
    assert '"label": "y"' in (tmp_path / "out.jsonl").read_text().splitlines()[0]
