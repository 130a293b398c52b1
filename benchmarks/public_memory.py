"""Compares our recorder, kernels and allocator with figures that others measured on GPUs and published.

    python -m benchmarks.public_memory        # writes the table of docs/memory.md

The facts are in `tests/data/public_memory.json`: networks, cards, versions and figures. A network is built from its
class and its configuration, without weights. No constant is chosen to meet a record.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.utils import logging as transformers_logging

from soloist.memory.allocator import Allocator, Block
from soloist.memory.cards import Card, cuda_card
from soloist.memory.kernels import CardAttention
from soloist.memory.network import TORCH_DTYPES
from soloist.memory.prediction import new_allocator
from soloist.memory.tracing import Features, Trace, fake_module, trace_forward
from soloist.types import DType

Facts = Mapping[str, Any]
FACTS_FILE = Path(__file__).resolve().parents[1] / "tests" / "data" / "public_memory.json"
FACTS: Facts = json.loads(FACTS_FILE.read_text(encoding="utf-8"))
UNITS: Mapping[str, int] = {"B": 1, "MB": 10**6, "GiB": 2**30}
# As in predictions: a layer's activations die with it, unless the network keeps keys and values.
_TRACED_LAYERS = 2
_LAYER_FIELDS = ("num_hidden_layers", "n_layer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One published figure and ours, in bytes. `what` says what the figure counts, and for which batch."""

    what: str
    measured: float
    ours: float

    @property
    def ratio(self) -> float:
        """Ours as a share of what was measured."""
        return self.ours / self.measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """How a network was run.

    - `mask` says what stood for padding. `float32` is a number for each token. `row` and `square` are numbers that are
      added to the scores, one row or all rows for each text, as older versions of transformers make them.
    - `positions` says that positions were looked up for each text, and not once for all texts.
    - `keeps_cache` says that the network returned keys and values.
    - `earlier_outputs` is the number of earlier passes whose outputs were still held.
    - `cublaslt_bytes` is what that version of torch takes around a product with a bias.
    """

    rows: int
    length: int
    mask: str | None = None
    positions: bool = False
    keeps_cache: bool = False
    earlier_outputs: int = 0
    cublaslt_bytes: int = 0


class PublicNetwork:
    """A network of the facts as it was run on a card. Its weights have sizes and no values.

    Where `whole` is False, passes are traced on two layers.
    """

    def __init__(
        self, name: str, card: Card, *, dtype: DType = "float32", attention: str | None = None, whole: bool = True
    ) -> None:
        self.card = card
        self.weights = loaded_sizes(name, dtype=dtype)
        self._dtype: torch.dtype = TORCH_DTYPES[dtype]
        self._module = _built(name, self._dtype, attention=attention, layers=None if whole else _TRACED_LAYERS)
        self._mode = FakeTensorMode()
        self._tensors = fake_module(self._module, self._mode)

    def loaded(self, limit_bytes: int | None = None) -> Allocator:
        """The card's allocator with all weights in it. It takes no more than `limit_bytes` from the driver."""
        allocator = new_allocator(self.card, limit_bytes)
        for size in self.weights:
            allocator.allocate(size)
        return allocator

    def trace(self, run: Pass) -> Trace:
        """The storages of one pass. Those of its outputs never die."""
        outputs: list[Any] = []

        def forward(features: Features) -> torch.Tensor:
            # As transformers calls it: soloist repeats grouped heads first where that helps.
            with CardAttention(self.card), _older_cublaslt(run.cublaslt_bytes):
                outputs.append(self._module(**features, **self._arguments(run)))
            return torch.empty(0)

        shapes = {"input_ids": torch.Size((run.rows, run.length))}
        return trace_forward(forward, self._tensors, shapes, self.card, self._mode, masked=run.mask is not None)

    def peak_bytes(self, trace: Trace, earlier_outputs: int = 0, *, scale: tuple[int, int] = (1, 1)) -> int:
        """`max_memory_allocated` of the last of several passes."""
        allocator = self.loaded()
        for size in earlier_outputs * _outputs(trace):
            allocator.allocate(size)
        trace.replay(allocator, self.card.workspace_bytes, scale=scale)
        return allocator.peak_allocated

    def _arguments(self, run: Pass) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        if hasattr(self._module.config, "use_cache"):
            arguments["use_cache"] = run.keeps_cache
        if run.mask is not None:
            arguments["attention_mask"] = _mask(run, self._dtype)
        if run.positions:
            arguments["position_ids"] = torch.ones(run.rows, run.length, dtype=torch.int64)
        return arguments


