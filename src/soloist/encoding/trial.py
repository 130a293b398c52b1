"""The first pass of a model: on the host, with two short texts, before anything is leased.

It finds a model without vectors, with vectors of another width than it says, or with vectors that are not finite. In
half precision the host's arithmetic differs from a device's, and a run computes rows that overflow once more in
float32. So a model whose own dtype fails is judged by float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from soloist.arrays import Vectors
from soloist.encoding.copies import replicate
from soloist.errors import ModelLoadError
from soloist.models.loading import StagedModel
from soloist.wording import first_line

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def tried(staged: StagedModel, compute: Callable[[SentenceTransformer], Vectors]) -> Vectors | None:
    """The vectors (texts, dim) that `compute` gives; None where only float32 gives usable ones.

    Raises:
        ModelLoadError: the model gives no usable vectors.
    """
    name, in_float32 = staged.spec.name, staged.dtype == "float32"
    try:
        vectors = compute(staged.module)
        _require_width(staged, vectors)
        if np.isfinite(vectors).all():
            return vectors
    except ModelLoadError:
        raise
    except Exception as exc:  # a network or a module of its own may raise anything for two plain texts
        if in_float32 or _has_no_vector(exc):
            raise ModelLoadError(_failed_text(name, exc)) from exc
    if not in_float32:
        _require_float32(staged, compute)
        return None
    raise ModelLoadError(
        f"{name} gives NaN or infinity for a plain text in float32, because its weights or its config.json are "
        "damaged: get them again"
    )


def _require_width(staged: StagedModel, vectors: Vectors) -> None:
    name = staged.spec.name
    if vectors.ndim != 2:
        raise ModelLoadError(f"{name} gives a vector for each token, not for a text: add Pooling to its modules.json")
    if vectors.shape[1] != staged.dim:
        raise ModelLoadError(
            f"{name} says that its vectors have {staged.dim} dimensions, but they have {vectors.shape[1]}: correct the "
            "configuration of its last modules"
        )


def _require_float32(staged: StagedModel, compute: Callable[[SentenceTransformer], Vectors]) -> None:
    name = staged.spec.name
    try:
        vectors = compute(replicate(staged.module, "cpu", torch.float32))
    except Exception as exc:
        raise ModelLoadError(_failed_text(name, exc)) from exc
    _require_width(staged, vectors)
    if not np.isfinite(vectors).all():
        raise ModelLoadError(
            f"{name} gives NaN or infinity for a plain text, in {staged.dtype} and in float32, because its weights or "
            "its config.json are damaged: get them again"
        )


def _has_no_vector(exc: Exception) -> bool:
    return isinstance(exc, KeyError) and exc.args == ("sentence_embedding",)


def _failed_text(name: str, exc: Exception) -> str:
    if _has_no_vector(exc):
        return f"{name} gives no vector for a text (no sentence_embedding): add Pooling to its modules.json"
    line = first_line(exc)
    return (
        f"{name} fails on a plain text ({type(exc).__name__}: {line}), so its configuration does not fit its weights "
        "or its tokenizer: get all of its files from one source"
    )
