"""Files that a copy or a download left broken: pointers of git-lfs, empty or cut files, weights that are not floats.

Pure: it reads the beginning of a file, and of weights only the header.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

GET_AGAIN = "copy or download the model in full"

_POINTER = b"version https://git-lfs.github.com/spec/"
# The header of a safetensors file has fewer bytes than this.
_LARGEST_HEADER = 100_000_000
_LARGE_JSON = 1 << 20
_FLOATS = ("F64", "F32", "F16", "BF16")
# Whole numbers that networks keep beside their weights, by the end of their names: positions, masks and counts.
_NEVER_PACKED = ("i64", "int64", "bool")
_COUNTS = (
    "position_ids", "token_type_ids", "num_batches_tracked", "relative_position_index", "attn.bias", "attention.bias",
    "inv_freq", "mapping",
)  # fmt: skip


def damage_in(files: Iterable[Path]) -> Iterator[str]:
    """A sentence about every broken file. Missing files are left out."""
    for file in files:
        if file.is_file():
            yield from _damage(file)


def _damage(file: Path) -> Iterator[str]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        beginning = opened.read(len(_POINTER) + 64)
    if not size:
        yield f"{file} is empty; {GET_AGAIN}"
    elif beginning.startswith(_POINTER):
        yield f"{file} is a pointer of git-lfs and not the file itself: run git lfs pull in the folder, or {GET_AGAIN}"
    elif beginning.lstrip()[:9].lower() in (b"<!doctype", b"<html><he"):
        yield f"{file} is a web page and not the file itself; {GET_AGAIN}"
    elif file.suffix == ".json":
        yield from _broken_json(file, size)
    elif file.suffix == ".safetensors":
        yield from _broken_weights(file, size)


def _broken_json(file: Path, size: int) -> Iterator[str]:
    if size > _LARGE_JSON:  # a vocabulary, which takes a second to read: a cut one is seen at its end
        with file.open("rb") as opened:
            opened.seek(-64, os.SEEK_END)
            if not opened.read().rstrip().endswith((b"}", b"]")):
                yield f"{file} is not valid JSON, or is cut off; {GET_AGAIN}"
        return
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as exc:
        yield f"{file} is not valid JSON ({exc}); {GET_AGAIN}"


def _broken_weights(file: Path, size: int) -> Iterator[str]:
    header, length = _header(file)
    if header is None:
        yield f"{file} is not a safetensors file, or is cut off; {GET_AGAIN}"
        return
    tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
    end = 8 + length + max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    if end > size:
        yield f"{file} has {size} of its {end} bytes; {GET_AGAIN}"
    for name, tensor in tensors.items():
        if tensor["dtype"] not in _FLOATS and not is_count(name, tensor["shape"], tensor["dtype"]):
            yield integers_text(file, name, tensor["dtype"])
            return


def is_count(name: str, shape: Iterable[int], dtype: str) -> bool:
    """Whether whole numbers of this name and dtype are a network's counts, masks or positions, and not weights."""
    return name.endswith(_COUNTS) or dtype.lower() in _NEVER_PACKED or not tuple(shape)


def integers_text(file: Path, name: str, dtype: str) -> str:
    """Why whole numbers or floats of eight bits are refused as weights: without a scale they mean nothing."""
    return (
        f"{file} has {name} as {dtype}, which are quantised weights and mean nothing as floats; choose the model from "
        "which they were made"
    )


def _header(file: Path) -> tuple[dict[str, Any] | None, int]:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > _LARGEST_HEADER:
            return None, 0
        text = opened.read(length)
    try:
        header = json.loads(text)
        return (header if isinstance(header, dict) and len(text) == length else None), length
    except ValueError:
        return None, 0
