"""The checklist: each point a function from evidence to a verdict with its reasons. Runs nothing.

Points 1 to 10 are the validation plan's; those after them are soloist's own. A point that this machine cannot show
says so and why, and never passes for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from soloist.events import LeaseAcquired, ShardEncoded, ShardsKept
from soloist.validation.evidence import Evidence, RunRecord
from soloist.validation.readings import (
    Finding,
    Verdict,
    batches_of,
    bytes_on,
    compare,
    end_of,
    failure_of,
    has_a_batch_for_each,
    last_line,
    limits_of,
    listed,
    models_of,
    over_residue,
    report_of,
    rows_by_length,
    weights_bytes,
)

_QUICK: Finding = ("cannot be shown here", "a quick rehearsal starts no processes of its own")
LEAST_COSINE = 0.9999
LARGEST_DIFFERENCE = 1e-5
# What an equal run after a warm-up may add to the memory of the process: one heap of glibc's allocator, which gives
# each thread heaps of 64 MiB and keeps what a thread of a run left full of holes. Smaller leaks do not show beside it.
HOST_GROWTH_BYTES = 64 << 20


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


def _staging(evidence: Evidence) -> Finding:
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


def _lease_devices(evidence: Evidence) -> Finding:
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
        f"{len(expected)} events, one acquire and one release a model in turn, each of {listed(evidence.devices)}",
    )


def _lease_memory(evidence: Evidence) -> Finding:
    for event in evidence.exclusive.leases:
        if set(event.memory) != set(evidence.devices):
            return "fail", f"a lease event of {event.models[0]} has memory of {listed(event.memory)} only"
        if any(stats.total_bytes <= 0 or not stats.free_bytes for stats in event.memory.values()):
            return "fail", f"a lease event of {event.models[0]} has devices without memory"
    if not evidence.exclusive.leases:
        return "fail", "there are no lease events"
    free = min(stats.free_bytes or 0 for event in evidence.exclusive.leases for stats in event.memory.values())
    return "pass", f"allocated, reserved, free and total of every device in every event; least free {free / 1e9:.2f} GB"


def _release(evidence: Evidence) -> Finding:
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
                return "fail", f"at {what} there were {bytes_on(over)}"
        if over := over_residue(run.allocated_after, evidence):
            return "fail", f"after the {run.mode} run there were still {bytes_on(over)}"
    if (failed := failure_of(evidence.exclusive) or failure_of(evidence.standard)) is not None:
        return failed
    peaks = [peak for model in models_of(evidence.exclusive) for peak in model.peak_bytes.values()]
    return "pass", (
        f"from peaks of up to {max(peaks) / 1e6:,.1f} MB to 0 bytes after every release, the last one included, by the "
        "lease's statistics and by the rehearsal's own"
    )


def _batch_sizes(evidence: Evidence) -> Finding:
    if (failed := failure_of(evidence.exclusive) or failure_of(evidence.standard)) is not None:
        return failed
    shown = []
    for name in evidence.models:
        alone, together = limits_of(evidence.exclusive, name), limits_of(evidence.standard, name)
        common = sorted(alone.keys() & together.keys())
        fewer = [length for length in common if alone[length].rows < together[length].rows]
        if fewer:
            mine, theirs = (limits[fewer[0]].rows for limits in (alone, together))
            return "fail", f"{name}: {mine} rows of {fewer[0]} tokens in exclusive mode, {theirs} in standard"
        larger = sum(alone[length].rows > together[length].rows for length in common)
        rows, others = (report_of(run, name).batch_sizes.planned for run in (evidence.exclusive, evidence.standard))
        shown.append(
            f"{name}: {rows} rows of the median length, {others} in standard mode; more at {larger} of "
            f"{len(common)} lengths, fewer at none"
        )
    return "pass", "; ".join(shown)


def _no_oom(evidence: Evidence) -> Finding:
    run = evidence.exclusive
    if run.splits:
        first = run.splits[0]
        where = f"{first.rows} rows of {first.model} on {first.device}"
        return "fail", f"{len(run.splits)} batches ran out of memory, the first with {where}"
    return failure_of(run) or ("pass", "no batch ran out of memory")


def _parity(evidence: Evidence) -> Finding:
    if (failed := failure_of(evidence.exclusive) or failure_of(evidence.standard)) is not None:
        return failed
    cosine, difference = compare(evidence.exclusive, evidence.standard)
    text = f"lowest cosine of a row {cosine:.7f}, largest absolute difference {difference:.3g}"
    good = cosine >= LEAST_COSINE and difference < LARGEST_DIFFERENCE
    return ("pass" if good else "fail"), text


def _flag(evidence: Evidence) -> Finding:
    if evidence.embed is None:
        return _QUICK
    if evidence.script is None:
        return "cannot be shown here", (
            "scripts/embed_collections_v5.py, which has the flag, is part of a checkout, not of the installed package"
        )
    script = evidence.script
    if script.exit_code:
        return "fail", f"the script ended with {script.exit_code}: {last_line(script.stderr)}"
    summary = script.files.get("embedding_summary.json")
    modes = (
        {item.get("ensemble_mode") for item in summary if isinstance(item, dict)}
        if isinstance(summary, list)
        else set()
    )
    if modes != {"exclusive"}:
        return "fail", f"the summary has the modes {sorted(map(str, modes))}"
    if "Exclusive ensemble mode detected" not in script.stderr:
        return "fail", "the log does not say that exclusive mode was detected"
    return "pass", "exit code 0, exclusive mode in the log and in the summary of every collection"


def _telemetry(evidence: Evidence) -> Finding:
    if evidence.embed is None:
        return _QUICK
    run = evidence.embed.files.get("run.json")
    if evidence.embed.exit_code or not isinstance(run, dict):
        return "fail", f"soloist embed ended with {evidence.embed.exit_code}: {last_line(evidence.embed.stderr)}"
    expected = 2 * len(evidence.models)
    counts = {"run.json": len(run.get("lease_events", []))}
    if evidence.script is not None:
        stats = {
            name: value for name, value in evidence.script.files.items() if name.endswith("_processing_stats.json")
        }
        counts |= {name: len(value.get("lease_events", [])) for name, value in stats.items() if isinstance(value, dict)}
    wrong = {name: count for name, count in counts.items() if count != expected}
    if wrong or run.get("mode") != "exclusive":
        return "fail", f"lease events, of {expected}: {wrong or counts}; the mode is {run.get('mode')}"
    return "pass", f"{expected} lease events in {listed(counts)}"


def _replicas(evidence: Evidence) -> Finding:
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
            return "fail", f"{model.name} was never whole on {bare[0]}: its peak was {model.peak_bytes[bare[0]]} bytes"
    return "pass", "every pass began on empty devices and had the model's whole weights on each of them"


def _peaks(evidence: Evidence) -> Finding:
    """Every pass of both modes must have been compared: silence about a model is no evidence for it."""
    runs = (evidence.exclusive, evidence.standard)
    compared = [each for run in runs for each in run.comparisons]
    text = "; ".join(
        f"{'+'.join(each.models)}: {each.measured_bytes / 1e6:,.1f} MB, predicted {each.predicted_bytes / 1e6:,.1f}"
        for each in compared
    )
    if any(each.missed for each in compared):
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
    known = {model for each in run.comparisons for model in each.models}
    missing = [model for model in models if model not in known]
    return f"no peak was compared of {listed(missing)} in {run.mode} mode" if missing else ""


def _twice(evidence: Evidence) -> Finding:
    if (failed := failure_of(evidence.exclusive) or failure_of(evidence.again)) is not None:
        return failed
    cosine, difference = compare(evidence.exclusive, evidence.again)
    good = (
        cosine >= LEAST_COSINE
        and difference < LARGEST_DIFFERENCE
        and len(evidence.again.leases) == 2 * len(evidence.models)
    )
    return (
        "pass" if good else "fail"
    ), f"a second run: lowest cosine {cosine:.7f}, largest difference {difference:.3g}"


def _devices_compute(evidence: Evidence) -> Finding:
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
        return "cannot be shown here", "one batch holds all chunks of a shard: take more chunks"
    return "pass", "; ".join(shown)


def _errors(evidence: Evidence) -> Finding:
    failure = evidence.failure
    if failure.raised is None:
        return "fail", f"the run did not report the error that was planted: {failure.planted}"
    if over := over_residue(failure.allocated_after, evidence):
        return "fail", f"after the error the devices still held {bytes_on(over)}"
    if not failure.released or failure.next_lease_error is not None:
        return "fail", f"after the error the lease was not given back: {failure.next_lease_error or 'no release event'}"
    return "pass", "after an error in mid-pass: a release event, 0 bytes on the devices, and the next lease at once"


def _batch_plan(evidence: Evidence) -> Finding:
    """The same batches in both modes or, where all models together leave less room, smaller ones of equal lengths."""
    if (failed := failure_of(evidence.exclusive) or failure_of(evidence.standard)) is not None:
        return failed
    smaller, lengths = [], 0
    for model in evidence.models:
        alone, together = batches_of(evidence.exclusive, model), batches_of(evidence.standard, model)
        if rows_by_length(alone) != rows_by_length(together):
            return "fail", f"{model} pads its rows to other lengths in standard mode"
        other = sorted({length for _, length in (alone - together) + (together - alone)})
        unexplained = [length for length in other if not _has_less_room(evidence, model, length)]
        if unexplained:
            return (
                "fail",
                f"{model} has other batches of {unexplained[0]} tokens in standard mode, and memory is not the reason",
            )
        lengths += len(rows_by_length(alone))
        if other:
            more = f", and {len(other) - 1} more lengths up to {other[-1]}" if len(other) > 1 else ""
            smaller.append(f"{model} at {other[0]} tokens{more}")
    if smaller:
        return "pass", (
            "rows are padded alike; where all models together leave less room, standard mode has smaller batches: "
            + "; ".join(smaller)
        )
    return "pass", f"the same batches in both modes, at all {lengths} padded lengths that occur"


def _has_less_room(evidence: Evidence, model: str, length: int) -> bool:
    """Whether memory, and nothing else, allows fewer rows of a length beside all models' weights."""
    alone, together = (limits_of(run, model).get(length) for run in (evidence.exclusive, evidence.standard))
    if alone is None or together is None:
        return False
    return together.limited_by == "memory" and together.rows < alone.rows


