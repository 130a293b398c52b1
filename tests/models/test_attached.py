"""Models that are attached to a machine: found, named and written down."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from soloist.models.attached import find_models, write_catalogue
from soloist.models.catalogue import BUILT_IN, resolve
from soloist.models.user_catalogue import load_catalogue

COMMIT = "5617a9f61b028005a4858fdac845db406aefb181"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("bge-m3", "bge-m3"),
        ("datasets/someone/baai-bge-m3/model", "bge-m3"),
        ("datasets/someone/embedding-models/bge_m3", "bge-m3"),
        ("models/qwen-lm/qwen-3-embedding/transformers/0.6b/1", "qwen3-embedding-0.6b"),
        ("models/jinaai/jina-code-embeddings-1-5b/transformers/default/2", "jina-code-embeddings-1.5b"),
        ("models/someone/minilm/transformers/default/1/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        (f"hub/models--BAAI--bge-m3/snapshots/{COMMIT}", "bge-m3"),
        (f"hub/models--intfloat--e5-small/snapshots/{COMMIT}", "e5-small"),
        ("datasets/someone/bge-m3-unsupervised", "bge-m3-unsupervised"),
        ("datasets/someone/bge-m3/tuned-on-laws", "tuned-on-laws"),
        ("datasets/someone/my-tuned-bge-m3", "my-tuned-bge-m3"),
        ("hub/models--someone--tuned-bge-m3", "tuned-bge-m3"),
        ("BAAI_bge-m3", "bge-m3"),
    ],
)
def test_a_path_names_a_model(path: str, name: str, tmp_path: Path) -> None:
    """A model under another name has no prompts of the catalogue; other weights under its name have wrong ones."""
    folder = tmp_path / path
    folder.mkdir(parents=True)
    (folder / "modules.json").write_text("[]")
    assert [(model.name, model.folder) for model in find_models(tmp_path)] == [(name, folder)]


def test_a_root_that_is_a_model_has_the_name_of_its_folder(tmp_path: Path) -> None:
    """Whoever names the model's own folder would get a model without a name."""
    folder = tmp_path / "bge-m3"
    folder.mkdir()
    (folder / "modules.json").write_text("[]")
    assert [model.name for model in find_models(folder)] == ["bge-m3"]


def test_a_root_that_is_missing_has_no_models(tmp_path: Path) -> None:
    """A laptop has no /kaggle/input."""
    assert find_models(tmp_path / "missing") == ()


def test_models_are_found_and_the_catalogue_that_is_written_has_them(
    tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    """A model that is found under a wrong name has no use. Nor has a module that counts as a model."""
    root = tmp_path / "input"
    jina = root / "models/jinaai/jina-code-embeddings-1-5b/transformers/default/1"
    shutil.copytree(tiny_models["xlm-roberta"], root / "bge-m3")
    shutil.copytree(tiny_models["qwen2"], jina)
    shutil.copytree(tiny_models["bert"], root / "datasets/someone/tiny bert")
    found = find_models(root)
    assert [model.name for model in found] == ["jina-code-embeddings-1.5b", "bge-m3", "tiny bert"]
    assert [model.complaint for model in found] == [None] * 3
    catalogue = load_catalogue(write_catalogue(found, tmp_path / "working/models.toml"))
    assert resolve("jina-code-embeddings-1.5b", catalogue).source == str(jina)
    assert resolve("bge-m3", catalogue).query_prompt == BUILT_IN.get("bge-m3").query_prompt
    assert resolve("tiny bert", catalogue).source == str(root / "datasets/someone/tiny bert")


def test_a_model_that_cannot_be_used_says_why_and_is_not_written(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    """A copy without its weights would be chosen, and fail only after the chunks were read."""
    broken = tmp_path / "a/bge-m3"
    shutil.copytree(tiny_models["xlm-roberta"], broken)
    for file in broken.glob("*.safetensors"):
        file.unlink()
    (only,) = find_models(tmp_path)
    assert (
        only.complaint is not None
        and "bge-m3 cannot be loaded" in only.complaint
        and ": model.safetensors is missing" in only.complaint
    )
    assert write_catalogue([only], tmp_path / "models.toml").read_text() == ""
    assert load_catalogue(tmp_path / "models.toml").specs == BUILT_IN.specs


def test_of_two_folders_of_one_model_the_usable_one_counts(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    """TOML does not allow two tables of one name. And a broken copy must not hide a complete one."""
    broken, first, second = (tmp_path / name / "bge-m3" for name in "abc")
    broken.mkdir(parents=True)
    (broken / "modules.json").write_text("[]")
    shutil.copytree(tiny_models["xlm-roberta"], first)
    shutil.copytree(tiny_models["xlm-roberta"], second)
    found = find_models(tmp_path)
    assert [model.folder for model in found] == [first, second, broken]
    assert found[0].complaint is None
    assert found[1].complaint is not None and "exists twice" in found[1].complaint
    assert load_catalogue(write_catalogue(found, tmp_path / "models.toml")).get("bge-m3").source == str(first)


def test_a_link_to_a_folder_above_ends_the_search(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    """A search that follows such a link does not end, or finds each model many times."""
    shutil.copytree(tiny_models["bert"], tmp_path / "models/tiny")
    (tmp_path / "models/again").symlink_to(tmp_path, target_is_directory=True)
    assert [model.name for model in find_models(tmp_path)] == ["tiny"]
