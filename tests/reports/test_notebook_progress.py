"""Progress in a notebook: what is displayed, and how often."""

from __future__ import annotations

import pytest

from soloist.events import BatchEncoded, InputScanned, Notice, PassFinished, PassStarted, RunStarted, ShardEncoded
from soloist.reports.notebook import NotebookProgress, in_notebook


class Notebook:
    """A cell's output and a clock: each display moves nothing, `wait` moves the clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.displayed: list[dict[str, str]] = []
        self.progress = NotebookProgress(self.displayed.append, clock=lambda: self.now)

    def emit(self, *events, seconds: float = 1.0) -> None:
        for event in events:
            self.progress.emit(event)
            self.now += seconds

    @property
    def lines(self) -> list[str]:
        return self.displayed[-1]["text/plain"].splitlines()

    @property
    def html(self) -> str:
        return self.displayed[-1]["text/html"]


def shard(rows: int, embedded: int, seconds: float = 2.0) -> ShardEncoded:
    return ShardEncoded(
        model="m", collection="notes", shard=0, rows=rows, tokens=10, padded_tokens=12, truncated_rows=0,
        truncated_tokens=0, batch_rows=(rows,), padded_lengths=(4,), rows_per_device={"cuda:0": rows}, seconds=seconds,
        reused_rows=rows - embedded,
    )  # fmt: skip


STARTED = (
    RunStarted(mode="exclusive", accelerator="cuda", devices=("cuda:0",), models=("m",)),
    InputScanned(collection="notes", files=2, chunks=200, skipped=0),
    PassStarted(model="m", devices=("cuda:0",), chunks=200),
)
BATCH = BatchEncoded(model="m", device="cuda:0", rows=50)


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


def test_a_bar_has_rate_and_time_left(notebook):
    """A person in a notebook saw nothing until the run was over."""
    notebook.emit(*STARTED, BATCH)
    assert notebook.lines == ["notes: 200 chunks in 2 files", "m on cuda:0: 50 of 200 chunks, 50.0 chunks/s, 0:03 left"]
    assert "width:25.0%" in notebook.html
    notebook.emit(shard(100, embedded=50, seconds=2.0))
    assert notebook.lines[-1] == "m on cuda:0: 100 of 200 chunks, 25.0 chunks/s, 0:02 left"
    notebook.emit(BATCH)
    assert "25.0 chunks/s" in notebook.lines[-1], "the seconds of this shard are not known yet"
    notebook.emit(BATCH, shard(100, embedded=100, seconds=2.0), PassFinished(model="m", peak_bytes={}))
    assert notebook.lines[-1] == "m on cuda:0: 200 of 200 chunks, 37.5 chunks/s, done in 0:06"
    assert "width:100.0%" in notebook.html


def test_it_is_displayed_a_few_times_a_second(notebook):
    """A message for each of 10,000 batches stalls the browser."""
    notebook.emit(*STARTED)
    before = len(notebook.displayed)
    notebook.emit(*[BATCH] * 100, seconds=0.001)
    assert len(notebook.displayed) <= before + 1
    notebook.progress.close()
    assert notebook.lines[-1].startswith("m on cuda:0: 5,000 of 200 chunks"), "the last state is displayed in the end"


def test_names_are_escaped(notebook):
    """The name of a collection is HTML for the browser of whoever opens the notebook."""
    notebook.emit(
        InputScanned(collection="<img src=x onerror=alert(1)>", files=1, chunks=1, skipped=0),
        Notice(about="m", message="a\x1b[2J & b"),
        PassStarted(model="<b>m</b>", devices=("cuda:0",), chunks=1),
    )
    assert "<img" not in notebook.html and "&lt;img src=x onerror=alert(1)&gt;: 1 chunk in 1 file" in notebook.html
    assert "<b>" not in notebook.html and "a\\x1b[2J &amp; b" in notebook.html


def test_a_long_run_does_not_fill_the_notebook(notebook):
    """Validation makes nine runs, and a thousand notices made every update a megabyte."""
    notebook.emit(*(Notice(about="m", message=str(number)) for number in range(300)))
    assert len(notebook.lines) == 101 and notebook.lines[-1] == "note: m: 299"
    assert notebook.lines[0] == "... (earlier lines are left out)"


def test_the_passes_of_several_runs_stay(notebook):
    """The bars of the first run would move again in the second."""
    for _ in range(2):
        notebook.emit(*STARTED, *[BATCH] * 4, PassFinished(model="m", peak_bytes={}))
    done = [line for line in notebook.lines if line.endswith("done in 0:05")]
    assert len(done) == 2 and all("200 of 200 chunks" in line for line in done)


def test_python_alone_is_no_notebook():
    """A script that imports IPython, as matplotlib and pandas may, has no cell to display anything in."""
    assert not in_notebook()
