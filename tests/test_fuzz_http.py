"""Random requests to a real server: each gets a right answer or a documented error, and it lives on."""

from __future__ import annotations

import json
import signal
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

pytest.importorskip("uvicorn")
from serving import JSON, Answer, Running, alive, error_of, servers

from lit_bert.product import errors
from lit_bert.product.predictor import Predictor

BYTES, TEXTS, CHARACTERS = 3000, 8, 200
HEAD_SECONDS = 0.3  # for a head to arrive; many never do
STATUSES = errors.STATUSES.keys()


@dataclass
class Target:
    """A server under test, and what it has to say."""

    server: Running
    predictor: Predictor


@contextmanager
def serving(exported: Path, *flags: str) -> Iterator[Target]:
    """A server that has to end in order and with nothing in its log, whatever it was sent."""
    limits = (f"--bytes={BYTES}", f"--texts={TEXTS}", f"--characters={CHARACTERS}")
    with servers() as start:
        server = start(exported, *limits, "--threads=1", *flags)
        yield Target(server, Predictor(exported))
        assert alive(server)
        assert server.metrics()["lit_bert_queue_texts"] == 0
        server.process.send_signal(signal.SIGTERM)
        assert server.process.communicate(timeout=20) == ("", "")
        assert server.process.returncode == 0


@pytest.fixture(scope="module")
def patient(exported: Path) -> Iterator[Target]:
    """One that gives every request the time it needs."""
    with serving(exported, "--seconds=60") as target:
        yield target


@pytest.fixture(scope="module")
def hasty(exported: Path) -> Iterator[Target]:
    """One that soon gives up a request that is not whole."""
    with serving(exported, f"--seconds={HEAD_SECONDS}") as target:
        yield target


# --- bodies

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inside: (
        st.lists(inside, max_size=4)
        | st.dictionaries(
            st.sampled_from(["text", "explain", "a", ""]) | st.text(max_size=5), inside, max_size=4
        )
    ),
    max_leaves=12,
)
TEXT = st.text(max_size=40) | st.sampled_from(
    ["happy sun", "so sad", " ", "", "\ud800", "a\0", "\u200b", "é" * 199]
)
REQUESTS = st.builds(
    lambda text, rest: {"text": text, **rest},
    TEXT | st.lists(TEXT, max_size=10) | VALUES,
    st.just({})
    | st.fixed_dictionaries({"explain": st.booleans() | VALUES})
    | VALUES.map(lambda each: {"b": each}),
)
ODD = [
    *(
        b"1e999",
        b"-0",
        b"9" * 5000,
        b"0.1e-400",
        b"NaN",
        b"-Infinity",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"\xff",
    ),
    *(
        rb"\ud800",
        rb"\udc00",
        rb"\u0000",
        rb"\ud83d\ude00",
        b"[" * 2500,
        b'{"a":' * 500,
        b'"text":"a",',
        b"//",
    ),
    *(
        b'"explain":true,',
        b"{}",
        b"[]",
        b'""',
        b" ",
        b"\n",
        b"\0",
        b"\\",
        b'"',
        b",",
        b"true",
        b"\x1b",
        b"happy",
    ),
]


@st.composite
def changed(draw: st.DrawFn, content: st.SearchStrategy[bytes], odd: list[bytes], most: int = 4) -> bytes:
    """Bytes with some places cut out, doubled, or replaced by something odd."""
    found = draw(content)
    for _ in range(draw(st.integers(1, most))):
        start = draw(st.integers(0, len(found)))
        end = min(len(found), start + draw(st.integers(0, 12)))
        middle = draw(st.sampled_from([b"", found[start:end] * 2, *odd]) | st.binary(max_size=4))
        found = found[:start] + middle + found[end:]
    return found


GOOD = st.text(min_size=1, max_size=60) | st.sampled_from(
    ["happy sun", "so sad", "it's the rain", "sun " * 50]
)
LIKELY = st.builds(
    lambda text, explain: {"text": text} if explain is None else {"text": text, "explain": explain},
    GOOD | st.lists(GOOD, min_size=1, max_size=TEXTS),
    st.sampled_from([None, None, False, True]),
)
SERIAL = st.builds(
    lambda value, ascii, space: json.dumps(value, ensure_ascii=ascii, indent=space).encode(
        "utf-8", "replace"
    ),
    LIKELY | REQUESTS | VALUES,
    st.booleans(),
    st.sampled_from([None, 1]),
)
BODIES = SERIAL | changed(SERIAL, ODD) | st.binary(max_size=60)


