"""What continues a run that is not finished: its command, or its call in Python. Knows the state that a run keeps."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from soloist.stores.layout import STATE

_COMMAND = "run its soloist embed command again"
_CALL = "call soloist.embed again with its chunks and settings, because they came from Python"


def way_on(folder: Path) -> str:
    """What continues the run in this folder, as an imperative. No command can give chunks that came from Python."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # no state yet, or a damaged one
        if json.loads((folder / STATE).read_text(encoding="utf-8"))["config"]["chunks_root"] is None:
            return _CALL
    return _COMMAND
