"""A FAISS index of inner products, which of unit vectors are cosines, and `ids.jsonl` with a line for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from soloist.arrays import Vectors
from soloist.exports.client_library import load
from soloist.exports.folders import ExportFolder, export_folder
from soloist.exports.numpy_files import IDS, gone_count, row_numbers, write_ids
from soloist.exports.report import ExportReport, compare
from soloist.exports.rows import Source
from soloist.exports.target import Target

INDEX = "index.faiss"
# Up to here every vector is compared: 100,000 of 1,024 dims are some 10 ms a question. Beyond, a graph of neighbours.
EXACT_ROWS = 100_000
_NEIGHBOURS = 32
_CONSTRUCTION = 200


def export(source: Source, target: Target) -> ExportReport:
    """Write the whole index, in the order of the run, and read a sample back. All vectors are in memory meanwhile."""
    faiss = load("faiss", "faiss", "faiss-cpu")
    with export_folder(source, target, "faiss", several=False) as folder:
        return _filled(folder, source, faiss)


def _filled(folder: ExportFolder, source: Source, faiss: Any) -> ExportReport:
    ((name, dim),) = source.dims.items()
    deleted = gone_count(folder.path / IDS, source)
    index = _index(faiss, dim, source.rows)
    for collection, shard in source.each_shard():
        index.add(np.ascontiguousarray(source.vectors(name, collection, shard), dtype=np.float32))
    with folder.switching() as path_of:
        faiss.write_index(index, str(path_of(INDEX)))
        write_ids(source, path_of(IDS))
    there = faiss.read_index(str(folder.path / INDEX))

    def read(keys: Sequence[str]) -> Mapping[str, Mapping[str, Vectors]]:
        return {key: {name: there.reconstruct(at)} for key, at in row_numbers(folder.path / IDS, keys).items()}

    return ExportReport(
        target=str(folder.path), rows=source.rows, written=source.rows, unchanged=0, deleted=deleted,
        compared=compare(source, str(folder.path), there.ntotal, read), vectors={name: INDEX},
        notes=() if source.rows <= EXACT_ROWS else ("its search is approximate: an HNSW graph",),
    )  # fmt: skip


def _index(faiss: Any, dim: int, rows: int) -> Any:
    if rows <= EXACT_ROWS:
        return faiss.IndexFlatIP(dim)
    index = faiss.IndexHNSWFlat(dim, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _CONSTRUCTION
    return index
