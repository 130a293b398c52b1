"""Commands and runs that are interrupted while they are at work."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from support.forks import Forked

HEARD = "a second Ctrl-C ends the run at once"
# Longer than any busy machine needs: whoever waits so long waits for what never comes.
PATIENCE_SECONDS = 300


def await_text(file: Path, text: str, process: Forked, *, within: float = PATIENCE_SECONDS) -> None:
    """Wait until a process has written something into a file, or has ended."""
    deadline = time.monotonic() + within
    while process.poll() is None and text not in (file.read_text() if file.exists() else ""):
        assert time.monotonic() < deadline, f"no {text!r} in {file}"
        time.sleep(0.005)


def press_twice(process: Forked, said: Path, times: int = 2) -> None:
    """Ctrl-C; and again, once the run has said in a file that it heard the first.

    Two signals that a busy process has not looked at yet are one signal to it.
    """
    process.send_signal(signal.SIGINT)
    await_text(said, HEARD, process)
    for _ in range(times - 1):
        if process.poll() is None:
            os.kill(process.pid, signal.SIGINT)
            time.sleep(0.02)


def interrupted(
    command: Sequence[object], is_at_work: Callable[[], bool], *, times: int = 1
) -> subprocess.CompletedProcess[str]:
    """What becomes of a command that gets Ctrl-C, so often, as soon as it is at work."""
    process = Forked(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_at_work():
            assert time.monotonic() < deadline and process.poll() is None, "it was never at work"
            time.sleep(0.05)
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
        process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
