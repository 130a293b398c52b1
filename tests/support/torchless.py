"""Modules of `soloist.devices` that know files only, without the import of torch by the package around them.

A process that imports this before them starts in a tenth of a second, and not in several.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import soloist

assert "soloist.devices" not in sys.modules, "imported too late"
_package = types.ModuleType("soloist.devices")
_package.__path__ = [str(Path(soloist.__file__).parent / "devices")]
sys.modules["soloist.devices"] = _package
