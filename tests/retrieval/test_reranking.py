"""The second stage: a cross-encoder's scores are sentence-transformers' own, and they order the first stage's hits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from support.collections import write_collection
from support.invoking import invoke
from support.tiny_cross_encoders import (
    make_cross_bert,
    make_cross_gpt2,
    make_cross_qwen2,
    make_logit_score,
    make_that_wants,
)

from soloist.config import RunConfig
from soloist.devices import DeviceLease, open_accelerator
from soloist.engine.run import run
from soloist.errors import ConfigError, EncodingError, LeaseTimeoutError, ModelLoadError, SoloistError
from soloist.events import ListSink
from soloist.retrieval.evaluation import evaluate
from soloist.retrieval.opened import OpenedRun, open_run
from soloist.retrieval.qrels import Qrels

QUESTION = "which device has memory for a lease?"
JUDGED = Qrels(queries={"a": QUESTION, "b": "norm"}, judgements={"a": {"alpha-0029": 1}, "b": {"alpha-0029": 1}})
QUESTIONS = [QUESTION, "the norm of a vector", "a batch of tokens for the replica"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of words over 40 chunks, which takes no time. Only alpha-0029 has a harbour, and one word of QUESTION.

    alpha-0003 and alpha-0030 have one text.
    """
    root = tmp_path_factory.mktemp("reranking")
    file = write_collection(root / "chunks", "alpha", 40, longest=90, seed=3) / "doc_chunks.json"
    items = json.loads(file.read_text())
    items[29]["text"] = "boats in the harbour " + "vector norm query " * 6 + "lease"
    items[30]["text"] = items[3]["text"] = "lease device memory " * 3
    file.write_text(json.dumps(items))
    run(RunConfig(chunks_root=root / "chunks", out=root / "run", models=("bm25",), lock_dir=root / "locks"))
    make_that_wants(root / "harbour", "harbour")
    make_cross_bert(root / "bert")
    return root


@pytest.fixture
def opened(root: Path) -> OpenedRun:
    """The run, opened anew."""
    return open_run(root / "run", accelerator="cpu", lock_dir=root / "locks")


def test_the_chunk_that_the_cross_encoder_wants_comes_first(opened: OpenedRun, root: Path) -> None:
    """Catches a second stage that leaves the first stage's order, and equal scores that change it."""
    first = opened.search(QUESTION, 38)
    was = next(hit for hit in first if hit.id == "alpha-0029")
    assert was.rank > 5
    hits = opened.search(QUESTION, 38, rerank=root / "harbour")
    assert [hit.id for hit in hits] == ["alpha-0029", *(hit.id for hit in first if hit.id != "alpha-0029")]
    assert (hits[0].first_rank, hits[0].first_score) == (was.rank, was.score)
    assert hits[0].score > hits[1].score == hits[-1].score == 0.5
    assert [hit.rank for hit in hits] == list(range(1, 39))
    assert {hit.first_rank for hit in first} == {None}
    assert opened.search(QUESTION, 5, rerank=root / "harbour") == hits[:5]
    assert opened.search(QUESTION, 5, rerank=root / "harbour", rerank_depth=5)[0].id == first[0].id


FORMS = {
    "bert": make_cross_bert,
    "plain-bert": lambda folder: make_cross_bert(folder, plain=True),
    "tanh-and-a-prompt": lambda folder: make_cross_bert(
        folder, activation_fn=torch.nn.Tanh(), prompts={"ask": "judge: "}, default_prompt_name="ask"
    ),
    "gpt2": make_cross_gpt2,
    "qwen2": make_cross_qwen2,
    "logit-score": make_logit_score,
}


@pytest.mark.parametrize("form", FORMS)
def test_scores_are_those_of_predict(opened: OpenedRun, tmp_path: Path, form: str) -> None:
    """Catches another activation, prompt, template, limit, type of tokens or side of padding."""
    model = FORMS[form](tmp_path / form)
    (found, *_), reference = opened.search_all(QUESTIONS, 20, rerank=model), CrossEncoder(str(model), device="cpu")
    expected = reference.predict([(QUESTION, hit.text) for hit in found], batch_size=1)
    np.testing.assert_allclose([hit.score for hit in found], expected, atol=1e-5)
    assert len({round(hit.score, 4) for hit in found}) > 5  # they tell chunks apart
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)


