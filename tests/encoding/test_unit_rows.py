"""Which rows have a unit vector: found twice, before and while they are scaled, and the same rows both times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from soloist.encoding.forward import unit_rows, unusable_rows

LARGEST, SMALLEST = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal


@pytest.mark.parametrize(
    ("row", "is_usable"),
    [
        ([3, 4], True), ([0, 0], False), ([-0.0, 0], False), ([np.nan, 1], False), ([0, -np.inf], False),
        ([LARGEST, LARGEST], True), ([SMALLEST, 0], True), ([0, 1], True),
    ],
)  # fmt: skip
def test_a_row_is_usable_unless_it_is_zero_or_not_finite(row, is_usable):
    """A norm that overflows or becomes 0 would send a row to be computed again, or a bad one to the disk."""
    rows = np.array([[1, 1], row], dtype=np.float32)
    units, bad = unit_rows(rows)
    assert (1 not in bad) is is_usable
    assert unusable_rows(rows) == bad
    if is_usable:
        assert np.linalg.norm(units[1].astype(np.float64)) == pytest.approx(1, abs=1e-6)


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6), elements=st.floats(width=32)))
def test_the_quick_look_finds_the_rows_that_cannot_be_scaled(rows):
    """A bad row that only the scaling finds is found when the devices have gone on."""
    assert unusable_rows(rows) == unit_rows(rows)[1]
