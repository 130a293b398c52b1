"""What happens in a run, as typed events, and the sinks that they go to.

The engine emits events and prints nothing: the progress bar, `events.jsonl`, the telemetry of the
adapters and `run.json` are readers of this one stream.
"""

from soloist.events.kinds import (
    BadRowsFound,
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
    PeakPredicted,
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

# In the order of a run, which the reference keeps.
__all__ = [  # noqa: RUF022
    "Event",
    "RunStarted",
    "InputScanned",
    "InputPassedOver",
    "InputSkipped",
    "TextsLeftOut",
    "ModelStaged",
    "Notice",
    "MemoryPlanned",
    "BudgetMeasured",
    "PeakCompared",
    "PeakPredicted",
    "LeaseWaiting",
    "LeaseAcquired",
    "LeaseReleased",
    "PassStarted",
    "BatchEncoded",
    "BatchSplit",
    "BadRowsFound",
    "RowsRecomputed",
    "ShardEncoded",
    "ShardsKept",
    "ChunksRemoved",
    "PassFinished",
    "ShardFused",
    "RunFinished",
    "EventSink",
    "ListSink",
    "TeeSink",
    "JsonLinesSink",
    "as_sink",
    "event_from_dict",
    "event_to_dict",
]
