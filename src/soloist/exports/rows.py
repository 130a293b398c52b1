"""A finished run as rows to export, a few thousand at a time. Knows the run's files, and no store.

A row's key is a UUID that follows from its collection and its id, the same in every store and every run. Its mark says
what it is of, so that a store which keeps it can tell what is there unchanged.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from soloist.arrays import Vectors
from soloist.digests import DigestTable
from soloist.errors import ConfigError, OutputError
from soloist.fusion_methods import FUSED
from soloist.jsontext import json_text
from soloist.stores import RunFolder, Unchanged
from soloist.stores.tables import REPAIR
from soloist.types import Chunk

ALL = "all"
_NAMESPACE = uuid.UUID("8f0b5a1e-6a0e-5d0c-9d5e-2f6a4c1b7e90")
VECTOR_DIGEST_BYTES = 8
_WAY_ON = "export it again"
SAMPLED_ROWS = 64  # whose vectors are read back at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Digests of a row: of its run with its text, of its metadata with its place, and of its vectors by name.

    The digests are of the numbers. The fingerprint of the model says less: in half precision, another batch gives other
    bits.
    """

    text: str
    metadata: str
    vectors: Mapping[str, str]

    def __str__(self) -> str:
        """As a store keeps it."""
        return json_text({"text": self.text, "metadata": self.metadata, "vectors": dict(self.vectors)})

    @classmethod
    def of(cls, kept: object) -> Mark | None:
        """The mark that a store has kept; None where the value is not a mark."""
        try:
            mark = cls(**json.loads(kept))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return None
        return mark if isinstance(mark.vectors, Mapping) else None

    def covers(self, other: Mark) -> bool:
        """Whether a row of this mark has all that one of the other has."""
        return (self.text, self.metadata) == (other.text, other.metadata) and other.vectors.items() <= (
            self.vectors.items()
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Some rows: as many of everything, vectors by name (rows, dim) float32."""

    collection: str
    keys: Sequence[str]
    marks: Sequence[Mark]
    chunks: Sequence[Chunk]
    vectors: Mapping[str, Vectors]

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, numbers: Sequence[int]) -> Rows:
        """Those with these numbers, counted from 0."""
        return Rows(
            collection=self.collection,
            keys=[self.keys[at] for at in numbers],
            marks=[self.marks[at] for at in numbers],
            chunks=[self.chunks[at] for at in numbers],
            vectors={name: vectors[list(numbers)] for name, vectors in self.vectors.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """What is exported of a run, `run` by its id: some collections, and vectors by name with their dims. `shards` are
    those of the collections, in order, with their rows; `others` and `other_collections` are the names of what the run
    has and that is not exported; `whole` is whether no collections were chosen. `progress` is called with how many rows
    are done while `batches` or `each_shard` is gone through.

    Each read raises OutputError where the run is not the one any more that was opened.
    """

    folder: RunFolder
    run: str
    collections: tuple[str, ...]
    dims: Mapping[str, int]
    shards: Mapping[tuple[str, int], int]
    unchanged: Unchanged
    others: tuple[str, ...] = ()
    other_collections: tuple[str, ...] = ()
    whole: bool = False
    progress: Callable[[int], None] = lambda _: None

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(self.shards.values())

    def keys(self) -> DigestTable:
        """The keys of all rows, 16 bytes each."""
        keys = DigestTable()
        for collection, index in self.shards:
            for id_ in self.ids(collection, index):
                keys.add(uuid.UUID(key_of(collection, id_)).bytes)
        return keys

    def ids(self, collection: str, index: int) -> list[str]:
        """The ids of a shard."""
        ids = self.folder.shards.read_ids(collection, index)
        self.unchanged.require(_WAY_ON)
        return ids

    def places(self, collection: str, index: int) -> list[tuple[str, str | None, int | None]]:
        """The ids of a shard with their places, as `ShardFiles.read_places` has them."""
        places = self.folder.shards.read_places(collection, index)
        self.unchanged.require(_WAY_ON)
        return places

    def vectors(self, name: str, collection: str, index: int) -> Vectors:
        """The vectors of a shard by one name, (rows, dim)."""
        return self._vectors(name, collection, index)[1]

    def shard(self, collection: str, index: int) -> Rows:
        """All rows of a shard."""
        chunks = self.folder.shards.read_chunks(collection, index)
        vectors: dict[str, Vectors] = {}
        digests: dict[str, list[str]] = {}
        for name in self.dims:
            ids, vectors[name] = self._vectors(name, collection, index)
            if ids != [chunk.id for chunk in chunks]:
                raise OutputError(
                    f"{self.folder.path} has {name} vectors of other chunks in shard {index} of {collection}: {REPAIR}"
                )
            digests[name] = _vector_digests(vectors[name])
        return Rows(
            collection=collection,
            keys=[key_of(collection, chunk.id) for chunk in chunks],
            marks=[
                _mark(self.run, chunk, {name: column[row] for name, column in digests.items()})
                for row, chunk in enumerate(chunks)
            ],
            chunks=chunks,
            vectors=vectors,
        )

    def each_shard(self) -> Iterator[tuple[str, int]]:
        """Collection and number of each shard, in order."""
        done = 0
        for at, rows in self.shards.items():
            yield at
            done += rows
            self.progress(done)

    def batches(self, size: int) -> Iterator[Rows]:
        """All rows in their order, up to `size` at a time."""
        done = 0
        for collection, index in self.shards:
            rows = self.shard(collection, index)
            for start in range(0, len(rows), size):
                some = rows.take(range(start, min(len(rows), start + size)))
                yield some
                done += len(some)
                self.progress(done)

    def sample(self) -> Iterator[Rows]:
        """Some rows, evenly spread over the shards: the same ones each time."""
        step = max(1, self.rows // SAMPLED_ROWS)
        first = 0
        for (collection, index), count in self.shards.items():
            sampled = range(-first % step, count, step)
            if sampled:
                yield self.shard(collection, index).take(sampled)
            first += count

    def _vectors(self, name: str, collection: str, index: int) -> tuple[list[str], Vectors]:
        """The ids of a shard and their vectors by one name."""
        if name == FUSED:
            found = self.folder.shards.read_fused(collection, index)
        else:
            found = self.folder.shards.read_vectors(collection, name, index)
        self.unchanged.require(_WAY_ON)
        return found


def key_of(collection: str, id_: str) -> str:
    """The UUID of a chunk, by its collection and id."""
    return str(uuid.uuid5(_NAMESPACE, json_text([collection, id_])))


def open_source(path: Path, vectors: str | None, collections: Sequence[str], *, several: bool) -> Source:
    """A finished run to export. `vectors` names those of a model, the fused ones, or all; None takes all where a store
    has room for `several` a row, else the fused ones or, without these, the only model's.

    Raises:
        OutputError: there is no finished run.
        ConfigError: it has no such vectors or collection.
    """
    folder, unchanged = RunFolder.open(path), Unchanged.of(path)
    there, known = folder.read_json_as("run.json", _described)
    for name in collections:
        if name not in known:
            raise ConfigError(f"{path} has no collection {name}: choose one of {', '.join(known)}")
    chosen = tuple(collections) or tuple(known)
    order = {name: number for number, name in enumerate(chosen)}
    records = [
        record for record in folder.manifest.read().values() if record.kind == "chunks" and record.collection in order
    ]
    records.sort(key=lambda record: (order[record.collection], record.shard))
    dims = _chosen_vectors(path, vectors, there, several)
    unchanged.require(_WAY_ON)
    return Source(
        folder=folder,
        run=folder.identity(),
        collections=chosen,
        dims=dims,
        shards={(record.collection, record.shard): record.rows for record in records},
        unchanged=unchanged,
        others=tuple(name for name in there if name not in dims),
        other_collections=tuple(name for name in known if name not in chosen),
        whole=not collections,
    )


def _described(summary: Any) -> tuple[dict[str, int], list[str]]:
    """The dims of vectors by name, and the collections that have chunks."""
    dims = {model["name"]: int(model["dim"]) for model in summary["models"] if model.get("kind", "dense") == "dense"}
    if summary["fusion"] is not None:
        dims[FUSED] = int(summary["fusion"]["dim"])
    return dims, [collection["name"] for collection in summary["collections"] if collection["chunks"]]


def _chosen_vectors(path: Path, asked: str | None, there: Mapping[str, int], several: bool) -> dict[str, int]:
    if not there:
        raise ConfigError(f"{path} has no dense vectors, and only those are exported: embed a dense model into it too")
    if asked == ALL or (asked is None and several):
        if not several:
            raise ConfigError(f"this export has one vector a row: give --vectors one of {', '.join(there)}")
        return dict(there)
    if asked is None:
        if FUSED not in there and len(there) > 1:
            raise ConfigError(f"{path} has no fused vectors: give --vectors one of {', '.join(there)}")
        asked = FUSED if FUSED in there else next(iter(there))
    if asked not in there:
        raise ConfigError(f"{path} has no vectors of {asked}: give --vectors one of {', '.join(there)}")
    return {asked: there[asked]}


def _mark(run: str, chunk: Chunk, vectors: Mapping[str, str]) -> Mark:
    metadata = dict(chunk.metadata)
    placed = metadata if chunk.source_file is None else [metadata, chunk.source_file, chunk.source_index]
    return Mark(text=_short_digest([run, chunk.text]), metadata=_short_digest(placed), vectors=vectors)


def _vector_digests(vectors: Vectors) -> list[str]:
    """16 hex digits over each row."""
    rows = np.ascontiguousarray(vectors, "<f4")
    return [hashlib.blake2b(row, digest_size=VECTOR_DIGEST_BYTES).hexdigest() for row in rows]


def _short_digest(value: Any) -> str:
    """32 hex digits over a value of JSON."""
    return hashlib.sha256(json_text(value).encode("utf-8", "surrogatepass")).hexdigest()[:32]
