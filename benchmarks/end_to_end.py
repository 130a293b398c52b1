"""From command to finished files: `soloist embed` beside a plain script of sentence-transformers that writes Parquet.

Both are started as processes, so start-up, reading, loading and writing count. The chunks are the folder of real
chunks beside the checkout as it is, and many more that are all different (see `benchmarks.texts.many_pieces`). Each
round has a run of each side, in turn; a ratio is the round's own, the script's seconds in soloist's. Prints a table,
and as its last line one JSON object. Exit code 1 where soloist's vectors are not the script's.

    python -m benchmarks.end_to_end [--quick] [--chunks 20000] [--dtypes float32,bfloat16] [--rounds 3] [...]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.encode.adapters import vectors_of_run
from benchmarks.local_models import DEFAULT_MODEL, located, token_counter
from benchmarks.machine import ROOT, commit, cores, hardware, versions, warn_of_kernel_variables
from benchmarks.options import filled
from benchmarks.texts import SHARED_CHUNKS, Texts, chunk_texts, documentation, many_pieces, write_chunk_file
from soloist.arrays import Vectors

SCRIPT = Path(__file__).with_name("plain_script.py")
# Both sides compute the same in float32; in the others each rounds in its own way.
LOWEST_COSINES = {"float32": 0.99999, "float16": 0.999, "bfloat16": 0.999}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks:
    """A root of chunk files. Where `is_numbered`, a chunk's id is its place."""

    root: Path
    count: int
    source: str
    is_numbered: bool


@dataclass(slots=True, kw_only=True)
class Case:
    """One root in one dtype: seconds of both sides in each round, and of soloist's encoding alone."""

    chunks: int
    source: str
    dtype: str
    tokens: int = 0
    soloist_seconds: list[float] = field(default_factory=list)
    encoding_seconds: list[float] = field(default_factory=list)
    script_seconds: list[float] = field(default_factory=list)
    lowest_cosine: float | None = None

    @property
    def ratios(self) -> list[float]:
        """How many times as fast soloist was in each round."""
        return [theirs / ours for theirs, ours in zip(self.script_seconds, self.soloist_seconds, strict=True)]


def main() -> int:
    """Measure, print the table and the JSON line."""
    options = _options()
    warn_of_kernel_variables()
    with tempfile.TemporaryDirectory(prefix="soloist-end-") as temp:
        cases = list(_measured(options, Path(temp)))
    report = _report(options, cases)
    if options.results:
        Path(options.results).mkdir(parents=True, exist_ok=True)
        path = Path(options.results) / f"end-to-end-{cores()}-core-cpu.json"
        path.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))
    return _exit_code(cases)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a trial: 30 and 100 chunks, 1 round, nothing saved")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="a model of the catalogue, or a folder")
    parser.add_argument("--chunks", type=int, help="how many, beside the real chunks; 0 for the real chunks alone")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--results", help="the folder for results; default without --quick: benchmarks/results")
    options = parser.parse_args()
    usual = {"chunks": 100, "rounds": 1, "results": ""} if options.quick else {
        "chunks": 20000, "rounds": 3, "results": str(ROOT / "benchmarks" / "results")
    }  # fmt: skip
    return filled(options, usual)


def _measured(options: argparse.Namespace, temp: Path) -> Iterator[Case]:
    """The cases, one after the other; each is printed when it is measured."""
    roots = list(_roots(options, temp))
    sides = _Sides(options.model, temp)
    print(
        f"{'chunks':>8}{'tokens':>10}  {'dtype':<10}{'soloist s':>10}{'encoding s':>12}{'script s':>10}  times as fast"
    )
    for dtype in options.dtypes.split(","):
        sides.soloist(roots[0], dtype)  # a warm-up: files and compiled modules are in memory
        sides.script(roots[0], dtype)
        for chunks in roots:
            case = Case(chunks=chunks.count, source=chunks.source, dtype=dtype)
            for number in range(options.rounds):
                _take_round(sides, chunks, case, number)
            _print(case)
            yield case


def _roots(options: argparse.Namespace, temp: Path) -> Iterator[Chunks]:
    """The real chunks, then the many."""
    count_tokens = token_counter()
    if SHARED_CHUNKS.is_dir() and not options.quick:
        texts = chunk_texts(SHARED_CHUNKS)
        source = f"real chunks of documentation, {len(set(texts)):,} of them different"
        yield Chunks(root=SHARED_CHUNKS, count=len(texts), source=source, is_numbered=False)
    else:
        yield _written(temp / "few", documentation(30 if options.quick else 738, count_tokens))
    if options.chunks:
        yield _written(temp / "many", many_pieces(options.chunks, count_tokens))


def _written(root: Path, texts: Texts) -> Chunks:
    write_chunk_file(root / "texts", texts.texts)
    return Chunks(root=root, count=len(texts.texts), source=texts.source, is_numbered=True)


