"""The folder of wheels for an image: what pip would install there, no more and no less. No index is asked."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from support.tiny_wheels import make_wheel

from tools.imitation import IMAGES, Image, ImageError, imitate, read_image
from tools.wheels import ROOT, build, copy_source, main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYTHON = ".".join(map(str, sys.version_info[:2]))
IMAGE = Image(name="tiny", python=PYTHON, packages={"torch": "2.10.0+cu128", "kept": "1.5", "too-old": "1"})
# constraints.txt has this version of tqdm.
OFFERED = {
    "torch": ("2.14.0",), "kept": ("1.9",), "too-old": ("1", "2", "3"), "leaf": ("1.0",), "tqdm": ("4.70.1", "99.0"),
}  # fmt: skip


@pytest.fixture(scope="module")
def offered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wheels, which is all that pip may choose from."""
    folder = tmp_path_factory.mktemp("offered")
    for name, versions in OFFERED.items():
        for version in versions:
            make_wheel(folder, name, version)
    make_wheel(folder, "new-one", "1.0", "leaf>=1")
    return folder


@pytest.fixture(scope="module")
def soloist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of soloist that needs some of them."""
    needs = ("torch>=2.10", "kept>=1", "too_old>=2", "new-one", 'tqdm>=4; extra == "bars"')
    return make_wheel(tmp_path_factory.mktemp("soloist"), "soloist", "0.1.0", *needs)


@pytest.fixture(scope="module")
def built(offered: Path, soloist: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder for the image with an extra, in the place of an older one, and what its list says."""
    out = tmp_path_factory.mktemp("out")
    (out / "wheels.json").write_text("{}")
    make_wheel(out, "too-old", "2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(offered))
        build(IMAGE, out, python=sys.executable, extras=("bars",), spare=("kept", "leaf"), wheel=soloist)
    return out, json.loads((out / "wheels.json").read_text())


def test_the_folder_has_what_the_image_lacks(built):
    """The folder would have a torch of 3 GB, or lack a package, or keep a wheel of last month."""
    out, said = built
    rows = {row["package"]: (row["version"], row["instead_of"], row["spare"]) for row in said["wheels"]}
    assert rows == {
        "kept": ("1.9", None, True), "leaf": ("1.0", None, False), "new-one": ("1.0", None, False),
        "soloist": ("0.1.0", None, False), "too-old": ("3", "1", False), "tqdm": ("4.70.1", None, False),
    }  # fmt: skip
    assert sorted(file.name for file in out.iterdir()) == sorted(
        [*(row["file"] for row in said["wheels"]), "wheels.json"]
    )


def test_the_list_says_sizes_and_digests(built):
    """An upload that was cut off is found before somebody without a network tries to install it."""
    out, said = built
    for row in said["wheels"]:
        content = (out / row["file"]).read_bytes()
        assert (row["bytes"], row["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert said["bytes"] == sum(row["bytes"] for row in said["wheels"])
    assert (said["image"], said["python"], said["extras"]) == ("tiny", PYTHON, ["bars"])


@pytest.mark.parametrize("had", [{"kept": "1.5"}, {}], ids=["as listed", "less than listed"])
def test_the_folder_alone_installs_soloist_in_the_image(built, had, tmp_path):
    """pip must not touch what the image has. And one small package that the image lacks must not stop pip."""
    out, said = built
    packages = {name: version for name, version in IMAGE.packages.items() if name != "kept"} | had
    interpreter = imitate(replace(IMAGE, packages=packages), tmp_path / "image", sys.executable)
    pip = [sys.executable, "-m", "pip", "--isolated", "--python", str(interpreter)]
    subprocess.run([*pip, "install", "-q", "--no-index", "--find-links", str(out), "soloist[bars]"], check=True)
    listed = subprocess.run([*pip, "list", "--format", "json"], capture_output=True, text=True, check=True).stdout
    there = {row["name"].replace("_", "-"): row["version"] for row in json.loads(listed)}
    added = {row["package"]: row["version"] for row in said["wheels"]}
    assert there == {**packages, **added, **had}


def test_the_wheel_is_built_from_the_source_alone(tmp_path):
    """setuptools keeps what it built, so a module that was deleted since was in the next wheel again."""
    root = tmp_path / "checkout"
    kept = {"pyproject.toml", "README.md", "LICENSE", "src/soloist/__init__.py"}
    left = ("build/lib/soloist/gone.py", "src/soloist.egg-info/SOURCES.txt", "src/soloist/__pycache__/a.pyc")
    for name in (*kept, *left):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    folder = copy_source(root, tmp_path / "source")
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == kept


def test_a_folder_of_other_files_is_not_replaced(soloist, tmp_path):
    """A folder of somebody's notes would be gone."""
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ImageError, match=r"has files, but no wheels.json: give a new folder"):
        build(IMAGE, tmp_path, python=sys.executable, wheel=soloist)
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


def test_what_pip_cannot_find_is_told_in_its_words(soloist, tmp_path, monkeypatch):
    """A traceback of subprocess hides the one line of pip that names the package."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ImageError, match="No matching distribution found for "):
        build(IMAGE, tmp_path / "wheels", python=sys.executable, wheel=soloist)
    assert not (tmp_path / "wheels").exists()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("torch==2.10.0\n", "does not say which Python the image has: add a line like '# python: 3.12'"),
        (
            "# python: 3.12\ntorch @ file:///x.whl\n",
            "line 2 of {path} is not like 'name==1.0': write it so, or remove it",
        ),
    ],
    ids=["no Python", "no version"],
)
def test_a_list_that_cannot_be_used(tmp_path, capsys, lines, said):
    """If a line is skipped without a word, the folder gets that package, in another version than the image has."""
    path = tmp_path / "mine.txt"
    path.write_text(lines)
    assert main([str(path), str(tmp_path / "out")]) == 1
    assert said.format(path=path) in capsys.readouterr().err


def test_an_image_that_nobody_knows(capsys):
    """The names are in a folder that the reader has not seen."""
    assert main(["moon"]) == 1
    assert "give one of h100, kaggle, linux-cp312, or the path of a list" in capsys.readouterr().err


def test_another_python_than_that_of_the_image(tmp_path):
    """Wheels for another Python install nothing."""
    image = Image(name="tiny", python="3.99", packages={})
    with pytest.raises(ImageError, match=r"has Python 3.99, but .* is 3.\d+: name another with PYTHON_WHEELS="):
        imitate(image, tmp_path / "image", sys.executable)
    with pytest.raises(ImageError, match="cannot be run: name one with PYTHON_WHEELS="):
        imitate(image, tmp_path / "image", str(tmp_path / "python3.99"))


@pytest.mark.parametrize("path", sorted(IMAGES.glob("*.txt")), ids=lambda path: path.stem)
def test_each_image_has_a_torch_that_soloist_takes(path):
    """Without it the folder would have 3 GB of torch."""
    image = read_image(path.stem)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (torch,) = (each for each in map(Requirement, project["dependencies"]) if each.name == "torch")
    assert torch.specifier.contains(image.packages["torch"])
    assert read_image(str(path)) == image
