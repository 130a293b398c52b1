"""Packed batches: rows one behind the other without padding, and attention that keeps them apart.

Knows transformers' registries of attention and sentence-transformers' flat features. The network sees one long row,
whose `position_ids` begin again with every text, and pooling cuts it at `cu_seq_lens_q`. All but attention works a
token at a time, so a row's vector does not depend on the rows beside it. Rows of one length share a call of attention,
which needs no mask.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from soloist.memory.attention_masks import without_asking
from soloist.models.host_attention import attend, one_thread
from soloist.models.token_weights import TokenWeights

ATTENTION = "soloist_packed"
# On the host, numpy's library multiplies in it.
ATTENTION_BY_NUMPY = "soloist_packed_by_numpy"
# Products of fewer tokens go through another kernel of the matrix library, with other rounding. Measured with MKL in
# float32: products of up to 3 rows (AMD), or of up to 15 (Intel with AVX-512), differ in the last bits. Measured with
# oneDNN in bfloat16 on Intel with AMX: some of up to 700 rows differ, and none from 768 to 8,192.
FEWEST = 16
_FEWEST_AMX = 1024
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


@dataclass(frozen=True, slots=True)
class Rows:
    """Neighbouring rows of one length. `start` is the index of their first token."""

    start: int
    rows: int
    length: int

    @property
    def end(self) -> int:
        """The index behind their last token."""
        return self.start + self.rows * self.length

    def of(self, tokens: torch.Tensor) -> torch.Tensor:
        """The part of the rows in (tokens, ...), as a view (rows, length, ...)."""
        return tokens[self.start : self.end].view(self.rows, self.length, *tokens.shape[1:])


@dataclass(frozen=True, slots=True, eq=False)
class _Jagged:
    """Where packed rows begin and end, for jagged tensors of torch. `edges` are on the device."""

    edges: torch.Tensor
    shortest: int
    longest: int

    def of(self, heads: torch.Tensor) -> torch.Tensor:
        """(1, heads, tokens, head_dim) as a jagged (rows, heads, tokens of the row, head_dim), without a copy."""
        tokens = heads[0].transpose(0, 1)
        rows: torch.Tensor = torch.nested.nested_tensor_from_jagged(
            tokens, self.edges, min_seqlen=self.shortest, max_seqlen=self.longest
        )
        return rows.transpose(1, 2)


@dataclass(frozen=True, slots=True, eq=False)
class _Tiles:
    """Memory for the keys and values of rows, filled up to a whole number of tiles, and the mask of the added tokens.

    All layers of a batch use the same memory. The added tokens stay zero.
    """

    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def like(cls, key: torch.Tensor, value: torch.Tensor, length: int) -> _Tiles:
        """Memory of this length for keys and values (rows, heads, fewer, head_dim)."""
        mask = key.new_zeros(1, 1, 1, length)
        mask[..., key.shape[2] :] = float("-inf")
        return cls(
            key=key.new_zeros(*key.shape[:2], length, key.shape[3]),
            value=value.new_zeros(*value.shape[:2], length, value.shape[3]),
            mask=mask.expand(len(key), 1, key.shape[2], -1),
        )

    def is_like(self, key: torch.Tensor, value: torch.Tensor) -> bool:
        """Whether keys and values of this shape and dtype fit in here."""
        return all(
            room.dtype is wanted.dtype and room.shape[1::2] == wanted.shape[1::2]
            for room, wanted in ((self.key, key), (self.value, value))
        )

    def hold(self, key: torch.Tensor, value: torch.Tensor) -> None:
        """Put the keys and values of a layer in the place of the last layer's."""
        self.key[:, :, : key.shape[2]] = key
        self.value[:, :, : value.shape[2]] = value


class _Packed(threading.local):
    groups: tuple[Rows, ...] | None = None
    edges: torch.Tensor | None = None
    jagged: _Jagged | None = None

    def __init__(self) -> None:
        self.tiles: dict[Rows, _Tiles] = {}


_packed = _Packed()


def cut(lengths: Sequence[int]) -> tuple[Rows, ...]:
    """Rows of these lengths, one behind the other, as groups of neighbours of one length."""
    groups: list[Rows] = []
    start = 0
    for length, same in itertools.groupby(lengths):
        groups.append(Rows(start, len(list(same)), length))
        start = groups[-1].end
    return tuple(groups)


def uses_amx(dtype: torch.dtype) -> bool:
    """Whether products of this dtype go through the matrix units of an Intel processor, if they are on the host."""
    return dtype is torch.bfloat16 and torch.cpu._is_amx_tile_supported()


def fewest_tokens(dtype: torch.dtype) -> int:
    """The fewest tokens of a product by oneDNN whose rows have the bits of a larger one's, on this host."""
    return _FEWEST_AMX if uses_amx(dtype) else FEWEST


