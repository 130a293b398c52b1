"""The command `eval`: what it prints, what it refuses before any model is loaded, and how it ends."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from support.invoking import invoke

from soloist.extras import install_command
from soloist.retrieval import open_run
from soloist.retrieval.evaluation import evaluate
from soloist.retrieval.qrels import Qrels

QUESTION = "which device has the lease"


def test_a_useless_model_does_not_help(folder):
    """Random vectors beside a model: the ensemble would be sold as an improvement."""
    result = invoke("eval", folder / "run", *judged_by(folder), "--json", "--tune")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    ndcg = {each["name"]: each["measures"]["nDCG@10"] for each in found["systems"]}
    assert found["best_single"] == "wordllama" and ndcg["wordllama"] > ndcg["random"] + 0.2
    assert found["verdict"]["answer"] in ("hurts", "no gain")
    assert found["verdict"]["text"].startswith("The run's own fusion does not help here")
    assert found["best_verdict"]["answer"] != "helps" and found["best_verdict"]["gain"]["mean"] < 0.05
    made = {"fused (concat)", "mean", "projection", "aligned-mean", "rrf", "standardised"}
    assert ndcg.keys() == {"wordllama", "random", "BM25"} | made
    assert found["tuned"]["weights"]["wordllama"] >= 0.8
    assert found["tuned"]["training"] + found["tuned"]["held_out"] == found["questions"] == 50


def test_the_evaluation_scores_what_the_search_shows(folder):
    """Two rankings by one name."""
    opened = open_run(folder / "run")
    (hit,) = opened.search(QUESTION, 1)
    qrels = Qrels(queries={"q": QUESTION}, judgements={"q": {hit.id: 1}})
    found = evaluate(opened, qrels, bm25=False)
    fused = next(each for each in found.systems if each.kind == "run")
    assert fused.measures["RR@10"] == 1


def test_a_fusion_that_the_run_does_not_have_is_flattered(folder, tmp_path):
    """The best of many fusions, chosen by the questions that judge it, would pass for a finding."""
    copy = shutil.copytree(folder / "run", tmp_path / "copy")
    summary = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**summary, "fusion": None}))
    result = invoke("eval", copy, *judged_by(folder), "--no-bm25", "--json")
    found = json.loads(result.stdout)
    text = found["best_verdict"]["text"]
    assert found["verdict"] is None and "The run has no fused vectors." in text
    assert "It was chosen among 6 by these same questions, which the interval allows for." in text


def test_a_table_a_verdict_and_a_plot(folder, tmp_path):
    """What people read: the best first, and whether it pays."""
    result = invoke("eval", folder / "run", *judged_by(folder), "--plot", tmp_path / "plot.png", "--no-bm25")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "nDCG@10" in result.stdout and "is the best model" in result.stdout and "BM25" not in result.stdout
    assert "The run's own fusion does not help here" in result.stdout


def test_without_questions_headings_are_asked(folder):
    """Nothing could be said of a run that nobody has judged."""
    result = invoke("eval", folder / "run", "--no-bm25")
    assert result.exit_code == 0, result.stderr
    assert "weak evidence" in result.stdout
    assert (
        "note: nobody judged these questions: they are 60 headings, each of which should find its own chunk"
        in result.stdout
    )


def test_one_question_shows_nothing(folder, tmp_path):
    """Of one question the interval was one number, and the verdict that the ensemble hurts, or helps."""
    opened = open_run(folder / "run")
    (hit,) = opened.search(QUESTION, 1)
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": QUESTION}) + "\n")
    (tmp_path / "qrels.tsv").write_text(f"q\t{hit.id}\t1\nq\tgone\t1\n")
    command = ("eval", folder / "run", *judged_by(tmp_path), "--no-bm25")
    shown = invoke(*command).stdout
    assert (
        "It is not shown that the run's own fusion helps here: " in shown
        and "the best single model (1 question)" in shown
    )
    assert "[" not in shown.split("It is not shown")[0], "an interval of one question"
    assert "note: not in the run, so no system can find it: 1 judged chunk\n" in shown
    found = json.loads(invoke(*command, "--json").stdout)
    assert found["verdict"]["answer"] == "not shown"
    gains = [each["gain"] for each in found["systems"] if each["gain"] is not None]
    assert gains and {(gain["low"], gain["high"]) for gain in gains} == {(None, None)}
    assert invoke(*command, "--plot", tmp_path / "plot.png").exit_code == 0


@pytest.fixture
def modelless(folder, tmp_path):
    """The run and its questions where no model can be loaded: whatever loads one first ends with that."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    summary = json.loads((copy / "run" / "run.json").read_text())
    for model in summary["models"]:
        model["fingerprint"] = "0" * 64
    (copy / "run" / "run.json").write_text(json.dumps(summary))
    return copy


