"""An error of a library that cannot be imported says which package to install again."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from soloist.broken_imports import import_failure_text
from soloist.extras import reinstall_command

AGAIN = "install it again with pip install --force-reinstall"
DAMAGED = "because its installation is damaged or of another version than the others need"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Installs packages: modules with these sources, and pip's records of them under other names."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(**sources: str) -> Path:
        for module, source in sources.items():
            (tmp_path / module).mkdir()
            (tmp_path / module / "__init__.py").write_text(source)
            record = tmp_path / f"{module}_dist-1.0.dist-info"
            record.mkdir()
            (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}-dist\nVersion: 1.0\n")
            (record / "top_level.txt").write_text(f"{module}\n")
            monkeypatch.delitem(sys.modules, module, raising=False)
        importlib.invalidate_caches()
        return tmp_path

    return install


def failure_of(module: str) -> str:
    """What is said where this module is imported."""
    with pytest.raises(Exception) as raised:
        importlib.import_module(module)
    sys.modules.pop(module, None)
    return import_failure_text(raised.value)


HIDDEN = "try:\n import gone\nexcept ImportError as exc:\n raise ImportError('PLEASE READ THIS') from exc"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('libown.so: cannot open\\n  object file')", "libown.so: cannot open object file"),
        ("import ctypes; ctypes.CDLL('libgone.so')", "OSError: libgone.so: "),
        ("def broken(:", "SyntaxError: invalid syntax (__init__.py, line 1)"),
        ("import a_part_of_it_that_is_gone", "No module named 'a_part_of_it_that_is_gone'"),
        (HIDDEN, "No module named 'gone'"),
        ("from typing import NotYetThere", "cannot import name 'NotYetThere' from 'typing'"),
    ],
    ids=["own error", "shared library", "cut short", "part is gone", "cause", "other Python"],
)
def test_a_damaged_package_is_named(packages, source, reason):
    """`unexpected ImportError` named a module that pip does not know, or none."""
    packages(damaged=source)
    said = failure_of("damaged")
    assert said.startswith(f"the package damaged-dist cannot be imported ({reason}"), said
    assert said.endswith(f", {DAMAGED}: {AGAIN} damaged-dist"), said


def test_two_packages_that_do_not_fit_are_both_named(packages):
    """Which of the two is too old is not known: installing only one again may change nothing."""
    packages(older="", newer="from older import added_later")
    said = failure_of("newer")
    assert said.startswith("the packages older-dist and newer-dist cannot be imported together (cannot import name ")
    assert said.endswith("install them again with pip install --force-reinstall older-dist newer-dist")


def test_a_missing_module_of_soloist_itself():
    """A soloist that was copied in part sent the reader to a package of that module's name."""
    assert failure_of("soloist.gone") == (
        "soloist cannot be imported (No module named 'soloist.gone'), because its installation is damaged or "
        f"incomplete: install it again with {reinstall_command()}"
    )


def test_a_module_that_this_python_lacks():
    """A Python that was built without zlib or sqlite has no package to install."""
    said = import_failure_text(ModuleNotFoundError("No module named '_bz2'", name="_bz2"))
    assert said == (
        "this Python lacks a module of its own (No module named '_bz2'): install a complete Python, and soloist in it"
    )


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("raise OSError('libarrow.so: gone')", "OSError: libarrow.so: gone"),
        (None, "import of pyarrow halted; None in sys.modules"),
    ],
    ids=["broken", "missing"],
)
def test_a_command_says_it_in_one_line(tmp_path, broken, reason):
    """`unexpected OSError: libarrow.so` has no remedy; a plain `pip install` may get a version that was never run."""
    code = "import sys; from soloist.cli import main; main()"
    if broken is None:
        code = f"import sys; sys.modules['pyarrow'] = None; {code}"
    else:
        (tmp_path / "pyarrow").mkdir()
        (tmp_path / "pyarrow" / "__init__.py").write_text(broken)
    done = subprocess.run(
        [sys.executable, "-c", code, "verify", "run"],
        capture_output=True, text=True, cwd=tmp_path, timeout=300, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"soloist: error: the package pyarrow cannot be imported ({reason}), {DAMAGED}: {AGAIN} 'pyarrow>=23.0.1'\n"
    )