def texts_of_request(body: bytes) -> list[str] | None:
    """The texts of a body that has to be answered with labels; None of others."""
    repeated = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.extend([1] * (len(pairs) - len(dict(pairs))))
        return dict(pairs)

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        found = json.loads(body.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError):
        return None
    if repeated or len(body) > BYTES or not isinstance(found, dict) or "text" not in found:
        return None
    if not found.keys() <= {"text", "explain"} or not isinstance(found.get("explain", False), bool):
        return None
    texts = found["text"] if isinstance(found["text"], list) else [found["text"]]
    if not 1 <= len(texts) <= TEXTS or (isinstance(found["text"], list) and found.get("explain")):
        return None
    return texts if all(map(is_text, texts)) else None


def is_text(value: Any) -> bool:
    """Whether a value is a string with something to see, all of it characters."""
    if not isinstance(value, str) or len(value) > CHARACTERS:
        return False
    kinds = {unicodedata.category(each) for each in value if not each.isspace()}
    return "Cs" not in kinds and not kinds <= {"Cc", "Cf"}


@pytest.mark.fuzz
@given(body=BODIES)
@example(body=b'{"text": "happy sun"}')
@example(body=b'{"text": ["happy sun", "so sad"]}')
@example(body=b'{"text": "happy sun", "explain": true}')
def test_any_body_gets_the_predictors_labels_or_a_documented_error(patient: Target, body: bytes) -> None:
    answer = patient.server.post(body)
    texts = texts_of_request(body)
    if texts is None:
        assert answer.status in STATUSES - {500, 503, 504}, answer
        error_of(answer, answer.status)
        return
    assert answer.status == 200, answer
    several = isinstance(json.loads(body)["text"], list)
    predictions = answer.json["predictions"] if several else [answer.json]
    for prediction, expected in zip(predictions, patient.predictor(texts), strict=True):
        words = prediction.pop("words", None)
        assert (words is not None) == json.loads(body).get("explain", False)
        assert prediction["label"] == expected.label
        assert prediction["truncated"] == expected.truncated
        assert prediction["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)


# --- heads

OWN = [b"localhost", b"127.0.0.1:80", b"[::1]"]
EVIL = [b"evil.example", b"10.1.2.3", b"evil.example:80", b"[2001:db8::1]", b"x.localhost", b""]
LINES = [
    *(
        b"Content-Type: application/json",
        b"Content-Type: text/plain",
        b"Content-Length: 17",
        b"Content-Length: 0",
    ),
    *(
        b"Content-Length: 99",
        b"Content-Length: -1",
        b"Content-Length: 9" + b"9" * 30,
        b"Content-Encoding: gzip",
    ),
    *(
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Expect: 100-continue",
        b"Expect: x",
    ),
    *(b"Connection: close", b"Connection: keep-alive, upgrade", b"Upgrade: websocket", b"Upgrade: h2c", b"X"),
    *(
        b"Sec-Fetch-Site: cross-site",
        b"Sec-Fetch-Mode: navigate",
        b"Sec-Fetch-Dest: document",
        b": x",
        b"A: \xff",
    ),
    *(
        b"Authorization: Bearer x",
        b"X-Forwarded-For: , \xff, 1.2.3.4",
        b"X-Forwarded-Proto: x",
        b" folded",
        b"Te: x",
    ),
    *(
        b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
        b"A: " + b"b" * 3000,
        b"Sec-WebSocket-Key: a",
        b"Origin: null",
    ),
]
ODD_HEAD = [
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"%",
    b"%00",
    b"%ff",
    b"?",
    b"#",
    b"//",
    b"\x80",
    b"HTTP/1.1",
]
BODY = b'{"text": "happy"}'


def heads(hosts: list[bytes], paths: list[bytes]) -> st.SearchStrategy[bytes]:
    """Bytes of a request, mostly a whole one, to one of the hosts."""
    host = st.sampled_from(hosts)
    line = st.sampled_from(LINES) | host.map(b"Host: ".__add__) | host.map(b"Origin: http://".__add__)
    path = st.sampled_from([*paths, *(b"http://" + each + paths[0] for each in hosts)])
    method = st.sampled_from(
        [b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"CONNECT", b"PRI", b"get", b"A\xff"]
    )
    version = st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b""])
    whole = st.builds(
        lambda method, path, version, host, lines, body: b"\r\n".join(
            [method + b" " + path + b" " + version, b"Host: " + host, *lines, b"", body]
        ),
        *(method, path, version, host, st.lists(line, max_size=5)),
        st.sampled_from(
            [b"", BODY, b"11\r\n" + BODY + b"\r\n0\r\n\r\n", b"\xff\xff", b"GET / HTTP/1.1\r\n\r\n"]
        ),
    )
    return whole | changed(whole, [*ODD_HEAD, *LINES]) | st.binary(max_size=40)


