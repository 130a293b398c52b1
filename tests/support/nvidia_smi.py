"""A stand-in for nvidia-smi: a program of that name that prints, fails or hangs as a test wants it to."""

from __future__ import annotations

import os
from pathlib import Path


def stand_in(folder: Path, script: str) -> str:
    """Write the program with this shell script, and give the PATH on which it is the first. It notes every call."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "$*" >> "{calls_file(folder)}"\n{script}\n', encoding="utf-8")
    program.chmod(0o755)
    return os.pathsep.join([str(folder), os.environ.get("PATH", "")])


def calls_file(folder: Path) -> Path:
    """The file with the arguments of each call, one call a line."""
    return folder / "calls"
