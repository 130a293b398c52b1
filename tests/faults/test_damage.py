"""Files of a run with a flipped byte, or cut short: `verify` names them, `embed` mends them and computes no more."""

from __future__ import annotations

import os

import pytest
from support.fault_runs import SHARD_CHUNKS, embedded, files_of, flip, require_sentence
from typer.testing import CliRunner

from soloist.cli import app
from soloist.engine import run
from soloist.errors import OutputError
from soloist.events import ListSink, Notice
from soloist.stores import RunFolder
from soloist.stores.verification import verify_run

FILES = {
    "chunks": "alpha/chunks/part-00001.parquet",
    "vectors": "alpha/vectors/two/part-00001.parquet",
    "fused": "alpha/fused/part-00001.parquet",
}
AGAIN = "run the soloist embed command of this run again"
CHANGED = "{} has changed since it was written: " + AGAIN + ", which makes it again"


def halve(path):
    os.truncate(path, path.stat().st_size // 2)


def flip_middle(path):
    flip(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [halve, flip_middle, os.remove])
@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_is_named_and_mended(copied, fresh, kind, damage):
    """Vectors that are not those of the text would be searched for years; a mend by a whole new run costs a day."""
    file = FILES[kind]
    damage(copied.out / file)
    listed = CliRunner().invoke(app, ["verify", str(copied.out)])
    assert listed.exit_code == 1
    *problems, last = listed.stdout.splitlines()
    assert problems and last.endswith("1 problem" if len(problems) == 1 else f"{len(problems)} problems")
    what = "is missing" if damage is os.remove else "has changed since it was written"
    assert problems[0] == f"{file} {what}: {AGAIN}, which makes it again"
    assert all(problem.endswith(f": {AGAIN}") for problem in problems[1:])
    about = {"chunks": "alpha, shard 1", "vectors": "alpha, shard 1, two", "fused": "alpha, shard 1, fused"}[kind]
    assert all(problem.startswith(about) for problem in problems[1:])
    sink = ListSink()
    result = run(copied, sink)
    notices = [event.about for event in sink.events if isinstance(event, Notice)]
    assert notices == ([] if damage is os.remove else [file])
    assert embedded(result) == {"one": 0, "two": SHARD_CHUNKS if kind == "vectors" else 0}
    assert files_of(copied.out) == fresh
    assert CliRunner().invoke(app, ["verify", str(copied.out)]).exit_code == 0


@pytest.mark.parametrize("kind", FILES)
def test_no_flipped_byte_escapes_or_breaks_verify(copied, kind):
    """A byte in a header makes another error of every reader: verify would end with that instead of its list."""
    path = copied.out / FILES[kind]
    content = path.read_bytes()
    reading = {"chunks": lambda run: run.shards.read_chunks("alpha", 1), "vectors": lambda run: run.shards.read_vectors(
        "alpha", "two", 1
    ), "fused": lambda run: run.shards.read_fused("alpha", 1)}[kind]  # fmt: skip
    step = max(1, len(content) // 150)
    for at in range(0, len(content), step):
        flip(path, at)
        folder = RunFolder.open(copied.out)
        assert verify_run(folder).problems[0] == CHANGED.format(FILES[kind])
        try:
            reading(folder)
        except OutputError as error:
            assert require_sentence(error).endswith(
                "run the soloist embed command of this run again, which repairs the file"
            )
        path.write_bytes(content)
    assert verify_run(RunFolder.open(copied.out)).problems == ()


def test_all_kinds_of_damage_at_once_are_listed_each_and_mended_together(copied, fresh):
    """The first fault that is found must not hide the others."""
    for file in FILES.values():
        flip_middle(copied.out / file)
    (copied.out / "alpha/vectors/one/part-00002.parquet").unlink()
    (copied.out / "beta/fused/part-00007.parquet").write_bytes(b"foreign")
    problems = verify_run(RunFolder.open(copied.out)).problems
    for file in FILES.values():
        assert CHANGED.format(file) in problems
    assert f"alpha/vectors/one/part-00002.parquet is missing: {AGAIN}, which makes it again" in problems
    assert "beta/fused/part-00007.parquet is not in the manifest: remove it" in problems
    result = run(copied)
    assert embedded(result) == {"one": 4, "two": SHARD_CHUNKS}
    assert files_of(copied.out) == fresh


def test_vectors_of_another_run_that_are_damaged_are_not_taken_over(copied, tmp_path, fresh):
    """--reuse would carry a flipped bit from run to run."""
    import dataclasses

    flip_middle(copied.out / FILES["vectors"])
    result = run(dataclasses.replace(copied, out=tmp_path / "next", reuse=(copied.out,)))
    assert embedded(result) == {"one": 0, "two": SHARD_CHUNKS}
    assert files_of(tmp_path / "next") == fresh
