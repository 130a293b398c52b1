"""What a user is told where a library cannot be imported: which package, why, and the command that installs it again.

Knows Python's errors and pip's records. Knows no library by name.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from types import TracebackType
from typing import Any

from soloist.errors import ConfigError, InstallationError, SoloistError
from soloist.extras import install_command, reinstall_command
from soloist.requirements import Unmet, installed_version, require_fit, soloist_requirements, unmet

_REASON_CHARACTERS = 300


@contextlib.contextmanager
def importing_libraries() -> Iterator[None]:
    """Within this, a library that is too old, damaged or missing is an error that says what to do.

    Raises:
        InstallationError: there is such a library.
    """
    require_fit()
    try:
        with uncollected():
            yield
    except (SoloistError, MemoryError):
        raise
    except Exception as exc:  # e.g. OSError for a shared library, SyntaxError for a file that was cut short
        raise InstallationError(import_failure_text(exc)) from exc


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Within this, nobody looks for garbage. Imports make none, and looking for it takes a fifth of their time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def load_optional(module: str, *, what: str, package: str, extra: str, otherwise: str = "") -> Any:
    """Import a library of an extra. `what` needs it, and `otherwise` is what else the user can do.

    Raises:
        ConfigError: it is not installed, or cannot be loaded.
    """
    with importing_optional(module, what=what, package=package, extra=extra, otherwise=otherwise):
        return importlib.import_module(module)


@contextlib.contextmanager
def importing_optional(module: str, *, what: str, package: str, extra: str, otherwise: str = "") -> Iterator[None]:
    """Within this, names are imported from a library of an extra; as `load_optional` otherwise."""
    try:
        yield
    except ImportError as exc:
        if isinstance(exc, ModuleNotFoundError) and exc.name in (module, _top(module)):
            raise ConfigError(f"{what} needs {package}: run {install_command(extra)}{otherwise}") from exc
        raise ConfigError(
            f"{what} cannot load {package} ({_reason(exc)}): correct that, or install {package} again with "
            f"pip install --force-reinstall {package}{otherwise}"
        ) from exc


def import_failure_text(exc: BaseException) -> str:
    """What happened and what to do, for an error of a library that was to be imported."""
    root = _root(exc)
    reason = _reason(root)
    if isinstance(root, ModuleNotFoundError) and _top(root.name or "") in sys.stdlib_module_names:
        return f"this Python lacks a module of its own ({reason}): install a complete Python, and soloist in it"
    if misfit := _misfit_text(root, reason):
        return misfit
    packages = _packages(root)
    if not packages:
        return (
            f"soloist cannot be imported ({reason}), because its installation is damaged or incomplete: install it "
            f"again with {reinstall_command()}"
        )
    command = shlex.join(["pip", "install", "--force-reinstall", *map(_requirement, packages)])
    if len(packages) == 1:
        return (
            f"the package {packages[0]} cannot be imported ({reason}), because its installation is damaged or of "
            f"another version than the others need: install it again with {command}"
        )
    return (
        f"the packages {' and '.join(packages)} cannot be imported together ({reason}), because one of them is damaged "
        f"or their versions do not fit: install them again with {command}"
    )


def _misfit_text(exc: BaseException, reason: str) -> str:
    """The needs of a package that another package does not meet, if both had to do with the error; else empty.

    transformers imports torchvision if it is installed. torchvision is built for one version of torch only.
    """
    at_work = list(dict.fromkeys(filter(None, map(_package, reversed(_modules(exc.__traceback__))))))
    for package in at_work:
        misfits = [each for each in unmet(package) if each.package in at_work or each.package in reason]
        if misfits:
            needs = " and ".join(each.needed for each in misfits)
            there = " and ".join(f"{each.package} {each.installed}" for each in misfits)
            return (
                f"the package {package} {installed_version(package)} cannot be imported ({reason}), because it needs "
                f"{needs} and finds {there}: {_fitting(package, misfits)}"
            )
    return ""


def _fitting(package: str, misfits: list[Unmet]) -> str:
    """The command that makes a package fit. It keeps what soloist needs, and may remove a package of somebody else."""
    if package in soloist_requirements():
        return f"run {shlex.join(['pip', 'install', *(each.needed for each in misfits)])}"
    kept = [f"{each.package}=={each.installed.partition('+')[0]}" for each in misfits]
    return (
        f"run pip uninstall {package}, which soloist does not need, or run "
        f"{shlex.join(['pip', 'install', *kept, package])} to install a version that fits"
    )


def _root(exc: BaseException) -> BaseException:
    """What a library's error says is its cause: transformers and numpy hide it behind a sentence of their own."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return exc


def _reason(exc: BaseException) -> str:
    said = " ".join(str(exc).split())[:_REASON_CHARACTERS]
    return said if isinstance(exc, ImportError) and said else f"{type(exc).__name__}: {said}".rstrip(": ")


def _packages(exc: BaseException) -> list[str]:
    """The packages that may be at fault, but for soloist: that of the module that is named, and the one that wants it.

    A missing module that belongs to no known package is not named: somebody else's package may have its name.
    """
    named = _named(exc)
    whole = isinstance(exc, ModuleNotFoundError) and exc.name == named  # and not only a part of it is missing
    missing = _package(named) if whole else None
    found = [missing] if missing else [_package(named), _package(_innermost(exc.__traceback__))]
    return list(dict.fromkeys(package for package in found if package is not None))


def _named(exc: BaseException) -> str | None:
    """The module that an error names, without the rest of its path."""
    if isinstance(exc, ImportError):
        return _top(exc.name) if exc.name else None
    if isinstance(exc, SyntaxError) and exc.filename:
        for folder in sys.path:
            if folder and Path(exc.filename).is_relative_to(folder):
                return Path(exc.filename).relative_to(folder).parts[0].removesuffix(".py")
    return None


def _innermost(traceback: TracebackType | None) -> str | None:
    """The module at work when the error was raised; Python's own modules work for others."""
    return next(iter(_modules(traceback)[-1:]), None)


def _modules(traceback: TracebackType | None) -> list[str]:
    """The modules that called each other, the innermost last, without Python's own."""
    modules = []
    while traceback is not None:
        modules.append(_top(traceback.tb_frame.f_globals.get("__name__") or ""))
        traceback = traceback.tb_next
    return [module for module in modules if module not in sys.stdlib_module_names]


def _package(module: str | None) -> str | None:
    """The name by which pip knows the package of a module; None where it is unknown, Python's own, or soloist."""
    if module is None or module == "soloist" or module in sys.stdlib_module_names:
        return None
    installed = packages_distributions().get(module, ())
    needed = (name for name in soloist_requirements() if _plain(name) == _plain(module))
    return next(iter((*installed, *needed)), None)


def _requirement(package: str) -> str:
    """A package with the versions that soloist takes."""
    return soloist_requirements().get(package, package)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _top(module: str) -> str:
    return module.partition(".")[0]
