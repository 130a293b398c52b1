"""The vectors of some collections of a run, by one model or fused: in blocks for rankers, as one array for a person.

No vector is in memory until somebody asks for it. Knows files of vectors, and nothing about ranking.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from soloist.arrays import Vectors
from soloist.retrieval.exact import BLOCK_ROWS
from soloist.shown import load_pandas
from soloist.stores.mapped import MappedVectors, joined

ALL = slice(None)


class RunVectors:
    """The vectors of all rows by one model, or fused; made by `OpenedRun.vectors`.

        vectors = run.vectors("bge-m3")
        vectors.ids[0], vectors.array[0]

    Row `i` of `array` is the vector of the chunk `ids[i]` of the collection `collections[i]`. Ids are unique within a
    collection. The order is that of `OpenedRun.chunks`.
    """

    def __init__(self, name: str, files: Sequence[tuple[str, MappedVectors]], folder: Path) -> None:
        self._name = name
        self._files = [file for _, file in files]
        self._owners = [collection for collection, _ in files]
        self._folder = folder

    def __repr__(self) -> str:
        return f"<vectors by {self._name}: {len(self):,} rows of {self.dim} components>"

    def __len__(self) -> int:
        return sum(file.rows for file in self._files)

    @property
    def dim(self) -> int:
        """The components of a vector."""
        return self._files[0].dim if self._files else 0

    @property
    def stored_bytes(self) -> int:
        """The bytes of a row on the disk."""
        return self._files[0].row_bytes if self._files else 0

    def blocks(self, files: slice = ALL) -> Iterator[Vectors]:
        """The rows in order, in blocks (up to `BLOCK_ROWS`, dim) of float32. All models of a run have the same blocks.

        If the run stores float32, a block is a view of the run's file. Otherwise it is a copy. `files` are those of
        some shards.

        Raises:
            OutputError: a file has changed since it was opened, or is gone.
        """
        for file in self._files[files]:
            with file.mapped() as rows:
                for start in range(0, file.rows, BLOCK_ROWS):
                    yield rows(start, min(file.rows, start + BLOCK_ROWS))

    def at(self, positions: NDArray[np.int64]) -> Vectors:
        """The rows at these positions, in this order: (positions, dim) float32, a copy.

        Raises:
            OutputError: as `blocks`.
        """
        found = np.empty((len(positions), self.dim), np.float32)
        files = np.searchsorted(self.starts, positions, side="right") - 1
        for number in np.unique(files).tolist():
            places = np.flatnonzero(files == number)
            found[places] = self._files[number].at(positions[places] - self.starts[number])
        return found

    def require_unchanged(self, files: slice) -> None:
        """See that the vectors in some files are those of the run that was opened.

        Raises:
            OutputError: as `blocks`.
        """
        for file in self._files[files]:
            file.require_unchanged()

    @functools.cached_property
    def starts(self) -> NDArray[np.int64]:
        """The position of the first row of each file, and of the row behind the last."""
        return np.cumsum([0, *(file.rows for file in self._files)])

    @functools.cached_property
    def ids(self) -> list[str]:
        """The id of each row's chunk.

        Raises:
            OutputError: as `blocks`.
        """
        return list(itertools.chain.from_iterable(file.ids() for file in self._files))

    @property
    def collections(self) -> list[str]:
        """The collection of each row's chunk."""
        return [owner for owner, file in zip(self._owners, self._files, strict=True) for _ in range(file.rows)]

    @functools.cached_property
    def array(self) -> NDArray[Any]:
        """All rows as one array (rows, dim), read-only and memory-mapped, in the dtype that the run stores.

        A run has a file of vectors for each shard, and no array can span files. So the first use copies the vectors, a
        block at a time, into a temporary file without a name, and maps that file. It takes as much disk as the vectors.
        It is in the run's folder or, if that is read-only, in the system's temporary folder. The space is free again
        when the array and this object are gone. `blocks` needs no copy, and `soloist export --to numpy` makes a file to
        keep.

        Raises:
            OutputError: as `blocks`, or the disk is full.
        """
        return joined(self._files, self._folder)

    def to_arrow(self) -> pa.Table:
        """The columns `collection`, `id` and `vector`; the vectors are those of `array`, memory-mapped."""
        number = pa.array(self.array.reshape(-1))
        owners = pa.array(self.collections, pa.string()).dictionary_encode()
        vectors = pa.FixedSizeListArray.from_arrays(number, self.dim)
        return pa.table({"collection": owners, "id": pa.array(self.ids, pa.string()), "vector": vectors})

    def to_pandas(self) -> Any:
        """The columns `collection`, `id` and `vector`; each vector is a row of `array`.

        Raises:
            ConfigError: pandas is not installed.
        """
        columns = {"collection": self.collections, "id": self.ids, "vector": list(self.array)}
        return load_pandas().DataFrame(columns)
