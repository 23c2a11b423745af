"""How `serve` speaks HTTP: what it lets in, and the one shape of its errors.

Everything that can be refused is refused here, before any text is computed: requests under a name, or from a
page, that is not its own; bodies that are too large, too slow or no JSON; wrong fields; missing tokens.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import re
import time
import unicodedata
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lit_bert.io import escape
from lit_bert.product import hosts

if TYPE_CHECKING:
    from lit_bert.product.server import Server

logger = logging.getLogger(__name__)

HEAD_BYTES = 65_536  # of a request's first line and headers
MOST_DIGITS = 1000  # of a whole number in a body, whose conversion takes the square of them
DRAIN_BYTES = 2**26  # read and dropped of a refused body, as a client that is still sending hears no answer
IDLE_S = 60.0  # a connection without a request is closed after it
OPEN_TO_ALL = ("/", "/health", "/docs", "/openapi.json")  # asked without a token
# Asked under any name, as probes and load balancers use addresses that we do not know; it says no more than.
UNDER_ANY_NAME = ("/health",)


class Limits(NamedTuple):
    """What a request may ask for.

    Attributes:
        bytes: of a request's body.
        texts: in one request.
        characters: Unicode code points of one text.
        seconds: from a request's head to its answer, its body's arrival included.
        queue: texts that wait or are being computed, of all requests; past it requests are refused.
    """

    bytes: int
    texts: int
    characters: int
    seconds: float
    queue: int


class Refusal(Exception):
    """An answer that is an error; the message says what came, what was expected and what to do."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or {}

    def response(self) -> Response:
        """The answer, in the shape of all errors."""
        body = {"error": {"code": self.code, "message": str(self)}}
        return reply(body, self.status, self.headers)


def internal() -> Refusal:
    """Says no more than that it is our fault."""
    return Refusal(500, "internal_error", "The server failed at this request; its log says why.")


