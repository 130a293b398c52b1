"""The embedder of the plan beyond the plan: what it refuses, and what belongs to one run."""

from __future__ import annotations

import copy
import gc
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from processor.ultimate_embedder.config import EnsembleConfig, KaggleGPUConfig
from processor.ultimate_embedder.core import UltimateKaggleEmbedderV4
from processor.ultimate_embedder.log import FallbackHandler, logger, make_visible
from soloist.arrays import Vectors
from soloist.errors import ConfigError, FusionError, InputError

pytestmark = pytest.mark.usefixtures("tiny_environment")

BERT, BGE, JINA = "tiny-bert", "bge-m3", "jina-code-embeddings-1.5b"


def ensemble(**settings: Any) -> UltimateKaggleEmbedderV4:
    """An embedder of two tiny models."""
    config = EnsembleConfig(**{"ensemble_models": [BERT, BGE], **settings})
    return UltimateKaggleEmbedderV4(BERT, enable_ensemble=True, ensemble_config=config)


def vectors_of(embedder: UltimateKaggleEmbedderV4, chunks_root: Path) -> Vectors:
    """The vectors of a fresh run."""
    embedder.load_chunks_from_processing(chunks_root)
    embedder.generate_embeddings_kaggle_optimized()
    assert embedder.embeddings is not None
    return embedder.embeddings


