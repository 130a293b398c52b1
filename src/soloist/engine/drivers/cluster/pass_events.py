"""What a pass over many nodes tells: events of its workers under the names of their nodes, and each shard once.

A shard is told when it is part of the run. So what a worker did in vain is in no count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from soloist.engine.drivers.cluster.links import Link
from soloist.engine.drivers.cluster.shard_queue import TakenShard
from soloist.events import (
    BatchEncoded,
    Event,
    EventSink,
    LeaseAcquired,
    LeaseReleased,
    LeaseWaiting,
    PassFinished,
    PassStarted,
    ShardEncoded,
)
from soloist.events.nodes import device_on, on_node
from soloist.types import ShardSeconds, TokenTally


class PassEvents:
    """The events of one pass. `chunks` says by model how many chunks are left."""

    def __init__(self, models: Sequence[str], chunks: Mapping[str, int], sink: EventSink) -> None:
        self._models = models
        self._chunks = chunks
        self._sink = sink
        self._computed: dict[tuple[str, str], ShardEncoded] = {}  # by attempt and model
        self._peaks: dict[str, dict[str, int]] = {}
        self._has_started = False
        self.slowest_seconds: float | None = None

    def hand_on(self, link: Link, event: Event, ready: Sequence[Link]) -> None:
        """Tell an event of a worker, and take note of what it says of its lease. `ready` are all that have models."""
        named = on_node(event, link.node.name)
        match named:
            case LeaseAcquired():
                link.is_leased, link.is_waiting = True, False
                self._start(ready)
            case LeaseReleased():
                link.is_leased = False
            case LeaseWaiting():
                link.is_waiting = True
            case PassFinished():
                self._peaks.setdefault(named.model, {}).update(named.peak_bytes)
                return
            case BatchEncoded():  # told when its shard is part of the run
                return
        self._sink.emit(named)

    def computed(self, link: Link, attempt: str, event: ShardEncoded, workers: int) -> None:
        """One of so many workers has computed a shard, which is not part of the run yet.

        Its seconds are shared out among the workers, so that those of all shards add up to the time of the pass.
        """
        named = on_node(event, link.node.name)
        assert isinstance(named, ShardEncoded)
        self._computed[attempt, event.model] = dataclasses.replace(named, seconds=event.seconds / workers)
        self.slowest_seconds = max(self.slowest_seconds or 0.0, event.seconds)

    def taken(self, taken: TakenShard) -> None:
        """A shard is part of the run for a model."""
        tally = taken.record.tally or TokenTally()
        event = self._computed.pop((taken.attempt, taken.model), None)
        if event is None:
            self._sink.emit(_copied(taken, tally))
            return
        for device, rows in event.rows_per_device.items():
            self._sink.emit(BatchEncoded(model=event.model, device=device, rows=rows))
        self._sink.emit(dataclasses.replace(event, tally=tally))

    def finish(self) -> None:
        """All shards are part of the run, and all nodes have given their devices back."""
        for model, peaks in self._peaks.items():
            self._sink.emit(PassFinished(model=model, peak_bytes=peaks))

    def _start(self, ready: Sequence[Link]) -> None:
        """Say once that the pass begins, and on which devices."""
        if self._has_started:
            return
        self._has_started = True
        devices = tuple(
            device_on(link.node.name, device) for link in ready if link.facts for device in link.facts.devices
        )
        for model in self._models:
            self._sink.emit(PassStarted(model=model, devices=devices, chunks=self._chunks.get(model, 0)))


def _copied(taken: TakenShard, tally: TokenTally) -> ShardEncoded:
    """The event of a shard of which nothing was computed."""
    placement, ref = taken.given.placements[taken.model], taken.given.ref
    return ShardEncoded(
        model=taken.model, collection=ref.collection, shard=ref.index, rows=ref.rows, tokens=0, padded_tokens=0,
        truncated_rows=0, truncated_tokens=0, batch_rows=(), padded_lengths=(), rows_per_device={}, seconds=0.0,
        reused_rows=placement.reused, repeated_rows=placement.repeated, from_others_rows=placement.from_others,
        tally=tally, parts=ShardSeconds(),
    )  # fmt: skip
