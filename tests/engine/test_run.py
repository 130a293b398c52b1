"""What a run leaves on the disk and in its result, and how it fails."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from support.collections import config_below
from support.overflowing import WORD, make_overflowing

from soloist.config import FusionConfig, SourceConfig
from soloist.engine import run
from soloist.errors import (
    BadChunkFileError,
    ConfigError,
    DuplicateIdError,
    FusionError,
    InputError,
    UnfitDTypeError,
    UnknownModelError,
)
from soloist.events import (
    BadRowsFound,
    ListSink,
    ModelStaged,
    Notice,
    PeakCompared,
    RowsRecomputed,
    RunFinished,
    ShardEncoded,
    ShardsKept,
)
from soloist.ingestion.ingest import ingest
from soloist.sources import discover
from soloist.stores import RunFolder

EXPECTED_FILES = {
    "alpha": {"chunks": 3, "fused": 3, "vectors/qwen2": 3, "vectors/xlm-roberta": 3},
    "beta": {"chunks": 1, "fused": 1, "vectors/qwen2": 1, "vectors/xlm-roberta": 1},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_models):
    """What a run gave that nothing disturbed, and its folder; read them."""
    root = tmp_path_factory.mktemp("finished")
    config = config_below(root, tiny_models)
    result = run(dataclasses.replace(config, fusion=FusionConfig(weights={"qwen2": 3, "xlm-roberta": 1})))
    return result, RunFolder.open(config.out)


def test_a_run_leaves_exactly_these_files(finished):
    """A stray temporary file, or a shard under another name, would be read as data by somebody."""
    _, folder = finished
    found = sorted(str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file())
    parts = [
        f"{collection}/{kind}/part-{shard:05d}.parquet"
        for collection, kinds in EXPECTED_FILES.items()
        for kind, shards in kinds.items()
        for shard in range(shards)
    ]
    own = [".lock", "events.jsonl", "id.json", "manifest.jsonl", "run.json", "skipped.jsonl"]
    assert found == sorted([*parts, *own])


def test_every_chunk_has_one_row_everywhere_in_input_order(finished, all_vectors):
    """Rows that come back in the order of their batches would belong to other chunks."""
    _, folder = finished
    for collection, count in (("alpha", 70), ("beta", 25)):
        expected = [f"{collection}-{index:04d}" for index in range(count)]
        chunks = [
            chunk
            for shard in folder.shards.indices(collection)
            for chunk in folder.shards.read_chunks(collection, shard)
        ]
        assert [chunk.id for chunk in chunks] == expected
        for model in ("qwen2", "xlm-roberta"):
            ids, vectors = all_vectors(folder, collection, model)
            assert ids == expected
            assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        assert [
            id for shard in folder.shards.indices(collection) for id in folder.shards.read_fused(collection, shard)[0]
        ] == expected


def test_both_devices_compute(finished):
    """The second GPU that idles is what the predecessor of this tool did for a year."""
    result, folder = finished
    for model in json.loads((folder.path / "run.json").read_text())["models"]:
        assert sum(model["rows_per_device"].values()) == 95
        assert sum(model["device_shares"].values()) == pytest.approx(1)
        assert min(model["device_shares"].values()) > 0.1
    assert result.models[0].device_shares.keys() == {"sim:0", "sim:1"}


def test_run_json_says_what_was_done(finished):
    """A reader of the vectors needs each of these to use them again."""
    result, folder = finished
    saved = json.loads((folder.path / "run.json").read_text())
    assert saved == json.loads(json.dumps(result.to_dict()))
    assert saved["mode"] == "exclusive"
    assert saved["weights"] == {"qwen2": 0.75, "xlm-roberta": 0.25}
    assert saved["fusion"]["method"] == "concat" and saved["fusion"]["dim"] == 64 + 48
    assert [(item["name"], item["chunks"]) for item in saved["collections"]] == [("alpha", 70), ("beta", 25)]
    assert [event["event_type"] for event in saved["lease_events"]] == ["acquire", "release"] * 2
    for model in saved["models"]:
        assert model["chunks"] == 95 and model["tokens"] > 95 and model["seconds"] > 0
        assert len(model["fingerprint"]) == 16
        assert 0 <= model["padding_share"] < 0.2
        assert model["truncated_rows"] == 0
        assert model["batch_sizes"]["largest"] >= model["batch_sizes"]["smallest"] >= 1
        assert model["chunks_per_second"] == pytest.approx(model["chunks"] / model["seconds"])


def test_truncation_is_counted(embed, tiny_models, tmp_path):
    """Text that is cut off in silence is what users of every engine complain of."""
    catalogue = tmp_path / "short.toml"
    catalogue.write_text(f'[models.bert]\nsource = "{tiny_models["bert"]}"\nmax_tokens = 16\n')
    result, _ = embed(models=("bert",), catalogue=catalogue)
    whole, _ = embed(models=("bert",))
    model = result.models[0]
    assert model.max_tokens == 16
    assert 0 < model.truncated_rows < 95
    assert model.tokens + model.truncated_tokens == whole.models[0].tokens
    assert whole.models[0].truncated_tokens == 0


def test_fusion_none_writes_no_fused_vectors(embed):
    """A folder of vectors that nobody asked for would be searched by somebody."""
    result, folder = embed(fusion=FusionConfig(method="none"))
    assert result.fusion is None
    assert not list(folder.path.rglob("fused"))


def test_a_model_that_is_named_twice_is_refused(embed, tmp_path):
    """It counted once without a word, and whoever meant another model found out from the vectors."""
    with pytest.raises(ConfigError, match=r"^the model qwen2 is named twice: name each model once$"):
        embed(models=("qwen2", "xlm-roberta", "qwen2"))
    assert not list(tmp_path.glob("run-*"))


def test_a_static_model_pads_nothing(embed):
    """A padding share for a model that pads nothing would be an invention."""
    result, _ = embed(models=("wordllama",))
    assert result.models[0].padding_share == 0


def test_a_small_budget_changes_the_batches_and_nothing_else(embed):
    """A budget that is not kept is a promise about memory that is not kept."""
    result, _ = embed(token_budget=256)
    assert all(model.batch_sizes.batches > 30 for model in result.models)


def test_an_empty_collection_that_is_asked_for_is_an_error(embed, chunks_root):
    """A run that says 0 chunks and exit code 0 is believed."""
    (chunks_root / "hollow").mkdir()
    (chunks_root / "hollow" / "x_chunks.json").write_text("[]")
    with pytest.raises(InputError, match="the collection hollow has no chunks to embed"):
        embed(collections=("alpha", "hollow"))
    result, _ = embed(models=("wordllama",))  # not asked for, it is only counted
    assert [item.chunks for item in result.collections] == [70, 25, 0]


def test_two_chunks_with_one_id_are_an_error_that_leaves_no_folder(config, chunks_root):
    """The second would overwrite the first wherever ids are keys; and the same command must work after mending."""
    config = dataclasses.replace(config, models=("wordllama",))
    (chunks_root / "alpha" / "more_chunks.json").write_text(json.dumps([{"id": "alpha-0003", "text": "again"}]))
    with pytest.raises(DuplicateIdError, match=r"alpha-0003.*doc_chunks.json.*more_chunks.json"):
        run(config)
    assert not config.out.exists()
    (chunks_root / "alpha" / "more_chunks.json").unlink()
    run(config)


def test_all_inputs_are_scanned_before_a_model_is_loaded(config, chunks_root):
    """An hour of loading and encoding before the sentence about a broken file is an hour lost."""
    sink = ListSink()
    (chunks_root / "beta" / "z_chunks.json").write_text('[{"text": "fine"}, {"text": ')
    with pytest.raises(BadChunkFileError, match=r"z_chunks\.json"):
        run(config, sink)
    assert not any(isinstance(event, ModelStaged) for event in sink.events)
    assert isinstance(sink.events[-1], RunFinished) and "z_chunks.json" in sink.events[-1].error


def test_skipped_input_is_counted_and_written_down(embed, chunks_root):
    """What was left out has to be found again."""
    (chunks_root / "beta" / "y_chunks.json").write_text(json.dumps([{"text": " \n"}, {"text": "kept"}]))
    (chunks_root / "beta" / "z_chunks.json").write_text("nonsense")
    result, folder = embed(source=SourceConfig(on_bad_input="skip"))
    assert [(item.chunks, item.skipped) for item in result.collections] == [(70, 0), (26, 2)]
    rows = [json.loads(line) for line in (folder.path / "skipped.jsonl").read_text().splitlines()]
    assert [(row["reason"], row["index"]) for row in rows] == [("empty text", 0), ("unreadable file", None)]
    assert rows[1]["file"].endswith("z_chunks.json")


def test_unknown_models_and_weights_are_refused_early(embed):
    """A typo must not cost a pass."""
    with pytest.raises(UnknownModelError, match="bge-m4"):
        embed(models=("bge-m4",))
    with pytest.raises(FusionError, match="weights name qwen3, which is not a model of this run"):
        embed(fusion=FusionConfig(weights={"qwen2": 1, "qwen3": 1}))
    with pytest.raises(FusionError, match="dim is 50 but xlm-roberta has only 48 dims"):
        embed(fusion=FusionConfig(method="mean", dim=50))


@pytest.mark.parametrize("weights", [{"qwen2": 1}, {"qwen2": 1, "xlm-roberta": -1}, {"qwen2": 0, "xlm-roberta": 0}])
def test_weights_are_refused_before_anything_is_read(config, weights, tmp_path):
    """An hour of reading and loading before the sentence about a weight is an hour lost."""
    absent = dataclasses.replace(config, chunks_root=tmp_path / "absent", fusion=FusionConfig(weights=weights))
    with pytest.raises(FusionError, match="weight"):
        run(absent)
    assert not config.out.exists()


def test_an_input_without_a_chunk_says_why(config, chunks_root):
    """The file that had the reasons is gone with the run folder."""
    for file in chunks_root.rglob("*.json"):
        file.write_text('["", "  "]')
    with pytest.raises(
        InputError, match=r"no chunks to embed in alpha, beta \(.*doc_chunks.json \(chunk 0\): empty text"
    ):
        run(config)
    with pytest.raises(
        InputError, match=r"collection beta has no .*beta/doc_chunks.json \(chunk 1\): empty text\): leave"
    ):
        run(dataclasses.replace(config, collections=("beta",)))
    assert not config.out.exists()


def test_a_model_whose_folder_is_missing_disturbs_no_other(embed, tiny_models, tmp_path):
    """A catalogue that names ten attached folders would need all ten for every run."""
    catalogue = tmp_path / "half.toml"
    catalogue.write_text(f'[models.bert]\nsource = "{tiny_models["bert"]}"\n[models.gone]\nsource = "./gone"\n')
    embed(models=("bert",), catalogue=catalogue)
    with pytest.raises(ConfigError, match=r"the model gone has the source .*/gone, which does not exist"):
        embed(models=("bert", "gone"), catalogue=catalogue)


def test_a_run_folder_among_the_chunks_is_refused(config, chunks_root):
    """The next run would take its vectors and its log for a collection."""
    with pytest.raises(ConfigError, match="is inside the folder of chunks"):
        run(dataclasses.replace(config, out=chunks_root / "run"))


def test_two_names_that_differ_in_case_only_are_refused(embed, tiny_models, tmp_path):
    """On a file system that ignores case, one model's vectors would overwrite the other's."""
    catalogue = tmp_path / "case.toml"
    catalogue.write_text("".join(f'[models.{n}]\nsource = "{tiny_models["bert"]}"\n' for n in ("same", "Same")))
    with pytest.raises(ConfigError, match="the models same and Same would share a folder"):
        embed(models=("same", "Same"), catalogue=catalogue)


@pytest.fixture
def embed_hot(config, tiny_models, tmp_path, chunks_root):
    """Embeds 60 chunks in two shards with a model that overflows float16 in some of the rows; the run's folder."""
    make_overflowing(tmp_path / "hot", tiny_models["bert"])
    shutil.rmtree(chunks_root / "beta")

    def embed_them(hot_rows, dtype, *sinks, **changes):
        texts = [f"the {WORD} at night {row}" if row in hot_rows else f"grey water {row}" for row in range(60)]
        items = [{"id": str(row), "text": text} for row, text in enumerate(texts)]
        (chunks_root / "alpha" / "doc_chunks.json").write_text(json.dumps(items))
        settings = {"models": (str(tmp_path / "hot"),), "catalogue": None, "dtype": dtype, **changes}
        hot = dataclasses.replace(config, **settings)
        return run(hot, *sinks), RunFolder.open(config.out)

    return embed_them


