"""A foretold run is the run that then happens, and foretelling it needs no weights and writes nothing."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from support.collections import WORDS, write_collection

from soloist.config import FusionConfig, RunConfig, SourceConfig
from soloist.encoding.encoder import Encoder
from soloist.engine import run
from soloist.errors import ConfigError, DuplicateIdError, InputError, PredictionError, SoloistError
from soloist.memory.prediction import blueprint_of
from soloist.models.catalogue import BUILT_IN, resolve
from soloist.models.loading import stage
from soloist.models.settings import ModelSettings, read_settings
from soloist.models.spec import ModelSpec
from soloist.planning.estimate import estimate_run
from soloist.planning.run_estimate import ModelEstimate, RunEstimate
from soloist.planning.token_lengths import BLOCK_CHUNKS, CHARACTERS_PER_TOKEN, Scan, TokenCounts, scan
from soloist.reports.estimate import estimate_head, estimate_notes
from soloist.sources import discover, read_chunks
from soloist.stores import RunFolder

LARGE = ("jina-code-embeddings-1.5b", "bge-m3")
TRANSFORMERS = ("qwen2", "xlm-roberta", "bert", "all-MiniLM-L6-v2")


@pytest.fixture(autouse=True)
def no_hub_cache(monkeypatch, tmp_path):
    """A model that the person who runs the tests has downloaded must not decide them."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "no-hub-cache"))


@pytest.fixture
def planning(config, tmp_path) -> RunConfig:
    """The engine's config with a cache of its own."""
    return dataclasses.replace(config, cache_dir=tmp_path / "cache")


@pytest.fixture
def plan(planning) -> Callable[..., RunEstimate]:
    """Foretell the config with changes."""

    def plan_with(seconds: float | None = None, **changes: object) -> RunEstimate:
        return estimate_run(dataclasses.replace(planning, **changes), seconds)

    return plan_with


def write_texts(root: Path, texts: list[str]) -> Path:
    """A root with one collection of these texts."""
    (root / "texts").mkdir(parents=True)
    items = [{"text": text, "metadata": {"chunk_id": f"t{index}"}} for index, text in enumerate(texts)]
    (root / "texts" / "a_chunks.json").write_text(json.dumps(items))
    return root


def texts_of_one_length(count: int) -> list[str]:
    """Different texts of the same words, so of as many tokens each: a text that repeats is embedded once."""
    orders = itertools.islice(itertools.permutations(WORDS[1:12]), count)
    return [" ".join((WORDS[0], *order)) for order in orders]


def files_below(root: Path) -> dict[str, tuple[int, int]]:
    """Every path, with its size and its time of change."""
    return {str(p.relative_to(root)): (p.stat().st_size, p.stat().st_mtime_ns) for p in root.rglob("*")}


# Lengths.


def spec_of(name: str, tiny_models: dict[str, Path]) -> ModelSpec:
    return resolve(str(tiny_models[name])) if name in tiny_models else BUILT_IN.get(name)


def scanned(root: Path, *specs: ModelSpec) -> Scan:
    models = [(spec, read_settings(spec, blueprint_of(spec))) for spec in specs]
    return scan(discover(root, SourceConfig(), ()), SourceConfig(), models)


def texts_below(root: Path) -> list[str]:
    source = SourceConfig()
    collections = discover(root, source, ())
    return [chunk.text for each in collections for chunk, _ in read_chunks(each, source, lambda item: None)]


def assert_counts_are_the_encoders(root: Path, spec: ModelSpec) -> TokenCounts:
    """Lengths as scanned, beside those that the encoder makes of the same texts; the scanned ones."""
    found = scanned(root, spec)
    texts = list(dict.fromkeys(texts_below(root)))
    tokenized = Encoder(stage(spec, "float32")).tokenize(texts)
    counts = found.counts[spec.name]
    whole = [length + cut for length, cut in zip(tokenized.lengths, tokenized.dropped, strict=True)]
    assert sorted(counts.rows_of.elements()) == sorted(whole)
    assert sorted(counts.kept.elements()) == sorted(tokenized.lengths)
    assert counts.truncated_rows == sum(1 for dropped in tokenized.dropped if dropped)
    assert (counts.rows, counts.estimated) == (found.chunks - found.repeated, False) == (len(texts), False)
    assert found.text_bytes == sum(len(text.encode()) for text in texts_below(root))
    return counts


