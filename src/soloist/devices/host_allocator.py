"""The C library's allocator while models compute on the host: what they free stays with the process.

glibc gives the memory of large tensors back to the system as soon as they are freed, and the next operation asks for
it again. The system clears each page anew. In bfloat16 that is up to a tenth of the processor's time. Other C
libraries stay as they are, and so does a glibc whose environment says what to do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator

# The options' numbers are those of <malloc.h>. A glibc that refuses a value takes the largest that all versions take.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_OF_ALL_VERSIONS = 1 << 25
_KEPT = {_TRIM_THRESHOLD: 1 << 30, _MMAP_THRESHOLD: 1 << 28}
# Where glibc's own adjustment ends. It does not adjust these any more once they were set.
_AS_BEFORE = {_TRIM_THRESHOLD: 1 << 26, _MMAP_THRESHOLD: _LARGEST_OF_ALL_VERSIONS}
_ENVIRONMENT = ("MALLOC_", "GLIBC_TUNABLES")

_lock = threading.Lock()
_users = 0


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within this, up to 1 GiB that the process frees stays with it. At the end the system gets it back."""
    global _users
    library = _glibc()
    if library is None:
        yield
        return
    with _lock:
        _users += 1
        _set(library, _KEPT)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _set(library, _AS_BEFORE)
                library.malloc_trim(0)


def _set(library: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        if not library.mallopt(option, value):
            library.mallopt(option, _LARGEST_OF_ALL_VERSIONS)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux") or any(name.startswith(_ENVIRONMENT) for name in os.environ):
        return None
    library = ctypes.CDLL(None)
    has_all = all(hasattr(library, name) for name in ("gnu_get_libc_version", "mallopt", "malloc_trim"))
    return library if has_all else None
