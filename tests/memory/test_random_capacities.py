"""Runs on devices of random memory: planned batches fit, and they use what is there.

SOLOIST_FUZZ_DEVICES is the number of runs; `make fuzz` makes 200. One in ten is on cards with torch's allocator.
The engine's own pieces do the work: its plan, encoders, replicas and simulated devices. Token ids are made up, which
spares the tokenizers. With -s the measured figures are printed.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from support import tiny_models
from transformers import Qwen2Config, Qwen2Model

from soloist.devices.accelerator import SimulatedAccelerator
from soloist.encoding.encoder import Encoder
from soloist.encoding.replicas import Replicas
from soloist.encoding.tokenizing import TokenizedTexts
from soloist.errors import ModelTooLargeError, RowTooLargeError
from soloist.events import BatchSplit, Event
from soloist.memory.allocator import MIB
from soloist.memory.cards import CARDS, Card, bare_card
from soloist.memory.planner import BatchLimits
from soloist.memory.prediction import blueprint_of, tracer_of
from soloist.models.loading import stage
from soloist.models.spec import ModelSpec
from soloist.sizing.budgets import Budget, table_row
from soloist.sizing.run_plan import PlannedModel, plan_run
from soloist.types import Batch

RUNS = int(os.environ.get("SOLOIST_FUZZ_DEVICES", "80"))
CACHING_RUNS = RUNS // 10
BARE_RUNS = RUNS - CACHING_RUNS
SPLITS_AT_MOST = 0.02
USED_AT_LEAST = 0.85
# A batch of fewer rows leaves up to a tenth of the device empty because the next row would not fit.
ROWS_THAT_FILL = 8
# Of fewer rows than a batch may have, memory is not what limits it. (Of a static model, what it may have moves a little
# with the mean length of its rows.)
FULL_SHARE = 0.98
# A row costs a static model next to nothing: so many times the rows fill its batches.
STATIC_ROWS = 20
# On a smaller device with torch's allocator, one segment of 20 MiB more or less is over a fifth of it.
SEGMENTS_ARE_SMALL = 100 * MIB


class Splits:
    """An event sink that counts the batches that did not fit."""

    def __init__(self) -> None:
        self.count = 0

    def emit(self, event: Event) -> None:
        self.count += isinstance(event, BatchSplit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run. `used` is the highest share of the usable memory on any device; `failed` the name of an error.

    `largest_rows` are those of the batch that is predicted to need most, `allowed_rows` what its limit was.
    """

    model: str
    card: Card
    times_weights: float
    batches: int
    splits: int
    largest_rows: int
    allowed_rows: int
    limited_by: str
    used: float
    failed: str | None = None
    failed_with_single_rows: bool = False

    @property
    def is_limited(self) -> bool:
        """Whether memory limits a batch like the largest, and rows and segments are small beside the device."""
        return (
            self.failed is None
            and self.limited_by == "memory"
            and self.largest_rows >= ROWS_THAT_FILL
            and (not self.card.caches or self.card.total_bytes >= SEGMENTS_ARE_SMALL)
        )

    @property
    def is_full(self) -> bool:
        """Whether there were rows enough for that batch to be as large as it may."""
        return self.is_limited and self.largest_rows > FULL_SHARE * self.allowed_rows


