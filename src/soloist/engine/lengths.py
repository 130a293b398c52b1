"""Token lengths of a collection, without a model: tokenized on all cores, in memory that does not grow.

Knows sources and tokenizers. A model whose tokenizer is not on this machine gets an estimate, and says so.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer

from soloist.config import SourceConfig
from soloist.digests import DigestTable, text_digest
from soloist.encoding.batching import slices
from soloist.engine.ingest import SHARD_CHARACTERS, empty_collection, nothing_to_embed
from soloist.errors import PredictionError
from soloist.models.location import WORDLLAMA_TOKENIZER
from soloist.models.settings import ModelSettings
from soloist.models.spec import ModelSpec
from soloist.sources import DuplicateIds, SkippedInputs, read_chunks
from soloist.types import Collection, SkippedInput

BLOCK_CHUNKS = 4096
# Characters of documentation and code in a token: 2.9 for MiniLM's tokenizer and 3.1 for Llama's on the 738 chunks of
# the Docling documentation. Fewer characters, so more tokens, than either would be a plan on the safe side.
CHARACTERS_PER_TOKEN = 2.9

CountTokens = Callable[[Sequence[str]], list[int]]


@dataclass(slots=True, kw_only=True)
class TokenCounts:
    """How many texts have how many tokens, prompt and special tokens included, before truncation.

    `estimated` where the tokenizer was not at hand; `seconds` is what tokenizing took on this machine.
    """

    max_tokens: int | None
    estimated: bool
    rows_of: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, lengths: Iterable[int]) -> None:
        """Count more rows."""
        self.rows_of.update(lengths)

    @property
    def rows(self) -> int:
        """All rows."""
        return sum(self.rows_of.values())

    @property
    def kept(self) -> Counter[int]:
        """Rows by their length after truncation."""
        limit = self.max_tokens
        found: Counter[int] = Counter()
        for length, rows in self.rows_of.items():
            found[length if limit is None else min(length, limit)] += rows
        return found

    @property
    def truncated_rows(self) -> int:
        """Rows that the model will not read to their end."""
        limit = self.max_tokens
        return 0 if limit is None else sum(rows for length, rows in self.rows_of.items() if length > limit)

    def quantile(self, share: float) -> int:
        """The length after truncation that this share of the rows does not exceed."""
        seen, wanted, kept = 0, share * self.rows, self.kept
        for length in sorted(kept):
            seen += kept[length]
            if seen >= wanted:
                return length
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What is in the collections: chunks, bytes of text, and each model's token counts.

    `repeated` chunks have the text of another one. A run embeds a text once, so they are in no count of tokens.
    """

    chunks: int
    repeated: int
    skipped: int
    text_bytes: int
    counts: dict[str, TokenCounts]


def scan(
    collections: Sequence[Collection],
    source: SourceConfig,
    models: Sequence[tuple[ModelSpec, ModelSettings]],
    required: Sequence[str] = (),
) -> Scan:
    """Read every chunk once, and count its tokens for every model.

    Raises:
        InputError: what would end a run at its input: a file is not readable as chunks, two chunks of a collection
            have one id, a required collection is empty, or there is nothing to embed at all.
    """
    counters = {spec.name: _counter(spec, settings) for spec, settings in models}
    counts = {
        spec.name: TokenCounts(max_tokens=settings.max_tokens, estimated=counters[spec.name] is None)
        for spec, settings in models
    }
    chunks = text_bytes = 0
    known = DigestTable()
    in_all = SkippedInputs()
    for collection in collections:
        skipped, before = SkippedInputs(), chunks

        def on_skip(item: SkippedInput, skipped: SkippedInputs = skipped) -> None:
            skipped.add(item)
            in_all.add(item)

        for texts in _blocks(collection, source, on_skip):
            chunks += len(texts)
            text_bytes += sum(len(text.encode()) for text in texts)
            new = [text for text in texts if known.add(text_digest(text)) is None]
            for spec, settings in models:
                _count(counts[spec.name], counters[spec.name], [settings.document_prompt + text for text in new])
        if chunks == before and collection.name in required:
            raise empty_collection(collection, skipped)
    if not chunks:
        raise nothing_to_embed(collections, in_all)
    return Scan(chunks=chunks, repeated=chunks - len(known), skipped=in_all.count, text_bytes=text_bytes, counts=counts)


def _blocks(
    collection: Collection, source: SourceConfig, on_skip: Callable[[SkippedInput], None]
) -> Iterator[list[str]]:
    duplicates = DuplicateIds()
    texts: list[str] = []
    characters = 0
    for chunk, place in read_chunks(collection, source, on_skip):
        duplicates.check(chunk.id, place)
        texts.append(chunk.text)
        characters += len(chunk.text)
        if len(texts) == BLOCK_CHUNKS or characters >= SHARD_CHARACTERS:
            yield texts
            texts, characters = [], 0
    if texts:
        yield texts


def _count(counts: TokenCounts, counter: CountTokens | None, texts: list[str]) -> None:
    began = time.perf_counter()
    if counter is None:
        counts.add(math.ceil(len(text) / CHARACTERS_PER_TOKEN) + 2 for text in texts)
    else:
        for some in slices(texts):
            counts.add(counter(some))
    counts.seconds += time.perf_counter() - began


def _counter(spec: ModelSpec, settings: ModelSettings) -> CountTokens | None:
    if settings.folder is None:
        return None
    tokenizer = _load(spec, settings.folder)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda texts: [
        len(row) for row in tokenizer.encode_batch_fast(list(texts), add_special_tokens=not settings.is_static)
    ]


def _load(spec: ModelSpec, folder: Path) -> Tokenizer:
    place = folder / WORDLLAMA_TOKENIZER if spec.loader == "wordllama" else folder / "tokenizer.json"
    found = next(
        (path for path in itertools.chain([place], sorted(folder.glob("*/tokenizer.json"))) if path.is_file()), None
    )
    if found is not None:
        try:
            return Tokenizer.from_file(str(found))
        except Exception as exc:  # the class that the Rust side raises has no name of its own
            raise PredictionError(f"{found} is no tokenizer ({exc}): copy the model's file again") from exc
    return _converted(spec, folder)


def _converted(spec: ModelSpec, folder: Path) -> Tokenizer:
    """A model without a tokenizer.json: transformers makes one of the older files."""
    from transformers import AutoTokenizer

    try:
        converted: Tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
        return converted
    except (OSError, ValueError, AttributeError, ImportError) as exc:
        raise PredictionError(
            f"{spec.name} has no tokenizer in {folder} that can count: add its tokenizer.json"
        ) from exc
