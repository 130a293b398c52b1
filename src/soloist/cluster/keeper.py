"""Keeps the processes of one node together: they end when the process that started the node does, however it ends.

Runs as a process of its own between the two. It waits for the end of its standard input, which comes even where its
parent was killed, and then kills every process below it. Linux gives it those whose own parents have ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from soloist.child_processes import PR_SET_CHILD_SUBREAPER, SAFE_PATH, end_with_starter, set_process_option

_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 20.0  # a process that waits for a disk dies only then
_CODE = SAFE_PATH + "import gc; gc.disable(); from soloist.cluster.keeper import main; main()"


def keeper_command(log: Path, command: Sequence[str], remove: Path | None = None) -> list[str]:
    """What runs a command under a keeper, its output into a log. `remove` is a folder to remove when it is ended."""
    return [sys.executable, "-c", _CODE, str(log), str(remove or ""), *command]


def main() -> None:
    """Run the command of the arguments until it ends or the standard input does; then kill all that it has started."""
    log, remove, *command = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    set_process_option(PR_SET_CHILD_SUBREAPER, 1)
    with Path(log).open("ab") as output:
        process = subprocess.Popen(  # this process has one thread, so a function before the start is safe
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=end_with_starter
        )
    has_ended = _await_end(process.pid, asked)
    kill_below(os.getpid())
    if remove and not has_ended:  # whoever looks for why it has ended finds its log there
        _remove(Path(remove))


def kill_below(pid: int) -> None:
    """Kill every process below this one, and wait until all are gone."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        below = below_process(pid)
        if not below:
            return
        for process in below:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.01)


def below_process(pid: int) -> list[psutil.Process]:
    """The living processes below one; none where it is gone."""
    try:
        below = psutil.Process(pid).children(recursive=True)
        return [process for process in below if _lives(process)]
    except psutil.Error:
        return []


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _await_end(child: int, asked: Sequence[int]) -> bool:
    """Wait until the child has ended, or is to end; whether it has ended by itself."""
    while not asked:
        if child in _reap():
            return True
        ready, _, _ = select.select([sys.stdin], [], [], _POLL_SECONDS)
        if ready and not os.read(sys.stdin.fileno(), 4096):
            break
    return False


def _reap() -> set[int]:
    """The children that have ended since, among them those of others that Linux gave to this process."""
    ended = set()
    with contextlib.suppress(ChildProcessError):
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            ended.add(pid)
    return ended


def _remove(folder: Path) -> None:
    """Remove a folder, into which the processes of other nodes may still write for a moment."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(_POLL_SECONDS)
