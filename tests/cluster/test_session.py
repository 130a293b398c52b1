"""A session with a real Ray cluster of two node processes: workers, their deaths, and an end without traces."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.cluster_work import ECHO, SLEEP

pytest.importorskip("ray", reason="Ray is not installed: pip install 'soloist[ray]'")

from soloist.child_processes import SAFE_PATH
from soloist.cluster.address import ClusterAddress
from soloist.cluster.keeper import keeper_command
from soloist.cluster.local_nodes import LocalNodes, listening_addresses
from soloist.cluster.session import ClusterSession, NodeWorker, WorkerGoneError
from soloist.errors import ConfigError

pytestmark = pytest.mark.process
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalNodes]:
    """Two nodes for all tests of this file."""
    with LocalNodes(2, use_gpus=False) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def session(cluster: LocalNodes) -> Iterator[ClusterSession]:
    """This process, joined."""
    with ClusterSession(ClusterAddress.parse(cluster.address)) as joined:
        yield joined


def awaited(condition: Callable[[], Any]) -> Any:
    """What a condition gives as soon as it is true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return value


def lives(pid: int) -> bool:
    """Whether a process runs. One that has ended keeps its number until its parent, or process 1, asks for it."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def first_words(worker: NodeWorker) -> dict[str, Any]:
    """What a worker says first."""
    said: list[dict[str, Any]] = []
    while not said:
        said = worker.exchange([], 5)
    return said[0]


def test_the_nodes_are_those_that_were_started(cluster: LocalNodes, session: ClusterSession) -> None:
    """The head would be given work, or two nodes would share one lock folder and wait for each other."""
    nodes = session.nodes()
    assert [node.name for node in nodes] == ["node-1", "node-2"]
    assert {(node.host, node.gpus) for node in nodes} == {(socket.gethostname(), 0)}
    assert all(node.threads == node.cpus >= 1 for node in nodes)
    assert len({node.lock_dir for node in nodes}) == 2


def test_all_ports_are_on_the_loopback_device(cluster: LocalNodes, session: ClusterSession) -> None:
    """Whoever reaches a port of Ray runs code here: no other machine may."""
    pids = [pid for name in ("head", "node-1", "node-2") for pid in cluster.pids(name)]
    listening = {
        (psutil.Process(pid).name(), address) for pid in pids for address, _ in listening_addresses(psutil.Process(pid))
    }
    assert len(pids) >= 6
    assert listening
    assert {address for _, address in listening} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, listening


def test_a_worker_computes_on_its_node(cluster: LocalNodes, session: ClusterSession) -> None:
    """Two workers would share a node while the other node has nothing to do."""
    workers = [session.start_worker(node, ECHO, {"for": node.name}) for node in session.nodes()]
    for worker in workers:
        hello = first_words(worker)
        assert hello["request"] == {"for": worker.node.name}
        assert hello["pid"] in cluster.pids(worker.node.name)
        assert hello["OMP_NUM_THREADS"] == os.environ.get("OMP_NUM_THREADS")
        assert worker.exchange([{"n": 1}], 60) == [{"word": "echo", "of": {"n": 1}}]
        worker.kill()


def test_a_worker_that_is_killed_is_noticed_and_replaced(session: ClusterSession) -> None:
    """The shards of a dead worker would be waited for, or its node would be lost with it."""
    node = session.nodes()[0]
    worker = session.start_worker(node, ECHO, {})
    os.kill(first_words(worker)["pid"], signal.SIGKILL)
    with pytest.raises(WorkerGoneError, match=r"^the worker process on node-1 has ended$"):
        while True:
            worker.exchange([], 5)
    other = session.start_worker(node, ECHO, {})
    assert first_words(other)["word"] == "hello"
    other.kill()


def test_a_worker_that_is_waited_for_can_be_ended(session: ClusterSession) -> None:
    """A worker that hangs could not be given up: who waits for it would wait on."""
    worker = session.start_worker(session.nodes()[0], SLEEP, {})
    assert first_words(worker) == {"word": "ready"}
    threading.Timer(0.5, worker.kill).start()
    with pytest.raises(WorkerGoneError, match="node-1"):
        worker.exchange([], 600)
    worker.kill()  # once more does no harm


def test_a_worker_with_a_wrong_request_says_so(session: ClusterSession) -> None:
    """A fault of the work would look like the death of a node."""
    worker = session.start_worker(session.nodes()[0], "support.cluster_work:nothing", {})
    failed = first_words(worker)
    assert (failed["word"], failed["kind"]) == ("failed", "AttributeError")
    worker.kill()


def test_a_node_that_is_lost_is_noticed_and_comes_back_under_its_name(
    cluster: LocalNodes, session: ClusterSession
) -> None:
    """A lost node would get shards, or one that came back would have nothing to do."""
    before = session.nodes()[1]
    worker = session.start_worker(before, ECHO, {})
    assert first_words(worker)["word"] == "hello"
    pids = cluster.pids("node-2")
    cluster.kill("node-2")
    assert not any(map(lives, pids))
    with pytest.raises(WorkerGoneError, match="node-2"):
        while True:
            worker.exchange([], 5)
    awaited(lambda: [node.name for node in session.nodes()] == ["node-1"])
    cluster.start("node-2")
    after = awaited(lambda: session.nodes()[1:])[0]
    assert (after.name, after.lock_dir) == (before.name, before.lock_dir)
    assert after.id != before.id
    worker = session.start_worker(after, ECHO, {})
    assert first_words(worker)["word"] == "hello"
    worker.kill()


def test_the_signals_of_this_process_stay_its_own(session: ClusterSession) -> None:
    """SIGTERM would end the command at once and with Ray's exit code, instead of after the shards in work."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda sent, frame: came.append(sent)) for number in (15, 2)}
    try:
        for number in before:
            os.kill(os.getpid(), number)
        awaited(lambda: len(came) == 2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert came == [15, 2]


def test_files_of_the_current_folder_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beside the chunks that has the name of a module of Python would be run on every node, or break it."""
    (tmp_path / "secrets.py").write_text("raise SystemExit('the file of the current folder was run')")
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "node.log"
    command = keeper_command(log, [sys.executable, "-c", SAFE_PATH + "import secrets; print('as always')"])
    with subprocess.Popen(command, stdin=subprocess.PIPE) as keeper:
        assert keeper.wait(timeout=PATIENCE_SECONDS) == 0
    assert log.read_text() == "as always\n"


ANOTHER = """
import sys, time
from soloist.cluster.address import ClusterAddress
from soloist.cluster.session import ClusterSession
from support.cluster_work import ECHO
with ClusterSession(ClusterAddress.parse(sys.argv[1]), use_gpus=False) as session:
    workers = [session.start_worker(node, ECHO, {}) for node in session.nodes()]
    said = [worker.exchange([], 60)[0] for worker in workers]
    print(*(hello["pid"] for hello in said), flush=True)
    if sys.argv[2] == "leave":
        sys.exit(0)
    try:
        while True:
            workers[0].exchange([], 1)
    except Exception as exc:
        print(type(exc).__name__, len(session.nodes()), flush=True)
"""


@contextlib.contextmanager
def another_session(address: str, way: str) -> Iterator[subprocess.Popen[str]]:
    """A process with a session of its own."""
    command = [sys.executable, "-c", ANOTHER, address, way]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_session_that_ends_leaves_no_worker(cluster: LocalNodes) -> None:
    """Workers of a run that is over would keep the devices of all nodes."""
    with another_session(cluster.address, "leave") as process:
        assert process.stdout is not None
        pids = list(map(int, process.stdout.readline().split()))
        assert process.wait(timeout=PATIENCE_SECONDS) == 0
    assert len(pids) == 2
    awaited(lambda: not any(map(lives, pids)))


def test_workers_end_when_their_coordinator_is_killed(cluster: LocalNodes) -> None:
    """Workers would go on computing for a run that nobody drives."""
    with another_session(cluster.address, "stay") as process:
        assert process.stdout is not None
        pids = list(map(int, process.stdout.readline().split()))
        process.send_signal(signal.SIGKILL)
        process.wait()
    awaited(lambda: not any(map(lives, pids)))


def test_nodes_of_two_commands_do_not_meet_and_end_with_a_killed_command(session: ClusterSession) -> None:
    """A second command would use the nodes of the first, or leave its own behind for ever when it is killed."""
    with another_session("local:1", "stay") as process:
        assert process.stdout is not None
        (pid,) = map(int, process.stdout.readline().split())
        assert [node.name for node in session.nodes()] == ["node-1", "node-2"]
        family = psutil.Process(process.pid).children(recursive=True)
        keepers = psutil.Process(process.pid).children()
        commands = " ".join(part for keeper in keepers for part in keeper.cmdline())
        (folder,) = map(Path, set(re.findall(r"--temp-dir=(/tmp/soloist-[0-9a-f]+)", commands)))
        assert folder.exists()
        assert pid in {member.pid for member in family}
        process.send_signal(signal.SIGKILL)
        process.wait()
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_SECONDS)
    assert not alive
    awaited(lambda: not folder.exists())


def test_nothing_answers(session: ClusterSession) -> None:
    """A wrong address would be waited for as long as Ray waits, with Ray's own words at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "import sys; from soloist.cluster.address import ClusterAddress as A; "
        "from soloist.cluster.session import ClusterSession as S; S(A.parse(sys.argv[1])).__enter__()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert f"nothing answers at 127.0.0.1:{port} (Connection refused): give the address that" in ended.stderr


def test_auto_leaves_the_nodes_of_another_command_alone(cluster: LocalNodes, tmp_path: Path) -> None:
    """A second command would compute on the nodes of the first, and lose them when that one ends."""
    code = (
        "from soloist.cluster.address import ClusterAddress as A; "
        "from soloist.cluster.session import ClusterSession as S; S(A.parse('auto')).__enter__()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_SECONDS,
        env={**environment, "RAY_TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert cluster.pids("head")
    assert "this machine belongs to no Ray cluster: start one with ray start --head, or give HOST:PORT" in ended.stderr


def test_a_process_that_is_connected_already_is_not_connected_elsewhere(
    cluster: LocalNodes, session: ClusterSession
) -> None:
    """The connection of a notebook would be cut, or its cluster be taken for the one that was named."""
    with pytest.raises(ConfigError, match=r"connected to a Ray cluster already, and cluster is 127.*: give auto, or"):
        ClusterSession(ClusterAddress.parse(cluster.address)).__enter__()
    with ClusterSession(ClusterAddress.parse("auto")) as same:
        assert [node.id for node in same.nodes()] == [node.id for node in session.nodes()]
    assert session.nodes()  # the connection is still there


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without Ray would see a traceback."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"a cluster needs ray: run pip install .*\[ray\]"):
        ClusterSession(ClusterAddress.parse("local:2")).__enter__()


def test_the_loss_of_the_head_is_the_loss_of_all_nodes(cluster: LocalNodes, session: ClusterSession) -> None:
    """A run would wait for ever for nodes that nothing holds together. This test is the last: it ends the cluster."""
    session.__exit__(None, None, None)
    with another_session(cluster.address, "stay") as process:
        assert process.stdout is not None
        process.stdout.readline()
        cluster.kill("head")
        assert process.stdout.readline() == "WorkerGoneError 0\n"
        assert process.wait(timeout=PATIENCE_SECONDS) == 0
