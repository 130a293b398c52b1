"""A simulated accelerator: computes on the CPU, accounts like a device.

Registers torch's PrivateUse1 backend under the name `sim`, so that `module.to("sim:1")`,
`torch.zeros(2, device="sim:0")` and the error for tensors on two devices behave as on CUDA. A tensor on
`sim:i` wraps a CPU tensor, whose storage has a block of device i's allocator until the storage dies: a reference that
somebody forgot is memory that did not come back.

Counted: every storage that an operator returns, the temporaries of the attention kernel that the card would run, the
matrix library's workspace, the process's context, and what other processes hold. Not counted: scratch memory inside
other kernels. An operator's result is computed before its size is known, so `torch.OutOfMemoryError` is raised
after the work was done, and nothing of it is kept.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.library import Library
from torch.utils import backend_registration

from soloist.devices.simulated_driver import DriverMemory
from soloist.memory.allocator import Allocator, Block, CachingAllocator, IdealAllocator
from soloist.memory.cards import Card, bare_card
from soloist.memory.kernels import MATRIX_PRODUCTS, AttentionCall, choose_kernel
from soloist.memory.tracing import Trace, trace_attention

BACKEND = "sim"


class DeviceLedger:
    """The memory of one simulated device, in bytes. Safe to use from any thread."""

    def __init__(self, index: int, card: Card, folder: Path | None = None) -> None:
        self.index = index
        self.card = card
        self.folder = folder
        self._driver = DriverMemory(f"simulated-{index}", card.total_bytes, folder)
        kind = CachingAllocator if card.caches else IdealAllocator
        self._allocator: Allocator = kind(self._driver.take, self._driver.give_back)
        self._blocks: dict[int, Block] = {}
        self._workspace: Block | None = None
        self._has_context = False
        # A storage may die whenever Python collects garbage, also in the midst of an allocation, of this device or of
        # another. So its death is only noted, and settled when the lock is next taken.
        self._dead: collections.deque[int] = collections.deque()
        self._lock = threading.Lock()

    @property
    def allocated_bytes(self) -> int:
        """What blocks hold now."""
        with self._settled():
            return self._allocator.allocated

    @property
    def reserved_bytes(self) -> int:
        """What the allocator has taken from the driver."""
        with self._settled():
            return self._allocator.reserved

    @property
    def peak_bytes(self) -> int:
        """The highest `allocated_bytes` since the last reset."""
        return self._allocator.peak_allocated

    @property
    def peak_reserved_bytes(self) -> int:
        """The highest `reserved_bytes` since the last reset."""
        return self._allocator.peak_reserved

    def free_bytes(self) -> int:
        """What the driver has left; asking makes the context, as with CUDA."""
        with self._settled():
            self._require_context()
            return self._driver.free_bytes()

    def driver_free_bytes(self) -> int:
        """What the driver has left; asking costs nothing."""
        return self._driver.free_bytes()

    def enter(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it dies.

        Raises:
            torch.OutOfMemoryError: the device has no room for it.
        """
        key = storage._cdata
        with self._settled():
            if key in self._blocks:
                return
            # First, so that whatever interrupts this leaves no block that nobody frees.
            weakref.finalize(storage, self._dead.append, key).atexit = False
            self._blocks[key] = self._allocate(storage.nbytes())

    def allocate(self, size: int) -> Block:
        """A block of at least `size` bytes, which somebody has to free.

        Raises:
            torch.OutOfMemoryError: the device has no room for it.
        """
        with self._settled():
            return self._allocate(size)

    def free(self, block: Block) -> None:
        """Give a block back to the allocator."""
        with self._settled():
            self._allocator.free(block)

    def require_workspace(self) -> None:
        """Make the matrix library's workspace, unless it is there."""
        if self._workspace is None and self.card.workspace_bytes:
            with self._settled():
                self._workspace = self._allocate(self.card.workspace_bytes)

    def clear_workspace(self) -> None:
        """Let go of the matrix library's workspace."""
        with self._settled():
            if self._workspace is not None:
                self._allocator.free(self._workspace)
                self._workspace = None

    def empty_cache(self) -> None:
        """Give back to the driver every segment in which no block is held."""
        with self._settled():
            self._allocator.empty_cache()

    def reset_peak(self) -> None:
        """Let the peaks start again from what is held now."""
        with self._settled():
            self._allocator.reset_peak()

    def resize(self, card: Card) -> None:
        """Give a device that is in use another amount of memory; its kind stays."""
        with self._settled():
            self.card = self.card.with_memory(card.total_bytes)
            self._driver.total_bytes = card.total_bytes

    def close(self) -> None:
        """Give everything back to the driver, the context too."""
        self.clear_workspace()
        self.empty_cache()
        with self._settled():
            if self._has_context:
                self._driver.give_back(self.card.context_bytes)
                self._has_context = False

    @contextlib.contextmanager
    def _settled(self) -> Iterator[None]:
        with self._lock:
            while self._dead:
                block = self._blocks.pop(self._dead.popleft(), None)
                if block is not None:
                    self._allocator.free(block)
            yield

    def _allocate(self, size: int) -> Block:
        self._require_context()
        block = self._allocator.allocate(size)
        if block is None:
            raise torch.OutOfMemoryError(self._complaint(self._allocator.rules.rounded(size)))
        return block

    def _require_context(self) -> None:
        if self._has_context or not self.card.context_bytes:
            return
        if not self._driver.take(self.card.context_bytes):
            raise torch.OutOfMemoryError(self._complaint(self.card.context_bytes))
        self._has_context = True

    def _complaint(self, size: int) -> str:
        return (
            f"sim:{self.index} out of memory. Tried to allocate {size} bytes; {self._driver.free_bytes()} of "
            f"{self.card.total_bytes} bytes are free, {self._allocator.allocated} are allocated and "
            f"{self._allocator.reserved} reserved by this process."
        )