def unit(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Rows of norm 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def alone(chunks_root: Path, tiny_catalogue: Path) -> dict[str, Vectors]:
    """The vectors of both models, each embedded alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOLOIST_CATALOGUE", str(tiny_catalogue))
        patch.setenv("SOLOIST_ACCELERATOR", "cpu")
        return {name: vectors_of(UltimateKaggleEmbedderV4(name), chunks_root) for name in (BERT, BGE)}


def test_one_model_gives_its_own_vectors(alone: dict[str, Any]) -> None:
    """Catches a single model whose vectors go through an aggregation, or come in another shape or dtype."""
    assert alone[BERT].shape == (30, 32)
    assert alone[BERT].dtype == np.float32
    assert alone[BERT].flags["C_CONTIGUOUS"]
    assert np.allclose(np.linalg.norm(alone[BERT], axis=1), 1)


def test_the_weighted_average_is_the_plans(alone: dict[str, Any], chunks_root: Path) -> None:
    """Catches weights or a Matryoshka cut that are lost in translation, and collections out of order."""
    found = vectors_of(ensemble(model_weights={BERT: 3, BGE: 1}, matryoshka_dim=16), chunks_root)
    expected = unit(0.75 * unit(alone[BERT][:, :16]) + 0.25 * unit(alone[BGE][:, :16]))
    assert np.abs(found - expected).max() < 1e-6


def test_concat_keeps_every_component(alone: dict[str, Any], chunks_root: Path) -> None:
    """Catches an aggregation method that is ignored."""
    found = vectors_of(ensemble(aggregation_method="concat"), chunks_root)
    expected = np.hstack([alone[BERT], alone[BGE]]) * np.sqrt(0.5)
    assert np.abs(found - expected).max() < 1e-6


def test_a_single_model_can_be_cut(alone: dict[str, Any], chunks_root: Path) -> None:
    """Catches a Matryoshka dim that a single model ignores."""
    found = vectors_of(UltimateKaggleEmbedderV4(BERT, matryoshka_dim=8), chunks_root)
    assert np.abs(found - unit(alone[BERT][:, :8])).max() < 1e-6


def test_a_run_leaves_earlier_results_alone(chunks_root: Path) -> None:
    """Catches results, events or vectors that a later run changes, and chunks that pile up over loads."""
    embedder = ensemble(exclusive_mode=True)
    embedder.load_chunks_from_processing(chunks_root)
    first = embedder.generate_embeddings_kaggle_optimized()
    kept, events, vectors = copy.deepcopy(first), embedder.telemetry.gpu_lease_events, embedder.embeddings
    summary = embedder.load_chunks_from_processing(chunks_root, collections=["notes"])
    second = embedder.generate_embeddings_kaggle_optimized()
    assert summary["collections"] == {"notes": 10} == second["collections"]
    assert first == kept
    assert events == kept["gpu_lease_events"]
    assert embedder.embeddings is not None
    assert vectors is not None
    # Sorted by collection, so that notes come first.
    assert np.array_equal(vectors[:10], embedder.embeddings)
    assert not np.shares_memory(vectors, embedder.embeddings)


def test_a_temporary_run_folder_goes_with_its_run(
    chunks_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches run folders that fill the disk while a notebook runs again and again."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    embedder = UltimateKaggleEmbedderV4(BERT)
    embedder.load_chunks_from_processing(chunks_root)
    embedder.generate_embeddings_kaggle_optimized()
    (first,) = tmp_path.glob("soloist-run-*")
    embedder.generate_embeddings_kaggle_optimized()
    (second,) = tmp_path.glob("soloist-run-*")
    assert first != second
    del embedder
    gc.collect()
    assert not list(tmp_path.glob("soloist-run-*"))


def test_a_failed_run_leaves_no_vectors_of_the_run_before(chunks_root: Path, tmp_path: Path) -> None:
    """Catches vectors of old chunks that pass for those of a run that failed."""
    embedder = UltimateKaggleEmbedderV4(BERT)
    vectors_of(embedder, chunks_root)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(Exception, match="not empty"):
        embedder.generate_embeddings_kaggle_optimized(output_dir=tmp_path / "taken")
    assert embedder.embeddings is None
    assert embedder.telemetry.gpu_lease_events == []


def test_a_failed_load_keeps_what_was_loaded(chunks_root: Path, tmp_path: Path) -> None:
    """Catches a typing error in a path that costs what had been loaded before."""
    embedder = UltimateKaggleEmbedderV4(BERT)
    embedder.load_chunks_from_processing(f"{chunks_root}/", collections=["notes"])
    with pytest.raises(InputError):
        embedder.load_chunks_from_processing(tmp_path / "missing")
    assert embedder.generate_embeddings_kaggle_optimized()["total_chunks"] == 10


def test_nothing_runs_before_chunks_are_loaded() -> None:
    """Catches an empty result in the place of an error."""
    embedder = UltimateKaggleEmbedderV4(BERT)
    assert embedder.embeddings is None
    with pytest.raises(InputError, match="load_chunks_from_processing"):
        embedder.generate_embeddings_kaggle_optimized()


def test_the_roster_has_the_primary_model_once_and_first_where_it_was_not_named() -> None:
    """Catches a primary model that does not embed, and one that embeds twice."""
    assert list(ensemble(ensemble_models=[BGE, BERT, BGE]).models) == [BGE, BERT]
    assert list(ensemble(ensemble_models=[BGE]).models) == [BERT, BGE]
    by_default = UltimateKaggleEmbedderV4(BERT, enable_ensemble=True)
    assert list(by_default.models) == [BERT, JINA, BGE]


def test_equal_weights_are_held_once() -> None:
    """Catches embedders that each load their own copy."""
    first, second = ensemble(exclusive_mode=True), ensemble()
    assert all(first.models[name] is second.models[name] for name in first.models)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"exclusive_mode": True, "sequential_passes": False}, "contradicts sequential_passes=False"),
        ({"sequential_passes": False}, "is not supported"),
        ({"ensemble_models": []}, "give a list of model names"),
        ({"ensemble_models": "bge-m3"}, "give a list of model names"),
        ({"aggregation_method": "max"}, "weighted_average, concat"),
    ],
)
def test_an_ensemble_config_that_cannot_be_honoured_is_refused(settings: dict[str, Any], complaint: str) -> None:
    """Catches settings that are resolved silently."""
    with pytest.raises(ConfigError, match=complaint):
        EnsembleConfig(**settings)


@pytest.mark.parametrize(
    "settings", [{"precision": "fp8"}, {"device_count": 0}, {"vram_per_gpu_gb": -1.0}, {"base_batch_size": 0}]
)
def test_a_gpu_config_that_cannot_be_honoured_is_refused(settings: dict[str, Any]) -> None:
    """Catches numbers and precisions that nothing can mean."""
    with pytest.raises(ConfigError, match=next(iter(settings))):
        KaggleGPUConfig(**settings)


def test_an_embedder_refuses_what_contradicts_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an ensemble that is configured and not enabled, two places for a dim, two accelerators."""
    with pytest.raises(ConfigError, match="enable_ensemble"):
        UltimateKaggleEmbedderV4(BERT, ensemble_config=EnsembleConfig())
    with pytest.raises(ConfigError, match="matryoshka_dim"):
        UltimateKaggleEmbedderV4(BERT, enable_ensemble=True, matryoshka_dim=8)
    monkeypatch.setenv("SOLOIST_ACCELERATOR", "simulated")
    with pytest.raises(ConfigError, match="force_cpu"):
        UltimateKaggleEmbedderV4(BERT, force_cpu=True)


def test_weights_of_a_model_that_is_not_there_are_an_error() -> None:
    """Catches a misspelt weight that is dropped, or refused only when all models are loaded and all chunks read."""
    with pytest.raises(FusionError, match="weights name bge, which is not a model of this run"):
        ensemble(model_weights={BERT: 1, "bge": 1})


def test_simulated_devices_have_the_configured_size(chunks_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a device count or a size that is ignored, and a precision other than the plan's."""
    monkeypatch.setenv("SOLOIST_ACCELERATOR", "simulated")
    gpu = KaggleGPUConfig(device_count=3, vram_per_gpu_gb=1.5)
    embedder = UltimateKaggleEmbedderV4(BERT, gpu_config=gpu)
    embedder.load_chunks_from_processing(chunks_root, collections=["notes"])
    results = embedder.generate_embeddings_kaggle_optimized()
    assert results["dtypes"] == {BERT: "float16"}
    assert [event["device_ids"] for event in results["lease_events"]] == [[0, 1, 2]] * 2
    assert results["lease_events"][0]["vram"][2]["total_gb"] == 1.5


def test_the_log_says_what_was_not_done_as_asked(caplog: pytest.LogCaptureFixture) -> None:
    """Catches a batch size or a precision that is dropped without a word."""
    with caplog.at_level(logging.INFO, logger=logger.name):
        UltimateKaggleEmbedderV4(BERT, gpu_config=KaggleGPUConfig(base_batch_size=32))
    assert "base_batch_size=32 is not used" in caplog.text
    assert "precision fp16 is for GPUs" in caplog.text


def test_the_fallback_handler_is_silent_beside_a_handler_of_the_caller(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches log lines that come twice once the caller sets up logging, and ones that never come without it."""
    make_visible()
    make_visible()
    (handler,) = [handler for handler in logger.handlers if isinstance(handler, FallbackHandler)]
    record = logging.LogRecord(logger.name, logging.INFO, "", 0, "a line", None, None)
    root = logging.getLogger()
    kept, root.handlers = root.handlers, []
    try:
        handler.emit(record)
        root.addHandler(logging.NullHandler())
        handler.emit(record)
    finally:
        root.handlers = kept
    assert capsys.readouterr().err.count("a line") == 1
