"""The server of `serve`: LitServe's application and workers, with a bounded queue between them.

LitServe lends the application, the hooks of a model, the worker's life and its loop. By default it runs the
workers as processes behind a manager's queue, which they poll, and dies of SIGTERM without them. Here they
are threads of the one process: onnxruntime and the tokenizer release the interpreter's lock, a request need
not be pickled twice, no core is busy while nothing comes, and one process can count and end everything.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import queue
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import litserve
import prometheus_client as prometheus
import uvicorn
from litserve.loops import LitLoop, inference_worker
from litserve.transport.base import MessageTransport
from litserve.utils import WorkerSetupStatus
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from lit_bert import __version__
from lit_bert.io import escape
from lit_bert.product import openapi
from lit_bert.product.door import (
    IDLE_S,
    Body,
    Door,
    HangUp,
    Limits,
    Protocol,
    Refusal,
    check_content,
    internal,
    parse,
    policy,
    reply,
)
from lit_bert.product.folder import facts
from lit_bert.product.hosts import Hosts
from lit_bert.product.predictor import WORD, Prediction, Predictor, Word

logger = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page.html")
BATCH_SIZE = 8  # texts that a worker takes at a time; more makes a lone text behind them wait longer
# The event loop goes before the workers: it takes a tenth of their time, and refusing at once costs nobody
# anything.
WORKER_NICE = 4  # added to the process's own
LATENCY_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10)
SHOWN_LABELS, SHOWN_CHARACTERS = 12, 60  # of the classes in the line at the start
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
prometheus.disable_created_metrics()


class Job:
    """One request's texts on their way through the queue.

    Only the worker that holds it moves `taken`; the rest is the event loop's.
    """

    __slots__ = ("answer", "answers", "client", "cost", "explain", "left", "taken", "texts")

    def __init__(self, texts: list[str], explain: bool, client: str, max_length: int) -> None:
        self.texts, self.explain, self.client = texts, explain, client
        # Texts to compute; to explain is to compute once without each word that is read.
        self.cost = 1 + min(len(WORD.findall(texts[0])), max_length) if explain else len(texts)
        self.taken = 0
        self.left = len(texts)
        self.answers: list[bytes] = [b""] * len(texts)
        self.answer: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()


class Part(NamedTuple):
    """Texts of one job that are computed together."""

    job: Job
    start: int
    texts: list[str]


class Done(NamedTuple):
    """What a worker tells the event loop: the answers to a part, as JSON, or what went wrong."""

    job: Job
    start: int
    number: int
    answers: list[bytes] | None


class Classifier(litserve.LitAPI):
    """The model in LitServe's terms."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor

    def setup(self, device: str) -> None:
        """Warms up: the first run allocates."""
        self.predictor(["warm up"])

    def predict(self, x: list[str], **_: Any) -> list[Prediction]:
        """Of texts of any requests."""
        return self.predictor(x)

    def explain(self, text: str) -> tuple[Prediction, list[Word]]:
        """Of one text."""
        return self.predictor([text])[0], self.predictor.explain(text)

    def encode_response(self, output: Prediction, words: list[Word] | None = None, **_: Any) -> bytes:
        """One prediction as JSON."""
        fields: dict[str, Any] = output._asdict()
        if words is not None:
            fields["words"] = [word._asdict() for word in words]
        return json.dumps(fields).encode()


class GatheringLoop(LitLoop):
    """Computes what waits, up to `BATCH_SIZE` texts at a time, at once; LitServe's own loops poll instead.

    A long request gives way: after each turn, what is left of it goes to the end of the queue.
    """

    def __call__(
        self,
        lit_api: Classifier,
        device: str,
        worker_id: int,
        request_queue: queue.SimpleQueue[Job | None],
        transport: Transport,
        workers_setup_status: dict[str, str],
        callback_runner: Any,
    ) -> None:
        """Until None comes."""
        while (job := request_queue.get()) is not None:
            parts, room = [], BATCH_SIZE
            while job is not None:
                parts.append(self._take(job, room, request_queue))
                room -= len(parts[-1].texts)
                if room <= 0 or job.explain:
                    break
                try:
                    job = request_queue.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    request_queue.put(None)  # for the turn after this one
            transport.send(self._dropped(parts), 0)
            for explain in (False, True):
                if group := [part for part in parts if part.texts and part.job.explain is explain]:
                    transport.send(self._compute(lit_api, group, transport), 0)

    @staticmethod
    def _take(job: Job, room: int, request_queue: queue.SimpleQueue[Job | None]) -> Part:
        start = job.taken
        if job.answer.done():  # it timed out, or its client hung up
            job.taken = len(job.texts)
            return Part(job, start, [])
        texts = job.texts[start : start + room]
        job.taken += len(texts)
        if job.taken < len(job.texts):
            request_queue.put(job)
        return Part(job, start, texts)

    @staticmethod
    def _dropped(parts: list[Part]) -> list[Done]:
        return [Done(job, start, len(job.texts) - start, None) for job, start, texts in parts if not texts]

    @staticmethod
    def _compute(lit_api: Classifier, parts: list[Part], transport: Transport) -> list[Done]:
        try:
            if parts[0].job.explain:
                answers = [lit_api.encode_response(*lit_api.explain(part.texts[0])) for part in parts]
            else:
                predictions = lit_api.predict([text for part in parts for text in part.texts])
                answers = [lit_api.encode_response(prediction) for prediction in predictions]
        except Exception:
            if len(parts) > 1:  # whose text it was shows when each is alone
                compute = GatheringLoop._compute
                return [done for part in parts for done in compute(lit_api, [part], transport)]
            logger.exception("texts could not be computed")
            return [Done(parts[0].job, parts[0].start, len(parts[0].texts), None)]
        transport.computed(len(answers))
        done = []
        for part in parts:
            count = len(part.texts)
            done.append(Done(part.job, part.start, count, answers[:count]))
            answers = answers[count:]
        return done


