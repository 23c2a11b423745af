"""An exported folder over HTTP: POST /predict, a page, and the rest that a service needs.

Step 8 of the journey. LitServe lends the application, the worker's life and the loop that gathers batches;
here is what it lacks: limits at the door, a bounded queue, one shape for errors, metrics and an orderly end.

    python -m lit_bert serve exported --port 8000
    curl http://127.0.0.1:8000/predict --json '{"text": "what a day"}'

The workers are threads of the one process, not processes as LitServe has them by default: onnxruntime and the
tokenizer release the interpreter's lock, so nothing is gained by a second interpreter, and a request need not
be pickled through LitServe's manager (figures in docs/ and benchmarks/).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import hmac
import json
import logging
import os
import queue
import re
import resource
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from lit_bert import RUNS, UserError, __version__, need, openapi
from lit_bert.predictor import EXACT, WORD, Prediction, Predictor, Word, facts, verify

need("litserve", "serve")
need("prometheus_client", "serve")

import litserve
import prometheus_client as prometheus
import uvicorn
from litserve.loops import LitLoop, inference_worker
from litserve.transport.base import MessageTransport
from litserve.utils import WorkerSetupStatus
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

TOKEN = "LIT_BERT_TOKEN"
PAGE = Path(__file__).with_name("page.html")
BATCH_SIZE = 8  # texts that a worker takes at a time; more makes a lone text behind them wait longer
HEAD_BYTES = 65_536  # of a request's first line and headers
DRAIN_BYTES = 2**26  # read and dropped of a refused body, as a client that is still sending hears no answer
IDLE_S = 60.0  # a connection without a request is closed after it
OPEN_TO_ALL = ("/", "/health")  # asked without a token
LATENCY_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)

logger = logging.getLogger(__name__)


class Parser(argparse.ArgumentParser):
    """Its errors are one line, shown by the front door."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. `python -m lit_bert serve --help` lists what is accepted.")


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