def judged_by(folder):
    return "--queries", folder / "queries.jsonl", "--qrels", folder / "qrels.tsv"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--queries", "{folder}/queries.jsonl"), 2, "--queries needs --qrels beside it"),
        (("--qrels", "{folder}/qrels.tsv"), 2, "--qrels needs --queries beside it"),
        (("--queries", "{folder}/none", "--qrels", "{folder}/qrels.tsv"), 2, "none cannot be read"),
        (("--queries", "{folder}/qrels.tsv", "--qrels", "{folder}/qrels.tsv"), 1, "line 1 is not a query"),
        (("--queries", "{folder}/queries.jsonl", "--qrels", "{folder}/queries.jsonl"), 1, "line 1 is not a judgement"),
        (("--plot", "x.gif"), 2, "--plot is x.gif: give a name that ends in .png, .svg or .pdf"),
        (("--plot", "{folder}/plot.png"), 2, "which is a folder: give the name of a file"),
        (("--plot", "{folder}/qrels.tsv/x.png"), 2, "qrels.tsv is a file: choose another folder"),
        (("--weights", "a=1"), 2, "weights name a, which is not a model of this run"),
        (("--weights", "random=-1,wordllama=1"), 2, "the weight of random is -1.0"),
        (("--weights", "random=1"), 2, "weights name random but not wordllama"),
        (("--collections", "beta"), 2, "the run has no collection beta: choose one of alpha"),
        ((), 2, "is not the model that made the run"),
    ],
)
def test_what_cannot_be_honoured_is_found_before_any_model_is_loaded(modelless, options, code, message):
    """Half an hour of ranking was thrown away for the name of a plot."""
    (modelless / "plot.png").mkdir()
    result = invoke("eval", modelless / "run", *(option.format(folder=modelless) for option in options))
    assert result.exit_code == code, result.stdout
    assert message in result.stderr and len(result.stderr.splitlines()) == 1
    assert not result.stdout


def test_too_few_questions_to_tune(modelless):
    """Weights would be chosen by three questions."""
    for name in ("queries.jsonl", "qrels.tsv"):
        lines = (modelless / name).read_text().splitlines()[:5]
        (modelless / name).write_text("\n".join(lines))
    result = invoke("eval", modelless / "run", *judged_by(modelless), "--tune")
    assert result.exit_code == 2
    assert "5 questions are too few to tune weights" in result.stderr


def test_no_run_is_one_sentence(tmp_path):
    """The usual slip: the folder of chunks in the place of the run."""
    for place in (tmp_path, tmp_path / "none"):
        result = invoke("eval", place)
        assert result.exit_code == 2
        assert "soloist embed" in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("module", "sentence"),
    [("ir_measures", "needs ir-measures"), ("bm25s", "BM25 needs bm25s"), ("matplotlib", "--plot needs matplotlib")],
)
def test_a_library_that_is_not_installed(modelless, monkeypatch, module, sentence):
    """An ImportError names a module, and no extra."""
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"{module}.figure", raising=False)
    result = invoke("eval", modelless / "run", "--plot", modelless / "plot.png")
    assert result.exit_code == 2
    assert sentence in result.stderr and install_command("eval") in result.stderr


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
