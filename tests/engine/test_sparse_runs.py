"""Runs with a sparse model: its weights in files, kept, copied and checked like dense vectors, on leased devices."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from sentence_transformers import SparseEncoder
from support.collections import write_collection
from support.tiny_sparse import make_splade

from soloist.config import RunConfig
from soloist.engine.run import run
from soloist.errors import ConfigError, OutputError
from soloist.events import LeaseReleased, ListSink, Notice, PeakCompared, ShardEncoded
from soloist.exports import export_run
from soloist.ragged import RaggedRows
from soloist.retrieval.opened import open_run
from soloist.stores import RunFolder
from soloist.stores.verification import verify_run

FILES = [f"alpha/vectors/splade/part-{number:05d}.parquet" for number in range(2)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sparse model, and with chunks of which some have one text."""
    root = tmp_path_factory.mktemp("sparse-runs")
    make_splade(root / "splade", num_hidden_layers=1)
    folder = write_collection(root / "chunks", "alpha", 40, longest=12, seed=3)
    texts = json.loads((folder / "doc_chunks.json").read_text())
    for number in (5, 39):
        texts[number]["text"] = texts[0]["text"]
    (folder / "doc_chunks.json").write_text(json.dumps(texts))
    return root


def config_in(folder: Path, root: Path, **changes: object) -> RunConfig:
    """The run below `folder`."""
    return RunConfig(**{
        "chunks_root": root / "chunks", "out": folder / "run", "models": (str(root / "splade"),), "accelerator": "cpu",
        "dtype": "float32", "matmul": "torch", "shard_chunks": 32, "lock_dir": folder / "locks",
        "cache_dir": folder / "cache", **changes,
    })  # fmt: skip


@pytest.fixture(scope="module")
def made(root: Path) -> RunConfig:
    """A finished run. Leave it as it is."""
    config = config_in(root, root)
    run(config)
    return config


def stored(out: Path) -> tuple[list[str], RaggedRows]:
    """The ids and rows of all shards."""
    parts = [RunFolder(out).sparse.read("alpha", "splade", number) for number in range(2)]
    return [id_ for ids, _ in parts for id_ in ids], RaggedRows.joined([rows for _, rows in parts])


def dense(rows: RaggedRows, width: int) -> np.ndarray:
    """The rows with their zeros."""
    found = np.zeros((len(rows), width), np.float32)
    for number, (keys, values) in enumerate(rows):
        found[number, keys] = values
    return found


def texts_of(root: Path) -> list[str]:
    """The texts of the chunks in their order."""
    return [item["text"] for item in json.loads((root / "chunks" / "alpha" / "doc_chunks.json").read_text())]


def bytes_of(out: Path) -> list[bytes]:
    """The files of sparse vectors."""
    return [(out / file).read_bytes() for file in FILES]


def test_a_run_has_the_weights_of_sparse_encoder(root: Path, made: RunConfig) -> None:
    """Catches vectors of length 1, words out of order, or a row of another text."""
    reference = SparseEncoder(str(root / "splade"), device="cpu")
    expected = reference.encode_document(texts_of(root), convert_to_sparse_tensor=False).numpy()
    ids, rows = stored(made.out)
    assert ids == [f"alpha-{number:04d}" for number in range(40)]
    rows.require_sound()
    found = dense(rows, expected.shape[1])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.array_equal(found > 1e-6, expected > 1e-6)
    assert verify_run(RunFolder(made.out)).problems == ()
    summary = json.loads((made.out / "run.json").read_text())
    assert [(model["kind"], model["embedded"], model["repeated"]) for model in summary["models"]] == [("sparse", 38, 2)]
    assert summary["fusion"] is None


def test_a_run_is_exported_as_scipy_reads_it(made: RunConfig, tmp_path: Path) -> None:
    """Catches a matrix without the dimensions that no chunk has, or with the weights of another chunk."""
    export_run(made.out, "numpy", out=tmp_path / "out")
    (file,) = (tmp_path / "out").glob("*.npz")
    found = scipy.sparse.load_npz(file)
    summary = json.loads((made.out / "run.json").read_text())
    assert found.shape == (40, summary["models"][0]["dim"])
    assert np.array_equal(found.toarray(), dense(stored(made.out)[1], found.shape[1]))


def test_half_precision_halves_the_weights_and_drops_no_word(root: Path, made: RunConfig, tmp_path: Path) -> None:
    """Catches weights that are stored whole though float16 was asked for, and a reuse that changes their bits."""
    sink = ListSink()
    half = config_in(tmp_path, root, vector_dtype="float16", reuse=(made.out,))
    run(half, sink)
    assert sum(event.from_others_rows for event in sink.events if isinstance(event, ShardEncoded)) == 40
    before, after = stored(made.out)[1], stored(half.out)[1]
    assert np.array_equal(before.keys, after.keys)
    assert np.array_equal(before.values.astype(np.float16), after.values.astype(np.float16))
    assert verify_run(RunFolder(half.out)).problems == ()
    fresh = config_in(tmp_path / "fresh", root, vector_dtype="float16")
    run(fresh)
    assert bytes_of(fresh.out) == bytes_of(half.out)


