"""The queue of a server: what goes through a model together, and who gets what."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from soloist.errors import EncodingError
from soloist.serving.joining import Joiner
from soloist.serving.limits import Limits
from soloist.serving.refusals import RefusedError

LIMITS = Limits(turn_characters=10, turns=1, waiting_texts=6, window_seconds=0.0)


class Computing:
    """Answers each text with itself in capitals, once it is let go. Has every turn that it was asked for."""

    def __init__(self) -> None:
        self.turns: list[tuple[Any, tuple[str, ...]]] = []
        self.began = threading.Semaphore(0)
        self.goes = threading.Semaphore(0)

    def __call__(self, key: Any, texts: Sequence[str]) -> list[str]:
        self.turns.append((key, tuple(texts)))
        self.began.release()
        assert self.goes.acquire(timeout=60)
        if "bad" in texts:
            raise EncodingError("no vector")
        return [text.upper() for text in texts]


def in_a_loop(test: Callable[[Joiner, Computing], Awaitable[None]], limits: Limits = LIMITS) -> Computing:
    """Run a test with a queue of its own."""
    computing = Computing()

    async def body() -> None:
        joiner = Joiner(computing, limits, 1, lambda *_: None)
        joiner.start()
        try:
            await test(joiner, computing)
        finally:
            joiner.close()
            computing.goes.release(100)

    asyncio.run(body())
    return computing


async def asked(
    joiner: Joiner, computing: Computing, *requests: tuple[str, list[str]]
) -> list[asyncio.Task[list[Any]]]:
    """The requests, of which the first is at work and the others wait."""
    tasks = []
    for key, texts in requests:
        tasks.append(asyncio.create_task(joiner.answers(key, texts)))
        await asyncio.sleep(0)
        if len(tasks) == 1:
            await asyncio.to_thread(computing.began.acquire)
    return tasks


def test_what_waits_goes_together_and_in_order() -> None:
    """Requests that are joined in another order, or with those of another model, get each other's vectors."""

    async def test(joiner: Joiner, computing: Computing) -> None:
        requests = [("a", ["one"]), ("a", ["two"]), ("b", ["three"]), ("a", ["four", "4"]), ("a", ["five"])]
        tasks = await asked(joiner, computing, *requests)
        computing.goes.release(100)
        assert await asyncio.gather(*tasks) == [["ONE"], ["TWO"], ["THREE"], ["FOUR", "4"], ["FIVE"]]

    computing = in_a_loop(test)
    assert computing.turns == [("a", ("one",)), ("a", ("two", "four", "4")), ("b", ("three",)), ("a", ("five",))]


def test_a_long_request_lets_others_have_their_turn() -> None:
    """One client with a thousand texts would have all others wait until the last of them."""

    async def test(joiner: Joiner, computing: Computing) -> None:
        tasks = await asked(joiner, computing, ("a", ["12345", "123456", "1234567890"]), ("a", ["hello"]))
        computing.goes.release(100)
        assert await asyncio.gather(*tasks) == [["12345", "123456", "1234567890"], ["HELLO"]]

    computing = in_a_loop(test)
    assert [texts for _, texts in computing.turns] == [("12345",), ("hello",), ("123456",), ("1234567890",)]


def test_one_request_fails_alone() -> None:
    """A text without a vector would fail the requests that came with it."""

    async def test(joiner: Joiner, computing: Computing) -> None:
        tasks = await asked(joiner, computing, ("a", ["one"]), ("a", ["two"]), ("a", ["bad"]), ("a", ["3"]))
        computing.goes.release(100)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(each) for each in found] == ["['ONE']", "['TWO']", "no vector", "['3']"]

    in_a_loop(test)


def test_the_queue_has_an_end() -> None:
    """A queue without an end takes all memory, and answers nobody in time."""

    async def test(joiner: Joiner, computing: Computing) -> None:
        tasks = await asked(joiner, computing, ("a", ["1"]), ("a", ["2", "3", "4", "5", "6"]))
        with pytest.raises(RefusedError) as refused:
            await joiner.answers("a", ["7"])
        assert refused.value.status == 503 and int(refused.value.headers["Retry-After"]) >= 1
        computing.goes.release(100)
        await asyncio.gather(*tasks)
        assert joiner.waiting_texts == 0
        assert await joiner.answers("a", ["7"]) == ["7"]

    in_a_loop(test)