@pytest.mark.parametrize("name", [*TRANSFORMERS, "wordllama"])
def test_lengths_are_those_of_the_encoder(name, tiny_models, chunks_root):
    """Special tokens left out, or a truncation that is in the tokenizer's own file, would plan other batches."""
    write_collection(chunks_root, "long", 20, longest=500, seed=3)
    write_texts(chunks_root / "more", ["naïve façade 你好 🙂 \u0301", "a", "tabs\tand\n\nlines  ", "ZERO\u200bWIDTH"])
    counts = assert_counts_are_the_encoders(chunks_root, spec_of(name, tiny_models))
    assert (counts.truncated_rows > 0) == (name != "wordllama")


def test_the_prompt_is_counted(tiny_models, chunks_root):
    """A prompt that is forgotten makes every row of a million too short."""
    plain = spec_of("bert", tiny_models)
    prompted = dataclasses.replace(plain, document_prompt="title: none | text: ", max_tokens=60)
    counts = assert_counts_are_the_encoders(chunks_root, prompted)
    without = scanned(chunks_root, plain).counts[plain.name]
    assert min(counts.rows_of) > min(without.rows_of) and max(counts.kept) == 60


def test_lengths_of_a_transformer_in_a_folder_of_its_own(tiny_models, tmp_path, chunks_root):
    """Older pipelines have their transformer in 0_Transformer: taken for static ones, they lose special tokens."""
    folder = Path(shutil.copytree(tiny_models["bert"], tmp_path / "older"))
    (folder / "0_Transformer").mkdir()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(folder / "0_Transformer" / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    assert_counts_are_the_encoders(chunks_root, resolve(str(folder)))


def test_an_unknown_tokenizer_is_estimated(chunks_root):
    """An estimate that looks like a count would be believed; one that is too low would not fit."""
    spec = BUILT_IN.get("bge-m3")
    settings = ModelSettings(max_tokens=100, document_prompt="abc", dim=1024, folder=None)
    collections = discover(chunks_root, SourceConfig(), ())
    counts = scan(collections, SourceConfig(), [(spec, settings)]).counts["bge-m3"]
    expected = [math.ceil((3 + len(text)) / CHARACTERS_PER_TOKEN) + 2 for text in texts_below(chunks_root)]
    assert counts.estimated
    assert sorted(counts.rows_of.elements()) == sorted(expected)
    assert counts.truncated_rows == sum(length > 100 for length in expected) > 0


def test_more_chunks_than_a_block(tmp_path):
    """The last block of a collection, or the first of the next, would be lost at the edge."""
    write_collection(tmp_path / "chunks", "many", BLOCK_CHUNKS + 5, longest=2)
    write_collection(tmp_path / "chunks", "few", 3, longest=2)
    found = scanned(tmp_path / "chunks", BUILT_IN.get("wordllama"))
    assert found.chunks == BLOCK_CHUNKS + 8
    assert found.counts["wordllama"].rows == found.chunks - found.repeated == len(set(texts_below(tmp_path / "chunks")))


def test_a_text_that_repeats_is_planned_once(planning, tmp_path):
    """A third of a corpus may repeat: a plan that counts it would be a third too long."""
    root = write_texts(tmp_path / "same", ["one lease", "two leases", "one lease", "one lease"])
    config = dataclasses.replace(planning, chunks_root=root, models=("wordllama",), accelerator="cpu")
    planned, ran = estimate_run(config), run(config)
    assert (planned.chunks, planned.repeated, planned.models[0].rows) == (4, 2, 2)
    assert (ran.models[0].embedded, ran.models[0].repeated) == (2, 2)
    assert planned.models[0].tokens == ran.models[0].padded_tokens  # what was computed: a static model pads nothing
    assert ran.models[0].tokens == 2 * planned.models[0].tokens  # of all four chunks
    assert planned.models[0].vectors_bytes == 4 * 256 * 4


def test_what_ends_the_run_at_its_start_ends_the_plan(plan, chunks_root, tmp_path):
    """A plan that fits, of a run that then stops at its first file."""
    (chunks_root / "alpha" / "z_chunks.json").write_text('[{"text": "x", "metadata": {"chunk_id": "alpha-0001"}}]')
    with pytest.raises(DuplicateIdError, match="alpha-0001"):
        plan()


def test_blank_chunks_are_skipped_and_counted(plan, chunks_root):
    """Chunks that no run embeds must not be planned for, and not vanish either."""
    (chunks_root / "beta" / "z_chunks.json").write_text('[{"text": " "}, {"text": ""}, {"text": "one"}]')
    found = plan()
    assert (found.chunks, found.skipped, found.models[0].rows) == (96, 2, 96)


@pytest.mark.parametrize("models", [("qwen2",), ("wordllama",)])
def test_nothing_to_embed_is_no_plan(models, plan, tmp_path):
    """The run says that there are no chunks; `fits`, or an error of torch about 0 elements, is no answer."""
    with pytest.raises(InputError, match="no chunks to embed"):
        plan(chunks_root=write_texts(tmp_path / "blank", [" ", ""]), models=models)


@pytest.mark.parametrize(("share", "length"), [(0, 1), (0.5, 2), (0.51, 3), (0.75, 3), (1, 10)])
def test_quantiles(share, length):
    """A median that is off by one row is another bucket, and a longest that is not the longest does not fit."""
    counts = TokenCounts(max_tokens=10, estimated=False)
    counts.add([1, 2, 3, 99])
    assert counts.quantile(share) == length
    assert TokenCounts(max_tokens=None, estimated=False).quantile(share) == 0


def test_quantiles_of_many_lengths_are_quick():
    """Long documents have thousands of distinct lengths: a loop inside a loop over them takes minutes."""
    counts = TokenCounts(max_tokens=None, estimated=False)
    counts.add(range(4000))
    began = time.process_time()
    assert counts.quantile(0.5) == 1999
    assert time.process_time() - began < 0.3


# The run that is foretold.


def test_the_plan_is_what_the_run_does(planning, tmp_path):
    """Tokens, padding, truncation, limits, disk: each figure of a plan is one of a run, or it is a guess."""
    root = tmp_path / "long"
    write_collection(root, "alpha", 4, longest=600, seed=1)
    write_collection(root, "beta", 3, longest=40, seed=2)
    config = dataclasses.replace(
        planning, chunks_root=root, models=(*TRANSFORMERS, "wordllama"), accelerator="simulated:2xT4", dtype="float32"
    )
    planned, ran = estimate_run(config), run(config)
    reports = {model["name"]: model for model in json.loads((config.out / "run.json").read_text())["models"]}
    assert planned.fits and planned.chunks == 7
    for model in planned.models:
        report = reports[model.name]
        for name in ("dtype", "dim", "max_tokens", "tokens", "truncated_rows"):
            assert getattr(model, name) == report[name], (model.name, name)
        assert model.padding_share == pytest.approx(report["padding_share"]), model.name
        assert model.rows == report["chunks"] == sum(model.histogram.values())
        assert model.weights_bytes == weights_bytes(config.out, model.name)
        if model.name != "wordllama":  # whose batches have rows of many lengths, and so no one length to ask about
            assert model.exclusive.median_rows == report["batch_sizes"]["planned"]
            assert model.exclusive.limited_by == report["batch_sizes"]["limited_by"] == "saturation"
            assert model.truncated_rows > 0
        assert model.vectors_bytes == sum(array.nbytes for array in vectors(config.out, model.name))
    assert ran.fusion is not None
    assert planned.fused_bytes == 7 * ran.fusion.dim * 4


def test_a_mean_is_foretold_at_the_dim_that_the_models_were_trained_for(planning, tiny_models, tmp_path):
    """The plan cut to the narrowest model's full dim, and the run to what both were trained for."""
    catalogue = tmp_path / "trained.toml"
    lines = [
        f'[models."{name}"]\nsource = "{tiny_models[name]}"\nmatryoshka_dims = [8, 16]\n' for name in ("bert", "qwen2")
    ]
    catalogue.write_text("".join(lines))
    config = dataclasses.replace(
        planning, models=("bert", "qwen2"), catalogue=catalogue, accelerator="cpu", fusion=FusionConfig(method="mean")
    )
    planned, ran = estimate_run(config), run(config)
    assert ran.fusion is not None and ran.fusion.dim == 16
    assert planned.fused_bytes == planned.chunks * 16 * 4


def weights_bytes(folder: Path, model: str) -> int:
    """What the run said of a staged model."""
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return next(event["weights_bytes"] for event in events if event.get("model") == model and "weights_bytes" in event)


def vectors(folder: Path, model: str) -> list:
    stored = RunFolder.open(folder)
    return [stored.shards.read_vectors(name, model, 0)[1] for name in ("alpha", "beta")]


@pytest.mark.parametrize(
    ("name", "accelerator", "limited_by"),
    [
        ("qwen2", "simulated:2xT4", "saturation"),
        ("xlm-roberta", "simulated:1x2MB", "memory"),
        ("qwen2", "simulated:1x2MB", "memory"),
        ("wordllama", "simulated:1x1GB", "saturation"),
    ],
)
def test_the_peak_of_full_batches(name, accelerator, limited_by, planning, tmp_path):
    """A peak that is foretold too low does not fit, one too high leaves half of the device empty."""
    budget = 600 if limited_by == "saturation" else None
    changes = {"models": (name,), "accelerator": accelerator, "dtype": "float32", "token_budget": budget}
    changes["shard_chunks"] = 4096
    one = write_texts(tmp_path / "one", texts_of_one_length(1))
    rows = estimate_run(dataclasses.replace(planning, chunks_root=one, **changes)).models[0].exclusive.longest_rows
    full = write_texts(tmp_path / "full", texts_of_one_length(2 * rows))
    config = dataclasses.replace(planning, chunks_root=full, **changes)
    planned, ran = estimate_run(config).models[0], run(config).models[0]
    assert planned.exclusive.limited_by == limited_by
    assert ran.batch_sizes.largest == ran.batch_sizes.smallest == planned.exclusive.longest_rows == rows > 1
    assert ran.batch_sizes.splits == 0
    assert planned.peak_bytes == pytest.approx(ran.predicted_peak_bytes, rel=0.02)
    assert planned.peak_bytes == pytest.approx(max(ran.peak_bytes.values()), rel=0.05)
    assert planned.reserved_bytes >= planned.peak_bytes >= planned.weights_bytes


def test_standard_mode_is_planned_as_it_runs(planning, tmp_path):
    """Limits of exclusive mode in a run with all models resident would split batches."""
    root = write_texts(tmp_path / "few", texts_of_one_length(7))
    config = dataclasses.replace(
        planning, mode="standard", accelerator="simulated:1x4MB", dtype="float32", chunks_root=root
    )
    planned, ran = estimate_run(config), run(config)
    for model, report in zip(planned.models, ran.models, strict=True):
        assert model.standard.median_rows == report.batch_sizes.planned < model.exclusive.median_rows
        assert model.standard.limited_by == report.batch_sizes.limited_by == "memory"
        assert report.batch_sizes.splits == 0


def test_the_peak_of_standard_mode_has_all_weights(plan):
    """A peak without the other models' weights fits where the run does not."""
    found = plan(mode="standard", models=LARGE, accelerator="simulated:2xT4", catalogue=None)
    assert min(model.peak_bytes for model in found.models) > sum(model.weights_bytes for model in found.models)


def test_devices_divide_the_time_and_nothing_else(plan):
    """Batches that depend on the number of devices would give other vectors."""
    one, two = plan(accelerator="simulated:1xT4"), plan(accelerator="simulated:2xT4")
    for alone, both in zip(one.models, two.models, strict=True):
        assert (alone.exclusive, alone.standard, alone.peak_bytes) == (both.exclusive, both.standard, both.peak_bytes)
        assert alone.seconds == pytest.approx(2 * both.seconds)


def test_nodes_divide_the_time_and_share_a_disk(planning):
    """A plan whose nodes divide the staging too, or which hides what the folder that they share has to take."""
    config = dataclasses.replace(planning, accelerator="simulated:1xT4")
    one, four = estimate_run(config), estimate_run(config, nodes=4)
    for alone, shared in zip(one.models, four.models, strict=True):
        assert alone.seconds == pytest.approx(4 * shared.seconds)
        assert alone.staging_seconds == shared.staging_seconds
    encoding = sum(model.seconds for model in four.models)
    assert four.seconds == pytest.approx(one.seconds - 3 * encoding)
    assert four.disk_bytes == one.disk_bytes
    assert one.shared_disk is None
    vectors = sum(model.vectors_bytes for model in four.models)
    assert four.shared_disk.written_bytes_per_second == pytest.approx(vectors / encoding)
    assert "nodes" not in one.to_dict()
    assert four.to_dict()["nodes"] == 4
    assert estimate_head(four)[1].startswith("4 nodes, each with 1 device: ")
    assert estimate_notes(four)[-1].startswith("shared folder: ")


# Nothing is written, and nothing of the weights is read.


def test_nothing_is_written(plan, planning, tmp_path, monkeypatch):
    """A plan that leaves an empty run folder behind it stops the run that it was made for."""
    monkeypatch.chdir(tmp_path)
    before = files_below(tmp_path)
    plan(accelerator="simulated:2xT4")
    assert files_below(tmp_path) == before
    assert not planning.lock_dir.exists()  # a folder that the first user makes is the first user's


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["absent", "empty"])
def test_weights_are_not_needed(damage, plan, planning, tiny_models, tmp_path):
    """Whoever plans a download of gigabytes has none of them yet."""
    names = ("qwen2", "xlm-roberta")
    whole = plan(accelerator="simulated:2xT4")
    for name in names:
        damage(Path(shutil.copytree(tiny_models[name], tmp_path / "bare" / name)) / "model.safetensors")
    catalogue = tmp_path / "bare.toml"
    catalogue.write_text("".join(f'[models."{name}"]\nsource = "{tmp_path / "bare" / name}"\n' for name in names))
    without = plan(accelerator="simulated:2xT4", catalogue=catalogue)
    changing = {"download_bytes": None}
    assert [dataclasses.replace(model, **changing) for model in without.models] == [
        dataclasses.replace(model, **changing) for model in whole.models
    ]
    assert [model.download_bytes for model in whole.models] == [0, 0]


