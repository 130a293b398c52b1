"""Accelerator cards: what a run needs to know of a card that may not be there. Values only; no torch.

Every row names the source of its figures. For a card that is there the driver's figure replaces the row's memory: it
differs by up to 1 GiB between drivers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from soloist.types import DType

# A process's context takes this of a device until the process ends. 194 to 430 MiB were reported (L4 194, T4 302, P100
# 320, unsloth-zoo pull 1053: 426, InvokeAI issue 9413: 256). There is no clean figure for a single card, so plans use
# the largest.
CONTEXT_BYTES = 430 * 2**20
# cuBLAS's workspace for one handle and stream, taken from torch's allocator at the first matrix product and kept
# (CublasHandlePool.cpp): 4,096 x 8 KiB from capability 9.0, 2 x 4 MiB + 8 x 16 KiB before. cublasLt shares it.
_WORKSPACE_BYTES = 8_519_680
_WORKSPACE_BYTES_FROM_9_0 = 33_554_432


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One kind of device. Sizes in bytes, rates a second.

    - `device_name` is the driver's name for it, and `total_bytes` the memory that the driver reports.
    - `capability` is that of CUDA, and None for a device that computes like the CPU.
    - `bandwidth` is that of its memory, in bytes.
    - `matrix_rates` are floating-point operations of dense matrix products, from the data sheet.
    - `context_bytes` and `workspace_bytes` are what a process and its matrix library take.
    - `caches` is False for a device that reserves exactly what is allocated.
    """

    name: str
    total_bytes: int
    device_name: str
    capability: tuple[int, int] | None = None
    multiprocessors: int = 0
    bandwidth: float | None = None
    matrix_rates: Mapping[DType, float] = field(default_factory=dict)
    context_bytes: int = 0
    workspace_bytes: int = 0
    caches: bool = True
    source: str = ""

    @property
    def usable_bytes(self) -> int:
        """The memory for tensors and workspaces: all but the context."""
        return max(0, self.total_bytes - self.context_bytes)

    @property
    def native_dtypes(self) -> tuple[DType, ...]:
        """The dtypes of the card's matrix units. A T4 emulates bfloat16, for example."""
        return tuple(self.matrix_rates)

    def with_memory(self, total_bytes: int) -> Card:
        """The same card with another amount of memory."""
        return replace(self, total_bytes=total_bytes)


def bare_card(total_bytes: int) -> Card:
    """A device that has only memory: no context, no workspace, no allocator that caches."""
    return Card(name="bare", device_name="bare simulated device", total_bytes=total_bytes, caches=False)


def host_card(total_bytes: int) -> Card:
    """The host's processor: its memory, and rates that only a measurement can tell."""
    return Card(name="cpu", device_name="cpu", total_bytes=total_bytes, caches=False)


def cuda_card(device_name: str, total_bytes: int, capability: tuple[int, int], multiprocessors: int) -> Card:
    """A CUDA device that is there: figures of its driver, and the rates of its row in the table, if it has one."""
    known = next((card for card in CARDS.values() if _same_device(card.device_name, device_name)), None)
    return Card(
        name=known.name if known is not None else device_name,
        total_bytes=total_bytes,
        device_name=device_name,
        capability=capability,
        multiprocessors=multiprocessors,
        bandwidth=known.bandwidth if known is not None else None,
        matrix_rates=known.matrix_rates if known is not None else {},
        context_bytes=CONTEXT_BYTES,
        workspace_bytes=_workspace_bytes(capability),
        source="the driver",
    )


def _same_device(name: str, other: str) -> bool:
    """Whether two names mean one device: older drivers leave out the maker's name."""
    return name.removeprefix("NVIDIA ") == other.removeprefix("NVIDIA ")


def _workspace_bytes(capability: tuple[int, int]) -> int:
    return _WORKSPACE_BYTES_FROM_9_0 if capability >= (9, 0) else _WORKSPACE_BYTES


def _nvidia(
    name: str, device_name: str, total_bytes: int, capability: tuple[int, int], multiprocessors: int,
    gigabytes_per_second: float, teraflops: Mapping[DType, float], source: str,
) -> Card:  # fmt: skip
    return Card(
        name=name,
        device_name=device_name,
        total_bytes=total_bytes,
        capability=capability,
        multiprocessors=multiprocessors,
        bandwidth=gigabytes_per_second * 1e9,
        matrix_rates={dtype: rate * 1e12 for dtype, rate in teraflops.items()},
        context_bytes=CONTEXT_BYTES,
        workspace_bytes=_workspace_bytes(capability),
        source=source,
    )


# Memory is from `mem_get_info` of torch, in logs that people posted. Rates are without sparsity. That of float32 is the
# rate outside the tensor units, since torch leaves TF32 off.
CARDS: Mapping[str, Card] = {
    card.name: card
    for card in (
        _nvidia(
            "T4", "Tesla T4", 15_828_320_256, (7, 5), 40, 320, {"float32": 8.1, "float16": 65},
            "NVIDIA T4 data sheet; memory as on Kaggle in 2025 (newer drivers: 15,637,086,208)",
        ),
        _nvidia(
            "L4", "NVIDIA L4", 22_563 * 2**20, (8, 9), 58, 300, {"float32": 30.3, "float16": 121, "bfloat16": 121},
            "NVIDIA L4 data sheet, whose 242 is with sparsity; memory from its MiB in an error text",
        ),
        _nvidia(
            "A10G", "NVIDIA A10G", 22_587 * 2**20, (8, 6), 80, 600, {"float32": 31.5, "float16": 70, "bfloat16": 70},
            "no NVIDIA data sheet was found: rates as cloud vendors give them; memory from torch's MiB",
        ),
        _nvidia(
            "P100", "Tesla P100-PCIE-16GB", 17_059_545_088, (6, 0), 56, 732, {"float32": 9.3, "float16": 18.7},
            "NVIDIA P100 launch figures; memory from a Kaggle log of 2026",
        ),
        _nvidia(
            "V100", "Tesla V100-SXM2-16GB", 16_928_342_016, (7, 0), 80, 900, {"float32": 15.7, "float16": 125},
            "V100 column of the NVIDIA A100 white paper",
        ),
        _nvidia(
            "RTX3090", "NVIDIA GeForce RTX 3090", 25_438_126_080, (8, 6), 82, 936,
            {"float32": 35.6, "float16": 71, "bfloat16": 71}, "NVIDIA GA102 white paper, float32 accumulation",
        ),
        _nvidia(
            "RTX4090", "NVIDIA GeForce RTX 4090", 25_393_692_672, (8, 9), 128, 1008,
            {"float32": 82.6, "float16": 165.2, "bfloat16": 165.2}, "NVIDIA Ada white paper, float32 accumulation",
        ),
        _nvidia(
            "A100-40GB", "NVIDIA A100-SXM4-40GB", 42_405_855_232, (8, 0), 108, 1555,
            {"float32": 19.5, "float16": 312, "bfloat16": 312}, "NVIDIA A100 data sheet",
        ),
        _nvidia(
            "A100-80GB", "NVIDIA A100-SXM4-80GB", 84_987_740_160, (8, 0), 108, 2039,
            {"float32": 19.5, "float16": 312, "bfloat16": 312}, "NVIDIA A100 data sheet",
        ),
        _nvidia(
            "H100", "NVIDIA H100 80GB HBM3", 85_017_755_648, (9, 0), 132, 3350,
            {"float32": 66.9, "float16": 989.4, "bfloat16": 989.4}, "NVIDIA H100 white paper, SXM5",
        ),
    )
}  # fmt: skip
