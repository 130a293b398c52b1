"""Attention on the host as two products by numpy's library, with torch's softmax between them.

torch's attention multiplies float32 through MKL, which takes its slow path on AMD processors, and bfloat16 no faster.
numpy brings OpenBLAS, which takes the fast path there. Knows arrays, and no network.

Scores stay in float32, also of bfloat16 rows. A row's bits follow from its own tokens alone: each head of a row has
products of its own, on one thread.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

# Scores that are computed together, 4 bytes each: a core's caches hold them between the two products.
_SCORES = 1 << 18
# torch's softmax takes up to 1.5 times as long over a number of scores that this does not divide.
_VECTOR = 16
# Up to so many multiplications OpenBLAS does not copy the factors of a product first (its limit with AVX-512).
_UNCOPIED = 10**6

Floats = NDArray[np.float32]


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, out: torch.Tensor, scaling: float) -> None:
    """Attention of rows of one length without a mask, into `out`.

    All are (rows, heads, length, head_dim), with any strides. Other dtypes than float32 become float32 on the way, some
    rows at a time: so a core's caches hold the numbers until they are used.
    """
    rows, heads, length, dim = query.shape
    blocks = _Blocks(heads, length, dim)
    is_float32 = query.dtype is torch.float32
    with np.errstate(all="ignore"):  # a row of NaN or infinity keeps them: they are looked for later
        for first in range(0, rows, blocks.rows):
            some = slice(first, first + blocks.rows)
            scaled = query[some] * scaling if is_float32 else query[some].float().mul_(scaling)
            written = out[some] if is_float32 else torch.empty_like(scaled)
            turned = key[some].float().transpose(2, 3)
            blocks.attend(scaled.numpy(), turned.numpy(), value[some].float().numpy(), written.numpy())
            if not is_float32:
                out[some].copy_(written)


class _Blocks:
    """Scores of rows of one length, as many together as a core's caches hold: those of all heads of some `rows`, of
    some heads of one row, or of some queries of one head.
    """

    def __init__(self, heads: int, length: int, dim: int) -> None:
        self._length, self._padded = length, -(-length // _VECTOR) * _VECTOR
        self._queries = min(length, max(_VECTOR, _SCORES // self._padded))
        pairs = max(1, _SCORES // (self._queries * self._padded))
        self._heads, self.rows = min(heads, pairs), max(1, pairs // heads)
        self._step = -(-self._queries // max(1, self._queries * length * dim // _UNCOPIED + 1))
        self._room = torch.empty(pairs * self._queries * self._padded)
        self._held: dict[tuple[int, ...], tuple[torch.Tensor, Floats, Floats]] = {}

    def attend(self, query: Floats, turned: Floats, value: Floats, out: Floats) -> None:
        """Attention of up to `rows` rows, (rows, heads, length, head_dim); keys are (rows, heads, head_dim, length)."""
        for head in range(0, query.shape[1], self._heads):
            heads = slice(head, head + self._heads)
            for first in range(0, self._length, self._queries):
                part = np.s_[:, heads, first : first + self._queries]
                given = query[part]
                scores, shares, rest = self._scores(given.shape[:3])
                rest[...] = -np.inf
                np.matmul(given, turned[:, heads], out=shares)
                torch.softmax(scores, dim=-1, out=scores)
                self._multiply(shares, value[:, heads], out[part])

    def _scores(self, shape: tuple[int, ...]) -> tuple[torch.Tensor, Floats, Floats]:
        """Room for scores of (rows, heads, queries): all of it for torch; for numpy what counts of it, and the rest."""
        if shape not in self._held:
            scores = self._room[: math.prod(shape) * self._padded].view(*shape, self._padded)
            every = scores.numpy()
            self._held[shape] = scores, every[..., : self._length], every[..., self._length :]
        return self._held[shape]

    def _multiply(self, shares: Floats, values: Floats, out: Floats) -> None:
        """The product of (..., queries, length) with (..., length, dim), some queries at a time."""
        for first in range(0, shares.shape[2], self._step):
            some = np.s_[:, :, first : first + self._step]
            np.matmul(shares[some], values, out=out[some])
