"""The servers under load: a process each, its memory and processor time; and the baseline itself."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


class Server:
    """A process that serves on loopback.

    Args:
        command: program and arguments, to which the port is added.
        log: where its output goes.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)], stdout=stream, stderr=subprocess.STDOUT
            )

    def ask(self, text: str | list[str], connection: http.client.HTTPConnection | None = None) -> Any:
        """The answer to POST /predict."""
        connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(
            "POST", "/predict", json.dumps({"text": text}), {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"status {answer.status}: {content[:500]!r}\n{self.log_end()}")
        return json.loads(content)

    def wait(self, timeout_s: float = 120) -> None:
        """Until it answers."""
        limit = time.monotonic() + timeout_s
        while time.monotonic() < limit and self.process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.ask("is anybody there")
                return
            time.sleep(0.1)
        raise SystemExit(f"the server did not answer\n{self.log_end()}")

    def wait_until_idle(self, answer_s: float, timeout_s: float = 60) -> None:
        """Until it answers within `answer_s`: the baseline goes on with requests that nobody waits for."""
        limit = time.monotonic() + timeout_s
        while time.monotonic() < limit:
            start = time.perf_counter()
            with contextlib.suppress(OSError, http.client.HTTPException, SystemExit):
                self.ask("is anybody there")
                if time.perf_counter() - start < answer_s:
                    return
            time.sleep(0.1)

    def memory_mb(self) -> float:
        """Resident memory of it and all its descendants."""
        return sum(map(resident_mb, process_tree(self.process.pid)))

    def cpu_s(self) -> float:
        """Processor time that it and its descendants have taken."""
        return sum(map(cpu_s, process_tree(self.process.pid)))

    def log_end(self) -> str:
        """The end of its output."""
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self) -> int:
        """Its exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def process_tree(process: int) -> list[int]:
    """The process and its descendants."""
    processes = [process]
    for parent in processes:  # grows meanwhile
        for file in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                processes += map(int, file.read_text().split())
    return processes


def resident_mb(process: int) -> float:
    """Resident memory of one process; 0 where it has ended."""
    with contextlib.suppress(OSError):
        size = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
        return int(size[1]) / 1024 if size else 0.0
    return 0.0


def cpu_s(process: int) -> float:
    """Processor time that one process has taken; 0 where it has ended."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


@contextlib.contextmanager
def serving(command: Sequence[str]) -> Iterator[Server]:
    """The server, while it answers."""
    server = Server(command, Path("server.log").absolute())
    try:
        server.wait()
        yield server
    finally:
        code = server.stop()
    if code not in (0, -signal.SIGTERM):
        raise SystemExit(f"the server ended with {code}\n{server.log_end()}")


def serve_baseline(folder: Path, port: int) -> int:
    """The baseline: what people write. Serves until SIGTERM."""
    import transformers
    import uvicorn
    from fastapi import FastAPI

    classifier = transformers.pipeline("text-classification", model=str(folder))
    server = FastAPI()

    @server.post("/predict")
    def predict(body: dict[str, str]) -> dict[str, Any]:
        return classifier(body["text"])[0]

    uvicorn.run(server, host="127.0.0.1", port=port, log_level="warning")
    return 0
