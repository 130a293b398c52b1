"""How long `soloist plan` takes, and how much memory, on 10,000 and on 100,000 chunks.

Each size is a process of its own, timed from its start to its end; the peak is that of the process. The chunks are
those beside the checkout where they are there, else the docstrings of the standard library, repeated with a counter.
Prints a table, and as its last line one JSON object.

    python -m benchmarks.plan_speed [--chunks FOLDER] [--models a,b] [--accelerator simulated:2xT4]
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import itertools
import json
import os
import pkgutil
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SHARED_CHUNKS = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "chunks"
SIZES = (10_000, 100_000)
CHUNKS_PER_FILE = 1_000
# Modules of the standard library whose import does nothing else, and which have long docstrings.
DOCUMENTED = ("collections", "concurrent.futures", "email", "http", "importlib", "json", "logging", "unittest", "xml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One run of the command."""

    chunks: int
    text_bytes: int
    wall_seconds: float
    peak_rss_bytes: int


def main() -> int:
    """Measure, print the table and the JSON line."""
    options = _options()
    folder = Path(options.chunks)
    texts = _chunk_texts(folder) if folder.is_dir() else _docstrings()
    print(f"{'chunks':>8}{'text MB':>10}{'seconds':>10}{'peak MB':>10}   {len(texts)} distinct texts")
    found = []
    for size in SIZES:
        # Largest last: the peak of ended processes is the largest of all of them.
        planned = _plan(texts, size, options.models, options.accelerator)
        found.append(planned)
        print(
            f"{planned.chunks:>8}{planned.text_bytes / 1e6:>10.1f}{planned.wall_seconds:>10.1f}"
            f"{planned.peak_rss_bytes / 1e6:>10.1f}",
            flush=True,
        )
    print(json.dumps(_report(found, options, str(folder) if folder.is_dir() else "docstrings")))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", default=str(SHARED_CHUNKS))
    parser.add_argument("--models", default="all-MiniLM-L6-v2,wordllama")
    parser.add_argument("--accelerator", default="simulated:2xT4")
    return parser.parse_args()


def _plan(texts: list[str], size: int, models: str, accelerator: str) -> Planned:
    with tempfile.TemporaryDirectory(prefix="soloist-plan-speed-") as temp:
        root = Path(temp) / "chunks"
        _write(root / "repeated", texts, size)
        command = [
            sys.executable, "-c", "from soloist.cli import main; main()", "plan", str(root), "--models", models,
            "--accelerator", accelerator, "--out", str(Path(temp) / "run"), "--cache-dir", str(Path(temp) / "cache"),
            "--json",
        ]  # fmt: skip
        began = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=temp)
        wall_seconds = time.perf_counter() - began
    plan: dict[str, Any] = json.loads(done.stdout)
    assert plan["chunks"] == size, f"{plan['chunks']} chunks were planned, not {size}"
    return Planned(
        chunks=size, text_bytes=plan["text_bytes"], wall_seconds=wall_seconds, peak_rss_bytes=_peak_of_children()
    )


def _peak_of_children() -> int:
    """The largest resident size of any child so far; Linux gives kB, macOS bytes."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _write(folder: Path, texts: list[str], size: int) -> None:
    """Chunk files of texts that are all different, in no more memory than one of them."""
    folder.mkdir(parents=True)
    endless = itertools.cycle(texts)
    for start in range(0, size, CHUNKS_PER_FILE):
        numbers = range(start, min(size, start + CHUNKS_PER_FILE))
        items = [{"text": f"{next(endless)} {n}", "metadata": {"chunk_id": f"c{n}"}} for n in numbers]
        (folder / f"part-{start:07}_chunks.json").write_text(json.dumps(items), encoding="utf-8")


def _chunk_texts(folder: Path) -> list[str]:
    files = sorted(folder.rglob("*_chunks.json"))
    return [item["text"] for file in files for item in json.loads(file.read_text(encoding="utf-8"))]


def _docstrings() -> list[str]:
    return sorted({text for name in DOCUMENTED for module in _modules(name) for text in _documentation(module)})


def _modules(name: str) -> Iterator[object]:
    package = importlib.import_module(name)
    yield package
    for found in pkgutil.iter_modules(getattr(package, "__path__", ()), f"{name}."):
        if not found.name.endswith("__main__"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield importlib.import_module(found.name)


def _documentation(module: object) -> Iterator[str]:
    for _, member in inspect.getmembers(module):
        if inspect.isclass(member) or inspect.isfunction(member):
            text = inspect.getdoc(member)
            if text:
                yield text


def _report(found: list[Planned], options: argparse.Namespace, source: str) -> dict[str, object]:
    first, last = found[0], found[-1]
    return {
        "benchmark": "plan_speed",
        "commit": _commit(),
        "hardware": {"cores": os.cpu_count(), "machine": platform.machine()},
        "versions": {"python": platform.python_version()},
        "models": options.models.split(","),
        "accelerator": options.accelerator,
        "source": source,
        "sizes": [asdict(planned) for planned in found],
        "peak_growth": round(last.peak_rss_bytes / first.peak_rss_bytes, 3),
    }


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
