"""A simulated accelerator: computes on the CPU, accounts like a device.

Registers torch's PrivateUse1 backend under the name `sim`, so that `module.to("sim:1")`,
`torch.zeros(2, device="sim:0")` and the error for tensors on two devices behave as on CUDA. A tensor on
`sim:i` wraps a CPU tensor, whose storage is entered in the ledger of device i and leaves it when
the storage dies: a reference that somebody forgot is memory that did not come back.

Counted: every storage that an operator returns, rounded up to the 512 bytes of torch's CUDA
allocator. Not counted: scratch memory inside a kernel, fragmentation, the context of a driver. An
operator's result is computed before its size is known, so `torch.OutOfMemoryError` is raised after the work
was done, and nothing of it is kept.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.library import Library
from torch.utils import _pytree as pytree
from torch.utils import backend_registration

BACKEND = "sim"
ROUNDING_BYTES = 512


class DeviceLedger:
    """The live storages of one simulated device, in bytes. Safe to use from any thread."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.capacity_bytes = 0
        self.allocated_bytes = 0
        self.reserved_bytes = 0
        self.peak_bytes = 0
        self._sizes: dict[int, int] = {}
        self._lock = threading.RLock()  # a finalizer may run in the midst of `enter`

    def enter(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it dies.

        Raises:
            torch.OutOfMemoryError: it does not fit beside the storages that are alive.
        """
        key, size = storage._cdata, _rounded(storage.nbytes())
        with self._lock:
            if key in self._sizes:
                return
            if self.allocated_bytes + size > self.capacity_bytes:
                raise torch.OutOfMemoryError(self._complaint(size))
            self._sizes[key] = size
            self.allocated_bytes += size
            self.reserved_bytes = max(self.reserved_bytes, self.allocated_bytes)
            self.peak_bytes = max(self.peak_bytes, self.allocated_bytes)
        weakref.finalize(storage, self._leave, key).atexit = False

    def empty_cache(self) -> None:
        """Give back what is reserved and not allocated."""
        with self._lock:
            self.reserved_bytes = self.allocated_bytes

    def reset_peak(self) -> None:
        """Let the peak start again from what is allocated now."""
        with self._lock:
            self.peak_bytes = self.allocated_bytes

    def _leave(self, key: int) -> None:
        with self._lock:
            self.allocated_bytes -= self._sizes.pop(key, 0)

    def _complaint(self, size: int) -> str:
        return (
            f"sim:{self.index} out of memory. Tried to allocate {size} bytes; "
            f"{self.allocated_bytes} of {self.capacity_bytes} bytes are allocated."
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
            # and up to 3.5 times the memory. A device runs it as one kernel.
            return _run(func, tuple(args), kwargs or {})
        if func is torch.Tensor.tolist:
            return args[0].host_tensor.tolist()
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, tuple(args), kwargs or {})


def configure(capacities_bytes: Sequence[int]) -> None:
    """Make `sim:0` to `sim:n-1` exist with these capacities. What is alive on them stays counted."""
    _register_backend()
    for index, capacity in enumerate(capacities_bytes):
        ledger(index).capacity_bytes = capacity
    _Backend.count = max(_Backend.count, len(capacities_bytes))


def ledger(index: int) -> DeviceLedger:
    """The ledger of `sim:index`, made at its first use."""
    with _ledgers_lock:
        return _ledgers.setdefault(index, DeviceLedger(index))


# torch composes these of an empty tensor and an out= variant that resizes it, which a wrapper cannot follow.
_RESIZING_FACTORIES = (
    "arange", "arange.start", "arange.start_step", "eye", "eye.m", "linspace", "logspace", "randperm",
    "tril_indices", "triu_indices",
)  # fmt: skip
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
    leaves, spec = pytree.tree_flatten((args, kwargs))
    target = _target_device(func, leaves)
    outers: dict[int, SimulatedTensor] = {}
    inner_leaves = [_unwrap(leaf, outers) for leaf in leaves]
    inner_args, inner_kwargs = pytree.tree_unflatten(inner_leaves, spec)
    # The caller may be in inference mode, where torch refuses views of ordinary tensors that are inference
    # tensors; so all that is wrapped, and every wrapper, is an ordinary tensor.
    with torch.inference_mode(False), torch.no_grad():
        result = func(*inner_args, **inner_kwargs)
        if target is None:
            return result
        return pytree.tree_map_only(torch.Tensor, lambda tensor: _wrap(tensor, target, outers), result)


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


def _wrap(tensor: torch.Tensor, index: int, outers: dict[int, SimulatedTensor]) -> torch.Tensor:
    # An operator that works in place returns its argument, and must go on doing so.
    known = outers.get(id(tensor))
    if known is None:
        return SimulatedTensor(tensor, index)
    if known.shape != tensor.shape:
        raise NotImplementedError(f"a tensor on {BACKEND}:{index} cannot be resized in place (out= or resize_)")
    return known


def _rounded(size_bytes: int) -> int:
    return -(-size_bytes // ROUNDING_BYTES) * ROUNDING_BYTES
