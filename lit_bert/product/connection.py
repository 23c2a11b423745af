"""Bounds on what a connection may do before its request reaches the application.

uvicorn limits neither the time nor the size of a request's head, nor the time of a connection on which
nothing was asked yet, and no setting adds that (https://github.com/Kludex/uvicorn/issues/157). So the bytes
of a connection are parsed twice by the same parser, which costs a few microseconds. First by `Connection`:
it knows from that what the connection waits for, limits the time of that, and refuses what is no HTTP in the
shape of our errors. Then by uvicorn's protocol, to which everything else goes unchanged. `Reporting`, around
the application, tells the connection which requests have been answered.

Of uvicorn this uses that `Config(http=…)` takes a protocol class, the arguments of its constructor, and that
what is in `app_state` is in `scope["state"]` of each request.
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

from lit_bert.product.errors import Refusal

HEAD_BYTES = 65_536  # of a request's first line and headers
IDLE_S = 60.0  # a connection without a request is closed after it
AUTHORITY = "lit_bert.authority"  # in a request's scope, of type str | None
_STATE = "lit_bert.connection"
# The target of a request may be a whole address (RFC 9112, 3.2.2), of which uvicorn keeps the path alone.
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")


def head_too_large() -> Refusal:
    """The error of a head of more than `HEAD_BYTES`."""
    return Refusal(431, "head_too_large", f"The headers have more than {HEAD_BYTES} bytes; send fewer.")


def protocol(head_s: float, idle_s: float) -> type[asyncio.Protocol]:
    """The class of connections for `uvicorn.Config(http=…)`.

    Args:
        head_s: seconds for a request's head to arrive, and for the rest of a body after its early answer.
        idle_s: seconds without a request, from the start of the connection or the last answer.
    """

    class Bounded(Connection):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(head_s, idle_s, **arguments)

    return Bounded


class Connection(asyncio.Protocol):
    """One client's connection: watches it, and has uvicorn's protocol serve it.

    Args:
        head_s, idle_s: as `protocol` says.
        app_state: of the application's lifespan.
        arguments: of uvicorn's protocol.
    """

    def __init__(self, head_s: float, idle_s: float, app_state: dict[str, Any], **arguments: Any) -> None:
        self.served = HttpToolsProtocol(app_state={**app_state, _STATE: self}, **arguments)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        self.head_s, self.idle_s = head_s, idle_s
        self.loop = asyncio.get_running_loop()
        self.transport: Any = None
        self.begun = 0  # requests of which a first byte has come
        self.in_head = self.in_request = False  # what the parser is inside of
        self.url, self.head_bytes = b"", 0  # of the head that is being read
        self.pathless = b""  # a whole address without a path that was read with these data
        self.authorities: deque[str | None] = deque()  # of requests that have not reached the application
        self.unanswered = 0
        self.awaited: object = None
        self.timer: asyncio.TimerHandle | None = None

    # --- the transport's events

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.served.connection_made(transport)  # type: ignore[arg-type]
        self._limit_time()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.served.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        begun, at_start, self.pathless = self.begun, not self.in_request, b""
        try:
            with contextlib.suppress(httptools.HttpParserUpgrade):  # uvicorn goes on without the upgrade
                self.parser.feed_data(data)
            at_start = at_start and self.begun == begun + 1  # one request begins, at the first byte
            if self.pathless:
                data = self._with_path(data, at_start)
        except httptools.HttpParserError:
            message = "This is no HTTP request that can be read; send one such as GET /health HTTP/1.1."
            self._refuse(Refusal(400, "not_http", message))
            return
        if self.in_head:
            if self.begun == begun:
                self.head_bytes += len(data)
            else:  # behind other data it is smaller than one read, of which the event loop limits the size
                self.head_bytes = len(data) if at_start else 0
            if self.head_bytes > HEAD_BYTES:
                self._refuse(head_too_large())
                return
        self.served.data_received(data)
        self._limit_time()

    def eof_received(self) -> None:
        self.served.eof_received()

    def pause_writing(self) -> None:
        self.served.pause_writing()

    def resume_writing(self) -> None:
        self.served.resume_writing()

    # --- the parser's events

    def on_message_begin(self) -> None:
        self.begun += 1
        self.in_head = self.in_request = True
        self.url = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_headers_complete(self) -> None:
        self.in_head = False
        self.unanswered += 1
        whole = _ABSOLUTE.match(self.url)
        self.authorities.append(whole[1].decode("latin-1") if whole else None)
        url = self.url
        if whole and not url.startswith(b"/", whole.end()):
            self.pathless, url = url, _with_slash(url)
        # What would fail in uvicorn fails here, as its answer has another shape.
        httptools.parse_url(url).path.decode("ascii")

    def on_message_complete(self) -> None:
        self.in_request = False

    # --- the application's events

    def answered(self) -> None:
        """A request of this connection has its whole response."""
        self.unanswered -= 1
        self._limit_time()

    # --- what follows from them

    def _limit_time(self) -> None:
        """Starts the time limit of what is awaited from the client, unless it runs already.

        While a request is being answered, the application limits the time.
        """
        awaited = None if self.unanswered else (self.in_request, self.begun)
        if awaited == self.awaited:
            return
        self.awaited = awaited
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if awaited is not None and not self.transport.is_closing():
            seconds = self.head_s if self.in_request else self.idle_s
            self.timer = self.loop.call_later(seconds, self.transport.close)

    def _with_path(self, data: bytes, at_start: bool) -> bytes:
        """The data with the path / in a whole address without a path, which uvicorn fails at.

        Raises:
            httptools.HttpParserError: the request's first line is not at the start of the data.
        """
        before, found, after = data.partition(b" " + self.pathless + b" HTTP/")
        if not at_start or not found or b"\n" in before.lstrip(b"\r\n"):
            raise httptools.HttpParserError("an address without a path")
        return before + b" " + _with_slash(self.pathless) + b" HTTP/" + after

    def _refuse(self, refusal: Refusal) -> None:
        refusal.headers["Connection"] = "close"
        response = refusal.response()
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in response.raw_headers)
        self.transport.write(b"HTTP/1.1 %d Refused\r\n%s\r\n%s" % (refusal.status, lines, response.body))
        self.transport.close()


def _with_slash(url: bytes) -> bytes:
    """A whole address without a path, with the path /."""
    return _ABSOLUTE.sub(rb"\g<0>/", url, count=1)


class Reporting:
    """ASGI middleware around the whole application, by which a connection knows what has been answered."""

    def __init__(self, app: Callable) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        connection: Connection = scope["state"].pop(_STATE)
        scope[AUTHORITY] = connection.authorities.popleft()
        try:
            await self.app(scope, receive, send)
        finally:
            connection.answered()
