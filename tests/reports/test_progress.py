"""Progress as lines in a log and as bars on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from soloist.events import (
    BadRowsFound,
    BatchEncoded,
    InputScanned,
    InputSkipped,
    LeaseAcquired,
    LeaseReleased,
    LeaseWaiting,
    ModelStaged,
    Notice,
    PassFinished,
    PassStarted,
    RunFinished,
    RunStarted,
    ShardEncoded,
    ShardFused,
)
from soloist.reports.progress import BarProgress, LineProgress, progress, status_line
from soloist.types import HeldTensor, MemoryStats

EMPTY = MemoryStats(
    allocated_bytes=0, reserved_bytes=0, free_bytes=15 * 10**9, total_bytes=16 * 10**9, peak_bytes=2 * 10**9
)


def shard(index: int, rows: int, model: str = "m", reused: int = 0, repeated: int = 0) -> ShardEncoded:
    """A shard of two seconds, of whose rows some are copies."""
    return ShardEncoded(
        model=model, collection="notes", shard=index, rows=rows, tokens=10, padded_tokens=12, truncated_rows=0,
        truncated_tokens=0, batch_rows=(rows,), padded_lengths=(4,), rows_per_device={"cuda:0": rows}, seconds=2.0,
        reused_rows=reused, repeated_rows=repeated,
    )  # fmt: skip


def batch(rows: int) -> BatchEncoded:
    """The batch that a bar moves by."""
    return BatchEncoded(model="m", device="cuda:0", rows=rows)


def run_events() -> list:
    """The events of a small run with one model."""
    leased = {"models": ("m",), "devices": ("cuda:0",), "memory": {"cuda:0": EMPTY}}
    return [
        RunStarted(mode="exclusive", accelerator="cuda", devices=("cuda:0",), models=("m",)),
        Notice(about="m", message="its licence does not allow commercial use"),
        InputSkipped(collection="notes", file="a.json", index=3, reason="empty text", detail=""),
        InputScanned(collection="notes", files=2, chunks=200, skipped=1),
        ModelStaged(
            model="m", source="org/m", revision=None, fingerprint="f", dim=8, max_tokens=512, dtype="float16",
            weights_bytes=90_900_000, seconds=1.25,
        ),
        LeaseWaiting(device="cuda:0", holder="process 17 (other) since 2026-01-01 10:00:00"),
        LeaseAcquired(**leased, waited_seconds=3.0),
        PassStarted(model="m", devices=("cuda:0",), chunks=200),
        batch(100),
        shard(0, 100),
        batch(5),
        shard(1, 5),
        batch(95),
        shard(2, 95),
        PassFinished(model="m", peak_bytes={"cuda:0": 2 * 10**9}),
        LeaseReleased(**leased, held=(), held_seconds=6.5),
        ShardFused(collection="notes", shard=0, rows=100, dim=8),
        RunFinished(seconds=9.0),
    ]  # fmt: skip


def test_a_log_gets_one_plain_line_for_each_event_worth_it():
    """A log without the lease's lines cannot say who waited for whom, nor what was given back."""
    stream = io.StringIO()
    sink = LineProgress(stream)
    for event in run_events():
        sink.emit(event)
    assert stream.getvalue().splitlines() == [
        "note: m: its licence does not allow commercial use",
        "notes: 200 chunks in 2 files, 1 skipped",
        "m: 90.9 MB of weights in float16, 8 dims, up to 512 tokens, staged in 1.2 s",
        "waiting: cuda:0 is held by process 17 (other) since 2026-01-01 10:00:00",
        "m: leased cuda:0 (15.00 GB of 16.00 GB free) after waiting 3.0 s",
        "m: 100 of 200 chunks, 50.0 chunks/s",
        "m: 200 chunks in 6.0 s, 33.3 chunks/s, peak cuda:0 2.00 GB",
        "m: released cuda:0 (0 B still allocated) after 6.5 s",
    ]


def test_copied_vectors_are_in_the_count_and_not_in_the_rate():
    """A log that promised ten times the rate of the table, because most vectors were only copied."""
    stream = io.StringIO()
    sink = LineProgress(stream)
    for _ in range(2):  # runs of one process, as validate makes them
        sink.emit(RunStarted(mode="exclusive", accelerator="cuda", devices=("cuda:0",), models=("m",)))
        sink.emit(shard(0, 100, reused=100))
        sink.emit(PassStarted(model="m", devices=("cuda:0",), chunks=400))
        sink.emit(shard(1, 100, reused=80, repeated=10))
        sink.emit(shard(2, 100, reused=100))
        sink.emit(shard(3, 100, reused=98))
        sink.emit(PassFinished(model="m", peak_bytes={"cuda:0": 10**9}))
    assert stream.getvalue().splitlines() == 2 * [
        "m: 200 of 400 chunks, 5.0 chunks/s",
        "m: 300 of 400 chunks, 5.0 chunks/s",
        "m: 400 chunks, 12 of them embedded, in 4.0 s, 3.0 chunks/s, peak cuda:0 1.00 GB",
    ]


def test_the_rate_of_a_bar_is_of_embedded_chunks():
    """The same on a terminal."""
    stream = io.StringIO()
    bars = BarProgress(Console(file=stream, force_terminal=True, width=120, height=30, color_system=None))
    started = PassStarted(model="m", devices=("cuda:0",), chunks=200)
    for event in (shard(0, 100, reused=100), started, batch(10), shard(1, 100, reused=90)):
        bars.emit(event)
    bars.close()
    assert "200/200" in stream.getvalue() and "5.0 chunks/s" in stream.getvalue()
    assert "50.0 chunks/s" not in stream.getvalue()


