"""The worker of a node: it stages the run's models, and computes the shards that it is given, pass by pass.

Messages of a few hundred bytes come and go through a channel. Texts are read from the run's folder, and rows are
written into the folder of an attempt there. It keeps no record of the run: the driving process does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from soloist.config import RunConfig
from soloist.devices import DeviceLease, open_accelerator
from soloist.devices.locks import LOCK_DIR
from soloist.engine.drivers.cluster.attempt_store import AttemptStore, Task
from soloist.engine.drivers.cluster.facts import NodeFacts, facts_of
from soloist.engine.drivers.cluster.signs import telling
from soloist.engine.drivers.context import PassContext, pass_contexts
from soloist.engine.drivers.prefetch import Lookahead
from soloist.engine.drivers.preparing import PreparedShard, Work, prepare_shard
from soloist.engine.drivers.restaging import Decided, planned_again, staged_again
from soloist.engine.drivers.running import RunningPass
from soloist.engine.drivers.writing import writer_for
from soloist.engine.resume.pending import RunShards
from soloist.errors import ConfigError, RunStoppedError
from soloist.events import BatchEncoded, Event, PassStarted, ShardEncoded, event_to_dict
from soloist.stopping import Stop
from soloist.stores import RunFolder
from soloist.stores.shared_folder import awaited, read_probe, write_probe
from soloist.told_errors import error_to_dict

_LISTEN_SECONDS = 1.0
_SIGN_SECONDS = 5.0  # far below the least silence that counts as a hang


class Channel(Protocol):
    """The worker's end of what connects it with the driving process."""

    def receive(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next message; None when the time is over."""

    def say(self, message: Mapping[str, Any]) -> None:
        """Say something to the driving process."""


def work(request: Mapping[str, Any], channel: Channel) -> None:
    """Be the worker of a node until the driving process says `end`."""
    try:
        worker = _Worker(request, channel)
        if worker.sees_the_folder():
            with telling(lambda: channel.say({"word": "staging"})):
                staged = worker.staged()
            worker.through(staged)
    except BaseException as exc:
        channel.say({"word": "failed", **error_to_dict(exc)})


class _Incoming:
    """The tasks of a pass, in the order in which they come. Once closed, it has no more."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()

    def put(self, task: Task) -> None:
        self._tasks.put(task)

    def close(self) -> None:
        self._tasks.put(None)

    def take(self) -> Task | None:
        """The next task, for which this waits; None once there are no more."""
        task = self._tasks.get()
        if task is None:
            self._tasks.put(None)  # for the next one who asks
        return task


@dataclass(frozen=True, slots=True, kw_only=True)
class _Staged:
    """What a worker computes with: the run's settings, the passes with their models, and what the node is."""

    config: RunConfig
    contexts: Sequence[PassContext]
    facts: NodeFacts


class _Worker:
    """A node at work."""

    def __init__(self, request: Mapping[str, Any], channel: Channel) -> None:
        self._channel = channel
        self._request = request
        self._session = Path(request["session"])
        self._stop = Stop()
        self._commands: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        self._incoming = _Incoming()
        self._has_ended = threading.Event()

    def sees_the_folder(self) -> bool:
        """Say whether the run's folder is the same one here as where the run is driven."""
        seen = self._session.is_dir() and read_probe(self._session, self._request["probe"])
        written = write_probe(self._session, f"probe-{self._request['node']}") if seen else None
        self._channel.say({"word": "folder", "seen": seen, "probe": written})
        return seen

    def staged(self) -> _Staged:
        """The models in host memory, and what this node is with them."""
        with contextlib.suppress(OSError):  # names of models may be paths that begin where the command was given
            os.chdir(self._request["working_folder"])
        if self._request["threads"] is not None:
            torch.set_num_threads(self._request["threads"])
        config = RunConfig.from_dict(self._request["config"])
        accelerator = open_accelerator(config.accelerator, config.lock_dir or LOCK_DIR)
        decided = Decided.from_dict(self._request)
        staged = staged_again(config, decided, accelerator, self._stop)
        encoders, plan = planned_again(config, decided, staged, accelerator)
        run_shards = RunShards(folder=RunFolder(config.out), refs=(), vector_dtype=config.vector_dtype)
        contexts = pass_contexts(plan, encoders, accelerator, run_shards, self._stop, shared_dtype=config.shared_dtype)
        return _Staged(config=config, contexts=contexts, facts=facts_of(encoders, plan, accelerator))

    def through(self, staged: _Staged) -> None:
        """Say what this node is, and compute passes until the end."""
        listener = threading.Thread(target=self._listen, name="soloist-listen", daemon=True)
        listener.start()
        self._channel.say({"word": "staged", "facts": staged.facts.to_dict()})
        try:
            while (command := self._commands.get())["word"] == "pass":
                self._compute(_context_of(staged.contexts, command["models"]), staged.config, command)
        finally:
            self._has_ended.set()

    def _listen(self) -> None:
        """Put each message where it is waited for. `last` and `stop` are heard while a shard is computed."""
        while not self._has_ended.is_set():
            message = self._channel.receive(_LISTEN_SECONDS)
            if message is not None:
                self._hear(message)

    def _hear(self, message: Mapping[str, Any]) -> None:
        match message["word"]:
            case "shard":
                self._incoming.put(Task.from_dict(message["task"]))
            case "last":
                self._incoming.close()
            case "stop":
                self._stop.request(message["why"])
                self._incoming.close()
            case "pass":
                self._incoming = _Incoming()
                self._commands.put(message)
            case "end":
                self._incoming.close()
                self._commands.put(message)

    def _compute(self, context: PassContext, config: RunConfig, command: Mapping[str, Any]) -> None:
        """One pass, with a lease from its first shard with something to compute to its end."""
        stores = {
            model: AttemptStore(model, encoder, context.run_shards.folder, self._session, config.vector_dtype)
            for model, encoder in context.encoders.items()
        }
        sink, incoming = _Told(self._channel, stores), self._incoming
        lease = DeviceLease(
            context.accelerator, context.models, sink, lock_dir=config.lock_dir,
            timeout_seconds=command["lease_timeout_seconds"],
        )  # fmt: skip
        prepare = functools.partial(_prepared, incoming, context, stores)
        stopped = False
        try:
            with context.stop.shielded(), Lookahead(prepare, itertools.repeat(None)) as prepared:
                try:
                    running = RunningPass(context, stores, {}, lease, sink)
                    running.through(_until_none(prepared), writer_for(context.accelerator))
                finally:
                    incoming.close()
        except RunStoppedError:
            stopped = True
        self._channel.say({"word": "passed", "stopped": stopped})


def _context_of(contexts: Sequence[PassContext], models: Sequence[str]) -> PassContext:
    """The pass of these models.

    Raises:
        ConfigError: this node would have other passes.
    """
    for context in contexts:
        if list(context.models) == list(models):
            return context
    raise ConfigError(
        f"no pass of this node has just {' and '.join(models)}, because its cards hold other models together: give "
        "--mode exclusive, or leave out --mixed-cards"
    )


def _prepared(
    incoming: _Incoming, context: PassContext, stores: Mapping[str, AttemptStore], _: None
) -> PreparedShard | None:
    """The next shard, read and tokenized; None once there are no more."""
    task = incoming.take()
    if task is None:
        return None
    for model in task.fresh:
        stores[model].expect(task)
    folder = context.run_shards.folder
    chunks = folder.path / folder.shards.chunks_file(task.shard.collection, task.shard.index)
    awaited(lambda: chunks.is_file() or None)  # this node may not see it yet
    item = Work(models=tuple(task.fresh), shard=task.shard)
    first = item.models[0]
    return prepare_shard(item, folder, context.encoders[first], context.plan.limits[first], stores)


def _until_none(items: Iterable[PreparedShard | None]) -> Iterator[PreparedShard]:
    for item in items:
        if item is None:
            return
        yield item


class _Told:
    """The sink of a worker: events go to the driving process. That of a shard goes with the record of its file."""

    def __init__(self, channel: Channel, stores: Mapping[str, AttemptStore]) -> None:
        self._channel = channel
        self._stores = stores
        self._told_at = 0.0

    def emit(self, event: Event) -> None:
        """Hand an event on."""
        if isinstance(event, PassStarted):  # the driving process tells of the pass, once
            return
        if isinstance(event, BatchEncoded) and time.monotonic() - self._told_at < _SIGN_SECONDS:
            return  # the driving process takes it for a sign of progress, and so many signs would keep it busy
        self._told_at = time.monotonic()
        said = event_to_dict(event, 0.0)
        if not isinstance(event, ShardEncoded):
            self._channel.say({"word": "event", "event": said})
            return
        store = self._stores[event.model]
        attempt = store.task(event.collection, event.shard).attempt
        record = dataclasses.asdict(store.records.pop(attempt))
        self._channel.say({"word": "done", "attempt": attempt, "model": event.model, "record": record, "event": said})
