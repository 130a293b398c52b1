"""Wheels with a record and nothing else, for pip to choose from."""

from __future__ import annotations

import zipfile
from pathlib import Path


def make_wheel(folder: Path, name: str, version: str, *needs: str) -> Path:
    """Write the wheel of a package that needs others; its path."""
    folder.mkdir(exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    extras = {each.partition("extra == ")[2].strip('"') for each in needs} - {""}
    lines = [*(f"Requires-Dist: {each}" for each in needs), *(f"Provides-Extra: {extra}" for extra in extras)]
    files = {
        "METADATA": "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines, ""]),
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(f"{stem}.dist-info/{file}", text)
    return path