def peaks(record: Facts) -> list[Figure]:
    """The peaks of batches of several shapes: `max_memory_allocated`."""
    options, unit = record["run"], UNITS[record["unit"]]
    network = PublicNetwork(
        record["network"],
        card_of(record),
        dtype=record["dtype"],
        attention=record["attention"],
        whole=options.get("keeps_cache", False),
    )
    traced_rows, known = record.get("traced_rows"), {}
    figures = []
    for rows, length, measured in record["measured"]:
        traced = traced_rows or rows
        if (traced, length) not in known:
            known[traced, length] = network.trace(Pass(rows=traced, length=length, **options))
        trace, earlier = known[traced, length], options.get("earlier_outputs", 0)
        ours = network.peak_bytes(trace, earlier, scale=(rows, traced))
        figures.append(Figure(what=f"{rows} x {length}", measured=measured * unit, ours=ours))
    return figures


def loads(record: Facts) -> list[Figure]:
    """What a load allocates and reserves, and a pass after it where there is one."""
    allocator = new_allocator(_ANY_CARD, None)
    sizes = [*loaded_sizes(record["network"], untied="untied" in record), *record.get("more", ())]
    for size in record.get("less", ()):
        del sizes[len(sizes) - 1 - sizes[::-1].index(size)]
    blocks = [allocator.allocate(size) for size in sizes]
    figures = _counted("load", record, allocator)
    for size in record.get("untied", ()):  # the head's own table is freed, and the cache keeps its bytes
        last = blocks[len(sizes) - 1 - sizes[::-1].index(size)]
        assert last is not None
        allocator.free(last)
    return figures + (_first_pass(record, allocator) if "forward" in record else [])


def refused(record: Facts) -> list[Figure]:
    """The request for which a card had no room, and what was allocated and reserved then. torch's error says both."""
    network = PublicNetwork(record["network"], card_of(record), attention=record["attention"], whole=False)
    allocator = network.loaded(int(record["room_gib"] * 2**30))
    asked, allocated = first_refused(network.trace(Pass(**record["run"])), allocator, network.card.workspace_bytes)
    # Beside what the allocator reserves, a process has its context: 0.2 to 0.4 GiB, which no record gives separately.
    ours = {"asked": asked, "allocated": allocated, "reserved": allocator.reserved, "in use": allocator.reserved}
    batch = f"{record['run']['rows']} x {record['run']['length']:,}"
    return [
        Figure(what=f"{batch}: {name}", measured=record[name] * 2**30, ours=figure)
        for name, figure in ours.items()
        if name in record
    ]


KINDS = {"peaks": peaks, "loads": loads, "refused": refused}


def loaded_sizes(name: str, *, dtype: DType = "float32", untied: bool = False) -> list[int]:
    """The tensors that a load makes on the device, in order, in bytes. With `untied` a head has its own table."""
    module = _built(name, TORCH_DTYPES[dtype], untied=untied)
    tensors = (*module.parameters(), *module.buffers())
    return [tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors}.values()]


def first_refused(trace: Trace, allocator: Allocator, workspace_bytes: int) -> tuple[int, int]:
    """The request that the allocator has no room for, and what is allocated then, in bytes."""
    blocks: dict[int, Block] = {}
    for index, event in enumerate(trace.events):
        if index == trace.workspace_at:
            allocator.allocate(workspace_bytes)
        if event.size_bytes is None:
            allocator.free(blocks.pop(event.key))
            continue
        block = allocator.allocate(event.size_bytes)
        if block is None:
            return event.size_bytes, allocator.allocated
        blocks[event.key] = block
    raise ValueError("every request has room")


def card_of(record: Facts) -> Card:
    """The card of a record. How much memory it has does not matter here."""
    card = record["card"]
    return cuda_card(card["name"], 2**40, tuple(card["capability"]), card["multiprocessors"])


