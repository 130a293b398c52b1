"""The accelerators that a run can work on: the CPU, CUDA devices, simulated devices.

Each answers the same few questions about memory, so that the lease and the encoder have one code
path. Knows torch and nothing of models.
"""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import psutil
import torch

from soloist.devices import simulated
from soloist.errors import AcceleratorError
from soloist.types import MemoryStats

AcceleratorKind = Literal["cpu", "cuda", "simulated"]

# What cuBLAS may keep on a device where its workspaces cannot be cleared: 8,519,680 bytes a handle
# (https://github.com/pytorch/pytorch/issues/95668), 32 MiB on Hopper. Tensors are named whatever their size.
CUBLAS_WORKSPACES_BYTES = 2 * 32 * 2**20


class Accelerator(Protocol):
    """A set of devices of one kind.

    `devices` are torch's names for them; `lock_keys` name the same devices machine-wide, one each;
    `capability` is CUDA's, None where there is none; `residue_bytes` is what a library may keep on
    an otherwise empty device; `copies_weights` is False where a replica works on the staged tensors.
    """

    kind: AcceleratorKind
    devices: tuple[str, ...]
    lock_keys: tuple[str, ...]
    capability: tuple[int, int] | None
    residue_bytes: int
    copies_weights: bool

    def memory(self, device: str) -> MemoryStats:
        """Statistics of one device, in bytes."""
        ...

    def reset_peak(self, device: str) -> None:
        """Begin a new peak at what is allocated now."""
        ...

    def empty_cache(self, device: str) -> None:
        """Give back the blocks that no tensor holds; may be called while other devices compute."""
        ...

    def clear_workspaces(self) -> None:
        """Give back what libraries keep for later calls; only while no thread computes."""
        ...


class CpuAccelerator:
    """The host's processor as one device.

    Nothing is moved to it, so `allocated` and `reserved` are 0 by definition; `free` and `total`
    are the host's memory, and `peak` is the highest resident size of the process so far.
    """

    kind: AcceleratorKind = "cpu"
    devices: tuple[str, ...] = ("cpu",)
    lock_keys: tuple[str, ...] = ("cpu",)
    capability: tuple[int, int] | None = None
    residue_bytes = 0
    copies_weights = False

    def memory(self, device: str) -> MemoryStats:
        """Statistics of the host."""
        host = psutil.virtual_memory()
        return MemoryStats(
            allocated_bytes=0,
            reserved_bytes=0,
            free_bytes=host.available,
            total_bytes=host.total,
            peak_bytes=_peak_resident_bytes(),
        )

    def reset_peak(self, device: str) -> None:
        """Nothing: the peak of a process cannot be reset."""

    def empty_cache(self, device: str) -> None:
        """Nothing: the host has no cache of ours."""

    def clear_workspaces(self) -> None:
        """Nothing: no library keeps any."""


class CudaAccelerator:
    """CUDA devices, measured by torch's own allocator and by the driver."""

    kind: AcceleratorKind = "cuda"
    residue_bytes = CUBLAS_WORKSPACES_BYTES
    copies_weights = True

    def __init__(self, indices: Sequence[int] | None = None) -> None:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise AcceleratorError("this machine has no CUDA device that torch can use: choose --accelerator cpu")
        chosen = tuple(range(count)) if indices is None else tuple(indices)
        missing = [index for index in chosen if index >= count]
        if missing:
            raise AcceleratorError(f"cuda:{missing[0]} does not exist: this machine has cuda:0 to cuda:{count - 1}")
        self.devices = tuple(f"cuda:{index}" for index in chosen)
        self.lock_keys = tuple(f"cuda-{torch.cuda.get_device_properties(i).uuid}" for i in chosen)
        self.capability: tuple[int, int] | None = min(torch.cuda.get_device_capability(i) for i in chosen)

    def memory(self, device: str) -> MemoryStats:
        """Statistics of one device; the first call makes the driver's context on it."""
        torch.cuda.synchronize(device)
        free, total = torch.cuda.mem_get_info(device)
        return MemoryStats(
            allocated_bytes=torch.cuda.memory_allocated(device),
            reserved_bytes=torch.cuda.memory_reserved(device),
            free_bytes=free,
            total_bytes=total,
            peak_bytes=torch.cuda.max_memory_allocated(device),
        )

    def reset_peak(self, device: str) -> None:
        """Begin a new peak at what is allocated now."""
        torch.cuda.reset_peak_memory_stats(device)

    def empty_cache(self, device: str) -> None:
        """Give cached blocks back to the driver."""
        with torch.cuda.device(device):  # without it, the call makes a context on device 0
            torch.cuda.empty_cache()

    def clear_workspaces(self) -> None:
        """Drop cuBLAS's workspaces, of all devices and threads."""
        clear: Callable[[], None] | None = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
        if clear is not None:
            clear()