def reply(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON in ASCII, so that nothing in it can fail to be written as UTF-8."""
    return Response(json.dumps(body).encode(), status, headers, "application/json")


class Body:
    """A request's body as it arrives, `receive` being ASGI's."""

    def __init__(self, headers: dict[bytes, bytes], receive: Callable, limit: int, seconds: float) -> None:
        self.receive, self.limit, self.seconds = receive, limit, seconds
        self.deadline = time.monotonic() + seconds
        self.length = headers.get(b"content-length", b"")
        self.expects = headers.get(b"expect", b"").lower() == b"100-continue"
        self.more = b"transfer-encoding" in headers or self.length not in (b"", b"0")

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            Refusal: 413 too large, 408 not here in time.
        """
        if self.length.isdigit() and int(self.length) > self.limit:
            raise self._too_large(int(self.length))
        pieces, size = [], 0
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + self.seconds):
                while self.more:
                    piece = await self._piece()
                    size += len(piece)
                    if size > self.limit:
                        raise self._too_large(size)
                    pieces.append(piece)
        except TimeoutError:
            self.more = False  # it will not come
            raise Refusal(
                408,
                "body_timeout",
                f"The body did not arrive within {self.seconds:g} seconds; send it faster.",
                {"Connection": "close"},
            ) from None
        return b"".join(pieces)

    async def drain(self) -> None:
        """Drops what is left, for a while: a client that is still sending does not hear an answer."""
        if self.expects:  # and has not been told to go on
            return
        size = 0
        try:
            async with asyncio.timeout(self.seconds):
                while self.more and size <= DRAIN_BYTES:
                    size += len(await self._piece())
        except TimeoutError:
            return

    async def gone(self) -> None:
        """Waits for the client to hang up."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def _piece(self) -> bytes:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            self.more = False
            raise HangUp
        self.more = message.get("more_body", False)
        self.expects = False
        return message.get("body", b"")

    def _too_large(self, size: int) -> Refusal:
        message = (
            f"The body has {size} bytes or more and {self.limit} are allowed; send fewer texts at a time."
        )
        return Refusal(413, "body_too_large", message)


class HangUp(Exception):
    """The client is gone; there is nobody to answer."""


class Door:
    """ASGI middleware around everything: who may ask, the shape of errors, headers, the count of requests."""

    def __init__(self, app: Callable, server: Server) -> None:
        self.app, self.server = app, server

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        server, path = self.server, scope["path"]
        headers = dict(scope["headers"])
        body = Body(headers, receive, server.limits.bytes, server.limits.seconds)
        scope["lit_bert.body"] = body
        status = 499

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        try:
            try:
                check_host(scope, server.hosts)
                check_origin(scope, server.hosts)
                if path not in OPEN_TO_ALL:
                    server.check_token(headers)
                await self.app(scope, body.receive, sending)
            except Refusal as refusal:
                server.metrics.rejected.labels(refusal.code).inc()
                await body.drain()
                await refusal.response()(scope, receive, sending)
            except (HangUp, asyncio.CancelledError):
                raise
            except Exception:
                logger.exception("%s %s failed", scope["method"], escape.line(path, 200))
                if status == 499:
                    await internal().response()(scope, receive, sending)
        except HangUp:
            pass
        finally:
            known = path if path in server.paths else "other"
            server.metrics.requests.labels(known, status).inc()


def _values(scope: dict[str, Any], name: bytes) -> list[str]:
    return [value.decode("latin-1").strip(" \t") for key, value in scope["headers"] if key == name]


def _reached(scope: dict[str, Any]) -> str | None:
    """The address of this machine that the connection came to."""
    return scope["server"][0] if scope.get("server") else None


def check_host(scope: dict[str, Any], allowed: hosts.Hosts) -> None:
    """Raises a Refusal where the request is addressed to a host that is not this server's.

    That is what its Host header says and, of a request line with a whole address, that too. X-Forwarded-Host
    and its like say nothing here, as anybody can send them.
    """
    values = _values(scope, b"host")
    if len(values) != 1:
        raise Refusal(
            400, "host_invalid", f"{len(values) or 'No'} Host headers came; send one, with the server's name."
        )
    for value in [*values, *scope.get("lit_bert.authority", [])]:
        asked = hosts.parse(value)
        if asked is None:
            raise Refusal(
                400,
                "host_invalid",
                f"The host '{escape.line(value, 100)}' is no name or address; expected one such as "
                "localhost:8000.",
            )
        if scope["path"] not in UNDER_ANY_NAME and not allowed.allows(asked.host, _reached(scope)):
            raise Refusal(
                421,
                "host_not_allowed",
                f"This server does not answer as {asked.host}; if that is its name, start it with "
                f"--allow-host {asked.host}.",
            )


def check_origin(scope: dict[str, Any], allowed: hosts.Hosts) -> None:
    """Raises a Refusal where a browser says that a page of another site asks.

    Of another site, only links to our pages may be followed, as that tells it nothing.
    """
    for value in _values(scope, b"origin"):
        host = hosts.parse_origin(value)
        if host is None or not allowed.allows(host, _reached(scope)):
            remedy = f"; if {host} is this server's name, start it with --allow-host {host}" if host else ""
            raise Refusal(
                403,
                "origin_not_allowed",
                f"A page of '{escape.line(value, 100)}' asks, and only this server's own may{remedy}.",
            )
    if "cross-site" in _values(scope, b"sec-fetch-site") and not (
        scope["method"] in ("GET", "HEAD")
        and _values(scope, b"sec-fetch-mode") == ["navigate"]
        and _values(scope, b"sec-fetch-dest") == ["document"]
    ):
        raise Refusal(
            403,
            "origin_not_allowed",
            "A page of another site asks, and only this server's own may; open the server's page.",
        )


HEADERS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]


class Protocol(HttpToolsProtocol):
    """HTTP of a connection as uvicorn speaks it, with bounds where it has none: heads and silence."""

    seconds = 10.0
    head_bytes = -1  # while no head is being read
    timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(IDLE_S, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.head_bytes >= 0:
            self.head_bytes += len(data)
            if self.head_bytes > HEAD_BYTES and not self.transport.is_closing():
                self._refuse(
                    431, "head_too_large", f"The headers have more than {HEAD_BYTES} bytes; send fewer."
                )
        elif (
            self.timeout_keep_alive_task
            is None  # uvicorn stops it at any byte, line ends before a request too
            and self.timer is None
            and (self.cycle is None or self.cycle.response_complete)
            and not self.transport.is_closing()
        ):
            self.timeout_keep_alive_task = self.loop.call_later(IDLE_S, self.timeout_keep_alive_handler)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.head_bytes = 0
        self._start_timer()

    def on_headers_complete(self) -> None:
        self.head_bytes = -1
        self._stop_timer()
        # A whole address as the target of the request, of which uvicorn keeps the path alone, and needs one.
        if whole := re.match(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)", self.url):
            rest = self.url[whole.end() :]
            self.url = whole[0] + (rest if rest.startswith(b"/") else b"/" + rest)
            self.scope["lit_bert.authority"] = [whole[1].decode("latin-1")]  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.more_body and not self.transport.is_closing():  # answered before the body was here
            self._start_timer()

    def send_400_response(self, msg: str) -> None:
        self._refuse(
            400,
            "not_http",
            "This is no HTTP request that can be read; send one such as GET /health HTTP/1.1.",
        )

    def _refuse(self, status: int, code: str, message: str) -> None:
        response = Refusal(status, code, message, {"Connection": "close"}).response()
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in response.raw_headers)
        self.transport.write(b"HTTP/1.1 %d Refused\r\n%s\r\n%s" % (status, lines, response.body))
        self.transport.close()

    def _start_timer(self) -> None:
        self._stop_timer()
        self.timer = self.loop.call_later(self.seconds, self.timeout_keep_alive_handler)

    def _stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


def check_content(scope: dict[str, Any]) -> None:
    """Raises a Refusal where the head of a POST says that its body is no JSON in UTF-8, or asks for more."""
    headers = dict(scope["headers"])
    kind, *settings = headers.get(b"content-type", b"").decode("latin-1").lower().split(";")
    if kind.strip() != "application/json":
        shown = escape.line(kind.strip(), 100) or "no content type"
        raise Refusal(
            415, "not_json", f"The body is {shown}; send JSON with the header Content-Type: application/json."
        )
    for setting in settings:
        name, _, value = setting.strip().partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8"):
            raise Refusal(
                415, "not_utf8", f"The charset is {escape.line(value, 100)}; encode the JSON as UTF-8."
            )
    coding = headers.get(b"content-encoding", b"identity").decode("latin-1").lower()
    if coding != "identity":
        raise Refusal(
            415, "encoded_body", f"The body is encoded as {escape.line(coding, 100)}; send it as it is."
        )
    if scope["query_string"]:
        raise Refusal(
            422, "unknown_field", "The path has a query and takes none; send the fields in the body."
        )


def parse(content: bytes, limits: Limits) -> tuple[list[str], bool, bool]:
    """Texts, whether a list came, and whether words are asked for.

    Raises:
        Refusal: 400 or 422.
    """
    try:
        request = _DECODER.decode(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Refusal(
            400, "not_utf8", f"The body is not UTF-8 at byte {error.start}; encode the JSON as UTF-8."
        ) from None
    except RecursionError:
        raise Refusal(400, "not_json", 'The JSON is nested too deeply; expected {"text": "…"}.') from None
    except ValueError as error:
        what = str(error)[:100]
        raise Refusal(400, "not_json", f'The body is not JSON ({what}); expected {{"text": "…"}}.') from None
    if not isinstance(request, dict):
        raise _wrong("the body", request, 'an object as in {"text": "…"}')
    if "text" not in request:
        raise Refusal(
            422, "text_missing", 'The field text is missing; expected {"text": "…"} or a list of texts.'
        )
    unknown = [name for name in request if name not in ("text", "explain")]
    if unknown:
        raise Refusal(
            422,
            "unknown_field",
            f"There is no field {ascii(unknown[0])[:100]}; expected text, and maybe explain.",
        )
    text, explain = request["text"], request.get("explain", False)
    if not isinstance(explain, bool):
        raise _wrong("explain", explain, "true or false")
    if not isinstance(text, str | list):
        raise _wrong("text", text, "a string or a list of strings")
    several = isinstance(text, list)
    if several and explain:
        raise Refusal(
            422, "explain_one", "explain works on one text and a list came; send its texts one by one."
        )
    texts = text if isinstance(text, list) else [text]
    if not texts:
        raise Refusal(422, "no_texts", "The field text is an empty list; send one text or more.")
    if len(texts) > limits.texts:
        raise Refusal(
            422,
            "too_many_texts",
            f"{len(texts)} texts came and {limits.texts} are allowed; send them in parts.",
        )
    for index, each in enumerate(texts):
        name = f"text[{index}]" if several else "text"
        if not isinstance(each, str):
            raise _wrong(name, each, "a string")
        if len(each) > limits.characters:
            raise Refusal(
                422,
                "text_too_long",
                f"{name} has {len(each)} characters and {limits.characters} are allowed; shorten it.",
            )
        _check_characters(name, each)
    return texts, several, explain


def _check_characters(name: str, text: str) -> None:
    """Raises a Refusal of what the model can only read as something else, or as nothing.

    Control characters within a text are let through: the tokenizer drops them, as it did in training.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Refusal(
            422,
            "lone_surrogate",
            f"{name} has a lone surrogate, {ascii(text[error.start])[1:-1]}, at character {error.start}; "
            "send whole characters.",
        ) from None
    # The first character mostly settles it.
    if all(each.isspace() or unicodedata.category(each) in _INVISIBLE for each in text):
        what = "is empty" if not text else "has only white space and invisible characters"
        raise Refusal(422, "empty_text", f"{name} {what}; send a text with words, or leave it out.")


_INVISIBLE = ("Cc", "Cf")  # control and format characters


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number has {len(digits)} characters")
    return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Refusal(
                422,
                "repeated_field",
                f"The field {ascii(name)[:100]} comes twice in an object; send it once.",
            )
        found[name] = value
    return found


# Made once, as making it takes as long as reading a body.
_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_int=_integer, object_pairs_hook=_object)


KINDS = {
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def _wrong(field: str, value: Any, expected: str) -> Refusal:
    return Refusal(422, "wrong_type", f"{field} is {KINDS.get(type(value), 'null')}; expected {expected}.")


def policy(page: str) -> str:
    """A Content-Security-Policy for a page in one file: no other hosts, no script but its own."""
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    sums = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in sums) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
