"""Whole runs on the devices: standard mode, batches that do not fit, and a process of its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import soloist
from benchmarks.prove_gpu.parts.models import texts
from benchmarks.prove_gpu.setting import CannotBeShownError, Seen, Setting
from benchmarks.texts import write_chunk_file
from soloist.devices import open_accelerator
from soloist.events import BatchSplit, LeaseReleased, ListSink, PeakCompared
from soloist.memory import planner
from soloist.stores import RunFolder

_LOWEST_COSINE = 0.999
# Drivers tell late what a process has given back, and nvidia-smi counts in MiB.
_PATIENCE_SECONDS = 5
_UNTOLD_BYTES = 8 * 2**20
# A run that must split batches gets this share of the bytes that a run took.
_SHARE = 0.6


def standard(setting: Setting) -> Seen:
    """All models at once on each device: the measured peak beside the predicted one, and nothing left after it."""
    folder = setting.folder("standard")
    sink = _run(folder, setting, ("minilm", "nomic", "bge"), mode="standard")
    rows = [
        {
            "device": event.device,
            "predicted MB": round(event.predicted_bytes / 1e6, 1),
            "measured MB": round(event.measured_bytes / 1e6, 1),
            "measured / predicted": round(event.measured_bytes / event.predicted_bytes, 4),
        }
        for event in sink.events
        if isinstance(event, PeakCompared)
    ]
    faults = (*_left_over(sink), *(f"{row['device']} missed its prediction" for row in rows if _missed(row)))
    summary = ", ".join(f"{row['device']} {row['measured / predicted']} of the prediction" for row in rows)
    return Seen(summary=summary, figures={"rows": rows}, faults=faults)


def isolation(setting: Setting) -> Seen:
    """The driver's free memory before and after a pass in another process. The present process computes nothing."""
    folder = setting.folder("isolation")
    before = free_bytes(setting)
    sink = _run(folder, setting, ("minilm",), isolation="process")
    less = still_less(setting, before)
    faults = [f"{device} has {lost:,} bytes less than before" for device, lost in less.items()]
    faults += [f"the parent process made a context of its own on {device}" for device in _contexts(before)]
    summary = ", ".join(f"{device} {free / 1e9:.2f} GB free, as before" for device, free in before.items())
    return Seen(summary=summary, figures={"free_before": before, "less": less}, faults=(*_left_over(sink), *faults))


def out_of_memory(setting: Setting) -> Seen:
    """A run with too little memory splits its batches, and has the same vectors as a run with enough memory."""
    folder = setting.folder("out_of_memory")
    budget: dict[str, Any] = {"token_budget": 16_384 if setting.small else 65_536, "shard_chunks": 4096}
    # A simulated device that is named by its size has no workspaces, so the device to compare with may have none.
    roomy = setting.devices if setting.is_cuda else "simulated:1x1GB"
    whole = _run(folder / "whole", setting, ("minilm",), devices=roomy, **budget)
    peak = max(event.measured_bytes for event in whole.events if isinstance(event, PeakCompared))
    with _limited(setting, int(peak * _SHARE)) as devices:
        cut = _run(folder / "cut", setting, ("minilm",), devices=devices, **budget)
    splits = sum(isinstance(event, BatchSplit) for event in cut.events)
    lowest = float(np.einsum("ij,ij->i", *(_vectors(folder / name / "run") for name in ("whole", "cut"))).min())
    faults = [] if splits else ["no batch was split, though memory was short"]
    if not lowest >= _LOWEST_COSINE:  # it may be NaN
        faults.append(f"a vector differs: cosine {lowest:.5f}")
    summary = f"{splits} splits below {peak * _SHARE / 1e6:.0f} MB, lowest cosine {lowest:.7f}"
    return Seen(summary=summary, figures={"splits": splits, "cosine": lowest}, faults=(*_left_over(cut), *faults))


