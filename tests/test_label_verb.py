"""The verb `label`, as people use it: in a terminal, killed and started again, several at once, over HTTP."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import CLASSES, texts_of
from serving import JSON, Running, error_of
from ugly import UGLY

from lit_bert.io.escape import line, names
from lit_bert.labelling.pool import KEYS
from lit_bert.labelling.show import shown_text
from lit_bert.labelling.store import RANDOM, Store, stored_facts

ROOT = Path(__file__).parents[1]
NAMES = ",".join(CLASSES)
HOSTILE = "\x1b[2Jgone\x07 \u202etxt.exe\u202c <img src=x onerror=alert(1)> =1+1"


def write_pool(path: Path, texts: list[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("text",), *((text,) for text in texts)])
    return path


@pytest.fixture
def pool() -> Path:
    return write_pool(Path("pool.csv"), [text for name in CLASSES for text in texts_of(name, 12)])


Label = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def label(tiny_bert: Path) -> Iterator[Label]:
    """Starts `label` with a tiny encoder, and ends what a test left running."""
    started = []

    def call(pool: Path, *flags: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "lit_bert", "label", str(pool), "--data.max_length=16"]
        process = subprocess.Popen(
            [*command, f"--weights.pretrained={tiny_bert}", *flags],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.communicate()


def finished(process: subprocess.Popen[str], keys: str = "") -> str:
    """Gives keys, a line each, and waits for a good end; what was printed."""
    out, err = process.communicate("".join(f"{key}\n" for key in keys), timeout=240)
    assert process.returncode == 0, err
    return out


def written(path: str = "pool.labels.jsonl") -> list[dict]:
    return [json.loads(each) for each in Path(path).read_text(encoding="utf-8").splitlines()]


def store_of(pool: Path) -> Store:
    place = pool.with_name("pool.labels.sqlite")
    facts = stored_facts(place)
    del facts["format"]
    return Store(place, facts)


def test_answers_are_kept_taken_back_and_written_for_fit(label, pool):
    before = pool.read_bytes()
    out = finished(label(pool, "--data.label_names", NAMES), "123-z,,1.")
    assert "1 joy   2 sadness   3 anger" in out
    assert "that is no key here" in out
    assert out.count("taken back") == 2
    rows = written()
    assert [each["label"] for each in rows] == ["joy", "sadness", "joy"]
    with pool.open(encoding="utf-8") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)]
    assert all(texts[each["row"] - 1] == each["text"] for each in rows)
    assert pool.read_bytes() == before


def test_a_second_start_goes_on_with_the_classes_of_the_first(label, pool):
    finished(label(pool, "--data.label_names", NAMES), "12.")
    first = written()
    out = finished(label(pool), "3.")
    assert "2 labelled, 34 left" in out
    assert written()[:2] == first
    assert written()[2]["label"] == "anger"
    assert len({each["text"] for each in written()}) == 3


def test_all_texts_are_asked_once_and_the_score_is_said(label, pool):
    out = finished(label(pool, "--data.label_names", NAMES), "123" * 12)
    assert "every text is labelled or skipped" in out
    assert sorted(each["row"] for each in written()) == list(range(1, 37))
    assert sum(each["drawn_at_random"] for each in written()) >= 7


def test_what_is_killed_loses_no_answer_but_the_one_that_is_typed(label, pool):
    process = label(pool, "--data.label_names", NAMES)
    for count in range(5):
        process.stdin.write("1\n")
        process.stdin.flush()
        while not process.stdout.readline().startswith("→ joy"):
            assert process.poll() is None
        if count == 4:
            process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    kept = {each.text for each in store_of(pool).answers()}
    assert len(kept) == 5
    finished(label(pool), "2.")
    assert len(written()) == 6


def test_an_end_by_a_signal_frees_the_text_and_writes_what_there_is(label, pool):
    process = label(pool, "--data.label_names", NAMES)
    process.stdin.write("1\n")
    process.stdin.flush()
    while not process.stdout.readline().startswith("→ joy"):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert len(written()) == 1
    taken = {store_of(pool).lend(f"p{n}", (), range(36), 5).text for n in range(35)}
    assert len(taken) == 35


def test_two_people_in_terminals_label_each_text_once(label, pool):
    label_names = ("--data.label_names", NAMES)
    both = [label(pool, *label_names), label(pool, *label_names)]
    for process in both:
        process.stdin.write("1\n" * 40)
        process.stdin.flush()
    outs = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    answers = store_of(pool).answers()
    assert sorted(each.text for each in answers) == list(range(36))
    assert sum(out.count("→ joy") for out, _ in outs) == 36
    assert RANDOM in {each.share for each in answers}


def test_hostile_texts_and_names_do_nothing_to_a_terminal(label):
    pool = write_pool(Path("pool.csv"), [HOSTILE, "an ordinary text"])
    out = finished(label(pool, "--data.label_names", 'a\x1b[31m,"b\u202e,"'), "12")
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "\x07" not in out
    assert "\\x1b[2Jgone\\x07 \\u202etxt.exe" in out
    assert "1 a\\x1b[31m   2 b\\u202e," in out
    assert {each["text"] for each in written()} == {HOSTILE, "an ordinary text"}
    assert {each["label"] for each in written()} == {"a\x1b[31m", "b\u202e,"}
    for text in (HOSTILE, "a\nb\r\nc\rd", "\ud800", "x" * 30_000, *UGLY):
        assert shown_text(text).replace("\n", "") == line(shown_text(text).replace("\n", ""))


def test_fit_runs_at_the_end_with_the_settings_after_two_dashes(label, pool, tiny_bert):
    flags = ["--data.label_names", NAMES, "--", "--weights.pretrained", str(tiny_bert), "--method", "frozen"]
    process = label(pool, *flags, "--data.max_length", "16", "--trainer.accelerator", "cpu")
    finished(process, "123" * 12)
    (best,) = Path("checkpoints").glob("version_*/best.ckpt")
    assert best.is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["missing.csv", "--data.label_names", NAMES], "no file missing.csv"),
        (["pool.csv"], "has no labels to take the classes from"),
        (["pool.csv", "--data.label_names", NAMES, "--output", "none/out.jsonl"], "cannot be written"),
        (["pool.csv", "--data.label_names", NAMES, "--output", "."], "cannot be written"),
        (["pool.csv", "--data.label_names", NAMES, "--", "--bogus", "1"], "unrecognized arguments: --bogus"),
        (["pool.csv", "--data.label_names", NAMES, "--", "--data.dataset=a.csv"], "takes the labels of this"),
        (["pool.csv", "--data.label_names", "a"], "expected 2 to 35"),
        (["pool.csv", "--data.label_names", NAMES, "--data.text_column", "txt"], "no column 'txt'"),
        (["pool.csv", "--data.label_names", NAMES, "--port", "1"], "--port is for the page"),
        (["pool.csv", "--data.label_names", NAMES, "--data.header", "perhaps"], "--data.header"),
        (["pool.csv", "--data.label_names", NAMES, "--output", "pool.csv"], "written over"),
        (["pool.csv", "--data.label_names", NAMES, "--serve", "--", "--seeds", "2"], "run fit on the labels"),
        (["pool.csv", "--data.label_names", NAMES, "--data.max_length", "x"], "number of tokens"),
    ],
)
def test_what_cannot_be_labelled_is_refused(flags, message, refused, pool):
    assert message in refused("label", *flags)


def test_a_pool_that_changed_is_refused(label, pool, run):
    finished(label(pool, "--data.label_names", NAMES), "1.")
    pool.write_text(pool.read_text() + "one more text\n")
    outcome = run("label", pool)
    assert outcome.code == 2
    assert "pool differs" in outcome.err


# --- over HTTP


@pytest.fixture
def served(label, pool) -> Running:
    return serve(label, pool)


def serve(label: Label, pool: Path, *flags: str) -> Running:
    process = label(pool, "--data.label_names", NAMES, "--serve", "--port=0", *flags)
    found = process.stdout.readline()
    port = re.search(r"http://\S+:(\d+)$", found.strip())
    assert port, process.stderr.read()
    return Running(process, int(port[1]), found.strip())


def post(server: Running, path: str, **fields: object) -> dict:
    answer = server.ask("POST", path, json.dumps(fields), JSON)
    assert answer.status == 200, answer
    return answer.json


ANNA, BEN = "annaannaanna", "benbenbenben"


def test_two_pages_get_different_texts_and_take_answers_back(served, pool):
    anna, ben = (post(served, "/next", person=each)["text"] for each in (ANNA, BEN))
    assert anna["number"] != ben["number"]
    after = post(served, "/answer", person=ANNA, text=anna["number"], label=1)
    assert after["labelled"] == 1
    assert after["classes"][1] == {"key": "2", "name": "sadness", "labels": 1}
    assert after["text"]["number"] not in (anna["number"], ben["number"])
    refused = post(served, "/answer", person=ANNA, text=ben["number"], label=1)
    assert "not kept" in refused["note"]
    assert refused["labelled"] == 1
    back = post(served, "/undo", person=ANNA)
    assert back["text"]["number"] == anna["number"]
    assert back["labelled"] == 0
    assert "nothing" in post(served, "/undo", person=ANNA)["note"]
    assert post(served, "/answer", person=BEN, text=ben["number"], label=None)["skipped"] == 1
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(60) == 0
    assert written() == []


def test_the_curve_comes_with_the_labels(served):
    found = post(served, "/next", person=ANNA)
    for turn in range(30):
        found = post(served, "/answer", person=ANNA, text=found["text"]["number"], label=turn % 3)
    deadline = time.monotonic() + 120
    while not found["curve"] and time.monotonic() < deadline:
        time.sleep(0.5)
        found = served.ask("GET", "/state").json
    assert found["summary"].startswith("accuracy ")
    assert all(0 <= point["low"] <= point["score"] <= point["high"] <= 1 for point in found["curve"])


def test_requests_of_another_form_are_refused(served):
    def status(path: str, body: str, headers: dict[str, str] = JSON) -> int:
        answer = served.ask("POST", path, body, headers)
        error_of(answer, answer.status)
        return answer.status

    good = {"person": ANNA, "text": 0, "label": 0}
    for field, value in (
        ("label", 3),
        ("label", -1),
        ("label", True),
        ("text", 36),
        ("text", "0"),
        ("person", "a"),
    ):
        assert status("/answer", json.dumps(good | {field: value})) == 422
    assert status("/answer", json.dumps({"person": ANNA})) == 422
    assert status("/next", "[" * 2000) == 400
    assert status("/next", "{}") == 422
    assert status("/next", json.dumps({"person": "a" * 5000})) == 413
    assert status("/next", json.dumps({"person": ANNA}), {}) == 415
    assert status("/next", json.dumps({"person": ANNA}), {**JSON, "Origin": "https://evil.example"}) == 403
    assert status("/next", json.dumps({"person": ANNA}), {**JSON, "Host": "evil.example"}) == 421
    error_of(served.ask("GET", "/next"), 405)
    error_of(served.ask("GET", "/labels"), 404)
    page = served.ask("GET", "/")
    assert page.status == 200
    assert "script-src 'sha256-" in page.headers["content-security-policy"]


def test_a_token_is_asked_for(label, pool):
    server = serve(label, pool, "--token", "secret")
    assert server.ask("GET", "/").status == 200
    error_of(server.ask("GET", "/state"), 401)
    error_of(server.ask("POST", "/next", json.dumps({"person": ANNA}), JSON), 401)
    headers = {**JSON, "Authorization": "Bearer secret"}
    assert server.ask("POST", "/next", json.dumps({"person": ANNA}), headers).status == 200


def test_keys_are_one_each_for_all_classes():
    assert len(set(KEYS)) == len(KEYS) == 35
    assert KEYS.isalnum()
    assert names(["a" * 99])[0] == line("a" * 99, 40)