def test_half_a_download_can_be_planned(plan, tiny_models, tmp_path):
    """An index whose files are still to come is the usual state of a large model."""
    folder = Path(shutil.copytree(tiny_models["bert"], tmp_path / "half"))
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"embeddings.word_embeddings.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert plan(models=(str(folder),)).models[0].download_bytes != 0


# Models of which nothing is here, and cards of which none is here.


def shown(model: ModelEstimate) -> str:
    return f"{model.name}: {model.exclusive} {model.standard}"


@pytest.mark.parametrize("token_budget", [None, 262_144])
def test_the_plans_two_models_on_two_t4(token_budget, plan):
    """The session on Kaggle is planned on a laptop, which has neither the models nor the cards."""
    found = plan(
        models=LARGE, accelerator="simulated:2xT4", token_budget=token_budget, catalogue=None, fusion=FusionConfig()
    )
    assert found.fits and [model.dtype for model in found.models] == ["float16", "float16"]
    assert all(model.lengths_estimated and model.download_bytes for model in found.models)
    assert all(model.basis == "estimated from the card's data sheet" for model in found.models)
    notes = " ".join(found.notes)
    assert "the tokenizer of jina-code-embeddings-1.5b, bge-m3 is not on this machine" in notes
    for model in found.models:
        assert model.exclusive.fits and model.standard.fits, shown(model)
        assert model.exclusive.median_rows >= model.standard.median_rows, shown(model)
        assert model.exclusive.longest_rows >= model.standard.longest_rows, shown(model)
        assert model.weights_bytes < model.peak_bytes <= model.reserved_bytes <= found.limit_bytes, shown(model)
    if token_budget is None:
        assert {model.exclusive.limited_by for model in found.models} == {"saturation"}
        assert "both modes allow the same batches: they fit on the device beside all models' weights" in notes
    else:
        assert "exclusive mode allows larger batches of jina-code-embeddings-1.5b, because standard mode keeps" in notes


