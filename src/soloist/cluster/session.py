"""One session with a Ray cluster: the nodes that live, and workers on them. Leaves nothing behind.

Only small messages go through Ray, lists of JSON-ready dicts. Ray starts nothing again by itself: what to do about a
worker that is gone is for the caller to say.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from soloist.cluster.address import ClusterAddress
from soloist.cluster.host import Host
from soloist.cluster.local_nodes import HOST, LocalNodes, load_ray, loopback_stays
from soloist.cluster.nodes import Node, NodeNames
from soloist.errors import ConfigError
from soloist.wording import count_text, first_line
from soloist.workers import WorkerThread

__all__ = ["ClusterSession", "Node", "NodeWorker", "WorkerGoneError", "require_ray"]

_POLL_SECONDS = 1.0
# Ray ends this process when the head of the cluster has been out of reach for a minute: until then all must be done.
_UNKNOWN_SECONDS = 20.0  # what was known of the nodes so long ago counts no more
_MOST_REFUSALS = 3  # by the head, one after the other, until it counts as lost
_CONNECT_SECONDS = 5.0
_PROBE_SECONDS = 1.0
_PROBES = 64  # machines that are asked at once
_MACHINES_A_SECOND = 100  # to ask each of many machines each second would keep this process busy
_JOIN_SECONDS = 60.0
_START_SECONDS = 120.0  # until a new worker answers for the first time
_SLICE_SECONDS = 2.0
_HEAD_IS_LOST = "the head of the cluster has ended or is out of reach"
_OWN_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def require_ray(address: ClusterAddress) -> None:
    """Refuse a cluster where Ray is not installed, and one that does not answer. Takes a moment, and starts nothing.

    Raises:
        ConfigError: Ray is missing or cannot be loaded, or there is no such cluster.
    """
    load_ray()
    if address.kind != "local":
        _require_reachable(_host_port(address))


class WorkerGoneError(Exception):
    """A worker, or its node, has ended or is out of reach. The text says how, in plain words."""


class NodeWorker:
    """One worker on a node. Made by `ClusterSession.start_worker`."""

    def __init__(
        self, ray: Any, node: Node, actor: Any, node_lives: Callable[[Node], bool], cluster_lives: Callable[[], bool]
    ) -> None:
        self.node = node
        self._ray = ray
        self._actor = actor
        self._node_lives = node_lives
        self._cluster_lives = cluster_lives
        self._started_at = time.monotonic()
        self._has_answered = False
        self._is_killed = False

    def exchange(self, messages: Sequence[Mapping[str, Any]], wait_seconds: float) -> list[dict[str, Any]]:
        """Give messages to the worker; what it has said since, after `wait_seconds` at the latest. One call at a time.

        Raises:
            WorkerGoneError: the worker or its node has ended, or the worker does not start.
        """
        if self._is_killed:
            raise WorkerGoneError(f"the worker on {self.node.name} was ended")
        if not self._cluster_lives():
            raise WorkerGoneError(_HEAD_IS_LOST)
        try:
            answer = self._actor.exchange.remote([dict(message) for message in messages], wait_seconds)
            said: list[dict[str, Any]] = self._await(answer, wait_seconds)
        except self._ray.exceptions.RayError as exc:
            raise WorkerGoneError(self._how(exc)) from exc
        self._has_answered = True
        return said

    def nudge(self) -> None:
        """End the wait of an exchange that another thread has begun; nothing happens where the worker has ended."""
        with contextlib.suppress(Exception):  # Ray's own, e.g. of a cluster that is gone
            self._actor.nudge.remote()

    def kill(self) -> None:
        """End the worker at once; nothing happens where it has ended."""
        self._is_killed = True
        with contextlib.suppress(Exception):  # Ray's own, e.g. of a cluster that is gone
            self._ray.kill(self._actor, no_restart=True)

    def _await(self, answer: Any, wait_seconds: float) -> Any:
        timeout = wait_seconds + _SLICE_SECONDS
        while True:
            with contextlib.suppress(self._ray.exceptions.GetTimeoutError):
                return self._ray.get(answer, timeout=timeout)
            if self._is_killed:
                raise WorkerGoneError(f"the worker on {self.node.name} was ended")
            if not self._node_lives(self.node):
                raise WorkerGoneError(f"{self.node.name} has ended or is out of reach")
            if not self._has_answered and time.monotonic() - self._started_at > _START_SECONDS:
                raise WorkerGoneError(
                    f"no worker started on {self.node.name} within {_START_SECONDS:g} s, perhaps because another Ray "
                    "job has its GPUs: wait for that job, or stop it"
                )
            timeout = _SLICE_SECONDS

    def _how(self, exc: BaseException) -> str:
        if not self._node_lives(self.node):
            return f"{self.node.name} has ended or is out of reach"
        cause = exc.__cause__ or exc
        if isinstance(exc, self._ray.exceptions.ActorUnschedulableError):
            return f"{self.node.name} cannot start a worker ({first_line(exc)})"
        if not self._has_answered and isinstance(exc, self._ray.exceptions.RayActorError):
            return f"the worker on {self.node.name} did not start ({_last_line(cause)})"
        return f"the worker process on {self.node.name} has ended"


class ClusterSession:
    """Joins a cluster, or starts one and joins it, and leaves nothing behind at its end. A context manager.

    `use_gpus` says whether the nodes of local:N share out the GPUs of this machine.
    """

    def __init__(self, address: ClusterAddress, *, use_gpus: bool = True) -> None:
        self._address = address
        self._use_gpus = use_gpus
        self._ray: Any = None
        self._names = NodeNames()
        self._nodes: tuple[Node, ...] = ()
        self._seen_at = 0.0
        self._refusals = 0
        self._gcs = ""
        self._workers: list[NodeWorker] = []
        self._ended = threading.Event()
        self._held = ExitStack()

    def __enter__(self) -> ClusterSession:
        self._ray = load_ray()
        with ExitStack() as stack:
            if self._address.kind == "local":
                host_port = stack.enter_context(LocalNodes(self._address.nodes, use_gpus=self._use_gpus)).address
            else:
                host_port = _host_port(self._address)
            stack.enter_context(self._joined(host_port))
            stack.enter_context(self._watched())
            stack.callback(self._kill_workers)
            self._await_nodes()
            self._held = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, trace)

    def nodes(self) -> tuple[Node, ...]:
        """The nodes that live now and can work, by name. Some seconds may pass until the end of one is seen."""
        return self._nodes if self._lives_at_all() else ()

    def start_worker(self, node: Node, work: str, request: Mapping[str, Any]) -> NodeWorker:
        """Start a worker with all GPUs of a node, which calls `work` (`module:function`) with a request and a channel.

        Returns at once. Whether it has started shows in `NodeWorker.exchange`.
        """
        strategy = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node.id, soft=False)
        actor = self._ray.remote(Host).options(
            num_cpus=0, num_gpus=node.gpus, max_restarts=0, max_task_retries=0, max_concurrency=2,
            scheduling_strategy=strategy,
        ).remote(work, dict(request))  # fmt: skip
        worker = NodeWorker(self._ray, node, actor, self._lives, self._lives_at_all)
        self._workers.append(worker)
        return worker

    def _lives_at_all(self) -> bool:
        """Whether the cluster is there: without its head, the nodes do not know of each other."""
        return self._refusals < _MOST_REFUSALS and time.monotonic() - self._seen_at <= _UNKNOWN_SECONDS

    def _lives(self, node: Node) -> bool:
        return any(other.id == node.id for other in self.nodes())

    @contextlib.contextmanager
    def _joined(self, host_port: str) -> Iterator[None]:
        """Within this, the process is connected to the cluster. A connection that the user has made stays."""
        if self._ray.is_initialized():
            if self._address.kind != "auto":
                raise ConfigError(
                    f"this process is connected to a Ray cluster already, and cluster is {self._address}: give auto, "
                    "or call ray.shutdown() first"
                )
            self._gcs = self._ray.get_runtime_context().gcs_address
            yield
            return
        _require_reachable(host_port)
        # Ray takes SIGTERM for itself where it connects in the main thread.
        joining = WorkerThread("soloist-joining")
        try:
            with _quiet():
                task = joining.submit(lambda: self._connect(host_port))
                task.wait()
                task.result()
                _reclaim_signals()
                self._gcs = self._ray.get_runtime_context().gcs_address
                yield
        finally:
            joining.close()
            with _quiet():
                self._ray.shutdown()
            _reclaim_signals()

    def _connect(self, host_port: str) -> None:
        own = {"_node_ip_address": HOST} if self._address.kind == "local" else {}
        try:
            with loopback_stays():
                self._ray.init(
                    address=host_port, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR, **own
                )
        except (ConnectionError, RuntimeError, ValueError) as exc:  # other versions, or no node of it on this machine
            raise ConfigError(
                f"the Ray cluster {self._address} cannot be joined ({first_line(exc)}): run soloist on one of its "
                "nodes, with the same versions of Ray and Python"
            ) from exc

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Within this, a thread looks for nodes that come and go."""
        self._look()
        thread = threading.Thread(target=self._watch, name="soloist-nodes", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join(timeout=_POLL_SECONDS + _CONNECT_SECONDS)

    def _watch(self) -> None:
        while not self._ended.wait(_POLL_SECONDS * max(1.0, len(self._nodes) / _MACHINES_A_SECOND)):
            with contextlib.suppress(Exception):  # of a cluster that is out of reach: what is known becomes old
                self._look()

    def _look(self) -> None:
        if _is_refused(self._gcs):  # Ray would ask a head that has ended for a minute
            self._refusals += 1
            return
        records = [record for record in self._ray.nodes() if record["Alive"]]
        self._seen_at, self._refusals = time.monotonic(), 0
        with ThreadPoolExecutor(
            max_workers=_PROBES
        ) as probes:  # machines that were lost answer after a second, or never
            refused = list(probes.map(_is_refused, map(_address, records)))
        self._nodes = self._names.nodes(record for record, no in zip(records, refused, strict=True) if not no)

    def _await_nodes(self) -> None:
        deadline = time.monotonic() + _JOIN_SECONDS
        while len(self.nodes()) < max(1, self._address.nodes):
            if time.monotonic() > deadline:
                remedy = (
                    "run again with fewer nodes"
                    if self._address.kind == "local"
                    else "add nodes with ray start --address=HOST:PORT, with --num-cpus of 1 or more"
                )
                raise ConfigError(
                    f"the cluster {self._address} has {count_text(len(self.nodes()), 'node')} that can work after "
                    f"{_JOIN_SECONDS:g} s: {remedy}"
                )
            time.sleep(_POLL_SECONDS / 10)

    def _kill_workers(self) -> None:
        for worker in self._workers:
            worker.kill()


def _address(record: Mapping[str, Any]) -> str:
    return f"{record['NodeManagerAddress']}:{record['NodeManagerPort']}"


def _is_refused(host_port: str) -> bool:
    """Whether a machine says that nobody listens at a port. One that does not answer may only be slow."""
    host, _, port = host_port.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def _host_port(address: ClusterAddress) -> str:
    """Where the head of a cluster is that is there already. That of `auto` is told by Ray's own file or variable.

    Ray itself would also take any cluster of this machine, and so the nodes of another command with local:N.
    """
    if address.host_port:
        return address.host_port
    if load_ray().is_initialized():
        return str(load_ray().get_runtime_context().gcs_address)
    services = importlib.import_module("ray._private.services")
    found = os.environ.get("RAY_ADDRESS") or services.find_bootstrap_address(None)
    if not found or ":" not in found:
        raise ConfigError(
            "this machine belongs to no Ray cluster: start one with ray start --head, or give HOST:PORT or local:N to "
            "--cluster"
        )
    return str(found)


def _require_reachable(host_port: str) -> None:
    host, _, port = host_port.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"nothing answers at {host_port} ({getattr(exc, 'strerror', None) or exc}): give the address that ray "
            "start --head has printed, and check that no firewall blocks the port"
        ) from exc


def _last_line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1] if lines else type(exc).__name__


def _reclaim_signals() -> None:
    """Set the handlers of this process again: libraries of Ray set their own below Python's."""
    if threading.current_thread() is threading.main_thread():
        for number in _OWN_SIGNALS:
            handler = signal.getsignal(number)
            if handler is not None:
                signal.signal(number, handler)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within this, Ray says nothing on standard error and standard output, which have the run's own words."""
    logger = logging.getLogger("ray")
    worker: Any = importlib.import_module("ray._private.worker")
    level, told = logger.level, worker.print_to_stdstream
    logger.setLevel(logging.CRITICAL)
    worker.print_to_stdstream = lambda *args, **kwargs: None
    try:
        yield
    finally:
        logger.setLevel(level)
        worker.print_to_stdstream = told
