"""Embeds shards beside the reading of the next ones: by tables of vectors on the host, in a thread of its own.

Reading is Python's work, and tokenizing is not: beside each other they take little more than the longer of them. The
vectors wait in a hidden folder of the run until their pass has the lease and puts them into their places. Nobody sees
them before, and without them the pass computes the same. So whatever fails here ends this work, and not the run: the
error, if it is one, comes again after the reading.
"""

from __future__ import annotations

import functools
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from soloist.config import RunConfig
from soloist.devices import Accelerator
from soloist.digests import row_checksums, text_digest
from soloist.encoding.tables import TextVectors, text_vectors
from soloist.engine.intake.ingest import ShardRef
from soloist.engine.intake.model_staging import ModelStaging, StagedModels
from soloist.errors import OutputError
from soloist.models.module_facts import is_bare_table
from soloist.stores import RunFolder
from soloist.stores.layout import PREVIOUS
from soloist.stores.leftovers import remove_ahead
from soloist.stores.manifest import FileRecord
from soloist.stores.tables import rounded
from soloist.types import Collection, VectorDType
from soloist.workers import Task, WorkerThread

# The reading must not run out of disk because of vectors that a pass would write later. What it has left to write is at
# most about what the files have, and compressed ones are compressed again.
_SPARE_BYTES = 1 << 30
_TIMES_THE_INPUT = 2

# A thread ends after the texts that it has at hand (see `text_vectors`), or after a file: well under a second.
_PIECE_SECONDS = 10.0

