"""What a report says of a run, as values. Nothing here reads a file, draws or formats.

`at`, `begins` and `ends` are seconds of work since the first session began: the time between sessions does not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Ended = Literal["finished", "ended early", "no end recorded", "at work"]
State = Literal["finished", "running", "not finished"]
PHASES = (
    "reading", "loading", "waiting for devices", "tokenizing", "encoding", "writing", "hand-over", "fusing",
)  # fmt: skip
UNDIVIDED = "tokenizing, encoding and writing"  # for events of earlier versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One command at work on the run. `started` is in seconds since 1970; `error` is what ended it."""

    number: int
    started: float
    begins: float
    ends: float
    ended: Ended
    error: str | None = None
    mode: str = ""
    accelerator: str = ""
    devices: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The time in which models had the devices. `ends` is None if no release was recorded.

    `total_bytes` and `free_bytes` are those of each device at the beginning, `peak_bytes` the most that the lease took,
    and `left_bytes` what it left. `predicted_bytes` is the predicted peak.
    """

    session: int
    models: tuple[str, ...]
    devices: tuple[str, ...]
    begins: float
    ends: float | None
    waited_seconds: float
    total_bytes: Mapping[str, int]
    free_bytes: Mapping[str, int]
    peak_bytes: Mapping[str, int]
    left_bytes: Mapping[str, int]
    predicted_bytes: int | None
    is_compared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPoint:
    """What tensors took of a device at a moment, and the most that they took since the lease began."""

    at: float
    allocated_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A model's work on a shard, or on several that follow each other. `tokens` are those of the embedded rows."""

    at: float
    model: str
    tokens: int
    seconds: float
    shards: int = 1

    @property
    def tokens_per_second(self) -> float:
        """The rate over all of them."""
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A batch that ran out of device memory and was halved."""

    at: float
    model: str
    device: str
    rows: int
    padded_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What became of a model's chunks in a session. All but `embedded` have vectors that were not computed then.

    The tokens, the padded tokens and the seconds are those of the embedded chunks, the others those of all chunks.
    """

    session: int
    model: str
    embedded: int = 0
    repeated: int = 0
    reused: int = 0
    from_others: int = 0
    kept: int = 0
    recomputed: int = 0
    shards: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    seconds: float = 0.0
    all_tokens: int = 0
    truncated_rows: int = 0
    truncated_tokens: int = 0
    rows_per_device: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """Batches of one shape, and how many there were."""

    rows: int
    padded_length: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """The seconds of a phase over all sessions; `by_model` has those that belong to one model."""

    name: str
    seconds: float
    by_model: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLengths:
    """How many tokens a model read of texts, from `files_read` of its `files` of vectors.

    `counts` and `cut_counts` are the texts between two `edges`: all of them, and those of which a part was cut off.
    """

    model: str
    files: int
    files_read: int
    files_damaged: int
    edges: tuple[int, ...]
    counts: tuple[int, ...]
    cut_counts: tuple[int, ...]
    texts: int
    texts_cut: int
    tokens: int
    tokens_cut: int
    longest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of a model: how it was loaded last, how it was planned, and its files so far."""

    name: str
    source: str = ""
    revision: str = ""
    fingerprint: str = ""
    dtype: str = ""
    dim: int = 0
    max_tokens: int | None = None
    weights_bytes: int = 0
    token_budget: int = 0
    budget_source: str = ""
    limit_bytes: int = 0
    done_chunks: int = 0
    more: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A notice of the run, and how often the run gave it."""

    about: str
    message: str
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemFacts:
    """One system of an evaluation. `low` and `high` are the interval of its gain over the best single model."""

    name: str
    kind: str
    measures: Mapping[str, float]
    gain: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationFacts:
    """What `soloist eval` found."""

    questions: int
    best_single: str
    systems: tuple[SystemFacts, ...]
    verdicts: tuple[str, ...]
    notices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """All that a report says of a run. `gaps` says in sentences what is missing, damaged or thinned out."""

    folder: str
    state: State
    error: str | None
    chunks: int
    fused_chunks: int
    collections: Mapping[str, int]
    sessions: tuple[Session, ...]
    models: tuple[ModelFacts, ...]
    leases: tuple[Lease, ...]
    memory: Mapping[str, tuple[MemoryPoint, ...]]
    rates: tuple[Rate, ...]
    splits: tuple[Split, ...]
    split_counts: Mapping[tuple[str, str], int]
    work: tuple[Work, ...]
    batches: Mapping[str, tuple[BatchShape, ...]]
    phases: tuple[Phase, ...]
    lengths: tuple[TokenLengths, ...]
    notices: tuple[Told, ...]
    skipped: Mapping[str, int]
    settings: Mapping[str, str]
    fusion: str
    evaluation: EvaluationFacts | None
    gaps: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """The time of all sessions."""
        return sum(session.ends - session.begins for session in self.sessions)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices of all leases, in the order in which they were leased first."""
        return tuple(dict.fromkeys(device for lease in self.leases for device in lease.devices))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models."""
        return tuple(model.name for model in self.models)
