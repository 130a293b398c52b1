"""What happens where a device has no room for a batch: the batch is split into halves, down to single rows.

Knows what torch says when memory is short. Knows nothing of models; who computes a batch is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from soloist.encoding.batching import halves
from soloist.types import Batch

# What torch says of memory that is short without raising its OutOfMemoryError: cuBLAS on a nearly full device, the
# driver itself, and the allocator of the CPU.
_OUT_OF_MEMORY = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory", "can't allocate memory")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that a smaller batch could succeed."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def split_until_it_fits(
    batch: Batch, begin: Callable[[Batch], str | None], make_room: Callable[[Batch, str], None]
) -> None:
    """Begin a batch or, where the device has no room for it, its two halves, and theirs, in the order of the rows.

    `begin` returns None, or the device's message where it ran out of memory. The message is then given to `make_room`,
    which raises where the batch is a single row: such a batch has no halves.
    """
    pending = [batch]
    while pending:
        current = pending.pop()
        message = begin(current)
        if message is not None:
            make_room(current, message)
            pending += reversed(halves(current))
