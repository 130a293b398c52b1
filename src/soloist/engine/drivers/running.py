"""A pass at work: its models on all devices, and every prepared shard through them.

Whoever starts it says which shards come, and where their rows are kept. Knows nothing of what is left of a run.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np

from soloist.encoding.device_workers import for_every_worker, threads_of_a_pass
from soloist.encoding.prefetch import prefetched_weights
from soloist.encoding.replicas import Replicas
from soloist.engine.drivers.context import PassContext
from soloist.engine.drivers.preparing import PlannedShard, PreparedShard, WaitingShard
from soloist.engine.drivers.room import Room
from soloist.engine.drivers.row_stores import ComputedShard, RowStore
from soloist.engine.drivers.writing import ShardWriter
from soloist.engine.resume.known_texts import Placement
from soloist.engine.shard_encoding import EncodedTexts, encode_texts
from soloist.events import (
    BadRowsFound,
    BatchEncoded,
    BatchSplit,
    Event,
    EventSink,
    PassFinished,
    PassStarted,
    RowsRecomputed,
    ShardEncoded,
    TeeSink,
)
from soloist.sizing.batch_limits import PeakWatch, compare_peaks
from soloist.stores.manifest import FileRecord
from soloist.stores.moving import move_in
from soloist.stores.tables import tally_of
from soloist.types import ShardSeconds, TokenTally

_Taken = Mapping[str, tuple[int, int]]  # bytes of tensors by device: now, and the most since the lease began


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Computed(PlannedShard):
    """A shard that is to be written. `taken` was measured when its new vectors were computed."""

    ids: tuple[str, ...]
    digests: tuple[bytes, ...]
    encoded: EncodedTexts
    taken: _Taken


class _SplitCount:
    """An event sink that counts the batches of each model that did not fit, or had rows that are computed again.

    Both change the peak of a pass.
    """

    def __init__(self) -> None:
        self.splits: dict[str, int] = {}

    def emit(self, event: Event) -> None:
        if isinstance(event, BatchSplit | BadRowsFound):
            self.splits[event.model] = self.splits.get(event.model, 0) + 1


class RunningPass:
    """A pass at work: its lease and replicas, once there is something to embed, and what it has seen.

    `chunks` says by model how many chunks the shards have that are to come.
    """

    def __init__(
        self,
        context: PassContext,
        stores: Mapping[str, RowStore],
        chunks: Mapping[str, int],
        lease: AbstractContextManager[object],
        sink: EventSink,
    ) -> None:
        self._context = context
        self._stores = stores
        self._chunks = chunks
        self._lease = lease
        self._counted = _SplitCount()
        self._sink = TeeSink(self._counted, sink)
        self._watch = PeakWatch(context.plan)
        weights = {model: encoder.staged.weights_bytes for model, encoder in context.distinct.items()}
        self._room = Room(context.accelerator, weights, self._sink)
        self._replicas: dict[str, Replicas] | None = None
        self._began = 0.0  # when the event of the shard before was emitted

    def through(self, prepared: Iterable[PreparedShard | WaitingShard], writer: ShardWriter) -> None:
        """Work off the shards."""
        peaks: dict[str, int] = {}
        with contextlib.ExitStack() as held, writer:
            self._began = time.perf_counter()
            for item in prepared:
                self._context.stop.check()
                self._began = max(self._began, item.begun)  # the wait for a shard to be handed out is not the shard's
                if item.fresh.batches and self._replicas is None:
                    writer.settle()  # there may be hours to wait
                    waiting = time.perf_counter()
                    self._replicas = self._take(held)
                    self._began += time.perf_counter() - waiting  # the wait for the devices is not the shard's
                for model in self._context.together(item.model):
                    self._watch.see(model, item.fresh.batches, self._padded(item))
                self._room.see(item.model, self._watch.needed_bytes(item.model))
                if isinstance(item, WaitingShard):
                    writer.write(functools.partial(self._put, item))
                else:
                    writer.write(functools.partial(self._keep, self._encode(item)))
            writer.settle()
            if self._replicas is not None:
                peaks = self._peaks()
        if peaks:
            compare_peaks(self._watch, self._context.models, peaks, self._counted.splits, self._sink)

    def _padded(self, item: PlannedShard) -> tuple[bool, ...]:
        """Whether the rows of each batch are padded."""
        encoder, lengths = self._context.encoders[item.model], item.fresh.counts[:, 0].tolist()
        return tuple(encoder.pads(lengths, batch) for batch in item.fresh.batches)

    def _take(self, held: contextlib.ExitStack) -> dict[str, Replicas]:
        """The devices, with a replica of each model on each of them."""
        context = self._context
        with context.stop.interruptible():
            held.enter_context(self._lease)
        self._room.look()
        replicas = held.enter_context(_on_devices(context, self._sink))
        for model in context.models:
            chunks = self._chunks.get(model, 0)
            self._sink.emit(PassStarted(model=model, devices=context.accelerator.devices, chunks=chunks))
        held.enter_context(prefetched_weights(encoder.staged.module for encoder in context.next_encoders))
        return replicas

    def _peaks(self) -> dict[str, int]:
        """The peak of each device, which is told for each model of the pass."""
        accelerator = self._context.accelerator
        peaks = {device: accelerator.memory(device).peak_bytes for device in accelerator.devices}
        for model in self._context.models:
            self._sink.emit(PassFinished(model=model, peak_bytes=peaks))
        return peaks

    def _encode(self, item: PreparedShard) -> _Computed:
        replicas = self._replicas[item.model] if self._replicas is not None else None
        given = time.perf_counter()
        encoded = encode_texts(self._context.encoders[item.model], replicas, item.fresh)
        parts = replace(item.parts, encoding=time.perf_counter() - given)
        return _Computed(
            shard=item.shard, placements=item.placements, fresh=item.fresh.without_tokens(),
            parts=parts, ids=item.ids, digests=item.digests, encoded=encoded, taken=self._taken(),
        )  # fmt: skip

    def _keep(self, item: _Computed) -> None:
        """Write a shard for each of its models, and emit the events. On devices the writer's thread does this."""
        parts = item.parts
        for model, placement in item.placements.items():
            self._keep_one(item, model, placement, parts)
            parts = ShardSeconds()  # what the models share counts for the first

    def _keep_one(self, item: _Computed, model: str, placement: Placement, parts: ShardSeconds) -> None:
        began, encoded = time.perf_counter(), item.encoded
        own = np.searchsorted(item.fresh_rows, placement.fresh)
        rows, counts = encoded.rows(model), item.fresh.counts
        if len(own) < len(counts):  # the other model lacks more rows
            rows, counts = rows[own] if isinstance(rows, np.ndarray) else rows.take(own), counts[own]
        record = self._stores[model].write(
            ComputedShard(
                ref=item.shard, ids=item.ids, digests=item.digests, placement=placement, rows=rows, counts=counts
            )
        )  # fmt: skip
        parts = replace(parts, writing=time.perf_counter() - began)
        if encoded.recomputed_ids:
            self._sink.emit(
                RowsRecomputed(
                    model=model, collection=item.shard.collection, shard=item.shard.index, ids=encoded.recomputed_ids
                )
            )  # fmt: skip
        self._tell(item, model, encoded.rows_per_device, record, parts, item.taken)

    def _put(self, item: WaitingShard) -> None:
        """Move the file of a shard into its place. Events say the same as if its batches were computed now."""
        run_shards, record = self._context.run_shards, item.file.record
        computed = time.perf_counter()
        move_in(run_shards.folder, run_shards.folder.ahead, record)
        placement = item.placements[item.model]
        self._stores[item.model].moved(placement, record, item.file.checksums)
        parts = replace(item.parts, writing=time.perf_counter() - computed)
        (device,) = self._context.accelerator.devices
        for batch in for_every_worker(item.fresh.batches, self._context.accelerator.workers):
            self._sink.emit(BatchEncoded(model=item.model, device=device, rows=len(batch.rows)))
        rows_per_device = {device: len(placement.fresh)} if item.fresh.batches else {}
        self._tell(item, item.model, rows_per_device, record, parts, self._taken(), item.file.seconds)

    def _tell(
        self,
        item: PlannedShard,
        model: str,
        rows_per_device: Mapping[str, int],
        record: FileRecord,
        parts: ShardSeconds,
        taken: _Taken,
        seconds_before: float = 0.0,
    ) -> None:
        """Say that a shard is done. Its seconds count from the end of the shard before, plus earlier steps."""
        seconds = seconds_before + time.perf_counter() - self._began
        event = shard_event(item, model, rows_per_device, record.tally or TokenTally(), seconds)
        allocated = {device: now for device, (now, _) in taken.items()}
        peaks = {device: peak for device, (_, peak) in taken.items()}
        self._sink.emit(replace(event, parts=parts, allocated_bytes=allocated, peak_bytes=peaks))
        self._began = time.perf_counter()

    def _taken(self) -> _Taken:
        """What tensors take of each device, and their peak so far; nothing where no devices are leased."""
        accelerator = self._context.accelerator
        devices = accelerator.devices if self._replicas is not None else ()
        return {device: accelerator.tensor_bytes(device) for device in devices}


