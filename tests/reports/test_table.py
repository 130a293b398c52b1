"""The closing table of a run at every width."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from soloist.config import FusionConfig, RunConfig
from soloist.engine import ModelReport, RunResult
from soloist.engine.result import BatchSizes, CollectionReport
from soloist.fusion import Member, plan_fusion
from soloist.reports.table import open_console, print_result, print_table
from soloist.sizing.budgets import Budget

MODEL = ModelReport(
    name="jina-code-embeddings-1.5b", source="org/m", revision=None, fingerprint="f" * 16, dim=1536, dtype="float16",
    matmul="torch", max_tokens=512, document_prompt="", query_prompt="", licence=None, weight=0.5,
    chunks=123_456, tokens=98_765_432,
    embedded=123_456, kept=0, reused=0, from_others=0, repeated=0,
    padding_share=0.034, truncated_rows=12, truncated_tokens=345,
    budget=Budget(tokens=16_384, source="table", device="cuda Tesla T4"),
    batch_sizes=BatchSizes(smallest=1, median=16, largest=64, batches=900, splits=2, planned=64, limited_by="memory"),
    recomputed_rows=1, seconds=1234.5, padded_tokens=102_241_648, predicted_peak_bytes=12_350_000_000,
    chunks_per_second=100.0, peak_bytes={"cuda:0": 12_340_000_000, "cuda:1": 12_300_000_000},
    rows_per_device={"cuda:0": 61_728, "cuda:1": 61_728}, device_shares={"cuda:0": 0.5, "cuda:1": 0.5},
)  # fmt: skip
OTHER = dataclasses.replace(
    MODEL, name="bge-m3", dim=1024, truncated_rows=0, recomputed_rows=0,
    batch_sizes=BatchSizes(smallest=1, median=16, largest=64, batches=900, splits=0, planned=64, limited_by="memory"),
)  # fmt: skip


@pytest.fixture
def result() -> RunResult:
    """A run of two models on two devices."""
    members = [Member(name=model.name, dim=model.dim) for model in (MODEL, OTHER)]
    return RunResult(
        config=RunConfig(chunks_root=Path("chunks"), out=Path("a folder/run"), models=(MODEL.name, OTHER.name)),
        devices=("cuda:0", "cuda:1"),
        collections=(CollectionReport(name="notes", files=2, chunks=123_456, skipped=3, without_vector={"bge-m3": 2}),),
        models=(MODEL, OTHER),
        fusion=plan_fusion(FusionConfig(), members),
        lease_events=(),
        notices=(),
        started=0.0,
        seconds=2500.0,
    )


def printed(result: RunResult, width: int) -> list[str]:
    """The lines of a console of that width."""
    stream = io.StringIO()
    print_result(result, Console(file=stream, width=width, color_system=None))
    return stream.getvalue().splitlines()


def test_eighty_columns_hold_one_line_for_each_model(result):
    """A table that wraps in the usual window is read by nobody."""
    lines = printed(result, 80)
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["model", "chunks", "tokens", "padded", "truncated", "seconds", "chunks/s"]
    assert lines[1].split() == [MODEL.name, "123,456", "98.8M", "3.4%", "12", "1234.5", "100.0"]
    assert lines[5].split() == [MODEL.name, "cuda:0", "50%", "61,728", "12.34", "GB"]


def test_devices_are_in_the_order_of_their_names(result):
    """Shards end in any order, and a node would be looked for among 32 devices."""
    devices = ("node-10/cpu", "node-9/cpu", "node-1/cpu")
    model = dataclasses.replace(
        MODEL, rows_per_device=dict.fromkeys(devices, 1), device_shares=dict.fromkeys(devices, 0.33)
    )
    lines = printed(dataclasses.replace(result, models=(model,)), 100)
    found = [word for line in lines for word in line.split() if word.startswith("node-")]
    assert found == ["node-1/cpu", "node-9/cpu", "node-10/cpu"]


@pytest.mark.parametrize("width", [40, 60])
def test_a_narrow_terminal_gets_whole_words(result, width):
    """Numbers that are cut or folded are wrong numbers."""
    lines = printed(result, width)
    tables = lines[: lines.index("a folder/run: written in 2500.0 s, fused: concat, 2560 dimensions")]
    assert max(len(line) for line in tables if ": " not in line) <= width
    assert "  tokens     98.8M" in tables
    assert MODEL.name in tables
    assert not any("…" in line for line in lines)


@pytest.mark.parametrize(("width", "is_table"), [(60, False), (80, True)])
def test_both_tables_have_one_form(result, width, is_table):
    """At 60 columns the models were blocks of lines, and the devices below them a table."""
    lines = printed(result, width)
    assert [any(line.split()[:2] == ["model", second] for line in lines) for second in ("chunks", "device")] == [
        is_table, is_table,
    ]  # fmt: skip
    assert ("  share   50%" in lines) is not is_table


def test_what_was_changed_is_said(result):
    """Text that was cut off, split batches and second attempts are not to be found in a file only."""
    text = "\n".join(printed(result, 100))
    assert f"{MODEL.name}: 12 chunks longer than 512 tokens, 345 tokens cut off" in text
    assert f"{MODEL.name}: 2 batch splits, because memory ran out" in text
    assert f"{MODEL.name}: 1 row computed again in float32 (zero or not finite)" in text
    assert "3 input items skipped, 2 of them without a vector in bge-m3: see skipped.jsonl" in text
    assert "COLLECTION/{chunks, vectors, fused} for notes" in text


def test_a_model_whose_vectors_were_all_kept_has_no_rate(result):
    """0 tokens at 0.0 chunks/s look like a run that failed."""
    kept = dataclasses.replace(
        MODEL, embedded=0, kept=MODEL.chunks, tokens=0, padding_share=0.0, truncated_rows=0, seconds=0.0,
        chunks_per_second=0.0, recomputed_rows=0,
    )  # fmt: skip
    lines = printed(dataclasses.replace(result, models=(kept, OTHER)), 100)
    assert lines[1].split() == [MODEL.name, "123,456", "-", "-", "-", "-", "-"]
    assert f"{MODEL.name}: 0 chunks embedded, 123,456 kept from an earlier session" in lines


def test_vectors_that_were_taken_over_are_said_with_their_place(result):
    """`taken from vectors that were there`: from where, asks whoever has to trust them."""
    taken = dataclasses.replace(MODEL, embedded=123_000, reused=456, from_others=400)
    config = dataclasses.replace(result.config, reuse=(Path("old"), Path("older")))
    text = "\n".join(printed(dataclasses.replace(result, config=config, models=(taken, OTHER)), 100))
    expected = "123,000 chunks embedded, 56 taken from an earlier state of this run, 400 taken from old or older"
    assert f"{MODEL.name}: {expected}" in text


def test_a_run_without_fusion_names_no_fused_vectors(result):
    """A line that names a folder that is not there sends people searching."""
    text = "\n".join(printed(dataclasses.replace(result, fusion=None), 100))
    assert "not fused" in text and "vectors, fused" not in text


def test_wide_letters_keep_the_columns_straight():
    """文 takes two columns of a terminal, and len() counts one."""
    stream = io.StringIO()
    print_table(Console(file=stream, width=80, color_system=None), ("model", "dim"), [["文書", "8"], ["abcd", "16"]])
    assert stream.getvalue().splitlines() == ["model  dim", "文書     8", "abcd    16"]


def test_without_a_terminal_the_width_is_fixed(monkeypatch):
    """COLUMNS of the shell that started a job must not shape its log."""
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = open_console(io.StringIO())
    assert console.width == 100
    assert not console.is_terminal
