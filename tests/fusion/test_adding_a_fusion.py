"""A new fusion is one row of the table and one file: everything else finds it by the row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.collections import write_collection
from typer.testing import CliRunner

from soloist.cli import app
from soloist.fusion_methods import FUSIONS, FusionMethod, fusion_choices
from soloist.stores import RunFolder

ROW = {"module": "fusion.first_model", "help": "the first model's vectors"}
MODELS = ("wordllama", "all-MiniLM-L6-v2")
WIDTHS = (256, 384)


pytestmark = pytest.mark.process


@pytest.fixture
def first_model(monkeypatch):
    """The row, for one test."""
    monkeypatch.setitem(FUSIONS, "first", FusionMethod(**ROW))


@pytest.fixture
def options(tmp_path):
    """What a run and its plan have in common: chunks, models and the new fusion."""
    write_collection(tmp_path / "chunks", "alpha", 24, seed=2)
    return [
        str(tmp_path / "chunks"), "--models", ",".join(MODELS), "--fusion", "first", "--accelerator", "cpu",
        "--cache-dir", str(tmp_path / "cache"),
    ]  # fmt: skip


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    return result


def test_the_help_of_embed_and_plan_has_the_fusion():
    """A fusion that nobody reads of is not used; or its name would stand in one command and not in the other."""
    code = (
        "import sys; from soloist.fusion_methods import FUSIONS, FusionMethod, fusion_choices; "
        f"FUSIONS['first'] = FusionMethod(**{ROW!r}); "
        "from typer.testing import CliRunner; from soloist.cli import app; "
        "print(*(CliRunner().invoke(app, [name, '--help']).stdout for name in ('embed', 'plan')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    text = " ".join(done.stdout.split())
    assert text.count("aligned-mean|first|none") == 2, done.stderr
    assert "first: the first model's vectors." in text


def test_a_run_its_plan_and_its_evaluation_have_the_fusion(first_model, options, tmp_path, monkeypatch):
    """A part that has its own list of fusions would refuse the new one, or make another of it."""
    planned = json.loads(invoke("plan", *options, "--json").stdout)
    assert planned["fused_bytes"] == 24 * WIDTHS[0] * 4

    run = tmp_path / "run"
    invoke("embed", *options, "--out", run, "--lock-dir", tmp_path / "locks")
    written = json.loads((run / "run.json").read_text())
    assert (written["config"]["fusion"]["method"], written["fusion"]["method"]) == ("first", "first")
    assert written["fusion"]["dim"] == WIDTHS[0]
    assert "fusion: only wordllama is searched" in written["notices"]
    folder = RunFolder(run)
    ids, own = folder.shards.read_vectors("alpha", "wordllama", 0)
    fused_ids, fused = folder.shards.read_fused("alpha", 0)
    assert ids == fused_ids and np.array_equal(own, fused)
    invoke("verify", run)

    systems = {system["name"]: system["measures"] for system in evaluated(run, tmp_path)}
    assert systems["fused (first)"] == systems["wordllama"]
    assert {"concat", "mean"} <= systems.keys()  # which the run could have

    monkeypatch.delitem(FUSIONS, "first")  # a question would be fused by another method, or a KeyError be raised
    result = CliRunner().invoke(app, ["search", str(run), "lease"])
    assert result.exit_code == 2
    assert f"fusion is 'first': choose one of {', '.join(fusion_choices())}" in result.stderr


def test_an_evaluation_tries_the_fusion_on_a_run_without_it(first_model, options, tmp_path):
    """Whether the new fusion is better would only be known after a run with it."""
    run = tmp_path / "run"
    invoke("embed", *options, "--fusion", "concat", "--out", run, "--lock-dir", tmp_path / "locks")
    systems = {system["name"]: system["measures"] for system in evaluated(run, tmp_path)}
    assert systems["first"] == systems["wordllama"] != systems["fused (concat)"]


def test_an_unknown_fusion_is_refused_with_the_choices(first_model, options, tmp_path):
    """The choices would lack the new fusion; or the run would end after it has read its input."""
    result = CliRunner().invoke(app, ["embed", *options, "--fusion", "second", "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert result.stderr == (f"soloist: error: fusion is 'second': choose one of {', '.join(fusion_choices())}\n")
    assert "aligned-mean, first, none" in result.stderr
    assert not (tmp_path / "run").exists()


def test_the_page_on_fusion_has_every_method():
    """A method would be in the help and not in the documents, or the other way round."""
    page = (Path(__file__).parents[2] / "docs" / "fusion.md").read_text()
    rows = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `") and "--fusion" not in line]
    assert tuple(rows) == fusion_choices()


def evaluated(run: Path, folder: Path) -> list[dict]:
    """The systems that eval ranks with, on questions whose answers are chunks of the run."""
    chunks = RunFolder(run).shards.read_chunks("alpha", 0)
    with (folder / "queries.jsonl").open("w") as queries, (folder / "qrels.tsv").open("w") as qrels:
        for number, chunk in enumerate(chunks):
            queries.write(json.dumps({"_id": f"q{number}", "text": " ".join(chunk.text.split()[::3])}) + "\n")
            qrels.write(f"q{number}\t{chunk.id}\t1\n")
    judged = ["--queries", folder / "queries.jsonl", "--qrels", folder / "qrels.tsv"]
    found = json.loads(invoke("eval", run, *judged, "--no-bm25", "--json").stdout)
    return found["systems"]
