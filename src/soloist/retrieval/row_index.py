"""Which chunk a row is: the shards of a run, one behind the other. Knows the manifest and files of vectors."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from soloist.arrays import Vectors
from soloist.errors import OutputError
from soloist.retrieval.exact import BLOCK_ROWS
from soloist.stores import RunFolder
from soloist.stores.mapped import MappedVectors
from soloist.wording import count_text


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLocation:
    """Where one row of a run lies."""

    collection: str
    shard: int
    row: int


class RowIndex:
    """The rows of some collections of a finished run, in the order of collections, shards and rows."""

    def __init__(self, folder: RunFolder, collections: Sequence[str]) -> None:
        records = folder.manifest.read().values()
        rows = {(each.collection, each.shard): each.rows for each in records if each.kind == "chunks"}
        self._folder = folder
        order = {name: number for number, name in enumerate(collections)}
        self._shards = sorted((each for each in rows if each[0] in order), key=lambda each: (order[each[0]], each[1]))
        self._starts = [0, *itertools.accumulate(rows[each] for each in self._shards)]

    @property
    def shards(self) -> Sequence[tuple[str, int]]:
        """Collection and index of each shard."""
        return self._shards

    @property
    def rows(self) -> int:
        """How many there are."""
        return self._starts[-1]

    def location(self, position: int) -> RowLocation:
        """Where a row lies."""
        number = bisect_right(self._starts, position) - 1
        collection, shard = self._shards[number]
        return RowLocation(collection=collection, shard=shard, row=position - self._starts[number])

    def ids(self) -> Iterator[tuple[str, str]]:
        """Collection and id of every row, in order."""
        for collection, shard in self._shards:
            for each in self._folder.shards.read_ids(collection, shard):
                yield collection, each

    def vectors(self, files: Callable[[str, int], str]) -> RunVectors:
        """The vectors of all rows, in the files that `files(collection, shard)` names inside the folder.

        Raises:
            OutputError: a file is missing or damaged, or has other rows.
        """
        return RunVectors(
            [
                _open(self._folder, files(collection, shard), end - start)
                for (collection, shard), start, end in zip(self._shards, self._starts, self._starts[1:], strict=False)
            ]
        )


class RunVectors:
    """The vectors of all rows by one model, or fused; nothing of them is in memory until it is asked for."""

    def __init__(self, files: Sequence[MappedVectors]) -> None:
        self._files = files

    def __len__(self) -> int:
        return sum(file.rows for file in self._files)

    @property
    def stored_bytes(self) -> int:
        """What a row takes on the disk."""
        return self._files[0].row_bytes if self._files else 0

    def blocks(self) -> Iterator[Vectors]:
        """The rows in order, (up to `BLOCK_ROWS`, dim) float32 each; the blocks of a run's models have the same rows.

        Raises:
            OutputError: a file has changed since it was opened, or is gone.
        """
        for file in self._files:
            with file.mapped() as rows:
                for start in range(0, file.rows, BLOCK_ROWS):
                    yield rows(start, min(file.rows, start + BLOCK_ROWS))


def _open(folder: RunFolder, name: str, rows: int) -> MappedVectors:
    file = MappedVectors.open(folder.path / name)
    if file.rows != rows:
        raise OutputError(
            f"{folder.path / name} has {count_text(file.rows, 'row')} for {count_text(rows, 'chunk')}: give the "
            "command that made the run again"
        )
    return file
