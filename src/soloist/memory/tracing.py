"""The storages of a forward pass, traced without a device, weights or arithmetic. Knows torch.

A pipeline runs on fake tensors, and every birth and death of a storage is noted. The fake device is the CPU, because a
fake CUDA device fails in the CPU build. Bytes do not depend on the device but for attention, which runs the kernel of
the card in question.

A trace runs without gradients, but not in inference mode. In that mode an operator that is made of others arrives
whole, and the trace does not see its temporary storages: `matmul` copies permuted heads, and `layer_norm` makes two
statistics.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils

from soloist.memory.allocator import Allocator, Block
from soloist.memory.attention_masks import padding_known
from soloist.memory.cards import Card
from soloist.memory.kernels import (
    MATRIX_PRODUCTS,
    AttentionCall,
    CardAttention,
    ExpandGroupedHeads,
    choose_kernel,
    run_kernel,
)

# `_unmasked` replaces functions for the whole process: one trace at a time.
_tracing = threading.Lock()

Features = dict[str, torch.Tensor]
Forward = Callable[[Features], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageEvent:
    """The birth of a storage of `size_bytes`, or its death, where that is None."""

    key: int
    size_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The storages of one forward pass, in order.

    `workspace_at` is the event before which the matrix library is first called, and so takes its workspace.
    """

    events: tuple[StorageEvent, ...]
    workspace_at: int | None = None

    @property
    def peak_bytes(self) -> int:
        """The largest sum of live storages, each rounded up to 512 bytes."""
        live = peak = 0
        sizes: dict[int, int] = {}
        for event in self.events:
            if event.size_bytes is None:
                live -= sizes.pop(event.key)
            else:
                sizes[event.key] = -(-event.size_bytes // 512) * 512
                live += sizes[event.key]
                peak = max(peak, live)
        return peak

    @property
    def most_storages(self) -> int:
        """The largest number of storages that live at once."""
        changes = (-1 if event.size_bytes is None else 1 for event in self.events)
        return max(itertools.accumulate(changes, initial=0))

    def replay(self, allocator: Allocator, workspace_bytes: int = 0, *, scale: tuple[int, int] = (1, 1)) -> bool:
        """Make the same requests of an allocator; False where it had no room for one of them.

        Only the workspace stays allocated, where this pass is the first to make one. With a `scale` of (wanted, rows)
        this trace of `rows` rows stands for a batch of `wanted` rows: storages grow with the rows. The few that do not,
        such as a row of positions, are then counted too large.
        """
        wanted, rows = scale
        blocks: dict[int, Block] = {}
        try:
            for index, event in enumerate(self.events):
                if index == self.workspace_at and workspace_bytes and allocator.allocate(workspace_bytes) is None:
                    return False
                if event.size_bytes is None:
                    allocator.free(blocks.pop(event.key))
                    continue
                block = allocator.allocate(-(-event.size_bytes * wanted // rows))
                if block is None:
                    return False
                blocks[event.key] = block
            return True
        finally:
            for block in blocks.values():
                allocator.free(block)


class StorageRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the storages that operators return, from their birth to their death. Known storages are left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[StorageEvent] = []
        self._known: dict[int, int] = {}
        self._count = 0
        self._workspace_at: int | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in MATRIX_PRODUCTS and self._workspace_at is None:
            self._workspace_at = len(self.events)
        result = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.see(leaf)
        return result

    def ignore(self, tensor: torch.Tensor) -> None:
        """Treat a storage as one that was there before."""
        self._known[tensor.untyped_storage()._cdata] = -1

    def see(self, tensor: torch.Tensor) -> None:
        """Note the storage of a tensor, unless it is known."""
        storage = tensor.untyped_storage()
        if storage._cdata in self._known or not storage.nbytes():
            return
        self._count += 1
        self._known[storage._cdata] = self._count
        self.events.append(StorageEvent(key=self._count, size_bytes=storage.nbytes()))
        weakref.finalize(storage, self._leave, storage._cdata).atexit = False

    def trace(self) -> Trace:
        """The storages that were noted so far."""
        return Trace(events=tuple(self.events), workspace_at=self._workspace_at)

    def _leave(self, address: int) -> None:
        self.events.append(StorageEvent(key=self._known.pop(address), size_bytes=None))


class _AnsweringAttention(CardAttention):
    """Answers a network's questions about the values of its mask too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__bool__:
            return True  # asked only within `_unmasked`: every token is real
        return super().__torch_function__(func, types, args, kwargs)


def _mask_modules() -> list[Any]:
    """The modules of transformers that make masks. The older one is gone since 5.24."""
    older = "transformers.modeling_attn_mask_utils"
    return [masking_utils, *([importlib.import_module(older)] if importlib.util.find_spec(older) else [])]


@contextlib.contextmanager
def _unmasked() -> Iterator[None]:
    """Let transformers ask a fake mask whether it is all ones.

    transformers keeps the mask of a fake tensor without looking, because its values do not exist. On a device it looks,
    and drops a mask of ones, which changes the attention kernel. A real tensor is never treated as a fake one, so a
    model that computes in another thread meanwhile is not disturbed.
    """
    modules = [module for module in _mask_modules() if hasattr(module, "is_tracing")]
    before = [module.is_tracing for module in modules]
    for module in modules:
        module.is_tracing = lambda tensor=None: False
    try:
        yield
    finally:
        for module, function in zip(modules, before, strict=True):
            module.is_tracing = function


def fake_module(module: torch.nn.Module, mode: FakeTensorMode) -> list[torch.Tensor]:
    """Replace a meta module's parameters and buffers by fake CPU tensors, and return them, each once.

    They are in the order of `parameters()` and then `buffers()`, in which a replica is copied to its device.
    """
    made: dict[int, torch.Tensor] = {}
    for part in module.modules():
        for slots in (part._parameters, part._buffers):
            for name, tensor in slots.items():
                if tensor is not None:
                    if id(tensor) not in made:
                        fake = FakeTensor(mode, tensor.detach().to("meta"), torch.device("cpu"))
                        made[id(tensor)] = torch.nn.Parameter(fake, False) if slots is part._parameters else fake
                    slots[name] = made[id(tensor)]  # type: ignore[assignment]
    return [*module.parameters(), *module.buffers()]


def trace_forward(
    forward: Forward,
    weights: Sequence[torch.Tensor],
    inputs: Mapping[str, torch.Size],
    card: Card,
    mode: FakeTensorMode,
    *,
    masked: bool,
) -> Trace:
    """The storages of a pass from host features to host vectors, as in `encoding.forward.forward`.

    `inputs` are the shapes of the integer tensors that are moved to the device. `masked` says that a row is padded.
    """
    recorder = StorageRecorder()
    for weight in weights:
        recorder.ignore(weight)
    reading = contextlib.nullcontext() if masked else _unmasked()
    known = padding_known(masked, inputs.get("attention_mask"))
    with _tracing, mode, recorder, torch.no_grad(), reading, known, _attention(card):
        features = {name: torch.zeros(shape, dtype=torch.int64) for name, shape in inputs.items()}
        vectors = forward(features).float()
        recorder.see(vectors)
        del features, vectors
    return recorder.trace()


def trace_attention(card: Card, call: AttentionCall) -> Trace:
    """The storages of an attention call on fake tensors. The first that outlives the call is the result."""
    mode = FakeTensorMode(allow_non_fake_inputs=False)
    with mode, torch.no_grad():
        fakes = AttentionCall(
            query=_fake_like(call.query),
            key=_fake_like(call.key),
            value=_fake_like(call.value),
            mask=_fake_like(call.mask) if call.mask is not None else None,
            is_causal=call.is_causal,
            scale=call.scale,
            grouped=call.grouped,
        )
    recorder = StorageRecorder()
    for tensor in (fakes.query, fakes.key, fakes.value, fakes.mask):
        if tensor is not None:
            recorder.ignore(tensor)
    with mode, recorder, torch.no_grad():
        run_kernel(choose_kernel(card, call), fakes, card)
    return recorder.trace()


def _fake_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)


@contextlib.contextmanager
def _attention(card: Card) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(_AnsweringAttention(card))
        stack.enter_context(ExpandGroupedHeads(card))
        yield
