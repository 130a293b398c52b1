"""Drives a run on a cluster: a worker on each node for the whole run, and one pass after the other over all of them.

Every rule about what is kept, copied, written and recorded is the one of a run on one machine. Only this process writes
the run's manifest, and only what it has recorded counts.
"""

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from soloist.cluster.address import ClusterAddress
from soloist.cluster.nodes import Node
from soloist.cluster.session import ClusterSession, require_ray
from soloist.config import RunConfig
from soloist.engine.drivers.cluster.facts import NodeFacts, difference, facts_of
from soloist.engine.drivers.cluster.links import Heard, Link
from soloist.engine.drivers.cluster.pass_events import PassEvents
from soloist.engine.drivers.cluster.pass_over_nodes import PassOverNodes
from soloist.engine.drivers.cluster.patience import PATIENCE, Ends, Patience
from soloist.engine.drivers.cluster.shard_queue import ShardQueue
from soloist.engine.drivers.context import PassContext
from soloist.engine.drivers.preparing import at_once
from soloist.engine.drivers.restaging import decided_of
from soloist.engine.drivers.row_stores import row_stores
from soloist.engine.resume.pending import pending, tell_kept
from soloist.errors import ModelLoadError, RunStoppedError, SoloistError
from soloist.events import EventSink, Notice
from soloist.stopping import Stop
from soloist.stores.attempts import attempts_of_a_session
from soloist.stores.shared_folder import read_probe, write_probe
from soloist.told_errors import error_from_dict
from soloist.wording import count_text, listed

WORK = "soloist.engine.drivers.cluster.worker:work"
_CLOSE_SECONDS = 5.0
_PAUSE_SECONDS = 3.0  # where a worker ends, its node may be about to end too


def require_cluster(address: str) -> None:
    """Refuse an address that cannot be one, a cluster that does not answer, and any where Ray is not installed.

    Raises:
        ConfigError: one of them.
    """
    require_ray(ClusterAddress.parse(address))