def test_long_texts_on_a_t4(plan, tmp_path):
    """8,192 tokens a row are where memory might be the limit; at the planner's saturation it is not."""
    root = write_texts(tmp_path / "long", ["lease chunk " * 2000, "short"])
    found = plan(models=LARGE, accelerator="simulated:2xT4", chunks_root=root, catalogue=None)
    assert found.fits
    for model in found.models:
        assert model.longest_length > 8000
        assert model.exclusive.longest_rows == model.standard.longest_rows > 0, shown(model)
        assert model.reserved_bytes <= found.limit_bytes, shown(model)


def test_a_small_card_shows_what_exclusive_mode_is_for(plan):
    """The difference between the modes is the reason for this program: it must be seen, and said."""
    found = plan(models=LARGE, accelerator="simulated:1x5GB", token_budget=65_536, dtype="float16", catalogue=None)
    assert found.fits
    for model in found.models:
        assert model.exclusive.median_rows > model.standard.median_rows, shown(model)
        assert model.exclusive.longest_rows > model.standard.longest_rows, shown(model)
        assert model.standard.limited_by == "memory", shown(model)
    assert found.notes[1] == (
        "exclusive mode allows larger batches of jina-code-embeddings-1.5b, bge-m3, because standard mode keeps all "
        "models' weights on the device"
    )


