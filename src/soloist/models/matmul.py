"""Which library multiplies on this host: the one that torch takes, or oneDNN with packed weights. In attention, which
has no weights, torch's or numpy's. Knows no model.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from soloist.models.host_attention import attend
from soloist.models.numpy_threads import can_limit, one_thread
from soloist.models.prepacked import can_prepack, empty_linear, packed_product
from soloist.types import DType, Matmul

# torch's products count as the faster ones from here on: where both are alike, noise must not choose.
_CLEARLY = 1.05
# In attention numpy's count as the faster ones from here on. Measured: 1.4 to 1.9 on AMD.
_CLEARLY_IN_ATTENTION = 1.15
_ROUNDS = 5
# Tokens and widths as networks have them: all rounds take some 30 ms in float32 and 15 ms in bfloat16. Measured fifteen
# times on a busy Intel machine, torch took 1.04 to 1.16 times as long in float32, and 1.36 to 1.62 in bfloat16.
_TOKENS, _WIDTH, _INNER = 64, 512, 2048
# Rows of attention, as (rows, heads, tokens, head_dim): all rounds take some 20 ms.
_ATTENTION = (2, 8, 200, 48)


@functools.cache
def fastest_matmul(dtype: DType) -> Matmul:
    """The library that multiplies faster on this host, measured once for a process.

    Where one has no clear lead it is oneDNN, and torch in attention: so two processes on one machine choose alike.
    """
    wanted = getattr(torch, dtype)
    if not can_prepack(wanted):
        return "torch"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker of the host has it
    try:
        products, attention = _fastest(_products(wanted)), _fastest(_attention(wanted)) if can_limit() else {}
    finally:
        torch.set_num_threads(threads)
    if products["torch"] * _CLEARLY < products["onednn"]:
        return "torch"
    is_numpy = bool(attention) and attention["numpy"] * _CLEARLY_IN_ATTENTION < attention["torch"]
    return "onednn+numpy" if is_numpy else "onednn"


def _fastest(ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of processor time for each way, of the fastest of some rounds."""
    best = dict.fromkeys(ways, float("inf"))
    with torch.inference_mode(), one_thread:
        for _ in range(_ROUNDS):
            for name, compute in ways.items():
                began = time.thread_time()
                compute()
                best[name] = min(best[name], time.thread_time() - began)
    return best


def _linear(width: int, height: int, dtype: torch.dtype) -> nn.Linear:
    """A layer of ones. Random weights would move torch's generator, which is the caller's."""
    linear = empty_linear(width, height, dtype)
    for parameter in linear.parameters():
        parameter.fill_(1 / width)
    return linear


def _products(dtype: torch.dtype) -> Mapping[str, Callable[[], torch.Tensor]]:
    """The two products of a layer, with its activation."""
    tokens = torch.ones(_TOKENS, _WIDTH, dtype=dtype)
    widen, narrow = _linear(_WIDTH, _INNER, dtype), _linear(_INNER, _WIDTH, dtype)
    gelu = nn.GELU()
    wide, narrowed = packed_product(widen, gelu if dtype is torch.float32 else None), packed_product(narrow)
    return {
        "torch": lambda: narrow(gelu(widen(tokens))),
        "onednn": lambda: narrowed(wide(tokens) if dtype is torch.float32 else gelu(wide(tokens))),
    }


def _attention(dtype: torch.dtype) -> Mapping[str, Callable[[], object]]:
    """Attention within some rows."""
    rows, heads, length, dim = _ATTENTION
    tokens = torch.linspace(-1, 1, rows * length * heads * dim).to(dtype).view(rows, length, heads, dim).transpose(1, 2)
    out = torch.empty_like(tokens)

    def by_numpy() -> None:
        attend(tokens, tokens, tokens, out, dim**-0.5)

    return {"torch": lambda: scaled_dot_product_attention(tokens, tokens, tokens), "numpy": by_numpy}
