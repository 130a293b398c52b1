"""The start of the command line: the script `soloist`, and `python -m soloist` where the script is not on the path.

Reading the command's modules takes a moment. Ctrl-C in that moment has its sentence too.
"""

from __future__ import annotations

from typing import NoReturn

from soloist.interrupts import ended_at_once


def main() -> NoReturn:
    """Run the command of this process; exits with 0, 1, 2, 3 or 130."""
    with ended_at_once("soloist: stopped by Ctrl-C; nothing was changed, and the same command starts again"):
        from soloist.cli import main as run_command
    run_command()


if __name__ == "__main__":
    main()
