"""Tokens/s of soloist beside sentence-transformers, on the same texts, in turn."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.encode.adapters import Encoded, PackingSoloist, SentenceTransformers, Setup, Soloist
from benchmarks.machine import cores
from benchmarks.prove_gpu.parts.models import texts
from benchmarks.prove_gpu.setting import CannotBeShownError, Seen, Setting

_BATCH_SIZES = (32, 64, 128, 256)  # the first is sentence-transformers' default
_LOWEST_COSINE = 0.999


def speed(setting: Setting) -> Seen:
    """Two models, two rounds after a warm-up; sentence-transformers with its default batch size and its best one."""
    rows = [row for model in ("minilm", "bge") for row in _of_model(setting, model)]
    faults = tuple(
        f"{row['model']} by {row['engine']} has a vector with cosine {row['lowest cosine']}"
        for row in rows
        if not row["lowest cosine"] >= _LOWEST_COSINE  # it may be NaN
    )
    if not setting.is_cuda and not faults:
        lowest = min(row["lowest cosine"] for row in rows)
        raise CannotBeShownError(
            f"simulated devices are as fast as the CPU; the same code ran there, lowest cosine {lowest}"
        )
    padded = [row for row in rows if row["engine"] == "soloist, padded"]
    summary = ", ".join(f"{row['model']} {row['of sentence-transformers']} times its default" for row in padded)
    return Seen(summary=summary, figures={"rows": rows}, faults=faults)


def _of_model(setting: Setting, model: str) -> list[dict[str, Any]]:
    count = 16 if setting.small else 2000 if model == "minilm" else 500
    given = texts(count, 256)
    engines = {
        "soloist, padded": (Soloist, 0),
        "soloist, packed": (PackingSoloist, 0),
        **{
            f"sentence-transformers, {size}": (SentenceTransformers, size)
            for size in _BATCH_SIZES[: 2 if setting.small else 4]
        },
    }
    rounds: dict[str, list[Encoded]] = {}
    for name, (adapter, size) in engines.items():
        made: Any = adapter(_setup(setting, model, name))
        made.load()
        rounds[name] = [made.encode(given, size, count=False) for _ in range(3)][1:]
        del made
        gc.collect()
        _empty(setting)
    usual = f"sentence-transformers, {_BATCH_SIZES[0]}"
    reference = rounds[usual][0].vectors
    return [_row(model, name, found, rounds[usual], reference, len(given)) for name, found in rounds.items()]


def _row(
    model: str, name: str, found: list[Encoded], usual: list[Encoded], reference: Any, count: int
) -> dict[str, Any]:
    seconds, theirs = (statistics.median(each.seconds for each in rounds) for rounds in (found, usual))
    cosines = np.einsum("ij,ij->i", np.asarray(found[0].vectors, np.float32), np.asarray(reference, np.float32))
    return {
        "model": model, "engine": name, "chunks/s": round(count / seconds, 1),
        "of sentence-transformers": round(theirs / seconds, 2), "lowest cosine": round(float(cosines.min()), 6),
    }  # fmt: skip


def _setup(setting: Setting, model: str, name: str) -> Setup:
    work = setting.work / "speed" / f"{model}-{name}".replace(" ", "-").replace(",", "")
    work.mkdir(parents=True, exist_ok=True)
    devices = _devices(setting)
    return Setup(
        adapter="soloist", model=str(setting.models / model), folder=str(setting.models / model),
        precision="float16" if setting.is_cuda else "float32", devices=devices, threads=cores(), work=str(work),
    )  # fmt: skip


def _devices(setting: Setting) -> tuple[str, ...]:
    """One card, so that sentence-transformers needs no processes; the CPU in a rehearsal."""
    if not setting.is_cuda:
        return ("cpu",)
    first = setting.devices.partition(":")[2].split(",")[0] or "0"
    return (f"cuda:{first}",)


def _empty(setting: Setting) -> None:
    empty: Callable[[], None] = torch.cuda.empty_cache
    if setting.is_cuda:
        empty()
