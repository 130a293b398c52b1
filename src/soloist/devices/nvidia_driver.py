"""What NVIDIA's driver says of the cards of this machine. Knows its tool nvidia-smi and its files, and no torch.

The tool may be absent. If a card is broken, the tool may hang. It prints N/A for what it does not know.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_TOOL = "nvidia-smi"
# A healthy tool answers within a second. On a machine with many sleeping cards, it answers within ten seconds.
_PATIENCE_SECONDS = 30.0
_VERSION = re.compile(r"Kernel Module\D.*?(\d{3}\.\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverCards:
    """The cards that this process may use, by name, and the version of their driver; None where it is not known."""

    names: tuple[str, ...]
    version: str | None

    def __str__(self) -> str:
        """The cards in words, e.g. `Tesla T4`."""
        return ", ".join(dict.fromkeys(self.names))


class NvidiaSmi:
    """The driver's own tool, which needs no context on a card. If the tool hangs once, it is not asked again."""

    def __init__(self, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._hangs = False

    def free_bytes(self, uuid: str) -> int | None:
        """The memory that a card has left; None where the tool does not say."""
        answer = self._ask(f"--id=GPU-{uuid}", "--query-gpu=memory.free", "--format=csv,noheader,nounits")
        try:
            return int(answer or "") * 2**20
        except ValueError:  # it prints [N/A], for a card that shares the memory of the host
            return None

    def cards(self) -> DriverCards | None:
        """The cards that the tool lists; None where it lists none."""
        answer = self._ask("--query-gpu=name,driver_version", "--format=csv,noheader") or ""
        rows = [line.rsplit(",", 1) for line in answer.splitlines() if "," in line]
        if not rows:
            return None
        versions = [version for _, value in rows if (version := _known(value)) is not None]
        return DriverCards(
            names=tuple(_known(name) or "NVIDIA GPU" for name, _ in rows), version=versions[0] if versions else None
        )

    def _ask(self, *arguments: str) -> str | None:
        """What the tool prints; None where it cannot be run, fails or hangs."""
        if self._hangs:
            return None
        try:
            process = subprocess.Popen(
                [_TOOL, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True, errors="replace",
            )  # fmt: skip
        except OSError:
            return None
        try:
            printed, _ = process.communicate(timeout=self._patience_seconds)
        except BaseException as exc:
            _end(process)
            if not isinstance(exc, subprocess.TimeoutExpired):
                raise
            self._hangs = True
            return None
        return printed if process.returncode == 0 else None


def driver_cards(tool: NvidiaSmi | None = None, root: Path = Path("/")) -> DriverCards | None:
    """The cards that this process may use, by the tool or else by the driver's files; None where there is none.

    `root` is the folder that has `dev` and `proc`.
    """
    return (tool or NvidiaSmi()).cards() or _cards_by_files(root)


def _cards_by_files(root: Path) -> DriverCards | None:
    # A container sees the files of the machine's driver. It may use only the cards that it has device nodes of.
    nodes = list((root / "dev").glob("nvidia[0-9]*"))
    if not nodes:
        return None
    driver = root / "proc/driver/nvidia"
    models = [
        line.partition(":")[2].strip()
        for path in sorted(driver.glob("gpus/*/information"))
        for line in _text(path).splitlines()
        if line.startswith("Model:")
    ]
    version = _VERSION.search(_text(driver / "version"))
    return DriverCards(
        names=tuple(models) or ("NVIDIA GPU",) * len(nodes), version=version[1] if version is not None else None
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _known(value: str) -> str | None:
    """What the tool prints for a field; None for `[N/A]`, `[Unknown Error]` and the like."""
    value = value.strip()
    return None if not value or value.startswith("[") or value == "N/A" else value


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a process, and do not wait for its end: a process that waits inside a broken driver does not end."""
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)
    if process.stdout is not None:
        process.stdout.close()
