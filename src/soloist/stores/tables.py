"""Chunks and vectors as Arrow tables and Parquet files. Knows one file at a time, not where the files of a run lie.

The files load as they are in pyarrow, pandas, datasets and DuckDB (those of float16 were tried in the first two).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from soloist.arrays import Vectors
from soloist.digests import DIGEST_BYTES
from soloist.errors import InputError, OutputError
from soloist.jsontext import json_text
from soloist.stores.atomic import atomic_path, disk_errors
from soloist.types import Chunk, MemberKind, TokenTally, VectorDType

# A column of a row group is one page, so that rows can be read one by one (see `rows`): of few enough bytes for readers
# that take it whole, and of fewer rows than the 20,000 at which Arrow begins another page.
_PAGE_BYTES = 64 << 20
_GROUP_ROWS = 1 << 14
REPAIR = "run the soloist embed command of this run again, which repairs the file"
_IF_MISSING = f"{REPAIR}, or name a collection, model and shard that the run has"
COUNT_COLUMNS = ("tokens", "truncated_tokens")
KIND = "soloist.kind"  # in the metadata of a schema; vectors that do not say are dense
NUMBERS: dict[VectorDType, pa.DataType] = {"float32": pa.float32(), "float16": pa.float16()}
_CHUNK_TEXTS = {"id": pa.string(), "text": pa.large_string(), "metadata": pa.large_string()}
PLACE_COLUMNS = ("source_file", "source_index")  # which files of earlier versions do not have
# In memory, as in the file, a name is there once for all chunks of its file.
_NAMES = pa.dictionary(pa.int32(), pa.string())
CHUNK_SCHEMA = pa.schema({**_CHUNK_TEXTS, "source_file": _NAMES, "source_index": pa.int64()})
Places = tuple[list[str | None], list[int | None]]


def chunk_table(chunks: Sequence[Chunk]) -> pa.Table:
    """The table of a chunk shard: `id`, `text`, `metadata` as the text of a JSON object, and where each was read.

    Raises:
        InputError: an id or a text with a lone surrogate, or metadata that JSON does not have.
    """
    for chunk in chunks:
        _require_unicode(chunk)
    columns = (
        [chunk.id for chunk in chunks],
        [chunk.text for chunk in chunks],
        [_metadata_text(chunk) for chunk in chunks],
        [chunk.source_file for chunk in chunks],
        [chunk.source_index for chunk in chunks],
    )
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, CHUNK_SCHEMA, strict=True)], schema=CHUNK_SCHEMA)


def table_chunks(table: pa.Table) -> list[Chunk]:
    """The chunks of a table, their metadata parsed."""
    rows = zip(*(table_texts(table, name) for name in _CHUNK_TEXTS), *table_places(table), strict=True)
    return [
        Chunk(id=id_, text=text, metadata=json.loads(metadata), source_file=file, source_index=index)
        for id_, text, metadata, file, index in rows
    ]


def table_places(table: pa.Table) -> Places:
    """The files that the chunks of a table were read from, one text for all chunks of a file, and their indices there;
    None where the table does not say.

    Raises:
        ValueError: they are of other types.
    """
    if not {*PLACE_COLUMNS} <= {*table.schema.names}:
        return [None] * len(table), [None] * len(table)
    if table.schema.field("source_file").type != _NAMES:
        raise ValueError("its column source_file does not have the names of files")
    files = table["source_file"].unify_dictionaries().combine_chunks()
    names = [*files.dictionary.to_pylist(), None]
    return [names[number] for number in files.indices.fill_null(-1).to_pylist()], table["source_index"].to_pylist()


def table_texts(table: pa.Table, name: str) -> list[str]:
    """A column of texts, one a row.

    Raises:
        ValueError: it is not a column of texts, or a row has none.
    """
    column = table[name]
    if column.type not in (pa.string(), pa.large_string()) or column.null_count:
        raise ValueError(f"its column {name} has rows without a text")
    texts: list[str] = column.to_pylist()
    return texts


def tally_of(counts: np.ndarray[Any, np.dtype[np.int32]]) -> TokenTally:
    """The sums of the tokens and of those cut off, (n, 2) as `vector_table` takes them, and how many rows lost any."""
    tokens, truncated_tokens = counts.sum(axis=0, dtype=np.int64).tolist()
    return TokenTally(
        tokens=tokens, truncated_rows=int(np.count_nonzero(counts[:, 1])), truncated_tokens=truncated_tokens
    )


def vector_table(
    model: str,
    ids: Sequence[str],
    vectors: np.ndarray[Any, Any],
    digests: Sequence[bytes] | None = None,
    fingerprint: str = "",
    counts: np.ndarray[Any, np.dtype[np.int32]] | None = None,
    vector_dtype: VectorDType = "float32",
) -> pa.Table:
    """The table of a vector shard: `id`, and `vector` as a list of fixed size, without a copy of float32 numbers.

    With digests there is a column `text_digest`, with counts there are `tokens` and `truncated_tokens`. The schema's
    metadata hold `soloist.model`, `soloist.dim` and `soloist.fingerprint`.

    Args:
        model: the name for the metadata.
        ids: one a row.
        vectors: (n, dim) float32, finite; copied only where it is not C-contiguous.
        digests: those of the texts that the vectors are of, 16 bytes each.
        fingerprint: of the model that made the vectors.
        counts: (n, 2) int32, the tokens that the model read of each text and those that it cut off.
        vector_dtype: what the numbers are stored as. In float16 each is rounded to the nearest, ties to even, so that
            what was read from a float16 table is stored again with the same bits.

    Raises:
        ValueError: another shape or dtype, another number of ids, or a number that is not finite as it is stored.
    """
    _require_vectors(ids, vectors)
    stored, dim, number = _stored(vectors, vector_dtype), vectors.shape[1], NUMBERS[vector_dtype]
    _require_finite(ids, stored)
    fields = {"id": pa.string(), "vector": pa.list_(number, dim)}
    columns = [pa.array(ids, pa.string()), pa.FixedSizeListArray.from_arrays(pa.array(stored.reshape(-1), number), dim)]
    if digests is not None:
        fields["text_digest"] = pa.binary(DIGEST_BYTES)
        columns.append(pa.array(digests, fields["text_digest"]))
    if counts is not None:
        for name, column in zip(COUNT_COLUMNS, counts.T, strict=True):
            fields[name] = pa.int32()
            columns.append(pa.array(np.ascontiguousarray(column), pa.int32()))
    named = model.encode("utf-8", "backslashreplace")
    metadata = {"soloist.model": named, "soloist.dim": str(dim), "soloist.fingerprint": fingerprint}
    return pa.table(columns, schema=pa.schema(fields).with_metadata(metadata))


def table_digests(table: pa.Table) -> list[bytes] | None:
    """The digests of the texts; None where the table or a row has none, or has others."""
    if "text_digest" not in table.schema.names:
        return None
    column = table["text_digest"]
    if column.null_count or column.type != pa.binary(DIGEST_BYTES):
        return None
    # `to_pylist` would take 14 times as long.
    parts = (part for part in column.chunks if len(part))
    kind = f"V{DIGEST_BYTES}"
    rows = (np.frombuffer(part.buffers()[1], kind, len(part), part.offset * DIGEST_BYTES) for part in parts)
    return [digest for some in rows for digest in some.tolist()]


def table_counts(table: pa.Table) -> np.ndarray[Any, np.dtype[np.int32]] | None:
    """The counts of tokens as `vector_table` takes them; None where the table has none."""
    if not {*COUNT_COLUMNS} <= {*table.schema.names} or any(table[name].null_count for name in COUNT_COLUMNS):
        return None
    return np.stack([table[name].to_numpy() for name in COUNT_COLUMNS], axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorFile:
    """What a file of vectors says of itself; `model` and `fingerprint` are empty where it does not say. Only dense
    vectors are stored in another dtype than float32.
    """

    model: str
    fingerprint: str
    vector_dtype: VectorDType
    kind: MemberKind = "dense"


def vector_file(path: Path) -> VectorFile:
    """What a file of vectors says of itself, of which only its end is read.

    Raises:
        OutputError: the file is missing or damaged, or has no vectors.
    """
    with read_errors(path):
        schema = pq.read_schema(path)
        metadata: dict[bytes, bytes] = schema.metadata or {}
        model, fingerprint = (metadata.get(key, b"").decode() for key in (b"soloist.model", b"soloist.fingerprint"))
        if metadata.get(KIND.encode()) == b"sparse":
            return VectorFile(
                model=model, fingerprint=fingerprint, vector_dtype=_stored_number(schema.field("values").type),
                kind="sparse",
            )  # fmt: skip
        if metadata.get(KIND.encode()) == b"lexical":
            return VectorFile(model=model, fingerprint=fingerprint, vector_dtype="float32", kind="lexical")
        return VectorFile(model=model, fingerprint=fingerprint, vector_dtype=stored_dtype(schema.field("vector").type))


def stored_dtype(kind: pa.DataType) -> VectorDType:
    """What the vectors of a column of this type are stored as.

    Raises:
        ValueError: it is not a column of vectors.
    """
    for name, number in NUMBERS.items():
        if pa.types.is_fixed_size_list(kind) and kind.value_type == number:
            return name
    raise ValueError(f"its column vector is of the type {kind}, which is not that of vectors")


def _stored_number(kind: pa.DataType) -> VectorDType:
    """What the weights of a column of lists are stored as."""
    for name, number in NUMBERS.items():
        if kind == pa.list_(number):
            return name
    raise ValueError(f"its column values is of the type {kind}, which is not that of weights")


def rounded(vectors: np.ndarray[Any, Any], vector_dtype: VectorDType) -> Vectors:
    """Vectors as they are read from a table that stores them as `vector_dtype`."""
    return _stored(vectors, vector_dtype).astype(np.float32, copy=False)


def table_vectors(table: pa.Table) -> tuple[list[str], Vectors]:
    """The ids, and the vectors as a read-only (n, dim) float32 array: of a float32 table a view of its own memory.

    Raises:
        ValueError: the table has other columns, or a row without a vector.
    """
    return table_texts(table, "id"), table_matrix(table)


def table_matrix(table: pa.Table) -> Vectors:
    """The vectors alone, as `table_vectors` gives them; the same errors."""
    column = table["vector"]
    stored_dtype(column.type)
    if column.null_count:
        raise ValueError("its column vector has rows without a vector")
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    numbers = array.flatten().to_numpy(zero_copy_only=True).astype(np.float32, copy=False)
    numbers.flags.writeable = False  # what was converted, as what is a view
    matrix: Vectors = numbers.reshape(len(array), column.type.list_size)
    return matrix


def write_chunk_file(path: Path, table: pa.Table) -> None:
    """Write a chunk table, compressed."""
    _write(path, table, compression="zstd")


def write_vector_file(path: Path, table: pa.Table) -> None:
    """Write a vector table as it is in memory: vectors neither compress nor sort."""
    kind = table.schema.field("vector").type
    row_bytes = kind.list_size * kind.value_type.bit_width // 8
    _write(
        path, table, compression="none", use_dictionary=False, write_statistics=["id"],
        row_group_size=max(1, min(_GROUP_ROWS, _PAGE_BYTES // row_bytes)), data_page_size=2 * _PAGE_BYTES,
    )  # fmt: skip


def read_table(path: Path, *, columns: Iterable[str] | None = None) -> pa.Table:
    """Read a Parquet file that this module wrote.

    Raises:
        OutputError: the file is missing or damaged.
    """
    with read_errors(path), pq.ParquetFile(path, memory_map=True) as file:
        return file.read(columns=None if columns is None else list(columns))


def whole_table(path: Path, sha256: str) -> pa.Table | None:
    """A file's table, made of the very bytes that have this checksum; None where the file is missing or has others.

    Raises:
        OutputError: the bytes are those, and no table.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != sha256:
        return None
    with read_errors(path), pq.ParquetFile(pa.BufferReader(content)) as file:
        return file.read()


