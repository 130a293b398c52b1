"""A Qdrant collection, on a server or in a folder: a named vector for each model and the fused one, and a payload."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from soloist.arrays import Vectors
from soloist.errors import ConfigError, ExportError
from soloist.exports.client_library import load
from soloist.exports.report import ExportReport
from soloist.exports.rows import Mark, Rows, Source
from soloist.exports.store_folders import require_store_folder
from soloist.exports.stores import Place, Scope, fill
from soloist.exports.target import Target
from soloist.jsontext import json_text
from soloist.stores import folder_name

API_KEY = "QDRANT_API_KEY"
_KEYS_AT_ONCE = 1_000
_SECONDS = 60
# A server takes requests of 32 MB (its service.max_request_size_mb); a number of JSON has up to 25 characters.
_REQUEST_BYTES = 16 << 20
_NUMBER_BYTES = 25
_POINT_BYTES = 1_000  # keys and names; a character has up to 6, as an escape of JSON
_CHARACTER_BYTES = 6
# The client of a folder has SQLite's errors and those of what it finds in it.
_FOLDER_ERRORS = (OSError, RuntimeError, ValueError, sqlite3.Error, UnpicklingError)


def export(source: Source, target: Target) -> ExportReport:
    """Make the collection have the rows of the run.

    A folder is held by one client alone. On a server two exports into one collection at once are not noticed until
    each counts its rows.
    """
    client_module = load("qdrant_client", "qdrant", "qdrant-client")
    if (target.out is None) == (target.url is None):
        raise ConfigError(
            "the export to qdrant needs --url of a server or --out for a folder of its own: give one of them"
        )
    if target.url == "":
        raise ConfigError("the export to qdrant has an empty --url: give that of a server, e.g. http://localhost:6333")
    where = _shown(target.url) if target.url is not None else str(target.out)
    client = _client(client_module, target, where)
    try:
        return fill(_Collection(client, source, target, where), source, target)
    # The client asserts that an answer has a result, which that of another service has not.
    except (*_FOLDER_ERRORS, AssertionError, client_module.http.exceptions.ApiException) as exc:
        raise ExportError(
            f"Qdrant at {where} failed ({_first_line(exc)}): see that it is there, and export again, which goes on"
        ) from exc
    finally:
        client.close()


def _client(client_module: Any, target: Target, where: str) -> Any:
    """The client of a server, which is not asked yet, or of a folder, which is read and locked."""
    if target.out is None:
        try:
            return client_module.QdrantClient(
                url=target.url, api_key=os.environ.get(API_KEY), timeout=_SECONDS, check_compatibility=False
            )
        except ValueError:  # its text has all of the URL
            raise _no_address() from None
    try:
        require_store_folder(target.out, "qdrant", _has_collections)
        return client_module.QdrantClient(path=str(target.out))
    except (*_FOLDER_ERRORS, LookupError, EOFError) as exc:
        if "already accessed" in str(exc):
            raise ExportError(
                f"the Qdrant folder {where} is open in another process: wait until that has ended, or use a server "
                "with --url"
            ) from exc
        raise ExportError(
            f"Qdrant at {where} cannot be opened ({_first_line(exc)}): correct that, and export again"
        ) from exc


def _has_collections(path: Path) -> bool:
    """Whether a folder has the file that says which collections it has."""
    try:
        known = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        return isinstance(known["collections"], dict) and isinstance(known["aliases"], dict)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _shown(url: str) -> str:
    """The URL of a server without what may be secret in it: user, password and query.

    Signs that a URL has not, and an `@` behind the host, are of a password that was not encoded: what is before them
    would be taken for the host.
    """
    httpx = load("httpx", "qdrant", "qdrant-client")
    try:
        httpx.URL(url)  # which the client asks, with an error of no kind that it translates
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, httpx.InvalidURL):
        raise _no_address() from None
    is_plain = url.isascii() and url.isprintable() and not set(url) & set(" \\")
    if not (is_address and is_plain) or "@" in parts.path + parts.query + parts.fragment:
        raise _no_address()
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _no_address() -> ConfigError:
    """What is said of a URL that is none: nothing of it, as any part can be a password."""
    return ConfigError(
        "the --url of qdrant is not the address of a server: give http://host:port or https://host:port, and the key "
        f"in {API_KEY}"
    )


class _Collection:
    """A collection that is open, made where it is not there."""

    normalises = True  # those that it compares by cosine

    def __init__(self, client: Any, source: Source, target: Target, where: str) -> None:
        self._client = client
        self._is_server = target.url is not None
        self._models = load("qdrant_client.models", "qdrant", "qdrant-client")
        self._source = source
        self.vectors: Mapping[str, str] = {name: folder_name(name) for name in source.dims}  # Qdrant takes no / in them
        self._name = target.table
        self.target = f"{where} ({target.table})"
        self._others: set[str] = set()  # names of other vectors, dense ones as exports write
        self._has_sparse = False
        self._indexed: set[str] = set()
        if client.collection_exists(self._name):
            self._look()
        else:
            self._make()

    def places(self, scope: Scope) -> Generator[Sequence[Place], None, None]:
        # The client of a folder looks at every point for each page.
        limit = _KEYS_AT_ONCE if self._is_server else max(1, self.count(scope))
        offset = None
        while True:
            found, offset = self._client.scroll(
                self._name, scroll_filter=self._of(scope), limit=limit, offset=offset,
                with_payload=["run", "collection", "id", "digest"],
            )  # fmt: skip
            payloads = [point.payload or {} for point in found]
            yield [
                Place(str(point.id), *(payload.get(name) for name in ("run", "collection", "id", "digest")))
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
        self._upsert(rows, {})

    def update(self, rows: Rows, *, keep: bool) -> None:
        found = self._client.retrieve(self._name, ids=list(rows.keys), with_payload=True)
        there = {str(point.id): point.payload or {} for point in found}
        if not (self._others or self._has_sparse):  # one change of a point, not several
            self._upsert(rows, there)
            return
        for places in _requests(rows):
            some = rows.take(places)
            taken = [] if keep else self._taken(some.keys, there)
            self._client.batch_update_points(self._name, update_operations=[*taken, *self._changes(some)], wait=True)

    def _changes(self, rows: Rows) -> Iterator[Any]:
        """The operations that write rows and leave all else of their points."""
        points = list(self._points(rows))
        vectors = [self._models.PointVectors(id=key, vector=vectors) for key, _, vectors in points]
        # First: the mark in the payload says that they are there.
        yield self._models.UpdateVectorsOperation(update_vectors=self._models.UpdateVectors(points=vectors))
        for key, payload, _ in points:
            yield self._models.SetPayloadOperation(set_payload=self._models.SetPayload(payload=payload, points=[key]))

    def _taken(self, keys: Sequence[str], there: Mapping[str, Mapping[str, Any]]) -> Iterator[Any]:
        """The operations that take vectors of another text away: those by other names that exports have written, as
        the mark has them, or all where it is none.

        The mark goes first: broken off, and the text being the old one again, it would be believed.
        """
        by_names: dict[frozenset[str] | None, list[str]] = {}
        for key in keys:
            mark = Mark.of(there.get(key, {}).get("digest"))
            by_names.setdefault(frozenset(mark.vectors) if mark is not None else None, []).append(key)
        for names, some in by_names.items():
            blank = str(Mark(text="", metadata="", vectors=dict.fromkeys(sorted(names), ""))) if names else ""
            yield self._models.SetPayloadOperation(
                set_payload=self._models.SetPayload(payload={"digest": blank}, points=some)
            )
            gone = self._others if names is None else self._others.intersection(map(folder_name, names))
            if gone:
                yield self._models.DeleteVectorsOperation(
                    delete_vectors=self._models.DeleteVectors(points=some, vector=sorted(gone))
                )

    def _upsert(self, rows: Rows, there: Mapping[str, Mapping[str, Any]]) -> None:
        """Write whole points, with what somebody else has put into the payloads that are there."""
        for places in _requests(rows):
            points = [
                self._models.PointStruct(id=key, payload={**there.get(key, {}), **payload}, vector=vectors)
                for key, payload, vectors in self._points(rows.take(places))
            ]
            self._client.upsert(self._name, points=points, wait=True)

    def _points(self, rows: Rows) -> Iterator[tuple[str, dict[str, Any], dict[str, list[float]]]]:
        """Key, payload and vectors of rows."""
        for place, (key, mark, chunk) in enumerate(zip(rows.keys, rows.marks, rows.chunks, strict=True)):
            payload = {
                "run": self._source.run, "collection": rows.collection, "id": chunk.id, "text": chunk.text,
                "metadata": dict(chunk.metadata), "source_file": chunk.source_file, "source_index": chunk.source_index,
                "digest": str(mark),
            }  # fmt: skip
            yield key, payload, {self.vectors[name]: each[place].tolist() for name, each in rows.vectors.items()}

    def delete(self, keys: Sequence[str]) -> None:
        self._client.delete(self._name, points_selector=self._models.PointIdsList(points=list(keys)), wait=True)

    def count(self, scope: Scope) -> int:
        return int(self._client.count(self._name, count_filter=self._of(scope), exact=True).count)

    def read(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, Vectors]]:
        found = self._client.retrieve(self._name, ids=list(keys), with_vectors=True)
        return {
            str(point.id): {
                name: np.asarray(point.vector[own], np.float32)
                for name, own in self.vectors.items()
                if own in (point.vector or {})
            }
            for point in found
        }

    def index(self) -> Sequence[str]:
        if self._is_server:
            return ("Qdrant indexes by itself, from its own threshold of rows on",)
        return ("Qdrant in a folder scans all rows",)

    def _make(self) -> None:
        # Vectors stay on the disk, as they do in the run: a server with the memory for them can be told otherwise.
        vectors = {
            self.vectors[name]: self._models.VectorParams(size=dim, distance=self._models.Distance.COSINE, on_disk=True)
            for name, dim in self._source.dims.items()
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
        self._others = vectors.keys() - set(self.vectors.values())
        self._has_sparse = bool(params.sparse_vectors)
        self._indexed = set(found.payload_schema)
        self._require_same_dims(vectors)

    def _require_same_dims(self, there: Mapping[str, Any]) -> None:
        dims = {name: params.size for name, params in there.items()}
        for name, dim in self._source.dims.items():
            own = self.vectors[name]
            if own in dims and there[own].distance != self._models.Distance.COSINE:
                raise ExportError(
                    f"{self.target} compares {name} by {there[own].distance.value}, and an export by Cosine: choose "
                    "another --table, or delete that one"
                )
            if own not in dims:
                raise ExportError(
                    f"{self.target} has no room for vectors of {name}: give --vectors of those that it has, choose "
                    "another --table, or delete that one"
                )
            if dims[own] != dim:
                raise ExportError(
                    f"{self.target} has {dims[own]} dims of {name}, and the run has {dim}: choose another --table, or "
                    "delete that one"
                )

    def _of(self, scope: Scope) -> Any:
        among = {"collection": list(scope.collections), "run": [scope.run] if scope.run is not None else []}
        return self._models.Filter(
            should=[
                self._models.FieldCondition(key=field, match=self._models.MatchAny(any=values))
                for field, values in among.items()
                if values
            ]
        )


def _requests(rows: Rows) -> Iterator[range]:
    """The places of rows that go into one request, by the most bytes that they can be."""
    numbers = sum(vectors.shape[1] for vectors in rows.vectors.values())
    start = size = 0
    for place, chunk in enumerate(rows.chunks):
        texts = (chunk.id, chunk.text, json_text(dict(chunk.metadata)), chunk.source_file or "")
        characters = sum(map(len, texts))
        row = _POINT_BYTES + _NUMBER_BYTES * numbers + _CHARACTER_BYTES * characters
        if place > start and size + row > _REQUEST_BYTES:
            yield range(start, place)
            start, size = place, 0
        size += row
    yield range(start, len(rows))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
