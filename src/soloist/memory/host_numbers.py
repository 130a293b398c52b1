"""Numbers of the host that a network needs on its device. Knows torch, and no models.

Some networks make such numbers in each pass: DeBERTa has `torch.tensor(mid - 1)` take the device of its positions
(`make_log_bucket_position` in modeling_deberta_v2.py), and masks of Gemma 3 have `torch.tensor(True)`. torch copies the
number, and waits until the device has done all earlier work. As the argument of a kernel that fills a tensor, the
number needs no copy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class FilledNumbers(TorchFunctionMode):
    """Within this, a number of the host goes to a device without waiting. Every function of torch takes a call more."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.type_as, torch.Tensor.to) and not kwargs and len(args) == 2 and _is_number(args[0]):
            like = args[1]
            device = like if isinstance(like, torch.device) else getattr(like, "device", None)
            if device is not None and device.type != "cpu":
                dtype = like.dtype if isinstance(like, torch.Tensor) else args[0].dtype
                return torch.full((), args[0].item(), dtype=dtype, device=device)
        return func(*args, **(kwargs or {}))


def _is_number(tensor: torch.Tensor) -> bool:
    return tensor.dim() == 0 and tensor.device.type == "cpu"
