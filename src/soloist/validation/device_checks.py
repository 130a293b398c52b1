"""Points of the checklist about devices and memory: leases, replicas, peaks, and what is given back. Runs nothing."""

from __future__ import annotations

from collections.abc import Iterable

from soloist.events import LeaseAcquired
from soloist.validation.evidence import Evidence, RunRecord
from soloist.validation.readings import (
    QUICK,
    Finding,
    Verdict,
    bytes_on,
    compare,
    end_of,
    failure_of,
    has_a_batch_for_each,
    is_near,
    listed,
    models_of,
    over_residue,
    weights_bytes,
)

# What an equal run after a warm-up may add to the memory of the process: one heap of glibc's allocator, which gives
# each thread heaps of 64 MiB and keeps what a thread of a run left full of holes. Smaller leaks do not show beside it.
HOST_GROWTH_BYTES = 64 << 20


def staging(evidence: Evidence) -> Finding:
    """Every parameter is on the CPU, and no device was touched on the way there."""
    staging = evidence.staging
    if staging.error is not None:
        return "fail", f"staging failed: {staging.error}"
    elsewhere = {model: devices for model, devices in staging.parameter_devices.items() if devices != ("cpu",)}
    if elsewhere:
        return "fail", f"parameters are not on the CPU: {elsewhere}"
    touched = {device: peak for device, peak in staging.peak_bytes.items() if peak}
    if touched:
        return "fail", f"staging went through the devices: {bytes_on(touched)} at its peak"
    return "pass", f"{', '.join(staging.parameter_devices)}: all parameters on the CPU, 0 bytes on any device meanwhile"


def lease_devices(evidence: Evidence) -> Finding:
    """One acquire and one release a model, in turn, each of all devices."""
    run = evidence.exclusive
    if (failed := failure_of(run)) is not None:
        return failed
    expected = [(kind, model) for model in evidence.models for kind in ("acquire", "release")]
    found = [
        ("acquire" if isinstance(event, LeaseAcquired) else "release", "+".join(event.models)) for event in run.leases
    ]
    if found != expected:
        return "fail", f"leases were {found}, not {expected}"
    wrong = [event for event in run.leases if event.devices != evidence.devices]
    if wrong:
        return "fail", f"{wrong[0].models} leased {wrong[0].devices}, not {evidence.devices}"
    return (
        "pass",
        f"{len(expected)} lease events: each model in turn acquired and released {listed(evidence.devices)}",
    )


def lease_memory(evidence: Evidence) -> Finding:
    """Every event of a lease says what each device holds and has free."""
    for event in evidence.exclusive.leases:
        if set(event.memory) != set(evidence.devices):
            return "fail", f"a lease event of {event.models[0]} has memory of {listed(event.memory)} only"
        if any(stats.total_bytes <= 0 or not stats.free_bytes for stats in event.memory.values()):
            return "fail", f"a lease event of {event.models[0]} has devices without memory"
    if not evidence.exclusive.leases:
        return "fail", "there are no lease events"
    free = min(stats.free_bytes or 0 for event in evidence.exclusive.leases for stats in event.memory.values())
    return "pass", f"allocated, reserved, free and total of every device in every event; least free {free / 1e9:.2f} GB"


def release(evidence: Evidence) -> Finding:
    """By the lease's own statistics, by the rehearsal's, and once more when the run is over."""
    if evidence.kind == "cpu":
        return "cannot be shown here", "a CPU has no memory of its own to give back"
    for run in (evidence.exclusive, evidence.standard):
        for release in run.releases:
            reported = {device: stats.allocated_bytes for device, stats in release.memory.items()}
            if (over := over_residue(reported, evidence)) or release.held:
                return (
                    "fail",
                    f"after {listed(release.models)} ({run.mode}) the lease reports {bytes_on(over or reported)}",
                )
        for seen in run.observations:
            if over := over_residue(seen.allocated_bytes, evidence):
                what = f"the {end_of(seen.event)} of {listed(seen.event.models)} ({run.mode})"
                return "fail", f"at {what} the devices held {bytes_on(over)}"
        if over := over_residue(run.allocated_after, evidence):
            return "fail", f"after the {run.mode} run the devices still held {bytes_on(over)}"
    if (failed := failure_of(evidence.exclusive) or failure_of(evidence.standard)) is not None:
        return failed
    models = models_of(evidence.exclusive)
    peaks = [peak for model in models for peak in model.peak_bytes.values()]
    if len(models) < 2:
        return "cannot be shown here", (
            f"there is one model, so there are no passes to compare. After its pass {max(peaks) / 1e6:,.1f} MB fell to "
            "0 bytes"
        )
    return "pass", (
        f"peaks of up to {max(peaks) / 1e6:,.1f} MB fell to 0 bytes after every release, also after the last, as "
        "measured by the lease and by the rehearsal"
    )


def no_oom(evidence: Evidence) -> Finding:
    """No batch of the exclusive run had to be split."""
    run = evidence.exclusive
    if run.splits:
        first = run.splits[0]
        where = f"{first.rows} rows of {first.model} on {first.device}"
        return "fail", f"{len(run.splits)} batches ran out of memory, the first with {where}"
    return failure_of(run) or ("pass", "no batch ran out of memory")


