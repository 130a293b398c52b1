"""File systems in memory: small ones to fill up, which no killed test leaves behind, and the one for all tests."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

_CLONE_NEWNS = 0x00020000
_MS_PRIVATE_RECURSIVE = (1 << 18) | (1 << 14)
MEMORY = Path("/dev/shm")
_ROOM_BYTES = 8 * 2**30


def keep_mounts_private() -> None:
    """From now on, what this process mounts is seen by itself and its children alone, and ends with them.

    A test that is killed would otherwise leave its disk in the temp folder, and pytest of a later run cannot clear that
    away. Linux does this thread by thread: call it before there are others. Nothing happens where it is not allowed.
    """
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) == 0:
        libc.mount(b"none", b"/", None, _MS_PRIVATE_RECURSIVE, None)


def has_room_for_tests(folder: Path) -> bool:
    """Whether this folder in memory has room for what the tests write, and runs programs.

    In many containers it has 64 MB, and no file in it can be executed.
    """
    if not sys.platform.startswith("linux") or not os.access(folder, os.W_OK | os.X_OK):
        return False
    system = os.statvfs(folder)
    room = min(system.f_bavail * system.f_frsize, psutil.virtual_memory().available)
    return room >= _ROOM_BYTES and not system.f_flag & os.ST_NOEXEC


class Disk:
    """A file system of a size that a test chooses."""

    def __init__(self, path: Path) -> None:
        if shutil.which("mount") is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
            pytest.skip("only root can mount a small file system")
        self.path = path
        path.mkdir()

    def mount(self, options: str) -> None:
        """Mount it, or mount it in another way."""
        mounted = os.path.ismount(self.path)
        kind = ["-o", f"remount,{options}"] if mounted else ["-t", "tmpfs", "-o", options, "tmpfs"]
        made = subprocess.run(["mount", *kind, str(self.path)], capture_output=True, text=True)
        if made.returncode:
            if mounted:
                raise OSError(made.stderr)
            pytest.skip(f"no tmpfs can be mounted here: {made.stderr.strip()}")

    def unmount(self) -> None:
        """Take it away, with all that it holds."""
        if os.path.ismount(self.path):
            subprocess.run(["umount", "--lazy", str(self.path)], check=True)  # a library may still close a file

    def fill(self, leave_bytes: int = 0) -> Path:
        """Leave no room but so many bytes."""
        ballast = self.path / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        os.truncate(ballast, max(0, ballast.stat().st_size - leave_bytes))
        return ballast
