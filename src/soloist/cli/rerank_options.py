"""The options of a second stage, which search and eval share: the cross-encoder, its depth and its devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from soloist.errors import ConfigError

_DEPTH_HELP = "How many of the first chunks the cross-encoder scores: at least 1. [default: 100, or -k if larger]"
_DEVICES_HELP = (
    "Where the cross-encoder computes, as for embed. On a GPU the cross-encoder holds a lease. [default: auto]"
)

Rerank = Annotated[
    str | None,
    typer.Option(
        "--rerank",
        metavar="MODEL",
        help="Rerank the best chunks (see --rerank-depth) with a cross-encoder: its folder, its name in the catalogue "
        "or its hub id.",
    ),
]
RerankDepth = Annotated[int | None, typer.Option("--rerank-depth", min=1, metavar="NUMBER", help=_DEPTH_HELP)]
RerankDevices = Annotated[
    str | None, typer.Option("--accelerator", envvar="SOLOIST_ACCELERATOR", metavar="KIND", help=_DEVICES_HELP)
]
LockDir = Annotated[
    Path | None, typer.Option("--lock-dir", envvar="SOLOIST_LOCK_DIR", metavar="PATH", help="As for embed.")
]


def require_model(rerank: str | None, depth: int | None) -> None:
    """Refuse a depth without a model.

    Raises:
        ConfigError: there is such a depth.
    """
    if depth is not None and rerank is None:
        raise ConfigError("--rerank-depth needs --rerank beside it: name a cross-encoder, or leave both out")
