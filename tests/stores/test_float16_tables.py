"""Vectors stored in float16: what is rounded, what is read back, and how far from the vectors it is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from soloist.arrays import Vectors
from soloist.digests import text_digest
from soloist.errors import OutputError
from soloist.stores import RunFolder
from soloist.stores.rows import RowReader, columns_of
from soloist.stores.tables import read_table, table_vectors, vector_file, vector_table, write_vector_file
from soloist.stores.verification import norm_tolerance


def unit_rows(rows: int, dim: int) -> Vectors:
    """Random unit vectors, all different."""
    vectors = np.random.default_rng(dim).standard_normal((rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def rounded(vectors: Vectors) -> Vectors:
    """What is read of vectors that were stored in float16."""
    ids = [str(row) for row in range(len(vectors))]
    return table_vectors(vector_table("m", ids, vectors, vector_dtype="float16"))[1]


def write(path: Path, vectors: Vectors, dtype: Any = "float16") -> tuple[list[bytes], np.ndarray[Any, Any]]:
    """A file of them with digests and counts, which are returned."""
    digests = [text_digest(f"text {row}") for row in range(len(vectors))]
    counts = np.arange(2 * len(vectors), dtype=np.int32).reshape(-1, 2)
    ids = [f"id {row}" for row in range(len(vectors))]
    write_vector_file(path, vector_table("m", ids, vectors, digests, "f", counts, dtype))
    return digests, counts


@pytest.mark.parametrize(("rows", "dim"), [(1, 1), (7, 384), (4096, 384), (40_000, 3), (300, 70_000)])
def test_a_file_of_float16_is_half_as_large_and_reads_as_float32(tmp_path, rows, dim):
    """A reader that expects float32 would take two numbers for one, or every reader must know the setting."""
    vectors = unit_rows(rows, dim)
    write(tmp_path / "a.parquet", vectors)
    ids, found = table_vectors(read_table(tmp_path / "a.parquet"))
    assert ids[-1] == f"id {rows - 1}"
    assert found.dtype == np.float32 and not found.flags.writeable
    assert found.tobytes() == vectors.astype(np.float16).astype(np.float32).tobytes()
    if rows * dim > 1_000_000:
        write(tmp_path / "b.parquet", vectors, "float32")
        assert (tmp_path / "a.parquet").stat().st_size < 0.55 * (tmp_path / "b.parquet").stat().st_size


@pytest.mark.parametrize(("rows", "dim"), [(1, 1), (7, 384), (4096, 384), (40_000, 3), (300, 70_000)])
def test_rows_of_a_float16_file_are_read_one_by_one(tmp_path, rows, dim):
    """With more than one page a column, or values that are not where they are looked for, files would be read whole."""
    vectors, path = unit_rows(rows, dim), tmp_path / "a.parquet"
    digests, counts = write(path, vectors)
    with path.open("rb") as file:
        assert columns_of(file) is not None
    wanted = np.random.default_rng(1).permutation(rows)[:300].astype(np.int64)
    found = RowReader().read(path, wanted)
    assert found.vectors.dtype == np.float32
    assert np.array_equal(found.vectors, rounded(vectors)[wanted])
    assert found.counts is not None and np.array_equal(found.counts, counts[wanted])
    assert found.digests.tobytes() == b"".join(digests[row] for row in wanted)


def test_a_float16_file_of_another_layout_is_read_whole(tmp_path):
    """A file that another tool compressed would give no row, or others."""
    vectors, path = unit_rows(500, 64), tmp_path / "a.parquet"
    write(path, vectors)
    pq.write_table(pq.read_table(path), path, compression="zstd")
    with path.open("rb") as file:
        assert columns_of(file) is None
    found = RowReader().read(path, np.array([499, 3]))
    assert found.vectors.dtype == np.float32
    assert np.array_equal(found.vectors, rounded(vectors)[[499, 3]])


def test_float32_stays_a_view(tmp_path):
    """Memory for every vector twice, because float16 is there too."""
    table = vector_table("m", ["a", "b"], unit_rows(2, 8))
    numbers = table["vector"].chunk(0).flatten().to_numpy(zero_copy_only=True)
    assert np.shares_memory(table_vectors(table)[1], numbers)


@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(-1, 1, width=32)))
def test_each_number_is_rounded_to_the_nearest(vectors):
    """Truncated numbers lose twice as much, all in one direction."""
    found = rounded(vectors).astype(np.float64)
    for towards in (-np.inf, np.inf):
        neighbour = np.nextafter(found.astype(np.float16), np.float16(towards)).astype(np.float64)
        assert (abs(found - vectors) <= abs(neighbour - vectors)).all()
    assert (abs(found - vectors) <= np.maximum(2**-11 * abs(vectors.astype(np.float64)), 2**-25)).all()


def test_a_tie_goes_to_the_even_number():
    """Machines that break ties in two ways write other bytes of the same vectors."""
    halves = np.array([[1 + 2**-11, 1 + 3 * 2**-11, 2**-25, 3 * 2**-25]], np.float32)
    assert rounded(halves).tolist() == [[1, 1 + 2**-9, 0, 2**-23]]


def test_what_was_rounded_is_stored_again_with_the_same_bits():
    """A vector that moved from shard to shard would drift."""
    once = rounded(unit_rows(50, 300))
    assert rounded(once).tobytes() == once.tobytes()


@pytest.mark.parametrize("dim", [384, 768, 1024, 1536, 2048, 4096])
def test_a_vector_and_what_is_stored_of_it_have_a_cosine_of_nearly_one(dim):
    """The figure that the README gives."""
    vectors = unit_rows(400, dim).astype(np.float64)
    found = rounded(vectors.astype(np.float32)).astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(found, axis=1)
    assert (np.einsum("ij,ij->i", vectors, found) / lengths).min() > 1 - 1.3e-7
    assert abs(np.linalg.norm(found, axis=1) - 1).max() < norm_tolerance("float16", dim)


@pytest.mark.parametrize("dim", [255, 1022, 4091])
def test_no_unit_vector_is_rounded_beyond_the_tolerance(dim):
    """`verify` would call a good run damaged: here is the worst there can be, each number at a tie."""
    power = 2.0 ** -round(math.log2(dim) / 2)
    worst = np.full((1, dim), (1 + 2**-11) * power)
    norm = np.linalg.norm(worst)
    moved = abs(np.linalg.norm(rounded(worst.astype(np.float32)).astype(np.float64)) - norm)
    assert norm == pytest.approx(1, abs=2e-3)
    assert 0.9 * 2**-11 < moved < norm_tolerance("float16", dim) < 2**-11 + 1.1e-4
    assert norm_tolerance("float16", dim, roundings=2) == pytest.approx(2 * 2**-11 + 1e-4, abs=5e-6)
    assert norm_tolerance("float32", dim) == 1e-4


@pytest.mark.parametrize("number", [np.nan, np.inf, 65_520.0, -1e30])
def test_what_float16_cannot_hold_is_refused(number):
    """Infinity in a file, which ends every search that meets it."""
    vectors = unit_rows(2, 4)
    vectors[1, 2] = number
    with pytest.raises(ValueError, match=r"the vector of row 1 \('b'\) has NaN or infinity: write only finite numbers"):
        vector_table("m", ["a", "b"], vectors, vector_dtype="float16")


def test_a_file_says_what_it_is(tmp_path):
    """Vectors that were set aside have no row in the manifest, and float16 would be taken for what was computed."""
    for dtype in ("float32", "float16"):
        write(tmp_path / "a.parquet", unit_rows(2, 8), dtype)
        found = vector_file(tmp_path / "a.parquet")
        assert (found.model, found.fingerprint, found.vector_dtype) == ("m", "f", dtype)
        assert pq.read_schema(tmp_path / "a.parquet").field("vector").type == pa.list_(
            {"float32": pa.float32(), "float16": pa.float16()}[dtype], 8
        )
    pq.write_table(pa.table({"id": ["a"], "vector": [[1.0]]}), tmp_path / "a.parquet")
    with pytest.raises(OutputError, match="its column vector is of the type list<"):
        vector_file(tmp_path / "a.parquet")


def test_the_manifest_names_float16_and_leaves_float32_out(tmp_path):
    """Rows of earlier versions name none, and shall be the rows of a float32 run to the byte."""
    run, vectors = RunFolder.create(tmp_path / "run"), unit_rows(1, 8)
    run.manifest.append(run.shards.write_vectors("notes", "float32", 0, ["a"], vectors))
    assert b"vector_dtype" not in (run.path / "manifest.jsonl").read_bytes()
    run.manifest.append(run.shards.write_vectors("notes", "float32", 1, ["a"], vectors, vector_dtype="float16"))
    run.manifest.append(run.shards.write_fused("notes", 0, ["a"], vectors, vector_dtype="float16"))
    records = run.manifest.read().values()
    assert [(each.kind, each.model, each.vector_dtype) for each in records] == [
        ("vectors", "float32", "float32"),
        ("vectors", "float32", "float16"),
        ("fused", "", "float16"),
    ]
    for found in (run.shards.read_vectors("notes", "float32", 1), run.shards.read_fused("notes", 0)):
        assert found[0] == ["a"] and found[1].tobytes() == rounded(vectors).tobytes()
    path = run.path / "manifest.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"float16"', b'"float8"'))
    assert len(run.manifest.read()) == 1  # of a later version: whatever it holds, it is none of ours
