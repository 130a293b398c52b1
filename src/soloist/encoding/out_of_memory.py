"""What happens where a device has no room for a batch: the batch is split into halves, down to single rows.

Knows what torch says when memory is short. Knows nothing of models; who computes a batch is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from soloist.encoding.batching import halves
from soloist.types import Batch

# What torch says of memory that is short without raising its OutOfMemoryError: the driver itself, the allocator of the
# CPU, and cuBLAS.
_SAYS_SO = ("CUDA error: out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
# What cuBLAS says if the driver has no memory left for a handle. cuBLAS says the same about other faults.
_MAY_MEAN_IT = ("CUBLAS_STATUS_NOT_INITIALIZED",)
# An assumption: a handle and the kernels that the driver loads with it take less.
_FULL_BYTES = 256 * 2**20


def is_out_of_memory(error: Exception, free_bytes: Callable[[], int | None]) -> bool:
    """Whether an error means that a smaller batch could succeed.

    `free_bytes` gives what the driver has left on the device, or None if that is unknown. It is called only if the
    error may have another cause.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    if _says(str(error), _SAYS_SO):
        return True
    return _says(str(error), _MAY_MEAN_IT) and _is_full(free_bytes)


def came_from_elsewhere(message: str) -> bool:
    """Whether memory was short outside torch's allocator.

    Before the allocator raises, it gives the free blocks of its device back to the driver. The driver and cuBLAS do not
    ask for these blocks.
    """
    return _says(message, (*_SAYS_SO, *_MAY_MEAN_IT))


def _says(message: str, texts: Sequence[str]) -> bool:
    return any(text in message for text in texts)


def _is_full(free_bytes: Callable[[], int | None]) -> bool:
    try:
        free = free_bytes()
    except RuntimeError:  # a broken device does not answer, and its error is not about memory
        return False
    return free is not None and free < _FULL_BYTES


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
