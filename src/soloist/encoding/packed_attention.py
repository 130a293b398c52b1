"""Attention of packed batches: each row attends to itself, in one long row of the network (see `packing`).

Knows transformers' registries of attention. Rows of one length share a call of attention, which needs no mask. It is
imported with the first network that may be packed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from soloist.encoding.packing import Jagged, Rows, Tiles, packed, uses_amx
from soloist.memory.attention_masks import without_asking
from soloist.models.host_attention import attend
from soloist.models.module_facts import is_a
from soloist.models.numpy_threads import one_thread
from soloist.models.token_weights import TokenWeights

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

ATTENTION = "soloist_packed"
# On the host, numpy's library multiplies in it.
ATTENTION_BY_NUMPY = "soloist_packed_by_numpy"
# On AMX, attention to a number of tokens that this does not divide takes up to 1.8 times as long.
_AMX_TILE = 16
# Rotary embeddings whose frequencies depend on the largest position of a batch.
_ROTATIONS_OF_THE_LONGEST = frozenset({"dynamic", "longrope"})
# Other arguments of attention functions, beside tensors and scale, that change nothing here.
_HARMLESS = frozenset(
    {"cu_seq_lens_q", "seq_idx", "position_ids", "use_cache", "output_attentions", "output_hidden_states"}
)


class UnpackableError(Exception):
    """A network's attention needs what packed rows cannot have, e.g. a window or a bias of positions."""


def prepare(module: SentenceTransformer, *, by_numpy: bool = False) -> bool:
    """Make a model's network call packed attention; False where its structure does not allow that.

    For rows that are not packed it is the attention of torch. So it stays: encoders may share the module. With
    `by_numpy` numpy's library multiplies in it on the host.
    """
    first = module[0]
    if not is_a(first, "Transformer") or first.backend != "torch":
        return False
    network = first.model
    takes_packed = getattr(network, "is_backend_compatible", lambda: False)() and _is_plain(network)
    if not takes_packed or not any(is_a(part, "Pooling") or isinstance(part, TokenWeights) for part in module):
        return False
    if network.config._attn_implementation not in ("sdpa", ATTENTION, ATTENTION_BY_NUMPY):
        return False
    network.set_attn_implementation(ATTENTION_BY_NUMPY if by_numpy else ATTENTION)
    return True


def _is_plain(network: torch.nn.Module) -> bool:
    """Whether no part of a network has a window of tokens, or a rotation that depends on how long a batch is."""
    return all(
        getattr(part, "sliding_window", None) is None
        and getattr(part, "rope_type", None) not in _ROTATIONS_OF_THE_LONGEST
        for part in network.modules()
    )


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    *,
    by_numpy: bool = False,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it: (1, heads, tokens, head_dim) in, (1, tokens, heads, head_dim) out."""
    if packed.groups is None:
        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **more
        )
        return plain
    foreign = sorted(name for name, given in more.items() if given is not None and name not in _HARMLESS)
    if attention_mask is not None or foreign:
        raise UnpackableError(f"attention with {', '.join(foreign) or 'a mask of its own'}")
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    if key.shape[1] != query.shape[1]:
        key, value = (heads.repeat_interleave(query.shape[1] // heads.shape[1], dim=1) for heads in (key, value))
    kernel = _all_rows_at_once
    if not query.is_cuda:  # numpy would compute what a causal mask hides
        kernel = _by_numpy if by_numpy and not causal else _length_by_length
    return kernel(packed.groups, query, key, value, scaling, causal)[None], None


def _length_by_length(
    groups: Sequence[Rows],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    causal: bool,
) -> torch.Tensor:
    """Packed attention as a call for each length; (tokens, heads, head_dim)."""
    out = query.new_empty(query.shape[2], query.shape[1], value.shape[3])
    tile = _AMX_TILE if uses_amx(query.dtype) and not causal else 1
    for rows in groups:
        q, k, v = (rows.of(heads[0].transpose(0, 1)).transpose(1, 2) for heads in (query, key, value))
        mask = None
        if rows.length % tile:
            tiles = _whole_tiles(rows, k, v, tile)
            k, v, mask = tiles.key, tiles.value, tiles.mask
        attended = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling, is_causal=causal)
        rows.of(out).copy_(attended.transpose(1, 2))
    return out


def _by_numpy(
    groups: Sequence[Rows],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    causal: bool,
) -> torch.Tensor:
    """As `_length_by_length`, of rows without a causal mask, with the products of numpy's library."""
    assert not causal
    out = query.new_empty(query.shape[2], query.shape[1], value.shape[3])
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    q, k, v = (heads[0].transpose(0, 1) for heads in (query, key, value))
    with one_thread:
        for rows in groups:
            mine = [rows.of(tokens).transpose(1, 2) for tokens in (q, k, v, out)]
            attend(mine[0], mine[1], mine[2], mine[3], scale)
    return out


def _whole_tiles(rows: Rows, key: torch.Tensor, value: torch.Tensor, tile: int) -> Tiles:
    """Keys and values (rows, heads, length, head_dim), filled up to a whole number of tiles."""
    tiles = packed.tiles.get(rows)
    if tiles is None or not tiles.is_like(key, value):
        tiles = packed.tiles[rows] = Tiles.like(key, value, rows.length + -rows.length % tile)
    tiles.hold(key, value)
    return tiles


def _all_rows_at_once(
    groups: Sequence[Rows],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    causal: bool,
) -> torch.Tensor:
    """Packed attention as one call over jagged rows; (tokens, heads, head_dim).

    torch uses FlashAttention or, below capability 8.0 and in float32, its memory-efficient kernel. Both know rows by
    their edges, and neither computes a product of two rows.
    """
    if packed.jagged is None:  # the same for every layer
        lengths = [rows.length for rows in groups]
        assert packed.edges is not None
        packed.jagged = Jagged(packed.edges, min(lengths), max(lengths))
    jagged = packed.jagged
    out = scaled_dot_product_attention(
        jagged.of(query), jagged.of(key), jagged.of(value), scale=scaling, is_causal=causal
    )
    tokens: torch.Tensor = out.transpose(1, 2).values()
    return tokens


_padded_mask = without_asking(sdpa_mask)


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    if packed.groups is None:
        return _padded_mask(*args, **kwargs)
    if kwargs.get("local_size") is not None:  # a window, or chunks of the text, which only the mask knows
        raise UnpackableError("attention within a window")
    return None


AttentionInterface.register(ATTENTION, _attention)
AttentionInterface.register(ATTENTION_BY_NUMPY, functools.partial(_attention, by_numpy=True))
AttentionMaskInterface.register(ATTENTION, _mask)
AttentionMaskInterface.register(ATTENTION_BY_NUMPY, _mask)
