"""The command, forked, that can be told when to die.

It kills itself with -9 just before it makes, renames, removes or opens for writing a file for the nth time: before any
one of the operations by which a run changes its folder, exactly, and again on the next day.

`Commands` is the tests' end; `main` is what the fork runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import runpy
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from support.forks import Forked

_COMMAND = (sys.executable, "-c", "from support.commands import main; main()")
_CHANGES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}
# Their last argument is a folder that is held open, as shutil.rmtree does, or -1.
_AT_A_FOLDER = {"os.remove", "os.rmdir", "os.mkdir"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_STREAMS = ("stdout", "stderr")


@dataclass(frozen=True, kw_only=True)
class Death:
    """When a command kills itself: before the `count`th operation on a file below `folder` that matches `pattern`.

    An operation reads `os.rename SOURCE TARGET`, `open PATH`, `os.remove PATH`, `os.mkdir PATH`, `os.rmdir PATH`; the
    paths are relative to the folder.
    """

    folder: Path
    count: int
    pattern: str = ""


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit code, -9 where it was killed, and what it wrote."""

    code: int
    stdout: str
    stderr: str


class Commands:
    """Runs commands, one at a time, each with a process group of its own; what they write goes into `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: Forked | None = None

    def run(self, *arguments: str, death: Death | None = None) -> Ended:
        """A command to its end, its own or the one it was told."""
        self.start(*arguments, death=death)
        return self.wait()

    def start(self, *arguments: str, death: Death | None = None) -> None:
        """Begin a command. One that a failed test left at work is killed first: its files would be this one's."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        when = None if death is None else {**asdict(death), "folder": str(death.folder)}
        with contextlib.ExitStack() as files:
            # Files, because a worker that outlives the command would keep a pipe open.
            streams = {name: files.enter_context((self._folder / name).open("wb")) for name in _STREAMS}
            self._process = Forked([*_COMMAND, json.dumps(when), *arguments], start_new_session=True, **streams)

    def kill(self) -> Ended:
        """Kill the command that was started, with its process group; it may have ended already."""
        assert self._process is not None, "no command was started"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self.wait()

    def wait(self) -> Ended:
        """The end of the command that was started."""
        assert self._process is not None, "no command was started"
        code = self._process.wait()
        written = [(self._folder / name).read_text(encoding="utf-8", errors="replace") for name in _STREAMS]
        return Ended(code, *written)


def main() -> None:
    """`python -m soloist`, with its death as the first argument."""
    _, when, *arguments = sys.argv
    sys.argv = ["soloist", *arguments]
    if death := json.loads(when):
        sys.addaudithook(_Executioner(**death))
    runpy.run_module("soloist", run_name="__main__", alter_sys=True)


class _Executioner:
    """An audit hook, which Python calls before each operation of its own on a file."""

    def __init__(self, folder: str, count: int, pattern: str) -> None:
        self._folder = folder + os.sep
        self._count = count
        self._pattern = re.compile(pattern)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _CHANGES or (event == "open" and not arguments[2] & _WRITES):
            return
        named = arguments[: 2 if event == "os.rename" else 1]
        paths = [str(path) for path in named if isinstance(path, str | os.PathLike)]
        if event in _AT_A_FOLDER and arguments[-1] != -1:
            paths = [str(Path(f"/proc/self/fd/{arguments[-1]}").readlink().joinpath(*paths))]
        if not any(path.startswith(self._folder) for path in paths):
            return
        if self._pattern.search(" ".join([event, *(path.removeprefix(self._folder) for path in paths)])):
            self._count -= 1
            if not self._count:
                os.killpg(0, signal.SIGKILL)