def test_standard_mode_does_not_fit_where_exclusive_does(plan):
    """Whoever runs in the wrong mode is told the other."""
    changes = {"models": LARGE, "accelerator": "simulated:1x4.3GB", "dtype": "float16", "catalogue": None}
    assert plan(**changes).fits
    problems = plan(mode="standard", **changes).problems
    assert len(problems) == 2 and all("for all models' weights" in problem for problem in problems)
    assert all(problem.endswith("or exclusive mode") for problem in problems)


@pytest.mark.parametrize("accelerator", ["simulated:1x1MB", "simulated:1x1.2MB"])
def test_no_note_says_that_there_is_room_where_there_is_none(accelerator, plan, tmp_path):
    """`none fits`, and below it: there is still room."""
    root = write_texts(tmp_path / "long", ["lease chunk vector " * 200])
    found = plan(models=("xlm-roberta", "qwen2"), accelerator=accelerator, dtype="float32", chunks_root=root)
    assert not all(model.standard.fits for model in found.models)
    assert "both modes allow" not in " ".join(found.notes)


def test_weights_that_do_not_fit(plan):
    """A run would be refused after the download."""
    found = plan(models=("bge-m3",), accelerator="simulated:1x1GB", dtype="float32", catalogue=None)
    assert not found.fits and len(found.problems) == 1
    assert found.problems[0].startswith(
        "bge-m3 needs 2.27 GB for its weights in float32, but soloist can use only 0.95 GB of a bare"
    )


