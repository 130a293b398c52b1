"""A folder of an export is whole, or says that it is not."""

from __future__ import annotations

import pytest
from support.export_readers import READERS, marker_of
from support.exported_runs import WITH_ROWS, some_chunks
from support.killed_commands import run_killed

from soloist.errors import ExportError
from soloist.exports import export_run
from soloist.exports.markers import marker_name


def is_finished(out):
    """What the marker says."""
    return marker_of(out)["finished"]


def ids(kind, out):
    """The ids of the rows, in order of their numbers."""
    return sorted((row[1] for row in READERS[kind](str(out)).values()), key=lambda id_: int(id_.split()[1]))


def numbers(*ranges):
    """Ids of chunks."""
    return [f"chunk {number}" for each in ranges for number in each]


@pytest.mark.parametrize(
    ("kind", "ending"), [("numpy", "/ids.jsonl"), ("numpy", "/model-a.npy"),
                         ("faiss", "/ids.jsonl"), ("faiss", "/index.faiss")],
)  # fmt: skip
def test_killed_between_two_files_it_is_not_finished(make_run, tmp_path, kind, ending):
    """New vectors lay beside the ids of before, in a folder that said it was whole."""
    out = tmp_path / "out"
    export_run(make_run(alpha=some_chunks(20)), kind, out=out)
    assert is_finished(out)
    run = make_run(alpha=some_chunks(20, first=10))
    run_killed(["export", str(run), "--to", kind, "--out", str(out)], event="os.rename", ending=ending)
    assert not is_finished(out)
    report = export_run(run, kind, out=out)
    assert is_finished(out) and ids(kind, out) == numbers(range(10, 30)) and report.compared == 20


@pytest.mark.parametrize("kind", ["numpy", "faiss"])
def test_killed_while_it_writes_the_export_before_is_whole(make_run, tmp_path, kind):
    """Readers would find no export at all until the next had ended."""
    out = tmp_path / "out"
    export_run(make_run(alpha=some_chunks(20)), kind, out=out)
    run = make_run(alpha=some_chunks(20, first=10))
    run_killed(["export", str(run), "--to", kind, "--out", str(out)], event="open", ending=".tmp")
    assert is_finished(out) and ids(kind, out) == numbers(range(20))


def test_a_file_that_was_replaced_before_a_kill_is_not_believed(make_run, tmp_path):
    """The marker had its digest of before: a run that came back to that content found it there, and left it."""
    out = tmp_path / "out"
    run = make_run(alpha=some_chunks(80))
    export_run(run, "parquet", out=out)
    make_run(alpha=some_chunks(80, first=500))
    command = ["export", str(run), "--to", "parquet", "--out", str(out)]
    run_killed(command, event="os.rename", ending="part-00001.parquet")
    assert not is_finished(out) and set(ids("parquet", out)) == {*numbers(range(500, 540), range(40, 80))}
    make_run(alpha=some_chunks(80))
    report = export_run(run, "parquet", out=out)
    assert is_finished(out) and ids("parquet", out) == numbers(range(80)) and report.written == 80


def test_files_of_shards_that_are_gone(make_run, tmp_path):
    """A folder that only loses files said that it was finished while it lost them."""
    out = tmp_path / "out"
    run = make_run(alpha=some_chunks(80))
    export_run(run, "parquet", out=out)
    make_run(alpha=some_chunks(40))
    command = ["export", str(run), "--to", "parquet", "--out", str(out)]
    run_killed(command, event="os.remove", ending="part-00001.parquet")
    assert not is_finished(out)
    assert export_run(run, "parquet", out=out).unchanged == 40
    assert is_finished(out) and ids("parquet", out) == numbers(range(40))


@pytest.mark.parametrize("kind", ["parquet", "numpy", "faiss"])
def test_temporary_files_of_somebody_else_are_left(make_run, tmp_path, kind):
    """They were removed before anybody asked whose folder it is."""
    out = tmp_path / "out"
    out.mkdir()
    mine = out / ".part-00000.parquet.0123abcd.tmp"
    mine.write_text("of a run that is at work here")
    run = make_run(alpha=some_chunks(3))
    with pytest.raises(ExportError, match="has files that no export"):
        export_run(run, kind, out=out)
    assert [path.name for path in out.iterdir()] == [mine.name]
    mine.rename(out / f".{marker_name(kind)}.0123abcd.tmp")  # a first export that was killed at once
    export_run(run, kind, out=out)
    assert sorted(path.name for path in out.glob(".*")) == [".lock", marker_name(kind)]


@pytest.mark.parametrize("kind", WITH_ROWS)
def test_deleted_are_the_rows_that_are_gone(make_run, place, kind):
    """It was a difference of counts: chunks that went and as many that came were none deleted."""
    where, _ = place(kind)
    export_run(make_run(alpha=some_chunks(12)), kind, **where)
    run = make_run(alpha=[*some_chunks(9), *some_chunks(6, first=100)])
    assert export_run(run, kind, **where).deleted == 3
    assert export_run(run, kind, **where).deleted == 0
