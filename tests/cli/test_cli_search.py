"""The commands `search` and `eval`: what they print, what they refuse, and how they end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from engine.conftest import write_collection
from typer.testing import CliRunner

from soloist.cli import app
from soloist.config import FusionConfig, RunConfig
from soloist.engine import run
from soloist.fusion import FusionPlan, fuse
from soloist.retrieval import By, open_run
from soloist.retrieval.evaluation import evaluate
from soloist.retrieval.judged import Judged
from soloist.stores import RunFolder

QUESTION = "which device has the lease"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_models):
    """A finished run of WordLlama and a model of random vectors, with judged questions and headings."""
    root = tmp_path_factory.mktemp("commands")
    write_collection(root / "chunks", "alpha", 60, seed=4)
    file = root / "chunks" / "alpha" / "doc_chunks.json"
    chunks = json.loads(file.read_text())
    for number, chunk in enumerate(chunks):
        chunk["metadata"]["title"] = f"Part {number} of the text"
    file.write_text(json.dumps(chunks))
    (root / "models.toml").write_text(f'[models."random"]\nsource = "{tiny_models["bert"]}"\n')
    run(
        RunConfig(
            chunks_root=root / "chunks", out=root / "run", models=("wordllama", "random"), accelerator="cpu",
            catalogue=root / "models.toml", lock_dir=root / "locks", cache_dir=root / "cache", fusion=FusionConfig(),
        )
    )  # fmt: skip
    make_useless(root / "run")
    with (root / "queries.jsonl").open("w") as queries, (root / "qrels.tsv").open("w") as qrels:
        for number, chunk in enumerate(chunks[:50]):
            words = chunk["text"].split()
            queries.write(json.dumps({"_id": f"q{number}", "text": " ".join(words[::2])}) + "\n")
            qrels.write(f"q{number}\t{chunk['metadata']['chunk_id']}\t1\n")
    return root


def make_useless(path):
    """Put random vectors in the place of a model's, and fuse them: they have nothing to do with their texts."""
    folder, drawn = RunFolder(path), np.random.default_rng(0)
    summary = folder.read_json("run.json")
    records = list(folder.manifest.read().values())
    made_by = {each.kind if each.kind == "fused" else each.model: each.fingerprint for each in records}
    folder.reopen()
    for shard in folder.shards("alpha"):
        ids, own = folder.read_vectors("alpha", "wordllama", shard)
        digests = folder.read_digests("alpha", "random", shard)
        vectors = drawn.standard_normal(folder.read_vectors("alpha", "random", shard)[1].shape).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        folder.write_vectors("alpha", "random", shard, ids, vectors, digests, made_by["random"])
        fused = fuse(FusionPlan.from_dict(summary["fusion"]), [own, vectors])
        content = next(each.content for each in records if each.kind == "fused" and each.shard == shard)
        folder.write_fused("alpha", shard, ids, fused, content, made_by["fused"])
    folder.finish(summary)


def invoke(*arguments, **options):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)


def test_hits_on_the_terminal(folder):
    """Somebody looks for a chunk: its place, its score, its words."""
    result = invoke("search", folder / "run", QUESTION, "-k", 3)
    assert result.exit_code == 0, result.stderr
    hits = open_run(folder / "run").search(QUESTION, 3)
    lines = result.stdout.splitlines()
    for hit in hits:
        assert f"{hit.rank:>3}  {hit.score:.4f}  alpha  {hit.id}" in lines
        assert any(line.strip() and line.strip() in " ".join(hit.text.split()) for line in lines)
    assert all(len(line) <= 100 for line in lines)


def test_hits_as_json_for_each_line_of_stdin(folder):
    """A script asks a thousand questions: one load of the models, a line for each."""
    asked = [QUESTION, "tokens of a batch"]
    result = invoke("search", folder / "run", "-", "--json", "-k", 4, input="\n".join(asked) + "\n\n")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["query"] for line in lines] == asked
    expected = open_run(folder / "run").search_all(asked, 4)
    for line, hits in zip(lines, expected, strict=True):
        assert [(hit["id"], hit["text"], hit["rank"]) for hit in line["hits"]] == [(h.id, h.text, h.rank) for h in hits]
        assert line["hits"][0]["metadata"]["title"].startswith("Part ")


@pytest.mark.parametrize(
    ("options", "by"),
    [
        (["--model", "random"], By(model="random")),
        (["--fused"], By(fusion="fused")),
        (["--rrf", "--weights", "wordllama=.9,random=.1"], By(fusion="rrf", weights={"wordllama": 0.9, "random": 0.1})),
        (["--standardised"], By(fusion="standardised")),
    ],
)
def test_what_ranks_is_chosen(folder, options, by):
    """The option would not arrive."""
    result = invoke("search", folder / "run", QUESTION, "--json", *options)
    found = [hit["id"] for hit in json.loads(result.stdout)["hits"]]
    assert found == [hit.id for hit in open_run(folder / "run").search(QUESTION, 10, by=by)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "{run}", ""), "a query is empty"),
        (("search", "{run}", "x", "-k", "61"), "k is 61, but there are 60 chunks"),
        (("search", "{run}", "x", "--model", "bge-m3"), "the run has no model bge-m3"),
        (("search", "{run}", "x", "--collection", "beta"), "the run has no collection beta"),
        (("search", "{run}", "x", "--fused", "--rrf"), "--fused and --rrf are two ways to rank"),
        (("search", "{run}", "x", "--weights", "a=1"), "--weights are for --rrf and --standardised"),
        (("eval", "{run}", "--queries", "{queries}"), "--queries needs --qrels beside it"),
        (("eval", "{run}", "--plot", "x.gif"), "give a name that ends in .png, .svg or .pdf"),
        (("eval", "{run}", "--queries", "{queries}", "--qrels", "{qrels}", "--weights", "a=1"), "weights name a"),
    ],
)
def test_usage_errors(folder, arguments, message):
    """A setting that cannot be honoured is 2 and one sentence."""
    places = {"run": folder / "run", "queries": folder / "queries.jsonl", "qrels": folder / "qrels.tsv"}
    result = invoke(*(argument.format(**places) for argument in arguments))
    assert result.exit_code == 2, result.stdout
    assert message in result.stderr and len(result.stderr.splitlines()) == 1


def test_no_run_is_one_sentence(tmp_path):
    """The usual slip: the folder of chunks in the place of the run."""
    for command in (["search", tmp_path, "x"], ["eval", tmp_path], ["search", tmp_path / "none", "x"]):
        result = invoke(*command)
        assert result.exit_code == 1
        assert "soloist embed" in result.stderr and len(result.stderr.splitlines()) == 1


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
