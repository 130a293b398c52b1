"""The command, killed for good at a moment that is the same every time."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from support.forks import run_forked

# Audit events come before what they tell of: https://docs.python.org/3/library/audit_events.html.
_CODE = """
import os, signal, sys

def end(event, arguments):
    if event == {event!r} and any(str(each).endswith({ending!r}) for each in arguments):
        os.kill(os.getpid(), signal.SIGKILL)

from soloist.cli import main

sys.addaudithook(end)
main()
"""


def run_killed(arguments: Sequence[str], *, event: str, ending: str) -> None:
    """Run soloist until it opens (`open`), or renames (`os.rename`), a file whose name has this ending."""
    code = _CODE.format(event=event, ending=ending)
    done = run_forked([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
