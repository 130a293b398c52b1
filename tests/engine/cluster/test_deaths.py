"""Workers, nodes and drivers that die, hang or differ: what is done about it, and what is said."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import threading
from collections import Counter

import pytest
from support import planted_workers
from support.node_processes import none_left, workers_of
from support.same_files import require_same_files

from soloist.engine import run
from soloist.engine.drivers import passes
from soloist.engine.drivers.cluster import coordinator
from soloist.engine.drivers.cluster.patience import Patience
from soloist.errors import EncodingError, RunStoppedError
from soloist.events import LeaseAcquired, LeaseReleased, ListSink, Notice, ShardEncoded
from soloist.stores.status import run_status


def notices_about(sink: ListSink, node: str) -> list[str]:
    notices = [event.message for event in sink.events if isinstance(event, Notice) and event.about == "cluster"]
    return [message for message in notices if node in message]


def who_computed(sink: ListSink) -> Counter[str]:
    """Rows by node."""
    rows: Counter[str] = Counter()
    for event in sink.events:
        if isinstance(event, ShardEncoded):
            rows.update({device.split("/")[0]: count for device, count in event.rows_per_device.items()})
    return rows


def test_a_worker_and_a_node_that_are_killed(on_nodes, local, nodes, planted):
    """Catches shards that are lost with whoever had them, and a status that does not name the nodes at work."""
    planted("slow")
    at_work, out = [], on_nodes().out
    steps = {
        2: lambda: at_work.append(run_status(out).nodes),
        4: lambda: os.kill(workers_of(nodes, "node-1")[0], signal.SIGKILL),
        8: lambda: nodes.kill("node-2"),
    }
    done, sink = [], ListSink()

    def count(event) -> None:
        if isinstance(event, ShardEncoded) and event.rows_per_device:
            done.append(event)
            steps.pop(len(done), lambda: None)()

    try:
        run(on_nodes(), sink, count)
    finally:
        nodes.start("node-2")
    require_same_files(out, local.out)
    (names,) = at_work
    assert names
    assert {*names} <= {"node-1", "node-2", "node-3"}
    assert any("has ended" in message for message in notices_about(sink, "node-1"))
    assert any("has ended" in message for message in notices_about(sink, "node-2"))
    shards = Counter((e.model, e.collection, e.shard) for e in sink.events if isinstance(e, ShardEncoded))
    assert set(shards.values()) == {1}


@pytest.mark.parametrize(
    ("fault", "changes", "sentence"),
    [
        ("without_the_folder", {}, "node-2 does not see the files that this command writes to"),
        ("other_catalogue", {}, "node-2 has other files of bert"),
        (
            "other_card",
            {"accelerator": "simulated:1xT4"},
            "node-2 has the card L4 and the command's machine has the card T4",
        ),
    ],
)
def test_a_node_that_differs_takes_no_part(fault, changes, sentence, on_nodes, planted, root, tiny_models):
    """Catches rows of a node that would be other rows, or would be lost."""
    (root / "other-revision.toml").write_text(f"[models.bert]\nsource = '{tiny_models['xlm-roberta']}'\n")
    planted(fault)
    sink = ListSink()
    run(on_nodes(models=("bert",), fusion="none", **changes), sink)
    (notice,) = notices_about(sink, planted_workers.NODE)
    assert notice.startswith(sentence) and notice.endswith("This node takes no part in the run.")
    assert planted_workers.NODE not in who_computed(sink)


@pytest.fixture
def given_up_after(monkeypatch):
    """Give hung workers up after so many seconds."""

    def plant(**seconds) -> None:
        patient = functools.partial(coordinator.Coordinator, patience=Patience(**seconds))
        monkeypatch.setattr(passes, "Coordinator", patient)

    return plant


def test_a_hung_worker_is_given_up(on_nodes, planted, local, given_up_after):
    """Catches a run that waits for ever, and a shard that is never computed."""
    planted("hung")
    given_up_after(least_seconds=2.0)
    sink = ListSink()
    run(on_nodes(models=("bert",), fusion="none"), sink)
    assert any("no progress" in message for message in notices_about(sink, planted_workers.NODE))


def others_go_on(out, begin: str, end: str):
    """A sink: the workers of other nodes go on once it is told of node-2 what begins and ends so."""

    def hear(event) -> None:
        if isinstance(event, Notice) and event.message.startswith(begin) and event.message.endswith(end):
            (next((out / ".attempts").iterdir()) / planted_workers.TOLD).touch()

    return hear


def test_a_node_that_hangs_while_it_stages_is_given_up(on_nodes, planted, given_up_after):
    """Catches a node that is waited for without end, and without a word, because its disk or its network hangs."""
    planted("hung_staging")
    given_up_after(staging_seconds=6.0)
    sink, config = ListSink(), on_nodes(models=("bert",), fusion="none")
    run(config, sink, others_go_on(config.out, "the worker on node-2 read and computed nothing", "soloist ended it"))
    told = " ".join(notices_about(sink, planted_workers.NODE))
    assert "node-2 stages the models, and has read and computed nothing for 1 s: look at the disk and the" in told
    assert "node-2 read and computed nothing for 6 s while it staged, so soloist ended it" in told
    assert {*who_computed(sink)} == {"node-1", "node-3"}


def test_a_node_whose_workers_always_fail_is_given_up(on_nodes, planted, monkeypatch):
    """Catches a node that loads its models again and again, each time to fail at its first shard."""
    planted("broken")
    monkeypatch.setattr(coordinator, "_PAUSE_SECONDS", 0.1)
    sink, config = ListSink(), on_nodes(models=("bert",), fusion="none")
    run(config, sink, others_go_on(config.out, "node-2 has lost", "takes no part in the run."))
    *lost, last = notices_about(sink, planted_workers.NODE)
    assert len(lost) == 3
    assert all(notice.startswith("the worker on node-2 failed. unexpected RuntimeError (no card)") for notice in lost)
    assert last.startswith(
        "node-2 has lost 3 workers and computed no shard in between (the last time the worker on node-2 failed."
    )
    assert f"cluster: {last}" in json.loads((config.out / "run.json").read_text())["notices"]
    assert {*who_computed(sink)} == {"node-1", "node-3"}


def test_a_straggler_replaces_nothing(on_nodes, planted, local):
    """Catches a tail of more than one shard, and a slow worker whose shards are computed twice."""
    planted("slow")
    sink = ListSink()
    run(on_nodes(), sink)
    require_same_files(on_nodes().out, local.out)
    rows = who_computed(sink)
    assert 0 < rows[planted_workers.NODE] < min(rows["node-1"], rows["node-3"])


def test_a_poison_shard_names_its_chunks(on_nodes, planted):
    """Catches a run that ends one worker after the other."""
    planted("poisoned")
    with pytest.raises(EncodingError, match="shard 5 of alpha, which has the chunks 'alpha-0040' to 'alpha-0047'"):
        run(on_nodes(models=("bert",), fusion="none"))


def test_a_full_disk_on_one_node(on_nodes, planted, monkeypatch):
    """Catches a run that one node ends, and a notice that does not say where the disk is full."""
    planted("full_disk")
    monkeypatch.setattr(coordinator, "_PAUSE_SECONDS", 0.1)
    sink, config = ListSink(), on_nodes(models=("bert",), fusion="none")
    run(config, sink, others_go_on(config.out, "node-2 has lost", "takes no part in the run."))
    told = notices_about(sink, planted_workers.NODE)
    assert re.match(r"the worker on node-2 failed\. cannot write .*: No space left on device: free some space", told[0])
    assert {*who_computed(sink)} == {"node-1", "node-3"}


def test_a_stop_keeps_what_is_in_work_and_leaves_nothing(on_nodes, local, nodes, planted):
    """Catches shards in work that are thrown away, and workers or leases that live on."""
    planted("together")
    sink, pressed = ListSink(), threading.Event()

    def press(event) -> None:
        if isinstance(event, ShardEncoded) and event.rows_per_device and not pressed.is_set():
            pressed.set()
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(RunStoppedError, match=r"stopped by Ctrl-C"):
        run(on_nodes(), sink, press)
    ends = [sum(isinstance(event, kind) for event in sink.events) for kind in (LeaseAcquired, LeaseReleased)]
    assert ends == [3, 3]
    assert not (on_nodes().out / ".attempts").exists()
    assert none_left(nodes, ("node-1", "node-2", "node-3"))
    run(on_nodes(cluster=None), sink)
    require_same_files(on_nodes().out, local.out)
    shards = Counter((e.model, e.collection, e.shard) for e in sink.events if isinstance(e, ShardEncoded))
    assert set(shards.values()) == {1}


def test_the_last_node_ends_the_run_as_a_stop(on_nodes, nodes):
    """Catches a run that waits for nodes for ever."""

    left = ["node-1", "node-2", "node-3"]

    def end(event) -> None:
        while left and isinstance(event, ShardEncoded) and event.rows_per_device:
            nodes.kill(left.pop())

    try:
        with pytest.raises(RunStoppedError, match="no node of the cluster is left"):
            run(on_nodes(), end)
    finally:
        for name in ("node-1", "node-2", "node-3"):
            nodes.start(name)