class Transport(MessageTransport):
    """From the workers' threads to the event loop."""

    def __init__(self, deliver: Callable[[list[Done]], None], computed: Callable[[int], None]) -> None:
        self.deliver, self.computed = deliver, computed
        self.loop: asyncio.AbstractEventLoop | None = None

    def send(self, item: list[Done], consumer_id: int) -> None:
        """Has the event loop deliver it."""
        if not item:
            return
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.deliver, item)

    async def areceive(self, timeout: int | None = None, consumer_id: int | None = None) -> dict:
        """Not used: messages are delivered, not fetched."""
        raise NotImplementedError


class Metrics:
    """What GET /metrics tells. One process answers and computes, so that each number is whole."""

    def __init__(self, length: Callable[[], int]) -> None:
        self.registry = registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "lit_bert_requests", "Requests answered; 499 hung up.", ("path", "status"), registry=registry
        )
        self.texts = prometheus.Counter("lit_bert_texts", "Texts labelled.", registry=registry)
        self.rejected = prometheus.Counter(
            "lit_bert_rejected", "Requests refused, by the code of the error.", ("reason",), registry=registry
        )
        self.latency = prometheus.Histogram(
            "lit_bert_request_seconds",
            "Seconds from a POST /predict's head to its answer, of those answered with 200.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.batch = prometheus.Histogram(
            "lit_bert_batch_texts", "Texts computed at a time.", buckets=BATCH_BUCKETS, registry=registry
        )
        waiting = prometheus.Gauge(
            "lit_bert_queue_texts", "Texts that wait or are being computed.", registry=registry
        )
        waiting.set_function(length)
        prometheus.ProcessCollector(registry=registry)


class Waiting:
    """What waits or is being computed; of the event loop alone."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.share = max(1, limit // 2)
        self.length = 0
        self.by_client: Counter[str] = Counter()

    def check(self, client: str) -> None:
        """Raises a Refusal where no more is taken."""
        again = {"Retry-After": "1"}
        if self.length >= self.limit:
            raise Refusal(
                503,
                "queue_full",
                f"{self.length} texts are waiting and {self.limit} may; try again in a second.",
                again,
            )
        if self.by_client[client] >= self.share:
            raise Refusal(
                429,
                "too_many_requests",
                f"{self.by_client[client]} texts of your address are waiting and {self.share} may; "
                "try again in a second.",
                again,
            )

    def add(self, job: Job) -> None:
        """Counts a job in."""
        self.length += job.cost
        self.by_client[job.client] += job.cost

    def remove(self, job: Job) -> None:
        """Counts a job out."""
        self.length -= job.cost
        self.by_client[job.client] -= job.cost
        if not self.by_client[job.client]:
            del self.by_client[job.client]


class Predict:
    """The endpoint POST /predict, in ASGI."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        start = time.monotonic()
        server, body = self.server, scope["lit_bert.body"]
        client = scope["client"][0] if scope["client"] else ""
        check_content(scope)
        content = await body.read()
        server.waiting.check(client)  # before any work
        texts, several, explain = parse(content, server.limits)
        answers = await server.answers(Job(texts, explain, client, server.predictor.max_length), body, start)
        joined = b'{"predictions": [' + b", ".join(answers) + b"]}" if several else answers[0]
        await Response(joined, media_type="application/json")(scope, receive, send)
        server.metrics.texts.inc(len(texts))
        server.metrics.latency.observe(time.monotonic() - start)


