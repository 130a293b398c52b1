"""What a Qdrant collection has to have for the vectors of a run, and what it has beside them. Asks no client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from soloist.errors import ExportError
from soloist.exports.members import RaggedMember
from soloist.exports.qdrant.points import Others
from soloist.exports.rows import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The vectors of a run in a collection. `models` are the classes of the client; `vectors` are the collection's
    names of vectors by the run's.
    """

    models: Any
    source: Source
    vectors: Mapping[str, str]

    def configs(self) -> dict[str, Any]:
        """What a new collection is made with, as the client takes it."""
        # Vectors stay on the disk, as they do in the run: a server with the memory for them can be told otherwise.
        cosine = self.models.Distance.COSINE
        dense = {
            self.vectors[name]: self.models.VectorParams(size=dim, distance=cosine, on_disk=True)
            for name, dim in self.source.dims.items()
        }
        sparse = {
            self.vectors[name]: self.models.SparseVectorParams(
                index=self.models.SparseIndexParams(on_disk=True), modifier=self._modifier(member)
            )
            for name, member in self.source.ragged.items()
        }
        return {"vectors_config": dense, "sparse_vectors_config": sparse or None}

    def others(self, target: str, params: Any) -> Others:
        """The names of vectors that a collection has and that are not exported now; `params` is its configuration.

        Raises:
            ExportError: it has no room for those that are.
        """
        dense = params.vectors if isinstance(params.vectors, dict) else {}
        sparse, own = params.sparse_vectors or {}, self.vectors.values()
        for name, dim in self.source.dims.items():
            _require_same(target, name, dim, dense.get(self.vectors[name]), self.models.Distance.COSINE)
        for name, member in self.source.ragged.items():
            _require_sparse(target, name, sparse.get(self.vectors[name]), self._modifier(member))
        return Others(dense=frozenset(dense.keys() - own), sparse=frozenset(sparse.keys() - own))

    def _modifier(self, member: RaggedMember) -> Any:
        """What Qdrant multiplies the terms of a question by; None where their weights are those of the question."""
        return self.models.Modifier.IDF if member.kind == "lexical" else None


def _require_same(target: str, name: str, dim: int, there: Any, cosine: Any) -> None:
    """Refuse a collection whose vectors by a name are not those of the run: `there` is what it has for them, if any."""
    if there is None:
        raise ExportError(
            f"{target} has no vectors named {name}: give --vectors with names that the collection has, choose another "
            "--table, or delete the collection"
        )
    if there.distance != cosine:
        raise ExportError(
            f"{target} compares {name} by {there.distance.value}, and an export by Cosine: choose another --table, or "
            "delete the collection"
        )
    if there.size != dim:
        raise ExportError(
            f"{target} has {there.size} dims of {name}, and the run has {dim}: choose another --table, or delete the "
            "collection"
        )


def _require_sparse(target: str, name: str, there: Any, modifier: Any) -> None:
    """Refuse a collection without sparse vectors by a name, or that weighs them in another way than exports do."""
    if there is None:
        raise ExportError(
            f"{target} has no sparse vectors named {name}: give --vectors with a name that the collection has, choose "
            "another --table, or delete the collection"
        )
    if there.modifier != modifier:
        has, wants = (value.value if value is not None else "no modifier" for value in (there.modifier, modifier))
        raise ExportError(
            f"{target} has {has} for the sparse vectors {name}, and an export has {wants}: choose another --table, or "
            "delete the collection"
        )
