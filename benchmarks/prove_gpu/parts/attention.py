"""Which attention kernel torch takes, what it gives for rows that are all masked, and how long its first call takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.prove_gpu.setting import CannotBeShownError, Seen, Setting
from soloist.devices import open_accelerator
from soloist.memory.kernels import AttentionCall, choose_kernel

_KERNELS = {
    "_scaled_dot_product_flash_attention": "flash",
    "_scaled_dot_product_efficient_attention": "efficient",
    "_scaled_dot_product_cudnn_attention": "cudnn",
    "_scaled_dot_product_flash_attention_for_cpu": "cpu",
}
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_ROWS, _HEADS, _TOKENS, _DIM = 8, 12, 256, 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Case:
    """`blind` rows see no token at all, like the first rows of a text that is padded on the left."""

    name: str
    mask: torch.Tensor | None = None
    is_causal: bool = False
    key_heads: int = _HEADS


def attention(setting: Setting) -> Seen:
    """Call attention as the models do, in each dtype: full, padded and blind rows, causal, grouped heads."""
    if not setting.is_cuda:
        raise CannotBeShownError("torch chooses kernels only on a real card; simulated devices compute on the CPU")
    accelerator = open_accelerator(setting.devices)
    device = accelerator.devices[0]
    with accelerator.computing(), torch.no_grad():  # in inference mode attention reaches `Kernels` whole
        rows = [_called(case, dtype, device, accelerator.card) for dtype in _DTYPES for case in _cases(device)]
    faults = tuple(
        f"{row['case']} in {row['dtype']} runs {row['kernel']} where {row['predicted']} was predicted"
        for row in rows
        if row["kernel"] != row["predicted"]
    )
    nan = sum(row["NaN"] for row in rows)
    slowest = max(row["first ms"] for row in rows)
    return Seen(
        summary=f"{len(rows)} calls, {nan:,} NaN, slowest first call {slowest:.0f} ms",
        figures={"rows": rows, "cudnn": _cudnn()}, faults=faults,
    )  # fmt: skip


def _cudnn() -> int | None:
    version: Callable[[], int | None] = torch.backends.cudnn.version
    return version()


def _cases(device: str) -> Iterator[_Case]:
    padded = torch.ones(_ROWS, 1, _TOKENS, _TOKENS, dtype=torch.bool, device=device)
    padded[-1, :, :, _TOKENS // 2 :] = False
    blind = padded.clone()
    blind[-1, :, : _TOKENS // 2] = False
    yield _Case(name="full rows")
    yield _Case(name="padded rows", mask=padded)
    yield _Case(name="rows that see nothing", mask=blind)
    yield _Case(name="causal rows", is_causal=True)
    yield _Case(name="grouped heads", key_heads=_HEADS // 3)


def _called(case: _Case, dtype: torch.dtype, device: str, card: Any) -> dict[str, Any]:
    query = torch.randn(_ROWS, _HEADS, _TOKENS, _DIM, dtype=dtype, device=device)
    key, value = (torch.randn(_ROWS, case.key_heads, _TOKENS, _DIM, dtype=dtype, device=device) for _ in range(2))
    grouped = case.key_heads != _HEADS
    call = AttentionCall(query=query, key=key, value=value, mask=case.mask, is_causal=case.is_causal, grouped=grouped)
    seconds = []
    for _ in range(2):
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        seen = Kernels()  # type: ignore[no-untyped-call]
        with seen:
            out = torch.nn.functional.scaled_dot_product_attention(
                query, key, value, attn_mask=case.mask, is_causal=case.is_causal, enable_gqa=grouped
            )
        torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return {
        "case": case.name, "dtype": str(dtype).removeprefix("torch."), "predicted": choose_kernel(card, call),
        "kernel": seen.kernel, "NaN": int(torch.isnan(out).sum()), "first ms": round(seconds[0] * 1000, 2),
        "second ms": round(seconds[1] * 1000, 2),
    }  # fmt: skip


class Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records which attention operator reaches the device. If none does, attention was computed step by step."""

    kernel = "math"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.kernel = _KERNELS.get(func.overloadpacket.__name__, self.kernel)
        return func(*args, **(kwargs or {}))
