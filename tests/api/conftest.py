"""A small run by a table of token vectors, as the functions of `soloist` make it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.collections import TABLE_SETTINGS, chunks_below

from soloist.config import RunConfig


@pytest.fixture
def settings(tmp_path) -> dict:
    """The settings of every run here, without its chunks."""
    return {**TABLE_SETTINGS, "out": tmp_path / "run", "lock_dir": tmp_path / "locks"}


@pytest.fixture
def config(tmp_path, settings) -> RunConfig:
    """Some shards of a table of token vectors."""
    return RunConfig(chunks_root=chunks_below(tmp_path), **settings)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A finished run over two collections of several shards, which tests read."""
    import soloist

    root = tmp_path_factory.mktemp("finished")
    soloist.embed(chunks_below(root), out=root / "run", lock_dir=root / "locks", **TABLE_SETTINGS)
    return root / "run"
