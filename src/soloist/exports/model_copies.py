"""Copies of models' files in the folder of an export, for machines without a hub. Knows models' files; embeds nothing.

A copy is named by the digest of what it has. So a changed model gets a folder of its own beside the old one, and what
names the copies switches from one to the other.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from soloist.errors import ConfigError, OutputError
from soloist.jsontext import json_text
from soloist.models.copying import files_to_copy
from soloist.models.differences import other_model, require_files
from soloist.models.files_here import contents_of
from soloist.models.fingerprint import file_sha256
from soloist.models.loading import stage
from soloist.models.spec import ModelSpec
from soloist.stores import folder_name
from soloist.stores.atomic import atomic_path, disk_errors, is_temporary
from soloist.types import DType

_COPY = re.compile(r".+-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A run's model on this machine: its folder, all files that its load may read, and the digests of those that decide
    vectors, by path in the folder.
    """

    folder: Path
    files: tuple[str, ...]
    contents: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copied folder: its name, and the sha256 of each file by its path in it."""

    name: str
    source: Path
    files: Mapping[str, str]


def original_of(
    spec: ModelSpec, dtype: DType, *, fingerprint: str, files: Mapping[str, str], revision: str | None
) -> Original:
    """The model on this machine, which has to be the one of the run. `files` are digests, where the run recorded them.

    Raises:
        ConfigError: it is another model.
        ModelLoadError: it cannot be found, or not be copied.
    """
    location, contents = contents_of(spec)
    if files:
        require_files(spec.name, files, contents, revision, location.revision)
    elif stage(spec, dtype).fingerprint != fingerprint:  # nothing less tells: the prompt and the limit count too
        raise ConfigError(f"{other_model(spec.name)}: give --catalogue a file that has the folder of that model")
    names = files_to_copy(spec, location.folder, contents)
    return Original(folder=location.folder, files=tuple(names), contents=contents)


def copies_of(originals: Mapping[str, Original]) -> dict[str, Copy]:
    """The copy that each model is to have, by its name. Models of one folder share a copy."""
    names: dict[Path, list[str]] = {}
    for name, original in originals.items():
        names.setdefault(original.folder.resolve(), []).append(name)
    copies: dict[str, Copy] = {}
    for folder, sharing in names.items():
        files = {file: file_sha256(folder / file) for name in sharing for file in originals[name].files}
        digest = hashlib.sha256(json_text(sorted(files.items())).encode()).hexdigest()[:12]
        copy = Copy(name=f"{folder_name(sharing[0])}-{digest}", source=folder, files=files)
        copies |= dict.fromkeys(sharing, copy)
    return copies


def write_copy(folder: Path, copy: Copy) -> None:
    """Copy what is not there whole yet.

    Raises:
        OutputError: the disk does not take it, or a file was changed meanwhile.
    """
    for file, sha256 in copy.files.items():
        target = folder / copy.name / file
        if target.is_file() and file_sha256(target) == sha256:
            continue
        with atomic_path(target) as temp, disk_errors(target):
            shutil.copyfile(copy.source / file, temp)
            if file_sha256(temp) != sha256:
                raise OutputError(f"{copy.source / file} was changed meanwhile: export again")


def remove_other_copies(folder: Path, wanted: Iterable[str]) -> None:
    """Remove the copies of exports before, and what a killed export has left half-written.

    Raises:
        OutputError: the disk does not allow it.
    """
    kept = set(wanted)
    with disk_errors(folder):
        for child in list(folder.iterdir()) if folder.is_dir() else []:
            if child.name not in kept and _COPY.fullmatch(child.name):
                shutil.rmtree(child)
        for temp in [file for name in kept for file in (folder / name).rglob("*") if is_temporary(file.name)]:
            temp.unlink()
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
