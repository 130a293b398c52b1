"""The accelerators that a run can work on: the CPU, CUDA devices, simulated devices.

All of them answer the same few questions about memory, so that the lease and the encoder have one code path. Knows
torch, and nothing of models.
"""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

import psutil
import torch

from soloist.devices import simulated
from soloist.devices.attention_backends import without_cudnn_attention
from soloist.devices.cuda_check import has_cuda, none_there, require_usable
from soloist.devices.nvidia_driver import NvidiaSmi
from soloist.devices.simulated_ledger import DeviceLedger
from soloist.errors import AcceleratorError
from soloist.memory.cards import CARDS, Card, bare_card, cuda_card, host_card
from soloist.types import MemoryStats

AcceleratorKind = Literal["cpu", "cuda", "simulated"]

# What cuBLAS may keep on a device where its workspaces cannot be cleared: 8,519,680 bytes a handle
# (https://github.com/pytorch/pytorch/issues/95668), 32 MiB on Hopper. Tensors are named whatever their size.
CUBLAS_WORKSPACES_BYTES = 2 * 32 * 2**20


class Accelerator(Protocol):
    """A set of devices of one kind.

    - `devices` are torch's names for them, and `lock_keys` name the same devices for all processes of the machine.
    - `card` is what runs are planned for: the kind of the devices or, if they differ, the one with the least memory.
    - `residue_bytes` is what a library may keep on an otherwise empty device.
    - `copies_weights` is False where a replica works on the staged tensors.
    - `packs_rows` is True where batches are packed without padding by default.
    - `workers` is how many threads compute on a device, each a batch of its own.
    - `batches_in_flight` is how many batches a thread gives its device before it waits for the vectors of the first.
    - `multiplies_bfloat16` is True where a host's processor has instructions for it. Other devices' cards say so.
    """

    kind: AcceleratorKind
    devices: tuple[str, ...]
    lock_keys: tuple[str, ...]
    card: Card
    residue_bytes: int
    copies_weights: bool
    packs_rows: bool
    workers: int
    batches_in_flight: int
    multiplies_bfloat16: bool

    def memory(self, device: str) -> MemoryStats:
        """The memory of one device, in bytes. On CUDA the first call makes the process's context."""
        ...

    def tensor_bytes(self, device: str) -> tuple[int, int]:
        """What live tensors take of a device, and the most that they took since the last reset. Waits for nothing."""
        ...

    def total_bytes(self, device: str) -> int:
        """All memory of a device. Asking makes no context."""
        ...

    def driver_free_bytes(self, device: str) -> int | None:
        """The bytes that no process holds, or None if the driver does not say. This call does not create a context."""
        ...

    def reset_peak(self, device: str) -> None:
        """Begin a new peak at what is allocated now."""
        ...

    def empty_caches(self) -> None:
        """Give back the blocks that no tensor holds, on all devices. A device that computes has to wait."""
        ...

    def clear_workspaces(self) -> None:
        """Give back what libraries keep for later calls. Call it only while no thread computes."""
        ...

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """In this context torch runs the kernels that memory is planned for."""
        ...


class CpuAccelerator:
    """The host's processor as one device.

    Nothing is moved to it, so `allocated` and `reserved` are 0. `free` and `total` are the host's memory, and `peak`
    is the highest resident size of the process so far.
    """

    kind: AcceleratorKind = "cpu"
    devices: tuple[str, ...] = ("cpu",)
    lock_keys: tuple[str, ...] = ("cpu",)
    residue_bytes = 0
    copies_weights = False
    packs_rows = True
    batches_in_flight = 1

    def __init__(self) -> None:
        # As many as the threads that torch would use for one operation: a core with a batch of its own never waits.
        self.workers = torch.get_num_threads()
        self.multiplies_bfloat16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        self.card = host_card(psutil.virtual_memory().total)

    def memory(self, device: str) -> MemoryStats:
        """The memory of the host."""
        host = psutil.virtual_memory()
        return MemoryStats(
            allocated_bytes=0,
            reserved_bytes=0,
            free_bytes=host.available,
            total_bytes=host.total,
            peak_bytes=_peak_resident_bytes(),
        )

    def tensor_bytes(self, device: str) -> tuple[int, int]:
        """The resident size of this process, now and at its highest. This includes the host's tensors."""
        return int(psutil.Process().memory_info().rss), _peak_resident_bytes()

    def total_bytes(self, device: str) -> int:
        """All memory of the host."""
        return int(psutil.virtual_memory().total)

    def driver_free_bytes(self, device: str) -> int | None:
        """The memory that the host has left."""
        return int(psutil.virtual_memory().available)

    def reset_peak(self, device: str) -> None:
        """Do nothing: the peak of a process cannot be reset."""

    def empty_caches(self) -> None:
        """Do nothing: soloist has no cache on the host."""

    def clear_workspaces(self) -> None:
        """Do nothing: no library keeps a workspace on the host."""

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """Change nothing: the host has kernels of its own."""
        return contextlib.nullcontext()


