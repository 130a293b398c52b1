"""Points of the checklist about what runs compute and leave: batches, vectors, records and files. Runs nothing."""

from __future__ import annotations

import numpy as np

from soloist.events import ShardEncoded, ShardsKept
from soloist.validation.evidence import Evidence
from soloist.validation.readings import (
    QUICK,
    Finding,
    batches_of,
    compare,
    failure_of,
    is_near,
    last_line,
    limits_of,
    listed,
    report_of,
    rows_by_length,
)


def batch_sizes(evidence: Evidence) -> Finding:
    """At no padded length are there fewer rows in exclusive mode."""
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


def parity(evidence: Evidence) -> Finding:
    """The final vectors of both modes are near each other."""
    if (failed := failure_of(evidence.exclusive) or failure_of(evidence.standard)) is not None:
        return failed
    cosine, difference = compare(evidence.exclusive, evidence.standard)
    text = f"lowest cosine of a row {cosine:.7f}, largest absolute difference {difference:.3g}"
    return ("pass" if is_near(cosine, difference) else "fail"), text


def flag(evidence: Evidence) -> Finding:
    """The script of the validation plan takes its flag, logs it and writes it down."""
    if evidence.embed is None:
        return QUICK
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
        return "fail", f"the summary has the modes {sorted(map(str, modes))}, not exclusive alone"
    if "Exclusive ensemble mode detected" not in script.stderr:
        return "fail", "the log does not say that exclusive mode was detected"
    return "pass", "exit code 0, exclusive mode in the log and in the summary of every collection"


def telemetry(evidence: Evidence) -> Finding:
    """run.json and the script's statistics have all events of leases."""
    if evidence.embed is None:
        return QUICK
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


def twice(evidence: Evidence) -> Finding:
    """A second run gives the vectors and the lease events of the first."""
    if (failed := failure_of(evidence.exclusive) or failure_of(evidence.again)) is not None:
        return failed
    cosine, difference = compare(evidence.exclusive, evidence.again)
    good = is_near(cosine, difference) and len(evidence.again.leases) == 2 * len(evidence.models)
    return (
        "pass" if good else "fail"
    ), f"a second run: lowest cosine {cosine:.7f}, largest difference {difference:.3g}"


def batch_plan(evidence: Evidence) -> Finding:
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


def aggregation(evidence: Evidence) -> Finding:
    """Both modes fuse with one fusion, and from equal vectors."""
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


def resume(evidence: Evidence) -> Finding:
    """A run that was broken off goes on with its finished shards, and ends with equal vectors."""
    record = evidence.resume
    if (failed := failure_of(evidence.exclusive) or failure_of(record.resumed)) is not None:
        return failed
    if record.broken_off is None:
        return (
            "cannot be shown here",
            f"the run was over after {record.shards_before} shards, before it could be broken off",
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
