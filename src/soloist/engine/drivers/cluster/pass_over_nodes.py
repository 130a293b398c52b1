"""One pass over the nodes of a cluster: shards go out, files come in, and the shards of workers that end go to others.

Runs in the thread that drives the run. It computes nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from soloist.engine.drivers.cluster.attempt_store import task_of
from soloist.engine.drivers.cluster.failures import Failures
from soloist.engine.drivers.cluster.links import Link
from soloist.engine.drivers.cluster.pass_events import PassEvents
from soloist.engine.drivers.cluster.patience import Patience
from soloist.engine.drivers.cluster.shard_queue import GivenShard, ShardQueue
from soloist.engine.drivers.context import PassContext
from soloist.errors import EncodingError, LeaseTimeoutError, RunStoppedError, SoloistError
from soloist.events import EventSink, Notice, ShardEncoded, event_from_dict
from soloist.stores import RunFolder
from soloist.stores.attempts import attempt_folder, require_session
from soloist.stores.manifest import FileRecord
from soloist.told_errors import error_from_dict

_PULSE_SECONDS = 0.2
_TAKE_IN_SECONDS = 1.0  # then workers are heard again
_SHARDS_AT_ONCE = 2  # one in work, and the next one read and tokenized
_MOST_ENDS = 3
_OTHER_FILES = (
    "sees other files in the run's folder than the command's machine: mount the folder there as on the other nodes"
)
_LEASE_WAITS = 6  # after this part of the least patience, shards that wait for devices go to nodes with nothing to do


class Workers(Protocol):
    """The workers of the run."""

    @property
    def links(self) -> Sequence[Link]:
        """Those that have not ended."""

    def look_for_nodes(self) -> None:
        """Start a worker on each node that has none; raises where there is no node."""

    def hear(self, seconds: float) -> list[tuple[Link, Mapping[str, Any]]]:
        """What they have said, for which this waits."""

    def forget(self, link: Link, why: str = "", *, end: str | None = None) -> None:
        """One has ended. `end` says how; None if that is not the fault of its node.

        With `why` its node takes no part any more. The words follow the node's name.
        """

    def lease_timeout_seconds(self) -> float | None:
        """How long one may wait for devices."""


class PassOverNodes:
    """A pass at work on all nodes. `name` begins the names of its attempts."""

    def __init__(
        self,
        name: str,
        workers: Workers,
        context: PassContext,
        shards: ShardQueue,
        session: Path,
        told: PassEvents,
        sink: EventSink,
        patience: Patience,
    ) -> None:
        self._name = name
        self._workers = workers
        self._context = context
        self._queue = shards
        self._session = session
        self._told = told
        self._sink = sink
        self._patience = patience
        self._stopped: RunStoppedError | None = None
        self._held_up: set[str] = set()  # nodes whose devices others hold
        self._have_computed: set[Link] = set()
        self._failures = Failures()
        self._may_take_more = False
        self._is_ending = False  # nobody gets a shard any more, also no node that has just staged its models

    def through(self) -> None:
        """Work off the shards, and wait until every node has given its devices back.

        Raises:
            RunStoppedError: the run was to end before all shards were done, or the last node is gone.
            SoloistError: what a worker raised.
        """
        for link in self._workers.links:
            link.state = "waiting" if link.is_ready else link.state
        try:
            while not self._is_over():
                self._look_at_the_stop()
                if self._stopped is None:
                    self._workers.look_for_nodes()
                    self._hand_out()
                self._go_on()
            self._release()
            if self._stopped is not None:
                self._take_in(math.inf)
                raise self._stopped
        except SoloistError:
            with contextlib.suppress(SoloistError):  # the first error is the one to tell
                self._take_in(math.inf)  # what is computed is kept, whatever has ended the pass
            raise
        self._told.finish()

    def _is_over(self) -> bool:
        """Whether all shards are part of the run. After a stop: whether no worker computes a shard any more."""
        if self._stopped is not None:
            return not any(link.given and link.is_leased for link in self._workers.links)
        return self._queue.is_done

    def _look_at_the_stop(self) -> None:
        """If the run is to end, have each worker end after its present shard."""
        if self._stopped is not None:
            return
        try:
            self._context.stop.check()
        except RunStoppedError as exc:
            self._stopped = exc
            for link in self._workers.links:
                link.send("stop", why=str(exc))

    def _go_on(self) -> None:
        """Hear what workers say, and do what follows from it."""
        self._hear(0.0 if self._may_take_more else _PULSE_SECONDS)
        self._may_take_more = self._take_in(_TAKE_IN_SECONDS)
        self._give_up_hung_workers()

    def _take_in(self, most_seconds: float) -> bool:
        """Make computed shards part of the run, for so long; whether there were any."""
        require_session(self._session)
        taken = self._queue.take_in(most_seconds)
        for shard in taken:
            self._told.taken(shard)
        for node, why in self._queue.untrue():
            for link in [link for link in self._workers.links if link.node.name == node]:
                self._lose(link, f"a file of {node} cannot be used ({why})", why=_OTHER_FILES)
        return bool(taken)

    def _hand_out(self) -> None:
        """Give each worker shards: one in work, and a second one as long as there is one for each other worker too.

        Nobody gets a second one while a lost shard waits for a worker that has none, or while it waits for devices.
        """
        all_ready = _ready(self._workers.links)
        ready = [link for link in all_ready if link.node.name not in self._held_up] or all_ready
        names = [link.node.name for link in ready if not link.is_waiting]
        for link in all_ready:
            if link.state == "waiting":
                link.state = "computing"
                timeout = self._workers.lease_timeout_seconds()
                link.send("pass", models=list(self._context.models), lease_timeout_seconds=timeout)
        for wanted in range(_SHARDS_AT_ONCE):
            for link in ready:
                if len(link.given) > wanted or any(shard.ended for shard in link.given):
                    continue
                if wanted and link.is_waiting:
                    continue
                if wanted and (self._queue.has_lost or self._queue.waiting(len(ready)) < len(ready)):
                    return
                name = link.node.name
                shard = self._queue.hand_out(f"{self._name}-{name}", name, alone=not link.given, others=names)
                if shard is not None:
                    self._give(link, shard)

    def _give(self, link: Link, shard: GivenShard) -> None:
        if not link.given:
            link.signed()
        link.given.append(shard)
        link.send("shard", task=dataclasses.asdict(task_of(shard.attempt, shard.ref, shard.missing)))

    def _hear(self, seconds: float) -> None:
        """Deal with all that the workers have said. This waits so long for the first of them.

        Each gets its next shard before the files of the last one are taken in.
        """
        taken: list[threading.Event] = []
        for link, message in _all_said(self._workers, seconds):
            if link.state == "gone" and message["word"] != "heard":
                continue  # it was given up for what it said before
            match message["word"]:
                case "event":
                    self._told.hand_on(link, event_from_dict(message["event"]), _ready(self._workers.links))
                case "done":
                    self._note(link, message)
                case "passed":
                    link.state, link.is_leased, link.is_waiting, link.given = "passed", False, False, []
                case "failed" if message["kind"] == LeaseTimeoutError.__name__ and self._others_of(link):
                    self._look_at_the_stop()  # the time that ended may have been the run's
                    self._lose(link, f"on {link.node.name}, {message['message']}", is_held_up=True)
                case "failed" if self._failures.is_of_the_node(
                    message, link.node.name, has_others=len(self._workers.links) > 1
                ):  # others try these shards
                    self._lose(link, f"the worker on {link.node.name} failed. {error_from_dict(message)}")
                case "failed":
                    raise self._failure(link, message)
                case "gone":
                    self._lose(link, message["how"])
                case "heard":
                    taken.append(message["taken"])
        if taken and self._stopped is None and not self._is_ending:
            self._hand_out()
        for event in taken:  # now these workers are asked again
            event.set()

    def _note(self, link: Link, message: Mapping[str, Any]) -> None:
        """A worker has written the rows of a shard and a model."""
        shard = next((shard for shard in link.given if shard.attempt == message["attempt"]), None)
        if shard is None:
            return
        event = event_from_dict(message["event"])
        assert isinstance(event, ShardEncoded)
        busy = sum(bool(other.given) for other in self._workers.links)
        self._told.computed(link, shard.attempt, event, busy)
        source = attempt_folder(self._session, shard.attempt)
        self._queue.computed(shard, message["model"], source, FileRecord(**message["record"]))
        self._have_computed.add(link)
        self._failures.computed()
        link.has_computed = True
        if not shard.missing:
            link.given.remove(shard)

    def _failure(self, link: Link, message: Mapping[str, Any]) -> SoloistError:
        """What a worker raised, after the name of its node."""
        error = error_from_dict(message)
        if isinstance(error, LeaseTimeoutError):
            self._context.stop.check()  # the time that ended may have been the run's
        error.args = (f"on {link.node.name}, {error}",)
        return error

    def _others_of(self, link: Link) -> list[Link]:
        """The other workers that could compute a shard of this one."""
        held = {link.node.name, *self._held_up}
        return [other for other in _ready(self._workers.links) if not other.is_waiting and other.node.name not in held]

    def _lose(self, link: Link, how: str, *, why: str = "", is_held_up: bool = False) -> None:
        """A worker has ended: its shards go to others.

        With `why` its node takes no part any more. If it waited for devices, no shard ended it. Its node gets no more
        shards in this pass as long as there are others.
        """
        if is_held_up:
            self._held_up.add(link.node.name)
        if self._stopped is None:
            for shard in link.given:
                self._queue.lost(shard, None if is_held_up else link.node.name)
                if len(shard.ended) >= _MOST_ENDS:
                    raise _poison(shard, how, self._context.run_shards.folder)
        shards = " and ".join(f"{shard.ref.collection} {shard.ref.index}" for shard in link.given)
        redone = f". Other workers get its shards: {shards}" if shards else ""
        link.given, link.is_leased = [], False
        self._sink.emit(Notice(about="cluster", message=f"{how}{redone}"))
        self._workers.forget(link, why, end=None if is_held_up else how)

    def _give_up_hung_workers(self) -> None:
        """End each worker that has something to do, or stages, and has shown no progress for too long.

        One that waits for devices may wait, unless others have nothing left to do.
        """
        for link in list(self._workers.links):
            if link.state == "staging":
                if end := _end_of_staging(link, self._patience, self._sink):
                    self._lose(link, end)
                continue
            patience = self._patience.with_a_shard(self._told.slowest_seconds, is_first=link not in self._have_computed)
            silent = link.silent_seconds
            is_busy = bool(link.given) or (self._is_ending and link.state == "computing")
            if link.is_waiting and link.given and silent >= self._patience.least_seconds / _LEASE_WAITS:
                has_idle_others = any(not other.given for other in self._others_of(link))
                if self._stopped is None and has_idle_others:
                    self._lose(link, f"other processes hold the devices of {link.node.name}", is_held_up=True)
            elif is_busy and not link.is_waiting and silent >= patience:
                self._lose(
                    link, f"the worker on {link.node.name} showed no progress for {silent:,.0f} s, so soloist ended it"
                )

    def _release(self) -> None:
        """Have every worker give its devices back, and wait for that."""
        self._is_ending = True
        for link in self._workers.links:
            link.signed()  # it may have had nothing to do for hours
            if link.state == "computing" and self._stopped is None:
                link.send("last")
        while any(link.state == "computing" for link in self._workers.links):
            self._look_at_the_stop()
            if self._stopped is not None and not any(link.is_leased for link in self._workers.links):
                return  # whoever waits for devices is ended
            self._go_on()


def _all_said(workers: Workers, seconds: float) -> Iterator[tuple[Link, Mapping[str, Any]]]:
    """What workers have said until now. None says more before what it has said is taken."""
    while said := workers.hear(seconds):
        yield from said
        seconds = 0.0


def _ready(links: Sequence[Link]) -> list[Link]:
    return [link for link in links if link.is_ready]


def _end_of_staging(link: Link, patience: Patience, sink: EventSink) -> str:
    """How a worker ends that stages and has shown no progress for too long; empty before. A silence is told once."""
    silent, name = link.silent_seconds, link.node.name
    if silent >= patience.staging_seconds:
        return (
            f"the worker on {name} read and computed nothing for {silent:,.0f} s while it staged, so soloist ended it"
        )
    if silent < patience.warning_seconds:
        link.is_named_silent = False
    elif not link.is_named_silent:
        link.is_named_silent = True
        message = (
            f"the worker on {name} stages the models, and has read and computed nothing for {silent:,.0f} s: look at "
            f"the disk and the network of this node (soloist ends the worker after {patience.staging_seconds:,.0f} s)"
        )
        sink.emit(Notice(about="cluster", message=message))
    return ""


def _poison(shard: GivenShard, how: str, folder: RunFolder) -> EncodingError:
    ref = shard.ref
    ids = folder.shards.read_ids(ref.collection, ref.index)
    return EncodingError(
        f"{len(shard.ended)} workers (on {', '.join(shard.ended)}) ended while they computed shard {ref.index} of "
        f"{ref.collection}, which has the chunks {ids[0]!r} to {ids[-1]!r} ({how}): look in Ray's logs on these "
        "nodes (by default /tmp/ray/session_latest/logs) for the cause, or leave out the chunk that causes it (halve "
        "--shard-chunks to find it)"
    )