def test_questions_together_have_the_scores_of_each_alone(opened: OpenedRun, root: Path) -> None:
    """Catches scores that depend on what is asked beside them, and a model that is loaded for each question."""
    together = opened.search_all(QUESTIONS, 12, rerank=str(root / "bert"))
    loaded = opened.second_stages.asked(str(root / "bert"), None)
    for question, hits in zip(QUESTIONS, together, strict=True):
        alone = opened.search(question, 12, rerank=str(root / "bert"))
        assert [hit.id for hit in alone] == [hit.id for hit in hits]
        np.testing.assert_allclose([hit.score for hit in alone], [hit.score for hit in hits], atol=1e-5)
    assert opened.second_stages.asked(str(root / "bert"), None) is loaded


def test_equal_texts_have_equal_scores(opened: OpenedRun, root: Path) -> None:
    """Catches equal texts in different batches, whose last bits would order them."""
    hits = {hit.id: hit for hit in opened.search(QUESTION, 30, rerank=str(root / "bert"))}
    one, other = hits["alpha-0003"], hits["alpha-0030"]
    assert one.score == other.score and other.rank == one.rank + 1
    assert one.first_rank is not None and other.first_rank is not None and one.first_rank < other.first_rank


def test_devices_are_leased_and_given_back(root: Path, opened: OpenedRun) -> None:
    """Catches a second stage beside a run that has the devices, and a replica that stays on them."""
    accelerator, locks = open_accelerator("simulated:2xT4", root / "machine"), root / "machine"
    leased: list[str] = []

    def look(what: str) -> None:
        try:
            with DeviceLease(accelerator, ["another"], ListSink(), lock_dir=locks, timeout_seconds=0):
                leased.append(f"{what}: free")
        except LeaseTimeoutError:
            leased.append(f"{what}: held")

    on_devices = open_run(root / "run", accelerator="simulated:2xT4", lock_dir=locks)
    (hits,) = on_devices.search_all([QUESTION], 15, rerank=str(root / "bert"), progress=look)
    assert leased == ["reranking 38 chunks for 1 question by bert: held"]
    look("after")
    assert leased[1:] == ["after: free"]
    assert not any(accelerator.memory(device).allocated_bytes for device in accelerator.devices)
    expected = opened.search(QUESTION, 15, rerank=str(root / "bert"))
    assert [hit.id for hit in hits] == [hit.id for hit in expected]
    np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in expected], atol=1e-5)


def test_what_the_limit_cuts_is_said(opened: OpenedRun, root: Path) -> None:
    """Catches chunks of which the model read only a part, in silence."""
    opened.search(QUESTION, rerank=str(root / "bert"))
    (notice,) = opened.notices
    assert notice.startswith("bert reads 64 tokens of a question and a chunk together: it cut ")


def _without_config(folder: Path) -> Path:
    make_cross_bert(folder, plain=True)
    (folder / "config.json").unlink()
    return folder


def _bare(folder: Path) -> Path:
    make_cross_bert(folder, plain=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    return folder


def _without_the_head(folder: Path) -> Path:
    make_cross_bert(folder, plain=True)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "classifier" not in k}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


