"""Random unit vectors, as float32 has them."""

from __future__ import annotations

import numpy as np


def unit(rng, rows, dim):
    """(rows, dim) float32, drawn from `rng`."""
    vectors = rng.standard_normal((rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