@contextmanager
def read_errors(path: Path, *, if_missing: str = _IF_MISSING) -> Iterator[None]:
    """Turn what reading a file of a run raises into an OutputError with the path and the remedy."""
    try:
        yield
    except FileNotFoundError as exc:
        raise OutputError(f"{path} is missing: {if_missing}") from exc
    except (OSError, pa.ArrowException, ValueError, LookupError) as exc:  # the last two: other columns, other rows
        reason = " ".join(str(exc).split())
        raise OutputError(f"{path} cannot be read: {reason}: {REPAIR}") from exc


def _write(path: Path, table: pa.Table, **options: Any) -> None:
    # Given a path, pyarrow would keep a file open that it could not write, and its bytes would keep the disk full.
    with atomic_path(path) as temp, disk_errors(path), pa.OSFile(str(temp), "wb") as file:
        pq.write_table(table, file, **options)


def _require_unicode(chunk: Chunk) -> None:
    for name in ("id", "text"):
        value: str = getattr(chunk, name)
        if value.isascii():  # Python knows this without reading the characters
            continue
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as exc:
            raise InputError(
                f"the {name} of chunk {chunk.id!a} has a lone surrogate at character {exc.start}, which is not text: "
                "repair it in its chunk file"
            ) from exc


def _metadata_text(chunk: Chunk) -> str:
    if not chunk.metadata:
        return "{}"
    try:
        return json_text(dict(chunk.metadata))
    except (TypeError, ValueError) as exc:
        raise InputError(
            f"the metadata of chunk {chunk.id!a} is not JSON ({exc}): repair it in its chunk file"
        ) from exc


def _require_vectors(ids: Sequence[str], vectors: np.ndarray[Any, Any]) -> None:
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise ValueError(f"vectors have the shape {vectors.shape}: give (rows, dim)")
    if vectors.dtype != np.float32:
        raise ValueError(f"vectors are {vectors.dtype}: give float32")
    if len(ids) != len(vectors):
        raise ValueError(f"{len(ids)} ids for {len(vectors)} vectors: give one id a row")


def _stored(vectors: np.ndarray[Any, Any], vector_dtype: VectorDType) -> np.ndarray[Any, Any]:
    with np.errstate(over="ignore"):  # no component of a unit vector is near 65,504; another one is refused below
        return np.ascontiguousarray(vectors, dtype=vector_dtype)


def _require_finite(ids: Sequence[str], vectors: np.ndarray[Any, Any]) -> None:
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"the vector of row {row} ({ids[row]!a}) has NaN or infinity: write only finite numbers")
