"""The config of a run: what it takes, what it becomes, and how it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soloist.config import RunConfig, SourceConfig
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
