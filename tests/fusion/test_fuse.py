"""The transform: identities that hold for any vectors, and vectors that are predictable by eye."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soloist.arrays import Vectors
from soloist.config import FusionConfig
from soloist.errors import EncodingError, FusionError
from soloist.fusion import FusionPlan, Member, fuse, plan_fusion

DIMS = (8, 24, 13)
METHODS = st.sampled_from(["concat", "mean"])
WEIGHTS = st.tuples(*[st.floats(0.01, 100)] * 3)
CUTS = st.none() | st.integers(2, 8)
SEEDS = st.integers(0, 2**32 - 1)


def unit(vectors: np.ndarray[Any, Any]) -> Vectors:
    """The rows, normalised in float64, as float32."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def random_units(seed: int, rows: int = 5) -> list[Vectors]:
    """One array of random unit rows a model."""
    generator = np.random.default_rng(seed)
    return [unit(generator.normal(size=(rows, dim))) for dim in DIMS]


def plan(
    method: str, weights: tuple[float, ...] = (), cut: int | None = None, dims: tuple[int, ...] = DIMS
) -> FusionPlan:
    """A plan for models named by their position."""
    named = {str(i): weight for i, weight in enumerate(weights)}
    members = [Member(name=str(i), dim=dim) for i, dim in enumerate(dims)]
    made = plan_fusion(FusionConfig(method=method, weights=named, dim=cut), members)
    assert made is not None
    return made


@given(SEEDS, WEIGHTS, CUTS)
def test_the_dot_product_is_the_weighted_sum_of_cosines(seed: int, weights: tuple[float, ...], cut: int | None) -> None:
    """Weights would act as squares, or a cut vector would not be normalised again."""
    vectors = random_units(seed)
    fused = fuse(plan("concat", weights, cut), vectors).astype(np.float64)
    expected = np.zeros((5, 5))
    for rows, weight in zip(vectors, weights, strict=True):
        kept = rows[:, :cut].astype(np.float64)
        kept /= np.linalg.norm(kept, axis=1, keepdims=True)
        expected += weight / sum(weights) * (kept @ kept.T)
    assert np.abs(fused @ fused.T - expected).max() < 1e-6


@given(SEEDS, WEIGHTS, CUTS)
def test_the_mean_is_the_normalised_sum(seed: int, weights: tuple[float, ...], cut: int | None) -> None:
    """A model would be cut elsewhere than the others, or weigh more than it was given."""
    vectors = random_units(seed)
    fused = fuse(plan("mean", weights, cut), vectors)
    total = np.zeros((5, cut or 8))
    for rows, weight in zip(vectors, weights, strict=True):
        kept = rows[:, : cut or 8].astype(np.float64)
        total += weight * kept / np.linalg.norm(kept, axis=1, keepdims=True)
    norms = np.linalg.norm(total, axis=1, keepdims=True)
    # float32 rounds each part; where the parts nearly cancel out, little but that rounding is left
    assert (np.abs(fused - total / norms) * norms / sum(weights)).max() < 1e-6


@given(METHODS, SEEDS, WEIGHTS, CUTS)
def test_fused_rows_are_unit_rows_of_their_own(
    method: str, seed: int, weights: tuple[float, ...], cut: int | None
) -> None:
    """A search by dot product would prefer long vectors; a caller would overwrite the models' vectors."""
    vectors = random_units(seed)
    before = [rows.copy() for rows in vectors]
    made = plan(method, weights, cut)
    fused = fuse(made, vectors)
    assert fused.shape == (5, made.dim) and fused.dtype == np.float32 and fused.flags.c_contiguous
    assert np.abs(np.linalg.norm(fused.astype(np.float64), axis=1) - 1).max() < 1e-6
    assert not any(np.shares_memory(fused, rows) for rows in vectors)
    assert all(np.array_equal(rows, copy) for rows, copy in zip(vectors, before, strict=True))


@given(METHODS, SEEDS, CUTS, st.permutations(range(5)))
def test_a_row_is_fused_alike_wherever_it_stands(method: str, seed: int, cut: int | None, order: list[int]) -> None:
    """A query, fused alone, would differ from the same text, fused as a document."""
    vectors = random_units(seed)
    made = plan(method, (0.7, 0.2, 0.1), cut)
    fused = fuse(made, vectors)
    assert np.array_equal(fuse(made, [rows[order] for rows in vectors]), fused[order])
    alone = np.concatenate([fuse(made, [rows[i : i + 1] for rows in vectors]) for i in range(5)])
    assert np.array_equal(alone, fused)


@given(SEEDS)
def test_one_model_alone_stays_as_it_is(seed: int) -> None:
    """An ensemble of one would change its model's vectors."""
    rows = random_units(seed)[1]
    assert np.array_equal(fuse(plan("concat", (3.0,), dims=(24,)), [rows]), rows)
    mean = plan("mean", (3.0,), dims=(24,))
    once = fuse(mean, [rows])
    assert np.abs(once - rows).max() < 1e-7
    assert np.abs(fuse(mean, [once]) - once).max() < 1e-7


