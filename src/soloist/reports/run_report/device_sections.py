"""What a report says of devices: leases, memory, and batches that did not fit. Facts in, sections out."""

from __future__ import annotations

from collections.abc import Iterator

from soloist.reports.run_report.from_events import HOST, KEPT_SPLITS
from soloist.reports.run_report.sections import Section, seconds_text, shown_text, table
from soloist.reports.run_report.thinning import BARS, DEVICES, LEASES, thin_memory
from soloist.reports.run_report.values import Lease, RunFacts
from soloist.reports.text import bytes_text
from soloist.wording import count_text

_UNKNOWN = "not recorded"


def leases(facts: RunFacts) -> Section:
    """Which models had which devices, and when."""
    columns = ("session", "models", "devices", "from", "until", "held", "waited")
    rows = [
        (
            str(lease.session), ", ".join(lease.models), ", ".join(lease.devices), seconds_text(lease.begins),
            seconds_text(lease.ends) if lease.ends is not None else "no release recorded",
            seconds_text(lease.ends - lease.begins) if lease.ends is not None else "-",
            seconds_text(lease.waited_seconds),
        )
        for lease in facts.leases
    ]  # fmt: skip
    if not rows:
        return Section(name="leases", title="Leases", text=("No lease of a device is recorded.",))
    held = sum(lease.ends - lease.begins for lease in facts.leases if lease.ends is not None)
    what = f"{count_text(len(rows), 'lease')} of {count_text(len(facts.devices), 'device')}"
    return Section(
        name="leases",
        title="Leases",
        text=(
            "A bar is a lease: its models had the device to themselves. A cross is a batch that ran out of memory.",
            "The time between sessions is left out. A dashed line is the beginning of a session.",
            *shown_text("devices", len(facts.devices), DEVICES),
            *shown_text("leases", len(facts.leases), LEASES),
            *shown_text("batches that ran out of memory", sum(facts.split_counts.values()), KEPT_SPLITS),
        ),
        tables=(table("Leases", columns, rows),),
        has_figure=True,
        alt=f"Timeline of the devices: {what}, {seconds_text(held)} in all, over {seconds_text(facts.seconds)}.",
    )


def memory(facts: RunFacts) -> Section:
    """What tensors took of each device, beside the prediction and the capacity."""
    columns = (
        "session", "models", "device", "capacity", "free before", "predicted peak", "measured peak", "left after",
    )  # fmt: skip
    rows = [_memory_row(lease, device) for lease in facts.leases for device in lease.devices]
    if not rows:
        return Section(name="memory", title="Memory", text=("No memory of a device is recorded.",))
    return Section(
        name="memory", title="Memory over time", text=tuple(_memory_text(facts)),
        tables=(table("Memory", columns, rows),), has_figure=_has_memory(facts), alt=_memory_alt(facts),
    )  # fmt: skip


def _has_memory(facts: RunFacts) -> bool:
    peaks = any(lease.peak_bytes or lease.predicted_bytes is not None for lease in facts.leases)
    return peaks or any(points for points in facts.memory.values())


def _memory_text(facts: RunFacts) -> Iterator[str]:
    yield (
        "Solid: what tensors took of the device, as measured after each shard. Dotted: the most that tensors took so "
        "far in the lease, up to the peak of the whole lease. Dashed: the predicted peak."
    )
    if HOST in facts.devices:
        yield "On a CPU both lines are the size of the whole process, and nothing is predicted."
    if limits := {model.limit_bytes for model in facts.models if model.limit_bytes}:
        yield f"Batches were planned to take {bytes_text(max(limits))} of a device at most."
    if any(lease.predicted_bytes is not None and not lease.is_compared for lease in facts.leases):
        yield "A prediction is not compared where a batch was split, or where rows were computed again in float32."
    if not any(points for points in facts.memory.values()):
        yield "The memory of tensors was not measured after each shard. Only the peak of each lease is known."
    _, size = thin_memory(facts.memory)
    if size > 1:
        yield f"A point of the figure is the highest of {size} measurements in a row."
    yield from shown_text("devices", len(facts.devices), DEVICES)


def _memory_row(lease: Lease, device: str) -> tuple[str, ...]:
    predicted = bytes_text(lease.predicted_bytes) if lease.predicted_bytes is not None else "-"
    if lease.predicted_bytes is not None and not lease.is_compared:
        predicted += " (not compared)"
    figures = (lease.peak_bytes, lease.left_bytes)
    peak, left = (bytes_text(sizes[device]) if device in sizes else _UNKNOWN for sizes in figures)
    total, free = (
        bytes_text(sizes[device]) if device in sizes else "unknown" for sizes in (lease.total_bytes, lease.free_bytes)
    )
    return str(lease.session), ", ".join(lease.models), device, total, free, predicted, peak, left


def _memory_alt(facts: RunFacts) -> str:
    peaks = {device: size for lease in facts.leases for device, size in lease.peak_bytes.items()}
    for lease in facts.leases:
        peaks |= {device: max(peaks[device], size) for device, size in lease.peak_bytes.items()}
    said = ", ".join(f"{device} {bytes_text(size)}" for device, size in peaks.items())
    return f"Memory of each device over time. The highest peaks: {said or 'not recorded'}."


def splits(facts: RunFacts) -> Section:
    """The batches that ran out of memory and were halved."""
    title = "Batches that ran out of memory"
    count = sum(facts.split_counts.values())
    if not count:
        return Section(name="splits", title=title, text=("No batch ran out of device memory.",))
    counts = [(model, device, f"{n:,}") for (model, device), n in facts.split_counts.items()]
    rows = [
        (seconds_text(split.at), split.model, split.device, f"{split.rows:,}", f"{split.padded_length:,}")
        for split in facts.splits
    ]
    return Section(
        name="splits",
        title=title,
        text=(
            "A batch that did not fit was halved, and both halves were computed. So no vector is lost.",
            *shown_text("rows", len(counts), BARS),
        ),
        tables=(
            table("Splits by model and device", ("model", "device", "splits"), counts),
            table("The first splits", ("at", "model", "device", "rows", "padded length"), rows, most=50, count=count),
        ),
        has_figure=True,
        alt=f"{count_text(count, 'split')} of batches, by model and device.",
    )
