"""The memory of simulated devices as a driver sees it: what every process of the machine has taken. Knows files only.

A device is one small file in a folder that all processes share, with the bytes of each process under its id.
What a killed process held is free again, as on a real device.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
from filelock import FileLock

from soloist.errors import AcceleratorError


class DriverMemory:
    """The memory of one simulated device. Without a folder, no other process sees it."""

    def __init__(self, name: str, total_bytes: int, folder: Path | None = None) -> None:
        self.total_bytes = total_bytes
        self.own_bytes = 0
        self._path = folder / f"{name}.memory" if folder is not None else None
        if folder is not None:
            _make(folder)

    def take(self, size: int) -> bool:
        """Give this process `size` bytes more, if they are there."""
        with self._others() as others:
            if sum(others.values()) + self.own_bytes + size > self.total_bytes:
                return False
            self.own_bytes += size
            return True

    def give_back(self, size: int) -> None:
        """Take `size` bytes from this process."""
        with self._others():
            self.own_bytes -= size

    def free_bytes(self) -> int:
        """What no process holds."""
        with self._others() as others:
            return max(0, self.total_bytes - self.own_bytes - sum(others.values()))

    @contextlib.contextmanager
    def _others(self) -> Iterator[dict[str, int]]:
        """What other processes hold; ours is written down afterwards."""
        if self._path is None:
            yield {}
            return
        try:
            with FileLock(f"{self._path}.lock", mode=0o666, thread_local=False):
                held = _read(self._path)
                own = str(os.getpid())
                before = held.pop(own, 0)
                yield held
                if self.own_bytes != before:
                    _write(self._path, {**held, own: self.own_bytes} if self.own_bytes else held)
        except OSError as exc:
            raise AcceleratorError(
                f"the simulated device cannot use {self._path}: {exc.strerror}: name another lock_dir"
            ) from exc


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):  # another user made it, and made it open
            folder.chmod(0o1777)
    except OSError as exc:
        raise AcceleratorError(
            f"the folder {folder} of the simulated devices cannot be made: {exc.strerror}: name another lock_dir"
        ) from exc


def _read(path: Path) -> dict[str, int]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # absent, or cut short by a kill
        return {}
    return {pid: size for pid, size in held.items() if psutil.pid_exists(int(pid))}


def _write(path: Path, held: dict[str, int]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        with contextlib.suppress(PermissionError):  # another user's, who made it open
            os.fchmod(descriptor, 0o666)
        json.dump(held, file)
