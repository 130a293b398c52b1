"""Client libraries that only some exports need."""

from __future__ import annotations

from typing import Any

from soloist.broken_imports import load_optional


def load(module: str, extra: str, package: str) -> Any:
    """Import a client library.

    Raises:
        ConfigError: it is not installed, or cannot be loaded.
    """
    return load_optional(module, what=f"the export to {extra}", package=package, extra=extra)
