"""The matrices of a fusion that was fitted to a run, in one file of its folder. Knows nothing of what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from soloist.arrays import Vectors
from soloist.stores.atomic import atomic_path, disk_errors
from soloist.stores.layout import FIT, Layout
from soloist.stores.manifest import FileRecord, record_of
from soloist.stores.tables import REPAIR, read_errors


def write_fit(root: Path, matrices: Sequence[Vectors], fingerprint: str) -> FileRecord:
    """Write the matrices, (kept dim, fused dim) float32 a model; the caller appends the record to the manifest.

    Raises:
        OutputError: the disk does not take the file.
    """
    path = root / FIT
    content = save({f"{number:03d}": np.ascontiguousarray(matrix) for number, matrix in enumerate(matrices)})
    Layout(root).require_inside(path)
    with atomic_path(path) as temp, disk_errors(path):
        temp.write_bytes(content)
    return record_of(root, path, "fit", 0, fingerprint=fingerprint)


def read_fit(root: Path) -> tuple[Vectors, ...]:
    """The matrices that `write_fit` wrote.

    Raises:
        OutputError: the file is missing or damaged.
    """
    path = root / FIT
    with read_errors(path, if_missing=REPAIR):
        try:
            found = load(path.read_bytes())
        except SafetensorError as exc:
            raise ValueError(str(exc)) from exc
    return tuple(found[name] for name in sorted(found))
