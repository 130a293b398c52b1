"""Adds up the events of a run. Knows the names and the fields of events, and takes events of any version.

An event without a field that it needs is skipped and counted. So a report never fails because of one line.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from soloist.reports.run_report.fields import Fields
from soloist.reports.run_report.values import UNDIVIDED, Ended, Lease, MemoryPoint, Rate, Session, Split, Work

KEPT_SPLITS = 200  # the first ones; the counts include all splits
_LEAST_SECONDS = 1e-6  # no shard takes less, and a figure cannot show an endless rate
HOST = "cpu"  # the memory of a lease is not the host's, see `_lease_acquired`


@dataclass(slots=True)
class _OpenSession:
    """A session so far. `mark` is when its reading began, or went on to another collection."""

    number: int
    started: float
    begins: float
    fields: Fields
    mark: float
    now: float
    released_at: float | None = None
    ended: Ended = "no end recorded"
    error: str | None = None

    def closed(self) -> Session:
        return Session(
            number=self.number, started=self.started, begins=self.begins, ends=self.now, ended=self.ended,
            error=self.error, mode=self.fields.text("mode") or "", accelerator=self.fields.text("accelerator") or "",
            devices=self.fields.texts("devices"),
            versions={name: str(value) for name, value in self.fields.part("versions").values.items()},
        )  # fmt: skip


@dataclass(slots=True)
class _OpenLease:
    """A lease so far. `passed_at` is when its last model had all vectors."""

    session: int
    models: tuple[str, ...]
    devices: tuple[str, ...]
    begins: float
    waited: float
    total: dict[str, int]
    free: dict[str, int]
    is_started: bool = False
    is_measured: bool = False
    passed_at: float | None = None
    ends: float | None = None
    peaks: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    predicted: int | None = None
    is_compared: bool = False

    def closed(self) -> Lease:
        return Lease(
            session=self.session, models=self.models, devices=self.devices, begins=self.begins, ends=self.ends,
            waited_seconds=self.waited, total_bytes=self.total, free_bytes=self.free, peak_bytes=self.peaks,
            left_bytes=self.left, predicted_bytes=self.predicted, is_compared=self.is_compared,
        )  # fmt: skip


@dataclass(slots=True)
class EventFacts:
    """What the events say so far. `phases` has seconds by phase and model; "" stands for no model."""

    open_sessions: list[_OpenSession] = field(default_factory=list)
    open_leases: list[_OpenLease] = field(default_factory=list)
    memory: defaultdict[str, list[MemoryPoint]] = field(default_factory=lambda: defaultdict(list))
    rates: list[Rate] = field(default_factory=list)
    splits: list[Split] = field(default_factory=list)
    split_counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    sums: defaultdict[tuple[int, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: defaultdict[tuple[int, str], float] = field(default_factory=lambda: defaultdict(float))
    device_rows: defaultdict[tuple[int, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    batches: defaultdict[str, Counter[tuple[int, int]]] = field(default_factory=lambda: defaultdict(Counter))
    phases: defaultdict[str, defaultdict[str, float]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(float))
    )
    staged: dict[str, Fields] = field(default_factory=dict)
    planned: dict[str, Fields] = field(default_factory=dict)
    collections: dict[str, int] = field(default_factory=dict)
    notices: Counter[tuple[str, str]] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    damaged: int = 0
    last_time: float = 0.0

    @property
    def session(self) -> _OpenSession:
        """The present session."""
        return self.open_sessions[-1]

    @property
    def sessions(self) -> tuple[Session, ...]:
        """All sessions, in order."""
        return tuple(session.closed() for session in self.open_sessions)

    @property
    def leases(self) -> tuple[Lease, ...]:
        """All leases, in order."""
        return tuple(lease.closed() for lease in self.open_leases)

    @property
    def work(self) -> tuple[Work, ...]:
        """What became of each model's chunks in each session."""
        return tuple(
            Work(session=key[0], model=key[1], seconds=self.seconds[key], rows_per_device=dict(self.device_rows[key]),
                 **sums)
            for key, sums in self.sums.items()
        )  # fmt: skip

    @property
    def lacks_parts(self) -> bool:
        """Whether some shards lack the seconds of their steps, as shards of earlier versions do."""
        return UNDIVIDED in self.phases


def add_up(events: Iterable[Fields | None]) -> EventFacts:
    """The sums of these events; None stands for a line that is not an event."""
    found = EventFacts()
    for event in events:
        name, time = (event.text("event"), event.number("time")) if event is not None else (None, None)
        if event is None or name is None or time is None:
            found.damaged += 1
            continue
        at = _at(found, name, time, event)
        if (take := _TAKES.get(name)) is not None:
            take(found, event, at)
        found.session.now = at
    return found


