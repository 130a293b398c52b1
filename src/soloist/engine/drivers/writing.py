"""The order in which a pass writes its shards: one after the other, and beside the work of devices if there are any.

Knows calls and a thread. The caller decides what a call writes.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from types import TracebackType

from soloist.devices import Accelerator
from soloist.workers import Task, WorkerThread


class ShardWriter:
    """Makes the calls that write shards, in their order, as a context manager around the computing.

    With `beside`, a call is made in a thread of its own while the caller computes the next shard. A call begins when
    the one before it has ended. So at most one shard waits for the disk, and no shard is written after a shard that
    failed. Without `beside`, a call has ended when `write` returns.

    On leaving, the last shard is written, whatever has ended the pass. If this write fails, its error is raised,
    because it is of an earlier shard than the error that has ended the pass.
    """

    def __init__(self, *, beside: bool) -> None:
        self._beside = beside
        self._thread: WorkerThread | None = None
        self._last: Task[None] | None = None
        self._in_hand = 0  # shards that were given to `write`, and are not written
        self._changed = threading.Condition()

    def __enter__(self) -> ShardWriter:
        """Begin the thread."""
        if self._beside:
            self._thread = WorkerThread("soloist-write")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the last shard, and end the thread."""
        try:
            self._finish()
        except KeyboardInterrupt:  # a second Ctrl-C: the shard was computed before it, and takes moments to write
            self._finish()
            raise

    def write(self, call: Callable[[], None]) -> None:
        """Have a shard written, once the shard before it is.

        Raises:
            Exception: what the call for the shard before raised. Then this call is not made.
            EncodingError: the thread was ended from outside.
        """
        self._count(1)
        if self._thread is None:
            self._make(call)
            return
        try:
            self.settle()
        except BaseException:
            self._count(-1)
            raise
        self._last = self._thread.submit(functools.partial(self._make, call))

    def settle(self) -> None:
        """Return when every shard is written.

        Raises:
            Exception: as `write`.
        """
        if self._last is not None:
            self._last.wait()  # if a signal breaks this off, somebody must still wait for the call
            last, self._last = self._last, None
            last.result()

    def wait_within(self, seconds: float) -> None:
        """Return when nothing is left to write, but after these seconds at the latest. Any thread may call this.

        A shard counts from the moment that it is given to `write`, also while the one before it is being written.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._in_hand, seconds)

    def _make(self, call: Callable[[], None]) -> None:
        try:
            call()
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        with self._changed:
            self._in_hand += more
            self._changed.notify_all()

    def _finish(self) -> None:
        try:
            self.settle()
        finally:
            if self._thread is not None:
                self._thread.close()


def writer_for(accelerator: Accelerator) -> ShardWriter:
    """The writer of a pass. On the host, computing uses every core, so a second thread would gain little."""
    return ShardWriter(beside=accelerator.kind != "cpu")
