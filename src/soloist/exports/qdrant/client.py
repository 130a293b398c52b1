"""The client of a Qdrant server or folder, and what may be shown of an address. Knows no collections."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from soloist.errors import ConfigError, ExportError
from soloist.exports.client_library import load
from soloist.exports.store_folders import require_store_folder
from soloist.exports.target import Target

API_KEY = "QDRANT_API_KEY"
_SECONDS = 60
# The client of a folder has SQLite's errors and those of what it finds in it.
FOLDER_ERRORS = (OSError, RuntimeError, ValueError, sqlite3.Error, UnpicklingError)


def opened_client(client_module: Any, target: Target, where: str) -> Any:
    """The client of a server, which is not asked yet, or of a folder, which is read and locked.

    Raises:
        ConfigError: the URL is not that of a server.
        ExportError: the folder has other files, is damaged, or is open in another process.
    """
    if target.out is None:
        try:
            return client_module.QdrantClient(
                url=target.url, api_key=os.environ.get(API_KEY), timeout=_SECONDS, check_compatibility=False
            )
        except ValueError:  # its text has all of the URL
            raise _no_address() from None
    try:
        require_store_folder(target.out, "qdrant", _has_collections)
        return client_module.QdrantClient(path=str(target.out))
    except (*FOLDER_ERRORS, LookupError, EOFError) as exc:
        if "already accessed" in str(exc):
            raise ExportError(
                f"the Qdrant folder {where} is open in another process: wait until that process has ended, or use a "
                "server with --url"
            ) from exc
        raise ExportError(
            f"Qdrant at {where} cannot be opened ({first_line(exc)}): correct that, and export again"
        ) from exc


def _has_collections(path: Path) -> bool:
    """Whether a folder has the file that says which collections it has."""
    try:
        known = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        return isinstance(known["collections"], dict) and isinstance(known["aliases"], dict)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def shown_url(url: str) -> str:
    """The URL of a server without what may be secret in it: user, password and query.

    Characters that a URL cannot have, and an `@` behind the host, come from a password that was not encoded. What is
    before them would be taken for the host.

    Raises:
        ConfigError: it is not that of a server.
    """
    httpx = load("httpx", "qdrant", "qdrant-client")
    try:
        httpx.URL(url)  # which the client asks, with an error of no kind that it translates
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, httpx.InvalidURL):
        raise _no_address() from None
    is_plain = url.isascii() and url.isprintable() and not set(url) & set(" \\")
    if not (is_address and is_plain) or "@" in parts.path + parts.query + parts.fragment:
        raise _no_address()
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _no_address() -> ConfigError:
    """The error for what is not a URL. It repeats nothing of it: any part can be a password."""
    return ConfigError(
        "the --url of qdrant is not the address of a server: give http://host:port or https://host:port, and the key "
        f"in {API_KEY}"
    )


def first_line(error: Exception) -> str:
    """An error's class and the first line of its text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
