"""Client libraries that only some exports need."""

from __future__ import annotations

import importlib
from typing import Any

from soloist.errors import ConfigError


def load(module: str, extra: str, package: str) -> Any:
    """Import a client library.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise ConfigError(f"the export to {extra} needs {package}: pip install 'soloist[{extra}]'") from exc