class CudaAccelerator:
    """CUDA devices. Torch's own allocator and the driver say what they hold.

    Raises:
        AcceleratorError: torch cannot use a card. The message says why, and what to do.
    """

    kind: AcceleratorKind = "cuda"
    residue_bytes = CUBLAS_WORKSPACES_BYTES
    copies_weights = True
    packs_rows = False
    workers = 1
    batches_in_flight = 2
    multiplies_bfloat16 = False

    def __init__(self, indices: Sequence[int] | None = None) -> None:
        count = torch.cuda.device_count() if has_cuda() else 0
        if not count:
            raise none_there()
        chosen = tuple(range(count)) if indices is None else tuple(indices)
        missing = [index for index in chosen if index >= count]
        if missing:
            raise AcceleratorError(f"cuda:{missing[0]} does not exist: choose from {_cuda_names(count)}")
        require_usable(chosen)
        self.devices = tuple(f"cuda:{index}" for index in chosen)
        self._tool = NvidiaSmi()
        self.lock_keys = tuple(f"cuda-{torch.cuda.get_device_properties(i).uuid}" for i in chosen)
        self.card = _weakest([_cuda_card(index) for index in chosen])

    def memory(self, device: str) -> MemoryStats:
        """The memory of one device. The first call makes the driver's context on it."""
        torch.cuda.synchronize(device)
        free, total = torch.cuda.mem_get_info(device)
        return MemoryStats(
            allocated_bytes=torch.cuda.memory_allocated(device),
            reserved_bytes=torch.cuda.memory_reserved(device),
            free_bytes=free,
            total_bytes=total,
            peak_bytes=torch.cuda.max_memory_allocated(device),
            peak_reserved_bytes=torch.cuda.max_memory_reserved(device),
        )

    def tensor_bytes(self, device: str) -> tuple[int, int]:
        """What torch's allocator counts. Unlike `memory`, this does not wait for the device."""
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)

    def total_bytes(self, device: str) -> int:
        """All memory of a device, by its driver."""
        return int(torch.cuda.get_device_properties(device).total_memory)

    def driver_free_bytes(self, device: str) -> int | None:
        """The free memory by nvidia-smi, which makes no context; None where that tool does not say."""
        return self._tool.free_bytes(self.lock_keys[self.devices.index(device)].removeprefix("cuda-"))

    def reset_peak(self, device: str) -> None:
        """Begin a new peak at what is allocated now."""
        torch.cuda.reset_peak_memory_stats(device)

    def empty_caches(self) -> None:
        """Give cached blocks back to the driver.

        torch has no such call for one device: `NativeCachingAllocator::emptyCache` goes through all devices, whatever
        device is the current one (c10/cuda/CUDACachingAllocator.cpp).
        """
        with torch.cuda.device(self.devices[0]):  # else the call makes a context on device 0
            torch.cuda.empty_cache()

    def clear_workspaces(self) -> None:
        """Drop the workspaces of cuBLAS, of all devices and threads."""
        clear: Callable[[], None] | None = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
        if clear is not None:
            clear()

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """Turn off cuDNN's attention."""
        return without_cudnn_attention()


