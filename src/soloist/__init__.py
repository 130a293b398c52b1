"""Embed collections of chunks with an ensemble of models, one at a time, each with every device to itself.

    soloist.plan("chunks", models=["wordllama"])
    soloist.embed("chunks", out="run", models=["wordllama"])

    for hit in soloist.open_run("run").search("how are devices given back?"):
        print(hit.score, hit.text)

The import is light: torch is imported with the first use that needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soloist.api.embedding import embed
    from soloist.api.opening import open_questions, open_run
    from soloist.api.planning import plan
    from soloist.api.runs import evaluate, export
    from soloist.api.validating import validate
    from soloist.config import FusionConfig, RunConfig, SourceConfig
    from soloist.errors import NothingFinishedError, RunInterruptedError, RunStoppedError, SoloistError
    from soloist.reports.run_report.writing import report
    from soloist.retrieval import By
    from soloist.types import Chunk

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
    "evaluate",
    "export",
    "open_questions",
    "open_run",
    "plan",
    "report",
    "validate",
]

# Where the names are. The first ones need no other library.
_VALUES = {
    "Chunk": "soloist.types",
    "FusionConfig": "soloist.config",
    "NothingFinishedError": "soloist.errors",
    "RunConfig": "soloist.config",
    "RunInterruptedError": "soloist.errors",
    "RunStoppedError": "soloist.errors",
    "SoloistError": "soloist.errors",
    "SourceConfig": "soloist.config",
}
_MODULES = {
    "By": "soloist.retrieval",
    "embed": "soloist.api.embedding",
    "evaluate": "soloist.api.runs",
    "export": "soloist.api.runs",
    "open_questions": "soloist.api.opening",
    "open_run": "soloist.api.opening",
    "plan": "soloist.api.planning",
    "report": "soloist.reports.run_report.writing",
    "validate": "soloist.api.validating",
}
_WITH_THEM = ("config", "errors", "types")  # modules that come with the values


def __getattr__(name: str) -> Any:
    if name in _VALUES:
        value = getattr(import_module(_VALUES[name]), name)
    elif name in _WITH_THEM:
        return import_module(f"soloist.{name}")
    elif name in _MODULES:
        from soloist.broken_imports import importing_libraries

        with importing_libraries():
            value = getattr(import_module(_MODULES[name]), name)
    elif name == "__version__":
        from importlib.metadata import version

        value = version("soloist")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # the next look finds it there
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
