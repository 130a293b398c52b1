"""What a disk, a power cut or a person does to the files of a run: `verify` names it, and the next run mends it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.editing import assert_same_files, write_chunks

from soloist.config import RunConfig
from soloist.engine import run
from soloist.errors import OutputError
from soloist.stores import RunFolder
from soloist.stores.verification import verify_run

VECTORS = "alpha/vectors/static/part-00001.parquet"
FUSED = "alpha/fused/part-00001.parquet"
CHUNKS = "alpha/chunks/part-00001.parquet"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, catalogue: Path) -> RunConfig:
    """A finished run of 20 chunks in three shards; to be copied."""
    root = tmp_path_factory.mktemp("finished")
    files = {"alpha/a": [(f"a{n}", f"chunk {n} of the file") for n in range(20)]}
    config = RunConfig(
        chunks_root=write_chunks(root / "chunks", files), out=root / "run", models=("static",), fusion="concat",
        accelerator="cpu", catalogue=catalogue, shard_chunks=8, lock_dir=root / "locks", cache_dir=root / "cache",
    )  # fmt: skip
    run(config)
    return config


def _cut(file: str) -> Callable[[Path], None]:
    def damage(out: Path) -> None:
        content = (out / file).read_bytes()
        (out / file).write_bytes(content[: len(content) // 2])

    return damage


def _flip(file: str) -> Callable[[Path], None]:
    """One bit of a number, which every Parquet reader takes for a number."""

    def damage(out: Path) -> None:
        content = bytearray((out / file).read_bytes())
        content[len(content) // 2] ^= 1
        (out / file).write_bytes(content)

    return damage


def _remove(file: str) -> Callable[[Path], None]:
    return lambda out: (out / file).unlink()


def _swap(out: Path) -> None:
    """Two whole files, each under the name of the other."""
    first, second = out / VECTORS, out / VECTORS.replace("00001", "00000")
    third = first.with_name("third")
    first.rename(third)
    second.rename(first)
    third.rename(second)


@pytest.mark.parametrize(
    ("damage", "embedded"),
    [
        (_cut(VECTORS), 8), (_flip(VECTORS), 8), (_remove(VECTORS), 8), (_swap, 16),
        (_cut(FUSED), 0), (_flip(FUSED), 0), (_remove(FUSED), 0),
        (_cut(CHUNKS), 0), (_flip(CHUNKS), 0), (_remove(CHUNKS), 0),
    ],
    ids=[
        "vectors cut", "vectors flipped", "vectors gone", "vectors swapped", "fused cut", "fused flipped", "fused gone",
        "chunks cut", "chunks flipped", "chunks gone",
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_and_mended(finished, tmp_path, damage, embedded):
    """Vectors that are not those of their texts, for as long as nobody looks."""
    out = shutil.copytree(finished.out, tmp_path / "run")
    damage(out)
    assert verify_run(RunFolder.open(out)).problems
    report = run(_into(finished, out)).models[0]
    assert report.embedded == embedded
    assert_same_files(out, finished.out)
    assert verify_run(RunFolder.open(out)).problems == ()


def _tear_row(out: Path) -> None:
    with (out / "manifest.jsonl").open("rb+") as file:
        file.truncate((out / "manifest.jsonl").stat().st_size - 10)


def _spoil_row(out: Path) -> None:
    path = out / "manifest.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(["\0" * 40 + "\n" if VECTORS in line else line for line in lines]))


def _leave_behind(out: Path) -> None:
    """What killed runs leave: half a file, chunks that were being read, vectors that were set aside, half a line."""
    (out / "alpha" / "vectors" / "static" / ".part-00001.parquet.0123abcd.tmp").write_bytes(b"PAR1")
    incoming = out / ".incoming" / "alpha" / "chunks"
    incoming.mkdir(parents=True)
    shutil.copyfile(out / CHUNKS, incoming / "part-00007.parquet")
    (out / ".incoming" / "manifest.jsonl").write_text('{"file": "alpha/chunks/part-00007.parquet", "ki')
    (out / ".previous").mkdir()
    (out / ".previous" / "0123.parquet").write_bytes(b"PAR1")
    (out / "state.json").write_text("{")
    (out / "run.json").unlink()
    with (out / "events.jsonl").open("a") as file:
        file.write('{"time": 1, "eve')


@pytest.mark.parametrize(
    ("damage", "embedded"),
    [(_tear_row, 0), (_spoil_row, 8), (_leave_behind, 0)],
    ids=["row torn", "row spoilt", "left behind"],
)
def test_a_folder_that_was_left_in_disorder_is_put_in_order(finished, tmp_path, damage, embedded):
    """Half a row or half a line glued to the next one loses that one too."""
    out = shutil.copytree(finished.out, tmp_path / "run")
    damage(out)
    report = run(_into(finished, out)).models[0]
    assert report.embedded == embedded
    assert_same_files(out, finished.out)
    events = [_event(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert events.count("RunStarted") == 2 and events.count("RunFinished") == 2


def test_a_folder_without_a_manifest_is_left_alone(finished, tmp_path):
    """What its files are, nobody can say: they may be somebody else's."""
    out = shutil.copytree(finished.out, tmp_path / "run")
    (out / "manifest.jsonl").unlink()
    with pytest.raises(OutputError, match="is not a run folder"):
        run(_into(finished, out))
    assert (out / VECTORS).is_file()


def _event(line: str) -> str | None:
    try:
        event: str = json.loads(line)["event"]
    except ValueError:
        return None
    return event


def _into(config: RunConfig, out: Path) -> RunConfig:
    return dataclasses.replace(config, out=out)
