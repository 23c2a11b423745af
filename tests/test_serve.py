"""The server as a client meets it: a process of its own, on a free port, asked over real sockets."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import CLASSES, list_files, texts_of
from jsonschema import Draft202012Validator
from serving import JSON, ROOT, Answer, Running, Start, alive, error_of, read_all
from ugly import UGLY

import lit_bert
from lit_bert.io.escape import JOINERS
from lit_bert.product.predictor import Predictor

pytest.importorskip("uvicorn")
from prometheus_client.parser import text_string_to_metric_families

from lit_bert.product import openapi
from lit_bert.product.errors import ApiError
from lit_bert.product.messages import Error, Health, Info, Limits, decode
from lit_bert.task.single import SingleLabel

HEAD = (
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


@pytest.fixture(scope="module")
def server(start: Start, exported: Path) -> Running:
    """One for all tests that leave it as it was."""
    return start(exported, "--bytes=20000", "--texts=20", "--characters=500", "--seconds=1.5", "--threads=2")


def texts(count: int) -> list[str]:
    return [text for label in CLASSES for text in texts_of(label, count)]


# --- answers


def test_one_text_gets_what_the_predictor_says(server: Running, exported: Path) -> None:
    answer = server.predict("i am so happy today")
    (expected,) = Predictor(exported)(["i am so happy today"])
    assert answer.status == 200
    assert answer.json == expected._asdict()
    assert answer.headers["cache-control"] == "no-store"


def test_a_list_is_answered_in_order_as_each_text_alone(server: Running) -> None:
    several = texts(6)
    together = server.predict(several).json["predictions"]
    alone = [server.predict(text).json for text in several]
    assert [each["label"] for each in together] == [each["label"] for each in alone]
    assert len({each["label"] for each in alone}) > 1


def test_labels_are_the_same_under_many_clients(server: Running) -> None:
    several = texts(20)
    alone = [server.predict(text).json["label"] for text in several]
    with ThreadPoolExecutor(16) as pool:
        assert [answer.json["label"] for answer in pool.map(server.predict, several)] == alone


def test_words_that_mattered_come_where_they_are_asked_for(server: Running) -> None:
    text = "i am \U0001f600 happy"
    words = server.predict(text, explain=True).json["words"]
    assert [text[word["start"] : word["end"]] for word in words] == ["i", "am", "\U0001f600", "happy"]
    assert "words" not in server.predict(text).json


@pytest.mark.parametrize(
    "text", ["a\0b", "happy\x1b[31m", " happy\n", "\ufeffhappy", "\U0001f600", ".", "\u202ehappy", "é" * 500]
)
def test_any_string_with_something_to_see_is_a_text(server: Running, exported: Path, text: str) -> None:
    answer = server.predict(text)
    assert answer.status == 200
    assert answer.json == Predictor(exported)([text])[0]._asdict()
    assert (
        server.predict([text, "happy"]).json["predictions"][1]["label"]
        == server.predict("happy").json["label"]
    )


def test_info_tells_what_is_served(server: Running, exported: Path) -> None:
    info = server.ask("GET", "/info").json
    assert info["labels"] == Predictor(exported).labels
    assert info["limits"] == {"bytes": 20000, "texts": 20, "characters": 500, "seconds": 1.5, "queue": 256}
    assert info["version"] == lit_bert.__version__
    assert info["name"] == exported.parent.name
    assert info["sha256"][info["file"]] == hashlib.sha256((exported / info["file"]).read_bytes()).hexdigest()


def test_the_page_and_the_documentation_ask_nothing_of_other_hosts(server: Running) -> None:
    answer = server.ask("GET", "/docs")
    assert answer.status == 200
    assert "POST /predict" in answer.content.decode()
    assert not re.search(r"(src|href|url)\W+(https?:)?//", answer.content.decode())
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    page = server.ask("GET", "/")
    assert "connect-src 'self'" in page.headers["content-security-policy"]


def test_the_document_of_the_api_is_true(server: Running) -> None:
    document = server.ask("GET", "/openapi.json").json
    for path, methods in document["paths"].items():
        for method in methods:
            body = json.dumps({"inputs" if path == "/" else "text": "happy"}) if method == "post" else None
            answer = server.ask(method.upper(), path, body, JSON if body else {})
            assert answer.status == 200 or path == "/"
            if path != "/":
                content = methods[method]["responses"]["200"]["content"]
                assert answer.headers["content-type"].split(";")[0] in content
    examples = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    shapes = document["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"][
        "examples"
    ]
    for name, example in examples.items():
        answer = server.post(json.dumps(example["value"]).encode())
        assert answer.status == 200
        assert answer.json.keys() == shapes[name]["value"].keys()
    prediction = document["components"]["schemas"]["Prediction"]
    assert prediction["properties"].keys() == server.predict("happy", explain=True).json.keys()


def test_answers_and_examples_are_what_the_models_say(server: Running) -> None:
    one, several = server.predict("happy", explain=True), server.predict(["happy", "sad"])
    Error.model_validate_json(server.predict([]).content, strict=True)
    Health.model_validate_json(server.ask("GET", "/health").content, strict=True)
    info = server.ask("GET", "/info")
    Info.model_validate_json(info.content, strict=True)
    assert info.json.keys() == Info.model_fields.keys()
    document = server.ask("GET", "/openapi.json").json
    operation, schemas = document["paths"]["/predict"]["post"], document["components"]["schemas"]
    said = operation["responses"]["200"]["content"]["application/json"]["examples"]
    for name, value in (
        ("Prediction", one.json),
        ("Predictions", several.json),
        ("Prediction", said["one"]["value"]),
        ("Prediction", said["explained"]["value"]),
        ("Predictions", said["several"]["value"]),
    ):
        whole = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        Draft202012Validator(whole).validate(value)
    for field, value in (
        ("label", "none of them"),
        ("probability", 1.1),
        ("probabilities", {}),
        ("truncated", 0),
    ):
        whole = {"$ref": "#/components/schemas/Prediction", "components": document["components"]}
        assert not Draft202012Validator(whole).is_valid({**one.json, field: value}), field
    text, texts = schemas["Request"]["properties"]["text"]["oneOf"]
    assert (text["maxLength"], texts["maxItems"], texts["items"]) == (500, 20, text)
    assert schemas["Prediction"]["properties"]["label"]["enum"] == info.json["labels"]
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references == schemas.keys()


# --- bad input

WRONG = {
    "no JSON": (b"happy", 400, "not_json"),
    "nothing": (b"", 400, "not_json"),
    "half a JSON": (b'{"text": "a', 400, "not_json"),
    "no UTF-8": (b'{"text": "\xff\xfe"}', 400, "not_utf8"),
    "a surrogate in UTF-8": (b'{"text": "\xed\xa0\x80"}', 400, "not_utf8"),
    "deep nesting": (b'{"text": ' + b"[" * 9000 + b"]" * 9000 + b"}", 400, "not_json"),
    "deep nesting of objects": (b'{"text":' * 2000 + b"1" + b"}" * 2000, 400, "not_json"),
    "no number": (b'{"text": NaN}', 400, "not_json"),
    "a number of 9,000 digits": (b'{"text": ' + b"9" * 9000 + b"}", 400, "not_json"),
    "a number past the largest": (b'{"text": 1e999}', 422, "wrong_type"),
    "a byte-order mark": (b'\xef\xbb\xbf{"text": "happy"}', 400, "not_json"),
    "UTF-16": ('{"text": "happy"}'.encode("utf-16"), 400, "not_utf8"),
    "a raw control character": (b'{"text": "a\nb"}', 400, "not_json"),
    "two values": (b'{"text": "a"} {"text": "b"}', 400, "not_json"),
    "a list": (b'["happy"]', 422, "wrong_type"),
    "null": (b"null", 422, "wrong_type"),
    "no text": (b'{"txt": "happy"}', 422, "text_missing"),
    "an unknown field": (b'{"text": "happy", "explian": true}', 422, "unknown_field"),
    "a number for the text": (b'{"text": 5}', 422, "wrong_type"),
    "an object for the text": (b'{"text": {"a": 1}}', 422, "wrong_type"),
    "a number among the texts": (b'{"text": ["happy", 5]}', 422, "wrong_type"),
    "null among the texts": (b'{"text": [null]}', 422, "wrong_type"),
    "a word for explain": (b'{"text": "happy", "explain": "yes"}', 422, "wrong_type"),
    "explain of a list": (b'{"text": ["happy"], "explain": true}', 422, "explain_one"),
    "an empty list": (b'{"text": []}', 422, "no_texts"),
    "too many texts": (json.dumps({"text": ["a"] * 21}).encode(), 422, "too_many_texts"),
    "a long text": (json.dumps({"text": ["a", "a" * 501]}).encode(), 422, "text_too_long"),
}


@pytest.mark.parametrize(("body", "status", "code"), WRONG.values(), ids=WRONG)
def test_bad_input_is_named_and_harms_nobody(server: Running, body: bytes, status: int, code: str) -> None:
    assert error_of(server.post(body), status)["code"] == code
    assert alive(server)


def test_a_wrong_type_is_named_with_its_place(server: Running) -> None:
    assert "text[1] is a number" in error_of(server.predict(["happy", 5]), 422)["message"]


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"text": 5, "text": "happy"}', "text"),
        (b'{"text": "happy", "explain": false, "explain": true}', "explain"),
        (b'{"text": ["happy", {"a": 1, "b": {"c\\n": 1, "c\\n": 2}}]}', "c\\n"),
        (b'{"a": [[{"\\ud800": 1, "\\ud800": 1}]], "text": "happy"}', "\\ud800"),
    ],
)
def test_a_field_that_comes_twice_is_named(server: Running, body: bytes, name: str) -> None:
    error = error_of(server.post(body), 422)
    assert error["code"] == "repeated_field"
    assert f"'{name}'" in error["message"]


def test_many_fields_of_which_one_comes_twice_are_refused_at_once() -> None:
    body = json.dumps({f"{n}": 0 for n in range(200_000)})[:-1] + ', "199999": 0}'
    before = time.monotonic()
    with pytest.raises(ApiError, match="comes twice"):
        decode(body.encode())
    assert time.monotonic() - before < 5


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "empty_text"),
        ("  \t\r\n\u3000\u2028", "empty_text"),
        ("\0\x1f\x85", "empty_text"),
        ("\u200b\ufeff\u202e", "empty_text"),
        ("\ud800", "lone_surrogate"),
        ("happy \udfff", "lone_surrogate"),
        ("\udc00\ud83d", "lone_surrogate"),
    ],
)
def test_texts_without_text_and_half_characters_are_named_with_their_place(
    server: Running, text: str, code: str
) -> None:
    alone = error_of(server.predict(text), 422)
    assert alone["code"] == code
    assert alone["message"].startswith("text ")
    among = error_of(server.predict(["a", "b", "c", text, text]), 422)
    assert among["code"] == code
    assert among["message"].startswith("text[3] ")


def test_messages_do_not_tell_how_to_switch_a_limit_off(server: Running) -> None:
    assert "sys." not in error_of(server.post(b'{"text": ' + b"9" * 9000 + b"}"), 400)["message"]


@pytest.mark.parametrize("size", [20_001, 10_000_000])
def test_a_large_body_is_refused_and_the_client_hears_it(server: Running, size: int) -> None:
    body = b'{"text": "' + b"a" * (size - 12) + b'"}'
    assert error_of(server.post(body), 413)["code"] == "body_too_large"
    pieces = (body[at : at + 4096] for at in range(0, size, 4096))
    chunked = server.ask("POST", "/predict", pieces, JSON, encode_chunked=True)
    assert error_of(chunked, 413)["code"] == "body_too_large"
    closing = server.ask("POST", "/predict", body, {**JSON, "Connection": "close"})
    assert closing.status == 413
    assert alive(server)


def test_100000_texts_are_refused(server: Running) -> None:
    assert server.predict(["happy"] * 100_000).status == 413


def test_a_client_that_asks_before_it_sends_hears_no_at_once(server: Running) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with server.raw(head + b"Content-Length: 9999999\r\nExpect: 100-continue\r\n\r\n") as connection:
        assert connection.recv(99).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp"]
)
def test_other_content_types_are_refused(server: Running, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    error_of(server.ask("POST", "/predict", b'{"text": "happy"}', headers), 415)


def test_json_may_name_its_charset(server: Running) -> None:
    headers = {"Content-Type": "application/JSON; charset=utf-8"}
    assert server.ask("POST", "/predict", b'{"text": "happy"}', headers).status == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content-Type": "application/json; charset=utf-16"}, "not_utf8"),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, "encoded_body"),
    ],
)
def test_other_encodings_are_refused(server: Running, headers: dict[str, str], code: str) -> None:
    assert error_of(server.ask("POST", "/predict", b'{"text": "happy"}', headers), 415)["code"] == code


def test_a_setting_in_the_address_is_not_ignored(server: Running) -> None:
    error_of(server.ask("POST", "/predict?explain=true", b'{"text": "happy"}', JSON), 422)


def test_unknown_paths_and_methods_are_named(server: Running) -> None:
    assert "/nope" in error_of(server.ask("GET", "/nope"), 404)["message"]
    answer = server.ask("GET", "/predict")
    error_of(answer, 405)
    assert answer.headers["allow"] == "POST"
    error_of(server.ask("DELETE", "/info"), 405)


def test_what_is_no_http_is_refused_in_the_same_shape(server: Running) -> None:
    with server.raw(b"happy\r\n\r\n") as connection:
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["code"] == "not_http"


def test_endless_headers_are_cut(server: Running) -> None:
    with server.raw(b"GET /health HTTP/1.1\r\n") as connection:
        for _ in range(200):
            try:
                connection.sendall(b"X: " + b"a" * 1000 + b"\r\n")
            except OSError:
                break
        else:
            assert connection.recv(99).startswith(b"HTTP/1.1 431")
    assert alive(server)


# --- slow and vanishing clients


def test_a_body_that_never_arrives_times_out(server: Running) -> None:
    with server.raw(HEAD % 90 + b'{"te') as connection:
        before = time.monotonic()
        content = read_all(connection)
        assert 1 < time.monotonic() - before < 4
    assert content.startswith(b"HTTP/1.1 408")
    assert json.loads(content.partition(b"\r\n\r\n")[2])["error"]["code"] == "body_timeout"


def test_a_byte_at_a_time_times_out_and_blocks_nobody(server: Running) -> None:
    with server.raw(HEAD % 90) as connection:
        for _ in range(6):
            connection.sendall(b" ")
            before = time.monotonic()
            assert server.predict("happy").status == 200
            assert time.monotonic() - before < 1
            time.sleep(0.2)
        assert read_all(connection).startswith(b"HTTP/1.1 408")


def test_a_head_that_never_ends_is_closed(server: Running) -> None:
    with server.raw(b"POST /predict HT") as connection:
        before = time.monotonic()
        assert read_all(connection) == b""
        assert 1 < time.monotonic() - before < 4


@pytest.mark.parametrize(
    "sent", [b"", b"\r\n", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\r\n\r\n\n"]
)
def test_an_idle_connection_is_closed(start: Start, exported: Path, sent: bytes) -> None:
    server = start(exported, "--threads=1", trouble=True, IDLE_S="1")
    with server.raw(sent) as connection:
        before = time.monotonic()
        read_all(connection)
        assert 0.5 < time.monotonic() - before < 4


def test_many_idle_connections_block_nobody(server: Running) -> None:
    idle = [server.raw(b"") for _ in range(300)]
    try:
        before = time.monotonic()
        assert server.predict("happy").status == 200
        assert time.monotonic() - before < 1
    finally:
        for connection in idle:
            connection.close()


def test_clients_that_hang_up_leave_nothing_behind(server: Running) -> None:
    body = json.dumps({"text": texts(6)}).encode()
    for sent in (HEAD % len(body) + body[:50], HEAD % len(body) + body):
        for _ in range(20):
            server.raw(sent).close()
    wait_for(lambda: server.metrics()["lit_bert_queue_texts"] == 0)
    assert server.predict("happy").status == 200


def wait_for(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


# --- metrics


def test_the_metrics_count_what_happened(server: Running) -> None:
    before = Counter(server.metrics())
    server.predict("happy")
    server.predict(["happy", "sad", "angry"])
    server.predict([])
    server.ask("GET", "/nope")
    after = server.metrics()

    def grown(name: str) -> float:
        return after[name] - before[name]

    assert grown('lit_bert_requests_total{path="/predict",status="200"}') == 2
    assert grown('lit_bert_requests_total{path="/predict",status="422"}') == 1
    assert grown('lit_bert_requests_total{path="other",status="404"}') == 1
    assert grown('lit_bert_rejected_total{reason="no_texts"}') == 1
    assert grown("lit_bert_texts_total") == 4
    assert grown("lit_bert_request_seconds_count") == 2
    assert grown("lit_bert_batch_texts_sum") == 4
    assert after["lit_bert_queue_texts"] == 0
    assert after["process_resident_memory_bytes"] > 1e7


def test_the_process_holds_no_torch(server: Running) -> None:
    maps = Path(f"/proc/{server.process.pid}/maps")
    if not maps.is_file():
        pytest.skip("needs /proc")
    assert "onnxruntime" in maps.read_text()
    assert "torch" not in maps.read_text()
    code = "import sys, lit_bert.product.server, lit_bert.verbs.serve; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "lightning"} & set(done.stdout.split())


# --- names of classes that an output might interpret


@pytest.fixture(scope="module")
def ugly(start: Start, exported_ugly: Path) -> Running:
    return start(exported_ugly, "--threads=1")


def test_ugly_names_come_back_letter_for_letter(ugly: Running, exported_ugly: Path) -> None:
    several = ["happy", "so sad", "rain dog late"]
    expected = [each._asdict() for each in Predictor(exported_ugly)(several)]
    answers = [ugly.predict(text, explain=True).json for text in several]
    assert all(answer.pop("words") for answer in answers)
    assert answers == expected
    assert list(answers[0]["probabilities"]) == UGLY
    assert ugly.predict(several).json["predictions"] == expected
    info = ugly.ask("GET", "/info").json
    assert info["labels"] == UGLY
    assert list(info["scores"]["validation"]["by_class"]) == UGLY
    schemas = ugly.ask("GET", "/openapi.json").json["components"]["schemas"]
    assert schemas["Prediction"]["properties"]["label"]["enum"] == UGLY


def test_no_text_of_a_client_or_a_model_becomes_a_label_of_prometheus(ugly: Running) -> None:
    ugly.predict(UGLY)
    for name in UGLY:
        path = "/" + urllib.parse.quote(name, safe="/")
        ugly.ask("GET", path, headers={"Host": 'evil"}.example'})
        ugly.ask("GET", path)
    ugly.ask('EVIL"}', "/info")
    ugly.ask("BREW", "/info")
    content = ugly.ask("GET", "/metrics").content.decode("ascii")
    samples = [each for family in text_string_to_metric_families(content) for each in family.samples]
    paths = {sample.labels["path"] for sample in samples if "path" in sample.labels}
    assert paths <= {
        "/predict",
        "/info",
        "/metrics",
        "/health",
        "/",
        "/docs",
        "/openapi.json",
        "/models",
        "other",
    }
    assert all(re.fullmatch(r"\d{3}", each.labels["status"]) for each in samples if "status" in each.labels)
    assert all(
        re.fullmatch("[a-z_0-9]+", each.labels["reason"]) for each in samples if "reason" in each.labels
    )
    assert {name for each in samples for name in each.labels} == {"path", "status", "reason", "le"}


def test_ugly_names_are_one_line_at_the_start_and_escaped_in_pages(
    ugly: Running, start: Start, exported_ugly: Path, tmp_path: Path
) -> None:
    docs = ugly.ask("GET", "/docs").content.decode()
    assert not re.search(r"<(script|img|!--)|alert\(1\)<", docs)
    assert all(each.isprintable() or each in "\n" + JOINERS for each in docs)
    assert ugly.ask("GET", "/").content == (ROOT / "lit_bert" / "product" / "page.html").read_bytes()
    folder = tmp_path / "x\n\x1b[31m<b>" / "exported"
    shutil.copytree(exported_ugly, folder)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    first = ["two\nlines", "\x1b[31mred\x1b[0m", "\u202eevil", "x" * 300]
    names = [*first, *(name for name in UGLY if name not in first)]
    settings["id2label"] = {str(place): name for place, name in enumerate(names)}
    settings["label2id"] = {name: place for place, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    list_files(folder)
    server = start(folder, "--threads=1")  # reads one line
    assert server.line.isprintable()
    assert r"(model.onnx; two\nlines, \x1b[31mred\x1b[0m, \u202eevil, xxxx" in server.line
    assert server.line.endswith(f"and {len(UGLY) - 12} more) at http://127.0.0.1:{server.port}")
    assert len(server.line) < 500
    assert server.ask("GET", "/info").json["name"] == "x\n\x1b[31m<b>"


def test_lone_surrogates_in_names_can_be_written() -> None:
    page = openapi.page(
        openapi.document(SingleLabel.of(["\ud800", "a\udfffb"]), Limits(1, 1, 1, 1, 1), False)
    )
    assert r"\ud800" in page.encode().decode()


# --- the queue, and failures within


@pytest.fixture(scope="module")
def troubled(start: Start, exported: Path) -> Running:
    return start(exported, "--queue=80", "--seconds=2", "--threads=1", trouble=True)


def test_one_bad_text_fails_alone(troubled: Running) -> None:
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(troubled.predict, "sleep 0.3")  # so that the others wait and form a batch
        time.sleep(0.1)
        answers = list(pool.map(troubled.predict, ["happy", "poison", ["sad", "rain"], "angry"]))
        assert first.result().status == 200
    assert [answer.status for answer in answers] == [200, 500, 200, 200]
    assert "secret" not in error_of(answers[1], 500)["message"]
    assert answers[2].json["predictions"][0]["label"] == troubled.predict("sad").json["label"]


def test_a_slow_answer_is_given_up(troubled: Running) -> None:
    before = time.monotonic()
    assert error_of(troubled.predict("sleep 3"), 504)["code"] == "too_slow"
    assert time.monotonic() - before < 2.9
    wait_for(lambda: troubled.metrics()["lit_bert_queue_texts"] == 0)
    assert troubled.predict("happy").status == 200


def test_a_full_queue_refuses_and_everybody_is_answered(troubled: Running) -> None:
    def ask(number: int) -> Answer:
        return troubled.predict("sleep 0.01" if number else "sleep 0.5")

    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(ask, range(100)))
    found = Counter(answer.status for answer in answers)
    assert found.keys() == {200, 429}  # one address has half of the queue
    assert found[200] >= 40
    for answer in answers:
        if answer.status == 429:
            assert error_of(answer, 429)["code"] == "too_many_requests"
            assert int(answer.headers["retry-after"]) >= 1
    wait_for(lambda: troubled.metrics()["lit_bert_queue_texts"] == 0)
    assert troubled.predict("happy").status == 200


def test_a_queue_full_of_one_request_refuses_the_next(troubled: Running) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(troubled.predict, ["sleep 0.01"] * 100)
        wait_for(lambda: troubled.metrics()["lit_bert_queue_texts"] > 80)
        answer = troubled.predict("happy")
        assert error_of(answer, 503)["code"] == "queue_full"
        assert int(answer.headers["retry-after"]) >= 1
        assert first.result().status == 200


def test_one_address_cannot_keep_out_another(troubled: Running) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(troubled.predict, ["sleep 0.02"] * 40)
        wait_for(lambda: troubled.metrics()["lit_bert_queue_texts"] == 40)
        assert troubled.predict("happy").status == 429
        other = http.client.HTTPConnection("127.0.0.1", troubled.port, 20, source_address=("127.0.0.2", 0))
        try:
            other.request("POST", "/predict", b'{"text": "happy"}', JSON)
        except OSError:
            pytest.skip("needs a second loopback address")
        assert other.getresponse().status == 200
        other.close()
        assert first.result().status == 200


def test_a_lone_text_does_not_wait_for_a_whole_list(troubled: Running) -> None:
    def timed(text: object) -> float:
        assert troubled.predict(text).status == 200
        return time.monotonic()

    with ThreadPoolExecutor(1) as pool:
        several = pool.submit(timed, ["sleep 0.02"] * 39)
        wait_for(lambda: troubled.metrics()["lit_bert_queue_texts"] == 39)
        assert timed("happy") < several.result() - 0.05


def test_a_dead_worker_ends_the_server(start: Start, exported: Path) -> None:
    server = start(exported, "--seconds=1", "--threads=1", trouble=True)
    assert error_of(server.predict("deadly"), 504)
    assert server.process.wait(10) == 1
    assert "worker 0 died" in server.process.communicate()[1]


# --- the server's names


OWN = ["localhost", "LOCALHOST:80", "localhost.:1", "127.0.0.1", "127.9.8.7:65535", "[::1]", "[0:0::1]:8000"]
OTHER = ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "my_host"]
OTHER += ["192.168.1.7", "0.0.0.0", "[2001:db8::1]", "2130706433", "127.1", "0x7f.0.0.1", "127.0.0.01"]
NO_NAME = [
    "",
    "a b",
    "évil",
    "a:b",
    "localhost:",
    "localhost:65536",
    "user@localhost",
    "a/b",
    "localhost:1:2",
]
NO_NAME += [
    "[::1",
    "[127.0.0.1]",
    "[::1%25lo]",
    "::1",
    "local%68ost",
    "localhost,evil.example",
    "*",
    ".",
    "<b>",
]


def with_host(server: Running, host: str | bytes, path: str = "/info", lines: bytes = b"") -> Answer:
    """GET with this Host, over a connection of its own."""
    host = host.encode() if isinstance(host, str) else host
    head = b"GET " + path.encode() + b" HTTP/1.1\r\nHost: " + host + b"\r\n" + lines
    return answer_to(server, head + b"Connection: close\r\n\r\n")


def answer_to(server: Running, request: bytes) -> Answer:
    """The answer to bytes on the wire, after which the server closes the connection."""
    with server.raw(request) as connection:
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Answer(int(first.split()[1]), headers, body)


@pytest.mark.parametrize("path", ["/", "/info", "/metrics", "/docs", "/openapi.json", "/health", "/nope"])
@pytest.mark.parametrize("host", ["localhost:8000", "evil.example"])
def test_only_health_is_told_to_those_who_ask_under_another_name(
    server: Running, path: str, host: str
) -> None:
    answer = with_host(server, host, path)
    if host == "localhost:8000" or path == "/health":
        assert answer.status == (404 if path == "/nope" else 200)
    else:
        assert error_of(answer, 421)["code"] == "host_not_allowed"


@pytest.mark.parametrize("host", OWN)
def test_names_of_this_machine_are_answered(server: Running, host: str) -> None:
    assert with_host(server, host).status == 200


@pytest.mark.parametrize("host", OTHER)
def test_other_names_are_refused_with_the_flag(server: Running, host: str) -> None:
    message = error_of(with_host(server, host), 421)["message"]
    assert "--allow-host" in message
    body = json.dumps({"text": "happy"})
    assert server.ask("POST", "/predict", body, {**JSON, "Host": host}).status == 421


@pytest.mark.parametrize("host", NO_NAME)
@pytest.mark.parametrize("path", ["/health", "/predict"])
def test_what_is_no_name_is_refused(server: Running, host: str, path: str) -> None:
    assert error_of(with_host(server, host, path), 400)["code"] == "host_invalid"


def test_a_request_names_its_host_once(server: Running) -> None:
    end = b"Connection: close\r\n\r\n"
    for version in (b"1.0", b"1.1"):
        answer = answer_to(server, b"GET /health HTTP/" + version + b"\r\n" + end)
        assert error_of(answer, 400)["code"] == "host_invalid"
    for second in (b"localhost", b"evil.example"):
        answer = with_host(server, "localhost", lines=b"Host: " + second + b"\r\n")
        assert error_of(answer, 400)["code"] == "host_invalid"


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://localhost:1/info", "localhost", 200),
        ("http://127.0.0.1/info?x=1", "localhost", 200),
        ("http://localhost", "localhost", 200),
        ("http://evil.example/info", "localhost", 421),
        ("http://localhost/info", "evil.example", 421),
        ("http://evil.example/health", "localhost", 200),
        ("http://localhost@evil.example/info", "localhost", 400),
        ("ftp://evil.example/info", "localhost", 421),
        ("//evil.example/info", "localhost", 404),
    ],
)
def test_a_whole_address_in_the_request_line_has_to_be_this_servers(
    server: Running, target: str, host: str, status: int
) -> None:
    assert with_host(server, host, target).status == status


@pytest.mark.parametrize(
    "name", ["X-Forwarded-Host", "X-Host", "X-Original-Host", "Forwarded", "X-Real-Host"]
)
def test_headers_of_proxies_say_nothing_about_the_host(server: Running, name: str) -> None:
    value = b"host=localhost" if name == "Forwarded" else b"localhost"
    line = name.encode() + b": " + value + b"\r\n"
    assert with_host(server, "evil.example", lines=line).status == 421
    assert with_host(server, "localhost", lines=line.replace(b"localhost", b"evil.example")).status == 200


@pytest.mark.parametrize("origin", ["http://localhost:8000", "https://127.0.0.1", "http://[::1]:3000"])
def test_the_servers_own_page_may_ask(server: Running, origin: str) -> None:
    headers = {**JSON, "Origin": origin, "Sec-Fetch-Site": "same-origin"}
    answer = server.ask("POST", "/predict", b'{"text": "happy"}', headers)
    assert answer.status == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "origin",
    [
        *("null", "", "http://evil.example", "https://evil.example:8000", "http://localhost.evil.example"),
        *("http://localhost@evil.example", "file://", "chrome-extension://abc", "localhost", "http://"),
        *("http://localhost/", "http://localhost http://localhost", "HTTP://localhost", "http://192.168.1.7"),
    ],
)
def test_pages_of_other_sites_may_not_ask(server: Running, origin: str) -> None:
    for path in ("/predict", "/health"):
        answer = server.ask("POST", path, b'{"text": "happy"}', {**JSON, "Origin": origin})
        assert error_of(answer, 403)["code"] == "origin_not_allowed"
    preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    answer = server.ask("OPTIONS", "/predict", headers=preflight)
    assert error_of(answer, 403)
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_what_a_browser_says_of_another_site_counts_but_a_link_may_be_followed(server: Running) -> None:
    said = {"Sec-Fetch-Site": "cross-site"}
    link = {**said, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert server.ask("GET", "/", headers=link).status == 200
    assert server.ask("GET", "/docs", headers=link).status == 200
    error_of(server.ask("POST", "/predict", b'{"text": "happy"}', {**JSON, **link}), 403)
    for changed in (
        {"Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Dest": "iframe"},
        {"Sec-Fetch-Dest": "object"},
    ):
        error_of(server.ask("GET", "/", headers={**link, **changed}), 403)
    error_of(server.ask("GET", "/info", headers=said), 403)
    for site in ("same-origin", "same-site", "none"):
        assert server.ask("GET", "/info", headers={"Sec-Fetch-Site": site}).status == 200


def test_more_names_are_allowed_by_a_flag(start: Start, exported: Path) -> None:
    flags = ("--allow-host=Models.Example", "--allow-host", "192.168.1.7", "--allow-host=2001:db8::1")
    server = start(exported, "--threads=1", *flags)
    assert server.process.stdout
    assert "models.example, 192.168.1.7, 2001:db8::1" in server.process.stdout.readline()
    for host in ("localhost", "models.example", "MODELS.example.:444", "192.168.1.7:80", "[2001:db8::1]:80"):
        assert with_host(server, host).status == 200
        assert with_host(server, "localhost", lines=b"Origin: https://models.example\r\n").status == 200
    for host in ("other.models.example", "192.168.1.8"):
        error_of(with_host(server, host), 421)


def test_any_name_can_be_allowed_but_no_other_site(start: Start, exported: Path) -> None:
    server = start(exported, "--threads=1", "--allow-host=*")
    assert server.process.stdout
    assert server.process.stdout.readline() == "accepted hosts: any (--allow-host)\n"
    assert with_host(server, "evil.example").status == 200
    error_of(with_host(server, "evil.example", lines=b"Origin: null\r\n"), 403)
    error_of(with_host(server, "evil.example", lines=b"Sec-Fetch-Site: cross-site\r\n"), 403)
    error_of(with_host(server, "evil example"), 400)


def test_on_every_network_names_have_to_be_given_but_not_the_address_that_was_reached(
    start: Start, exported: Path
) -> None:
    server = start(exported, "--threads=1", "--host=0.0.0.0")
    assert server.process.stdout
    assert server.process.stdout.readline() == (
        "accepted hosts: localhost, 127.0.0.0/8 and [::1], the address that a client connects to "
        "(--allow-host)\n"
    )
    assert with_host(server, "localhost").status == 200
    assert with_host(server, "0.0.0.0").status == 200  # as it was told to listen there
    for host in ("evil.example", "10.255.255.1", socket.gethostname()):
        error_of(with_host(server, host), 421)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("needs a network interface beside loopback")
        own = probe.getsockname()[0]
    connection = http.client.HTTPConnection(own, server.port, timeout=20)
    connection.request("GET", "/info")  # with Host: OWN:PORT
    assert connection.getresponse().status == 200
    connection.close()
    error_of(with_host(server, own), 421 if not own.startswith("127.") else 200)


def test_on_ipv6_its_address_is_answered(start: Start, exported: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("needs IPv6")
    server = start(exported, "--threads=1", "--host=::1")
    connection = http.client.HTTPConnection("::1", server.port, timeout=20)
    for host, status in (("[::1]", 200), ("localhost", 200), ("evil.example", 421)):
        connection.request("GET", "/info", headers={"Host": host})
        response = connection.getresponse()
        assert (response.status, bool(response.read())) == (status, True)
    connection.close()


@pytest.mark.parametrize(
    "value",
    ["https://a.example", "a.example:80", "[::1]:80", "a b", "", "*.a.example", "bücher.example", "a\nb"],
)
def test_what_is_no_name_cannot_be_allowed(exported: Path, refused: Callable[..., str], value: str) -> None:
    assert "--allow-host" in refused("serve", exported, "--allow-host", value)


# --- token


def test_a_token_is_asked_for(start: Start, exported: Path) -> None:
    server = start(exported, "--threads=1", LIT_BERT_TOKEN="s3cret")
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic s3cret"},
        {"Authorization": "Bearer \xff"},
    ):
        answer = server.ask("POST", "/predict", b'{"text": "happy"}', {**JSON, **headers})
        error_of(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    right = {"Authorization": "Bearer s3cret"}
    assert server.ask("POST", "/predict", b'{"text": "happy"}', {**JSON, **right}).status == 200
    for path in ("/info", "/metrics", "/nope"):
        error_of(server.ask("GET", path), 401)
    assert server.ask("GET", "/info", headers=right).status == 200
    assert server.ask("GET", "/health").status == 200
    assert server.ask("GET", "/").status in (200, 404)


# --- start and end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_what_is_in_flight(
    start: Start, exported: Path, number: signal.Signals
) -> None:
    server = start(exported, "--threads=1", trouble=True)
    answers: list[Answer] = []
    asking = [
        threading.Thread(target=lambda text=text: answers.append(server.predict(text)))
        for text in ("sleep 0.5", "happy", "sad")
    ]
    asking[0].start()
    wait_for(lambda: server.metrics()["lit_bert_queue_texts"] == 1)
    for thread in asking[1:]:
        thread.start()
    wait_for(lambda: server.metrics()["lit_bert_queue_texts"] == 3)
    server.process.send_signal(number)
    for thread in asking:
        thread.join()
    assert [answer.status for answer in answers] == [200] * 3
    out, err = server.process.communicate(timeout=10)
    assert (server.process.returncode, out, err) == (0, "", "")
    with pytest.raises(OSError, match="refused"):
        server.ask("GET", "/health")


def test_a_changed_file_is_refused_at_the_start(
    exported: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(exported, folder)
    with (folder / "model.onnx").open("ab") as stream:
        stream.write(b"\0")
    assert "model.onnx" in refused("serve", folder)


def test_a_folder_without_its_files_is_refused(
    exported: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    assert "SHA256SUMS" in refused("serve", tmp_path)
    folder = tmp_path / "half"
    shutil.copytree(exported, folder)
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json" in refused("serve", folder)


def test_without_a_folder_export_is_named(refused: Callable[..., str]) -> None:
    assert "python -m lit_bert export" in refused("serve")


def test_the_newest_exported_folder_is_taken(exported: Path, tmp_path: Path) -> None:
    from lit_bert.product.folder import newest

    for number, name in enumerate(("version_1", "version_0", "half")):
        folder = tmp_path / name / "exported"
        shutil.copytree(exported, folder)
        os.utime(folder / "model.onnx", (number, number))
    (tmp_path / "half" / "exported" / "tokenizer.json").unlink()
    assert newest(tmp_path) == tmp_path / "version_0" / "exported"


def test_a_port_in_use_is_refused(exported: Path, refused: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port}" in refused("serve", exported, f"--port={port}")


@pytest.mark.parametrize(
    "flag",
    ["--port=99999", "--queue=0", "--texts=many", "--seconds=-1", "--seconds=nan", "--threads=0", "--nope"],
)
def test_wrong_flags_are_named(exported: Path, refused: Callable[..., str], flag: str) -> None:
    assert flag.split("=")[0] in refused("serve", exported, flag)


def test_an_empty_token_is_refused(
    exported: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIT_BERT_TOKEN", "")
    assert "LIT_BERT_TOKEN" in refused("serve", exported)
