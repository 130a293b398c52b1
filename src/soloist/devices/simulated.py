"""Simulated devices: they compute on the CPU, and account for memory like a card.

This registers torch's PrivateUse1 backend under the name `sim`, so that `module.to("sim:1")`,
`torch.zeros(2, device="sim:0")` and the error for tensors on two devices behave as on CUDA. A tensor on `sim:i` wraps a
CPU tensor. Its storage holds a block of device i's allocator until the storage dies, so a forgotten reference is memory
that did not come back.

Counted are:

- every storage that an operator returns,
- the temporaries of the attention kernel that the card would run,
- the workspaces of the matrix library, one for each thread, and the context of the process,
- the memory of other processes.

The ledger also counts how often the host would wait for a card (`simulated_waits`).

Scratch memory inside other kernels is not counted. An operator computes its result before the size is known. So
`torch.OutOfMemoryError` is raised after the work, and nothing of the result is kept.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.library import Library
from torch.utils import backend_registration

from soloist.devices.simulated_ledger import DeviceLedger
from soloist.devices.simulated_waits import may_wait, waits
from soloist.memory.allocator import Block
from soloist.memory.cards import Card, bare_card
from soloist.memory.kernels import COMPOSED, MATRIX_PRODUCTS, AttentionCall, choose_kernel

if TYPE_CHECKING:
    from soloist.memory.tracing import Trace

BACKEND = "sim"


class SimulatedTensor(torch.Tensor):
    """A tensor on `sim:i`, with its values in the CPU tensor `host_tensor`."""

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
            ledger(args[0].device_index).waits["tolist"] += 1
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

    A device that already is that card in that folder stays as it is, its context included. Where another card is in
    use, tensors that are alive keep it, and only its memory changes.

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
                known.clear_workspaces()  # no tensor of the caller is in them, and the new card has other workspaces
                if known.allocated_bytes:
                    known.resize(card)
                    continue
                known.close()
            _ledgers[index] = DeviceLedger(index, card, folder)
    _Backend.count = max(_Backend.count, len(cards))


def ledger(index: int) -> DeviceLedger:
    """The ledger of `sim:index`. A device that nobody configured has no memory."""
    known = _ledgers.get(index)
    if known is not None:  # each operator asks
        return known
    with _ledgers_lock:
        return _ledgers.setdefault(index, DeviceLedger(index, bare_card(0)))


# torch makes an empty tensor for these and lets an out= variant resize it, which a wrapper cannot follow.
_RESIZING_FACTORIES = (
    "arange", "arange.start", "arange.start_step", "eye", "eye.m", "linspace", "logspace", "randperm",
    "tril_indices", "triu_indices",
)  # fmt: skip
_CPU = torch.device("cpu")
# Arguments that hold no tensor and name no device.
_PLAIN = frozenset((bool, float, int, str, torch.dtype, torch.layout, torch.memory_format, type(None)))
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traits:
    """What the simulation has to know of an operator. It is looked up once: an operator takes longest to hash."""

    is_composed: bool
    is_copy: bool
    is_matrix_product: bool
    may_wait: bool


@functools.cache
def _traits(func: Any) -> _Traits:
    return _Traits(
        is_composed=func in COMPOSED,
        is_copy=func in (torch.ops.aten.copy_.default, torch.ops.aten._copy_from.default),
        is_matrix_product=func in MATRIX_PRODUCTS,
        may_wait=may_wait(func),
    )


class _Found:
    """The tensors among an operator's arguments, and the device that is asked for."""

    __slots__ = ("asked", "hosts", "simulated")

    def __init__(self) -> None:
        self.simulated: list[SimulatedTensor] = []
        self.hosts: list[torch.Tensor] = []
        self.asked: torch.device | None = None

    def inner(self, value: Any) -> Any:
        """The argument with CPU tensors in place of simulated ones: torch nests arguments in lists and tuples alone."""
        kind = type(value)
        if kind is SimulatedTensor:
            self.simulated.append(value)
            return value.host_tensor
        if kind in _PLAIN:
            return value
        if isinstance(value, (list, tuple)):
            return kind([self.inner(part) for part in value])
        if isinstance(value, torch.device):
            self.asked = self.asked or value
            return _CPU if value.type == BACKEND else value
        if isinstance(value, torch.Tensor):
            self.hosts.append(value)
        return value

    def device(self, func: Any) -> int | None:
        """The index of the one device that the tensors are on; None for the CPU.

        Raises:
            RuntimeError: they are on several.
        """
        # torch lets a zero-dimensional CPU tensor take part in work on any device.
        if len(self.simulated) == 1 and not self.hosts:
            return self.simulated[0].device_index
        indices = {tensor.device_index for tensor in self.simulated}
        on_host = bool(indices) and any(tensor.dim() > 0 for tensor in self.hosts)
        if len(indices) > 1 or on_host:
            names = sorted(f"{BACKEND}:{index}" for index in indices) + (["cpu"] if on_host else [])
            raise RuntimeError(f"Expected all tensors to be on the same device, but found {', '.join(names)}: {func}")
        return indices.pop() if indices else None


