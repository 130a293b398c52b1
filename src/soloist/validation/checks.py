"""The checklist: each point a function from evidence to a verdict with its reasons. Runs nothing.

Points 1 to 10 are the validation plan's; those after them are soloist's own. A point that this machine cannot show
says so and why, and never passes for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from soloist.validation.device_checks import (
    devices_compute,
    errors,
    host_memory,
    isolation,
    lease_devices,
    lease_memory,
    no_oom,
    peaks,
    release,
    replicas,
    staging,
)
from soloist.validation.evidence import Evidence
from soloist.validation.outcome_checks import (
    aggregation,
    batch_plan,
    batch_sizes,
    flag,
    parity,
    resume,
    telemetry,
    twice,
)
from soloist.validation.readings import Finding, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One point. `point` is its number in the plan, None for soloist's own."""

    name: str
    point: int | None
    title: str
    find: Callable[[Evidence], Finding]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What became of a point, and the evidence in words and numbers."""

    name: str
    point: int | None
    title: str
    verdict: Verdict
    evidence: str


def judge(evidence: Evidence) -> tuple[CheckResult, ...]:
    """Every check's verdict on what a rehearsal saw."""
    results = []
    for check in CHECKS:
        verdict, reason = check.find(evidence)
        results.append(
            CheckResult(name=check.name, point=check.point, title=check.title, verdict=verdict, evidence=reason)
        )
    return tuple(results)


CHECKS: tuple[Check, ...] = (
    Check(name="staging", point=1, title="Models are staged to CPU at initialization", find=staging),
    Check(name="lease-devices", point=2, title="GPU leases are acquired with correct device IDs", find=lease_devices),
    Check(name="lease-memory", point=3, title="VRAM is captured in acquire and release events", find=lease_memory),
    Check(name="release", point=4, title="VRAM drops significantly between model passes", find=release),
    Check(name="batch-sizes", point=5, title="Batch sizes are equal or larger in exclusive mode", find=batch_sizes),
    Check(name="no-oom", point=6, title="No OOM errors occur during exclusive mode runs", find=no_oom),
    Check(name="parity", point=7, title="Embeddings match standard sequential mode", find=parity),
    Check(name="cli-flag", point=8, title="CLI flag --exclusive-ensemble activates the feature", find=flag),
    Check(name="telemetry", point=9, title="Lease events are in the processing stats", find=telemetry),
    Check(name="replicas", point=10, title="Replicas are reconstructed correctly per pass", find=replicas),
    Check(name="peaks", point=None, title="The peak of each pass is as predicted", find=peaks),
    Check(name="twice", point=None, title="Two runs in a row are equal", find=twice),
    Check(name="devices-compute", point=None, title="Every device computes", find=devices_compute),
    Check(name="errors", point=None, title="A lease is given back after an error", find=errors),
    Check(name="batch-plan", point=None, title="Both modes have one batch plan", find=batch_plan),
    Check(name="aggregation", point=None, title="Both modes aggregate alike", find=aggregation),
    Check(name="host-memory", point=None, title="Host memory does not grow from run to run", find=host_memory),
    Check(name="isolation", point=None, title="Process isolation gives the driver its memory back", find=isolation),
    Check(name="resume", point=None, title="A resumed run equals an uninterrupted one", find=resume),
)
