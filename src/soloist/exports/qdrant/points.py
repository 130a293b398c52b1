"""Rows as points of Qdrant, and the operations that write them. Asks no client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from soloist.exports.qdrant.words import word_vectors
from soloist.exports.rows import Mark, Rows
from soloist.jsontext import json_text
from soloist.ragged import RaggedRows, TermRows
from soloist.stores import folder_name

# A server takes requests of 32 MB (its service.max_request_size_mb); a number of JSON has up to 25 characters.
_REQUEST_BYTES = 16 << 20
_NUMBER_BYTES = 25
_POINT_BYTES = 1_000  # keys and names; a character has up to 6, as an escape of JSON
_CHARACTER_BYTES = 6
AVERAGES = "average_words"  # in a payload: how many words a text has on average, by the names of members with words
Payloads = Mapping[str, Mapping[str, Any]]  # by key


@dataclass(frozen=True, slots=True, kw_only=True)
class Others:
    """The names of vectors that a collection has and that are not exported now."""

    dense: frozenset[str] = frozenset()
    sparse: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """All of them."""
        return self.dense | self.sparse


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """How the rows of a run become points. `models` are the classes of the client; `vectors` are the collection's names
    of vectors by the run's; `averages` say for each member with words how many a text has on average.
    """

    models: Any
    run: str
    vectors: Mapping[str, str]
    averages: Mapping[str, float]

    def whole(self, rows: Rows, there: Payloads) -> list[Any]:
        """Whole points, with what somebody else has put into the payloads that are there."""
        return [
            self.models.PointStruct(id=key, payload={**there.get(key, {}), **payload}, vector=vectors)
            for key, payload, vectors in self._of(rows)
        ]

    def changes(self, rows: Rows) -> Iterator[Any]:
        """The operations that write rows and leave all else of their points."""
        points = list(self._of(rows))
        vectors = [self.models.PointVectors(id=key, vector=vectors) for key, _, vectors in points]
        # First: the mark in the payload says that they are there.
        yield self.models.UpdateVectorsOperation(update_vectors=self.models.UpdateVectors(points=vectors))
        for key, payload, _ in points:
            yield self.models.SetPayloadOperation(set_payload=self.models.SetPayload(payload=payload, points=[key]))

    def removals(self, keys: Sequence[str], there: Payloads, others: Others) -> Iterator[Any]:
        """The operations that take vectors of another text away: those by `others` that exports have written, as the
        mark has them. Without a mark these are the dense ones; sparse ones may be somebody else's.

        The mark goes first: broken off, and the text being the old one again, it would be believed.
        """
        by_names: dict[frozenset[str] | None, list[str]] = {}
        for key in keys:
            mark = Mark.of(there.get(key, {}).get("digest"))
            by_names.setdefault(frozenset(mark.vectors) if mark is not None else None, []).append(key)
        for names, some in by_names.items():
            blank = str(Mark(text="", metadata="", vectors=dict.fromkeys(sorted(names), ""))) if names else ""
            yield self.models.SetPayloadOperation(
                set_payload=self.models.SetPayload(payload={"digest": blank}, points=some)
            )
            gone = others.dense if names is None else others.names.intersection(map(folder_name, names))
            if gone:
                yield self.models.DeleteVectorsOperation(
                    delete_vectors=self.models.DeleteVectors(points=some, vector=sorted(gone))
                )

    def entries(self, name: str, rows: Rows) -> RaggedRows:
        """The sparse vectors of rows by one name, or their words as such."""
        found = rows.ragged[name]
        return word_vectors(found, self.averages[name]) if isinstance(found, TermRows) else found

    def _of(self, rows: Rows) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
        """Key, payload and vectors of rows."""
        sparse = {name: self.entries(name, rows) for name in rows.ragged}
        averages = {AVERAGES: dict(self.averages)} if self.averages else {}
        for row, (key, mark, chunk) in enumerate(zip(rows.keys, rows.marks, rows.chunks, strict=True)):
            payload = {
                "run": self.run, "collection": rows.collection, "id": chunk.id, "text": chunk.text,
                "metadata": dict(chunk.metadata), "source_file": chunk.source_file, "source_index": chunk.source_index,
                "digest": str(mark), **averages,
            }  # fmt: skip
            vectors = {self.vectors[name]: numbers[row].tolist() for name, numbers in rows.vectors.items()}
            for name, entries in sparse.items():
                keys, values = entries.row(row)
                vectors[self.vectors[name]] = self.models.SparseVector(indices=keys.tolist(), values=values.tolist())
            yield key, payload, vectors


def requests(rows: Rows) -> Iterator[Rows]:
    """The rows in parts that go into one request each, by the most bytes that they can be."""
    dense = sum(vectors.shape[1] for vectors in rows.vectors.values())
    entries = np.zeros(len(rows), np.int64)
    for found in rows.ragged.values():
        entries += (found.rows if isinstance(found, TermRows) else found).lengths
    start = size = 0
    for row, chunk in enumerate(rows.chunks):
        texts = (chunk.id, chunk.text, json_text(dict(chunk.metadata)), chunk.source_file or "")
        characters = sum(map(len, texts))
        point_bytes = _POINT_BYTES + _NUMBER_BYTES * (dense + 2 * int(entries[row])) + _CHARACTER_BYTES * characters
        if row > start and size + point_bytes > _REQUEST_BYTES:
            yield rows.take(range(start, row))
            start, size = row, 0
        size += point_bytes
    yield rows.take(range(start, len(rows)))