def _aggregation(evidence: Evidence) -> Finding:
    if (failed := failure_of(evidence.exclusive) or failure_of(evidence.standard)) is not None:
        return failed
    assert evidence.exclusive.result is not None and evidence.standard.result is not None
    first, second = evidence.exclusive.result.fusion, evidence.standard.result.fusion
    if first != second:
        return "fail", f"exclusive fuses with {first}, standard with {second}"
    if first is None:
        return "cannot be shown here", "nothing is fused"
    for key, vectors in evidence.exclusive.model_vectors.items():
        if not np.array_equal(vectors, evidence.standard.model_vectors[key]) and evidence.kind != "cuda":
            return "fail", f"the vectors of {key[1]} differ between the modes"
    weights = ", ".join(f"{name} {weight:g}" for name, weight in zip(first.models, first.weights, strict=True))
    return "pass", f"{first.method}, {first.dim} dimensions, weights {weights}, in both modes"


def _host_memory(evidence: Evidence) -> Finding:
    """What the process holds must not grow from one run to an equal one. The first run is a warm-up: caches fill."""
    runs = (evidence.exclusive, evidence.again, evidence.once_more)
    if (failed := next(filter(None, map(failure_of, runs)), None)) is not None:
        return failed
    warm, first, second = (run.own_bytes for run in runs)
    growth = second - first
    verdict: Verdict = "pass" if growth <= HOST_GROWTH_BYTES else "fail"
    return verdict, (
        f"own memory, mapped files left aside: {warm / 1e6:,.0f} MB after a warm-up, then {first / 1e6:,.0f} and "
        f"{second / 1e6:,.0f} MB after two equal runs: {growth / 1e6:+,.1f} MB, where "
        f"{HOST_GROWTH_BYTES / 1e6:,.1f} are allowed, one heap of the C library's allocator"
    )


