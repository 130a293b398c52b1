"""Runs one part in a process of its own, so that a crash of the part costs no other part. Does not import torch.

python -m benchmarks.prove_gpu.running NAME SETTING.json FOUND.json        # what the process runs
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen, TimeoutExpired
from typing import Any, Literal

from benchmarks.machine import ROOT
from benchmarks.prove_gpu.setting import CannotBeShownError, Setting
from benchmarks.prove_gpu.table import PARTS, Part

Verdict = Literal["ok", "failed", "cannot be shown here"]
_GRACE_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a part: its verdict, why, its figures, and the seconds that it took."""

    name: str
    title: str
    verdict: Verdict
    text: str
    seconds: float
    figures: Mapping[str, Any] = field(default_factory=dict)


def run_part(part: Part, setting: Setting, most: float, left: float = math.inf) -> Outcome:
    """Run a part for at most so many seconds, or those that are left, and end all that it has started."""
    seconds = min(most, left)
    folder = setting.work / "processes" / part.name
    folder.mkdir(parents=True)
    given, found = folder / "setting.json", folder / "found.json"
    given.write_text(json.dumps({**asdict(setting), "work": str(setting.work)}), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.prove_gpu.running", part.name, str(given), str(found)]
    began = time.perf_counter()
    ended = _ended(command, folder / "log.txt", seconds)
    took = round(time.perf_counter() - began, 1)
    if found.is_file():
        said = json.loads(found.read_text(encoding="utf-8"))
        return Outcome(name=part.name, title=part.title, seconds=took, **said)
    if ended is None and left < most:
        text = f"only {left:.0f} s of the time were left: run --only {part.name}"
        return Outcome(name=part.name, title=part.title, verdict="cannot be shown here", text=text, seconds=took)
    why = f"it was ended after {seconds:.0f} s" if ended is None else f"its process ended with exit code {ended}"
    return Outcome(
        name=part.name,
        title=part.title,
        verdict="failed",
        seconds=took,
        text=f"{why}: {_last_line(folder / 'log.txt')}",
    )


def main() -> None:
    """Run one part here, and write what it gave."""
    name, given, found = sys.argv[1:]
    settings = json.loads(Path(given).read_text(encoding="utf-8"))
    setting = Setting(**{**settings, "work": Path(settings["work"])})
    said = _said(next(part for part in PARTS if part.name == name), setting)
    partly = Path(f"{found}.part")
    partly.write_text(json.dumps(said), encoding="utf-8")
    partly.replace(found)
    sys.stdout.flush()
    os._exit(0)  # processes that a part left behind must not change its verdict


def _said(part: Part, setting: Setting) -> dict[str, Any]:
    try:
        seen = part.function()(setting)
    except CannotBeShownError as exc:
        return {"verdict": "cannot be shown here", "text": str(exc)}
    except Exception as exc:  # any failure belongs to this part, and the next part must run
        traceback.print_exc()
        return {"verdict": "failed", "text": f"{type(exc).__name__}: {exc}"}
    verdict = "failed" if seen.faults else "ok"
    return {"verdict": verdict, "text": "; ".join((*seen.faults, seen.summary)), "figures": dict(seen.figures)}


def _ended(command: Sequence[str], log: Path, seconds: float) -> int | None:
    """The exit code of a command, or None if it was ended because its time was over."""
    with log.open("wb") as output:
        process = Popen(
            command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdin=DEVNULL,
            stdout=output, stderr=STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        return process.wait(timeout=seconds)
    except TimeoutExpired:
        return None
    finally:
        _end_group(process)


def _end_group(process: Popen[bytes]) -> None:
    """End a process and all that it started: first by a signal that they may handle."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutExpired):
            process.wait(timeout=_GRACE_SECONDS)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


if __name__ == "__main__":
    main()
