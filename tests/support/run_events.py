"""The events of a run that was never made, with the times that a test wants, and shards of known token lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from soloist.events import (
    BatchSplit,
    Event,
    InputScanned,
    LeaseAcquired,
    LeaseReleased,
    ModelStaged,
    Notice,
    PassFinished,
    PassStarted,
    PeakPredicted,
    RunFinished,
    RunStarted,
    ShardEncoded,
    ShardFused,
    ShardsKept,
)
from soloist.stores import RunFolder
from soloist.types import Chunk, MemoryStats, ShardSeconds, TokenTally

Timed = Sequence[tuple[float, Event]]
BEGAN = 1_700_000_000.0
DEVICES = ("sim:0", "sim:1")


def stats(allocated: int = 0, free: int = 900) -> dict[str, MemoryStats]:
    """The same memory on each device."""
    one = MemoryStats(
        allocated_bytes=allocated, reserved_bytes=0, free_bytes=free, total_bytes=1000, peak_bytes=allocated
    )
    return dict.fromkeys(DEVICES, one)


def staged(model: str) -> ModelStaged:
    return ModelStaged(
        model=model, source=f"folder/{model}", revision=None, fingerprint="f" * 16, dim=4, max_tokens=8,
        dtype="float32", weights_bytes=64, seconds=1.5,
    )  # fmt: skip


def encoded(model: str, shard: int, **changes: Any) -> ShardEncoded:
    """A shard of ten rows: six embedded in batches of four and two, and four whose vectors were there."""
    return ShardEncoded(
        **{
            "model": model, "collection": "notes", "shard": shard, "rows": 10, "tokens": 40, "padded_tokens": 50,
            "truncated_rows": 1, "truncated_tokens": 3, "batch_rows": (4, 2), "padded_lengths": (8, 9),
            "rows_per_device": {"sim:0": 4, "sim:1": 2}, "seconds": 2.0, "reused_rows": 3, "repeated_rows": 1,
            "from_others_rows": 2, "tally": TokenTally(tokens=70, truncated_rows=1, truncated_tokens=3),
            "parts": ShardSeconds(reading=0.1, tokenizing=0.5, encoding=1.0, writing=0.25),
            "allocated_bytes": {"sim:0": 100, "sim:1": 90}, "peak_bytes": {"sim:0": 300, "sim:1": 250}, **changes,
        }
    )  # fmt: skip


def two_sessions() -> Timed:
    """A session of one model that is killed, and one that goes on with it and does another model; a day lies between.

    The second pass splits a batch.
    """
    day = 86_400.0
    first = [
        (0.0, RunStarted(mode="exclusive", accelerator="simulated:2xT4", devices=DEVICES, models=("a", "b"))),
        (2.0, InputScanned(collection="notes", files=1, chunks=20, skipped=0)),
        (4.0, staged("a")),
        (6.0, LeaseAcquired(models=("a",), devices=DEVICES, memory=stats(), waited_seconds=1.0)),
        (6.5, PassStarted(model="a", devices=DEVICES, chunks=20)),
        (9.0, encoded("a", 0)),
    ]
    second = [
        (0.0, RunStarted(mode="exclusive", accelerator="simulated:2xT4", devices=DEVICES, models=("a", "b"),
                         versions={"torch": "9.9"})),
        (0.5, InputScanned(collection="notes", files=1, chunks=20, skipped=0)),
        (1.0, ShardsKept(model="a", shards=1, rows=10, tally=TokenTally(tokens=70))),
        (2.0, LeaseAcquired(models=("a",), devices=DEVICES, memory=stats(), waited_seconds=0.0)),
        (2.25, PassStarted(model="a", devices=DEVICES, chunks=10)),
        (4.0, encoded("a", 1)),
        (5.0, PassFinished(model="a", peak_bytes={"sim:0": 300, "sim:1": 260})),
        (5.5, LeaseReleased(models=("a",), devices=DEVICES, memory=stats(), held=(), held_seconds=3.5)),
        (7.0, LeaseAcquired(models=("b",), devices=DEVICES, memory=stats(), waited_seconds=0.5)),
        (7.5, PassStarted(model="b", devices=DEVICES, chunks=20)),
        (8.0, BatchSplit(model="b", device="sim:1", rows=4, padded_length=8)),
        (9.0, encoded("b", 0, seconds=4.0)),
        (10.0, encoded("b", 1, seconds=1.0)),
        (10.0, PassFinished(model="b", peak_bytes={"sim:0": 300, "sim:1": 600})),
        (11.0, LeaseReleased(models=("b",), devices=DEVICES, memory=stats(7), held=(), held_seconds=4.0)),
        (11.0, PeakPredicted(models=("b",), predicted_bytes=500, resident_bytes=64)),
        (11.5, Notice(about="b", message="something")),
        (12.0, ShardFused(collection="notes", shard=0, rows=10, dim=8)),
        (13.0, ShardFused(collection="notes", shard=1, rows=10, dim=8)),
        (14.0, RunFinished(seconds=14.0)),
    ]  # fmt: skip
    return [*first, *((day + at, event) for at, event in second)]


def write_shard(folder: RunFolder, shard: int) -> None:
    """Ten chunks, and the vectors of a model, whose texts have 1 to 10 tokens; the limit cut two of them."""
    chunks = [Chunk(id=f"{shard}-{row}", text=f"text {row}") for row in range(10)]
    counts = np.array([[row + 1, 5 if row > 7 else 0] for row in range(10)], dtype=np.int32)
    vectors = np.eye(10, dtype=np.float32)
    folder.manifest.append(folder.shards.write_chunks("notes", shard, chunks))
    ids = [chunk.id for chunk in chunks]
    folder.manifest.append(folder.shards.write_vectors("notes", "a", shard, ids, vectors, counts=counts))
