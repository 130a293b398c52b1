"""soloist's encoder of a static model, without a run: from texts in memory to vectors in memory, as other engines."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from benchmarks.encode.adapters import Encoded, Setup

_SHARD_CHUNKS = 4096  # as in a run


class SoloistInMemory:
    """Computes what a run of a static model computes, shard by shard."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._encoder: Any = None

    def prepare(self) -> None:
        """Nothing: the model is loaded as a run loads it."""

    def load(self) -> Mapping[str, Any]:
        """Load the model, with an encoder that has read no text. Models in use are shared: drop the last one first."""
        from soloist.encoding.encoder import Encoder
        from soloist.models.catalogue import resolve
        from soloist.models.loading import stage

        self._encoder = None
        self._encoder = Encoder(stage(resolve(self._setup.model), cast(Any, self._setup.precision)))
        return {"dtype": self._setup.precision}

    def encode(self, texts: Sequence[str], batch_size: int, *, count: bool) -> Encoded:
        """The vectors of all texts. `batch_size` is not used."""
        from soloist.encoding.tables import text_vectors

        began = time.perf_counter()
        shards = [texts[at : at + _SHARD_CHUNKS] for at in range(0, len(texts), _SHARD_CHUNKS)]
        parts = [text_vectors(self._encoder, shard, lambda: None) for shard in shards]
        found = [part for part in parts if part is not None]
        if len(found) < len(parts):
            raise ValueError("a text has no vector: choose other texts")
        vectors = np.concatenate([part.vectors for part in found])
        seconds = time.perf_counter() - began
        tokens = sum(int(part.counts[:, 0].sum()) for part in found)
        return Encoded(vectors=vectors, seconds=seconds, wall_seconds=seconds, notes={"tokens": tokens})