@contextlib.contextmanager
def _on_devices(context: PassContext, sink: EventSink) -> Iterator[dict[str, Replicas]]:
    accelerator, shared_dtype = context.accelerator, context.shared_dtype
    with contextlib.ExitStack() as stack:
        threads = stack.enter_context(threads_of_a_pass(accelerator))
        yield {
            model: replicas
            for first, encoder in context.distinct.items()
            for replicas in [
                stack.enter_context(Replicas(encoder.staged, encoder, accelerator, sink, threads, shared_dtype))
            ]
            for model in context.together(first)
        }


def shard_event(
    item: PlannedShard, model: str, rows_per_device: Mapping[str, int], tally: TokenTally, seconds: float
) -> ShardEncoded:
    """The event of a shard that is done for a model."""
    fresh, batches, placement = tally_of(item.fresh.counts), item.fresh.batches, item.placements[model]
    return ShardEncoded(
        model=model,
        collection=item.shard.collection,
        shard=item.shard.index,
        rows=item.shard.rows,
        tokens=fresh.tokens,
        padded_tokens=item.fresh.padded_tokens,
        truncated_rows=fresh.truncated_rows,
        truncated_tokens=fresh.truncated_tokens,
        batch_rows=tuple(len(batch.rows) for batch in batches),
        padded_lengths=tuple(batch.padded_length for batch in batches),
        rows_per_device=rows_per_device,
        seconds=seconds,
        reused_rows=placement.reused,
        from_others_rows=placement.from_others,
        repeated_rows=placement.repeated,
        tally=tally,
    )
