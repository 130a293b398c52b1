"""What happens in a run, as typed events, and the sinks that they go to.

The engine emits events and prints nothing: the progress bar, `events.jsonl`, the telemetry of the
adapters and `run.json` are readers of this one stream.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from soloist.jsontext import json_text
from soloist.types import HeldTensor, MemoryStats


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events. The clock is read by the sink, not by the code that emits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """A run begins, with its models in the order of their passes."""

    mode: str
    accelerator: str
    devices: tuple[str, ...]
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputScanned(Event):
    """All chunks of a collection have been read and written down."""

    collection: str
    files: int
    chunks: int
    skipped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSkipped(Event):
    """A chunk or a file was left out."""

    collection: str
    file: str
    index: int | None
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStaged(Event):
    """A model is in host memory, on the CPU, and on no device."""

    model: str
    source: str
    revision: str | None
    fingerprint: str
    dim: int
    max_tokens: int | None
    dtype: str
    weights_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Event):
    """Something that the user should know and that is no error: a licence, an untrained cut."""

    about: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseWaiting(Event):
    """Another process holds a device that this run needs."""

    device: str
    holder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseAcquired(Event):
    """The locks are ours, and nothing of this process is on the devices. `memory` is measured before anything is
    put on them; what other processes hold is `total` less `free`.
    """

    models: tuple[str, ...]
    devices: tuple[str, ...]
    memory: Mapping[str, MemoryStats]
    waited_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseReleased(Event):
    """The models have left. `memory` is measured after that; `held` is what did not leave."""

    models: tuple[str, ...]
    devices: tuple[str, ...]
    memory: Mapping[str, MemoryStats]
    held: tuple[HeldTensor, ...]
    held_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PassStarted(Event):
    """A model is on all leased devices and begins to encode."""

    model: str
    devices: tuple[str, ...]
    chunks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEncoded(Event):
    """A batch has been through a model. For progress only: `events.jsonl` does not keep it."""

    model: str
    device: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSplit(Event):
    """A batch ran out of device memory and is tried again in two halves."""

    model: str
    device: str
    rows: int
    padded_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsRecomputed(Event):
    """Vectors that were not finite, or zero, were computed again in fp32 on the CPU."""

    model: str
    collection: str
    shard: int
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEncoded(Event):
    """One shard has been through one model, and its vectors are on disk.

    `tokens` are the rows' own, prompt included, after truncation; `padded_tokens` are what the
    devices computed. `truncated_tokens` are those cut off at the model's limit. `seconds` is the time
    that this shard kept the pass busy.
    """

    model: str
    collection: str
    shard: int
    rows: int
    tokens: int
    padded_tokens: int
    truncated_rows: int
    truncated_tokens: int
    batch_rows: tuple[int, ...]
    rows_per_device: Mapping[str, int]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PassFinished(Event):
    """A model has embedded everything. `peak_bytes` is per device, over the whole lease."""

    model: str
    peak_bytes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFused(Event):
    """The fused vectors of one shard are on disk."""

    collection: str
    shard: int
    rows: int
    dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """The run is over. `error` is None where it succeeded."""

    seconds: float
    error: str | None = None


class EventSink(Protocol):
    """Anything that takes events. Called from the thread that drives the run and from its workers."""

    def emit(self, event: Event) -> None:
        """Take one event; must not raise on one that it does not know."""
        ...


class ListSink:
    """Keeps the events in memory, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        """Append the event."""
        self.events.append(event)


class TeeSink:
    """Hands every event to several sinks, one event at a time."""

    def __init__(self, *sinks: EventSink) -> None:
        self._sinks = sinks
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        """Hand the event on, in the order of the sinks."""
        with self._lock:
            for sink in self._sinks:
                sink.emit(event)


class JsonLinesSink:
    """Writes `{"time": seconds since 1970, "event": "ShardEncoded", ...}` a line, flushed at once."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._file: IO[str] = path.open("a", encoding="utf-8")

    def emit(self, event: Event) -> None:
        """Write the event as one line; batches are too many to keep."""
        if isinstance(event, BatchEncoded):
            return
        self._file.write(json_text(event_to_dict(event, self._clock())) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; events after this are an error."""
        self._file.close()


def event_to_dict(event: Event, time: float) -> dict[str, Any]:
    """The event as JSON-ready values, its class name under `event`."""
    return {"time": time, "event": type(event).__name__, **dataclasses.asdict(event)}
