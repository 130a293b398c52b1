"""Models whose files are damaged, vanish or change, also after the run began."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

import pytest
from support.collections import write_catalogue
from support.fault_runs import On, finish, require_sentence, vector_rows

from soloist.config import FusionConfig
from soloist.engine import run
from soloist.engine.resume.changes import changes
from soloist.errors import FusionError, ModelLoadError
from soloist.events import ListSink, ModelStaged, PassStarted


def weights_of(folder):
    return next(folder.rglob("*.safetensors"))


def cut(folder):
    os.truncate(weights_of(folder), weights_of(folder).stat().st_size // 2)


def remove(folder):
    weights_of(folder).unlink()


def change(folder):
    """Other numbers in the same file: it loads, as another model."""
    path = weights_of(folder)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, remove])
def test_a_model_that_does_not_load_fails_before_the_first_pass(config, own_models, tmp_path, damage):
    """The first model would embed for hours before the second one is found to be missing."""
    own = dataclasses.replace(config, catalogue=write_catalogue(tmp_path / "own.toml", own_models))
    damage(own_models["two"])
    with pytest.raises(ModelLoadError) as caught:
        run(own)
    assert require_sentence(caught.value).startswith(f"two cannot be loaded from {own_models['two']}")
    assert not own.out.exists()


def test_a_model_that_does_not_load_in_the_second_pass_keeps_the_first(config, own_models, tmp_path, fresh):
    """With a process for each pass the second model is loaded hours after the start."""
    kept = shutil.copytree(own_models["two"], tmp_path / "kept")
    own = dataclasses.replace(config, catalogue=write_catalogue(tmp_path / "own.toml", own_models), isolation="process")
    with pytest.raises(ModelLoadError) as caught:
        run(own, On(lambda event: isinstance(event, PassStarted), lambda: cut(own_models["two"])))
    assert require_sentence(caught.value).startswith(f"two cannot be loaded from {own_models['two']}: ")
    assert vector_rows(own.out) == {"one": 27, "two": 0}
    shutil.copytree(kept, own_models["two"], dirs_exist_ok=True)
    finish(dataclasses.replace(own, isolation="allocator"), fresh)


def test_a_model_that_changes_between_the_start_and_its_pass_is_refused(config, own_models, tmp_path):
    """The record would say of its vectors that they are of the model that there was at the start."""
    catalogue = write_catalogue(tmp_path / "own.toml", own_models)
    own = dataclasses.replace(config, models=("two",), catalogue=catalogue, isolation="process")
    with pytest.raises(ModelLoadError) as caught:
        run(own, On(lambda event: isinstance(event, ModelStaged), lambda: change(own_models["two"])))
    assert require_sentence(caught.value).startswith("two has changed since the run began: ")
    assert vector_rows(own.out) == {"one": 0, "two": 0}


TOO_WIDE = "dim is 20 but one has only 16 dims: choose a dim of 16 or less, or leave dim out"


def test_a_dim_that_a_model_does_not_have_is_refused_before_anything_is_loaded(config):
    """All models were loaded, for minutes, before the first line of an error that their files had told at once."""
    seen, wide = ListSink(), dataclasses.replace(config, fusion=FusionConfig(dim=20))
    for refused in (run, changes):
        with pytest.raises(FusionError) as caught:
            refused(wide, *([seen] if refused is run else []))
        assert str(caught.value) == TOO_WIDE
    assert seen.events == [] and not config.out.exists()


def test_a_dim_is_refused_after_the_one_model_whose_width_only_its_own_code_knows(config, own_models, tmp_path):
    """The models behind it would be loaded for nothing."""
    make_own(own_models["one"])
    catalogue = write_catalogue(tmp_path / "own.toml", own_models)
    catalogue.write_text(catalogue.read_text().replace("\n[", "\ntrust_remote_code = true\n[", 1))
    seen, fusion = ListSink(), FusionConfig(dim=20)
    with pytest.raises(FusionError) as caught:
        run(dataclasses.replace(config, catalogue=catalogue, fusion=fusion), seen)
    assert str(caught.value) == TOO_WIDE
    assert [event.model for event in seen.events if isinstance(event, ModelStaged)] == ["one"]
    assert not config.out.exists()


def make_own(folder):
    """The same model, by a class of its own, whose width nobody knows before it is loaded."""
    (folder / "own_code.py").write_text(
        "from sentence_transformers.sentence_transformer.modules import StaticEmbedding\n\n\n"
        "class Own(StaticEmbedding):\n    pass\n"
    )
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "own_code.Own"
    (folder / "modules.json").write_text(json.dumps(modules))
