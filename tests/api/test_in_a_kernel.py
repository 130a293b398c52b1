"""What a real kernel displays of a run, and what it does when it is interrupted."""

from __future__ import annotations

import os
import sys

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

STOP = """
import signal, soloist
from soloist.events import ShardEncoded

def interrupt(event):
    if isinstance(event, ShardEncoded):
        signal.raise_signal(signal.SIGINT)

settings = dict(out="run", models=["wordllama"], accelerator="cpu", shard_chunks=8, lock_dir="locks")
texts = [f"text {number} of a lease" for number in range(40)]
soloist.embed(texts, interrupt, progress=False, **settings)
"""
CELLS = [
    STOP,
    "result = soloist.embed(texts, **settings)",
    "result",
    "soloist.embed(texts, progress=False, **settings);",
]


@pytest.mark.process
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_kernel_shows_one_bar_and_continues_after_an_interrupt(tmp_path):
    """Bars of a terminal are escape codes in a cell, and an interrupt lost the whole run."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    path = os.pathsep.join(filter(None, sys.path))
    client = nbclient.NotebookClient(
        notebook, timeout=120, allow_errors=True, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"})
    stopped, ran, shown = (outputs_of(cell) for cell in notebook.cells[:-1])
    assert [output.ename for output in stopped] == ["RunStoppedError"]
    assert stopped[0].evalue.endswith("soloist.embed with the same arguments continues the run")
    (progress,) = ran
    lines = progress.data["text/plain"].splitlines()
    assert lines[0] == "chunks: 40 chunks"
    assert "wordllama: 8 chunks in 1 shard kept" in lines
    assert lines[-1].startswith("wordllama on cpu: 32 of 32 chunks, ") and "done in " in lines[-1]
    assert "width:100.0%" in progress.data["text/html"]
    (table,) = shown
    assert '<div class="soloist"><table>' in table.data["text/html"]
    assert "kept from an earlier session" in table.data["text/html"]
    assert notebook.cells[-1].outputs == [], "not even lines on stderr"


def outputs_of(cell):
    """The outputs of a cell, without what libraries write to stderr."""
    return [output for output in cell.outputs if output.output_type != "stream"]