PATHS = [
    b"/predict",
    b"/health",
    b"/info",
    b"/metrics",
    b"/",
    b"/docs",
    b"/openapi.json",
    b"/nope",
    b"*",
    b"x",
    b"/%2e",
]


def answers_to(server: Running, content: bytes) -> list[Answer]:
    """What comes back on one connection until the server closes it or has nothing more to say."""
    if not content.strip(b"\r\n"):
        return []  # line ends before a request are idleness
    answers: list[Answer] = []
    with server.raw(content) as connection:
        received, over = b"", False
        while not over:
            connection.settimeout(0.03 if answers else 20)
            try:
                piece = connection.recv(65_536)
            except TimeoutError:
                piece = b""
                assert answers or b"\r\n\r\n" in received, "the server neither answered nor hung up"
            except ConnectionResetError:
                piece = b""
            received, over = received + piece, not piece
            while parsed := first_answer(received, b"HEAD" in content, over):
                answer, received = parsed
                if answer.status != 100:
                    answers.append(answer)
        assert received == b""
    return answers


def first_answer(received: bytes, bodiless: bool, over: bool) -> tuple[Answer, bytes] | None:
    """The first answer in what was received, and what follows it; None where it is not whole.

    Args:
        bodiless: whether it may be an answer to HEAD, which tells a length and has no body.
        over: whether no more comes.
    """
    head, end, rest = received.partition(b"\r\n\r\n")
    if not end:
        return None
    first, *lines = head.decode("ascii").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    length = int(headers.get("content-length", 0))
    if bodiless and (rest.startswith(b"HTTP/1.1 ") or (over and not rest)):
        length = 0
    if len(rest) < length:
        return None
    return Answer(int(first.split()[1]), headers, rest[:length]), rest[length:]


def check(answers: list[Answer]) -> None:
    """Each is a documented status in its documented shape."""
    for answer in answers:
        if answer.status != 200:
            assert answer.status in STATUSES - {500, 503}, answer  # may be too slow for the hasty one
            if answer.content:
                error_of(answer, answer.status)


@pytest.mark.fuzz
@given(content=heads(OWN + EVIL, PATHS))
def test_any_bytes_get_documented_answers_or_the_connection_ends(hasty: Target, content: bytes) -> None:
    check(answers_to(hasty.server, content))


@pytest.mark.fuzz
@given(content=heads(EVIL, [path for path in PATHS if path != b"/health"]))
@example(content=b"GET http://evil.example/info HTTP/1.1\r\nHost: evil.example\r\n\r\n")
def test_nothing_is_told_to_who_asks_under_another_name(hasty: Target, content: bytes) -> None:
    answers = answers_to(hasty.server, content)
    check(answers)
    assert 200 not in {answer.status for answer in answers}


@pytest.mark.fuzz
@given(
    headers=st.dictionaries(
        st.sampled_from(
            ["Host", "Origin", "Sec-Fetch-Site", "Content-Type", "Content-Encoding", "Accept", "X-A"]
        )
        | st.text("abcXYZ-_0", min_size=1, max_size=10),
        st.sampled_from(
            ["localhost", "http://localhost:1", "http://evil.example", "application/json", "a\xff"]
        )
        | st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=30),
        max_size=4,
    )
)
def test_any_headers_get_a_label_or_a_documented_error(patient: Target, headers: dict[str, str]) -> None:
    with suppress(ValueError):  # of the client, about a header that it does not send
        answer = patient.server.ask("POST", "/predict", BODY, {**JSON, **headers})
        if answer.status == 200:
            assert answer.json["label"] == patient.predictor(["happy"])[0].label
        else:
            check([answer])
