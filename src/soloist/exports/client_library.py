"""Client libraries that only some exports need."""

from __future__ import annotations

import importlib
from typing import Any

from soloist.errors import ConfigError
from soloist.extras import install_command


def load(module: str, extra: str, package: str) -> Any:
    """Import a client library.

    Raises:
        ConfigError: it is not installed, or cannot be loaded.
    """
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        if isinstance(exc, ModuleNotFoundError) and exc.name in (module, module.partition(".")[0]):
            raise ConfigError(f"the export to {extra} needs {package}: run {install_command(extra)}") from exc
        reason = " ".join(str(exc).split())[:300]
        raise ConfigError(
            f"the export to {extra} cannot load {package} ({reason}): correct that, or install {package} again with "
            f"pip install --force-reinstall {package}"
        ) from exc
