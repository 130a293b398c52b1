"""The vectors of a file as they lie in it: the operating system reads them as they are looked at."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from soloist.arrays import Vectors
from soloist.errors import OutputError
from soloist.stores.atomic import disk_errors
from soloist.stores.rows import Column, Version, vector_column, version_in, version_of
from soloist.stores.tables import read_errors, read_table, stored_dtype, table_matrix, table_texts

_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MappedVectors:
    """A file of vectors, as it was when it was opened. Of another writer's file, whose values lie otherwise, `column`
    is None and the file is read whole.
    """

    path: Path
    rows: int
    dim: int
    row_bytes: int
    column: Column | None
    version: Version

    @classmethod
    def open(cls, path: Path) -> MappedVectors:
        """Find out where the vectors lie.

        Raises:
            OutputError: the file is missing or damaged, or has no vectors.
        """
        with read_errors(path), path.open("rb") as file:
            version = version_of(file)
            with pq.ParquetFile(file) as parquet:
                kind = parquet.schema_arrow.field("vector").type
                stored_dtype(kind)
                column = vector_column(file, parquet.metadata, parquet.schema_arrow)
                return cls(
                    path=path, rows=parquet.metadata.num_rows, dim=kind.list_size,
                    row_bytes=kind.list_size * kind.value_type.bit_width // 8, column=column, version=version,
                )  # fmt: skip

    @contextlib.contextmanager
    def mapped(self) -> Iterator[Callable[[int, int], Vectors]]:
        """Within this, `rows(start, end)` are those rows, (end - start, dim) float32; a view where they are stored so.

        Raises:
            OutputError: the file has changed since it was opened, or is gone.
        """
        with read_errors(self.path), self.path.open("rb") as file:
            self._require_same(version_of(file))
            if self.column is None:
                whole = table_matrix(read_table(self.path, columns=("vector",)))
                yield lambda start, end: whole[start:end]
                return
            views = self.column.views(file)
        yield lambda start, end: _rows(views, start, end)

    def at(self, rows: NDArray[np.int64]) -> Vectors:
        """The rows with these numbers, (len(rows), dim) float32.

        Raises:
            OutputError: as `mapped`.
        """
        with read_errors(self.path), self.path.open("rb") as file:
            self._require_same(version_of(file))
            if self.column is None:
                return table_matrix(read_table(self.path, columns=("vector",)))[rows]
            return self.column.read(file, rows).astype(np.float32, copy=False)

    def require_unchanged(self) -> None:
        """See that what was read of the file still holds.

        Raises:
            OutputError: as `mapped`.
        """
        with read_errors(self.path):
            self._require_same(version_in(self.path.stat()))

    def ids(self) -> list[str]:
        """The ids of the rows.

        Raises:
            OutputError: the file has changed since it was opened, or is gone.
        """
        with read_errors(self.path), self.path.open("rb") as file:
            self._require_same(version_of(file))
            with pq.ParquetFile(file) as parquet:
                return table_texts(parquet.read(columns=["id"]), "id")

    def _require_same(self, version: Version) -> None:
        if version != self.version:
            raise OutputError(f"{self.path} has changed since the run was opened: open the run again")


def joined(files: Sequence[MappedVectors], folder: Path) -> NDArray[Any]:
    """The rows of several files as one array (rows, dim), read-only, in the dtype that they are stored in.

    They are copied, a block at a time, into a file without a name, which is mapped. It is in `folder`, or in the
    system's temporary folder if `folder` takes no files. Its space is free again when the array is gone.

    Raises:
        OutputError: a file has changed since it was opened, or is gone, or the disk is full.
    """
    rows, dim, row_bytes = sum(file.rows for file in files), files[0].dim, files[0].row_bytes
    dtype = np.dtype(np.float16 if row_bytes < dim * np.dtype(np.float32).itemsize else np.float32)
    block_rows = max(1, _BLOCK_BYTES // row_bytes)
    with _nameless_file(folder) as copy:
        for file in files:
            with file.mapped() as rows_of:
                for start in range(0, file.rows, block_rows):
                    block = rows_of(start, min(file.rows, start + block_rows))
                    with disk_errors(folder):
                        copy.write(np.ascontiguousarray(block, dtype).data)
        with disk_errors(folder):
            copy.flush()
        return np.memmap(copy, dtype, "r", shape=(rows, dim))


def _nameless_file(folder: Path) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(dir=folder)
    except OSError:  # a run may be on a read-only disk
        return tempfile.TemporaryFile()


def _rows(views: list[tuple[int, np.ndarray[Any, Any]]], start: int, end: int) -> Vectors:
    """Rows of views that begin at the given rows and lie one behind the other."""
    parts = [
        view[max(0, start - first) : end - first] for first, view in views if first < end and first + len(view) > start
    ]
    found = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return found.astype(np.float32, copy=False)
