"""The rows of a Qdrant collection: read, written, deleted and counted."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np

from soloist.arrays import Vectors
from soloist.exports.client_library import load
from soloist.exports.members import Entries, entries_of
from soloist.exports.qdrant.points import AVERAGES, Others, Payloads, Points, requests
from soloist.exports.qdrant.room import Room
from soloist.exports.qdrant.words import settled_average, shared_dimensions
from soloist.exports.report import Found
from soloist.exports.rows import Rows, Source
from soloist.exports.stores import Scope, StoreRow
from soloist.exports.target import Target
from soloist.stores import folder_name
from soloist.wording import count_text

_KEYS_AT_ONCE = 1_000


class QdrantCollection:
    """A collection that is open, made where it is not there; a `Store`."""

    normalises = True  # those that it compares by cosine

    def __init__(self, client: Any, source: Source, target: Target, where: str) -> None:
        self._client = client
        self._is_server = target.url is not None
        self._models = load("qdrant_client.models", "qdrant", "qdrant-client")
        self._source = source
        self.vectors: Mapping[str, str] = {name: folder_name(name) for name in source.names}  # Qdrant takes no / there
        self._name = target.table
        self.target = f"{where} ({target.table})"
        self._others = Others()
        self._indexed: set[str] = set()
        room = Room(models=self._models, source=source, vectors=self.vectors)
        if client.collection_exists(self._name):
            found = client.get_collection(self._name)
            self._others = room.others(self.target, found.config.params)
            self._indexed = set(found.payload_schema)
        else:
            client.create_collection(self._name, **room.configs())
            self._index_payload()
        averages = self._averages()
        self._points = Points(models=self._models, run=source.run, vectors=self.vectors, averages=averages)
        # Words become numbers by the average length of texts: with another one, a row is another row.
        self.salts = {name: str(average) for name, average in averages.items()}

    def scan(self, scope: Scope) -> Generator[Sequence[StoreRow], None, None]:
        """All points of a scope, some at a time."""
        # The client of a folder looks at every point for each page.
        limit = _KEYS_AT_ONCE if self._is_server else max(1, self.count(scope))
        names = ("run", "collection", "id", "digest")
        offset = None
        while True:
            found, offset = self._client.scroll(
                self._name, scroll_filter=self._of(scope), limit=limit, offset=offset, with_payload=list(names)
            )
            payloads = [point.payload or {} for point in found]
            yield [
                StoreRow(str(point.id), *(payload.get(name) for name in names))
                for point, payload in zip(found, payloads, strict=True)
            ]
            if offset is None:
                return

    def prepare(self, twice: Sequence[str]) -> None:
        """A collection has room for any payload, and each point once; an export may have been broken off before it
        had all indexes.
        """
        self._index_payload()

    def add(self, rows: Rows) -> None:
        """Write points whose keys are not there."""
        self._upsert(rows, {})

    def update(self, rows: Rows, *, keep: bool) -> None:
        """Write points over those with their keys. What somebody else has put into their payloads stays."""
        found = self._client.retrieve(self._name, ids=list(rows.keys), with_payload=True)
        there = {str(point.id): point.payload or {} for point in found}
        if not self._others.names:  # one change of a point, not several
            self._upsert(rows, there)
            return
        for some in requests(rows):
            removals = [] if keep else self._points.removals(some.keys, there, self._others)
            operations = [*removals, *self._points.changes(some)]
            self._client.batch_update_points(self._name, update_operations=operations, wait=True)

    def _upsert(self, rows: Rows, there: Payloads) -> None:
        for some in requests(rows):
            self._client.upsert(self._name, points=self._points.whole(some, there), wait=True)

    def delete(self, keys: Sequence[str]) -> None:
        """Take points away."""
        self._client.delete(self._name, points_selector=self._models.PointIdsList(points=list(keys)), wait=True)

    def count(self, scope: Scope) -> int:
        """How many points of a scope there are, exactly."""
        return int(self._client.count(self._name, count_filter=self._of(scope), exact=True).count)

    def read(self, keys: Sequence[str]) -> Found:
        """The vectors of points, by key and name, divided by their norms as Qdrant keeps them."""
        found = self._client.retrieve(self._name, ids=list(keys), with_vectors=True)
        return {str(point.id): _vectors_of(point.vector or {}, self._source, self.vectors) for point in found}

    def kept(self, name: str, rows: Rows) -> Sequence[Entries]:
        """The entries that points should have."""
        return entries_of(self._points.entries(name, rows))

    def index(self) -> Sequence[str]:
        """Nothing to make: what Qdrant does by itself is said, and what hashes of terms cost."""
        words = [name for name, member in self._source.ragged.items() if member.kind == "lexical"]
        shared = [(name, *shared_dimensions(self._source, name)) for name in words]
        notes = [
            f"{count_text(some, 'term')} of {terms:,} of {name} share a dimension with another, so they count together"
            for name, terms, some in shared
            if some
        ]
        if self._is_server:
            if self._source.ragged:
                notes.append(
                    "an export to a folder, with --out, writes a README with the queries: a server takes the same"
                )
            return ("Qdrant builds its index itself, once it has enough rows", *notes)
        return ("Qdrant in a folder scans all rows", *notes)

    def _index_payload(self) -> None:
        """Make the indexes that are not there yet, of what rows are looked up by; a folder has none."""
        if not self._is_server:
            return
        for field in ("collection", "run"):
            if field not in self._indexed:
                keyword = self._models.PayloadSchemaType.KEYWORD
                self._client.create_payload_index(self._name, field_name=field, field_schema=keyword)
                self._indexed.add(field)

    def _averages(self) -> dict[str, float]:
        """How many words a text of the run has on average, for each member with words: over all collections, so that
        exports of some of them agree.
        """
        members = {name: member for name, member in self._source.ragged.items() if member.kind == "lexical"}
        if not members:
            return {}
        scope = self._of(Scope.of(self._source))
        found, _ = self._client.scroll(self._name, scroll_filter=scope, limit=1, with_payload=[AVERAGES])
        before = (found[0].payload or {}).get(AVERAGES) if found else None
        there = before if isinstance(before, dict) else {}
        return {name: settled_average(member.words, member.texts, there.get(name)) for name, member in members.items()}

    def _of(self, scope: Scope) -> Any:
        among = {"collection": list(scope.collections), "run": [scope.run] if scope.run is not None else []}
        return self._models.Filter(
            should=[
                self._models.FieldCondition(key=field, match=self._models.MatchAny(any=values))
                for field, values in among.items()
                if values
            ]
        )


def _vectors_of(there: Mapping[str, Any], source: Source, names: Mapping[str, str]) -> dict[str, Vectors | Entries]:
    """The vectors of a point by the run's names."""
    found: dict[str, Vectors | Entries] = {
        name: np.asarray(there[names[name]], np.float32) for name in source.dims if names[name] in there
    }
    for name in source.ragged:
        entries = there.get(names[name])  # a server may keep none of a vector without dimensions
        found[name] = dict(zip(entries.indices, entries.values, strict=True)) if entries is not None else {}
    return found
