"""Questions that come together go through the models together. Pure: texts in, answers out; knows no model and no HTTP.

Two threads take turns. While they are at work, requests wait in a queue. The next turn takes the texts of the oldest
request, and with them those of all waiting requests that ask for the same, up to a number of characters. So an answer
has to follow from its text alone. A request whose client has gone leaves the queue.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from soloist.serving.limits import Limits
from soloist.serving.refusals import ending, overloaded
from soloist.workers import INTERRUPTIBLE

Compute = Callable[[Any, Sequence[str]], Sequence[Any]]  # what is asked and texts in, an answer for each text out
_SEEN_SECONDS, _SEEN_TURNS = 10.0, 1_000  # whose rate is that of the server


@dataclass(slots=True, kw_only=True, eq=False)
class _Waiting:
    """The texts of a request that go through a model in one turn."""

    key: Hashable
    texts: Sequence[str]
    characters: int
    answer: asyncio.Future[Sequence[Any]]
    came: float = field(default_factory=time.monotonic)


class Joiner:
    """The queue and its threads. `answers` is called in an event loop."""

    def __init__(self, compute: Compute, limits: Limits, cores: int, told: Callable[[Any, int, float], None]) -> None:
        """`told` hears of each turn: what was asked, how many texts there were, and the seconds that it took."""
        self._compute = compute
        self._limits = limits
        self._turn_characters = limits.turn_characters * cores
        self._told = told
        self._changed = threading.Condition()
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._admitted = 0
        self._admitted_characters = 0
        self._is_closed = False
        self._idle = 0  # threads
        self._others_come = False
        self._turns: collections.deque[tuple[float, int]] = collections.deque(maxlen=_SEEN_TURNS)
        self._threads = [
            threading.Thread(target=self._work, name=INTERRUPTIBLE, daemon=True) for _ in range(limits.turns)
        ]

    @property
    def waiting_texts(self) -> int:
        """The texts that are not answered yet."""
        return self._admitted

    @property
    def is_alive(self) -> bool:
        """Whether the threads work."""
        return all(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Take no more texts. The threads end once the queue is empty."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def join(self) -> None:
        """Return once the threads have ended, after `close`."""
        for thread in self._threads:
            thread.join()

    async def answers(
        self, key: Hashable, texts: Sequence[str], check: Callable[[Sequence[Any]], None] = lambda _: None
    ) -> list[Any]:
        """The answers to the texts, in their order. A long list goes through the queue piece by piece.

        `check` is called with the answers of each piece. Where it raises, the rest is not computed.

        Raises:
            RefusedError: the queue is full, or the server is about to end.
            Exception: what computing raised for these texts.
        """
        left, left_characters = len(texts), sum(map(len, texts))
        if (
            self._admitted + left > self._limits.waiting_texts
            or self._admitted_characters + left_characters > self._limits.waiting_characters
        ):
            raise overloaded(self._admitted / self._rate())
        self._admitted += left
        self._admitted_characters += left_characters
        found: list[Any] = []
        try:
            for piece in _cut(texts, self._turn_characters):
                found.extend(await self.answers_in_one_turn(key, piece))
                characters = sum(map(len, piece))
                self._admitted -= len(piece)
                self._admitted_characters -= characters
                left, left_characters = left - len(piece), left_characters - characters
                check(found[-len(piece) :])
        finally:
            self._admitted -= left
            self._admitted_characters -= left_characters
        return found

    async def answers_in_one_turn(self, key: Hashable, texts: Sequence[str]) -> Sequence[Any]:
        """As `answers`, in one piece. The texts do not count as waiting."""
        waiting = _Waiting(
            key=key, texts=texts, characters=sum(map(len, texts)), answer=asyncio.get_running_loop().create_future()
        )
        with self._changed:
            if self._is_closed or not self.is_alive:
                raise ending()
            self._waiting.append(waiting)
            if self._idle or self._is_full():  # else a thread looks by itself, at the end of a turn or a window
                self._changed.notify()
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            with self._changed:
                if waiting in self._waiting:
                    self._waiting.remove(waiting)
            raise

    def _rate(self) -> float:
        """Texts a second, lately."""
        since = time.monotonic() - _SEEN_SECONDS
        return max(1.0, sum(texts for ended, texts in list(self._turns) if ended > since) / _SEEN_SECONDS)

    def _work(self) -> None:
        turn: list[_Waiting] = []
        try:
            while turn := self._next_turn():
                self._others_come = len(turn) > 1
                began = time.monotonic()
                results = self._results(turn)
                ended = time.monotonic()
                texts = sum(len(each.texts) for each in turn)
                self._turns.append((ended, texts))
                self._told(turn[0].key, texts, ended - began)
                _answer(turn, results)
                del turn, results  # an idle server keeps no text
                turn = []
        except SystemExit:  # something ended the thread
            pass
        finally:
            with self._changed:
                self._is_closed = True
                self._changed.notify_all()
                left = [*turn, *self._waiting]
                self._waiting.clear()
            _answer(left, [ending() for _ in left])

    def _next_turn(self) -> list[_Waiting]:
        """The requests of the next turn; none where the queue is closed and empty."""
        with self._changed:
            while True:
                while not self._waiting and not self._is_closed:
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1
                if self._others_come and self._waiting:
                    self._wait_for_others(self._waiting[0].came + self._limits.window_seconds)
                if self._waiting:
                    return self._taken()
                if self._is_closed:
                    return []

    def _wait_for_others(self, until: float) -> None:
        while not self._is_full() and not self._is_closed and (left := until - time.monotonic()) > 0:
            self._changed.wait(left)

    def _is_full(self) -> bool:
        return sum(each.characters for each in self._waiting) >= self._turn_characters

    def _taken(self) -> list[_Waiting]:
        turn = [self._waiting.popleft()]
        room = self._turn_characters - turn[0].characters
        for each in [each for each in self._waiting if each.key == turn[0].key]:
            if each.characters > room:
                break
            self._waiting.remove(each)
            turn.append(each)
            room -= each.characters
        return turn

    def _results(self, turn: Sequence[_Waiting]) -> list[Any]:
        """For each request its answers, or what was raised. One request's fault is not another's."""
        try:
            answers = self._compute(turn[0].key, [text for each in turn for text in each.texts])
        except Exception as exc:
            if len(turn) == 1:
                return [exc]
            half = len(turn) // 2  # so one text at fault costs the others a few turns, not a turn each
            return [*self._results(turn[:half]), *self._results(turn[half:])]
        ends = itertools.accumulate(len(each.texts) for each in turn)
        return [answers[end - len(each.texts) : end] for each, end in zip(turn, ends, strict=True)]


def _cut(texts: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """Pieces of up to so many characters, or of one longer text."""
    start, characters = 0, 0
    for end, text in enumerate(texts):
        if end > start and characters + len(text) > most:
            yield texts[start:end]
            start, characters = end, 0
        characters += len(text)
    yield texts[start:]


def _answer(turn: Sequence[_Waiting], results: Sequence[Any]) -> None:
    """Hand over all results of a turn in one call of their event loop."""
    for loop in {each.answer.get_loop() for each in turn}:
        pairs = [pair for pair in zip(turn, results, strict=True) if pair[0].answer.get_loop() is loop]
        if not loop.is_closed():
            loop.call_soon_threadsafe(_set, pairs)


def _set(pairs: Sequence[tuple[_Waiting, Any]]) -> None:
    for waiting, result in pairs:
        if waiting.answer.done():  # its client has gone
            continue
        if isinstance(result, Exception):
            waiting.answer.set_exception(result)
        else:
            waiting.answer.set_result(result)
