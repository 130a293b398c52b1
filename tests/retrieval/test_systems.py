"""What ranks in an evaluation, and what is left out of it because this run cannot have it."""

from __future__ import annotations

import json
import shutil

import pytest

from soloist.config import FusionConfig, RunConfig
from soloist.engine import run
from soloist.errors import ConfigError, InputError
from soloist.retrieval import By, open_run
from soloist.retrieval.evaluation import evaluate
from soloist.retrieval.qrels import Qrels
from soloist.retrieval.rankers import RANKERS
from soloist.retrieval.rankers.other_fusions import plan_of
from soloist.retrieval.rankers.ranker import rankers_of
from soloist.stores import RunFolder

TEXTS = ["a lease of a device", "the batch of tokens", "a vector and its norm", "shards of chunks"]
JUDGED = Qrels(queries={"q": "which device has the lease"}, judgements={"q": {"c0": 1}})


@pytest.fixture
def small(tmp_path, tiny_models):
    """`small(models, method)`: the folder of a run of four chunks; `bert` and `again` are the same model twice."""
    (tmp_path / "chunks" / "notes").mkdir(parents=True)
    chunks = [{"text": text, "metadata": {"chunk_id": f"c{number}"}} for number, text in enumerate(TEXTS)]
    (tmp_path / "chunks" / "notes" / "a_chunks.json").write_text(json.dumps(chunks))
    lines = [f'[models."{name}"]\nsource = "{tiny_models["bert"]}"\n' for name in ("bert", "again")]
    (tmp_path / "models.toml").write_text("".join(lines))

    def make(models, method="concat"):
        run(
            RunConfig(
                chunks_root=tmp_path / "chunks", out=tmp_path / "run", models=models, accelerator="cpu",
                catalogue=tmp_path / "models.toml", lock_dir=tmp_path / "locks", cache_dir=tmp_path / "cache",
                fusion=FusionConfig(method=method),
            )
        )  # fmt: skip
        return tmp_path / "run"

    return make


def negated(path, model, row):
    """Turn a row of a model around, as one that was trained to the opposite would have it."""
    folder = RunFolder(path)
    summary = folder.read_json("run.json")
    made_by = next(each.fingerprint for each in folder.manifest.read().values() if each.model == model)
    folder.reopen()
    ids, vectors = folder.shards.read_vectors("notes", model, 0)
    vectors = vectors.copy()
    vectors[row] *= -1
    folder.manifest.append(
        folder.shards.write_vectors(
            "notes", model, 0, ids, vectors, folder.shards.read_digests("notes", model, 0), made_by
        )
    )
    folder.finish(summary)


def test_bm25_ranks_through_the_table(small):
    """BM25 gave positions alone and a list of its own, so nothing but an evaluation could use it."""
    corpus = open_run(small(("wordllama",))).corpus()
    (ranker,) = rankers_of(RANKERS["bm25"], corpus, None)
    rankings = ranker.rank(["which device has the lease of tokens", "rain"], 4)
    assert [row.tolist() for row in rankings.positions] == [[0, 1], []]
    first, none = rankings.scores
    assert first[0] > first[1] > 0 and len(none) == 0
    assert ranker.cost() is None


def test_a_projection_that_so_few_chunks_cannot_have_is_left_out(small):
    """All rankings were thrown away at the end, for a fusion that nobody had asked for."""
    found = evaluate(open_run(small(("bert", "wordllama"))), JUDGED, bm25=False)
    (missing,) = found.left_out
    assert missing.name == "projection"
    assert missing.reason.startswith("a projection to") and "cannot be fitted to 4 chunks" in missing.reason
    ranked = [each.name for each in found.systems]
    assert ranked == ["bert", "wordllama", "fused (concat)", "mean", "aligned-mean", "rrf", "standardised"]
    assert found.verdict is not None
    assert found.to_dict()["left_out"] == ({"name": "projection", "reason": missing.reason},)


def test_a_mean_that_cancels_is_left_out_and_names_the_chunk(small):
    """One chunk whose models are opposites would end the evaluation of all the others."""
    path = small(("bert", "again"))
    negated(path, "again", 2)
    found = evaluate(open_run(path), JUDGED, bm25=False)
    reasons = {each.name: each.reason for each in found.left_out}
    assert "(c2) has a mean of 0 because its models cancel each other out" in reasons["mean"]
    assert {"bert", "again", "fused (concat)", "rrf"} <= {each.name for each in found.systems}


def test_the_chunk_that_is_named_as_absent_is_absent(small):
    """`no judged chunk is in the run, e.g. 'c0' is not`, which it is: it was judged not relevant."""
    opened = open_run(small(("bert",)))
    qrels = Qrels(queries={"q": "lease"}, judgements={"q": {"c0": 0, "gone": 1}})
    with pytest.raises(InputError) as caught:
        evaluate(opened, qrels, bm25=False)
    assert "the run has none of the chunks that are judged relevant (such as 'gone'): " in str(caught.value)
    with pytest.raises(InputError, match="the run has none of the chunks that are judged relevant: "):
        evaluate(opened, Qrels(queries={}, judgements={}), bm25=False)


def test_each_question_goes_through_each_model_once(searched, passes_through):
    """Eight systems and the tuning asked the same models for the same vectors: most of the time of an evaluation."""
    opened = open_run(searched)
    ids = [id_ for _, id_ in opened.corpus().ids()]
    questions = {f"q{number}": f"lease {number} of a device" for number in range(40)}
    qrels = Qrels(queries=questions, judgements={query: {ids[0]: 1} for query in questions})
    for model in opened.models:
        opened.encode(model, list(questions.values()))
    once = len(passes_through)
    assert once >= len(opened.models)
    passes_through.clear()
    evaluate(open_run(searched), qrels, bm25=False, tuning=True)
    assert len(passes_through) == once


