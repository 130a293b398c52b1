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
from benchmarks.prove_gpu.setting import Seen, Setting
from benchmarks.texts import write_chunk_file
from soloist.devices import open_accelerator

_STOPPED = 3  # the exit code of a run that was told to end early
_PATIENCE_SECONDS = 60
_PATIENCE_OF_A_REHEARSAL_SECONDS = 300


def interrupt(setting: Setting) -> Seen:
    """End a run by Ctrl-C after its first shard: what is kept, what the devices hold, and whether it continues."""
    folder = setting.folder("interrupt")
    shards = 6 if setting.small else 20
    write_chunk_file(folder / "chunks" / "texts", texts(shards * (8 if setting.small else 200), 480))
    command = [
        sys.executable, "-m", "soloist", "embed", str(folder / "chunks"), "--out", str(folder / "run"),
        "--models", str(setting.models / "minilm"), "--accelerator", setting.devices, "--fusion", "none",
        "--shard-chunks", str(8 if setting.small else 200), "--lock-dir", str(setting.work / "locks"),
    ]  # fmt: skip
    before = _free(setting)
    patience = _PATIENCE_OF_A_REHEARSAL_SECONDS if setting.small else _PATIENCE_SECONDS
    code, began = _interrupted(command, folder / "run" / "events.jsonl", patience)
    kept, after = _encoded(folder / "run" / "events.jsonl"), _free(setting)
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    total = _encoded(folder / "run" / "events.jsonl")
    faults = [] if kept else [f"no shard was done {patience} s after the start"]
    if code not in (_STOPPED, 0):
        faults.append(f"exit code {code} after Ctrl-C")
    if again.returncode or total != shards:
        faults.append(f"the same command again ended with {again.returncode}, {total} of {shards} shards computed once")
    if after < before:
        faults.append(f"the devices have {before - after:,} bytes less after Ctrl-C")
    summary = f"Ctrl-C after {began:.1f} s kept {kept} of {shards} shards, and the same command computed the others"
    return Seen(summary=summary, figures={"kept": kept, "shards": shards}, faults=tuple(faults))


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


def _free(setting: Setting) -> int:
    accelerator = open_accelerator(setting.devices, setting.machine)
    return sum(accelerator.driver_free_bytes(device) or 0 for device in accelerator.devices)
