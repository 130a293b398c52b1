"""Prove soloist's CUDA path on the GPUs of this machine, in less than ten minutes and without a download.

Each part runs in a process of its own: a part that fails or hangs costs only itself. Each one ends `ok`, `failed` or
`cannot be shown here`. After each part, gpu-CARD.json and gpu-CARD.md are written into --results.

    python -m benchmarks.prove_gpu [--devices cuda|cuda:0|simulated:1xT4] [--only peaks,speed] [--results FOLDER]

Simulated devices rehearse all of it with small models. Their files go to build/ by default. Exit code 1 where a part
failed, 2 where there is no CUDA device.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, commit, hardware, versions
from benchmarks.prove_gpu.record import write
from benchmarks.prove_gpu.running import Outcome, run_part
from benchmarks.prove_gpu.setting import Setting
from benchmarks.prove_gpu.table import PARTS, Part

_BUDGET_SECONDS = 590
_REHEARSAL_IS_SLOWER = 5  # a few cores compute what they simulate, perhaps while other programs run
_FEWEST_SECONDS = 20
_LOOK_SECONDS = 120
_PACKAGES = ("soloist", "torch", "transformers", "sentence-transformers", "tokenizers", "numpy", "pyarrow")
_NO_GPU = (
    "torch finds no CUDA device that it can use, so there is nothing to prove: run this on a machine with a GPU, or "
    "rehearse it with --devices simulated:1xT4 (make prove-gpu DEVICES=simulated:1xT4)"
)


def main() -> int:
    """Run the parts, write the files after each of them, and print where they are."""
    options = _options()
    cards = _cards(options.devices)
    if not cards:
        print(_NO_GPU, file=sys.stderr)
        return 2
    simulated = options.devices.startswith("simulated")
    results = Path(options.results or ROOT / ("build/prove-gpu" if simulated else "benchmarks/results"))
    circumstances = _circumstances(options.devices, cards)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="soloist-prove-") as work:
        setting = Setting(devices=options.devices, work=Path(work), small=simulated)
        slower = _REHEARSAL_IS_SLOWER if simulated else 1
        ends = time.monotonic() + options.seconds * slower
        for part in _wanted(options.only):
            outcomes.append(_outcome(part, setting, part.seconds * slower, ends - time.monotonic()))
            print(_line(outcomes[-1]), flush=True)
            files = write(results, circumstances, outcomes)
    print(f"\n{files[0]}\n{files[1]}")
    return int(any(outcome.verdict == "failed" for outcome in outcomes))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="cuda", help="cuda for all, cuda:0,1 or simulated:1xT4; default: cuda")
    parser.add_argument("--only", help="parts to run, e.g. peaks,speed; their models are always made")
    parser.add_argument(
        "--seconds",
        type=float,
        default=_BUDGET_SECONDS,
        help="seconds that all parts together may take; a rehearsal may take five times as long",
    )
    parser.add_argument("--results", help="default: benchmarks/results, and build/prove-gpu for simulated devices")
    options = parser.parse_args()
    unknown = set((options.only or "").split(",")) - {"", *(part.name for part in PARTS)}
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))} is not a part: {', '.join(part.name for part in PARTS)}")
    return options


def _wanted(only: str | None) -> list[Part]:
    names = {*only.split(","), "models"} if only else {part.name for part in PARTS}
    return [part for part in PARTS if part.name in names]


def _outcome(part: Part, setting: Setting, most: float, left: float) -> Outcome:
    if left < _FEWEST_SECONDS:
        text = f"only {max(0, left):.0f} s of the time were left: run --only {part.name}"
        return Outcome(name=part.name, title=part.title, verdict="cannot be shown here", text=text, seconds=0)
    return run_part(part, setting, most, left)


def _line(outcome: Outcome) -> str:
    return f"{outcome.verdict:<21}{outcome.seconds:>5.0f} s  {outcome.title}: {outcome.text}"


def _cards(devices: str) -> list[str]:
    """The names of the cards. Torch is asked in a process of its own, so that this one has no context on them."""
    code = (
        "import sys; from soloist.devices import open_accelerator\n"
        "accelerator = open_accelerator(sys.argv[1])\n"
        "for device in accelerator.devices: print(accelerator.card.device_name)"
    )
    command = [sys.executable, "-c", code, devices]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=_LOOK_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"the driver did not name its cards within {_LOOK_SECONDS} s", file=sys.stderr)
        return []
    if done.returncode and done.stderr.strip():
        print(done.stderr.strip().splitlines()[-1], file=sys.stderr)
    names = done.stdout.split("\n") if not done.returncode else []
    prefix = "simulated " if devices.startswith("simulated") else ""
    return [f"{prefix}{name}" for name in names if name]


def _circumstances(devices: str, cards: list[str]) -> dict[str, Any]:
    return {
        "benchmark": "prove_gpu",
        "commit": commit(),
        "devices": devices,
        "cards": cards,
        "driver": _driver(),
        "hardware": hardware(),
        "versions": versions(_PACKAGES),
    }


def _driver() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.split("\n")[0].strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
