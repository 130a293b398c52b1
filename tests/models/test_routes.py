"""Models with routes: documents go through one of them, questions through another, in every command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sentence_transformers import SentenceTransformer
from support.routed_models import make_mapped, make_table_of_documents, make_two_encoders, make_two_heads

from soloist.config import FusionConfig, RunConfig
from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward, unit_rows
from soloist.engine.run import run
from soloist.errors import ModelLoadError
from soloist.events import ListSink, Notice
from soloist.memory.prediction import blueprint_of
from soloist.models.catalogue import resolve
from soloist.models.fingerprint import known_fingerprint
from soloist.models.loading import TORCH_DTYPES, stage
from soloist.models.settings import read_settings
from soloist.planning.estimate import estimate_run
from soloist.retrieval import open_run
from soloist.types import Batch, DType

TEXTS = [
    "A lease gives one model every accelerator.",
    "def encode(texts): return model(texts)",
    "Grey water, and rain all night on the harbour. " * 20,
    "Rows",
]
QUESTIONS = ["how are devices given back?", "rain"]
MAKERS: dict[str, Callable[[Path, Path], Path]] = {
    "two-encoders": make_two_encoders,
    "table-of-documents": make_table_of_documents,
    "two-heads": make_two_heads,
    "mapped": make_mapped,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> dict[str, Path]:
    """One model of each shape of routes."""
    root = tmp_path_factory.mktemp("routed")
    return {name: make(root / name, tiny_models["bert"]) for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def config(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run of all of them over four chunks."""
    root = tmp_path_factory.mktemp("routed_run")
    (root / "chunks" / "docs").mkdir(parents=True)
    lines = [json.dumps({"id": f"c{index}", "text": text}) for index, text in enumerate(TEXTS)]
    (root / "chunks" / "docs" / "a.jsonl").write_text("\n".join(lines))
    return RunConfig(
        chunks_root=root / "chunks", out=root / "run", models=tuple(map(str, folders.values())),
        fusion=FusionConfig(method="none"),
        lock_dir=root / "locks", cache_dir=root / "cache", accelerator="simulated:1x1GB",
    )  # fmt: skip


def _cosines(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    return np.einsum("ij,ij->i", found, expected)


def test_each_side_has_the_vectors_of_its_route(config: RunConfig, folders: dict[str, Path]) -> None:
    """Catches documents or questions that go through the other side's route, whose vectors look as right."""
    sink = ListSink()
    run(config, sink)
    opened = open_run(config.out)
    for name, folder in folders.items():
        reference = SentenceTransformer(str(folder), device="cpu")
        (file,) = config.out.glob(f"docs/vectors/{name}/part-*.parquet")
        vectors = np.array(pq.read_table(file)["vector"].to_pylist())
        assert _cosines(vectors, reference.encode_document(TEXTS)).min() >= 0.99999, name
        assert _cosines(opened.encode(name, QUESTIONS), reference.encode_query(QUESTIONS)).min() >= 0.99999, name
    assert not [event.message for event in sink.events if isinstance(event, Notice) and "predicted" in event.message]


def test_a_plan_has_the_route_of_documents_alone(config: RunConfig, folders: dict[str, Path]) -> None:
    """Catches a plan that ends at a router, or counts the tokens or the weights of the route for questions."""
    plan = estimate_run(config)
    for model in plan.models:
        staged = stage(resolve(str(folders[model.name])), "float32")
        assert (model.dim, model.max_tokens) == (staged.dim, staged.max_tokens), model.name
        assert model.weights_bytes == staged.weights_bytes, model.name
        assert not model.lengths_estimated


def test_what_a_route_has_in_its_folder_is_in_the_fingerprint(folders: dict[str, Path], tmp_path: Path) -> None:
    """Catches vectors of another route that are taken over, because its folder lies deeper than others."""
    folder = Path(shutil.copytree(folders["two-encoders"], tmp_path / "two-encoders"))
    spec = resolve(str(folder))
    before = known_fingerprint(spec, read_settings(spec, blueprint_of(spec)), "float32")
    assert before == stage(spec, "float32").fingerprint
    for weights in sorted(folder.glob("*/model.safetensors")):
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert known_fingerprint(spec, read_settings(spec, blueprint_of(spec)), "float32") != before
        weights.write_bytes(content)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_routes_in_half_precision_fit_what_is_behind_them(folders: dict[str, Path], dtype: DType) -> None:
    """Catches a table in float32 beside a network in half precision, which no module behind both takes."""
    staged = stage(resolve(str(folders["two-encoders"])), dtype)
    reference = SentenceTransformer(str(folders["two-encoders"]), device="cpu")
    for side, encode in ((staged, reference.encode_document), (staged.for_queries(), reference.encode_query)):
        encoder = Encoder(side)
        tokenized = encoder.tokenize(QUESTIONS)
        batch = Batch(rows=(0, 1), padded_length=max(tokenized.lengths))
        vectors = forward(side.module, encoder.collate(tokenized, batch), "cpu")[:2]
        assert _cosines(unit_rows(vectors)[0], encode(QUESTIONS)).min() >= 0.99
        assert {weight.dtype for weight in side.module.parameters()} == {TORCH_DTYPES[dtype]}


def test_routes_of_two_widths_are_refused(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """Catches questions that no vector of the run can be compared with, which only the first search would say."""
    folder = make_two_encoders(tmp_path / "wide", tiny_models["bert"], query_dim=48)
    with pytest.raises(ModelLoadError, match="wide gives documents 32 dimensions and queries 48"):
        stage(resolve(str(folder)), "float32")


def test_a_router_without_a_route_for_documents_is_refused(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """Catches a route that is guessed: sentence-transformers' encode_document has none either."""
    folder = make_two_heads(tmp_path / "heads", tiny_models["bert"], document="passages")
    with pytest.raises(ValueError, match="No route found"):
        SentenceTransformer(str(folder), device="cpu").encode_document(["a text"])
    with pytest.raises(ModelLoadError, match="its router has the routes query, passages, and no route for a document"):
        stage(resolve(str(folder)), "float32")
