"""A user's TOML file over the built-in table."""

from __future__ import annotations

from pathlib import Path

import pytest

from soloist.errors import ConfigError
from soloist.models.catalogue import BUILT_IN, resolve
from soloist.models.spec import ModelSpec
from soloist.models.user_catalogue import load_catalogue


def _written(folder: Path, text: str) -> Path:
    path = folder / "models.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_no_file_is_the_built_in_table() -> None:
    """Catches a default that needs a file."""
    assert load_catalogue(None) is BUILT_IN


def test_a_new_model_has_what_the_file_says(tmp_path: Path) -> None:
    """Catches a field that is read and then forgotten."""
    path = _written(
        tmp_path,
        """
        [models."mine"]
        source = "org/mine"
        revision = "v2"
        document_prompt = "doc: "
        query_prompt = ""
        max_tokens = 128
        dim = 64
        matryoshka_dims = [64, 32]
        dtype = "bfloat16"
        overflows_float16 = true
        trust_remote_code = true
        licence = "cc-by-nc-4.0"
        """,
    )
    catalogue = load_catalogue(path)
    assert catalogue.get("mine") == ModelSpec(
        name="mine", source="org/mine", revision="v2", document_prompt="doc: ", query_prompt="", max_tokens=128, dim=64,
        matryoshka_dims=(32, 64), dtype="bfloat16", overflows_float16=True, trust_remote_code=True,
        licence="cc-by-nc-4.0", non_commercial=True,
    )  # fmt: skip
    assert set(catalogue.names()) == {*BUILT_IN.names(), "mine"}


def test_fields_override_and_the_others_stay(tmp_path: Path) -> None:
    """Catches an override that resets the row: a new dtype must not lose the prompts or the dimension."""
    path = _written(tmp_path, '[models."embeddinggemma-300m"]\ndtype = "float32"\nmax_tokens = 512\n')
    spec, known = load_catalogue(path).get("embeddinggemma-300m"), BUILT_IN.get("embeddinggemma-300m")
    assert (spec.dtype, spec.max_tokens) == ("float32", 512)
    assert (spec.dim, spec.query_prompt, spec.overflows_float16) == (known.dim, known.query_prompt, True)


def test_another_source_brings_its_own_sizes_and_keeps_the_prompts(tmp_path: Path) -> None:
    """Catches a local stand-in that is refused for not having the original's dimension."""
    (tmp_path / "weights").mkdir()
    path = _written(tmp_path, '[models."jina-code-embeddings-1.5b"]\nsource = "weights"\n')
    spec, known = load_catalogue(path).get("jina-code-embeddings-1.5b"), BUILT_IN.get("jina-code-embeddings-1.5b")
    assert spec.source == str(tmp_path / "weights")
    assert (spec.dim, spec.max_tokens, spec.matryoshka_dims) == (None, None, ())
    assert (spec.document_prompt, spec.query_prompt) == (known.document_prompt, known.query_prompt)
    assert spec.non_commercial


def test_another_source_never_falls_back_to_the_old_package(tmp_path: Path) -> None:
    """Catches a user's weights that are silently replaced by those of an installed package."""
    (tmp_path / "mine").mkdir()
    path = _written(
        tmp_path, '[models.all-MiniLM-L6-v2]\nsource = "mine"\ndim = 384\n[models.wordllama]\nsource = "mine"\n'
    )
    catalogue = load_catalogue(path)
    assert (catalogue.get("all-MiniLM-L6-v2").package, catalogue.get("all-MiniLM-L6-v2").dim) == (None, 384)
    assert (catalogue.get("wordllama").package, catalogue.get("wordllama").loader) == (None, "sentence-transformers")


def test_the_same_source_keeps_everything(tmp_path: Path) -> None:
    """Catches a pinned revision that costs the row its dimension."""
    path = _written(tmp_path, '[models.bge-m3]\nsource = "BAAI/bge-m3"\nrevision = "abc"\n')
    spec = load_catalogue(path).get("bge-m3")
    assert (spec.dim, spec.max_tokens, spec.revision) == (1024, 8192, "abc")


def test_folders_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a catalogue that works only from one working directory."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "weights").mkdir()
    path = _written(tmp_path / "conf", '[models.mine]\nsource = "../weights"\n')
    monkeypatch.chdir(tmp_path)
    assert Path(load_catalogue(path).get("mine").source).samefile(tmp_path / "weights")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models = [", "cannot be read"),
        ("[model.x]\nsource = 'a/b'", "unknown table 'model'"),
        ("models = 3", "sets models to 3"),
        ("[models]\nx = 3", "model 'x': 3 is not a table"),
        ("[models.x]\nsorce = 'a/b'", "model 'x': the field 'sorce' is unknown: use source, revision"),
        ("[models.x]\ndim = 3", "model 'x': soloist has no built-in model of that name: add source"),
        ("[models.x]\nsource = 3", "model 'x': source is 3: give a folder or a hub id"),
        ("[models.x]\nsource = ''", "source is ''"),
        ("[models.bge-m3]\ndim = '1024'", "model 'bge-m3': dim is '1024': give a whole number"),
        ("[models.bge-m3]\ndim = true", "dim is True"),
        ("[models.bge-m3]\nmax_tokens = 0", "max_tokens is 0"),
        ("[models.bge-m3]\nmatryoshka_dims = [64, 'x']", "matryoshka_dims is"),
        ("[models.bge-m3]\nmatryoshka_dims = [2048]", "up to 2048, beyond dim 1024"),
        ("[models.bge-m3]\ndtype = 'fp16'", "dtype is 'fp16': give one of auto, auto-fast, float32"),
        ("[models.bge-m3]\noverflows_float16 = 'yes'", "overflows_float16 is 'yes': give true or false"),
        ("[models.bge-m3]\ntrust_remote_code = 1", "trust_remote_code is 1: give true or false"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_file_and_the_model(tmp_path: Path, text: str, message: str) -> None:
    """Catches a mistake in the file that is ignored, or that ends in a traceback."""
    path = _written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_catalogue(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Catches a misspelt file that leaves the built-in table in force."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read \(No such file or directory\)"):
        load_catalogue(tmp_path / "nowhere.toml")


def test_a_missing_source_is_an_error_of_its_own_model_only(tmp_path: Path) -> None:
    """Catches a folder that is not attached today and stops every command, also those of other models."""
    catalogue = load_catalogue(_written(tmp_path, "[models.gone]\nsource = './nowhere'\n"))
    assert catalogue.get("gone").source == str(tmp_path / "nowhere")
    assert resolve("bge-m3", catalogue) is BUILT_IN.get("bge-m3")
    with pytest.raises(ConfigError, match=r"the model gone has the source .*nowhere, which does not exist: attach"):
        resolve("gone", catalogue)
    (tmp_path / "nowhere").mkdir()
    assert resolve("gone", catalogue).name == "gone"
