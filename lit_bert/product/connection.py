"""Bounds on what a connection may do before its request reaches the application.

uvicorn limits neither the time nor the size of a request's head, nor the time of a connection on which
nothing was asked yet, and no setting adds that (https://github.com/Kludex/uvicorn/issues/157). So the bytes
of a connection are parsed twice by the same parser, which costs a few microseconds. First by `Connection`:
it knows from that what the connection waits for, limits the time of that, and refuses what is no HTTP in the
shape of our errors, after the answers to the requests before it. Then by uvicorn's protocol, to which
everything goes unchanged but an address without a path. `ReportAnswers`, around the application, tells the
connection which requests have been answered.

Of uvicorn this uses that `Config(http=…)` takes a protocol class, the arguments of its constructor, that it
answers what it cannot read by `send_400_response`, and that what is in `app_state` is in `scope["state"]` of
each request.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lit_bert.product.errors import ApiError

MAX_HEAD_BYTES = 65_536  # of a request's first line and headers
IDLE_TIMEOUT_S = 60.0  # a connection without a request is closed after it
AUTHORITY = "lit_bert.authority"  # in a request's scope, of type str | None
DISCONNECTED = "lit_bert.disconnected"  # in it as well: a future that is done when the client has left
_CONNECTION = "lit_bert.connection"
# The target of a request may be a whole address (RFC 9112, 3.2.2), of which uvicorn keeps the path alone.
_ABSOLUTE_ADDRESS = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")


def head_too_large() -> ApiError:
    """The error of a head of more than `MAX_HEAD_BYTES`."""
    return ApiError(431, "head_too_large", f"The headers have more than {MAX_HEAD_BYTES} bytes; send fewer.")


def protocol(head_timeout_s: float, idle_timeout_s: float) -> type[asyncio.Protocol]:
    """The class of connections for `uvicorn.Config(http=…)`.

    Args:
        head_timeout_s: for a request's head to arrive, and for the rest of a body after its early answer.
        idle_timeout_s: without a request, from the start of the connection or the last answer.
    """

    class Bounded(Connection):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(head_timeout_s, idle_timeout_s, **arguments)

    return Bounded


class Connection(asyncio.Protocol):
    """One client's connection: watches it, and has uvicorn's protocol serve it.

    Args:
        head_timeout_s, idle_timeout_s: as `protocol` says.
        app_state: of the application's lifespan.
        arguments: of uvicorn's protocol.
    """

    def __init__(
        self, head_timeout_s: float, idle_timeout_s: float, app_state: dict[str, Any], **arguments: Any
    ) -> None:
        self.protocol = _Protocol(app_state={**app_state, _CONNECTION: self}, **arguments)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        self.head_timeout_s, self.idle_timeout_s = head_timeout_s, idle_timeout_s
        self.loop = asyncio.get_running_loop()
        self.transport: Any = None  # JoinedWrites, which uvicorn's protocol writes to as well
        self.requests_begun = 0  # a first byte of them has come
        self.in_head = self.in_request = False  # what the parser is inside of
        self.url, self.head_bytes = b"", 0  # of the head that is being read
        self.at_start = True  # whether the request that is being read began with the data that came last
        self.pathless = b""  # the whole address, without a path, of that request
        self.authorities: deque[str | None] = deque()  # of requests that have not reached the application
        self.unanswered = 0  # requests whose head is complete
        self.refusal: ApiError | None = None  # of the last request that is read
        self.disconnected: asyncio.Future[None] = self.loop.create_future()
        self.timed_state: object = None  # of the connection, whose time `timer` limits
        self.timer: asyncio.TimerHandle | None = None

    # --- the transport's events

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = JoinedWrites(transport, self.loop)
        self.protocol.connection_made(self.transport)
        self._limit_time()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.disconnected.set_result(None)
        self.protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.refusal is not None:  # the connection closes; nothing more is read
            return
        begun_before, self.at_start, self.pathless = self.requests_begun, not self.in_request, b""
        try:
            with contextlib.suppress(httptools.HttpParserUpgrade):  # uvicorn goes on without the upgrade
                self.parser.feed_data(data)
        except httptools.HttpParserError:
            message = "This is no HTTP request that can be read; send one such as GET /health HTTP/1.1."
            self.refusal = ApiError(400, "not_http", message)
        else:
            if self.in_head:
                if self.requests_begun == begun_before:
                    self.head_bytes += len(data)
                else:  # behind other data it is smaller than one read, whose size the event loop limits
                    self.head_bytes = len(data) if self.at_start else 0
                if self.head_bytes > MAX_HEAD_BYTES:
                    self.refusal = head_too_large()
        # Also where it is refused, as complete requests may come before the refused one.
        self.protocol.data_received(_with_path(data, self.pathless) if self.pathless else data)
        self._limit_time()
        self._refuse_in_turn()

    def eof_received(self) -> None:
        self.protocol.eof_received()

    def pause_writing(self) -> None:
        self.protocol.pause_writing()

    def resume_writing(self) -> None:
        self.protocol.resume_writing()

    # --- the parser's events

    def on_message_begin(self) -> None:
        self.requests_begun += 1
        self.in_head = self.in_request = True
        self.url = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_headers_complete(self) -> None:
        whole, url, pathless = _ABSOLUTE_ADDRESS.match(self.url), self.url, b""
        if whole and not url.startswith(b"/", whole.end()):
            if not self.at_start:
                raise ValueError("a whole address without a path, in a line that was not read at once")
            pathless, url = url, _with_slash(url)
        # What would fail in uvicorn fails here, as its answer has another shape.
        httptools.parse_url(url).path.decode("ascii")
        self.pathless = pathless or self.pathless
        self.authorities.append(whole[1].decode("latin-1") if whole else None)
        self.in_head = False
        self.unanswered += 1

    def on_message_complete(self) -> None:
        self.in_request = self.at_start = False

    # --- the application's events

    def answered(self) -> None:
        """A request of this connection has its whole response."""
        self.unanswered -= 1
        self._limit_time()
        self._refuse_in_turn()

    # --- what follows from them

    def _limit_time(self) -> None:
        """Starts the time limit of what is awaited from the client, unless it runs already.

        While a request is being answered, the application limits the time.
        """
        timed_state = None if self.unanswered else (self.in_request, self.requests_begun)
        if timed_state == self.timed_state:
            return
        self.timed_state = timed_state
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if timed_state is not None and not self.transport.is_closing():
            seconds = self.head_timeout_s if self.in_request else self.idle_timeout_s
            self.timer = self.loop.call_later(seconds, self.transport.close)

    def _refuse_in_turn(self) -> None:
        """Answers the request that is refused here, once all before it have their answers."""
        if self.refusal is None or self.transport.is_closing():
            return
        # The refused request itself is among the unanswered where its head was right and its body is not.
        in_body = self.in_request and not self.in_head
        if self.unanswered > in_body:
            return
        if self.unanswered == in_body:  # else the application has answered it before its body came
            self.refusal.headers["Connection"] = "close"
            response = self.refusal.response()
            lines = b"".join(name + b": " + value + b"\r\n" for name, value in response.raw_headers)
            status = self.refusal.status
            self.transport.write(b"HTTP/1.1 %d Refused\r\n%s\r\n%s" % (status, lines, response.body))
        self.transport.close()


def _with_path(data: bytes, address: bytes) -> bytes:
    """The data with the path / in the first line's whole address, which has none: uvicorn fails at it."""
    return data.replace(b" " + address, b" " + _with_slash(address), 1)