class SimulatedTensor(torch.Tensor):
    """A tensor that says it is on `sim:i` and holds its values in a CPU tensor, `host_tensor`."""

    host_tensor: torch.Tensor
    device_index: int

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device_index: int) -> SimulatedTensor:
        """Wrap a CPU tensor, and enter its storage in the device's ledger."""
        ledger(device_index).enter(inner.untyped_storage())
        outer: SimulatedTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(BACKEND, device_index),
            requires_grad=False,
        )
        outer.host_tensor, outer.device_index = inner, device_index
        return outer

    def __repr__(self) -> str:  # type: ignore[override]
        """The values, and the device that they are accounted to."""
        return f"SimulatedTensor({self.host_tensor!r}, device='{BACKEND}:{self.device_index}')"

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            # Left alone, torch decomposes it into the math kernel on PrivateUse1: other bits than the CPU's,
            # and other memory than that of the kernel that the card would choose.
            return _attend(tuple(args), kwargs or {})
        if func is torch.Tensor.tolist:
            return args[0].host_tensor.tolist()
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, tuple(args), kwargs or {})


def configure(cards: Sequence[Card], folder: Path | None = None) -> None:
    """Make `sim:0` to `sim:n-1` be these cards, seen by all processes that name the same folder.

    A device that is the same card in the same folder stays as it is, its context included. What is alive on one that is
    another keeps it: then only its memory changes.

    Raises:
        AcceleratorError: the folder cannot be used.
    """
    _register_backend()
    with _ledgers_lock:
        for index, card in enumerate(cards):
            known = _ledgers.get(index)
            if known is not None and (known.card, known.folder) == (card, folder):
                continue
            if known is not None:
                known.clear_workspace()  # no tensor of anybody, and another card has another one
                if known.allocated_bytes:
                    known.resize(card)
                    continue
                known.close()
            _ledgers[index] = DeviceLedger(index, card, folder)
    _Backend.count = max(_Backend.count, len(cards))


