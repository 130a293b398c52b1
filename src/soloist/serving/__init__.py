"""A server for questions: vectors as OpenAI's clients ask for them, and searches of a run.

    soloist.serving.serve("run")  # until Ctrl-C

    with soloist.serving.start("run", port=0) as server:
        print(server.url)

The import is light. The functions need the extra `serve`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from soloist.broken_imports import importing_libraries, load_optional
from soloist.serving.limits import Limits

if TYPE_CHECKING:
    from soloist.serving.guard import Asgi
    from soloist.serving.running import RunningServer

__all__ = ["DEFAULT_HOST", "DEFAULT_PORT", "Limits", "app", "load", "serve", "start"]

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000
_LIBRARIES = {"starlette": "starlette", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}
_USUAL = Limits()


def serve(
    directory: str | Path,
    *,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    api_key: str | None = None,
    catalogue: str | Path | None = None,
    limits: Limits = _USUAL,
    debug: bool = False,
    say: Callable[[str], object] = print,
) -> None:
    """Serve a run, or a folder of `soloist export --to questions`, until Ctrl-C or SIGTERM; finish what is in work.

    `say` gets one line once the server listens. A second signal ends the process at once.

    Args:
        host: the address to listen at. Where other machines reach it, an `api_key` is needed.
        port: 0 is any free port.
        api_key: what clients have to send as their key.
        catalogue: a file of your models, where those of the run are in other places now.
        limits: how much the server takes on.
        debug: print the traceback of an error. It may have a path or a text in it.

    Raises:
        ConfigError: the port cannot be had; the host needs a key; a library is not installed; or a model on this
            machine is not the one that made the run.
        OutputError: there is no finished run, or its files cannot be read.
        ModelLoadError: a model cannot be loaded.
    """
    server = load().opened_server(
        Path(directory), host=host, port=port, api_key=api_key, catalogue=_path(catalogue), limits=limits, debug=debug,
        say=say,
    )  # fmt: skip
    server.serve_until_stopped()


def start(
    directory: str | Path,
    *,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    api_key: str | None = None,
    catalogue: str | Path | None = None,
    limits: Limits = _USUAL,
    debug: bool = False,
) -> RunningServer:
    """As `serve`, in a thread of this process: for notebooks and tests. `stop` ends it; `url` is where it listens."""
    running = load()
    server: RunningServer = running.RunningServer(
        running.opened_server(
            Path(directory), host=host, port=port, api_key=api_key, catalogue=_path(catalogue), limits=limits,
            debug=debug,
        )
    )  # fmt: skip
    return server


def app(
    directory: str | Path,
    *,
    api_key: str | None = None,
    catalogue: str | Path | None = None,
    limits: Limits = _USUAL,
    debug: bool = False,
) -> Asgi:
    """The server as an ASGI application, for a server of yours.

    Yours limits how slowly clients may send. Without an `api_key` it answers only requests to this machine by its own
    names, e.g. localhost.

    Raises:
        SoloistError: as `serve`.
    """
    application: Asgi = load().application(Path(directory), api_key, _path(catalogue), limits, debug).asgi
    return application


def load() -> ModuleType:
    """Import what a server uses, which takes seconds.

    Raises:
        ConfigError: a library is not installed.
    """
    for module, package in _LIBRARIES.items():
        load_optional(module, what="the server", package=package, extra="serve")
    with importing_libraries():
        return import_module("soloist.serving.running")


def _path(path: str | Path | None) -> Path | None:
    return Path(path) if path is not None else None
