"""The memory of simulated devices as a driver sees it: what every process of the machine has taken. Knows files only.

A device is a folder that all processes share. Every process has one small file there, which no other process writes.
The file's name is the process's id and its start, since ids come again. The file is replaced in one step, so a kill
leaves the old bytes or the new. Memory of a killed process is free again, as on a real device.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
from filelock import FileLock

from soloist.errors import AcceleratorError

_FILE_NAME = re.compile(r"(?P<new>\.?)(?P<pid>\d{1,9})-(?P<start>\d+[-.][0-9a-f-]+)")
# Field 22 of /proc/PID/stat (proc(5)), counted from the third field: the second is a name that may hold blanks.
_STARTTIME_AFTER_NAME = 19


class DriverMemory:
    """The memory of one simulated device. Without a folder this process has it alone."""

    def __init__(self, name: str, total_bytes: int, folder: Path | None = None) -> None:
        self.total_bytes = total_bytes
        self.own_bytes = 0
        self._folder = folder / f"{name}.held" if folder is not None else None
        if folder is not None and self._folder is not None:
            _make(folder)
            _make(self._folder)

    def take(self, size: int) -> bool:
        """Give this process `size` bytes more; False where they are not free."""
        with self._others() as others:
            if sum(others.values()) + self.own_bytes + size > self.total_bytes:
                return False
            self.own_bytes += size
            return True

    def give_back(self, size: int) -> None:
        """Take back `size` bytes from this process."""
        with self._others():
            self.own_bytes -= size

    def free_bytes(self) -> int:
        """The bytes that no process holds."""
        with self._others() as others:
            return max(0, self.total_bytes - self.own_bytes - sum(others.values()))

    @contextlib.contextmanager
    def _others(self) -> Iterator[dict[str, int]]:
        """The bytes of other processes, by file name. The bytes of this process are written afterwards."""
        if self._folder is None:
            yield {}
            return
        try:
            with FileLock(f"{self._folder}.lock", mode=0o666, thread_local=False):
                held = _read(self._folder)
                own = _file_name(os.getpid())
                before = held.pop(own, 0)
                yield held
                if self.own_bytes != before:
                    _write(self._folder / own, self.own_bytes)
        except OSError as exc:
            raise AcceleratorError(
                f"the simulated device cannot use {self._folder} ({exc.strerror}): name another lock_dir"
            ) from exc


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):  # another user made it, and made it open
            folder.chmod(0o1777)
    except OSError as exc:
        raise AcceleratorError(
            f"the folder {folder} of the simulated devices cannot be made ({exc.strerror}): name another lock_dir"
        ) from exc


def _read(folder: Path) -> dict[str, int]:
    """The bytes of living processes, by file name. Files of dead processes are removed, and other files stay."""
    held: dict[str, int] = {}
    for path in folder.iterdir():
        named = _FILE_NAME.fullmatch(path.name)
        if named is None:
            continue
        if not _is_alive(int(named["pid"]), named["start"]):
            with contextlib.suppress(OSError):  # another user's file, which only its owner may remove
                path.unlink()
        elif not named["new"]:
            with contextlib.suppress(ValueError):  # not a file that this module wrote
                held[path.name] = int(path.read_text(encoding="ascii"))
    return held


def _write(path: Path, size: int) -> None:
    """Replace the bytes in one step. A process without any has no file."""
    if not size:
        path.unlink(missing_ok=True)
        return
    new = path.with_name(f".{path.name}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.fchmod(descriptor, 0o644)  # other users read it, whatever the umask
        file.write(str(size))
    new.replace(path)


@functools.lru_cache(maxsize=1)  # for the pid of this process, which changes after a fork
def _file_name(pid: int) -> str:
    return f"{pid}-{_start(pid)}"


def _is_alive(pid: int, start: str) -> bool:
    try:
        return _start(pid) == start and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, OSError):
        return _is_hidden(pid)
    except psutil.AccessDenied:  # alive, and another user's
        return True


def _is_hidden(pid: int) -> bool:
    """Whether another user has such a process. Some systems show nothing more of it."""
    try:
        os.kill(pid, 0)
    except OSError as exc:
        return isinstance(exc, PermissionError)
    return False


def _start(pid: int) -> str:
    """When a process was started. On Linux these are ticks since the machine was started, with the id of that start: a
    date would move whenever the clock is set.
    """
    if sys.platform != "linux":
        return f"{psutil.Process(pid).create_time():.2f}"
    after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return f"{int(after_name[_STARTTIME_AFTER_NAME])}-{_boot_id()}"


@functools.cache  # the same for as long as this process lives
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
