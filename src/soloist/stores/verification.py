"""What is wrong with the files of a run. Reads all of them; computes no vector and needs no model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from soloist.arrays import Vectors
from soloist.digests import DigestTable, contents_digest, shard_digest, text_digest
from soloist.errors import OutputError
from soloist.fusion import FusionPlan
from soloist.stores.going_on import way_on
from soloist.stores.index_files import index_file
from soloist.stores.layout import FIT, INDEX
from soloist.stores.manifest import FileRecord, is_intact
from soloist.stores.run_folder import RunFolder
from soloist.stores.summary import declared_dtype
from soloist.stores.tables import REPAIR, vector_file
from soloist.types import MemberKind, Shard, VectorDType

# Vectors are divided by their norm in float64 and rounded to float32: what is off by more was not written by us.
NORM_TOLERANCE = 1e-4
_NAMED_ROWS = 3
_AGAIN = "run the soloist embed command of this run again"
_SUMMARY = "run.json"


def _remove(*files: str) -> str:
    """What to do where embed would keep a file: one whose checksum holds, or run.json."""
    return f"remove {' and '.join(files)}, and {_AGAIN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was read, and what is wrong with it: a sentence each, with its remedy.

    The first sentence of a run that is not finished says that it is not.
    """

    finished: bool
    collections: int
    chunks: int
    files: int
    problems: tuple[str, ...]


def verify_run(folder: RunFolder) -> Verified:
    """Hold the files of a run against its manifest, its run.json and each other.

    Every chunk has one row for each model and, where the run fuses, one fused row, in the order of the chunks; vectors
    are of the texts that lie beside them, of the declared dimensions and dtype, finite and of norm 1; every file has
    the bytes that were written. Of a run that is not finished only these can be wrong: what it lacks is to be done.

    Raises:
        OutputError: the folder is that of an earlier version, or a file of its records cannot be read.
    """
    return _finished(RunFolder.open(folder.path)) if folder.is_finished else _unfinished(folder)


def _unfinished(folder: RunFolder) -> Verified:
    """Nothing is held against a run at work: it may be about to replace the very file that is read."""
    at_work, records = folder.is_locked(), folder.manifest.read()
    goes_on = "it is running, so wait until it ends" if at_work else f"{way_on(folder.path)} to continue it"
    chunks = [record for record in records.values() if record.kind == "chunks"]
    return Verified(
        finished=False,
        collections=len({record.collection for record in chunks}),
        chunks=sum(record.rows for record in chunks),
        files=len(records),
        problems=(
            f"the run is not finished: {goes_on}; soloist status {folder.path} says how far it is",
            *(() if at_work else _damaged(folder, records).values()),
        ),
    )


