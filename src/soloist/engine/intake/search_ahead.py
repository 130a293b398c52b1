"""Texts without a vector are looked for beside the reading: in shards that are written, while the next ones are read.

Reading is Python's work, and holds one core. Tokenizing is not.
"""

from __future__ import annotations

import functools
import threading
from types import TracebackType

from soloist.engine.intake.ingest import ShardRef
from soloist.engine.intake.left_out import LeftOut
from soloist.engine.intake.vectorless import VectorlessSearch, VectorlessText
from soloist.workers import Task, WorkerThread

# What a search finds is kept until the input is read. Beyond so many texts the search waits for that, so that memory
# does not grow with the chunks.
_MOST_KEPT = 10_000


class SearchAhead:
    """A search that begins a shard when it is told of it, in a thread of its own; a context manager.

    An error of the search is raised where the shard's result is asked for. Leaving ends the thread, at the latest with
    the shard that is looked at.
    """

    def __init__(self, search: VectorlessSearch) -> None:
        self._search = search
        self._thread = WorkerThread("soloist-look")
        self._tasks: dict[ShardRef, Task[list[VectorlessText]]] = {}
        self._left = threading.Event()

    def __enter__(self) -> SearchAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.close()

    @property
    def looks(self) -> bool:
        """Whether any model may lack a vector."""
        return self._search.looks

    @property
    def left_out(self) -> LeftOut:
        """The texts that were found so far."""
        return self._search.left_out

    def begin(self, ref: ShardRef) -> None:
        """Look through the next shard, which is written."""
        if self.left_out.skipped.count < _MOST_KEPT:
            self._tasks[ref] = self._thread.submit(functools.partial(self._through, ref))

    def through(self, ref: ShardRef) -> list[VectorlessText]:
        """The texts of the next shard without a vector, in order.

        Raises:
            EncodingError: the thread was ended from outside.
        """
        task = self._tasks.pop(ref, None)
        return task.result() if task is not None else self._search.through(ref)

    def _through(self, ref: ShardRef) -> list[VectorlessText]:
        return [] if self._left.is_set() else self._search.through(ref)
