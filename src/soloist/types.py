"""The values that travel between the layers. Frozen, slotted, and free of torch.

Every byte count is in bytes, every duration in seconds, every length in tokens unless the name
says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Mode = Literal["exclusive", "standard"]
# What a member of an ensemble makes of a text: a vector, a vector over a vocabulary, or its words.
MemberKind = Literal["dense", "sparse", "lexical"]
# What a loaded model makes of a text or, a cross-encoder, of a question with a chunk.
ModelKind = Literal["dense", "sparse", "lexical", "score"]
# What of a network is taken: the vector of its own pipeline, the weights of its tokens, or both beside each other.
Head = Literal["dense", "sparse", "both"]
Isolation = Literal["allocator", "process"]
DType = Literal["float32", "float16", "bfloat16"]
DTypeRequest = Literal["auto", "auto-fast", "float32", "float16", "bfloat16"]
VectorDType = Literal["float32", "float16"]
Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
OnBadInput = Literal["error", "skip"]
Packing = Literal["auto", "on", "off"]
# The library that multiplies on the host's processor: with the weights of a network and, behind the +, in attention.
Matmul = Literal["torch", "onednn", "onednn+numpy"]
MatmulRequest = Literal["auto", "torch", "onednn", "onednn+numpy"]
BudgetSource = Literal["given", "calibrated", "table"]
# Why a model makes no vector of a text.
Vectorless = Literal["no tokens", "token without a vector", "zero vector", "NaN or infinity"]
SkipReason = Literal["empty text", "text too long", "unreadable file", "not a chunk", "no chunks"] | Vectorless


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One piece of text to embed. `text` is embedded exactly as it is.

    `source_file` is the file that a run read the chunk from, as a POSIX path inside the folder of chunks.
    `source_index` is its index in that file, from 0. If Python gave the chunk, the file is None, and the index is the
    position in what Python gave. Chunks that differ only in these are equal. Both are None where they are not known.
    """

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source_file: str | None = field(default=None, compare=False)
    source_index: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a chunk was read: a file, and the chunk's index in that file, from 0. If Python gave the chunk, `file`
    is the name of its collection.
    """

    file: Path
    index: int

    def __str__(self) -> str:
        return f"{self.file} (chunk {self.index})"


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedInput:
    """A chunk or a file that was left out, and why. `index` is None where a whole file was left out. `models` are the
    models that make no vector of the chunk; its text has the digest `text_digest`.
    """

    collection: str
    file: Path
    index: int | None
    reason: SkipReason
    detail: str = ""
    models: tuple[str, ...] = ()
    text_digest: str = ""

    def __str__(self) -> str:
        place = self.file if self.index is None else Place(file=self.file, index=self.index)
        models = f" in {', '.join(self.models)}" if self.models else ""
        return f"{place}: {self.reason}{models}" + (f", {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A named set of chunk files, in the order in which they are read. `folder` is the name of its root inside the
    folder of chunks. It is empty where the root is that folder itself.
    """

    name: str
    root: Path
    files: tuple[Path, ...]
    folder: str = ""

    def inside(self, file: Path) -> str:
        """The POSIX path of a file inside the folder of chunks, the same on every machine.

        Bytes that are not UTF-8 are escaped.
        """
        path = (Path(self.folder) / file.relative_to(self.root)).as_posix()
        return path.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Some thousand chunks of one collection, in input order: the unit of work and of memory."""

    collection: str
    index: int
    ids: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file stem that every store uses for this shard, e.g. `part-00003`."""
        return f"part-{self.index:05d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """What one member of the run says of a hit: its score, and its rank among all chunks that were searched, from 1.

    `score` is a cosine, or BM25 of words. `words` are the question's words that the chunk has, and what each adds to
    the score, the most first; a model has none. `rank` is None where the chunk has none of them.
    """

    member: str
    score: float
    rank: int | None
    words: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A chunk that a search found. `rank` counts from 1. `score` is a cosine, or the sum that its ranking computes (see
    `soloist.retrieval`). `source_file` and `source_index` are those of `Chunk`. `reasons` has what every member says of
    it, if the search was to explain its hits. After a second stage, `rank` and `score` are those of the cross-encoder,
    and `first_rank` and `first_score` those of the ranking before it.
    """

    rank: int
    score: float
    collection: str
    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source_file: str | None = None
    source_index: int | None = None
    reasons: tuple[Reason, ...] = ()
    first_rank: int | None = None
    first_score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of one shard that go through a model together, all padded to the same length."""

    rows: tuple[int, ...]
    padded_length: int

    @property
    def padded_tokens(self) -> int:
        """Tokens that the device computes, padding included."""
        return len(self.rows) * self.padded_length


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTally:
    """The tokens that a model read of some texts, with prompts and special tokens, after truncation; and the rows and
    tokens that its limit cut.
    """

    tokens: int = 0
    truncated_rows: int = 0
    truncated_tokens: int = 0

    def __add__(self, other: TokenTally) -> TokenTally:
        return TokenTally(
            tokens=self.tokens + other.tokens,
            truncated_rows=self.truncated_rows + other.truncated_rows,
            truncated_tokens=self.truncated_tokens + other.truncated_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSeconds:
    """The seconds that a model's work on one shard took, by step. Steps of different shards may overlap in time.

    `reading` reads the shard's own chunk file. `encoding` lasts from the first batch to the last vector. `writing`
    scales the vectors to length 1, makes their file, and syncs it. A shard that was embedded while the input was read
    was tokenized within `encoding`.
    """

    reading: float = 0.0
    tokenizing: float = 0.0
    encoding: float = 0.0
    writing: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryStats:
    """The memory of one device, in bytes, at one moment.

    Live tensors of this process hold `allocated`, its allocator holds `reserved`. `free` and `total` are the device's
    own, so other processes lower `free` too. `free` is None where the device could not be asked. The peaks are the
    highest `allocated` and `reserved` since the last reset.
    """

    allocated_bytes: int
    reserved_bytes: int
    free_bytes: int | None
    total_bytes: int
    peak_bytes: int
    peak_reserved_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldTensor:
    """A tensor that is still on a device after its lease should have been over.

    `shape` is None for memory that belongs to no Python tensor. `holder` names what refers to the tensor, where known.
    """

    device: str
    shape: tuple[int, ...] | None
    dtype: str
    size_bytes: int
    holder: str = ""

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.device}: {self.size_bytes} bytes that belong to no Python tensor"
        shape = "x".join(map(str, self.shape)) or "scalar"
        held = f", held by {self.holder}" if self.holder else ""
        return f"{self.device}: {shape} {self.dtype}, {self.size_bytes} bytes{held}"
