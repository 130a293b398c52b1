"""When the worker of a node counts as hung, and when a node has lost too many of them."""

from __future__ import annotations

import itertools
import threading

import pytest

from soloist.engine.drivers.cluster.patience import Ends, Patience
from soloist.engine.drivers.cluster.signs import Done, done_so_far, gets_on, telling

MIB = 1 << 20


def test_patience_follows_from_the_slowest_shard():
    """Catches a slow model that counts as hung, and a hung worker of a fast one that is waited for."""
    seconds = Patience().with_a_shard
    assert seconds(None) >= 600
    assert seconds(0.01) == 60
    assert seconds(100.0) == 1000
    assert seconds(0.01, is_first=True) == 300


@pytest.mark.parametrize(
    ("moved_bytes", "processor_seconds", "expected"),
    [
        (0, 0.1, False),
        (MIB, 0.1, False),
        (5 * MIB, 0.1, True),
        (0, 2.5, True),
    ],
    ids=["hangs", "writes its log", "downloads slowly", "computes on a busy machine"],
)
def test_a_process_that_waits_is_told_from_one_that_gets_on(moved_bytes, processor_seconds, expected):
    """Catches a slow download or a cold disk that counts as hung, and a hung one whose other threads hide it."""
    told = before = Done(moved_bytes=100 * MIB, processor_seconds=10.0)
    now = Done(moved_bytes=100 * MIB + moved_bytes, processor_seconds=10.0 + processor_seconds)
    assert gets_on(told, before, now, 5.0) is expected


def test_bytes_of_many_looks_add_up():
    """Catches a download of 100 kB a second that counts as hung, because no single look sees much of it."""
    told = Done(moved_bytes=0, processor_seconds=0.0)
    looks = [Done(moved_bytes=number * MIB // 2, processor_seconds=number * 0.1) for number in range(12)]
    assert any(gets_on(told, before, now, 5.0) for before, now in itertools.pairwise(looks))


def test_who_reads_says_so(tmp_path):
    """Catches a worker that reads its models for an hour and says nothing."""
    (tmp_path / "weights").write_bytes(bytes(MIB))
    said, before = threading.Event(), done_so_far()
    with telling(said.set, look_seconds=0.01):
        while not said.wait(0.01):
            (tmp_path / "weights").read_bytes()
    assert done_so_far().moved_bytes >= before.moved_bytes + 4 * MIB


def test_a_node_has_lost_too_many_workers_only_without_a_shard_between():
    """Catches a node that is given up for what happens once a day, and one that fails for ever."""
    ends = Ends()
    for _ in range(9):
        assert not ends.too_many("node-1", "was killed", has_computed=True)
    assert not ends.too_many("node-2", "was killed", has_computed=False)
    assert not ends.too_many("node-1", "was killed", has_computed=False)
    assert ends.too_many("node-1", "was killed", has_computed=False) == (
        "has lost 3 workers and computed no shard in between (the last time was killed): look at the memory and the "
        "devices of this node, and in Ray's logs there (by default /tmp/ray/session_latest/logs)"
    )
