"""The built-in table, and how a requested name becomes a spec."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from soloist.errors import ConfigError, UnknownModelError
from soloist.models.catalogue import BUILT_IN, UNSUPPORTED, Catalogue, is_hub_id, resolve
from soloist.models.spec import ModelSpec

NATIVE_DIMS = {
    "jina-code-embeddings-1.5b": 1536,
    "bge-m3": 1024,
    "qwen3-embedding-0.6b": 1024,
    "CodeRankEmbed": 768,
    "all-MiniLM-L6-v2": 384,
    "all-mpnet-base-v2": 768,
    "bge-small-en-v1.5": 384,
    "embeddinggemma-300m": 768,
    "wordllama": 256,
    "bm25": None,
}


def test_the_table_has_each_model_with_its_native_dimension() -> None:
    """Catches a row that is lost, or whose dimension is a Matryoshka cut."""
    assert {spec.name: spec.dim for spec in BUILT_IN.specs} == NATIVE_DIMS


@pytest.mark.parametrize(
    "spec", [spec for spec in BUILT_IN.specs if spec.kind != "lexical"], ids=lambda spec: spec.name
)
def test_every_row_is_consistent(spec: ModelSpec) -> None:
    """Catches a row without a licence, with cuts beyond its dimension, or with code trusted by default."""
    assert spec.licence
    assert spec.non_commercial == ("-nc" in spec.licence)
    assert is_hub_id(spec.source)
    assert not spec.trust_remote_code
    assert spec.dim is not None
    assert list(spec.matryoshka_dims) == sorted(set(spec.matryoshka_dims))
    assert all(1 <= dim <= spec.dim for dim in spec.matryoshka_dims)
    assert not spec.matryoshka_dims or spec.matryoshka_dims[-1] == spec.dim


def test_the_jina_model_is_marked_non_commercial() -> None:
    """Catches a default model whose licence nobody is told of."""
    assert BUILT_IN.get("jina-code-embeddings-1.5b").non_commercial


def test_instruction_prompts_are_exact_to_the_last_character() -> None:
    """Catches a stripped newline or an added space, which changes every vector without an error."""
    assert BUILT_IN.get("jina-code-embeddings-1.5b").document_prompt == "Candidate code snippet:\n"
    assert (BUILT_IN.get("qwen3-embedding-0.6b").query_prompt or "").endswith("answer the query\nQuery:")
    assert (BUILT_IN.get("embeddinggemma-300m").document_prompt or "") == "title: none | text: "


def test_a_later_spec_takes_the_place_of_an_earlier_one_of_its_name() -> None:
    """Catches an override that is appended, so that the first row still answers."""
    changed = dataclasses.replace(BUILT_IN.get("bge-m3"), source="elsewhere/bge-m3")
    catalogue = Catalogue.of((*BUILT_IN.specs, changed))
    assert catalogue.get("bge-m3") == changed
    assert catalogue.names() == BUILT_IN.names()


def test_resolve_takes_a_catalogue_name_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a folder of the working directory that shadows a catalogue name."""
    (tmp_path / "bge-m3").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("bge-m3") is BUILT_IN.get("bge-m3")


def test_resolve_names_a_folder_after_its_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a folder spec that breaks when the working directory changes, or whose name is a whole path."""
    (tmp_path / "weights" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("weights/mine/") == ModelSpec(name="mine", source=str(tmp_path / "weights" / "mine"))


def test_resolve_passes_an_unknown_hub_id_on() -> None:
    """Catches a hub id that is refused because nobody listed it."""
    assert resolve("org/some-model") == ModelSpec(name="org/some-model", source="org/some-model")


def test_resolve_keeps_what_is_known_of_a_full_hub_id() -> None:
    """Catches embeddinggemma running in float16, without prompts, because it was named by its full id."""
    spec = resolve("google/embeddinggemma-300m")
    assert spec.name == "google/embeddinggemma-300m"
    assert spec.overflows_float16
    assert spec.query_prompt == BUILT_IN.get("embeddinggemma-300m").query_prompt


def test_an_unknown_name_is_answered_with_the_nearest_ones() -> None:
    """Catches an error that leaves a typing mistake to be guessed."""
    with pytest.raises(UnknownModelError, match=r"'bge_m3'.*bge-m3.*folder or a hub id"):
        resolve("bge_m3")
    with pytest.raises(UnknownModelError, match="all-MiniLM-L6-v2"):
        resolve("all-minilm-l6-v2")


def test_an_unknown_name_without_a_near_one_is_answered_with_all() -> None:
    """Catches a list that ends in a question mark."""
    with pytest.raises(
        UnknownModelError, match=r"choose one of jina-.*, wordllama, bm25\. A folder or a hub id such as org/name"
    ):
        resolve("zzz")


@pytest.mark.parametrize("name", ["./missing", "/missing", "~/missing", "../missing", "a/b/c"])
def test_a_path_that_is_no_folder_is_said_to_be_none(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a mistyped path that is answered with the names of a catalogue."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UnknownModelError, match=f"^the folder {name} does not exist: give a model's folder"):
        resolve(name)


def test_a_path_to_a_file_is_no_folder(tmp_path: Path) -> None:
    """Catches a file that is said not to exist."""
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(UnknownModelError, match=r"model.safetensors is not a folder"):
        resolve(str(tmp_path / "model.safetensors"))


def test_a_tilde_is_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a path of a config file, which no shell expands, that is said not to exist although it does."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert resolve("~/mine") == ModelSpec(name="mine", source=str(tmp_path / "mine"))


@pytest.mark.parametrize("name", ["", "./missing/folder", "/missing", "a/b/c", "org/", "/name"])
def test_what_is_neither_name_nor_folder_nor_hub_id_is_unknown(name: str) -> None:
    """Catches a missing folder that is sent to the hub as if it were an id."""
    with pytest.raises(UnknownModelError):
        resolve(name)


@pytest.mark.parametrize("name", ["jina-embeddings-v4", "jinaai/jina-embeddings-v4"])
def test_a_model_left_out_on_purpose_is_refused_with_the_reason(name: str) -> None:
    """Catches a model whose own code fetches what the chunks name, loaded because its id looks right."""
    with pytest.raises(ConfigError, match="fetches every text that starts with http"):
        resolve(name)
    assert "jinaai/jina-embeddings-v4" in UNSUPPORTED
