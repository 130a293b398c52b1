"""Models whose files are damaged, vanish or change, also after the run began."""

from __future__ import annotations

import dataclasses
import os
import shutil

import pytest
from support.collections import write_catalogue
from support.fault_runs import On, finish, require_sentence, vector_rows

from soloist.engine import run
from soloist.errors import ModelLoadError
from soloist.events import ModelStaged, PassStarted


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
