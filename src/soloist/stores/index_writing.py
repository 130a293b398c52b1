"""Writes the inverted index of one member over one collection, from the rows of its shards.

Memory is bounded: of the rows one shard is in memory, of the postings one part of the terms, and of the vocabulary its
bytes and 40 bytes a term. The rows are read twice, and the postings wait on the disk until their part is sorted.
"""

from __future__ import annotations

import contextlib
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from soloist.digests import DigestTable, text_digest
from soloist.ragged import RaggedRows, TermRows
from soloist.stores.atomic import atomic_path, disk_errors
from soloist.stores.index_layout import Tensor, header_of

FORMAT = "1"
_PART_POSTINGS = 1 << 22  # sorted at once: 12 bytes each, and 20 more while they are sorted
_COUNT, _LENGTH = np.dtype("<u4"), np.dtype("<u4")
_STARTS, _ROWS = np.dtype("<i8"), np.dtype("<u4")

Shards = Callable[[], Iterable["RaggedRows | TermRows"]]


def write_index(path: Path, shards: Shards, *, part_postings: int = _PART_POSTINGS) -> int:
    """Write the index of the rows that `shards()` gives, shard by shard, and return how many rows it has.

    `shards` is called twice and gives the same rows both times: `TermRows` of words, or `RaggedRows` of sparse vectors.
    The bytes of the file follow from the rows alone, however they are cut into shards.

    Raises:
        OutputError: the disk does not take the file.
        ValueError: the second time the rows are others.
    """
    counted = _Counted.of(shards())
    starts = np.zeros(len(counted.frequencies) + 1, _STARTS)
    np.cumsum(counted.frequencies, out=starts[1:])
    small: dict[str, NDArray[Any]] = {"starts": starts, **counted.arrays}
    sizes = {name: (array.dtype, len(array)) for name, array in small.items()}
    postings = int(starts[-1])
    sizes |= {"rows": (_ROWS, postings), "values": (counted.value_dtype, postings)}
    header, tensors = header_of(sizes, counted.facts)
    with atomic_path(path) as temp, disk_errors(path), temp.open("wb") as file:
        file.write(header)
        for name, values in small.items():
            file.seek(tensors[name].offset)
            file.write(np.ascontiguousarray(values).data)
        with _parts(starts, counted.postings(shards()), path.parent, part_postings) as parts:
            _write_postings(file, tensors, parts, postings)
    return counted.rows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Counted:
    """What the first reading finds: how many rows have each term, in the order of the file's terms."""

    rows: int
    frequencies: NDArray[np.int64]
    largest: int
    words: _Words | None

    @classmethod
    def of(cls, shards: Iterable[RaggedRows | TermRows]) -> _Counted:
        rows, largest = 0, 0
        frequencies = np.zeros(0, np.int64)
        words: _Words | None = None
        for shard in shards:
            keys: NDArray[Any] = shard.keys if isinstance(shard, RaggedRows) else shard.rows.keys
            if isinstance(shard, TermRows):
                words = words or _Words()
                keys = words.numbers(shard)[keys]
                words.lengths.frombytes(shard.lengths.astype(_LENGTH).tobytes())
                largest = max(largest, int(shard.rows.values.max(initial=0)))
            found = np.bincount(keys, minlength=len(frequencies))
            found[: len(frequencies)] += frequencies
            frequencies = found
            rows += len(shard)
        if words is not None:
            frequencies = frequencies[words.settle()]
        return cls(rows=rows, frequencies=frequencies, largest=largest, words=words)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays that only words have."""
        if self.words is None:
            return {}
        text, term_starts = self.words.sorted_terms()
        return {"lengths": np.frombuffer(self.words.lengths, _LENGTH), "term_starts": term_starts, "term_bytes": text}

    @property
    def value_dtype(self) -> np.dtype[Any]:
        """Counts are mostly small; weights are float32."""
        if self.words is None:
            return np.dtype("<f4")
        return np.dtype("<u2") if self.largest <= np.iinfo(np.uint16).max else _COUNT

    @property
    def facts(self) -> dict[str, str]:
        """What is said of the whole."""
        kind = "sparse" if self.words is None else "lexical"
        facts = {"format": FORMAT, "kind": kind, "rows": str(self.rows)}
        if self.words is not None:
            facts["words"] = str(int(np.frombuffer(self.words.lengths, _LENGTH).sum(dtype=np.int64)))
        return facts

    def postings(self, shards: Iterable[RaggedRows | TermRows]) -> Iterator[_Postings]:
        """The postings of every shard, with the terms and rows of the file."""
        first = 0
        for shard in shards:
            rows = shard if isinstance(shard, RaggedRows) else shard.rows
            keys: NDArray[Any] = rows.keys
            if isinstance(shard, TermRows):
                assert self.words is not None
                keys = self.words.places(shard)[keys]
            numbers = np.repeat(np.arange(first, first + len(rows), dtype=_ROWS), rows.lengths)
            value_dtype = _COUNT if self.words is not None else np.dtype("<f4")
            yield _Postings(terms=keys.astype(_ROWS), rows=numbers, values=rows.values.astype(value_dtype, copy=False))
            first += len(rows)


class _Words:
    """Terms in the order in which they came, by their digests, and how many words each row has."""

    def __init__(self) -> None:
        self.lengths = array("I")
        self._table = DigestTable()
        self._bytes = bytearray()
        self._ends = array("q", [0])
        self._places: NDArray[np.int64] | None = None

    def numbers(self, shard: TermRows) -> NDArray[np.int64]:
        """The number of each term of a shard's vocabulary; new terms get the next numbers."""
        first = len(self._table)
        numbers = self._table.add_all([text_digest(term) for term in shard.vocabulary])
        new = np.flatnonzero(numbers < 0)
        numbers[new] = np.arange(first, first + len(new))
        for position in new.tolist():
            self._bytes += shard.vocabulary[position].encode()
            self._ends.append(len(self._bytes))
        return numbers

    def settle(self) -> NDArray[np.int64]:
        """Sort the terms by their bytes: the numbers of the terms in that order."""
        order: NDArray[np.int64] = pc.sort_indices(self._terms()).to_numpy().astype(np.int64)
        self._places = np.empty(len(order), np.int64)
        self._places[order] = np.arange(len(order))
        return order

    def places(self, shard: TermRows) -> NDArray[np.int64]:
        """The place of each term of a shard's vocabulary among the sorted terms."""
        assert self._places is not None
        known = len(self._table)
        numbers = self._table.add_all([text_digest(term) for term in shard.vocabulary])
        if len(self._table) > known:
            raise ValueError("the rows of a member changed while they were indexed: run again")
        return self._places[numbers]

    def sorted_terms(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The bytes of all terms in order, and where each begins."""
        assert self._places is not None
        order = np.argsort(self._places)
        taken = self._terms().take(pa.array(order))
        _, ends, text = taken.buffers()
        starts = np.frombuffer(ends, np.int64, count=len(order) + 1)
        bytes_ = np.frombuffer(text, np.uint8) if text is not None else np.zeros(0, np.uint8)
        return bytes_[starts[0] : starts[-1]], starts - starts[0]

    def _terms(self) -> pa.Array:
        buffers = [None, pa.py_buffer(self._ends), pa.py_buffer(bytes(self._bytes))]
        return pa.Array.from_buffers(pa.large_binary(), len(self._ends) - 1, buffers)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Postings:
    """Postings by rows: the term of each, its row and its value."""

    terms: NDArray[np.uint32]
    rows: NDArray[np.uint32]
    values: NDArray[Any]


@contextlib.contextmanager
def _parts(
    starts: NDArray[np.int64], postings: Iterable[_Postings], folder: Path, part_postings: int
) -> Iterator[Iterator[NDArray[Any]]]:
    """The postings of one range of terms after the other, each sorted by term and row; they wait in nameless files."""
    edges = _edges(starts, part_postings)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in edges]
        kind = np.dtype([("term", _ROWS), ("row", _ROWS), ("value", _COUNT)])
        for some in postings:
            kind = np.dtype([("term", _ROWS), ("row", _ROWS), ("value", some.values.dtype)])
            for file, part in zip(files, _cut(some, edges, kind), strict=True):
                file.write(part.data)
        yield (_sorted(file, kind) for file in files)


def _edges(starts: NDArray[np.int64], part_postings: int) -> NDArray[np.int64]:
    """The first terms of the parts, each of about `part_postings` or of one term."""
    cuts = np.arange(part_postings, int(starts[-1]), part_postings)
    firsts = np.searchsorted(starts[:-1], cuts)
    return np.unique(np.concatenate([[0], firsts[firsts < len(starts) - 1]]))


def _cut(some: _Postings, edges: NDArray[np.int64], kind: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    records = np.empty(len(some.terms), kind)
    records["term"], records["row"], records["value"] = some.terms, some.rows, some.values
    if len(edges) == 1:
        yield records
        return
    parts = np.searchsorted(edges, some.terms, side="right") - 1
    for part in range(len(edges)):
        yield records[parts == part]


def _sorted(file: IO[bytes], kind: np.dtype[Any]) -> NDArray[Any]:
    file.seek(0)
    records = np.frombuffer(file.read(), kind)
    return records[np.argsort(records["term"], kind="stable")]  # they came in the order of the rows


def _write_postings(
    file: IO[bytes], tensors: Mapping[str, Tensor], parts: Iterable[NDArray[Any]], postings: int
) -> None:
    written = 0
    for part in parts:
        for name, column in (("rows", "row"), ("values", "value")):
            tensor = tensors[name]
            file.seek(tensor.offset + written * tensor.dtype.itemsize)
            file.write(np.ascontiguousarray(part[column], tensor.dtype).data)
        written += len(part)
    if written != postings:
        raise ValueError("the rows of a member changed while they were indexed: run again")
