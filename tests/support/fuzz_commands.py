"""Embeds and plans hostile collections by the command line: `python -m support.fuzz_commands FIRST LAST FOLDER MODELS`.

In a process of its own, for the same reasons as `support.fuzz_worker`, and with the same output. The first case is a
real `python -m soloist`; the others spare themselves the import of torch.
"""

from __future__ import annotations

import faulthandler
import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from support.hostile_files import hostile_file
from typer.testing import CliRunner

from soloist.cli import app
from soloist.config import SourceConfig
from soloist.sources import discover, read_chunks
from soloist.stores import RunFolder
from soloist.types import OnBadInput, SkippedInput

SECONDS_PER_CASE = 120
_FIRST_FILE_SEED = 10**9
# Tens of thousands of chunks take a model minutes, and show no more than some dozens.
_FILE_BYTES = 100_000
_STEMS = ("{}_chunks", "{} new\nline_chunks", "{}\udcff_chunks", "{}\x1b[2J_chunks", "{}_" + "x" * 150 + "_chunks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str


def command(arguments: Sequence[str], *, real: bool) -> Ended:
    """Run the command line, in a process of its own or in this one."""
    if real:
        done = subprocess.run(
            [sys.executable, "-m", "soloist", *arguments], capture_output=True, timeout=SECONDS_PER_CASE, check=False
        )
        return Ended(exit_code=done.returncode, stdout=done.stdout.decode(), stderr=done.stderr.decode())
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, SystemExit | None), repr(result.exception)
    return Ended(exit_code=result.exit_code, stdout=result.stdout, stderr=result.stderr)


def make_collections(root: Path, seed: int) -> list[str]:
    """Two collections of hostile files below `root`, often with good chunks too; gives options for the command."""
    random_ = random.Random(f"command {seed}")
    for collection in ("a", "b\udcff"):
        folder = root / collection
        folder.mkdir(parents=True)
        for number in range(random_.choice((1, 2, 4))):
            made = hostile_file(_FIRST_FILE_SEED + 10 * seed + number + (5 if collection == "a" else 0))
            stem = _STEMS[0] if random_.random() < 0.7 else random_.choice(_STEMS)
            if len(made.content) < _FILE_BYTES:
                (folder / (stem.format(number) + Path(made.name).suffix)).write_bytes(made.content)
    if random_.random() < 0.7 or not any(root.glob("*/*")):
        (root / "a" / "good_chunks.json").write_text(json.dumps([f"good text {number}" for number in range(20)]))
    return ["--on-bad-input", "skip"] if random_.random() < 0.7 else []


def check_result(result: Ended, out: Path) -> None:
    """A command ends well, or with one line that says what is wrong, and without a run that looks finished."""
    assert "Traceback" not in result.stderr + result.stdout, result.stderr
    assert result.exit_code in (0, 1), f"exit code {result.exit_code}: {result.stderr}"
    if result.exit_code:
        error = result.stderr.splitlines()[-1]
        assert error.startswith("soloist: error: "), error
        assert not error.startswith("soloist: error: unexpected "), error
        assert error.isprintable() and len(error) < 3000, error
        assert not (out / "run.json").exists(), "a run that failed looks finished"


def check_run(root: Path, out: Path, on_bad_input: OnBadInput) -> int:
    """Every chunk of the files is in the run once, in order, with a unit vector of each model, but for those of which
    a model makes none; gives their number.
    """
    run = RunFolder.open(out)
    source = SourceConfig(on_bad_input=on_bad_input)
    models = [model["name"] for model in run.read_json("run.json")["models"]]
    skipped: list[SkippedInput] = []
    rows = [json.loads(row) for row in (out / "skipped.jsonl").read_text(encoding="utf-8").splitlines()]
    vectorless = {(row["file"], row["index"]) for row in rows if "models" in row}
    n_chunks = 0
    for collection in discover(root, source):
        read = read_chunks(collection, source, skipped.append)
        expected = [chunk for chunk, place in read if (str(place.file), place.index) not in vectorless]
        shards = run.shards.indices(collection.name)
        assert [chunk for shard in shards for chunk in run.shards.read_chunks(collection.name, shard)] == expected
        for shard in shards:
            ids = [chunk.id for chunk in run.shards.read_chunks(collection.name, shard)]
            for vector_ids, vectors in (
                *(run.shards.read_vectors(collection.name, model, shard) for model in models),
                run.shards.read_fused(collection.name, shard),
            ):
                assert vector_ids == ids
                np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        n_chunks += len(expected)
    assert [row["index"] for row in rows if "models" not in row] == [item.index for item in skipped]
    assert n_chunks, "a run of nothing"
    return n_chunks


def check_case(seed: int, folder: Path, models: str, *, real: bool) -> tuple[str, int]:
    """How embedding a collection ended, and the number of its chunks, after all checks of it and of its plan."""
    root, out = folder / "chunks", folder / "run"
    options = make_collections(root, seed)
    common = ["--models", models, "--accelerator", "cpu", "--cache-dir", str(folder / "cache")]
    arguments = ["embed", str(root), "--out", str(out), "--lock-dir", str(folder / "locks"), *common, *options]
    embedded = command(arguments, real=real)
    check_result(embedded, out)
    n_chunks = 0 if embedded.exit_code else check_run(root, out, "skip" if options else "error")
    planned = command(["plan", str(root), "--out", str(out), "--json", *common], real=False)
    if planned.stdout:
        json.loads(planned.stdout)
    else:
        check_result(planned, folder / "none")
    return ("done" if not embedded.exit_code else "refused"), n_chunks


def main(arguments: Sequence[str]) -> None:
    """Take the seeds, and say what came of them."""
    first, last, folder, models = int(arguments[0]), int(arguments[1]), Path(arguments[2]), arguments[3]
    counts: Counter[str] = Counter()
    for seed in range(first, last):
        print(f"seed {seed}", flush=True)
        faulthandler.dump_traceback_later(SECONDS_PER_CASE, exit=True)
        case = folder / "case"
        ended, n_chunks = check_case(seed, case, models, real=seed == first)
        faulthandler.cancel_dump_traceback_later()
        counts.update({ended: 1, "chunks": n_chunks})
        shutil.rmtree(case)
    print(json.dumps({"counts": counts}))


if __name__ == "__main__":
    main(sys.argv[1:])
