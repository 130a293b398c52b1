"""Embeds shards while later chunks are read: by tables of vectors on the host, in threads of its own.

Reading holds the interpreter's lock, and tokenizing does not. So both together take little more time than the longer of
them. The vectors wait in a hidden folder of the run until their pass has the lease and moves them into their places.
Nobody sees the vectors before that, and without them the pass computes the same ones. So an error here ends this
embedding and not the run. If the cause of the error stays, the error occurs again after the reading.
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
import pyarrow as pa
from numpy.typing import NDArray

from soloist.config import RunConfig
from soloist.devices import Accelerator
from soloist.digests import row_checksums, text_digest
from soloist.encoding.core_threads import thread_on_one_core
from soloist.encoding.tables import TextVectors, text_vectors
from soloist.engine.intake.model_staging import ModelStaging, StagedModels
from soloist.errors import OutputError
from soloist.ingestion.apart import input_bytes
from soloist.ingestion.ingest import ShardRef
from soloist.models.module_facts import is_bare_table
from soloist.stores import RunFolder
from soloist.stores.layout import PREVIOUS
from soloist.stores.leftovers import remove_ahead
from soloist.stores.manifest import FileRecord
from soloist.stores.tables import rounded
from soloist.types import Collection, Shard, VectorDType
from soloist.workers import Task, WorkerThread

# The reading must not run out of disk because of vectors that a pass would write later. The reading writes at most as
# many bytes as the input files have, more or less: what comes from compressed files is compressed again.
_SPARE_BYTES = 1 << 30
_TIMES_THE_INPUT = 2

# A thread ends after its present texts (see `text_vectors`) or its present file, which takes well under a second.
_PIECE_SECONDS = 10.0

FreeBytes = Callable[[Path], int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AheadFile:
    """A file of vectors that waits for its pass: the record that the run will have of it, the checksum of each row, and
    the seconds that the embedding took.
    """

    record: FileRecord
    checksums: NDArray[np.uint32]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EmbeddedAhead:
    """The shards that were embedded while the input was read, each with a file of every model."""

    shards: Mapping[ShardRef, Mapping[str, AheadFile]] = field(default_factory=dict)

    def file(self, model: str, ref: ShardRef) -> AheadFile | None:
        """The file of a model and a shard, or None. A shard with other texts has another `ShardRef`."""
        return self.shards.get(ref, {}).get(model)


NONE_AHEAD = EmbeddedAhead()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Computed:
    """The vectors of a shard by one model, and the seconds that the embedding took."""

    model: str
    fingerprint: str
    rows: TextVectors
    seconds: float


class _NotWantedError(Exception):
    """The vectors are no longer wanted: the reading has ended early, or the other thread has failed."""


def free_bytes(path: Path) -> int:
    """The free bytes of the disk on which a path lies."""
    return shutil.disk_usage(path).free


def spare_bytes(collections: Sequence[Collection]) -> int:
    """The bytes that have to stay free on the disk while these collections are read."""
    return _SPARE_BYTES + _TIMES_THE_INPUT * input_bytes(collections)


def may_embed_ahead(config: RunConfig, accelerator: Accelerator, folder: RunFolder, staging: ModelStaging) -> bool:
    """Whether the shards of a run can be embedded while its input is read: by tables of vectors on the host, into a
    folder without vectors, and without another run that has vectors to reuse.

    Not if the run's time has a limit: these vectors are lost if the reading does not end in time. Nor on a cluster,
    whose nodes have their own devices.
    """
    return (
        config.cluster is None
        and accelerator.kind == "cpu"
        and config.isolation == "allocator"
        and config.stop_after is None
        and not config.reuse
        and not any(record.kind == "vectors" for record in folder.manifest.read().values())
        and not (folder.path / PREVIOUS).exists()
        and staging.are_tables()
    )


class Ahead:
    """Threads that read shards, embed them and write their files; a context manager around the reading of the input.

    The models are staged when the first shard is written, so a fault at the beginning of the input costs no load of a
    model; or before, see `stage`. When the context is left, all threads end within moments.
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
        self._reader: WorkerThread | None = None
        self._writer: WorkerThread | None = None
        self._embedding: Task[None] | None = None
        self._embedding_before: Task[None] | None = None
        self._writing: Task[None] | None = None
        self._writing_before: Task[None] | None = None
        self._has_ended = threading.Event()  # no more vectors are wanted, or a thread has failed
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
        threads = [thread for thread in (self._thread, self._reader, self._writer) if thread is not None]
        try:
            for thread in threads:  # the first thread gives work to the last, and takes it from the second
                thread.close()
        except KeyboardInterrupt:  # a second Ctrl-C; a thread may still write in the folder that is cleared next
            for thread in threads:
                thread.close_within(_PIECE_SECONDS)
            raise

    def stage(self) -> None:
        """Stage the models now, and not with the first shard."""
        if self._thread is not None or self._has_ended.is_set():
            return
        self._reader = WorkerThread("soloist-ahead-shards")
        self._writer = WorkerThread("soloist-ahead-files")
        self._writer.submit(_first_array)
        # With more threads a table's sums take more of all cores, and no less time.
        self._thread = thread_on_one_core("soloist-ahead")
        self._thread.submit(functools.partial(self._unless_ended, self._load))

    def begin(self, ref: ShardRef) -> None:
        """Embed a shard, whose chunks are written, after the shards that were begun before."""
        self.stage()
        if self._has_ended.is_set():
            return
        assert self._reader is not None
        assert self._thread is not None
        reading = self._reader.submit(functools.partial(self._read, ref, self._embedding_before))
        embed = functools.partial(self._embed, ref, reading)
        self._embedding_before = self._embedding
        self._embedding = self._thread.submit(functools.partial(self._unless_ended, embed))

    def finish(self, check: Callable[[], object]) -> tuple[StagedModels | None, EmbeddedAhead]:
        """The models, and the vectors of all shards that could be embedded. None and no vectors, if the models are
        still to be staged. `check` is called while this waits, and may raise.
        """
        if self._embedding is not None:
            self._embedding.wait(check)
        if self._writing is not None:  # the last embedding may have set it
            self._writing.wait(check)
        if self._models is None:
            return None, NONE_AHEAD
        return self._models, EmbeddedAhead(shards=dict(self._shards))

    def _unless_ended(self, work: Callable[[], None]) -> None:
        if self._has_ended.is_set():
            return
        try:
            work()
        except Exception as exc:  # of any kind: see the module's docstring
            self._has_ended.set()
            if isinstance(exc, OutputError):  # the disk may be full, and the reading needs it
                self._shards.clear()
                remove_ahead(self._folder.path)

    def _require_wanted(self) -> None:
        if self._has_ended.is_set():
            raise _NotWantedError

    def _load(self) -> None:
        models = self._staging.in_silence(self._require_wanted)
        self._models = models
        if not all(is_bare_table(model.module) for model in models.staged.values()):
            self._has_ended.set()

    def _read(self, ref: ShardRef, after: Task[None] | None) -> Shard:
        """A shard, after another one is embedded. So one shard is read in advance."""
        if after is not None:
            after.wait(self._require_wanted)
        self._require_wanted()
        return self._folder.incoming.shards.read_shard(ref.collection, ref.index)

    def _embed(self, ref: ShardRef, reading: Task[Shard]) -> None:
        """Compute the vectors of each model, and have them written. Neither, if a model lacks the vector of a text."""
        assert self._models is not None
        shard = reading.result()
        computed: list[_Computed] = []
        for model, encoder in self._models.encoders.items():
            began = time.perf_counter()
            rows = text_vectors(encoder, shard.texts, self._require_wanted)
            if rows is None:
                return
            seconds = time.perf_counter() - began
            computed.append(_Computed(model=model, fingerprint=encoder.staged.fingerprint, rows=rows, seconds=seconds))
        self._have_written(functools.partial(self._write, ref, shard, computed))

    def _have_written(self, write: Callable[[], None]) -> None:
        """Begin to write a shard, once the last shard but one is written.

        So at most three shards hold vectors: one is being written, one waits, and one is being embedded.
        """
        assert self._writer is not None
        if self._writing_before is not None:
            self._writing_before.wait()
        self._writing_before = self._writing
        self._writing = self._writer.submit(functools.partial(self._unless_ended, write))

    def _write(self, ref: ShardRef, shard: Shard, computed: Sequence[_Computed]) -> None:
        """Write a file for each model, if the disk has room for all of them. Then the shard counts as embedded."""
        size = sum(made.rows.vectors.nbytes for made in computed)
        if self._free_bytes(self._folder.path) - size < self._spare_bytes:
            return
        digests = [text_digest(text) for text in shard.texts]
        files: dict[str, AheadFile] = {}
        for made in computed:
            self._require_wanted()
            record = self._folder.ahead.shards.write_vectors(
                ref.collection, made.model, ref.index, shard.ids, made.rows.vectors, digests, made.fingerprint,
                made.rows.counts, self._vector_dtype, ref.content,
            )  # fmt: skip
            checksums = row_checksums(rounded(made.rows.vectors, self._vector_dtype))
            files[made.model] = AheadFile(record=record, checksums=checksums, seconds=made.seconds)
        self._shards[ref] = files


def _first_array() -> None:
    """Make an array, because with the first one pyarrow imports pandas, if that is installed: a third of a second."""
    pa.array((), pa.string())
