"""Workers of a cluster without their imports: each computes in a fork of the process that has imported torch.

The name of a planted worker is a name of this module too. The actor on the node hands messages on, both ways. Its fork
ends as soon as the actor does, even where that is killed, and an actor whose fork was killed ends by the same signal.
Who wants to kill what computes, and to measure what a start costs, names the planted worker itself.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import IO, Any

from support.forks import Forked

from soloist.cluster.host import Channel

_LOOK_SECONDS = 0.05
_LONELY_EXIT = 70


def __getattr__(name: str) -> Callable[[Mapping[str, Any], Channel], None]:
    """The planted worker of a name, in a fork."""
    if name.startswith("_"):
        raise AttributeError(name)
    return functools.partial(_hand_on, name)


def _hand_on(name: str, request: Mapping[str, Any], channel: Channel) -> None:
    """In the actor: be the line between the driving process and the fork."""
    command = [sys.executable, "-m", __name__, name]
    process = Forked(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    said = threading.Thread(target=_say_all, args=(process, channel), daemon=True)
    said.start()
    message: Mapping[str, Any] | None = request
    while said.is_alive():
        if message is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(message) + "\n")
                process.stdin.flush()
        message = channel.receive(_LOOK_SECONDS)


def _say_all(process: Forked, channel: Channel) -> None:
    for line in process.stdout:
        channel.say(json.loads(line))
    if process.wait() < 0:
        os.kill(os.getpid(), signal.SIGKILL)


class _Line:
    """The fork's end."""

    def __init__(self, spoken: IO[str]) -> None:
        self._inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._spoken = spoken
        self._lock = threading.Lock()

    def listen(self) -> None:
        """Take in each message until the actor has ended, and end with it."""
        for line in sys.stdin:
            self._inbox.put(json.loads(line))
        os._exit(_LONELY_EXIT)

    def receive(self, timeout: float | None = None) -> dict[str, Any] | None:
        with contextlib.suppress(queue.Empty):
            return self._inbox.get(timeout=timeout)
        return None

    def say(self, message: Mapping[str, Any]) -> None:
        with self._lock:
            self._spoken.write(json.dumps(dict(message)) + "\n")
            self._spoken.flush()


def _main() -> None:
    """In the fork: what libraries print goes to standard error, not between the messages."""
    spoken = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    line = _Line(spoken)
    listening = threading.Thread(target=line.listen, daemon=True)
    listening.start()
    request = line.receive()
    assert request is not None
    getattr(import_module("support.planted_workers"), sys.argv[1])(request, line)
    listening.join()


if __name__ == "__main__":
    _main()
