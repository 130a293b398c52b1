"""The vectors of texts by a table of token vectors, without a device. Knows encoders; knows nothing of shards.

A pass on the host computes the same vectors, bit by bit, because a row's bits follow from the row alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soloist.arrays import Vectors
from soloist.encoding.batching import slices
from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward, unit_rows
from soloist.types import Batch

# The characters of the texts between two calls of `check`. With fewer characters, threads would wait for the
# interpreter's lock more often.
_CHARACTERS = 1 << 19


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TextVectors:
    """The vectors of texts, (rows, dim) float32 of unit length, and their token counts, (rows, 2).

    The two counts are the tokens that were read of a text, and those that were cut off.
    """

    vectors: Vectors
    counts: NDArray[np.int32]


def text_vectors(encoder: Encoder, texts: Sequence[str], check: Callable[[], object]) -> TextVectors | None:
    """The vectors of texts by a bare table (`is_bare_table`); None if a text has no vector in the model's dtype.

    `check` is called now and then, and may raise.
    """
    vectors: list[Vectors] = []
    counts: list[NDArray[np.int32]] = []
    for piece in slices(texts, _CHARACTERS):
        check()
        tokenized = encoder.tokenize(piece)
        if encoder.vectorless(tokenized):
            return None
        batch = Batch(rows=tuple(range(len(piece))), padded_length=1)
        computed = forward(encoder.staged.module, encoder.collate(tokenized, batch), "cpu")[: len(piece)]
        units, bad = unit_rows(computed)
        if bad:
            return None
        vectors.append(units)
        counts.append(tokenized.counts)
    return TextVectors(vectors=np.concatenate(vectors), counts=np.concatenate(counts))
