"""The versions that a run was made with: of Python, and of the packages that decide vectors or files."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    "soloist", "torch", "sentence-transformers", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow",
)  # fmt: skip


def versions() -> dict[str, str]:
    """The version of each by its name. A package without a record of its installation is left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # e.g. a soloist that is imported from a folder
            continue
    return found
