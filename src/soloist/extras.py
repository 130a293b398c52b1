"""The command that installs an extra, for the way in which soloist itself was installed. Reads pip's own record of it.

pip writes direct_url.json beside the metadata of what it did not take from an index:
https://packaging.python.org/en/latest/specifications/direct-url/
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname


def install_command(extra: str) -> str:
    """What the reader runs to get an extra: of an installed package, or in the folder that soloist was installed from.

    >>> install_command("eval")  # doctest: +SKIP
    "pip install 'soloist[eval]'"
    >>> install_command("eval")  # doctest: +SKIP
    "pip install -e '.[eval]' in /home/me/soloist"
    """
    origin = _origin()
    checkout = Path(url2pathname(urlsplit(origin.get("url", "")).path))
    # Without its checkout pip still finds the installed package, and adds what its extra needs.
    if "dir_info" not in origin or not (checkout / "pyproject.toml").is_file():
        return f"pip install 'soloist[{extra}]'"
    editable = "-e " if origin["dir_info"].get("editable") else ""
    return f"pip install {editable}'.[{extra}]' in {checkout}"


def _origin() -> dict[str, Any]:
    """Where pip took soloist from; empty for an index, and for a soloist that was never installed."""
    try:
        text = distribution("soloist").read_text("direct_url.json")
    except PackageNotFoundError:
        return {}
    found: dict[str, Any] = json.loads(text) if text else {}
    return found
