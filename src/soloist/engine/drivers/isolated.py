"""A pass in a process of its own. When the process ends, the driver has all memory back, contexts included.

The parent holds the locks and never touches the devices. It starts a worker, sends it one line of JSON, and waits
until the worker has its models staged and its first shard prepared; then it takes the lease and says `go`. The worker
sends events, one JSON line each, and at the end what became of the pass. It ends when its standard input does, so
that a killed parent leaves no worker behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from subprocess import PIPE, Popen, TimeoutExpired
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
from soloist.engine.drivers.told_errors import error_from_dict, error_to_dict
from soloist.engine.drivers.writing import ShardWriter, writer_for
from soloist.engine.intake.ingest import ShardRef
from soloist.engine.resume.pending import RunShards, pending, tell_kept
from soloist.errors import EncodingError, ModelLoadError
from soloist.events import Event, EventSink, LeaseReleased, ListSink, event_from_dict, event_to_dict
from soloist.jsontext import json_text
from soloist.models.loading import StagedModel
from soloist.stopping import Stop
from soloist.stores import RunFolder
from soloist.workers import WorkerThread

# Imports make no garbage: looking for it again and again takes a fifth of their four seconds.
_IMPORTS = "import soloist.memory.network; from soloist.engine.drivers.isolated import main"
_CODE = f"import gc; gc.disable(); {_IMPORTS}; gc.enable(); main()"
_COMMAND = (sys.executable, "-c", _CODE)
_LAST_WORDS_SECONDS = 30
_LAST_LINES_SECONDS = 10  # what a worker has written is read at once, unless a process that it started has its stdout
_PULSE_SECONDS = 0.2
_WRITING_SECONDS = 20  # a worker that must end may take so long to write what is computed
_END = "end"
_PARENT_IS_GONE = 70  # the exit code of a worker whose parent has ended, or wants it to end at once


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
    with _Worker(_request(context, config), context.models, sink) as worker, stop.on_request(worker.stop):
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


class _Worker:
    """The parent's end of a worker process.

    A thread reads the worker's lines to their end, and hands events on. A signal's handler may raise in the main thread
    at any moment, and there it would lose a line that was read.
    """

    def __init__(self, request: Mapping[str, Any], models: Sequence[str], sink: EventSink) -> None:
        self._request = request
        self._models = models
        self._sink = sink
        # What the worker says besides events, or an error of the sink; None once it says no more.
        self._words: queue.SimpleQueue[Mapping[str, Any] | BaseException | None] = queue.SimpleQueue()

    def __enter__(self) -> _Worker:
        # In a process session of its own, Ctrl-C reaches the worker only through us, once, and in order.
        self._process = Popen(
            _COMMAND, stdin=PIPE, stdout=PIPE, encoding="utf-8", start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        self._reader = WorkerThread("soloist-lines")
        self._reader.submit(self._read)
        self.send(self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, message: object) -> None:
        """Send one line to the worker; why a worker has ended shows when its lines are read."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # ValueError: closed by us
            self._process.stdin.write(json_text(message) + "\n")
            self._process.stdin.flush()

    def stop(self, why: str) -> None:
        """Tell the worker to end after the present shard."""
        self.send(f"stop {why}")

    def follow(self, *until: str) -> Mapping[str, Any]:
        """Wait until the worker says one of these words, while its events are handed on; what it says with it.

        Raises:
            SoloistError: what the worker raised instead, or that it ended.
            BaseException: what the sink raised.
        """
        while (said := self._said()) is not None:
            if isinstance(said, BaseException):
                raise said
            if said["word"] in until:
                return said
            if said["word"] == "failed":
                raise error_from_dict(said)
        raise EncodingError(self._ended())

    def _said(self) -> Mapping[str, Any] | BaseException | None:
        """The next word. Python runs a signal's handler between two waits, whichever thread got the signal."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._words.get(timeout=_PULSE_SECONDS)

    def _read(self) -> None:
        """The work of the thread. After an error of the sink it reads on, so that the worker can write to its end."""
        assert self._process.stdout is not None
        takes_events = True
        with self._process.stdout as lines:
            try:
                for line in lines:
                    message = json.loads(line) if line.endswith("\n") else {}  # or it was killed while it wrote
                    if "word" in message:
                        self._words.put(message)
                    elif takes_events and message:
                        takes_events = self._hand_on(message)
            finally:
                self._words.put(None)

    def _hand_on(self, message: Mapping[str, Any]) -> bool:
        """Whether the sink took an event."""
        try:
            self._sink.emit(event_from_dict(message))
        except BaseException as exc:  # `follow` raises it in the main thread, an interrupt by the sink too
            self._words.put(exc)
            return False
        return True

    def close(self) -> None:
        """End the worker and wait for its end, which frees all that it has on a device.

        A worker ends when its input ends, or else is killed. Before that, this process sends a word. It tells the
        worker that this process was not killed, so the worker may write what it has computed.
        """
        assert self._process.stdin is not None
        self.send(_END)
        try:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._process.wait(_LAST_WORDS_SECONDS)
        except BaseException as exc:
            self._process.kill()
            self._process.wait()
            if not isinstance(exc, TimeoutExpired):
                raise
        finally:
            self._reader.close_within(_LAST_LINES_SECONDS)

    def _ended(self) -> str:
        code = self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return (
            f"the worker process of {', '.join(self._models)} {how} before its pass was done: look for its messages "
            "above, or in the system's log if memory ran out, then run again"
        )


class _Parent:
    """The worker's end: lines come in, lines go out, and the end of the input is the end of the process."""

    def __init__(self) -> None:
        # Whatever a model prints goes to stderr: stdout is the parent's.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._lock = threading.Lock()
        self.stop = Stop()
        self.writer: ShardWriter | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="soloist-parent", daemon=True).start()

    def receive(self) -> Any:
        """The next line's value."""
        return json.loads(self._lines.get())

    def say(self, word: str, **more: Any) -> None:
        """One word to the parent, with what belongs to it."""
        self._write({"word": word, **more})

    def emit(self, event: Event) -> None:
        """Hand an event on; a sink like any other."""
        self._write(event_to_dict(event, 0.0))

    def _write(self, message: Mapping[str, Any]) -> None:
        with self._lock:
            self._out.write(json_text(message) + "\n")
            self._out.flush()

    def _listen(self) -> None:
        for line in sys.stdin:
            said = json.loads(line)
            if said == _END:
                if self.writer is not None:
                    self.writer.wait_within(_WRITING_SECONDS)
                break
            if isinstance(said, str) and said.startswith("stop "):
                self.stop.request(said.removeprefix("stop "))
            else:
                self._lines.put(line)
        if threading.main_thread().is_alive() and not self._out.closed:
            os._exit(_PARENT_IS_GONE)


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
    ends = ListSink()
    try:
        _work(parent, parent.receive(), ends)
    except KeyboardInterrupt:
        os._exit(130)
    except Exception as exc:
        parent.say("failed", **error_to_dict(exc))
        os._exit(1)
    released = next((event for event in reversed(ends.events) if isinstance(event, LeaseReleased)), None)
    parent.say("done", released=event_to_dict(released, 0.0) if released is not None else None)
    # At once: the parent waits until the driver has the memory back, and nothing is left to clean up.
    os._exit(0)


def _work(parent: _Parent, request: Mapping[str, Any], ends: ListSink) -> None:
    config = RunConfig.from_dict(request["config"])
    accelerator = open_accelerator(config.accelerator, config.lock_dir or LOCK_DIR)
    parent.stop.limit(config.stop_after)
    shards = [ShardRef(**shard) for shard in request["shards"]]
    context = _context(config, Decided.from_dict(request), shards, accelerator, parent.stop)
    lease = DeviceLease(accelerator, context.models, ends, locked=False)
    parent.writer = writer_for(accelerator)
    run_pass(context, _Go(parent, lease), parent, parent.writer)


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
