"""Whether a batch has padding is decided on the host, for the masks of attention. Knows transformers, and no models.

Attention without a mask has faster kernels. So transformers reads from the mask on the device whether all rows are full
(`_ignore_bidirectional_mask_sdpa` in its masking_utils.py). The answer comes after all work that the device has. But
the host has made the batch, and knows the answer already.

The host knows it of the batch's own mask alone. Some networks make another one: Longformer fills its rows up to a
multiple of its window, and masks what it has added. transformers decides about such a mask as it does without soloist.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import AttentionMaskInterface
from transformers.masking_utils import eager_mask, sdpa_mask

from soloist.memory.host_numbers import FilledNumbers

MakeMask = Callable[..., torch.Tensor | None]


class _Batch(threading.local):
    is_padded: bool | None = None
    shape: torch.Size | None = None


_batch = _Batch()


@contextlib.contextmanager
def padding_known(is_padded: bool | None, shape: torch.Size | None) -> Iterator[None]:
    """Within this, masks of this thread are made for a batch with or without padding; None lets transformers ask.

    `shape` is that of the batch's own mask, (rows, length); None where it has no mask.
    """
    before = _batch.is_padded, _batch.shape
    _batch.is_padded, _batch.shape = is_padded, shape
    try:
        yield
    finally:
        _batch.is_padded, _batch.shape = before


def without_asking(make_mask: MakeMask) -> MakeMask:
    """A function of transformers that makes a mask, with the answer of the host where there is one."""

    def mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
        if _batch.is_padded is None:
            return make_mask(*args, **kwargs)
        if _batch.is_padded:
            kwargs |= _IF_PADDED
        elif _is_of_batch(kwargs.get("attention_mask")):
            kwargs |= _IF_FULL
        # Such masks are combined by functions of the network, which may have numbers of their own.
        with FilledNumbers() if kwargs.get("use_vmap") else contextlib.nullcontext():
            return make_mask(*args, **kwargs)

    return mask


def _is_of_batch(mask: torch.Tensor | None) -> bool:
    return mask is not None and mask.shape == _batch.shape


# Without a mask of padding there is nothing to ask. With padding, the mask is always needed.
_IF_FULL = {"attention_mask": None}
_IF_PADDED = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}

# Registered under the names of transformers, so that a network uses the attention that its configuration says.
AttentionMaskInterface.register("sdpa", without_asking(sdpa_mask))
AttentionMaskInterface.register("eager", without_asking(eager_mask))