def ledger(index: int) -> DeviceLedger:
    """The ledger of `sim:index`; a device that nobody configured has no memory."""
    with _ledgers_lock:
        return _ledgers.setdefault(index, DeviceLedger(index, bare_card(0)))


# torch composes these of an empty tensor and an out= variant that resizes it, which a wrapper cannot follow.
_RESIZING_FACTORIES = (
    "arange", "arange.start", "arange.start_step", "eye", "eye.m", "linspace", "logspace", "randperm",
    "tril_indices", "triu_indices",
)  # fmt: skip
_attention_traces: dict[tuple[Any, ...], Trace] = {}
_ledgers: dict[int, DeviceLedger] = {}
_ledgers_lock = threading.Lock()
_registered: list[Library] = []


class _Backend(backend_registration._DummyBackendModule):
    """What torch asks of a device module."""

    count = 0
    _current = threading.local()

    def device_count(self) -> int:
        return self.count

    def current_device(self) -> int:
        return int(getattr(self._current, "index", 0))


def _register_backend() -> None:
    # torch allows one PrivateUse1 backend per process, registered once.
    with _ledgers_lock:
        if _registered:
            return
        backend_registration._setup_privateuseone_for_python_backend(BACKEND, backend_module=_Backend())
        # torch forgets what a library registered when the library dies, so they are kept.
        anything = Library("_", "IMPL")  # type: ignore[no-untyped-call]
        anything.fallback(_run_fallback, "PrivateUse1")  # type: ignore[no-untyped-call]
        aten = Library("aten", "IMPL")  # type: ignore[no-untyped-call]
        for name in _RESIZING_FACTORIES:
            base, _, overload = name.partition(".")
            op = getattr(getattr(torch.ops.aten, base), overload or "default")
            aten.impl(name, _run_as(op), "PrivateUse1")  # type: ignore[no-untyped-call]
        _registered.extend((anything, aten))


