"""The next models' weights, read into host memory while others work. Knows modules' tensors, and no devices.

Weights that are mapped from their files are read when they are first touched. Without this that would be at the
hand-over, with idle devices.

They are not pinned. By the bus's figures the copy of 2.3 GB over PCIe 3 would take some 0.2 s instead of 0.4. But
torch's cache of pinned memory rounds up to powers of two, so a host could hold weights three times.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterable, Iterator

import torch

from soloist.workers import WorkerThread

_PAGE_BYTES = 4096
_STEP_BYTES = 64 << 20  # how much is read before a wish to stop is seen


@contextlib.contextmanager
def prefetched_weights(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Within this, a thread reads every page of the modules' weights. It stops at the end, read or not."""
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    stopped = threading.Event()
    thread = WorkerThread("soloist-weights")
    thread.submit(functools.partial(read_pages, tensors, stopped))
    try:
        yield
    finally:
        stopped.set()
        thread.close()


def read_pages(tensors: Iterable[torch.Tensor], stopped: threading.Event) -> None:
    """Read a byte of each page of the tensors' storages."""
    for tensor in tensors:
        storage = tensor.untyped_storage()
        content = torch.empty(0, dtype=torch.uint8).set_(storage)
        for start in range(0, len(content), _STEP_BYTES):
            if stopped.is_set():
                return
            content[start : start + _STEP_BYTES : _PAGE_BYTES].sum()
