"""A finished run as rows to export, a few thousand at a time. Knows the run's files, and no store.

A row's key is a UUID that follows from its collection and its id, the same in every store and every run. Its mark says
what it is of, so that a store which keeps it can tell what is there unchanged.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from soloist.arrays import Vectors
from soloist.digests import DigestTable
from soloist.errors import ConfigError, OutputError
from soloist.exports.kinds import EXPORTS
from soloist.exports.members import WHAT, LongRows, RaggedMember, row_digests
from soloist.fusion_methods import FUSED
from soloist.jsontext import json_text
from soloist.stores import RunFolder, Unchanged
from soloist.stores.manifest import FileRecord
from soloist.stores.tables import REPAIR
from soloist.types import Chunk, MemberKind
from soloist.wording import listed

ALL = "all"
ALL_KINDS: tuple[MemberKind, ...] = ("dense", "sparse", "lexical")
_NAMESPACE = uuid.UUID("8f0b5a1e-6a0e-5d0c-9d5e-2f6a4c1b7e90")
VECTOR_DIGEST_BYTES = 8
_WAY_ON = "export it again"
SAMPLED_ROWS = 64  # whose vectors are read back at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Digests of a row: of its run with its text, of its metadata with its place, and of its vectors by name. Sparse
    vectors and words are among the vectors.

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
    """Some rows: as many of everything, vectors by name (rows, dim) float32, sparse vectors and words by name."""

    collection: str
    keys: Sequence[str]
    marks: Sequence[Mark]
    chunks: Sequence[Chunk]
    vectors: Mapping[str, Vectors]
    ragged: Mapping[str, LongRows] = field(default_factory=dict)

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
            ragged={name: rows.take(list(numbers)) for name, rows in self.ragged.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """What is exported of a run, `run` by its id: some collections, and vectors by name with their dims. `shards` are
    those of the collections, in order, with their rows; `others` and `other_collections` are the names of what the run
    has and that is not exported; `whole` is whether no collections were chosen. `progress` is called with how many rows
    are done while `batches` or `each_shard` is gone through.

    - `ragged` are the members with sparse vectors or words that are exported.
    - `left_out` are those that nobody chose and that the export has no place for.
    - `hybrid` has the weights of the run's ranking by members of several kinds; it is empty where it has none.
    - `salts` say, by name, what else a store makes a member's numbers of: other salts are other rows.

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
    ragged: Mapping[str, RaggedMember] = field(default_factory=dict)
    left_out: Mapping[str, RaggedMember] = field(default_factory=dict)
    hybrid: Mapping[str, float] = field(default_factory=dict)
    salts: Mapping[str, str] = field(default_factory=dict)
    progress: Callable[[int], None] = lambda _: None

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(self.shards.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all that is exported of a row: dense vectors first."""
        return (*self.dims, *self.ragged)

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

    def entries(self, name: str, collection: str, index: int) -> LongRows:
        """The sparse vectors or the words of a shard by one name."""
        return self._ragged(name, collection, index)[1]

    def shard(self, collection: str, index: int) -> Rows:
        """All rows of a shard."""
        chunks = self.folder.shards.read_chunks(collection, index)
        vectors: dict[str, Vectors] = {}
        ragged: dict[str, LongRows] = {}
        digests: dict[str, list[str]] = {}
        for name in self.dims:
            ids, vectors[name] = self._vectors(name, collection, index)
            self._require_same(name, ids, chunks, collection, index)
            digests[name] = _vector_digests(vectors[name])
        for name in self.ragged:
            ids, ragged[name] = self._ragged(name, collection, index)
            self._require_same(name, ids, chunks, collection, index)
            digests[name] = row_digests(ragged[name], VECTOR_DIGEST_BYTES, self.salts.get(name, ""))
        return Rows(
            collection=collection,
            keys=[key_of(collection, chunk.id) for chunk in chunks],
            marks=[
                _mark(self.run, chunk, {name: column[row] for name, column in digests.items()})
                for row, chunk in enumerate(chunks)
            ],
            chunks=chunks,
            vectors=vectors,
            ragged=ragged,
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

    def _ragged(self, name: str, collection: str, index: int) -> tuple[list[str], LongRows]:
        """The ids of a shard and their sparse vectors or words by one name."""
        files = self.folder.terms if self.ragged[name].kind == "lexical" else self.folder.sparse
        found = files.read(collection, name, index)
        self.unchanged.require(_WAY_ON)
        return found

    def _require_same(
        self, name: str, ids: Sequence[str], chunks: Sequence[Chunk], collection: str, index: int
    ) -> None:
        if list(ids) != [chunk.id for chunk in chunks]:
            raise OutputError(
                f"{self.folder.path} has {name} vectors of other chunks in shard {index} of {collection}: {REPAIR}"
            )


def key_of(collection: str, id_: str) -> str:
    """The UUID of a chunk, by its collection and id."""
    return str(uuid.uuid5(_NAMESPACE, json_text([collection, id_])))


def open_source(
    path: Path,
    vectors: str | None,
    collections: Sequence[str],
    *,
    several: bool,
    kinds: Collection[MemberKind] = ALL_KINDS,
) -> Source:
    """A finished run to export. `vectors` names those of a member, the fused ones, or all; None takes all where a store
    has room for `several` a row, else the fused ones or, without these, the only model's. Members of other `kinds` are
    left out, if nobody named them.

    Raises:
        OutputError: there is no finished run.
        ConfigError: it has no such vectors or collection, or the export has no place for them.
    """
    folder, unchanged = RunFolder.open(path), Unchanged.of(path)
    there = folder.read_json_as("run.json", _described)
    known = there.collections
    for name in collections:
        if name not in known:
            raise ConfigError(f"{path} has no collection {name}: choose one of {', '.join(known)}")
    chosen = tuple(collections) or tuple(known)
    order = {name: number for number, name in enumerate(chosen)}
    records = [record for record in folder.manifest.read().values() if record.collection in known]
    shards = [record for record in records if record.kind == "chunks" and record.collection in order]
    shards.sort(key=lambda record: (order[record.collection], record.shard))
    dims, ragged = _chosen(path, vectors, there, several, kinds)
    unchanged.require(_WAY_ON)
    names = (*there.dims, *there.ragged)
    return Source(
        folder=folder,
        run=folder.identity(),
        collections=chosen,
        dims=dims,
        shards={(record.collection, record.shard): record.rows for record in shards},
        unchanged=unchanged,
        others=tuple(name for name in names if name not in dims and name not in ragged),
        other_collections=tuple(name for name in known if name not in chosen),
        whole=not collections,
        ragged={name: _counted(member, name, records) for name, member in ragged.items()},
        left_out={
            name: member for name, member in there.ragged.items() if vectors is None and member.kind not in kinds
        },
        hybrid=there.hybrid,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """What run.json says: dims of vectors by name, members of other kinds, the weights of all, and collections that
    have chunks.
    """

    dims: Mapping[str, int]
    ragged: Mapping[str, RaggedMember]
    hybrid: Mapping[str, float]
    collections: Sequence[str]


def _described(summary: Any) -> _Described:
    dims: dict[str, int] = {}
    ragged: dict[str, RaggedMember] = {}
    for model in summary["models"]:
        if model.get("kind", "dense") == "dense":
            dims[model["name"]] = int(model["dim"])
        else:
            ragged[model["name"]] = RaggedMember(kind=model["kind"], dim=int(model["dim"]))
    for words in summary.get("words", ()):
        ragged[words["name"]] = RaggedMember(kind="lexical", language=words["language"])
    if summary["fusion"] is not None:
        dims[FUSED] = int(summary["fusion"]["dim"])
    terms = (summary.get("hybrid") or {"terms": ()})["terms"]
    return _Described(
        dims=dims,
        ragged=ragged,
        hybrid={term["name"]: float(term["weight"]) for term in terms},
        collections=[collection["name"] for collection in summary["collections"] if collection["chunks"]],
    )


def _counted(member: RaggedMember, name: str, records: Sequence[FileRecord]) -> RaggedMember:
    """A member with the words and texts of all its files."""
    files = [record for record in records if (record.kind, record.model) == ("vectors", name)]
    words, texts = sum(record.tokens or 0 for record in files), sum(record.rows for record in files)
    return replace(member, words=words, texts=texts)


def _chosen(
    path: Path, asked: str | None, there: _Described, several: bool, kinds: Collection[MemberKind]
) -> tuple[dict[str, int], dict[str, RaggedMember]]:
    """The dims and the members that are exported."""
    dims = dict(there.dims) if "dense" in kinds else {}
    ragged = {name: member for name, member in there.ragged.items() if member.kind in kinds}
    left = [name for name in there.ragged if name not in ragged]
    named = left if asked == ALL else [name for name in left if name == asked or not (dims or ragged)]
    if named:
        raise _no_place(path, named[0], there.ragged[named[0]].kind, (*dims, *ragged), asked)
    names = (*dims, *ragged)
    if asked == ALL or (asked is None and several):
        if not several:
            raise ConfigError(f"this export has one vector a row: give --vectors one of {', '.join(names)}")
        return dims, ragged
    if asked is None:
        if FUSED not in dims and len(dims) > 1:
            raise ConfigError(f"{path} has no fused vectors: give --vectors one of {', '.join(names)}")
        asked = FUSED if FUSED in dims else names[0]
    if asked not in names:
        raise ConfigError(f"{path} has no vectors of {asked}: give --vectors one of {', '.join(names)}")
    return {name: dim for name, dim in dims.items() if name == asked}, {
        name: member for name, member in ragged.items() if name == asked
    }


def _no_place(path: Path, name: str, kind: MemberKind, others: Sequence[str], asked: str | None) -> ConfigError:
    if not others:
        takers = [to for to, row in EXPORTS.items() if row.rows and kind in row.kinds]
        way_on = f"export to {listed(takers, 'or')}"
    else:
        way_on = f"{'leave out --vectors, or ' if asked == ALL else ''}give --vectors one of {', '.join(others)}"
    return ConfigError(f"{path} has {WHAT[kind]} of {name}, and this export has no place for them: {way_on}")


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
