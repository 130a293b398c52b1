"""What runs on a node: an actor that hosts one function of the engine, and carries small messages to it and from it.

Knows queues and threads, and nothing of the work. Imported on the nodes, so it imports no more than it needs.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

FAILED = "failed"
_LONELY_SECONDS = 60.0  # a worker whose coordinator asks no more has no run
_LONELY_EXIT = 70


class Channel:
    """The worker's end of the line to its coordinator."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def receive(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next message of the coordinator; None when `timeout` seconds are over."""
        with contextlib.suppress(queue.Empty):
            return self._inbox.get(timeout=timeout)
        return None

    def say(self, message: Mapping[str, Any]) -> None:
        """Give a message to the coordinator, which gets it when it asks next."""
        self._outbox.put(dict(message))

    def exchange(self, messages: Sequence[Mapping[str, Any]], wait_seconds: float) -> list[dict[str, Any]]:
        """The other end: hand messages in, and take what was said; waits for the first so many seconds."""
        for message in messages:
            self._inbox.put(dict(message))
        said: list[dict[str, Any] | None] = []
        with contextlib.suppress(queue.Empty):
            said.append(self._outbox.get(timeout=max(0.0, wait_seconds)))
            while True:
                said.append(self._outbox.get_nowait())
        return [message for message in said if message is not None]

    def nudge(self) -> None:
        """End the wait of the present exchange, or of the next one."""
        self._outbox.put(None)


class Host:
    """An actor with one piece of work, `module:function`, which it calls with a request and a channel.

    The work has a thread of its own, so that the actor answers while it computes. When it returns or raises, the actor
    stays until it is killed. It ends by itself when nobody has asked for a minute.
    """

    def __init__(self, work: str, request: Mapping[str, Any], lonely_seconds: float = _LONELY_SECONDS) -> None:
        _forget_the_thread_limit()
        self._channel = Channel()
        self._asked = 0
        self._lonely_seconds = lonely_seconds
        threading.Thread(target=self._end_when_lonely, name="soloist-lonely", daemon=True).start()
        threading.Thread(target=self._work, args=(work, dict(request)), name="soloist-work", daemon=True).start()

    def exchange(self, messages: Sequence[Mapping[str, Any]], wait_seconds: float) -> list[dict[str, Any]]:
        """Give messages to the work; what it has said since, after so many seconds at the latest."""
        self._asked += 1
        try:
            return self._channel.exchange(messages, wait_seconds)
        finally:
            self._asked += 1

    def nudge(self) -> None:
        """End the wait of an exchange: there is something to hand in."""
        self._channel.nudge()

    def _work(self, work: str, request: dict[str, Any]) -> None:
        try:
            _function(work)(request, self._channel)
        except BaseException as exc:  # the thread's end: the coordinator would wait for ever
            self._channel.say({
                "word": FAILED, "kind": type(exc).__name__, "message": str(exc) or type(exc).__name__,
                "notes": traceback.format_exception(exc)[-3:],
            })  # fmt: skip

    def _end_when_lonely(self) -> None:
        """Count the looks at which nobody has asked, and not the time: while a library is loaded, or a disk hangs, this
        process may stand still for minutes, and its coordinator waits.
        """
        pause, lonely, asked = min(1.0, self._lonely_seconds / 4), 0.0, self._asked
        while lonely < self._lonely_seconds:
            time.sleep(pause)
            lonely, asked = (lonely + pause if self._asked == asked else 0.0), self._asked
        os._exit(_LONELY_EXIT)


def _forget_the_thread_limit() -> None:
    """Ray lets an actor without processors compute on one thread; libraries read that when they are loaded.

    A limit with which the process was started is the user's, and stays.
    """
    with contextlib.suppress(OSError):  # not Linux
        began_with = Path("/proc/self/environ").read_bytes().split(b"\0")
        if not any(variable.startswith(b"OMP_NUM_THREADS=") for variable in began_with):
            os.environ.pop("OMP_NUM_THREADS", None)


def _function(work: str) -> Callable[[dict[str, Any], Channel], object]:
    module, _, name = work.partition(":")
    found: Callable[[dict[str, Any], Channel], object] = getattr(import_module(module), name)
    return found
