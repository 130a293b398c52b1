"""The thread that carries messages to a worker of a cluster. The workers are in this process, without Ray."""

from __future__ import annotations

import queue

from support.workers_here import WorkerHere

from soloist.engine.drivers.cluster import links
from soloist.engine.drivers.cluster.links import Link

PATIENCE_SECONDS = 60


def test_a_worker_is_asked_also_while_nobody_hears_what_it_said():
    """Catches healthy workers that end themselves or count as hung, because the run's own thread reads files."""
    worker, inbox = WorkerHere("node-1"), queue.SimpleQueue()
    link = Link(worker, inbox)
    try:
        worker.channel.say({"word": "first"})
        heard = inbox.get(timeout=PATIENCE_SECONDS)
        for said in ("second", "third"):
            worker.channel.say({"word": said})
            worker.asked.clear()
            assert worker.asked.wait(PATIENCE_SECONDS)
        link.last_sign -= 3600
        assert link.silent_seconds == 0
        link.send("shard")
        words = []
        while True:
            words += [message["word"] for message in heard.messages]
            heard.taken.set()
            if len(words) == 3:
                break
            heard = inbox.get(timeout=PATIENCE_SECONDS)
        assert words == ["first", "second", "third"]
        assert worker.channel.receive(PATIENCE_SECONDS) == {"word": "shard"}
    finally:
        link.close()


def test_a_message_ends_the_wait_for_a_silent_worker(monkeypatch):
    """Catches a stop or a shard that reaches a worker only after the wait for its next word."""
    monkeypatch.setattr(links, "_WAIT_SECONDS", 3600.0)
    worker = WorkerHere("node-1")
    link = Link(worker, queue.SimpleQueue())
    for word in ("shard", "stop"):
        link.send(word)
        assert worker.channel.receive(PATIENCE_SECONDS) == {"word": word}
    link.close()
    worker.nudge()
    link.join(PATIENCE_SECONDS)
