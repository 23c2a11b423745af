"""The HTTP server of `serve`: uvicorn around the application, by its public settings.

python -m lit_bert serve exported --port 8000
"""

from __future__ import annotations

import logging
import math
import signal
import socket
from typing import Any

import uvicorn

from lit_bert.io import escape
from lit_bert.product import connection
from lit_bert.product.access import Access
from lit_bert.product.app import create_app
from lit_bert.product.messages import Limits
from lit_bert.product.models import MB, Models

logger = logging.getLogger(__name__)

MAX_SHOWN_NAMES, MAX_SHOWN_CHARACTERS = 12, 60  # in the line at the start


def run(models: Models, limits: Limits, access: Access, threads: int, listener: socket.socket) -> int:
    """Serves until SIGTERM, SIGINT or the death of a worker.

    Args:
        models: what is served.
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

    app = create_app(models, limits, access, threads, lambda: announce(models, access, listener), on_death)
    server = server_of(app, limits.seconds)
    run_server(server, listener)
    return 1 if died else 0


def server_of(app: Any, timeout_s: float) -> uvicorn.Server:
    """A server of an application.

    Args:
        timeout_s: for a request.
    """
    config = uvicorn.Config(
        connection.ReportAnswers(app),
        http=connection.protocol(timeout_s, connection.IDLE_TIMEOUT_S),
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="error",
        server_header=False,
        # Longer than the limits of `connection`, as uvicorn's timer takes a head that arrives for idleness
        # where it began before the last answer.
        timeout_keep_alive=math.ceil(connection.IDLE_TIMEOUT_S + timeout_s) + 1,
        timeout_graceful_shutdown=math.ceil(timeout_s) + 2,
    )
    return uvicorn.Server(config)


def run_server(server: uvicorn.Server, listener: socket.socket) -> None:
    """Answers until SIGTERM or SIGINT, or until something else ends the server."""

    def on_signal(*_: object) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        # Of use before and after uvicorn has handlers of its own: at its end it raises anew what it caught.
        signal.signal(number, on_signal)
    server.run([listener])


def announce(models: Models, access: Access, listener: socket.socket) -> None:
    """Prints what is served, and where."""
    if models.several:
        sizes = [f"{name} ({each.memory / MB:.0f} MB)" for name, each in models.by_name.items()]
        limit = "" if models.limit is None else f", in {models.limit / MB:.0f} MB"
        what = f"{len(sizes)} models{limit}: {_shortened(sizes)};"
    else:
        (model,) = models.by_name.values()
        names = _shortened([escape.line(name, MAX_SHOWN_CHARACTERS) for name in model.labels])
        what = f"{escape.line(model.name)} ({escape.line(model.file)}; {names})"
    announce_address(what, access, listener)


def announce_address(what: str, access: Access, listener: socket.socket) -> None:
    """Prints where something is served, and which hosts are accepted where that is not this machine alone."""
    host, port = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    print(f"serving {what} at http://{host}:{port}", flush=True)
    if not access.hosts.loopback or access.hosts.allowed:
        print(f"accepted hosts: {access.hosts} (--allow-host)", flush=True)


def _shortened(names: list[str]) -> str:
    """The first of some names."""
    more = len(names) - MAX_SHOWN_NAMES
    return ", ".join(names[:MAX_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
