"""The application of `serve`: its paths, over a predictor and a queue, in ASGI.

Starlette, and not FastAPI: measured on a core of an AMD EPYC, FastAPI takes 24 µs more for a request, 16
MB and 0.2 s at the start, and its checks of a body could not be used: they follow a decoder that lets fields
come twice.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import prometheus_client
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lit_bert import __version__
from lit_bert.io.texts import SINGLE, TextForm
from lit_bert.product import openapi
from lit_bert.product.access import Access, AccessMiddleware, check_content
from lit_bert.product.body import BODY, ClientDisconnected, RequestBody
from lit_bert.product.connection import DISCONNECTED
from lit_bert.product.errors import ApiError, internal_error, json_response
from lit_bert.product.folder import EXPORTED, facts
from lit_bert.product.messages import Limits, parse
from lit_bert.product.metrics import Metrics
from lit_bert.product.predictor import WORD, Predictor, Word
from lit_bert.product.queue import BatchQueue, ComputeFailed, Job, QueueFull, ShareFull

PAGE = Path(__file__).with_name("page.html")


class Served(NamedTuple):
    """What is served.

    Attributes:
        predictor: of the exported folder.
        sums: SHA-256 of the folder's files, by their names.
    """

    predictor: Predictor
    sums: dict[str, str]

    @property
    def name(self) -> str:
        """The name of the run, as the folder itself is mostly named exported."""
        folder = self.predictor.folder.resolve()
        return folder.parent.name if folder.name == EXPORTED and folder.parent.name else folder.name


def create_app(
    served: Served,
    limits: Limits,
    access: Access,
    threads: int,
    on_start: Callable[[], None],
    on_death: Callable[[], None],
) -> Starlette:
    """The application.

    Args:
        served: what is served.
        limits: of requests and of the queue.
        access: which requests are answered.
        threads: number of workers.
        on_start: called when the workers are starting; from then on requests are taken.
        on_death: called when a worker has ended without being asked to.
    """
    metrics = Metrics(lambda: queue.length)
    predictor = served.predictor

    def predict(texts: list[Any]) -> list[bytes]:
        return [encode(answer) for answer in predictor(texts)]

    def explain(text: Any) -> bytes:
        answer = predictor([text])[0]
        return encode(answer, predictor.explain(text), predictor.form, predictor.task.explained(answer))

    warm_up = predictor.form.example("warm up")
    queue = BatchQueue(predict, explain, limits.queue, threads, metrics.batch.observe, on_death, warm_up)
    handlers = Routes(served, limits, queue, metrics, access.token is not None)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        queue.start()
        on_start()
        yield
        queue.stop()

    routes = handlers.routes()
    names = {route.path for route in routes}
    app = Starlette(
        routes=routes,
        middleware=[Middleware(AccessMiddleware, access=access, limits=limits, metrics=metrics, paths=names)],
        exception_handlers={HTTPException: handlers.no_route},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


def encode(
    answer: Any,
    words: list[Word] | None = None,
    form: TextForm = SINGLE,
    explained: dict[str, Any] | None = None,
) -> bytes:
    """An answer of the task as JSON, as `openapi.prediction_schema` describes it."""
    fields: dict[str, Any] = answer._asdict()
    if words is not None:
        fields |= explained or {}
        fields["words"] = [word._asdict() for word in words]
        if form.kind == "single":
            for word in fields["words"]:
                del word["part"]
    return json.dumps(fields).encode()


class Routes:
    """The routes and what each answers.

    Args:
        served: what is served.
        limits: of a request.
        queue: that computes.
        metrics: of the server.
        token: whether requests need one.
    """

    def __init__(
        self, served: Served, limits: Limits, queue: BatchQueue, metrics: Metrics, token: bool
    ) -> None:
        self.limits, self.queue, self.metrics = limits, queue, metrics
        predictor = served.predictor
        self.max_length, self.form = predictor.max_length, predictor.form
        # Of the keys of messages.Info.
        self.info_fields = {
            "name": served.name,
            "task": predictor.task.kind,
            "label_form": predictor.task.label_form,
            "labels": predictor.labels,
            "main_score": {"name": predictor.task.main, "title": predictor.task.main_title},
            "text": {"form": predictor.form.kind, "columns": list(predictor.form.columns)},
            "max_length": predictor.max_length,
            "file": predictor.file,
            "sha256": served.sums,
            "scores": facts(predictor.folder).get("scores", {}),
            "limits": limits._asdict(),
            "version": __version__,
        }
        self.document = openapi.document(predictor.task, limits, token, predictor.form)
        self.pages = {"/docs": openapi.page(self.document), "/": PAGE.read_text(encoding="utf-8")}
        self.policies = {path: policy(page) for path, page in self.pages.items()}

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/predict", self.predict, methods=["POST"]),
            Route("/health", self.health),
            Route("/info", self.info),
            Route("/metrics", self.metrics_text),
            Route("/openapi.json", self.openapi),
            Route("/docs", self.page),
            Route("/", self.page),
        ]

    async def predict(self, request: Request) -> Response:
        """Labels of the texts in the body."""
        scope, body = request.scope, request.scope[BODY]
        client = scope["client"][0] if scope["client"] else ""
        check_content(scope)
        content = await body.read()
        try:
            self.queue.check(client)  # before any work
            texts, several, explain = parse(content, self.limits, self.form)
            cost = self._explanation_cost(texts[0]) if explain else len(texts)
            job = Job(texts, client, explain, cost)
            self.queue.put(job)
        except QueueFull:
            message = f"{self.queue.length} texts are waiting and {self.queue.limit} may"
            raise _try_again(503, "queue_full", message) from None
        except ShareFull:
            waiting = self.queue.by_client[client]
            message = f"{waiting} texts of your address are waiting and {self.queue.share} may"
            raise _try_again(429, "too_many_requests", message) from None
        answers = await self._answers(job, body, scope[DISCONNECTED])
        self.metrics.texts.inc(len(texts))
        self.metrics.latency.observe(body.elapsed_s())
        content = b'{"predictions": [' + b", ".join(answers) + b"]}" if several else answers[0]
        return Response(content, media_type="application/json")

    def _explanation_cost(self, text: Any) -> int:
        """Texts that are computed: one more for each word that is read."""
        parts = self.form.parts(self.form.text_from(text))
        return 1 + min(sum(len(WORD.findall(part)) for part in parts), self.max_length)

    async def _answers(self, job: Job, body: RequestBody, disconnected: asyncio.Future) -> list[bytes]:
        """JSON of each text of a job.

        Raises:
            ApiError: 504 not in time, 500 not computable.
            ClientDisconnected: nobody waits for them any more.
        """

        def fail(error: Exception) -> None:
            if not job.answers.done():
                job.answers.set_exception(error)

        def on_timeout() -> None:
            message = f"There was no answer within {self.limits.seconds:g} seconds; send fewer texts."
            fail(ApiError(504, "too_slow", message))

        def on_disconnect(_: asyncio.Future) -> None:
            fail(ClientDisconnected())

        loop = asyncio.get_running_loop()
        timer = loop.call_later(body.timeout_s - body.elapsed_s(), on_timeout)
        disconnected.add_done_callback(on_disconnect)
        try:
            return await job.answers
        except ComputeFailed:
            raise internal_error() from None
        finally:
            timer.cancel()
            disconnected.remove_done_callback(on_disconnect)

    async def health(self, request: Request) -> Response:
        """Whether the workers are ready."""
        if not self.queue.ready():
            raise _try_again(503, "not_ready", "The model is not ready")
        return json_response({"status": "ok"})

    async def info(self, request: Request) -> Response:
        """What is served."""
        return json_response(self.info_fields)

    async def metrics_text(self, request: Request) -> Response:
        """The metrics."""
        return Response(self.metrics.text(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    async def openapi(self, request: Request) -> Response:
        """The document."""
        return json_response(self.document)

    async def page(self, request: Request) -> Response:
        """A page that a browser holds to its own host."""
        path = request.scope["path"]
        headers = {"Content-Security-Policy": self.policies[path]}
        return Response(self.pages[path], headers=headers, media_type="text/html")

    async def no_route(self, request: Request, error: Exception) -> Response:
        """The answer to another path or method."""
        assert isinstance(error, HTTPException)
        path, method = request.scope["path"], request.method
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            message = f"{path} takes {allowed} and {method} came; use that."
            raise ApiError(405, "wrong_method", message, {"Allow": allowed})
        raise ApiError(404, "not_found", f"There is nothing at {ascii(path)[:200]}; /docs lists what is.")


def _try_again(status: int, code: str, message: str) -> ApiError:
    return ApiError(status, code, f"{message}; try again in a second.", {"Retry-After": "1"})


def policy(page: str) -> str:
    """A Content-Security-Policy for a page in one file: no other hosts, no script but its own."""
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in digests) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