@given(METHODS, SEEDS)
def test_a_model_of_weight_zero_changes_nothing(method: str, seed: int) -> None:
    """A model that was left out would add columns, or its bad row would end the run."""
    vectors = random_units(seed)
    without = fuse(plan(method, (1.0, 2.0), dims=DIMS[:2]), vectors[:2])
    vectors[2][:] = 0
    assert np.array_equal(fuse(plan(method, (1.0, 2.0, 0.0)), vectors), without)


def test_by_eye() -> None:
    """Columns would come in another order than the models, or weights go to the wrong one."""
    east = np.array([[1, 0]], np.float32)
    north = np.array([[0, 1]], np.float32)
    assert np.allclose(fuse(plan("concat", (0.64, 0.36), dims=(2, 2)), [east, north]), [[0.8, 0, 0, 0.6]])
    assert np.allclose(fuse(plan("mean", (0.8, 0.6), dims=(2, 2)), [east, north]), [[0.8, 0.6]])
    long = np.array([[0.6, 0, 0.8]], np.float32)
    assert np.allclose(
        fuse(plan("concat", (0.5, 0.5), 2, dims=(2, 3)), [north, long]), np.array([[0, 1, 1, 0]]) / 2**0.5
    )


def test_a_wide_row_has_the_same_bits_wherever_it_stands() -> None:
    """Rows that cross a block of numpy's conversion buffer would be summed in another order."""
    rows = unit(np.random.default_rng(3).normal(size=(64, 1536)))
    for method in ("concat", "mean"):
        made = plan(method, cut=1000, dims=(1536, 1536))
        fused = fuse(made, [rows, rows[::-1]])
        alone = [fuse(made, [rows[i : i + 1], rows[63 - i : 64 - i]]) for i in range(64)]
        assert np.array_equal(fused, np.concatenate(alone))


def test_read_only_and_strided_arrays_are_fused() -> None:
    """Vectors straight from a memory-mapped file would be refused."""
    vectors = random_units(1)
    wide = np.asfortranarray(vectors[0])
    for rows in vectors:
        rows.setflags(write=False)
    for method in ("concat", "mean"):
        made = plan(method, cut=4)
        assert np.array_equal(fuse(made, [wide, *vectors[1:]]), fuse(made, vectors))


def test_no_rows_fuse_to_no_rows() -> None:
    """An empty shard would end the run."""
    for method in ("concat", "mean"):
        made = plan(method, cut=4)
        assert fuse(made, [np.zeros((0, dim), np.float32) for dim in DIMS]).shape == (0, made.dim)


def test_opposite_vectors_have_no_mean() -> None:
    """Rounding noise would be blown up to a unit vector that means nothing."""
    rows = random_units(7)[0]
    turned = -rows
    turned[:3] = rows[:3]
    with pytest.raises(EncodingError) as caught:
        fuse(plan("mean", dims=(8, 8)), [rows, turned], ids=list("abcde"))
    assert str(caught.value) == "row 3 (d) has a mean of 0 because its models cancel each other out: choose concat"
    with pytest.raises(EncodingError, match=r"^row 3 has a mean of 0"):
        fuse(plan("mean", dims=(8, 8)), [rows, turned])
    assert fuse(plan("concat", dims=(8, 8)), [rows, turned]).shape == (5, 16)


@pytest.mark.parametrize("method", ["concat", "mean"])
def test_a_row_with_nothing_left_after_its_cut_is_named(method: str) -> None:
    """A division by zero would write NaN."""
    rows = np.array([[0, 1, 0], [0, 0, 1]], np.float32)
    with pytest.raises(EncodingError) as caught:
        fuse(plan(method, cut=2, dims=(3,)), [rows], ids=["x", "y"])
    assert str(caught.value) == "row 1 (y) is 0 or not finite in the first 2 dims of 0: choose a larger dim"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite_has_no_mean(value: float) -> None:
    """NaN would pass the test for a small norm."""
    rows = np.array([[1, 0], [value, 0]], np.float32)
    with pytest.raises(EncodingError, match=r"^row 1 "):
        fuse(plan("mean", dims=(2,)), [rows])


def test_arrays_that_do_not_fit_the_plan_are_refused() -> None:
    """numpy would broadcast a row, or cut a model that the plan keeps whole."""
    made = plan("concat", dims=(8, 24))
    one, two, _ = random_units(0)
    with pytest.raises(FusionError, match="there are vectors of 1 model, and the plan is for 2: give an"):
        fuse(made, [one])
    with pytest.raises(FusionError, match=r"the vectors of 1 have the shape \(5, 8\), not \(5, 24\): give"):
        fuse(made, [one, one])
    with pytest.raises(FusionError, match=r"the vectors of 1 have the shape \(1, 24\), not \(5, 24\)"):
        fuse(made, [one, two[:1]])
    with pytest.raises(FusionError, match="the vectors of 0 have the shape"):
        fuse(made, [one[0], two])
