"""A command that is interrupted while it is at work."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence


def interrupted(
    command: Sequence[object],
    is_at_work: Callable[[], bool],
    *,
    times: int = 1,
    begins_within: float = 60,
    ends_within: float = 20,
) -> subprocess.CompletedProcess[str]:
    """What becomes of a command that gets Ctrl-C, so often, as soon as it is at work; both within some seconds."""
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + begins_within
        while not is_at_work():
            assert time.monotonic() < deadline and process.poll() is None, "it was never at work"
            time.sleep(0.05)
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        stdout, stderr = process.communicate(timeout=ends_within)
    finally:
        process.kill()
        process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
