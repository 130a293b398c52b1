"""Which attention kernels torch may choose while devices are leased. Knows a switch of torch, and no devices.

On cards of capability 9.0 and later torch prefers the kernel of cuDNN, also for masked rows. That kernel makes a plan
for every new shape, which takes 0.44 s on a B200 (https://github.com/modelscope/FunASR/issues/3704). Nearly every batch
of a shard has a shape of its own. soloist does not predict the memory of that kernel either.
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
    """In this context no thread of the process runs cuDNN's attention. The last one restores the setting."""
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
