"""Finds installed packages in versions that soloist, or another package, cannot work with. Reads pip's records.

Knows why soloist has a bound. Imports none of the packages: if a package does not fit, the error of its import often
names another package.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

from soloist.errors import InstallationError

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

_SOLOIST = "soloist"
# What is wrong with versions of a package. The first row that fits the installed version counts.
_REASONS: Sequence[tuple[str, str, str]] = (
    ("pyarrow", "", "older versions take much memory for damaged Parquet files"),
    ("sentence-transformers", "", "older versions keep a cache in decoders, which memory predictions leave out"),
    ("tokenizers", "<0.23.1", "transformers takes no version before 0.23.1"),
    ("tokenizers", "", "0.23.1 and 0.23.2 miscount the tokens that are cut off"),
    ("torch", "", "older versions cannot run soloist's simulated devices"),
    ("transformers", "", "with older versions the memory of DeBERTa cannot be predicted"),
)
# Packages that are built for one version of another package. pip does not replace them together with the other one.
_BUILT_FOR = {"torch": ("torchaudio", "torchvision")}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTRA = re.compile(r"""extra == ["']([^"']+)""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmet:
    """A package that is installed in a version that another package does not allow."""

    package: str
    installed: str
    needed: str  # as pip takes it: "torch<2.14,>=2.10"


def require_fit() -> None:
    """Refuse installed packages that are too old for soloist, or whose versions its bounds exclude.

    Packages newer than the tested ones are not refused: pip installs such a package only if somebody asks for it.

    Raises:
        InstallationError: a package has such a version. The message has the command that installs another version.
    """
    found = unmet(_SOLOIST, newer_is_fine=True)
    if not found:
        return
    told = [
        f"{each.package} {each.installed} is installed, but soloist needs {each.needed}{_why(each)}" for each in found
    ]
    companions = [name for each in found for name in _BUILT_FOR.get(each.package, ()) if installed_version(name)]
    command = shlex.join(["pip", "install", *(each.needed for each in found), *companions])
    raise InstallationError(f"{'; '.join(told)}: run {command}")


def unmet(package: str, *, newer_is_fine: bool = False) -> list[Unmet]:
    """What an installed package needs but finds in another version. Packages that are missing are not listed."""
    found = (_unmet(requirement, newer_is_fine) for requirement in _needed_by(package))
    return [each for each in found if each is not None]


def too_old(package: str) -> Unmet | None:
    """A package that soloist or an extra needs, if it is too old; None if it fits or is missing."""
    from packaging.requirements import Requirement

    return _unmet(Requirement(soloist_requirements().get(package, package)), newer_is_fine=True)


def installed_version(package: str) -> str | None:
    """The version that is installed; None where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def soloist_requirements() -> dict[str, str]:
    """What soloist and its extras need on this Python, by the name of the package: `{"numpy": "numpy<3,>=2"}`."""
    plain = [text.partition(";")[0].strip() for text in _requirement_texts(_SOLOIST) if _is_for_this_python(text)]
    return {name[0]: text for text in reversed(plain) if (name := _NAME.match(text)) and name[0] != _SOLOIST}


def _is_for_this_python(text: str) -> bool:
    """Whether a requirement counts on this Python, with its extra if it is one of an extra."""
    try:
        from packaging.requirements import Requirement
    except (ImportError, SyntaxError):  # packaging may be what is missing or damaged, and then its bound is asked for
        return True
    marker = Requirement(text).marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *_EXTRA.findall(text)))


def _unmet(requirement: Requirement, newer_is_fine: bool) -> Unmet | None:
    installed = installed_version(requirement.name)
    if installed is None or _fits(installed, requirement.specifier, newer_is_fine):
        return None
    needed = f"{requirement.name}{requirement.specifier}"
    return Unmet(package=requirement.name, installed=installed, needed=needed)


def _why(found: Unmet) -> str:
    from packaging.specifiers import SpecifierSet

    reasons = (
        reason
        for package, versions, reason in _REASONS
        if package == found.package and _fits(found.installed, SpecifierSet(versions), newer_is_fine=False)
    )
    reason = next(reasons, "")
    return f" ({reason})" if reason else ""


def _needed_by(package: str) -> list[Requirement]:
    """What a package needs on this machine, without its extras."""
    from packaging.requirements import InvalidRequirement, Requirement  # a tenth of the time of `soloist --help`

    found = []
    for text in _requirement_texts(package):
        try:
            requirement = Requirement(text)
        except InvalidRequirement:  # pip does not take it either
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found.append(requirement)
    return found


def _requirement_texts(package: str) -> list[str]:
    try:
        return requires(package) or []
    except PackageNotFoundError:
        return []


def _fits(installed: str, bounds: SpecifierSet, newer_is_fine: bool) -> bool:
    """Whether a version is within bounds. A pre-release counts, as it does for pip once it is installed.

    NVIDIA's images have them: 2.11.0a0 is a build of torch from before 2.11, and later than 2.10.
    """
    from packaging.version import InvalidVersion, Version

    try:
        there = Version(installed)
    except InvalidVersion:  # a build of somebody's own
        return True
    checked = [bound for bound in bounds if not (newer_is_fine and bound.operator in ("<", "<="))]
    return all(bound.contains(there, prereleases=True) for bound in checked)
