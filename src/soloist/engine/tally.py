"""What the events of a run add up to, member by member, and the report of those that are words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from soloist.events import PeakCompared, ShardEncoded
from soloist.types import MemberKind, TokenTally


@dataclass(slots=True, kw_only=True)
class Tally:
    """What one member has done so far. Words count as tokens."""

    chunks: int = 0
    embedded: int = 0
    kept: int = 0
    reused: int = 0
    from_others: int = 0
    repeated: int = 0
    embedded_tokens: int = 0
    padded_tokens: int = 0
    whole: TokenTally = field(default_factory=TokenTally)
    recomputed_rows: int = 0
    splits: int = 0
    seconds: float = 0.0
    batch_rows: Counter[int] = field(default_factory=Counter)
    padded_lengths: Counter[int] = field(default_factory=Counter)
    rows_per_device: Counter[str] = field(default_factory=Counter)
    peak_bytes: Mapping[str, int] = field(default_factory=dict)
    compared: PeakCompared | None = None

    def add(self, event: ShardEncoded) -> None:
        """Count a shard."""
        self.chunks += event.rows
        self.embedded += event.embedded_rows
        self.reused += event.reused_rows
        self.from_others += event.from_others_rows
        self.repeated += event.repeated_rows
        self.embedded_tokens += event.tokens
        self.padded_tokens += event.padded_tokens
        self.whole += event.tally
        self.seconds += event.encoding_seconds
        self.batch_rows.update(event.batch_rows)
        for rows, length in zip(event.batch_rows, event.padded_lengths, strict=True):
            self.padded_lengths[length] += rows
        self.rows_per_device.update(event.rows_per_device)


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsReport:
    """The part of a member that is words. Figures without a word on it are of the chunks that were analysed now.

    Attributes:
        weight: in the hybrid ranking; None where the run has none.
        chunks: all chunks. The next five are parts of them, as `ModelReport` has them.
        words: of all chunks, stop words left out.
        seconds: reading, cutting and writing, of the shards that had texts to analyse.
    """

    name: str
    language: str
    fingerprint: str
    weight: float | None
    chunks: int
    embedded: int
    kept: int
    reused: int
    from_others: int
    repeated: int
    words: int
    seconds: float
    chunks_per_second: float
    kind: MemberKind = "lexical"


def words_report(name: str, language: str, fingerprint: str, weight: float | None, tally: Tally) -> WordsReport:
    """The report of a member that is words, from what it has done."""
    return WordsReport(
        name=name, language=language, fingerprint=fingerprint, weight=weight, chunks=tally.chunks,
        embedded=tally.embedded, kept=tally.kept, reused=tally.reused, from_others=tally.from_others,
        repeated=tally.repeated, words=tally.whole.tokens, seconds=tally.seconds,
        chunks_per_second=tally.embedded / tally.seconds if tally.seconds else 0.0,
    )  # fmt: skip
