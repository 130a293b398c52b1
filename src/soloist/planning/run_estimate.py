"""The estimate of a run: values, and the assumptions behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from soloist.memory.cards import Card
from soloist.memory.prediction import PeakCurve
from soloist.models.settings import ModelSettings
from soloist.planning.token_lengths import Scan
from soloist.shown import ShownByModel
from soloist.types import BudgetSource, DType, MemberKind

Basis = Literal[
    "measured on this machine", "estimated from the card's data sheet", "in the pass of its model", "unknown"
]  # fmt: skip

# The share of a card's data sheet rate that models reach: on two T4 in 2025, sentence-transformers reached 21% with
# bge-m3 and qwen3-embedding-0.6b and 40% with jina-code-embeddings-1.5b, padding counted as work.
RATE_SHARE = 0.2
# Measured on the judged sets: 2.4 to 15 MB of text a second on one core, and 7 to 27% of the text's bytes on the disk.
WORDS_BYTES_PER_SECOND = 3e6
WORDS_SHARE = 0.27
# Of a chunk by a sparse model: an assumption. A small SPLADE had 157 to 243 on average, for three collections.
_ACTIVE_WORDS = 200
_KEY_BYTES, _POSTING_BYTES = 4, 8
LEAST_MEASURED_TOKENS = 20_000  # with fewer tokens, the start of a run dominates the rate


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEstimate:
    """The rows in a full batch, at the median and at the longest length, and what limits them at the longest."""

    median_rows: int
    longest_rows: int
    limited_by: str
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEstimate:
    """What one model will need. Bytes are per device unless noted; lengths are in tokens.

    - `matryoshka_dims`: the dimensions that the model was trained to be cut to
    - `rows`: the texts to embed; a text that occurs several times counts once
    - `lengths_estimated`: the tokenizer is not on this machine
    - `histogram`: rows by length, up to each power of two
    - `curve`: the traced points, in bytes a padded token
    - `seconds`: None where the rate is not known
    - `download_bytes`, `host_bytes`, `vectors_bytes`: for the machine, not for a device
    """

    name: str
    dtype: DType
    dim: int | None
    matryoshka_dims: tuple[int, ...]
    max_tokens: int | None
    rows: int
    tokens: int
    lengths_estimated: bool
    median_length: int
    longest_length: int
    histogram: Mapping[int, int]
    truncated_rows: int
    padding_share: float
    weights_bytes: int
    peak_bytes: int
    reserved_bytes: int
    token_budget: int
    budget_source: BudgetSource
    exclusive: BatchEstimate
    standard: BatchEstimate
    curve: PeakCurve
    seconds: float | None
    basis: Basis
    staging_seconds: float
    download_bytes: int | None
    host_bytes: int
    vectors_bytes: int
    kind: MemberKind = "dense"


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsEstimate:
    """What a member that is words will need: no device. Both figures follow from the bytes of the texts."""

    name: str
    language: str
    rows: int
    seconds: float
    disk_bytes: int


def words_estimate(name: str, language: str, scanned: Scan) -> WordsEstimate:
    """The estimate for a member that is words; a text that occurs several times is cut once."""
    return WordsEstimate(
        name=name, language=language, rows=scanned.chunks - scanned.repeated,
        seconds=scanned.text_bytes / WORDS_BYTES_PER_SECOND, disk_bytes=int(scanned.text_bytes * WORDS_SHARE),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedDisk:
    """The rates at which nodes write into the folder that they share, and read from it, while they encode."""

    written_bytes_per_second: float
    read_bytes_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEstimate(ShownByModel):
    """What a run will need. `problems` prevent it, `unknowns` cannot be estimated. Both are sentences with a remedy.

    Of the `chunks`, `repeated` have the text of another chunk. They are not embedded.
    """

    accelerator: str
    card: Card
    devices: int
    chunks: int
    repeated: int
    skipped: int
    text_bytes: int
    limit_bytes: int
    models: tuple[ModelEstimate, ...]
    fused_bytes: int
    disk_bytes: int
    host_bytes: int
    seconds: float | None
    session_seconds: float | None
    problems: tuple[str, ...]
    unknowns: tuple[str, ...]
    notes: tuple[str, ...]
    words: tuple[WordsEstimate, ...] = ()
    nodes: int = 1

    @property
    def shared_disk(self) -> SharedDisk | None:
        """What the nodes need of the folder that they share; None for one node, or where the time is not known."""
        times = [model.seconds for model in self.models if model.seconds is not None]
        if self.nodes == 1 or len(times) < len(self.models) or not sum(times):
            return None
        vectors, passes = sum(model.vectors_bytes for model in self.models), sum(time > 0 for time in times)
        texts = 2 * self.text_bytes * passes  # a node reads them, and before it the process that drives the run
        return SharedDisk(
            written_bytes_per_second=vectors / sum(times), read_bytes_per_second=(vectors + texts) / sum(times)
        )

    @property
    def fits(self) -> bool | None:
        """Whether the run has no problems; None where that is not known."""
        return False if self.problems else None if self.unknowns else True

    def to_dict(self) -> dict[str, Any]:
        """The estimate as JSON-ready values."""
        values = {"fits": self.fits, **asdict(self)}
        if not self.words:
            del values["words"]
        if self.nodes == 1:
            del values["nodes"]
            return values
        return {**values, "shared_disk": asdict(self.shared_disk) if self.shared_disk is not None else None}


def in_the_pass_of_another(estimate: ModelEstimate) -> ModelEstimate:
    """The estimate of token weights, which come with the pass of their model: it takes no weights and no time more."""
    return replace(
        estimate, seconds=0.0, basis="in the pass of its model", staging_seconds=0.0, host_bytes=0,
        download_bytes=0 if estimate.download_bytes is not None else None,
    )  # fmt: skip


def over_nodes(models: Sequence[ModelEstimate], nodes: int) -> tuple[ModelEstimate, ...]:
    """The same models on so many nodes, which share out the encoding. Each of them stages its own models."""
    return tuple(
        replace(model, seconds=model.seconds / nodes if model.seconds is not None else None) for model in models
    )


def row_bytes(settings: ModelSettings, number_bytes: int) -> int:
    """What a chunk's vector takes on the disk, and a sparse one's part of the index."""
    if settings.kind == "sparse":
        return _ACTIVE_WORDS * (_KEY_BYTES + number_bytes + _POSTING_BYTES)
    return (settings.dim or 0) * number_bytes
