"""Which operators make the host wait for a device. Knows torch's operators, and no device.

A CUDA device works behind the host: the host only puts an operator into the queue of the device. The host waits for the
whole queue if it needs a value from the device, such as a number, or a size that depends on values. The host also waits
for a copy between host and device, unless `non_blocking` is given.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

_ASKING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
# Some of these operators are made of others. In inference mode they arrive here whole.
_COPIES = {"_to_copy", "copy_", "_copy_from", "to", "type_as", "cpu"}
_UNTAGGED = {"index_put", "index_put_", "_index_put_impl_", "is_nonzero", "nonzero_numpy", "repeat_interleave"}
_BOOLEAN = (torch.bool, torch.uint8)


@functools.cache
def may_wait(func: Any) -> bool:
    """Whether the host waits for this operator, with some arguments."""
    return _name(func) in _COPIES | _UNTAGGED or bool(_ASKING & set(func.tags))


def waits(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, crosses: bool) -> bool:
    """Whether the host waits for an operator that may wait. `crosses` says that it works on host and device."""
    if _name(func) in _COPIES:
        return crosses and not _argument(func, args, kwargs, "non_blocking")
    match _name(func):
        case "index":
            return _has_booleans(args[1])
        case "index_put" | "index_put_" | "_index_put_impl_":
            return _has_booleans(args[1]) and args[2].numel() > 1  # one value is filled in, by a mask
        case "repeat_interleave":
            by_tensor = isinstance(_argument(func, args, kwargs, "repeats"), torch.Tensor)
            return by_tensor and _argument(func, args, kwargs, "output_size") is None
        case "one_hot":
            return _argument(func, args, kwargs, "num_classes") in (None, -1)
    return True


def _argument(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Any:
    """The argument of this name; None where it is not given."""
    if name in kwargs:
        return kwargs[name]
    names = [argument.name for argument in func._schema.arguments]
    return args[names.index(name)] if name in names[: len(args)] else None


def _has_booleans(indices: Sequence[torch.Tensor | None]) -> bool:
    return any(index is not None and index.dtype in _BOOLEAN for index in indices)


def _name(func: Any) -> str:
    return str(func.overloadpacket.__name__)
