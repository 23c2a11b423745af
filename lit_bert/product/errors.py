"""The errors of the HTTP API: one shape, one table of the statuses.

Each is JSON, `{"error": {"code": "a_word", "message": "…"}}`. The code is for programs and does not change;
the message is for people and says what came, what was expected and what to do.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

STATUSES = {
    400: "The body is not JSON or not UTF-8; or the request has no Host header, or one that is no name.",
    401: "A token is set, and it did not come or another did.",
    403: "A browser says that a page of another site asks (headers Origin and Sec-Fetch-Site).",
    404: "There is nothing at this path.",
    405: "The path takes another method.",
    408: "The body did not arrive within the time limit.",
    413: "The body is larger than the limit.",
    415: "The content type is not application/json, its charset not UTF-8, or the body is compressed.",
    421: "The server does not answer to this Host; --allow-host names more.",
    422: "A field has another type, comes twice or is unknown; there are no or too many texts; or a text is "
    "empty, too long or has a lone surrogate.",
    424: "The server failed, in the form of text-embeddings-inference; its log says why.",
    429: "This client's address has its share of the queue already; see Retry-After.",
    431: "The request's first line and headers are larger than 64 KiB.",
    500: "The server failed; its log says why.",
    503: "The queue is full, or the server is starting or shutting down; see Retry-After.",
    504: "There was no answer within the time limit.",
}


class ApiError(Exception):
    """An error as the answer to a request.

    Args:
        status: of HTTP, one of `STATUSES`.
        code: a word of the letters a to z and underscores.
        message: for people.
        headers: of the response, beside those of every response.
    """

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or {}

    def response(self) -> Response:
        """The error as a response."""
        body = {"error": {"code": self.code, "message": str(self)}}
        return json_response(body, self.status, self.headers)


def internal_error() -> ApiError:
    """A 500 that tells nothing of the inside."""
    return ApiError(500, "internal_error", "The server failed at this request; its log says why.")


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response of JSON in ASCII: a lone surrogate in a class name could not be encoded as UTF-8."""
    return Response(json.dumps(body).encode(), status, headers, "application/json")
