"""The engines that are measured: one row each. Pure but for one look: which virtual environments are there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.machine import ROOT

Batching = Literal["its own", "default", "best"]

DEFAULT_BATCH_SIZE = 32
BATCH_SIZES = (8, 16, 32, 64, 128, 256)
# What each kind of device computes in, as far as it is compared.
PRECISIONS = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "float16", "bfloat16")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One side of the comparison.

    `environment` names a virtual environment of the checkout, `.venv-NAME`; empty for the one that runs. `batching`
    says where the batch size comes from: `best` is chosen in the warm-up.
    """

    adapter: str
    precision: str
    batching: Batching
    environment: str = ""

    @property
    def name(self) -> str:
        """What tables and files call it, e.g. `sentence-transformers float32, best batch size`."""
        suffix = ", best batch size" if self.batching == "best" else ""
        return f"{self.adapter} {self.precision}{suffix}"

    @property
    def opponent(self) -> str | None:
        """The engine of soloist's that computes in the same precision; None for soloist."""
        return None if self.adapter == "soloist" else f"soloist {self.precision}"


REFERENCE = "sentence-transformers float32"
OPTIONAL = (
    Engine(adapter="openvino", precision="float32", batching="default", environment="openvino"),
    Engine(adapter="openvino", precision="bfloat16", batching="default", environment="openvino"),
    Engine(adapter="openvino", precision="bfloat16", batching="best", environment="openvino"),
    Engine(adapter="onnx", precision="float32", batching="default", environment="onnx"),
    Engine(adapter="infinity", precision="float32", batching="default", environment="infinity"),
    Engine(adapter="infinity", precision="bfloat16", batching="default", environment="infinity"),
)


def engines_for(kind: str, precisions: Sequence[str]) -> tuple[Engine, ...]:
    """All engines for a kind of device, `cpu` or `cuda`, in the precisions wanted of it.

    Those in environments of their own have builds for the CPU alone.
    """
    kept = [precision for precision in PRECISIONS[kind] if precision in precisions]
    adapters = ("soloist",) if kind == "cpu" else ("soloist", "packing soloist")  # a CPU packs anyway
    ours = [
        Engine(adapter=adapter, precision=precision, batching="its own") for precision in kept for adapter in adapters
    ]
    batchings: tuple[Batching, ...] = ("default", "best")
    theirs = [
        Engine(adapter="sentence-transformers", precision=precision, batching=batching)
        for precision in kept
        for batching in batchings
    ]
    others = [engine for engine in OPTIONAL if kind == "cpu" and engine.precision in kept]
    return (*ours, *theirs, *others)


def python_of(engine: Engine, root: Path = ROOT) -> Path | None:
    """The interpreter that runs an engine; None where its environment has not been made."""
    if not engine.environment:
        return Path(sys.executable)
    # `.installed` is written last: a half-made environment counts as none.
    folder = root / f".venv-{engine.environment}"
    return folder / "bin" / "python" if (folder / ".installed").is_file() else None
