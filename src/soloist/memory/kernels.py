"""Which attention kernel a device runs, and what the kernel allocates. Knows torch's operators, and no models.

On long texts the kernel decides the peak: traced for bge-m3 in float16 at 4 x 2,048 tokens, the math kernel needs
11.8 times the memory of the memory-efficient one. The rules are those of `sdp_utils.cpp` in torch
(aten/src/ATen/native/transformers/cuda).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.overrides import TorchFunctionMode

from soloist.memory.cards import Card

Kernel = Literal["flash", "efficient", "math", "cpu"]

_HALVES = (torch.float16, torch.bfloat16)
_FIRST_WITH_FLASH = (8, 0)
_LONGEST_HEAD_FOR_FLASH = 256
_FIRST_WITH_ALIGNED_HALVES = (7, 0)
_BIAS_ALIGNMENT = 8  # elements; an additive mask with other rows is copied into one with padded rows
_LONGEST_HEAD_IN_REGISTERS = 128  # beyond it the efficient kernel adds up in a float32 buffer of its own


# These run on the matrix library, whose first call on a device makes its workspace.
MATRIX_PRODUCTS = frozenset(
    getattr(torch.ops.aten, name).default
    for name in ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "addbmm", "mv", "addmv")
)


# These operators are made of others, and arrive whole in inference mode. In the networks that were traced, only these
# two allocate more than their result: copies of permuted heads, and the statistics of a norm.
COMPOSED = frozenset({torch.ops.aten.matmul.default, torch.ops.aten.layer_norm.default})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionCall:
    """The arguments of a `scaled_dot_product_attention`. Query, key and value are (batch, heads, tokens, head_dim)."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None = None
    is_causal: bool = False
    scale: float | None = None
    grouped: bool = False

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> AttentionCall:
        """Read the arguments as torch's function takes them."""
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        return cls(
            query=given["query"],
            key=given["key"],
            value=given["value"],
            mask=given.get("attn_mask"),
            is_causal=bool(given.get("is_causal", False)),
            scale=given.get("scale"),
            grouped=bool(given.get("enable_gqa", False)),
        )


def choose_kernel(card: Card, call: AttentionCall) -> Kernel:
    """The kernel that torch would run for this call on this card.

    It is never cuDNN's: that one is off while a lease is held (`devices.attention_backends`).
    """
    if card.capability is None:
        return "cpu"
    dtype, head_dim = call.query.dtype, call.query.shape[-1]
    same_heads = call.query.shape[1] == call.key.shape[1]
    if (
        card.capability >= _FIRST_WITH_FLASH
        and dtype in _HALVES
        and call.mask is None
        and head_dim <= _LONGEST_HEAD_FOR_FLASH
    ):
        return "flash"
    known = dtype != torch.bfloat16 or card.capability >= _FIRST_WITH_FLASH
    if known and same_heads and head_dim % _head_alignment(card.capability, dtype) == 0:
        return "efficient"
    return "math"


def _head_alignment(capability: tuple[int, int], dtype: torch.dtype) -> int:
    """The elements of a whole vector of the matrix units, in which rows of a head come (`minimum_gemm_alignment`)."""
    if dtype in _HALVES:
        return 8 if capability >= _FIRST_WITH_ALIGNED_HALVES else 1
    return 4 if capability >= _FIRST_WITH_FLASH else 1


def run_kernel(kernel: Kernel, call: AttentionCall, card: Card) -> torch.Tensor:
    """Run the operators of a kernel on fake tensors, in the order in which a device allocates for them."""
    match kernel:
        case "efficient":
            return _efficient(call)
        case "flash":
            return _flash(call, card)
        case "math":
            return _math(call)
    return torch.nn.functional.scaled_dot_product_attention(
        call.query, call.key, call.value, attn_mask=call.mask, is_causal=call.is_causal, scale=call.scale,
        enable_gqa=call.grouped,
    )  # fmt: skip