def _run_as(op: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: _run(op, args, kwargs)


def _run_fallback(op: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return _run(op, args, kwargs)


def _run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one operator on the inner CPU tensors and account its results."""
    if func is torch.ops.aten._has_compatible_shallow_copy_type.default:
        return False  # `module.to` asks whether data can be swapped under a parameter: never between devices
    leaves = list(_leaves((args, tuple(kwargs.values()))))
    target = _target_device(func, leaves)
    outers: dict[int, SimulatedTensor] = {}
    inner_args = tuple(_each_leaf(value, lambda leaf: _unwrap(leaf, outers)) for value in args)
    inner_kwargs = {name: _each_leaf(value, lambda leaf: _unwrap(leaf, outers)) for name, value in kwargs.items()}
    if target is not None and func in MATRIX_PRODUCTS:
        ledger(target).require_workspace()
    # The caller may be in inference mode, where torch refuses views of ordinary tensors that are inference
    # tensors; so all that is wrapped, and every wrapper, is an ordinary tensor.
    with torch.inference_mode(False), torch.no_grad():
        result = func(*inner_args, **inner_kwargs)
        if target is None:
            return result
        return _each_leaf(result, lambda leaf: _wrap(leaf, target, outers))


def _leaves(value: Any) -> Iterator[Any]:
    """What an operator's arguments hold: torch nests them in lists and tuples alone."""
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _each_leaf(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same nest of lists and tuples, its leaves changed; torch's own pytree takes as long as a small product."""
    if isinstance(value, (list, tuple)):
        return type(value)([_each_leaf(each, change) for each in value])
    return change(value)


def _attend(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """Attention with the CPU's bits and the memory of the kernel that the card would run."""
    call = AttentionCall.of(args, kwargs)
    tensors = [tensor for tensor in (call.query, call.key, call.value, call.mask) if tensor is not None]
    target = _target_device(torch.nn.functional.scaled_dot_product_attention, tensors)
    assert target is not None
    book = ledger(target)
    inner = [tensor.host_tensor if isinstance(tensor, SimulatedTensor) else tensor for tensor in tensors]
    with torch.inference_mode(False), torch.no_grad():
        result = torch.nn.functional.scaled_dot_product_attention(
            inner[0], inner[1], inner[2], attn_mask=inner[3] if call.mask is not None else None,
            is_causal=call.is_causal, scale=call.scale, enable_gqa=call.grouped,
        )  # fmt: skip
        if choose_kernel(book.card, call) == "math":
            book.require_workspace()
        return _account(book, _attention_trace(book.card, call), result)


def _account(book: DeviceLedger, trace: Trace, result: torch.Tensor) -> torch.Tensor:
    """Wrap the result of a kernel, with the kernel's temporaries held and freed around it as the trace says."""
    outlives = trace.events[-1].key
    blocks: dict[int, Block] = {}
    wrapped: torch.Tensor | None = None
    try:
        for event in trace.events:
            if event.key == outlives:
                wrapped = SimulatedTensor(result, book.index) if wrapped is None else wrapped
            elif event.size_bytes is None:
                book.free(blocks.pop(event.key))
            else:
                blocks[event.key] = book.allocate(event.size_bytes)
    finally:
        for block in blocks.values():
            book.free(block)
    assert wrapped is not None
    return wrapped


def _attention_trace(card: Card, call: AttentionCall) -> Trace:
    key = (
        card.capability, card.multiprocessors, call.is_causal, call.grouped, call.scale,
        *((t.shape, t.stride(), t.dtype) if t is not None else None
          for t in (call.query, call.key, call.value, call.mask)),
    )  # fmt: skip
    known = _attention_traces.get(key)
    if known is None:
        known = _attention_traces[key] = trace_attention(card, call)
    return known


def _target_device(func: Callable[..., Any], leaves: Sequence[Any]) -> int | None:
    """The index of the device that the results live on; None for the CPU."""
    asked = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    if asked:
        return _index_of(asked[0]) if asked[0].type == BACKEND else None
    if _is_copy(func):  # copy_(destination, source) is how a device takes and gives data
        destination = leaves[0]
        return destination.device_index if isinstance(destination, SimulatedTensor) else None
    indices = {leaf.device_index for leaf in leaves if isinstance(leaf, SimulatedTensor)}
    hosts = [leaf for leaf in leaves if _is_host_tensor(leaf)]
    if len(indices) > 1 or (indices and hosts):
        names = sorted(f"{BACKEND}:{index}" for index in indices) + (["cpu"] if hosts else [])
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {', '.join(names)}: {func}")
    return indices.pop() if indices else None


def _is_copy(func: Callable[..., Any]) -> bool:
    return func in (torch.ops.aten.copy_.default, torch.ops.aten._copy_from.default)


def _is_host_tensor(leaf: Any) -> bool:
    # torch lets a zero-dimensional CPU tensor take part in work on any device.
    return isinstance(leaf, torch.Tensor) and not isinstance(leaf, SimulatedTensor) and leaf.dim() > 0


def _index_of(device: torch.device) -> int:
    return device.index if device.index is not None else 0


def _unwrap(leaf: Any, outers: dict[int, SimulatedTensor]) -> Any:
    if isinstance(leaf, SimulatedTensor):
        outers[id(leaf.host_tensor)] = leaf
        return leaf.host_tensor
    if isinstance(leaf, torch.device) and leaf.type == BACKEND:
        return torch.device("cpu")
    return leaf


def _wrap(tensor: Any, index: int, outers: dict[int, SimulatedTensor]) -> Any:
    if not isinstance(tensor, torch.Tensor):
        return tensor
    # An operator that works in place returns its argument, and must go on doing so.
    known = outers.get(id(tensor))
    if known is None:
        return SimulatedTensor(tensor, index)
    if known.shape != tensor.shape:
        raise NotImplementedError(f"a tensor on {BACKEND}:{index} cannot be resized in place (out= or resize_)")
    return known
