"""An error names a package that is too old before anything is imported, with the command that helps."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support.records import Records

from soloist.broken_imports import import_failure_text
from soloist.errors import InstallationError
from soloist.requirements import require_fit, soloist_requirements, unmet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


CHECKOUT = Path(__file__).parents[1]
# The extras that `make test-oldest` runs and that users install: the extra test has no peft.
EXTRAS = (
    "chroma", "eval", "faiss", "haystack", "langchain", "lancedb", "lexical", "llama-index", "mcp", "packaged-models",
    "pgvector", "qdrant", "report", "search",
)  # fmt: skip


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Records:
    """An empty folder of records, which is looked at first."""
    monkeypatch.syspath_prepend(tmp_path)
    return Records(tmp_path)


def bounds_of(*extras: str) -> dict[str, str]:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *(text for extra in extras for text in project["optional-dependencies"][extra])]
    wanted = map(Requirement, texts)
    return {
        each.name: f"{each.name}{each.specifier}" for each in wanted if each.marker is None or each.marker.evaluate()
    }


@pytest.fixture(scope="module")
def bounds() -> dict[str, str]:
    """What pyproject.toml says of each package: `{"torch": "torch>=2.10,<2.14"}`."""
    return bounds_of()


@pytest.fixture
def installed(records: Records, bounds: dict[str, str]) -> Callable[..., None]:
    """Records of soloist as pyproject.toml has it, and of packages in these versions."""

    def install(**versions: str) -> None:
        records.add("soloist", "0", *bounds.values())
        for name, version in versions.items():
            records.add(name.replace("_", "-"), version)

    return install


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("torch", "2.9.1+cu128"), ("torch", "2.10.0a0+b558c98"), ("tokenizers", "0.23.1"), ("tokenizers", "0.23.2"),
        ("sentence_transformers", "5.5.1"), ("transformers", "5.0.0"), ("pyarrow", "17.0.0"), ("numpy", "1.26.4"),
    ],
)  # fmt: skip
def test_a_package_that_does_not_fit_is_refused_by_name(installed, bounds, package, version):
    """An old package ended in an ImportError of another library, or in a run with wrong counts and predictions."""
    installed(**{package: version})
    name = package.replace("_", "-")
    with pytest.raises(InstallationError) as raised:
        require_fit()
    said = str(raised.value)
    assert said.startswith(f"{name} {version} is installed, but soloist needs {name}")
    assert f"run pip install '{name}" in said
    assert all(bound in said for bound in bounds[name].removeprefix(name).split(","))


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("torch", "2.10.0+cu128"), ("torch", "2.11.0a0+eb65b36914.nv26.02"), ("torch", "2.11.0+cu130"),
        ("torch", "2.99.0"), ("torch", "of my own"), ("tokenizers", "0.23.3"), ("transformers", "5.99.0"),
        ("numpy", "2.0.2"), ("rich", "13.9.4"), ("psutil", "5.9.5"), ("platformdirs", "4.9.2"), ("filelock", "3.24.3"),
    ],
)  # fmt: skip
def test_a_package_that_fits_is_not_refused(installed, package, version):
    """Images have builds with versions of their own, and somebody who takes a newer version does so on purpose."""
    installed(**{package: version})
    require_fit()


def test_all_that_does_not_fit_is_told_at_once(installed):
    """One at a time would be one more installation for each, and torchvision would be left for a torch that is gone."""
    installed(torch="2.9.1", torchvision="0.24.1", tokenizers="0.23.2")
    with pytest.raises(InstallationError) as raised:
        require_fit()
    told, _, command = str(raised.value).rpartition(": run ")
    assert "torch 2.9.1 is installed" in told and "; " in told
    assert "(0.23.1 and 0.23.2 miscount the tokens that are cut off)" in told
    assert command.startswith("pip install ") and command.endswith(" torchvision")
    assert "'torch<" in command or "'torch>" in command


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("0.22.2", "transformers takes no version before 0.23.1"),
        ("0.23.1", "0.23.1 and 0.23.2 miscount the tokens that are cut off"),
    ],
)
def test_a_version_is_refused_for_what_is_wrong_with_it(installed, version, reason):
    """tokenizers 0.22.2 was refused for what two later versions do."""
    installed(tokenizers=version)
    with pytest.raises(InstallationError, match=rf", but soloist needs tokenizers\S+ \({reason}\): run "):
        require_fit()


def test_what_another_python_needs_is_not_asked_for(records):
    """Python 3.10 was told to install transformers>=5.23, which has no version for Python 3.10."""
    records.add(
        "soloist", "0",
        "model>=9; python_version < '3.10'", "model>=5; python_version >= '3.10'", "tomli>=2; python_version < '3.10'",
        'store[fast]>=1; extra == "stores"', "store>=9; python_version < '3.10' and extra == 'stores'",
    )  # fmt: skip
    assert soloist_requirements() == {"model": "model>=5", "store": "store[fast]>=1"}


def test_a_missing_packaging_is_asked_for_with_its_bound(records, monkeypatch):
    """packaging reads the requirements, and an error of its own would hide which package is missing."""
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    records.add("soloist", "0", "packaging>=24; python_version >= '3.10'")
    assert soloist_requirements() == {"packaging": "packaging>=24"}


def test_a_requirement_of_an_extra_is_not_asked_for(records):
    """Whoever has an old matplotlib, and draws nothing, was told to install another."""
    records.add("somebody", "1", 'matplotlib>=99; extra == "eval"', "numpy>=1", "not a requirement")
    assert unmet("somebody") == []
    assert unmet("nobody-has-this") == []


def test_a_missing_package_is_told_where_it_is_imported(records):
    """soloist would compare the version of a package that has none."""
    records.add("soloist", "0", "a-package-that-is-missing>=1")
    require_fit()


# A torchvision that was built for another torch: what its own import does first, and how it fails.
TORCHVISION = """
from torch import library