class Server(litserve.LitServer):
    """LitServe's server with its workers as threads of this process, own endpoints and a door."""

    def __init__(
        self,
        predictor: Predictor,
        limits: Limits,
        sums: dict[str, str],
        hosts: Hosts,
        token: str | None,
        threads: int,
    ) -> None:
        self.predictor, self.limits, self.sums, self.hosts = predictor, limits, sums, hosts
        self.token = None if token is None else os.fsencode(token)
        self.waiting = Waiting(limits.queue)
        self.metrics = Metrics(lambda: self.waiting.length)
        self.requests: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.scores = facts(predictor.folder).get("scores", {})
        self.page = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else None
        self.document = openapi.document(predictor.labels, limits._asdict(), token is not None)
        self.docs = openapi.page(self.document)
        self.exit_code = 0
        self.stopping = False
        self.paths: set[str] = set()
        classifier = Classifier(predictor)
        classifier.loop = GatheringLoop()
        super().__init__(
            classifier,
            accelerator="cpu",
            devices=1,
            workers_per_device=threads,
            timeout=False,  # ours also covers the body's arrival
            disable_openapi_url=True,  # ours is written by hand, and its page loads nothing from elsewhere
        )
        self._transport = Transport(self._deliver, self.metrics.batch.observe)
        self.workers_setup_status: dict[str, str] = {}

    # What LitServe calls while it is built.

    def _register_internal_endpoints(self) -> None:
        for path, endpoint in {
            "/": self._page,
            "/health": self._health,
            "/info": self._info,
            "/metrics": self._metrics,
            "/openapi.json": self._openapi,
            "/docs": self._docs,
        }.items():
            self.app.add_route(path, endpoint, methods=["GET"])
        self.app.router.redirect_slashes = False
        self.app.add_exception_handler(HTTPException, self._no_route)

    def _register_api_endpoints(self, lit_api: Any, request_type: Any, response_type: Any) -> None:
        self.app.add_route("/predict", Predict(self), methods=["POST"])
        self.paths = {route.path for route in self.app.routes}

    def _register_middleware(self) -> None:
        self.app.add_middleware(Door, server=self)

    def launch_inference_worker(self, lit_api: Any) -> list[threading.Thread]:
        """Threads that each run LitServe's worker; one that ends unasked ends the server."""
        threads = []
        for number, device in enumerate(self._inference_workers_config_for_api(lit_api.api_path)):
            self.workers_setup_status[f"predict_{number}"] = WorkerSetupStatus.STARTING
            thread = threading.Thread(
                target=self._work, args=(lit_api, device, number), name=f"worker-{number}", daemon=True
            )
            thread.start()
            threads.append(thread)
        return threads

    def _work(self, lit_api: Any, device: str, number: int) -> None:
        status = self.workers_setup_status
        if sys.platform == "linux":  # where it is a thread's own
            thread = threading.get_native_id()
            nice = min(19, os.getpriority(os.PRIO_PROCESS, thread) + WORKER_NICE)
            os.setpriority(os.PRIO_PROCESS, thread, nice)
        try:
            inference_worker(
                lit_api, device, number, self.requests, self._transport, status, self._callback_runner, False
            )
        finally:
            if not self.stopping:
                status[f"predict_{number}"] = WorkerSetupStatus.ERROR
                logger.error("worker %d died; the server ends", number)
                self.exit_code = 1
                self.uvicorn.should_exit = True

    def serve_until_stopped(self, listener: socket.socket) -> int:
        """The exit code, after everything in flight has been answered."""
        Protocol.seconds = self.limits.seconds
        config = uvicorn.Config(
            self.app,
            http=Protocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="error",
            server_header=False,
            timeout_keep_alive=int(IDLE_S),
            timeout_graceful_shutdown=int(self.limits.seconds) + 2,
        )
        self.uvicorn = Uvicorn(config, self)
        self.inference_workers = self.launch_inference_worker(self.lit_api)
        self.verify_worker_status()
        self.uvicorn.run([listener])
        return self.exit_code

    def started(self, listener: socket.socket) -> None:
        """In the event loop, once requests are accepted."""
        host, port = listener.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        labels = self.predictor.labels
        names = ", ".join(escape.line(name, SHOWN_CHARACTERS) for name in labels[:SHOWN_LABELS])
        if len(labels) > SHOWN_LABELS:
            names += f" and {len(labels) - SHOWN_LABELS} more"
        what = f"{escape.line(self.name)} ({escape.line(self.predictor.file)}; {names})"
        print(f"serving {what} at http://{host}:{port}", flush=True)
        if not self.hosts.loopback or self.hosts.allowed:
            print(f"accepted hosts: {self.hosts} (--allow-host)", flush=True)

    def stopped(self) -> None:
        """After the last answer."""
        self.stopping = True
        for _ in self.inference_workers:
            self.requests.put(None)
        for thread in self.inference_workers:
            thread.join(timeout=2)

    @property
    def name(self) -> str:
        """What people call the model: its run, as the folder itself is mostly named exported."""
        folder = self.predictor.folder.resolve()
        return folder.parent.name if folder.name == "exported" and folder.parent.name else folder.name

    # A request's way.

    def check_token(self, headers: dict[bytes, bytes]) -> None:
        """Raises a Refusal where a token is set and did not come."""
        if self.token is None:
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        # Both are evaluated, and the comparison takes the same time for each wrong token.
        right = hmac.compare_digest(given.strip(), self.token)
        if scheme.lower() != b"bearer" or not right:
            what = "wrong" if given else "missing"
            raise Refusal(
                401,
                "token_wrong",
                f"The token is {what}; send the header Authorization: Bearer TOKEN.",
                {"WWW-Authenticate": "Bearer"},
            )

    async def answers(self, job: Job, body: Body, start: float) -> list[bytes]:
        """JSON of each text of a job.

        Raises:
            Refusal: no place in the queue, or no answer in time.
        """
        self.waiting.check(job.client)
        self.waiting.add(job)
        self.requests.put(job)
        loop = asyncio.get_running_loop()
        left = self.limits.seconds - (time.monotonic() - start)
        timer = loop.call_later(max(0.0, left), self._late, job)
        watch = loop.create_task(body.gone())
        watch.add_done_callback(lambda _: job.answer.cancel())
        try:
            return await job.answer
        except asyncio.CancelledError:
            if watch.done():
                raise HangUp from None
            raise
        finally:
            timer.cancel()
            watch.cancel()

    def _late(self, job: Job) -> None:
        if not job.answer.done():
            job.answer.set_exception(
                Refusal(
                    504,
                    "too_slow",
                    f"There was no answer within {self.limits.seconds:g} seconds; send fewer texts.",
                )
            )

    def _deliver(self, all_done: Iterable[Done]) -> None:
        for job, start, number, answers in all_done:
            job.left -= number
            if answers is not None:
                job.answers[start : start + number] = answers
            if answers is None and not job.answer.done():
                job.answer.set_exception(internal())
            if not job.left:
                self.waiting.remove(job)
                if not job.answer.done():
                    job.answer.set_result(job.answers)

    # The other endpoints.

    async def _no_route(self, request: Request, error: HTTPException) -> Response:
        path, method = request.scope["path"], request.method
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            message = f"{path} takes {allowed} and {method} came; use that."
            refusal = Refusal(405, "wrong_method", message, {"Allow": allowed})
        else:
            refusal = Refusal(
                404, "not_found", f"There is nothing at {ascii(path)[:200]}; /docs lists what is."
            )
        self.metrics.rejected.labels(refusal.code).inc()
        await request.scope["lit_bert.body"].drain()
        return refusal.response()

    async def _health(self, request: Request) -> Response:
        ready = all(status == WorkerSetupStatus.READY for status in self.workers_setup_status.values())
        if ready and all(thread.is_alive() for thread in self.inference_workers):
            return reply({"status": "ok"})
        raise Refusal(
            503, "not_ready", "The model is not ready; try again in a second.", {"Retry-After": "1"}
        )

    async def _info(self, request: Request) -> Response:
        return reply(
            {
                "name": self.name,
                "labels": self.predictor.labels,
                "max_length": self.predictor.max_length,
                "file": self.predictor.file,
                "sha256": self.sums,
                "scores": self.scores,
                "limits": self.limits._asdict(),
                "version": __version__,
            }
        )

    async def _metrics(self, request: Request) -> Response:
        return Response(
            prometheus.generate_latest(self.metrics.registry), media_type=prometheus.CONTENT_TYPE_LATEST
        )

    async def _openapi(self, request: Request) -> Response:
        return reply(self.document)

    async def _docs(self, request: Request) -> Response:
        return html(self.docs)

    async def _page(self, request: Request) -> Response:
        if self.page is None:
            raise Refusal(404, "not_found", "This installation has no page; /docs describes the API.")
        return html(self.page)


def html(page: str) -> Response:
    """A page that is held to its own host."""
    return Response(page, headers={"Content-Security-Policy": policy(page)}, media_type="text/html")


class Uvicorn(uvicorn.Server):
    """Tells the server when it has started and when it has stopped."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self.server = server

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets
        self.server._transport.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.server.started(sockets[0])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self.server.stopped()
        self._captured_signals.clear()  # uvicorn would raise them again, and end by them instead of with 0
