"""TOML files, whose faults are a sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from soloist.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path, kind: str) -> dict[str, Any]:
    """The content of a TOML file; `kind` is what an error calls it, e.g. "config file".

    Raises:
        ConfigError: the file is missing, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc  # an OSError's own text has the path once more
        raise ConfigError(f"the {kind} {path} cannot be read ({reason}): correct it, or name another") from exc
