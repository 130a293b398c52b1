"""pip's records of packages that are not there, found before those of the real ones."""

from __future__ import annotations

import importlib
from pathlib import Path


class Records:
    """A folder of records. Put on the path first, its packages are taken for installed in these versions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, version: str, *needs: str, source: str | None = None) -> None:
        """Write the record of a package that needs others. With a source, it has a module of its name too."""
        record = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        record.mkdir()
        required = [f"Requires-Dist: {each}" for each in needs]
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *required]
        (record / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if source is not None:
            (record / "top_level.txt").write_text(f"{name}\n", encoding="utf-8")
            (self.folder / name).mkdir()
            (self.folder / name / "__init__.py").write_text(source, encoding="utf-8")
        importlib.invalidate_caches()
