"""One pass: its models on all devices, every shard through every one of them.

The same code runs in the process that drives the run and, with process isolation, in a worker of its own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soloist.devices import Accelerator
from soloist.digests import text_digest
from soloist.encoding.encoder import Encoder
from soloist.encoding.prefetch import prefetched_weights
from soloist.encoding.replicas import Replicas
from soloist.engine.drivers.prefetch import Lookahead
from soloist.engine.intake.ingest import ShardRef
from soloist.engine.resume.vector_reuse import KnownVectors, Placement, known_vectors
from soloist.engine.shard_encoding import EncodedTexts, PreparedTexts, encode_texts, prepare_texts, token_counts
from soloist.events import (
    BatchSplit,
    Event,
    EventSink,
    Notice,
    PassFinished,
    PassStarted,
    RowsRecomputed,
    ShardEncoded,
    ShardsKept,
    TeeSink,
)
from soloist.sizing.batch_limits import PeakWatch, compare_peaks
from soloist.sizing.run_plan import Pass, RunPlan
from soloist.stopping import Stop
from soloist.stores import RunFolder
from soloist.stores.manifest import FileRecord
from soloist.types import TokenTally, VectorDType

_UNKNOWN = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stage:
    """What every pass of a run works with. `others` are the runs whose vectors may be taken, `vector_dtype` is what the
    vectors are stored as.
    """

    plan: RunPlan
    encoders: Mapping[str, Encoder]
    shards: Sequence[ShardRef]
    accelerator: Accelerator
    folder: RunFolder
    stop: Stop
    vector_dtype: VectorDType
    others: Sequence[RunFolder] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Prepared:
    """A shard that is ready for the devices with one model. `fresh` are the texts that `placement` leaves to embed."""

    model: str
    shard: ShardRef
    ids: tuple[str, ...]
    digests: tuple[bytes, ...]
    placement: Placement
    fresh: PreparedTexts


class _SplitCount:
    """An event sink that counts the batches of each model that did not fit."""

    def __init__(self) -> None:
        self.splits: dict[str, int] = {}

    def emit(self, event: Event) -> None:
        if isinstance(event, BatchSplit):
            self.splits[event.model] = self.splits.get(event.model, 0) + 1


def run_pass(each: Pass, stage: Stage, lease: AbstractContextManager[object], sink: EventSink) -> None:
    """Embed every shard that is not finished with the models of a pass.

    The lease is taken when the first shard with rows to embed is ready, and not at all where there is none.

    Raises:
        RunStoppedError: the run was to end before all shards were done.
    """
    work = pending(each, stage, sink)
    if not work:
        return
    known = {
        model: known_vectors(
            stage.folder,
            stage.others,
            model,
            stage.encoders[model].staged.fingerprint,
            stage.vector_dtype,
            stage.stop.check,
        )
        for model in dict.fromkeys(model for _, model in work)
    }

    def prepare(item: tuple[ShardRef, str]) -> _Prepared:
        return _prepare(stage, item[0], item[1], known[item[1]])

    with stage.stop.shielded(), Lookahead(prepare, work) as prepared:
        _Working(each, stage, known, work, lease, sink).through(prepared)


def pending(each: Pass, stage: Stage, sink: EventSink) -> list[tuple[ShardRef, str]]:
    """The shards and models of a pass that are not finished, in order; those that are become an event a model."""
    finished = stage.folder.manifest.read()
    work: list[tuple[ShardRef, str]] = []
    kept: dict[str, list[FileRecord]] = {}
    for shard, model in ((shard, model) for shard in stage.shards for model in each.models):
        record = finished.get(stage.folder.shards.vectors_file(shard.collection, model, shard.index))
        wanted = (shard.content, stage.encoders[model].staged.fingerprint, stage.vector_dtype)
        if record is not None and (record.content, record.fingerprint, record.vector_dtype) == wanted:
            kept.setdefault(model, []).append(record)
        else:
            work.append((shard, model))
    for model, records in kept.items():
        tallies = [record.tally for record in records if record.tally is not None]
        rows = sum(record.rows for record in records)
        sink.emit(ShardsKept(model=model, shards=len(records), rows=rows, tally=sum(tallies, TokenTally())))
        if len(tallies) < len(records):
            without = len(records) - len(tallies)
            message = f"{without} of its shards were written by an earlier version: their tokens are in no count"
            sink.emit(Notice(about=model, message=message))
    return work


def following(each: Pass, stage: Stage) -> list[Encoder]:
    """Those of the models of the next pass that are not of this one."""
    later = stage.plan.passes[stage.plan.passes.index(each) + 1 :][:1]
    return [stage.encoders[model] for one in later for model in one.models if model not in each.models]


class _Working:
    """A pass at work: its lease and replicas, once there is something to embed, and what it has seen."""

    def __init__(
        self,
        each: Pass,
        stage: Stage,
        known: Mapping[str, KnownVectors],
        work: Sequence[tuple[ShardRef, str]],
        lease: AbstractContextManager[object],
        sink: EventSink,
    ) -> None:
        self._each = each
        self._stage = stage
        self._known = known
        self._work = work
        self._lease = lease
        self._counted = _SplitCount()
        self._sink = TeeSink(self._counted, sink)
        self._watch = PeakWatch(stage.plan)
        self._replicas: dict[str, Replicas] | None = None

    def through(self, prepared: Lookahead[tuple[ShardRef, str], _Prepared]) -> None:
        """Work off the shards."""
        devices = self._stage.accelerator.devices
        peaks: dict[str, int] = {}
        with contextlib.ExitStack() as held:
            waited = 0.0
            began = time.perf_counter()
            for item in prepared:
                self._stage.stop.check()
                if item.fresh.batches and self._replicas is None:
                    waited = time.perf_counter()
                    self._replicas = self._take(held)
                    began += time.perf_counter() - waited  # the wait for the devices is not the shard's
                self._watch.see(item.model, item.fresh.batches)
                self._encode(item, began)
                began = time.perf_counter()
            if self._replicas is not None:
                peaks = {device: self._stage.accelerator.memory(device).peak_bytes for device in devices}
                for model in self._each.models:
                    self._sink.emit(PassFinished(model=model, peak_bytes=peaks))
        if peaks:
            compare_peaks(self._watch, self._each.models, peaks, self._counted.splits, self._sink)

    def _take(self, held: contextlib.ExitStack) -> dict[str, Replicas]:
        """The devices, with a replica of each model on each of them."""
        with self._stage.stop.interruptible():
            held.enter_context(self._lease)
        replicas = held.enter_context(_on_devices(self._each, self._stage, self._sink))
        for model in self._each.models:
            chunks = sum(shard.rows for shard, name in self._work if name == model)
            self._sink.emit(PassStarted(model=model, devices=self._stage.accelerator.devices, chunks=chunks))
        held.enter_context(prefetched_weights(encoder.staged.module for encoder in following(self._each, self._stage)))
        return replicas

    def _encode(self, item: _Prepared, began: float) -> None:
        encoder = self._stage.encoders[item.model]
        encoded = encode_texts(encoder, self._replicas[item.model] if self._replicas is not None else None, item.fresh)
        folder, shard, staged = self._stage.folder, item.shard, encoder.staged
        path = folder.path / folder.shards.vectors_file(shard.collection, item.model, shard.index)
        vectors, counts = encoded.vectors, encoded.counts
        if len(item.placement.copies):
            fresh = list(item.placement.fresh)
            vectors = np.empty((len(item.ids), staged.dim), dtype=np.float32)
            vectors[fresh] = encoded.vectors
            counts = np.full((len(item.ids), 2), _UNKNOWN, dtype=np.int32)
            counts[fresh] = encoded.counts
            self._known[item.model].fill(path, item.digests, item.placement, vectors, counts)
            self._count_unknown(item, counts)
        record = folder.shards.write_vectors(
            shard.collection, item.model, shard.index, item.ids, vectors, item.digests, staged.fingerprint, counts,
            self._stage.vector_dtype,
        )  # fmt: skip
        folder.manifest.append(record)
        self._known[item.model].written(item.placement, vectors, self._stage.vector_dtype)
        if encoded.recomputed_ids:
            self._sink.emit(
                RowsRecomputed(
                    model=item.model, collection=shard.collection, shard=shard.index, ids=encoded.recomputed_ids
                )
            )
        self._sink.emit(_shard_event(item, encoded, record.tally or TokenTally(), time.perf_counter() - began))

    def _count_unknown(self, item: _Prepared, counts: NDArray[np.int32]) -> None:
        """Count the tokens of rows whose vectors were taken from a file of an earlier version, which has no counts."""
        rows = np.flatnonzero((counts == _UNKNOWN).any(axis=1))
        if rows.size:
            texts = self._stage.folder.shards.read_shard(item.shard.collection, item.shard.index).texts
            counts[rows] = token_counts(self._stage.encoders[item.model].tokenize([texts[row] for row in rows]))


@contextlib.contextmanager
def _on_devices(each: Pass, stage: Stage, sink: EventSink) -> Iterator[dict[str, Replicas]]:
    with contextlib.ExitStack() as stack:
        yield {
            model: stack.enter_context(
                Replicas(stage.encoders[model].staged, stage.encoders[model], stage.accelerator, sink)
            )
            for model in each.models
        }


def _prepare(stage: Stage, ref: ShardRef, model: str, known: KnownVectors) -> _Prepared:
    shard = stage.folder.shards.read_shard(ref.collection, ref.index)
    digests = tuple(text_digest(text) for text in shard.texts)
    path = stage.folder.path / stage.folder.shards.vectors_file(ref.collection, model, ref.index)
    placement = known.place(path, digests)
    fresh = prepare_texts(
        stage.encoders[model],
        stage.plan.limits[model],
        [shard.ids[row] for row in placement.fresh],
        [shard.texts[row] for row in placement.fresh],
    )
    return _Prepared(model=model, shard=ref, ids=shard.ids, digests=digests, placement=placement, fresh=fresh)


def _shard_event(item: _Prepared, encoded: EncodedTexts, tally: TokenTally, seconds: float) -> ShardEncoded:
    tokenized, batches = item.fresh.tokenized, item.fresh.batches
    return ShardEncoded(
        model=item.model,
        collection=item.shard.collection,
        shard=item.shard.index,
        rows=len(item.ids),
        tokens=sum(tokenized.lengths),
        padded_tokens=item.fresh.padded_tokens,
        truncated_rows=sum(1 for dropped in tokenized.dropped if dropped),
        truncated_tokens=sum(tokenized.dropped),
        batch_rows=tuple(len(batch.rows) for batch in batches),
        padded_lengths=tuple(batch.padded_length for batch in batches),
        rows_per_device=encoded.rows_per_device,
        seconds=seconds,
        reused_rows=item.placement.reused,
        from_others_rows=item.placement.from_others,
        repeated_rows=item.placement.repeated,
        tally=tally,
    )
