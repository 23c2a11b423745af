"""What is answered of one model: predictions in both forms, its facts, its documentation, its page."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lit_bert import __version__
from lit_bert.io.texts import SINGLE, TextForm
from lit_bert.product import messages, openapi, tei
from lit_bert.product.access import check_content
from lit_bert.product.body import BODY, ClientDisconnected, RequestBody
from lit_bert.product.connection import DISCONNECTED
from lit_bert.product.errors import ApiError, internal_error, json_response
from lit_bert.product.formats import ONNX_INT8
from lit_bert.product.messages import Limits
from lit_bert.product.metrics import Metrics
from lit_bert.product.models import Model, Models
from lit_bert.product.predictor import BATCH_TOKENS, Word, label_cost
from lit_bert.product.queue import BATCH_SIZE, BatchQueue, Compute, ComputeFailed, Job, QueueFull, ShareFull
from lit_bert.task.guarantee import promise_lines

PAGE = Path(__file__).with_name("page.html")


# --- what workers compute: equal ones of several requests are computed together


@dataclass(frozen=True)
class Predict:
    """The JSON of the answer to each text."""

    models: Models
    model: Model

    def __call__(self, texts: list[Any]) -> list[bytes]:
        return [encode(answer) for answer in self.models.predictor(self.model)(texts)]


@dataclass(frozen=True)
class Explain:
    """The same, with the words that mattered."""

    models: Models
    model: Model

    def __call__(self, texts: list[Any]) -> list[bytes]:
        predictor = self.models.predictor(self.model)
        answers = zip(texts, predictor(texts), strict=True)
        return [
            encode(answer, predictor.explain(text), predictor.form, predictor.task.explained(answer))
            for text, answer in answers
        ]


class Scored(NamedTuple):
    """The scores of a text, float (C,), and whether it was cut."""

    scores: np.ndarray
    truncated: bool


@dataclass(frozen=True)
class Score:
    """The scores of each text, by a function of `tei.scores`."""

    models: Models
    model: Model
    function: str | None

    def __call__(self, texts: list[Any]) -> list[Scored]:
        logits, truncated = self.models.predictor(self.model).logits(texts)
        scores = tei.scores(logits, self.model.task.outputs, self.function)
        return [Scored(*each) for each in zip(scores, truncated, strict=True)]


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


# --- the routes


class Endpoint:
    """The routes of one model and what each answers.

    Args:
        models: that open it.
        model: that answers.
        limits: of a request.
        queue: that computes.
        metrics: of the server.
        prefix: of its paths: nothing, or `/models/` and its name.
        token: whether requests need one.
    """

    def __init__(
        self,
        models: Models,
        model: Model,
        limits: Limits,
        queue: BatchQueue,
        metrics: Metrics,
        prefix: str,
        token: bool,
    ) -> None:
        self.model, self.limits, self.queue, self.metrics = model, limits, queue, metrics
        self.prefix = prefix
        self.compute, self.explain = Predict(models, model), Explain(models, model)
        self.score = {name: Score(models, model, name) for name in (None, *tei.FUNCTIONS)}
        self.info_fields = info(model, limits, len(queue.workers))
        self.document = openapi.document(model.task, limits, token, model.form, prefix)
        self.pages = {"/docs": openapi.page(self.document), "/": PAGE.read_text(encoding="utf-8")}
        self.policies = {path: policy(page) for path, page in self.pages.items()}

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route(f"{self.prefix}/predict", self.predict, methods=["POST"]),
            Route(f"{self.prefix}/info", self.info),
            Route(f"{self.prefix}/openapi.json", self.openapi),
            Route(f"{self.prefix}/docs", self.page),
            Route(f"{self.prefix}/", self.root, methods=["GET", "POST"]),
        ]

    async def predict(self, request: Request) -> Response:
        """Labels of the texts in the body, which has either form."""
        check_content(request.scope)
        content = await request.scope[BODY].read()
        if not tei.is_tei(content):
            return await self._predict(request, content)
        try:
            return await self._predict(request, content)
        except ApiError as error:
            raise tei.TeiError(error) from None

    async def predict_tei(self, request: Request) -> Response:
        """Scores of the texts in the body, which has TEI's form."""
        try:
            check_content(request.scope)
            content = await request.scope[BODY].read()
            return await self._predict(request, content, only_tei=True)
        except ApiError as error:
            raise tei.TeiError(error) from None

    async def _predict(self, request: Request, content: bytes, only_tei: bool = False) -> Response:
        scope = request.scope
        client = scope["client"][0] if scope["client"] else ""
        self._check_queue(client)  # before any work
        said = messages.decode(content)
        if only_tei and not (isinstance(said, dict) and "inputs" in said):
            message = f'There is no field inputs; expected {{"inputs": "…"}}, or {self.prefix}/predict.'
            raise ApiError(422, "inputs_missing", message)
        if isinstance(said, dict) and "inputs" in said:
            scored = tei.parse(said, self.limits, self.model.truncation_side, self.model.form)
            results = await self._compute(request, client, scored.texts, self.score[scored.function])
            content = self._tei_answer(scored, results)
        else:
            query = messages.parse(said, self.limits, self.model.form)
            compute: Compute = self.explain if query.explain else self.compute
            answers = await self._compute(request, client, query.texts, compute)
            content = b'{"predictions": [' + b", ".join(answers) + b"]}" if query.several else answers[0]
        self.metrics.latency.observe(scope[BODY].elapsed_s())
        return Response(content, media_type="application/json")

    def _tei_answer(self, query: tei.Query, results: list[Scored]) -> bytes:
        if not query.truncate:
            for number, result in enumerate(results):
                if result.truncated:
                    place = f"inputs[{number}]" if query.batch else "inputs"
                    message = (
                        f"{place} has more than the {self.model.max_length} tokens that the model reads; "
                        "shorten it, or leave truncate out."
                    )
                    raise ApiError(422, "too_many_tokens", message)
        answers = [tei.encode(result.scores, self.model.labels, query.top) for result in results]
        return tei.join(answers, query)

    async def _compute(self, request: Request, client: str, texts: list[Any], compute: Compute) -> list[Any]:
        """The result of each text."""
        alone = compute is self.explain
        job = Job(texts, client, compute, label_cost(self.model, texts, alone), alone=alone)
        self.queue.put(job)  # which was checked, and nothing was awaited since
        results = await self._results(job, request.scope[BODY], request.scope[DISCONNECTED])
        self.metrics.texts.inc(len(texts))
        return results

    def _check_queue(self, client: str) -> None:
        try:
            self.queue.check(client)
        except QueueFull:
            message = f"{self.queue.length} texts are waiting and {self.queue.limit} may"
            raise try_again(503, "queue_full", message) from None
        except ShareFull:
            waiting = self.queue.by_client[client]
            message = f"{waiting} texts of your address are waiting and {self.queue.share} may"
            raise try_again(429, "too_many_requests", message) from None

    async def _results(self, job: Job, body: RequestBody, disconnected: asyncio.Future) -> list[Any]:
        """The result of each text of a job.

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

    async def root(self, request: Request) -> Response:
        """The page, or scores where a body is posted."""
        answer = self.predict_tei if request.method == "POST" else self.page
        return await answer(request)

    async def info(self, request: Request) -> Response:
        """What is served."""
        return json_response(self.info_fields)

    async def openapi(self, request: Request) -> Response:
        """The document."""
        return json_response(self.document)

    async def page(self, request: Request) -> Response:
        """A page that a browser holds to its own host."""
        path = request.scope["path"].removeprefix(self.prefix)
        return html(self.pages[path], self.policies[path])


def info(model: Model, limits: Limits, threads: int) -> dict[str, Any]:
    """The fields of messages.Info."""
    id2label = {str(number): label for number, label in enumerate(model.labels)}
    label2id = {label: number for number, label in enumerate(model.labels)}
    return {
        "name": model.name,
        "task": model.task.kind,
        "label_form": model.task.label_form,
        "labels": model.labels,
        "main_score": {"name": model.task.main, "title": model.task.main_title},
        "text": {"form": model.form.kind, "columns": list(model.form.columns)},
        "max_length": model.max_length,
        "long_texts": model.long_texts.mode,
        "file": model.file,
        "sha256": model.sums,
        "scores": model.scores,
        "promises": promise_lines(model.task),
        "limits": limits._asdict(),
        "version": __version__,
        "model_id": model.name,
        "model_sha": None,
        "model_dtype": "int8" if model.file == ONNX_INT8 else "float32",
        "model_type": {"classifier": {"id2label": id2label, "label2id": label2id}},
        "max_concurrent_requests": limits.queue,
        "max_input_length": model.max_length,
        "max_batch_tokens": max(BATCH_TOKENS, model.max_length),
        "max_batch_requests": BATCH_SIZE,
        "max_client_batch_size": limits.texts,
        "auto_truncate": True,
        "tokenization_workers": threads,
    }


def try_again(status: int, code: str, message: str) -> ApiError:
    """An error that passes with time."""
    return ApiError(status, code, f"{message}; try again in a second.", {"Retry-After": "1"})


def html(page: str, policy: str) -> Response:
    """A page with its Content-Security-Policy."""
    return Response(page, headers={"Content-Security-Policy": policy}, media_type="text/html")


def policy(page: str) -> str:
    """A Content-Security-Policy for a page in one file: no other hosts, no script but its own."""
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in digests) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
