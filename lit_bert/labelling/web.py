"""Labelling on a page: the routes of `label --serve`, behind the checks that `serve` has.

python -m lit_bert label reviews.csv --serve --port 8001
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lit_bert.io.escape import line
from lit_bert.labelling.pool import KEYS
from lit_bert.labelling.session import Session
from lit_bert.labelling.show import nothing_left, shown_text, summary
from lit_bert.labelling.store import Taken
from lit_bert.product.access import Access, AccessMiddleware, check_content
from lit_bert.product.body import BODY
from lit_bert.product.endpoint import html, policy
from lit_bert.product.errors import ApiError, json_response
from lit_bert.product.messages import Limits
from lit_bert.product.metrics import Metrics

PAGE = Path(__file__).with_name("page.html")
LIMITS = Limits(bytes=4096, texts=1, characters=0, seconds=10.0, queue=0)
PERSON_CHARACTERS = 64
Answered = Callable[[Any], dict[str, Any]]


def create_app(session: Session, access: Access, on_start: Callable[[], None]) -> Starlette:
    """The application.

    Args:
        session: of the pool; its thread runs.
        access: which requests are answered.
        on_start: called when requests are taken.
    """
    page = PAGE.read_text(encoding="utf-8")

    async def send_page(request: Request) -> Response:
        return html(page, policy(page))

    async def send_state(request: Request) -> Response:
        return json_response(state(session))

    def route(path: str, answered: Answered) -> Route:
        async def send(request: Request) -> Response:
            return json_response(answered(await body_of(request)))

        return Route(path, send, methods=["POST"])

    def lend(body: Any) -> dict[str, Any]:
        fields_of(body, {"person"})
        return next_text(session, person_of(body))

    def answer(body: Any) -> dict[str, Any]:
        fields_of(body, {"person", "text", "label"})
        person, text, label = person_of(body), body["text"], body["label"]
        is_label = label is None or (type(label) is int and 0 <= label < len(session.classes))
        if type(text) is not int or not 0 <= text < len(session.pool.texts) or not is_label:
            raise ApiError(
                422,
                "wrong_answer",
                "text and label are numbers, those of a text and of a class; label null skips the text.",
            )
        try:
            session.answer(person, text, label)
        except Taken:
            return {
                **next_text(session, person),
                "note": "That text went to somebody else; your answer was not kept.",
            }
        session.wake()
        return next_text(session, person)

    def undo(body: Any) -> dict[str, Any]:
        fields_of(body, {"person"})
        found = session.store.undo(person_of(body))
        note = {} if found is not None else {"note": "There is nothing to take back."}
        session.wake()
        return {**next_text(session, person_of(body)), **note}

    routes = [
        Route("/", send_page),
        Route("/state", send_state),
        route("/next", lend),
        route("/answer", answer),
        route("/undo", undo),
    ]
    metrics = Metrics(lambda: 0, lambda: 0)
    names = {each.path for each in routes}

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        on_start()
        yield

    app = Starlette(
        routes=routes,
        middleware=[Middleware(AccessMiddleware, access=access, limits=LIMITS, metrics=metrics, paths=names)],
        exception_handlers={HTTPException: no_route},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


# --- requests


async def body_of(request: Request) -> Any:
    """The JSON of a request.

    Raises:
        ApiError: it is none.
    """
    check_content(request.scope)
    content = await request.scope[BODY].read()
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise ApiError(400, "not_json", "The body is not JSON in UTF-8; send an object.") from None


def fields_of(body: Any, expected: set[str]) -> None:
    """Checks that a body has these fields and no other."""
    if not isinstance(body, dict) or set(body) != expected:
        raise ApiError(
            422, "wrong_fields", f"The body has to be an object of {', '.join(sorted(expected))}; send these."
        )


def person_of(body: dict[str, Any]) -> str:
    """Who asks: a word that the page made up."""
    found = body["person"]
    if not (isinstance(found, str) and found.isascii() and found.isalnum()):
        found = ""
    if not 8 <= len(found) <= PERSON_CHARACTERS:
        raise ApiError(
            422,
            "wrong_person",
            f"person has to be 8 to {PERSON_CHARACTERS} letters and digits, one word a page.",
        )
    return f"page-{found}"


async def no_route(request: Request, error: Exception) -> Response:
    """The answer to another path or method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        raise ApiError(405, "wrong_method", f"This path takes {allowed}; use that.", {"Allow": allowed})
    raise ApiError(404, "not_found", "There is nothing at this path; the page is at /.")


# --- answers


def next_text(session: Session, person: str) -> dict[str, Any]:
    """The text that a person has now, and how far the pool is; text null: none is left."""
    lease = session.lend(person)
    text = None
    if lease is not None:
        text = {"number": lease.text, "shown": shown_text(session.pool.texts[lease.text])}
    found = state(session)
    if text is None:
        found["nothing"] = nothing_left(found["left"])
    return {"text": text, **found}


def state(session: Session) -> dict[str, Any]:
    """How far the pool is, and the learning curve."""
    done, found = session.progress(), session.estimate
    return {
        "pool": line(session.pool.path.name, 80),
        "classes": [
            {"key": key, "name": line(name, 80), "labels": count}
            for key, name, count in zip(KEYS, session.classes, done.counts, strict=False)
        ],
        "labelled": done.labelled,
        "skipped": done.skipped,
        "left": done.left,
        "summary": summary(found, done.labelled),
        "curve": [point._asdict() for point in found.curve] if found else [],
        "expected": found.expected._asdict() if found and found.expected else None,
    }
