"""One pass: its models on all devices, every shard through every one of them.

The same code runs in the process that drives the run and, with process isolation, in a worker of its own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from soloist.devices import Accelerator
from soloist.encoding.encoder import Encoder, TokenizedTexts
from soloist.encoding.replicas import Replicas
from soloist.engine.ingest import ShardRef
from soloist.engine.lookahead import Lookahead
from soloist.engine.memory import PeakWatch, compare_peaks
from soloist.engine.plan import Pass, RunPlan
from soloist.events import (
    BatchSplit,
    Event,
    EventSink,
    PassFinished,
    PassStarted,
    RowsRecomputed,
    ShardEncoded,
    TeeSink,
)
from soloist.memory.planner import BatchLimits
from soloist.stores import RunFolder
from soloist.types import Batch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stage:
    """What every pass of a run works with."""

    plan: RunPlan
    encoders: Mapping[str, Encoder]
    shards: Sequence[ShardRef]
    accelerator: Accelerator
    folder: RunFolder


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Prepared:
    """A shard that is tokenized and planned for one model, ready for the devices."""

    model: str
    shard: ShardRef
    ids: tuple[str, ...]
    tokenized: TokenizedTexts
    batches: tuple[Batch, ...]
    padded_tokens: int
    seconds: float


class _SplitCount:
    """An event sink that counts the batches of each model that did not fit."""

    def __init__(self) -> None:
        self.splits: dict[str, int] = {}

    def emit(self, event: Event) -> None:
        if isinstance(event, BatchSplit):
            self.splits[event.model] = self.splits.get(event.model, 0) + 1


def run_pass(each: Pass, stage: Stage, lease: AbstractContextManager[object], sink: EventSink) -> None:
    """Embed every shard with the models of a pass, inside a lease that is taken when the first shard is ready."""
    devices = stage.accelerator.devices
    watch, counted = PeakWatch(stage.plan), _SplitCount()
    sink = TeeSink(counted, sink)

    def prepare(work: tuple[ShardRef, str]) -> _Prepared:
        return _prepare(stage.folder, work[0], work[1], stage.encoders[work[1]], stage.plan.limits[work[1]])

    work = ((shard, model) for shard in stage.shards for model in each.models)
    with Lookahead(prepare, work) as prepared:
        prepared.wait_for_first()  # the devices are not held while the first shard is tokenized
        with lease, _on_devices(each, stage, sink) as replicas:
            for model in each.models:
                sink.emit(PassStarted(model=model, devices=devices, chunks=sum(shard.rows for shard in stage.shards)))
            _encode_all(prepared, replicas, stage.folder, watch, sink)
            peaks = {device: stage.accelerator.memory(device).peak_bytes for device in devices}
            for model in each.models:
                sink.emit(PassFinished(model=model, peak_bytes=peaks))
    compare_peaks(watch, each.models, peaks, counted.splits, sink)


@contextlib.contextmanager
def _on_devices(each: Pass, stage: Stage, sink: EventSink) -> Iterator[dict[str, Replicas]]:
    with contextlib.ExitStack() as stack:
        yield {
            model: stack.enter_context(
                Replicas(stage.encoders[model].staged, stage.encoders[model], stage.accelerator, sink)
            )
            for model in each.models
        }


def _prepare(folder: RunFolder, ref: ShardRef, model: str, encoder: Encoder, limits: BatchLimits) -> _Prepared:
    began = time.perf_counter()
    shard = folder.read_shard(ref.collection, ref.index)
    tokenized = encoder.tokenize(shard.texts)
    batches = encoder.plan(tokenized, limits.rows, limits.is_bound_by_memory)
    return _Prepared(
        model=model,
        shard=ref,
        ids=shard.ids,
        tokenized=tokenized,
        batches=batches,
        padded_tokens=encoder.computed_tokens(tokenized, batches),
        seconds=time.perf_counter() - began,
    )


def _encode_all(
    prepared: Lookahead[tuple[ShardRef, str], _Prepared],
    replicas: dict[str, Replicas],
    folder: RunFolder,
    watch: PeakWatch,
    sink: EventSink,
) -> None:
    began = time.perf_counter()
    before_the_lease = None
    for work in prepared:
        if before_the_lease is None:
            before_the_lease = work.seconds
            began -= work.seconds
        watch.see(work.model, work.batches)
        _encode_shard(work, replicas[work.model], folder, sink, began)
        began = time.perf_counter()


def _encode_shard(work: _Prepared, replicas: Replicas, folder: RunFolder, sink: EventSink, began: float) -> None:
    encoded = replicas.encode(work.ids, work.tokenized, work.batches)
    folder.write_vectors(work.shard.collection, work.model, work.shard.index, work.ids, encoded.vectors)
    if encoded.recomputed_rows:
        sink.emit(
            RowsRecomputed(
                model=work.model,
                collection=work.shard.collection,
                shard=work.shard.index,
                ids=tuple(work.ids[row] for row in encoded.recomputed_rows),
            )
        )
    sink.emit(
        ShardEncoded(
            model=work.model,
            collection=work.shard.collection,
            shard=work.shard.index,
            rows=len(work.ids),
            tokens=sum(work.tokenized.lengths),
            padded_tokens=work.padded_tokens,
            truncated_rows=sum(1 for dropped in work.tokenized.dropped if dropped),
            truncated_tokens=sum(work.tokenized.dropped),
            batch_rows=tuple(len(batch.rows) for batch in work.batches),
            padded_lengths=tuple(batch.padded_length for batch in work.batches),
            rows_per_device=encoded.rows_per_device,
            seconds=time.perf_counter() - began,
        )
    )