def _at(found: EventFacts, name: str, time: float, event: Fields) -> float:
    """The seconds of work at an event, never negative, even if somebody set the clock back."""
    if name == "RunStarted" or not found.open_sessions:
        begins = found.open_sessions[-1].now if found.open_sessions else 0.0
        fields = event if name == "RunStarted" else Fields()
        number = len(found.open_sessions) + 1
        found.open_sessions.append(_OpenSession(number, time, begins, fields, begins, begins))
        found.last_time = time
    at = found.session.now + max(0.0, time - found.last_time)
    found.last_time = time
    return at


def _input_scanned(found: EventFacts, event: Fields, at: float) -> None:
    found.phases["reading"][""] += at - found.session.mark
    found.session.mark = at
    if (collection := event.text("collection")) is not None:
        found.collections[collection] = event.count("chunks")


def _input_skipped(found: EventFacts, event: Fields, at: float) -> None:
    found.skipped[event.text("reason") or "no reason recorded"] += 1


def _model_staged(found: EventFacts, event: Fields, at: float) -> None:
    model = event.text("model") or ""
    found.staged[model] = event
    found.phases["loading"][model] += event.amount("seconds")


def _memory_planned(found: EventFacts, event: Fields, at: float) -> None:
    found.planned[event.text("model") or ""] = event


def _notice(found: EventFacts, event: Fields, at: float) -> None:
    found.notices[event.text("about") or "", event.text("message") or ""] += 1


def _lease_acquired(found: EventFacts, event: Fields, at: float) -> None:
    """A lease begins. Its memory does not include the host's tensors, so the host gets no point."""
    waited, session = event.amount("waited_seconds"), found.session
    found.phases["waiting for devices"][""] += waited
    if session.released_at is not None:
        found.phases["hand-over"][""] += max(0.0, at - session.released_at - waited)
    memory = event.parts_by_name("memory")
    lease = _OpenLease(
        session=session.number, models=event.texts("models"), devices=event.texts("devices"), begins=at, waited=waited,
        total={device: stats.count("total_bytes") for device, stats in memory.items()},
        free={d: stats.count("free_bytes") for d, stats in memory.items() if stats.number("free_bytes") is not None},
    )  # fmt: skip
    found.open_leases.append(lease)
    _see_ends(found, memory, at)


def _see_ends(found: EventFacts, memory: dict[str, Fields], at: float) -> None:
    for device, stats in memory.items():
        if device != HOST:
            size = stats.count("allocated_bytes")
            found.memory[device].append(MemoryPoint(at=at, allocated_bytes=size, peak_bytes=size))


def _lease_on(found: EventFacts, devices: tuple[str, ...]) -> _OpenLease | None:
    """The open lease of these devices: on a cluster each node has one of its own."""
    here = (lease for lease in reversed(found.open_leases) if lease.session == found.session.number)
    return next((lease for lease in here if lease.devices == devices and lease.ends is None), None)


def _pass_started(found: EventFacts, event: Fields, at: float) -> None:
    lease = _present_lease(found)
    if lease is not None and not lease.is_started:
        found.phases["hand-over"][""] += at - lease.begins
        lease.is_started = True


def _pass_finished(found: EventFacts, event: Fields, at: float) -> None:
    if (lease := _present_lease(found)) is not None:
        lease.passed_at = at
        _see_peaks(lease, event)


def _lease_released(found: EventFacts, event: Fields, at: float) -> None:
    found.session.released_at = at
    memory, lease = event.parts_by_name("memory"), _lease_on(found, event.texts("devices"))
    if lease is None or lease.is_measured:
        for device in memory:  # the tensors were on the device until now
            found.memory[device] += [replace(point, at=at) for point in found.memory[device][-1:]]
        _see_ends(found, memory, at)
    else:
        _forget_beginning(found, lease)
    if lease is not None:
        lease.ends = at
        lease.left = {device: stats.count("allocated_bytes") for device, stats in memory.items()}
        if lease.passed_at is not None:
            found.phases["hand-over"][""] += at - lease.passed_at


def _forget_beginning(found: EventFacts, lease: _OpenLease) -> None:
    """Drop the points of a lease without measurements: a line between its ends would say that it took nothing."""
    for points in found.memory.values():
        if points and points[-1].at == lease.begins:
            points.pop()


def _peak_predicted(found: EventFacts, event: Fields, at: float) -> None:
    """The prediction for the last lease of these models, which is over."""
    models = event.texts("models")
    for lease in reversed(found.open_leases):
        if lease.session == found.session.number and lease.models == models:
            lease.predicted = event.count("predicted_bytes")
            lease.is_compared = event.text("event") == "PeakCompared"
            return


