"""The files of sparse vectors of a run folder: for each shard the words' numbers and weights, written once and read.

A file lies where a model's dense vectors would lie, and has a row for every chunk, in the same order, with the counts
of its tokens. A row depends on the text alone, so it can be copied wherever the text goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from soloist.digests import DIGEST_BYTES
from soloist.ragged import RaggedRows
from soloist.stores.layout import Layout
from soloist.stores.manifest import FileRecord, record_of
from soloist.stores.tables import (
    COUNT_COLUMNS,
    KIND,
    NUMBERS,
    read_errors,
    read_table,
    table_counts,
    table_texts,
    tally_of,
    write_chunk_file,
)
from soloist.types import VectorDType


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SparseShard:
    """Sparse vectors of texts, float32, and the tokens that the model read of each text and cut off, (rows, 2)."""

    rows: RaggedRows
    counts: NDArray[np.int32]

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """What they take in memory."""
        return self.rows.nbytes + self.counts.nbytes

    def take(self, numbers: NDArray[np.int64]) -> SparseShard:
        """The texts with these numbers, in this order."""
        return SparseShard(rows=self.rows.take(numbers), counts=self.counts[numbers])

    @classmethod
    def joined(cls, parts: Iterable[SparseShard]) -> SparseShard:
        """The texts of all parts, of which there is one or more, in order."""
        given = list(parts)
        return cls(
            rows=RaggedRows.joined([part.rows for part in given]),
            counts=np.concatenate([part.counts for part in given]),
        )


@dataclass(frozen=True, slots=True)
class SparseFiles:
    """The files of sparse vectors in a run folder. `write` raises OutputError where the disk does not take the file,
    `read` where the file is missing or damaged.
    """

    root: Path

    def write(
        self,
        collection: str,
        model: str,
        index: int,
        ids: Sequence[str],
        shard: SparseShard,
        digests: Sequence[bytes],
        fingerprint: str,
        vector_dtype: VectorDType,
        content: str,
    ) -> FileRecord:
        """Write one model's sparse vectors of one shard. `digests` are of its texts, `content` is the digest of its ids
        and texts. In float16 weights are rounded to the nearest.
        """
        layout = Layout(self.root)
        path = layout.vectors(collection, model, index)
        layout.require_inside(path)
        write_chunk_file(path, sparse_table(model, ids, shard, digests, fingerprint, vector_dtype))
        return record_of(
            self.root, path, "vectors", len(ids), collection=collection, shard=index, model=model, content=content,
            fingerprint=fingerprint, vector_dtype=vector_dtype, **asdict(tally_of(shard.counts)),
        )  # fmt: skip

    def read(self, collection: str, model: str, index: int) -> tuple[list[str], RaggedRows]:
        """The ids and the sparse vectors of a shard; the weights are float32."""
        path = Layout(self.root).vectors(collection, model, index)
        with read_errors(path):
            table = read_table(path)
            return table_texts(table, "id"), table_sparse(table).rows


def sparse_table(
    model: str,
    ids: Sequence[str],
    shard: SparseShard,
    digests: Sequence[bytes],
    fingerprint: str,
    vector_dtype: VectorDType = "float32",
) -> pa.Table:
    """The table of a shard's sparse vectors: `id`, `text_digest`, the lists `indices` and `values`, and the counts.

    A weight that float16 rounds to zero is left out.

    Raises:
        ValueError: another number of ids, digests and rows, or a weight that is not finite as it is stored.
    """
    if not len(ids) == len(digests) == len(shard):
        raise ValueError(f"{len(ids)} ids and {len(digests)} digests for {len(shard)} rows: give one each a row")
    rows = stored_rows(shard.rows, vector_dtype)
    rows.require_sound()
    starts = pa.array(rows.starts, pa.int32())  # 4,096 rows of 250,002 words have fewer entries than that
    columns = {
        "id": pa.array(ids, pa.string()),
        "text_digest": pa.array(digests, pa.binary(DIGEST_BYTES)),
        "indices": pa.ListArray.from_arrays(starts, pa.array(rows.keys)),
        "values": pa.ListArray.from_arrays(starts, pa.array(rows.values, NUMBERS[vector_dtype])),
    }
    for name, column in zip(COUNT_COLUMNS, shard.counts.T, strict=True):
        columns[name] = pa.array(np.ascontiguousarray(column), pa.int32())
    named = model.encode("utf-8", "backslashreplace")
    metadata = {"soloist.model": named, KIND: "sparse", "soloist.fingerprint": fingerprint}
    return pa.table(columns).replace_schema_metadata(metadata)


def stored_rows(rows: RaggedRows, vector_dtype: VectorDType) -> RaggedRows:
    """Rows as a table of this dtype stores them. What was stored is stored again with the same bits."""
    with np.errstate(over="ignore"):  # what overflows is refused by whoever writes
        values = rows.values.astype(vector_dtype)
    kept = values != 0
    if kept.all():
        return RaggedRows(starts=rows.starts, keys=rows.keys, values=values)
    before = np.concatenate([[0], np.cumsum(kept)])
    return RaggedRows(starts=before[rows.starts], keys=rows.keys[kept], values=values[kept])


def table_sparse(table: pa.Table) -> SparseShard:
    """The sparse vectors that `sparse_table` took, as float32.

    Raises:
        ValueError: the table has other columns, or rows that no sparse vector can have.
    """
    indices, values = (_lists(table, name) for name in ("indices", "values"))
    counts = table_counts(table)
    if indices.offsets != values.offsets or counts is None:
        raise ValueError("its indices and values are of different lengths, or it lacks the counts of tokens")
    starts = indices.offsets.to_numpy().astype(np.int64)
    numbers: NDArray[Any] = values.flatten().to_numpy()
    if indices.type != pa.list_(pa.uint32()) or values.type not in map(pa.list_, NUMBERS.values()):
        raise ValueError(f"its columns are of the types {indices.type} and {values.type}, not those of sparse vectors")
    rows = RaggedRows(starts=starts - starts[0], keys=indices.flatten().to_numpy(), values=numbers.astype(np.float32))
    rows.require_sound()
    return SparseShard(rows=rows, counts=counts)


def _lists(table: pa.Table, name: str) -> pa.ListArray:
    column = table[name]
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if not pa.types.is_list(array.type) or array.null_count or array.flatten().null_count:
        raise ValueError(f"its column {name} has rows without a value")
    return array
