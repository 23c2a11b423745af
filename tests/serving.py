"""A server as a process of its own, on a free port, and a client of it over real sockets."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lit_bert

ROOT = Path(lit_bert.__file__).parents[1]
JSON = {"Content-Type": "application/json"}

# A model that can be made to fail and to be slow by a text, put below everything that is tested.
TROUBLE = """
import os, sys, threading, time
from lit_bert.product import connection
from lit_bert.__main__ import main
from lit_bert.product.predictor import Predictor
plain = Predictor.__call__
def trouble(self, texts):
    for text in texts:
        if text == "poison":
            raise RuntimeError("secret of the inside")
        if text == "deadly":
            raise SystemExit
        if text.startswith("sleep "):
            time.sleep(float(text.split()[1]))
    return plain(self, texts)
Predictor.__call__ = trouble
plain_logits = Predictor.logits
def trouble_of_logits(self, texts):
    if "poison" in texts:
        raise RuntimeError("secret of the inside")
    return plain_logits(self, texts)
Predictor.logits = trouble_of_logits
connection.IDLE_TIMEOUT_S = float(os.environ.get("IDLE_S", connection.IDLE_TIMEOUT_S))
sys.exit(main(["serve", *sys.argv[1:]]))
"""


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


class Running:
    """A server that runs, and its clients."""

    def __init__(self, process: subprocess.Popen[str], port: int, line: str) -> None:
        self.process, self.port, self.line = process, port, line

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, **keys: Any
    ) -> Answer:
        """One request over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {}, **keys)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def predict(self, text: Any, **fields: Any) -> Answer:
        return self.ask("POST", "/predict", json.dumps({"text": text, **fields}), JSON)

    def post(self, body: bytes) -> Answer:
        return self.ask("POST", "/predict", body, JSON)

    def metrics(self) -> dict[str, float]:
        """Each sample of GET /metrics."""
        lines = self.ask("GET", "/metrics").content.decode().splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
        }

    def raw(self, content: bytes) -> socket.socket:
        """A connection on which `content` has been sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sendall(content)
        return connection


Start = Callable[..., Running]


@contextmanager
def servers() -> Iterator[Start]:
    """Starts servers, and ends those that a test left running."""
    started: list[subprocess.Popen[str]] = []

    def call(folder: Path, *flags: str, trouble: bool = False, **environment: str) -> Running:
        command = ["-c", TROUBLE] if trouble else ["-m", "lit_bert", "serve"]
        process = subprocess.Popen(
            [sys.executable, *command, str(folder), "--port=0", *flags],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout
        assert process.stderr
        line = process.stdout.readline()
        port = re.search(r"http://\S+:(\d+)$", line.strip())
        assert port, (line, process.stderr.read())
        return Running(process, int(port[1]), line.strip())

    try:
        yield call
    finally:
        for process in started:
            process.kill()
            process.communicate()


def error_of(answer: Answer, status: int) -> dict[str, str]:
    """The error, after a look at its shape."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    (name, error) = next(iter(answer.json.items()))
    assert name == "error"
    assert error.keys() == {"code", "message"}
    assert "Traceback" not in error["message"]
    return error


def alive(server: Running) -> bool:
    return server.ask("GET", "/health").json == {"status": "ok"}


def read_all(connection: socket.socket) -> bytes:
    content = b""
    while piece := connection.recv(65_536):
        content += piece
    return content