class SimulatedAccelerator:
    """Simulated devices `sim:0` to `sim:n-1`, one for each card.

    Processes that name the same folder share the devices' memory. Without a folder, this process has them alone.
    """

    kind: AcceleratorKind = "simulated"
    residue_bytes = 0
    copies_weights = True
    packs_rows = False
    workers = 1
    batches_in_flight = 1
    multiplies_bfloat16 = False

    def __init__(self, cards: Sequence[Card], folder: Path | None = None) -> None:
        simulated.configure(cards, folder)
        self.card = _weakest(cards)
        self.devices = tuple(f"{simulated.BACKEND}:{index}" for index in range(len(cards)))
        self.lock_keys = tuple(f"simulated-{index}" for index in range(len(cards)))

    def memory(self, device: str) -> MemoryStats:
        """The memory of one device, from its ledger."""
        return _ledger(device).memory()

    def tensor_bytes(self, device: str) -> tuple[int, int]:
        """What the ledger counts."""
        stats = _ledger(device).memory()
        return stats.allocated_bytes, stats.peak_bytes

    def total_bytes(self, device: str) -> int:
        """All memory of its card."""
        return _ledger(device).card.total_bytes

    def driver_free_bytes(self, device: str) -> int | None:
        """The memory that no process holds."""
        return _ledger(device).driver_free_bytes()

    def reset_peak(self, device: str) -> None:
        """Begin a new peak at what is allocated now."""
        _ledger(device).reset_peak()

    def empty_caches(self) -> None:
        """Give cached segments back to the simulated driver."""
        for device in self.devices:
            _ledger(device).empty_cache()

    def clear_workspaces(self) -> None:
        """Drop the workspaces of the matrix library, of all devices and threads."""
        for device in self.devices:
            _ledger(device).clear_workspaces()

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """Change what CUDA devices change, so that tests cover the change without such a device."""
        return without_cudnn_attention()


def _weakest(cards: Sequence[Card]) -> Card:
    """A card that fits all of them: the least memory, and the least capability."""
    smallest = min(cards, key=lambda card: card.total_bytes)
    capabilities = [card.capability for card in cards if card.capability is not None]
    return replace(smallest, capability=min(capabilities)) if capabilities else smallest


def _ledger(device: str) -> DeviceLedger:
    return simulated.ledger(torch.device(device).index)


def _cuda_card(index: int) -> Card:
    properties = torch.cuda.get_device_properties(index)  # makes no context
    return cuda_card(
        properties.name,
        properties.total_memory,
        (properties.major, properties.minor),
        properties.multi_processor_count,
    )


def _cuda_names(count: int) -> str:
    return ", ".join(f"cuda:{index}" for index in range(count))


_FORMS = "auto, cpu, cuda, cuda:0,1, simulated:2xT4 or simulated:2x15.83GB"
_UNITS = {"GB": 10**9, "GiB": 2**30, "MB": 10**6, "MiB": 2**20}
_CUDA = re.compile(r"cuda(?::(?P<indices>\d+(?:,\d+)*))?")
_SIMULATED = re.compile(
    r"simulated:(?P<count>[1-9]\d*)x(?:(?P<size>\d+(?:\.\d+)?)(?P<unit>GB|GiB|MB|MiB)|(?P<card>[A-Za-z][\w-]*))"
)


def open_accelerator(description: str, machine: Path | None = None) -> Accelerator:
    """The accelerator that a description names, e.g. `auto`, `cuda:0,1`, `simulated:2xT4`, `simulated:2x15.83GB`.

    `auto` is CUDA where torch sees a device, else the CPU. A simulated device is a card of the table, or only has a
    size: GB is 10^9 bytes, GiB is 2^30. `machine` is a folder that stands for the machine: processes with the same one
    share the memory of their simulated devices.

    Raises:
        AcceleratorError: the description has no meaning, the machine does not have what it names, or torch cannot use
            a card that is there.
    """
    if description == "auto":
        return CudaAccelerator() if has_cuda() else CpuAccelerator()
    if description == "cpu":
        return CpuAccelerator()
    if cuda := _CUDA.fullmatch(description):
        indices = cuda["indices"]
        return CudaAccelerator(sorted({int(index) for index in indices.split(",")}) if indices else None)
    if devices := _SIMULATED.fullmatch(description):
        return SimulatedAccelerator([_simulated_card(devices)] * int(devices["count"]), machine)
    raise AcceleratorError(f"the accelerator {description!r} is unknown: give {_FORMS}")


def _simulated_card(devices: re.Match[str]) -> Card:
    if devices["size"]:
        return bare_card(int(float(devices["size"]) * _UNITS[devices["unit"]]))
    card = {name.lower(): card for name, card in CARDS.items()}.get(devices["card"].lower())
    if card is None:
        raise AcceleratorError(
            f"the card {devices['card']} cannot be simulated: choose one of {', '.join(CARDS)}, or give a size such as "
            "24GB"
        )
    return card


def run_on(device: str) -> contextlib.AbstractContextManager[object]:
    """Make a device the current one of this thread. Only CUDA has a current device."""
    if torch.device(device).type == "cuda":
        return torch.cuda.device(device)
    return contextlib.nullcontext()


def _peak_resident_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
