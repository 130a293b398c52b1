"""What the command lines of benchmarks share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping


def filled(options: argparse.Namespace, usual: Mapping[str, object]) -> argparse.Namespace:
    """The options, with the usual value of each that was not given.

    >>> filled(argparse.Namespace(rounds=None, rows=3), {"rounds": 5, "rows": 9})
    Namespace(rounds=5, rows=3)
    """
    for name, value in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options
