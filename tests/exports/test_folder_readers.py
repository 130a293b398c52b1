"""What reads a folder of Parquet files reads an exported one; a marker of an earlier version finds its new place."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from support.export_readers import READERS, marker_of
from support.exported_runs import some_chunks, vectors_of
from support.killed_commands import run_killed

from soloist.exported import MARKERS
from soloist.exports import export_run
from soloist.exports.markers import marker_name, read_marker, write_marker


def _by_datasets(folder):
    import datasets

    datasets.disable_progress_bars()
    cache = str(folder.parent / "cache")
    return datasets.load_dataset("parquet", data_dir=str(folder), split="train", cache_dir=cache).to_list()


def _by_pandas(folder):
    import pandas

    return pandas.read_parquet(folder).to_dict("records")


def _by_polars(folder):
    import polars

    assert polars.scan_parquet(folder).collect().height == polars.read_parquet(f"{folder}/*.parquet").height
    return polars.read_parquet(folder).to_dicts()


def _by_duckdb(folder):
    import duckdb

    return duckdb.sql(f"SELECT * FROM '{folder}/*.parquet'").to_arrow_table().to_pylist()


FOLDER_READERS = {
    "pandas": _by_pandas,
    "pyarrow": lambda folder: pq.read_table(folder).to_pylist(),
    "pyarrow.dataset": lambda folder: pyarrow.dataset.dataset(folder).to_table().to_pylist(),
    "polars": _by_polars,
    "duckdb": _by_duckdb,
    "datasets": _by_datasets,
}


def assert_readable(out, count):
    """Hold what each library reads of a folder against the rows that it should have."""
    for name, read in FOLDER_READERS.items():
        rows = read(out)
        assert {row["id"] for row in rows} == {chunk.id for chunk in some_chunks(count)} and len(rows) == count, name
        for row in rows[:3]:
            np.testing.assert_allclose(row["vector_fused"], vectors_of([row["text"]], "fused")[0], atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_folders_are_read_as_they_are(make_run, tmp_path, monkeypatch):
    """Each reader but DuckDB stopped at the marker, which is no Parquet; polars does so whatever its name. pyarrow and
    pandas left out the rows of a collection whose name begins with `_`.
    """
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    out = tmp_path / "out"
    export_run(make_run(alpha=some_chunks(30), _x=some_chunks(60, first=30)), "parquet", out=out)
    assert_readable(out, 90)


def test_a_file_of_an_earlier_name_goes(make_run, tmp_path):
    """Readers of every name would have the rows of such a collection twice."""
    run, out = make_run(_x=some_chunks(3), alpha=some_chunks(2)), tmp_path / "out"
    export_run(run, "parquet", out=out)
    plain, new = sorted(path.name for path in out.glob("[!.]*"))
    assert plain == "alpha-part-00000.parquet" and not new.startswith(("_", "."))
    old, marker = "_x-part-00000.parquet", read_marker(out)
    (out / new).rename(out / old)
    files = {old: marker.files[new], plain: marker.files[plain]}
    write_marker(out, dataclasses.replace(marker, files=files), pq.read_schema(out / old))
    report = export_run(run, "parquet", out=out)
    assert (report.written, report.unchanged, report.deleted) == (3, 2, 0)
    assert {path.name for path in out.glob("[!.]*")} == {plain, new}
    assert len(pq.read_table(out)) == 5


def as_of_an_earlier_version(out):
    """Give a folder the marker that it would have of an earlier version."""
    marker = marker_of(out)
    (path,) = out.glob(".soloist-export.*")
    path.unlink()
    (out / "soloist-export.json").write_text(json.dumps(marker))


def markers(out):
    """Their names."""
    return [name for name in MARKERS if (out / name).exists()]


@pytest.mark.parametrize("kind", ["parquet", "numpy", "faiss"])
def test_a_marker_of_an_earlier_version_is_renamed(make_run, tmp_path, kind):
    """Its folder was one that no export wrote, or had two markers; rows that are there unchanged were written anew."""
    run, out = make_run(alpha=some_chunks(50)), tmp_path / "out"
    export_run(run, kind, out=out)
    (new,) = markers(out)
    as_of_an_earlier_version(out)
    assert markers(out) == ["soloist-export.json"]
    report = export_run(run, kind, out=out)
    assert markers(out) == [new] and marker_of(out)["finished"]
    assert report.unchanged == (50 if kind == "parquet" else 0)
    if kind == "parquet":
        import polars

        assert polars.read_parquet(out).height == 50


@pytest.mark.parametrize("event", ["os.rename", "os.remove"])
@pytest.mark.parametrize("kind", ["parquet", "numpy"])
def test_killed_while_the_marker_is_renamed(make_run, tmp_path, kind, event):
    """A folder without a marker would be nobody's; one with two would be what the older one says."""
    out = tmp_path / "out"
    export_run(make_run(alpha=some_chunks(50)), kind, out=out)
    as_of_an_earlier_version(out)
    run = make_run(alpha=some_chunks(60))
    ending = "/soloist-export.json" if event == "os.remove" else marker_name(kind)
    run_killed(["export", str(run), "--to", kind, "--out", str(out)], event=event, ending=ending)
    assert markers(out)
    export_run(run, kind, out=out)
    assert len(markers(out)) == 1 and marker_of(out)["finished"] and len(READERS[kind](str(out))) == 60
