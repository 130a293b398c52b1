"""How an inverted index lies in its file: safetensors, whose arrays can be mapped one by one. Pure but for the reading.

    starts      int64    (terms + 1)  the postings of term t are those from starts[t] to starts[t + 1]
    rows        uint32   (postings)   the rows that have the term, ascending
    values      float32, uint32 or uint16 (postings)  the value or the count of the term there
    lengths     uint32   (rows)       how many words each row has (words only)
    term_starts int64    (terms + 1)  the term's bytes, in ascending order (words only)
    term_bytes  uint8                 UTF-8

Row numbers count the rows of one collection, in the order of its shards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

_NAMES = {"I64": "<i8", "U32": "<u4", "F32": "<f4", "U16": "<u2", "U8": "|u1"}
_DTYPES = {np.dtype(dtype): name for name, dtype in _NAMES.items()}
_SIZE_BYTES = 8  # of the header's length, before the header
_MOST_HEADER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Where an array lies in the file: its dtype, its length, and its first byte."""

    dtype: np.dtype[Any]
    length: int
    offset: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.length * self.dtype.itemsize


def header_of(
    sizes: Mapping[str, tuple[np.dtype[Any], int]], facts: Mapping[str, str]
) -> tuple[bytes, dict[str, Tensor]]:
    """The beginning of a file with arrays of these dtypes and lengths, and where each array lies.

    The arrays follow each other without gaps, wider dtypes first, so that every one is aligned.
    """
    order = sorted(sizes, key=lambda name: -sizes[name][0].itemsize)
    entries: dict[str, Any] = {"__metadata__": dict(facts)}
    tensors: dict[str, Tensor] = {}
    end = 0
    for name in order:
        dtype, length = sizes[name]
        tensors[name] = Tensor(dtype=dtype, length=length, offset=end)
        entries[name] = {"dtype": _DTYPES[dtype], "shape": [length], "data_offsets": [end, tensors[name].end]}
        end = tensors[name].end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _SIZE_BYTES)
    header = len(text).to_bytes(_SIZE_BYTES, "little") + text
    placed = {
        name: Tensor(dtype=tensor.dtype, length=tensor.length, offset=tensor.offset + len(header))
        for name, tensor in tensors.items()
    }
    return header, placed


def read_header(file: BinaryIO, size: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Where each array of an open file of `size` bytes lies, and what is said of the whole.

    Raises:
        ValueError: it is not such a file, or is cut short.
    """
    length = int.from_bytes(file.read(_SIZE_BYTES), "little")
    if not 0 < length <= min(size, _MOST_HEADER_BYTES):
        raise ValueError("it does not begin as a safetensors file does")
    entries = json.loads(file.read(length))
    facts = dict(entries.pop("__metadata__"))
    tensors = {name: _tensor(entry, _SIZE_BYTES + length) for name, entry in entries.items()}
    if any(not _SIZE_BYTES + length <= tensor.offset <= tensor.end <= size for tensor in tensors.values()):
        raise ValueError("it is shorter than its header says")
    return tensors, facts


def _tensor(entry: Mapping[str, Any], header_bytes: int) -> Tensor:
    (length,), (begin, end) = entry["shape"], entry["data_offsets"]
    tensor = Tensor(dtype=np.dtype(_NAMES[entry["dtype"]]), length=length, offset=header_bytes + begin)
    if tensor.end != header_bytes + end or tensor.offset % tensor.dtype.itemsize:
        raise ValueError("an array is not where its header says")
    return tensor