class Runner:
    """One model, which is run on devices of any size."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self.name = folder.name
        self.staged = stage(ModelSpec(name=folder.name, source=str(folder)), dtype)
        self._encoder = Encoder(self.staged)
        self._blueprint = replace(blueprint_of(self.staged.spec), input_names=self._encoder.input_names)

    def run(self, card: Card, devices: int, tokenized: TokenizedTexts) -> Outcome:
        """Encode the rows in the batches that the plan allows; where that fails, row by row as well."""
        accelerator = SimulatedAccelerator([card] * devices)
        limits = self._limits(card, table_row("simulated", self.staged.is_static).tokens)
        batches = self._encoder.plan(tokenized, limits.rows, limits.is_bound_by_memory)
        failed, splits = self._encode(accelerator, tokenized, batches)
        used = max(_peak(accelerator, device) for device in accelerator.devices) / card.usable_bytes
        single_rows_failed = False
        if failed is not None:
            alone = self._encoder.plan(tokenized, self._limits(card, 1).rows)
            single_rows_failed = self._encode(accelerator, tokenized, alone)[0] is not None
        largest = _largest(limits, batches)
        return Outcome(
            model=self.name,
            card=card,
            times_weights=card.total_bytes / self.staged.weights_bytes,
            batches=len(batches),
            splits=splits,
            largest_rows=len(largest.rows),
            allowed_rows=limits.rows(largest.padded_length),
            limited_by=limits.reason(largest.padded_length),
            used=used,
            failed=failed,
            failed_with_single_rows=single_rows_failed,
        )

    def _limits(self, card: Card, token_budget: int) -> BatchLimits:
        tracer = tracer_of(self._blueprint, self.staged.dtype, card)
        model = PlannedModel(
            name=self.name, budget=Budget(tokens=token_budget, source="given", device=""),
            max_tokens=self.staged.max_tokens, weight_sizes=tracer.weights.sizes_bytes, tracer=tracer,
        )  # fmt: skip
        return plan_run([model], "exclusive", card).limits[self.name]

    def _encode(
        self, accelerator: SimulatedAccelerator, tokenized: TokenizedTexts, batches: Sequence[Batch]
    ) -> tuple[str | None, int]:
        """The name of the error, if there was one, and the number of splits. The devices are empty before and after."""
        sink, failed = Splits(), None
        _empty(accelerator)
        try:
            with Replicas(self.staged, self._encoder, accelerator, sink) as replicas:
                replicas.encode([str(row) for row in range(len(tokenized.ids))], tokenized, batches)
        except (ModelTooLargeError, RowTooLargeError) as exc:
            failed = type(exc).__name__
        return failed, sink.count


def _peak(accelerator: SimulatedAccelerator, device: str) -> int:
    stats = accelerator.memory(device)
    return stats.peak_reserved_bytes if accelerator.card.caches else stats.peak_bytes


def _empty(accelerator: SimulatedAccelerator) -> None:
    accelerator.clear_workspaces()
    if any(accelerator.memory(device).allocated_bytes for device in accelerator.devices):
        gc.collect()
    accelerator.empty_caches()
    for device in accelerator.devices:
        assert accelerator.memory(device).allocated_bytes == 0
        accelerator.reset_peak(device)


def _largest(limits: BatchLimits, batches: Sequence[Batch]) -> Batch:
    """The batch that is predicted to need most."""
    (bound,) = limits.bounds

    def need(batch: Batch) -> float:
        return bound.curve(batch.padded_length).activations_bytes(len(batch.rows), batch.padded_length)

    return max(batches, key=need)


def rows_of_tokens(generator: np.random.Generator, rows: int, longest: int) -> TokenizedTexts:
    """Rows of one or two common lengths up to `longest`, each 0 to 3 tokens shorter, and some of any length."""
    common = generator.integers(4, longest + 1, size=generator.integers(1, 3))
    lengths = np.maximum(1, generator.choice(common, size=rows) - generator.integers(0, 4, size=rows))
    anything = generator.random(rows) < 0.05
    lengths[anything] = generator.integers(1, longest + 1, size=int(anything.sum()))
    ids = tuple(generator.integers(5, 100, size=length).astype(np.int32) for length in lengths)
    return TokenizedTexts(ids=ids, dropped=(0,) * rows)


def small_models(root: Path) -> list[Runner]:
    """A model of each kind, with weights of a megabyte at most, so that bare devices can be as small."""
    size = {"num_hidden_layers": 1, "max_position_embeddings": 4096}
    return [
        Runner(tiny_models.make_bert(root / "bert", **size), "float32"),
        Runner(tiny_models.make_xlm_roberta(root / "xlm-roberta", **size), "float16"),
        Runner(tiny_models.make_mpnet(root / "mpnet", **size), "float32"),
        Runner(tiny_models.make_qwen2(root / "qwen2"), "float32"),
        Runner(tiny_models.make_qwen3(root / "qwen3"), "bfloat16"),
        Runner(tiny_models.make_static(root / "static", rows=2_000), "float32"),
    ]


def large_models(root: Path) -> list[Runner]:
    """Models beside whose weights and activations the segments of torch's allocator, of 2 and 20 MiB, are small."""
    wide = {"hidden_size": 32, "intermediate_size": 3840, "max_position_embeddings": 250_000}
    return [
        Runner(tiny_models.make_bert(root / "wide-bert", **wide), "float32"),
        Runner(tiny_models.make_xlm_roberta(root / "wide-xlm-roberta", **wide), "float32"),
        Runner(_wide_qwen2(root / "wide-qwen2"), "float32"),
    ]