class _OlderCublasLt(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Takes a workspace around each product with a bias, as older versions of torch do."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._size_bytes = size_bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.addmm.default and args[0].dim() == 1:
            torch.empty(self._size_bytes, dtype=torch.uint8)
        return result


_ANY_CARD = cuda_card("any", 2**40, (8, 0), 0)


def _older_cublaslt(size_bytes: int) -> contextlib.AbstractContextManager[Any]:
    return _OlderCublasLt(size_bytes) if size_bytes else contextlib.nullcontext()


def _first_pass(record: Facts, allocator: Allocator) -> list[Figure]:
    facts = record["forward"]
    network = PublicNetwork(record["network"], card_of(record))
    run = Pass(rows=facts["rows"], length=facts["length"], cublaslt_bytes=facts["cublaslt_bytes"])
    allocator.reset_peak()
    network.trace(run).replay(allocator, network.card.workspace_bytes)
    return _counted(f"first pass, {run.rows} x {run.length}", facts, allocator)


def _counted(what: str, facts: Facts, allocator: Allocator) -> list[Figure]:
    ours = {"allocated": allocator.peak_allocated, "reserved": allocator.peak_reserved}
    return [
        Figure(what=f"{what}: {name}", measured=facts[name], ours=figure)
        for name, figure in ours.items()
        if name in facts
    ]


def _outputs(trace: Trace) -> list[int]:
    born = {event.key: event.size_bytes for event in trace.events if event.size_bytes is not None}
    dead = {event.key for event in trace.events if event.size_bytes is None}
    return [size for key, size in born.items() if key not in dead]


def _mask(run: Pass, dtype: torch.dtype) -> torch.Tensor:
    if run.mask == "float32":
        return torch.ones(run.rows, run.length, dtype=torch.float32)
    queries = run.length if run.mask == "square" else 1
    return torch.ones(run.rows, 1, queries, run.length, dtype=dtype)


def _built(
    name: str, dtype: torch.dtype, *, attention: str | None = None, layers: int | None = None, untied: bool = False
) -> Any:
    facts = FACTS["networks"][name]
    fields = dict(facts["config"])
    if layers is not None:
        fields |= {field: layers for field in _LAYER_FIELDS if field in fields}
    if untied:
        fields["tie_word_embeddings"] = False
    config = transformers.AutoConfig.for_model(**fields)
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with torch.device("meta"):
            made = getattr(transformers, facts["class"])._from_config(
                config, dtype=dtype, attn_implementation=attention
            )
    finally:
        transformers_logging.set_verbosity(level)
    return made.eval().requires_grad_(False)


def _rows() -> Iterator[str]:
    for kind, compare in KINDS.items():
        for record in FACTS[kind]:
            yield _row(record, compare(record))


def _row(record: Facts, figures: Sequence[Figure]) -> str:
    ratios = [figure.ratio for figure in figures]
    how = ", ".join(part for part in (record.get("dtype", "float32"), record.get("attention")) if part)
    what = "; ".join(figure.what for figure in figures)
    if "measured" in record:
        what = f"peaks of {len(figures)} batches, {figures[0].what} to {figures[-1].what}"
    spread = f"{min(ratios):.4f}" if len(ratios) == 1 else f"{min(ratios):.4f} to {max(ratios):.4f}"
    where = f"{record['card']['name']}, {record['software']}"
    row = f"| [{record['network']}]({record['source']}) | {how} | {where} | {what} | {spread} |"
    print(row, flush=True)
    return row


def main() -> None:
    """Compare everything, and put the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, default=Path("docs/memory.md"))
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    head = ["| network | as | card, software | figures | ours / measured |", "|---|---|---|---|---|"]
    table = "\n".join([*head, *_rows()])
    page = arguments.page.read_text(encoding="utf-8")
    marks = r"(<!-- public -->\n).*(<!-- public end -->)"
    marked = re.sub(marks, lambda m: f"{m[1]}{table}\n{m[2]}", page, flags=re.DOTALL)
    arguments.page.write_text(marked, encoding="utf-8")


if __name__ == "__main__":
    main()