def _batch_split(found: EventFacts, event: Fields, at: float) -> None:
    split = Split(
        at=at, model=event.text("model") or "", device=event.text("device") or "", rows=event.count("rows"),
        padded_length=event.count("padded_length"),
    )  # fmt: skip
    found.split_counts[split.model, split.device] += 1
    if len(found.splits) < KEPT_SPLITS:
        found.splits.append(split)


def _rows_recomputed(found: EventFacts, event: Fields, at: float) -> None:
    found.sums[found.session.number, event.text("model") or ""]["recomputed"] += len(event.texts("ids"))


def _shard_encoded(found: EventFacts, event: Fields, at: float) -> None:
    model = event.text("model") or ""
    key = found.session.number, model
    reused, repeated = event.count("reused_rows"), event.count("repeated_rows")
    embedded = max(0, event.count("rows") - reused - repeated)
    seconds = event.amount("seconds") if embedded else 0.0
    found.sums[key].update(
        embedded=embedded, repeated=repeated, from_others=event.count("from_others_rows"), shards=1,
        reused=max(0, reused - event.count("from_others_rows")), tokens=event.count("tokens"),
        padded_tokens=event.count("padded_tokens"),
    )  # fmt: skip
    found.seconds[key] += seconds
    found.device_rows[key].update({device: int(rows) for device, rows in event.numbers("rows_per_device").items()})
    found.batches[model].update(zip(event.counts("batch_rows"), event.counts("padded_lengths"), strict=False))
    _see_tally(found, key, event)
    _see_steps(found, model, event, seconds)
    if seconds > _LEAST_SECONDS and event.count("tokens"):
        found.rates.append(Rate(at=at, model=model, tokens=event.count("tokens"), seconds=seconds))
    _see_memory(found, event, at)


def _shards_kept(found: EventFacts, event: Fields, at: float) -> None:
    key = found.session.number, event.text("model") or ""
    found.sums[key].update(kept=event.count("rows"))
    _see_tally(found, key, event)


def _see_tally(found: EventFacts, key: tuple[int, str], event: Fields) -> None:
    tally = event.part("tally")
    found.sums[key].update(
        all_tokens=tally.count("tokens"), truncated_rows=tally.count("truncated_rows"),
        truncated_tokens=tally.count("truncated_tokens"),
    )  # fmt: skip


def _see_steps(found: EventFacts, model: str, event: Fields, seconds: float) -> None:
    steps = event.part("parts")
    if not steps.values:
        if seconds:
            found.phases[UNDIVIDED][model] += seconds
        return
    for step in ("reading", "tokenizing", "encoding", "writing"):
        found.phases[step][model] += steps.amount(step)


def _see_memory(found: EventFacts, event: Fields, at: float) -> None:
    allocated, peaks = event.numbers("allocated_bytes"), event.numbers("peak_bytes")
    for device, size in allocated.items():
        peak = int(max(size, peaks.get(device, size)))
        found.memory[device].append(MemoryPoint(at=at, allocated_bytes=int(size), peak_bytes=peak))
    if (lease := _present_lease(found)) is not None:
        lease.is_measured = lease.is_measured or bool(allocated)
        _see_peaks(lease, event)


def _see_peaks(lease: _OpenLease, event: Fields) -> None:
    for device, size in event.numbers("peak_bytes").items():
        lease.peaks[device] = max(lease.peaks.get(device, 0), int(size))


def _shard_fused(found: EventFacts, event: Fields, at: float) -> None:
    found.phases["fusing"][""] += at - found.session.now


def _run_finished(found: EventFacts, event: Fields, at: float) -> None:
    found.session.error = event.text("error")
    found.session.ended = "finished" if found.session.error is None else "ended early"


def _present_lease(found: EventFacts) -> _OpenLease | None:
    """The lease of this session that is not over."""
    lease = found.open_leases[-1] if found.open_leases else None
    return lease if lease is not None and lease.ends is None and lease.session == found.session.number else None


_TAKES: dict[str, Callable[[EventFacts, Fields, float], None]] = {
    "InputScanned": _input_scanned,
    "InputSkipped": _input_skipped,
    "ModelStaged": _model_staged,
    "MemoryPlanned": _memory_planned,
    "Notice": _notice,
    "LeaseAcquired": _lease_acquired,
    "LeaseReleased": _lease_released,
    "PassStarted": _pass_started,
    "PassFinished": _pass_finished,
    "PeakCompared": _peak_predicted,
    "PeakPredicted": _peak_predicted,
    "BatchSplit": _batch_split,
    "RowsRecomputed": _rows_recomputed,
    "ShardEncoded": _shard_encoded,
    "ShardsKept": _shards_kept,
    "ShardFused": _shard_fused,
    "RunFinished": _run_finished,
}
