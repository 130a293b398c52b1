"""What benchmarks of questions share: their options, processes of their own, rounds in turn, and the figures' file."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, cores
from benchmarks.options import filled

QUICK_ROWS, ROWS = 20_000, 1_000_000
FOUND = 10  # rows for each question

Ask = Callable[[int], list[Any]]  # the number of a question in, what is found out
Measure = Callable[[Path, Sequence[str], int], dict[str, Any]]  # a run, questions and rounds in, figures out


def options_of(doc: str) -> argparse.Namespace:
    """The options of the command line. A quick trial has few rows, and its figures are not saved."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"a trial: {QUICK_ROWS:,} rows, nothing saved")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results")
    for hidden in ("--measure", "--part", "--asked"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    usual = {"rows": QUICK_ROWS, "results": ""} if options.quick else {
        "rows": ROWS, "results": str(ROOT / "benchmarks" / "results")
    }  # fmt: skip
    return filled(options, usual)


def measured(module: str, folder: Path, questions: Sequence[str], part: str, rounds: int) -> dict[str, Any]:
    """What a part of a benchmark measures in a process of its own."""
    options = ["--measure", str(folder), "--part", part, "--asked", json.dumps(questions), "--rounds", str(rounds)]
    done = subprocess.run([sys.executable, "-m", module, *options], check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def print_part(options: argparse.Namespace, parts: Mapping[str, Measure]) -> None:
    """In such a process: measure the part that is asked for."""
    print(json.dumps(parts[options.part](Path(options.measure), json.loads(options.asked), options.rounds)))


def in_turn(asked: Mapping[str, Ask], count: int, rounds: int) -> dict[str, list[float]]:
    """The median time of a question to each of them, in each round."""
    medians: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(rounds):
        seconds: dict[str, list[float]] = {name: [] for name in asked}
        for number in range(count):
            for name, ask in asked.items():
                began = time.perf_counter()
                ask(number)
                seconds[name].append(time.perf_counter() - began)
        for name, each in seconds.items():
            medians[name].append(statistics.median(each))
    return medians


def ratio(mine: Sequence[float], other: Sequence[float]) -> float:
    """The median of the rounds' own ratios."""
    return statistics.median(one / two for one, two in zip(mine, other, strict=True))


def memory_of(field: str) -> int:
    """A figure of Linux's account of this process, in bytes; 0 where there is none."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def save(report: Mapping[str, Any], name: str, folder: str) -> None:
    """Write the figures to a file of this many cores, where a folder is given."""
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{name}-{cores()}-core-cpu.json").write_text(json.dumps(report, indent=2) + "\n")
