"""What counts as a lack of memory, and so as a reason to try a smaller batch."""

from __future__ import annotations

import pytest
import torch

from soloist.encoding.out_of_memory import is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_every_way_of_saying_that_memory_is_short(error):
    """cuBLAS says it in words of its own on a nearly full device, and the run would end there."""
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: an illegal memory access was encountered"), MemoryError(), ValueError("memory")]
)
def test_other_errors_are_not_retried(error):
    """Halves of a batch that meets a bug meet the same bug, once a row."""
    assert not is_out_of_memory(error)


def test_a_real_request_beyond_the_hosts_memory():
    """The sentence above is torch's own, and may change with it."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
