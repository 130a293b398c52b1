"""Attention on the host as two products by numpy's library, with torch's softmax between them.

torch's attention multiplies float32 through MKL, which takes its slow path on AMD processors, and bfloat16 no faster.
numpy brings OpenBLAS, which takes the fast path there. Knows arrays and numbers of threads, and no network.

Scores stay in float32, also of bfloat16 rows. A row's bits follow from its own tokens alone: each head of a row has
products of its own, on one thread.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from types import TracebackType

import numpy as np
import threadpoolctl
import torch
from numpy.typing import NDArray

# Scores that are computed together, 4 bytes each: a core's caches hold them between the two products.
_SCORES = 1 << 18
# torch's softmax takes up to 1.5 times as long over a number of scores that this does not divide.
_VECTOR = 16
# Up to so many multiplications OpenBLAS does not copy the factors of a product first (its limit with AVX-512).
_UNCOPIED = 10**6

Floats = NDArray[np.float32]


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, out: torch.Tensor) -> None:
    """Attention of rows of one length without a mask, into `out`. The query is scaled already.

    All are (rows, heads, length, head_dim), in float32, with any strides.
    """
    rows, heads, length, dim = query.shape
    padded = -(-length // _VECTOR) * _VECTOR
    queries = min(length, max(_VECTOR, _SCORES // padded))
    pairs = max(1, _SCORES // (queries * padded))
    step = -(-queries // max(1, queries * length * dim // _UNCOPIED + 1))
    scaled, turned, values, written = (each.numpy() for each in (query, key.transpose(2, 3), value, out))
    room = torch.empty(min(pairs, rows * heads) * queries * padded)
    with np.errstate(all="ignore"):  # a row of NaN or infinity keeps them: they are looked for later
        for part in _parts(rows, heads, length, pairs, queries):
            above, given = part[:2], scaled[part]
            scores = room[: given[..., 0].size * padded].view(*given.shape[:3], padded)
            if padded > length:
                scores[..., length:] = float("-inf")
            shares = scores.numpy()[..., :length]
            np.matmul(given, turned[above], out=shares)
            torch.softmax(scores, dim=-1, out=scores)
            _multiply(shares, values[above], written[part], step)


def _multiply(shares: Floats, values: Floats, out: Floats, step: int) -> None:
    """The product of (..., queries, length) with (..., length, dim), some queries at a time."""
    for first in range(0, shares.shape[2], step):
        some = np.s_[:, :, first : first + step]
        np.matmul(shares[some], values, out=out[some])


def _parts(rows: int, heads: int, length: int, pairs: int, queries: int) -> Iterator[tuple[slice, slice, slice]]:
    """Rows, heads and queries whose scores are computed together: whole rows, or some heads, or some queries of one."""
    row_step, head_step = max(1, pairs // heads), min(heads, pairs)
    for row in range(0, rows, row_step):
        for head in range(0, heads, head_step):
            for query in range(0, length, queries):
                yield slice(row, row + row_step), slice(head, head + head_step), slice(query, query + queries)


class _OneThread:
    """numpy's library on one thread, as long as anybody computes with it. Its number of threads is of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limited = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._limited.enter_context(_libraries().limit(limits=1, user_api="blas"))
            self._users += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._limited.close()


one_thread = _OneThread()


@functools.cache
def _libraries() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()


def libraries() -> str:
    """numpy's libraries of products and their kernels, which environment variables may choose.

    Like `openblas 0.3.30 SkylakeX`, or `no known library`.
    """
    pools = [pool for pool in _libraries().info() if pool["user_api"] == "blas" and "numpy" in pool["filepath"]]
    named = [f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}".strip() for pool in pools]
    return ", ".join(sorted(named)) or "no known library"


def can_limit() -> bool:
    """Whether the number of threads of numpy's library can be set."""
    return bool(_libraries().select(user_api="blas").lib_controllers)