def _isolation(evidence: Evidence) -> Finding:
    run = evidence.isolated
    if run is None:
        return _QUICK
    if evidence.kind == "cpu":
        return "cannot be shown here", "the host's memory belongs to all processes: whose it is cannot be told"
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
    if cosine < LEAST_COSINE or difference >= LARGEST_DIFFERENCE:
        return "fail", f"passes in their own processes give other vectors: lowest cosine {cosine:.7f}"
    return "pass", "after each pass in a process of its own the driver had back what it had before, contexts included"


def _resume(evidence: Evidence) -> Finding:
    record = evidence.resume
    if (failed := failure_of(evidence.exclusive) or failure_of(record.resumed)) is not None:
        return failed
    if record.broken_off is None:
        return (
            "cannot be shown here",
            f"with {record.shards_before} shards in all there is nothing to break off",
        )
    if record.planted not in record.broken_off:
        return "fail", f"a run that was broken off ended with {record.broken_off}"
    kept = sum(event.shards for event in record.resumed.events if isinstance(event, ShardsKept))
    if kept != record.shards_before:
        return "fail", f"{record.shards_before} shards were done, and {kept} were kept"
    again = [event for event in record.resumed.events if isinstance(event, ShardEncoded)]
    others = [
        f"{collection}, {model}"
        for (collection, model), vectors in evidence.exclusive.model_vectors.items()
        if not np.array_equal(vectors, record.resumed.model_vectors[collection, model])
    ]
    if others:
        return "fail", f"after {kept} shards kept and {len(again)} encoded, the vectors of {others[0]} differ"
    return "pass", f"{kept} shards kept, {len(again)} encoded, and all vectors equal bit by bit"