FreeBytes = Callable[[Path], int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AheadFile:
    """A file of vectors that waits for its pass: its record, as the run will have it, the checksum of each row, and the
    seconds that its vectors took.
    """

    record: FileRecord
    checksums: NDArray[np.uint32]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EmbeddedAhead:
    """What was embedded beside the reading: of each of these shards a file of every model."""

    shards: Mapping[ShardRef, Mapping[str, AheadFile]] = field(default_factory=dict)

    def file(self, model: str, ref: ShardRef) -> AheadFile | None:
        """The file of a model and a shard; None where there is none. A shard with other texts is another `ShardRef`."""
        return self.shards.get(ref, {}).get(model)


NONE_AHEAD = EmbeddedAhead()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Computed:
    """The vectors of a shard by one model, and the seconds that they took."""

    model: str
    fingerprint: str
    rows: TextVectors
    seconds: float


class _NotWantedError(Exception):
    """The reading has ended in an error, or the run is to end."""


def free_bytes(path: Path) -> int:
    """The free bytes of the disk that has a path."""
    return shutil.disk_usage(path).free


def spare_bytes(collections: Sequence[Collection]) -> int:
    """The bytes that have to stay free on the disk while these are read."""
    size = sum(_size(file) for collection in collections for file in collection.files)
    return _SPARE_BYTES + _TIMES_THE_INPUT * size


def may_embed_ahead(config: RunConfig, accelerator: Accelerator, folder: RunFolder, staging: ModelStaging) -> bool:
    """Whether the shards of a run can be embedded beside its reading: by tables on the host, into a folder without
    vectors, and without another run to take them from.

    Not where the run's time has a limit: what is done beside the reading is lost if the reading does not end in time.
    """
    return (
        accelerator.kind == "cpu"
        and config.isolation == "allocator"
        and config.stop_after is None
        and not config.reuse
        and not any(record.kind == "vectors" for record in folder.manifest.read().values())
        and not (folder.path / PREVIOUS).exists()
        and staging.are_tables()
    )


class Ahead:
    """A thread that embeds the shards that it is told of, and one that writes their files; a context manager around the
    reading.

    The models are staged when the first shard is written: a fault at the beginning of the input costs no model. Leaving
    ends the threads within moments, whatever they are at.
    """

    def __init__(
        self,
        staging: ModelStaging,
        folder: RunFolder,
        vector_dtype: VectorDType,
        spare_bytes: int,
        *,
        is_wanted: bool = True,
        free_bytes: FreeBytes = free_bytes,
    ) -> None:
        self._staging = staging
        self._folder = folder
        self._vector_dtype = vector_dtype
        self._spare_bytes = spare_bytes
        self._free_bytes = free_bytes
        self._thread: WorkerThread | None = None
        self._writer: WorkerThread | None = None
        self._last: Task[None] | None = None
        self._writing: Task[None] | None = None
        self._has_ended = threading.Event()  # nobody wants more, or something has failed
        self._models: StagedModels | None = None
        self._shards: dict[ShardRef, Mapping[str, AheadFile]] = {}
        if not is_wanted:
            self._has_ended.set()

    def __enter__(self) -> Ahead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._has_ended.set()
        threads = [thread for thread in (self._thread, self._writer) if thread is not None]
        try:
            for thread in threads:  # the first one gives the other its work
                thread.close()
        except KeyboardInterrupt:  # a second one; but the folder in which a thread writes is cleared next
            for thread in threads:
                thread.close_within(_PIECE_SECONDS)
            raise

    def begin(self, ref: ShardRef) -> None:
        """Embed a shard, which is written, after those before it."""
        if self._has_ended.is_set():
            return
        if self._thread is None:
            self._writer = WorkerThread("soloist-ahead-files")
            self._thread = WorkerThread("soloist-ahead")
            self._thread.submit(functools.partial(self._unless_ended, self._stage))
        self._last = self._thread.submit(functools.partial(self._unless_ended, functools.partial(self._embed, ref)))

    def finish(self, check: Callable[[], object]) -> tuple[StagedModels | None, EmbeddedAhead]:
        """The models, and the vectors of all shards that could be embedded; None and no vectors where the models
        are to be staged now. `check` is called while this waits, and may raise.
        """
        if self._last is not None:
            self._last.wait(check)
        if self._writing is not None:  # which the last one may have set
            self._writing.wait(check)
        if self._models is None:
            return None, NONE_AHEAD
        return self._models, EmbeddedAhead(shards=dict(self._shards))

    def _unless_ended(self, work: Callable[[], None]) -> None:
        if self._has_ended.is_set():
            return
        try:
            work()
        except Exception as exc:  # of any kind: see the module
            self._has_ended.set()
            if isinstance(exc, OutputError):  # the disk may be full, and the reading needs it
                self._shards.clear()
                remove_ahead(self._folder.path)

    def _require_wanted(self) -> None:
        if self._has_ended.is_set():
            raise _NotWantedError

    def _stage(self) -> None:
        models = self._staging.in_silence(self._require_wanted)
        self._models = models
        if not all(is_bare_table(model.module) for model in models.staged.values()):
            self._has_ended.set()

    def _embed(self, ref: ShardRef) -> None:
        """Compute the vectors of each model, and have them written; not where one of them lacks a vector of a text."""
        assert self._models is not None
        shard = self._folder.incoming.shards.read_shard(ref.collection, ref.index)
        digests = [text_digest(text) for text in shard.texts]
        computed: list[_Computed] = []
        for model, encoder in self._models.encoders.items():
            began = time.perf_counter()
            rows = text_vectors(encoder, shard.texts, self._require_wanted)
            if rows is None:
                return
            seconds = time.perf_counter() - began
            computed.append(_Computed(model=model, fingerprint=encoder.staged.fingerprint, rows=rows, seconds=seconds))
        self._have_written(functools.partial(self._write, ref, shard.ids, digests, computed))

    def _have_written(self, write: Callable[[], None]) -> None:
        """Begin to write, once what was computed before is written: no more than one shard waits for the disk."""
        assert self._writer is not None
        if self._writing is not None:
            self._writing.wait()
        self._writing = self._writer.submit(functools.partial(self._unless_ended, write))

    def _write(
        self, ref: ShardRef, ids: Sequence[str], digests: Sequence[bytes], computed: Sequence[_Computed]
    ) -> None:
        """Write a file for each model, where the disk has room for all of them; then the shard counts."""
        size = sum(made.rows.vectors.nbytes for made in computed)
        if self._free_bytes(self._folder.path) - size < self._spare_bytes:
            return
        files: dict[str, AheadFile] = {}
        for made in computed:
            self._require_wanted()
            record = self._folder.ahead.shards.write_vectors(
                ref.collection, made.model, ref.index, ids, made.rows.vectors, digests, made.fingerprint,
                made.rows.counts, self._vector_dtype, ref.content,
            )  # fmt: skip
            checksums = row_checksums(rounded(made.rows.vectors, self._vector_dtype))
            files[made.model] = AheadFile(record=record, checksums=checksums, seconds=made.seconds)
        self._shards[ref] = files


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # the reading says what is wrong with it
        return 0
