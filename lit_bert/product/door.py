"""Who may ask the server, and what of a request is read: the checks around all paths.

Refused here, before anything is computed: requests under a name, or from a page, that is not the server's
own; missing tokens; bodies that are too large or too slow.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import time
from collections.abc import Callable, Collection, MutableMapping
from typing import Any, NamedTuple

from lit_bert.io import escape
from lit_bert.product import hosts
from lit_bert.product.connection import AUTHORITY, HEAD_BYTES, head_too_large
from lit_bert.product.errors import Refusal, internal_error
from lit_bert.product.messages import Limits
from lit_bert.product.metrics import Metrics

logger = logging.getLogger(__name__)

DRAIN_BYTES = 2**26  # of a refused body, read and dropped: a client that is still sending receives no answer
WITHOUT_TOKEN = ("/", "/health", "/docs", "/openapi.json")
# Under any name, as probes and load balancers use addresses that we do not know. It tells nothing else.
UNDER_ANY_NAME = ("/health",)
BODY = "lit_bert.body"  # in a request's scope, of type Body
_HEADERS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]  # of every response


class Access(NamedTuple):
    """Who may ask.

    Attributes:
        own: the names that the server answers to.
        token: that requests have to bring; None where they need none.
    """

    own: hosts.Hosts
    token: str | None


class HangUp(Exception):
    """The client is gone; there is nobody to answer."""


class Body:
    """A request's body as it arrives.

    Args:
        headers: of the request.
        receive: of ASGI.
        limit: bytes, at most.
        seconds: from now until all of it is here.
    """

    def __init__(self, headers: dict[bytes, bytes], receive: Callable, limit: int, seconds: float) -> None:
        self.receive, self.limit, self.seconds = receive, limit, seconds
        self.begin = time.monotonic()
        self.length = headers.get(b"content-length", b"")
        self.expects = headers.get(b"expect", b"").lower() == b"100-continue"
        self.more = b"transfer-encoding" in headers or self.length not in (b"", b"0")

    def elapsed_s(self) -> float:
        """Seconds since the request's head."""
        return time.monotonic() - self.begin

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            Refusal: 413 too large, 408 not here in time.
        """
        if self.length.isdigit() and int(self.length) > self.limit:
            raise self._too_large(int(self.length))
        pieces, size = [], 0
        try:
            async with asyncio.timeout(self.seconds - self.elapsed_s()):
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
        """Reads and drops what is left, within the limits of time and of `DRAIN_BYTES`."""
        if self.expects:  # the client sends it only once it is told to
            return
        size = 0
        try:
            async with asyncio.timeout(self.seconds):
                while self.more and size <= DRAIN_BYTES:
                    size += len(await self._piece())
        except TimeoutError:
            return

    async def gone(self) -> None:
        """Returns when the client hangs up."""
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


class Door:
    """ASGI middleware around all paths: the checks above, the shape of errors, and the count of requests.

    Args:
        app: that it lets requests through to.
        access: who may ask.
        limits: bytes of a body, and seconds of a request.
        metrics: where requests are counted.
        paths: those that are counted by name.
    """

    def __init__(
        self,
        app: Callable,
        access: Access,
        limits: Limits,
        metrics: Metrics,
        paths: Collection[str],
    ) -> None:
        self.app, self.own, self.limits, self.metrics, self.paths = app, access.own, limits, metrics, paths
        self.token = None if access.token is None else os.fsencode(access.token)

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, headers = scope["path"], dict(scope["headers"])
        scope[BODY] = body = Body(headers, receive, self.limits.bytes, self.limits.seconds)
        status = 499

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        try:
            try:
                check_head(scope)
                check_host(scope, self.own)
                check_origin(scope, self.own)
                if self.token is not None and path not in WITHOUT_TOKEN:
                    check_token(headers, self.token)
                await self.app(scope, receive, sending)
            except Refusal as refusal:
                self.metrics.rejected.labels(refusal.code).inc()
                await body.drain()
                await refusal.response()(scope, receive, sending)
            except (HangUp, asyncio.CancelledError):
                raise
            except Exception:
                logger.exception("%s %s failed", scope["method"], escape.line(path, 200))
                if status == 499:
                    await internal_error().response()(scope, receive, sending)
        except HangUp:
            pass
        finally:
            known = path if path in self.paths else "other"
            self.metrics.requests.labels(known, status).inc()


def _values(scope: dict[str, Any], name: bytes) -> list[str]:
    return [value.decode("latin-1").strip(" \t") for key, value in scope["headers"] if key == name]


def _reached(scope: dict[str, Any]) -> str | None:
    """The address of this machine that the connection came to."""
    return scope["server"][0] if scope.get("server") else None


def check_head(scope: dict[str, Any]) -> None:
    """Checks the size of a head that came in one read, which `connection` lets through.

    Raises:
        Refusal: 431.
    """
    size = len(scope["raw_path"]) + len(scope["query_string"])
    for name, value in scope["headers"]:
        size += len(name) + len(value) + 4
    if size > HEAD_BYTES:
        raise head_too_large()


def check_host(scope: dict[str, Any], own: hosts.Hosts) -> None:
    """Checks that the request is addressed to this server.

    The Host header counts and, where the request's first line has a whole address, that too. X-Forwarded-Host
    and the like do not count, as anybody can send them.

    Raises:
        Refusal: 400 or 421.
    """
    values = _values(scope, b"host")
    if len(values) != 1:
        raise Refusal(
            400, "host_invalid", f"{len(values) or 'No'} Host headers came; send one, with the server's name."
        )
    authority = scope[AUTHORITY]
    for value in values if authority is None else [*values, authority]:
        asked = hosts.parse(value)
        if asked is None:
            raise Refusal(
                400,
                "host_invalid",
                f"The host '{escape.line(value, 100)}' is no name or address; expected one such as "
                "localhost:8000.",
            )
        if scope["path"] not in UNDER_ANY_NAME and not own.allows(asked.host, _reached(scope)):
            raise Refusal(
                421,
                "host_not_allowed",
                f"This server does not answer as {asked.host}; if that is its name, start it with "
                f"--allow-host {asked.host}.",
            )


def check_origin(scope: dict[str, Any], own: hosts.Hosts) -> None:
    """Checks that no browser says that a page of another site asks.

    Links to our pages may be followed from anywhere, as that tells the other site nothing.

    Raises:
        Refusal: 403.
    """
    for value in _values(scope, b"origin"):
        host = hosts.parse_origin(value)
        if host is None or not own.allows(host, _reached(scope)):
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


def check_token(headers: dict[bytes, bytes], token: bytes) -> None:
    """Checks that the request brings the token.

    Raises:
        Refusal: 401.
    """
    scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
    # Compared before the scheme is looked at, in the same time whatever came.
    right = hmac.compare_digest(given.strip(), token)
    if scheme.lower() != b"bearer" or not right:
        raise Refusal(
            401,
            "token_wrong",
            f"The token is {'wrong' if given else 'missing'}; send the header Authorization: Bearer TOKEN.",
            {"WWW-Authenticate": "Bearer"},
        )


def check_content(scope: MutableMapping[str, Any]) -> None:
    """Checks that the head of a POST announces JSON in UTF-8, and asks for nothing in its path.

    Raises:
        Refusal: 415 or 422.
    """
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