CHECKS: tuple[Check, ...] = (
    Check(name="staging", point=1, title="Models are staged to CPU at initialization", find=_staging),
    Check(name="lease-devices", point=2, title="GPU leases are acquired with correct device IDs", find=_lease_devices),
    Check(name="lease-memory", point=3, title="VRAM is captured in acquire and release events", find=_lease_memory),
    Check(name="release", point=4, title="VRAM drops significantly between model passes", find=_release),
    Check(name="batch-sizes", point=5, title="Batch sizes are equal or larger in exclusive mode", find=_batch_sizes),
    Check(name="no-oom", point=6, title="No OOM errors occur during exclusive mode runs", find=_no_oom),
    Check(name="parity", point=7, title="Embeddings match standard sequential mode", find=_parity),
    Check(name="cli-flag", point=8, title="CLI flag --exclusive-ensemble activates the feature", find=_flag),
    Check(name="telemetry", point=9, title="Lease events are in the processing stats", find=_telemetry),
    Check(name="replicas", point=10, title="Replicas are reconstructed correctly per pass", find=_replicas),
    Check(name="peaks", point=None, title="Each pass's peak is what was predicted", find=_peaks),
    Check(name="twice", point=None, title="Two runs in a row are equal", find=_twice),
    Check(name="devices-compute", point=None, title="Every device computes", find=_devices_compute),
    Check(name="errors", point=None, title="A lease is given back after an error", find=_errors),
    Check(name="batch-plan", point=None, title="Both modes have one batch plan", find=_batch_plan),
    Check(name="aggregation", point=None, title="Both modes aggregate alike", find=_aggregation),
    Check(name="host-memory", point=None, title="Host memory does not grow from run to run", find=_host_memory),
    Check(name="isolation", point=None, title="Process isolation gives the driver its memory back", find=_isolation),
    Check(name="resume", point=None, title="A resumed run equals an uninterrupted one", find=_resume),
)
