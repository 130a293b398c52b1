"""The shards of a pass on their way: looked up in input order, handed out, and taken into the run.

Knows run folders and which rows are known. Knows no worker: whoever asks for a shard says when it is computed or lost.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from soloist.digests import text_digest
from soloist.engine.drivers.preparing import Work
from soloist.engine.drivers.row_stores import ComputedShard, KeptRows, UntrueFileError
from soloist.engine.resume.known_texts import Placement
from soloist.errors import OutputError
from soloist.ingestion.ingest import ShardRef
from soloist.stores import RunFolder
from soloist.stores.atomic import disk_errors
from soloist.stores.manifest import FileRecord

# Shards that wait to be taken in take some 70 kB each here.
_MOST_COMPLETE = 1024


@dataclass(slots=True, kw_only=True, eq=False)
class GivenShard:
    """A shard whose known rows have been looked for. `attempt` names the present attempt at it.

    `sources` are by model the files that were not there yet, and from which rows are copied.
    `computed` has by model the file of the attempt that computed it, `ended` the nodes whose workers ended at it, and
    `node` is that of the present attempt.
    """

    number: int
    work: Work
    placements: Mapping[str, Placement]
    digests: tuple[bytes, ...]
    sources: Mapping[str, frozenset[int]]
    attempt: str = ""
    attempts: int = 0
    node: str = ""
    computed: dict[str, tuple[RunFolder, FileRecord]] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)

    @property
    def ref(self) -> ShardRef:
        """The shard."""
        return self.work.shard

    @property
    def missing(self) -> dict[str, Placement]:
        """By model the rows to compute, which no worker has computed yet."""
        return {
            model: placement
            for model, placement in self.placements.items()
            if placement.fresh and model not in self.computed
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TakenShard:
    """A shard that is part of the run now, for one model. `attempt` is empty where nothing was computed for it."""

    given: GivenShard
    model: str
    record: FileRecord
    attempt: str


class ShardQueue:
    """The shards of a pass that are left, in input order."""

    def __init__(self, work: Iterable[Work], folder: RunFolder, stores: Mapping[str, KeptRows]) -> None:
        self._work = iter(work)
        self._folder = folder
        self._stores = stores
        self._numbers = itertools.count()
        self._ready: deque[GivenShard] = deque()
        self._lost: deque[GivenShard] = deque()
        self._out: set[int] = set()  # the numbers of shards that somebody computes
        self._complete: list[tuple[GivenShard, str]] = []  # computed, and not yet part of the run
        self._open: dict[str, set[int]] = {}  # by model, the files that copies may come from, and which are not there
        self._has_more = True
        self._untrue: list[tuple[str, str]] = []  # nodes, and what is wrong with a file of each

    @property
    def is_done(self) -> bool:
        """Whether all shards are part of the run."""
        return not (self._has_more or self._ready or self._lost or self._out or self._complete)

    def waiting(self, most: int) -> int:
        """How many shards can be handed out, counted up to `most`."""
        while len(self._lost) + len(self._ready) < most and self._may_look_up() and self._look_up():
            pass
        return min(most, len(self._lost) + len(self._ready))

    @property
    def has_lost(self) -> bool:
        """Whether a shard at which a worker ended waits to be handed out again."""
        return bool(self._lost)

    def hand_out(self, name: str, node: str, *, alone: bool, others: Collection[str] = ()) -> GivenShard | None:
        """The next shard to compute on a node, under the name of this attempt; None where there is none now.

        A shard at which a worker ended is handed out only to whoever has no other one, `alone`, and to a node on which
        a worker ended at it only if that is so of all `others` too.
        """
        shard = _first_for(node, others, self._lost) if alone else None
        if shard is not None:
            self._lost.remove(shard)
        else:
            if not self._ready and not self._look_up_to_compute():
                return None
            shard = self._ready.popleft()
        shard.attempts += 1
        shard.node = node
        shard.attempt = f"{name}-{shard.number}-{shard.attempts}"
        self._out.add(shard.number)
        return shard

    def lost(self, shard: GivenShard, node: str | None) -> None:
        """Have a shard handed out again, before all others, because the worker that had it has ended on this node.

        The node is None if the worker had not begun with it.
        """
        self._out.discard(shard.number)
        if node is not None:
            shard.ended.append(node)
        self._lost.append(shard)

    def computed(self, shard: GivenShard, model: str, source: RunFolder, record: FileRecord) -> None:
        """Take note that a worker has written a shard's rows of a model into the folder of its attempt."""
        shard.computed[model] = source, record
        self._complete.append((shard, model))
        if not shard.missing:
            self._out.discard(shard.number)

    def take_in(self, most_seconds: float = math.inf) -> list[TakenShard]:
        """Make those computed shards part of the run whose copies are all there, and give these shards.

        After so many seconds no further one is begun, so that the caller can look after its workers.

        A shard whose file is not what its worker said is handed out again, and `untrue` tells of it.

        Raises:
            OutputError: the disk does not take a file.
        """
        taken: list[TakenShard] = []
        began = time.monotonic()
        while ready := next((item for item in self._complete if _has_its_sources(*item, self._open)), None):
            self._complete.remove(ready)
            try:
                taken.append(self._take(*ready))
            except UntrueFileError as exc:
                self._compute_again(*ready, str(exc))
            if time.monotonic() - began >= most_seconds:
                break
        return taken

    def untrue(self) -> list[tuple[str, str]]:
        """The nodes whose files were not what their workers said, since this was last asked, and what was wrong."""
        found, self._untrue = self._untrue, []
        return found

    def _compute_again(self, shard: GivenShard, model: str, why: str) -> None:
        if shard.number in self._out:  # a worker computes it for another model
            raise OutputError(f"{why}: mount the run's folder alike on all nodes, then run the same command again")
        del shard.computed[model]
        self._untrue.append((shard.node, why))
        self.lost(shard, shard.node)

    def _look_up_to_compute(self) -> bool:
        """Look up shards until there is one with something to compute."""
        while not self._ready:
            if not (self._may_look_up() and self._look_up()):
                return False
        return True

    def _may_look_up(self) -> bool:
        """Whether there is room for what is known of one more shard."""
        return len(self._complete) < _MOST_COMPLETE

    def _look_up(self) -> bool:
        """Look for the known rows of the next shard; False where there is no next one."""
        work = next(self._work, None)
        if work is None:
            self._has_more = False
            return False
        ref = work.shard
        texts = self._folder.shards.read_shard(ref.collection, ref.index).texts
        digests = tuple(map(text_digest, texts))
        placements = {
            model: self._stores[model].place(_file(self._folder, ref, model), digests) for model in work.models
        }
        sources = {
            model: frozenset(np.unique(placement.copies[:, 1]).tolist()) & self._open.get(model, set())
            for model, placement in placements.items()
        }
        shard = GivenShard(
            number=next(self._numbers), work=work, placements=placements, digests=digests, sources=sources
        )
        for model, placement in placements.items():
            self._open.setdefault(model, set()).add(placement.file)
        self._complete += [(shard, model) for model, placement in placements.items() if not placement.fresh]
        if shard.missing:
            self._ready.append(shard)
        return True

    def _take(self, shard: GivenShard, model: str) -> TakenShard:
        placement, store = shard.placements[model], self._stores[model]
        source, computed = shard.computed.get(model, (None, None))
        if source is not None and computed is not None and not len(placement.copies):
            store.take_in(source, placement, computed, shard.digests)
            record = computed
        else:
            record = self._write(shard, model, source, computed)
        self._open[model].discard(placement.file)
        return TakenShard(given=shard, model=model, record=record, attempt=source.path.name if source else "")

    def _write(
        self, shard: GivenShard, model: str, source: RunFolder | None, computed: FileRecord | None
    ) -> FileRecord:
        """Write a shard with copies here, where the rows that are copied are known."""
        ref, store = shard.ref, self._stores[model]
        if source is not None and computed is not None:
            fresh = [shard.digests[row] for row in shard.placements[model].fresh]
            rows, counts = store.computed(source, computed, fresh)
        else:
            rows, counts = store.no_rows(), np.empty((0, 2), dtype=np.int32)
        ids = self._folder.shards.read_ids(ref.collection, ref.index)
        record = store.write(
            ComputedShard(
                ref=ref, ids=ids, digests=shard.digests, placement=shard.placements[model], rows=rows, counts=counts
            )
        )
        if source is not None and computed is not None:
            with disk_errors(source.path):
                (source.path / computed.file).unlink(missing_ok=True)
        return record


def _file(folder: RunFolder, ref: ShardRef, model: str) -> Path:
    return folder.path / folder.shards.vectors_file(ref.collection, model, ref.index)


def _has_its_sources(shard: GivenShard, model: str, open_files: Mapping[str, set[int]]) -> bool:
    """Whether all files are there from which rows are copied."""
    return shard.sources[model].isdisjoint(open_files[model])


def _first_for(node: str, others: Collection[str], lost: Iterable[GivenShard]) -> GivenShard | None:
    """The first shard that may be computed on this node: no worker ended there at it, or one did on every other too."""
    return next((shard for shard in lost if node not in shard.ended or {*others} <= {*shard.ended}), None)
