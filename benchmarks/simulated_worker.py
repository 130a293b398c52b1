"""A worker of a cluster that sleeps for each shard, and says what a worker says. Imports nothing heavy."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from soloist.cluster.host import Channel
from soloist.events import LeaseAcquired, LeaseReleased, ShardEncoded, event_to_dict

MODEL, FINGERPRINT = "simulated", "none"
WORK = f"{__name__}:work"


def work(request: dict[str, Any], channel: Channel) -> None:
    """Be a worker whose shards take so many `seconds`."""
    channel.say({"word": "ready"})
    while (message := channel.receive()) is not None and message["word"] != "end":
        for said in answers(message, request["seconds"]):
            channel.say(said)


def answers(message: Mapping[str, Any], seconds: float) -> list[dict[str, Any]]:
    """What a worker says to a message, after the time that its shard takes."""
    match message["word"]:
        case "pass":
            lease = LeaseAcquired(models=(MODEL,), devices=("cpu",), memory={}, waited_seconds=0.0)
            return [{"word": "event", "event": event_to_dict(lease, 0.0)}]
        case "shard":
            time.sleep(seconds)
            return [_done(message["task"]["attempt"], message["task"]["shard"], seconds)]
        case "last" | "stop":
            end = LeaseReleased(models=(MODEL,), devices=("cpu",), memory={}, held=(), held_seconds=0.0)
            return [{"word": "event", "event": event_to_dict(end, 0.0)}, {"word": "passed", "stopped": False}]
        case _:
            return []


def _done(attempt: str, shard: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    collection, index, rows = shard["collection"], shard["index"], shard["rows"]
    event = ShardEncoded(
        model=MODEL, collection=collection, shard=index, rows=rows, tokens=0, padded_tokens=0, truncated_rows=0,
        truncated_tokens=0, batch_rows=(), padded_lengths=(), rows_per_device={"cpu": rows}, seconds=seconds,
    )  # fmt: skip
    record = {
        "file": f"{collection}/vectors/{MODEL}/part-{index:05d}.parquet", "kind": "vectors", "rows": rows, "bytes": 1,
        "sha256": f"{index:064x}", "collection": collection, "shard": index, "model": MODEL,
        "content": shard["content"], "fingerprint": FINGERPRINT, "tokens": 0, "truncated_rows": 0,
        "truncated_tokens": 0,
    }  # fmt: skip
    said = event_to_dict(event, 0.0)
    return {"word": "done", "attempt": attempt, "model": MODEL, "record": record, "event": said}
