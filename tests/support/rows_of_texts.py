"""What a staged model makes of texts on the CPU, batch by batch, without a run around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from soloist.arrays import Vectors
from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward


def rows_of_texts(encoder: Encoder, texts: Sequence[str], *, batch_rows: int) -> Vectors:
    """The numbers of the texts, (texts, dim), in batches of so many rows."""
    tokenized = encoder.tokenize(texts)
    found = np.zeros((len(texts), encoder.staged.dim), np.float32)
    for batch in encoder.plan(tokenized, lambda length: batch_rows):
        rows = forward(encoder.staged.module, encoder.collate(tokenized, batch), "cpu")
        found[list(batch.rows)] = rows[: len(batch.rows)]
    return found
