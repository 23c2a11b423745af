"""The body of a request, read within limits of bytes and seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from lit_bert.product.errors import ApiError

BODY = "lit_bert.body"  # in a request's scope, of type RequestBody
MAX_DRAIN_BYTES = 2**26  # of a refused body, read and dropped: a client that still sends receives no answer


class ClientDisconnected(Exception):
    """The client closed the connection; there is nobody to answer."""


class RequestBody:
    """A request's body as it arrives.

    Args:
        headers: of the request.
        receive: of ASGI.
        max_bytes: that are read.
        timeout_s: from now until all of it is here.
    """

    def __init__(
        self, headers: dict[bytes, bytes], receive: Callable, max_bytes: int, timeout_s: float
    ) -> None:
        self.receive, self.max_bytes, self.timeout_s = receive, max_bytes, timeout_s
        self.start_s = time.monotonic()
        self.length = headers.get(b"content-length", b"")
        self.expects = headers.get(b"expect", b"").lower() == b"100-continue"
        self.more = b"transfer-encoding" in headers or self.length not in (b"", b"0")

    def elapsed_s(self) -> float:
        """Seconds since the request's head."""
        return time.monotonic() - self.start_s

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            ApiError: 413 too large, 408 not here in time.
        """
        if self.length.isdigit() and int(self.length) > self.max_bytes:
            raise self._too_large(int(self.length))
        pieces, size = [], 0
        try:
            async with asyncio.timeout(self.timeout_s - self.elapsed_s()):
                while self.more:
                    piece = await self._piece()
                    size += len(piece)
                    if size > self.max_bytes:
                        raise self._too_large(size)
                    pieces.append(piece)
        except TimeoutError:
            self.more = False  # it will not come
            raise ApiError(
                408,
                "body_timeout",
                f"The body did not arrive within {self.timeout_s:g} seconds; send it faster.",
                {"Connection": "close"},
            ) from None
        return b"".join(pieces)

    async def drain(self) -> None:
        """Reads and drops the rest, within the limits of time and of `MAX_DRAIN_BYTES`."""
        if self.expects:  # the client sends it only once it is told to
            return
        size = 0
        try:
            async with asyncio.timeout(self.timeout_s):
                while self.more and size <= MAX_DRAIN_BYTES:
                    size += len(await self._piece())
        except TimeoutError:
            return

    async def _piece(self) -> bytes:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            self.more = False
            raise ClientDisconnected
        self.more = message.get("more_body", False)
        self.expects = False
        return message.get("body", b"")

    def _too_large(self, size: int) -> ApiError:
        message = (
            f"The body has {size} bytes or more and {self.max_bytes} are allowed; send fewer texts at a time."
        )
        return ApiError(413, "body_too_large", message)
