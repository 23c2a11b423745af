"""An open-loop load generator: requests are due at random times, whether or not earlier ones were answered.

A client that waits for an answer before it asks again slows down with the server and never sees the requests
that would have come meanwhile (coordinated omission). Here arrivals are a Poisson process drawn beforehand,
and a latency counts from the time at which its request was due, waiting for a connection included. One
thread over epoll, as what it computes is missing to the server beside it.

    python -m benchmarks.generator --port 8000 --rate 100 --seconds 10 --texts texts.jsonl
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import select
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONNECTIONS = 256  # a due request waits when all are busy
IDLE_S = 2.0  # a connection unused for longer is not used again: the server may be closing it right now
DRAIN_S = 15.0  # for the answers that are missing at the end; lit_bert's own time limit is 10 s
LATE_MS = 10.0  # a 99th percentile of lateness above it makes a run invalid


@dataclass
class Outcome:
    """What a run gave.

    Attributes:
        latencies: seconds from due to answered, of the requests with status 200.
        late: seconds from due to sent, or to put in line for a connection, of all requests.
        statuses: how many answers had each status.
        lost: how many requests got no answer, by the reason.
        connections: most that were open at a time.
        cut: whether it was stopped early, as it could no longer keep the limit.
        wall_s, cpu_s: what it took.
    """

    latencies: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    cut: bool = False
    wall_s: float = 0.0
    cpu_s: float = 0.0

    def figures(self) -> dict[str, Any]:
        """Counts, milliseconds and shares."""
        answers, lost = self.statuses.total(), self.lost.total()
        milliseconds = {
            f"{name}_ms": percentile(self.latencies, share) * 1000
            for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1))
            if self.latencies
        }
        shares = {
            f"share_{status}": self.statuses[status] / max(answers + lost, 1) for status in (200, 429, 503)
        }
        return {
            "requests": answers + lost,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            **shares,
            "lost": lost,
            "lost_by": dict(+self.lost),
            "wrong": lost + sum(n for status, n in self.statuses.items() if status not in (200, 429, 503)),
            **milliseconds,
            "late_p99_ms": percentile(self.late, 0.99) * 1000 if self.late else 0.0,
            "generator_cpu": self.cpu_s / self.wall_s,
            "connections": self.connections,
            "cut": self.cut,
        }


def percentile(numbers: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: the least number that at least `share` of all do not exceed."""
    return sorted(numbers)[max(math.ceil(share * len(numbers)) - 1, 0)]


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Seconds at which requests are due: a Poisson process of `rate` a second."""
    generator, due = random.Random(seed), []
    now = generator.expovariate(rate)
    while now < seconds:
        due.append(now)
        now += generator.expovariate(rate)
    return due


def request(text: str) -> bytes:
    """One text for POST /predict, as it goes over the wire."""
    body = json.dumps({"text": text}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: application/json\r\n\r\n".encode() + body


class Connection:
    """A keep-alive connection with at most one request on it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(("127.0.0.1", port))  # goes on meanwhile; a refusal shows when it is read
        self.busy = False
        self.due = 0.0
        self.unsent = b""
        self.received = b""
        self.released = 0.0

    def flush(self) -> None:
        """Sends what it can of the request; the rest when the connection takes more."""
        try:
            self.unsent = self.unsent[self.socket.send(self.unsent) :]
        except (BlockingIOError, OSError):  # not connected yet; a broken one shows when it is read
            return

    def answer(self) -> tuple[int, bool] | None:
        """Status, and whether the connection stays open, of a complete answer; None while some is missing."""
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = self.received[:end].lower()
        start = head.find(b"\r\ncontent-length:") + 17
        if start < 17:
            raise ValueError("an answer without Content-Length")
        length = int(head[start:].split(b"\r\n", 1)[0])
        if len(self.received) < end + 4 + length:
            return None
        self.received = b""
        return int(head[9:12]), b"\r\nconnection: close" not in head