class CardAttention(TorchFunctionMode):
    """Within this, attention on fake tensors runs the operators of the kernel that a card would run."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self._card = card

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            call = AttentionCall.of(args, kwargs or {})
            return run_kernel(choose_kernel(self._card, call), call, self._card)
        return func(*args, **(kwargs or {}))


class ExpandGroupedHeads(TorchFunctionMode):
    """Within this, grouped key and value heads are repeated for attention where that avoids the math kernel.

    Below capability 8.0 no fused kernel takes grouped heads, and in float32 none does on any card. Traced for a 1.5B
    Qwen2 without a mask at 4 x 2,048 tokens on a T4, repeating needs 533 MiB and the math kernel 1,865
    (https://github.com/huggingface/transformers/issues/48633).
    """

    def __init__(self, card: Card) -> None:
        super().__init__()
        self._card = card

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention and kwargs.get("enable_gqa"):
            call = AttentionCall.of(args, kwargs)
            if choose_kernel(self._card, call) == "math":
                key, value = (_repeated(heads, call.query.shape[1]) for heads in (call.key, call.value))
                return func(call.query, key, value, attn_mask=call.mask, is_causal=call.is_causal, scale=call.scale)
        return func(*args, **kwargs)


def _repeated(heads: torch.Tensor, count: int) -> torch.Tensor:
    """(batch, groups, tokens, head_dim) as (batch, count, tokens, head_dim), with the copies of a group together."""
    batch, groups, tokens, head_dim = heads.shape
    wide = heads[:, :, None].expand(batch, groups, count // groups, tokens, head_dim)
    return wide.reshape(batch, count, tokens, head_dim)


def _efficient(call: AttentionCall) -> torch.Tensor:
    bias = _additive(call)
    head_dim = max(call.query.shape[-1], call.value.shape[-1])
    accumulator = None
    if call.query.dtype in _HALVES and head_dim > _LONGEST_HEAD_IN_REGISTERS:
        accumulator = torch.empty(call.query.shape, dtype=torch.float32)
    out: torch.Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        call.query, call.key, call.value, bias, False, 0.0, call.is_causal, scale=call.scale
    )[0]
    del accumulator
    return out


def _math(call: AttentionCall) -> torch.Tensor:
    # Decomposed, it reaches a recorder as the many operators that a device runs, and not as one.
    math = torch.ops.aten._scaled_dot_product_attention_math.default
    result: tuple[torch.Tensor, torch.Tensor] = math.decompose(
        call.query,
        call.key,
        call.value,
        call.mask,
        0.0,
        call.is_causal,
        None,
        scale=call.scale,
        enable_gqa=call.grouped,
    )
    return result[0]


def _flash(call: AttentionCall, card: Card) -> torch.Tensor:
    head_dim = call.query.shape[-1]
    short = -head_dim % 8
    heads = [torch.nn.functional.pad(t, (0, short)) if short else t for t in (call.query, call.key, call.value)]
    batch, count, tokens, wide = heads[0].shape
    splits = _flash_splits(batch * count, tokens, heads[1].shape[2], wide, card.multiprocessors)
    scratch = None
    if splits > 1:
        rounded = -(-wide // 32) * 32 if wide <= 128 else -(-wide // 64) * 64
        scratch = (
            torch.empty((splits, batch, count, tokens), dtype=torch.float32),
            torch.empty((splits, batch, count, tokens, rounded), dtype=torch.float32),
        )
    out: torch.Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
        *heads, 0.0, call.is_causal, False, scale=call.scale
    )[0]
    del scratch
    return out[..., :head_dim] if short else out


def _flash_splits(heads: int, queries: int, keys: int, head_dim: int, multiprocessors: int) -> int:
    """The number of parts into which flash attention cuts the keys of a call that would leave processors idle.

    The rule of `num_splits_heuristic` in flash_api.cpp: the fewest parts with 85% of the best share of full waves.
    """
    processors = 2 * multiprocessors
    work = heads * -(-queries // 64)
    if not processors or work >= 0.8 * processors:
        return 1
    block = 256 if head_dim <= 64 else 128 if head_dim <= 128 else 64
    blocks = -(-keys // block)
    most = min(128, processors, blocks)
    eligible = [n for n in range(1, most + 1) if n == 1 or -(-blocks // n) != -(-blocks // (n - 1))]
    waves = {n: work * n / processors for n in eligible}
    efficiency = {n: wave / -(-wave // 1) for n, wave in waves.items()}
    best = max(efficiency.values(), default=1.0)
    return next((n for n in eligible if efficiency[n] >= 0.85 * best), 1)


def _additive(call: AttentionCall) -> torch.Tensor | None:
    """The mask for the efficient kernel: numbers to add, in aligned rows, for every head."""
    mask = call.mask
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        blocked = torch.full((), float("-inf"), dtype=call.query.dtype, device=mask.device)
        mask = torch.where(mask, 0.0, blocked)
    short = -mask.shape[-1] % _BIAS_ALIGNMENT
    if short:
        length = mask.shape[-1]
        mask = torch.nn.functional.pad(mask, (0, short))[..., :length]
    return mask.expand(call.query.shape[0], call.query.shape[1], call.query.shape[2], call.key.shape[2])