def test_a_row_that_does_not_fit(plan, tmp_path):
    """Weights that fit alone are no use where the longest text does not."""
    root = write_texts(tmp_path / "long", ["lease chunk vector " * 300, "short"])
    found = plan(models=("qwen2",), accelerator="simulated:1x1MB", dtype="float32", chunks_root=root)
    assert len(found.problems) == 1
    assert found.problems[0].startswith("qwen2 leaves no memory on a bare simulated device for one text of 512 tokens ")


def test_on_the_processor_memory_is_no_problem(plan):
    """The host's memory is not a device's own, and a run on it is not bounded by it."""
    found = plan(accelerator="cpu")
    assert found.fits and [model.dtype for model in found.models] == ["float32", "float32"]
    assert found.seconds is None and {model.basis for model in found.models} == {"unknown"}


def test_a_model_of_which_nothing_is_known(plan):
    """Only its name: the sentence says what to attach."""
    with pytest.raises(PredictionError, match=r"nothing is known of the network of nobody/model.*attach them"):
        plan(models=("nobody/model",), catalogue=None)


def test_a_family_that_overflows_is_planned_as_it_runs(plan, tiny_models, tmp_path):
    """A run takes float32 where float16 overflows; a plan in float16 has half of the weights."""
    folder = Path(shutil.copytree(tiny_models["bert"], tmp_path / "gemma"))
    (folder / "config.json").write_text(json.dumps(BUILT_IN.get("embeddinggemma-300m").blueprint.config))
    found = plan(models=(str(folder),), accelerator="simulated:2xT4")
    assert found.models[0].dtype == "float32"


