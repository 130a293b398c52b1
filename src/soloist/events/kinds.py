"""What happens in a run, as typed events. Values only: `sinks` has their readers, `records` their form in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from soloist.types import BudgetSource, HeldTensor, Isolation, MemoryStats, ShardSeconds, TokenTally


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events. The clock is read by the sink, not by the code that emits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """A run begins, with its models in the order of their passes. `versions` are those of Python and of packages."""

    mode: str
    accelerator: str
    devices: tuple[str, ...]
    models: tuple[str, ...]
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputScanned(Event):
    """All chunks of a collection have been read and written down; from no file, if Python gave them."""

    collection: str
    files: int
    chunks: int
    skipped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InputPassedOver(Event):
    """Files below the root that are not chunk files, counted by reason and ending. `first` has one of every reason."""

    files: int
    by_reason: Mapping[str, Mapping[str, int]]
    first: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSkipped(Event):
    """A chunk or a file was left out. `models` are those that have no vector for the chunk."""

    collection: str
    file: str
    index: int | None
    reason: str
    detail: str
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TextsLeftOut(Event):
    """Chunks of a collection were left out for all models, because some models have no vector for their texts.

    `by_model` counts the texts for which a model has none. The chunks were among those of `InputScanned`.
    """

    collection: str
    chunks: int
    by_model: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStaged(Event):
    """A model is loaded into host memory. It is on no device yet."""

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
    """Something that the user should know and that is not an error, e.g. a licence."""

    about: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlanned(Event):
    """How much of every device the batches of a model may take.

    `resident_bytes` are all weights that are on the device beside the batches. `limit_bytes` is what the plan allows
    in total. `budget_source` says where the budget of tokens comes from.
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
    """A round of a calibration has measured how fast a model is in batches of `token_budget` tokens."""

    model: str
    token_budget: int
    tokens_per_second: float
    round: int
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakCompared(Event):
    """The predicted peak of a pass beside the measured one. `missed` is True where they differ by more than a tenth."""

    models: tuple[str, ...]
    device: str
    predicted_bytes: int
    measured_bytes: int
    resident_bytes: int
    missed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakPredicted(Event):
    """The predicted peak of a pass that split batches or found bad rows, which is not compared with the measured one.

    Either the predicted batch was never computed, or the device also held a copy of the weights in float32.
    """

    models: tuple[str, ...]
    predicted_bytes: int
    resident_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseWaiting(Event):
    """Another process holds a device that this run needs."""

    device: str
    holder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseAcquired(Event):
    """This run holds the locks, and nothing of this process is on the devices.

    `memory` is measured before anything is put on the devices: other processes hold `total` less `free`. `isolation`
    says how a release is checked: by the allocator of this process, or by the driver, once the pass's own process has
    ended.
    """

    models: tuple[str, ...]
    devices: tuple[str, ...]
    memory: Mapping[str, MemoryStats]
    waited_seconds: float
    isolation: Isolation = "allocator"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseReleased(Event):
    """The models have left the devices. `memory` is measured after that, and `held` is what did not leave.

    With process isolation `memory` is what the driver says after the worker process has ended. `worker_memory` is what
    the worker's own allocator said before.
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
    """A model is on all leased devices, and its pass begins. Words need no device, so `devices` is empty."""

    model: str
    devices: tuple[str, ...]
    chunks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEncoded(Event):
    """A model has computed a batch. For progress only: `events.jsonl` does not keep it. Words are on no device, so
    theirs is empty.
    """

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
class BadRowsFound(Event):
    """Vectors of a batch of `rows` rows are zero or not finite; `ids` are their chunks.

    They are computed again in float32 once the other batches of the shard are done.
    """

    model: str
    device: str
    dtype: str
    rows: int
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsRecomputed(Event):
    """Vectors of a shard that were zero or not finite were computed again in float32."""

    model: str
    collection: str
    shard: int
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEncoded(Event):
    """A model has a vector for every row of a shard, and the vectors are on disk.

    There are three kinds of `rows`. `reused_rows` had a vector already: `from_others_rows` of these in another run, the
    rest in an earlier state of this run. `repeated_rows` have the text of another row. The other rows were embedded.

    Only embedded rows count for the fields that follow. `tokens` includes the prompt, and is counted after truncation.
    `padded_tokens` is what the devices computed, in batches of `batch_rows` rows of `padded_lengths` tokens.
    `truncated_tokens` were cut off at the model's limit.

    Of words the same is said: their words count as tokens, and there are no batches.

    `tally` counts the tokens of all rows. `seconds` is the time that this shard kept the pass busy: since the shard
    before it was done, without a wait for the devices. If the shard was embedded while the input was read, `seconds`
    includes the time of that embedding. On a cluster it is the time of the shard's node, shared out among the nodes
    that were at work.

    `parts` has the seconds of each step. `allocated_bytes` is what tensors took of each leased device after the batches
    of this shard, and `peak_bytes` the most that they took since the lease began. Events of earlier versions lack these
    three.
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
    parts: ShardSeconds | None = None
    allocated_bytes: Mapping[str, int] = field(default_factory=dict)
    peak_bytes: Mapping[str, int] = field(default_factory=dict)

    @property
    def embedded_rows(self) -> int:
        """Rows that went through the model."""
        return self.rows - self.reused_rows - self.repeated_rows

    @property
    def encoding_seconds(self) -> float:
        """The seconds from which a model's rate follows; 0 where all rows were copied and none was embedded."""
        return self.seconds if self.embedded_rows else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardsKept(Event):
    """Shards that an earlier session finished and whose files have not changed; `tally` counts their tokens."""

    model: str
    shards: int
    rows: int
    tally: TokenTally = field(default_factory=TokenTally)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunksRemoved(Event):
    """Chunks that the run had before and that its collection no longer has."""

    collection: str
    chunks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PassFinished(Event):
    """A model has embedded all shards. `peak_bytes` has the peak of every device over the whole lease. It is empty for
    words.
    """

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
class CollectionIndexed(Event):
    """The inverted index of a member's words or sparse vectors over one collection is on disk."""

    model: str
    collection: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """The run is over. `error` is None where it succeeded."""

    seconds: float
    error: str | None = None
