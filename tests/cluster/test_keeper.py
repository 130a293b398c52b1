"""A node's processes end with the process that started them, however that one ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from soloist.cluster.keeper import keeper_command

pytestmark = pytest.mark.process
# A process that starts a second one in a session of its own, is not waited for, and ends: its child is an orphan.
FAMILY = """
import subprocess, sys, time
first = '''
import subprocess, sys
sleeping = [sys.executable, "-c", "import time; time.sleep(600)"]
quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(subprocess.Popen(sleeping, start_new_session=True, **quiet).pid)
'''
print(subprocess.run([sys.executable, "-c", first], capture_output=True, text=True).stdout.strip(), flush=True)
time.sleep(600)
"""
PARENT = """
import subprocess, sys, time
from pathlib import Path
from soloist.cluster.keeper import keeper_command
log, family = sys.argv[1:]
keeper = subprocess.Popen(
    keeper_command(Path(log), [sys.executable, "-c", family], remove=Path(log).parent),
    stdin=subprocess.PIPE, start_new_session=True,
)
print(keeper.pid, flush=True)
time.sleep(600)
"""


def test_all_end_when_the_parent_is_killed(tmp_path: Path) -> None:
    """Nodes of a killed command would stay, with their memory and their folder, until the machine is started anew."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    log = folder / "node.log"
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(log), FAMILY], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        keeper = psutil.Process(int(parent.stdout.readline()))
        orphan = psutil.Process(awaited_number(log))
        child = next(process for process in keeper.children() if process.pid != orphan.pid)
        assert orphan.ppid() == keeper.pid
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    for process in (child, orphan, keeper):
        process.wait(timeout=60)
    assert not folder.exists()


def test_the_command_ends_when_its_keeper_is_killed(tmp_path: Path) -> None:
    """Whoever kills all processes of a command would leave the nodes, which know nothing of it."""
    sleeping = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
    log = tmp_path / "node.log"
    with subprocess.Popen(keeper_command(log, sleeping), stdin=subprocess.PIPE) as keeper:
        process = psutil.Process(awaited_number(log))
        keeper.kill()
    process.wait(timeout=60)


def test_the_keeper_ends_with_its_command(tmp_path: Path) -> None:
    """A node that does not start would be waited for until the time is over."""
    log = tmp_path / "node.log"
    command = keeper_command(log, [sys.executable, "-c", "print('no room')"])
    with subprocess.Popen(command, stdin=subprocess.PIPE) as keeper:
        assert keeper.wait(timeout=60) == 0
    assert log.read_text() == "no room\n"


def awaited_number(log: Path) -> int:
    """The number that a process writes into its log."""
    while not (log.exists() and log.read_text().endswith("\n")):
        time.sleep(0.02)
    return int(log.read_text())