def _run(
    folder: Path, setting: Setting, models: Sequence[str], *, devices: str | None = None, **settings: Any
) -> ListSink:
    """A run into FOLDER/run, and its events."""
    sink = ListSink()
    folder.mkdir(parents=True, exist_ok=True)
    write_chunk_file(folder / "chunks" / "texts", texts(48, 96) if setting.small else texts(1000, 480))
    soloist.embed(
        folder / "chunks", sink, out=folder / "run", models=[str(setting.models / name) for name in models],
        accelerator=devices or setting.devices, dtype="float16" if setting.is_cuda else "float32", fusion="none",
        lock_dir=setting.machine, cache_dir=folder / "cache", progress=False, **settings,
    )  # fmt: skip
    return sink


@contextlib.contextmanager
def _limited(setting: Setting, peak: int) -> Iterator[str]:
    """Devices on which tensors may take so many bytes: by torch's own limit, or simulated ones of that size."""
    if not setting.is_cuda:
        with _planning_too_much():
            yield f"simulated:1x{peak / 1e6:.6f}MB"
        return
    accelerator = open_accelerator(setting.devices)
    for device in accelerator.devices:
        torch.cuda.set_per_process_memory_fraction(peak / accelerator.total_bytes(device), device)
    try:
        yield setting.devices
    finally:
        for device in accelerator.devices:
            torch.cuda.set_per_process_memory_fraction(1.0, device)


@contextlib.contextmanager
def _planning_too_much() -> Iterator[None]:
    """Have batches planned for more memory than a card has. A plan knows the size of a simulated card, but not
    torch's limit.
    """
    kept = planner.RESERVE_SHARE
    planner.RESERVE_SHARE = -4.0
    try:
        yield
    finally:
        planner.RESERVE_SHARE = kept


def _vectors(run: Path) -> Any:
    shards = RunFolder.open(run).shards
    return np.concatenate([shards.read_vectors("texts", "minilm", index)[1] for index in shards.indices("texts")])


def free_bytes(setting: Setting) -> dict[str, int]:
    """What the driver has left on each device. Asking makes no context.

    Raises:
        CannotBeShownError: the driver does not say.
    """
    accelerator = open_accelerator(setting.devices, setting.machine)
    found = {device: accelerator.driver_free_bytes(device) for device in accelerator.devices}
    known = {device: free for device, free in found.items() if free is not None}
    if len(known) < len(found):
        raise CannotBeShownError("nvidia-smi does not say what is free on the devices")
    return known


def still_less(setting: Setting, before: Mapping[str, int]) -> dict[str, int]:
    """The bytes that a device lacks, by device, once the driver has had the time to count them."""
    ends = time.monotonic() + _PATIENCE_SECONDS
    while True:
        lost = {device: before[device] - free for device, free in free_bytes(setting).items()}
        less = {device: size for device, size in lost.items() if size > _UNTOLD_BYTES}
        if not less or time.monotonic() > ends:
            return less
        time.sleep(0.2)


def _contexts(devices: Iterable[str]) -> list[str]:
    """The CUDA devices on which this process has a context."""
    numbers = {device: int(device.split(":")[1]) for device in devices if device.startswith("cuda:")}
    has_context: Callable[[int], bool] | None = getattr(
        torch._C, "_cuda_hasPrimaryContext", None
    )  # CUDA builds have it
    return [device for device, number in numbers.items() if has_context is not None and has_context(number)]


def _left_over(sink: ListSink) -> list[str]:
    """A sentence for each lease that ended with tensors on a device."""
    released = [event for event in sink.events if isinstance(event, LeaseReleased)]
    if not released:
        return ["no lease was released"]
    return [
        f"{device} still held {memory.allocated_bytes:,} bytes after {', '.join(event.models)}"
        for event in released
        for device, memory in (event.worker_memory or event.memory).items()
        if memory.allocated_bytes
    ]


def _missed(row: dict[str, Any]) -> bool:
    return bool(row["measured / predicted"] > 1.1)
