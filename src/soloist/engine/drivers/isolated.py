"""A pass in a process of its own. When the process ends, the driver has all memory back, contexts included.

The parent holds the locks and never touches the devices. It starts a worker, sends it one line of JSON, and waits
until the worker has its models staged and its first shard prepared; then it takes the lease and says `go`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any

from soloist.config import RunConfig
from soloist.devices import DeviceLease, open_accelerator
from soloist.devices.accelerator import Accelerator
from soloist.devices.lease import ProcessLease
from soloist.devices.locks import LOCK_DIR
from soloist.engine.drivers.context import PassContext
from soloist.engine.drivers.local import run_pass
from soloist.engine.drivers.restaging import Decided, decided_of, planned_again, staged_again
from soloist.engine.drivers.writing import ShardWriter, writer_for
from soloist.engine.resume.pending import RunShards, pending, tell_kept
from soloist.errors import EncodingError, ModelLoadError
from soloist.events import EventSink, LeaseReleased, ListSink, event_from_dict, event_to_dict
from soloist.ingestion.ingest import ShardRef
from soloist.models.loading import StagedModel
from soloist.stopping import Stop
from soloist.stores import RunFolder
from soloist.worker_processes import ParentProcess, WorkerProcess, work_for_parent

# Imports make no garbage: looking for it again and again takes a fifth of their four seconds.
_IMPORTS = "import soloist.memory.network; from soloist.engine.drivers.isolated import main"
_CODE = f"import gc; gc.disable(); {_IMPORTS}; gc.enable(); main()"
_PATIENCE_SECONDS = 30.0
_WRITING_SECONDS = 20  # a worker that must end may take so long to write what is computed


def run_isolated(context: PassContext, config: RunConfig, lease: ProcessLease, sink: EventSink) -> None:
    """Run a pass in a worker process; the lease is held from the moment that the worker is ready.

    Raises:
        SoloistError: what the worker raised, or that it ended without a word.
    """
    left = pending(context.run_shards, context.fingerprints)
    if not left.work:
        tell_kept(left.kept, sink)
        return
    stop = context.stop
    lost = functools.partial(_lost, context.models)
    process = WorkerProcess(_CODE, _request(context, config), sink, lost=lost, patience=_PATIENCE_SECONDS)
    with process as worker, stop.on_request(worker.stop):
        if worker.follow("ready", "done")["word"] == "done":  # it had nothing to embed
            return
        with stop.shielded(), contextlib.ExitStack() as held:
            with stop.interruptible():
                held.enter_context(lease)
            worker.send("go")
            try:
                done = worker.follow("done")
                lease.worker_memory = event_from_dict(done["released"]).memory  # type: ignore[attr-defined]
            finally:
                worker.close()


def _request(context: PassContext, config: RunConfig) -> dict[str, Any]:
    """The pass as the worker reads it."""
    return {
        "config": {**config.to_dict(), "stop_after": context.stop.remaining_seconds},
        **decided_of(context.encoders, context.plan).to_dict(),
        "shards": [asdict(shard) for shard in context.run_shards.refs],
    }


def _lost(models: Sequence[str], how: str) -> EncodingError:
    return EncodingError(
        f"the worker process of {', '.join(models)} {how} before its pass was done: look for its messages above, or in "
        "the system's log if memory ran out, then run again"
    )


class _Parent(ParentProcess):
    """The worker's end. What it has computed when the parent ends it is written."""

    def __init__(self) -> None:
        self.stop = Stop()
        self.writer: ShardWriter | None = None
        super().__init__()

    def stopped(self, why: str) -> None:
        """The run ends after the present shard."""
        self.stop.request(why)

    def ending(self) -> None:
        """Wait until what is computed is written."""
        if self.writer is not None:
            self.writer.wait_within(_WRITING_SECONDS)


class _Go:
    """The worker's lease: begins when the parent says so, and verifies the worker's own allocator."""

    def __init__(self, parent: _Parent, lease: DeviceLease) -> None:
        self._parent = parent
        self._lease = lease

    def __enter__(self) -> None:
        self._parent.say("ready")
        assert self._parent.receive() == "go"
        self._lease.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lease.__exit__(kind, error, trace)


def main() -> None:
    """The worker: one pass, as the first line of standard input describes it."""
    parent = _Parent()
    work_for_parent(parent, functools.partial(_work, parent))


def _work(parent: _Parent, request: Mapping[str, Any]) -> dict[str, Any]:
    config = RunConfig.from_dict(request["config"])
    accelerator = open_accelerator(config.accelerator, config.lock_dir or LOCK_DIR)
    parent.stop.limit(config.stop_after)
    shards = [ShardRef(**shard) for shard in request["shards"]]
    context = _context(config, Decided.from_dict(request), shards, accelerator, parent.stop)
    ends = ListSink()
    lease = DeviceLease(accelerator, context.models, ends, locked=False)
    parent.writer = writer_for(accelerator)
    run_pass(context, _Go(parent, lease), parent, parent.writer)
    released = next((event for event in reversed(ends.events) if isinstance(event, LeaseReleased)), None)
    return {"released": event_to_dict(released, 0.0) if released is not None else None}


def _context(
    config: RunConfig, decided: Decided, shards: Sequence[ShardRef], accelerator: Accelerator, stop: Stop
) -> PassContext:
    """What the parent's own context would be."""
    staged = staged_again(config, decided, accelerator, stop)
    _require_same_models(staged, decided.fingerprints)
    encoders, plan = planned_again(config, decided, staged, accelerator)
    run_shards = RunShards(
        folder=RunFolder(config.out), refs=shards, vector_dtype=config.vector_dtype,
        others=[RunFolder(path) for path in config.reuse],
    )  # fmt: skip
    return PassContext(
        encoders=encoders, plan=plan, accelerator=accelerator, run_shards=run_shards, stop=stop,
        shared_dtype=config.shared_dtype,
    )  # fmt: skip


def _require_same_models(staged: Mapping[str, StagedModel], fingerprints: Mapping[str, str]) -> None:
    """Refuse a model that has changed since the run began: its vectors would not be those that the run says."""
    for name, model in staged.items():
        if model.fingerprint != fingerprints[name]:
            raise ModelLoadError(
                f"{name} has changed since the run began: leave its files as they are and run again; all its "
                "vectors are then computed again"
            )
