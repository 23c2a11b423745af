"""Access control of the server: the checks of a request's head, for all paths.

Refused here, before anything is computed: requests to a host, or from a page's origin, that is not the
server's own, and those without the token.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import re
from collections.abc import Callable, Collection, MutableMapping
from typing import Any, NamedTuple

from lit_bert.io import escape
from lit_bert.product import hosts
from lit_bert.product.body import BODY, ClientDisconnected, RequestBody
from lit_bert.product.connection import AUTHORITY, MAX_HEAD_BYTES, head_too_large
from lit_bert.product.errors import ApiError, internal_error
from lit_bert.product.messages import Limits
from lit_bert.product.metrics import Metrics

logger = logging.getLogger(__name__)

PATHS_WITHOUT_TOKEN = (
    "/",
    "/health",
    "/docs",
    "/openapi.json",
)  # to read, also those of one of several models
_OF_MODEL = re.compile(r"^/models/[^/]+(?=/)")
# Probes and load balancers use addresses that we do not know; /health tells nothing else.
PATHS_FOR_ANY_HOST = ("/health",)
RESPONSE_HEADERS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]  # of every one


class Access(NamedTuple):
    """Which requests are answered.

    Attributes:
        hosts: those that the server answers as.
        token: that requests have to send; None where they need none.
    """

    hosts: hosts.Hosts
    token: str | None


class AccessMiddleware:
    """ASGI middleware around all paths: the checks below, the shape of errors, and the count of requests.

    Args:
        app: the application.
        access: which requests are answered.
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
        self.app, self.limits, self.metrics, self.paths = app, limits, metrics, paths
        self.hosts = access.hosts
        self.token = None if access.token is None else os.fsencode(access.token)

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, headers = scope["path"], dict(scope["headers"])
        scope[BODY] = body = RequestBody(headers, receive, self.limits.bytes, self.limits.seconds)
        status = 499

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *RESPONSE_HEADERS]
            await send(message)

        try:
            try:
                check_head(scope)
                check_host(scope, self.hosts)
                check_origin(scope, self.hosts)
                if self.token is not None and needs_token(scope["method"], path):
                    check_token(headers, self.token)
                await self.app(scope, receive, send_with_headers)
            except ApiError as refusal:
                self.metrics.rejected.labels(refusal.code).inc()
                await body.drain()
                await refusal.response()(scope, receive, send_with_headers)
            except (ClientDisconnected, asyncio.CancelledError):
                raise
            except Exception:
                logger.exception("%s %s failed", scope["method"], escape.line(path, 200))
                if status == 499:
                    await internal_error().response()(scope, receive, send_with_headers)
        except ClientDisconnected:
            pass
        finally:
            path_label = path if path in self.paths else "other"
            self.metrics.requests.labels(path_label, status).inc()


def needs_token(method: str, path: str) -> bool:
    """Whether a request has to bring the token, where one is set."""
    return method not in ("GET", "HEAD") or _OF_MODEL.sub("", path, count=1) not in PATHS_WITHOUT_TOKEN


def _values(scope: dict[str, Any], name: bytes) -> list[str]:
    return [value.decode("latin-1").strip(" \t") for key, value in scope["headers"] if key == name]


def _local_address(scope: dict[str, Any]) -> str | None:
    """The address of this machine that the connection came to."""
    return scope["server"][0] if scope.get("server") else None


def check_head(scope: dict[str, Any]) -> None:
    """Checks the size of a head that came in one read, which `connection` lets through.

    Raises:
        ApiError: 431.
    """
    size = len(scope["raw_path"]) + len(scope["query_string"])
    for name, value in scope["headers"]:
        size += len(name) + len(value) + 4
    if size > MAX_HEAD_BYTES:
        raise head_too_large()


def check_host(scope: dict[str, Any], accepted: hosts.Hosts) -> None:
    """Checks that the request is addressed to this server.

    The Host header counts and, where the request's first line has a whole address, that too. X-Forwarded-Host
    and the like do not count, as anybody can send them.

    Raises:
        ApiError: 400 or 421.
    """
    values = _values(scope, b"host")
    if len(values) != 1:
        raise ApiError(
            400, "host_invalid", f"{len(values) or 'No'} Host headers came; send one, with the server's name."
        )
    authority = scope[AUTHORITY]
    for value in values if authority is None else [*values, authority]:
        requested = hosts.parse(value)
        if requested is None:
            raise ApiError(
                400,
                "host_invalid",
                f"The host '{escape.line(value, 100)}' is no name or address; expected one such as "
                "localhost:8000.",
            )
        any_host = scope["path"] in PATHS_FOR_ANY_HOST
        if not any_host and not accepted.allows(requested.host, _local_address(scope)):
            raise ApiError(
                421,
                "host_not_allowed",
                f"This server does not answer as {requested.host}; if that is its name, start it with "
                f"--allow-host {requested.host}.",
            )


def check_origin(scope: dict[str, Any], accepted: hosts.Hosts) -> None:
    """Checks that no browser says that a page of another site asks.

    Links to our pages may be followed from anywhere, as that tells the other site nothing.

    Raises:
        ApiError: 403.
    """
    for value in _values(scope, b"origin"):
        host = hosts.parse_origin(value)
        if host is None or not accepted.allows(host, _local_address(scope)):
            remedy = f"; if {host} is this server's name, start it with --allow-host {host}" if host else ""
            raise ApiError(
                403,
                "origin_not_allowed",
                f"A page of '{escape.line(value, 100)}' asks, and only this server's own may{remedy}.",
            )
    if "cross-site" in _values(scope, b"sec-fetch-site") and not (
        scope["method"] in ("GET", "HEAD")
        and _values(scope, b"sec-fetch-mode") == ["navigate"]
        and _values(scope, b"sec-fetch-dest") == ["document"]
    ):
        raise ApiError(
            403,
            "origin_not_allowed",
            "A page of another site asks, and only this server's own may; open the server's page.",
        )


def check_token(headers: dict[bytes, bytes], token: bytes) -> None:
    """Checks that the request brings the token.

    Raises:
        ApiError: 401.
    """
    scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
    # Compared before the scheme is looked at, in the same time whatever came.
    right = hmac.compare_digest(given.strip(), token)
    if scheme.lower() != b"bearer" or not right:
        raise ApiError(
            401,
            "token_wrong",
            f"The token is {'wrong' if given else 'missing'}; send the header Authorization: Bearer TOKEN.",
            {"WWW-Authenticate": "Bearer"},
        )


def check_content(scope: MutableMapping[str, Any]) -> None:
    """Checks that the head of a POST announces JSON in UTF-8, and asks for nothing in its path.

    Raises:
        ApiError: 415 or 422.
    """
    headers = dict(scope["headers"])
    kind, *settings = headers.get(b"content-type", b"").decode("latin-1").lower().split(";")
    if kind.strip() != "application/json":
        content_type = escape.line(kind.strip(), 100) or "no content type"
        raise ApiError(
            415,
            "not_json",
            f"The body is {content_type}; send JSON with the header Content-Type: application/json.",
        )
    for setting in settings:
        name, _, value = setting.strip().partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8"):
            raise ApiError(
                415, "not_utf8", f"The charset is {escape.line(value, 100)}; encode the JSON as UTF-8."
            )
    coding = headers.get(b"content-encoding", b"identity").decode("latin-1").lower()
    if coding != "identity":
        raise ApiError(
            415, "encoded_body", f"The body is encoded as {escape.line(coding, 100)}; send it as it is."
        )
    if scope["query_string"]:
        raise ApiError(
            422, "unknown_field", "The path has a query and takes none; send the fields in the body."
        )
