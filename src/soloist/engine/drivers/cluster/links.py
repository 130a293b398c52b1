"""A worker as the driving process sees it: messages to it and from it, and what it is doing.

A thread carries the messages, so that a worker that does not answer delays nobody else. It goes on to ask while the
caller's thread is busy, because a worker that nobody asks ends itself.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from soloist.cluster.nodes import Node
from soloist.cluster.session import NodeWorker, WorkerGoneError
from soloist.engine.drivers.cluster.facts import NodeFacts
from soloist.engine.drivers.cluster.shard_queue import GivenShard

# Whoever has something to send ends the wait. Each exchange takes a part of a millisecond of this process's one thread.
_WAIT_SECONDS = 2.0
_POLL_SECONDS = 1.0  # where the run's thread is busy, and a worker has said something
State = Literal["staging", "waiting", "computing", "passed", "gone"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Heard:
    """What a worker has said. Its thread hands on nothing more before `taken` is set. `gone` is how it ended."""

    link: Link
    messages: tuple[Mapping[str, Any], ...] = ()
    gone: str = ""
    taken: threading.Event = field(default_factory=threading.Event)


class Link:
    """A worker on a node, and its thread. All but the thread's own work is done by the caller's thread.

    `state` is `staging` until its models are staged, `waiting` for a pass or a shard, `computing` while it has shards
    and its lease, and `passed` when its part of the pass is over. `given` are the shards that it has, in order.
    `is_leased` and `is_waiting` say whether it holds the devices of its node, or waits for another process that does.
    `has_computed` says whether it has ever computed a shard, `is_named_silent` whether its present silence was told.
    """

    def __init__(self, worker: NodeWorker, inbox: queue.SimpleQueue[Heard]) -> None:
        self.worker = worker
        self.state: State = "staging"
        self.given: list[GivenShard] = []
        self.facts: NodeFacts | None = None
        self.is_leased = False
        self.is_waiting = False
        self.has_computed = False
        self.is_named_silent = False
        self.last_sign = time.monotonic()
        self._has_unheard = False
        self._inbox = inbox
        self._outgoing: list[Mapping[str, Any]] = []
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._carry, name=f"soloist-{self.node.name}", daemon=True)
        self._thread.start()

    @property
    def node(self) -> Node:
        """Where the worker is."""
        return self.worker.node

    @property
    def is_ready(self) -> bool:
        """Whether the worker can take part in a pass."""
        return self.facts is not None and self.state != "gone"

    @property
    def silent_seconds(self) -> float:
        """How long the worker has shown no progress; 0 where it has said what the caller has not heard yet."""
        return 0.0 if self._has_unheard else time.monotonic() - self.last_sign

    def send(self, word: str, **more: Any) -> None:
        """Have a message carried to the worker."""
        with self._lock:
            is_first = not self._outgoing
            self._outgoing.append({"word": word, **more})
        if is_first:
            self.worker.nudge()

    def signed(self) -> None:
        """Take note of a sign of progress."""
        self.last_sign = time.monotonic()

    def close(self) -> None:
        """Carry no more messages."""
        self._is_closed.set()

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended, which it does soon after `close` and the end of the worker."""
        self._thread.join(max(0.0, seconds))

    def _carry(self) -> None:
        """The work of the thread."""
        said: list[Mapping[str, Any]] = []
        try:
            while not self._is_closed.is_set():
                said = [*said, *self._exchanged(0.0 if said else _WAIT_SECONDS)]
                if said:
                    heard, said = Heard(link=self, messages=tuple(said)), []
                    self._inbox.put(heard)
                    while not heard.taken.wait(_POLL_SECONDS) and not self._is_closed.is_set():
                        said += self._exchanged(0.0)
                self._has_unheard = bool(said)
        except WorkerGoneError as exc:
            self._inbox.put(
                Heard(link=self, messages=tuple(said), gone=str(exc) or f"the worker on {self.node.name} is gone")
            )
        except Exception as exc:  # a fault of the transport must not leave the caller waiting
            self._inbox.put(Heard(link=self, messages=tuple(said), gone=f"{self.node.name} cannot be asked ({exc!r})"))

    def _exchanged(self, wait_seconds: float) -> list[dict[str, Any]]:
        """Carry what there is to carry; what the worker has said, which is a sign of progress."""
        with self._lock:
            outgoing, self._outgoing = self._outgoing, []
        said = self.worker.exchange(outgoing, wait_seconds)
        if said:
            self._has_unheard = True
            self.signed()
        return said
