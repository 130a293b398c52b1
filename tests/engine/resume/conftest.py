"""Chunks that can be edited, the models that embed them, and the command that does it, killed or not."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import Commands
from support.tiny_models import make_static


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the person who runs the tests must not decide them."""
    for name in ("SOLOIST_ACCELERATOR", "SOLOIST_CATALOGUE", "SOLOIST_LOCK_DIR", "SOLOIST_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """The command without its imports."""
    return Commands(tmp_path_factory.mktemp("commands"))


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Path:
    """A user catalogue of two tiny models: `static`, a table of token vectors, and `bert`, a transformer."""
    folder = tmp_path_factory.mktemp("catalogue")
    make_static(folder / "static", dim=32, rows=2000)
    path = folder / "catalogue.toml"
    path.write_text(f'[models.static]\nsource = "static"\n[models.bert]\nsource = "{tiny_models["bert"]}"\n')
    return path