def test_who_leaves_takes_the_texts_along() -> None:
    """The texts of a client that has gone would still be computed, and count as waiting for ever."""

    async def test(joiner: Joiner, computing: Computing) -> None:
        first, second, third = await asked(joiner, computing, ("a", ["1"]), ("a", ["2"]), ("a", ["3"]))
        second.cancel()
        first.cancel()
        await asyncio.sleep(0)
        assert joiner.waiting_texts == 1
        computing.goes.release(100)
        assert await third == ["3"]

    assert in_a_loop(test).turns == [("a", ("1",)), ("a", ("3",))]


def test_a_check_ends_a_long_request() -> None:
    """A request with too many tokens would be computed to its end."""

    def too_many(_: Sequence[str]) -> None:
        raise RefusedError(400, "too many tokens")

    async def test(joiner: Joiner, computing: Computing) -> None:
        computing.goes.release(100)
        with pytest.raises(RefusedError, match="too many tokens"):
            await joiner.answers("a", ["1234567890", "1234567890", "1"], too_many)
        assert joiner.waiting_texts == 0

    assert len(in_a_loop(test).turns) == 1


def test_a_window_waits_for_others() -> None:
    """Questions that come within a moment would go through the models one by one."""

    async def test(joiner: Joiner, computing: Computing) -> None:
        tasks = await asked(joiner, computing, ("a", ["1"]), ("a", ["2"]), ("a", ["3"]))
        computing.goes.release(100)
        await asyncio.gather(*tasks)
        joined = asyncio.create_task(joiner.answers("a", ["4"]))
        await asyncio.sleep(0.01)
        full = asyncio.create_task(joiner.answers("a", ["567890"]))
        assert await asyncio.gather(joined, full) == [["4"], ["567890"]]

    limits = Limits(turn_characters=7, turns=1, window_seconds=60.0)
    turns = [texts for _, texts in in_a_loop(test, limits).turns]
    assert turns[-1] == ("4", "567890")


def test_two_turns_are_in_work() -> None:
    """A core would idle while the answers of the turn before are written."""

    async def test(joiner: Joiner, computing: Computing) -> None:
        tasks = await asked(joiner, computing, ("a", ["1"]), ("b", ["2"]))
        await asyncio.to_thread(computing.began.acquire)
        computing.goes.release(100)
        assert await asyncio.gather(*tasks) == [["1"], ["2"]]

    limits = Limits(turn_characters=5, turns=2)
    assert sorted(in_a_loop(test, limits).turns) == [("a", ("1",)), ("b", ("2",))]


def test_a_thread_that_ends_leaves_nobody_waiting() -> None:
    """A client would wait for ever for a thread that is no more."""

    def end(key: Any, texts: Sequence[str]) -> list[str]:
        raise SystemExit

    async def test() -> None:
        joiner = Joiner(end, LIMITS, 1, lambda *_: None)
        joiner.start()
        for _ in range(2):
            with pytest.raises(RefusedError, match="about to end"):
                await joiner.answers("a", ["1"])
        while joiner.is_alive:
            await asyncio.sleep(0)

    asyncio.run(test())


def test_a_text_at_fault_costs_the_others_a_few_turns() -> None:
    """One client with a text that no model takes would have all others computed one by one."""

    async def test(joiner: Joiner, computing: Computing) -> None:
        others = [("a", [str(number)]) for number in range(15)]
        tasks = await asked(joiner, computing, ("a", ["one"]), *others, ("a", ["bad"]))
        computing.goes.release(100)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(each) for each in found] == ["['ONE']", *(f"['{number}']" for number in range(15)), "no vector"]

    limits = Limits(turn_characters=100, window_seconds=0.0, turns=1)
    assert len(in_a_loop(test, limits).turns) == 1 + 1 + 2 * 4


def test_the_characters_that_wait_have_an_end() -> None:
    """A few texts may have more characters than the memory takes."""

    async def test(joiner: Joiner, computing: Computing) -> None:
        tasks = await asked(joiner, computing, ("a", ["1234567890"]), ("a", ["1234567890", "12345"]))
        with pytest.raises(RefusedError, match="as many texts waiting as it takes"):
            await joiner.answers("a", ["123456"])
        computing.goes.release(100)
        await asyncio.gather(*tasks)
        assert await joiner.answers("a", ["1" * 30]) == ["1" * 30]

    in_a_loop(test, Limits(turn_characters=10, waiting_characters=30, window_seconds=0.0, turns=1))