def test_overflow_in_half_precision_is_recomputed(embed_hot, all_vectors):
    """NaN in a vector spoils every search. A message at the end of the shard would come too late."""
    sink = ListSink()
    result, folder = embed_hot({7, 27, 47}, "float16", sink)
    kinds = (BadRowsFound, RowsRecomputed, ShardEncoded)
    told = [(type(event), getattr(event, "ids", ())) for event in sink.events if isinstance(event, kinds)]
    assert [kind for kind, ids in told if "7" in ids or kind is ShardEncoded][:3] == list(kinds)
    assert [ids for kind, ids in told if kind is RowsRecomputed] == [("7", "27"), ("47",)]
    assert result.models[0].recomputed_rows == 3
    assert not [event for event in sink.events if isinstance(event, PeakCompared)], "float32 was not predicted"
    assert np.isfinite(all_vectors(folder, "alpha", "hot")[1]).all()


def test_a_dtype_that_does_not_suit_a_model_ends_the_run(embed_hot, all_vectors):
    """In float16 the Gemma 3 family gives only NaN: all rows would be computed again, one after the other."""
    hot, sink = set(range(32, 60)), ListSink()
    with pytest.raises(
        UnfitDTypeError, match=r"^hot gives .* in float16 on sim:\d, for .* run again with --dtype float32$"
    ):
        embed_hot(hot, "float16")
    # The same settings keep what is finished, and end in the same way. The other dtype is the way on.
    with pytest.raises(UnfitDTypeError):
        embed_hot(hot, "float16", sink)
    assert [event.rows for event in sink.events if isinstance(event, ShardsKept)] == [32]
    result, folder = embed_hot(hot, "float32")
    assert (result.models[0].embedded, result.models[0].recomputed_rows) == (60, 0)
    assert np.isfinite(all_vectors(folder, "alpha", "hot")[1]).all()


