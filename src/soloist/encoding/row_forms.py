"""How a staged model takes two rows together: packed or padded, and how near to the vectors of the rows alone.

Knows torch; knows nothing of shards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from soloist.arrays import TokenIds, Vectors
from soloist.encoding.features import BatchFeatures
from soloist.encoding.forward import forward, unit_rows
from soloist.models.loading import StagedModel

NEAR_ENOUGH = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2}  # 1 - cosine


def can_pack(staged: StagedModel, features: BatchFeatures, rows: Sequence[TokenIds], padded: Vectors) -> bool:
    """Whether packed rows have the vectors of padded ones, and the same bits whatever lies beside them."""
    from soloist.encoding import packed_attention  # with the first network: it imports transformers

    if not packed_attention.prepare(staged.module, by_numpy=staged.matmul == "onednn+numpy"):
        return False
    try:
        with _one_thread():
            together = _packed(staged, features, rows)
            alone = np.concatenate([_packed(staged, features, [row]) for row in rows])
    except Exception:  # whatever a network says to features of another form: its rows are padded
        return False
    units = [unit_rows(np.where(rows.any(axis=1, keepdims=True), rows, 1))[0] for rows in (together, padded)]
    cosines = np.einsum("ij,ij->i", *units)  # a sparse row may be all zeros, and then it is so in both forms
    is_near = cosines.min() >= 1 - NEAR_ENOUGH[staged.dtype]
    return bool(is_near) and np.array_equal(together, alone)


def padding_cosine(
    staged: StagedModel, features: BatchFeatures, rows: Sequence[TokenIds], together: Vectors
) -> float | None:
    """The cosine between the vectors of the shortest row alone and among longer ones; None where only rounding differs.

    `together` are the vectors of the rows in one batch.
    """
    if staged.is_static:
        return None
    shortest = min(range(len(rows)), key=lambda row: len(rows[row]))
    alone = forward(staged.module, features.together([rows[shortest]]), "cpu")[:1]
    cosine = float(unit_rows(alone)[0][0] @ unit_rows(together)[0][shortest])
    return cosine if cosine < 1 - NEAR_ENOUGH[staged.dtype] else None


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Within this, torch computes on one core, as a worker of the CPU does: with more, the size of a product says where
    it is cut. A number that is set is that of every thread that begins later, so it is set where that is needed only.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _packed(staged: StagedModel, features: BatchFeatures, rows: Sequence[TokenIds]) -> Vectors:
    return forward(staged.module, features.packed(rows), "cpu")[: len(rows)]
