"""Where a pass keeps the rows of its models: what is known of them, and the files that it writes.

A dense model has vectors of one width, whose files are read row by row. A sparse model has rows of different lengths,
whose files are read whole. Knows run folders; the caller decides when a shard is written.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from soloist.arrays import Vectors
from soloist.digests import row_checksums, shard_digest
from soloist.encoding.encoder import Encoder
from soloist.encoding.found_rows import MemberRows
from soloist.engine.drivers.context import PassContext
from soloist.engine.resume.known_texts import Placement
from soloist.engine.resume.pending import RunShards
from soloist.engine.resume.ragged_reuse import KnownRows, add_known
from soloist.engine.resume.vector_reuse import known_vectors, serves
from soloist.errors import OutputError
from soloist.ingestion.ingest import ShardRef
from soloist.ragged import RaggedRows
from soloist.stores import RunFolder
from soloist.stores.manifest import FileRecord
from soloist.stores.moving import move_in
from soloist.stores.shared_folder import awaited
from soloist.stores.sparse_files import SparseShard, table_sparse
from soloist.stores.tables import (
    VectorFile,
    rounded,
    table_counts,
    table_digests,
    table_matrix,
    table_texts,
    whole_table,
)

_UNKNOWN = -1
_NO_CHECKSUMS: NDArray[np.uint32] = np.empty(0, dtype=np.uint32)  # a sparse file is compared whole


class UntrueFileError(OutputError):
    """The file of a worker is not what the worker said of it, or has rows of other chunks."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComputedShard:
    """A shard to write for one member: its new rows, and the token counts of those, (new rows, 2)."""

    ref: ShardRef
    ids: Sequence[str]
    digests: Sequence[bytes]
    placement: Placement
    rows: MemberRows
    counts: NDArray[np.int32]


class RowStore(Protocol):
    """The rows of one model of a pass."""

    def place(self, path: Path, digests: Sequence[bytes]) -> Placement:
        """Look for the texts of a shard, which will have its rows in the file of this path."""

    def write(self, shard: ComputedShard) -> FileRecord:
        """Write a shard, from its new rows and copies of known ones, and record it in the manifest.

        Raises:
            OutputError: the disk does not take the file, or a file with a copy has changed.
        """

    def moved(self, placement: Placement, record: FileRecord, checksums: NDArray[np.uint32]) -> None:
        """Record a file that was moved into its place, with the checksums of its rows."""


class KeptRows(RowStore, Protocol):
    """The rows of one model of a pass, as the process has them that drives the run. It takes rows of others in."""

    def no_rows(self) -> MemberRows:
        """The new rows of a shard that has none."""

    def take_in(self, source: RunFolder, placement: Placement, record: FileRecord, digests: Sequence[bytes]) -> None:
        """Move a whole file of `source`, a folder inside the run's folder, into its place, and record it.

        Raises:
            UntrueFileError: the file has not the bytes that its record says, or is of texts with other digests.
            OutputError: the file cannot be moved.
        """

    def computed(
        self, source: RunFolder, record: FileRecord, digests: Sequence[bytes]
    ) -> tuple[MemberRows, NDArray[np.int32]]:
        """The rows of a file of `source`, and the token counts of them, (rows, 2).

        Raises:
            UntrueFileError: the file has not the bytes that its record says, or is of texts with other digests.
        """


def row_stores(context: PassContext, models: Container[str]) -> dict[str, KeptRows]:
    """The rows of each of these models of a pass, those that need not be computed among them."""
    return {
        model: row_store_of(model, encoder, context.run_shards, context.stop.check)
        for model, encoder in context.encoders.items()
        if model in models
    }


def row_store_of(model: str, encoder: Encoder, run_shards: RunShards, check: Callable[[], object]) -> KeptRows:
    """The rows of a model. Finished files are read for it. `check` is called before each file, and may raise."""
    kind = SparseStore if encoder.staged.member(model).kind == "sparse" else DenseStore
    return kind(model, encoder, run_shards, check)


