"""What happens in a run, as typed events, and the sinks that they go to.

The engine emits events and prints nothing: the progress bar, `events.jsonl`, the telemetry of the
adapters and `run.json` are readers of this one stream.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import IO, Any, Protocol, get_args, get_origin, get_type_hints

from soloist.errors import ConfigError, OutputError
from soloist.jsontext import json_text
from soloist.types import BudgetSource, HeldTensor, Isolation, MemoryStats, TokenTally


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
class InputPassedOver(Event):
    """Files below the root that are no chunk files: how many by reason and ending, and the first of each reason."""

    files: int
    by_reason: Mapping[str, Mapping[str, int]]
    first: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSkipped(Event):
    """A chunk or a file was left out. `models` are those that make no vector of the chunk."""

    collection: str
    file: str
    index: int | None
    reason: str
    detail: str
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TextsLeftOut(Event):
    """Chunks of a collection were left out for all models, because some models make no vector of their texts;
    `by_model` counts those of each. They were among the chunks of `InputScanned`.
    """

    collection: str
    chunks: int
    by_model: Mapping[str, int]


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
class MemoryPlanned(Event):
    """What a model's batches may take of each device. `resident_bytes` are all weights that share the device with them,
    `limit_bytes` what the plan allows in total; `budget_source` is where the budget of tokens comes from.
    """

    model: str
    card: str
    token_budget: int
    weights_bytes: int
    resident_bytes: int
    limit_bytes: int
    budget_source: BudgetSource = "table"


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetMeasured(Event):
    """A calibration has measured the rate of a model in batches of `token_budget` tokens, in one of its rounds."""

    model: str
    token_budget: int
    tokens_per_second: float
    round: int
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakCompared(Event):
    """The predicted peak of a pass beside the measured one. `missed` where they are more than a tenth apart."""

    models: tuple[str, ...]
    device: str
    predicted_bytes: int
    measured_bytes: int
    resident_bytes: int
    missed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseWaiting(Event):
    """Another process holds a device that this run needs."""

    device: str
    holder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseAcquired(Event):
    """The locks are ours, and nothing of this process is on the devices. `memory` is measured before anything is
    put on them; what other processes hold is `total` less `free`. `isolation` says what a release will mean: that
    this process's allocator holds nothing, or that the driver has everything back from a process of the pass's own.
    """

    models: tuple[str, ...]
    devices: tuple[str, ...]
    memory: Mapping[str, MemoryStats]
    waited_seconds: float
    isolation: Isolation = "allocator"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseReleased(Event):
    """The models have left. `memory` is measured after that; `held` is what did not leave.

    With process isolation `memory` is what the driver says after the worker has ended, and `worker_memory` what the
    worker's own allocator said before.
    """

    models: tuple[str, ...]
    devices: tuple[str, ...]
    memory: Mapping[str, MemoryStats]
    held: tuple[HeldTensor, ...]
    held_seconds: float
    isolation: Isolation = "allocator"
    worker_memory: Mapping[str, MemoryStats] = field(default_factory=dict)


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

    Of its `rows`, `reused_rows` came from an earlier state of the run or, `from_others_rows` of them, from another run,
    `repeated_rows` have the text of another row, and the others were embedded: of these alone `tokens` are counted,
    prompt included, after truncation. `padded_tokens` are what the devices computed, in batches of `batch_rows` rows
    of `padded_lengths` tokens. `truncated_tokens` are those cut off at the model's limit. `tally` is of all rows.
    `seconds` is the time that this shard kept the pass busy.
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
    padded_lengths: tuple[int, ...]
    rows_per_device: Mapping[str, int]
    seconds: float
    reused_rows: int = 0
    repeated_rows: int = 0
    from_others_rows: int = 0
    tally: TokenTally = field(default_factory=TokenTally)

    @property
    def embedded_rows(self) -> int:
        """Rows that went through the model."""
        return self.rows - self.reused_rows - self.repeated_rows

    @property
    def encoding_seconds(self) -> float:
        """What the rate of the model is made of: 0 where no row went through it, and all were only copied."""
        return self.seconds if self.embedded_rows else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardsKept(Event):
    """Shards that an earlier session finished, and whose files are as it left them; `tally` is of their texts."""

    model: str
    shards: int
    rows: int
    tally: TokenTally = field(default_factory=TokenTally)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunksRemoved(Event):
    """Chunks of a collection that the run had before and has no more."""

    collection: str
    chunks: int


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


def as_sink(given: EventSink | Callable[[Event], object]) -> EventSink:
    """A sink as it is; of a function that takes an event, one that calls it.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(given, type):
        raise ConfigError(f"a sink is the class {given.__name__}: give an object of it")
    if callable(getattr(given, "emit", None)):
        return given  # type: ignore[return-value]
    if not callable(given):
        raise ConfigError(
            f"a sink is {given!r}: give a function that takes an event, or an object whose emit takes one"
        )
    return _Calling(given)


class _Calling:
    """Hands every event to a function."""

    def __init__(self, call: Callable[[Event], object]) -> None:
        self._call = call

    def emit(self, event: Event) -> None:
        self._call(event)


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
        self._path = path
        self._failed = False
        with self._disk_errors():
            self._file: IO[str] = path.open("a+", encoding="utf-8", newline="\n")
            self._end_line()

    def emit(self, event: Event) -> None:
        """Write the event as one line; batches are too many to keep.

        Raises:
            OutputError: the disk does not take it. Later events are passed over.
        """
        if isinstance(event, BatchEncoded) or self._failed:
            return
        with self._disk_errors():
            self._file.write(json_text(event_to_dict(event, self._clock())) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file; events after this are an error."""
        with contextlib.suppress(OSError):  # what could not be written was an error then
            self._file.close()

    def _end_line(self) -> None:
        """Begin a new line where a killed run left half of one."""
        end = self._file.seek(0, os.SEEK_END)
        if end:
            with self._path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    self._file.write("\n")

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """One error, the first: those of the events that follow from it would hide it."""
        try:
            yield
        except OSError as exc:
            self._failed = True
            reason = exc.strerror or exc
            raise OutputError(f"cannot write {self._path}: {reason}: free some space and run again") from exc


def event_from_dict(record: Mapping[str, Any]) -> Event:
    """The event that `event_to_dict` wrote, its time left aside.

    Raises:
        ValueError: the record is of no known event.
    """
    kinds = {kind.__name__: kind for kind in Event.__subclasses__()}
    kind = kinds.get(record.get("event", ""))
    if kind is None:
        raise ValueError(f"{record.get('event')!r} is not an event of this version")
    return _read(kind, record)  # type: ignore[no-any-return]


def _read(kind: Any, value: Any) -> Any:
    """A JSON value as the annotated type: a dataclass, a tuple, a mapping, or itself."""
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        fields = [each.name for each in dataclasses.fields(kind) if each.name in value]
        return kind(**{name: _read(hints[name], value[name]) for name in fields})  # type: ignore[operator]
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        return tuple(_read(inner[0], item) for item in value)
    if origin is Mapping:
        return {key: _read(inner[1], item) for key, item in value.items()}
    if origin is UnionType and value is not None:
        return _read(next(each for each in inner if each is not NoneType), value)
    return value


def event_to_dict(event: Event, time: float) -> dict[str, Any]:
    """The event as JSON-ready values, its class name under `event`."""
    return {"time": time, "event": type(event).__name__, **dataclasses.asdict(event)}