def flat_features(
    rows: Sequence[NDArray[np.int32]], padding_index: int | None = None, *, fewest: int = FEWEST, multiple: int = 1
) -> dict[str, torch.Tensor]:
    """The tensors of packed rows: `cu_seq_lens_q` (rows + 1) has their edges, the others are (1, tokens).

    With a padding index, positions are those of the RoBERTa family (see `padding_index`). No row may be empty. The
    first row, or its beginning, may come again at the end, so that there are at least `fewest` tokens (see
    `fewest_tokens`) and a `multiple` of them: use only the vectors of the given rows.

    `attention_mask` is all ones. Without it transformers would look for the edges of rows in `position_ids`, and the
    host would wait for its device. The host would also wait if pooling had no `seq_idx`, the row of each token.
    """
    tokens = sum(map(len, rows))
    if tokens:
        missing = max(0, fewest - tokens)
        missing += -(tokens + missing) % multiple
        whole, part = divmod(missing, len(rows[0]))
        rows = [*rows, *[rows[0]] * whole, *([rows[0][:part]] if part else [])]
    lengths = [len(row) for row in rows]
    input_ids = torch.from_numpy(np.concatenate(rows).astype(np.int64))[None]
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "position_ids": torch.from_numpy(np.concatenate([_positions(row, padding_index) for row in rows]))[None],
        "seq_idx": torch.from_numpy(np.repeat(np.arange(len(rows)), lengths))[None],
        "cu_seq_lens_q": torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)),
    }


def _positions(row: NDArray[np.int32], padding_index: int | None) -> NDArray[np.int64]:
    if padding_index is None:
        return np.arange(len(row))
    counted = (row != padding_index).astype(np.int64)  # a text may have the padding token in it
    positions: NDArray[np.int64] = np.cumsum(counted) * counted + padding_index
    return positions


@contextlib.contextmanager
def apart(features: Mapping[str, Any], moved: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Within this, attention in this thread keeps the rows of these features apart, if they are packed.

    `features` are in host memory, and `moved` are the same features on a device.
    """
    if "cu_seq_lens_q" not in features:
        yield
        return
    _packed.groups, _packed.tiles = cut(features["cu_seq_lens_q"].diff().tolist()), {}
    _packed.edges = (moved or features)["cu_seq_lens_q"]
    try:
        yield
    finally:
        _packed.groups = _packed.edges = _packed.jagged = None
        _packed.tiles = {}


def prepare(module: SentenceTransformer, *, by_numpy: bool = False) -> bool:
    """Make a model's network call packed attention; False where its structure does not allow that.

    For rows that are not packed it is the attention of torch. So it stays: encoders may share the module. With
    `by_numpy` numpy's library multiplies in it on the host.
    """
    first = module[0]
    if not isinstance(first, Transformer) or first.backend != "torch":
        return False
    network = first.model
    takes_packed = getattr(network, "is_backend_compatible", lambda: False)() and _is_plain(network)
    if not takes_packed or not any(isinstance(part, (Pooling, TokenWeights)) for part in module):
        return False
    if network.config._attn_implementation not in ("sdpa", ATTENTION, ATTENTION_BY_NUMPY):
        return False
    network.set_attn_implementation(ATTENTION_BY_NUMPY if by_numpy else ATTENTION)
    return True


def padding_index(module: SentenceTransformer) -> int | None:
    """The padding index of a network of the RoBERTa family; None for other networks, which count positions from 0.

    Such a network counts positions from behind that index, and does not count padding tokens, those in texts too.
    """
    for part in module[0].model.modules():
        index = getattr(part, "padding_idx", None)
        if isinstance(index, int) and isinstance(getattr(part, "position_embeddings", None), torch.nn.Embedding):
            return index
    return None


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
    if _packed.groups is None:
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
    return kernel(_packed.groups, query, key, value, scaling, causal)[None], None


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


def _whole_tiles(rows: Rows, key: torch.Tensor, value: torch.Tensor, tile: int) -> _Tiles:
    """Keys and values (rows, heads, length, head_dim), filled up to a whole number of tiles."""
    tiles = _packed.tiles.get(rows)
    if tiles is None or not tiles.is_like(key, value):
        tiles = _packed.tiles[rows] = _Tiles.like(key, value, rows.length + -rows.length % tile)
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
    if _packed.jagged is None:  # the same for every layer
        lengths = [rows.length for rows in groups]
        assert _packed.edges is not None
        _packed.jagged = _Jagged(_packed.edges, min(lengths), max(lengths))
    jagged = _packed.jagged
    out = scaled_dot_product_attention(
        jagged.of(query), jagged.of(key), jagged.of(value), scale=scaling, is_causal=causal
    )
    tokens: torch.Tensor = out.transpose(1, 2).values()
    return tokens


_padded_mask = without_asking(sdpa_mask)


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    if _packed.groups is None:
        return _padded_mask(*args, **kwargs)
    if kwargs.get("local_size") is not None:  # a window, or chunks of the text, which only the mask knows
        raise UnpackableError("attention within a window")
    return None


AttentionInterface.register(ATTENTION, _attention)
AttentionInterface.register(ATTENTION_BY_NUMPY, functools.partial(_attention, by_numpy=True))
AttentionMaskInterface.register(ATTENTION, _mask)
AttentionMaskInterface.register(ATTENTION_BY_NUMPY, _mask)