class DenseStore:
    """Vectors of length 1."""

    def __init__(self, model: str, encoder: Encoder, run_shards: RunShards, check: Callable[[], object]) -> None:
        self._model = model
        self._encoder = encoder
        self._staged = encoder.staged.member(model)
        self._run_shards = run_shards
        self._known = known_vectors(
            run_shards.folder, run_shards.others, model, self._staged.fingerprint, run_shards.vector_dtype, check
        )

    def place(self, path: Path, digests: Sequence[bytes]) -> Placement:
        """See `RowStore`."""
        return self._known.place(path, digests)

    def write(self, shard: ComputedShard) -> FileRecord:
        """See `RowStore`."""
        ref, vector_dtype = shard.ref, self._run_shards.vector_dtype
        vectors, counts = self._whole(shard)
        record = self._run_shards.folder.shards.write_vectors(
            ref.collection, self._model, ref.index, shard.ids, vectors, shard.digests,
            self._staged.fingerprint, counts, vector_dtype, ref.content,
        )  # fmt: skip
        self.moved(shard.placement, record, row_checksums(rounded(vectors, vector_dtype)))
        return record

    def moved(self, placement: Placement, record: FileRecord, checksums: NDArray[np.uint32]) -> None:
        """See `RowStore`."""
        self._run_shards.folder.manifest.append(record)
        self._known.written(placement, checksums)

    def no_rows(self) -> MemberRows:
        """See `KeptRows`."""
        return np.empty((0, self._staged.dim), dtype=np.float32)

    def take_in(self, source: RunFolder, placement: Placement, record: FileRecord, digests: Sequence[bytes]) -> None:
        """See `KeptRows`."""
        checksums = row_checksums(table_matrix(_table_of_a_shard(source, record, digests)))
        move_in(self._run_shards.folder, source, record)
        self.moved(placement, record, checksums)

    def computed(
        self, source: RunFolder, record: FileRecord, digests: Sequence[bytes]
    ) -> tuple[MemberRows, NDArray[np.int32]]:
        """See `KeptRows`."""
        table = _table(source, record, digests)
        counts = table_counts(table)
        if counts is None:
            raise _has_other_bytes(source.path / record.file)
        return table_matrix(table), counts

    def _whole(self, shard: ComputedShard) -> tuple[Vectors, NDArray[np.int32]]:
        """The vectors and token counts of a whole shard: what was encoded, and copies of what was known.

        A copy may come from the shard before. That shard is written by now, because shards are written in their order.
        """
        computed = shard.rows
        assert isinstance(computed, np.ndarray)
        if not len(shard.placement.copies):
            return computed, shard.counts
        fresh = list(shard.placement.fresh)
        vectors = np.empty((shard.ref.rows, self._staged.dim), dtype=np.float32)
        vectors[fresh] = computed
        counts = np.full((shard.ref.rows, 2), _UNKNOWN, dtype=np.int32)
        counts[fresh] = shard.counts
        self._known.fill(
            _path(self._run_shards, shard.ref, self._model), shard.digests, shard.placement, vectors, counts
        )
        self._count_unknown(shard.ref, counts)
        return vectors, counts

    def _count_unknown(self, ref: ShardRef, counts: NDArray[np.int32]) -> None:
        """Count the tokens of rows whose vectors were taken from a file of an earlier version, which has no counts."""
        rows = np.flatnonzero((counts == _UNKNOWN).any(axis=1))
        if rows.size:
            texts = self._run_shards.folder.shards.read_shard(ref.collection, ref.index).texts
            counts[rows] = self._encoder.tokenize([texts[row] for row in rows]).counts


class SparseStore:
    """Sparse vectors, as the model gives them."""

    def __init__(self, model: str, encoder: Encoder, run_shards: RunShards, check: Callable[[], object]) -> None:
        self._model = model
        self._run_shards = run_shards
        self._fingerprint = encoder.staged.member(model).fingerprint
        self._known: KnownRows[SparseShard] = KnownRows(table_sparse, SparseShard.joined)

        def is_of_it(stored: FileRecord | VectorFile) -> bool:
            return stored.fingerprint == self._fingerprint and serves(stored.vector_dtype, run_shards.vector_dtype)

        add_known(self._known, run_shards.folder, run_shards.others, model, is_of_it, check)

    def place(self, path: Path, digests: Sequence[bytes]) -> Placement:
        """See `RowStore`."""
        return self._known.place(path, digests)

    def write(self, shard: ComputedShard) -> FileRecord:
        """See `RowStore`."""
        ref, computed = shard.ref, shard.rows
        assert isinstance(computed, RaggedRows)
        fresh = SparseShard(rows=computed, counts=shard.counts)
        record = self._run_shards.folder.sparse.write(
            ref.collection, self._model, ref.index, shard.ids, self._known.whole(shard.placement, shard.digests, fresh),
            shard.digests, self._fingerprint, self._run_shards.vector_dtype, ref.content,
        )  # fmt: skip
        self._run_shards.folder.manifest.append(record)
        self._known.written(shard.placement, record.sha256)
        return record

    def moved(self, placement: Placement, record: FileRecord, checksums: NDArray[np.uint32]) -> None:
        """See `RowStore`."""
        self._run_shards.folder.manifest.append(record)
        self._known.written(placement, record.sha256)

    def no_rows(self) -> MemberRows:
        """See `KeptRows`."""
        return RaggedRows.empty(0, np.float32)

    def take_in(self, source: RunFolder, placement: Placement, record: FileRecord, digests: Sequence[bytes]) -> None:
        """See `KeptRows`."""
        table_sparse(_table_of_a_shard(source, record, digests))
        move_in(self._run_shards.folder, source, record)
        self.moved(placement, record, _NO_CHECKSUMS)

    def computed(
        self, source: RunFolder, record: FileRecord, digests: Sequence[bytes]
    ) -> tuple[MemberRows, NDArray[np.int32]]:
        """See `KeptRows`."""
        shard = table_sparse(_table(source, record, digests))
        return shard.rows, shard.counts


def _has_other_bytes(path: Path) -> UntrueFileError:
    return UntrueFileError(f"{path} has not the bytes that its worker wrote")


def _table(source: RunFolder, record: FileRecord, digests: Sequence[bytes]) -> pa.Table:
    """A file of a worker, whose rows are of the texts with these digests.

    The worker has read the texts itself, and its node may still have had an older file of chunks.
    """
    path = source.path / record.file
    table = awaited(lambda: whole_table(path, record.sha256))
    if table is None:
        raise _has_other_bytes(path)
    if table_digests(table) != [*digests]:
        raise _is_of_other_chunks(path)
    return table


def _table_of_a_shard(source: RunFolder, record: FileRecord, digests: Sequence[bytes]) -> pa.Table:
    """As `_table`, for a file that is moved into the run as it is, with the ids that its worker has read."""
    table = _table(source, record, digests)
    if record.content and shard_digest(table_texts(table, "id"), digests) != record.content:
        raise _is_of_other_chunks(source.path / record.file)
    return table


def _is_of_other_chunks(path: Path) -> UntrueFileError:
    return UntrueFileError(
        f"{path} has rows of other chunks than the run, because its worker has read another file of chunks than this "
        "machine"
    )


def _path(run_shards: RunShards, ref: ShardRef, model: str) -> Path:
    folder = run_shards.folder
    return folder.path / folder.shards.vectors_file(ref.collection, model, ref.index)