def _with_slash(address: bytes) -> bytes:
    """A whole address without a path, with the path /."""
    return _ABSOLUTE_ADDRESS.sub(rb"\g<0>/", address, count=1)


class JoinedWrites:
    """A transport that sends at once what is written in one turn of the event loop.

    uvicorn writes an answer's head and body one after the other. Sent apart they cost a system call more, and
    wake the client twice: where it shares the cores, the server waits while the client reads half an answer.

    Args:
        transport: that sends.
        loop: the event loop.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.transport, self.loop = transport, loop
        self.pieces: list[bytes] = []
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading
        self.is_closing, self.get_extra_info = transport.is_closing, transport.get_extra_info

    def write(self, data: bytes) -> None:
        """Sends the data when the event loop has run what is due."""
        if not self.pieces:
            self.loop.call_soon(self._send)
        self.pieces.append(data)

    def close(self) -> None:
        """Sends what was written, and closes the connection."""
        self._send()
        self.transport.close()

    def _send(self) -> None:
        if self.pieces and not self.transport.is_closing():
            self.transport.write(b"".join(self.pieces))
        self.pieces.clear()


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which leaves it to `Connection` to refuse what is no HTTP."""

    def send_400_response(self, msg: str) -> None:
        """Sends nothing: here it would come before the answers to earlier requests."""


class ReportAnswers:
    """ASGI middleware around the whole application, by which a connection knows what has been answered."""

    def __init__(self, app: Callable) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        connection: Connection = scope["state"].pop(_CONNECTION)
        scope[AUTHORITY] = connection.authorities.popleft()
        scope[DISCONNECTED] = connection.disconnected
        try:
            await self.app(scope, receive, send)
        finally:
            connection.answered()
