"""Build a folder of the wheels that an image lacks, so that soloist can be installed there without a network.

Run as `python -m tools.wheels IMAGE OUT`; `tools/imitation.py` says what an image is. pip's own resolver decides what
is lacking: it says what it would install beside the image's packages. Packages that the image lacks come in the
versions of constraints.txt, which the tests run with. Small packages are always there, as spares, because an image may
differ from its list. If the image has a version that fits, pip does not install the spare.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tools.imitation import Image, ImageError, canonical, imitate, pinned, read_image

ROOT = Path(__file__).parents[1]
LIST = "wheels.json"
# Five MB with all that they need.
SPARE = ("filelock", "packaging", "platformdirs", "psutil", "rich", "typer")
_SOURCE = ("pyproject.toml", "README.md", "LICENSE")
_MB = 1_000_000
# The wheels of torch 2.10 need glibc 2.28, so each image has it or a newer one.
_GLIBC_MINOR = 28
_SHOWN_LINES = 15


def build(
    image: Image, out: Path, *, python: str, extras: Sequence[str] = (), spare: Sequence[str] = SPARE,
    wheel: Path | None = None,
) -> Any:  # fmt: skip
    """Fill the folder `out` with the wheels that an image lacks and with `wheels.json`. Returns what that file says.

    `spare` are packages that come along with all that they need, though the image has them. `wheel` is a wheel of
    soloist; without it, this checkout is built. An older folder of that name is replaced.

    Raises:
        ImageError: pip finds no solution, or `out` has other files than an earlier folder of wheels.
    """
    _require_ours(out)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        made = work / "wheels"
        made.mkdir()
        if wheel is None:
            _pip("wheel", "--no-deps", "--wheel-dir", made, copy_source(ROOT, work / "source"))
        else:
            shutil.copy(wheel, made)
        own = next(made.iterdir())
        interpreter = imitate(image, work / "image", python)
        asked = f"soloist{'[' + ','.join(extras) + ']' if extras else ''} @ {own.as_uri()}"
        bare = imitate(replace(image, packages={}), work / "bare", python)
        spares, lacking = _lacking(bare, spare, work) if spare else {}, _lacking(interpreter, (asked,), work)
        _download(interpreter, {**spares, **lacking}, made)
        said = _said(image, extras, made, spares.keys() - lacking.keys())
        (made / LIST).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, out)
    return said


def _require_ours(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()) and not (out / LIST).is_file():
        raise ImageError(f"{out} has files, but no {LIST}: give a new folder, because this one would be replaced")


def copy_source(root: Path, folder: Path) -> Path:
    """Copy what soloist's wheel is built from into a new folder; the folder.

    setuptools leaves what it built in `build/lib`, and puts all that is there into the next wheel: deleted modules too.
    """
    shutil.copytree(root / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in _SOURCE:
        shutil.copy(root / name, folder)
    return folder


def _lacking(interpreter: Path, asked: Sequence[str], work: Path) -> dict[str, str]:
    """The packages that pip would install, by name, without soloist.

    Packages that the image keeps must not be pinned, and only pip's answer says which these are. So this asks pip
    again, with pins for all packages that pip named, until pip names no new one.
    """
    pins = pinned(ROOT / "constraints.txt")
    names: set[str] = set()
    while True:
        constraints = work / "constraints.txt"
        constraints.write_text("".join(f"{name}=={pins[name]}\n" for name in names if name in pins), encoding="utf-8")
        answer = _pip(
            "--python", interpreter, "install", "--dry-run", "--report", "-", "--only-binary", ":all:",
            "--constraint", constraints, *asked,
        )  # fmt: skip
        found = {
            canonical(row["metadata"]["name"]): row["metadata"]["version"] for row in json.loads(answer)["install"]
        }
        found.pop("soloist", None)
        if found.keys() <= names:
            return found
        names |= found.keys()


def _download(interpreter: Path, packages: Mapping[str, str], folder: Path) -> None:
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(_GLIBC_MINOR, 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
    _pip(
        "--python", interpreter, "download", "--no-deps", "--only-binary", ":all:", "--dest", folder,
        *(option for platform in platforms for option in ("--platform", platform)),
        *(f"{name}=={version}" for name, version in packages.items()),
    )  # fmt: skip


def _pip(*arguments: str | Path) -> str:
    """What pip prints.

    Raises:
        ImageError: pip fails. The message has its last lines.
    """
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-_SHOWN_LINES:])
        raise ImageError(f"pip could not find or build the wheels:\n{said}")
    return done.stdout


def _said(image: Image, extras: Sequence[str], folder: Path, spares: Collection[str]) -> dict[str, Any]:
    files = sorted(folder.glob("*.whl"), key=lambda file: file.name.lower())
    wheels = [_row(image, wheel, spares) for wheel in files]
    return {
        "image": image.name,
        "python": image.python,
        "extras": list(extras),
        "bytes": sum(row["bytes"] for row in wheels),
        "wheels": wheels,
    }


def _row(image: Image, wheel: Path, spares: Collection[str]) -> dict[str, Any]:
    name, version, *_ = wheel.name.split("-")
    package = canonical(name)
    return {
        "package": package,
        "version": version,
        "instead_of": None if package in spares else image.packages.get(package),
        "spare": package in spares,
        "file": wheel.name,
        "bytes": wheel.stat().st_size,
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
    }


def _print(said: Mapping[str, Any], out: Path) -> None:
    for row in said["wheels"]:
        instead = f", instead of {row['instead_of']}" if row["instead_of"] else ""
        spare = ", a spare" if row["spare"] else ""
        print(f"{row['bytes'] / _MB:7.2f} MB  {row['package']} {row['version']}{instead}{spare}")
    print(f"{said['bytes'] / _MB:7.2f} MB  in {out}, for Python {said['python']}")
    wanted = f"soloist[{','.join(said['extras'])}]" if said["extras"] else "soloist"
    print(f"there: pip install --no-index --find-links FOLDER '{wanted}'")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the folder that the command line asks for; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("image", help="a name in tools/images, or the path of such a list")
    parser.add_argument("out", nargs="?", type=Path, help="the folder; build/wheels-IMAGE unless given")
    parser.add_argument("--extras", default="", help="extras of soloist, separated by commas")
    parser.add_argument("--python", help="the image's Python; python3.N on the path unless given")
    options = parser.parse_args(arguments)
    try:
        image = read_image(options.image)
        out = options.out or ROOT / "build" / f"wheels-{image.name}"
        extras = [extra for extra in options.extras.split(",") if extra]
        said = build(image, out, python=options.python or f"python{image.python}", extras=extras)
    except ImageError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    _print(said, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
