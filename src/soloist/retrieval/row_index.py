"""Which chunk a row is: the shards of a run, one behind the other. Knows the manifest, and nothing of vectors."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from soloist.stores import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLocation:
    """Where one row of a run lies."""

    collection: str
    shard: int
    row: int


class RowIndex:
    """The rows of some collections of a finished run, in the order of collections, shards and rows."""

    def __init__(self, folder: RunFolder, collections: Sequence[str]) -> None:
        order = {name: number for number, name in enumerate(collections)}
        rows = {
            (record.collection, record.shard): record.rows
            for record in folder.manifest.read().values()
            if record.kind == "chunks" and record.collection in order
        }
        self._shards = sorted(rows, key=lambda shard: (order[shard[0]], shard[1]))
        self._starts = [0, *itertools.accumulate(rows[shard] for shard in self._shards)]

    @property
    def shards(self) -> Sequence[tuple[str, int]]:
        """Collection and index of each shard."""
        return self._shards

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._starts[-1]

    def shard_rows(self) -> Iterator[tuple[str, int, int]]:
        """Collection, index and number of rows of each shard."""
        for (collection, shard), (start, end) in zip(self._shards, itertools.pairwise(self._starts), strict=True):
            yield collection, shard, end - start

    def location(self, position: int) -> RowLocation:
        """Where a row lies, given its position among all rows."""
        number = bisect_right(self._starts, position) - 1
        collection, shard = self._shards[number]
        return RowLocation(collection=collection, shard=shard, row=position - self._starts[number])
