"""The real command without its imports: a process that has imported soloist forks, and the child is the command.

An import of torch costs seconds, and what is tested here starts the command some hundred times. A child has a process
group of its own, its own standard streams and arguments, and runs `soloist` as `python -m soloist` does. It can be told
to kill itself with -9 just before it makes, renames, removes or opens for writing a file for the nth time: before any
one of the operations by which a run changes its folder, exactly, and again on the next day.

`CommandServer` is the tests' end; `python -m support.command_server` is the process.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_CHANGES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}
# Their last argument is a folder that is held open, as shutil.rmtree does, or -1.
_AT_A_FOLDER = {"os.remove", "os.rmdir", "os.mkdir"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_STREAMS = ("stdout", "stderr")
_TESTS = Path(__file__).resolve().parents[1]


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


class CommandServer:
    """The tests' end of the process that forks commands, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._group: int | None = None
        paths = [str(_TESTS), *filter(None, sys.path)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.command_server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def run(self, *arguments: str, death: Death | None = None) -> Ended:
        """A command to its end, its own or the one it was told."""
        self.start(*arguments, death=death)
        return self.wait()

    def start(self, *arguments: str, death: Death | None = None) -> None:
        """Begin a command. One that a failed test left at work is killed first: its end would pass for this one's."""
        if self._group is not None:
            self.kill()
        request: dict[str, Any] = {"arguments": arguments, "folder": str(self._folder)}
        if death is not None:
            request["death"] = {**asdict(death), "folder": str(death.folder)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        self._group = int(self._answer())

    def kill(self) -> Ended:
        """Kill the command that was started, with its process group; it may have ended already."""
        assert self._group is not None, "no command was started"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._group, signal.SIGKILL)
        return self.wait()

    def wait(self) -> Ended:
        """The end of the command that was started."""
        code = int(self._answer())
        self._group = None
        written = [(self._folder / name).read_text(encoding="utf-8", errors="replace") for name in _STREAMS]
        return Ended(code, *written)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that forks has ended"
        return json.loads(line)


def _main() -> None:
    import soloist.cli
    import soloist.engine
    import soloist.reports.progress
    import soloist.reports.table  # noqa: F401 - what the command imports late, imported once for all

    # Threads do not survive a fork, and what they hold stays locked.
    assert threading.active_count() == 1
    # A lease collects garbage at both its ends: what the imports made is none, and takes half of a small run's time.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            _be_the_command(request)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(child, child)  # by both, or one of them may come too late
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _be_the_command(request: dict[str, Any]) -> None:
    import runpy

    os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in enumerate(_STREAMS, start=1):
        os.dup2(os.open(Path(request["folder"], name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["soloist", *request["arguments"]]
    if "death" in request:
        sys.addaudithook(_Executioner(**request["death"]))
    runpy.run_module("soloist", run_name="__main__", alter_sys=True)
    sys.exit(0)


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


if __name__ == "__main__":
    _main()
