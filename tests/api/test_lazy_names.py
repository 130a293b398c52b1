"""The names of `soloist` are loaded when they are first used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import soloist


@pytest.mark.process
def test_an_unfit_installation_is_caught_by_the_error_of_soloist(tmp_path: Path) -> None:
    """The name in the `except` would raise the same error again, past everybody who catches it."""
    record = tmp_path / "torch-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.0\n")
    code = "import soloist\ntry:\n soloist.embed\nexcept soloist.SoloistError as exc:\n print(type(exc).__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("InstallationError\n", "")


def test_a_name_is_looked_for_once() -> None:
    """A million `soloist.Chunk` would look for their module a million times."""
    for name in soloist.__all__:
        assert getattr(soloist, name) is vars(soloist)[name]


def test_what_is_beside_the_names() -> None:
    """`except soloist.errors.ConfigError` would need an import of its own, and a wrong name could be anything."""
    assert issubclass(soloist.errors.ConfigError, soloist.SoloistError)
    assert not hasattr(soloist, "embedd")
    assert {*soloist.__all__} <= {*dir(soloist)}
