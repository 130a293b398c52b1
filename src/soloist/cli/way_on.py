"""What a command that was stopped leaves, and how it goes on: the end of the sentence that says why it ended."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from soloist.errors import NothingFinishedError

WayOn = Callable[[BaseException], str]
_TIME = "--stop-after"
_FINISHED = "manifest.jsonl"  # what is finished in a run folder; the stores know it too, and import numpy


def always(text: str) -> WayOn:
    """The same words, whatever stopped the command."""
    return lambda _: text


starts_again = always("nothing was changed, and the same command starts again")


def of_a_run(out: str | None) -> WayOn:
    """The way on of a run into this folder; None where only a config file names it."""

    def way_on(stopped: BaseException) -> str:
        is_kept = out is None or Path(out, _FINISHED).is_file()
        if isinstance(stopped, NothingFinishedError):
            return _without_a_time(is_kept=is_kept)
        return f"{_KEPT[is_kept]}\n  {shlex.join([*_program(), *sys.argv[1:]])}"

    return way_on


_KEPT = {
    True: "what is done is kept, and this command continues the run:",
    False: "nothing is kept yet, and this command starts the run:",
}
# By whether anything is kept, and whether the command line has the option.
_TIMES = {
    (True, True): f"what was done before is kept, and without {_TIME} this command continues the run:",
    (False, True): f"without {_TIME} this command does the whole run:",
    (True, False): "what was done before is kept",
    (False, False): "nothing is kept yet",
}


def _without_a_time(*, is_kept: bool) -> str:
    """The same time would not be enough again, so the command is shown without it; a config file may have it, too."""
    words = sys.argv[1:]
    rest = [
        word
        for before, word in zip([None, *words], words, strict=False)
        if word != _TIME and before != _TIME and not word.startswith(f"{_TIME}=")
    ]
    text = _TIMES[is_kept, rest != words]
    return text if rest == words else f"{text}\n  {shlex.join([*_program(), *rest])}"


def _program() -> list[str]:
    """What starts this program again: its name where the PATH has it, else its path."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        return [sys.executable, "-m", "soloist"]
    if not started.is_file():  # e.g. the -c of python -c
        return ["soloist"]
    on_path = shutil.which(started.name)
    return [started.name if on_path is not None and Path(on_path).samefile(started) else str(started)]
