"""The command that installs an extra works for the reader's installation, as pip really recorded it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from soloist.extras import install_command

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "soloist"
version = "0"
"""
# What a build backend has to do at the least, so that pip needs neither a network nor setuptools.
BACKEND = """
import zipfile

def build_wheel(folder, settings=None, metadata=None):
    name = "soloist-0-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr("soloist-0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: soloist\\nVersion: 0\\n")
        wheel.writestr("soloist-0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("soloist-0.dist-info/RECORD", "")
    return name

build_editable = build_wheel
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of soloist's name, in a folder whose name is percent-encoded in a URL."""
    folder = tmp_path_factory.mktemp("check") / "so lo"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "backend.py").write_text(BACKEND)
    return folder


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have pip install soloist, and have its metadata found before those of the soloist that is tested."""

    def run(*what: str) -> None:
        place = tmp_path / "site"
        options = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--target", str(place))
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *what], check=True, timeout=300)
        monkeypatch.syspath_prepend(place)
        importlib.invalidate_caches()

    return run


def test_in_a_checkout(checkout, install):
    """`pip install soloist[eval]` was said to somebody with a checkout: an index may have another soloist, or none."""
    install("-e", str(checkout))
    assert install_command("eval") == f"pip install -e '.[eval]' in {checkout}"


def test_from_a_folder_that_is_not_linked(checkout, install):
    """With -e, what was a copy would become a link to the folder."""
    install(str(checkout))
    assert install_command("eval") == f"pip install '.[eval]' in {checkout}"


def test_from_a_package(checkout, install):
    """A package has no folder to install from."""
    sys.path.insert(0, str(checkout))
    wheel = importlib.import_module("backend").build_wheel(str(checkout.parent))
    sys.path.remove(str(checkout))
    install("--find-links", str(checkout.parent), "soloist")
    assert install_command("eval") == "pip install 'soloist[eval]'"
    install("--upgrade", str(checkout.parent / wheel))
    assert install_command("eval") == "pip install 'soloist[eval]'"


def test_from_a_folder_that_is_gone(checkout, install, tmp_path):
    """The command named a folder that a user had removed after the installation."""
    moved = checkout.rename(tmp_path / "moved")
    install(str(moved))
    moved.rename(checkout)
    assert install_command("peft") == "pip install 'soloist[peft]'"
