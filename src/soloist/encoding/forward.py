"""One forward pass: features in host memory to vectors in host memory. Knows torch and devices' names, and no texts."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from soloist.arrays import Vectors
from soloist.encoding import packing
from soloist.encoding.features import Features
from soloist.memory.host_numbers import FilledNumbers
from soloist.models.module_facts import is_a, is_table
from soloist.models.prepacked import is_packed
from soloist.models.token_weights import TokenWeights

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Computed:
    """The vectors of a batch, which a CUDA device may still be computing."""

    host: torch.Tensor
    copied: torch.cuda.Event | None

    def rows(self) -> Vectors:
        """(rows, dim) float32 in host memory, once they are there.

        Raises:
            RuntimeError: the device failed while it computed them.
        """
        if self.copied is not None:
            self.copied.synchronize()
        return self.host.numpy()


def forward(
    module: SentenceTransformer, features: Features, device: str, *, attention: TorchFunctionMode | None = None
) -> Vectors:
    """The vectors of a batch: (rows, dim) float32 in host memory, not yet normalised.

    There may be more rows behind those of the batch (see `flat_features`).
    """
    return begin(module, features, device, attention=attention).rows()


def begin(
    module: SentenceTransformer, features: Features, device: str, *, attention: TorchFunctionMode | None = None
) -> Computed:
    """`forward` that does not wait for a device: copies to it and from it go on beside the host.

    `attention` is what attention calls go through on the way to the device (see `ExpandGroupedHeads`).
    """
    with torch.inference_mode(), attention or contextlib.nullcontext(), _numbers(module, device):
        moved = {
            name: _moved(value, device) if isinstance(value, torch.Tensor) else value
            for name, value in features.items()
        }
        with packing.apart(features, moved), _padding_known(features):
            return _fetched(_through(module, moved).float())


def unit_rows(vectors: Vectors) -> tuple[Vectors, list[int]]:
    """The rows scaled to norm 1, and the indices of those that cannot be: NaN, infinite or zero."""
    with np.errstate(all="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0)).tolist()
        units = (vectors / norms[:, None]).astype(np.float32)
    return units, bad


def unusable_rows(vectors: Vectors) -> list[int]:
    """The indices of the rows for which `unit_rows` has no unit vector. This takes a fifth of the time of `unit_rows`.

    In float64 the square of a float32 number neither overflows nor becomes 0. So a norm is bad only if its numbers are.
    """
    usable = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
    return np.flatnonzero(~usable).tolist()


def _through(module: SentenceTransformer, features: Features) -> torch.Tensor:
    """The vectors of a batch. Modules behind the pooling, or behind a table, that multiply get enough rows for their
    products.

    Those modules work a row at a time, as the network works a token at a time. Too few rows would go through another
    kernel of the matrix library (see `packing.fewest_tokens`), so the first row comes again behind the others.
    """
    parts = list(module)
    pooled = next((index for index, part in enumerate(parts) if is_a(part, "Pooling") or is_table(part)), len(parts))
    if not any(map(_multiplies, parts[pooled + 1 :])):
        vectors: torch.Tensor = module(features)["sentence_embedding"]
        return vectors[:, : module.truncate_dim]
    for index, part in enumerate(parts):
        features = part(features)
        if index == pooled:
            rows = features["sentence_embedding"]
            fewest = packing.fewest_tokens(rows.dtype) if any(map(is_packed, parts[pooled + 1 :])) else packing.FEWEST
            more = rows[:1].expand(max(0, fewest - len(rows)), -1)
            features["sentence_embedding"] = torch.cat([rows, more])
    last: torch.Tensor = features["sentence_embedding"]
    return last[:, : module.truncate_dim]


def _multiplies(part: torch.nn.Module) -> bool:
    if isinstance(part, TokenWeights):  # it multiplies tokens, and not what pooling made of them
        return False
    return next(part.parameters(), None) is not None or is_packed(part)


def _numbers(module: SentenceTransformer, device: str) -> contextlib.AbstractContextManager[object]:
    """How numbers of the host go to the device: without waiting, in networks that have their own attention."""
    network = getattr(module[0], "model", None)
    if torch.device(device).type == "cpu" or network is None or getattr(network, "_supports_sdpa", False):
        return contextlib.nullcontext()
    return FilledNumbers()


def _padding_known(features: Features) -> contextlib.AbstractContextManager[None]:
    """Whether a row of a batch is padded, by its mask in host memory. Tables have no mask, and no attention."""
    mask = features.get("attention_mask")
    if mask is None:
        return contextlib.nullcontext()
    from soloist.memory.attention_masks import padding_known  # with the first network: it imports transformers

    return padding_known(not bool(mask.all()), mask.shape)


def _moved(tensor: torch.Tensor, device: str) -> torch.Tensor:
    if torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()  # from other memory the host would wait for the copy
    return tensor.to(device, non_blocking=True)


def _fetched(vectors: torch.Tensor) -> Computed:
    if vectors.device.type == "cpu":
        return Computed(host=vectors, copied=None)
    host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=vectors.is_cuda)
    host.copy_(vectors, non_blocking=True)
    if not vectors.is_cuda:  # a simulated device has computed already
        return Computed(host=host, copied=None)
    return Computed(host=host, copied=_event_behind(vectors.device))


def _event_behind(device: torch.device) -> torch.cuda.Event:
    """An event behind all that a device has to do. The thread's present device may be another one."""
    # An event that blocks leaves the core to other threads. The default event keeps asking the driver.
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
