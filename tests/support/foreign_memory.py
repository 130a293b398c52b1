"""Memory of simulated devices that a process outside the test holds: the one that started this one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from soloist.devices.simulated_driver import _start


@contextlib.contextmanager
def taken(machine: Path, device: int, size: int) -> Iterator[None]:
    """In this context the other process holds so many bytes of a device. `machine` is the folder of the devices."""
    path = _path(machine, device)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(size), encoding="ascii")
    try:
        yield
    finally:
        let_go(machine, device)


def let_go(machine: Path, device: int) -> None:
    """Have the other process give the memory back."""
    with contextlib.suppress(FileNotFoundError):
        _path(machine, device).unlink()


def _path(machine: Path, device: int) -> Path:
    pid = os.getppid()
    return machine / f"simulated-{device}.held" / f"{pid}-{_start(pid)}"
