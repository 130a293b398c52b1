"""Verdicts on evidence that a rehearsal of a few chunks does not give: most lengths, most models, but not all."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from soloist.config import RunConfig
from soloist.engine import ModelReport, RunResult
from soloist.engine.result import BatchSizes, LengthLimit
from soloist.events import PeakCompared, ShardEncoded
from soloist.memory.cards import CARDS
from soloist.sizing.budgets import Budget
from soloist.validation.checks import CHECKS
from soloist.validation.evidence import Evidence, FailureRecord, ResumeRecord, RunRecord, StagingRecord

MODELS = ("one", "two")
Limits = dict[int, tuple[int, str]]
EVEN: Limits = {64: (256, "saturation"), 512: (32, "saturation")}


def report(name: str, limits: Limits) -> ModelReport:
    """A model with these limits by padded length; the shortest is the median."""
    shortest = limits[min(limits)]
    sizes = BatchSizes(
        smallest=1, median=16, largest=256, batches=2, splits=0, planned=shortest[0], limited_by=shortest[1],
        limits=tuple(LengthLimit(padded_length=n, rows=rows, limited_by=why) for n, (rows, why) in limits.items()),
    )  # fmt: skip
    return ModelReport(
        name=name, source="org/m", revision=None, fingerprint="f" * 16, dim=8, dtype="float16", matmul="torch",
        max_tokens=512, document_prompt="", query_prompt="", licence=None, weight=0.5, chunks=288, embedded=288, kept=0,
        reused=0, from_others=0, repeated=0, tokens=9, padded_tokens=9, padding_share=0.0,
        truncated_rows=0, truncated_tokens=0, batch_sizes=sizes, recomputed_rows=0, seconds=1.0,
        chunks_per_second=1.0, peak_bytes={"sim:0": 100}, predicted_peak_bytes=None, rows_per_device={"sim:0": 288},
        device_shares={"sim:0": 1.0}, budget=Budget(tokens=16_384, source="table", device="simulated"),
    )  # fmt: skip


def encoded(model: str, limits: Limits) -> ShardEncoded:
    """256 rows of 64 tokens and 32 of 512, in batches as large as these limits allow."""
    batches = [(min(left, limits[length][0]), length) for length, rows in ((64, 256), (512, 32))
               for left in range(rows, 0, -limits[length][0])]  # fmt: skip
    return ShardEncoded(
        model=model, collection="alpha", shard=0, rows=288, tokens=9, padded_tokens=9, truncated_rows=0,
        truncated_tokens=0, batch_rows=tuple(rows for rows, _ in batches),
        padded_lengths=tuple(length for _, length in batches), rows_per_device={"sim:0": 288}, seconds=1.0,
    )  # fmt: skip


def compared(*models: str) -> PeakCompared:
    return PeakCompared(
        models=models, device="sim:0", predicted_bytes=100, measured_bytes=101, resident_bytes=50, missed=False
    )


def record(mode: str, limits: dict[str, Limits], peaks: list[PeakCompared]) -> RunRecord:
    result = RunResult(
        config=RunConfig(chunks_root=Path("chunks"), out=Path("run"), models=MODELS), devices=("sim:0",),
        collections=(), models=tuple(report(name, limits[name]) for name in MODELS), fusion=None, lease_events=(),
        notices=(), started=0.0, seconds=1.0,
    )  # fmt: skip
    return RunRecord(
        mode=mode, events=(*(encoded(name, limits[name]) for name in MODELS), *peaks), observations=(), result=result,
        error=None, allocated_after={}, own_bytes=0,
    )  # fmt: skip


@pytest.fixture
def evidence() -> Evidence:
    """Of two models whose batches are alike in both modes, and all of whose peaks were compared."""
    limits = dict.fromkeys(MODELS, EVEN)
    exclusive = record("exclusive", limits, [compared(name) for name in MODELS])
    return Evidence(
        accelerator="simulated:T4", kind="simulated", card=CARDS["T4"], devices=("sim:0",), residue_bytes=0,
        models=MODELS, chunks=288, sample=Path("sample"), exclusive=exclusive, again=exclusive, once_more=exclusive,
        standard=record("standard", limits, [compared(*MODELS)]),
        staging=StagingRecord(parameter_devices={}, peak_bytes={}),
        failure=FailureRecord(planted="", raised="", released=True, allocated_after={}, next_lease_error=None),
        resume=ResumeRecord(planted="", shards_before=0, broken_off=None, resumed=exclusive),
        isolated=None, embed=None, script=None,
    )  # fmt: skip


def found(evidence: Evidence, name: str) -> tuple[str, str]:
    return next(check.find(evidence) for check in CHECKS if check.name == name)


def with_standard(evidence: Evidence, limits: Limits) -> Evidence:
    """The second model has other limits in standard mode."""
    standard = record("standard", {"one": EVEN, "two": limits}, evidence.standard.comparisons)
    return dataclasses.replace(evidence, standard=standard)


def test_equal_batches_are_said_to_be_equal(evidence):
    expected = "the same batches in both modes, at all 4 padded lengths that occur"
    assert found(evidence, "batch-plan") == ("pass", expected)


def test_batches_that_are_smaller_at_some_lengths_are_not_called_the_same(evidence):
    """Catches a verdict from the median length alone, with a text that is untrue of the others."""
    verdict, text = found(with_standard(evidence, {64: (256, "saturation"), 512: (8, "memory")}), "batch-plan")
    assert verdict == "pass"
    assert "the same batches" not in text
    assert text.endswith("standard mode has smaller batches: two at 512 tokens")


def test_memory_at_one_length_is_no_reason_at_another(evidence):
    """Memory limits the longest rows in standard mode; that batches of short ones differ has another reason."""
    limits: Limits = {64: (64, "saturation"), 512: (8, "memory")}
    verdict, text = found(with_standard(evidence, limits), "batch-plan")
    assert verdict == "fail"
    assert "two has other batches of 64 tokens" in text


def test_fewer_rows_in_exclusive_mode_are_found_at_any_length(evidence):
    """At the median length both modes plan as many; at 512 tokens exclusive mode plans half."""
    verdict, text = found(with_standard(evidence, {64: (256, "saturation"), 512: (64, "saturation")}), "batch-sizes")
    assert verdict == "fail"
    assert text == "two: 32 rows of 512 tokens in exclusive mode, 64 in standard"


def test_all_peaks_as_predicted_pass(evidence):
    assert found(evidence, "peaks")[0] == "pass"


@pytest.mark.parametrize("mode", ["exclusive", "standard"])
def test_a_model_without_a_prediction_does_not_pass_with_the_others(mode, evidence):
    """One model of two was compared, and its peak was as predicted: nothing is known of the other."""
    silent = record(mode, dict.fromkeys(MODELS, EVEN), [compared("one")] if mode == "exclusive" else [])
    verdict, text = found(dataclasses.replace(evidence, **{mode: silent}), "peaks")
    assert verdict == "cannot be shown here"
    assert f"no peak of {'two' if mode == 'exclusive' else 'one, two'} was compared in {mode} mode" in text


@pytest.mark.parametrize(("grown", "verdict"), [(0, "pass"), (64 << 20, "pass"), ((64 << 20) + 1, "fail")])
def test_host_memory_has_a_bound_that_its_evidence_shows(evidence, grown, verdict):
    """795 and then 966 MB passed: ten per cent and 100 MB more were allowed, and no figure said so."""
    again = dataclasses.replace(evidence.again, own_bytes=500_000_000)
    more = dataclasses.replace(evidence.again, own_bytes=500_000_000 + grown)
    judged, text = found(dataclasses.replace(evidence, again=again, once_more=more), "host-memory")
    assert judged == verdict
    assert f"{grown / 1e6:+,.1f} MB; 67.1 MB are allowed" in text


def test_one_model_has_no_passes_to_compare(evidence):
    """The memory between passes was said to drop where there was one pass."""
    assert found(evidence, "release")[0] == "pass"
    result = evidence.exclusive.result
    alone = dataclasses.replace(evidence.exclusive, result=dataclasses.replace(result, models=result.models[:1]))
    verdict, text = found(dataclasses.replace(evidence, exclusive=alone), "release")
    assert verdict == "cannot be shown here"
    assert text.startswith("there is one model, so there are no passes to compare")
