"""The parts in their order, the most important first. If time runs short, the last parts are left out."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.prove_gpu.setting import Seen, Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the proof: a function of a module below `parts`, and the seconds after which it is ended."""

    name: str
    title: str
    module: str
    seconds: int

    def function(self) -> Callable[[Setting], Seen]:
        """The function, whose name is the part's."""
        module = importlib.import_module(f"benchmarks.prove_gpu.parts.{self.module}")
        found: Callable[[Setting], Seen] = getattr(module, self.name)
        return found


# The first part makes the models that the others need.
PARTS: tuple[Part, ...] = (
    Part(name="models", title="models of real shapes with random weights", module="models", seconds=120),
    Part(name="peaks", title="predicted and measured peaks of memory", module="memory", seconds=120),
    Part(name="attention", title="attention kernels, NaN and first calls", module="attention", seconds=60),
    Part(name="contract", title="the tests that need a CUDA device", module="tests", seconds=120),
    Part(name="speed", title="tokens/s beside sentence-transformers", module="speed", seconds=150),
    Part(name="standard", title="standard mode's peak", module="runs", seconds=60),
    Part(name="out_of_memory", title="batches that do not fit", module="runs", seconds=60),
    Part(name="isolation", title="memory after a process of its own", module="runs", seconds=60),
    Part(name="interrupt", title="Ctrl-C, and the run that continues", module="interrupt", seconds=90),
    Part(name="idle", title="a profile of one pass", module="profile", seconds=60),
    Part(name="validation", title="soloist validate", module="tests", seconds=180),
)