def _run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one operator on the inner CPU tensors and account its results."""
    if func is torch.ops.aten._has_compatible_shallow_copy_type.default:
        return False  # `module.to` asks whether data can be swapped under a parameter: never between devices
    traits = _traits(func)
    if traits.is_composed:
        return func.decompose(*args, **kwargs)  # type: ignore[attr-defined]  # each part comes here by itself
    found = _Found()
    inner_args = [found.inner(value) for value in args]
    inner_kwargs = {name: found.inner(value) for name, value in kwargs.items()}
    target = _target_device(func, args, found, is_copy=traits.is_copy)
    if traits.may_wait:
        _count_wait(func, args, kwargs, found, target)
    if target is not None and traits.is_matrix_product:
        ledger(target).require_workspace()
    # The caller may be in inference mode. A view of an ordinary tensor would be an inference tensor there, which torch
    # refuses. So wrapped tensors and wrappers are ordinary tensors. Leaving the mode gives back the caller's gradients.
    with torch._C._InferenceMode(False):
        torch._C._set_grad_enabled(False)
        result = func(*inner_args, **inner_kwargs)
        return result if target is None else _wrapped(result, target, found.simulated)


def _target_device(func: Any, args: Sequence[Any], found: _Found, *, is_copy: bool) -> int | None:
    """The index of the device that the results live on; None for the CPU."""
    if found.asked is not None:
        return (found.asked.index or 0) if found.asked.type == BACKEND else None
    if is_copy:  # copy_(destination, source) is how a device takes and gives data
        return args[0].device_index if isinstance(args[0], SimulatedTensor) else None
    return found.device(func)


def _count_wait(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], found: _Found, target: int | None
) -> None:
    """Count the operator, if the host would wait for it on a card."""
    involved = found.simulated[0].device_index if target is None and found.simulated else target
    crosses = target is None or bool(found.hosts)
    if involved is not None and waits(func, args, kwargs, crosses=crosses):
        ledger(involved).waits[str(func)] += 1


def _wrapped(result: Any, index: int, simulated: Sequence[SimulatedTensor]) -> Any:
    """The same result with simulated tensors. An operator that works in place returns its argument, and goes on so."""
    if isinstance(result, torch.Tensor):
        for known in simulated:
            if known.host_tensor is result:
                if known.shape != result.shape:
                    raise NotImplementedError(
                        f"a tensor on {BACKEND}:{index} cannot be resized in place (out= or resize_)"
                    )
                return known
        return SimulatedTensor(result, index)
    if isinstance(result, (list, tuple)):
        return type(result)([_wrapped(part, index, simulated) for part in result])
    return result


def _attend(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """Attention with the CPU's bits and the memory of the kernel that the card would run."""
    call = AttentionCall.of(args, kwargs)
    found = _Found()
    query, key, value, mask = (found.inner(tensor) for tensor in (call.query, call.key, call.value, call.mask))
    target = found.device(torch.nn.functional.scaled_dot_product_attention)
    assert target is not None
    device = ledger(target)
    with torch._C._InferenceMode(False):  # as in `_run`
        torch._C._set_grad_enabled(False)
        result = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=call.is_causal, scale=call.scale, enable_gqa=call.grouped,
        )  # fmt: skip
        if choose_kernel(device.card, call) == "math":
            device.require_workspace()
        return _account(device, _attention_trace(device.card, call), result)


def _account(device: DeviceLedger, trace: Trace, result: torch.Tensor) -> torch.Tensor:
    """Wrap the result of a kernel, with the kernel's temporaries held and freed around it as the trace says."""
    outlives = trace.events[-1].key
    blocks: dict[int, Block] = {}
    wrapped: torch.Tensor | None = None
    try:
        for event in trace.events:
            if event.key == outlives:
                wrapped = SimulatedTensor(result, device.index) if wrapped is None else wrapped
            elif event.size_bytes is None:
                device.free(blocks.pop(event.key))
            else:
                blocks[event.key] = device.allocate(event.size_bytes)
    finally:
        for block in blocks.values():
            device.free(block)
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
        from soloist.memory.tracing import trace_attention  # with the first network: it imports transformers

        known = _attention_traces[key] = trace_attention(card, call)
    return known
