"""A PostgreSQL server with pgvector that a package brings."""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
import warnings
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def server_of(package: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that runs within this."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    # The server is another user's process, and pytest shuts its own folder to others whenever a run begins.
    with tempfile.TemporaryDirectory(prefix="soloist-postgres-", ignore_cleanup_errors=True) as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            server = importlib.import_module(package).get_server(folder, cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()
