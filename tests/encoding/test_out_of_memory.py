"""What counts as a lack of memory, and how a batch is split where there is one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from soloist.encoding.out_of_memory import came_from_elsewhere, is_out_of_memory, split_until_it_fits
from soloist.types import Batch


@pytest.mark.parametrize(
    ("error", "elsewhere"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you"), True),
    ],
)
def test_every_way_of_saying_that_memory_is_short(error, elsewhere):
    """On a nearly full device, cuBLAS reports the lack of memory in its own words, and the run would end. Only torch's
    allocator gives its free blocks back before it raises.
    """
    assert is_out_of_memory(error, lambda: 100 * 2**20)
    assert came_from_elsewhere(str(error)) is elsewhere


def test_cublas_on_a_device_with_room_says_something_else():
    """A library that does not fit the driver says the same. soloist would blame memory, and try each row."""
    error = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")

    def broken() -> int:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    assert not is_out_of_memory(error, lambda: 2 * 2**30)
    assert not is_out_of_memory(error, lambda: None)
    assert not is_out_of_memory(error, broken)


@pytest.mark.parametrize("free", [None, 300 * 2**20])
def test_a_failed_allocation_of_cublas_is_always_one(free):
    """A run would end where a smaller batch fits: what cuBLAS asked for may be more than what is free."""
    error = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    assert is_out_of_memory(error, lambda: free)


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: an illegal memory access was encountered"), MemoryError(), ValueError("memory")]
)
def test_other_errors_are_not_retried(error):
    """Halves of a batch that meets a bug meet the same bug, once a row."""
    assert not is_out_of_memory(error, lambda: 0)


def test_a_real_request_beyond_the_hosts_memory():
    """The sentence above is torch's own, and may change with it."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value, lambda: None)


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_batch_is_split_until_its_halves_fit(rows, room):
    """A row that is computed twice, never or out of order, or a batch that is split although it fits."""
    tried: list[int] = []
    done: list[int] = []

    def begin(batch: Batch) -> str | None:
        tried.append(len(batch.rows))
        if len(batch.rows) > room:
            return f"{len(batch.rows)} rows are too many"
        done.extend(batch.rows)
        return None

    split: list[str] = []
    batch = Batch(rows=tuple(range(rows)), padded_length=7)
    split_until_it_fits(batch, begin, lambda part, message: split.append(message))
    assert done == list(range(rows))
    assert split == [f"{size} rows are too many" for size in tried if size > room]


def test_a_single_row_that_does_not_fit_ends_the_splitting():
    """A row has no halves: to go on would try it for ever."""
    messages: list[str] = []

    def make_room(batch: Batch, message: str) -> None:
        messages.append(f"{len(batch.rows)}: {message}")
        if len(batch.rows) == 1:
            raise RuntimeError("too large")

    with pytest.raises(RuntimeError, match="too large"):
        split_until_it_fits(Batch(rows=(0, 1), padded_length=9), lambda batch: "full", make_room)
    assert messages == ["2: full", "1: full"]
