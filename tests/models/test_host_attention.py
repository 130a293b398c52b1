"""Attention by numpy's library has the values of torch's, and each row has the bits that it has alone."""

from __future__ import annotations

import threadpoolctl
import torch
from torch.nn.functional import scaled_dot_product_attention

from soloist.models.host_attention import attend
from soloist.models.numpy_threads import one_thread

# (rows, heads, length, head_dim): whole rows at once, some heads of a row, some queries of a head, a vector's edges.
SHAPES = [(40, 3, 5, 8), (3, 12, 190, 32), (5, 2, 600, 24), (2, 2, 1025, 64), (1, 4, 1, 16), (2, 3, 16, 48)]


def tensors(shape: tuple[int, int, int, int]) -> list[torch.Tensor]:
    """Query, key and value as a product of all three gives them: parts of one long row for each token."""
    rows, heads, length, dim = shape
    generator = torch.Generator().manual_seed(sum(shape))
    together = torch.randn(rows * length, 3 * heads * dim, generator=generator)
    return [part.view(rows, length, heads, dim).transpose(1, 2) for part in together.split(heads * dim, dim=1)]


def attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    rows, heads, length, dim = query.shape
    out = query.new_empty(rows, length, heads, dim).transpose(1, 2)
    with one_thread:
        attend(query, key, value, out, dim**-0.5)
    return out


def test_attention_is_as_exact_as_that_of_torch() -> None:
    """Catches a block of queries, heads or rows that is computed twice, not at all, or with another's keys."""
    for shape in SHAPES:
        given = tensors(shape)
        exact = scaled_dot_product_attention(*(tensor.double() for tensor in given))
        assert (attended(*given) - exact).abs().max() <= 3e-6, shape


def test_rows_in_bfloat16_are_rounded_once_at_the_end() -> None:
    """Catches scores in bfloat16, and rows whose numbers are put in another row's place as they become float32."""
    for shape in SHAPES:
        given = [tensor.bfloat16() for tensor in tensors(shape)]
        assert torch.equal(attended(*given), attended(*(tensor.float() for tensor in given)).bfloat16()), shape


def test_a_row_has_the_bits_that_it_has_alone() -> None:
    """Catches products that are cut by how many rows there are, or by what memory lies beside them."""
    for shape in SHAPES:
        together = attended(*tensors(shape))
        for row in range(shape[0]):
            alone = attended(*(tensor[row : row + 1].clone() for tensor in tensors(shape)))
            assert torch.equal(alone[0], together[row]), shape


def test_what_is_not_a_number_stays_in_its_row() -> None:
    """Catches scores of the row before that stay behind, and a warning that would end a run."""
    query, key, value = tensors((3, 2, 21, 8))
    expected = attended(query, key, value)
    query[1, 0, 4, 2] = float("nan")
    key[1, 1, 7, 0] = float("inf")
    found = attended(query, key, value)
    assert torch.equal(found[[0, 2]], expected[[0, 2]])
    assert found[1, 0, 4].isnan().all()
    assert torch.equal(found[1, 0, 5:], expected[1, 0, 5:])


def blas_threads() -> list[int]:
    """Those of the libraries that numpy has brought. Other packages bring some, too, perhaps later."""
    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    return [pool["num_threads"] for pool in pools if "numpy" in pool["filepath"]]


def test_threads_of_numpy_come_back_when_the_last_user_ends() -> None:
    """Catches numpy that stays on one thread for good, or that gets its threads back while somebody still computes."""
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with one_thread:
            with one_thread:
                assert set(blas_threads()) == {1}
            assert set(blas_threads()) == {1}
        assert blas_threads() == before
