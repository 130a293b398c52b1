"""A worker on a node: messages go both ways while it computes, and it does not outlive its coordinator."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import pytest
from support.cluster_work import ECHO, FAIL, SLEEP, STAND_STILL

from soloist.cluster.host import Host

NEVER = math.inf  # this process is not to end when a test has ended


def test_messages_go_both_ways_in_their_order() -> None:
    """A shard would be lost between two calls, or two would change places."""
    host = Host(ECHO, {"node": "node-1"}, NEVER)
    (hello,) = host.exchange([], 60)
    assert (hello["word"], hello["request"]) == ("hello", {"node": "node-1"})
    said = host.exchange([{"shard": number} for number in range(3)], 60)
    while len(said) < 3:
        said += host.exchange([], 60)
    assert said == [{"word": "echo", "of": {"shard": number}} for number in range(3)]


def test_who_asks_waits_no_longer_than_asked() -> None:
    """A coordinator that looks for a stop would be held up until the worker has something to say."""
    host = Host(SLEEP, {}, NEVER)
    assert host.exchange([], 60) == [{"word": "ready"}]
    assert host.exchange([{"seconds": 0.5, "number": 1}], 0) == []
    assert host.exchange([], 60) == [{"word": "done", "of": 1}]


def test_work_that_fails_says_how() -> None:
    """The coordinator would wait for ever for a worker whose thread has ended."""
    (failed,) = Host(FAIL, {"message": "no such model"}, NEVER).exchange([], 60)
    assert (failed["word"], failed["kind"], failed["message"]) == ("failed", "ValueError", "no such model")
    assert "no such model" in failed["notes"][-1]


def test_work_that_is_not_there_says_so() -> None:
    """A node with another version of soloist would only be silent."""
    (failed,) = Host("soloist.no_such_module:work", {}, NEVER).exchange([], 60)
    assert (failed["word"], failed["kind"]) == ("failed", "ModuleNotFoundError")


@pytest.mark.process
def test_a_worker_ends_when_nobody_asks_any_more() -> None:
    """A worker whose coordinator was lost would keep the devices of its node for ever, and write on."""
    code = f"from soloist.cluster.host import Host; import time; Host({SLEEP!r}, {{}}, 0.3); time.sleep(600)"
    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, timeout=60)
    assert (ended.returncode, time.monotonic() - began < 60) == (70, True)


_ASKED = f"""
from soloist.cluster.host import Host
host, said = Host({STAND_STILL!r}, {{}}, 0.6), []
while not said:
    said = host.exchange([], 0.01)
"""


@pytest.mark.process
def test_a_worker_that_stands_still_for_longer_lives_on() -> None:
    """A worker that loads large libraries from a cold disk would end itself, three times, and its node be refused."""
    ended = subprocess.run([sys.executable, "-c", _ASKED], env={"PYTHONPATH": ":".join(sys.path)}, timeout=60)
    assert ended.returncode == 0
