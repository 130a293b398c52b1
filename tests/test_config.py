"""The config of a run: what it takes, what it becomes, and how it is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from soloist.config import FusionConfig, RunConfig, SourceConfig
from soloist.errors import ConfigError


def made(**changes: Any) -> RunConfig:
    """A config with changes."""
    return RunConfig(**{"chunks_root": Path("chunks"), "out": Path("run"), **changes})


def test_strings_are_taken_for_paths() -> None:
    """Catches an AttributeError of a str, long after the config that holds it was made."""
    config = made(chunks_root="chunks", out="run", catalogue="models.toml", lock_dir="locks")
    assert config == made(catalogue=Path("models.toml"), lock_dir=Path("locks"))
    assert isinstance(config.out, Path)


def test_lists_become_tuples() -> None:
    """Catches a frozen config that changes with the caller's own list."""
    models = ["wordllama"]
    config = made(models=models, collections=["notes"])
    models.append("bge-m3")
    assert (config.models, config.collections) == (("wordllama",), ("notes",))


@pytest.mark.parametrize("name", ["models", "collections"])
@pytest.mark.parametrize("value", ["wordllama", [Path("wordllama")], 3])
def test_what_is_no_list_of_strings_is_refused(name: str, value: Any) -> None:
    """Catches a string that is taken for the list of its letters."""
    meant = r", such as \['wordllama'\]" if value == "wordllama" else ""
    with pytest.raises(ConfigError, match=rf"^{name} is .*: give a list of strings{meant}$"):
        made(**{name: value})
    with pytest.raises(ConfigError, match=rf"^run.toml sets {name} to .*: give a list of strings{meant}$"):
        RunConfig.from_mapping({"chunks_root": "chunks", "out": "run", name: value}, origin="run.toml")


def test_file_patterns_are_no_string_either() -> None:
    """Catches `*.json` taken for six patterns, of which the first one matches every file."""
    with pytest.raises(ConfigError, match=r"file_patterns is '\*.json': give a list of strings"):
        SourceConfig(file_patterns="*.json")  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("out", ""), ("lock_dir", ""), ("out", 3), ("chunks_root", None)])
def test_what_is_no_path_is_refused(name: str, value: Any) -> None:
    """Catches a script's empty variable that is taken for the working directory."""
    with pytest.raises(ConfigError, match=f"^{name} is {value!r}: give a path$"):
        made(**{name: value})


def test_the_vector_dtype_is_a_setting_like_any_other(tmp_path: Path) -> None:
    """Catches a run of a config file that is stored in float32 all the same, and a worker that is told another."""
    file = tmp_path / "run.toml"
    file.write_text('chunks_root = "chunks"\nout = "run"\nvector_dtype = "float16"\n')
    config = RunConfig.from_toml(file)
    assert (config.vector_dtype, made().vector_dtype) == ("float16", "float32")
    assert RunConfig.from_toml(file, vector_dtype="float32").vector_dtype == "float32"
    assert RunConfig.from_dict(config.to_dict()) == config
    assert config.fingerprint() != RunConfig.from_toml(file, vector_dtype="float32").fingerprint()
    earlier = {key: value for key, value in made().to_dict().items() if key != "vector_dtype"}
    assert RunConfig.from_dict(earlier) == made()


def test_a_vector_dtype_that_no_file_has_is_refused() -> None:
    """Catches bfloat16, which models compute in and Parquet does not know, after the first shard was computed."""
    with pytest.raises(ConfigError, match=r"^vector_dtype is 'bfloat16': choose one of float32, float16$"):
        made(vector_dtype="bfloat16")


def test_a_file_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    """Catches `[Errno 2]`, and a path that stands twice in the sentence."""
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_toml(tmp_path / "run.toml")
    reason = "(No such file or directory): correct it, or name another"
    assert str(caught.value) == f"the config file {tmp_path / 'run.toml'} cannot be read {reason}"


def test_a_fusion_may_be_its_method() -> None:
    """Catches a method that is accepted, and fails where the fusion is planned, after all models are loaded."""
    assert made(fusion="none").fusion == FusionConfig(method="none")
    assert made(fusion=None).fusion == FusionConfig()
    with pytest.raises(ConfigError, match=r"^fusion is 'sum': choose one of concat, mean"):
        made(fusion="sum")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fusion": 3}, "fusion is 3: give a method such as 'mean', or a soloist.FusionConfig"),
        ({"source": "text"}, "source is 'text': give a soloist.SourceConfig"),
        ({"lease_timeout_seconds": "5"}, "lease_timeout_seconds is '5': give a number"),
        ({"token_budget": "500"}, "token_budget is '500': give a whole number"),
        ({"token_budget": True}, "token_budget is True: give a whole number"),
        ({"shard_chunks": 2.5}, "shard_chunks is 2.5: give a whole number"),
        ({"accelerator": 3}, "accelerator is 3: give a string"),
        ({"catalogue": 3}, "catalogue is 3: give a path"),
        ({"mode": ["exclusive"]}, r"mode is \['exclusive'\]: choose one of exclusive, standard"),
        ({"reuse": [3]}, "reuse is 3: give a path"),
        ({"stop_after": -1}, "stop_after is -1: give seconds, or a duration such as 8h30m"),
    ],
)
def test_a_value_of_another_kind_is_refused_at_once(changes: dict[str, Any], said: str) -> None:
    """Catches a TypeError of the engine, or a wrong value that shows after the first pass."""
    with pytest.raises(ConfigError, match=f"^{said}$"):
        made(**changes)


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        (FusionConfig, {"weights": ["a"]}, r"weights is \['a'\]: give a number for each model"),
        (FusionConfig, {"weights": {"a": "x"}}, "weights is {'a': 'x'}: give a number as the weight of a"),
        (FusionConfig, {"dim": 1.5}, "dim is 1.5: give a whole number"),
        (SourceConfig, {"text_field": 3}, "text_field is 3: give a string"),
        (SourceConfig, {"id_field": ""}, "id_field is empty: name the field that holds the id"),
    ],
)
def test_so_is_one_of_a_fusion_or_a_source(kind: Any, changes: dict[str, Any], said: str) -> None:
    """Catches the same within the two configs that a run's config holds."""
    with pytest.raises(ConfigError, match=f"^{said}$"):
        kind(**changes)


def test_what_nobody_named_is_told_from_what_somebody_did() -> None:
    """Catches a default that is taken for a wish, and a wish for the default's value that is taken for none."""
    kept = {"models", "collections", "fusion", "weights", "dim", "dtype", "vector_dtype", "packing", "shard_chunks"}
    assert not kept & made().named().keys()
    config = dataclasses.replace(made(vector_dtype="float32", fusion=FusionConfig(weights={})), out=Path("other"))
    assert kept & config.named().keys() == {"vector_dtype", "weights"}
    assert kept & made(vector_dtype=None, models=None).named().keys() == set()
    assert kept & RunConfig.from_mapping({"chunks_root": "a", "out": "b", "dim": 3}, origin="x").named().keys() == {
        "dim"
    }
