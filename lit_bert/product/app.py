"""The application of `serve`: its paths, over models and a queue, in ASGI.

Starlette, and not FastAPI: measured on a core of an AMD EPYC, FastAPI takes 24 µs more for a request, 16
MB and 0.2 s at the start, and its checks of a body could not be used: they follow a decoder that lets fields
come twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from html import escape

import prometheus_client
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lit_bert.product import openapi
from lit_bert.product.access import Access, AccessMiddleware
from lit_bert.product.endpoint import Endpoint, html, policy, try_again
from lit_bert.product.errors import ApiError, json_response
from lit_bert.product.messages import Limits
from lit_bert.product.metrics import Metrics
from lit_bert.product.models import Models
from lit_bert.product.queue import BatchQueue


def create_app(
    models: Models,
    limits: Limits,
    access: Access,
    threads: int,
    on_start: Callable[[], None],
    on_death: Callable[[], None],
) -> Starlette:
    """The application.

    Args:
        models: what is served: one with all paths to itself, or several, each below /models/NAME.
        limits: of requests and of the queue.
        access: which requests are answered.
        threads: number of workers.
        on_start: called when the workers are starting; from then on requests are taken.
        on_death: called when a worker has ended without being asked to.
    """
    metrics = Metrics(lambda: queue.length, models.open_bytes)
    models.on_load = metrics.loads.inc

    def warm_up() -> None:
        for model in models.by_name.values():
            if models.is_open(model.name):
                models.predictor(model).explain(model.form.example("warm up"))  # which no statistics count

    queue = BatchQueue(warm_up, limits.queue, threads, metrics.batch.observe, on_death)
    token = access.token is not None

    def endpoint(name: str, prefix: str) -> Endpoint:
        return Endpoint(models, models.by_name[name], limits, queue, metrics, prefix, token)

    server = ServerRoutes(models, queue, metrics)
    if models.several:
        routes = [*server.routes(), *server.overview(limits, token)]
        for name in models.by_name:
            each = endpoint(name, f"/models/{name}")
            routes += [*each.routes(), Route(each.prefix, each.predict_tei, methods=["POST"])]
    else:
        (name,) = models.by_name
        routes = [*endpoint(name, "").routes(), *server.routes()]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        queue.start()
        on_start()
        yield
        queue.stop()

    names = {route.path for route in routes}
    app = Starlette(
        routes=routes,
        middleware=[Middleware(AccessMiddleware, access=access, limits=limits, metrics=metrics, paths=names)],
        exception_handlers={HTTPException: server.no_route},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


class ServerRoutes:
    """The routes that are of no model.

    Args:
        models: what is served.
        queue: that computes.
        metrics: of the server.
    """

    def __init__(self, models: Models, queue: BatchQueue, metrics: Metrics) -> None:
        self.models, self.queue, self.metrics = models, queue, metrics

    def routes(self) -> list[Route]:
        """Those of any server."""
        return [
            Route("/health", self.health),
            Route("/metrics", self.metrics_text),
            Route("/models", self.list_models),
        ]

    def overview(self, limits: Limits, token: bool) -> list[Route]:
        """Those of a server of several models."""
        document = openapi.overview(list(self.models.by_name), token)
        items = "".join(
            f"<li><a href='models/{escape(name)}/'>{escape(name)}</a>" for name in self.models.by_name
        )
        page = f"{openapi.START}<h1>Models</h1><ul>{items}</ul><p><a href='docs'>API</a></main></html>"

        async def send_document(request: Request) -> Response:
            return json_response(document)

        async def send_page(request: Request) -> Response:
            found = page if request.scope["path"] == "/" else docs
            return html(found, policy(found))

        docs = openapi.page(document)
        return [
            Route("/openapi.json", send_document),
            Route("/docs", send_page),
            Route("/", send_page),
        ]

    async def health(self, request: Request) -> Response:
        """Whether the workers are ready."""
        if not self.queue.ready():
            raise try_again(503, "not_ready", "The model is not ready")
        return json_response({"status": "ok"})

    async def metrics_text(self, request: Request) -> Response:
        """The metrics."""
        return Response(self.metrics.text(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    async def list_models(self, request: Request) -> Response:
        """The models, as messages.ModelList."""
        listed = [
            {
                "name": each.name,
                "labels": each.labels,
                "file": each.file,
                "bytes": each.memory,
                "loaded": self.models.is_open(each.name),
            }
            for each in self.models.by_name.values()
        ]
        return json_response({"models": listed})

    async def no_route(self, request: Request, error: Exception) -> Response:
        """The answer to another path or method."""
        assert isinstance(error, HTTPException)
        path, method = request.scope["path"], request.method
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            message = f"{path} takes {allowed} and {method} came; use that."
            raise ApiError(405, "wrong_method", message, {"Allow": allowed})
        several = "; of several models, each has its own /models/NAME/predict" * self.models.several
        raise ApiError(
            404, "not_found", f"There is nothing at {ascii(path)[:200]}; /docs lists what is{several}."
        )
