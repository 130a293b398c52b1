"""Predicted peaks beside those of simulated devices, and those beside the record of the CPU's own allocator.

    python -m benchmarks.predicted_memory        # writes the table of docs/memory.md

Models have random weights: memory does not depend on what they are.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch.backends import mkldnn
from torch.profiler import ProfilerActivity, profile

from soloist.devices import simulated
from soloist.encoding.copies import replicate
from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward
from soloist.memory.cards import CARDS, Card, bare_card
from soloist.memory.kernels import ExpandGroupedHeads
from soloist.memory.prediction import Predictor, blueprint_of, tracer_of
from soloist.models.loading import stage
from soloist.models.spec import ModelSpec
from soloist.types import DType

DTYPES: tuple[DType, ...] = ("float32", "float16", "bfloat16")
ROOMY = bare_card(10**11)
TABLE_CARDS = (ROOMY, CARDS["T4"], CARDS["L4"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A batch; `masked` where some of its rows are padded."""

    rows: int
    length: int
    masked: bool


# 32 shapes, from 64 to some 4,000 tokens.
SHAPES = tuple(
    Shape(rows=rows, length=length, masked=masked)
    for rows, length in ((4, 16), (64, 16), (2, 48), (32, 48), (1, 64), (16, 64), (1, 128), (8, 128), (32, 128),
                         (1, 200), (6, 200), (16, 256), (1, 384), (4, 384), (1, 500), (8, 500))
    for masked in (True, False)
)  # fmt: skip


class Comparison:
    """One model in one dtype: what is predicted, simulated and recorded of it."""

    def __init__(self, folder: Path, dtype: DType) -> None:
        self._spec = ModelSpec(name=folder.name, source=str(folder))
        self._staged = stage(self._spec, dtype)
        self._encoder = Encoder(self._staged)
        self._dtype = dtype

    def predicted(self, shape: Shape, card: Card) -> int:
        """The peak by the trace of just this shape, replayed beside the weights."""
        tracer = tracer_of(blueprint_of(self._spec), self._dtype, card)
        (trace,) = tracer.traces(shape.rows, shape.length, masked=shape.masked)
        return Predictor(tracer, card).replayed(trace).peak_bytes

    def simulated(self, shape: Shape, card: Card) -> int:
        """The peak of a simulated device that holds the model and runs the batch."""
        simulated.configure([card])
        device = simulated.ledger(0)
        replica = replicate(self._staged.module, "sim:0")
        device.reset_peak()
        attention = ExpandGroupedHeads(card) if self._encoder.has_grouped_heads else None
        forward(replica, self._features(shape), "sim:0", attention=attention)
        peak = device.memory().peak_bytes
        del replica
        gc.collect()
        device.clear_workspaces()
        device.empty_cache()
        assert device.allocated_bytes == 0
        return peak

    def recorded(self, shape: Shape) -> int:
        """The weights, and the highest sum of what the CPU's allocator gave and took in the pass.

        With one thread and without oneDNN: the CPU's kernels take scratch memory for each of theirs, and oneDNN takes
        as much as that kind of processor wants. A device has neither.
        """
        features = self._features(shape)
        # acc_events: without it torch 2.10 warns about cycles, of which there is one here.
        recording = profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True)
        with _plain_kernels(), recording as record:
            forward(self._staged.module, features, "cpu")
        now = peak = 0
        for event in record.profiler.kineto_results.events():
            if event.name() == "[memory]":
                now += event.nbytes()
                peak = max(peak, now)
        return self._staged.weights_bytes + peak

    def _features(self, shape: Shape) -> dict[str, Any]:
        ids = torch.randint(5, 100, (shape.rows, shape.length))
        if self._staged.is_static:
            return {"input_ids": ids.flatten(), "offsets": torch.arange(shape.rows) * shape.length}
        mask = torch.ones_like(ids)
        if shape.masked:
            mask[0, 0] = 0
        found = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        return {name: found[name] for name in self._encoder.input_names}


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    set_flags: Callable[..., tuple[bool, ...]] = mkldnn.set_flags
    threads, (one_dnn, *_) = torch.get_num_threads(), set_flags(_enabled=False)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        set_flags(_enabled=one_dnn)


def makers() -> dict[str, Any]:
    """A function for each kind of model that writes one of a given size into a folder."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    tiny_models: Any = importlib.import_module("support.tiny_models")

    def sized(make: Any) -> Any:
        return lambda folder, hidden: make(
            folder, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=3, num_attention_heads=4
        )

    def static(folder: Path, hidden: int) -> Path:
        made: Path = tiny_models.make_static(folder, dim=hidden)
        return made

    kinds = ("bert", "xlm_roberta", "mpnet", "qwen2", "qwen3")
    return {**{kind: sized(getattr(tiny_models, f"make_{kind}")) for kind in kinds}, "static": static}


def _rows(hidden_sizes: tuple[int, ...]) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as root:
        for (kind, make), hidden, dtype in product(makers().items(), hidden_sizes, DTYPES):
            comparison = Comparison(make(Path(root) / f"{kind}-{hidden}", hidden), dtype)
            cells = []
            for card in TABLE_CARDS:
                ratios = [comparison.predicted(shape, card) / comparison.simulated(shape, card) for shape in SHAPES]
                cells.append(f"{min(ratios):.4f} to {max(ratios):.4f}")
            ratios = [comparison.simulated(shape, ROOMY) / comparison.recorded(shape) for shape in SHAPES]
            cells.append(f"{min(ratios):.4f} to {max(ratios):.4f}")
            row = f"| {kind} | {hidden} | {dtype} | " + " | ".join(cells) + " |"
            print(row, flush=True)
            yield row


def main() -> None:
    """Compare everything, and put the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 384])
    parser.add_argument("--page", type=Path, default=Path("docs/memory.md"))
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    head = [
        f"torch {torch.__version__}, {len(SHAPES)} shapes a row; the least and the largest ratio:", "",
        "| kind | hidden | dtype | predicted / simulated, bare | ... T4 | ... L4 | simulated / CPU allocator |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    table = "\n".join([*head, *_rows(tuple(arguments.hidden))])
    page = arguments.page.read_text(encoding="utf-8")
    marked = re.sub(r"(<!-- table -->\n).*(<!-- end -->)", lambda m: f"{m[1]}{table}\n{m[2]}", page, flags=re.DOTALL)
    arguments.page.write_text(marked, encoding="utf-8")


if __name__ == "__main__":
    main()
