"""A profile of batches in turn: how long a device has nothing to do, and how often the host waits for it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.prove_gpu.parts.models import texts
from benchmarks.prove_gpu.setting import CannotBeShownError, Seen, Setting
from soloist.devices import open_accelerator
from soloist.encoding.copies import replicate
from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import begin
from soloist.models.loading import stage
from soloist.models.spec import ModelSpec
from soloist.types import Batch

_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
_BATCHES, _ROWS = 24, 64


def idle(setting: Setting) -> Seen:
    """Give the device one batch after the other, two in flight as in a pass."""
    if not setting.is_cuda:
        raise CannotBeShownError("a simulated device has no kernels, and is never ahead of the host")
    accelerator = open_accelerator(setting.devices)
    device = accelerator.devices[0]
    rows = []
    for name in ("minilm", "bge"):
        staged = stage(ModelSpec(name=name, source=str(setting.models / name)), "float16")
        encoder, replica = Encoder(staged), replicate(staged.module, device)
        tokenized = encoder.tokenize(texts(_BATCHES * _ROWS, 256))
        features = [_features(encoder, tokenized, number) for number in range(_BATCHES)]
        with accelerator.computing():
            _in_turn(replica, features[:2], device)
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as record:
                seconds = _in_turn(replica, features, device)
        rows.append({"model": name, **measured(record, seconds)})
    summary = ", ".join(f"{row['model']} idle {row['idle']:.0%}, {row['waits a batch']} waits a batch" for row in rows)
    return Seen(summary=summary, figures={"rows": rows})


def _features(encoder: Encoder, tokenized: Any, number: int) -> Any:
    chosen = tuple(range(number * _ROWS, (number + 1) * _ROWS))
    return encoder.collate(tokenized, Batch(rows=chosen, padded_length=max(len(tokenized.ids[row]) for row in chosen)))


def _in_turn(replica: Any, features: Sequence[Any], device: str) -> float:
    """The seconds of all batches. The vectors of a batch are asked for when the next one is on the device."""
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    last = None
    for each in features:
        computed = begin(replica, each, device)
        if last is not None:
            last.rows()
        last = computed
    if last is not None:
        last.rows()
    return time.perf_counter() - began


def measured(record: Any, seconds: float) -> dict[str, Any]:
    """The share of the time without a kernel or a copy, and how many calls wait, on average for a batch."""
    events = record.events()
    spans = sorted(
        (event.time_range.start, event.time_range.end) for event in events if event.device_type.name == "CUDA"
    )
    busy, reached = 0.0, 0.0
    for start, end in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    waits = sum(event.name.startswith(_WAITS) and not event.name.endswith("Async") for event in events)
    return {
        "seconds": round(seconds, 3), "idle": round(1 - busy / 1e6 / seconds, 3), "kernels": len(spans),
        "waits a batch": round(waits / _BATCHES, 2),
    }  # fmt: skip
