"""Which library multiplies on this host: the one that torch takes, or oneDNN with packed weights. Knows no model."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch
from torch import nn

from soloist.models.prepacked import can_prepack, empty_linear, packed_product
from soloist.types import DType, Matmul

# torch's products count as the faster ones from here on: where both are alike, noise must not choose.
_CLEARLY = 1.05
_ROUNDS = 5
# Tokens and widths as networks have them: all rounds take some 30 ms in float32 and 15 ms in bfloat16. Measured fifteen
# times on a busy Intel machine, torch took 1.04 to 1.16 times as long in float32, and 1.36 to 1.62 in bfloat16.
_TOKENS, _WIDTH, _INNER = 64, 512, 2048


@functools.cache
def fastest_matmul(dtype: DType) -> Matmul:
    """The library that multiplies faster on this host, measured once for a process.

    Where one has no clear lead it is oneDNN: so two processes on one machine choose alike.
    """
    wanted = getattr(torch, dtype)
    if not can_prepack(wanted):
        return "torch"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker of the host has it
    try:
        seconds = _measured(wanted)
    finally:
        torch.set_num_threads(threads)
    return "torch" if seconds["torch"] * _CLEARLY < seconds["onednn"] else "onednn"


def _linear(width: int, height: int, dtype: torch.dtype) -> nn.Linear:
    """A layer of ones. Random weights would move torch's generator, which is the caller's."""
    linear = empty_linear(width, height, dtype)
    for parameter in linear.parameters():
        parameter.fill_(1 / width)
    return linear


def _measured(dtype: torch.dtype) -> dict[Matmul, float]:
    """Seconds of processor time for the two products of a layer, with its activation, of the fastest of some rounds."""
    tokens = torch.ones(_TOKENS, _WIDTH, dtype=dtype)
    widen, narrow = _linear(_WIDTH, _INNER, dtype), _linear(_INNER, _WIDTH, dtype)
    gelu = nn.GELU()
    wide, narrowed = packed_product(widen, gelu if dtype is torch.float32 else None), packed_product(narrow)
    ways: dict[Matmul, Callable[[], torch.Tensor]] = {
        "torch": lambda: narrow(gelu(widen(tokens))),
        "onednn": lambda: narrowed(wide(tokens) if dtype is torch.float32 else gelu(wide(tokens))),
    }
    best = dict.fromkeys(ways, float("inf"))
    with torch.inference_mode():
        for _ in range(_ROUNDS):
            for name, compute in ways.items():
                began = time.thread_time()
                compute()
                best[name] = min(best[name], time.thread_time() - began)
    return best
