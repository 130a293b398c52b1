"""What is read of a model without its weights is what loading gives; where they differ, a plan is of another model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.tiny_models import make_static

from soloist.errors import SoloistError
from soloist.memory.prediction import blueprint_of
from soloist.models.catalogue import BUILT_IN, resolve
from soloist.models.fingerprint import known_fingerprint
from soloist.models.loading import stage
from soloist.models.settings import ModelSettings, read_settings
from soloist.models.spec import ModelSpec

NAMES = ("qwen2", "xlm-roberta", "bert", "all-MiniLM-L6-v2", "wordllama")


def spec_of(name: str, tiny_models: dict[str, Path]) -> ModelSpec:
    return resolve(str(tiny_models[name])) if name in tiny_models else BUILT_IN.get(name)


def settings_of(spec: ModelSpec) -> ModelSettings:
    return read_settings(spec, blueprint_of(spec))


def assert_equal_to_loading(spec: ModelSpec, dtype="float32") -> None:
    """All that a plan takes from the settings, beside the same of the loaded model."""
    staged, settings = stage(spec, dtype), settings_of(spec)
    found = (settings.max_tokens, settings.document_prompt, settings.dim)
    assert found == (staged.max_tokens, staged.document_prompt, staged.dim)
    assert known_fingerprint(spec, settings, dtype) == staged.fingerprint


@pytest.fixture
def edited(tiny_models, tmp_path) -> Callable[..., ModelSpec]:
    """A copy of the small BERT with other settings in one of its files; None takes one away."""

    def edit(file: str, **changes: object) -> ModelSpec:
        folder = tmp_path / "edited"
        if not folder.exists():
            shutil.copytree(tiny_models["bert"], folder)
        content = {**json.loads((folder / file).read_text()), **changes}
        (folder / file).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
        return resolve(str(folder))

    return edit


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_settings_are_what_loading_gives(name, dtype, tiny_models):
    """Another limit plans other lengths; another fingerprint never finds what earlier runs measured."""
    assert_equal_to_loading(spec_of(name, tiny_models), dtype)


@pytest.mark.parametrize("limit", [50, 512, 9999])
def test_the_limit_of_the_pipeline(limit, edited):
    """sentence_bert_config.json is where users shorten a model; more than its positions it never has."""
    assert_equal_to_loading(edited("sentence_bert_config.json", max_seq_length=limit))


def test_the_limit_of_the_tokenizer(edited):
    """Without a limit of the pipeline, the tokenizer's own is what cuts the texts."""
    assert_equal_to_loading(edited("tokenizer_config.json", model_max_length=100))


def test_no_limit_but_the_positions(edited):
    """A tokenizer without a limit says 10^30, which is none."""
    assert_equal_to_loading(edited("tokenizer_config.json", model_max_length=int(1e30)))
    assert_equal_to_loading(edited("tokenizer_config.json", model_max_length=None))


@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({"document": "doc: ", "query": "q: "}, "query"),
        ({"passage": "passage: ", "document": ""}, None),
        ({"query": "q: "}, None),
        ({"document": "", "query": "q: "}, "query"),
    ],
)
def test_the_prompt_for_documents(prompts, default, edited):
    """A prompt is in every row: one too many or too few moves all lengths, and the fingerprint."""
    assert_equal_to_loading(edited("config_sentence_transformers.json", prompts=prompts, default_prompt_name=default))


@pytest.mark.parametrize(
    ("prompts", "default"), [({"query": "q: "}, "query"), ({"passage": "passage: "}, None), ({"a": "a: "}, "a")]
)
def test_prompts_that_do_not_name_documents(prompts, default, edited):
    """Loading has `document` as an empty prompt in any case, so that no other name is ever reached."""
    assert_equal_to_loading(edited("config_sentence_transformers.json", prompts=prompts, default_prompt_name=default))


@pytest.mark.parametrize("changes", [{"max_tokens": 100}, {"document_prompt": "x: "}, {"document_prompt": ""}])
def test_the_users_catalogue_decides(changes, tiny_models):
    """What a user sets is what the run takes, so it is what the plan must take."""
    assert_equal_to_loading(replace(spec_of("bert", tiny_models), **changes))


@pytest.mark.parametrize(
    ("name", "changes"), [("bert", {"max_tokens": 600}), ("bert", {"dim": 7}), ("wordllama", {"max_tokens": 100})]
)
def test_what_loading_refuses_is_refused(name, changes, tiny_models):
    """A plan that fits, and a run that ends in its first second, because the catalogue asks for what is not there."""
    spec = replace(spec_of(name, tiny_models), **changes)
    with pytest.raises(SoloistError) as loading:
        stage(spec, "float32")
    with pytest.raises(SoloistError) as planning:
        settings_of(spec)
    assert type(planning.value) is type(loading.value)


@pytest.fixture
def cutting(tmp_path) -> Path:
    """A static model whose tokenizer cuts after 8 tokens."""
    folder = make_static(tmp_path / "cutting", dim=8, rows=1000)
    path = folder / "tokenizer.json"
    truncation = {"max_length": 8, "direction": "Right", "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps({**json.loads(path.read_text()), "truncation": truncation}))
    return folder


@pytest.mark.parametrize("limit", [None, 5])
def test_a_static_models_own_limit(limit, cutting):
    """Most static models read everything; one that cuts must be planned as one that cuts."""
    assert_equal_to_loading(replace(resolve(str(cutting)), max_tokens=limit))


def test_a_static_models_own_limit_is_not_raised(cutting):
    """A catalogue can shorten what a tokenizer cuts, never lengthen it."""
    assert_equal_to_loading(replace(resolve(str(cutting)), max_tokens=50))


def test_settings_without_any_file():
    """On a machine without the model, the catalogue is all there is."""
    settings = settings_of(replace(BUILT_IN.get("bge-m3"), source="soloist-tests/not-on-this-machine"))
    assert settings == ModelSettings(max_tokens=8192, document_prompt="", dim=1024, folder=None, table_rows=250_002)


def test_no_fingerprint_without_weights(tiny_models, tmp_path):
    """A fingerprint over half of a model would stand for the whole one."""
    folder = Path(shutil.copytree(tiny_models["bert"], tmp_path / "bert"))
    (folder / "model.safetensors").unlink()
    spec = resolve(str(folder))
    assert settings_of(spec).folder == folder
    assert known_fingerprint(spec, settings_of(spec), "float32") is None


def test_no_fingerprint_with_a_shard_missing(tiny_models, tmp_path):
    """A download that stopped in the middle: an index, and not all of the files that it names."""
    folder = Path(shutil.copytree(tiny_models["bert"], tmp_path / "bert"))
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"embeddings.word_embeddings.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    spec = resolve(str(folder))
    assert known_fingerprint(spec, settings_of(spec), "float32") is None
