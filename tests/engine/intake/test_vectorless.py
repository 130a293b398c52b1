"""Texts of which a model makes no vector: all found before a lease, an error that counts them, or left out for all."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from support.editing import assert_same_files, run_files
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers import models as token_models

from soloist.config import GIVEN, FusionConfig, RunConfig, SourceConfig
from soloist.encoding.encoder import Encoder
from soloist.encoding.vectorless import Look, may_lack_vectors
from soloist.engine import run
from soloist.engine.resume.changes import changes
from soloist.errors import InputError, VectorlessTextsError
from soloist.events import ChunksRemoved, InputSkipped, LeaseAcquired, ListSink, TextsLeftOut
from soloist.models.catalogue import resolve
from soloist.models.loading import stage
from soloist.planning.estimate import estimate_run
from soloist.stores import RunFolder
from soloist.stores.status import run_status
from soloist.stores.verification import verify_run

WORDS = ("?", "stone", "river", "bridge", "void", "plus", "minus", "poison")
UNSEEN, VOID, CANCELLED, POISON = "\u200b\u200d", "void void", "plus minus", "river poison"
CHUNKS = {
    "alpha": ["stone river", UNSEEN, "bridge", "void stone", "river river", UNSEEN, VOID, CANCELLED, "stone", "plus"],
    "beta": [VOID, UNSEEN],
    "gamma": ["bridge stone", POISON, "river stone bridge"],
}
SKIP = SourceConfig(on_bad_input="skip")


def make_table(folder: Path, **rows: np.ndarray) -> Path:
    """A static model over `WORDS` that drops all other words: of `void` its row is zero, `plus` and `minus` cancel."""
    table = dict(zip(WORDS, np.random.default_rng(3).normal(size=(len(WORDS), 8)).astype(np.float32), strict=True))
    table |= {"void": np.zeros(8), "minus": -table["plus"], "poison": np.full(8, np.nan), **rows}
    tokenizer = Tokenizer(token_models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="?"))
    tokenizer.normalizer = normalizers.Replace(UNSEEN, "")
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    module = StaticEmbedding(tokenizer, embedding_weights=np.stack([table[word] for word in WORDS]).astype(np.float32))
    SentenceTransformer(modules=[module], device="cpu").save(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return make_table(tmp_path_factory.mktemp("models") / "table")


def write(root: Path, chunks: dict[str, list[str]]) -> Path:
    for name, texts in chunks.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        items = [{"id": f"{name}-{at}", "text": text, "more": {"at": at}} for at, text in enumerate(texts)]
        (root / name / "a.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return root


@pytest.fixture
def config(tmp_path, tiny_models, table) -> RunConfig:
    """A transformer that reads every text and the table that does not, over shards of two chunks."""
    catalogue = tmp_path / "catalogue.toml"
    shutil.copytree(table, tmp_path / "table")
    catalogue.write_text(f'[models.bert]\nsource = "{tiny_models["bert"]}"\n[models.table]\nsource = "table"\n')
    return RunConfig(
        chunks_root=write(tmp_path / "chunks", CHUNKS), out=tmp_path / "run", models=("bert", "table"), source=SKIP,
        accelerator="cpu", catalogue=catalogue, shard_chunks=2, lock_dir=tmp_path / "locks",
        cache_dir=tmp_path / "cache",
    )  # fmt: skip


def ids_of(folder: Path) -> dict[str, list[str]]:
    run_folder = RunFolder.open(folder)
    return {
        name: [each for shard in run_folder.shards.indices(name) for each in run_folder.shards.read_ids(name, shard)]
        for name in CHUNKS
    }


KEPT = {
    "alpha": ["alpha-0", "alpha-2", "alpha-3", "alpha-4", "alpha-8", "alpha-9"],
    "beta": [],
    "gamma": ["gamma-0", "gamma-2"],
}


def test_without_skip_one_error_counts_them_all_and_names_the_first(config):
    """An error a run, hours apart, for each text that has no vector, after the devices were taken."""
    sink = ListSink()
    with pytest.raises(VectorlessTextsError) as caught:
        run(dataclasses.replace(config, source=SourceConfig()), sink)
    file = config.chunks_root / "alpha" / "a.jsonl"
    assert str(caught.value) == (
        "3 texts have no tokens in table, 3 texts have a zero vector in table, 1 text has NaN or infinity in its "
        f"vector in table; the first 3 are 'alpha-1' in {file} (chunk 1), 'alpha-5' in {file} (chunk 5) and 'alpha-6' "
        f"in {file} (chunk 6): remove them, or leave them out with --on-bad-input skip"
    )
    assert not any(isinstance(event, LeaseAcquired) for event in sink.events)
    assert not config.out.exists()


def test_a_text_that_python_gave_is_named_by_its_index(config):
    """A chunk of no file ended in an assertion."""
    given = dataclasses.replace(config, chunks_root=GIVEN, source=SourceConfig())
    with pytest.raises(VectorlessTextsError, match=r"^1 text has no tokens in table; 'two' in docs \(chunk 1\): "):
        run(given, chunks={"docs": [{"id": "one", "text": WORDS[0]}, {"id": "two", "text": UNSEEN}]})


def test_with_skip_all_models_have_the_same_rows(config, table):
    """Members of an ensemble with other rows, or a run that says nothing of what it left out."""
    sink = ListSink()
    result = run(config, sink)
    folder = RunFolder.open(config.out)
    assert ids_of(config.out) == KEPT
    reference = SentenceTransformer(str(table), device="cpu")
    for name, shard in ((each, shard) for each in KEPT for shard in folder.shards.indices(each)):
        ids, vectors = folder.shards.read_vectors(name, "table", shard)
        assert folder.shards.read_vectors(name, "bert", shard)[0] == folder.shards.read_fused(name, shard)[0] == ids
        texts = [CHUNKS[name][int(each.rpartition("-")[2])] for each in ids]
        np.testing.assert_allclose(vectors, reference.encode(texts, normalize_embeddings=True), atol=1e-6)
        for chunk in folder.shards.read_chunks(name, shard):
            at = int(chunk.id.rpartition("-")[2])
            assert (chunk.source_file, chunk.source_index, chunk.metadata["more"]["at"]) == (f"{name}/a.jsonl", at, at)
    rows = [json.loads(line) for line in (config.out / "skipped.jsonl").read_text().splitlines()]
    assert [(row["collection"], row["index"], row["reason"], row["models"]) for row in rows] == [
        ("alpha", 1, "no tokens", ["table"]), ("alpha", 5, "no tokens", ["table"]),
        ("alpha", 6, "zero vector", ["table"]), ("alpha", 7, "zero vector", ["table"]),
        ("beta", 0, "zero vector", ["table"]), ("beta", 1, "no tokens", ["table"]),
        ("gamma", 1, "NaN or infinity", ["table"]),
    ]  # fmt: skip
    assert {row["file"] for row in rows if row["collection"] == "beta"} == {str(config.chunks_root / "beta/a.jsonl")}
    assert sum(isinstance(event, InputSkipped) for event in sink.events) == 7
    left_out = [event for event in sink.events if isinstance(event, TextsLeftOut)]
    assert [(each.collection, each.chunks, each.by_model) for each in left_out] == [
        ("alpha", 4, {"table": 4}), ("beta", 2, {"table": 2}), ("gamma", 1, {"table": 1}),
    ]  # fmt: skip
    counts = [(each.name, each.chunks, each.skipped, dict(each.without_vector)) for each in result.collections]
    assert counts == [("alpha", 6, 4, {"table": 4}), ("beta", 0, 2, {"table": 2}), ("gamma", 2, 1, {"table": 1})]
    assert [model.chunks for model in result.models] == [8, 8]
    assert (
        "table: 3 texts have no tokens in this model: a run leaves them out for all models, see skipped.jsonl"
        in result.notices
    )
    assert verify_run(folder).problems == ()
    foretold = changes(config)
    assert [(each.new, each.changed, each.gone, each.unchanged) for each in foretold.collections] == [
        (0, 0, 0, 6), (0, 0, 0, 0), (0, 0, 0, 2),
    ]  # fmt: skip
    assert (foretold.skipped, set(foretold.to_embed.values())) == (7, {0})
    assert [model.chunks for model in run_status(config.out).models] == [8, 8]


def test_standard_mode_processes_and_named_collections_leave_out_the_same(config, tmp_path):
    """Another way of working would have other rows, or count a collection without a row as an error."""
    run(config)
    other = dataclasses.replace(
        config, mode="standard", isolation="process", collections=tuple(CHUNKS), out=tmp_path / "other"
    )
    run(other)
    assert_same_files(other.out, config.out)
    before = run_files(config.out)
    result = run(config)  # all is there: nothing is embedded, and the same texts are left out again
    assert run_files(config.out) == before
    assert [model.kept for model in result.models] == [8, 8]


def test_a_text_comes_back_when_no_model_lacks_its_vector(config, tmp_path):
    """Left out for ever because of a model that the run does not have any more, or that has changed since."""
    run(config)
    alone = dataclasses.replace(config, models=("bert",), out=tmp_path / "alone", reuse=(config.out,))
    result = run(alone)
    assert ids_of(alone.out) == {name: [f"{name}-{at}" for at in range(len(texts))] for name, texts in CHUNKS.items()}
    assert result.models[0].from_others == 8
    shutil.rmtree(tmp_path / "table")
    make_table(tmp_path / "table", void=np.ones(8))
    sink = ListSink()
    run(config, sink)
    run(dataclasses.replace(config, out=tmp_path / "fresh"))
    assert_same_files(config.out, tmp_path / "fresh")
    assert {"alpha-6", "beta-0"} <= {each for ids in ids_of(config.out).values() for each in ids}
    # And the other way: a model that joins the run takes its texts with it.
    joined = dataclasses.replace(alone, models=("bert", "table"), reuse=())
    run(joined, sink)
    assert_same_files(joined.out, tmp_path / "fresh")
    removed = [event for event in sink.events if isinstance(event, ChunksRemoved)]
    assert {(each.collection, each.chunks) for each in removed} == {("alpha", 3), ("beta", 1), ("gamma", 1)}


def test_where_nothing_is_left_the_error_says_what_was_left_out(config, tmp_path):
    """A finished run without a row, or an index error in the middle of one."""
    shutil.rmtree(config.chunks_root)
    write(config.chunks_root, {"beta": CHUNKS["beta"]})
    with pytest.raises(InputError, match=r"no chunks to embed in beta \(.*chunk 0\): zero vector in table, its id is"):
        run(config)
    assert not config.out.exists()


def test_a_fusion_is_fitted_to_what_is_left(config, tmp_path):
    """Rows that are left out would still be in the fingerprint of what was fitted."""
    shutil.rmtree(config.chunks_root)
    texts = [f"{first} {second} " * (at + 1) for at in range(2) for first in WORDS[1:4] for second in WORDS[1:4]]
    write(config.chunks_root, {"alpha": [*texts, UNSEEN]})
    fitted = dataclasses.replace(config, fusion=FusionConfig(method="projection", dim=4))
    run(fitted)
    write(config.chunks_root, {"alpha": texts})
    without = dataclasses.replace(fitted, out=tmp_path / "without")
    run(without)
    (fitted.out / "skipped.jsonl").write_text("")
    files, others = run_files(fitted.out), run_files(without.out)
    assert {name for name in files if files[name] != others[name]} == {"manifest.jsonl"}


def test_a_plan_counts_what_has_no_tokens(config):
    """A plan that fits over a run that fails, or tokens and rows of texts that the run leaves out."""
    plan = estimate_run(config)
    assert (plan.chunks, plan.repeated, plan.skipped) == (12, 1, 3)
    assert [model.rows for model in plan.models] == [11, 11]
    assert (
        plan.notes[0]
        == "table: 3 texts have no tokens in this model: a run leaves them out for all models, see skipped.jsonl"
    )
    with pytest.raises(
        VectorlessTextsError, match=r"^3 texts have no tokens in table; 'alpha-1' in .* and 'beta-1' in"
    ):
        estimate_run(dataclasses.replace(config, source=SourceConfig()))


@pytest.mark.parametrize(
    ("model", "change", "expected"),
    [
        ("bert", {}, False),  # [CLS] and [SEP]
        ("xlm-roberta", {}, False),
        ("qwen2", {}, False),  # no special tokens, and a token for each byte
        ("qwen2", {"normalizer": normalizers.Strip()}, True),
        ("qwen2", {"normalizer": normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])}, False),
        ("qwen2", {"pre_tokenizer": pre_tokenizers.Split("x", "removed")}, True),
    ],
)
def test_only_models_that_may_lack_tokens_tokenize_twice(tiny_models, monkeypatch, model, change, expected):
    """A run would pay a second pass of the tokenizer for models that read something of every text."""
    staged = stage(resolve(str(tiny_models[model])), "float32")
    backend = staged.module.tokenizer.backend_tokenizer
    before = {name: getattr(backend, name) for name in change}
    try:
        for name, part in change.items():
            setattr(backend, name, part)
        encoder = Encoder(staged)
        assert may_lack_vectors(encoder) is expected
        if expected:
            with_prompt = Encoder(dataclasses.replace(staged, document_prompt="passage: "))
            assert not may_lack_vectors(with_prompt)
            blank = "x" if "pre_tokenizer" in change else " \u00a0"
            assert Look(encoder).at(["grey", blank, "water"]) == {1: "no tokens"}
    finally:
        for name, part in before.items():
            setattr(backend, name, part)