def test_what_a_release_left_behind_is_named():
    """A tensor that stays is the one thing that the user must hear of."""
    stream = io.StringIO()
    held = HeldTensor(device="cuda:0", shape=(3, 4), dtype="float32", size_bytes=48)
    LineProgress(stream).emit(
        LeaseReleased(models=("m",), devices=("cuda:0",), memory={"cuda:0": EMPTY}, held=(held,), held_seconds=1)
    )
    assert "held: cuda:0: 3x4 float32, 48 bytes" in stream.getvalue()


def test_only_the_first_bad_rows_of_a_model_have_a_line():
    """Thousands of lines would hide all others. Without any, the user learns of bad rows only at the end of the run."""
    stream = io.StringIO()
    lines = LineProgress(stream)
    for model, id in (("m", "a"), ("m", "b"), ("n", "c")):
        lines.emit(BadRowsFound(model=model, device="cuda:0", dtype="float16", rows=64, ids=(id,)))
    said = (
        "1 of 64 vectors of a batch on cuda:0 have NaN, infinity or only zeros in float16 (the first is of chunk "
        "{!r}): such vectors are computed again in float32, and the result of the run counts them"
    )
    assert stream.getvalue().splitlines() == [f"m: {said.format('a')}", f"n: {said.format('c')}"]


def test_a_name_cannot_move_the_cursor():
    """A folder may be named with escape codes and line breaks, and would write where it likes."""
    stream = io.StringIO()
    LineProgress(stream).emit(InputScanned(collection="a\x1b[2J\rb\nc", files=1, chunks=1, skipped=0))
    assert stream.getvalue() == "a\\x1b[2J b c: 1 chunk in 1 file\n"


@pytest.mark.parametrize("width", [30, 40, 80, 120])
def test_bars_show_counts_and_notices_at_any_width(width):
    """In a narrow window the counts must not be cut in favour of a bar."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=width, height=30, color_system=None)
    bars = BarProgress(console)
    for event in run_events():
        bars.emit(event)
    bars.close()
    text = stream.getvalue()
    assert "200/200" in text
    assert "process 17" in text and "commercial use" in text and "notes: 200 chunks" in text
    assert "m on cuda:0" in text
    assert "released" not in text


def test_brackets_in_a_model_name_are_no_markup():
    """rich would take [bold] out of the name, and end with an error on [/]."""
    stream = io.StringIO()
    bars = BarProgress(Console(file=stream, force_terminal=True, width=80, height=30, color_system=None))
    bars.emit(PassStarted(model="[/] [bold]m", devices=("cpu",), chunks=2))
    bars.emit(shard(0, 2, model="[/] [bold]m"))
    bars.close()
    assert "[/] [bold]m on cpu" in stream.getvalue()


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        (["cpu"], "m on cpu"),
        (["node-1/cuda:0", "node-1/cuda:1"], "m on node-1/cuda:0, node-1/cuda:1"),
        (["node-1/cpu", "node-2/cpu"], "m on 2 nodes"),
        ([f"node-{node}/cuda:{gpu}" for node in range(4) for gpu in range(8)], "m on 32 devices of 4 nodes"),
        ([f"cuda:{gpu}" for gpu in range(8)], "m on 8 devices"),
    ],
)
def test_a_bar_counts_devices_that_it_has_no_room_to_name(devices, words):
    """The names of 32 GPUs leave no room for the bar itself."""
    stream = io.StringIO()
    bars = BarProgress(Console(file=stream, force_terminal=True, width=100, height=30, color_system=None))
    bars.emit(PassStarted(model="m", devices=tuple(devices), chunks=2))
    bars.close()
    assert words in stream.getvalue()


def test_a_pass_without_time_has_no_rate():
    """A first shard on a coarse clock must not divide by zero."""
    stream = io.StringIO()
    sink = LineProgress(stream)
    sink.emit(PassStarted(model="m", devices=("cpu",), chunks=0))
    sink.emit(PassFinished(model="m", peak_bytes={"cpu": 1}))
    assert "0 chunks in 0.0 s" in stream.getvalue()


def test_no_terminal_gives_lines():
    """Bars in a file are a thousand copies of the same line."""
    stream = io.StringIO()
    with progress(stream) as sink:
        assert isinstance(sink, LineProgress)


class Terminal(io.StringIO):
    """Keeps what is written to it."""

    encoding = "ascii"

    def isatty(self) -> bool:
        return True


def test_a_status_line_is_gone_in_the_end(monkeypatch):
    """It would stand before the result, or a name would move the cursor."""
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with pytest.raises(KeyboardInterrupt), status_line(stream) as show:
        show("a name \x1b[2J, long")
        show("文書文書文")
        show("nineteen characters")
        raise KeyboardInterrupt
    shown = ["a name \\x1b[2J, ...", "\\u6587\\u66f8\\u6 ...", "nineteen characters"]
    assert stream.getvalue().split("\r\x1b[2K") == ["", *shown, ""]


@pytest.mark.parametrize(("stream", "term"), [(io.StringIO(), "xterm"), (Terminal(), "dumb")])
def test_no_status_line_where_nobody_watches(stream, term, monkeypatch):
    """A log would fill with control characters."""
    monkeypatch.setenv("TERM", term)
    with status_line(stream) as show:
        show("searching")
    assert stream.getvalue() == ""
