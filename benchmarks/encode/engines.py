"""The engines that are measured: one row each. Pure but for one look: which virtual environments are there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from benchmarks.machine import ROOT

Batching = Literal["its own", "default", "best"]

DEFAULT_BATCH_SIZE = 32
BATCH_SIZES = (8, 16, 32, 64, 128, 256)
STATIC_BATCH_SIZES = (8, 32, 128, 512, 2048)
# An engine in a precision that soloist does not have stands beside soloist in the one that is nearest in purpose.
_BESIDE = {"int8": "bfloat16"}
# What each kind of device computes in, as far as it is compared.
PRECISIONS = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "float16", "bfloat16")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One side of the comparison.

    `environment` names a virtual environment of the checkout, `.venv-NAME`; empty for the one that runs. `prepared_in`
    names the one that writes the files to load, where that is another. `batching` says where the batch size comes from:
    `best` is chosen in the warm-up. `beside_adapter` is the adapter that the engine is compared with.
    """

    adapter: str
    precision: str
    batching: Batching
    environment: str = ""
    prepared_in: str = ""
    default_batch_size: int = DEFAULT_BATCH_SIZE
    beside_adapter: str = "soloist"

    @property
    def name(self) -> str:
        """What tables and files call it, e.g. `sentence-transformers float32, best batch size`."""
        suffix = ", best batch size" if self.batching == "best" else ""
        return f"{self.adapter} {self.precision}{suffix}"

    @property
    def opponent(self) -> str | None:
        """soloist in the precision that this engine is compared with; None for soloist."""
        return None if self.adapter == self.beside_adapter else f"{self.beside_adapter} {self.beside}"

    @property
    def beside(self) -> str:
        """The precision of soloist that this engine is compared with: its own where soloist has it."""
        return _BESIDE.get(self.precision, self.precision)


_BATCHINGS: tuple[Batching, ...] = ("default", "best")

REFERENCE = "sentence-transformers float32"
OPTIONAL = (
    Engine(adapter="openvino", precision="float32", batching="default", environment="openvino"),
    Engine(adapter="openvino", precision="bfloat16", batching="default", environment="openvino"),
    Engine(adapter="openvino", precision="bfloat16", batching="best", environment="openvino"),
    Engine(adapter="onnx", precision="float32", batching="default", environment="onnx"),
    Engine(adapter="infinity", precision="float32", batching="default", environment="infinity"),
    Engine(adapter="infinity", precision="bfloat16", batching="default", environment="infinity"),
    Engine(adapter="ctranslate2", precision="float32", batching="its own", environment="ctranslate2"),
    # Its `int8_float32` is the same on a CPU: the runtime says that it computes in it.
    Engine(adapter="ctranslate2", precision="int8", batching="its own", environment="ctranslate2"),
    *(
        Engine(
            adapter="fastembed", precision="float32", batching=batching, environment="fastembed", prepared_in="onnx",
            default_batch_size=256,
        )
        for batching in _BATCHINGS
    ),
)  # fmt: skip
# The adapter that computes what a run of a static model computes, from texts in memory to vectors in memory.
IN_MEMORY = "soloist in memory"
# Engines that run static models. By default model2vec encodes in threads from 10,001 texts on.
OPTIONAL_STATIC = tuple(
    Engine(
        adapter=adapter, precision="float32", batching=batching, environment=adapter.split()[0],
        default_batch_size=batch_size, beside_adapter=IN_MEMORY,
    )
    for adapter, batch_size in (("wordllama", 64), ("model2vec", 1024), ("model2vec in threads", 1024))
    for batching in _BATCHINGS
)  # fmt: skip


def engines_for(kind: str, precisions: Sequence[str], *, static: bool = False) -> tuple[Engine, ...]:
    """All engines for a kind of device, `cpu` or `cuda`, and of model, in the precisions wanted of it.

    Those in environments of their own have builds for the CPU alone.
    """
    kept = [precision for precision in PRECISIONS[kind] if precision in precisions]
    if static and kind == "cpu":
        return (*_static_engines(kept), *(engine for engine in OPTIONAL_STATIC if engine.beside in kept))
    adapters = ("soloist",) if kind == "cpu" else ("soloist", "packing soloist")  # a CPU packs anyway
    ours = [
        Engine(adapter=adapter, precision=precision, batching="its own") for precision in kept for adapter in adapters
    ]
    others = [engine for engine in OPTIONAL if kind == "cpu" and engine.beside in kept]
    return (*ours, *_sentence_transformers(kept), *others)


def _static_engines(precisions: Sequence[str]) -> list[Engine]:
    """The engines for static models that need no environment of their own."""
    ours = [
        Engine(adapter=adapter, precision=precision, batching="its own", beside_adapter=IN_MEMORY)
        for precision in precisions
        for adapter in (IN_MEMORY, "soloist")
    ]
    return [*ours, *(replace(each, beside_adapter=IN_MEMORY) for each in _sentence_transformers(precisions))]


def _sentence_transformers(precisions: Sequence[str]) -> list[Engine]:
    return [
        Engine(adapter="sentence-transformers", precision=precision, batching=batching)
        for precision in precisions
        for batching in _BATCHINGS
    ]


def python_of(engine: Engine, root: Path = ROOT) -> Path | None:
    """The interpreter that runs an engine; None where its environment has not been made."""
    return environment_python(engine.environment, root)


def environment_python(environment: str, root: Path = ROOT) -> Path | None:
    """The interpreter of an environment; None where it has not been made."""
    if not environment:
        return Path(sys.executable)
    # `.installed` is written last: a half-made environment counts as none.
    folder = root / f".venv-{environment}"
    return folder / "bin" / "python" if (folder / ".installed").is_file() else None
