"""Ctrl-C in the middle of a run, and the same command again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.machine import ROOT
from benchmarks.prove_gpu.parts.models import texts
from benchmarks.prove_gpu.parts.runs import free_bytes, still_less
from benchmarks.prove_gpu.setting import CannotBeShownError, Seen, Setting
from benchmarks.texts import write_chunk_file

_STOPPED = 3  # the exit code of a run that was told to end early
_SHARDS = 20  # so many that the run is still at work when Ctrl-C reaches it
_PATIENCE_SECONDS = 60
_PATIENCE_OF_A_REHEARSAL_SECONDS = 300


def interrupt(setting: Setting) -> Seen:
    """End a run by Ctrl-C after its first shard: what is kept, what the devices hold, and whether it continues."""
    folder = setting.folder("interrupt")
    write_chunk_file(folder / "chunks" / "texts", texts(_SHARDS * (8 if setting.small else 200), 480))
    model = setting.models / ("minilm" if setting.small else "bge")
    command = [
        sys.executable, "-m", "soloist", "embed", str(folder / "chunks"), "--out", str(folder / "run"),
        "--models", str(model), "--accelerator", setting.devices, "--fusion", "none",
        "--shard-chunks", str(8 if setting.small else 200), "--lock-dir", str(setting.machine),
    ]  # fmt: skip
    before = free_bytes(setting)
    patience = _PATIENCE_OF_A_REHEARSAL_SECONDS if setting.small else _PATIENCE_SECONDS
    code, began = _interrupted(command, folder / "run" / "events.jsonl", patience)
    kept, less = _encoded(folder / "run" / "events.jsonl"), still_less(setting, before)
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    total = _encoded(folder / "run" / "events.jsonl")
    faults = [] if kept else [f"no shard was done {patience} s after the start"]
    if code == 0:
        raise CannotBeShownError("the run was over before Ctrl-C reached it")
    if code != _STOPPED:
        faults.append(f"exit code {code} after Ctrl-C")
    if again.returncode or total != _SHARDS:
        went_on = f"{total} of {_SHARDS} shards computed once"
        faults.append(f"the same command again ended with {again.returncode}, {went_on}")
    faults += [f"{device} has {lost:,} bytes less after Ctrl-C" for device, lost in less.items()]
    summary = f"Ctrl-C after {began:.1f} s kept {kept} of {_SHARDS} shards, and the same command computed the others"
    return Seen(summary=summary, figures={"kept": kept, "shards": _SHARDS}, faults=tuple(faults))


def _interrupted(command: list[str], events: Path, patience: float) -> tuple[int, float]:
    """The exit code of a command that gets Ctrl-C once a shard is done, and the seconds until then."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    began = time.monotonic()
    while process.poll() is None and not _encoded(events) and time.monotonic() - began < patience:
        time.sleep(0.02)
    seconds = time.monotonic() - began
    process.send_signal(signal.SIGINT)
    return process.wait(), seconds


def _encoded(events: Path) -> int:
    """The number of shards that were computed."""
    lines = events.read_text(encoding="utf-8").splitlines() if events.is_file() else []
    return sum('"ShardEncoded"' in line for line in lines if _is_whole(line))


def _is_whole(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:  # the last line may be half written
        return False
    return True