class SimulatedAccelerator:
    """Simulated devices `sim:0` to `sim:n-1`, each with its own capacity."""

    kind: AcceleratorKind = "simulated"
    capability: tuple[int, int] | None = None
    residue_bytes = 0
    copies_weights = True

    def __init__(self, capacities_bytes: Sequence[int]) -> None:
        simulated.configure(capacities_bytes)
        self.devices = tuple(f"{simulated.BACKEND}:{index}" for index in range(len(capacities_bytes)))
        self.lock_keys = tuple(f"simulated-{index}" for index in range(len(capacities_bytes)))

    def memory(self, device: str) -> MemoryStats:
        """Statistics of one device, from its ledger."""
        book = simulated.ledger(torch.device(device).index)
        return MemoryStats(
            allocated_bytes=book.allocated_bytes,
            reserved_bytes=book.reserved_bytes,
            free_bytes=book.capacity_bytes - book.reserved_bytes,
            total_bytes=book.capacity_bytes,
            peak_bytes=book.peak_bytes,
        )

    def reset_peak(self, device: str) -> None:
        """Begin a new peak at what is allocated now."""
        simulated.ledger(torch.device(device).index).reset_peak()

    def empty_cache(self, device: str) -> None:
        """Give back what is reserved and not allocated."""
        simulated.ledger(torch.device(device).index).empty_cache()

    def clear_workspaces(self) -> None:
        """Nothing: the simulation has no such library."""


_FORMS = "auto, cpu, cuda, cuda:0,1 or simulated:2x15.83GB"
_UNITS = {"GB": 10**9, "GiB": 2**30, "MB": 10**6, "MiB": 2**20}
_CUDA = re.compile(r"cuda(?::(?P<indices>\d+(?:,\d+)*))?")
_SIMULATED = re.compile(r"simulated:(?P<count>[1-9]\d*)x(?P<size>\d+(?:\.\d+)?)(?P<unit>GB|GiB|MB|MiB)")


def open_accelerator(description: str) -> Accelerator:
    """The accelerator that a description names: `auto`, `cpu`, `cuda`, `cuda:0,1`, `simulated:2x15.83GB`.

    `auto` is CUDA where torch finds it, else the CPU. GB is 10^9 bytes, GiB is 2^30.

    Raises:
        AcceleratorError: the description has no meaning, or the machine lacks what it names.
    """
    if description == "auto":
        return CudaAccelerator() if torch.cuda.is_available() else CpuAccelerator()
    if description == "cpu":
        return CpuAccelerator()
    if found := _CUDA.fullmatch(description):
        indices = found["indices"]
        return CudaAccelerator(sorted({int(index) for index in indices.split(",")}) if indices else None)
    if found := _SIMULATED.fullmatch(description):
        capacity = int(float(found["size"]) * _UNITS[found["unit"]])
        return SimulatedAccelerator([capacity] * int(found["count"]))
    raise AcceleratorError(f"the accelerator {description!r} is not understood: give {_FORMS}")


def run_on(device: str) -> contextlib.AbstractContextManager[object]:
    """Make a device the current one of this thread, where its kind has such a notion."""
    if torch.device(device).type == "cuda":
        return torch.cuda.device(device)
    return contextlib.nullcontext()


def _peak_resident_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