def _wide_qwen2(folder: Path) -> Path:
    """A decoder whose table has rows for many tokens that no text has."""
    tokenizer = tiny_models._wrap(tiny_models._bpe(), padding_side="left", pad_token="<|endoftext|>")
    config = Qwen2Config(
        vocab_size=250_000, pad_token_id=tokenizer.pad_token_id, hidden_size=32, intermediate_size=3840,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
    )  # fmt: skip
    return tiny_models._save(folder, Qwen2Model, config, tokenizer, pooling="lasttoken")


def random_runs(
    models: Sequence[Runner], count: int, card: Card, seed: int, *, rows: tuple[int, int], longest: int
) -> list[Outcome]:
    """Runs with capacities between a model's weights and ten times them, on one or two devices."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(count):
        runner = models[number % len(models)]
        capacity = int(runner.staged.weights_bytes * generator.uniform(1, 10))
        many = STATIC_ROWS if runner.staged.is_static else 1
        tokenized = rows_of_tokens(generator, many * int(generator.integers(*rows)), longest)
        found.append(runner.run(card.with_memory(capacity), int(generator.integers(1, 3)), tokenized))
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> list[Outcome]:
    """All runs: on bare devices, and on cards with torch's allocator and a workspace."""
    root, began = tmp_path_factory.mktemp("models"), time.perf_counter()
    bare = random_runs(small_models(root), BARE_RUNS, bare_card(0), 1, rows=(60, 160), longest=48)
    card = replace(CARDS["T4"], context_bytes=0)
    caching = random_runs(large_models(root), CACHING_RUNS, card, 2, rows=(200, 400), longest=80)
    for name, found in (("bare", bare), ("T4", caching)):
        print(f"\n{name}: {_described(found)}")
    print(f"{time.perf_counter() - began:.0f} s")
    return bare + caching


def _described(found: Sequence[Outcome]) -> str:
    batches, splits = sum(each.batches for each in found), sum(each.splits for each in found)
    used = [each.used for each in found if each.is_full]
    few_rows = [each.used for each in found if each.is_limited and not each.is_full]
    return (
        f"{len(found)} runs, {sum(each.failed is not None for each in found)} without room for one row, "
        f"{batches} batches, {splits} split ({splits / batches:.2%}); memory limits {len(used) + len(few_rows)} runs, "
        f"the largest batch of {len(used)} is full and uses {min(used):.1%} at least, "
        f"{statistics.median(used):.1%} in the median, {max(used):.1%} at most; "
        f"{len(few_rows)} have too few rows and use {min(few_rows, default=1):.1%} at least"
    )


def test_no_run_fails_that_could_have_succeeded_row_by_row(outcomes):
    """A plan whose first batch breaks the device would end a session that has memory enough."""
    assert len(outcomes) == RUNS
    for each in outcomes:
        assert each.failed is None or each.failed_with_single_rows, each
    assert sum(each.failed is not None for each in outcomes) < len(outcomes) / 4


def test_hardly_any_batch_is_split(outcomes):
    """Splits cost a computed batch each: planning that relies on them is no planning."""
    batches, splits = (sum(getattr(each, name) for each in outcomes) for name in ("batches", "splits"))
    assert splits < SPLITS_AT_MOST * batches


def test_where_memory_is_the_limit_it_is_used(outcomes):
    """Half-empty devices are the price of predictions that are only ever too large."""
    full = [each for each in outcomes if each.is_full]
    assert len(full) > len(outcomes) / 4
    for each in full:
        assert USED_AT_LEAST <= each.used <= 1, each