class _Sides:
    """Starts either side as a process. What a run leaves stays until the next run of that side."""

    def __init__(self, model: str, temp: Path) -> None:
        self._model = model
        self._folder = located(model)
        self._caches = temp / "caches"
        self.run_folder = temp / "run"
        self.parquet = temp / "vectors.parquet"

    def soloist(self, chunks: Chunks, dtype: str) -> float:
        """Seconds of `soloist embed`. It keeps its caches from run to run, as on a user's machine."""
        shutil.rmtree(self.run_folder, ignore_errors=True)
        return _seconds(
            [
                "-m", "soloist", "embed", str(chunks.root), "--out", str(self.run_folder), "--models", self._model,
                "--fusion", "none", "--accelerator", "cpu", "--dtype", dtype,
                "--cache-dir", str(self._caches / "cache"), "--lock-dir", str(self._caches / "locks"),
            ]
        )  # fmt: skip

    def script(self, chunks: Chunks, dtype: str) -> float:
        """Seconds of the plain script."""
        self.parquet.unlink(missing_ok=True)
        return _seconds(
            [str(SCRIPT), str(chunks.root), str(self.parquet), "--model", str(self._folder), "--dtype", dtype]
        )


def _seconds(arguments: Sequence[str]) -> float:
    """Seconds of a process of this interpreter, from the command to its end."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, errors="replace")
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments[:3])} failed: {done.stderr[-2000:]}")
    return seconds


def _take_round(sides: _Sides, chunks: Chunks, case: Case, number: int) -> None:
    """One run of each side; every second round begins with the other one."""
    turns = [(sides.soloist, case.soloist_seconds), (sides.script, case.script_seconds)]
    for run, seconds in turns if number % 2 == 0 else reversed(turns):
        seconds.append(run(chunks, case.dtype))
    report = json.loads((sides.run_folder / "run.json").read_text(encoding="utf-8"))["models"][0]
    case.encoding_seconds.append(report["seconds"])
    case.tokens = report["tokens"]
    if number == 0:
        case.lowest_cosine = _lowest_cosine(sides, chunks, report["name"])


def _lowest_cosine(sides: _Sides, chunks: Chunks, model: str) -> float | None:
    """Between the vectors of both sides; None where the chunks have no numbers to tell which are the same.

    Raises:
        SystemExit: a side has left chunks out.
    """
    table = pq.read_table(sides.parquet)
    if table.num_rows != chunks.count:
        raise SystemExit(f"the script wrote {table.num_rows:,} vectors for {chunks.count:,} chunks")
    if not chunks.is_numbered:
        return None
    ours = vectors_of_run(sides.run_folder, model, chunks.count)
    theirs = np.stack(table["vector"].to_numpy(zero_copy_only=False))
    return lowest_cosine(ours, theirs)


def lowest_cosine(ours: Vectors, theirs: Vectors) -> float:
    """The lowest of the rows' cosines. Rows of either side may have any length but zero: in bfloat16 the script's unit
    vectors are up to 0.4% too long or too short.

    >>> lowest_cosine(np.array([[1.0, 0.0]], np.float32), np.array([[2.0, 0.0]], np.float32))
    1.0
    """
    ours, theirs = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in map(np.float64, (ours, theirs)))
    return float(np.einsum("ij,ij->i", ours, theirs).min())


def _report(options: argparse.Namespace, cases: Sequence[Case]) -> dict[str, Any]:
    return {
        "benchmark": "end_to_end",
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(("torch", "transformers", "sentence-transformers", "tokenizers", "pyarrow", "numpy")),
        "model": options.model,
        "rounds": options.rounds,
        "cases": [
            {
                **asdict(case),
                "times_as_fast": {
                    "median": statistics.median(case.ratios), "lowest": min(case.ratios), "highest": max(case.ratios)
                },
            }
            for case in cases
        ],
    }  # fmt: skip


def _print(case: Case) -> None:
    ours, encoding, theirs = map(statistics.median, (case.soloist_seconds, case.encoding_seconds, case.script_seconds))
    print(
        f"{case.chunks:>8,}{case.tokens:>10,}  {case.dtype:<10}{ours:>10.1f}{encoding:>12.1f}{theirs:>10.1f}"
        f"{statistics.median(case.ratios):>8.2f} ({min(case.ratios):.2f} to {max(case.ratios):.2f})",
        flush=True,
    )


def _exit_code(cases: Sequence[Case]) -> int:
    """1 where a case's vectors differ by more than its dtype explains."""
    known = [case for case in cases if case.lowest_cosine is not None]
    faults = [case for case in known if not case.lowest_cosine >= LOWEST_COSINES[case.dtype]]  # type: ignore[operator]
    for case in faults:
        print(f"{case.dtype}: soloist's vectors agree with the script's only to {case.lowest_cosine}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
