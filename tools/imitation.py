"""Imitates an image: an empty environment with the records that pip has there. Knows nothing of soloist.

An image is a text file: the output of `pip list --format freeze` in the image, under the line `# python: 3.12`.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

IMAGES = Path(__file__).with_name("images")
_PYTHON = re.compile(r"# python: (3\.\d+)")
_PACKAGE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)")


class ImageError(Exception):
    """An image cannot be read or imitated. The message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What an image has: the minor version of its Python, and the versions of packages by canonical name."""

    name: str
    python: str
    packages: Mapping[str, str]


def read_image(target: str) -> Image:
    """An image by the name of a file in `tools/images`, or by the path of another such file.

    Raises:
        ImageError: there is no such file, or a line of it is neither a comment nor a version.
    """
    path = IMAGES / f"{target}.txt" if (IMAGES / f"{target}.txt").is_file() else Path(target)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in IMAGES.glob("*.txt")))
        raise ImageError(f"{target} is neither an image nor a file: give one of {known}, or the path of a list")
    lines = path.read_text(encoding="utf-8").splitlines()
    python = next((found[1] for line in lines if (found := _PYTHON.fullmatch(line.strip()))), None)
    if python is None:
        raise ImageError(f"{path} does not say which Python the image has: add a line like '# python: 3.12'")
    return Image(name=path.stem, python=python, packages=pinned(path))


def pinned(path: Path) -> dict[str, str]:
    """The versions in a file with a line `name==version` for each package, by canonical name.

    Raises:
        ImageError: a line is something else.
    """
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.partition("#")[0].strip()
        match = _PACKAGE.fullmatch(text)
        if match:
            found[canonical(match[1])] = match[2]
        elif text:
            raise ImageError(f"line {number} of {path} is not like 'name==1.0': write it so, or remove it")
    return found


def canonical(name: str) -> str:
    """The name of a package as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def imitate(image: Image, folder: Path, python: str) -> Path:
    """Make an environment in `folder` with the records of the image's packages, without files. Returns its interpreter.

    pip looks only at records, both when it resolves and when it replaces a package.

    Raises:
        ImageError: `python` is not the image's Python.
    """
    asked = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        there = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as exc:
        raise ImageError(f"the image {image.name} has Python {image.python}, and {python} cannot be run: name one "
                         f"with PYTHON_WHEELS=/path/to/python{image.python}") from exc  # fmt: skip
    if there != image.python:
        raise ImageError(f"the image {image.name} has Python {image.python}, but {python} is {there}: name another "
                         f"with PYTHON_WHEELS=/path/to/python{image.python}")  # fmt: skip
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = folder / "lib" / f"python{image.python}" / "site-packages"
    for name, version in image.packages.items():
        _record(site, name, version)
    return folder / "bin" / "python"


def _record(site: Path, name: str, version: str) -> None:
    record = site / f"{name.replace('-', '_')}-{version}.dist-info"
    record.mkdir()
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "INSTALLER": "pip\n",
        "RECORD": "".join(f"{record.name}/{file},,\n" for file in ("METADATA", "INSTALLER", "RECORD")),
    }
    for file, text in files.items():
        (record / file).write_text(text, encoding="utf-8")
