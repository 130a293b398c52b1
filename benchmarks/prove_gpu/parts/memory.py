"""Predicted peaks beside those of the device: single batches, at twenty shapes."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

from benchmarks.prove_gpu.parts.models import MODELS, text_of
from benchmarks.prove_gpu.setting import Seen, Setting
from soloist.devices import open_accelerator
from soloist.devices.accelerator import Accelerator
from soloist.encoding.copies import replicate
from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward
from soloist.memory.kernels import ExpandGroupedHeads
from soloist.memory.prediction import Predictor, blueprint_of, tracer_of
from soloist.models.loading import stage
from soloist.models.spec import ModelSpec
from soloist.types import Batch, DType

# If a peak is higher above the prediction than this, a planned batch may not fit.
_MOST_OVER = 1.10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    rows: int
    length: int
    padded: bool


# Five shapes for each of four models.
_SHAPES = (
    _Shape(rows=64, length=64, padded=False),
    _Shape(rows=32, length=128, padded=True),
    _Shape(rows=32, length=200, padded=False),
    _Shape(rows=8, length=500, padded=True),
    _Shape(rows=8, length=500, padded=False),
)


def peaks(setting: Setting) -> Seen:
    """The peak of each shape by torch's allocator, and by the prediction."""
    accelerator = open_accelerator(setting.devices, setting.machine)
    with accelerator.computing():
        rows = [row for name in MODELS for row in _of_model(name, setting, accelerator)]
    ratios = [row["measured / predicted"] for row in rows]
    faults = tuple(
        f"{row['model']} took {row['measured / predicted']} of its prediction at {row['shape']}"
        for row in rows
        if row["measured / predicted"] > _MOST_OVER
    )
    summary = f"measured / predicted {min(ratios):.3f} to {max(ratios):.3f} at {len(rows)} shapes"
    return Seen(summary=summary, figures={"rows": rows}, faults=faults)


def _of_model(name: str, setting: Setting, accelerator: Accelerator) -> list[dict[str, Any]]:
    dtype: DType = "float16" if setting.is_cuda else "float32"
    spec = ModelSpec(name=name, source=str(setting.models / name))
    staged = stage(spec, dtype)
    encoder, device = Encoder(staged), accelerator.devices[0]
    predictor = Predictor(tracer_of(blueprint_of(spec), dtype, accelerator.card), accelerator.card)
    attention = ExpandGroupedHeads(accelerator.card) if encoder.has_grouped_heads else None
    replica = replicate(staged.module, device)
    rows = []
    for shape in _SHAPES:
        tokenized = encoder.tokenize(_texts(shape))
        batch = Batch(rows=tuple(range(shape.rows)), padded_length=shape.length)
        features = encoder.collate(tokenized, batch)
        traces = predictor.tracer.traces(shape.rows, shape.length)
        predicted = predictor.replayed(traces[0] if shape.padded or len(traces) == 1 else traces[1])
        forward(replica, features, device, attention=attention)  # the first call makes the workspaces that stay
        accelerator.empty_caches()
        accelerator.reset_peak(device)
        forward(replica, features, device, attention=attention)
        measured = accelerator.memory(device)
        rows.append(
            {
                "model": name,
                "shape": f"{shape.rows} x {shape.length}, {'padded' if shape.padded else 'full'}",
                "predicted MB": round(predicted.peak_bytes / 1e6, 1),
                "measured MB": round(measured.peak_bytes / 1e6, 1),
                "measured / predicted": round(measured.peak_bytes / predicted.peak_bytes, 4),
            }
        )
    del replica
    gc.collect()
    accelerator.clear_workspaces()
    accelerator.empty_caches()
    return rows


def _texts(shape: _Shape) -> list[str]:
    """Rows of the shape's length; where it is padded, the last one is shorter."""
    lengths = [shape.length] * shape.rows
    if shape.padded:
        lengths[-1] = shape.length // 2
    return [text_of(length, seed) for seed, length in enumerate(lengths)]
