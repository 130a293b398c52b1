"""Workers of a cluster in this process, behind real links: for tests of what the driving process does, without Ray."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from soloist.cluster.host import Channel
from soloist.cluster.nodes import Node
from soloist.cluster.session import NodeWorker
from soloist.engine.drivers.cluster.facts import NodeFacts
from soloist.engine.drivers.cluster.links import Heard, Link

FACTS = NodeFacts(fingerprints={}, dtypes={}, matmuls={}, limits={}, kind="cpu", card="", devices=("cpu",), versions={})
Answer = Callable[[Mapping[str, Any]], Sequence[Mapping[str, Any]]]


class WorkerHere:
    """A worker whose `answer` says what it says to each message. It sets `asked` whenever it has been asked."""

    def __init__(self, node: str, answer: Answer = lambda message: ()) -> None:
        self.node = Node(id=node, name=node, host="here", cpus=1, gpus=0)
        self.channel = Channel()
        self.asked = threading.Event()
        self._answer = answer
        self._to_answer: list[Mapping[str, Any]] = []

    def exchange(self, messages: Sequence[Mapping[str, Any]], wait_seconds: float) -> list[dict[str, Any]]:
        """See `NodeWorker`."""
        self._to_answer += messages
        if self._to_answer:  # one shard at a time, as on a node
            for answer in self._answer(self._to_answer.pop(0)):
                self.channel.say(answer)
        said = self.channel.exchange(messages, wait_seconds)
        self.asked.set()
        return said

    def nudge(self) -> None:
        """See `NodeWorker`."""
        self.channel.nudge()

    def kill(self) -> None:
        """Nothing is there to end."""


class WorkersHere:
    """The workers of a pass, by the names of their nodes. A node whose worker has ended gets another one at once."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self._answers = answers
        self._inbox: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        self.links: list[Link] = []
        self.forgotten: list[str] = []
        self.ends: list[str | None] = []
        self.refused: dict[str, str] = {}
        for node in answers:
            self._start(node)

    def look_for_nodes(self) -> None:
        """All nodes have a worker."""

    def hear(self, seconds: float) -> list[tuple[Link, Mapping[str, Any]]]:
        """What they have said, for which this waits."""
        try:
            heard = self._inbox.get(timeout=seconds)
        except queue.Empty:
            return []
        if heard.link.state == "gone":
            heard.taken.set()
            return []
        said: list[tuple[Link, Mapping[str, Any]]] = [(heard.link, message) for message in heard.messages]
        if heard.gone:
            said.append((heard.link, {"word": "gone", "how": heard.gone}))
        return [*said, (heard.link, {"word": "heard", "taken": heard.taken})]

    def forget(self, link: Link, why: str = "", *, end: str | None = None) -> None:
        """Start another worker on the node, unless it takes no part any more."""
        self.forgotten.append(link.node.name)
        self.ends.append(end)
        link.state = "gone"
        link.close()
        self.links.remove(link)
        if why:
            self.refused[link.node.name] = why
        else:
            self._start(link.node.name)

    def lease_timeout_seconds(self) -> float | None:
        """There is no bound."""
        return None

    def close(self) -> None:
        """End the threads of all links."""
        for link in self.links:
            link.close()

    def _start(self, node: str) -> None:
        link = Link(cast(NodeWorker, WorkerHere(node, self._answers[node])), self._inbox)
        link.facts, link.state = FACTS, "waiting"
        self.links.append(link)
