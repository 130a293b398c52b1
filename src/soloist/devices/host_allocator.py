"""The C library's allocator while networks compute on the host: memory that they free stays with the process.

glibc gives the memory of large tensors back to the system when the tensors are freed. The next operation asks for that
memory again, and the system clears each page again. In bfloat16 this is up to a tenth of the processor's time. Other C
libraries stay as they are. So does a glibc whose allocator is set by environment variables.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator

# The numbers of the options are from <malloc.h>. Some versions refuse a value: they get the largest that all accept.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_OF_ALL_VERSIONS = 1 << 25
_KEPT = {_TRIM_THRESHOLD: 1 << 30, _MMAP_THRESHOLD: 1 << 28}
# The largest values that glibc chooses by itself. Once a program has set an option, glibc no longer adjusts it.
_AS_BEFORE = {_TRIM_THRESHOLD: 1 << 26, _MMAP_THRESHOLD: _LARGEST_OF_ALL_VERSIONS}
_ENVIRONMENT = ("MALLOC_", "GLIBC_TUNABLES")

_lock = threading.Lock()
_users = 0


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """In this context, up to 1 GiB of freed memory stays with the process. At its end the system gets it back."""
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
