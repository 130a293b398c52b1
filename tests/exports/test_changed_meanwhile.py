"""An export beside something else at work: a run that changes, another export into the same place."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from support.exported_runs import WITH_ROWS, some_chunks

from soloist.errors import ExportError, OutputError
from soloist.exports import EXPORTS, Target, export_run
from soloist.exports.locks import exclusive
from soloist.exports.rows import open_source
from soloist.stores import RunFolder

FILES = ("parquet", "numpy", "jsonl", "faiss")


def target_of(kind, where):
    """Where an export goes, as a module takes it."""
    return Target(out=Path(where["out"]) if "out" in where else None, url=where.get("url"))


@pytest.mark.parametrize("kind", WITH_ROWS)
def test_a_run_that_changes_during_its_export_is_not_mixed(make_run, place, kind):
    """New vectors came beside the texts of before, were compared with themselves, and passed."""
    where, read = place(kind)
    run = make_run(alpha=some_chunks(60))
    export_run(run, kind, **where)
    before = read()
    source = open_source(run, None, (), several=EXPORTS[kind].several)
    make_run(alpha=some_chunks(60, first=30))
    with pytest.raises(OutputError, match="was changed meanwhile: export it again when it is finished"):
        import_module(f"soloist.exports.{EXPORTS[kind].module}").export(source, target_of(kind, where))
    assert read() == before
    export_run(run, kind, **where)
    assert len(read()) == 60


def test_a_run_that_changes_between_two_batches_is_not_mixed(make_run):
    """Only what was there at the beginning was looked at."""
    run = make_run(alpha=some_chunks(60))
    batches = open_source(run, None, (), several=True).batches(10)
    next(batches)
    make_run(alpha=some_chunks(60, first=30))
    with pytest.raises(OutputError, match="was changed meanwhile"):
        list(batches)


def test_vectors_of_other_chunks_are_not_exported(make_run, tmp_path):
    """Rows were put together by their places alone."""
    run = make_run(alpha=some_chunks(5))
    folder = RunFolder(run)
    ids, vectors = folder.shards.read_vectors("alpha", "model-a", 0)
    folder.manifest.append(folder.shards.write_vectors("alpha", "model-a", 0, [*ids[:-1], "another"], vectors))
    with pytest.raises(OutputError, match="has model-a vectors of other chunks in shard 0 of alpha"):
        export_run(run, "jsonl", out=tmp_path / "out.jsonl")


@pytest.mark.parametrize("kind", FILES)
def test_one_export_at_a_time(make_run, place, kind):
    """Two at once took each other's temporary files away, and left a marker of neither."""
    where, read = place(kind)
    run = make_run(alpha=some_chunks(20))
    export_run(run, kind, **where)
    out = Path(where["out"])
    lock = out.with_name(f".{out.name}.lock") if kind == "jsonl" else out / ".lock"
    assert lock.is_file()
    make_run(alpha=some_chunks(10))
    with exclusive(lock, "it"), pytest.raises(ExportError, match="another export is writing to"):
        export_run(run, kind, **where)
    assert len(read()) == 20
    assert export_run(run, kind, **where).deleted == 10
    assert len(read()) == 10


@pytest.mark.parametrize("kind", FILES)
def test_some_collections_do_not_take_the_others_away(make_run, place, kind):
    """An export of one collection deleted the files of the other, which the run still has."""
    where, read = place(kind)
    run = make_run(alpha=some_chunks(20), beta=some_chunks(5))
    export_run(run, kind, **where)
    before = read()
    with pytest.raises(ExportError, match="has collection beta, which an export of alpha would take away: export all"):
        export_run(run, kind, collections=["alpha"], **where)
    assert read() == before
    make_run(alpha=some_chunks(20))
    assert export_run(run, kind, collections=["alpha"], **where).deleted == 5
    make_run(alpha=some_chunks(20), beta=some_chunks(5))
    assert export_run(run, kind, collections=["alpha"], **where).rows == 20


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_file_is_written_anew(make_run, tmp_path, damage):
    """The marker had its digest, so every later export left the file as it was, and failed at its end."""
    out = tmp_path / "out"
    run = make_run(alpha=some_chunks(60))
    export_run(run, "parquet", out=out)
    file = out / "alpha-part-00001.parquet"
    whole = file.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    file.write_bytes(whole[:middle] if damage == "cut" else flipped)
    assert export_run(run, "parquet", out=out).written == 20
    assert file.read_bytes() == whole
    assert export_run(run, "parquet", out=out).written == 0


def test_a_users_line_below_the_rows_is_not_overwritten(make_run, tmp_path):
    """Only the first line was looked at."""
    out = tmp_path / "out.jsonl"
    run = make_run(alpha=some_chunks(3))
    export_run(run, "jsonl", out=out)
    with out.open("a") as file:
        file.write('{"note": "of my own"}\n')
    before = out.read_bytes()
    with pytest.raises(ExportError, match="has a line 4 that no export to jsonl wrote"):
        export_run(run, "jsonl", out=out)
    assert out.read_bytes() == before
