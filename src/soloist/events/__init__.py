"""What happens in a run, as typed events, and the sinks that they go to.

The engine emits events and prints nothing: the progress bar, `events.jsonl`, the telemetry of the
adapters and `run.json` are readers of this one stream.
"""

from soloist.events.kinds import (
    BatchEncoded,
    BatchSplit,
    BudgetMeasured,
    ChunksRemoved,
    Event,
    InputPassedOver,
    InputScanned,
    InputSkipped,
    LeaseAcquired,
    LeaseReleased,
    LeaseWaiting,
    MemoryPlanned,
    ModelStaged,
    Notice,
    PassFinished,
    PassStarted,
    PeakCompared,
    RowsRecomputed,
    RunFinished,
    RunStarted,
    ShardEncoded,
    ShardFused,
    ShardsKept,
    TextsLeftOut,
)
from soloist.events.records import event_from_dict, event_to_dict
from soloist.events.sinks import EventSink, JsonLinesSink, ListSink, TeeSink, as_sink

__all__ = [
    "BatchEncoded",
    "BatchSplit",
    "BudgetMeasured",
    "ChunksRemoved",
    "Event",
    "EventSink",
    "InputPassedOver",
    "InputScanned",
    "InputSkipped",
    "JsonLinesSink",
    "LeaseAcquired",
    "LeaseReleased",
    "LeaseWaiting",
    "ListSink",
    "MemoryPlanned",
    "ModelStaged",
    "Notice",
    "PassFinished",
    "PassStarted",
    "PeakCompared",
    "RowsRecomputed",
    "RunFinished",
    "RunStarted",
    "ShardEncoded",
    "ShardFused",
    "ShardsKept",
    "TeeSink",
    "TextsLeftOut",
    "as_sink",
    "event_from_dict",
    "event_to_dict",
]
