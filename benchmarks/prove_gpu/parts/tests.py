"""soloist's own checks: the tests that need a CUDA device, and `soloist validate`."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections import Counter

import soloist
from benchmarks.machine import ROOT
from benchmarks.prove_gpu.parts.models import texts
from benchmarks.prove_gpu.setting import CannotBeShownError, Seen, Setting
from benchmarks.texts import write_chunk_file

_COUNTS = re.compile(r"(\d+) (passed|failed|errors?|skipped)")


def contract(setting: Setting) -> Seen:
    """The tests that are marked `cuda`, by pytest."""
    missing = [name for name in ("pytest", "hypothesis", "xdist") if importlib.util.find_spec(name) is None]
    if missing:
        text = f"{', '.join(missing)} not installed: pip install 'soloist[test]' and run --only contract"
        raise CannotBeShownError(text)
    files = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if "mark.cuda" in path.read_text("utf-8"))
    if not files:
        raise CannotBeShownError("the tests are not here: run this in a checkout")
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-rs", *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout, done.stderr, file=sys.stderr)
    counts = {name.rstrip("s"): int(number) for number, name in _COUNTS.findall(done.stdout)}
    if not setting.is_cuda and not done.returncode:
        raise CannotBeShownError(f"they need a CUDA device: {counts.get('skipped', 0)} were skipped")
    faults = [] if not done.returncode else [f"pytest ended with {done.returncode}"]
    if setting.is_cuda and not counts.get("passed"):
        faults.append("no test ran")
    summary = ", ".join(f"{number} {name}" for name, number in counts.items()) or "no test was found"
    return Seen(summary=summary, figures=dict(counts), faults=tuple(faults))


def validation(setting: Setting) -> Seen:
    """The scenarios and the checklist of the validation plan."""
    folder = setting.folder("validation")
    write_chunk_file(folder / "chunks" / "texts", texts(32 if setting.small else 128, 300))
    found = soloist.validate(
        folder / "chunks", out=folder / "report", models=[str(setting.models / name) for name in ("minilm", "nomic")],
        accelerator=setting.devices, lock_dir=setting.machine, sample_chunks=32 if setting.small else 128,
        quick=setting.small, progress=False,
    )  # fmt: skip
    rows = [{"check": each.title, "verdict": each.verdict, "evidence": each.evidence} for each in found.checks]
    counts = Counter(each.verdict for each in found.checks)
    faults = tuple(f"{each.title}: {each.evidence}" for each in found.checks if each.verdict == "fail")
    summary = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    return Seen(summary=summary, figures={"rows": rows}, faults=faults)
