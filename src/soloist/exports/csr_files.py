"""Rows of entries as a CSR matrix in a `.npz` that `scipy.sparse.load_npz` reads, without pickle. Knows no run.

The arrays go to the disk as they come: neither the matrix nor a column of it is in memory.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from soloist.ragged import RaggedRows

_NAME_LENGTHS = 26  # where a file's own header in a zip says how long its name and its extra field are


def write_csr(path: Path, shards: Iterable[RaggedRows], columns: int, dtype: np.dtype[Any]) -> None:
    """Write all rows of all shards, whose keys are columns and whose values become this dtype."""
    lengths = [np.zeros(1, np.int64)]
    with tempfile.TemporaryFile(dir=path.parent) as keys, tempfile.TemporaryFile(dir=path.parent) as values:
        for rows in shards:
            lengths.append(rows.lengths)
            keys.write(rows.keys.astype("<i4").data)
            values.write(rows.values.astype(dtype).data)
        starts = np.cumsum(np.concatenate(lengths))
        with zipfile.ZipFile(path, "w", allowZip64=True) as file:
            _copy(file, "indices", keys, np.dtype("<i4"))
            _write(file, "indptr", starts if starts[-1] > np.iinfo(np.int32).max else starts.astype(np.int32))
            _write(file, "format", np.array(b"csr"))
            _write(file, "shape", np.array([len(starts) - 1, columns], np.int64))
            _copy(file, "data", values, dtype)


def mapped_csr(path: Path) -> RaggedRows:
    """The rows of such a file, mapped."""
    keys, values = _mapped(path, "indices"), _mapped(path, "data")
    return RaggedRows(starts=np.array(_mapped(path, "indptr"), np.int64), keys=keys.view(np.uint32), values=values)


def _entry(file: zipfile.ZipFile, name: str) -> IO[bytes]:
    # An entry without a time: the same rows are the same bytes.
    return file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)


def _write(file: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    with _entry(file, name) as entry:
        npy.write_array(entry, array, allow_pickle=False)


def _copy(file: zipfile.ZipFile, name: str, numbers: IO[bytes], dtype: np.dtype[Any]) -> None:
    """An array whose numbers are in a file already."""
    count = numbers.seek(0, os.SEEK_END) // dtype.itemsize
    numbers.seek(0)
    with _entry(file, name) as entry:
        npy.write_array_header_1_0(entry, {"descr": dtype.str, "fortran_order": False, "shape": (count,)})
        shutil.copyfileobj(numbers, entry)


def _mapped(path: Path, name: str) -> NDArray[Any]:
    with zipfile.ZipFile(path) as file:
        start = file.getinfo(f"{name}.npy").header_offset
    with path.open("rb") as raw:
        raw.seek(start + _NAME_LENGTHS)
        raw.seek(sum(struct.unpack("<HH", raw.read(4))), os.SEEK_CUR)
        npy.read_magic(raw)
        shape, _, dtype = npy.read_array_header_1_0(raw)
        if not shape[0]:  # which cannot be mapped
            return np.zeros(0, dtype)
        return np.memmap(path, dtype, "r", raw.tell(), shape)
