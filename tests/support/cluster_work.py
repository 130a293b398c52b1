"""What workers of a cluster do in tests. Imported on the nodes."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from typing import Any

from soloist.cluster.host import Channel

ECHO = f"{__name__}:echo"
FAIL = f"{__name__}:fail"
SLEEP = f"{__name__}:sleep"
STAND_STILL = f"{__name__}:stand_still"


def echo(request: dict[str, Any], channel: Channel) -> None:
    """Say who this is, and then say each message again."""
    environment = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
    channel.say({"word": "hello", "pid": os.getpid(), "request": request, "python": sys.executable, **environment})
    while (message := channel.receive()) is not None:
        channel.say({"word": "echo", "of": message})


def fail(request: dict[str, Any], channel: Channel) -> None:
    """Raise what was asked for."""
    raise ValueError(request["message"])


def sleep(request: dict[str, Any], channel: Channel) -> None:
    """Compute each message for as long as it says, and say so."""
    channel.say({"word": "ready"})
    while (message := channel.receive()) is not None:
        time.sleep(message["seconds"])
        channel.say({"word": "done", "of": message["number"]})


def stand_still(request: dict[str, Any], channel: Channel) -> None:
    """Hold all threads of the process up a few times, as a library does that is loaded; then say so."""
    for _ in range(3):
        ctypes.PyDLL(None).usleep(800_000)  # keeps Python's lock
        time.sleep(0.05)
    channel.say({"word": "done"})
