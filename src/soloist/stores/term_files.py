"""The files of words of a run folder: for each shard the terms and counts of its texts, written once and read.

A file lies where a model's vectors would lie, and has a row for every chunk, in the same order. A row depends on the
text alone, so it can be copied wherever the text goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from soloist.digests import DIGEST_BYTES
from soloist.ragged import RaggedRows, TermRows
from soloist.stores.layout import Layout
from soloist.stores.manifest import FileRecord, record_of
from soloist.stores.tables import KIND, read_errors, read_table, table_texts, write_chunk_file


@dataclass(frozen=True, slots=True)
class TermFiles:
    """The files of words in a run folder. `write` raises OutputError where the disk does not take the file, `read`
    where the file is missing or damaged.
    """

    root: Path

    def write(
        self,
        collection: str,
        member: str,
        index: int,
        ids: Sequence[str],
        rows: TermRows,
        digests: Sequence[bytes],
        fingerprint: str,
        content: str,
    ) -> FileRecord:
        """Write the words of one shard. `digests` are of its texts, `content` is the digest of its ids and texts.

        The record counts words as it counts the tokens of a model.
        """
        layout = Layout(self.root)
        path = layout.vectors(collection, member, index)
        layout.require_inside(path)
        write_chunk_file(path, term_table(member, ids, rows, digests, fingerprint))
        return record_of(
            self.root, path, "vectors", len(ids), collection=collection, shard=index, model=member, content=content,
            fingerprint=fingerprint, tokens=int(rows.lengths.sum()), truncated_rows=0, truncated_tokens=0,
        )  # fmt: skip

    def read(self, collection: str, member: str, index: int) -> tuple[list[str], TermRows]:
        """The ids and the words of a shard."""
        path = Layout(self.root).vectors(collection, member, index)
        with read_errors(path):
            table = read_table(path)
            return table_texts(table, "id"), table_terms(table)


def term_table(member: str, ids: Sequence[str], rows: TermRows, digests: Sequence[bytes], fingerprint: str) -> pa.Table:
    """The table of a shard's words: `id`, `text_digest`, and the lists `terms` and `counts`, the terms in order.

    Raises:
        ValueError: another number of ids, digests and rows.
    """
    if not len(ids) == len(digests) == len(rows):
        raise ValueError(f"{len(ids)} ids and {len(digests)} digests for {len(rows)} rows: give one each a row")
    starts = pa.array(rows.rows.starts, pa.int32())  # a shard of 67 million characters has fewer words than that
    terms = pa.array(rows.vocabulary, pa.string()).take(pa.array(rows.rows.keys))
    columns = {
        "id": pa.array(ids, pa.string()),
        "text_digest": pa.array(digests, pa.binary(DIGEST_BYTES)),
        "terms": pa.ListArray.from_arrays(starts, terms),
        "counts": pa.ListArray.from_arrays(starts, pa.array(rows.rows.values)),
    }
    named = member.encode("utf-8", "backslashreplace")
    metadata = {"soloist.model": named, KIND: "lexical", "soloist.fingerprint": fingerprint}
    return pa.table(columns).replace_schema_metadata(metadata)


def table_terms(table: pa.Table) -> TermRows:
    """The words that `term_table` took.

    Raises:
        ValueError: the table has other columns, or rows that no words can have.
    """
    terms, counts = (
        _list_column(table, name, kind) for name, kind in (("terms", pa.string()), ("counts", pa.uint32()))
    )
    if terms.offsets != counts.offsets:
        raise ValueError("its terms and counts are of different lengths")
    encoded = terms.flatten().dictionary_encode()
    vocabulary = encoded.dictionary.to_pylist()
    order = sorted(range(len(vocabulary)), key=vocabulary.__getitem__)
    places = np.empty(len(vocabulary), np.uint32)
    places[order] = np.arange(len(vocabulary), dtype=np.uint32)
    starts = terms.offsets.to_numpy().astype(np.int64)
    rows = RaggedRows(
        starts=starts - starts[0], keys=places[encoded.indices.to_numpy()], values=counts.flatten().to_numpy()
    )
    rows.require_sound()
    return TermRows(vocabulary=tuple(vocabulary[at] for at in order), rows=rows)


def _list_column(table: pa.Table, name: str, kind: pa.DataType) -> pa.ListArray:
    column = table[name]
    if column.type != pa.list_(kind) or column.null_count:
        raise ValueError(f"its column {name} is of the type {column.type}, which is not that of words")
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # of no rows
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], pa.list_(kind))
    if array.flatten().null_count:
        raise ValueError(f"its column {name} has lists without a value")
    return array