def test_a_limit_beyond_the_positions_is_refused(plan, planning, tiny_models, tmp_path):
    """The run ends in its first second with this very sentence."""
    catalogue = tmp_path / "long.toml"
    catalogue.write_text(f'[models.bert]\nsource = "{tiny_models["bert"]}"\nmax_tokens = 600\n')
    with pytest.raises(ConfigError, match="fewer than its max_tokens of 600"):
        plan(models=("bert",), catalogue=catalogue)


# Sessions.


def test_a_session_that_is_long_enough(plan):
    """`fits` must mean the session as well."""
    found = plan(9 * 3600, models=LARGE, accelerator="simulated:2xT4", catalogue=None)
    assert found.fits and 0 < found.seconds < found.session_seconds


def test_a_session_that_is_too_short(plan):
    """Ten hours into a session of nine, all is lost: better to hear it before."""
    found = plan(2, models=LARGE, accelerator="simulated:2xT4", catalogue=None)
    assert not found.fits and len(found.problems) == 1
    assert "run the same embed command with --stop-after in 8 sessions" in found.problems[0]
    assert "leave out jina-code-embeddings-1.5b" in found.problems[0]


def test_a_short_session_is_not_no_session(plan):
    """`the run would take 0.0 h and the session has 0.0 h` is no reason for anything."""
    assert "0.0 h" not in plan(2, models=LARGE, accelerator="simulated:2xT4", catalogue=None).problems[0]


def test_a_session_of_unknown_rate(plan):
    """A card without a data sheet has no rate, and a guess would be taken for one."""
    found = plan(9 * 3600, models=("qwen2", "wordllama"))
    assert (found.seconds, found.problems, found.fits) == (None, (), None)
    assert len(found.unknowns) == 1 and "because the speed of qwen2 is not known: embed chunks of" in found.unknowns[0]
    assert plan(models=("qwen2", "wordllama")).fits  # nobody asked how long


def test_fusion_none_needs_no_disk_for_it(plan):
    """Fused vectors that nobody asked for would double the disk."""
    fused, alone = plan(), plan(fusion=FusionConfig(method="none"))
    assert fused.fused_bytes > 0 == alone.fused_bytes
    assert fused.disk_bytes - alone.disk_bytes == fused.fused_bytes


def test_vectors_in_float16_need_half_the_disk(plan):
    """Whoever chooses float16 because the disk is small would be told that it is too small still."""
    full, half = plan(), plan(vector_dtype="float16")
    assert [model.vectors_bytes for model in full.models] == [2 * model.vectors_bytes for model in half.models]
    assert full.fused_bytes == 2 * half.fused_bytes > 0
    assert 2 * (half.disk_bytes - half.text_bytes) == full.disk_bytes - full.text_bytes


def test_a_plan_is_json(plan):
    """NaN, paths or objects in it would break whoever reads it."""
    content = json.loads(json.dumps(plan(accelerator="simulated:2xT4").to_dict(), allow_nan=False))
    assert content["fits"] is True and content["card"]["name"] == "T4"


def test_an_empty_choice_is_an_error_and_no_plan(plan):
    """A collection that is not there must not be planned as one that is empty."""
    with pytest.raises(SoloistError, match="gamma"):
        plan(collections=("gamma",))


def test_a_plan_refuses_what_embed_refuses_in_the_folder(planning):
    """A plan said that a run fits, which embed then refused: its folder is of another model."""
    run(dataclasses.replace(planning, models=("bm25",)))
    other = dataclasses.replace(planning, models=("bert",))
    with pytest.raises(ConfigError, match="has vectors of the model bm25, which this command leaves out") as planned:
        estimate_run(other)
    with pytest.raises(ConfigError) as refused:
        run(other)
    assert str(planned.value) == str(refused.value)
    assert estimate_run(dataclasses.replace(planning, models=("bm25", "bert"))).models
