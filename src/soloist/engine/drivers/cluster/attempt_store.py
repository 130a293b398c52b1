"""Where a worker of a cluster keeps the rows that it computes: in the folder of its attempt, never in its final place.

The driving process has looked for the rows that are known, and says which ones to compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.encoding.encoder import Encoder
from soloist.engine.drivers.row_stores import ComputedShard
from soloist.engine.resume.known_texts import Placement
from soloist.ingestion.ingest import ShardRef
from soloist.ragged import RaggedRows
from soloist.stores import RunFolder
from soloist.stores.attempts import attempt_folder, make_room, require_kept
from soloist.stores.manifest import FileRecord
from soloist.stores.sparse_files import SparseShard
from soloist.types import VectorDType


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A shard to compute, as a worker is told of it. `fresh` has the rows to compute by model, None for all of them.

    `copies` are by model how many rows are copies, and how many of those are reused and from other runs.
    """

    attempt: str
    shard: ShardRef
    fresh: Mapping[str, Sequence[int] | None]
    copies: Mapping[str, tuple[int, int, int]]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Task:
        """What `dataclasses.asdict` made of a task."""
        copies = {
            model: (int(all_), int(reused), int(others)) for model, (all_, reused, others) in values["copies"].items()
        }
        return cls(
            attempt=values["attempt"], shard=ShardRef(**values["shard"]), fresh=dict(values["fresh"]), copies=copies
        )

    def placement(self, model: str) -> Placement:
        """Which rows of the shard to compute. Where the others come from is not known here, only how many there are."""
        fresh, (copied, reused, from_others) = self.fresh[model], self.copies[model]
        return Placement(
            file=0,
            fresh=tuple(range(self.shard.rows) if fresh is None else fresh),
            copies=np.zeros((copied, 3), dtype=np.int64),
            reused=reused,
            from_others=from_others,
        )


def task_of(attempt: str, shard: ShardRef, placements: Mapping[str, Placement]) -> Task:
    """The task for a shard whose known rows have been looked for."""
    return Task(
        attempt=attempt,
        shard=shard,
        fresh={model: placed.fresh if len(placed.copies) else None for model, placed in placements.items()},
        copies={model: (len(placed.copies), placed.reused, placed.from_others) for model, placed in placements.items()},
    )


class AttemptStore:
    """The rows of one model in a worker. A file has the rows that were computed, and no copies."""

    def __init__(self, model: str, encoder: Encoder, folder: RunFolder, session: Path, dtype: VectorDType) -> None:
        self._model = model
        self._staged = encoder.staged.member(model)
        self._folder = folder
        self._session = session
        self._vector_dtype = dtype
        self._tasks: dict[Path, Task] = {}
        self.records: dict[str, FileRecord] = {}

    def expect(self, task: Task) -> None:
        """Take note of a task whose shard will be placed and written."""
        self._tasks[self._path(task.shard)] = task

    def task(self, collection: str, index: int) -> Task:
        """The task of a shard."""
        return self._tasks[self._final(collection, index)]

    def place(self, path: Path, digests: Sequence[bytes]) -> Placement:
        """See `RowStore`: the driving process has looked."""
        return self._tasks[path].placement(self._model)

    def write(self, shard: ComputedShard) -> FileRecord:
        """Write the computed rows of a shard into the folder of its attempt.

        Raises:
            OutputError: the disk does not take the file, or the session is over.
        """
        ref, task = shard.ref, self._tasks[self._path(shard.ref)]
        attempt = attempt_folder(self._session, task.attempt)
        make_room(attempt, self._path(ref).relative_to(self._folder.path).as_posix())
        rows = shard.placement.fresh
        ids, digests = [shard.ids[row] for row in rows], [shard.digests[row] for row in rows]
        record = self._write(attempt, ref, ids, digests, shard)
        require_kept(attempt)
        self.records[task.attempt] = record
        return record

    def moved(self, placement: Placement, record: FileRecord, checksums: NDArray[np.uint32]) -> None:
        """See `RowStore`. Vectors that were embedded while the input was read never come to a worker."""
        raise AssertionError("a worker has no files that wait for their pass")

    def _write(
        self, attempt: RunFolder, ref: ShardRef, ids: list[str], digests: list[bytes], shard: ComputedShard
    ) -> FileRecord:
        fingerprint, rows = self._staged.fingerprint, shard.rows
        if isinstance(rows, RaggedRows):
            return attempt.sparse.write(
                ref.collection, self._model, ref.index, ids, SparseShard(rows=rows, counts=shard.counts), digests,
                fingerprint, self._vector_dtype, ref.content,
            )  # fmt: skip
        assert isinstance(rows, np.ndarray)
        return attempt.shards.write_vectors(
            ref.collection, self._model, ref.index, ids, rows, digests, fingerprint, shard.counts, self._vector_dtype,
            ref.content,
        )  # fmt: skip

    def _path(self, ref: ShardRef) -> Path:
        return self._final(ref.collection, ref.index)

    def _final(self, collection: str, index: int) -> Path:
        return self._folder.path / self._folder.shards.vectors_file(collection, self._model, index)