def replicas(evidence: Evidence) -> Finding:
    """Nothing of ours on a device when a pass begins, and the model's whole weights on each when it is at work."""
    run = evidence.exclusive
    for seen in run.observations:
        if isinstance(seen.event, LeaseAcquired) and (over := over_residue(seen.allocated_bytes, evidence)):
            return (
                "fail",
                f"{listed(seen.event.models)} began on devices that held {bytes_on(over)} of an earlier pass",
            )
    if (failed := failure_of(run)) is not None:
        return failed
    if evidence.kind == "cpu":
        return "cannot be shown here", "a CPU computes on the staged weights: there are no replicas"
    for model in models_of(run):
        weights = weights_bytes(run, model.name)
        bare = [device for device, peak in model.peak_bytes.items() if peak < weights]
        if bare:
            return (
                "fail",
                f"the peak of {model.name} on {bare[0]} was {model.peak_bytes[bare[0]]} bytes, less than its weights",
            )
    return "pass", "every pass began on empty devices and had the model's whole weights on each of them"


def peaks(evidence: Evidence) -> Finding:
    """Every pass of both modes must have been compared: silence about a model is no evidence for it."""
    runs = (evidence.exclusive, evidence.standard)
    compared = [comparison for run in runs for comparison in run.comparisons]
    text = "; ".join(
        f"{'+'.join(peak.models)}: {peak.measured_bytes / 1e6:,.1f} MB, predicted {peak.predicted_bytes / 1e6:,.1f}"
        for peak in compared
    )
    if any(peak.missed for peak in compared):
        return "fail", text
    if (failed := failure_of(evidence.exclusive) or failure_of(evidence.standard)) is not None:
        return failed
    if not compared:
        return "cannot be shown here", "nothing was predicted for these models"
    if silent := "; ".join(filter(None, (_not_compared(run, evidence.models) for run in runs))):
        return "cannot be shown here", f"{silent}: not predicted, or a batch was split; as predicted: {text}"
    return "pass", text


def _not_compared(run: RunRecord, models: Iterable[str]) -> str:
    """The models of whose passes no peak was compared, in words; empty where there are none."""
    known = {model for comparison in run.comparisons for model in comparison.models}
    missing = [model for model in models if model not in known]
    return f"no peak of {listed(missing)} was compared in {run.mode} mode" if missing else ""


def devices_compute(evidence: Evidence) -> Finding:
    """A shard with a batch for every device must have kept every device at work."""
    if len(evidence.devices) < 2:
        return "cannot be shown here", "there is one device: this point needs two"
    if (failed := failure_of(evidence.exclusive)) is not None:
        return failed
    shown = []
    for model in models_of(evidence.exclusive):
        if not has_a_batch_for_each(evidence.exclusive, model.name, len(evidence.devices)):
            continue
        idle = [device for device, rows in model.rows_per_device.items() if not rows]
        if idle:
            batches = model.batch_sizes.batches
            return "fail", f"{listed(idle)} computed nothing of {model.name}, which had {batches} batches"
        parts = " and ".join(f"{share:.0%}" for share in model.device_shares.values())
        shown.append(f"{model.name}: {parts} of the rows")
    if not shown:
        return "cannot be shown here", "one batch holds all chunks of a shard: give a larger --sample-chunks"
    return "pass", "; ".join(shown)


def errors(evidence: Evidence) -> Finding:
    """After an error in mid-pass the devices are empty, and can be leased at once."""
    failure = evidence.failure
    if failure.raised is None:
        return "fail", f"the run did not report the error that was planted: {failure.planted}"
    if over := over_residue(failure.allocated_after, evidence):
        return "fail", f"after the error the devices still held {bytes_on(over)}"
    if not failure.released or failure.next_lease_error is not None:
        return "fail", f"after the error the lease was not given back: {failure.next_lease_error or 'no release event'}"
    return "pass", "after an error in mid-pass: a release event, 0 bytes on the devices, and the next lease at once"


def host_memory(evidence: Evidence) -> Finding:
    """What the process holds must not grow from one run to an equal one. The first run is a warm-up: caches fill."""
    runs = (evidence.exclusive, evidence.again, evidence.once_more)
    if (failed := next(filter(None, map(failure_of, runs)), None)) is not None:
        return failed
    warm, first, second = (run.own_bytes for run in runs)
    growth = second - first
    verdict: Verdict = "pass" if growth <= HOST_GROWTH_BYTES else "fail"
    return verdict, (
        f"memory without mapped files: {warm / 1e6:,.0f} MB after a warm-up, then {first / 1e6:,.0f} and "
        f"{second / 1e6:,.0f} MB after two equal runs. It changed by {growth / 1e6:+,.1f} MB; "
        f"{HOST_GROWTH_BYTES / 1e6:,.1f} MB are allowed, which is one heap of the C library's allocator"
    )


def isolation(evidence: Evidence) -> Finding:
    """After a pass in a process of its own the driver has its memory back, contexts included."""
    run = evidence.isolated
    if run is None:
        return QUICK
    if evidence.kind == "cpu":
        return "cannot be shown here", "all processes share the host's memory, so the share of one process is not known"
    if (failed := failure_of(run)) is not None:
        return failed
    for acquired, released in zip(run.leases[::2], run.leases[1::2], strict=True):
        for device in evidence.devices:
            before, after = acquired.memory[device].free_bytes, released.memory[device].free_bytes
            if before is None or after is None:
                return "cannot be shown here", "the driver's own tool, nvidia-smi, cannot be run"
            if after + evidence.residue_bytes < before:
                return (
                    "fail",
                    f"the driver had {before} bytes free of {device} before {acquired.models[0]}, and {after} after",
                )
    cosine, difference = compare(evidence.exclusive, run)
    if not is_near(cosine, difference):
        return "fail", f"passes in their own processes give other vectors: lowest cosine {cosine:.7f}"
    return "pass", "after each pass in its own process, the driver had its memory back, contexts included"
