"""Which attention kernels torch may choose while devices are leased. Knows a switch of torch, and no devices.

On cards of capability 9.0 and later torch prefers the kernel of cuDNN, also for masked rows. That kernel makes a plan
for every shape that it has not seen, .44 s each on a B200 (https://github.com/modelscope/FunASR/issues/3704), and
nearly every batch of a shard has a shape of its own. Memory is not predicted for it either.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

_lock = threading.Lock()
_users = 0
_before = True


@contextlib.contextmanager
def without_cudnn_attention() -> Iterator[None]:
    """In this context no thread of the process runs cuDNN's attention. After the last one it is as it was before."""
    global _users, _before
    with _lock:
        if not _users:
            _before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
            torch.backends.cuda.enable_cudnn_sdp(False)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                torch.backends.cuda.enable_cudnn_sdp(_before)