class Coordinator:
    """The workers of a run, as a context manager. Inside, `run_pass` computes one pass after the other."""

    def __init__(
        self,
        config: RunConfig,
        contexts: Sequence[PassContext],
        stop: Stop,
        sink: EventSink,
        patience: Patience = PATIENCE,
    ) -> None:
        assert config.cluster is not None
        self._config = config
        self._contexts = contexts
        self._stop = stop
        self._sink = sink
        self._patience = patience
        self._held = contextlib.ExitStack()
        self._address = ClusterAddress.parse(config.cluster)
        self._session = ClusterSession(self._address, use_gpus=contexts[0].accelerator.kind == "cuda")
        self._folder = contexts[0].run_shards.folder
        self._inbox: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        self._links: list[Link] = []
        self._refused: dict[str, str] = {}  # by the id of a node, why it takes no part
        self._able: set[str] = set()  # the ids of nodes that could be used
        self._ends = Ends()
        self._not_before: dict[str, float] = {}  # by the id of a node, when it may get another worker
        self._own: NodeFacts | None = None

    def __enter__(self) -> Coordinator:
        """Join the cluster, and begin to stage the models on its nodes."""
        with contextlib.ExitStack() as held:
            self._attempts = held.enter_context(attempts_of_a_session(self._folder.path))
            self._probe = write_probe(self._attempts, "probe-of-the-run")
            held.enter_context(self._joined())
            held.callback(self._close_links)
            encoders = {model: encoder for context in self._contexts for model, encoder in context.encoders.items()}
            first = self._contexts[0]
            self._own = facts_of(encoders, first.plan, first.accelerator)
            self._decided = decided_of(encoders, first.plan).to_dict()
            self.look_for_nodes()
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers, leave the cluster, and remove what no pass has taken."""
        self._held.close()

    @contextlib.contextmanager
    def _joined(self) -> Iterator[None]:
        """The session with the cluster. Nodes of this machine take some seconds to start, so that is told."""
        about, nodes = str(self._address), self._address.nodes
        if nodes:
            self._sink.emit(Notice(about=about, message=f"starting {count_text(nodes, 'node')} on this machine"))
        with self._session:
            names = [node.name for node in self._session.nodes()]
            self._sink.emit(Notice(about=about, message=f"{listed(names)} joined, and each loads the models"))
            yield

    def run_pass(self, context: PassContext) -> None:
        """Embed every shard that is not finished with the models of a pass, on all nodes.

        Raises:
            RunStoppedError: the run was to end before all shards were done, or the last node is gone.
            SoloistError: what a worker raised, or why no node can be used.
        """
        left = pending(context.run_shards, context.fingerprints)
        tell_kept(left.kept, self._sink)
        if not left.work:
            return
        stores = row_stores(context, {item.model for item in left.work})
        shards = ShardQueue(at_once(left.work, context), context.run_shards.folder, stores)
        told = PassEvents(context.models, left.chunks, self._sink)
        name = f"pass-{self._contexts.index(context) + 1}"
        present = PassOverNodes(name, self, context, shards, self._attempts, told, self._sink, self._patience)
        with self._stop.shielded():
            present.through()

    @property
    def links(self) -> Sequence[Link]:
        """The workers that have not ended."""
        return self._links

    def lease_timeout_seconds(self) -> float | None:
        """How long a worker may wait for the devices of its node."""
        limits = (self._config.lease_timeout_seconds, self._stop.remaining_seconds)
        return min((seconds for seconds in limits if seconds is not None), default=None)

    def look_for_nodes(self) -> None:
        """Start a worker on each node that has none.

        Raises:
            RunStoppedError: no node is left.
            ModelLoadError: none of the nodes can be used.
        """
        nodes, now = self._session.nodes(), time.monotonic()
        served = {link.node.id for link in self._links}
        free = [node for node in nodes if node.id not in served and node.id not in self._refused]
        for node in free:
            if now >= self._not_before.get(node.id, now):
                worker = self._session.start_worker(node, WORK, self._request(node))
                self._links.append(Link(worker, self._inbox))
        if self._links or free:
            return
        raise no_node_is_left(self._refused, are_gone=not nodes or bool(self._able - {*self._refused}))

    def hear(self, seconds: float) -> list[tuple[Link, Mapping[str, Any]]]:
        """What workers have said of the present pass, for which this waits. Staging is dealt with here.

        A worker that has ended says `gone`, and why.
        """
        said: list[tuple[Link, Mapping[str, Any]]] = []
        with contextlib.suppress(queue.Empty):
            heard = self._inbox.get(timeout=seconds)
            if heard.link.state == "gone":  # it was given up, and what it says no longer counts
                heard.taken.set()
                return []
            for message in heard.messages:
                if not self._is_staging(heard.link, message):
                    said.append((heard.link, message))
            if heard.gone:
                said.append((heard.link, {"word": "gone", "how": heard.gone}))
            said.append((heard.link, {"word": "heard", "taken": heard.taken}))
        return said

    def forget(self, link: Link, why: str = "", *, end: str | None = None) -> None:
        """A worker has ended, or is to end; its node gets another one.

        With `why` the node takes no part from now on, and the sink is told. The words follow the node's name. `end`
        says how the worker ended, which its node may do a few times; None if that is not the node's fault.
        """
        if end is not None and not why:
            why = self._ends.too_many(link.node.id, end, has_computed=link.has_computed)
        self._not_before[link.node.id] = time.monotonic() + _PAUSE_SECONDS
        link.state = "gone"
        link.close()
        link.worker.kill()
        self._links = [other for other in self._links if other is not link]
        if why:
            self._refused[link.node.id] = f"{link.node.name} {why}"
            message = f"{link.node.name} {why}. This node takes no part in the run."
            self._sink.emit(Notice(about="cluster", message=message))

    def _is_staging(self, link: Link, message: Mapping[str, Any]) -> bool:
        """Whether a message is about staging; what follows from it is done."""
        if link.state == "gone":
            return True  # it was given up for what it said before
        match message["word"]:
            case "folder":
                if not (message["seen"] and read_probe(self._attempts, message["probe"])):
                    self.forget(
                        link,
                        f"does not see the files that this command writes to {self._folder.path}: give --out a folder "
                        "that all nodes have under the same path",
                    )
                return True
            case "staged":
                facts = NodeFacts.from_dict(message["facts"])
                assert self._own is not None
                why = difference(facts, self._own, mixed_cards=self._config.mixed_cards)
                if why is not None:
                    self.forget(link, why)
                else:
                    link.facts, link.state = facts, "waiting"
                    self._able.add(link.node.id)
                return True
            case "staging":
                return True  # a sign of life
            case "failed" if link.facts is None:
                self.forget(link, f"cannot stage the models. {error_from_dict(message)}")
                return True
        return False

    def _request(self, node: Node) -> dict[str, Any]:
        """What a worker has to know of the run."""
        config = self._config.to_dict()
        paths = {"out": self._config.out, "catalogue": self._config.catalogue, "cache_dir": self._config.cache_dir}
        absolute = {name: os.fspath(path.absolute()) for name, path in paths.items() if path is not None}
        lock_dir = node.lock_dir or self._config.lock_dir
        own = {"lock_dir": os.fspath(lock_dir.absolute()) if lock_dir is not None else None}
        here: dict[str, Any] = {"stop_after": None, "reuse": [], "cluster": None, "isolation": "allocator"}
        return {
            "config": {**config, **absolute, **own, **here},
            **self._decided,
            "node": node.name,
            "session": os.fspath(self._attempts.absolute()),
            "probe": self._probe,
            "threads": node.threads,
            "working_folder": os.fspath(Path.cwd()),
        }

    def _close_links(self) -> None:
        for link in self._links:
            link.close()
            link.worker.kill()
        deadline = time.monotonic() + _CLOSE_SECONDS
        for link in self._links:  # no thread asks Ray while it is left
            link.join(deadline - time.monotonic())


def no_node_is_left(refused: Mapping[str, str], *, are_gone: bool) -> SoloistError:
    """What is raised where no node is left, of which these were refused, by their ids with the reasons.

    Where others `are_gone`, they may come back: the run ends as a stop does.
    """
    reasons = ". ".join(dict.fromkeys(refused.values()))
    if not are_gone:
        return ModelLoadError(f"no node of the cluster can be used. {reasons}")
    others = f" that can be used. {reasons}" if reasons else ""
    return RunStoppedError(f"stopped because no node of the cluster is left{others}")
