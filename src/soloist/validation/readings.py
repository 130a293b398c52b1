"""What the records of a rehearsal say: a model's reports and batches, and how far the vectors of two runs are apart.
Judges nothing but whether a run failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from soloist.engine import ModelReport
from soloist.engine.result import LengthLimit
from soloist.events import LeaseAcquired, LeaseReleased, ModelStaged, ShardEncoded
from soloist.validation.evidence import Evidence, RunRecord

Verdict = Literal["pass", "fail", "cannot be shown here"]
Finding = tuple[Verdict, str]
QUICK: Finding = ("cannot be shown here", "a quick rehearsal starts no processes of its own")
_LEAST_COSINE = 0.9999
_LARGEST_DIFFERENCE = 1e-5


def failure_of(run: RunRecord) -> Finding | None:
    """The verdict on a run that failed; None where it did not."""
    return ("fail", f"the {run.mode} run failed: {run.error}") if run.error is not None else None


def models_of(run: RunRecord) -> tuple[ModelReport, ...]:
    """The reports of a run that did not fail."""
    assert run.result is not None
    return run.result.models


def report_of(run: RunRecord, model: str) -> ModelReport:
    """That of one model."""
    return next(report for report in models_of(run) if report.name == model)


def limits_of(run: RunRecord, model: str) -> dict[int, LengthLimit]:
    """The planner's limits by padded length, for all lengths that occurred."""
    return {limit.padded_length: limit for limit in report_of(run, model).batch_sizes.limits}


def weights_bytes(run: RunRecord, model: str) -> int:
    """The size of a model's weights, as it was staged."""
    return next(event.weights_bytes for event in run.events if isinstance(event, ModelStaged) and event.model == model)


def batches_of(run: RunRecord, model: str) -> Counter[tuple[int, int]]:
    """How many batches of each number of rows and padded length a model had."""
    found: Counter[tuple[int, int]] = Counter()
    for event in run.events:
        if isinstance(event, ShardEncoded) and event.model == model:
            found.update(zip(event.batch_rows, event.padded_lengths, strict=True))
    return found


def has_a_batch_for_each(run: RunRecord, model: str, devices: int) -> bool:
    """Whether a shard of a model had as many batches as there are devices."""
    shards = [event for event in run.events if isinstance(event, ShardEncoded) and event.model == model]
    return any(len(event.batch_rows) >= devices for event in shards)


def rows_by_length(batches: Counter[tuple[int, int]]) -> Counter[int]:
    """How many rows of each padded length the batches had."""
    found: Counter[int] = Counter()
    for (rows, length), count in batches.items():
        found[length] += rows * count
    return found


def compare(first: RunRecord, second: RunRecord) -> tuple[float, float]:
    """The lowest cosine of a row and the largest absolute difference of a component, over all final vectors."""
    if first.vectors.keys() != second.vectors.keys():
        return 0.0, float("inf")
    cosine, difference = 1.0, 0.0
    for name, vectors in first.vectors.items():
        others = second.vectors[name]
        if vectors.shape != others.shape:
            return 0.0, float("inf")
        cosine = min(cosine, float(np.einsum("ij,ij->i", vectors, others, dtype=np.float64).min()))
        difference = max(difference, float(np.abs(vectors - others).max()))
    return min(cosine, 1.0), difference


def is_near(cosine: float, difference: float) -> bool:
    """Whether vectors so far apart, as `compare` has it, are taken for equal."""
    return cosine >= _LEAST_COSINE and difference < _LARGEST_DIFFERENCE


def over_residue(allocated: Mapping[str, int], evidence: Evidence) -> dict[str, int]:
    """The devices that hold more than a library may keep."""
    return {device: size for device, size in allocated.items() if size > evidence.residue_bytes}


def end_of(event: LeaseAcquired | LeaseReleased) -> str:
    """Which end of a lease it is, in words."""
    return "acquire" if isinstance(event, LeaseAcquired) else "release"


def bytes_on(sizes: Mapping[str, int]) -> str:
    """What each device holds, in words."""
    return ", ".join(f"{size:,} bytes on {device}" for device, size in sizes.items())


def listed(names: Iterable[str]) -> str:
    """The names in one line."""
    return ", ".join(names)


def last_line(text: str) -> str:
    """The last line that says anything."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
