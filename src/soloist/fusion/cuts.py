"""Vectors that are cut to their first components: which cuts are refused, and which cost quality. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from soloist.errors import FusionError
from soloist.fusion.plan import Member


def require_cut(dim: int, used: Sequence[Member]) -> None:
    """Refuse a dim that is wider than a model.

    Raises:
        FusionError: it is, with the narrowest model in the message.
    """
    narrowest = min(used, key=lambda member: member.dim)
    if dim > narrowest.dim:
        raise FusionError(
            f"dim is {dim} but {narrowest.name} has only {narrowest.dim} dims: choose a dim of {narrowest.dim} or "
            "less, or leave dim out"
        )


def untrained_cuts(dim: int | None, used: Sequence[Member]) -> tuple[str, ...]:
    """A notice for each model that was not trained to be cut to this dim; None cuts nothing."""
    return tuple(
        f"{member.name} was not trained to be cut from {member.dim} to {dim} dims: its cut vectors may rank worse"
        for member in used
        if dim is not None and dim not in member.trained_dims
    )