def _without_weights(folder: Path) -> Path:
    make_cross_bert(folder)
    (folder / "model.safetensors").unlink()
    return folder


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "three-labels": (lambda folder: make_cross_bert(folder, num_labels=3), "gives 3 scores for a pair"),
    "no-config": (_without_config, "config.json is missing"),
    "no-head-named": (_bare, r"is BertModel \(architectures in config.json\), which has no head that scores a pair"),
    "no-head": (_without_the_head, "2 weights are not in its files, such as classifier.bias"),
    "no-weights": (_without_weights, "model.safetensors is missing"),
    "not-there/model": (lambda folder: None, "the folder .*not-there/model does not exist: give a model's folder"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_a_cross_encoder_is_refused(opened: OpenedRun, tmp_path: Path, name: str) -> None:
    """Catches scores of a head with random weights, which sentence-transformers adds where a folder has none."""
    make, message = REFUSED[name]
    make(tmp_path / name)
    with pytest.raises(SoloistError, match=message) as caught:
        opened.search(QUESTION, rerank=tmp_path / name)
    assert "\n" not in str(caught.value)


def test_models_of_vectors_are_refused(opened: OpenedRun, tiny_models: dict[str, Path], root: Path) -> None:
    """Catches an embedding model that is taken for a cross-encoder, or downloaded to find out that it is none."""
    with pytest.raises(ModelLoadError, match="bert cannot rerank: it is a model of vectors, which gives every text"):
        opened.search(QUESTION, rerank=tiny_models["bert"])
    for name in ("bge-m3", "wordllama", "bm25"):
        with pytest.raises(ConfigError, match=f"{name} cannot rerank, because it is "):
            opened.search(QUESTION, rerank=name)
    with pytest.raises(ConfigError, match="the cross-encoder 'ms-marco' is not found: give its folder"):
        opened.search(QUESTION, rerank="ms-marco")
    with pytest.raises(ModelLoadError, match="it is not on this machine, and HF_HUB_OFFLINE is set"):
        opened.search(QUESTION, rerank="cross-encoder/ms-marco-MiniLM-L6-v2")


def test_a_catalogue_gives_a_cross_encoder_its_settings(root: Path, tmp_path: Path) -> None:
    """Catches a catalogue whose source, dtype or limit of a cross-encoder does not count."""
    catalogue = tmp_path / "models.toml"
    catalogue.write_text(f'[models.mine]\nsource = "{root / "bert"}"\nmax_tokens = 32\n')
    run_ = open_run(root / "run", catalogue=catalogue, accelerator="cpu")
    hits = run_.search(QUESTION, rerank="mine")
    short = CrossEncoder(str(root / "bert"), device="cpu", max_length=32)
    expected = short.predict([(QUESTION, hit.text) for hit in hits])
    np.testing.assert_allclose([hit.score for hit in hits], expected, atol=1e-5)
    catalogue.write_text(f'[models.mine]\nsource = "{root / "bert"}"\nquery_prompt = "q: "\n')
    with pytest.raises(ConfigError, match="mine has a prompt of documents or queries in the catalogue"):
        open_run(root / "run", catalogue=catalogue).search(QUESTION, rerank="mine")


def test_a_score_that_is_no_number_is_an_error(opened: OpenedRun, root: Path, tmp_path: Path) -> None:
    """Catches NaN that a sort would put anywhere."""
    shutil.copytree(root / "bert", tmp_path / "bert")
    weights = load_file(tmp_path / "bert" / "model.safetensors")
    weights["classifier.bias"][:] = float("nan")
    save_file(weights, tmp_path / "bert" / "model.safetensors", {"format": "pt"})
    message = "bert gives NaN or infinity in float32 as the score of 37 pairs, the first of them with the chunk 'alpha"
    with pytest.raises(EncodingError, match=message):
        opened.search(QUESTION, rerank=tmp_path / "bert")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"rerank_depth": 0}, "the rerank depth is 0: give a whole number of 1 or more"),
        ({"rerank_depth": 2.5}, "the rerank depth is 2.5: give a whole number"),
        ({"k": 12, "rerank_depth": 11}, "the rerank depth is 11, and 12 hits are asked for, .* a depth of 12 or more"),
        ({"rerank_depth": 11, "rerank": None}, "a rerank depth is given without a model"),
        ({"k": 41}, "k is 41, but 40 chunks can be found"),
    ],
)
def test_depths_that_cannot_be(opened: OpenedRun, root: Path, asked: dict[str, Any], message: str) -> None:
    """Catches a depth that is changed in silence, so that fewer hits are scored than shown."""
    with pytest.raises(ConfigError, match=message):
        opened.search(QUESTION, **{"rerank": str(root / "harbour"), **asked})
    assert len(opened.search(QUESTION, rerank=str(root / "harbour"), rerank_depth=3)) == 3


def test_a_question_without_a_hit_has_none_after_it(opened: OpenedRun, root: Path) -> None:
    """Catches a second stage that fails where words find nothing."""
    found = opened.search_all(["zyzzyva", QUESTION], 5, rerank=str(root / "harbour"))
    assert [len(hits) for hits in found] == [0, 5]


