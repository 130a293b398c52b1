"""The rows of a Qdrant collection: read, written, deleted and counted."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np

from soloist.errors import ExportError
from soloist.exports.client_library import load
from soloist.exports.qdrant.points import Payloads, Points, requests
from soloist.exports.report import Found, as_they_are
from soloist.exports.rows import Rows, Source
from soloist.exports.stores import Scope, StoreRow
from soloist.exports.target import Target
from soloist.stores import folder_name

_KEYS_AT_ONCE = 1_000


class QdrantCollection:
    """A collection that is open, made where it is not there; a `Store`."""

    normalises = True  # those that it compares by cosine

    def __init__(self, client: Any, source: Source, target: Target, where: str) -> None:
        self._client = client
        self._is_server = target.url is not None
        self._models = load("qdrant_client.models", "qdrant", "qdrant-client")
        self._dims = source.dims
        self.vectors: Mapping[str, str] = {name: folder_name(name) for name in source.dims}  # Qdrant takes no / in them
        self._points = Points(models=self._models, run=source.run, vectors=self.vectors)
        self._name = target.table
        self.target = f"{where} ({target.table})"
        self._other_vectors: set[str] = set()  # names of other vectors, dense ones as exports write
        self._has_sparse = False
        self._indexed: set[str] = set()
        if client.collection_exists(self._name):
            self._look()
        else:
            self._make()

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
        if not (self._other_vectors or self._has_sparse):  # one change of a point, not several
            self._upsert(rows, there)
            return
        for some in requests(rows):
            removals = [] if keep else self._points.removals(some.keys, there, self._other_vectors)
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
        return {
            str(point.id): {
                name: np.asarray(point.vector[own], np.float32)
                for name, own in self.vectors.items()
                if own in (point.vector or {})
            }
            for point in found
        }

    kept = staticmethod(as_they_are)

    def index(self) -> Sequence[str]:
        """Nothing to make: what Qdrant does by itself is said."""
        if self._is_server:
            return ("Qdrant builds its index itself, once it has enough rows",)
        return ("Qdrant in a folder scans all rows",)

    def _make(self) -> None:
        # Vectors stay on the disk, as they do in the run: a server with the memory for them can be told otherwise.
        vectors = {
            self.vectors[name]: self._models.VectorParams(size=dim, distance=self._models.Distance.COSINE, on_disk=True)
            for name, dim in self._dims.items()
        }
        self._client.create_collection(self._name, vectors_config=vectors)
        self._index_payload()

    def _index_payload(self) -> None:
        """Make the indexes that are not there yet, of what rows are looked up by; a folder has none."""
        if not self._is_server:
            return
        for field in ("collection", "run"):
            if field not in self._indexed:
                keyword = self._models.PayloadSchemaType.KEYWORD
                self._client.create_payload_index(self._name, field_name=field, field_schema=keyword)
                self._indexed.add(field)

    def _look(self) -> None:
        """See what a collection that is there has, and refuse one with other dims."""
        found = self._client.get_collection(self._name)
        params = found.config.params
        vectors = params.vectors if isinstance(params.vectors, dict) else {}
        self._other_vectors = vectors.keys() - set(self.vectors.values())
        self._has_sparse = bool(params.sparse_vectors)
        self._indexed = set(found.payload_schema)
        for name, dim in self._dims.items():
            _require_same(self.target, name, dim, vectors.get(self.vectors[name]), self._models.Distance.COSINE)

    def _of(self, scope: Scope) -> Any:
        among = {"collection": list(scope.collections), "run": [scope.run] if scope.run is not None else []}
        return self._models.Filter(
            should=[
                self._models.FieldCondition(key=field, match=self._models.MatchAny(any=values))
                for field, values in among.items()
                if values
            ]
        )


def _require_same(target: str, name: str, dim: int, there: Any, cosine: Any) -> None:
    """Refuse a collection whose vectors by a name are not those of the run: `there` is what it has for them, if any."""
    if there is None:
        raise ExportError(
            f"{target} has no vectors named {name}: give --vectors with names that the collection has, choose another "
            "--table, or delete the collection"
        )
    if there.distance != cosine:
        raise ExportError(
            f"{target} compares {name} by {there.distance.value}, and an export by Cosine: choose another --table, or "
            "delete the collection"
        )
    if there.size != dim:
        raise ExportError(
            f"{target} has {there.size} dims of {name}, and the run has {dim}: choose another --table, or delete the "
            "collection"
        )
