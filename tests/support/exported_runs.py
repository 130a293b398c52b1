"""Finished runs that are made in no time, and whose vectors follow from the texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from support.term_rows import term_rows

from soloist.digests import shard_digest, text_digest
from soloist.exports.kinds import EXPORTS
from soloist.ragged import RaggedRows, TermRows
from soloist.stores import RunFolder
from soloist.stores.sparse_files import SparseShard
from soloist.types import Chunk

DIMS = {"model-a": 6, "org/model.b": 4, "fused": 10}
SPARSE, LEXICAL = "splade-x", "bm25"  # the members of a run with `ragged=True`
VOCABULARY = 5_000  # of the sparse one
SHARD_ROWS = 40
WITH_ROWS = [kind for kind, row in EXPORTS.items() if row.rows]  # exports that such a run can have: it has no models


def vectors_of(texts: Sequence[str], name: str) -> np.ndarray:
    """Unit vectors that follow from the text alone."""
    found = np.empty((len(texts), DIMS[name]), np.float32)
    for row, text in enumerate(texts):
        seed = int.from_bytes(text_digest(f"{name}{text}")[:4], "little")
        drawn = np.random.default_rng(seed).standard_normal(DIMS[name])
        found[row] = drawn / np.linalg.norm(drawn)
    return found


def terms_of(texts: Sequence[str]) -> TermRows:
    """The words of texts, cut at spaces."""
    return term_rows([dict(Counter(text.split())) for text in texts])


def sparse_of(texts: Sequence[str]) -> RaggedRows:
    """Sparse vectors that follow from the text alone; one of no words has no entry."""
    rows = []
    for text in texts:
        drawn = np.random.default_rng(int.from_bytes(text_digest(f"sparse{text}")[:4], "little"))
        keys = np.unique(drawn.integers(0, VOCABULARY, len(text.split())).astype(np.uint32))
        rows.append((keys, drawn.random(len(keys), np.float32) + np.float32(0.1)))
    return RaggedRows.of(
        [len(keys) for keys, _ in rows],
        np.concatenate([keys for keys, _ in rows]),
        np.concatenate([values for _, values in rows]),
    )


def write_run(
    path: Path,
    collections: Mapping[str, Sequence[Chunk]],
    *,
    fused: bool = True,
    dtype: str = "float32",
    dense: bool = True,
    ragged: bool = False,
) -> Path:
    """A finished run of these chunks by two models, and with `ragged` by a sparse model and words; of what was there
    before, only the run's id stays.
    """
    if path.exists():
        for file in sorted(path.rglob("*"), reverse=True):
            if file.name != "id.json":
                file.unlink() if file.is_file() else file.rmdir()
    folder = RunFolder(path)
    for collection, chunks in collections.items():
        for index, start in enumerate(range(0, len(chunks), SHARD_ROWS)):
            some = chunks[start : start + SHARD_ROWS]
            ids, texts = [chunk.id for chunk in some], [chunk.text for chunk in some]
            digests = [text_digest(text) for text in texts]
            folder.manifest.append(folder.shards.write_chunks(collection, index, some))
            for name in ("model-a", "org/model.b") if dense else ():
                vectors, maker = vectors_of(texts, name), f"made by {name}"
                folder.manifest.append(
                    folder.shards.write_vectors(
                        collection, name, index, ids, vectors, digests, maker, vector_dtype=dtype
                    )
                )
            content = shard_digest(ids, digests)
            if ragged:
                sparse = SparseShard(rows=sparse_of(texts), counts=np.ones((len(texts), 2), np.int32))
                folder.manifest.append(
                    folder.sparse.write(
                        collection, SPARSE, index, ids, sparse, digests, f"made by {SPARSE}", dtype, content
                    )
                )
                folder.manifest.append(
                    folder.terms.write(collection, LEXICAL, index, ids, terms_of(texts), digests, "words", content)
                )
            if fused and dense:
                folder.manifest.append(
                    folder.shards.write_fused(
                        collection, index, ids, vectors_of(texts, "fused"), content, "fused", dtype
                    )
                )
    models = [
        {"name": name, "dim": DIMS[name], "fingerprint": f"made by {name}"}
        for name in (("model-a", "org/model.b") if dense else ())
    ]
    counts = [{"name": name, "chunks": len(chunks)} for name, chunks in collections.items()]
    fusion = {"dim": DIMS["fused"], "method": "concat"} if fused and dense else None
    summary = {"models": models, "fusion": fusion, "collections": counts}
    if ragged:
        models.append({"name": SPARSE, "dim": VOCABULARY, "fingerprint": f"made by {SPARSE}", "kind": "sparse"})
        summary["words"] = [{"name": LEXICAL, "language": "english", "fingerprint": "words"}]
    folder.finish(summary)
    return path


def some_chunks(count: int, *, first: int = 0) -> list[Chunk]:
    """Chunks with metadata of several types, some of them in one chunk only."""
    return [
        Chunk(
            id=f"chunk {number}",
            text=f"text {number}, with 'quotes', ünïcödé and\na second line",
            metadata={"page": number, "title": f"T{number}", "share": number / 7, "odd": [1, {"a": None}], "ok": True}
            | ({"tags": ["x", "y"]} if number % 2 else {"rare.name": "only here", "late": None}),
        )
        for number in range(first, first + count)
    ]