def test_the_command_says_what_both_stages_say(root: Path) -> None:
    """Catches hits of the command whose first rank is lost, or a notice that nobody reads."""
    arguments = ("search", root / "run", QUESTION, "-k", "2", "--rerank", root / "harbour", "--accelerator", "cpu")
    shown, printed = invoke(*arguments), invoke(*arguments, "--json")
    (best, _) = json.loads(printed.stdout)["hits"]
    assert best["id"] == "alpha-0029" and best["first_rank"] > 5
    assert f"    first stage: {best['first_score']:.4f}, rank {best['first_rank']}" in shown.stdout.splitlines()
    assert "harbour reads 64 tokens of a question and a chunk together: it cut " in shown.stderr


def test_bad_options_of_the_command(root: Path, tmp_path: Path) -> None:
    """Catches a traceback, or an option that does nothing in silence."""
    lonely = invoke("search", root / "run", QUESTION, "--rerank-depth", "20")
    assert lonely.exit_code == 2 and "--rerank-depth needs --rerank beside it" in lonely.stderr
    few = invoke("search", root / "run", QUESTION, "-k", "20", "--rerank", root / "harbour", "--rerank-depth", "5")
    assert few.exit_code == 2 and "give a depth of 20 or more, or ask for 5 hits" in few.stderr
    none = invoke("search", root / "run", QUESTION, "--rerank", tmp_path / "none")
    assert none.exit_code == 2 and f"the folder {tmp_path / 'none'} does not exist" in none.stderr


def test_an_evaluation_scores_what_a_search_with_a_second_stage_finds(opened: OpenedRun, root: Path) -> None:
    """Catches a row of another ranking than that of search, or without what the second stage costs and gains."""
    found = evaluate(opened, JUDGED, bm25=False, rerank=root / "harbour")
    (alone, reranked), stage = found.systems, found.reranking
    assert reranked.name == "bm25 reranked by harbour" and stage is not None
    assert (stage.name, stage.first, stage.depth, stage.device) == (reranked.name, "bm25", 40, "cpu")
    ranks = [
        [hit.id for hit in opened.search(q, rerank=root / "harbour")].index("alpha-0029") + 1
        for q in (QUESTION, "norm")
    ]
    assert reranked.measures["RR@10"] == np.mean([1 / rank for rank in ranks]) == 1.0 > alone.measures["RR@10"]
    assert stage.gain.mean == pytest.approx(reranked.measures["nDCG@10"] - alone.measures["nDCG@10"])
    assert reranked.seconds_a_question == stage.seconds_a_question > 0 and reranked.cost == alone.cost
    assert alone.seconds_a_question is None and found.verdict is None and found.best_single == "bm25"
    assert any("harbour reads 64 tokens" in notice for notice in found.notices)


def test_a_small_depth_leaves_the_other_chunks_behind(opened: OpenedRun, root: Path) -> None:
    """Catches a second stage that loses the chunks that it does not score, so that their recall is lost."""
    found = evaluate(opened, JUDGED, bm25=False, rerank=root / "harbour", rerank_depth=2)
    alone, reranked = found.systems
    assert reranked.measures["R@100"] == alone.measures["R@100"] == 1.0
    assert evaluate(opened, JUDGED, bm25=False).reranking is None
    with pytest.raises(ConfigError, match="the rerank depth is 0"):
        evaluate(opened, JUDGED, rerank=root / "harbour", rerank_depth=0)


def test_eval_says_what_the_second_stage_is_worth(root: Path, tmp_path: Path) -> None:
    """Catches a table without the row, its cost or its depth."""
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "a", "text": QUESTION}))
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\na\talpha-0029\t1\n")
    judged = ("--queries", tmp_path / "queries.jsonl", "--qrels", tmp_path / "qrels.tsv", "--no-bm25")
    second = ("--rerank", root / "harbour", "--rerank-depth", "39", "--accelerator", "cpu")
    shown = invoke("eval", root / "run", *judged, *second)
    assert shown.stdout.startswith("bm25 reranked by harbour\n") and "  s/question " in shown.stdout
    said = "harbour scores the first 39 chunks of bm25 for each question. That gives +"
    assert said in shown.stdout and "seconds a question on cpu." in shown.stdout
    lonely = invoke("eval", root / "run", *judged, "--rerank-depth", "5")
    assert lonely.exit_code == 2 and "--rerank-depth needs --rerank" in lonely.stderr
