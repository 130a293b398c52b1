"""Embed collections of chunks with an ensemble of models, one at a time, each with every device to itself.

    result = soloist.embed(soloist.RunConfig(chunks_root=Path("chunks"), out=Path("run"), models=("wordllama",)))

    for hit in soloist.open_run("run").search("how are devices given back?"):
        print(hit.score, hit.text)

It is light to import: torch is imported with the first use of `embed` or `open_run`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from soloist.config import FusionConfig, RunConfig, SourceConfig
from soloist.errors import NothingFinishedError, RunInterruptedError, RunStoppedError, SoloistError
from soloist.types import Chunk

if TYPE_CHECKING:
    from soloist.engine import embed
    from soloist.reports.run_report.writing import report
    from soloist.retrieval import By, open_run

    __version__: str

__all__ = [
    "By",
    "Chunk",
    "FusionConfig",
    "NothingFinishedError",
    "RunConfig",
    "RunInterruptedError",
    "RunStoppedError",
    "SoloistError",
    "SourceConfig",
    "__version__",
    "embed",
    "open_run",
    "report",
]


def __getattr__(name: str) -> Any:
    if name == "embed":
        from soloist.engine import embed

        return embed
    if name == "report":
        from soloist.reports.run_report.writing import report

        return report
    if name in ("By", "open_run"):
        from soloist import retrieval

        return getattr(retrieval, name)
    if name == "__version__":
        from importlib.metadata import version

        return version("soloist")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
