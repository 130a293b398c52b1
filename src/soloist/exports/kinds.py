"""The table of exports: where each is, and what it takes. Values; light to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from soloist.types import MemberKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A row of the table: the module or package with its `export`, whether a row there may have several vectors, and
    the kinds of members that it takes. An export without `rows` has what asks for them.
    """

    module: str
    several: bool = True
    kinds: tuple[MemberKind, ...] = ("dense", "sparse", "lexical")
    rows: bool = True


_DENSE: tuple[MemberKind, ...] = ("dense",)
EXPORTS: Mapping[str, Export] = {
    "parquet": Export(module="parquet"),
    "numpy": Export(module="numpy_files"),
    "jsonl": Export(module="jsonl"),
    "faiss": Export(module="faiss_index", several=False, kinds=_DENSE),
    "lancedb": Export(module="lancedb"),
    "qdrant": Export(module="qdrant"),
    "pgvector": Export(module="pgvector"),
    "questions": Export(module="questions", rows=False),
}