def test_another_dtype_for_one_model_leaves_the_vectors_of_the_others(embed_hot, tiny_models, tmp_path):
    """`--dtype` is for all models: a finished model would be computed again, and it takes hours."""
    hot, catalogue = set(range(32, 60)), tmp_path / "both.toml"
    both = {"models": ("xlm-roberta", "hot"), "catalogue": catalogue}

    def write(**dtypes):
        tables = {"xlm-roberta": tiny_models["xlm-roberta"], "hot": tmp_path / "hot"}
        catalogue.write_text(
            "".join(
                f'[models.{name}]\nsource = "{source}"\ndtype = "{dtypes.get(name, "auto")}"\n'
                for name, source in tables.items()
            )
        )

    write()
    with pytest.raises(
        UnfitDTypeError,
        match=r'in float32: set dtype in a catalogue, "float32" for hot and "float16" for the other models, and run '
        r"again with --catalogue and --dtype auto, or run again with --dtype float32, which computes the other models "
        r"again too$",
    ):
        embed_hot(hot, "float16", **both)
    write(**{"xlm-roberta": "float16", "hot": "float32"})
    result, _ = embed_hot(hot, "auto", **both)
    assert [(model.dtype, model.embedded, model.kept) for model in result.models] == [
        ("float16", 0, 60), ("float32", 60, 0),
    ]  # fmt: skip