def test_a_change_costs_what_changed(root: Path, made: RunConfig, tmp_path: Path) -> None:
    """Catches texts that are embedded again, and rows that are copied to the wrong chunk."""
    chunks = shutil.copytree(root / "chunks", tmp_path / "chunks")
    out = shutil.copytree(made.out, tmp_path / "run")
    config = replace(config_in(tmp_path, root), chunks_root=chunks)
    file = chunks / "alpha" / "doc_chunks.json"
    items = json.loads(file.read_text())
    new = {"text": "a new lease", "metadata": {"chunk_id": "new"}}
    file.write_text(json.dumps([items[3], new, *items[10:]]))
    sink = ListSink()
    run(config, sink)
    encoded = [event for event in sink.events if isinstance(event, ShardEncoded)]
    assert sum(sum(event.rows_per_device.values()) for event in encoded) == 1
    assert verify_run(RunFolder(out)).problems == ()
    fresh = replace(config_in(tmp_path / "fresh", root), chunks_root=chunks)
    run(fresh)
    assert (out / FILES[0]).read_bytes() == (fresh.out / FILES[0]).read_bytes()


def test_a_shard_that_is_gone_is_made_again_byte_for_byte(made: RunConfig, root: Path, tmp_path: Path) -> None:
    """Catches a resumed run whose files differ from those of a run in one go, and damage that nobody tells."""
    out = shutil.copytree(made.out, tmp_path / "run")
    (out / FILES[1]).write_bytes(b"torn")
    with pytest.raises(OutputError, match=r"part-00001.parquet cannot be read"):
        RunFolder(out).sparse.read("alpha", "splade", 1)
    assert len(verify_run(RunFolder(out)).problems) == 1
    run(config_in(tmp_path, root))
    assert bytes_of(out) == bytes_of(made.out)


def test_of_documents_only_the_largest_weights_stay(root: Path, made: RunConfig, tmp_path: Path) -> None:
    """Catches a cut that keeps other words than SparseEncoder's own, and one that questions have too."""
    reference = SparseEncoder(str(root / "splade"), device="cpu", max_active_dims=7)
    expected = reference.encode_document(texts_of(root), convert_to_sparse_tensor=False).numpy()
    config = config_in(tmp_path, root, sparse_top=7)
    run(config)
    found = dense(stored(config.out)[1], expected.shape[1])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.count_nonzero(found, axis=1).max() == 7
    question = " ".join(texts_of(root)[:3])
    whole, cut = (open_run(out).encode_sparse("splade", [question])[0] for out in (made.out, config.out))
    assert len(cut) > 7 and whole == cut


def test_a_run_keeps_its_cut_and_tells_a_change(root: Path, tmp_path: Path) -> None:
    """Catches vectors of two cuts in one run, or a change of the cut that nobody is told of."""
    run(config_in(tmp_path, root, sparse_top=7))
    kept = run(config_in(tmp_path, root))
    assert (kept.config.sparse_top, kept.models[0].kept, kept.models[0].embedded) == (7, 40, 0)
    sink = ListSink()
    other = run(config_in(tmp_path, root, sparse_top=0), sink)
    assert (other.models[0].embedded, other.models[0].repeated) == (38, 2)
    (told,) = [event.message for event in sink.events if isinstance(event, Notice) and event.about == "sparse_top"]
    assert told.startswith("it was 7 in ") and "0 (all) from now on: the sparse vectors of all chunks are" in told
    with pytest.raises(ConfigError, match=r"sparse_top is -1: give 1 or more weights, or 0 to keep all"):
        config_in(tmp_path, root, sparse_top=-1)


def test_on_devices_the_pass_is_leased_predicted_and_released(root: Path, tmp_path: Path) -> None:
    """Catches a peak that is not that of the words' numbers, and memory that stays on a device."""
    sink = ListSink()
    config = config_in(tmp_path, root, accelerator="simulated:2xT4", dtype="float16", matmul="auto")
    run(config, sink)
    (compared,) = (event for event in sink.events if isinstance(event, PeakCompared))
    assert compared.measured_bytes == pytest.approx(compared.predicted_bytes, rel=0.02)
    (released,) = (event for event in sink.events if isinstance(event, LeaseReleased))
    assert {stats.allocated_bytes for stats in released.memory.values()} == {0}
    assert verify_run(RunFolder(config.out)).problems == ()
