"""Texts of a run to measure a model on: some of the first shard that the model has to embed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from soloist.engine.resume.pending import ModelShard
from soloist.ingestion.ingest import ShardRef
from soloist.stores import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """The first shard that each model has to embed, of the models that have any."""

    folder: RunFolder
    first: Mapping[str, ShardRef]

    @classmethod
    def of(cls, work: Sequence[ModelShard], folder: RunFolder) -> Samples:
        """Those of what is left to embed."""
        return cls(folder=folder, first={item.model: item.shard for item in reversed(work)})

    def texts(self, model: str, count: int) -> list[str]:
        """So many texts of a model's shard, evenly from its first to its last; all where it has fewer."""
        shard = self.first[model]
        texts = self.folder.shards.read_shard(shard.collection, shard.index).texts
        return [texts[at] for at in np.linspace(0, len(texts) - 1, min(count, len(texts))).astype(int)]
