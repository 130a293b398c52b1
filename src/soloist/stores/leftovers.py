"""What a run that was ended has left in its folder, and which the next run does not want."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from soloist.errors import OutputError
from soloist.stores.atomic import disk_errors, is_temporary
from soloist.stores.layout import INCOMING, STATE


def remove_leftovers(root: Path) -> None:
    """Remove half-written files, and the chunks that were read and not reconciled.

    Raises:
        OutputError: something of it cannot be removed.
    """
    with disk_errors(root):
        if (root / INCOMING).is_dir():
            shutil.rmtree(root / INCOMING)
        for folder, _, names in os.walk(root):
            for name in names:
                if is_temporary(name):
                    Path(folder, name).unlink()


def empty_new_folder(root: Path) -> None:
    """Remove what a run has written before its first chunks were reconciled, and nothing else.

    Raises:
        OutputError: something of it cannot be removed.
    """
    try:
        if (root / INCOMING).is_dir():
            shutil.rmtree(root / INCOMING)
        for name in ("events.jsonl", STATE, ".lock"):
            (root / name).unlink(missing_ok=True)
    except OSError as exc:
        raise OutputError(f"{root} cannot be cleared: {exc.strerror}: remove it by hand") from exc
