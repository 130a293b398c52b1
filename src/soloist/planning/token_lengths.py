"""Counts the tokens of chunks without a model: on all cores, in memory that does not grow.

Knows sources and tokenizers. Where a model's tokenizer is not on this machine, the counts are estimates and say so.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tokenizers import Tokenizer, normalizers

from soloist.config import SourceConfig
from soloist.digests import DigestTable, text_digest
from soloist.encoding.batching import slices
from soloist.encoding.tokenizer_failures import tokenized_in_halves
from soloist.engine.intake.left_out import LeftOut
from soloist.errors import PredictionError
from soloist.ingestion.ingest import SHARD_CHARACTERS, empty_collection, nothing_to_embed
from soloist.models.location import WORDLLAMA_TOKENIZER
from soloist.models.pipeline import input_folder
from soloist.models.settings import ModelSettings
from soloist.models.spec import ModelSpec
from soloist.sources import DuplicateIds, SkippedInputs, read_chunks
from soloist.types import Chunk, Collection, Place, SkippedInput, Vectorless

BLOCK_CHUNKS = 4096
# Characters of documentation and code in a token: 2.9 for MiniLM's tokenizer and 3.1 for Llama's on the 738 chunks of
# the Docling documentation. Fewer characters, so more tokens, than either would be a plan on the safe side.
CHARACTERS_PER_TOKEN = 2.9

# The number of tokens of each text, or why the model makes no vector of it.
CountTokens = Callable[[Sequence[str]], list[int | Vectorless]]


@dataclass(slots=True, kw_only=True)
class TokenCounts:
    """The number of texts by their tokens, with prompt and special tokens, before truncation.

    `estimated` says that the tokenizer is not on this machine. `seconds` is the time that tokenizing took.
    """

    max_tokens: int | None
    estimated: bool
    rows_of: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, lengths: Iterable[int]) -> None:
        """Add rows of these lengths."""
        self.rows_of.update(lengths)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(self.rows_of.values())

    @property
    def kept(self) -> Counter[int]:
        """Rows by their length after truncation."""
        limit = self.max_tokens
        kept: Counter[int] = Counter()
        for length, rows in self.rows_of.items():
            kept[length if limit is None else min(length, limit)] += rows
        return kept

    @property
    def truncated_rows(self) -> int:
        """The number of rows that are longer than the model reads."""
        limit = self.max_tokens
        return 0 if limit is None else sum(rows for length, rows in self.rows_of.items() if length > limit)

    def quantile(self, share: float) -> int:
        """The length after truncation that this share of the rows does not exceed, e.g. 0.5 for the median."""
        seen, wanted, kept = 0, share * self.rows, self.kept
        for length in sorted(kept):
            seen += kept[length]
            if seen >= wanted:
                return length
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """The content of the collections: chunks, bytes of text, and each model's token counts.

    `repeated` chunks have the text of another chunk. A run embeds a text once, so token counts leave them out.
    `notices` say for how many texts a model has no tokens; these count as skipped. Without weights nobody knows which
    texts get a zero vector.
    """

    chunks: int
    repeated: int
    skipped: int
    text_bytes: int
    counts: dict[str, TokenCounts]
    notices: tuple[str, ...] = ()


def scan(
    collections: Sequence[Collection],
    source: SourceConfig,
    models: Sequence[tuple[ModelSpec, ModelSettings]],
    required: Sequence[str] = (),
) -> Scan:
    """Read every chunk once, and count its tokens for every model.

    Raises:
        InputError: a run would end at its input too. A file cannot be read as chunks, two chunks of a collection have
            one id, a required collection is empty, a model has no tokens for a text, or there is nothing to embed.
    """
    reading = _Reading(models)
    in_all = SkippedInputs()
    for collection in collections:
        skipped, is_empty = SkippedInputs(), True

        def on_skip(item: SkippedInput, skipped: SkippedInputs = skipped) -> None:
            skipped.add(item)
            in_all.add(item)

        for block in _blocks(collection, source, on_skip):
            is_empty = False
            reading.add(collection.name, block)
        if is_empty and collection.name in required:
            raise empty_collection(collection, skipped)
    without_tokens = reading.left_out.skipped
    if without_tokens.count and source.on_bad_input == "error":
        raise reading.left_out.error()
    if not reading.chunks:
        raise nothing_to_embed(collections, without_tokens if without_tokens.count else in_all)
    return reading.scan(in_all.count)


class _Reading:
    """Counts what is read, and each text only once."""

    def __init__(self, models: Sequence[tuple[ModelSpec, ModelSettings]]) -> None:
        self._models = models
        self._counters = {spec.name: _counter(spec, settings) for spec, settings in models}
        self._counts = {
            spec.name: TokenCounts(max_tokens=settings.max_tokens, estimated=self._counters[spec.name] is None)
            for spec, settings in models
        }
        self._known = DigestTable()
        self._without_tokens = DigestTable()
        # For each text without tokens in some model: these models, and why.
        self._lacking: list[dict[str, Vectorless]] = []
        self._text_bytes = 0
        self.chunks = 0
        self.left_out = LeftOut()

    def add(self, collection: str, block: Sequence[tuple[Chunk, Place]]) -> None:
        """Count the chunks of a block, each of its texts once, and those for which a model has no tokens."""
        digests = [text_digest(chunk.text) for chunk, _ in block]
        new = {digest: chunk.text for digest, (chunk, _) in zip(digests, block, strict=True) if self._is_new(digest)}
        self._count(new)
        for digest, (chunk, place) in zip(digests, block, strict=True):
            entry = self._without_tokens.find(digest)
            if entry is None:
                self.chunks += 1
                self._text_bytes += len(chunk.text.encode())
            else:
                self.left_out.add(collection, chunk.id, place, digest, self._lacking[entry])

    def scan(self, skipped: int) -> Scan:
        """The result. `skipped` items were skipped while they were read."""
        return Scan(
            chunks=self.chunks,
            repeated=self.chunks - len(self._known),
            skipped=skipped + self.left_out.skipped.count,
            text_bytes=self._text_bytes,
            counts=self._counts,
            notices=tuple(f"{model}: {message}" for model, message in self.left_out.notices()),
        )

    def _is_new(self, digest: bytes) -> bool:
        return self._known.find(digest) is None and self._without_tokens.find(digest) is None

    def _count(self, new: Mapping[bytes, str]) -> None:
        lengths = {
            spec.name: _lengths(
                self._counts[spec.name],
                self._counters[spec.name],
                [settings.document_prompt + text for text in new.values()],
            )
            for spec, settings in self._models
        }
        kept = []
        for row, digest in enumerate(new):
            lacking = {model: why for model, of_model in lengths.items() if isinstance(why := of_model[row], str)}
            if lacking:
                self._without_tokens.add(digest)
                self._lacking.append(lacking)
            else:
                self._known.add(digest)
                kept.append(row)
        for model, of_model in lengths.items():
            self._counts[model].add(length for row in kept if isinstance(length := of_model[row], int))


def _blocks(
    collection: Collection, source: SourceConfig, on_skip: Callable[[SkippedInput], None]
) -> Iterator[list[tuple[Chunk, Place]]]:
    duplicates = DuplicateIds()
    block: list[tuple[Chunk, Place]] = []
    characters = 0
    for chunk, place in read_chunks(collection, source, on_skip):
        duplicates.check(chunk.id, place)
        block.append((replace(chunk, metadata={}), place))
        characters += len(chunk.text)
        if len(block) == BLOCK_CHUNKS or characters >= SHARD_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _lengths(counts: TokenCounts, counter: CountTokens | None, texts: list[str]) -> list[int | Vectorless]:
    """The tokens of each text, or why there is no vector of it. Adds the time that counting took to the counts."""
    began = time.perf_counter()
    lengths: list[int | Vectorless]
    if counter is None:
        lengths = [math.ceil(len(text) / CHARACTERS_PER_TOKEN) + 2 for text in texts]
    else:
        lengths = [length for some in slices(texts) for length in counter(some)]
    counts.seconds += time.perf_counter() - began
    return lengths


def _counter(spec: ModelSpec, settings: ModelSettings) -> CountTokens | None:
    if settings.folder is None:
        return None
    tokenizer = _load(spec, settings.folder if spec.loader == "wordllama" else input_folder(settings.folder))
    if settings.lowers:
        steps = [normalizers.Lowercase(), *([tokenizer.normalizer] if tokenizer.normalizer is not None else [])]
        tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    beyond = max(tokenizer.get_vocab().values(), default=0) + 1
    rows = settings.table_rows if settings.table_rows is not None and settings.table_rows < beyond else None
    return lambda texts: _counted(tokenizer, texts, special=not settings.is_static, rows=rows)


def _counted(tokenizer: Tokenizer, texts: Sequence[str], *, special: bool, rows: int | None) -> list[int | Vectorless]:
    """The tokens that an encoder gets from these texts. Only ids below `rows` have a vector; None for all."""

    def count(some: Sequence[str]) -> list[int | Vectorless]:
        encoded = tokenizer.encode_batch_fast(list(some), add_special_tokens=special)
        if rows is not None:
            return [len(row) if row.ids and max(row.ids) < rows else _without(row.ids) for row in encoded]
        return [len(row) or "no tokens" for row in encoded]

    def none_of(message: str) -> list[int | Vectorless]:
        return ["no tokens"]

    parts = tokenized_in_halves(texts, count, unreadable=none_of)
    return [length for part in parts for length in part]


def _without(ids: Sequence[int]) -> Vectorless:
    return "token without a vector" if ids else "no tokens"


def _load(spec: ModelSpec, folder: Path) -> Tokenizer:
    usual = folder / (WORDLLAMA_TOKENIZER if spec.loader == "wordllama" else "tokenizer.json")
    file = next((path for path in (usual, *sorted(folder.glob("*/tokenizer.json"))) if path.is_file()), None)
    if file is not None:
        try:
            return Tokenizer.from_file(str(file))
        except Exception as exc:  # the class that the Rust side raises has no name of its own
            raise PredictionError(f"{file} is not a tokenizer ({exc}): copy the model's file again") from exc
    return _converted(spec, folder)


def _converted(spec: ModelSpec, folder: Path) -> Tokenizer:
    """The tokenizer of a model without a tokenizer.json: transformers converts the older files."""
    from transformers import AutoTokenizer

    try:
        converted: Tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
        return converted
    except (OSError, ValueError, AttributeError, ImportError) as exc:
        raise PredictionError(
            f"{spec.name} has no tokenizer in {folder} that soloist can load: add its tokenizer.json"
        ) from exc