class Generator:
    """Sends requests to a server on loopback.

    Args:
        port: of the server.
        requests: taken in turn.
        limit_s: stop as soon as the 99th percentile must exceed it or an answer is not 200; None goes on.
        connections: most that are open at a time.
        drain_s: seconds for the answers that are missing at the end.
    """

    def __init__(
        self,
        port: int,
        requests: Sequence[bytes],
        limit_s: float | None = None,
        connections: int = CONNECTIONS,
        drain_s: float = DRAIN_S,
    ) -> None:
        self.port, self.requests, self.limit_s = port, requests, limit_s
        self.most, self.drain_s = connections, drain_s
        self.poll = select.epoll()
        self.open: dict[int, Connection] = {}
        self.idle: list[Connection] = []  # the last one used is the next
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.slow = 0
        self.outcome = Outcome()

    def run(self, due: Sequence[float]) -> Outcome:
        """Sends a request at each time that is due, and waits for the answers."""
        outcome, clock = self.outcome, time.perf_counter
        self.allowed = len(due) - math.ceil(0.99 * len(due))  # as many may be slow
        gc.disable()  # a collection would make requests late
        cpu, begin = time.process_time(), clock()
        number, last = 0, due[-1] if due else 0.0
        while number < len(due) or self.waiting or len(self.open) > len(self.idle):
            now = clock() - begin
            if outcome.cut:
                number = len(due)
                self.waiting.clear()
            while number < len(due) and due[number] <= now:
                outcome.late.append(now - due[number])
                self.waiting.append((due[number], self.requests[number % len(self.requests)]))
                number += 1
                self.dispatch(now)
                now = clock() - begin
            if now > last + self.drain_s:
                break
            next_s = due[number] if number < len(due) else last + self.drain_s
            for descriptor, event in self.poll.poll(max(next_s - now, 0)):
                self.handle(self.open[descriptor], event, clock() - begin)
            self.dispatch(clock() - begin)
        outcome.wall_s, outcome.cpu_s = clock() - begin, time.process_time() - cpu
        gc.enable()
        busy = sum(connection.busy for connection in self.open.values())
        outcome.lost.update({"no answer": busy, "never sent": len(self.waiting)})
        for connection in list(self.open.values()):
            self.close(connection)
        self.poll.close()
        return outcome

    def dispatch(self, now: float) -> None:
        """Puts what waits on connections that are free."""
        while self.waiting:
            while self.idle and now - self.idle[-1].released > IDLE_S:
                self.close(self.idle.pop())
            if self.idle:
                connection = self.idle.pop()
            elif len(self.open) < self.most:
                connection = Connection(self.port)
                self.open[connection.socket.fileno()] = connection
                self.outcome.connections = max(self.outcome.connections, len(self.open))
                self.poll.register(connection.socket, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
            else:
                return
            connection.busy = True
            connection.due, connection.unsent = self.waiting.popleft()
            connection.flush()

    def handle(self, connection: Connection, event: int, now: float) -> None:
        """Sends the rest, reads what came."""
        if connection.unsent and event & select.EPOLLOUT:
            connection.flush()
        if not event & ~select.EPOLLOUT:
            return
        ended = False
        try:
            while some := connection.socket.recv(65536):
                connection.received += some
            ended = True
        except BlockingIOError:
            pass
        except OSError:
            ended = True
        answer = connection.answer() if connection.busy else None
        if answer:
            self.count(answer[0], now - connection.due)
            connection.busy, connection.released = False, now
            if not ended and answer[1]:
                self.idle.append(connection)
                return
            self.close(connection)
        elif ended:
            if connection.busy:
                self.outcome.lost["connection closed"] += 1
                self.outcome.cut |= self.limit_s is not None
            else:
                self.idle.remove(connection)
            self.close(connection)

    def count(self, status: int, latency_s: float) -> None:
        """Notes an answer."""
        self.outcome.statuses[status] += 1
        if status == 200:
            self.outcome.latencies.append(latency_s)
        if self.limit_s is not None:
            self.slow += latency_s > self.limit_s
            self.outcome.cut |= status != 200 or self.slow > self.allowed

    def close(self, connection: Connection) -> None:
        """Ends a connection."""
        del self.open[connection.socket.fileno()]
        connection.socket.close()  # which ends its registration, too


def main(argv: list[str] | None = None) -> int:
    """One run; its figures are the last line of the output."""
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.generator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    flags.add_argument("--port", type=int, required=True, help="of the server, on loopback")
    flags.add_argument("--rate", type=float, required=True, help="requests a second, on average")
    flags.add_argument("--seconds", type=float, required=True, help="how long")
    flags.add_argument("--texts", type=Path, required=True, help="JSON Lines with the field text")
    flags.add_argument("--seed", type=int, default=0, help="of the arrivals and the order of texts")
    flags.add_argument("--limit_ms", type=float, help="stop once the 99th percentile must be above it")
    args = flags.parse_args(argv)
    texts = [json.loads(line)["text"] for line in args.texts.read_text(encoding="utf-8").splitlines()]
    random.Random(args.seed).shuffle(texts)
    limit_s = args.limit_ms and args.limit_ms / 1000
    due = arrivals(args.rate, args.seconds, args.seed)
    outcome = Generator(args.port, [request(text) for text in texts], limit_s).run(due)
    print(json.dumps({"rate": args.rate, "seconds": args.seconds, **outcome.figures()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