def without_chunks(folder):
    """Take the files of the chunks away, so that whatever reads a chunk again fails."""
    for chunks in folder.glob("*/chunks"):
        shutil.rmtree(chunks)


def test_ids_are_read_once_for_all_fusions(searched, tmp_path):
    """Each fusion that the run does not have read the ids of all chunks from the disk again."""
    path = shutil.copytree(searched, tmp_path / "copy")
    corpus = open_run(path).corpus()
    ids = list(corpus.ids())
    without_chunks(path)
    others = list(rankers_of(RANKERS["other fusions"], corpus, None))
    ranked = {ranker.name: ranker.rank(["lease of a device"], 5).positions[0] for ranker in others}
    assert {name: len(positions) for name, positions in ranked.items()} == dict.fromkeys(ranked, 5)
    assert len(ranked) >= 2 and list(corpus.ids()) == ids and len(ids) == 95


def test_the_words_of_a_corpus_are_indexed_once(searched, tmp_path):
    """BM25 read all texts again, and built its index again, for each list of queries."""
    path = shutil.copytree(searched, tmp_path / "copy")
    corpus = open_run(path).corpus()
    (ranker,) = rankers_of(RANKERS["bm25"], corpus, None)
    (text, *_) = [chunk.text for chunk in corpus.chunks()]
    first = ranker.rank([text], 5)
    without_chunks(path)
    again = ranker.rank([text, "zzz"], 5)
    assert again.positions[0].tolist() == first.positions[0].tolist() and 0 in first.positions[0]
    assert len(again.positions[1]) == 0


@pytest.mark.parametrize(
    "by", [By(ranker="fused"), By(ranker="rrf"), By(ranker="standardised")], ids=lambda by: str(by.ranker)
)
def test_a_model_of_weight_0_is_not_even_loaded(make, by, tmp_path):
    """A search waited for a model that has no part in it, or failed where that model is gone."""
    path = make("weightless", fusion=FusionConfig(weights={"bert": 0.0, "qwen2": 0.4, "wordllama": 0.6}))
    expected = open_run(path).search("lease of a device", 5, by=by)
    copy = shutil.copytree(path, tmp_path / "copy")
    summary = json.loads((copy / "run.json").read_text())
    summary["models"][0]["fingerprint"] = "of a model that is gone"
    (copy / "run.json").write_text(json.dumps(summary))
    assert open_run(copy).search("lease of a device", 5, by=by) == expected
    with pytest.raises(ConfigError, match="bert on this machine is not the model"):
        open_run(copy).search("lease of a device", 5, by=By(model="bert"))


def test_costs_are_of_what_ranks_and_of_the_chunks_that_are_ranked(searched):
    """A model of weight 0 was paid for, and every collection, whichever was evaluated."""
    opened = open_run(searched)
    (_, chunk), *_ = opened.corpus(["beta"]).ids()
    qrels = Qrels(queries={"q": "lease"}, judgements={"q": {chunk: 1}})
    weights = {"bert": 0.0, "qwen2": 0.4, "wordllama": 0.6}
    found = evaluate(opened, qrels, collections=["beta"], weights=weights, bm25=False)
    cost = {each.name: each.cost for each in found.systems}
    for name in ("bert", "qwen2", "wordllama"):
        record = opened.record.models[name]
        assert cost[name].seconds == pytest.approx(record.seconds / record.embedded * 25)
    for name in ("rrf", "standardised", "concat"):
        assert cost[name].seconds == pytest.approx(cost["qwen2"].seconds + cost["wordllama"].seconds)
        assert cost[name].bytes_per_chunk == cost["qwen2"].bytes_per_chunk + cost["wordllama"].bytes_per_chunk


def test_a_mean_is_cut_where_the_models_were_trained_to_be(make, tiny_models, tmp_path):
    """An evaluation tried the mean at another dim than `--fusion mean` has, one that no model was trained for."""
    lines = [
        f'[models."{name}"]\nsource = "{tiny_models[name]}"\nmatryoshka_dims = [8, 16]\n' for name in ("bert", "qwen2")
    ]
    (tmp_path / "models.toml").write_text("".join(lines))
    models = {"models": ("bert", "qwen2"), "catalogue": tmp_path / "models.toml"}
    concat = open_run(make("trained", fusion=FusionConfig(), **models))
    mean = open_run(make("trained-mean", fusion=FusionConfig(method="mean"), **models))
    assert {model.matryoshka_dims for model in concat.record.models.values()} == {(8, 16)}
    assert plan_of(concat.record, "mean") == mean.record.fusion_plan
    assert mean.record.fusion_plan.dim == 16


def test_a_run_of_before_trained_dims_were_recorded_still_opens(searched, tmp_path):
    """A KeyError for whoever has a run already."""
    copy = shutil.copytree(searched, tmp_path / "copy")
    summary = json.loads((copy / "run.json").read_text())
    for model in summary["models"]:
        del model["matryoshka_dims"]
    (copy / "run.json").write_text(json.dumps(summary))
    opened = open_run(copy)
    assert opened.search("lease", 3) == open_run(searched).search("lease", 3)
    assert {model.matryoshka_dims for model in opened.record.models.values()} == {()}
