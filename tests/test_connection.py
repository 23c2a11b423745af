"""What a connection may do before and between its requests, over real sockets to a real server."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import time
from pathlib import Path

import pytest
from serving import JSON, Running, Start, alive, read_all

pytest.importorskip("uvicorn")

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
SECONDS = 1.0  # for a head


@pytest.fixture(scope="module")
def server(start: Start, exported: Path) -> Running:
    """One that soon closes a connection on which a head does not end."""
    return start(exported, f"--seconds={SECONDS}", "--threads=1")


@pytest.fixture(scope="module")
def idler(start: Start, exported: Path) -> Running:
    """One that soon closes a connection on which nothing is asked."""
    return start(exported, "--threads=1", trouble=True, IDLE_S="1")


def statuses(content: bytes) -> list[int]:
    """Of the answers in what was received."""
    return [int(found) for found in re.findall(rb"(?:^|[}>]\s*)HTTP/1.1 (\d{3})", content)]


def closed_after(connection: socket.socket) -> tuple[bytes, float]:
    """What came until the server closed the connection, and the seconds until then."""
    before = time.monotonic()
    return read_all(connection), time.monotonic() - before


def last(path: bytes, host: bytes = b"localhost") -> bytes:
    """A request after which the server closes the connection."""
    return b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"


# --- several requests on one connection


def test_requests_sent_at_once_are_answered_in_order(server: Running) -> None:
    with server.raw(
        GET + last(b"/nope").replace(b"Connection: close\r\n", b"") + GET + last(b"/info")
    ) as connection:
        content = read_all(connection)
    assert statuses(content) == [200, 404, 200, 200]
    assert b'"sha256"' in content


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (last(b"http://evil.example/info"), [200, 421]),
        (last(b"http://localhost/info"), [200, 200]),
        (last(b"/info", b"evil.example"), [200, 421]),
        (last(b"http://localhost@evil.example/info"), [200, 400]),
    ],
)
def test_a_request_behind_another_is_checked_as_if_alone(
    server: Running, second: bytes, expected: list[int]
) -> None:
    with server.raw(GET + second) as connection:
        assert statuses(read_all(connection)) == expected
    with server.raw(GET + second[:20]) as connection:
        time.sleep(0.1)
        connection.sendall(second[20:])
        assert statuses(read_all(connection)) == expected


@pytest.mark.parametrize("target", [b"http://localhost", b"http://localhost?a=b", b"HTTP://127.0.0.1:80"])
@pytest.mark.parametrize("more", [b"", b"Connection: upgrade\r\nUpgrade: h2c\r\n"])
def test_an_address_without_a_path_asks_for_the_page(server: Running, target: bytes, more: bytes) -> None:
    request = b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n" + more + b"\r\n"
    with server.raw(b"\r\n" + request) as connection:
        content = connection.recv(100_000)
    assert content.startswith(b"HTTP/1.1 200")
    assert b"text/html" in content


@pytest.mark.parametrize(
    "target", [b"http://[2predict", b"http://[", b"http://a b", b"http://[::1", b"a://\xff"]
)
def test_an_address_that_is_none_is_refused_in_our_shape(server: Running, target: bytes) -> None:
    with server.raw(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n") as connection:
        content = read_all(connection)
    assert statuses(content) == [400]
    assert json.loads(content.partition(b"\r\n\r\n")[2])["error"]["code"] == "not_http"


def test_an_address_without_a_path_is_refused_where_its_line_is_not_read_at_once(server: Running) -> None:
    request = last(b"http://localhost")
    for pieces in ([request[:9], request[9:]], [request[:20], request[20:]], [GET + request]):
        with server.raw(b"") as connection:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.1)
            content = read_all(connection)
        assert json.loads(content.rpartition(b"\r\n\r\n")[2])["error"]["code"] == "not_http"


def test_a_text_that_looks_like_such_an_address_is_not_changed(server: Running) -> None:
    body = b'{"text": "GET http://localhost HTTP/1.1"}'
    head = POST + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with server.raw(head) as connection:
        time.sleep(0.1)
        connection.sendall(body + last(b"http://localhost"))  # read at once
        content = read_all(connection)
    assert json.loads(content.rpartition(b"\r\n\r\n")[2])["error"]["code"] == "not_http"


def predict(text: str) -> bytes:
    """A request for the label of a text."""
    body = json.dumps({"text": text}).encode()
    head = POST + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head + body


NOT_HTTP = b"\x00\x01 this is no HTTP\r\n\r\n"
BROKEN_BODY = POST + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"


@pytest.mark.parametrize("pause_s", [0, 0.2])
@pytest.mark.parametrize("broken", [NOT_HTTP, BROKEN_BODY, GET[:-2] + b"X: " + b"a" * 70_000])
def test_a_refused_request_is_answered_after_those_before_it(
    idler: Running, broken: bytes, pause_s: float
) -> None:
    too_large = len(broken) > 65_536
    before = GET + predict("sleep 0.5") + predict("happy")
    with idler.raw(before) as connection:
        time.sleep(max(pause_s, 0.1 * too_large))  # after a while they are being answered
        connection.sendall(broken)
        content = read_all(connection)
    assert statuses(content) == [200, 200, 200, 431 if too_large else 400]
    assert content.count(b'"label"') == 2
    code = json.loads(content.rpartition(b"\r\n\r\n")[2])["error"]["code"]
    assert code == ("head_too_large" if too_large else "not_http")


def test_a_refused_request_that_is_read_with_others_is_answered_after_them(server: Running) -> None:
    for broken in (NOT_HTTP, BROKEN_BODY, last(b"http://localhost")):
        with server.raw(predict("happy") + GET + broken) as connection:
            assert statuses(read_all(connection)) == [200, 200, 400]


def test_nothing_behind_a_refused_request_is_read(idler: Running) -> None:
    with idler.raw(predict("sleep 0.5") + NOT_HTTP) as connection:
        time.sleep(0.1)
        connection.sendall(GET * 3)
        assert statuses(read_all(connection)) == [200, 400]
    assert alive(idler)


def test_a_request_that_has_its_answer_gets_no_second_one_for_its_body(server: Running) -> None:
    head = POST + b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    with server.raw(head) as connection:
        content = connection.recv(10_000)
        connection.sendall(b"xyz\r\n")
        assert statuses(content + read_all(connection)) == [415]


def test_an_address_without_a_path_may_come_before_other_requests(server: Running) -> None:
    with server.raw(
        b"GET http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n" + last(b"/nope")
    ) as connection:
        assert statuses(read_all(connection)) == [200, 404]


# --- two readings of where a request ends


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 17\r\nContent-Length: 17\r\n",
        b"Content-Length: 17\r\nContent-Length: 3\r\n",
        b"Content-Length: 17, 17\r\n",
        b"Content-Length: +17\r\n",
        b"Content-Length: 17\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 17\r\n",
        b"Transfer-Encoding: chunked, x\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"X: a\nTransfer-Encoding: chunked\r\n",
    ],
)
def test_a_body_whose_end_is_not_clear_is_refused(server: Running, lines: bytes) -> None:
    with server.raw(
        POST + b"Content-Type: application/json\r\n" + lines + b'\r\n{"text": "happy"}'
    ) as connection:
        content = read_all(connection)
    assert statuses(content) == [400]
    assert json.loads(content.partition(b"\r\n\r\n")[2])["error"]["code"] == "not_http"


# --- time


@pytest.mark.parametrize("sent", [b"G", GET + b"GET /he", GET + GET[:-2]])
def test_a_head_that_does_not_end_is_cut(server: Running, sent: bytes) -> None:
    with server.raw(sent) as connection:
        content, seconds = closed_after(connection)
    assert statuses(content) == [200] * sent.startswith(GET)
    assert 0.5 * SECONDS < seconds < 3 * SECONDS


def test_bytes_do_not_extend_the_time_of_a_head(server: Running) -> None:
    with server.raw(GET) as connection:
        connection.recv(10_000)
        connection.sendall(b"GET /")
        connection.settimeout(0.2)
        before = time.monotonic()
        while time.monotonic() < before + 5 * SECONDS:
            try:
                connection.sendall(b"a")
                if not connection.recv(100):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert 0.5 * SECONDS < time.monotonic() - before < 3 * SECONDS


def test_a_body_that_stops_after_an_early_answer_is_cut(server: Running) -> None:
    with server.raw(POST + b"Content-Length: 9999999\r\nExpect: 100-continue\r\n\r\n") as connection:
        content, seconds = closed_after(connection)
    assert statuses(content) == [415]
    assert 0.5 * SECONDS < seconds < 3 * SECONDS


def test_an_answer_that_takes_longer_than_idleness_may_comes(idler: Running) -> None:
    assert idler.predict("sleep 1.5").status == 200


def test_a_connection_that_asks_again_and_again_stays_open(idler: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", idler.port, timeout=20)
    for _ in range(4):
        connection.request("POST", "/predict", b'{"text": "happy"}', JSON)
        assert connection.getresponse().read()
        sock = connection.sock
        time.sleep(0.5)
    assert connection.sock is sock
    connection.close()


def test_a_head_that_began_in_time_is_not_cut_as_idle(idler: Running) -> None:
    with idler.raw(GET) as connection:
        connection.recv(10_000)
        time.sleep(0.7)
        connection.sendall(GET[:10])
        time.sleep(0.9)  # past the limit of idleness
        connection.sendall(GET[10:])
        assert statuses(connection.recv(10_000)) == [200]


# --- size


def test_a_head_that_is_large_but_not_too_large_is_read(server: Running) -> None:
    with server.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\n") as connection:
        for _ in range(15):
            connection.sendall(b"X: " + b"a" * 4000 + b"\r\n")
        connection.sendall(b"\r\n")
        assert statuses(connection.recv(10_000)) == [200]


@pytest.mark.parametrize("before", [b"", GET])
@pytest.mark.parametrize("line", [b"X: " + b"a" * 100_000, b"\r\n".join([b"X: a"] * 20_000)])
def test_a_head_that_is_too_large_is_refused_however_it_comes(
    server: Running, before: bytes, line: bytes
) -> None:
    with server.raw(
        before + b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + line + b"\r\n\r\n"
    ) as connection:
        time.sleep(0.2)
        assert statuses(connection.recv(10_000)) == [200] * bool(before) + [431]


def test_a_body_does_not_count_as_a_head(server: Running) -> None:
    body = json.dumps({"text": "happy" * 1000}).encode()
    for content, status in ((body, 200), (b" " * 200_000 + body, 200)):
        head = POST + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content)
        with server.raw(head + content + GET[:9]) as connection:
            time.sleep(0.3)
            connection.sendall(last(b"/health")[9:])
            assert statuses(read_all(connection)) == [status, 200]


def test_endless_bytes_before_a_request_or_in_a_line_are_cut(server: Running) -> None:
    for start in (b"G" * 70_000, b"GET /" + b"a" * 70_000, b"GET / HTTP/1.1\r\n" + b"a" * 70_000):
        with server.raw(b"") as connection:
            for at in range(0, len(start), 10_000):
                try:
                    connection.sendall(start[at : at + 10_000])
                except OSError:
                    break
            with contextlib.suppress(ConnectionResetError):
                assert statuses(read_all(connection)) in ([400], [431])
    assert alive(server)
