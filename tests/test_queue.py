"""The batching queue of the server, with its threads and without HTTP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_bert.product.queue import BATCH_SIZE, BatchQueue, ComputeFailed, Job, QueueFull, ShareFull


@dataclass
class Computer:
    """What the workers call: answers a text with itself in capitals, once it is let to."""

    batches: list[list[str]] = field(default_factory=list)
    allowed: threading.Event = field(default_factory=threading.Event)
    busy: threading.Event = field(default_factory=threading.Event)

    def predict(self, texts: list[str]) -> list[bytes]:
        self.busy.set()
        assert self.allowed.wait(10)
        if "deadly" in texts:
            raise SystemExit
        if "bad" in texts:
            raise ValueError("of the inside")
        self.batches.append(texts)
        return [text.upper().encode() for text in texts]

    def explain(self, texts: list[str]) -> list[bytes]:
        return [b"because " + answer for answer in self.predict(texts)]


@dataclass
class Setting:
    """A queue that runs, and what it reported."""

    queue: BatchQueue
    computer: Computer
    sizes: list[int]
    deaths: list[int]

    def put(self, *texts: str, client: str = "a", explain: bool = False, cost: int = 0) -> Job:
        compute = self.computer.explain if explain else self.computer.predict
        job = Job(list(texts), client, compute, cost or len(texts), alone=explain)
        self.queue.put(job)
        return job

    async def occupy(self) -> Job:
        """A job that keeps the worker busy until `computer.allowed` is set."""
        job = self.put("first", client="occupant")
        await until(self.computer.busy.is_set)
        return job


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


def run(
    scene: Callable[[Setting], Awaitable[None]], limit: int = 100, threads: int = 1, allowed: bool = False
) -> None:
    """Plays a scene with a queue that is ready."""

    async def play() -> None:
        computer, sizes, deaths = Computer(), [], []
        if allowed:
            computer.allowed.set()
        queue = BatchQueue(lambda: None, limit, threads, sizes.append, lambda: deaths.append(1))
        queue.start()
        try:
            await until(queue.ready)
            await scene(Setting(queue, computer, sizes, deaths))
        finally:
            computer.allowed.set()
            queue.stop()
        assert not any(worker.is_alive() for worker in queue.workers)

    asyncio.run(play())


def test_what_waits_is_computed_together_and_everybody_gets_their_own() -> None:
    async def scene(on: Setting) -> None:
        first = await on.occupy()
        jobs = [on.put("one"), on.put("two", "three", client="b"), on.put("four", client="c")]
        on.computer.allowed.set()
        answers = await asyncio.gather(*(job.answers for job in [first, *jobs]))
        assert answers == [[b"FIRST"], [b"ONE"], [b"TWO", b"THREE"], [b"FOUR"]]
        assert on.computer.batches == [["first"], ["one", "two", "three", "four"]]
        assert on.sizes == [1, 4]
        assert (on.queue.length, on.queue.by_client) == (0, {})

    run(scene)


def test_a_long_job_gives_way_after_each_batch() -> None:
    texts = [str(number) for number in range(2 * BATCH_SIZE + 1)]

    async def scene(on: Setting) -> None:
        await on.occupy()
        long, short = on.put(*texts), on.put("short", client="b")
        on.computer.allowed.set()
        assert await long.answers == [text.encode() for text in texts]
        assert await short.answers == [b"SHORT"]
        first, *rest = on.computer.batches[1:]
        assert first == texts[:BATCH_SIZE]
        assert rest == [["short", *texts[BATCH_SIZE : 2 * BATCH_SIZE - 1]], texts[2 * BATCH_SIZE - 1 :]]

    run(scene)


def test_a_full_queue_refuses_until_an_answer_is_there() -> None:
    async def scene(on: Setting) -> None:
        await on.occupy()
        on.put("a", client="a")
        big = on.put(*"bcdefg", client="b")  # the last job accepted may exceed the limit
        assert on.queue.length == 8
        with pytest.raises(QueueFull):
            on.put("x", client="c")
        on.computer.allowed.set()
        await big.answers
        assert await on.put("x", client="c").answers == [b"X"]

    run(scene, limit=4)


def test_a_client_has_half_of_the_places() -> None:
    async def scene(on: Setting) -> None:
        await on.occupy()
        mine = [on.put("x", client="a"), on.put("y", client="a")]
        with pytest.raises(ShareFull):
            on.put("z", client="a")
        other = on.put("z", client="b")
        on.computer.allowed.set()
        await asyncio.gather(other.answers, *(job.answers for job in mine))
        assert await on.put("z", client="a").answers == [b"Z"]

    run(scene, limit=5)


def test_explanations_take_the_places_that_they_cost_and_come_alone() -> None:
    async def scene(on: Setting) -> None:
        await on.occupy()
        explained, plain = on.put("why", explain=True, cost=7), on.put("what", client="b")
        assert on.queue.length == 9
        on.computer.allowed.set()
        assert await explained.answers == [b"because WHY"]
        assert await plain.answers == [b"WHAT"]
        assert on.queue.length == 0
        assert on.computer.batches == [["first"], ["why"], ["what"]]

    run(scene)


def test_a_text_that_cannot_be_computed_fails_its_own_job(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(on: Setting) -> None:
        await on.occupy()
        jobs = [on.put("good"), on.put("bad", client="b"), on.put("fine", client="c")]
        on.computer.allowed.set()
        answers = await asyncio.gather(*(job.answers for job in jobs), return_exceptions=True)
        assert [answers[0], answers[2]] == [[b"GOOD"], [b"FINE"]]
        assert isinstance(answers[1], ComputeFailed)
        assert on.queue.length == 0
        assert await on.put("again").answers == [b"AGAIN"]

    run(scene)
    assert "of the inside" in caplog.text


def test_a_job_that_nobody_awaits_is_not_computed_and_frees_its_places() -> None:
    async def scene(on: Setting) -> None:
        await on.occupy()
        waiting, long = on.put("gone"), on.put(*"abcdefghijkl", client="b")
        waiting.answers.cancel()
        on.computer.busy.clear()
        on.computer.allowed.set()
        await until(on.computer.busy.is_set)
        long.answers.cancel()  # while its first part is computed or has been
        await until(lambda: on.queue.length == 0)
        assert "gone" not in [text for batch in on.computer.batches for text in batch]
        assert on.queue.by_client == {}

    run(scene)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(on: Setting) -> None:
        on.put("deadly")
        await until(lambda: on.deaths == [1])
        assert not on.queue.ready()

    run(scene, allowed=True)
    assert "worker 0 died" in caplog.text


def test_an_end_comes_after_what_was_put_before_it() -> None:
    async def scene(on: Setting) -> None:
        first, second = await on.occupy(), on.put("second")
        threading.Timer(0.1, on.computer.allowed.set).start()
        on.queue.stop()
        assert not on.queue.workers[0].is_alive()
        assert await first.answers == [b"FIRST"]
        assert await second.answers == [b"SECOND"]
        assert on.deaths == []

    run(scene)


JOBS = st.lists(
    st.tuples(st.integers(1, 20), st.sampled_from("abc"), st.booleans(), st.booleans()), max_size=30
)


@pytest.mark.fuzz
@given(wanted=JOBS, threads=st.integers(1, 3))
def test_every_job_gets_its_own_answers_in_order(
    wanted: list[tuple[int, str, bool, bool]], threads: int
) -> None:
    async def scene(on: Setting) -> None:
        jobs = []
        for number, (count, client, explain, cancelled) in enumerate(wanted):
            texts = [f"{number}-{at}" for at in range(1 if explain else count)]
            job = on.put(*texts, client=client, explain=explain)
            if cancelled:
                job.answers.cancel()
            else:
                jobs.append(job)
        for job in jobs:
            start = b"because " if job.alone else b""
            assert await job.answers == [start + text.encode() for text in job.texts]
        await until(lambda: on.queue.length == 0)
        assert on.queue.by_client == {}
        assert all(len(batch) <= BATCH_SIZE for batch in on.computer.batches)

    run(scene, limit=10_000, threads=threads, allowed=True)