def test_a_licence_without_commercial_use_is_said_at_run_time(embed, tiny_models, tmp_path):
    """A licence in a table that nobody opens protects nobody."""
    catalogue = tmp_path / "jina.toml"
    catalogue.write_text(f'[models."jina-code-embeddings-1.5b"]\nsource = "{tiny_models["qwen2"]}"\n')
    sink = ListSink()
    result, _ = embed(sink, models=("jina-code-embeddings-1.5b",), catalogue=catalogue)
    notices = [event for event in sink.events if isinstance(event, Notice)]
    assert "does not allow commercial use" in notices[0].message
    assert any("not allow commercial use" in line for line in result.notices)


def test_shards_of_long_chunks_have_fewer_of_them(tmp_path):
    """4,096 chunks of a million characters would be in memory together."""
    place = tmp_path / "chunks" / "long"
    place.mkdir(parents=True)
    with (place / "long_chunks.jsonl").open("w") as file:
        for row in range(40):
            text = f"{row:06} " * 150_000
            file.write(json.dumps({"id": f"c{row}", "text": text, "metadata": {"notes": [text]}}) + "\n")
    (collection,) = discover(tmp_path / "chunks", SourceConfig())
    folder = RunFolder.create(tmp_path / "run")
    shards = ingest((collection,), SourceConfig(), folder, 4096, ListSink())
    assert [shard.rows for shard in shards] == [32, 8]  # of 2.1 million characters each
    ids = [id_ for shard in shards for id_ in folder.shards.read_ids("long", shard.index)]
    assert ids == [f"c{row}" for row in range(40)]
