"""The models and the runs that tests of faults begin with."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from support.editing import empty_run
from support.fault_runs import config_in, files_of

from soloist.config import RunConfig
from soloist.engine import run


@pytest.fixture(scope="session")
def static_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models that are quick to load and quicker to run; read them, and copy one before changing it."""
    from support.tiny_models import make_static

    root = tmp_path_factory.mktemp("static_models")
    return {name: make_static(root / name, dim, rows=700) for name, dim in (("one", 16), ("two", 24))}


@pytest.fixture
def own_models(static_models: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Copies of these models that a test may damage."""
    return {name: Path(shutil.copytree(folder, tmp_path / "models" / name)) for name, folder in static_models.items()}


@pytest.fixture
def config(tmp_path: Path, static_models: dict[str, Path]) -> RunConfig:
    """The config of a test, with folders of its own."""
    return config_in(tmp_path, static_models)


@pytest.fixture
def in_passes(config: RunConfig) -> RunConfig:
    """The same run, whose models embed in their passes only, because it reuses a run. That run has no vectors."""
    return dataclasses.replace(config, reuse=(empty_run(config.out.parent / "empty"),))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, static_models: dict[str, Path]) -> Path:
    """The folder of a run that met no fault; copy it before changing it."""
    config = config_in(tmp_path_factory.mktemp("finished"), static_models)
    run(config)
    return config.out


@pytest.fixture(scope="session")
def fresh(finished: Path) -> dict[str, bytes]:
    """Its files."""
    return files_of(finished)


@pytest.fixture
def copied(config: RunConfig, finished: Path) -> RunConfig:
    """A config whose run is finished, in a folder that the test may damage."""
    shutil.copytree(finished, config.out)
    return config
