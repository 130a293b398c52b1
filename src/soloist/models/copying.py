"""The files of a model that another machine needs to load it. Knows files; loads no model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from soloist.errors import ModelLoadError
from soloist.models.location import WANTED, module_folders
from soloist.models.spec import ModelSpec

_WEIGHTS = {".safetensors", ".bin"}  # which count only where they decide the vectors
_CODE = ".py"


def files_to_copy(spec: ModelSpec, folder: Path, contents: Mapping[str, str]) -> list[str]:
    """The paths in a model's folder of all files that its load may read. `contents` are its `content_digests`.

    Raises:
        ModelLoadError: some are in other folders, where the load of a copy would not find them.
    """
    outside = [name for name in contents if not (folder / name).is_file()]
    if outside:
        raise ModelLoadError(
            f"{spec.name} cannot be copied, because it needs {outside[0]}, which is not in its own folder: export "
            "without --with-models"
        )
    if spec.loader == "wordllama":
        return sorted(contents)
    suffixes = {Path(pattern).suffix for pattern in WANTED} - _WEIGHTS
    if not spec.trust_remote_code:
        suffixes.discard(_CODE)
    beside = (file for part in module_folders(folder) if part.is_dir() for file in part.iterdir() if file.is_file())
    return sorted({*contents, *(file.relative_to(folder).as_posix() for file in beside if file.suffix in suffixes)})
