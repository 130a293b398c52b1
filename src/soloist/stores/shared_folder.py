"""Whether another machine sees the same folder: one writes a file of random bytes there, and the other reads it.

Needs what a run needs of a shared folder: a file that is renamed in its folder is seen there whole, by every machine.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from soloist.stores.atomic import disk_errors, sync_file, sync_folder

Seen = TypeVar("Seen")
_PROBE_BYTES = 4096
PATIENCE_SECONDS = 10.0  # network file systems keep what they know of a folder for some seconds
_POLL_SECONDS = 0.1


def write_probe(folder: Path, name: str) -> dict[str, str]:
    """Write a file of random bytes under a name of its own; what another machine needs to know it again.

    Makes no folder: where it is missing, this machine does not see what the others see.

    Raises:
        OutputError: the folder is missing, does not take the file, or cannot rename it.
    """
    content = os.urandom(_PROBE_BYTES)
    path = folder / name
    temp = folder / f".{name}.{secrets.token_hex(4)}.tmp"
    try:
        with disk_errors(path):
            temp.write_bytes(content)
            sync_file(temp)
            temp.replace(path)
            sync_folder(folder)
    finally:
        with suppress(OSError):
            temp.unlink(missing_ok=True)
    return {"file": name, "sha256": hashlib.sha256(content).hexdigest()}


def read_probe(folder: Path, probe: Mapping[str, str], patience_seconds: float = PATIENCE_SECONDS) -> bool:
    """Whether the file of a probe is in this folder with its bytes. Looks again until the patience is over."""
    return awaited(lambda: _is_seen(folder, probe) or None, patience_seconds) or False


def awaited(look: Callable[[], Seen | None], patience_seconds: float = PATIENCE_SECONDS) -> Seen | None:
    """What `look` finds of what another machine has written: looks again until the patience is over, or it finds it."""
    deadline = time.monotonic() + patience_seconds
    while True:
        found = look()
        if found is not None or time.monotonic() >= deadline:
            return found
        time.sleep(_POLL_SECONDS)


def _is_seen(folder: Path, probe: Mapping[str, str]) -> bool:
    try:
        list(folder.iterdir())  # has some file systems ask the server anew
        content = (folder / probe["file"]).read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content).hexdigest() == probe["sha256"]
