"""Tables of token vectors without sentence-transformers: which folders are read so, and the same bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, StaticEmbedding
from support.tiny_models import SENTENCES, make_static
from tokenizers import Tokenizer

from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward
from soloist.models.catalogue import BUILT_IN, resolve
from soloist.models.loading import TORCH_DTYPES, StagedModel, stage
from soloist.models.location import WORDLLAMA_TOKENIZER, WORDLLAMA_WEIGHTS, locate
from soloist.models.token_table import TablePipeline, can_read_table
from soloist.types import Batch, DType

TEXTS = [*SENTENCES, "", "a", "the the the"]
TABLE = "model.safetensors"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table and nothing behind it."""
    return make_static(tmp_path_factory.mktemp("tables") / "plain", rows=4_000)


@pytest.fixture(scope="module")
def units(plain: Path) -> Path:
    """The same table with vectors of length 1."""
    return _saved(plain.parent / "units", SentenceTransformer(str(plain), device="cpu")[0], Normalize())


@pytest.fixture(scope="module")
def renamed(plain: Path) -> Path:
    """The same table under the name that model2vec gives it."""
    folder = _saved(plain.parent / "renamed", SentenceTransformer(str(plain), device="cpu")[0])
    save_file({"embeddings": load_file(_file(folder, TABLE))["embedding.weight"]}, _file(folder, TABLE))
    return folder


def _saved(folder: Path, *modules: torch.nn.Module) -> Path:
    SentenceTransformer(modules=list(modules), device="cpu").save(str(folder), create_model_card=False)
    return folder


def _file(folder: Path, name: str) -> Path:
    return next(folder.rglob(name))


def _rows(staged: StagedModel, module: torch.nn.Module) -> np.ndarray:
    encoder = Encoder(staged)
    tokenized = encoder.tokenize(TEXTS)
    return forward(module, encoder.collate(tokenized, Batch(rows=tuple(range(len(TEXTS))), padded_length=1)), "cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["plain", "units", "renamed"])
def test_a_folder_has_the_bits_of_sentence_transformers(
    request: pytest.FixtureRequest, name: str, dtype: DType
) -> None:
    """A mean, a length of 1 or a rounding of the table that is computed in another way: vectors would be near only."""
    folder: Path = request.getfixturevalue(name)
    staged = stage(resolve(str(folder)), dtype)
    assert isinstance(staged.module, TablePipeline)
    reference = SentenceTransformer(str(folder), device="cpu").to(TORCH_DTYPES[dtype]).eval()
    ours, theirs = _rows(staged, staged.module), _rows(staged, reference)
    assert np.nansum(np.abs(ours)) > 0
    assert ours.tobytes() == theirs.tobytes()
    assert (staged.dim, staged.has_unit_vectors) == (64, name == "units")


def test_wordllama_has_the_bits_of_a_static_embedding() -> None:
    """As above, of the table that is installed as a package."""
    staged = stage(BUILT_IN.get("wordllama"), "float32")
    folder = locate(staged.spec).folder
    tokenizer = Tokenizer.from_file(str(folder / WORDLLAMA_TOKENIZER))
    tokenizer.no_truncation()
    table = load_file(folder / WORDLLAMA_WEIGHTS)["embedding.weight"].float()
    reference = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=table)], device="cpu").eval()
    assert isinstance(staged.module, TablePipeline)
    assert _rows(staged, staged.module).tobytes() == _rows(staged, reference).tobytes()


@pytest.mark.parametrize("prompt", [None, "query: "])
def test_a_text_has_the_features_of_sentence_transformers(plain: Path, prompt: str | None) -> None:
    """A prompt that is left out, special tokens, or a row that begins at another token."""
    reference = SentenceTransformer(str(plain), device="cpu")
    ours = stage(resolve(str(plain)), "float32").module.preprocess(TEXTS, prompt=prompt)
    theirs = reference.preprocess(TEXTS, prompt=prompt)
    for name in ("input_ids", "offsets"):
        assert ours[name].dtype is theirs[name].dtype and torch.equal(ours[name], theirs[name])


def _with_layer(folder: Path, first: torch.nn.Module) -> None:
    _saved(folder, first, Dense(64, 8))


def _with_mapping(folder: Path, first: torch.nn.Module) -> None:
    _saved(folder, first)
    table = load_file(_file(folder, TABLE))["embedding.weight"]
    save_file({"embeddings": table, "mapping": torch.arange(len(table)).flip(0).contiguous()}, _file(folder, TABLE))


def _with_length_of_tokens(folder: Path, first: torch.nn.Module) -> None:
    _saved(folder, first, Normalize(module_input_name="token_embeddings"))


def _with_other_weights(folder: Path, first: torch.nn.Module) -> None:
    _saved(folder, first)
    torch.save(load_file(_file(folder, TABLE)), _file(folder, TABLE).with_name("pytorch_model.bin"))
    _file(folder, TABLE).unlink()


def _with_fewer_dimensions(folder: Path, first: torch.nn.Module) -> None:
    SentenceTransformer(modules=[first], device="cpu", truncate_dim=16).save(str(folder), create_model_card=False)


def _with_own_code(folder: Path, first: torch.nn.Module) -> None:
    _saved(folder, first)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([{**modules[0], "type": "own_table.StaticEmbedding"}]))


@pytest.mark.parametrize(
    "make",
    [
        _with_layer,
        _with_mapping,
        _with_length_of_tokens,
        _with_other_weights,
        _with_fewer_dimensions,
        _with_own_code,
    ],
)
def test_a_folder_that_says_more_than_a_table_is_read_by_sentence_transformers(
    plain: Path, tmp_path: Path, make: Callable[[Path, torch.nn.Module], None]
) -> None:
    """A layer, a mapping of tokens or code of the model's own would be left out in silence."""
    make(tmp_path / "model", SentenceTransformer(str(plain), device="cpu")[0])
    assert not can_read_table(tmp_path / "model")
    assert can_read_table(plain)
