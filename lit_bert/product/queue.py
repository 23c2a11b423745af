"""A bounded queue of texts, computed in batches by worker threads; it knows nothing of HTTP.

Threads and not processes: onnxruntime and the tokenizer release the interpreter's lock, a text need not be
pickled, a worker sleeps while nothing comes, and one process counts everything.

A batch is what waits when a worker is free, up to `BATCH_SIZE` texts; nothing waits for a batch to fill. A
job of many texts is computed in parts: after each, what is left of it goes to the end of the queue. A client
may have half of the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

BATCH_SIZE = 8  # texts; with more, a single text behind them waits longer
Compute = Callable[[list[Any]], list[Any]]
# Added to the niceness of the process: the event loop takes a tenth of the workers' time, and while it waits
# for a core, nobody is answered or refused.
WORKER_NICE = 4


class QueueFull(Exception):
    """No client may add a job."""


class ShareFull(Exception):
    """This client may add no job until some of its own are done."""


class ComputeFailed(Exception):
    """A text of the job could not be computed; the log says why."""


class Job:
    """The texts of one request.

    Attributes:
        texts: to compute.
        client: whose they are.
        compute: the result of each of some texts, in order. Called from several threads at a time, and for
            texts of several jobs together where theirs are equal.
        alone: whether nothing is computed after it in one batch, as it takes long.
        cost: the places that the job takes in the queue.
        answers: what the event loop awaits. Once it is done in any way, as by `cancel()`, no more of the job
            is computed.
        taken: how many texts a worker has taken; changed by the worker that holds the job.
        left: how many texts have no result yet; changed in the event loop, as are the results.
    """

    __slots__ = ("alone", "answers", "client", "compute", "cost", "left", "results", "taken", "texts")

    def __init__(
        self, texts: list[Any], client: str, compute: Compute, cost: int, alone: bool = False
    ) -> None:
        self.texts, self.client, self.compute, self.cost, self.alone = texts, client, compute, cost, alone
        self.taken = 0
        self.left = len(texts)
        self.results: list[Any] = [None] * len(texts)
        self.answers: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()


class Part(NamedTuple):
    """Texts of one job that are in one batch; none where the job is no longer awaited."""

    job: Job
    start: int
    texts: list[Any]


class Outcome(NamedTuple):
    """What a worker reports of `number` texts of a job; no results where they were not computed."""

    job: Job
    start: int
    number: int
    results: list[Any] | None


class BatchQueue:
    """Jobs in, answers out, no more than `limit` texts at a time.

    All methods are called in the event loop in which `start` was called.

    Args:
        warm_up: what each worker calls before it is ready, as a first run allocates.
        limit: places in the queue, taken until the answer; the last job accepted may exceed it.
        threads: number of workers.
        on_batch: called with the number of texts of each batch, from the worker's thread.
        on_death: called in the event loop when a worker ended without being asked to.
    """

    def __init__(
        self,
        warm_up: Callable[[], object],
        limit: int,
        threads: int,
        on_batch: Callable[[int], None],
        on_death: Callable[[], None],
    ) -> None:
        self.warm_up = warm_up
        self.limit = limit
        self.share = max(1, limit // 2)  # places of one client
        self.length = 0  # places taken
        self.by_client: Counter[str] = Counter()
        self.on_batch, self.on_death = on_batch, on_death
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()  # None ends a worker
        self.workers = [
            threading.Thread(target=self._work, args=(number,), name=f"worker-{number}", daemon=True)
            for number in range(threads)
        ]
        self.warm: set[int] = set()  # workers that have warmed up and have not ended
        self.stopping = False

    # --- in the event loop

    def start(self) -> None:
        """Starts the workers; `ready` tells when they compute."""
        self.loop = asyncio.get_running_loop()
        for worker in self.workers:
            worker.start()

    def stop(self) -> None:
        """Ends the workers after what they are computing."""
        self.stopping = True
        for _ in self.workers:
            self.jobs.put(None)
        for worker in self.workers:
            worker.join(timeout=2)

    def ready(self) -> bool:
        """Whether all workers have warmed up and none has ended."""
        return len(self.warm) == len(self.workers)

    def check(self, client: str) -> None:
        """Checks that a job of this client would be accepted.

        Raises:
            QueueFull: all places are taken.
            ShareFull: the client has its share of them.
        """
        if self.length >= self.limit:
            raise QueueFull
        if self.by_client[client] >= self.share:
            raise ShareFull

    def put(self, job: Job) -> None:
        """Adds a job, after `check`; its `answers` get the results, or ComputeFailed.

        Raises:
            QueueFull, ShareFull: as `check`.
        """
        self.check(job.client)
        self.length += job.cost
        self.by_client[job.client] += job.cost
        self.jobs.put(job)

    def _deliver(self, outcomes: list[Outcome]) -> None:
        for job, start, number, results in outcomes:
            job.left -= number
            if results is not None:
                job.results[start : start + number] = results
            elif not job.answers.done():
                job.answers.set_exception(ComputeFailed())
            if job.left:
                continue
            self.length -= job.cost
            self.by_client[job.client] -= job.cost
            if not self.by_client[job.client]:
                del self.by_client[job.client]
            if not job.answers.done():
                job.answers.set_result(job.results)

    # --- in the workers' threads

    def _work(self, number: int) -> None:
        if sys.platform == "linux":  # where niceness is a thread's own
            thread = threading.get_native_id()
            nice = min(19, os.getpriority(os.PRIO_PROCESS, thread) + WORKER_NICE)
            os.setpriority(os.PRIO_PROCESS, thread, nice)
        try:
            self.warm_up()
            self.warm.add(number)
            while parts := self._gather():
                self._report(
                    [Outcome(job, at, len(job.texts) - at, None) for job, at, texts in parts if not texts]
                )
                groups: dict[Compute, list[Part]] = {}
                for part in parts:
                    if part.texts:
                        groups.setdefault(part.job.compute, []).append(part)
                for group in groups.values():
                    self._report(self._compute(group))
        finally:
            self.warm.discard(number)
            if not self.stopping:
                logger.error("worker %d died", number)
                self.loop.call_soon_threadsafe(self.on_death)

    def _report(self, outcomes: list[Outcome]) -> None:
        if outcomes:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self.loop.call_soon_threadsafe(self._deliver, outcomes)

    def _gather(self) -> list[Part]:
        """The next batch; waits for its first job only. Empty where the worker is to end."""
        job = self.jobs.get()
        parts: list[Part] = []
        room = BATCH_SIZE
        while job is not None:
            parts.append(self._take(job, room))
            room -= len(parts[-1].texts)
            if room <= 0 or job.alone:
                return parts
            try:
                job = self.jobs.get_nowait()
            except queue.Empty:
                return parts
        if parts:
            self.jobs.put(None)  # this batch first; the end comes at the next call
        return parts

    def _take(self, job: Job, room: int) -> Part:
        """Up to `room` texts of the job; what is left of it goes to the end of the queue."""
        start = job.taken
        if job.answers.done():  # it timed out, or its client hung up
            job.taken = len(job.texts)
            return Part(job, start, [])
        texts = job.texts[start : start + room]
        job.taken += len(texts)
        if job.taken < len(job.texts):
            self.jobs.put(job)
        return Part(job, start, texts)

    def _compute(self, parts: list[Part]) -> list[Outcome]:
        """Results of parts that are computed alike."""
        texts = [text for part in parts for text in part.texts]
        try:
            results = parts[0].job.compute(texts)
        except Exception:
            if len(parts) > 1:  # one by one, so that only the job with the bad text fails
                return [outcome for part in parts for outcome in self._compute([part])]
            logger.exception("texts could not be computed")
            return [Outcome(parts[0].job, parts[0].start, len(texts), None)]
        self.on_batch(len(results))
        outcomes, at = [], 0
        for job, start, texts in parts:
            outcomes.append(Outcome(job, start, len(texts), results[at : at + len(texts)]))
            at += len(texts)
        return outcomes