@library.register_fake("torchvision::nms")
def meta_nms(dets, scores, iou_threshold): ...
"""


def test_a_torchvision_of_another_torch_is_named(records, tiny_models, tmp_path):
    """transformers imports it, and says that it cannot import its module 'PreTrainedModel': no word of torchvision."""
    torch = importlib.metadata.version("torch")
    records.add("torchvision", "0.1.0", "torch==2.2.0", source=TORCHVISION)
    asked = {"out": str(tmp_path / "run"), "models": [str(tiny_models["bert"])], "accelerator": "cpu"}
    call = f"soloist.embed(['a text'], **{asked!r})"
    code = f"import soloist\ntry:\n {call}\nexcept soloist.SoloistError as exc:\n print(exc)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(records.folder)},
    )  # fmt: skip
    assert done.stdout == (
        "the package torchvision 0.1.0 cannot be imported (RuntimeError: operator torchvision::nms does not exist), "
        f"because it needs torch==2.2.0 and finds torch {torch}: run pip uninstall torchvision, which soloist does not "
        f"need, or run pip install torch=={torch.partition('+')[0]} torchvision to install a version that fits\n"
    ), done.stderr
    assert not (tmp_path / "run").exists()


def failure_of(module: str) -> str:
    """The message of the error when this module is imported."""
    with pytest.raises(ImportError) as raised:
        importlib.import_module(module)
    return import_failure_text(raised.value)


def test_a_package_that_soloist_needs_is_given_what_it_needs(records):
    """Installing it again, as was said, leaves the package that is too old where it is."""
    records.add("soloist", "0", "reader>=3")
    records.add(
        "reader", "3.0", "writer>=2", source="raise ImportError('writer>=2 is required, but writer 1.0 is here')"
    )
    records.add("writer", "1.0")
    assert failure_of("reader") == (
        "the package reader 3.0 cannot be imported (writer>=2 is required, but writer 1.0 is here), because it needs "
        "writer>=2 and finds writer 1.0: run pip install 'writer>=2'"
    )


def test_a_version_that_has_nothing_to_do_with_the_error_is_not_blamed(records):
    """Images are full of packages that pip check complains of, and that work."""
    records.add("reader", "3.0", "writer>=2", source="raise ImportError('libreader.so: cannot open')")
    records.add("writer", "1.0")
    said = failure_of("reader")
    assert said.startswith(
        "the package reader cannot be imported (libreader.so: cannot open), because its installation"
    )
    assert "writer" not in said


def test_the_oldest_versions_are_those_of_the_bounds():
    """`make test-oldest` would run with versions that are newer than the oldest that pip may choose."""
    lines = (CHECKOUT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    oldest = {line.partition("==")[0]: line.partition("==")[2] for line in lines if "==" in line}
    for name, text in bounds_of(*EXTRAS).items():
        lowest = next(bound[2:] for bound in text.removeprefix(name).split(",") if bound[:2] in (">=", "=="))
        assert name in oldest, name
        assert oldest[name].split(".")[: lowest.count(".") + 1] == lowest.split("."), (name, oldest[name], lowest)


def test_the_tested_versions_are_within_the_bounds():
    """An upper bound below what the tests run with would be one that nobody has tried."""
    lines = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    versions = (line.partition("==") for line in lines if "==" in line)
    tested = {name.replace("_", "-").lower(): version for name, _, version in versions}
    for name, text in bounds_of(*EXTRAS).items():
        version = tested[name.lower()]
        assert Requirement(text).specifier.contains(version), (text, version)