def reply(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON in ASCII, so that nothing in it can fail to be written as UTF-8."""
    return Response(json.dumps(body).encode(), status, headers, "application/json")


# --- the verb -----------------------------------------------------------------------------------------------


def serve(arguments: list[str]) -> int:
    """The verb.

    Returns:
        0 after SIGTERM or Ctrl-C, with everything in flight answered; 1 where a worker died.
    """
    args = _parser().parse_args(arguments)
    limits = Limits(args.bytes, args.texts, args.characters, args.seconds, args.queue)
    token = args.token or os.environ.get(TOKEN)
    if token is not None and not token.strip():
        raise UserError(f"the token is empty; give {TOKEN} some characters, or unset it.")
    folder = args.folder or newest()
    sums = verify(folder)
    predictor = Predictor(folder, args.file, threads=1)
    listener = _listen(args.host, args.port)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # until uvicorn has its own, and after it
    _allow_connections()
    server = Server(predictor, limits, sums, token, args.threads)
    return server.serve_until_stopped(listener)


def _parser() -> Parser:
    parser = Parser(
        "python -m lit_bert serve",
        description="Answers POST /predict over HTTP from an exported folder, with a page at / and its "
        "documentation at /docs. SIGTERM and Ctrl-C finish what is in flight.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=argparse.SUPPRESS,
        help="what `python -m lit_bert export` wrote; without it the newest below checkpoints/",
    )
    parser.set_defaults(folder=None)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 is every network")
    parser.add_argument("--port", type=_port, default=8000, help="TCP port; 0 takes a free one")
    parser.add_argument(
        "--file", help="ONNX file to run; else model.int8.onnx where there is one, or model.onnx"
    )
    parser.add_argument(
        "--token",
        help=f"answer only requests with this bearer token; better set {TOKEN}, as process lists show flags",
    )
    parser.add_argument("--bytes", type=_count, default=2**20, help="bytes of a request's body, at most")
    parser.add_argument("--texts", type=_count, default=256, help="texts in one request, at most")
    parser.add_argument("--characters", type=_count, default=10_000, help="characters of one text, at most")
    parser.add_argument("--seconds", type=_seconds, default=10.0, help="seconds for one request, at most")
    parser.add_argument(
        "--queue", type=_count, default=256, help="texts waiting, at most; one client address gets half"
    )
    parser.add_argument(
        "--threads", type=_count, default=_cores(), help="texts that are computed side by side, one core each"
    )
    return parser


def _count(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"got '{value}'; expected a whole number of 1 or more")
    return int(value)


def _port(value: str) -> int:
    if not value.isdecimal() or int(value) > 65_535:
        raise argparse.ArgumentTypeError(f"got '{value}'; expected a number from 0 to 65535")
    return int(value)


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"got '{value}'; expected seconds, above 0 and up to 3600")
    return seconds


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def newest(root: Path = RUNS) -> Path:
    """The exported folder of the newest run below `root`."""
    needed = ("config.json", "tokenizer.json", EXACT)
    found = [path for path in root.glob("**/exported") if all((path / name).is_file() for name in needed)]
    if not found:
        raise UserError(
            f"there is no exported folder below {root}/. Run `python -m lit_bert export` first, or name a folder."
        )
    return max(found, key=lambda path: (path / EXACT).stat().st_mtime_ns)


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, not listening yet."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Bound twice with SO_REUSEADDR only fails where one of them listens already.
        listener.listen(1024)
    except (OSError, UnicodeError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot listen on {host} port {port}: {what}. Choose another --port or --host."
        ) from None
    return listener


def _allow_connections() -> None:
    """As many open connections as the system lets us: idle ones must not keep others out."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# --- the queue and the workers ------------------------------------------------------------------------------


class Job:
    """One request's texts on their way through the queue.

    Only the worker that holds it moves `taken`; the rest is the event loop's.
    """

    __slots__ = ("answer", "answers", "client", "cost", "explain", "left", "taken", "texts")

    def __init__(self, texts: list[str], explain: bool, client: str) -> None:
        self.texts, self.explain, self.client = texts, explain, client
        self.cost = 1 + len(WORD.findall(texts[0])) if explain else len(texts)  # texts to compute
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
    count: int
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
            parts = [self._take(job, BATCH_SIZE, request_queue)]
            room = BATCH_SIZE - len(parts[0].texts)
            while room > 0 and not job.explain:
                try:
                    job = request_queue.get_nowait()
                except queue.Empty:
                    break
                if job is None or job.explain:
                    request_queue.put(job)
                    break
                parts.append(self._take(job, room, request_queue))
                room -= len(parts[-1].texts)
            transport.send(self._compute(lit_api, parts, transport), 0)

    @staticmethod
    def _take(job: Job, room: int, request_queue: queue.SimpleQueue[Job | None]) -> Part:
        start = job.taken
        if job.answer.done():  # it timed out, or its client hung up
            room = 0
            job.taken = len(job.texts)
            return Part(job, start, [])
        texts = job.texts[start : start + room]
        job.taken += len(texts)
        if job.taken < len(job.texts):
            request_queue.put(job)
        return Part(job, start, texts)

    @staticmethod
    def _compute(lit_api: Classifier, parts: list[Part], transport: Transport) -> list[Done]:
        done = [
            Done(part.job, part.start, len(part.job.texts) - part.start, None)
            for part in parts
            if not part.texts
        ]
        parts = [part for part in parts if part.texts]
        if not parts:
            return done
        try:
            if parts[0].job.explain:
                (part,) = parts
                answers = [lit_api.encode_response(*lit_api.explain(part.texts[0]))]
            else:
                predictions = lit_api.predict([text for part in parts for text in part.texts])
                answers = [lit_api.encode_response(prediction) for prediction in predictions]
        except Exception:
            if len(parts) > 1:  # whose text it was shows when each is alone
                for part in parts:
                    done += GatheringLoop._compute(lit_api, [part], transport)
                return done
            logger.exception("texts could not be computed")
            return [*done, Done(parts[0].job, parts[0].start, len(parts[0].texts), None)]
        transport.computed(len(answers))
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
        self.closed = False

    def check(self, client: str) -> None:
        """Raises a Refusal where no more is taken."""
        again = {"Retry-After": "1"}
        if self.closed:
            raise Refusal(503, "shutting_down", "The server is shutting down; try again shortly.", again)
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
                f"Your address has {self.by_client[client]} texts waiting and {self.share} may; wait for their "
                "answers, or try again in a second.",
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


# --- HTTP ---------------------------------------------------------------------------------------------------


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
    """ASGI middleware around everything: the token, one shape for errors, headers, and the count of requests."""

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

        async def sending(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        try:
            try:
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
                logger.exception("%s %s failed", scope["method"], path)
                if status == 499:
                    await INTERNAL.response()(scope, receive, sending)
        except HangUp:
            pass
        finally:
            known = path if path in server.paths else "other"
            server.metrics.requests.labels(known, status).inc()


HEADERS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
INTERNAL = Refusal(500, "internal_error", "The server failed at this request; its log says why.")


class Protocol(HttpToolsProtocol):
    """HTTP of a connection as uvicorn speaks it, with bounds where it has none: a request's head, and silence."""

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

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.head_bytes = 0
        self._start_timer()

    def on_headers_complete(self) -> None:
        self.head_bytes = -1
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.more_body and not self.transport.is_closing():  # answered before the body was here
            self._start_timer()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "not_http", "This is not an HTTP request; send one.")

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


class Predict:
    """The endpoint POST /predict, in ASGI."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        start = time.monotonic()
        server, body = self.server, scope["lit_bert.body"]
        client = scope["client"][0] if scope["client"] else ""
        kind = dict(scope["headers"]).get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json":
            shown = kind.decode("ascii", "replace") or "no content type"
            raise Refusal(
                415,
                "not_json",
                f"The body is {shown}; send JSON with the header Content-Type: application/json.",
            )
        content = await body.read()
        server.waiting.check(client)  # before any work
        texts, several, explain = parse(content, server.limits)
        answers = await server.answers(Job(texts, explain, client), body, start)
        joined = b'{"predictions": [' + b", ".join(answers) + b"]}" if several else answers[0]
        await Response(joined, media_type="application/json")(scope, receive, send)
        server.metrics.texts.inc(len(texts))
        server.metrics.latency.observe(time.monotonic() - start)


def parse(content: bytes, limits: Limits) -> tuple[list[str], bool, bool]:
    """Texts, whether a list came, and whether words are asked for.

    Raises:
        Refusal: 400 or 422.
    """
    try:
        request = json.loads(content.decode("utf-8"), parse_constant=_no_constant)
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
    texts: list[str] = text if several else [text]
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
    return texts, several, explain


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


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


# --- the server ---------------------------------------------------------------------------------------------


class Server(litserve.LitServer):
    """LitServe's server with its workers as threads of this process, and with endpoints and a door of its own."""

    def __init__(
        self, predictor: Predictor, limits: Limits, sums: dict[str, str], token: str | None, threads: int
    ) -> None:
        self.predictor, self.limits, self.sums = predictor, limits, sums
        self.token = None if token is None else token.encode()
        self.waiting = Waiting(limits.queue)
        self.metrics = Metrics(lambda: self.waiting.length)
        self.requests: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.exit_code = 0
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
        try:
            inference_worker(
                lit_api, device, number, self.requests, self._transport, status, self._callback_runner, False
            )
        finally:
            if not self.waiting.closed:
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
            log_level="warning",
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
        self._transport.loop = asyncio.get_running_loop()
        host, port = listener.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        names = ", ".join(self.predictor.labels)
        print(f"serving {self.name} ({self.predictor.file}; {names}) at http://{host}:{port}", flush=True)

    def stopped(self) -> None:
        """After the last answer."""
        self.waiting.closed = True
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
                    f"There was no answer within {self.limits.seconds:g} seconds; send fewer or shorter texts.",
                )
            )

    def _deliver(self, all_done: Iterable[Done]) -> None:
        for job, start, count, answers in all_done:
            job.left -= count
            if answers is not None:
                job.answers[start : start + count] = answers
            if answers is None and not job.answer.done():
                job.answer.set_exception(INTERNAL)
            if not job.left:
                self.waiting.remove(job)
                if not job.answer.done():
                    job.answer.set_result(job.answers)

    # The other endpoints.

    async def _no_route(self, request: Request, error: HTTPException) -> Response:
        path, method = request.url.path, request.method
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
        known = facts(self.predictor.folder)
        return reply(
            {
                "name": self.name,
                "labels": self.predictor.labels,
                "max_length": self.predictor.max_length,
                "file": self.predictor.file,
                "sha256": self.sums,
                "scores": known.get("scores", {}),
                "limits": self.limits._asdict(),
                "version": __version__,
            }
        )

    async def _metrics(self, request: Request) -> Response:
        return Response(
            prometheus.generate_latest(self.metrics.registry), media_type=prometheus.CONTENT_TYPE_LATEST
        )

    async def _openapi(self, request: Request) -> Response:
        return reply(openapi.document(self.predictor.labels, self.limits._asdict(), self.token is not None))

    async def _docs(self, request: Request) -> Response:
        document = openapi.document(self.predictor.labels, self.limits._asdict(), self.token is not None)
        page = openapi.page(document)
        return Response(page, headers={"Content-Security-Policy": policy(page)}, media_type="text/html")

    async def _page(self, request: Request) -> Response:
        if not PAGE.is_file():
            raise Refusal(404, "not_found", "This installation has no page; /docs describes the API.")
        page = PAGE.read_text(encoding="utf-8")
        return Response(page, headers={"Content-Security-Policy": policy(page)}, media_type="text/html")


def policy(page: str) -> str:
    """A Content-Security-Policy for a page in one file: nothing from or to other hosts, no script but its own."""
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    sums = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in sums) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )


class Uvicorn(uvicorn.Server):
    """Tells the server when it has started and when it has stopped."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self.server = server

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets
        await super().startup(sockets)
        self.server.started(sockets[0])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self.server.stopped()
