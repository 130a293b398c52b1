"""The shards of a run folder: files of chunks, of each model's vectors and of fused vectors, written once and read.

Knows one shard at a time. A file that was written counts only once its record is in the manifest, which the caller
appends: nothing here knows the manifest, beyond what it says of which shards there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soloist.arrays import Vectors
from soloist.digests import digest_of_rows, shard_digest, text_digest
from soloist.stores.layout import Layout
from soloist.stores.manifest import FileRecord, Manifest, record_of
from soloist.stores.tables import (
    COUNT_COLUMNS,
    PLACE_COLUMNS,
    chunk_table,
    read_errors,
    read_table,
    table_chunks,
    table_counts,
    table_digests,
    table_places,
    table_texts,
    table_vectors,
    tally_of,
    vector_table,
    write_chunk_file,
    write_vector_file,
)
from soloist.types import Chunk, Shard, VectorDType


@dataclass(frozen=True, slots=True)
class ShardFiles:
    """The shards in a run folder; names of collections and models may be any text.

    `write_*` raise OutputError where the disk does not take the file, `read_*` where the file is missing or damaged.
    Vectors are given and read as (n, dim) float32, whatever they are stored as.
    """

    root: Path

    @property
    def _layout(self) -> Layout:
        return Layout(self.root)

    def chunks_file(self, collection: str, index: int) -> str:
        """The path of a file of chunks inside the folder, as the manifest has it."""
        return self._layout.inside(self._layout.chunks(collection, index))

    def vectors_file(self, collection: str, model: str, index: int) -> str:
        """The path of a file of vectors inside the folder, as the manifest has it."""
        return self._layout.inside(self._layout.vectors(collection, model, index))

    def fused_file(self, collection: str, index: int) -> str:
        """The path of a file of fused vectors inside the folder, as the manifest has it."""
        return self._layout.inside(self._layout.fused(collection, index))

    def indices(self, collection: str) -> tuple[int, ...]:
        """The numbers of a collection's chunk shards that the manifest has, in order; empty where it has none."""
        records = Manifest(self.root).read().values()
        return tuple(
            sorted(record.shard for record in records if (record.kind, record.collection) == ("chunks", collection))
        )

    def write_chunks(
        self, collection: str, index: int, chunks: Sequence[Chunk], id_digests: Sequence[bytes] | None = None
    ) -> FileRecord:
        """Write one shard of chunks; the record's `content` is the digest of their ids and texts.

        `id_digests` are the digests of the ids (`text_digest`), if they are known.

        Raises:
            InputError: a chunk that no file can hold, e.g. a lone surrogate in its text.
        """
        path, table = self._layout.chunks(collection, index), chunk_table(chunks)
        self._layout.require_inside(path)
        write_chunk_file(path, table)
        digests = [text_digest(chunk.text) for chunk in chunks]
        if id_digests is None:
            id_digests = [text_digest(chunk.id) for chunk in chunks]
        content = digest_of_rows(id_digests, digests)
        return record_of(self.root, path, "chunks", len(chunks), collection=collection, shard=index, content=content)

    def read_shard(self, collection: str, index: int) -> Shard:
        """The ids and texts of a shard; the metadata stay on the disk."""
        path = self._layout.chunks(collection, index)
        with read_errors(path):
            table = read_table(path, columns=("id", "text"))
            ids, texts = (tuple(table_texts(table, name)) for name in ("id", "text"))
        return Shard(collection=collection, index=index, ids=ids, texts=texts)

    def read_ids(self, collection: str, index: int) -> list[str]:
        """The ids of a shard."""
        path = self._layout.chunks(collection, index)
        with read_errors(path):
            return table_texts(read_table(path, columns=("id",)), "id")

    def read_places(self, collection: str, index: int) -> list[tuple[str, str | None, int | None]]:
        """The ids of a shard, each with the file that it was read from and its index there, as in `Chunk`."""
        path = self._layout.chunks(collection, index)
        with read_errors(path):
            table = read_table(path, columns=("id", *PLACE_COLUMNS))  # of these, those that there are
            return list(zip(table_texts(table, "id"), *table_places(table), strict=True))

    def read_chunks(self, collection: str, index: int, row_numbers: Sequence[int] | None = None) -> list[Chunk]:
        """The chunks of a shard with their metadata, or those of the rows with these numbers."""
        path = self._layout.chunks(collection, index)
        with read_errors(path):
            table = read_table(path)
            return table_chunks(table if row_numbers is None else table.take(list(row_numbers)))

    def write_vectors(
        self,
        collection: str,
        model: str,
        index: int,
        ids: Sequence[str],
        vectors: Vectors,
        digests: Sequence[bytes] | None = None,
        fingerprint: str = "",
        counts: NDArray[np.int32] | None = None,
        vector_dtype: VectorDType = "float32",
        content: str | None = None,
    ) -> FileRecord:
        """Write one model's vectors of one shard. In float16 they are rounded to the nearest.

        With the digests of the texts, later runs can reuse the vectors. With the counts of the texts' tokens, (rows, 2)
        as `vector_table` has them, the record has their tally. `content` is the digest of ids and texts, if known.

        Raises:
            ValueError: another dtype than float32, NaN or infinity, or another number of ids.
        """
        path = self._layout.vectors(collection, model, index)
        table = vector_table(model, ids, vectors, digests, fingerprint, counts, vector_dtype)
        tally = asdict(tally_of(counts)) if counts is not None else {}
        if content is None:
            content = shard_digest(ids, digests) if digests is not None else ""
        self._layout.require_inside(path)
        write_vector_file(path, table)
        return record_of(
            self.root, path, "vectors", len(ids), collection=collection, shard=index, model=model, content=content,
            fingerprint=fingerprint, vector_dtype=vector_dtype, **tally,
        )  # fmt: skip

    def read_vectors(self, collection: str, model: str, index: int) -> tuple[list[str], Vectors]:
        """The ids and one model's vectors of a shard; the array is read-only."""
        path = self._layout.vectors(collection, model, index)
        with read_errors(path):
            return table_vectors(read_table(path))

    def read_digests(self, collection: str, model: str, index: int) -> list[bytes] | None:
        """The digests of the texts that the vectors of a shard are of; None where the file has none."""
        path = self._layout.vectors(collection, model, index)
        with read_errors(path):
            return table_digests(read_table(path, columns=("text_digest",)))

    def read_digests_and_counts(self, collection: str, model: str, index: int) -> tuple[list[bytes], NDArray[np.int32]]:
        """The digests of a shard's texts, and the counts of their tokens, (rows, 2), as `vector_table` takes them.

        Raises:
            OutputError: the file cannot be read, or lacks the digests or the counts.
        """
        path = self._layout.vectors(collection, model, index)
        with read_errors(path):
            table = read_table(path, columns=("text_digest", *COUNT_COLUMNS))
            digests, counts = table_digests(table), table_counts(table)
            if digests is None or counts is None:
                raise ValueError("it lacks the digests of its texts, or the counts of their tokens")
            return digests, counts

    def write_fused(
        self,
        collection: str,
        index: int,
        ids: Sequence[str],
        vectors: Vectors,
        content: str = "",
        fingerprint: str = "",
        vector_dtype: VectorDType = "float32",
    ) -> FileRecord:
        """Write the fused vectors of one shard; rounded, and with the same errors, as in `write_vectors`."""
        path = self._layout.fused(collection, index)
        table = vector_table("fused", ids, vectors, None, fingerprint, vector_dtype=vector_dtype)
        self._layout.require_inside(path)
        write_vector_file(path, table)
        return record_of(
            self.root, path, "fused", len(ids), collection=collection, shard=index, content=content,
            fingerprint=fingerprint, vector_dtype=vector_dtype,
        )  # fmt: skip

    def read_fused(self, collection: str, index: int) -> tuple[list[str], Vectors]:
        """The ids and fused vectors of a shard; the array is read-only."""
        path = self._layout.fused(collection, index)
        with read_errors(path):
            return table_vectors(read_table(path))
