"""The commands that install soloist or an extra, for the way in which it was installed. Reads pip's own record of that.

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
    # Without its checkout pip still finds the installed package, and adds what its extra needs.
    editable, checkout = _checkout()
    if checkout is None:
        return f"pip install 'soloist[{extra}]'"
    return f"pip install {editable}'.[{extra}]' in {checkout}"


def reinstall_command() -> str:
    """What the reader runs to get all files of soloist again, and no other package.

    >>> reinstall_command()  # doctest: +SKIP
    "pip install --force-reinstall --no-deps soloist"
    """
    editable, checkout = _checkout()
    source = "soloist" if checkout is None else f"{editable}. in {checkout}"
    return f"pip install --force-reinstall --no-deps {source}"


def _checkout() -> tuple[str, Path | None]:
    """The option that links a checkout, and the folder that soloist was installed from; None where there is none."""
    origin = _origin()
    checkout = Path(url2pathname(urlsplit(origin.get("url", "")).path))
    if "dir_info" not in origin or not (checkout / "pyproject.toml").is_file():
        return "", None
    return ("-e " if origin["dir_info"].get("editable") else ""), checkout


def _origin() -> dict[str, Any]:
    """Where pip took soloist from; empty for an index, and for a soloist that was never installed."""
    try:
        text = distribution("soloist").read_text("direct_url.json")
    except PackageNotFoundError:
        return {}
    found: dict[str, Any] = json.loads(text) if text else {}
    return found
