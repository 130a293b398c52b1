"""Fusions that are fitted: what they keep, what they turn, and what they refuse."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soloist.config import FusionConfig
from soloist.errors import FusionError
from soloist.fusion import Fitted, Fitting, Member, fuse, plan_fusion, sampled


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def low_rank(rng, rows, rank, dim):
    return unit(rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, dim)))


def fitted(plan, vectors, cuts=()):
    fitting = Fitting(plan)
    edges = [0, *cuts, len(vectors[0])]
    for start, end in itertools.pairwise(edges):
        fitting.see([part[start:end] for part in vectors])
    return fitting.fitted()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1_000), st.lists(st.integers(1, 99), max_size=3))
def test_a_projection_of_enough_dims_keeps_every_cosine(seed, cuts):
    """Weights would be left out, models be mixed up, or the axes be other than the leading ones."""
    rng = np.random.default_rng(seed)
    vectors = [low_rank(rng, 100, 6, 20), low_rank(rng, 100, 5, 12)]
    members, weights = [Member(name="a", dim=20), Member(name="b", dim=12)], {"a": 0.8, "b": 0.2}
    plan = plan_fusion(FusionConfig(method="projection", dim=11, weights=weights), members)
    whole = fuse(plan_fusion(FusionConfig(weights=weights), members), vectors)
    found = fuse(plan, vectors, fitted=fitted(plan, vectors, sorted(cuts)))
    np.testing.assert_allclose(found @ found.T, whole @ whole.T, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_a_projection_is_the_singular_value_decomposition():
    """Fewer dims would not be the best ones, or come with another sign each time."""
    rng = np.random.default_rng(0)
    vectors = [unit(rng.standard_normal((300, 8)))]
    plan = plan_fusion(FusionConfig(method="projection", dim=3), [Member(name="a", dim=8)])
    (matrix,) = fitted(plan, vectors).matrices
    axes = np.linalg.svd(vectors[0].astype(np.float64), full_matrices=False)[2][:3].T
    np.testing.assert_allclose(np.abs(axes.T @ matrix), np.eye(3), atol=1e-4)
    assert (np.take_along_axis(matrix, np.abs(matrix).argmax(axis=0)[None], axis=0) > 0).all()


@pytest.mark.parametrize("dims", [(16, 16), (16, 24), (24, 16)])
def test_an_aligned_mean_finds_the_rotation_between_two_models(dims):
    """Like would be averaged with unlike."""
    rng = np.random.default_rng(1)
    base = low_rank(rng, 400, 10, dims[0])
    turn = np.linalg.qr(rng.standard_normal((max(dims), max(dims))))[0][: dims[0], : dims[1]]
    other = unit(base.astype(np.float64) @ turn) if dims[1] >= dims[0] else unit(base @ turn)
    members = [Member(name="a", dim=dims[0]), Member(name="b", dim=dims[1])]
    plan = plan_fusion(FusionConfig(method="aligned-mean"), members)
    assert plan.dim == dims[0]
    found = fuse(plan, [base, other], fitted=fitted(plan, [base, other]))
    if dims[1] >= dims[0]:  # nothing was lost on the way
        np.testing.assert_allclose(found @ found.T, base @ base.T, atol=1e-4)
    assert np.einsum("ij,ij->i", found, base).mean() > 0.9


@pytest.mark.parametrize("method", ["projection", "aligned-mean"])
def test_a_model_of_weight_zero_has_no_part_in_a_fit(method):
    """The first model may be the one that is left out."""
    rng = np.random.default_rng(2)
    vectors = [unit(rng.standard_normal((50, 6))), unit(rng.standard_normal((50, 5)))]
    members = [Member(name="a", dim=6), Member(name="b", dim=5)]
    plan = plan_fusion(FusionConfig(method=method, weights={"a": 0.0, "b": 1.0}), members)
    found = fuse(plan, vectors, fitted=fitted(plan, vectors))
    assert found.shape == (50, 5)
    np.testing.assert_allclose(found @ found.T, vectors[1] @ vectors[1].T, atol=1e-5)


def test_what_cannot_be_fitted_is_refused():
    """It would be found out after hours of encoding, or give vectors of nothing."""
    members = [Member(name="a", dim=6), Member(name="b", dim=5)]
    with pytest.raises(FusionError, match=r"dim is 12 but the models have only 11 dims together: choose a dim of 11"):
        plan_fusion(FusionConfig(method="projection", dim=12), members)
    with pytest.raises(FusionError, match=r"dim is 4, but an aligned mean has the 6 dims of a: leave dim out"):
        plan_fusion(FusionConfig(method="aligned-mean", dim=4), members)
    plan = plan_fusion(FusionConfig(method="projection"), members)
    assert plan.dim == 5
    few = [unit(np.ones((3, 6))), unit(np.ones((3, 5)))]
    with pytest.raises(FusionError, match=r"a projection to 5 dims cannot be fitted to 3 chunks: choose a dim of 3"):
        fitted(plan, few)
    for wrong in (None, Fitted(matrices=(np.ones((6, 4), np.float32), np.ones((5, 4), np.float32)))):
        with pytest.raises(FusionError, match="needs the matrices that were fitted for it"):
            fuse(plan, few, fitted=wrong)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 40))
def test_a_sample_is_every_nth_row(sizes, most):
    """Blocks would each begin anew, so that a sample hung on how the run was cut."""
    rows = np.arange(sum(sizes), dtype=np.float32)[:, None]
    edges = np.cumsum([0, *sizes])
    blocks = [[rows[start:end]] for start, end in itertools.pairwise(edges)]
    found = np.concatenate([block[0] for block in sampled(blocks, len(rows), most)])[:, 0]
    step = -(-len(rows) // most)
    assert found.tolist() == list(range(0, len(rows), step))
    assert len(found) <= most
