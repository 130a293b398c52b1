"""Packed batches: rows one behind the other without padding, and where they begin and end.

Knows torch and sentence-transformers' flat features. The network sees one long row, whose `position_ids` begin again
with every text, and pooling cuts it at `cu_seq_lens_q`. All but attention works a token at a time, so a row's vector
does not depend on the rows beside it. `packed_attention` keeps the rows apart.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Products of fewer tokens go through another kernel of the matrix library, with other rounding. Measured with MKL in
# float32: products of up to 3 rows (AMD), or of up to 15 (Intel with AVX-512), differ in the last bits. Measured with
# oneDNN in bfloat16 on Intel with AMX: some of up to 700 rows differ, and none from 768 to 8,192.
FEWEST = 16
_FEWEST_AMX = 1024


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
class Jagged:
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
class Tiles:
    """Memory for the keys and values of rows, filled up to a whole number of tiles, and the mask of the added tokens.

    All layers of a batch use the same memory. The added tokens stay zero.
    """

    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def like(cls, key: torch.Tensor, value: torch.Tensor, length: int) -> Tiles:
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
    jagged: Jagged | None = None

    def __init__(self) -> None:
        self.tiles: dict[Rows, Tiles] = {}


packed = _Packed()


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
    packed.groups, packed.tiles = cut(features["cu_seq_lens_q"].diff().tolist()), {}
    packed.edges = (moved or features)["cu_seq_lens_q"]
    try:
        yield
    finally:
        packed.groups = packed.edges = packed.jagged = None
        packed.tiles = {}


def padding_index(module: SentenceTransformer) -> int | None:
    """The padding index of a network of the RoBERTa family; None for other networks, which count positions from 0.

    Such a network counts positions from behind that index, and does not count padding tokens, those in texts too.
    """
    for part in module[0].model.modules():
        index = getattr(part, "padding_idx", None)
        if isinstance(index, int) and isinstance(getattr(part, "position_embeddings", None), torch.nn.Embedding):
            return index
    return None
