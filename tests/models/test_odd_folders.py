"""Folders that people have and that libraries fail at with an error about something else: one sentence each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from support.tiny_models import SENTENCES, make_static
from tokenizers import Tokenizer

from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward, unit_rows
from soloist.errors import ModelLoadError
from soloist.memory.prediction import blueprint_of
from soloist.models.catalogue import resolve
from soloist.models.loading import stage
from soloist.models.refusals import require_encoder
from soloist.models.settings import read_settings
from soloist.types import Batch

MODULES, PIPELINE, TRANSFORMER = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"


@pytest.fixture
def folder(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A complete model that a test may change."""
    return Path(shutil.copytree(tiny_models["bert"], tmp_path / "model"))


def _edit(file: str, **fields: object) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        (folder / file).write_text(json.dumps({**content, **fields}), encoding="utf-8")

    return edit


def _modules(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        modules = json.loads((folder / MODULES).read_text(encoding="utf-8"))
        change(modules)
        (folder / MODULES).write_text(json.dumps(modules), encoding="utf-8")

    return edit


def _module(at: int, **fields: str) -> Callable[[Path], object]:
    return _modules(lambda modules: modules[at].update(fields))


def _unlimited_but_for(limit: object) -> Callable[[Path], object]:
    """No max_seq_length, and this in the tokenizer's file."""

    def edit(folder: Path) -> None:
        (folder / TRANSFORMER).write_text("{}")
        _edit("tokenizer_config.json", model_max_length=limit)(folder)

    return edit


def _model2vec(folder: Path) -> None:
    (folder / MODULES).unlink()
    _edit("config.json", model_type="model2vec", architectures=["StaticModel"])(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_module(0, type="sentence_transformers.models.BERT"), "before 0.3: write sentence_transformers.models.Transf"),
        (_module(1, type="sentence_transformers.models.Foo"), "install a version that has that module"),
        (_module(1, type="custom_st.Pooling"), "it runs its own code; read that code, and then set trust_remote_code"),
        (_module(1, path=".\\1_Pooling"), r"the folder .\1_Pooling with a backslash: write / instead"),
        (_module(1, path="../model/1_Pooling"), "gives its module 1 a folder outside the model's folder"),
        (_module(2, name="1"), "has the name 1 twice, so one of the two modules would be left out"),
        (_modules(lambda modules: modules[0].pop("name")), "no name: add idx and name to all of its modules"),
        (
            _modules(lambda modules: modules.reverse()),
            "begins with Normalize, which cannot read texts: put the modules",
        ),
        (
            _edit(PIPELINE, prompts=None),
            "has prompts that are not an object of names and texts (null): correct or delete",
        ),
        (
            _edit(PIPELINE, prompts={}, default_prompt_name="gone"),
            "has the default prompt 'gone' but no prompt of that name",
        ),
        (_edit(PIPELINE, truncate_dim="8"), 'sets truncate_dim to "8", which is not a number of dimensions'),
        (_edit(PIPELINE, truncate_dim=0), "sets truncate_dim to 0, which is not a number of dimensions"),
        (_edit(TRANSFORMER, foo=1), "sets foo in"),
        (_unlimited_but_for("512"), "sets model_max_length to '512', which is not a number of tokens: correct it in"),
        (_unlimited_but_for(0), "sets model_max_length to 0, which is not a number of tokens: correct it in"),
        (_model2vec, "a table of model2vec without a modules.json: add a modules.json that lists"),
    ],
)
def test_a_plan_says_of_a_folder_what_its_load_says(folder: Path, change: Callable[[Path], object], said: str) -> None:
    """Catches "attach complete weights" for complete weights, a TypeError of a plan, and a plan that finds no fault."""
    change(folder)
    spec = resolve(str(folder))
    with pytest.raises(ModelLoadError) as loaded:
        stage(spec, "float32")
    with pytest.raises(ModelLoadError) as planned:
        require_encoder(spec, folder)
        read_settings(spec, blueprint_of(spec))
    assert str(loaded.value) == str(planned.value)
    assert said in str(loaded.value)
    assert "\n" not in str(loaded.value)


def test_code_that_was_not_copied_is_named(folder: Path) -> None:
    """Catches "no module named", where the file beside the model's others was left behind."""
    _module(1, type="custom_st.Pooling")(folder)
    trusted = replace(resolve(str(folder)), trust_remote_code=True)
    with pytest.raises(ModelLoadError, match=r"neither custom_st\.py nor a package of that name: copy that"):
        stage(trusted, "float32")


def test_code_of_a_network_that_was_not_copied_is_named(folder: Path) -> None:
    """Catches advice to attach weights for a file of code that is missing beside them."""
    _edit("config.json", auto_map={"AutoModel": "modeling_x.X"})(folder)
    with pytest.raises(
        ModelLoadError, match=r"model: modeling_x\.py, which its config\.json names \(auto_map\), is missing"
    ):
        stage(replace(resolve(str(folder)), trust_remote_code=True), "float32")


def test_a_static_tokenizer_that_cuts_the_beginning_is_followed(tmp_path: Path) -> None:
    """Catches vectors of the wrong end of each long text, for documents and for queries."""
    folder = make_static(tmp_path / "static", rows=600)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(5, direction="left")
    tokenizer.save(str(folder / "tokenizer.json"))
    reference = SentenceTransformer(str(folder), device="cpu")
    staged = stage(resolve(str(folder)), "float32")
    for side, encode in ((staged, reference.encode_document), (staged.for_queries(), reference.encode_query)):
        encoder = Encoder(side)
        tokenized = encoder.tokenize(SENTENCES)
        assert min(tokenized.dropped) > 0
        batch = Batch(rows=tuple(range(len(SENTENCES))), padded_length=5)
        found = unit_rows(forward(side.module, encoder.collate(tokenized, batch), "cpu"))[0]
        assert np.einsum("ij,ij->i", found, unit_rows(encode(list(SENTENCES)))[0]).min() >= 0.99999


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            _edit(TRANSFORMER, model_kwargs={"attn_implementation": "flash_attention_2"}),
            "install flash-attn, or remove",
        ),
        (_edit("config.json", dtype=None, torch_dtype="auto"), "its files do not fit the installed sentence-transform"),
    ],
)
def test_a_fault_that_only_a_load_finds_has_a_way_on_of_its_own(
    folder: Path, change: Callable[[Path], object], said: str
) -> None:
    """Catches advice to attach weights that are there."""
    change(folder)
    with pytest.raises(ModelLoadError, match=said):
        stage(resolve(str(folder)), "float32")


def test_the_folder_of_a_repository_in_the_hub_s_cache_names_its_snapshot(folder: Path, tmp_path: Path) -> None:
    """Catches advice to save a model that lies complete two folders below."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    shutil.copytree(folder, snapshot)
    with pytest.raises(ModelLoadError, match=r"and its folder snapshots/0123 has one: name that folder$"):
        stage(resolve(str(tmp_path / "models--a--b")), "float32")