def _finished(folder: RunFolder) -> Verified:
    declared = folder.read_json_as("run.json", _declared)
    records = folder.manifest.read()
    damaged = _damaged(folder, records)
    reading = _Reading(folder, records, declared, damaged)
    problems = [*damaged.values(), *_unlisted(folder, records), *reading.problems()]
    if declared.is_fitted and FIT not in records:
        problems.append(f"{FIT}, the matrices of the fusion, is not in the manifest: {_AGAIN}")
    return Verified(
        finished=True,
        collections=len(reading.collections),
        chunks=reading.chunks,
        files=len(records),
        problems=tuple(problems),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Declared:
    """What run.json says of the files: chunks by collection; dense and sparse models as name, fingerprint, dimensions;
    and those that are words as name, fingerprint.
    """

    chunks: Mapping[str, int]
    models: tuple[tuple[str, str, int], ...]
    sparse: tuple[tuple[str, str, int], ...]
    words: tuple[tuple[str, str], ...]
    fused_dim: int | None
    is_fitted: bool
    vector_dtype: VectorDType


def _declared(summary: Any) -> _Declared:
    return _Declared(
        chunks={collection["name"]: collection["chunks"] for collection in summary["collections"]},
        models=_of_kind(summary, "dense"),
        sparse=_of_kind(summary, "sparse"),
        words=tuple((words["name"], words["fingerprint"]) for words in summary.get("words", ())),
        fused_dim=summary["fusion"]["dim"] if summary["fusion"] is not None else None,
        is_fitted=summary["fusion"] is not None and FusionPlan.from_dict(summary["fusion"]).needs_fit,
        vector_dtype=declared_dtype(summary),
    )


def _of_kind(summary: Any, kind: MemberKind) -> tuple[tuple[str, str, int], ...]:
    return tuple(
        (model["name"], model["fingerprint"], model["dim"])
        for model in summary["models"]
        if model.get("kind", "dense") == kind
    )


def _damaged(folder: RunFolder, records: Mapping[str, FileRecord]) -> dict[str, str]:
    """The files whose bytes are not those that were written, each with the sentence that says so."""
    found: dict[str, str] = {}
    for file, record in records.items():
        if not (folder.path / file).is_file():
            found[file] = f"{file} is missing: {_AGAIN}, which makes it again"
        elif not is_intact(folder.path / file, record):
            found[file] = f"{file} has changed since it was written: {_AGAIN}, which makes it again"
    return found


def _unlisted(folder: RunFolder, records: Mapping[str, FileRecord]) -> Iterator[str]:
    for path in sorted([*folder.path.glob("*/**/part-*.parquet"), *folder.path.glob(f"*/index/*/{INDEX}")]):
        inside = path.relative_to(folder.path).as_posix()
        if inside not in records and not inside.startswith("."):
            yield f"{inside} is not in the manifest: remove it"


class _Reading:
    """A run folder as it is read shard by shard."""

    def __init__(
        self, folder: RunFolder, records: Mapping[str, FileRecord], declared: _Declared, damaged: Mapping[str, str]
    ) -> None:
        self._folder = folder
        self._records = records
        self._declared = declared
        self._damaged = damaged
        self._shards: dict[str, list[int]] = {}
        for record in sorted(records.values(), key=lambda record: record.shard):
            if record.kind == "chunks":
                self._shards.setdefault(record.collection, []).append(record.shard)
        self.chunks = 0
        self.collections = sorted({record.collection for record in records.values() if record.kind == "chunks"})

    def problems(self) -> Iterator[str]:
        """All that is wrong, in the order of the collections."""
        for collection in self.collections:
            ids = DigestTable()
            before = self.chunks
            for index in self._shards.get(collection, ()):
                yield from self._shard(collection, index, ids)
            yield from self._count(collection, self.chunks - before)
            sparse, words = self._declared.sparse, self._declared.words
            for name in (*(name for name, _, _ in sparse), *(name for name, _ in words)):
                yield from self._index(collection, name)
        for collection in self._declared.chunks.keys() - set(self.collections):
            yield from self._count(collection, 0)

    def _index(self, collection: str, name: str) -> Iterator[str]:
        where = f"{collection}, {name}"
        record = self._records.get(index_file(self._folder.path, collection, name))
        contents = [
            self._records[self._folder.shards.chunks_file(collection, index)].content
            for index in self._shards.get(collection, ())
        ]
        if record is None:
            yield f"{where}: its index is not in the manifest: {_AGAIN}"
        elif record.content != contents_digest(contents):
            yield f"{where}: its index is of other chunks: {_AGAIN}"

    def _count(self, collection: str, chunks: int) -> Iterator[str]:
        said = self._declared.chunks.get(collection)
        if said != chunks:
            yield f"{collection} has {chunks} chunks, but run.json says {said}: {_remove(_SUMMARY)}"

    def _shard(self, collection: str, index: int, ids: DigestTable) -> Iterator[str]:
        name = f"{collection}, shard {index}"
        try:
            shard = self._folder.shards.read_shard(collection, index)
        except OutputError as exc:
            yield from self._unreadable(self._folder.shards.chunks_file(collection, index), exc)
            self.chunks += self._records[self._folder.shards.chunks_file(collection, index)].rows
            return
        self.chunks += len(shard.ids)
        twice = [id_ for id_ in shard.ids if ids.add(text_digest(id_)) is not None]
        if twice:
            of_these = "the id {} is" if len(twice) == 1 else "the ids {} are"
            yield f"{name}: {of_these.format(_some(twice))} there twice: {_AGAIN}, which reads the chunks again"
        digests = [text_digest(text) for text in shard.texts]
        for name, fingerprint, dim in self._declared.models:
            yield from self._model(shard, digests, name, fingerprint, dim)
        for name, fingerprint, dim in self._declared.sparse:
            yield from self._sparse(shard, digests, name, fingerprint, dim)
        for name, fingerprint in self._declared.words:
            yield from self._words(shard, digests, name, fingerprint)
        if self._declared.fused_dim is not None:
            yield from self._fused(shard, digests, self._declared.fused_dim)

    def _unreadable(self, file: str, exc: OutputError) -> Iterator[str]:
        if file not in self._damaged:  # else it is told already
            yield f"{str(exc).removesuffix(REPAIR)}{_remove(file)}"

    def _mend(self, file: str, *others: str) -> str:
        """What to do about a file of vectors. embed itself makes again what is damaged, or is of damaged chunks."""
        record = self._records[file]
        chunks = self._folder.shards.chunks_file(record.collection, record.shard)
        return _AGAIN if self._damaged.keys() & {file, chunks} else _remove(file, *others)

    def _model(self, shard: Shard, digests: Sequence[bytes], model: str, fingerprint: str, dim: int) -> Iterator[str]:
        where = f"{shard.collection}, shard {shard.index}, {model}"
        file = self._folder.shards.vectors_file(shard.collection, model, shard.index)
        if file not in self._records:
            yield f"{where}: its vectors are not in the manifest: {_AGAIN}"
            return
        if self._records[file].fingerprint != fingerprint:
            yield f"{where}: its vectors were made with other settings than run.json says: {_AGAIN}"
        try:
            ids, vectors = self._folder.shards.read_vectors(shard.collection, model, shard.index)
            own = self._folder.shards.read_digests(shard.collection, model, shard.index)
            stored = vector_file(self._folder.path / file).vector_dtype
        except OutputError as exc:
            yield from self._unreadable(file, exc)
            return
        yield from self._dtypes(where, file, stored)
        yield from self._vectors(where, file, shard, ids, vectors, dim, norm_tolerance(stored, dim))
        if own is None or list(own) != list(digests):
            others = [id_ for id_, a, b in zip(shard.ids, own or [], digests, strict=False) if a != b]
            whose = _some(others) if others else "its rows"
            yield f"{where}: the vectors of {whose} were made from other texts: {self._mend(file)}"

    def _sparse(self, shard: Shard, digests: Sequence[bytes], model: str, fingerprint: str, dim: int) -> Iterator[str]:
        where = f"{shard.collection}, shard {shard.index}, {model}"
        file = self._folder.shards.vectors_file(shard.collection, model, shard.index)
        if file not in self._records:
            yield f"{where}: its sparse vectors are not in the manifest: {_AGAIN}"
            return
        if self._records[file].fingerprint != fingerprint:
            yield f"{where}: its sparse vectors were made with other settings than run.json says: {_AGAIN}"
        try:
            ids, rows = self._folder.sparse.read(shard.collection, model, shard.index)
            own = self._folder.shards.read_digests(shard.collection, model, shard.index)
            stored = vector_file(self._folder.path / file).vector_dtype
        except OutputError as exc:
            yield from self._unreadable(file, exc)
            return
        yield from self._dtypes(where, file, stored)
        if len(rows.keys) and int(rows.keys.max()) >= dim:
            yield f"{where}: it has weights of words beyond its {dim}: {self._mend(file, _SUMMARY)}"
        if ids != list(shard.ids):
            yield f"{where}: its rows are not those of the chunks, or not in their order: {self._mend(file)}"
        if own is None or own != list(digests):
            yield f"{where}: its sparse vectors are of other texts: {self._mend(file)}"

    def _words(self, shard: Shard, digests: Sequence[bytes], name: str, fingerprint: str) -> Iterator[str]:
        where = f"{shard.collection}, shard {shard.index}, {name}"
        file = self._folder.shards.vectors_file(shard.collection, name, shard.index)
        if file not in self._records:
            yield f"{where}: its words are not in the manifest: {_AGAIN}"
            return
        if self._records[file].fingerprint != fingerprint:
            yield f"{where}: its words were cut with other settings than run.json says: {_AGAIN}"
        try:
            ids, _ = self._folder.terms.read(shard.collection, name, shard.index)
            own = self._folder.shards.read_digests(shard.collection, name, shard.index)
        except OutputError as exc:
            yield from self._unreadable(file, exc)
            return
        if ids != list(shard.ids):
            yield f"{where}: its rows are not those of the chunks, or not in their order: {self._mend(file)}"
        if own is None or own != list(digests):
            yield f"{where}: its words are of other texts: {self._mend(file)}"

    def _fused(self, shard: Shard, digests: Sequence[bytes], dim: int) -> Iterator[str]:
        where = f"{shard.collection}, shard {shard.index}, fused"
        file = self._folder.shards.fused_file(shard.collection, shard.index)
        if file not in self._records:
            yield f"{where}: its vectors are not in the manifest: {_AGAIN}"
            return
        if self._records[file].content != shard_digest(shard.ids, digests):
            yield f"{where}: its vectors were made from other chunks: {_AGAIN}"
        try:
            ids, vectors = self._folder.shards.read_fused(shard.collection, shard.index)
            stored = vector_file(self._folder.path / file).vector_dtype
        except OutputError as exc:
            yield from self._unreadable(file, exc)
            return
        yield from self._dtypes(where, file, stored)
        # Fused from rounded vectors, and rounded again.
        yield from self._vectors(where, file, shard, ids, vectors, dim, norm_tolerance(stored, dim, roundings=2))

    def _dtypes(self, where: str, file: str, stored: VectorDType) -> Iterator[str]:
        said = {_SUMMARY: self._declared.vector_dtype, "the manifest": self._records[file].vector_dtype}
        for which, vector_dtype in said.items():
            if vector_dtype != stored:
                wrong = f"its vectors are stored as {stored}, but {which} says {vector_dtype}"
                yield f"{where}: {wrong}: {self._mend(file)}"

    def _vectors(
        self, where: str, file: str, shard: Shard, ids: Sequence[str], vectors: Vectors, dim: int, tolerance: float
    ) -> Iterator[str]:
        if vectors.shape[1] != dim:
            has = f"its vectors have {vectors.shape[1]} dimensions, but run.json says {dim}"
            yield f"{where}: {has}: {self._mend(file, _SUMMARY)}"
        for problem in _row_problems(shard, ids, vectors, tolerance):
            yield f"{where}: {problem}: {self._mend(file)}"


def norm_tolerance(vector_dtype: VectorDType, dim: int, roundings: int = 1) -> float:
    """How far from 1 the norm of a stored vector may be that was rounded so many times.

    To float16 a component is rounded by at most 2^-11 of itself or, where it is below 2^-14, by 2^-25: a vector moves
    by at most 2^-11 of its norm and 2^-25 for each component, which are perpendicular to each other. That is also the
    sine of the angle by which it turns: its cosine is above 1 - 1.3e-7 up to 500,000 dimensions.
    """
    if vector_dtype == "float32":
        return NORM_TOLERANCE
    moved = 2**-11 + 2**-25 * math.sqrt(dim)
    return NORM_TOLERANCE + (1 + moved) ** roundings - 1


def _row_problems(shard: Shard, ids: Sequence[str], vectors: Vectors, tolerance: float) -> Iterator[str]:
    """What is wrong with the rows of a file of vectors."""
    if list(ids) != list(shard.ids):
        there = set(ids)
        missing = [id_ for id_ in shard.ids if id_ not in there]
        yield (
            f"no vector for {_some(missing)}"
            if missing
            else "its vectors are not in the order of the chunks, or there are too many of them"
        )
    with np.errstate(all="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    broken = np.flatnonzero(~np.isfinite(norms)).tolist()
    if broken:
        yield f"NaN or infinity in the vector of {_some([ids[row] for row in broken])}"
    off = np.flatnonzero(np.abs(norms - 1) > tolerance).tolist()
    if off:
        yield f"a norm other than 1 in the vector of {_some([ids[row] for row in off])}"


def _some(ids: Iterable[str]) -> str:
    """The first few ids, and how many more."""
    every = list(ids)
    named = ", ".join(f"{id_!a}" for id_ in every[:_NAMED_ROWS])
    return named if len(every) <= _NAMED_ROWS else f"{named} and {len(every) - _NAMED_ROWS:,} more"
