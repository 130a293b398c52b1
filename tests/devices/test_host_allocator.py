"""The C library's allocator while models compute on the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from soloist.devices.host_allocator import freed_memory_kept

_LARGE = """
import ctypes, json
from soloist.devices.host_allocator import freed_memory_kept

library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]

class Statistics(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

library.mallinfo2.restype = Statistics

def mapped_and_free():
    # Whether 40 MiB are mapped for themselves, and whether they stay with the process once they are freed.
    before = library.mallinfo2().hblks
    place = library.malloc(40 << 20)
    mapped = library.mallinfo2().hblks - before
    library.free(place)
    return mapped, library.mallinfo2().fordblks >= 40 << 20

found = [mapped_and_free()]
with freed_memory_kept():
    with freed_memory_kept():
        found.append(mapped_and_free())
    found.append(mapped_and_free())
found.append((0, library.mallinfo2().fordblks >= 40 << 20))
found.append(mapped_and_free())
print(json.dumps(found))
"""


def _has_glibc_statistics() -> bool:
    return sys.platform.startswith("linux") and "glibc" in os.confstr("CS_GNU_LIBC_VERSION")


@pytest.mark.skipif(not _has_glibc_statistics(), reason="the C library is not glibc")
@pytest.mark.parametrize("environment", [{}, {"MALLOC_ARENA_MAX": "8"}], ids=["plain", "allocator set by the user"])
def test_large_memory_stays_within_the_context_only(environment: dict[str, str]) -> None:
    """Each batch would map its tensors again, or the host would not get the memory back at the end."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", _LARGE], env=plain | environment, check=True, capture_output=True, text=True
    )
    kept = [0, True] if not environment else [1, False]
    assert json.loads(done.stdout) == [[1, False], kept, kept, [0, False], [1, False]]


def test_an_error_passes_through() -> None:
    """A pass that fails would keep its memory, or its error would be hidden."""
    with pytest.raises(ZeroDivisionError), freed_memory_kept():
        raise ZeroDivisionError
