"""What is in an export, read by the store's own client or by a library that people read such files with."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

# Collection, id, text (empty where it is not kept), and by name vectors, or the entries of sparse vectors and words.
Row = tuple[str, str, str, dict[str, list[float] | dict[Any, float]]]


COLUMNS = {"model-a": "vector_model_a", "org/model.b": "vector_org_model_b_13d65151", "fused": "vector_fused"}
LISTS = {"splade-x": ("indices_splade_x", "values_splade_x"), "bm25": ("terms_bm25", "counts_bm25")}


def _row(row: Mapping[str, Any]) -> Row:
    vectors: dict[str, Any] = {
        name: list(row[column]) for name, column in COLUMNS.items() if row.get(column) is not None
    }
    if row.get("vector_splade_x") is not None:
        vectors["splade-x"] = row["vector_splade_x"]
    for name, (keys, values) in LISTS.items():
        if row.get(keys) is not None:
            vectors[name] = dict(zip(row[keys], row[values], strict=True))
    if row.get("words_bm25") is not None:
        vectors["bm25"] = dict(Counter(row["words_bm25"].split()))
    return row["collection"], row["id"], row["text"], vectors


def read_parquet(target: str) -> dict[str, Row]:
    """By polars."""
    import polars

    frame = polars.read_parquet(f"{target}/*.parquet")
    return {row["key"]: _row(row) for row in frame.iter_rows(named=True)}


def read_numpy(target: str) -> dict[str, Row]:
    """By numpy and scipy."""
    files = {"model-a": "model-a.npy", "fused": "fused.npy"}
    arrays = {name: np.load(Path(target, file)) for name, file in files.items() if Path(target, file).is_file()}
    other = next(Path(target).glob("org--model.b-*.npy"), None)
    if other is not None:
        arrays["org/model.b"] = np.load(other)
    lines = [json.loads(line) for line in Path(target, "ids.jsonl").read_text().splitlines()]
    assert all(len(array) == len(lines) for array in arrays.values())
    entries = {name: _matrix_rows(Path(target), name) for name in LISTS if Path(target, f"{name}.npz").is_file()}
    assert all(len(rows) == len(lines) for rows in entries.values())
    return {
        line["key"]: (
            line["collection"], line["id"], "",
            {name: array[row].tolist() for name, array in arrays.items()}
            | {name: rows[row] for name, rows in entries.items()},
        )
        for row, line in enumerate(lines)
    }  # fmt: skip


def _matrix_rows(folder: Path, name: str) -> list[dict[Any, float]]:
    import scipy.sparse

    matrix = scipy.sparse.load_npz(folder / f"{name}.npz")
    matrix.check_format()
    assert matrix.has_sorted_indices
    terms = folder / f"{name}.terms.txt"
    names = terms.read_text().splitlines() if terms.is_file() else range(matrix.shape[1])
    assert matrix.shape[1] == len(names)
    bounds = zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)
    return [
        {names[at]: value for at, value in zip(matrix.indices[a:b], matrix.data[a:b].tolist(), strict=True)}
        for a, b in bounds
    ]


def read_jsonl(target: str) -> dict[str, Row]:
    """Line by line."""
    lines = [json.loads(line) for line in Path(target).read_text().splitlines()]
    for line in lines:
        for name, there in line["vectors"].items():
            if isinstance(there, dict):
                keys, values = there.values()
                line["vectors"][name] = dict(zip(keys, values, strict=True))
    return {line["key"]: (line["collection"], line["id"], line["text"], line["vectors"]) for line in lines}


def read_faiss(target: str) -> dict[str, Row]:
    """By faiss."""
    import faiss

    index = faiss.read_index(f"{target}/index.faiss")
    lines = [json.loads(line) for line in Path(target, "ids.jsonl").read_text().splitlines()]
    assert index.ntotal == len(lines)
    return {
        line["key"]: (line["collection"], line["id"], "", {"fused": index.reconstruct(row).tolist()})
        for row, line in enumerate(lines)
    }


def read_lancedb(target: str) -> dict[str, Row]:
    """By lancedb."""
    import lancedb

    table = lancedb.connect(target).open_table("soloist").to_arrow()
    rows = table.to_pylist()
    assert len({row["key"] for row in rows}) == len(rows), "a row is there twice"
    return {row["key"]: _row(row) for row in rows}


def read_qdrant(target: str) -> dict[str, Row]:
    """By qdrant-client."""
    from qdrant_client import QdrantClient

    with closing(QdrantClient(path=target)) as client:
        points, _ = client.scroll("soloist", limit=100_000, with_vectors=True)
    return {
        str(point.id): (
            point.payload["collection"], point.payload["id"], point.payload["text"],
            {"org/model.b" if own.startswith("org") else own: _plain(vector) for own, vector in point.vector.items()},
        )
        for point in points
    }  # fmt: skip


def _plain(vector: Any) -> list[float] | dict[Any, float]:
    return vector if isinstance(vector, list) else dict(zip(vector.indices, vector.values, strict=True))


def read_pgvector(target: str) -> dict[str, Row]:
    """By psycopg."""
    import psycopg
    from psycopg.rows import dict_row

    with psycopg.connect(target, row_factory=dict_row) as connection:
        rows = connection.execute("SELECT * FROM soloist").fetchall()
    return {str(row["key"]): _row({name: _spelled(name, value) for name, value in row.items()}) for row in rows}


def _spelled(name: str, value: Any) -> Any:
    """A value of PostgreSQL as other stores have it."""
    if name == "words_bm25" or value is None:  # which is made of the terms
        return None
    if name.startswith("vector_") and value.startswith("["):
        return json.loads(value)
    if name == "vector_splade_x":
        return {int(at) - 1: float(each) for at, _, each in (e.partition(":") for e in value[1:-6].split(",") if e)}
    return value


READERS: Mapping[str, Callable[[str], dict[str, Row]]] = {
    "parquet": read_parquet, "numpy": read_numpy, "jsonl": read_jsonl, "faiss": read_faiss, "lancedb": read_lancedb,
    "qdrant": read_qdrant, "pgvector": read_pgvector,
}  # fmt: skip


def marker_of(out: str | Path) -> dict[str, Any]:
    """What the marker of a folder says; in a folder of Parquet files it is the metadata of one of them."""
    (path,) = Path(out).glob(".soloist-export.*")
    text = path.read_text() if path.suffix == ".json" else pq.read_schema(path).metadata[b"soloist.export"]
    marker: dict[str, Any] = json.loads(text)
    return marker


def has_begun(kind: str, target: str) -> bool:
    """Whether an export that another process makes has written something that would be lost or stay behind."""
    path = Path(target)
    match kind:
        case "parquet":
            return any(path.glob("*-part-*.parquet"))
        case "lancedb":
            return len(list(path.glob("soloist.lance/data/*"))) > 3
        case "qdrant":
            return _sqlite_rows(path / "collection" / "soloist" / "storage.sqlite") > 20
        case "pgvector":
            return _postgres_rows(target) > 20
        case "jsonl":
            return any(entry.stat().st_size for entry in path.parent.glob(f".{path.name}*") if entry.is_file())
    return any(entry.stat().st_size for entry in path.glob(".*") if entry.is_file())


def _sqlite_rows(path: Path) -> int:
    if not path.is_file():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM points").fetchone()[0])
    except sqlite3.Error:
        return 0


def _postgres_rows(target: str) -> int:
    import psycopg

    with psycopg.connect(target, autocommit=True) as connection:
        found: Any = connection.execute("SELECT to_regclass('soloist')").fetchone()
        if found[0] is None:
            return 0
        return int(connection.execute("SELECT count(*) FROM soloist").fetchone()[0])  # type: ignore[index]
