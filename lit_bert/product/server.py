"""The HTTP server of `serve`: uvicorn around the application, by its public settings.

python -m lit_bert serve exported --port 8000
"""

from __future__ import annotations

import logging
import math
import signal
import socket

import uvicorn

from lit_bert.io import escape
from lit_bert.product import connection
from lit_bert.product.access import Access
from lit_bert.product.app import Served, create_app
from lit_bert.product.messages import Limits

logger = logging.getLogger(__name__)

MAX_SHOWN_LABELS, MAX_SHOWN_CHARACTERS = 12, 60  # of the classes in the line at the start


def run(served: Served, limits: Limits, access: Access, threads: int, listener: socket.socket) -> int:
    """Serves until SIGTERM, SIGINT or the death of a worker.

    Args:
        served: what is served.
        limits: of requests and of the queue.
        access: which requests are answered.
        threads: number of workers.
        listener: a socket that listens.

    Returns:
        The exit code, after everything in flight has been answered: 1 where a worker died.
    """
    died: list[int] = []

    def on_death() -> None:
        logger.error("the server ends, as a worker died")
        died.append(1)
        server.should_exit = True

    def on_signal(*_: object) -> None:
        server.should_exit = True

    app = create_app(served, limits, access, threads, lambda: announce(served, access, listener), on_death)
    config = uvicorn.Config(
        connection.ReportAnswers(app),
        http=connection.protocol(limits.seconds, connection.IDLE_TIMEOUT_S),
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="error",
        server_header=False,
        # Longer than the limits of `connection`, as uvicorn's timer takes a head that arrives for idleness
        # where it began before the last answer.
        timeout_keep_alive=math.ceil(connection.IDLE_TIMEOUT_S + limits.seconds) + 1,
        timeout_graceful_shutdown=math.ceil(limits.seconds) + 2,
    )
    server = uvicorn.Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        # Of use before and after uvicorn has handlers of its own: at its end it raises anew what it caught.
        signal.signal(number, on_signal)
    server.run([listener])
    return 1 if died else 0


def announce(served: Served, access: Access, listener: socket.socket) -> None:
    """Prints what is served, and where."""
    host, port = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    labels = served.predictor.labels
    names = ", ".join(escape.line(name, MAX_SHOWN_CHARACTERS) for name in labels[:MAX_SHOWN_LABELS])
    if len(labels) > MAX_SHOWN_LABELS:
        names += f" and {len(labels) - MAX_SHOWN_LABELS} more"
    what = f"{escape.line(served.name)} ({escape.line(served.predictor.file)}; {names})"
    print(f"serving {what} at http://{host}:{port}", flush=True)
    if not access.hosts.loopback or access.hosts.allowed:
        print(f"accepted hosts: {access.hosts} (--allow-host)", flush=True)
