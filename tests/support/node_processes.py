"""The processes of a node that compute for a run."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import psutil

_PATIENCE_SECONDS = 20.0


def workers_of(nodes: Any, name: str) -> list[int]:
    """The processes on a node that are workers of a run, or are about to be one."""
    found = []
    for pid in nodes.pids(name):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ray::Host" in " ".join(psutil.Process(pid).cmdline()):
                found.append(pid)
    return found


def none_left(nodes: Any, names: tuple[str, ...]) -> bool:
    """Whether no worker is left on these nodes, once killed processes had the time to end."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while any(workers_of(nodes, name) for name in names):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
