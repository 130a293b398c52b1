"""The command `eval`: what it prints, what it refuses before any model is loaded, and how it ends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from soloist.cli import app
from soloist.retrieval import open_run
from soloist.retrieval.evaluation import evaluate
from soloist.retrieval.judged import Judged

QUESTION = "which device has the lease"


def invoke(*arguments, **options):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)


def test_a_useless_model_does_not_help(folder):
    """Random vectors beside a model: the ensemble would be sold as an improvement."""
    judged = ("--queries", folder / "queries.jsonl", "--qrels", folder / "qrels.tsv")
    result = invoke("eval", folder / "run", *judged, "--json", "--tune")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    ndcg = {each["name"]: each["measures"]["nDCG@10"] for each in found["systems"]}
    assert found["best_single"] == "wordllama" and ndcg["wordllama"] > ndcg["random"] + 0.2
    assert found["verdict"]["answer"] in ("hurts", "no gain")
    assert found["verdict"]["text"].startswith("The ensemble does not help here")
    made = {"fused (concat)", "mean", "projection", "aligned-mean", "rrf", "standardised"}
    assert ndcg.keys() == {"wordllama", "random", "BM25"} | made
    assert found["tuned"]["weights"]["wordllama"] >= 0.8
    assert found["tuned"]["training"] + found["tuned"]["held_out"] == found["questions"] == 50


def test_the_evaluation_scores_what_the_search_shows(folder):
    """Two rankings by one name."""
    opened = open_run(folder / "run")
    (hit,) = opened.search(QUESTION, 1)
    judged = Judged(queries={"q": QUESTION}, judgements={"q": {hit.id: 1}})
    found = evaluate(opened, judged, bm25=False)
    fused = next(each for each in found.systems if each.kind == "run")
    assert fused.measures["RR@10"] == 1


def test_a_fusion_that_the_run_does_not_have_is_flattered(folder, tmp_path):
    """The best of many fusions, chosen by the questions that judge it, would pass for a finding."""
    copy = shutil.copytree(folder / "run", tmp_path / "copy")
    summary = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**summary, "fusion": None}))
    judged = ("--queries", folder / "queries.jsonl", "--qrels", folder / "qrels.tsv")
    result = invoke("eval", copy, *judged, "--no-bm25", "--json")
    text = json.loads(result.stdout)["verdict"]["text"]
    assert "The run has no fused vectors: " in text and "is the best of 6 fusions by these very questions" in text


def test_a_table_a_verdict_and_a_plot(folder, tmp_path):
    """What people read: the best first, and whether it pays."""
    judged = ("--queries", folder / "queries.jsonl", "--qrels", folder / "qrels.tsv")
    result = invoke("eval", folder / "run", *judged, "--plot", tmp_path / "plot.png", "--no-bm25")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "nDCG@10" in result.stdout and "is it" in result.stdout and "BM25" not in result.stdout
    assert "The ensemble does not help here" in result.stdout


def test_without_questions_headings_are_asked(folder):
    """Nothing could be said of a run that nobody has judged."""
    result = invoke("eval", folder / "run", "--no-bm25")
    assert result.exit_code == 0, result.stderr
    assert "weak evidence" in result.stdout
    assert "note: nobody judged these questions: they are 60 headings" in result.stdout


def test_too_few_questions_to_tune(folder, tmp_path):
    """Weights would be chosen by three questions."""
    lines = (folder / "queries.jsonl").read_text().splitlines()[:5]
    (tmp_path / "queries.jsonl").write_text("\n".join(lines))
    qrels = (folder / "qrels.tsv").read_text().splitlines()[:5]
    (tmp_path / "qrels.tsv").write_text("\n".join(qrels))
    judged = ("--queries", tmp_path / "queries.jsonl", "--qrels", tmp_path / "qrels.tsv")
    result = invoke("eval", folder / "run", *judged, "--tune")
    assert result.exit_code == 2
    assert "5 questions are too few to tune weights" in result.stderr


@pytest.mark.parametrize(("module", "sentence"), [("ir_measures", "needs ir-measures"), ("bm25s", "BM25 needs bm25s")])
def test_a_library_that_is_not_installed(folder, module, sentence):
    """An ImportError names a module, and no extra."""
    code = f"import sys; sys.modules[{module!r}] = None; from soloist.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "eval", str(folder / "run")], capture_output=True, text=True)
    assert done.returncode == 2
    assert sentence in done.stderr and "pip install 'soloist[eval]'" in done.stderr


def test_what_is_left_out_stands_in_the_table(options, tmp_path):
    """A run of three chunks ended in an error about a projection."""
    options[options.index("wordllama")] = "wordllama,all-MiniLM-L6-v2"
    assert invoke(*options).exit_code == 0
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "who has a lease?"}\n')
    (tmp_path / "qrels.tsv").write_text("q\tn0\t1\n")
    judged = ("--queries", tmp_path / "queries.jsonl", "--qrels", tmp_path / "qrels.tsv")
    result = invoke("eval", tmp_path / "run", *judged)
    assert result.exit_code == 0, result.stderr
    assert any(line.split()[:5] == ["projection", "-", "-", "-", "left"] for line in result.stdout.splitlines())
    assert "note: projection is left out: a projection to 256 dims cannot be fitted to 3 chunks" in result.stdout
