"""What an event of a shard says of time and memory, which reports show."""

from __future__ import annotations

import dataclasses

import pytest

from soloist.engine import run
from soloist.events import (
    ListSink,
    ModelStaged,
    PassFinished,
    RunStarted,
    ShardEncoded,
    event_from_dict,
    event_to_dict,
)
from soloist.installed import versions


@pytest.mark.parametrize("isolation", ["allocator", "process"])
def test_a_shard_has_the_seconds_of_its_steps_and_the_memory_of_its_devices(config, isolation):
    """A step that nobody measures takes no time, and memory that nobody asks for shows no peak."""
    sink = ListSink()
    run(dataclasses.replace(config, models=("xlm-roberta",), isolation=isolation), sink)
    (staged,) = (event for event in sink.events if isinstance(event, ModelStaged))
    (finished,) = (event for event in sink.events if isinstance(event, PassFinished))
    shards = [event for event in sink.events if isinstance(event, ShardEncoded)]
    for event in shards:
        assert event.parts is not None
        assert min(dataclasses.astuple(event.parts)) > 0
        assert set(event.allocated_bytes) == set(event.peak_bytes) == {"sim:0", "sim:1"}
        for device, allocated in event.allocated_bytes.items():
            assert staged.weights_bytes <= allocated <= event.peak_bytes[device] <= finished.peak_bytes[device]
    assert shards[-1].peak_bytes == finished.peak_bytes


def test_a_shard_without_a_lease_has_no_memory(config):
    """If all vectors are copied, no device is leased. Asking a device for its memory would make a context on it."""
    run(config)
    sink = ListSink()
    run(dataclasses.replace(config, out=config.out.with_name("again"), reuse=(config.out,)), sink)
    shards = [event for event in sink.events if isinstance(event, ShardEncoded)]
    assert shards and all(event.allocated_bytes == event.peak_bytes == {} for event in shards)


def test_events_of_earlier_versions_are_read(config):
    """A worker of another version, or an old file, has shards without steps."""
    sink = ListSink()
    run(dataclasses.replace(config, models=("xlm-roberta",)), sink)
    event = next(event for event in sink.events if isinstance(event, ShardEncoded))
    record = event_to_dict(event, 0.0)
    assert event_from_dict(record) == event
    for name in ("parts", "allocated_bytes", "peak_bytes"):
        del record[name]
    assert event_from_dict(record) == dataclasses.replace(event, parts=None, allocated_bytes={}, peak_bytes={})
    assert next(event for event in sink.events if isinstance(event, RunStarted)).versions == versions()
    assert versions()["torch"].startswith("2.")
