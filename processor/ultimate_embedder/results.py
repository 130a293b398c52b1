"""What the engine gives, in the words of the validation plan. GB is 10^9 bytes.

Reads results, events and run folders; runs nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from soloist.arrays import Vectors
from soloist.engine import ModelReport, RunResult
from soloist.events import Event, LeaseAcquired, LeaseReleased
from soloist.stores import RunFolder
from soloist.types import MemoryStats

_GB = 1e9


class Telemetry:
    """The lease events of one run, in order, each `{timestamp, event_type, model, device_ids, vram}`.

    `timestamp` is in seconds since 1970; `model` joins the names of models that share a lease with `+`;
    `vram` gives `{allocated_gb, reserved_gb, free_gb, total_gb}` for each device id. An event sink.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.gpu_lease_events: list[dict[str, Any]] = []

    def emit(self, event: Event) -> None:
        """Keep one end of a lease; ignore every other event."""
        if isinstance(event, LeaseAcquired | LeaseReleased):
            self.gpu_lease_events.append(
                {
                    "timestamp": self._clock(),
                    "event_type": "acquire" if isinstance(event, LeaseAcquired) else "release",
                    "model": "+".join(event.models),
                    "device_ids": [_device_id(device) for device in event.devices],
                    "vram": {_device_id(device): _vram(stats) for device, stats in event.memory.items()},
                }
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FinishedRun:
    """A run's result, and the folder with its vectors."""

    result: RunResult
    folder: RunFolder

    @property
    def dim(self) -> int:
        """Components of a final vector."""
        return self.result.fusion.dim if self.result.fusion is not None else self.result.models[0].dim

    @property
    def counts(self) -> dict[str, int]:
        """Chunks of each collection that has any, in order."""
        return {report.name: report.chunks for report in self.result.collections if report.chunks}

    def shards(self, collection: str) -> Iterator[tuple[list[str], Vectors]]:
        """The ids and final vectors of a collection, shard by shard, in input order; the arrays are read-only."""
        for index in self.folder.shards.indices(collection):
            if self.result.fusion is not None:
                yield self.folder.shards.read_fused(collection, index)
            else:
                yield self.folder.shards.read_vectors(collection, self.result.models[0].name, index)

    def fill(self, collection: str, target: Vectors) -> None:
        """Copy a collection's final vectors into `target`, (chunks, dim)."""
        start = 0
        for _, vectors in self.shards(collection):
            target[start : start + len(vectors)] = vectors
            start += len(vectors)

    def vectors(self) -> Vectors:
        """All final vectors in a new array, (chunks, dim), in input order, one collection after the other."""
        found = np.empty((sum(self.counts.values()), self.dim), np.float32)
        start = 0
        for collection, chunks in self.counts.items():
            self.fill(collection, found[start : start + chunks])
            start += chunks
        return found


def results_of(run: FinishedRun, primary: str, ensemble_mode: str, leases: list[dict[str, Any]]) -> dict[str, Any]:
    """The dict that the plan reads; it shares nothing with later runs.

    `optimal_batch_size` is what the planner allows the primary model in a batch of rows of the median length.
    """
    result, fusion = run.result, run.result.fusion
    batch_sizes = {model.name: model.batch_sizes.planned for model in result.models}
    chunks = sum(run.counts.values())
    return {
        "ensemble_mode": ensemble_mode,
        "model": primary,
        "models": [model.name for model in result.models],
        "collections": run.counts,
        "total_chunks": chunks,
        "embedding_dimension": run.dim,
        "optimal_batch_size": batch_sizes[primary],
        "optimal_batch_sizes": batch_sizes,
        "seconds": result.seconds,
        "chunks_per_second": chunks / result.seconds if result.seconds else 0.0,
        "aggregation_method": _AGGREGATIONS[fusion.method] if fusion is not None else None,
        "model_weights": dict(zip(fusion.models, fusion.weights, strict=True)) if fusion is not None else {},
        "matryoshka_dim": _matryoshka_dim(run),
        "dtypes": {model.name: model.dtype for model in result.models},
        "accelerator": result.config.accelerator,
        "devices": list(result.devices),
        "model_reports": {model.name: _report(model) for model in result.models},
        "notices": list(result.notices),
        "gpu_lease_events": copy.deepcopy(leases),
        "lease_events": copy.deepcopy(leases),
    }


_AGGREGATIONS: Mapping[str, str] = {"mean": "weighted_average", "concat": "concat"}


def _matryoshka_dim(run: FinishedRun) -> int | None:
    """The dim that every model's vector was cut to; None where they were left whole."""
    fusion = run.result.fusion
    if fusion is not None and fusion.method == "mean":
        return fusion.dim
    return run.result.config.fusion.dim


def _report(model: ModelReport) -> dict[str, Any]:
    return {
        "source": model.source,
        "revision": model.revision,
        "fingerprint": model.fingerprint,
        "dim": model.dim,
        "max_tokens": model.max_tokens,
        "seconds": model.seconds,
        "chunks_per_second": model.chunks_per_second,
        "tokens": model.tokens,
        "padding_share": model.padding_share,
        "truncated_rows": model.truncated_rows,
        "truncated_tokens": model.truncated_tokens,
        "recomputed_rows": model.recomputed_rows,
        "batches": model.batch_sizes.batches,
        "batch_splits": model.batch_sizes.splits,
        "peak_gb": {_device_id(device): peak / _GB for device, peak in model.peak_bytes.items()},
        "rows_per_device": {_device_id(device): rows for device, rows in model.rows_per_device.items()},
    }


def _device_id(device: str) -> int:
    """`cuda:1` is 1; a device without a number, such as `cpu`, is 0."""
    return int(device.partition(":")[2] or 0)


def _vram(stats: MemoryStats) -> dict[str, float | None]:
    """In units of 10^9 bytes; `free_gb` is None where the driver could not be asked."""
    return {
        "allocated_gb": stats.allocated_bytes / _GB,
        "reserved_gb": stats.reserved_bytes / _GB,
        "free_gb": stats.free_bytes / _GB if stats.free_bytes is not None else None,
        "total_gb": stats.total_bytes / _GB,
    }
