"""The first pass of a model, on two texts, before anything is leased."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from soloist.config import FusionConfig, RunConfig
from soloist.encoding.encoder import Encoder
from soloist.engine.run import run
from soloist.errors import ModelLoadError
from soloist.events import LeaseAcquired, ListSink, RowsRecomputed
from soloist.models.catalogue import resolve
from soloist.models.loading import stage


@pytest.fixture
def folder(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A complete model that a test may change."""
    return Path(shutil.copytree(tiny_models["bert"], tmp_path / "model"))


@pytest.fixture
def config(folder: Path, tmp_path: Path, tiny_models: dict[str, Path]) -> RunConfig:
    """A run of a good model and of the one that a test changes."""
    (tmp_path / "chunks" / "alpha").mkdir(parents=True)
    (tmp_path / "chunks" / "alpha" / "a.jsonl").write_text('{"id": "a", "text": "grey water"}')
    return RunConfig(
        chunks_root=tmp_path / "chunks", out=tmp_path / "run", models=(str(tiny_models["qwen2"]), str(folder)),
        fusion=FusionConfig(method="none"), lock_dir=tmp_path / "locks", cache_dir=tmp_path / "cache",
        accelerator="cpu", dtype="float16",
    )  # fmt: skip


def _scale(folder: Path, name: str, factor: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[name] = weights[name] * factor
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


WIDE = "encoder.layer.0.intermediate.dense.weight"


def test_what_is_not_finite_is_found_before_the_first_lease(config: RunConfig, folder: Path) -> None:
    """Catches a model that costs the passes of those before it, and then ends the run."""
    _scale(folder, WIDE, float("nan"))
    sink = ListSink()
    with pytest.raises(ModelLoadError, match="model gives NaN or infinity for a plain text, in float16 and in float32"):
        run(config, sink)
    assert not [event for event in sink.events if isinstance(event, LeaseAcquired)]
    with pytest.raises(ModelLoadError, match="model gives NaN or infinity for a plain text in float32"):
        Encoder(stage(resolve(str(folder)), "float32"))


def test_what_overflows_half_precision_alone_is_taken(config: RunConfig, folder: Path) -> None:
    """Catches a model that is refused though its rows are computed once more in float32, as ever."""
    _scale(folder, WIDE, 20_000.0)
    sink = ListSink()
    run(config, sink)
    (again,) = [event for event in sink.events if isinstance(event, RowsRecomputed)]
    assert (again.model, again.ids) == ("model", ("a",))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_another_width_than_the_model_says_is_found(folder: Path, dtype: str) -> None:
    """Catches a shape mismatch in mid-run."""
    path = folder / "1_Pooling" / "config.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "embedding_dimension": 48}))
    with pytest.raises(ModelLoadError, match="model says that its vectors have 48 dimensions, but they have 32"):
        Encoder(stage(resolve(str(folder)), dtype))  # type: ignore[arg-type]


def test_a_pipeline_without_a_vector_of_a_text_is_found(folder: Path) -> None:
    """Catches KeyError: 'sentence_embedding', which tells nobody what to do."""
    staged = stage(resolve(str(folder)), "float32")
    bare = SentenceTransformer(modules=[staged.module[0]], device="cpu").eval()
    with pytest.raises(
        ModelLoadError, match=r"model gives no vector for a text \(no sentence_embedding\): add Pooling"
    ):
        Encoder(dataclasses.replace(staged, module=bare))


def test_the_trial_changes_nothing(folder: Path) -> None:
    """Catches a pass that leaves something in the shared module."""
    staged = stage(resolve(str(folder)), "float32")
    before = staged.module.encode(["grey water"])
    Encoder(staged, packs=True)
    np.testing.assert_array_equal(staged.module.encode(["grey water"]), before)
