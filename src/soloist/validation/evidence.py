"""What a rehearsal saw. Values only: the checks read them, and nothing here judges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from soloist.arrays import Vectors
from soloist.engine import RunResult
from soloist.events import BatchSplit, Event, LeaseAcquired, LeaseReleased, PeakCompared
from soloist.memory.cards import Card


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the devices held at one end of a lease, measured by the rehearsal itself and not by the lease."""

    event: LeaseAcquired | LeaseReleased
    allocated_bytes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunRecord:
    """One run: its events, what was observed beside them, and what it left. `error` is None where it succeeded.

    `vectors` are the final ones by collection, `model_vectors` each model's own by collection and model.
    `allocated_after` is what the devices held when the run was over, and `own_bytes` what this process then had of the
    host's memory for itself.
    """

    mode: str
    events: tuple[Event, ...]
    observations: tuple[Observation, ...]
    result: RunResult | None
    error: str | None
    allocated_after: Mapping[str, int]
    own_bytes: int
    vectors: Mapping[str, Vectors] = field(default_factory=dict)
    model_vectors: Mapping[tuple[str, str], Vectors] = field(default_factory=dict)

    @property
    def leases(self) -> list[LeaseAcquired | LeaseReleased]:
        """Both ends of every lease, in order."""
        return [event for event in self.events if isinstance(event, (LeaseAcquired, LeaseReleased))]

    @property
    def releases(self) -> list[LeaseReleased]:
        """The ends of the leases."""
        return [event for event in self.events if isinstance(event, LeaseReleased)]

    @property
    def splits(self) -> list[BatchSplit]:
        """Batches that ran out of memory."""
        return [event for event in self.events if isinstance(event, BatchSplit)]

    @property
    def comparisons(self) -> list[PeakCompared]:
        """Predicted peaks beside measured ones."""
        return [event for event in self.events if isinstance(event, PeakCompared)]


@dataclass(frozen=True, slots=True, kw_only=True)
class StagingRecord:
    """Where the models' parameters were after staging, and what staging put on the devices meanwhile."""

    parameter_devices: Mapping[str, tuple[str, ...]]
    peak_bytes: Mapping[str, int]
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRecord:
    """A run that was made to fail in mid-pass: what was left of it.

    `next_lease_error` is why the devices could not be leased at once afterwards; None where they could.
    """

    planted: str
    raised: str | None
    released: bool
    allocated_after: Mapping[str, int]
    next_lease_error: str | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResumeRecord:
    """A run that was broken off once some shards were done, and the run that went on with it.

    `planted` is the error that breaks off, `shards_before` are those that were done then, `broken_off` is what the
    first run raised; None where it did not.
    """

    planted: str
    shards_before: int
    broken_off: str | None
    resumed: RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRecord:
    """A command in a process of its own. `files` are the JSON files that it left of those that were expected."""

    command: str
    exit_code: int
    stderr: str
    files: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """Everything that a rehearsal saw. What needs processes of its own is None in a quick one."""

    accelerator: str
    kind: str
    card: Card
    devices: tuple[str, ...]
    residue_bytes: int
    models: tuple[str, ...]
    chunks: int
    sample: Path
    staging: StagingRecord
    exclusive: RunRecord
    again: RunRecord
    once_more: RunRecord
    standard: RunRecord
    failure: FailureRecord
    resume: ResumeRecord
    isolated: RunRecord | None
    embed: CommandRecord | None
    script: CommandRecord | None
